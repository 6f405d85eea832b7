"""Datasets for `malformed_inputs`: how each kind is written whole, and what others read in it."""

from __future__ import annotations

import csv
import functools
import io
import json
import re
import socket
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from malformed_values import TEXTS, csv_of, jsonl_of
from malformed_vectors import Expected, Source
from PIL import Image

from clipperf.embed import urls

IMAGES = 7
COLOURS = ("red", "lime", "blue", "white", "black", "navy", "olive")


def picture(number: int) -> bytes:
    """A small image as a file; no two are alike."""
    image = Image.new("RGB", (20 + number, 24), COLOURS[number % len(COLOURS)])
    image.paste("gray", (number, 3, number + 5, 9))
    file = io.BytesIO()
    image.save(file, "JPEG" if number % 3 == 2 else "PNG")
    return file.getvalue()


PICTURES = [picture(number) for number in range(IMAGES)]
NAMES = [f"{number}.{'jpg' if number % 3 == 2 else 'png'}" for number in range(IMAGES)]
CAPTIONS = ["a red cat", "zwei Häuser", "three, with commas", "four", "五", "six", "seven"]


def write_folder(folder: Path) -> None:
    """A folder of images."""
    folder.mkdir(parents=True)
    for name, data in zip(NAMES, PICTURES, strict=True):
        (folder / name).write_bytes(data)


# --- files and archives ----------------------------------------------------------------------


