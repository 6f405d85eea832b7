"""The search behind `clipperf tune`: the fastest candidate of one tower, under a bound of time.

A candidate is a cell: runtime, precision, threads, streams and batch. Three rounds, in each of
which fresh processes take turns in blocks:

1. every runtime and precision once, with all cores and a middle batch; what is less than half as
   fast as the best goes no further,
2. what is left with every split of the cores and every batch,
3. the best few again, longer, in turns with each other; the fastest within the bound is chosen.

The budget is looked at before each export and each group of candidates, so what has begun is
finished; the candidates that it leaves out are listed as such.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from clipperf import stats, units
from clipperf.bench import cost, meters
from clipperf.bench.cost import Settings
from clipperf.bench.passes import time_pass
from clipperf.errors import ClipperfError, MeasurementError
from clipperf.nouns.cell import Cell, EngineRequest
from clipperf.nouns.model import CLIP_IDS, TextIds
from clipperf.nouns.result import Environment, Measurement
from clipperf.nouns.tuning import Trial
from clipperf.text import one_line

SCOUT = dataclasses.replace(
    cost.QUICK, min_runs=6, min_blocks=3, min_s=0.2, max_s=4.0, target_rel_width=0.2, block_calls=2
)
"""Rounds 1 and 2: enough to tell twice as fast from as fast."""

FINAL = dataclasses.replace(cost.DEFAULT, max_s=25.0)
"""Round 3."""

SCOUT_SHARE = 0.5
"""Of the best candidate's rate: what is below it in round 1 is not looked at again."""

FINALISTS = 3
FINAL_SHARE = 0.3
"""Of a tower's budget: kept for round 3."""

PARTY = 4
"""Candidates that take turns in one group; each is a process with a tower of its own."""

RAM_SHARE = 0.7
WORKER_BYTES = 400 * units.MIB
COPIES = 3
"""What a worker may need: so much, and the artifact's bytes so many times."""

P90_SAMPLES = 64

BASELINE = "a baseline: clipperf.load opens exported towers alone"
OVER_BUDGET = "not tried: the time budget was over"
OVER_IN_STEP = "ended while it loaded or compiled: its part of the time budget was over"
LEAST_STEP_S = 1.0
"""A baseline for which less is left is not begun."""


@dataclass(frozen=True)
class Space:
    """The candidates of one tower.

    `firsts` are the cells of round 1, one for each runtime and precision. `splits` are (threads,
    streams); runtimes that take one batch at a time get those of one stream, and those on a GPU
    none but their own. `baselines` are measured beside `firsts`, and never chosen.
    """

    firsts: tuple[Cell, ...]
    splits: tuple[tuple[int, int], ...]
    batches: tuple[int, ...]
    streaming: frozenset[str] = frozenset()
    baselines: tuple[Cell, ...] = ()

    def candidates(self, first: Cell) -> Iterator[Cell]:
        """Every candidate of one runtime and precision, small batches first."""
        own = ((first.threads, first.streams),)
        for threads, streams in self.splits if first.device == "cpu" else own:
            if streams == 1 or first.runtime in self.streaming:
                for batch in self.batches:
                    yield dataclasses.replace(first, threads=threads, streams=streams, batch=batch)


Request = Callable[[Cell], tuple[EngineRequest, int | None]]
"""What opens a cell's engine, made now if need be, and its bytes on disk, None if unknown."""


