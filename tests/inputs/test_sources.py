"""Files of datasets that are no files, too large, or hold no JSON object."""

from __future__ import annotations

import os
import tracemalloc
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from clipperf.errors import UsageError
from clipperf.inputs import sources
from clipperf.inputs.reading import MAX_IMAGE_BYTES, MAX_TEXT_BYTES
from clipperf.inputs.sources import ImageSource, list_zip, parse_object, read_text


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "[" * 100_000, f'{{"a": {"9" * 5000}}}'])
def test_what_is_no_json_object_is_named(text: str) -> None:
    with pytest.raises(UsageError, match=r"captions\.jsonl line 3"):
        parse_object(text, "captions.jsonl line 3")
    assert parse_object('{"a": 1}', "x") == {"a": 1}


def test_members_beyond_the_limit_are_not_unpacked(tmp_path: Path) -> None:
    """60 MB of zeros in 60 kB: by what the zip declares, and where it declares less."""
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open("cat/1.png", "w", force_zip64=True) as file:
            for _ in range(60):
                file.write(bytes(2**20))
        archive.writestr("small", "abc" * 1000)
    tracemalloc.start()
    with pytest.raises(UsageError, match=r"cat/1\.png: it has 60\.0 MiB, the limit is 1\.0 MiB"):
        list_zip(path)["cat/1.png"].read(2**20)
    declared, less = ((size).to_bytes(4, "little") for size in (60 * 2**20, 9))
    lying = path.read_bytes().replace(declared, less)
    (tmp_path / "lying.zip").write_bytes(lying)
    with pytest.raises(UsageError, match=r"cannot read .*lying\.zip:cat/1\.png"):
        list_zip(tmp_path / "lying.zip")["cat/1.png"].read()
    assert tracemalloc.get_traced_memory()[1] < 5 * 2**20
    tracemalloc.stop()
    assert list_zip(path)["small"].read() == b"abc" * 1000


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_packing_that_cannot_be_bounded_is_refused(tmp_path: Path, method: int) -> None:
    with zipfile.ZipFile(tmp_path / "odd.zip", "w", method) as archive:
        archive.writestr("cat/1.png", bytes(10**6))
    with pytest.raises(UsageError, match=r"odd\.zip:cat/1\.png is not packed by deflate"):
        list_zip(tmp_path / "odd.zip")["cat/1.png"].read()


def test_texts_have_a_limit_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "captions.csv"
    with path.open("wb") as file:
        file.truncate(MAX_TEXT_BYTES + 1)
    assert MAX_TEXT_BYTES < MAX_IMAGE_BYTES
    with pytest.raises(UsageError, match=r"captions\.csv: it has 64\.0 MiB, the limit is 64"):
        read_text(ImageSource("captions.csv", path))


def test_what_is_no_regular_file_is_named(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    for name, kind in {"pipe.png": "a named pipe", "zero.png": "a device"}.items():
        with pytest.raises(UsageError, match=f"{name}: .*it is {kind}, not a regular file"):
            ImageSource(name, tmp_path / name).read()
        with pytest.raises(UsageError, match=f"{name}.*it is {kind}, not a regular file"):
            list_zip(tmp_path / name)


def test_one_list_of_formats_for_files_and_members(tmp_path: Path) -> None:
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n"
    with pytest.raises(
        UsageError, match=r"1\.png is not a readable image: not an image, or a form"
    ):
        sources.decode(ImageSource("1.png", tmp_path / "1.png"), eps, fully=True)
    Image.new("RGB", (5, 4)).save(tmp_path / "1.tga")
    assert ImageSource("1.tga", tmp_path / "1.tga").open().size == (5, 4)
