"""A task for the machines of a Ray cluster, and how it ended."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from clipperf.errors import ClipperfError
from clipperf.system.cluster.machines import NOTHING, Needs, Node, facts


@dataclass(frozen=True)
class Task:
    """A call of ``function(tell, *args)`` on some machine; all of it can be pickled.

    `function` is one of a module, which the machine has, too. With `alone` nothing runs beside
    it. `fits` says which machines will do, besides those that have what it needs.
    """

    name: str
    function: Callable[..., Any]
    args: tuple[Any, ...] = ()
    needs: Needs = NOTHING
    alone: bool = True
    fits: Callable[[Node], bool] = lambda node: True


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
    ended: bool = False
