"""What carries its own checksums: files that end with the sha256 of the rest, and cache folders."""

from __future__ import annotations

import contextlib
import hashlib
from pathlib import Path

from clipperf.errors import ArtifactError
from clipperf.system.files import read_json, sha256_file
from clipperf.system.reading import open_regular

SUM_BYTES = 32

GRAPH_MARK = b"\xc2\x3e\x20"
"""What stands before the sum of a kept graph: for ONNX's parsers a field that they do not know."""

CHECKSUMS = "sha256.json"
"""The file of a cache folder that holds the sha256 of each of its others."""

CHUNK_BYTES = 1 << 20


def sealed(data: bytes, mark: bytes = b"") -> bytes:
    """Bytes with their checksum behind them."""
    return data + mark + hashlib.sha256(data).digest()


def unsealed(content: bytes, mark: bytes = b"") -> bytes | None:
    """The bytes before their checksum; None where it is not theirs."""
    data = content[: -SUM_BYTES - len(mark)]
    return data if content[len(data) :] == mark + hashlib.sha256(data).digest() else None


def is_sealed(path: Path, mark: bytes = b"") -> bool:
    """Whether a file of any size ends with its checksum."""
    digest = hashlib.sha256()
    with contextlib.suppress(OSError, ValueError), open_regular(path) as file:
        left = path.stat().st_size - SUM_BYTES - len(mark)
        while left > 0 and (chunk := file.read(min(left, CHUNK_BYTES))):
            digest.update(chunk)
            left -= len(chunk)
        return left == 0 and file.read() == mark + digest.digest()
    return False


def folder_sums(folder: Path) -> dict[str, str]:
    """The sha256 of each file of a cache folder but `CHECKSUMS`."""
    kept = sorted(path for path in folder.iterdir() if path.name != CHECKSUMS)
    return {path.name: sha256_file(path) for path in kept}


def folder_is_whole(folder: Path) -> bool:
    """Whether a cache folder holds what was kept there, byte for byte."""
    try:
        return bool(read_json(folder / CHECKSUMS) == folder_sums(folder))
    except (ArtifactError, OSError):
        return False
