"""The search for layers to keep, against harm that is given layer by layer."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from clipperf.export.judge.search import MOST_KEPT, Found, search

LAYERS = tuple("abcdefgh")


class Harm:
    """Drift as the sum of what each quantised layer does; remembers what it was asked."""

    def __init__(self, most: float, **harm: float) -> None:
        self.most = most
        self.harm = harm
        self.drifts: list[tuple[str, ...]] = []
        self.trials: list[tuple[str, ...]] = []

    def left(self, kept: Sequence[str]) -> float:
        return sum(self.harm.get(name, 0.0) for name in LAYERS if name not in kept)

    def drift(self, kept: Sequence[str]) -> float:
        self.drifts.append(tuple(name for name in LAYERS if name not in kept))
        return self.left(kept)

    def holds(self, kept: Sequence[str]) -> bool:
        self.trials.append(tuple(kept))
        return self.left(kept) <= self.most

    def search(self, layers: Sequence[str] = LAYERS) -> Found:
        return search(layers, self.drift, self.holds)


def test_groups_are_judged_by_what_they_do_alone() -> None:
    harm = Harm(1.0, f=5.0)
    # Two halves at each of three levels, before and after one trial.
    assert harm.search() == Found(("f",), True, 1 + 6 + 1)
    assert harm.drifts == [
        ("a", "b", "c", "d"),
        ("e", "f", "g", "h"),
        ("e", "f"),
        ("g", "h"),
        ("e",),
        ("f",),
    ]
    assert harm.trials == [(), ("f",)]


def test_equal_harm_is_searched_from_the_front() -> None:
    assert Harm(5.0, **dict.fromkeys(LAYERS, 1.0)).search().kept == ("a", "b", "c")
    assert Harm(1.5, b=1.0, g=1.0).search().kept == ("b",)


def test_the_worst_goes_first() -> None:
    harm = Harm(1.0, a=2.0, d=1.5, h=4.0)
    found = harm.search()
    assert (found.kept, found.holds, found.needed) == (("h", "a", "d"), True, ())
    assert found.trials == len(harm.trials) + len(harm.drifts)
    assert harm.trials == [(), ("h",), ("h", "a"), ("h", "a", "d")]


def test_an_odd_number_of_layers_is_cut_before_its_middle() -> None:
    harm = Harm(1.0, c=5.0)
    assert harm.search(LAYERS[:3]).kept == ("c",)
    assert [tuple(n for n in asked if n in "abc") for asked in harm.drifts][:2] == [
        ("a",),
        ("b", "c"),
    ]


def test_half_of_the_layers_may_be_kept() -> None:
    assert MOST_KEPT == 0.5
    four = Harm(0.0, a=4.0, c=3.0, e=2.0, g=1.0)
    found = four.search()
    assert (found.kept, found.holds, found.needed) == (("a", "c", "e", "g"), True, ())
    five = Harm(0.0, a=5.0, b=0.5, c=4.0, e=3.0, g=2.0)
    found = five.search()
    assert (found.kept, found.holds) == (("a", "c", "e", "g"), False)
    # What it would take besides: the group that is worst of what is left.
    assert found.needed == ("a", "c", "e", "g", "b")
    assert found.trials == len(five.trials) + len(five.drifts)


def test_a_smaller_share_ends_the_search_there() -> None:
    """A quarter of eight layers is two; nobody asks what more it would take."""
    harm = Harm(0.0, a=4.0, c=3.0, e=2.0, g=1.0)
    found = search(LAYERS, harm.drift, harm.holds, 0.25)
    assert (found.kept, found.holds, found.needed) == (("a", "c"), False, ())
    assert harm.trials[-1] == ("a", "c")


def test_where_nothing_helps() -> None:
    harm = Harm(-1.0, a=1.0)
    found = harm.search()
    assert (found.holds, found.needed, len(found.kept)) == (False, (), 4)
    assert set(harm.trials[-1]) == set(LAYERS)
    assert found.trials == len(harm.trials) + len(harm.drifts)


@pytest.mark.parametrize("layers", [(), ("a",)])
def test_one_layer_or_none_can_not_be_kept(layers: tuple[str, ...]) -> None:
    harm = Harm(0.0, a=1.0)
    found = harm.search(layers)
    assert (found.kept, found.holds) == ((), False)
    assert found.needed == layers
    assert harm.drifts == []


def test_nothing_to_keep() -> None:
    harm = Harm(9.0, a=1.0)
    assert harm.search() == Found((), True, 1)
    assert harm.drifts == [] and harm.trials == [()]