@dataclass
class Search:
    """The search for the best candidate of one tower.

    `max_batch_s` bounds the time of a batch. `on_stage` is told what is being done.
    """

    space: Space
    request: Request
    env: Environment
    budget_s: float
    max_batch_s: float | None = None
    text_ids: TextIds = CLIP_IDS
    on_stage: Callable[[str], None] = lambda stage: None
    scout: Settings = SCOUT
    final: Settings = FINAL
    trials: dict[Cell, Trial] = field(default_factory=dict)
    requests: dict[tuple[str, str], tuple[EngineRequest, int | None]] = field(default_factory=dict)

    def run(self) -> tuple[Trial, EngineRequest]:
        """The chosen candidate and what opens it; `trials` then holds all of them.

        Raises:
            MeasurementError: no candidate works, or none keeps to the bound.
        """
        elapsed_s = cost.stopwatch()
        early_s = (1 - FINAL_SHARE) * self.budget_s
        firsts = self._made(self.space.firsts, lambda: elapsed_s() > early_s / 2)
        self._measure("all cores", firsts, lambda: False)
        for cell in self._baselines(lambda: early_s - elapsed_s()):
            if not self.trials[cell].verdict:
                self._judge(cell, BASELINE)
        worthy = self._ranked(firsts, bounded=False)
        if not worthy:
            raise self._nothing()
        best = self._rate(worthy[0])
        wanted = [cell for cell in worthy if self._rate(cell) >= SCOUT_SHARE * best]
        for cell in worthy[len(wanted) :]:
            self._judge(cell, f"less than {SCOUT_SHARE:.0%} of the best rate with all cores")
        for first in wanted:
            for batch in self.space.batches:
                cells = [c for c in self.space.candidates(first) if c.batch == batch]
                new = [c for c in cells if c not in self.trials and not self._hopeless(c)]
                self._measure("splits and batches", new, lambda: elapsed_s() > early_s)
        kept: list[Cell] = []
        while not kept:  # again only where all finalists fail, which then are candidates no more
            finalists = self._ranked(list(self.trials), bounded=True)[:FINALISTS]
            if not finalists:
                raise self._nothing()
            limit_s = max((self.budget_s - elapsed_s()) / len(finalists), self.scout.max_s)
            settings = dataclasses.replace(self.final, max_s=min(self.final.max_s, limit_s))
            self._measure("the best in turns", finalists, lambda: False, settings)
            kept = self._ranked(finalists, bounded=True)
        chosen = self._chosen(kept)
        for cell in [c for c, trial in self.trials.items() if not trial.verdict]:
            alike = cell in kept and self._alike(cell, kept[0])
            if cell != chosen:
                self._judge(cell, "as fast, but a batch takes longer" if alike else "slower")
        return self.trials[chosen], self._opened_by(chosen)

    def _baselines(self, left_s: Callable[[], float]) -> list[Cell]:
        """Measure the baselines while time is left; a step that then goes on, as compiling may, is
        ended. Returns those that could be opened."""
        cells = self._made(self.space.baselines, lambda: False)
        for cell in cells:
            limit_s = min(self.scout.timeout_s, left_s())
            if limit_s < LEAST_STEP_S:
                self._judge(cell, OVER_BUDGET)
                continue
            settings = dataclasses.replace(self.scout, timeout_s=limit_s)
            what = f"a baseline, loading or compiling for at most {units.seconds(limit_s)}"
            self._measure(what, [cell], lambda: False, settings)
            if left_s() <= 0 and not self.trials[cell].items_per_s:
                self._judge(cell, OVER_IN_STEP)
        return cells

    def _chosen(self, ranked: Sequence[Cell]) -> Cell:
        """The fastest; of several that cannot be told apart the one with the quickest batch."""
        alike = [cell for cell in ranked if self._alike(cell, ranked[0])]
        return min(alike, key=lambda cell: self.trials[cell].batch_s or 0.0)

    def _alike(self, cell: Cell, best: Cell) -> bool:
        """Whether the intervals of two rates overlap."""
        ours, theirs = self.trials[cell].items_interval, self.trials[best].items_interval
        return cell == best or (ours is not None and theirs is not None and ours[1] >= theirs[0])

    def _made(self, cells: Sequence[Cell], over: Callable[[], bool]) -> list[Cell]:
        """Those of round 1 whose artifacts are there; the first is made in any case."""
        made: list[Cell] = []
        for cell in cells:
            if made and over():
                self._judge(cell, OVER_BUDGET)
                continue
            self.on_stage(f"{cell.side} {cell.runtime} {cell.precision}")
            try:
                self.requests[cell.runtime, cell.precision] = self.request(cell)
                made.append(cell)
            except ClipperfError as exc:
                self._judge(cell, str(exc))
        return made

    def _measure(
        self,
        round_: str,
        cells: Sequence[Cell],
        over: Callable[[], bool],
        settings: Settings | None = None,
    ) -> None:
        for party in self._parties(cells):
            if over():
                for cell in party:
                    self._judge(cell, OVER_BUDGET)
                continue
            self.on_stage(f"{round_}: {', '.join(map(described, party))}")
            requests = [self._opened_by(cell) for cell in party]
            rows = time_pass(requests, settings or self.scout, self.env, round_, self.text_ids)
            for row in rows:
                self.trials[row.cell] = trial_of(row)

    def _parties(self, cells: Sequence[Cell]) -> Iterator[list[Cell]]:
        """Groups that fit into memory together."""
        free = meters.available_ram_bytes()
        party: list[Cell] = []
        used = 0
        for cell in cells:
            needed = WORKER_BYTES + COPIES * (self.requests[cell.runtime, cell.precision][1] or 0)
            full = free is not None and used + needed > RAM_SHARE * free
            if party and (full or len(party) == PARTY):
                yield party
                party, used = [], 0
            party.append(cell)
            used += needed
        if party:
            yield party

    def _opened_by(self, cell: Cell) -> EngineRequest:
        request, _ = self.requests[cell.runtime, cell.precision]
        return dataclasses.replace(request, cell=cell)

    def _ranked(self, cells: Sequence[Cell], *, bounded: bool) -> list[Cell]:
        """The cells that work, fastest first; `bounded` leaves out what takes too long."""
        good = [c for c in cells if self.trials[c].items_per_s and not self.trials[c].verdict]
        if bounded:
            for cell in [c for c in good if self._too_slow(c)]:
                self._judge(cell, "a batch takes longer than the bound")
                good.remove(cell)
        return sorted(good, key=self._rate, reverse=True)

    def _rate(self, cell: Cell) -> float:
        return self.trials[cell].items_per_s or 0.0

    def _too_slow(self, cell: Cell) -> bool:
        batch_s = self.trials[cell].batch_s
        return self.max_batch_s is not None and batch_s is not None and batch_s > self.max_batch_s

    def _hopeless(self, cell: Cell) -> bool:
        """Whether a smaller batch of the same kind is over the bound already."""
        smaller = [b for b in self.space.batches if b < cell.batch]
        known = [dataclasses.replace(cell, batch=b) for b in smaller]
        if not any(c in self.trials and self._too_slow(c) for c in known):
            return False
        self._judge(cell, "a smaller batch takes longer than the bound")
        return True

    def _judge(self, cell: Cell, verdict: str) -> None:
        known = self.trials.get(cell, Trial(cell, verdict))
        self.trials[cell] = dataclasses.replace(known, verdict=verdict)

    def _nothing(self) -> MeasurementError:
        """Why no candidate is left: all that worked take too long, or what else went wrong."""
        timed = [trial for trial in self.trials.values() if trial.batch_s is not None]
        if not timed or not all(self._too_slow(trial.cell) for trial in timed):
            failed = [trial for trial in self.trials.values() if trial.batch_s is None]
            alike: dict[str, list[str]] = {}
            for trial in failed:
                alike.setdefault(one_line(trial.verdict), []).append(trial.cell.label)
            reasons = "; ".join(f"{', '.join(labels)}: {why}" for why, labels in alike.items())
            return MeasurementError(f"no candidate works: {reasons}")
        quickest = min(timed, key=lambda trial: trial.batch_s or 0.0)
        return MeasurementError(
            f"no candidate takes at most {units.seconds(self.max_batch_s)} a batch: the quickest, "
            f"{described(quickest.cell)}, takes {units.seconds(quickest.batch_s)}. Allow more with "
            f"--max-batch-ms, or smaller batches with --batch"
        )


