"""MNIST and what is packed like it: IDX files of grey images, read in place.

``t10k-images-idx3-ubyte`` with ``t10k-labels-idx1-ubyte`` is the split "test",
``train-images-idx3-ubyte`` with its labels is "train"; they may lie in ``MNIST/raw``, where
torchvision puts them. Class names are digits, unless ``classnames.txt`` or the published set that
it is has others. An image is its bytes in the file, with the header of a PGM before them.
"""

from __future__ import annotations

import posixpath
import struct
from collections.abc import Collection

from clipperf.errors import UsageError
from clipperf.evals.layout import (
    DEFAULT_TEMPLATES,
    SPLIT,
    Content,
    Layout,
    Place,
    check_classes,
    class_languages,
    in_split,
    lines_of,
    published_texts,
)
from clipperf.inputs.sources import ImageSource
from clipperf.text import shown

PREFIXES = {"test": "t10k", "train": "train"}
NAMES = ("{}-{}-idx{}-ubyte", "{}-{}.idx{}-ubyte")
"""How the files are called: with a hyphen, or as some unpack them."""

IMAGES, LABELS = 0x0803, 0x0801
"""What the files begin with: unsigned bytes in three dimensions, in one."""

MOST_BYTES = 1 << 30


def _file(place: Place, split: str, kind: str, dimensions: int) -> ImageSource | None:
    wanted = {name.format(PREFIXES[split], kind, dimensions) for name in NAMES}
    found = [name for name in place.files if posixpath.basename(name) in wanted]
    return place.files[min(found, key=len)] if found else None


def _splits(place: Place) -> list[str]:
    return [s for s in PREFIXES if _file(place, s, "images", 3) and _file(place, s, "labels", 1)]


def _read(place: Place, without: Collection[str]) -> Content:
    split = in_split(place, _splits(place))
    pixels, answers = _file(place, split, "images", 3), _file(place, split, "labels", 1)
    assert pixels is not None and answers is not None
    if pixels.member is not None:
        raise UsageError(f"{pixels}: an IDX file inside of an archive cannot be read: unpack that")
    data = answers.read(MOST_BYTES)
    (count,) = _header(answers, data[:8], LABELS, 1)
    if len(data) != 8 + count:
        raise UsageError(f"{answers}: {count} labels are said, {len(data) - 8} are there")
    number, height, width = _header(pixels, _begin(pixels), IMAGES, 3)
    size, there = height * width, pixels.path.stat().st_size
    if number != count or not size or there != 16 + number * size:
        raise UsageError(
            f"{pixels}: {number} images of {height} x {width} are said for {count} labels, in "
            f"{there} bytes"
        )
    images, labels = [], []
    for i, label in enumerate(data[8:]):
        own = ImageSource(
            f"{pixels.name}/{i}",
            pixels.path,
            f"image {i}",
            (16 + i * size, size),
            head=f"P5 {width} {height} 255\n",
        )
        if own.name not in without:
            images.append(own)
            labels.append(label)
    classes = max(10, max(labels, default=0) + 1)
    names, templates = published_texts(place, classes)
    names = lines_of(place, "classnames.txt") or names or [str(i) for i in range(classes)]
    templates = lines_of(place, "templates.txt") or templates or list(DEFAULT_TEMPLATES)
    check_classes(names, templates, shown(place.root))
    if max(labels, default=0) >= len(names):
        raise UsageError(f"{answers}: label {max(labels)}, and there are {len(names)} names")
    return Content(images, labels=labels, class_names=names, templates=templates)


def _begin(source: ImageSource) -> bytes:
    """The first bytes of a file that is not read whole."""
    return ImageSource(source.name, source.path, "header", (0, 16)).read()


def _header(source: ImageSource, data: bytes, magic: int, dimensions: int) -> tuple[int, ...]:
    """The lengths that an IDX file says it has."""
    form = f">{1 + dimensions}I"
    if len(data) < struct.calcsize(form):
        raise UsageError(f"{source} is cut: {len(data)} bytes are there")
    found, *lengths = struct.unpack(form, data[: struct.calcsize(form)])
    if found != magic:
        raise UsageError(f"{source} begins with {found:#x}, not with {magic:#x}: it is no such IDX")
    return tuple(lengths)


LAYOUT = Layout(
    name="idx",
    fits=lambda place: bool(_splits(place)),
    read=_read,
    own=("*-ubyte", "*-ubyte.gz", "classnames.txt", "templates.txt"),
    offers=lambda place: (SPLIT, *class_languages(place, "classnames.txt")),
)
