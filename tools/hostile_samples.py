"""The inputs of `hostile_inputs`: each a few bytes, or a name, that asks for more than it gives."""

from __future__ import annotations

import base64
import bz2
import io
import os
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

MEMBER_BYTES = 3 << 30
"""What the zip and the files with holes claim to hold."""


@dataclass(frozen=True)
class Case:
    """One hostile input.

    `make(folder)` writes it into an empty folder and returns what a user would pass: a path or a
    name; of a text, the file that holds it. `outcome` is how what comes of it begins.
    """

    name: str
    kind: Literal["image", "text", "dataset"]
    make: Callable[[Path], Path | str]
    outcome: str
    peak_mib: int = 600


def _image(mode: str, size: tuple[int, int], suffix: str = "png") -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        path = folder / f"image.{suffix}"
        Image.new(mode, size).save(path)
        return path

    return make


def _bytes(data: bytes, name: str = "image.png") -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / name).write_bytes(data)
        return folder / name

    return make


def _text(text: str) -> Callable[[Path], Path]:
    return _bytes(text.encode("utf-8", "surrogatepass"), "text")


def _hole(name: str, beginning: bytes = b"") -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        with open(folder / name, "wb") as file:
            file.write(beginning)
            file.truncate(MEMBER_BYTES)
        return folder / name

    return make


def _pipe(folder: Path) -> Path:
    os.mkfifo(folder / "image.png")
    return folder / "image.png"


def _link(target: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / "image.png").symlink_to(target)
        return folder / "image.png"

    return make


def _saved(image: Image.Image, form: str = "PNG") -> bytes:
    file = io.BytesIO()
    image.save(file, form)
    return file.getvalue()


