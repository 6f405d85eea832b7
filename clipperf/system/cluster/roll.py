"""The machines of a joined cluster that take work: seen when they come, and asked what they are."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Any

from clipperf.errors import ClusterError, HeadError
from clipperf.system.cluster import losses
from clipperf.system.cluster.head import Head
from clipperf.system.cluster.machines import (
    Node,
    alive,
    declared,
    facts,
    free_of,
    left_of,
    named,
    other_version,
    without_work,
)
from clipperf.system.cluster.starting import Starter
from clipperf.system.cluster.tasks import Task
from clipperf.system.cluster.waiting import Waits
from clipperf.system.terminal import say

NODES_S = 120.0
"""How long to wait for a machine to come where none is left, and for each to say what it is."""

LOOK_S = 5.0
"""How often to look for machines that have come or gone."""

MOST_TRIES = 3
"""How often a machine is asked whose process died before it said anything."""


class Roll:
    """`nodes` have said what they are, those that are `asked` have not yet, some are `left_out`.

    `left_out` says why, by the id of a node that is there. Until it `is_settled`, one with another
    clipperf is an error; later it is left out. `has_lost` is whether a machine went that was there.
    `kept` says what there is when the cluster is gone.
    """

    def __init__(self, ray: Any, starter: Starter, kept: str = "") -> None:
        self._ray, self._starter, self._kept = ray, starter, kept
        self.head = Head(ray.get_runtime_context().gcs_address)
        self._looked_s = -LOOK_S
        self.nodes: list[Node] = []
        self.asked: dict[str, tuple[Any, dict[str, Any]]] = {}
        self.left_out: dict[str, str] = {}
        self._lost: dict[str, list[str]] = {}
        self._again: set[str] = set()
        self.has_lost = self.is_settled = False

    @property
    def is_asking(self) -> bool:
        """Whether some machine has not said yet what it is, and may."""
        return bool(self.asked or self._again)

    def settle(self, turn: Callable[[], None], waits: Waits) -> None:
        """Wait until all have said what they are, but for those that are busy; `turn` hears them.

        Raises:
            ClusterError: none takes work.
        """
        begun_s = time.monotonic()
        self.look_again()
        while self.is_asking and time.monotonic() - begun_s < NODES_S:
            turn()
            self.look_again()
            waits.see(begun_s, self._waited_for)
        if not self.nodes:
            within = f" within {NODES_S:g} s" if self.is_asking else ""
            why = "; ".join(self.words) or "none is there"
            more = f"add one with: ray start --address {self.head.address}"
            raise ClusterError(f"no machine of the Ray cluster takes work{within}: {why}; {more}")
        if self.is_asking:
            waits.tell(f"begun without all machines: {'; '.join(self.words)}")
        self.is_settled = True

    def look_again(self) -> None:
        """Look, where that was some time ago.

        Raises:
            HeadError: the head of the cluster has not answered for too long.
        """
        if time.monotonic() - self._looked_s < LOOK_S:
            return
        try:
            if self.answers():
                self.look()
        finally:
            self._looked_s = time.monotonic()

    def answers(self) -> bool:
        """Whether the head does.

        Raises:
            HeadError: it has not for too long.
        """
        try:
            return self.head.answers()
        except HeadError as exc:
            raise HeadError(f"{exc}; {self.goes_on}") from exc

    def has(self, node: Node) -> bool:
        """Whether Ray takes a node to be alive, which nobody knows without the head."""
        with contextlib.suppress(TimeoutError):
            return self.answers() and node.id in alive(self._ray)
        return False

    @property
    def goes_on(self) -> str:
        """What there is when a cluster is gone."""
        kept = f"{self._kept}; " if self._kept else ""
        return f"{kept}the same command goes on once the cluster is back"

    def _waited_for(self) -> str:
        return self.head.words if self.head.why else "; ".join(self.words)

    def look(self) -> None:
        """See which machines are there; new ones are asked what they are, and join once they say.

        One whose process dies before it says so is asked again, a few times.
        """
        try:
            there = alive(self._ray)
        except TimeoutError:  # the head has gone since, of which the next look will know
            return
        self.has_lost = self.has_lost or any(node.id not in there for node in self.nodes)
        self.nodes = [node for node in self.nodes if node.id in there]
        self.left_out = {name: why for name, why in self.left_out.items() if name in there}
        self._again.clear()
        known = {node.id for node in self.nodes} | self.asked.keys() | self.left_out.keys()
        for name, row in there.items():
            if name not in known:
                news = self._starter.begin(name, declared(row), (facts, ()))
                self.asked[name] = (news, row)

    def hear(self, name: str) -> None:
        """One piece of news of a machine that was asked what it is; see `_refuse`."""
        news, row = self.asked[name]
        try:
            kind, what = self._ray.get(next(news))
        except losses.raised(self._ray) as exc:
            del self.asked[name]
            self._has_died(name, row, exc)
            return
        if kind == "begun":
            return
        del self.asked[name]
        if kind != "done":
            self._refuse(name, f"{named(row)} cannot say what it is: {what}")
            return
        node = Node(name, row["NodeManagerAddress"], declared(row), what)
        if (problem := other_version([node])) is not None:
            self._refuse(name, problem)
            return
        self.nodes = sorted([*self.nodes, node], key=lambda node: (node.address, node.id))

    def may_come(self, task: Task) -> bool:
        """Whether a machine for a task may come, as one was there, or has not said what it is."""
        asked = (declared(row) for _, row in self.asked.values())
        return self.has_lost or not self.nodes or any(has.hold([task.needs]) for has in asked)

    def drop(self, node: Node) -> None:
        """A machine that is lost."""
        self.has_lost = True
        self.nodes = [each for each in self.nodes if each.id != node.id]

    def close(self) -> None:
        """Ask nobody any more."""
        for news, _ in self.asked.values():
            with contextlib.suppress(*losses.raised(self._ray)):
                self._ray.cancel(news, force=True)
        self.asked.clear()

    @property
    def words(self) -> list[str]:
        """Each machine that takes no work, and why."""
        free = free_of(self._ray)
        said = [
            f"{named(row)} has not said what it is: {left_of(declared(row), free.get(name))}"
            for name, (_, row) in self.asked.items()
        ]
        return [*said, *self.left_out.values(), *without_work(self._ray)]

    def _has_died(self, name: str, row: dict[str, Any], exc: Exception) -> None:
        """A process that was to say what its machine is."""
        if (reason := losses.why_not(self._ray, exc)) is not None:
            self._refuse(name, f"{named(row)}: {reason}")
            return
        lost = self._lost.setdefault(name, [])
        lost.append(losses.told(exc))
        if len(lost) < MOST_TRIES:
            self._again.add(name)
        else:
            why = "; ".join(dict.fromkeys(lost))
            self.left_out[name] = f"{named(row)} starts no process, tried {len(lost)} times: {why}"

    def _refuse(self, name: str, why: str) -> None:
        """Leave out a machine that has another version of clipperf, or none at all.

        Raises:
            ClusterError: it was there before the work began, which it might be meant for.
        """
        if not self.is_settled:
            raise ClusterError(why)
        self.left_out[name] = why
        say(f"note: a machine that came is left out: {why}")
