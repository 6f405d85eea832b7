"""Batches of pixels, decoded and preprocessed by threads while the engine runs the one before."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from PIL import Image

from clipperf.errors import UsageError
from clipperf.inputs.preprocess import ImageInput, load_image, preprocess
from clipperf.inputs.preprocess_spec import PreprocessSpec
from clipperf.nouns.variant import PixelDtype


def batches(
    images: Sequence[ImageInput],
    spec: PreprocessSpec,
    batch_size: int,
    workers: int,
    dtype: PixelDtype = "float32",
) -> Generator[np.ndarray, None, None]:
    """Yield arrays of `dtype` [batch, 3, height, width] in the order of `images`.

    While the caller uses one batch, `workers` threads prepare the next one, never more; with 0
    workers the calling thread prepares a batch when it is asked for. Close the iterator (see
    `contextlib.closing`) to end the threads early: images that were not begun are dropped.

    Raises:
        UsageError: an image cannot be read or converted; the message has its place in `images`.
    """

    def planned(start: int) -> tuple[np.ndarray, list[tuple[Any, ...]]]:
        chunk = images[start : start + batch_size]
        pixels = np.empty((len(chunk), *spec.shape), dtype)
        return pixels, [
            (image, start + i, spec, pixels[i : i + 1]) for i, image in enumerate(chunk)
        ]

    starts = range(0, len(images), batch_size)
    if workers == 0:
        for start in starts:
            pixels, jobs = planned(start)
            for job in jobs:
                _fill(*job)
            yield pixels
            del pixels, jobs, job  # before the next batch takes its memory
        return
    _decode_repeated(images)
    pool = ThreadPoolExecutor(workers, thread_name_prefix="clipperf-pixels")
    try:
        pixels, jobs = planned(0)
        tasks = [pool.submit(_fill, *job) for job in jobs]
        for start in starts:
            next_pixels, jobs = planned(start + batch_size)
            next_tasks = [pool.submit(_fill, *job) for job in jobs]
            for task in tasks:
                task.result()
            yield pixels
            pixels, tasks = next_pixels, next_tasks
    finally:
        pool.shutdown(cancel_futures=True)


def _fill(image: ImageInput, place: int, spec: PreprocessSpec, out: np.ndarray) -> None:
    try:
        preprocess([image], spec, out)
    except UsageError as exc:
        raise UsageError(f"image {place}: {exc}") from exc


def _decode_repeated(images: Sequence[ImageInput]) -> None:
    """Decode what several threads would otherwise decode at once: Pillow's images are not safe."""
    times = Counter(id(image) for image in images)
    for place, image in enumerate(images):
        if times[id(image)] > 1 and isinstance(image, Image.Image):
            try:
                load_image(image)
            except UsageError as exc:
                raise UsageError(f"image {place}: {exc}") from exc