def _png(width: int, height: int, *more: tuple[bytes, bytes]) -> bytes:
    """A PNG of grey pixels that claims a size and holds a few rows, with chunks before them."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    rows = zlib.compress(bytes(10_000))
    chunks = ((b"IHDR", header), *more, (b"IDAT", rows), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


def _deep(folder: Path) -> Path:
    Image.fromarray(np.full((30, 40), 40_000, np.uint16)).save(folder / "image.png")
    return folder / "image.png"


# --- datasets ---------------------------------------------------------------------------------


def _classes(folder: Path) -> Path:
    root = folder / "pets"
    for name in ("cat", "dog"):
        (root / name).mkdir(parents=True)
        Image.new("RGB", (9, 9)).save(root / name / "1.png")
    return root


def _class_member(make: Callable[[Path], object]) -> Callable[[Path], Path]:
    """Class folders of which one holds what `make` writes besides."""

    def dataset(folder: Path) -> Path:
        root = _classes(folder)
        make(root / "cat")
        return root

    return dataset


def _captions(make: Callable[[Path], object]) -> Callable[[Path], Path]:
    """A folder of one image, whose captions.csv `make` writes."""

    def dataset(folder: Path) -> Path:
        Image.new("RGB", (9, 9)).save(folder / "a.png")
        make(folder)
        return folder

    return dataset


def _zip_bomb(folder: Path) -> Path:
    """Zeros, packed a thousandfold."""
    with zipfile.ZipFile(
        folder / "bomb.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=1
    ) as archive:
        for name in ("cat/1.png", "dog/1.png"):
            with archive.open(name, "w", force_zip64=True) as file:
                for _ in range(MEMBER_BYTES // 2 >> 24):
                    file.write(bytes(1 << 24))
    return folder / "bomb.zip"


def _lying_zip(folder: Path) -> Path:
    """A member that holds more than it declares, packed by deflate."""
    with zipfile.ZipFile(folder / "lying.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("cat/1.png", bytes(1 << 28))
    data = (folder / "lying.zip").read_bytes()
    less = struct.pack("<I", 1000)
    (folder / "lying.zip").write_bytes(data.replace(struct.pack("<I", 1 << 28), less))
    return folder / "lying.zip"


def _bzip2_zip(folder: Path) -> Path:
    with zipfile.ZipFile(folder / "odd.zip", "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("cat/1.png", bytes(1 << 27))
    assert len(bz2.compress(bytes(1 << 20))) < 1000
    return folder / "odd.zip"


def _deep_json(folder: Path) -> Path:
    root = _classes(folder)
    (root / "classes.json").write_text("[" * 10**6)
    return root


URI = "data:image/png;base64," + base64.b64encode(_saved(Image.new("RGB", (9, 9)))).decode()
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n{} loop\n"
NOISE = Image.effect_noise((300, 200), 60).convert("RGB")
ERROR = "UsageError: "
WEBP = _saved(Image.new("RGB", (9, 9)), "WEBP")

CASES = (
    Case("plain image", "image", _image("RGB", (640, 480)), "embedding"),
    Case("plain text", "text", _text("a photo of a dog"), "embedding"),
    Case("plain dataset", "dataset", _classes, "dataset of 2 images"),
    *(
        Case(f"{name} {mode}", "image", _image(mode, size), outcome)
        for name, size in (("tall", (1, 20_000)), ("wide", (20_000, 1)), ("taller", (2, 400_000)))
        for mode, outcome in (
            *((mode, "embedding") for mode in ("RGB", "RGBA", "L", "LA")),
            *((mode, "embedding") for mode in ("1", "P")),
            ("I;16", ERROR),
        )
    ),
    *(
        Case(f"tall {mode} tiff", "image", _image(mode, (1, 20_000), "tif"), "embedding")
        for mode in ("CMYK", "F", "I")
    ),
    Case("tallest P", "image", _image("P", (1, 4_000_000)), ERROR),
    Case("one pixel", "image", _image("RGB", (1, 1)), "embedding"),
    Case("large", "image", _image("RGB", (12_000, 7_400)), "embedding", 1200),
    Case("16 bits", "image", _deep, "embedding, AccuracyWarning"),
    Case("empty file", "image", _bytes(b""), ERROR),
    Case("text named png", "image", _bytes(b"no image"), ERROR),
    Case("eps named png", "image", _bytes(EPS), ERROR),
    Case("cut png", "image", _bytes(_saved(NOISE)[:50_000]), ERROR),
    Case("cut jpeg", "image", _bytes(_saved(NOISE, "JPEG")[:9_000]), ERROR),
    Case("no pixels", "image", _bytes(_png(0, 0)), ERROR),
    Case("bomb png", "image", _bytes(_png(100_000, 100_000)), ERROR),
    Case("claims 170 megapixels", "image", _bytes(_png(13_000, 13_000)), ERROR),
    Case(
        "text chunks",
        "image",
        _bytes(_png(9, 9, *[(b"zTXt", b"a\0\0" + zlib.compress(bytes(10**7)))] * 30)),
        ERROR,
    ),
    Case("hole webp", "image", _hole("image.webp", WEBP), ERROR),
    Case("hole png", "image", _hole("image.png", _png(9, 9)[:40]), ERROR),
    Case("pipe", "image", _pipe, ERROR),
    Case("link to /dev/zero", "image", _link("/dev/zero"), ERROR),
    Case("link to /dev/urandom", "image", _link("/dev/urandom"), ERROR),
    Case("link to itself", "image", _link("image.png"), ERROR),
    Case("kernel's file", "image", lambda folder: "/proc/self/maps", ERROR),
    Case("folder", "image", lambda folder: folder, ERROR),
    Case("data uri", "image", lambda folder: URI, ERROR),
    Case("data uri of 3 MB", "image", lambda folder: URI + "A" * 3_000_000, ERROR),
    Case("url", "image", lambda folder: "https://example.org/cat.jpg", ERROR),
    Case("name of 1 MB", "image", lambda folder: "x" * 10**6, ERROR),
    Case("zero byte in name", "image", lambda folder: "a\0b.png", ERROR),
    Case("text, empty", "text", _text(""), "embedding"),
    Case("text, entities 2 kB", "text", _text("&" + "amp;" * 500), "embedding"),
    Case("text, entities 16 kB", "text", _text("&" + "amp;" * 4000), "embedding"),
    Case("text, entities 200 kB", "text", _text("&" + "amp;" * 50_000), ERROR),
    Case("text, wide entities", "text", _text("＆" + "ａｍｐ；" * 50_000), ERROR),
    Case("text, nested mojibake", "text", _text("Ã\x83Â\x83" * 3000), "embedding"),
    Case("text, 30 MB of words", "text", _text("a photo of a dog " * 1_800_000), "embedding"),
    Case("text, 30 MB of lines", "text", _text("un café\nau lait\n" * 1_800_000), "embedding"),
    Case("text, word of 1 MB", "text", _text("x" * 10**6), "embedding"),
    Case("text, word of 30 MB", "text", _text("x" * 30_000_000), ERROR),
    Case("text, line of 1 MB", "text", _text("café " * 200_000), "embedding"),
    Case("text, line of 30 MB", "text", _text("café " * 6_000_000), ERROR),
    Case("text, controls", "text", _text("\x1b[31m\x00\x7f" * 2000), "embedding"),
    Case("text, surrogates", "text", _text("\ud83d" * 3000), "embedding"),
    Case("dataset, zip bomb", "dataset", _zip_bomb, ERROR),
    Case("dataset, lying zip", "dataset", _lying_zip, ERROR),
    Case("dataset, bzip2", "dataset", _bzip2_zip, ERROR),
    Case("dataset, no zip", "dataset", _bytes(b"PK\x05\x06" + bytes(18)), ERROR),
    Case("dataset, captions 3 GiB", "dataset", _captions(_hole("captions.csv")), ERROR),
    Case(
        "dataset, captions pipe",
        "dataset",
        _captions(lambda f: os.mkfifo(f / "captions.csv")),
        ERROR,
    ),
    Case(
        "dataset, captions device",
        "dataset",
        _captions(lambda folder: (folder / "captions.csv").symlink_to("/dev/zero")),
        ERROR,
    ),
    Case("dataset, image 3 GiB", "dataset", _class_member(_hole("2.png")), ERROR),
    Case("dataset, image pipe", "dataset", _class_member(_pipe), ERROR),
    Case("dataset, image device", "dataset", _class_member(_link("/dev/urandom")), ERROR),
    Case("dataset, eps", "dataset", _class_member(_bytes(EPS)), ERROR),
    Case("dataset, deep json", "dataset", _deep_json, ERROR),
    Case("dataset, pipe", "dataset", _pipe, ERROR),
    Case("dataset, device", "dataset", lambda folder: "/dev/zero", ERROR),
    Case("dataset, data uri", "dataset", lambda folder: URI + "A" * 3_000_000, ERROR),
)
