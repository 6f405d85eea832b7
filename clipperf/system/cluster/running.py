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

from clipperf.errors import ClusterError, LostError, StorageError
from clipperf.system.cluster import losses
from clipperf.system.cluster.joining import AUTO, joined
from clipperf.system.cluster.machines import Node, free_of
from clipperf.system.cluster.roll import MOST_TRIES, NODES_S, Roll
from clipperf.system.cluster.starting import Starter
from clipperf.system.cluster.tasks import ANYTHING, Done, Flight, OnDone, OnLost, OnTold, Task
from clipperf.system.cluster.waiting import OnWait, Waits, begins_late, cannot_take, not_begun
from clipperf.system.terminal import say

TURN_S, GET_S = 1.0, 10.0
"""How long to wait for news, and for what they say."""


class Cluster:
    """A joined cluster; see `opened`. `nodes` are the machines that are there now."""

    def __init__(self, ray: Any, on_wait: OnWait = say, kept: str = "") -> None:
        self._ray = ray
        self._starter = Starter(ray)
        self._waiting: collections.deque[Flight] = collections.deque()
        self._flying: list[Flight] = []
        self._without_since_s: float | None = None
        self._waits = Waits(on_wait)
        self._roll = Roll(ray, self._starter, kept)
        self._roll.settle(self._turn, self._waits)

    # --- machines --------------------------------------------------------------------------

    @property
    def nodes(self) -> list[Node]:
        """The machines that are there now, and have said what they are."""
        return self._roll.nodes

    def node_of(self, task: Task) -> Node | None:
        """The machine that a task is on."""
        return next((each.node for each in self._flying if each.task is task), None)

    def free(self, task: Task) -> Node | None:
        """A machine that a task can begin on now."""
        fitting = self.fitting(task)
        return next((node for node in fitting if task.can_begin(node, self._flying)), None)

    def fitting(self, task: Task) -> list[Node]:
        """The machines that a task can run on once they are free."""
        return [node for node in self.nodes if task.lacks(node) is None]

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
        with self._starter.ending(mine, self._waiting, self._flying):
            while True:
                self._until(self._any_free)
                task = next(waiting, None)
                if task is None:
                    break
                mine[:] = [flight for flight in mine if not flight.ended]
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
        with self._starter.ending([flight], self._waiting, self._flying):
            self._until(lambda: flight.ended)
        if done[0].error is not None:
            raise done[0].error
        return done[0].value

    def close(self) -> None:
        """End what still runs, at once."""
        self._starter.cancel([*self._waiting, *self._flying], self._waiting, self._flying)
        self._roll.close()
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
            self._roll.look_again()
            self._place()
            self._check_hope()
            self._say_waits()
            self._turn()

    def _say_waits(self) -> None:
        """Say what is waited for that is no work of this command."""
        late = begins_late(self._flying)
        head = self._roll.head
        if head.silent_since_s is not None:
            self._waits.see(head.silent_since_s, lambda: head.words)
        elif self._without_since_s is not None:
            self._waits.see(self._without_since_s, self._of_stuck)
        elif late:
            since_s = min(flight.placed_s for flight in late)
            self._waits.see(since_s, lambda: not_begun(late, free_of(self._ray)))

    def _turn(self) -> None:
        """Wait for news, for a moment at most, and hand them on."""
        flying = list(self._flying)
        asked = {name: news for name, (news, _) in self._roll.asked.items()}
        waited = [*(flight.news for flight in flying), *asked.values()]
        if not waited:
            time.sleep(TURN_S / 10)
            return
        ready, _ = self._ray.wait(waited, num_returns=1, timeout=TURN_S, fetch_local=False)
        if ready:
            ready, _ = self._ray.wait(waited, num_returns=len(waited), timeout=0)
        for name in [name for name, news in asked.items() if news in ready]:
            self._roll.hear(name)
        for flight in [flight for flight in flying if flight.news in ready]:
            self._take(flight)

    def _place(self) -> None:
        """Begin what waits, as far as machines are free."""
        if self._roll.head.why:  # nothing new begins without it
            return
        for flight in list(self._waiting):
            node = self.free(flight.task)
            if node is None:
                continue
            self._waiting.remove(flight)
            task, flight.node = flight.task, node
            flight.begun, flight.placed_s = False, time.monotonic()
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
            kind, what = self._got(next(flight.news))
        except losses.raised(self._ray) as exc:
            self._lost(flight, exc)
            return
        flight.begun = True
        if kind == "told":
            flight.on_told(flight.task, what)
        elif kind != "begun":
            self._end(flight, kind, what)

    def _got(self, news: Any) -> Any:
        """One piece of news, which may have to come from another machine.

        Raises:
            HeadError: with the head the way for it is gone.
        """
        while True:
            try:
                return self._ray.get(news, timeout=GET_S)
            except self._ray.exceptions.GetTimeoutError:
                self._roll.look_again()

    def _end(self, flight: Flight, kind: str, what: Any) -> None:
        self._flying.remove(flight)
        flight.ended = True
        self._done_with(flight, well=kind == "done")
        value, error = (what, None) if kind == "done" else (None, what)
        if kind == "broken":
            where = "" if flight.node is None else f" on {flight.node.name}"
            error = ClusterError(f"{flight.task.name} broke{where}: {what.strip()}")
        elif isinstance(error, StorageError) and flight.node is not None:
            losses.say_where(error, flight.node)  # there are several disks
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
        gone = losses.is_of_machine(exc) or not self._roll.has(node)
        if gone:
            self._roll.drop(node)
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
        stuck = self._stuck()
        # One that is asked again while it is at work says what it is once that has ended.
        busy = {flight.node.id for flight in self._flying if flight.node is not None}
        if (self.nodes and not stuck) or busy & self._roll.asked.keys() or self._roll.head.why:
            self._without_since_s = None
            return
        now_s = time.monotonic()
        if self._without_since_s is None:
            self._without_since_s = now_s
        may_come = all(self._roll.may_come(flight.task) for flight in stuck)
        if not may_come or now_s - self._without_since_s > NODES_S:
            said = f"no machine of the Ray cluster can do it: {self._of_stuck()}"
            self._waiting.clear()
            if may_come:
                said = f"{said}; none has come for {NODES_S:g} s; {self._roll.goes_on}"
            raise ClusterError(said)

    def _stuck(self) -> list[Flight]:
        """What waits and can begin on none of the machines that are there."""
        return [flight for flight in self._waiting if not self.fitting(flight.task)]

    def _of_stuck(self) -> str:
        """What waits for machines that are not there."""
        tasks = [flight.task for flight in self._stuck()]
        return cannot_take(tasks, self.nodes, self._roll.words)


@contextlib.contextmanager
def opened(address: str = AUTO, on_wait: OnWait = say, kept: str = "") -> Iterator[Cluster]:
    """A cluster whose machines are known; what still runs on it when the block ends is ended.

    `on_wait` has words for what is waited for, `kept` says what there is when the cluster is gone.

    Raises:
        MissingDependencyError, UsageError, ClusterError: see `joined`; also where no machine
            takes work, or one has another version of clipperf.
    """
    with joined(address) as ray:
        cluster = Cluster(ray, on_wait, kept)
        try:
            yield cluster
        finally:
            cluster.close()
