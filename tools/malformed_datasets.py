"""Datasets for `malformed_inputs`: embedded by a tower of a few numbers, and read by others, too.

What another reader finds under an id in the damaged file is what its vector has to be of. Where
that reader gives up there is nothing to compare, and what is left is that ids, rows and counts
agree, that vectors are finite, and that the same command makes nothing again.
"""

from __future__ import annotations

import csv
import functools
import hashlib
import io
import json
import re
import socket
import tarfile
import threading
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from hypothesis import strategies as st
from malformed_values import TEXTS, csv_of, jsonl_of
from PIL import Image

from clipperf.embed import urls
from clipperf.embed.items import Wanted
from clipperf.embed.run import Wishes, embed
from clipperf.errors import ClipperfError, UsageError
from clipperf.inputs.decode import ImageInput
from clipperf.inputs.preprocess import preprocess
from clipperf.inputs.preprocess_spec import PreprocessSpec
from clipperf.nouns.cell import Cell
from clipperf.serve.bulk import Embedded, encode_each

SPEC = PreprocessSpec(height_px=16, width_px=16)
WIDTH = 6
MATRIX = np.random.default_rng(0).standard_normal((3 * 16 * 16, WIDTH)).astype(np.float32)
IMAGES = 7
WISHES = Wishes(shard_items=3, workers=1)
CHECKED = replace(WISHES, verify=True)
COLOURS = ("red", "lime", "blue", "white", "black", "navy", "olive")

Expected = dict[str, bytes | str]
"""What another reader finds under each id: an image's bytes, or a text."""


class Toy:
    """A tower without a model: projections of pixels, or of a text's digest."""

    batch, embed_dim, pixels = 2, WIDTH, SPEC
    cell = Cell("toy", "image", "onnx", "fp32", "cpu", batch=2, threads=1)
    artifact = SimpleNamespace(key="0" * 16, normalized=False)

    def __init__(self, side: str = "image") -> None:
        self.side = side

    def run(self, array: np.ndarray) -> np.ndarray:
        """The engine."""
        return np.concatenate([row.reshape(1, -1) @ MATRIX for row in array])

    def images(
        self, parts: Iterable[Sequence[ImageInput]], workers: int | None, on_end: Callable[[], None]
    ) -> Iterator[Embedded]:
        """As `Tower.images`."""
        own: Any = self
        return encode_each(
            *(parts, SPEC, own, workers or 1), dtype="float32", embed_dim=WIDTH, on_end=on_end
        )

    def texts(self, texts: Sequence[str]) -> tuple[np.ndarray, dict[int, str]]:
        """As `Tower.texts`."""
        return np.array([_of_text(text) for text in texts]).reshape(-1, WIDTH), {}

    def close(self) -> None:
        """Nothing is open."""

    def __enter__(self) -> Toy:
        """As `Tower`."""
        return self

    def __exit__(self, *error: object) -> None:
        """As `Tower`."""


def _of_text(text: str) -> np.ndarray:
    digest = hashlib.blake2b(text.encode(), digest_size=WIDTH).digest()
    return 1 + np.frombuffer(digest, np.uint8).astype(np.float32)


@functools.lru_cache(4096)
def _vector(given: bytes | str) -> np.ndarray | None:
    """That of an input; None where it is none."""
    if isinstance(given, str):
        text = given.strip()
        return _of_text(text) if text else None
    try:
        return Toy().run(preprocess([given], SPEC))[0]
    except UsageError:
        return None


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


@dataclass(frozen=True)
class Source:
    """A kind of dataset: how it is written, what is embedded of a folder with it, who reads it."""

    name: str
    write: Callable[[Path], object]
    found: Callable[[Path], Expected]
    side: str = "image"
    weight: float = 2.0
    mutates: str = "*"
    made: st.SearchStrategy[bytes] | None = None


def used(kind: Source, folder: Path) -> str:
    """Embed a damaged dataset twice; what is wrong with what came of it, "" where nothing is.

    Raises:
        ClipperfError: it is refused.
    """
    side: Any = kind.side
    path = folder if kind.name == "." else folder / kind.name
    wishes, out = replace(WISHES, wanted=Wanted(side)), folder.parent / "out"
    opened: Any = functools.partial(Toy, side)
    summary = embed(path, out, opened, wishes)
    ids, rows, corrupt = _held(out)
    items = sum(json.loads(record.read_text())["items"] for record in _records(out))
    if not (len(ids) == len(rows) == summary.vectors and len(corrupt) == summary.corrupt):
        return "ids, rows and counts are not as many"
    if items != len(ids) + len(corrupt):
        return f"{items} items, {len(ids)} of them with a vector, {len(corrupt)} corrupt"
    if len({*ids, *corrupt}) != items and kind.name.endswith((".tar", "photos")):
        return "an id is there twice"
    if not np.isfinite(rows).all():
        return "a vector is not finite"
    if embed(path, out, opened, replace(wishes, verify=True)).made:
        return "the same command made a shard again"
    try:
        expected = kind.found(folder)
    except (ClipperfError, OSError, ValueError, LookupError, EOFError, csv.Error, tarfile.TarError):
        return ""
    except (zipfile.BadZipFile, zlib.error, RuntimeError, NotImplementedError, RecursionError):
        return ""
    for id_, row in zip(ids, rows, strict=True):
        own = _vector(expected[id_]) if id_ in expected else None
        if own is None or np.abs(own - row).max() > 1e-3:
            return f"the vector of {id_!r} is that of another input"
    return ""


def _records(out: Path) -> list[Path]:
    return sorted(path for path in out.glob("shard-*.json") if path.suffixes == [".json"])


def _held(out: Path) -> tuple[list[str], np.ndarray, list[str]]:
    ids: list[str] = []
    rows = [np.zeros((0, WIDTH), np.float32)]
    corrupt: list[str] = []
    for record in _records(out):
        ids += json.loads(record.with_suffix(".ids.json").read_text("utf-8"))
        rows.append(np.load(record.with_suffix(".npy")))
        listed = record.with_suffix(".corrupt.jsonl")
        if listed.exists():
            # Lines end with "\\n" alone: ids may hold what Python takes for other ends.
            lines = listed.read_text("utf-8").split("\n")[:-1]
            corrupt += [json.loads(line)["id"] for line in lines]
    return ids, np.concatenate(rows), corrupt


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
            stem, _, suffix = member.name.removeprefix("./").rpartition("/")[2].partition(".")
            above = member.name.removeprefix("./").rpartition("/")[0]
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
