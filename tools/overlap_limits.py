"""Which crops `clipperf overlap` finds, and what it takes for a copy, where the truth is known.

Prints the shares that docs/evaluations.md gives. Photos are tiles of the two that come with
scikit-learn; drawings are the bundled sample's, flat shapes on a plain ground.

    python tools/overlap_limits.py
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from sklearn.datasets import load_sample_images

from clipperf.evals.datasets import load_dataset
from clipperf.evals.duplicates import near_duplicates
from clipperf.inputs.sources import ImageSource

TILE_PX = 160
SIZES_PX = (64, 160)
SHARES = (0.95, 0.9, 0.85, 0.8, 0.7, 0.6, 0.5)
TRIES = 12
DRAWINGS = 200


def tiles(px: int) -> list[Image.Image]:
    """Squares side by side of the photos, brought to so many pixels a side."""
    found = []
    for array in load_sample_images().images:
        photo = Image.fromarray(array)
        for top in range(0, photo.height - TILE_PX + 1, TILE_PX):
            for left in range(0, photo.width - TILE_PX + 1, TILE_PX):
                box = (left, top, left + TILE_PX, top + TILE_PX)
                found.append(photo.resize((px, px), Image.Resampling.BICUBIC, box))
    return found


def cropped(image: Image.Image, share: float, x: float, y: float) -> Image.Image:
    """A crop of this share of both sides, brought to the size of the whole; 0.5, 0.5 is central."""
    width, height = image.size
    left, top = x * (1 - share) * width, y * (1 - share) * height
    box = (left, top, left + share * width, top + share * height)
    return image.resize(image.size, Image.Resampling.BICUBIC, box)


def stored(folder: Path, images: Sequence[Image.Image]) -> list[ImageSource]:
    """Images as files."""
    folder.mkdir()
    for i, image in enumerate(images):
        image.save(folder / f"{i}.png")
    return [ImageSource(f"{i}.png", folder / f"{i}.png") for i in range(len(images))]


def crops_of(px: int, scratch: Path) -> None:
    """Print what is found of crops of photos of one size, central ones and any."""
    images, rng = tiles(px), np.random.default_rng(0)
    there = stored(scratch / "there", images)
    for share in SHARES:
        middle = [cropped(image, share, 0.5, 0.5) for image in images]
        any_where = [cropped(image, share, *rng.random(2)) for image in images * TRIES]
        shares = []
        for name, copies in (("middle", middle), ("any", any_where)):
            found = near_duplicates(stored(scratch / f"{name} {share}", copies), there)
            right = sum(match.own % len(images) == match.other for match in found)
            shares += [right / len(copies), (len(found) - right) / len(copies)]
        print(
            f"{px} px, crops of {share:g} of both sides: central {shares[0]:.0%} found, anywhere "
            f"{shares[2]:.0%}; taken for another {shares[1]:.1%} and {shares[3]:.1%}"
        )


def shape(seed: int) -> Image.Image:
    """A disc or a box of one colour on white."""
    rng, image = np.random.default_rng(seed), Image.new("RGB", (128, 128), "white")
    (x, y), side = rng.integers(20, 80, 2), int(rng.integers(16, 40))
    red, green, blue = rng.integers(0, 256, 3)
    drawing = ImageDraw.Draw(image)
    draw = drawing.ellipse if rng.random() < 0.5 else drawing.rectangle
    draw((x, y, x + side, y + side), fill=(int(red), int(green), int(blue)))
    return image


def drawings(scratch: Path) -> None:
    """Print how many drawings are taken for copies of others."""
    sample = load_dataset("sample").images[: 2 * DRAWINGS]
    shapes = stored(scratch / "shapes", [shape(seed) for seed in range(2 * DRAWINGS)])
    for name, images in (("the sample's drawings", sample), ("single shapes on white", shapes)):
        found = near_duplicates(images[::2], images[1::2])
        print(f"{name}: {len(found)} of {DRAWINGS} are taken for copies of {DRAWINGS} others")


def main() -> int:
    """Print all of it."""
    with tempfile.TemporaryDirectory() as scratch:
        for px in SIZES_PX:
            folder = Path(scratch) / str(px)
            folder.mkdir()
            crops_of(px, folder)
        drawings(Path(scratch))
    return 0


if __name__ == "__main__":
    sys.exit(main())
