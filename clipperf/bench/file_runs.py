"""The worker's side of "from-files": what pixels cost alone, and an engine fed with them."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from clipperf.bench import cost
from clipperf.inputs.decode import decode
from clipperf.inputs.preprocess import fill
from clipperf.inputs.preprocess_spec import PreprocessSpec
from clipperf.nouns.cell import Engine
from clipperf.nouns.variant import PixelDtype
from clipperf.serve.images import batches
from clipperf.stats import median

ALONE_S = 2.0
"""So long images are decoded and resized alone, at least one and each at most once."""


def pixel_costs(
    paths: Sequence[str], spec: PreprocessSpec, dtype: PixelDtype, most_s: float = ALONE_S
) -> tuple[float, float]:
    """Median seconds to decode an image, and to resize it into a batch; in this thread."""
    row = np.empty(spec.shape, dtype)
    fill(row, Path(paths[0]), spec)  # imports what it takes, and reads the file into memory
    draft = spec if spec.method == "draft" else None
    decoded: list[float] = []
    resized: list[float] = []
    over = cost.deadline(most_s)
    for path in paths:
        _, decode_s = cost.timed(partial(decode, Path(path), draft))
        _, whole_s = cost.timed(partial(fill, row, Path(path), spec))
        decoded.append(decode_s)
        resized.append(max(0.0, whole_s - decode_s))
        if over():
            break
    return median(decoded), median(resized)


def feed(
    engine: Engine,
    paths: Sequence[str],
    spec: PreprocessSpec,
    dtype: PixelDtype,
    batch: int,
    threads: int,
    calls: int,
) -> list[tuple[float, float]]:
    """Embed `calls` whole batches of files after one that fills the pipe, as a model does.

    Returns for each batch the seconds that the engine waited for its pixels, and ran.
    """
    given = list(itertools.islice(itertools.cycle(map(Path, paths)), batch * (calls + 1)))
    ready = batches(given, spec, batch, threads, dtype)
    with contextlib.closing(ready):
        return cost.time_fed(engine.run, ready)[1:]
