"""A task for the machines of a Ray cluster, and how it ended."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from clipperf.errors import ClipperfError
from clipperf.system.cluster.machines import ONE_CPU, Needs, Node, amounts, facts


@dataclass(frozen=True)
class Task:
    """A call of ``function(tell, *args)`` on some machine; all of it can be pickled.

    `function` is one of a module, which the machine has, too. With `alone` nothing runs beside
    it; one that takes the `whole` of its node shares no more than the machine with those of other
    nodes. `fits` says which machines will do, besides those that have what it needs; `unfit` is
    what the others are.

    Tasks that are `kept` run in a process of their node that stays for the next one, with what an
    earlier one has opened. `late_args` are asked for when a task begins, in the place of `args`:
    the second time there may be less to do.
    """

    name: str
    function: Callable[..., Any]
    args: tuple[Any, ...] = ()
    needs: Needs = ONE_CPU
    alone: bool = True
    fits: Callable[[Node], bool] = lambda node: True
    unfit: str = "is another machine"
    whole: bool = False
    kept: bool = False
    late_args: Callable[[], tuple[Any, ...]] | None = None

    def takes(self, node: Node) -> Needs:
        """What it takes of a node that it runs on."""
        return node.declared if self.alone or self.whole else self.needs

    def lacks(self, node: Node) -> str | None:
        """Why a machine cannot take it, whatever becomes free there; None where it can."""
        if not self.fits(node):
            return self.unfit
        return (
            None
            if node.holds([self.needs])
            else f"has declared {amounts(node.declared, self.needs)}"
        )

    def can_begin(self, node: Node, flying: Iterable[Flight]) -> bool:
        """Whether a machine has room for it beside those that fly."""
        beside = [each for each in flying if each.node and each.node.machine == node.machine]
        if self.alone or any(each.task.alone for each in beside):
            return not beside
        own = [each.task.takes(node) for each in beside if each.node and each.node.id == node.id]
        return node.holds([*own, self.takes(node)])


@dataclass(frozen=True)
class Done:
    """How a task ended: what it returned, or its error. `losses` are the tries that were lost."""

    task: Task
    node: Node | None
    value: Any = None
    error: ClipperfError | None = None
    losses: tuple[str, ...] = ()


ANYTHING = Task("anything", facts)

OnTold = Callable[[Task, Any], None]
OnDone = Callable[[Done], None]
OnLost = Callable[[Task, str], None]


@dataclass(eq=False)
class Flight:
    """A task from when it is handed over until it has ended."""

    task: Task
    on_told: OnTold
    on_done: OnDone
    on_lost: OnLost
    losses: list[str] = field(default_factory=list)
    node: Node | None = None
    news: Any = None
    process: Any = None
    begun: bool = False
    placed_s: float = 0.0
    ended: bool = False
