"""Files of a dataset, in a folder or in an archive, read when they are needed."""

from __future__ import annotations

import functools
import hashlib
import io
import os
import unicodedata
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from clipperf.errors import ArtifactError, UsageError
from clipperf.inputs import tars
from clipperf.inputs.decode import PIL_ERRORS
from clipperf.inputs.reading import (
    MAX_IMAGE_BYTES,
    MAX_TEXT_BYTES,
    open_image,
    why_unreadable,
)
from clipperf.serialize import parse_json
from clipperf.system.reading import check_bytes, open_regular, read_regular
from clipperf.system.targets import kind_of
from clipperf.text import shown

_BROKEN = (*PIL_ERRORS, zipfile.BadZipFile)
# What Pillow and zipfile raise on damaged files, depending on the format and on where it breaks.

_BOUNDED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""Ways to pack of which no more is unpacked than is asked for; of others a few KB give GBs."""


@dataclass(frozen=True)
class ImageSource:
    """A file that can be read when it is needed: `path`, or `member` of the archive at `path`.

    `name` is relative to the dataset, with "/" between folders. `span` says where a member lies
    that is stored as it is: first byte and number of bytes; without it the archive is a zip.
    `head` comes before them, where only the pixels of an image are stored.
    `sha256`, where it is known, is what the bytes must have. So many pixels of `border` are no part
    of the image, on each side.
    """

    name: str
    path: Path
    member: str | None = None
    span: tuple[int, int] | None = None
    sha256: str = ""
    head: str = ""
    border: int = 0

    @property
    def identity(self) -> str:
        """What the decoded image depends on; "" where that is not known."""
        return f"{self.sha256} without {self.border} pixels" if self.border else self.sha256

    def __str__(self) -> str:
        return shown(self.path if self.member is None else f"{self.path}:{self.member}")

    def read(self, limit_bytes: int = MAX_IMAGE_BYTES) -> bytes:
        """The file's bytes.

        Raises:
            UsageError: it cannot be read, is no regular file, larger than the limit, or another
                than it was when the dataset was read; the message names it.
        """
        data = self._read(limit_bytes)
        if self.sha256 and hashlib.sha256(data).hexdigest() != self.sha256:
            raise UsageError(f"{self} has changed since the dataset was read: begin again")
        return data

    def _read(self, limit_bytes: int) -> bytes:
        try:
            if self.span is not None:
                start, size = self.span
                check_bytes(self.path, size, limit_bytes)
                with open_regular(self.path) as whole:
                    whole.seek(start)
                    data = whole.read(size)
                if len(data) < size:
                    raise UsageError(f"{self} is cut: {len(data)} of {size} bytes are there")
                return self.head.encode("ascii") + data
            if self.member is None:
                return read_regular(self.path, limit_bytes)
            archive = _archive(self.path, self.path.stat().st_mtime_ns)
            found = archive.getinfo(self.member)
            check_bytes(self.path, found.file_size, limit_bytes)
            if found.flag_bits & 1:
                raise UsageError(f"{self} is encrypted: unpack the zip with its password")
            if found.compress_type not in _BOUNDED:
                raise UsageError(f"{self} is not packed by deflate: make the zip anew")
            with archive.open(found) as file:
                # Asking for more than is declared checks the sum; nothing beyond is unpacked.
                return file.read(found.file_size + 1)
        except _BROKEN as exc:
            raise UsageError(f"cannot read {self}: {why_unreadable(exc)}") from exc

    def open(self) -> Image.Image:
        """The decoded image, in the mode it is stored in; raises UsageError that names it."""
        image = decode(self, self.read(), fully=True)
        if not self.border:
            return image
        right, bottom = image.width - self.border, image.height - self.border
        if min(right, bottom) <= self.border:
            raise UsageError(f"{self}: {image.width}x{image.height} pixels are all border")
        return image.crop((self.border, self.border, right, bottom))


@functools.lru_cache(maxsize=4)
def _archive(path: Path, mtime_ns: int) -> zipfile.ZipFile:
    """An open zip: reading its directory anew for each of its files would take most of the time.

    `mtime_ns` tells a zip from one that was written in its place.
    """
    del mtime_ns
    return zipfile.ZipFile(open_regular(path))


def read_text(source: ImageSource, limit_bytes: int = MAX_TEXT_BYTES) -> str:
    """A UTF-8 file, with or without byte order mark; raises UsageError that names it."""
    try:
        return source.read(limit_bytes).decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        raise UsageError(f"{source} is not UTF-8: {exc}") from exc


def read_object(source: ImageSource, limit_bytes: int = MAX_TEXT_BYTES) -> dict[str, Any]:
    """A JSON object from a file; raises UsageError that names it."""
    return parse_object(read_text(source, limit_bytes), str(source))


def parse_object(text: str, where: str) -> dict[str, Any]:
    """A JSON object from a text; raises UsageError that begins with `where`."""
    try:
        value = parse_json(text, where)
    except ArtifactError as exc:
        raise UsageError(str(exc)) from exc
    if not isinstance(value, dict):
        raise UsageError(f"{where}: need a JSON object")
    return value


def is_hidden(name: str) -> bool:
    """Whether a file, or a folder that it lies in, is none of the data's.

    Hidden ones are not, such as the ``._*`` and ``.DS_Store`` of macOS, nor its ``__MACOSX``.
    """
    return any(
        (part.startswith(".") and part != ".") or part == "__MACOSX" for part in name.split("/")
    )


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
            if is_hidden(entry.name):
                continue
            try:
                entry.name.encode()
            except UnicodeEncodeError as exc:
                raise UsageError(f"{shown(entry)} has a name that is not UTF-8: rename it") from exc
            if entry.is_dir():
                walk(entry, f"{prefix}{entry.name}/", above | {real})
            else:
                name = one_spelling(prefix + entry.name)
                found[name] = ImageSource(name, entry)

    try:
        walk(root, "", frozenset())
    except OSError as exc:
        raise UsageError(f"cannot list {shown(root)}: {exc.strerror or exc}") from exc
    return dict(sorted(found.items()))


def leads_out(name: str) -> bool:
    """Whether the name of an archive's file is one of a place outside of the archive."""
    plain = name.replace("\\", "/")
    return plain.startswith("/") or ".." in plain.split("/")


