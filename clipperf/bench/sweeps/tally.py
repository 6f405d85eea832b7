"""What a sweep has done so far, and what it tells of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from clipperf.bench.sweeps.cells import Study, Unit
from clipperf.evals.evaluate import Failure
from clipperf.nouns.result import ResultFile
from clipperf.text import one_line

FAILED = "failed: "
"""How notes begin that say of which cells a model could not be evaluated."""

What = Literal["begin", "stage", "valid", "measured", "note", "finished", "again", "failed"]


@dataclass(frozen=True)
class Told:
    """What a sweep tells on its way: `done` of `total` cells are finished, `failed` of them badly.

    `left_s` are the seconds that the rest will take, as far as can be told from what was measured.
    `path` is the file that was written.
    """

    event: What
    text: str
    unit: str = ""
    done: int = 0
    total: int = 0
    failed: int = 0
    left_s: float | None = None
    path: str = ""


@dataclass
class Outcome:
    """What there is when a sweep ends: results in the order of the plan, and how many cells.

    `valid` cells were there before, `failed` ones, also those that had failed before, have a reason
    in `failures`; `left` cells were not begun, as somebody asked to stop. With `measured` these
    four are the total.
    """

    total: int
    results: dict[str, ResultFile] = field(default_factory=dict)
    memory: dict[str, ResultFile] = field(default_factory=dict)
    valid: int = 0
    measured: int = 0
    failed: int = 0
    failures: dict[str, str] = field(default_factory=dict)

    @property
    def left(self) -> int:
        """Cells that were not begun."""
        return self.total - self.valid - self.measured - self.failed

    @property
    def files(self) -> list[ResultFile]:
        """All of it, for a report."""
        return [*self.memory.values(), *self.results.values()]


def _failed_cells(unit: Unit, result: ResultFile, bad: Sequence[Failure]) -> int:
    """How many cells of a unit failed; all of them where a failure is of none of them alone."""
    notes = (n.removeprefix(FAILED) for n in result.notes if n.startswith(FAILED))
    failed = {row.cell for row in result.measurements if row.status != "ok"}
    for label in [each.label for each in bad] or notes:
        own = {c for c in unit.cells if label == c.label or label.startswith(f"{c.label}: ")}
        failed |= own or set(unit.cells)
    return len(failed.intersection(unit.cells))


class Tally:
    """What is done, told to whoever listens.

    `expected_s` are the seconds that each unit is expected to take. Once `stopping`, nothing is
    begun.
    """

    def __init__(
        self,
        study: Study,
        expected_s: dict[str, float],
        tell: Callable[[Told], None],
        stopping: Callable[[], bool],
    ) -> None:
        self.stopping = stopping
        self.outcome = Outcome(sum(len(unit.cells) for unit in study.units))
        self._tell = tell
        self._expected_s = dict(expected_s)
        self._spent_s = self._planned_s = 0.0

    def tell(self, event: What, text: str, unit: str = "", path: str = "") -> None:
        """Tell how far it is."""
        found = self.outcome
        done = found.total - found.left
        self._tell(Told(event, text, unit, done, found.total, found.failed, self.left_s, path))

    @property
    def left_s(self) -> float | None:
        """Seconds of what is left, at the pace of what was measured."""
        pace = self._spent_s / self._planned_s if self._planned_s else 1.0
        return pace * sum(self._expected_s.values())

    def spend(self, unit: Unit, spent_s: float) -> None:
        """Learn the pace."""
        self._spent_s += spent_s
        self._planned_s += self._expected_s.get(unit.id, 0.0)

    def count(
        self, unit: Unit, result: ResultFile, valid: bool = False, bad: Sequence[Failure] = ()
    ) -> None:
        """A unit is there now, or was."""
        self.outcome.results[unit.id] = result
        bad_cells = _failed_cells(unit, result, bad)
        self.outcome.failed += bad_cells
        if valid:
            self.outcome.valid += len(unit.cells) - bad_cells
        else:
            self.outcome.measured += len(unit.cells) - bad_cells
        self._expected_s.pop(unit.id, None)
        failed = {
            f"{row.cell.label}, {unit.id}": one_line(row.error or row.status)
            for row in result.measurements
            if row.status != "ok"
        }
        failed |= {f"{each.label}, {unit.id}": one_line(each.reason) for each in bad}
        failed |= {
            f"{unit.id}: {n}": one_line(note) for n, note in enumerate(result.notes)
            if not bad and note.startswith(FAILED)
        }  # fmt: skip
        self.outcome.failures |= failed
        for label, reason in failed.items():
            self.tell("failed", f"{label}: {reason}", unit.id)
        self.tell("valid" if valid else "finished", unit.id, unit.id, result.path)
