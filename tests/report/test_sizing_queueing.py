"""The queueing estimate against formulas and a queue by hand; which evidence counts."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
from report_data import ENVIRONMENT, cell, memory, result, timed

from clipperf.errors import UsageError
from clipperf.nouns.result import Measurement
from clipperf.nouns.serving import OFFLINE, SERVER, Serving, ServingRun, Trial
from clipperf.report.records import environments
from clipperf.report.sizing.queueing import Service, expected, highest_rate, service_of
from clipperf.report.sizing.solve import size
from clipperf.report.sizing.tables import sizing_tables
from clipperf.report.sizing.types import Option, Targets


def test_one_at_a_time_is_an_m_d_1_queue() -> None:
    """Erlang's formula for the waiting time of M/D/1, at 0.6 of the rate of one a second."""
    rate = 0.6

    def not_later(t: float) -> float:
        terms = [
            (rate * (k - t)) ** k / math.factorial(k) * math.exp(-rate * (k - t))
            for k in range(int(t) + 1)
        ]
        return (1 - rate) * math.fsum(terms)

    found = expected(Service((1.0,)), rate, 0.9)
    assert found is not None
    assert not_later(found.latency_s - 1) == pytest.approx(0.9, abs=0.004)
    assert found.busy == pytest.approx(0.6, abs=1e-4) and found.mean_batch == pytest.approx(1)


def test_exponential_runs_are_an_m_m_1_queue() -> None:
    # Latency of M/M/1 is exponential with rate 1 - 0.5: p99 at ln(100) / 0.5 = 9.21.
    spread = tuple(-math.log1p(-(i + 0.5) / 2000) for i in range(2000))
    service = service_of([(1, 1.0)], spread)
    assert sum(service.spread) == pytest.approx(2000)
    found = expected(service, 0.5, 0.99)
    # Run times in classes cut the longest runs' part in the queue: 3 % here.
    assert found is not None and found.latency_s == pytest.approx(9.21, rel=0.05)


def test_a_batch_that_takes_no_longer_than_one_by_hand() -> None:
    """Runs of one second for any number: waiting counts form a chain that is Poisson(rate)."""
    found = expected(Service((1.0,) * 40), 0.5, 0.5)
    assert found is not None
    # After each run Poisson(0.5) wait, none by exp(-0.5); then two seconds pass until the next.
    idle = math.exp(-0.5) / 0.5
    assert found.busy == pytest.approx(1 / (1 + idle), rel=1e-6)
    assert found.mean_batch == pytest.approx(0.5 * (1 + idle), rel=1e-6)


def test_beyond_the_engines_rate_nothing_is_expected() -> None:
    assert expected(Service((1.0, 1.5)), 2 / 1.5, 0.99) is None
    assert expected(Service((1.0, 1.5)), 5.0, 0.99) is None


def test_the_highest_rate_holds_and_a_little_more_does_not() -> None:
    service = service_of([(1, 0.010), (8, 0.030)], [0.9, 1.0, 1.1])
    held = highest_rate(service, 0.1, 0.99)
    assert held is not None and 150 < held < 8 / 0.030
    for rate, holds in ((held, True), (held * 1.02, False)):
        found = expected(service, rate, 0.99)
        assert found is not None and (found.latency_s <= 0.1) is holds
    for near in (held, held / 3, held * 3, 250.0):
        assert highest_rate(service, 0.1, 0.99, near=near) == pytest.approx(held, rel=0.02)
    assert highest_rate(service, 0.0101, 0.99) is None  # one run alone may take 11 ms
    assert highest_rate(service, 100.0, 0.99) == pytest.approx(0.95 * 8 / 0.030)


def test_run_times_between_and_below_measured_batches() -> None:
    service = service_of([(2, 1.0), (4, 2.0)], ())
    assert service.seconds == (1.0, 1.0, 1.5, 2.0) and service.spread == (1.0,)
    assert service.rate_per_s == 2.0 and service.most == 4


