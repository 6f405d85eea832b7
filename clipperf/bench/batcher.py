"""Dynamic batching in front of an engine, as servers have it: wait a little, then run together."""

from __future__ import annotations

import collections
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

T = TypeVar("T")


class Batcher(Generic[T]):
    """Threads that take what waits, up to `size` at once, and hand it to `run`.

    One of `streams` threads takes a batch once `size` wait, or `max_delay_s` after the oldest of
    them came; with 0 it takes whatever is there. Oldest first. `run` gets its batch in one of
    these threads, and raises nothing. `counts` says how many batches had how many items, `most` how
    many were run at once at most.
    """

    def __init__(
        self,
        run: Callable[[Sequence[T]], None],
        size: int,
        max_delay_s: float = 0.0,
        streams: int = 1,
    ) -> None:
        self.counts: Counter[int] = Counter()
        self.most = self._running = 0
        self._run, self._size, self._max_delay_s = run, size, max_delay_s
        self._waiting: collections.deque[tuple[float, T]] = collections.deque()
        self._changed = threading.Condition()
        self._closed = False
        self._threads = [
            threading.Thread(target=self._serve, name=f"batches-{n}", daemon=True)
            for n in range(streams)
        ]
        for thread in self._threads:
            thread.start()

    def add(self, items: Sequence[T]) -> None:
        """Hand in what came now."""
        now = time.monotonic()
        with self._changed:
            self._waiting.extend((now, item) for item in items)
            self._changed.notify(len(items))

    def close(self) -> None:
        """Run what waits, then end; returns when all threads have."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _serve(self) -> None:
        while batch := self._next():
            with self._changed:
                self.counts[len(batch)] += 1
                self._running += 1
                self.most = max(self.most, self._running)
            self._run(batch)
            with self._changed:
                self._running -= 1

    def _next(self) -> list[T]:
        """The next batch; none once everything is done."""
        with self._changed:
            while not self._due():
                if self._closed and not self._waiting:
                    return []
                self._changed.wait(self._left_s())
            count = min(self._size, len(self._waiting))
            return [self._waiting.popleft()[1] for _ in range(count)]

    def _due(self) -> bool:
        left_s = self._left_s()
        full = len(self._waiting) >= self._size or self._closed
        return left_s is not None and (full or left_s <= 0)

    def _left_s(self) -> float | None:
        """Until the oldest has waited long enough; None where nothing waits."""
        if not self._waiting:
            return None
        return self._waiting[0][0] + self._max_delay_s - time.monotonic()
