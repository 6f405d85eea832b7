"""How a sweep shows itself: live on a terminal, lines in a log, JSON for machines."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Any, Protocol

from clipperf import units
from clipperf.system.terminal import say, tell
from clipperf.text import number_of, one_line

if TYPE_CHECKING:
    from clipperf.bench.sweeps.cells import Study
    from clipperf.bench.sweeps.estimate import Estimate
    from clipperf.bench.sweeps.ledger import Ledger
    from clipperf.bench.sweeps.tally import Told
    from clipperf.report.table import Table


class View(Protocol):
    """What a sweep's events are told to."""

    def __call__(self, told: Told) -> None:
        """Show an event."""
        ...

    def wait(self, text: str) -> None:
        """Say what is waited for."""
        ...


class Lines:
    """A line for each event, but for stages that are over in a moment; none where it is `quiet`."""

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet

    def __call__(self, told: Told) -> None:
        """See `View`."""
        if self._quiet:
            return
        if told.event in ("finished", "valid"):
            done = "there already" if told.event == "valid" else "finished"
            say(f"[{told.done}/{told.total}] {told.text}: {done}{_left(told)}{_failed(told)}")
        elif told.event in ("begin", "measured", "again", "note"):  # failures stand at the end
            say(told.text)

    def wait(self, text: str) -> None:
        """See `View`."""
        if not self._quiet:
            say(text)


FAILED = "failed: "


class JsonLines:
    """A JSON object in a line of standard output for each event."""

    def __call__(self, told: Told) -> None:
        """See `View`."""
        print_line(vars(told))

    def wait(self, text: str) -> None:
        """See `View`."""
        print_line({"event": "waiting", "text": text})


class Live:
    """A bar that stays: how far, the cell, the time left, failures; what is finished is above."""

    def __init__(self, bar: Any, task: Any) -> None:
        self._bar, self._task = bar, task

    def __call__(self, told: Told) -> None:
        """See `View`."""
        left = _left(told).removeprefix(", ")
        self._bar.update(
            self._task, completed=told.done, total=told.total, left=left, failed=_failed(told)
        )
        if told.event == "stage":
            self._bar.update(self._task, description=one_line(told.text))
        elif told.event in ("finished", "again", "failed"):
            text = one_line(f"{FAILED if told.event == 'failed' else ''}{told.text}")
            style = "dim" if told.event == "finished" else "yellow"
            self._print(text, style)

    def wait(self, text: str) -> None:
        """See `View`."""
        self._print(one_line(text), "yellow")

    def _print(self, text: str, style: str) -> None:
        self._bar.console.print(text, style=style, highlight=False, markup=False)


class Waits:
    """Says what is waited for: before anything is shown by lines, then in the `view`."""

    def __init__(self, quiet: bool, json_lines: bool) -> None:
        self.view: View = JsonLines() if json_lines else Lines(quiet)

    def __call__(self, text: str) -> None:
        """See `View.wait`."""
        self.view.wait(text)


def _left(told: Told) -> str:
    return f", about {units.seconds(told.left_s)} left" if told.left_s and told.total else ""


def _failed(told: Told) -> str:
    return f", {told.failed} failed" if told.failed else ""


@contextlib.contextmanager
def shown(quiet: bool, json_lines: bool) -> Iterator[View]:
    """Show a sweep while the block runs."""
    if json_lines:
        yield JsonLines()
        return
    if quiet or not sys.stderr.isatty():
        yield Lines(quiet)
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

    columns: list[Any] = [
        SpinnerColumn(),
        BarColumn(bar_width=24),
        TextColumn("{task.completed}/{task.total}{task.fields[failed]}"),
        TextColumn("{task.fields[left]}"),
        TextColumn("{task.description}", markup=False),
    ]
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        yield Live(bar, bar.add_task("beginning", total=None, left="", failed=""))


def print_line(value: Any) -> None:
    """Print plain values as one line of JSON."""
    import json

    from clipperf.serialize import to_json

    tell(json.dumps(to_json(value)))


# --- before it starts ----------------------------------------------------------------------


def planned_tables(
    study: Study, found: Estimate, kept: Ledger, there: Collection[str]
) -> list[Table]:
    """What there is to do; `there` are the ids of the units that are."""
    from clipperf.report.table import plain_table

    rows, begun = [], kept.begun(study.units)
    for unit in study.units:
        cell = unit.cells[0]
        setups = ", ".join(dict.fromkeys(each.setup for each in unit.cells))
        place = unit.dataset or f"{cell.side}, {cell.scenario}"
        size = "" if unit.dataset else f"{cell.batch}"
        tokens = "" if cell.tokens is None else f"{cell.tokens}"
        state, seconds = "begun" if unit.id in begun else "", found.seconds.get(unit.id)
        about = "?" if unit.id in found.unknown else units.seconds(seconds)
        if unit.id in there:
            state, about = "there", ""
        rows.append((unit.spec.id, place, size, tokens, f"{cell.threads}", setups, about, state))
    names = ("Model", "Tower or data", "Batch", "Tokens", "Threads", "Cells", "About", "State")
    return [plain_table("Groups", names, rows, caveats=planned_lines(study, found, there))]


def planned_lines(study: Study, found: Estimate, there: Collection[str] = ()) -> list[str]:
    """The sums, and what has to be known of them; they are of what is not `there`."""
    cells = sum(len(unit.cells) for unit in study.units)
    valid = sum(len(unit.cells) for unit in study.units if unit.id in there)
    if cells and valid == cells:
        return [f"nothing is left to do: {number_of(cells, 'cell')} there already"]
    left = f"; {valid} there already, {cells - valid} left" if valid else ""
    total, most = units.seconds(found.total_s), units.seconds(found.most_s)
    lines = [
        f"{number_of(cells, 'cell')} in {number_of(len(study.units), 'group')}{left}: about "
        f"{total}, {most} in a bad case; guesses from the towers' arithmetic",
        f"about {units.size(found.disk_bytes)} of disk, "
        f"{units.seconds(found.export_s)} of the time for exports",
    ]
    if found.fetch:
        lines.append(f"weights are fetched first: {', '.join(found.fetch)}")
    if found.unknown:
        lines.append(f"without the time of {', '.join(found.unknown)}: the data has to be read")
    return lines


def unsupported_lines(study: Study) -> list[str]:
    """What cannot be, and why: cells with the same reason together."""
    reasons: dict[str, list[str]] = {}
    for each in study.unsupported:
        where = f" on {each.dataset}" if each.dataset else ""
        tokens = "" if each.cell.tokens is None else f" {each.cell.tokens} tokens"
        reasons.setdefault(each.reason, []).append(f"{each.cell.label}{tokens}{where}")
    return [
        f"unsupported: {', '.join(labels)}: {one_line(reason)}"
        for reason, labels in reasons.items()
    ]
