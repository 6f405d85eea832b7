"""Files of a dataset, in a folder or in a zip, read when they are needed."""

from __future__ import annotations

import functools
import io
import os
import struct
import unicodedata
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

from clipperf.errors import ArtifactError, UsageError
from clipperf.serialize import parse_json

_BROKEN = (
    *(OSError, SyntaxError, ValueError, EOFError, IndexError, RuntimeError),
    *(struct.error, zlib.error, zipfile.BadZipFile, Image.DecompressionBombError),
)
# What Pillow and zipfile raise on damaged files, depending on the format and on where it breaks.


@dataclass(frozen=True)
class ImageSource:
    """A file that can be read when it is needed: `path`, or `member` of the zip at `path`.

    `name` is relative to the dataset, with "/" between folders.
    """

    name: str
    path: Path
    member: str | None = None

    def __str__(self) -> str:
        return str(self.path) if self.member is None else f"{self.path}:{self.member}"

    def read(self) -> bytes:
        """The file's bytes; raises UsageError that names the file."""
        try:
            if self.member is None:
                return self.path.read_bytes()
            return _archive(self.path, self.path.stat().st_mtime_ns).read(self.member)
        except _BROKEN as exc:
            raise UsageError(f"cannot read {self}: {exc}") from exc

    def open(self) -> Image.Image:
        """The decoded image, in the mode it is stored in; raises UsageError that names it."""
        return decode(self, self.read(), fully=True)


@functools.lru_cache(maxsize=4)
def _archive(path: Path, mtime_ns: int) -> zipfile.ZipFile:
    """An open zip: reading its directory anew for each of its files would take most of the time.

    `mtime_ns` tells a zip from one that was written in its place.
    """
    del mtime_ns
    return zipfile.ZipFile(path)


def read_text(source: ImageSource) -> str:
    """A UTF-8 file, with or without byte order mark; raises UsageError that names it."""
    try:
        return source.read().decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        raise UsageError(f"{source} is not UTF-8: {exc}") from exc


def read_object(source: ImageSource) -> dict[str, Any]:
    """A JSON object from a file; raises UsageError that names it."""
    return parse_object(read_text(source), str(source))


def parse_object(text: str, where: str) -> dict[str, Any]:
    """A JSON object from a text; raises UsageError that begins with `where`."""
    try:
        value = parse_json(text, where)
    except ArtifactError as exc:
        raise UsageError(str(exc)) from exc
    if not isinstance(value, dict):
        raise UsageError(f"{where}: need a JSON object")
    return value


def list_folder(root: Path) -> dict[str, ImageSource]:
    """Every file below `root` by relative name, hidden ones left out, links followed.

    Raises:
        UsageError: a folder cannot be listed.
    """
    found = {}

    def walk(folder: Path, prefix: str, above: frozenset[str]) -> None:
        real = os.path.realpath(folder)
        if real in above:  # a link back to a folder that is being walked
            return
        for entry in folder.iterdir():
            if entry.name.startswith("."):
                continue
            try:
                entry.name.encode()
            except UnicodeEncodeError as exc:
                raise UsageError(f"{entry!r} has a name that is not UTF-8: rename it") from exc
            if entry.is_dir():
                walk(entry, f"{prefix}{entry.name}/", above | {real})
            else:
                name = one_spelling(prefix + entry.name)
                found[name] = ImageSource(name, entry)

    try:
        walk(root, "", frozenset())
    except OSError as exc:
        raise UsageError(f"cannot list {root}: {exc}") from exc
    return dict(sorted(found.items()))


def list_zip(path: Path) -> dict[str, ImageSource]:
    """Every file in a zip by name; raises UsageError where it is not a readable zip."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = [m for m in archive.namelist() if not m.endswith("/")]
    except _BROKEN as exc:
        raise UsageError(f"{path} is neither a folder nor a readable zip: {exc}") from exc
    shown = [m for m in members if not m.startswith(("__MACOSX/", "."))]
    return {
        one_spelling(member): ImageSource(one_spelling(member), path, member)
        for member in sorted(shown)
    }


def decode(source: ImageSource, data: bytes, fully: bool) -> Image.Image:
    """The image in `data`: decoded, or only its header (and a PNG's checksums) checked."""
    try:
        image = Image.open(io.BytesIO(data))
        if fully:
            image.load()
        else:
            image.verify()
    except _BROKEN as exc:
        why = "no known image format" if isinstance(exc, UnidentifiedImageError) else exc
        raise UsageError(f"{source} is not a readable image: {why}") from exc
    return image


def one_spelling(name: str) -> str:
    """One spelling of accented names: file systems disagree on it, and captions files too."""
    return unicodedata.normalize("NFC", name)
