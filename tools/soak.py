"""Whether a served model's memory stays flat: many calls of mixed batches and sizes.

    python tools/soak.py                                  # 100,000 calls of the bundled sample
    python tools/soak.py --calls 2000 --runtime openvino  # fewer, in another runtime

Exports the model where the store lacks it, then calls `encode_images` and `encode_texts` in turn
with batches, image sizes and lengths of text drawn at random (seeded), and prints the resident
bytes on the way and after `close()`. Exit code 1 where they grow by more than `--most` after the
first 5 % of the calls, on average over the last 5 %.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

import clipperf
from clipperf.export.make import make
from clipperf.models import zoo
from clipperf.nouns.variant import Variant
from clipperf.serve.model import ClipModel
from clipperf.system.processes import status_bytes

MOST = 0.05
"""Growth that is allowed after the first calls."""

WARM = 0.05
"""The share of the calls in which whatever is kept for good may be made."""

LINES = 20
"""How many figures are printed on the way."""

SIDES_PX = (16, 640)
"""The shortest and the longest side of an image; most are small."""

WORDS = ("a", "small", "drawing", "of", "red", "apple", "beside", "some", "unbelievably", "big")


class Calls:
    """Batches of images and texts, one after the other, the same for every seed."""

    def __init__(self, seed: int = 0, largest: int = 16) -> None:
        self._random = random.Random(seed)
        self._largest = largest
        self._images = [self._image() for _ in range(64)]

    def _image(self) -> Image.Image:
        low, high = SIDES_PX
        # As many between 16 and 64 pixels as between 160 and 640.
        width, height = (round(low * (high / low) ** self._random.random()) for _ in range(2))
        colour = tuple(self._random.randrange(256) for _ in range(3))
        return Image.new("RGB", (width, height), colour)

    def _size(self) -> int:
        """Of a batch: small ones are as likely as large ones."""
        return round(self._largest ** self._random.random())

    def call(self, model: ClipModel, place: int) -> int:
        """The call with this number; returns how many inputs it had."""
        size = self._size()
        if place % 2:
            texts = [self._text() for _ in range(size)]
            return len(model.encode_texts(texts))
        # Copies, as an application's own images are new in every call.
        images = [self._random.choice(self._images).copy() for _ in range(size)]
        return len(model.encode_images(images))

    def _text(self) -> str:
        return " ".join(self._random.choices(WORDS, k=self._random.randrange(90)))


def soak(model: ClipModel, calls: int, calling: Calls, every: int) -> list[int]:
    """Resident bytes after each of so many calls, `every` of them printed."""
    found = []
    started = time.perf_counter()
    for place in range(calls):
        calling.call(model, place)
        found.append(_rss())
        if (place + 1) % every == 0:
            took = time.perf_counter() - started
            print(f"{place + 1:>9} calls  {_mib(found[-1])}  {took:7.0f} s", flush=True)
    return found


def growth(found: Sequence[int]) -> float:
    """How much more the last 5 % of the calls held than the calls after the first 5 % did."""
    share = max(1, int(len(found) * WARM))
    return statistics.mean(found[-share:]) / statistics.mean(found[share : 2 * share]) - 1


def _rss() -> int:
    found = status_bytes("VmRSS")
    if found is None:
        sys.exit("resident bytes are read from /proc/self/status, which is not here")
    return found


def _mib(size: int) -> str:
    return f"{size / 2**20:7.1f} MiB"


def main() -> int:
    """Soak one model; the exit code says whether its memory stayed flat."""
    options = _options()
    variant = Variant(options.runtime, options.precision)
    folder = options.folder or make(zoo.resolve(options.model), ("image", "text"), variant).folder
    before = _rss()
    calling = Calls(options.seed, options.largest)
    model = clipperf.load(folder, threads=options.threads, streams=options.streams)
    print(f"{folder}\n{'before':>15}  {_mib(before)}\n{'opened':>15}  {_mib(_rss())}")
    found = soak(model, options.calls, calling, max(1, options.calls // LINES))
    model.close()
    print(f"{'closed':>15}  {_mib(_rss())}")
    grown = growth(found)
    print(
        f"growth after the first {WARM:.0%} of the calls: {grown:.1%} ({options.most:.0%} allowed)"
    )
    return int(grown > options.most)


def _options() -> Any:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", default="clipperf-sample")
    parser.add_argument("--folder", type=Path, help="an artifact folder, instead of a model")
    parser.add_argument("--runtime", default="onnx")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--calls", type=int, default=100_000)
    parser.add_argument("--largest", type=int, default=16, help="inputs of a call at most")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--streams", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--most", type=float, default=MOST, help="growth that is allowed")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