def _files(folder: Path) -> Expected:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def _write_tar(folder: Path) -> None:
    folder.mkdir(parents=True)
    with tarfile.open(folder / "a.tar", "w", format=tarfile.PAX_FORMAT) as archive:
        for number, data in enumerate(PICTURES):
            long = "in/" + "é" * 60 if number == 4 else "in/x"
            texts = ((".txt", CAPTIONS[number].encode()), (Path(NAMES[number]).suffix, data))
            for suffix, content in texts:
                member = tarfile.TarInfo(f"{long}{number}{suffix}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))


def _in_tar(folder: Path) -> Expected:
    found: Expected = {}
    with tarfile.open(folder / "a.tar", "r:") as archive:
        for member in archive.getmembers():
            # Bytes that are no UTF-8 are replaced there, and surrogates here.
            name = member.name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
            above, _, base = name.removeprefix("./").rpartition("/")
            stem, _, suffix = base.partition(".")
            held = archive.extractfile(member)
            if held is not None and suffix.lower() in ("png", "jpg"):
                key = f"{above}/{stem}" if above else stem
                found[f"a.tar/{key}"] = held.read()
    return found


def _write_zip(folder: Path) -> None:
    folder.mkdir(parents=True)
    with zipfile.ZipFile(folder / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in zip(NAMES, PICTURES, strict=True):
            archive.writestr(f"in/{name}", data)


def _in_zip(folder: Path) -> Expected:
    with zipfile.ZipFile(folder / "a.zip") as archive:
        return {name: archive.read(name) for name in archive.namelist()}


# --- tables ----------------------------------------------------------------------------------


def _write_table(name: str, rows: Sequence[Sequence[str]], delimiter: str = ",") -> Callable:
    def write(folder: Path) -> None:
        write_folder(folder)
        with (folder / name).open("w", newline="", encoding="utf-8") as file:
            csv.writer(file, delimiter=delimiter).writerows(rows)

    return write


def _rows(folder: Path, name: str, delimiter: str) -> Iterator[tuple[str, dict[str, str]]]:
    """The ids and fields of a table's rows; an id's column where it has one, else their number."""
    text = (folder / name).read_bytes().decode("utf-8-sig")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    header = [field.strip() for field in next(reader)]
    lower = {field.lower(): field for field in reversed(header)}
    for number, fields in enumerate(fields for fields in reader if fields):
        if len(fields) == len(header):
            row = dict(zip(header, fields, strict=True))
            yield (
                row[lower["id"]] if "id" in lower else str(number),
                {usual: row[own] for usual, own in lower.items()},
            )


def _read(folder: Path, name: str) -> bytes | str:
    """An image of a table; "" where there is none."""
    path = folder / name.strip()
    return path.read_bytes() if "\0" not in name and path.is_file() else ""


IMAGE_COLUMNS = ("image", "file_name", "filename", "filepath", "path", "url", "image_url", "jpg")
TEXT_COLUMNS = ("text", "caption", "title", "txt")


def _images_of(name: str, delimiter: str) -> Callable[[Path], Expected]:
    def found(folder: Path) -> Expected:
        return {
            id_: _read(folder, next(row[c] for c in IMAGE_COLUMNS if c in row))
            for id_, row in _rows(folder, name, delimiter)
        }

    return found


def _texts_of(name: str) -> Callable[[Path], Expected]:
    def found(folder: Path) -> Expected:
        return {
            id_: next(row[c] for c in TEXT_COLUMNS if c in row)
            for id_, row in _rows(folder, name, ",")
        }

    return found


def _write_jsonl(folder: Path) -> None:
    write_folder(folder)
    rows = ({"file_name": name, "id": f"é{number}"} for number, name in enumerate(NAMES))
    text = "".join(f"{json.dumps(row)}\n" for row in rows)
    (folder / "a.jsonl").write_text(text, "utf-8")


def _in_jsonl(folder: Path) -> Expected:
    text = (folder / "a.jsonl").read_bytes().decode("utf-8-sig")
    found: Expected = {}
    number = 0
    lower: dict[str, str] | None = None
    for line in re.split("\r\n|\r|\n", text):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if isinstance(row, dict):
            lower = lower or {name.lower(): name for name in reversed(row)}
            column = next(lower[c] for c in IMAGE_COLUMNS if c in lower)
            id_ = row.get(lower["id"]) if "id" in lower else number
            if isinstance(row.get(column), str):
                found[str(id_)] = _read(folder, row[column])
            elif isinstance(row.get(column), dict):
                inner = row[column].get("bytes") or row[column].get("path")
                found[str(id_)] = _read(folder, inner) if isinstance(inner, str) else ""
        number += 1
    return found


def _write_lines(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "a.txt").write_text("".join(f"{text}\n" for text in CAPTIONS), "utf-8")


def _in_lines(folder: Path) -> Expected:
    text = (folder / "a.txt").read_bytes().decode("utf-8-sig")
    return {str(number): line for number, line in enumerate(re.split("\r\n|\r|\n", text))}


def _write_parquet(folder: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    folder.mkdir(parents=True)
    table = pyarrow.table({"key": [f"k{i}" for i in range(IMAGES)], "image": PICTURES})
    pyarrow.parquet.write_table(table, folder / "a.parquet", row_group_size=3)


def _in_parquet(folder: Path) -> Expected:
    import pyarrow
    import pyarrow.parquet

    try:
        rows = pyarrow.parquet.read_table(folder / "a.parquet").to_pylist()
    except pyarrow.ArrowException as exc:
        raise ValueError from exc
    lower = {name.lower(): name for name in reversed(rows[0])}
    column = next(lower[c] for c in IMAGE_COLUMNS if c in lower)
    return {
        str(row[lower["id"]]) if "id" in lower else str(number): row[column] or b""
        for number, row in enumerate(rows)
        if isinstance(row[column], bytes | None)
    }


# --- URLs ------------------------------------------------------------------------------------


class _Web:
    """A server in this process: images, and answers that are none; nothing else is reached."""

    def __init__(self) -> None:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                data = served(self.path)
                self.send_response(404 if data is None else 200)
                self.send_header("Content-Length", str(len(data or b"")))
                self.end_headers()
                self.wfile.write(data or b"")

            def log_message(self, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.server.handle_error = lambda *args: None  # type: ignore[method-assign]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.port = self.server.server_address[1]


def served(path: str) -> bytes | None:
    """What the server has at a path: each name is an image, "cut" ones end early."""
    found = re.fullmatch(r"/(cut)?(\d)\.png", path)
    if found is None or int(found[2]) >= IMAGES:
        return None
    return PICTURES[int(found[2])][: 60 if found[1] else None]


@functools.cache
def _web() -> _Web:
    return _Web()


PORT = "18437"
"""What the lists say; in the child that reads them it is the server's own."""


def stay_here() -> None:
    """Names of other machines have no address in this process, and nobody waits for them."""
    resolve, connect = socket.getaddrinfo, socket.socket.connect

    def here(host: Any, port: Any, *more: Any, **options: Any) -> Any:
        if host not in ("127.0.0.1", b"127.0.0.1"):
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        own = _web().port if str(port) == PORT else port
        return resolve(host, own, *more, **options)

    def connected(self: socket.socket, address: Any) -> None:
        if isinstance(address, tuple) and address[1] != _web().port:
            raise ConnectionRefusedError(111, "Connection refused")
        connect(self, address)

    socket.getaddrinfo = here
    socket.socket.connect = connected  # type: ignore[method-assign, assignment]
    urls.Web = functools.partial(urls.Web, pause_s=0.001, whole_s=5.0)  # type: ignore[misc, assignment]


def _addresses() -> list[list[str]]:
    base = f"http://127.0.0.1:{PORT}"
    return [["id", "url"], *([f"k{i}", f"{base}/{'cut' * (i == 3)}{i}.png"] for i in range(IMAGES))]


def _in_urls(folder: Path) -> Expected:
    found: Expected = {}
    for id_, row in _rows(folder, "a.csv", ","):
        given = next(row[c] for c in IMAGE_COLUMNS if c in row).strip()
        own = re.fullmatch(rf"(?i:http)://127\.0\.0\.1:{PORT}(/[^?#]*)([?#].*)?", given)
        found[id_] = (served(own[1]) if own else None) or ""
        if not given.lower().startswith(("http://", "https://")):
            found[id_] = _read(folder, given)
    return found


_PATHS = st.sampled_from(NAMES) | TEXTS
_LINKS = st.sampled_from([row[1] for row in _addresses()[1:]]) | TEXTS
_CSV = [["id", "path"], *([id_, name] for id_, name in zip("abcdefg", NAMES, strict=True))]
SOURCES = {
    "folder": Source(".", write_folder, _files),
    "tar": Source("a.tar", _write_tar, _in_tar, weight=6.0),
    "zip": Source("a.zip", _write_zip, _in_zip),
    "csv": Source(
        "a.csv",
        _write_table("a.csv", _CSV),
        _images_of("a.csv", ","),
        weight=4.0,
        mutates="*.csv",
        made=csv_of(["id", "path"], _PATHS),
    ),
    "tsv": Source(
        "a.tsv",
        _write_table("a.tsv", [["Image"], *([name] for name in NAMES)], "\t"),
        _images_of("a.tsv", "\t"),
        mutates="*.tsv",
    ),
    "captions": Source(
        "a.csv",
        _write_table("a.csv", [["Caption"], *([text] for text in CAPTIONS)]),
        _texts_of("a.csv"),
        side="text",
        mutates="*.csv",
        made=csv_of(["Caption"], TEXTS),
    ),
    "jsonl": Source(
        "a.jsonl",
        _write_jsonl,
        _in_jsonl,
        weight=4.0,
        mutates="*.jsonl",
        made=jsonl_of("file_name", _PATHS),
    ),
    "lines": Source("a.txt", _write_lines, _in_lines, side="text"),
    "parquet": Source("a.parquet", _write_parquet, _in_parquet, weight=4.0),
    "urls": Source(
        "a.csv",
        _write_table("a.csv", _addresses()),
        _in_urls,
        mutates="*.csv",
        made=csv_of(["id", "url"], _LINKS),
    ),
}