# --- which evidence counts -----------------------------------------------------------------

CLOSED = cell(runtime="onnx", batch=8)
SERVED = dataclasses.replace(CLOSED, scenario=SERVER)
LATENCY = {"50": 0.01, "90": 0.02, "95": 0.03, "99": 0.04}


def trial(rate: float, valid: bool) -> Trial:
    return Trial(1000, rate, LATENCY, valid, (), rate)


def served(rate: float, slo_s: float = 0.05, **changes: Any) -> Measurement:
    only = {name: changes.pop(name) for name in ("percentile", "rate_per_s") if name in changes}
    asked = Serving(slo_s=slo_s, **only)
    run = ServingRun(asked, (trial(rate, True), trial(rate * 1.25, False)), 0)
    c = changes.pop("cell", SERVED)
    return Measurement(c, "serving", "ok", ENVIRONMENT.id, serving=run, **changes)


def closed(seconds: float = 0.04, batch: int = 8) -> list[Measurement]:
    c = dataclasses.replace(CLOSED, batch=batch)
    return [timed(c, [seconds] * 6), memory(c, 100 + batch)]


def options(*rows: Measurement, **targets: Any) -> tuple[Option, ...]:
    return size([result(rows)], Targets(70, 0, **targets)).options


def test_a_fitting_server_scenario_comes_before_closed_loops() -> None:
    (option,) = options(*closed(), *closed(0.01, 1), served(100.0), slo_s=0.05)
    assert option.basis == "server scenario" and option.cell == SERVED
    # 70 / (100 x 0.7) = 1; the rate that did not hold is 125: 0.8 of a replica, one.
    assert (option.held_per_s, option.held_interval) == (100.0, (100.0, 125.0))
    assert option.replicas == 1 and option.load == pytest.approx(1.0)
    # What the engine does without pause, and its memory, are the closed loop's of its batch.
    assert option.rate_per_s == pytest.approx(200.0)
    assert option.rss_peak_bytes == 108 * 2**20 and option.extrapolated == ()
    assert (option.latency_s, option.latency_quantile) == (0.04, "p99")


@pytest.mark.parametrize(
    ("row", "slo_s", "percentile", "fits"),
    [
        (served(100.0), 0.05, 0.99, True),
        (served(100.0), 0.06, 0.95, True),
        (served(100.0), 0.0499, 0.99, False),
        (served(100.0), 0.05, 0.999, False),
        (served(100.0, percentile=0.9), 0.05, 0.99, False),
        (served(100.0), None, 0.99, False),
        (served(100.0, rate_per_s=100.0), 0.05, 0.99, False),
    ],
)
def test_which_server_scenario_fits(row: Any, slo_s: Any, percentile: float, fits: bool) -> None:
    found = options(*closed(0.02), row, slo_s=slo_s, percentile=percentile)
    assert {o.basis for o in found} == {
        "server scenario" if fits else "closed loop" if slo_s is None else "queueing estimate"
    }


def test_memory_of_another_batch_is_said_to_be_that() -> None:
    (option,) = options(*closed(0.01, 1), served(100.0), slo_s=0.05)
    assert option.rss_peak_bytes == 101 * 2**20
    assert option.extrapolated == ("memory is that of batch 1",)
    (bare,) = options(served(100.0), slo_s=0.05)
    assert bare.rss_peak_bytes is None and bare.rate_per_s is None


def test_a_server_scenario_alone() -> None:
    """Without closed loops it counts where no SLO binds it, and else says why it does not."""
    (option,) = options(served(100.0))
    assert (option.basis, option.held_per_s) == ("server scenario", 100.0)
    sizing = size([result([served(100.0)])], Targets(70, 0, slo_s=0.02))
    (unfit,) = sizing.rejected
    assert unfit.broken == (
        "SLO: held with 99.0 % of answers within 50.0 ms, which is less than is asked for: run "
        "`clipperf profile --scenario server` with this bound",
    )
    run = ServingRun(Serving(slo_s=0.05), (trial(9.0, False),))
    never = dataclasses.replace(served(1.0), serving=run)
    sizing = size([result([never])], Targets(70, 0, slo_s=0.05))
    assert sizing.rejected[0].broken[0].startswith("server scenario: INVALID even at 9.00 inputs/s")
    assert sizing.unmet[0].startswith("M::w: no image configuration passes (server scenario")


