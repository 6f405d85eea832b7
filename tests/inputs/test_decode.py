"""Images as users hold them: every way gives the same pixels, and what is none is refused."""

from __future__ import annotations

import io
import tempfile
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest
from PIL import Image

from clipperf.errors import UsageError
from clipperf.inputs import decode
from clipperf.inputs.decode import is_one, load_image, name_of
from clipperf.inputs.preprocess import preprocess
from clipperf.inputs.preprocess_spec import PreprocessSpec

PIXELS = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    return tmp_path / "a.png"


class Slow(io.RawIOBase):
    """A file that gives a few bytes at a time, as a socket does, and cannot be rewound."""

    def __init__(self, data: bytes) -> None:
        self._rest = data

    def read(self, size: int = -1) -> bytes:
        given, self._rest = self._rest[:7], self._rest[7:]
        return given


class Bare:
    """The least that a file can be: what HTTP clients and object stores give."""

    def __init__(self, data: bytes) -> None:
        self._file = io.BytesIO(data)

    def read(self, size: int) -> bytes:
        return self._file.read(size)


def opened(path: Path) -> Iterator[BinaryIO]:
    with open(path, "rb") as file:
        yield file
    with open(path, "rb", buffering=0) as file:
        yield file
    with urllib.request.urlopen(path.as_uri()) as response:
        yield response
    with tempfile.TemporaryFile() as file:
        file.write(b"before it" + path.read_bytes())
        file.seek(9)
        yield file


def test_every_way_gives_the_same_pixels(path: Path) -> None:
    data = path.read_bytes()
    ways: list[Any] = [
        *(path, str(path), Image.open(path), data, bytearray(data), memoryview(data)),
        *(memoryview(b"x" + data)[1:], io.BytesIO(data), Slow(data), Bare(data)),
        *(PIXELS, np.asfortranarray(PIXELS), PIXELS[::-1][::-1], PIXELS.view()),
    ]
    ways[-1].flags.writeable = False
    spec = PreprocessSpec(32, 32)
    expected = preprocess([path], spec)
    for way in ways:
        assert np.array_equal(preprocess([way], spec), expected), way
    for file in opened(path):
        assert np.array_equal(preprocess([file], spec), expected), file
        assert not file.closed


def test_bytes_and_files_can_be_drafts(tmp_path: Path) -> None:
    Image.fromarray(np.tile(PIXELS, (20, 20, 1))).save(tmp_path / "a.jpg")
    spec = PreprocessSpec(64, 64)
    expected, size = decode.decode(tmp_path / "a.jpg", spec)
    data = (tmp_path / "a.jpg").read_bytes()
    for way in (data, io.BytesIO(data)):
        found, full = decode.decode(way, spec)
        assert found.size == expected.size == (250, 200) and full == size == (1000, 800)
        assert found.tobytes() == expected.tobytes()


ARRAYS: dict[str, tuple[Callable[[], Any], str]] = {
    "floats": (lambda: PIXELS / 255.0, r"float64 array \[40, 50, 3\]: .* no bytes; scale"),
    "integers": (lambda: PIXELS.astype(np.int64), r"int64 .*no bytes"),
    "signed bytes": (lambda: PIXELS.view(np.int8), r"int8 .*no bytes"),
    "bits": (lambda: PIXELS > 127, r"bool .*no bytes"),
    "channels first": (lambda: PIXELS.transpose(2, 0, 1), r"\[3, 40, 50\]: .*transpose\(1, 2, 0\)"),
    "grey": (lambda: PIXELS[..., 0], r"\[40, 50\]: .*it is grey"),
    "grey with an axis": (lambda: PIXELS[..., :1], r"it is grey"),
    "RGBA": (lambda: np.dstack([PIXELS, PIXELS[..., 0]]), r"four channels; PIL\.Image\.fromarray"),
    "a batch": (lambda: PIXELS[None], r"4 dimensions"),
    "five channels": (lambda: np.zeros((40, 50, 5), np.uint8), r"5 channels"),
    "no pixels": (lambda: np.zeros((0, 50, 3), np.uint8), r"no pixels"),
}


@pytest.mark.parametrize(("make", "said"), ARRAYS.values(), ids=ARRAYS)
def test_other_arrays_are_refused_with_the_reason(make: Callable[[], Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        preprocess([make()], PreprocessSpec(32, 32))


class Broken:
    """A file whose reading fails in its own way."""

    def read(self, size: int) -> bytes:
        raise LookupError("the bucket is gone")


OTHERS: dict[str, tuple[Callable[[], Any], str]] = {
    "no bytes": (lambda: b"", "bytes: not an image"),
    "other bytes": (lambda: b"hello", "bytes: not an image"),
    "a text file": (lambda: io.StringIO("hello"), "a file: it gives text: open it in binary mode"),
    "a file at its end": (lambda: io.BytesIO(), r"a file: there is nothing to read.*seek\(0\)"),
    "a closed file": (lambda: _closed(), "a file: cannot read the image: .*closed"),
    "a broken file": (lambda: Broken(), "a file: cannot read the image: .*the bucket is gone"),
    "a number": (lambda: 3, "a value of type int: give a path, a PIL image, the bytes"),
    "nothing": (lambda: None, "a value of type NoneType: give a path"),
}


def _closed() -> BinaryIO:
    file = io.BytesIO(b"x")
    file.close()
    return file


@pytest.mark.parametrize(("make", "said"), OTHERS.values(), ids=OTHERS)
def test_what_holds_no_image_is_refused_with_the_reason(make: Callable[[], Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        load_image(make())


def test_more_bytes_than_an_image_has_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that never ends is read up to the limit."""
    monkeypatch.setattr(decode, "MAX_IMAGE_BYTES", 2**20)
    with pytest.raises(UsageError, match=r"bytes: .*the limit is 1\.0 MiB"):
        load_image(bytes(2**20 + 1))
    with open("/dev/zero", "rb") as zeros, pytest.raises(UsageError, match=r"the limit is 1\.0"):
        load_image(zeros)


def test_names_of_what_holds_an_image(path: Path) -> None:
    with open(path, "rb") as file, tempfile.TemporaryFile() as unnamed:
        assert name_of(file) == f"file {path}" and name_of(unnamed) == "a file"
    assert name_of(PIXELS) == "uint8 array [40, 50, 3]"
    assert name_of(memoryview(b"")) == name_of(b"") == "bytes"


def test_one_image_is_no_list(path: Path) -> None:
    data = path.read_bytes()
    ones = [path, str(path), data, bytearray(data), memoryview(data), PIXELS, Image.open(path)]
    assert all(map(is_one, [*ones, io.BytesIO(data)]))
    assert not any(map(is_one, [[path], (data,), PIXELS[None], iter([path])]))
    with pytest.raises(UsageError, match="takes a list"):
        preprocess(data, PreprocessSpec())  # type: ignore[arg-type]
    assert preprocess(PIXELS[None], PreprocessSpec(8, 8)).shape == (1, 3, 8, 8)  # type: ignore[arg-type]
