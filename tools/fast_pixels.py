"""How far the pixels of "fast" preprocessing are from those of "exact": counts by kind of image.

    python tools/fast_pixels.py [SECONDS]

Images of random sizes, frames, filters and ways to resize, of kinds that are hard on rounding and
like photographs, for so many seconds each (30). Prints one line a kind: how many values were
compared, and the share that is off by 1/255, by 2/255 and by more.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from dataclasses import replace

import numpy as np
from PIL import Image

from clipperf.inputs.preprocess import preprocess
from clipperf.inputs.preprocess_spec import PreprocessSpec

KINDS = ("photograph", "noise", "black and white", "blocks", "slopes", "worst rows")
RAW = PreprocessSpec(mean=(0.0, 0.0, 0.0), std=(1 / 255,) * 3)
"""Gives the bytes back."""


def picture(kind: str, width: int, height: int, rng: np.random.Generator) -> Image.Image:
    """A seeded image of a kind."""
    if kind == "photograph":
        frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
        frequency[0, 0] = np.inf
        planes = []
        for _ in range(3):
            real, imaginary = rng.standard_normal((2, *frequency.shape)) / frequency**1.4
            plane = np.fft.irfft2(real + 1j * imaginary, (height, width))
            planes.append(120 + 50 * plane / max(plane.std(), 1e-9))
        return Image.fromarray(np.stack(planes, -1).clip(0, 255).astype(np.uint8))
    if kind == "slopes":
        y, x = np.mgrid[:height, :width]
        planes = [(a * x + b * y) % 256 for a, b in rng.random((3, 2)) * 2]
        return Image.fromarray(np.stack(planes, -1).astype(np.uint8))
    values = rng.integers(0, 256, (height, width, 3), np.uint8)
    if kind == "black and white":
        values = (values > 127) * np.uint8(255)
    if kind == "blocks":
        values = values[::8, ::8].repeat(8, 0).repeat(8, 1)[:height, :width]
    if kind == "worst rows":  # all rows alike, so that one wrong rounding is that of every row
        values = values[:1].repeat(height, 0)
    return Image.fromarray(values)


def drawn(rng: np.random.Generator) -> tuple[int, int, PreprocessSpec]:
    """Sides of an image, and what it is brought to."""
    sides = np.exp(rng.uniform(np.log(20), np.log(4000), 2)).astype(int)
    frame = (224, 224) if rng.random() < 0.5 else tuple(int(v) for v in rng.integers(16, 400, 2))
    return (
        int(sides[0]),
        int(sides[1]),
        replace(
            RAW,
            height_px=frame[0],
            width_px=frame[1],
            interpolation=str(rng.choice(["bicubic", "bilinear"])),
            resize_mode=str(rng.choice(["shortest", "squash"])),
        ),
    )


def main(seconds: float) -> None:
    """Print a line a kind."""
    for kind in KINDS:
        rng, end = np.random.default_rng(1), time.monotonic() + seconds
        off: Counter[int] = Counter()
        while time.monotonic() < end:
            width, height, spec = drawn(rng)
            image = picture(kind, width, height, rng)
            exact = preprocess([image], spec)
            gaps = np.abs(preprocess([image], replace(spec, method="fast")) - exact).round()
            values, counts = np.unique(gaps, return_counts=True)
            off.update(dict(zip(values.astype(int).tolist(), counts.tolist(), strict=True)))
        total = sum(off.values())
        more = sum(count for gap, count in off.items() if gap > 2)
        print(
            f"{kind:16} {total:>13,} values: off by 1 {off[1] / total:.2e}, by 2 "
            f"{off[2] / total:.1e}, by more {more}",
            flush=True,
        )


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 30.0)