def outside_of(path: Path) -> list[str]:
    """The files of a zip that `list_zip` leaves out for their names; none of anything else."""
    if path.suffix == ".tar" or kind_of(path) != "file":
        return []
    return [member for member in _members(path) if leads_out(member)]


def list_zip(path: Path) -> dict[str, ImageSource]:
    """Every file in a zip by name, without hidden ones and those that lead out of it.

    Raises:
        UsageError: it is not a readable zip.
    """
    visible = [m for m in _members(path) if not is_hidden(m) and not leads_out(m)]
    return {
        one_spelling(member): ImageSource(one_spelling(member), path, member)
        for member in sorted(visible)
    }


def _members(path: Path) -> list[str]:
    try:
        with open_regular(path) as file, zipfile.ZipFile(file) as archive:
            return [m for m in archive.namelist() if not m.endswith("/")]
    except _BROKEN as exc:
        raise UsageError(
            f"{shown(path)} is neither a folder nor a readable zip: {why_unreadable(exc)}"
        ) from exc


def list_tar(path: Path) -> dict[str, ImageSource]:
    """Every file in a tar by name, hidden ones left out; raises UsageError as `tars.members`."""
    found = {}
    for member in tars.members(path):
        if not is_hidden(member.name):
            name = one_spelling(member.name)
            found[name] = ImageSource(name, path, member.name, (member.start, member.size))
    return dict(sorted(found.items()))


def decode(source: ImageSource, data: bytes, fully: bool) -> Image.Image:
    """The image in `data`: decoded, or only its header (and a PNG's checksums) checked."""
    try:
        image = open_image(io.BytesIO(data))
        if fully:
            image.load()
        else:
            image.verify()
    except _BROKEN as exc:
        raise UsageError(f"{source} is not a readable image: {why_unreadable(exc)}") from exc
    return image


def one_spelling(name: str) -> str:
    """One spelling of accented names: file systems disagree on it, and captions files too."""
    return unicodedata.normalize("NFC", name)
