"""Equal engines side by side: processes that are asked at once and answer as one.

A deployer runs several processes of a server (workers of gunicorn, replicas of a pod), not several
engines in one: each has its own interpreter, and what they map of the same file the kernel's page
cache holds once. That is measured here. On several GPUs the processes are dealt out in turn, and
each sees its own alone.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Any, Protocol, Self

from clipperf.bench import cost
from clipperf.nouns.cell import Cell, EngineRequest
from clipperf.system import gpus
from clipperf.system.child import Child, Fields, OnProgress

SUMMED = {
    "rss_bare_bytes",
    "rss_load_peak_bytes",
    "rss_run_peak_bytes",
    "vram_allocated_bytes",
    "runs",
}
LONGEST = {"load_s", "first_run_s", "seconds"}


def places_of(cell: Cell) -> list[str]:
    """The device of each of a cell's processes, as `gpus` names them."""
    devices = cell.device.split(",")
    return [devices[number % len(devices)] for number in range(cell.instances)]


def environment_of(place: str) -> dict[str, str]:
    """What shows a process its GPU alone; nothing for other devices, and "cuda" for the first."""
    kind, numbered, _ = place.partition(":")
    if kind != gpus.CUDA or not numbered:
        return {}
    return {gpus.VISIBLE: gpus.shown(place), gpus.ORDER: gpus.BY_BUS}


class Worker(Protocol):
    """A `Child` or a `Crew`: whoever runs a cell."""

    @property
    def pid(self) -> int:
        """The process's id."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None: ...

    def greet(self) -> Fields:
        """See `Child.greet`."""
        ...

    def ask(self, op: str, on_progress: OnProgress = ..., **fields: Any) -> Fields:
        """See `Child.ask`."""
        ...

    def kill(self) -> None:
        """See `Child.kill`."""
        ...

    def end(self) -> None:
        """See `Child.end`."""
        ...


class Crew:
    """Processes of one cell; each is told that it is the only one.

    It is spoken to as one `Child`: what is asked goes to all before one is waited for, bytes and
    runs of the answers are summed, the longest of the seconds counts, samples are put together.
    """

    pid = 0
    """Nobody's: what several hold of a GPU is what the device has less of."""

    def __init__(self, cell: Cell, start: Callable[[dict[str, str]], Child]) -> None:
        self._places = places_of(cell)
        self._streams = cell.streams
        self._workers: list[Child] = []
        try:
            for place in self._places:
                self._workers.append(start(environment_of(place)))
        except BaseException:
            self.kill()
            self.end()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        if kind is not None:
            self.kill()
        self.end()

    @property
    def pids(self) -> list[int]:
        """The processes' ids."""
        return [worker.pid for worker in self._workers]

    def greet(self) -> Fields:
        """Wait until all are up; raises what `Child.greet` does."""
        waited_s = cost.stopwatch()
        return merged([worker.greet(waited_s()) for worker in self._workers])

    def ask(self, op: str, on_progress: OnProgress = lambda told: None, **fields: Any) -> Fields:
        """Ask all at once and wait for all; raises what `Child.ask` does of the first that fails.

        What one tells on its way stands for all, and the seconds that they may take begin for all
        of them now.
        """
        return self._block(fields) if op == "block" else merged(self._all(op, fields, on_progress))

    def _block(self, fields: Fields) -> Fields:
        """One block of timed calls, which begin in all once all are warm, and which `workers` says.

        Counted are those that began while all ran, see `while_all_ran`; of several streams all.
        """
        if fields["warmup"]:
            warm = {"warmup": fields["warmup"] - 1, "calls": 1, "min_s": 0.0}
            self._all("block", {**fields, **warm})
            fields = {**fields, "warmup": 0, "sleep_s": 0.0}
        samples = [answer["samples"] for answer in self._all("block", fields)]
        if self._streams == 1:
            samples = while_all_ran(samples)
        workers = [number for number, own in enumerate(samples) for _ in own]
        return {"samples": [each for own in samples for each in own], "workers": workers}

    def _all(
        self, op: str, fields: Fields, on_progress: OnProgress = lambda told: None
    ) -> list[Fields]:
        """Ask all and wait for all; see `ask`."""
        for worker, own in zip(self._workers, self._each(fields), strict=True):
            worker.send(op, **own)
        waited_s = cost.stopwatch()
        answers = [self._workers[0].answer(on_progress)]
        return answers + [worker.answer(waited_s=waited_s()) for worker in self._workers[1:]]

    def _each(self, fields: Fields) -> Iterator[Fields]:
        """What each is asked: a request is for its device, and for one process."""
        for place in self._places:
            request = fields.get("request")
            if isinstance(request, EngineRequest):
                kind = place.partition(":")[0]
                cell = dataclasses.replace(request.cell, device=kind, instances=1)
                yield {**fields, "request": dataclasses.replace(request, cell=cell)}
            else:
                yield fields

    def kill(self) -> None:
        """End all of them, now."""
        for worker in self._workers:
            worker.kill()

    def end(self) -> None:
        """End all of them; safe to call twice."""
        with contextlib.ExitStack() as ending:
            for worker in self._workers:
                ending.callback(worker.end)


def while_all_ran(samples: Sequence[Sequence[float]]) -> list[list[float]]:
    """Of calls that follow each other in each of several processes, those that began before the
    first process had done its last.

    What comes later had less beside it. There is always one of each.
    """
    end_s = min(math.fsum(own) for own in samples)
    begun = [itertools.accumulate(own, initial=0.0) for own in samples]
    return [
        [each for each, start in zip(own, starts, strict=False) if start < end_s]
        for own, starts in zip(samples, begun, strict=True)
    ]


def merged(answers: Sequence[Fields]) -> Fields:
    """Answers of several as one; a figure that one does not know nobody knows.

    Of `shared_bytes`, the pages that a process shares with others, what is left is by how much a
    sum over all counts them too often: all share the same, but once they are there.
    """
    found: Fields = {}
    for name, first in answers[0].items():
        values: list[Any] = [answer.get(name) for answer in answers]
        if name == "samples":
            found[name] = [sample for value in values for sample in value or ()]
        elif name not in SUMMED | LONGEST | {"shared_bytes"}:
            found[name] = first
        elif any(value is None for value in values):
            found[name] = None
        elif name == "shared_bytes":
            found[name] = sum(values) - max(values)
        else:
            found[name] = sum(values) if name in SUMMED else max(values)
    return found
