"""Tars read in place: what Python's own module writes, and what nobody should."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest
from published_layouts import pack

from clipperf.errors import UsageError
from clipperf.inputs import tars
from clipperf.inputs.sources import list_tar

LONG = "/".join(["a folder of a long name"] * 9) + "/é.txt"


def header(name: str = "a", size: str = "0000000000\0", kind: bytes = b"0") -> bytes:
    """A header by hand, with the right checksum."""
    raw = bytearray(512)
    raw[: len(name)] = name.encode()
    raw[124 : 124 + len(size)] = size.encode("latin-1")
    raw[156:157] = kind
    raw[148:156] = b" " * 8
    raw[148:156] = f"{sum(raw):06o}\0 ".encode()
    return bytes(raw)


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_files_lie_where_pythons_own_reader_finds_them(tmp_path: Path, form: int) -> None:
    names = ["a.txt", "b/c.txt", LONG.replace("é", "e") if form == tarfile.USTAR_FORMAT else LONG]
    names[2] = names[2][-200:] if form == tarfile.USTAR_FORMAT else names[2]
    path = pack(tmp_path / "a.tar", [(n, n.encode() * 40) for n in names], form)
    with tarfile.open(path) as archive:
        expected = [(m.name, m.offset_data, m.size) for m in archive.getmembers()]
    assert [(m.name, m.start, m.size) for m in tars.members(path)] == expected
    assert list_tar(path)["b/c.txt"].read() == b"b/c.txt" * 40


def test_an_empty_file_is_fine_and_a_tar_without_an_end_is_cut(tmp_path: Path) -> None:
    """Nobody knows what came after: a block of zeros is what ends a tar."""
    path = tmp_path / "a.tar"
    path.write_bytes(header("a") + bytes(512))
    assert [m.name for m in tars.members(path)] == ["a"]
    path.write_bytes(header("a"))
    with pytest.raises(UsageError, match="at byte 512: the archive is cut"):
        list(tars.members(path))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (header("../a"), "leads out of the archive"),
        (header("/etc/passwd"), "leads out of the archive"),
        (header("a/../../b"), "leads out of the archive"),
        (header("a", kind=b"2"), "is a link, a device or a file with holes"),
        (header("a", kind=b"1"), "is a link"),
        (header("a", kind=b"S"), "a file with holes"),
        (header("a", size="77777777777\0"), "the archive is cut"),
        (header("a", size="\x80\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff"), "the archive is cut"),
        (header("a", size="\xff\xff\xff\xff"), "the archive is cut"),
        (header("a", kind=b"x", size="00000300000\0") + b"x" * (1 << 17), "a header of"),
        (header("a")[:300], "the archive is cut, it ends there"),
        (b"x" * 512, "the archive is damaged"),
        (b"", "the archive is cut, it ends there"),
        (b"BZh91AY", "unpack it first with bzip2 -d"),
        (b"\x28\xb5\x2f\xfd", "unpack it first with zstd -d"),
    ],
)
def test_what_no_tar_should_hold_is_refused(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=words):
        list_tar(path)


def test_no_damage_escapes_as_another_error(tmp_path: Path) -> None:
    path = pack(tmp_path / "a.tar", [("a.txt", b"x" * 700), (LONG, b"y")])
    whole = path.read_bytes()[: 512 * 8]
    for at in range(0, len(whole), 13):
        for damaged in (whole[:at], whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :]):
            path.write_bytes(damaged)
            try:
                for source in list_tar(path).values():
                    source.read()
            except UsageError as exc:
                assert str(exc)


def test_a_file_that_is_exchanged_is_not_taken_for_the_one_that_was_read(tmp_path: Path) -> None:
    import dataclasses
    import hashlib

    path = pack(tmp_path / "a.tar", [("a.txt", b"right")])
    source = dataclasses.replace(
        list_tar(path)["a.txt"], sha256=hashlib.sha256(b"right").hexdigest()
    )
    assert source.read() == b"right"
    pack(path, [("a.txt", b"wrong")])
    with pytest.raises(UsageError, match="has changed since the dataset was read"):
        source.read()
    path.write_bytes(path.read_bytes()[:514])
    with pytest.raises(UsageError, match="is cut: 2 of 5 bytes"):
        source.read()


def test_a_pax_name_counts_for_the_next_file_alone(tmp_path: Path) -> None:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name in (LONG, "short.txt"):
            archive.addfile(tarfile.TarInfo(name))
    path = tmp_path / "a.tar"
    path.write_bytes(stream.getvalue())
    assert [m.name for m in tars.members(path)] == [LONG, "short.txt"]
