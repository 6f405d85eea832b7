"""Progress on standard error: a live bar on a terminal, plain lines in a log, nothing if quiet."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

from clipperf.system.terminal import say
from clipperf.text import one_line


class Progress:
    """What long work reports to. `total` steps are known or None."""

    def __init__(self, bar: Any, task: Any, quiet: bool) -> None:
        self._bar = bar
        self._task = task
        self._quiet = quiet
        self._last = ""

    def stage(self, text: str) -> None:
        """Say what is being done now."""
        if self._bar is not None:
            self._bar.update(self._task, description=one_line(text))
        elif not self._quiet and text != self._last:
            say(text)
        self._last = text

    def done(self, text: str = "") -> None:
        """One step is done; `text` stays visible."""
        if self._bar is not None:
            if text:
                self._bar.console.print(one_line(text), style="dim", highlight=False, markup=False)
            self._bar.advance(self._task)
        elif text and not self._quiet:
            say(text)

    def at(self, text: str, completed: int, total: int) -> None:
        """Be at step `completed` of `total`; in a log only the end of it is a line."""
        if self._bar is not None:
            self._bar.update(
                self._task, description=one_line(text), completed=completed, total=total
            )
        elif completed >= total:
            self.stage(f"{text}: {total}")


@contextlib.contextmanager
def progress(quiet: bool, total: int | None = None, *, plain: bool = False) -> Iterator[Progress]:
    """Report to standard error while the block runs; `plain` leaves a line for every stage."""
    if quiet or plain or not sys.stderr.isatty():
        yield Progress(None, None, quiet)
        return
    from rich.console import Console
    from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    columns: list[Any] = [SpinnerColumn(), TextColumn("{task.description}", markup=False)]
    if total is not None:
        columns += [BarColumn(bar_width=24), TextColumn("{task.completed}/{task.total}")]
    with Bar(*columns, TimeElapsedColumn(), console=Console(stderr=True), transient=True) as bar:
        yield Progress(bar, bar.add_task("starting", total=total), quiet)
