"""The search for the highest rate, against bounds that are known."""

from __future__ import annotations

import pytest

from clipperf.bench.peak_rate import LEAST_SHARE, peak_rate


def searched(capacity: float, bound: float, width: float = 0.05) -> tuple[list[float], list[float]]:
    """The rates that held and those that did not, where all up to `bound` hold."""
    held: list[float] = []
    failed: list[float] = []
    rates = peak_rate(capacity, width)
    rate = next(rates)
    for _ in range(60):
        (held if rate <= bound else failed).append(rate)
        try:
            rate = rates.send(rate <= bound)
        except StopIteration:
            return held, failed
    raise AssertionError("it did not end")


@pytest.mark.parametrize("bound", [3.0, 20.0, 69.0, 71.0, 99.0, 100.0, 104.0, 170.0, 1000.0])
def test_the_bound_lies_between_two_rates_that_are_close(bound: float) -> None:
    held, failed = searched(100.0, bound)
    best, next_one = max(held), min(rate for rate in failed if rate > max(held))
    assert best <= bound < next_one <= best * 1.05
    assert len(held) + len(failed) <= 12


def test_halving_is_geometric() -> None:
    rates = peak_rate(100.0, 0.05)
    assert next(rates) == 70.0
    assert rates.send(True) == pytest.approx(105.0), "upwards until one does not hold"
    assert rates.send(False) == pytest.approx((70 * 105) ** 0.5)


def test_where_nothing_holds_it_ends() -> None:
    held, failed = searched(100.0, 0.0)
    assert held == [] and failed[:3] == [70.0, 35.0, 17.5]
    assert failed[-1] >= 100 * LEAST_SHARE > failed[-1] / 2
