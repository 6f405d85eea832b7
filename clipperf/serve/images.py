"""Batches of pixels, decoded and preprocessed by threads while the engine runs the one before."""

from __future__ import annotations

import contextlib
import warnings
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from PIL import Image

from clipperf.errors import AccuracyWarning, EngineError, UnreadableWarning, UsageError
from clipperf.inputs.decode import ImageInput, content_of, load_image, name_of
from clipperf.inputs.preprocess import CLIPPED, fill
from clipperf.inputs.preprocess_spec import PreprocessSpec
from clipperf.nouns.cell import Engine
from clipperf.nouns.variant import PixelDtype
from clipperf.serve.streams import run_all
from clipperf.system.env import available_cores
from clipperf.text import quoted

OnError = Literal["raise", "mark"] | Callable[[int, UsageError], object]
"""What becomes of images that cannot be read; see `encode`."""


@dataclass
class Seen:
    """What was noticed about images, by their places; filled by several threads."""

    unreadable: dict[int, UsageError] = field(default_factory=dict)
    clipped: set[int] = field(default_factory=set)


def encode(
    images: Sequence[ImageInput],
    spec: PreprocessSpec,
    engine: Engine,
    batch_size: int,
    workers: int | None,
    *,
    dtype: PixelDtype,
    embed_dim: int,
    on_error: OnError = "raise",
) -> np.ndarray:
    """Preprocess and embed images: float32 [images, embed_dim], in their order.

    With `on_error` "mark", the row of an image that cannot be read is NaN, and one
    `UnreadableWarning` says why, by place. A function in its place is called with the place and
    the error, in the order of the images, instead of the warning. Such images are in no batch, so
    they change no other row.

    Warns with `AccuracyWarning` where values are clipped (see `preprocess`).

    Raises:
        UsageError: an image cannot be read and is to be raised, or `on_error` is not valid.
    """
    if on_error not in ("raise", "mark") and not callable(on_error):
        raise UsageError(f"on_error is {quoted(on_error)}: give 'raise', 'mark' or a function")
    seen = Seen()
    workers = threads_for(workers, len(images))
    ready = batches(images, spec, batch_size, workers, dtype, seen, skip=on_error != "raise")
    with contextlib.closing(ready):
        parts = run_all(engine, ready)
    if seen.clipped:
        first = name_of(images[min(seen.clipped)])
        message = f"{len(seen.clipped)} of {len(images)} images {CLIPPED.format(first=first)}"
        warnings.warn(message, AccuracyWarning, stacklevel=4)
    if not seen.unreadable:
        return np.concatenate(parts) if parts else np.zeros((0, embed_dim), np.float32)
    bad = dict(sorted(seen.unreadable.items()))
    rows = np.full((len(images), embed_dim), np.nan, np.float32)
    if parts:
        rows[[place for place in range(len(images)) if place not in bad]] = np.concatenate(parts)
    if callable(on_error):
        for place, error in bad.items():
            on_error(place, error)
        return rows
    reasons = {place: str(error) for place, error in bad.items()}
    said = next(iter(reasons.values()))
    message = f"{len(bad)} of {len(images)} images cannot be read, their rows are NaN: {said}"
    warnings.warn(UnreadableWarning(message, reasons), stacklevel=4)
    return rows


def batches(
    images: Sequence[ImageInput],
    spec: PreprocessSpec,
    batch_size: int,
    workers: int,
    dtype: PixelDtype = "float32",
    seen: Seen | None = None,
    skip: bool = False,
) -> Generator[np.ndarray, None, None]:
    """Yield arrays of `dtype` [batch, 3, height, width] in the order of `images`.

    While the caller uses one batch, `workers` threads prepare the next one, never more; with 0
    workers the calling thread prepares a batch when it is asked for. Close the iterator (see
    `contextlib.closing`) to end the threads early: images that were not begun are dropped.
    `seen` is told what was noticed. With `skip` images that cannot be read are noted there and
    left out, so a batch may be smaller than `batch_size`.

    Raises:
        UsageError: an image cannot be read or converted; the message has its place in `images`.
    """
    seen = Seen() if seen is None else seen
    images = _read_once(images)
    if workers:
        _decode_repeated(images, skip)
    parts = (images[i : i + batch_size] for i in range(0, len(images), batch_size))
    with contextlib.closing(prepared(parts, spec, workers, dtype, seen, skip)) as ready:
        # A loop's variable would hold one batch more in RAM.
        yield from filter(len, ready)


