"""Intervals from drawing blocks: by hand, and how often they hold the truth."""

from __future__ import annotations

import numpy as np
import pytest

from clipperf.report.compare.blocks import Calls, quantiles, ratio_interval, tail

SIX = [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]


def test_what_does_not_differ_has_an_interval_of_no_width() -> None:
    assert ratio_interval(Calls([0.1] * 12, SIX), Calls([0.2] * 12, SIX), 0.5) == (2.0, 2.0)


def test_few_blocks_and_calls_without_blocks_have_none() -> None:
    six = Calls([0.1] * 12, SIX)
    assert ratio_interval(six, Calls([0.1] * 10, SIX[:10]), 0.5) is None
    assert ratio_interval(six, Calls([0.1] * 12, ()), 0.5) is None
    assert ratio_interval(Calls((), ()), six, 0.5) is None
    later = Calls([0.1] * 12, [block + 1 for block in SIX])
    assert ratio_interval(six, later, 0.5) is not None
    assert ratio_interval(six, later, 0.5, paired=True) is None, "five blocks in common"


def test_quantiles_of_drawn_blocks_are_numpy_s_of_their_calls() -> None:
    calls = Calls([1.0, 4.0, 3.0, 2.0], [0, 1, 1, 0])
    counts = np.array([[2, 0], [1, 1], [0, 2]])  # 1 1 2 2; 1 2 3 4; 3 3 4 4
    own = np.array([0, 1])
    assert quantiles(calls, own, counts, 0.5).tolist() == [1.5, 2.5, 3.5]
    assert quantiles(calls, own, counts, 0.9) == pytest.approx([2.0, 3.7, 4.0])
    rng = np.random.default_rng(1)
    blocks = rng.integers(0, 7, 200)
    many = Calls(rng.random(200), blocks)
    drawn = rng.multinomial(7, [1 / 7] * 7, size=20)
    by_hand = [
        np.quantile(np.concatenate([many.run_s[blocks == b] for b in np.repeat(range(7), n)]), 0.9)
        for n in drawn
    ]
    assert quantiles(many, np.arange(7), drawn, 0.9) == pytest.approx(by_hand)


def test_long_runs_are_drawn_in_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    from clipperf.report.compare import blocks

    calls = Calls(np.random.default_rng(0).random(12).tolist(), SIX)
    other = Calls([0.5] * 12, SIX)
    whole = ratio_interval(other, calls, 0.5)
    monkeypatch.setattr(blocks, "ELEMENTS", 100)
    assert ratio_interval(other, calls, 0.5) == whole


def test_how_far_out_the_quantiles_lie() -> None:
    # Student's t of 5 degrees of freedom is 2.5706; times sqrt(6/5) it is 2.8159 deviations.
    assert tail(6) == pytest.approx(0.00243, abs=1e-5)
    assert tail(10_000) == pytest.approx(0.025, abs=1e-4)


def test_blocks_in_turns_are_drawn_together() -> None:
    """A machine that slows down over the run slows both, and their ratio is the same in all."""
    drift = [0.1 * (1 + block / 10) for block in SIX]
    a, b = Calls(drift, SIX), Calls([2 * x for x in drift], SIX)
    paired = ratio_interval(a, b, 0.5, paired=True)
    assert paired == pytest.approx((2.0, 2.0))
    alone = ratio_interval(a, b, 0.5)
    assert alone is not None and alone[0] < 1.8 and alone[1] > 2.2


@pytest.mark.parametrize("blocks", [6, 12])
def test_it_holds_the_truth_as_often_as_it_says(blocks: int) -> None:
    """Blocks that differ by 5 %, calls in them by 3 %: two runs of one engine."""
    rng, held, trials = np.random.default_rng(7), 0, 200
    place = np.repeat(range(blocks), 5)

    def run() -> Calls:
        slow = rng.normal(1, 0.05, blocks)[place]
        return Calls(0.01 * slow * rng.normal(1, 0.03, len(place)), place)

    for _ in range(trials):
        interval = ratio_interval(run(), run(), 0.5)
        assert interval is not None
        held += interval[0] <= 1 <= interval[1]
    assert held / trials >= 0.92
