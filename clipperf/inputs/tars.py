"""Where the files of a tar lie in it: they are read in place, and nothing is ever unpacked.

Archives come from anywhere. Only plain files are listed, of a plain name inside the archive and
whole; a header that promises more than there is, a packed archive and links are refused.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from clipperf.errors import UsageError
from clipperf.system.reading import open_regular
from clipperf.text import quoted, shown

BLOCK = 512
MOST_EXTENSION_BYTES = 1 << 16
"""The largest header that gives a long name, or other facts of the next file."""

PACKED = {
    b"\x1f\x8b": "gzip -d",
    b"BZh": "bzip2 -d",
    b"\xfd7zXZ": "xz -d",
    b"\x28\xb5\x2f\xfd": "zstd -d",
}
"""How packed files begin, and what unpacks them: in a stream that has to be unpacked nothing can
be found without unpacking all before it, however much that is."""

LFS_POINTER = b"version https://git-lfs"


@dataclass(frozen=True)
class Member:
    """A file in a tar: its bytes are the `size` ones from `start` of the archive."""

    name: str
    start: int
    size: int


def members(path: Path) -> Iterator[Member]:
    """Every file in a tar, in their order there.

    Raises:
        UsageError: it is no whole tar, or holds what none should; the message says where.
    """
    try:
        with open_regular(path) as file:
            yield from _members(path, file)
    except (OSError, ValueError) as exc:
        said = getattr(exc, "strerror", None) or exc
        raise UsageError(f"cannot read {shown(path)}: {shown(said)}") from exc


def _members(path: Path, file: BinaryIO) -> Iterator[Member]:
    end = os.fstat(file.fileno()).st_size
    start, longer = 0, ""
    while True:
        file.seek(start)
        header = file.read(BLOCK)
        if start == 0:
            _check_kind(path, header)
        if start and len(header) == BLOCK and not header.strip(b"\0"):
            return  # A block of zeros ends a tar: without one, files may be missing.
        where = f"{shown(path)} at byte {start}"
        if len(header) < BLOCK:
            raise UsageError(f"{where}: the archive is cut, it ends there: fetch or make it again")
        if _sum(header) != _number(header[148:156]):
            raise UsageError(f"{where}: no header of a tar: the archive is damaged")
        size = _number(header[124:136])
        start += BLOCK
        if size < 0 or start + size > end:
            raise UsageError(
                f"{where}: a file of {size} bytes in an archive of {end}: the archive is cut: "
                "fetch or make it again"
            )
        kind = header[156:157]
        if kind in b"xgLK":
            if size > MOST_EXTENSION_BYTES:
                raise UsageError(f"{where}: a header of {size} bytes")
            said = file.read(size)
            longer = _long_name(kind, said) or longer
        elif kind in b"0\0 7":
            yield Member(_name(header, longer, where), start, size)
            longer = ""
        elif kind in b"5":
            longer = ""
        else:
            name = quoted(_name(header, longer, where))
            raise UsageError(f"{where}: {name} is a link, a device or a file with holes")
        start += -(-size // BLOCK) * BLOCK


def _check_kind(path: Path, header: bytes) -> None:
    if header.startswith(LFS_POINTER):
        raise UsageError(f"{shown(path)} is a pointer of Git LFS, not the file: run git lfs pull")
    for beginning, program in PACKED.items():
        if header.startswith(beginning):
            raise UsageError(
                f"{shown(path)} is packed, so that its files cannot be read in place: "
                f"unpack it first with {program}"
            )


def _name(header: bytes, longer: str, where: str) -> str:
    """The name of a file, which must be one inside of the archive."""
    name = header[:100].split(b"\0")[0].decode("utf-8", "replace")
    prefix = header[345:500].split(b"\0")[0].decode("utf-8", "replace")
    if header[257:263] == b"ustar\0" and prefix:
        name = f"{prefix}/{name}"
    name = (longer or name).removeprefix("./")
    if not name or name.startswith("/") or "\\" in name or ".." in name.split("/"):
        raise UsageError(f"{where}: {quoted(name)} leads out of the archive")
    return name


def _long_name(kind: bytes, said: bytes) -> str:
    """The name in an extended header; "" where it gives none."""
    if kind == b"L":
        return said.split(b"\0")[0].decode("utf-8", "replace")
    found = ""
    while kind == b"x" and said:
        length, _, rest = said.partition(b" ")
        if not length.isdigit() or not 0 < int(length) <= len(said):
            break
        key, _, value = rest[: int(length) - len(length) - 1].partition(b"=")
        if key == b"path":
            found = value.removesuffix(b"\n").decode("utf-8", "replace")
        said = said[int(length) :]
    return found


def _sum(header: bytes) -> int:
    return sum(header[:148]) + 8 * ord(" ") + sum(header[156:])


def _number(field: bytes) -> int:
    """A number in octal, or in binary where its first bit says so; -1 for none."""
    if field[:1] == b"\x80":
        return int.from_bytes(field[1:], "big")
    try:
        return int(field.strip(b" \0") or b"0", 8)
    except ValueError:
        return -1
