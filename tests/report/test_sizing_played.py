"""Ten random targets played through in a discrete-event simulation, beside what was predicted."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import pytest

from clipperf.report.sizing.queueing import Service

pytest.importorskip("simpy")
BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        return importlib.import_module("sizing_queue")


def test_the_simulation_itself_by_a_formula(script: ModuleType) -> None:
    # M/D/1 at half of its rate: busy half of the time, and by Erlang p99 of 4.28 run times.
    played = script.play(Service((1.0,)), 0.5, 30_000, 1)
    assert played.answers == 30_000
    assert played.busy == pytest.approx(0.5, abs=0.02)
    assert played.latency_s == pytest.approx(4.28, rel=0.08)


def test_ten_random_targets_are_predicted_within_a_tenth(script: ModuleType) -> None:
    found = list(script.cases())
    assert len(found) == 10 and len({c.option.cell.batch for c in found}) > 2
    for number, case in enumerate(found):
        played = script.play(case.service, case.rate_per_s, 50_000, number)
        late, busy = script.off(case, played)
        assert abs(late) <= script.ALLOWED and abs(busy) <= script.ALLOWED, (number, late, busy)
        # And it keeps to the SLO that it was sized for.
        assert played.latency_s <= (case.targets.slo_s or 0) * 1.05