def test_a_rate_that_alone_was_offered_is_not_the_highest() -> None:
    """900 are held, and 200 were offered: 630 take one replica, not 630 / (200 x 0.7) = 4.5."""
    once = served(200.0, rate_per_s=200.0)
    (option,) = size([result([once, served(900.0)])], Targets(630, 0, slo_s=0.05)).options
    assert (option.held_per_s, option.replicas) == (900.0, 1)
    for slo_s in (0.05, None):
        sizing = size([result([once])], Targets(630, 0, slo_s=slo_s))
        assert sizing.plans == ()
        assert sizing.rejected[0].broken == (
            "server scenario: 200 inputs/s were held and no more was tried (--rate): run "
            "`clipperf profile --scenario server` without it",
        )


def test_server_scenarios_of_shorter_texts_are_left_out() -> None:
    long, short = cell("text", "onnx", batch=8), cell("text", "onnx", batch=8, tokens=8)
    rows = [
        timed(long, [0.02] * 6),
        served(900.0, cell=dataclasses.replace(short, scenario=SERVER)),
    ]
    (option,) = size([result(rows)], Targets(0, 70, slo_s=0.05)).options
    assert option.basis == "queueing estimate" and option.cell.tokens == 77


def test_an_estimate_says_what_it_rests_on() -> None:
    rows = [*closed(0.02, 4), *closed(0.03, 8)]
    files = [result(rows)]
    sizing = size(files, Targets(70, 0, slo_s=0.1))
    four, eight = sizing.options
    assert four.extrapolated == ("fewer than 4 inputs are taken to run as long as 4",)
    assert eight.extrapolated == (
        "fewer than 4 inputs are taken to run as long as 4",
        "run times between batches of 4, 8 are interpolated",
    )
    service = service_of([(4, 0.02), (8, 0.03)])
    held = highest_rate(service, 0.1, 0.99)
    assert eight.held_per_s == held and held is not None
    assert eight.load == pytest.approx(70 / (held * 0.7))
    found = expected(service, 70 / (eight.replicas or 0), 0.99)
    assert found is not None
    assert (eight.expected_s, eight.busy) == (found.latency_s, found.busy)
    tables = sizing_tables(sizing, environments(files))
    assert any("Queueing estimate, not measured" in c for c in tables[0].caveats)
    assert any("(est.)" in text for row in tables[1].texts + tables[-1].texts for text in row)


def test_streams_are_queues_of_their_own() -> None:
    one = cell(batch=1)
    two = dataclasses.replace(one, streams=2, threads=4)
    rows = [timed(c, [0.02] * 6) for c in (one, two)]
    alone, both = options(*rows, slo_s=0.1)
    assert both.held_per_s == pytest.approx(2 * (alone.held_per_s or 0))


def test_more_inputs_never_run_for_less() -> None:
    """A batch that was quicker than a smaller one is noise, and is not believed."""
    (first, second) = options(*closed(0.03, 4), *closed(0.02, 8), slo_s=0.1)
    assert second.rate_per_s == pytest.approx(400.0)
    held = highest_rate(service_of([(4, 0.03), (8, 0.03)]), 0.1, 0.99)
    assert second.held_per_s == held and first.held_per_s is not None


