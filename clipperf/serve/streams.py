"""Batches through an engine that may run several of them at once."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

import numpy as np

from clipperf.errors import NotFiniteError
from clipperf.nouns.cell import Engine


def spread(engine: Engine, items: int, batch_size: int) -> int:
    """The number of inputs to run at once so that few of them keep every stream busy, too.

    No more than the engine takes.
    """
    streams = getattr(engine, "streams", 1)
    batch_size = min(batch_size, getattr(engine, "max_batch", batch_size))
    return batch_size if streams == 1 else max(1, min(batch_size, -(-items // streams)))


def run_all(engine: Engine, batches: Iterable[np.ndarray]) -> list[np.ndarray]:
    """Embed batches, as many at once as the engine has streams; the results in their order.

    Of an iterator no more is taken than twice the streams ahead of what is done.

    Raises:
        EngineError: a run failed; NotFiniteError: it gave values that are not finite.
    """
    return list(run_each(engine, batches))


def run_each(
    engine: Engine,
    batches: Iterable[np.ndarray],
    one: Callable[[np.ndarray], np.ndarray] | None = None,
) -> Iterator[np.ndarray]:
    """`run_all`, each result as soon as it and those before it are there.

    `one` runs a batch in the place of `finite`.

    Raises: as `run_all`.
    """
    run, streams = one or partial(finite, engine), getattr(engine, "streams", 1)
    if streams == 1:
        # A loop's variable would hold one batch more in RAM than is being used or prepared.
        yield from map(run, batches)
        return
    waiting: deque[Future[np.ndarray]] = deque()
    with ThreadPoolExecutor(streams, thread_name_prefix="clipperf-stream") as pool:
        try:
            for batch in batches:
                if len(waiting) == 2 * streams:
                    yield waiting.popleft().result()
                waiting.append(pool.submit(run, batch))
            while waiting:
                yield waiting.popleft().result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def filled(batch: np.ndarray, sizes: Sequence[int]) -> np.ndarray:
    """A batch brought to the next of some sizes, ascending, by its last input; else as it is."""
    place = bisect_left(sizes, len(batch))
    if place == len(sizes) or sizes[place] == len(batch):
        return batch
    return np.concatenate([batch, np.repeat(batch[-1:], sizes[place] - len(batch), axis=0)])


def finite(engine: Engine, batch: np.ndarray) -> np.ndarray:
    """Embed a batch: float32 [batch, embed_dim].

    Raises:
        EngineError: the run failed; NotFiniteError: it gave values that are not finite.
    """
    found = engine.run(filled(batch, getattr(engine, "batch_buckets", ())))[: len(batch)]
    if not np.isfinite(found).all():
        raise NotFiniteError(
            "the tower gives values that are not finite: its file is damaged, as "
            "clipperf.load(..., verify=True) and clipperf inspect tell, or the runtime or the "
            "precision fails for this input"
        )
    return found