def prepared(
    parts: Iterable[Sequence[ImageInput]],
    spec: PreprocessSpec,
    workers: int,
    dtype: PixelDtype,
    seen: Seen,
    skip: bool,
    on_end: Callable[[], None] = lambda: None,
) -> Generator[np.ndarray, None, None]:
    """`batches` of images that come in parts, each of them a batch: one array for every part.

    Where images are skipped it may be empty. Places are counted over all parts. Of the parts one
    is taken ahead of that which is prepared. `on_end` is called before the threads are waited for,
    some of which may wait for an image themselves.

    Raises: as `batches`.
    """

    def planned(start: int, part: Sequence[ImageInput]) -> tuple[np.ndarray, list[Any]]:
        pixels = np.empty((len(part), *spec.shape), dtype)
        return pixels, [
            (image, start + i, spec, pixels[i], seen, skip) for i, image in enumerate(part)
        ]

    def whole(start: int, pixels: np.ndarray) -> np.ndarray:
        if not seen.unreadable:
            return pixels
        good = [i for i in range(len(pixels)) if start + i not in seen.unreadable]
        return pixels if len(good) == len(pixels) else pixels[good]

    start = 0
    if workers == 0:
        for part in parts:
            pixels, jobs = planned(start, part)
            for job in jobs:
                _fill(*job)
            pixels, start = whole(start, pixels), start + len(part)
            job = jobs = None  # type: ignore[assignment]
            yield pixels
            del pixels  # before the next batch takes its memory
        return
    pool = ThreadPoolExecutor(workers, thread_name_prefix="clipperf-pixels")

    def begun(start: int, part: Sequence[ImageInput]) -> tuple[np.ndarray, list[Future[None]]]:
        pixels, jobs = planned(start, part)
        try:
            return pixels, [pool.submit(_fill, *job) for job in jobs]
        except RuntimeError as exc:  # as Python says that a thread found no memory
            raise EngineError(
                f"out of memory: no thread to prepare images could be started ({exc}); "
                f"workers=0 takes none"
            ) from exc

    current: np.ndarray | None = None
    tasks: list[Future[None]] = []
    try:
        for part in parts:
            following, next_tasks = begun(start + (0 if current is None else len(current)), part)
            if current is not None:
                for task in tasks:
                    task.result()
                size, current = len(current), whole(start, current)
                yield current
                start += size
            current, tasks = following, next_tasks
            del following
        if current is not None:
            for task in tasks:
                task.result()
            yield whole(start, current)
    finally:
        on_end()
        pool.shutdown(cancel_futures=True)


def _fill(
    image: ImageInput,
    place: int,
    spec: PreprocessSpec,
    row: np.ndarray,
    seen: Seen,
    skip: bool,
) -> None:
    try:
        if fill(row, image, spec):
            seen.clipped.add(place)
    except UsageError as exc:
        error = _at(place, image, exc)
        if not skip:
            raise error from exc
        seen.unreadable[place] = error


def reason_of(place: int, image: ImageInput, error: UsageError) -> str:
    """What is wrong with an image that `prepared` has skipped, without its place and name."""
    return str(error).removeprefix(str(_at(place, image, UsageError(""))))


def _at(place: int, image: ImageInput, error: UsageError) -> UsageError:
    """What is wrong with an image, and where among the others it is: "image 3 (bytes): ..."."""
    name = name_of(image)
    return UsageError(f"image {place} ({name}): {str(error).removeprefix(f'{name}: ')}")


def _read_once(images: Sequence[ImageInput]) -> Sequence[ImageInput]:
    """The images, with the bytes of a file that is there several times in its places.

    It can be read once, and by one thread.
    """
    if not any(hasattr(kind, "read") for kind in set(map(type, images))):
        return images
    times = Counter(map(id, images))
    read: dict[int, bytes] = {}
    for image in images:
        if times[id(image)] > 1 and id(image) not in read and hasattr(image, "read"):
            with contextlib.suppress(UsageError):  # which is said of its first place
                read[id(image)] = content_of(image)
    return [read.get(id(image), image) for image in images]


def _decode_repeated(images: Sequence[ImageInput], skip: bool) -> None:
    """Decode what several threads would otherwise decode at once: Pillow's images are not safe."""
    times = Counter(id(image) for image in images)
    for place, image in enumerate(images):
        if times[id(image)] > 1 and isinstance(image, Image.Image):
            try:
                load_image(image)
            except UsageError as exc:
                if not skip:
                    raise _at(place, image, exc) from exc


def threads_for(workers: int | None, images: int) -> int:
    """How many threads to preprocess with; a single image is not worth starting one."""
    if workers is None:
        return min(available_cores(), images) if images > 1 else 0
    if not isinstance(workers, int) or workers < 0:
        raise UsageError(f"workers is {quoted(workers)}: give a whole number from 0")
    return workers
