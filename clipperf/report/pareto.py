"""Which of several things no other beats in everything (Pareto). Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")

Figures = tuple[float, ...]


def front(items: Sequence[T], figures: Callable[[T], Figures]) -> list[T]:
    """Those that no other is as good as in all `figures` and better in one; equals all stay.

    Less is better in each figure. The items keep their order.
    """
    found = [figures(item) for item in items]
    kept: set[Figures] = set()
    # In the order of all figures whatever beats another comes before it.
    for each in sorted(set(found)):
        if not any(all(a <= b for a, b in zip(other, each, strict=True)) for other in kept):
            kept.add(each)
    return [item for item, each in zip(items, found, strict=True) if each in kept]
