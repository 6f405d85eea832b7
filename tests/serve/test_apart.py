"""Inputs without finite values, told from those beside them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from clipperf.errors import NotFiniteError
from clipperf.serve.apart import apart


class Tower:
    """Gives each input its place; fails where one of `bad` is there, or a pair of `never`."""

    def __init__(self, bad: set[int], never: set[int] | None = None, plain: bool = True) -> None:
        self.bad, self.never, self.plain = bad, never, plain
        self.runs: list[list[int]] = []

    def run(self, places: Sequence[int]) -> np.ndarray:
        self.runs.append(list(places))
        if self.bad & set(places) or (self.never and self.never <= set(places)):
            raise NotFiniteError("no")
        return np.array([[place] for place in places], np.float32)

    def sound(self) -> None:
        if not self.plain:
            raise NotFiniteError("the tower itself")


def test_nothing_is_run_twice_where_all_is_well() -> None:
    tower = Tower(set())
    rows, bad = apart(tower.run, 3, tower.sound)
    assert rows is not None and rows.tolist() == [[0], [1], [2]]
    assert (bad, tower.runs) == (frozenset(), [[0, 1, 2]])


@pytest.mark.parametrize("bad", [{0}, {7}, {2, 3}, {0, 3, 7}, {1, 2, 3, 4, 5, 6, 7}])
def test_what_is_left_is_run_as_if_the_others_had_not_been_there(bad: set[int]) -> None:
    tower = Tower(bad)
    rows, found = apart(tower.run, 8, tower.sound)
    left = [place for place in range(8) if place not in bad]
    assert found == bad and rows is not None
    assert rows[:, 0].tolist() == left == tower.runs[-1]


def test_where_nothing_is_left_the_tower_is_asked() -> None:
    assert apart(Tower({0, 1}).run, 2, Tower(set()).sound) == (None, frozenset({0, 1}))
    with pytest.raises(NotFiniteError, match="the tower itself"):
        apart(Tower({0, 1}).run, 2, Tower(set(), plain=False).sound)


def test_a_tower_that_fails_for_no_input_alone_is_at_fault() -> None:
    tower = Tower(set(), never={0, 3})
    with pytest.raises(NotFiniteError):
        apart(tower.run, 4, tower.sound)