def trial_of(row: Measurement) -> Trial:
    """A measured candidate; its verdict is why it failed, if it did."""
    if row.status != "ok" or not row.run_s:
        return Trial(row.cell, row.error or "no time left for a block")
    items = row.cell.batch * row.cell.streams
    interval = stats.median_interval(row.run_s)
    slow_s = stats.quantile(row.run_s, 0.9) if len(row.run_s) >= P90_SAMPLES else None
    return Trial(
        cell=row.cell,
        verdict="",
        items_per_s=items / stats.median(row.run_s),
        items_interval=None if interval is None else (items / interval[1], items / interval[0]),
        batch_s=max(row.run_s) if slow_s is None else slow_s,
        load_s=row.load_s,
        samples=len(row.run_s),
    )


def described(cell: Cell) -> str:
    """A candidate in a few words."""
    streams = f" in {cell.streams} streams" if cell.streams > 1 else ""
    return (
        f"{cell.runtime} {cell.precision}, batch {cell.batch}, {cell.threads} "
        f"thread{'s' if cell.threads > 1 else ''}{streams}"
    )


def splits(cores: int) -> tuple[tuple[int, int], ...]:
    """Ways to use the cores, as (threads, streams).

    All of them for one batch at a time or for 2, 4, ... batches, down to a thread for each; and
    fewer threads for one, which can be faster where two of them share a core.
    """
    streams = [1]
    while streams[-1] * 2 < cores:
        streams.append(streams[-1] * 2)
    whole = [(cores, n) for n in dict.fromkeys([*streams, cores])]
    return (*whole, *((n, 1) for n in dict.fromkeys([cores // 2]) if 0 < n < cores))
