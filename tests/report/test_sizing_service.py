"""What a harness costs beside the engine, as server scenarios show it, and what follows."""

from __future__ import annotations

import dataclasses

import pytest
from report_data import ENVIRONMENT, cell, result, timed

from clipperf.nouns.cell import Cell
from clipperf.nouns.result import Measurement
from clipperf.nouns.serving import SERVER, Serving, ServingRun, Trial
from clipperf.report.records import merge
from clipperf.report.serving import lines_of
from clipperf.report.sizing.queueing import Service, highest_rate
from clipperf.report.sizing.service import harnesses, with_harness
from clipperf.report.sizing.solve import size
from clipperf.report.sizing.tables import sizing_tables
from clipperf.report.sizing.types import Targets

SLO_S, COST_S = 0.05, 0.002
ENGINE = Service((0.004, 0.005, 0.006, 0.007))
"""4 ms and 1 ms an input, up to four at once."""


def closed(side: str = "image", **more: object) -> list[Measurement]:
    return [
        timed(cell(side, "onnx", batch=b, **more), [0.003 + 0.001 * b] * 20)  # type: ignore[arg-type]
        for b in (1, 2, 3, 4)
    ]


def served(rate: float, side: str = "image", **more: object) -> Measurement:
    c = dataclasses.replace(cell(side, "onnx", batch=4), scenario=SERVER)
    trial = Trial(1000, rate, {"99": SLO_S}, True, offered_per_s=rate)
    run = ServingRun(Serving(slo_s=SLO_S, **more), (trial,), 0)  # type: ignore[arg-type]
    return Measurement(c, "serving", "ok", ENVIRONMENT.id, serving=run)


def shown(*rows: Measurement) -> dict:
    files = [result(rows)]
    return harnesses(lines_of(files), merge(files))


def test_an_input_takes_longer() -> None:
    assert with_harness(ENGINE, 0.001).seconds == pytest.approx((0.005, 0.007, 0.009, 0.011))


def test_what_the_harness_costs_is_found_again() -> None:
    rate = highest_rate(with_harness(ENGINE, COST_S), SLO_S, 0.99)
    assert rate is not None and rate < 0.6 * (highest_rate(ENGINE, SLO_S, 0.99) or 0)
    (found,) = shown(*closed(), served(rate)).items()
    assert found[0] == (ENVIRONMENT.id, "image") and found[1].count == 1
    # The rate is found within 1 %, which here are 0.03 ms of the 4 that an input of four takes.
    assert found[1].each_s == pytest.approx(COST_S, abs=1e-4)


def test_nothing_is_learned_where_nothing_is_shown() -> None:
    quick = highest_rate(ENGINE, SLO_S, 0.99)
    assert quick is not None
    (better,) = shown(*closed(), served(quick * 1.3)).values()
    assert better.each_s == 0.0, "it held more than the estimate says"
    assert shown(*closed(), served(100.0, rate_per_s=100.0)) == {}, "no more was looked for"
    assert shown(*closed()[:3], served(100.0)) == {}, "a batch without times"


def options(*rows: Measurement) -> dict[Cell, object]:
    sizing = size([result(rows)], Targets(100, 100, slo_s=SLO_S))
    return {option.cell: option for option in (*sizing.options, *sizing.rejected)}


def test_the_estimate_of_the_other_tower_is_lowered_by_it() -> None:
    texts = closed("text")
    rate = highest_rate(with_harness(ENGINE, COST_S), SLO_S, 0.99)
    assert rate is not None
    plain = options(*closed(), *texts)[texts[-1].cell]
    lowered = options(*closed(), *texts, served(rate))[texts[-1].cell]
    assert plain.held_per_s == pytest.approx(highest_rate(ENGINE, SLO_S, 0.99), rel=0.02)
    assert lowered.held_per_s == pytest.approx(rate, rel=0.03)
    assert lowered.harness_s == pytest.approx(COST_S, abs=1e-4)
    assert lowered.basis == "queueing estimate" and lowered.expected_s > plain.expected_s
    (said,) = [text for text in lowered.extrapolated if "beside the engine" in text]
    assert said.startswith(("each text costs 2.0", "each text costs 1.9"))
    assert said.endswith("as 1 server scenario of images shows"), "whose it is"
    sizing = size([result([*closed(), *texts, served(rate)])], Targets(100, 100, slo_s=SLO_S))
    tables = sizing_tables(sizing, {"env-a": ("E1", None)})
    assert any("beside the engine" in caveat for table in tables for caveat in table.caveats)


def test_a_tower_that_nothing_is_asked_of_tells_of_the_harness_too() -> None:
    texts = closed("text")
    rate = highest_rate(with_harness(ENGINE, COST_S), SLO_S, 0.99)
    assert rate is not None
    sizing = size([result([*closed(), *texts, served(rate)])], Targets(0, 100, slo_s=SLO_S))
    found = {option.cell: option for option in sizing.options}
    assert {c.side for c in found} == {"text"}
    assert found[texts[-1].cell].harness_s == pytest.approx(COST_S, abs=1e-4)


def test_a_towers_own_scenario_comes_before_the_others() -> None:
    rates = [highest_rate(with_harness(ENGINE, cost), SLO_S, 0.99) for cost in (COST_S, 0.004)]
    rows = [*closed(), *closed("text"), served(rates[0]), served(rates[1], "text")]  # type: ignore[arg-type]
    text = shown(*rows)[ENVIRONMENT.id, "text"]
    assert (text.side, text.count) == ("text", 1) and text.each_s == pytest.approx(0.004, abs=1e-4)
