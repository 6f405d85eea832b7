"""What a cluster is waited for, in words: after a moment, then sparsely."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from clipperf import units
from clipperf.system.cluster.machines import Needs, Node, amounts, left_of
from clipperf.system.cluster.tasks import Flight, Task

OnWait = Callable[[str], None]
"""Has words for whoever gave the command."""

FIRST_S, AGAIN_S, MOST_S = 6.0, 30.0, 300.0
"""When it is said first, how long after that again at least, and at most."""

BEGIN_S = 6.0
"""How long a process may take to begin before somebody is taken to be in its way."""


class Waits:
    """Says what is waited for, as long as it is."""

    def __init__(self, tell: OnWait) -> None:
        self.tell = tell
        self._since_s: float | None = None
        self._next_s = FIRST_S

    def see(self, since_s: float, words: Callable[[], str]) -> None:
        """What has been waited for since when (of the monotonic clock).

        What has been said of a wait counts also where nobody asked for a while.
        """
        if since_s != self._since_s:
            self._since_s, self._next_s = since_s, FIRST_S
        waited_s = time.monotonic() - since_s
        if waited_s >= self._next_s:
            self._next_s = waited_s + min(MOST_S, max(AGAIN_S, waited_s))
            self.tell(f"waiting for {units.seconds(waited_s)} now: {words()}")


def begins_late(flying: Iterable[Flight]) -> list[Flight]:
    """Those that were handed to Ray a while ago and have not begun."""
    now_s = time.monotonic()
    return [each for each in flying if not each.begun and now_s - each.placed_s > BEGIN_S]


def not_begun(late: Iterable[Flight], free: dict[str, Needs]) -> str:
    """What stands in the way of tasks that Ray has not begun."""
    said = []
    for flight in late:
        assert flight.node is not None
        node, takes = flight.node, flight.task.takes(flight.node)
        left = left_of(node.declared, free.get(node.id))
        said.append(
            f"{flight.task.name} on {node.name}, {left}, of which it takes {amounts(takes)}"
        )
    return (
        f"not begun yet: {'; '.join(said)}: something else has these, or its process takes long "
        "to start"
    )


def cannot_take(tasks: Iterable[Task], nodes: Iterable[Node], others: Iterable[str]) -> str:
    """What tasks need, and why each machine does not take one; `others` take no work at all."""
    first = next(iter(tasks), None)
    if first is None:
        return "; ".join(["none is left", *others])
    lacking = [f"{node.name} {first.lacks(node)}" for node in nodes if first.lacks(node)]
    seen = "; ".join([*lacking, *others]) or "there is none"
    return f"{first.name} needs {amounts(first.needs)}: {seen}"