def test_quantiles_of_the_estimate_are_near_a_queue_played_through() -> None:
    service = service_of([(1, 0.01), (8, 0.04)], [0.8, 1.0, 1.2])
    rng = np.random.default_rng(5)
    rate = 0.7 * service.rate_per_s
    at = np.cumsum(rng.exponential(1 / rate, 40_000))
    ends, free, place = np.empty_like(at), 0.0, 0
    while place < len(at):
        start = max(free, at[place])
        last = min(place + service.most, max(place + 1, int(np.searchsorted(at, start, "right"))))
        free = start + service.seconds[last - place - 1] * rng.choice(service.spread)
        ends[place:last] = free
        place = last
    found = expected(service, rate, 0.99)
    assert found is not None
    assert found.latency_s == pytest.approx(np.quantile(ends - at, 0.99), rel=0.1)


def test_closed_loops_of_shorter_texts_than_a_server_scenario_are_left_out() -> None:
    long, short = cell("text", "onnx", batch=8), cell("text", "onnx", batch=8, tokens=8)
    rows = [
        timed(short, [0.002] * 6),
        served(100.0, cell=dataclasses.replace(long, scenario=SERVER)),
    ]
    (option,) = size([result(rows)], Targets(0, 70, slo_s=0.05)).options
    assert (option.basis, option.cell.tokens) == ("server scenario", 77)


def test_every_batch_of_a_server_scenario_is_held_against_the_limits() -> None:
    """The quickest takes 5000 MiB of 1000; the next holds 90 a second: 70 / (90 x 0.7) = 1.11."""
    rows = []
    for batch, rate, peak_mib in ((8, 90.0, 100), (32, 100.0, 5000)):
        c = dataclasses.replace(CLOSED, batch=batch)
        rows += [memory(c, peak_mib), served(rate, cell=dataclasses.replace(SERVED, batch=batch))]
    sizing = size([result(rows)], Targets(70, 0, slo_s=0.05, ram_bytes=1000 * 2**20))
    (option,) = sizing.options
    assert (option.cell.batch, option.held_per_s, option.replicas) == (8, 90.0, 2)
    assert [o.cell.batch for o in sizing.rejected] == [32] and len(sizing.plans) == 1


def test_the_slo_binds_the_percentile_that_is_asked_for() -> None:
    """1.4 % of 700 calls take 60 ms: over 50 ms at p99, and 10 ms at p90."""
    row = timed(cell(), [0.01] * 690 + [0.06] * 10)
    files = [result([row])]
    (option,) = size(files, Targets(1, 0, slo_s=0.05, percentile=0.9)).options
    assert (option.latency_s, option.latency_quantile) == (pytest.approx(0.01), "p90")
    (late,) = size(files, Targets(1, 0, slo_s=0.05)).rejected
    assert late.broken == ("SLO: p99 60.0 ms is 10.0 ms over 50.0 ms",)
    # One call of 20 is no p90: what waits behind it is the queue's to say.
    (few,) = size(
        [result([timed(cell(), [0.01] * 19 + [0.06])])],
        Targets(1, 0, slo_s=0.05, percentile=0.9),
    ).options
    assert (few.latency_quantile, few.basis) == ("max", "queueing estimate")


def test_large_batches_are_looked_at_up_to_a_limit_that_is_said() -> None:
    # Runs of one second for any number, as in the chain by hand above.
    found = expected(Service((1.0,) * 1000), 0.5, 0.5)
    assert found is not None
    assert found.mean_batch == pytest.approx(0.5 * (1 + math.exp(-0.5) / 0.5), rel=1e-6)
    large = dataclasses.replace(CLOSED, batch=2048)
    sizing = size([result([timed(large, [0.01] * 6)])], Targets(1, 0, slo_s=1.0))
    assert sizing.rejected[0].broken == (
        "SLO: the queueing estimate looks at batches of up to 1024: run "
        "`clipperf profile --scenario server --slo-ms 1000`",
    )


def test_other_scenarios_alone_are_nothing_to_size_from() -> None:
    offline = served(100.0, cell=dataclasses.replace(CLOSED, scenario=OFFLINE))
    with pytest.raises(UsageError, match="no measurements to size from: offline"):
        size([result([offline])], Targets(70, 0, slo_s=0.05))
