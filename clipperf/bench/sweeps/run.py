"""`clipperf sweep`: one unit after the other, each on disk before the next is begun.

A unit is a comparison group, which a launcher takes to a machine as a `Job`, or a model on a
dataset. What is on disk and valid (see `ledger`) is not done again; a unit is finished as a whole
or not at all. A unit of which a process was killed from outside is done once more at the end.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from clipperf.bench.jobs import LAUNCHERS, Launcher
from clipperf.bench.sweeps import ledger
from clipperf.bench.sweeps.cells import Study
from clipperf.bench.sweeps.groups import Groups
from clipperf.bench.sweeps.ledger import Ledger
from clipperf.bench.sweeps.scored import Datasets
from clipperf.bench.sweeps.tally import Outcome, Tally, Told
from clipperf.nouns.result import Environment, Measurement
from clipperf.system import store
from clipperf.text import number_of


def sweep(
    study: Study,
    kept: Ledger,
    expected_s: dict[str, float],
    *,
    launcher: str | Launcher = "local",
    tell: Callable[[Told], None] = lambda told: None,
    stopping: Callable[[], bool] = lambda: False,
) -> Outcome:
    """Do all units of a study that are not there yet.

    `expected_s` are the seconds that each unit is expected to take. Once `stopping`, what is being
    measured is finished, and nothing else is begun.

    Raises:
        StorageError: the disk is full; what is finished is there.
    """
    tally = Tally(study, expected_s, tell, stopping)
    where = LAUNCHERS.get(launcher) if isinstance(launcher, str) else launcher
    with where.open() as machines:
        here = machines.environments[0]
        _begin(study, kept, here, tally)
        Groups(study, kept, machines, tally).measure()
        Datasets(study, kept, machines, tally).run()
    if not tally.outcome.left:
        kept.keep_only(tally.outcome.files)
    return tally.outcome


def _begin(study: Study, kept: Ledger, env: Environment, tally: Tally) -> None:
    """Say what there is to do, and keep what cannot be as rows."""
    rows = [
        Measurement(each.cell, "time", "unsupported", env.id, error=each.reason)
        for each in study.unsupported
        if each.dataset is None
    ]
    notes = [f"{u.cell.label} on {u.dataset}: {u.reason}" for u in study.unsupported
             if u.dataset is not None]  # fmt: skip
    path = kept.folder / ledger.CELLS / "unsupported.json"
    if rows or notes:
        result = ledger.new_result("profile", kept.command, (env,), study.specs, rows, notes)
        store.write_result(path, result)
        tally.outcome.results["unsupported"] = dataclasses.replace(result, path=str(path))
    else:
        path.unlink(missing_ok=True)
    cells, groups = tally.outcome.total, len(study.units)
    tally.tell("begin", f"{number_of(cells, 'cell')} in {number_of(groups, 'group')}")
