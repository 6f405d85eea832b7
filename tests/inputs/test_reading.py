"""Files that are no files, too large, or images of formats that nobody should open."""

from __future__ import annotations

import base64
import io
import os
import socket
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features

from clipperf.errors import AccuracyWarning, UsageError
from clipperf.inputs import preprocess as preprocessing
from clipperf.inputs import reading
from clipperf.inputs.decode import load_image
from clipperf.inputs.preprocess import preprocess
from clipperf.inputs.preprocess_spec import PreprocessSpec
from clipperf.inputs.reading import image_suffixes, open_image
from clipperf.system.reading import open_regular, read_regular
from clipperf.text import quoted, shown

SPEC = PreprocessSpec(16, 16)


def test_only_regular_files_are_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "link").symlink_to("file")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    (tmp_path / "folder").mkdir()
    with socket.socket(socket.AF_UNIX) as listening:
        monkeypatch.chdir(tmp_path)  # a socket's name is short
        listening.bind("socket")
        for name, kind in {
            "pipe": "a named pipe",
            "zero": "a device",
            "folder": "a folder",
            "socket": "a socket",
        }.items():
            with pytest.raises(OSError, match=f"it is {kind}, not a regular file"):
                open_regular(tmp_path / name)
            with pytest.raises(UsageError, match=f"{name}: .* it is {kind}"):
                load_image(tmp_path / name)
    for name in ("file", "link"):
        assert read_regular(str(tmp_path / name), 7) == b"content"
    with pytest.raises(OSError, match="7 B, the limit is 6 B"):
        read_regular(tmp_path / "file", 6)
    with pytest.raises(FileNotFoundError):
        open_regular(tmp_path / "absent")


def test_a_file_larger_than_any_image_is_not_read(tmp_path: Path) -> None:
    """Of a hole of 4 GiB that begins like a WebP file, which Pillow would read whole."""
    whole = io.BytesIO()
    Image.new("RGB", (9, 9)).save(whole, "WEBP")
    with open(tmp_path / "hole.webp", "wb") as file:
        file.write(whole.getvalue())
        file.truncate(2**32)
    with pytest.raises(UsageError, match=r"hole\.webp: .* has 4\.00 GiB, the limit is 512\.0 MiB"):
        load_image(tmp_path / "hole.webp")


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n"


def test_eps_named_png_is_no_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "photo.png").write_bytes(EPS)
    Image.init()
    monkeypatch.setattr(subprocess, "check_call", lambda *args: pytest.fail("Ghostscript ran"))
    with pytest.raises(UsageError, match=r"photo\.png: not an image, or a format that is not read"):
        preprocess([tmp_path / "photo.png"], SPEC)


def test_every_format_that_is_read_can_be_named_in_a_dataset(tmp_path: Path) -> None:
    suffixes = image_suffixes()
    assert {".jpg", ".jfif", ".avif", ".tga", ".jp2", ".png", ".webp", ".qoi", ".mpo"} <= suffixes
    assert not {".eps", ".ps", ".wmf", ".pdf", ".h5", ".mpg", ".txt", ""} & suffixes
    image = Image.effect_noise((32, 24), 60).convert("RGB")
    for suffix in sorted({".avif", ".bmp", ".gif", ".jfif", ".jp2", ".pcx", ".tga", ".tif"}):
        if suffix == ".avif" and not features.check("avif"):
            continue
        image.save(tmp_path / f"image{suffix}")
        assert load_image(tmp_path / f"image{suffix}").size == (32, 24)


def test_a_plugin_of_the_users_own_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def opened(file: io.BytesIO, name: str) -> Image.Image:
        return Image.new("RGB", (5, 4))

    monkeypatch.setattr(Image, "OPEN", {**Image.OPEN, "MINE": (opened, lambda b: b[:4] == b"mine")})
    monkeypatch.setattr(Image, "EXTENSION", {**Image.EXTENSION, ".mine": "MINE"})
    assert open_image(io.BytesIO(b"mine, all mine")).size == (5, 4)
    assert ".mine" in image_suffixes()


