"""Batches that wait for each other, in real threads."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

from clipperf.bench.batcher import Batcher

LONG_S = 60.0


class Seen:
    """Batches in the order in which they were run, each held until `go` where there is one."""

    def __init__(self, go: threading.Event | None = None) -> None:
        self.batches: list[list[int]] = []
        self.began = threading.Semaphore(0)
        self._go, self._lock = go, threading.Lock()

    def __call__(self, batch: Sequence[int]) -> None:
        with self._lock:
            self.batches.append(list(batch))
        self.began.release()
        if self._go is not None:
            assert self._go.wait(LONG_S)


def test_a_full_batch_does_not_wait() -> None:
    seen = Seen()
    batcher = Batcher(seen, size=3, max_delay_s=LONG_S)
    batcher.add([1, 2])
    batcher.add([3, 4])
    assert seen.began.acquire(timeout=5)
    batcher.close()
    assert seen.batches == [[1, 2, 3], [4]], "the oldest first; what waits is run at the end"
    assert batcher.counts == {3: 1, 1: 1}


def test_what_is_not_full_waits_so_long_and_no_longer() -> None:
    seen = Seen()
    batcher = Batcher(seen, size=8, max_delay_s=2.0)
    start = time.monotonic()
    batcher.add([1])
    time.sleep(0.05)
    batcher.add([2])
    assert seen.began.acquire(timeout=LONG_S)
    waited_s = time.monotonic() - start
    batcher.close()
    assert seen.batches == [[1, 2]] and 2.0 <= waited_s < LONG_S


def test_without_a_delay_it_takes_what_is_there() -> None:
    go = threading.Event()
    seen = Seen(go)
    batcher = Batcher(seen, size=4)
    batcher.add([0])
    assert seen.began.acquire(timeout=5)
    # The one thread is busy, so these wait together.
    batcher.add([1])
    batcher.add([2, 3, 4, 5])
    go.set()
    batcher.close()
    assert seen.batches == [[0], [1, 2, 3, 4], [5]]


def test_streams_run_at_the_same_time() -> None:
    go = threading.Event()
    seen = Seen(go)
    batcher = Batcher(seen, size=2, streams=2)
    batcher.add([1, 2, 3, 4])
    assert seen.began.acquire(timeout=5) and seen.began.acquire(timeout=5), "both have begun"
    go.set()
    batcher.close()
    assert sorted(map(tuple, seen.batches)) == [(1, 2), (3, 4)]


def test_nothing_is_lost_or_run_twice_under_many_callers() -> None:
    seen = Seen()
    batcher = Batcher(seen, size=7, max_delay_s=0.001, streams=3)
    callers = [
        threading.Thread(target=lambda n=n: [batcher.add([n * 1000 + i]) for i in range(500)])
        for n in range(8)
    ]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    end = time.monotonic() + LONG_S
    while sum(map(len, seen.batches)) < 4000:  # with nobody waking anybody by closing
        assert time.monotonic() < end, "a batch was forgotten"
        time.sleep(0.01)
    batcher.close()
    items = [item for batch in seen.batches for item in batch]
    assert sorted(items) == [n * 1000 + i for n in range(8) for i in range(500)]
    assert max(map(len, seen.batches)) <= 7
    assert sum(size * count for size, count in batcher.counts.items()) == 4000
