"""Tasks on the machines of a Ray cluster: placed, waited for, done again where a machine is lost.

A task that is `alone` takes all that its node has declared, CPUs, GPUs and memory, and no other is
begun meanwhile on any node of the same machine: nothing is measured beside it. Others take what
they `need` and run beside each other.
"""

from __future__ import annotations

import collections
import contextlib
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from clipperf.errors import ClusterError, LostError
from clipperf.system.cluster import losses
from clipperf.system.cluster.joining import AUTO, joined
from clipperf.system.cluster.machines import Node, alive, declared, facts, other_version
from clipperf.system.cluster.starting import Starter
from clipperf.system.cluster.tasks import ANYTHING, Done, Flight, OnDone, OnLost, OnTold, Task
from clipperf.system.terminal import say

MOST_TRIES = 3
NODES_S = 120.0
"""How long to wait for a machine to come where none is left, and for each to say what it is."""
LOOK_S, TURN_S = 5.0, 1.0
"""How often to look for machines that have come or gone, and how long to wait for news."""


class Cluster:
    """A joined cluster; see `opened`. `nodes` are the machines that are there now."""

    def __init__(self, ray: Any) -> None:
        self._ray = ray
        self._starter = Starter(ray)
        self._waiting: collections.deque[Flight] = collections.deque()
        self._flying: list[Flight] = []
        self._looked_s = -LOOK_S
        self._without_since_s: float | None = None
        self._has_lost = self._is_settled = False
        self._asked: dict[str, tuple[Any, dict[str, Any]]] = {}
        self._silent: set[str] = set()
        self.nodes: list[Node] = []
        self.look()
        self._settle()
        self._is_settled = True
        if not self.nodes:
            why = f"none has a CPU to give, or all are busy for more than {NODES_S:g} s"
            raise ClusterError(f"no machine of the Ray cluster takes work: {why}")

    # --- machines --------------------------------------------------------------------------

    def look(self) -> None:
        """See which machines are there; new ones are asked what they are, and join once they say.

        One that does not say is not asked again.
        """
        self._looked_s = time.monotonic()
        there = alive(self._ray)
        self._has_lost = self._has_lost or any(node.id not in there for node in self.nodes)
        self.nodes = [node for node in self.nodes if node.id in there]
        known = {node.id for node in self.nodes} | self._asked.keys() | self._silent
        for name, row in there.items():
            if name not in known:
                news = self._starter.begin(name, declared(row), (facts, ()))
                self._asked[name] = (news, row)

    def _hear(self, name: str) -> None:
        """One piece of news of a machine that was asked what it is; see `_refuse`."""
        news, row = self._asked[name]
        try:
            kind, what = self._ray.get(next(news))
        except losses.raised(self._ray) as exc:
            del self._asked[name]
            self._silent.add(name)
            if (reason := losses.why_not(self._ray, exc)) is not None:
                self._refuse(name, f"node {name[:8]}: {reason}")
            return
        if kind == "begun":
            return
        del self._asked[name]
        if kind != "done":
            self._refuse(name, f"node {name[:8]} cannot say what it is: {what}")
            return
        node = Node(name, row["NodeManagerAddress"], declared(row), what)
        if (problem := other_version([node])) is not None:
            self._refuse(name, problem)
            return
        self.nodes = sorted([*self.nodes, node], key=lambda node: (node.address, node.id))

    def _refuse(self, name: str, why: str) -> None:
        """Leave out a machine that has another version of clipperf, or none at all.

        Raises:
            ClusterError: it was there before the work began, which it might be meant for.
        """
        if not self._is_settled:
            raise ClusterError(why)
        self._silent.add(name)
        say(f"note: a machine that came is left out: {why}")

    def _settle(self) -> None:
        """Wait until all that were asked have said what they are, but for those that are busy."""
        until_s = time.monotonic() + NODES_S
        while self._asked and time.monotonic() < until_s:
            self._turn()
        for name, (news, _) in self._asked.items():
            self._ray.cancel(news, force=True)
            self._silent.add(name)
        self._asked.clear()

    def free(self, task: Task) -> Node | None:
        """A machine that a task can begin on now."""
        fitting = self.fitting(task)
        return next((node for node in fitting if task.can_begin(node, self._flying)), None)

    def fitting(self, task: Task) -> list[Node]:
        """The machines that a task can run on once they are free."""
        return [node for node in self.nodes if task.fits(node) and node.holds([task.needs])]

    # --- tasks -----------------------------------------------------------------------------

    def run(
        self,
        tasks: Iterable[Task],
        on_told: OnTold = lambda task, told: None,
        on_done: OnDone = lambda done: None,
        on_lost: OnLost = lambda task, text: None,
    ) -> None:
        """Run all tasks; the next one is taken when a machine is free.

        `on_told` has what a task tells on its way, `on_done` how it ended, `on_lost` why one is
        done again: what it has told so far may come once more. While the next task is taken,
        others may use `call`.

        Raises:
            ClusterError: no machine is left, or none fits a task.
        """
        mine: list[Flight] = []
        waiting = iter(tasks)
        while True:
            self._until(self._any_free)
            task = next(waiting, None)
            if task is None:
                break
            mine = [flight for flight in mine if not flight.ended]
            mine.append(self._hand_over(task, on_told, on_done, on_lost))
        self._until(lambda: all(flight.ended for flight in mine))

    def call(
        self,
        task: Task,
        on_told: OnTold = lambda task, told: None,
        on_lost: OnLost = lambda task, text: None,
    ) -> Any:
        """What a task returns; others go on meanwhile, and are told of.

        Raises:
            ClipperfError: the task's own error, or no machine is left.
        """
        done: list[Done] = []
        flight = self._hand_over(task, on_told, done.append, on_lost)
        self._until(lambda: flight.ended)
        if done[0].error is not None:
            raise done[0].error
        return done[0].value

    def close(self) -> None:
        """End what still runs, at once."""
        self._waiting.clear()
        for flight in [each for each in self._flying if each.process is None]:
            with contextlib.suppress(*losses.raised(self._ray)):
                self._ray.cancel(flight.news, force=True)
        self._flying.clear()
        self._starter.close()

    def _hand_over(self, task: Task, on_told: OnTold, on_done: OnDone, on_lost: OnLost) -> Flight:
        flight = Flight(task, on_told, on_done, on_lost)
        self._waiting.append(flight)
        self._place()
        return flight

    def _any_free(self) -> bool:
        """Whether nothing waits, and some machine could begin a task of the last kind."""
        last = self._flying[-1].task if self._flying else ANYTHING
        return not self._waiting and self.free(last) is not None

    def _until(self, true: Callable[[], bool]) -> None:
        """Wait for news and hand them on until something holds."""
        while not true():
            if time.monotonic() - self._looked_s > LOOK_S:
                self.look()
            self._place()
            self._check_hope()
            self._turn()

    def _turn(self) -> None:
        """Wait for news, for a moment at most, and hand them on."""
        flying = list(self._flying)
        asked = {name: news for name, (news, _) in self._asked.items()}
        waited = [*(flight.news for flight in flying), *asked.values()]
        if not waited:
            time.sleep(TURN_S / 10)
            return
        ready, _ = self._ray.wait(waited, num_returns=1, timeout=TURN_S, fetch_local=False)
        if ready:
            ready, _ = self._ray.wait(waited, num_returns=len(waited), timeout=0)
        for name in [name for name, news in asked.items() if news in ready]:
            self._hear(name)
        for flight in [flight for flight in flying if flight.news in ready]:
            self._take(flight)

    def _place(self) -> None:
        """Begin what waits, as far as machines are free."""
        for flight in list(self._waiting):
            node = self.free(flight.task)
            if node is None:
                continue
            self._waiting.remove(flight)
            task, flight.node = flight.task, node
            call = task.function, task.args if task.late_args is None else task.late_args()
            takes = task.takes(node)
            if task.kept:
                flight.news, flight.process = self._starter.begin_kept(node.id, takes, call)
            else:
                flight.news = self._starter.begin(node.id, takes, call)
            self._flying.append(flight)

    def _take(self, flight: Flight) -> None:
        """Hand on one piece of news."""
        try:
            kind, what = self._ray.get(next(flight.news))
        except losses.raised(self._ray) as exc:
            self._lost(flight, exc)
            return
        if kind == "told":
            flight.on_told(flight.task, what)
        elif kind != "begun":
            self._end(flight, kind, what)

    def _end(self, flight: Flight, kind: str, what: Any) -> None:
        self._flying.remove(flight)
        flight.ended = True
        self._done_with(flight, well=kind == "done")
        value, error = (what, None) if kind == "done" else (None, what)
        if kind == "broken":
            where = "" if flight.node is None else f" on {flight.node.name}"
            error = ClusterError(f"{flight.task.name} broke{where}: {what.strip()}")
        flight.on_done(Done(flight.task, flight.node, value, error, tuple(flight.losses)))

    def _lost(self, flight: Flight, exc: Exception) -> None:
        """Do a task again whose machine or process is gone, a few times."""
        node = flight.node
        assert node is not None
        if (reason := losses.why_not(self._ray, exc)) is not None:
            self._end(flight, "failed", ClusterError(f"{node.name}: {reason}"))
            return
        if flight.process is not None:
            self._starter.drop(flight.process)
            flight.process = None
        gone = losses.is_of_machine(exc) or node.id not in alive(self._ray)
        if gone:
            self._has_lost = True
            self.nodes = [each for each in self.nodes if each.id != node.id]
        what = f"{node.name} was lost" if gone else f"a worker on {node.name} died"
        flight.losses.append(f"{what} ({losses.named(exc)})")
        if len(flight.losses) >= MOST_TRIES:
            said = f"{flight.task.name}: given up after {'; '.join(flight.losses)}"
            self._end(flight, "failed", LostError(said))
            return
        self._flying.remove(flight)
        flight.node = flight.news = None
        self._waiting.appendleft(flight)
        flight.on_lost(flight.task, f"{flight.losses[-1]}: once more")

    def _done_with(self, flight: Flight, well: bool) -> None:
        """What becomes of the process that a call has had, where it is one that is kept."""
        node, process, flight.process = flight.node, flight.process, None
        if process is not None and well and node and node.id in (each.id for each in self.nodes):
            self._starter.give_back(node.id, flight.task.takes(node), process)
        elif process is not None:
            self._starter.end([process])

    def _check_hope(self) -> None:
        """Raise where what waits can begin nowhere, and no machine has come for a while."""
        stuck = [flight for flight in self._waiting if not self.fitting(flight.task)]
        # One that is asked again while it is at work says what it is once that has ended.
        busy = {flight.node.id for flight in self._flying if flight.node is not None}
        if (self.nodes and not stuck) or busy & self._asked.keys():
            self._without_since_s = None
            return
        now_s = time.monotonic()
        if self._without_since_s is None:
            self._without_since_s = now_s
        if (self.nodes and not self._has_lost) or now_s - self._without_since_s > NODES_S:
            self._waiting.clear()
            names = ", ".join(flight.task.name for flight in stuck) or "anything"
            raise ClusterError(
                f"no machine of the Ray cluster has what {names} needs"
                if not self._has_lost
                else f"no machine of the Ray cluster is left for {names}: none has come for "
                f"{NODES_S:g} s; give the command again once there is one"
            )


@contextlib.contextmanager
def opened(address: str = AUTO) -> Iterator[Cluster]:
    """A cluster whose machines are known; what still runs on it when the block ends is ended.

    Raises:
        MissingDependencyError, UsageError, ClusterError: see `joined`; also where no machine
            takes work, or one has another version of clipperf.
    """
    with joined(address) as ray:
        cluster = Cluster(ray)
        try:
            yield cluster
        finally:
            cluster.close()