def test_photos_do_not_import_every_plugin(tmp_path: Path) -> None:
    Image.new("RGB", (9, 9)).save(tmp_path / "a.jpg")
    code = (
        "import sys; from clipperf.inputs.decode import load_image; load_image(sys.argv[1]); "
        "assert 'PIL.EpsImagePlugin' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path / "a.jpg"], check=True, timeout=60)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("data:image/png;base64," + base64.b64encode(bytes(2**21)).decode(), "decode it first"),
        ("http://example.org/cat.jpg", "download it first"),
        ("https://example.org/" + "x" * 2**20, "download it first"),
        ("s3://bucket/cat.jpg", "download it first"),
        ("x" * 2**20, "File name too long"),
        ("a\0b", "embedded null"),
        ("a\x1b[31m\nb", r"a\x1b[31m\nb: cannot read"),
    ],
)
def test_what_is_no_path_is_quoted_in_part_with_the_fix(given: str, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        preprocess([given], SPEC)
    message = str(caught.value)
    assert words in message
    assert len(message) < 1500 and message.isprintable()


def test_quoting_is_bounded_and_never_fails() -> None:
    class Broken:
        def __repr__(self) -> str:
            raise ZeroDivisionError

    assert shown("a" * 1000) == "a" * 1000
    assert shown("a" * 1001) == "a" * 1000 + "... (1,001 characters)"
    assert shown(Path("a\nb\x1b")) == "a\\nb\\x1b"
    assert quoted("abc") == "'abc'"
    assert quoted("a" * 10**6) == "'" + "a" * 199 + "... (1,000,002 characters)"
    assert quoted(10**5000) == "a value of type int"
    assert quoted(Broken()) == "a value of type Broken"


# --- values that are no bytes ----------------------------------------------------------------


def uint8_pixels(source: Path | Image.Image, size: int) -> np.ndarray:
    return preprocess([source], PreprocessSpec(size, size), np.empty((1, 3, size, size), np.uint8))


def test_16_bits_are_clipped_as_the_reference_does_and_named(tmp_path: Path) -> None:
    deep = np.array([[0, 100], [255, 40_000]], np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    with pytest.warns(AccuracyWarning, match=r"1 of 1 images hold .* \(first: .*deep\.png\)"):
        found = uint8_pixels(tmp_path / "deep.png", 2)
    # 40,000 is clipped to 255; scaled it would be 40,000 / 257 = 155.6.
    assert found.tolist() == [[[[0, 100], [255, 255]]] * 3]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # The fix that the warning gives.
        scaled = Image.fromarray((np.asarray(Image.open(tmp_path / "deep.png")) / 257).astype("u1"))
        assert uint8_pixels(scaled, 2)[0, 0].tolist() == [[0, 0], [0, 155]]
        # Sixteen bits that hold bytes are as they were meant.
        Image.fromarray(deep // 257).save(tmp_path / "bytes.png")
        assert uint8_pixels(tmp_path / "bytes.png", 2)[0, 0].tolist() == [[0, 0], [0, 155]]


@pytest.mark.parametrize(
    ("values", "clipped"),
    [
        (np.array([[0, 255]], np.int32), False),
        (np.array([[0, 256]], np.int32), True),
        (np.array([[-1, 7]], np.int32), True),
        (np.array([[0.5, 254.5]], np.float32), False),
        (np.array([[0.0, 0.9]], np.float32), True),
        (np.array([[0.0, 0.0]], np.float32), False),
        (np.array([[np.nan, 3.0]], np.float32), True),
    ],
)
def test_which_values_are_no_bytes(values: np.ndarray, clipped: bool) -> None:
    assert preprocessing.exceeds_bytes(Image.fromarray(values)) is clipped


def test_big_endian_16_bits_are_told_apart() -> None:
    low = np.array([[200, 3]], ">u2").tobytes()
    assert not preprocessing.exceeds_bytes(Image.frombytes("I;16B", (2, 1), low))
    assert preprocessing.exceeds_bytes(Image.frombytes("I;16", (2, 1), low))


def test_the_limit_of_a_file_holds_every_image_that_pillow_reads() -> None:
    assert Image.MAX_IMAGE_PIXELS is not None
    assert reading.MAX_IMAGE_BYTES >= 2 * 3 * Image.MAX_IMAGE_PIXELS
