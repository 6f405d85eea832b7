"""Ids that are there twice, found in bounded memory: digests in parts by their first byte."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

DIGEST_BYTES = 16
PARTS = 256
MOST_BYTES = 1 << 24
"""What is kept in memory before it goes to the disk."""


class Unique:
    """Ids that are added; `repeated` says which digests are there more than once.

    `folder` is a scratch folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._parts = [bytearray() for _ in range(PARTS)]
        self._bytes = 0

    def add(self, id_: str) -> None:
        """One more id."""
        digest = digest_of_id(id_)
        self._parts[digest[0]] += digest
        self._bytes += DIGEST_BYTES
        if self._bytes >= MOST_BYTES:
            for number, part in enumerate(self._parts):
                with open(self._folder / f"ids-{number}", "ab") as file:
                    file.write(part)
                part.clear()
            self._bytes = 0

    def repeated(self) -> Iterator[bytes]:
        """The digests of ids that are there more than once, each once."""
        for number, part in enumerate(self._parts):
            path = self._folder / f"ids-{number}"
            data = (path.read_bytes() if path.exists() else b"") + bytes(part)
            seen, told = set[bytes](), set[bytes]()
            for start in range(0, len(data), DIGEST_BYTES):
                digest = data[start : start + DIGEST_BYTES]
                if digest in seen and digest not in told:
                    told.add(digest)
                    yield digest
                seen.add(digest)


def digest_of_id(id_: str) -> bytes:
    """By which ids are told apart."""
    return hashlib.blake2b(id_.encode(), digest_size=DIGEST_BYTES).digest()
