"""How a call begins on a node: in a process of its own, or in one that is kept for the next."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from clipperf.system.cluster import losses
from clipperf.system.cluster.machines import Needs
from clipperf.system.cluster.remote import ROOM, Kept, perform
from clipperf.system.cluster.tasks import Flight

LEAVE_S = 5.0
"""How long processes that are kept may take to clean up before they are ended."""

AT_ONCE = 2
"""Calls of a process that is kept: its work, and the word that it is to end."""

NEWS_BYTES = 64 * 2**20
"""News up to this size go straight from process to process. Larger ones lie in the stores of the
nodes: where that of the node at home goes, Ray ends the command without a word as it looks."""

Call = tuple[Callable[..., Any], tuple[Any, ...]]


class Starter:
    """Begins calls on nodes. What a process that is kept takes of its node, it takes until it ends.

    Ray is asked for no retries of its own: it would not say that there were any.
    """

    def __init__(self, ray: Any) -> None:
        self._ray = ray
        settings = {
            "RAY_worker_niceness": "0",  # Ray's is 15: all else would go first
            "RAY_max_direct_call_object_size": f"{NEWS_BYTES}",
        }
        usual = {"env_vars": settings}
        remote = ray.remote(num_returns="streaming", max_retries=0, runtime_env=usual)
        self._perform = remote(perform)
        kept = ray.remote(max_restarts=0, max_task_retries=0, runtime_env=usual)
        self._kept = kept(Kept)
        self._idle: dict[str, list[tuple[Needs, Any]]] = {}
        self._all: list[Any] = []

    def begin(self, node_id: str, takes: Needs, call: Call) -> Any:
        """The news of a call in a process of its own; those that wait there for more are ended."""
        self.end([process for _, process in self._idle.pop(node_id, [])])
        return self._perform.options(**self._options(node_id, takes)).remote(*call)

    def begin_kept(self, node_id: str, takes: Needs, call: Call) -> tuple[Any, Any]:
        """The news of a call, and the process: one that waits for more, else one that is new."""
        waiting = self._idle.get(node_id, [])
        process = next((each for taken, each in waiting if taken == takes), None)
        if process is None:
            self.end([each for _, each in self._idle.pop(node_id, [])])
            options = {**self._options(node_id, takes), "max_concurrency": AT_ONCE}
            process = self._kept.options(**options).remote()
            self._all.append(process)
        else:
            waiting.remove((takes, process))
        streaming = {"num_returns": "streaming", "_generator_backpressure_num_objects": ROOM}
        return process.perform.options(**streaming).remote(*call), process

    def give_back(self, node_id: str, takes: Needs, process: Any) -> None:
        """A process whose call has ended well waits for the next one."""
        self._idle.setdefault(node_id, []).append((takes, process))

    @contextlib.contextmanager
    def ending(
        self, flights: list[Flight], waiting: deque[Flight], flying: list[Flight]
    ) -> Iterator[None]:
        """With flights that are over with the block, however that ends; see `cancel`."""
        try:
            yield
        finally:
            self.cancel(flights, waiting, flying)

    def cancel(self, flights: list[Flight], waiting: deque[Flight], flying: list[Flight]) -> None:
        """End flights, as nobody waits for them any more: they wait and fly no longer."""
        left = [flight for flight in flights if flight in flying]
        for held in (waiting, flying):
            for flight in [flight for flight in flights if flight in held]:
                held.remove(flight)
        self.end([flight.process for flight in left if flight.process is not None])
        for flight in [flight for flight in left if flight.process is None]:
            with contextlib.suppress(*losses.raised(self._ray)):
                self._ray.cancel(flight.news, force=True)

    def drop(self, process: Any) -> None:
        """A process that is lost, and cleans up nothing any more."""
        self._all.remove(process)
        self._kill(process)

    def close(self) -> None:
        """End all processes that are kept, whatever they do."""
        self._idle.clear()
        self.end(list(self._all))

    def end(self, processes: list[Any]) -> None:
        """End processes that live, which clean up first."""
        if not processes:
            return
        with contextlib.suppress(self._ray.exceptions.RayError, ValueError):
            left = [process.leave.remote() for process in processes]
            self._ray.wait(left, num_returns=len(left), timeout=LEAVE_S)
        for process in processes:
            self.drop(process)

    def _kill(self, process: Any) -> None:
        with contextlib.suppress(self._ray.exceptions.RayError, ValueError):
            self._ray.kill(process, no_restart=True)

    @staticmethod
    def _options(node_id: str, takes: Needs) -> dict[str, Any]:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        memory = {"memory": takes.memory_bytes} if takes.memory_bytes else {}
        return {
            "num_cpus": takes.cpus,
            "num_gpus": takes.gpus,
            "scheduling_strategy": NodeAffinitySchedulingStrategy(node_id, soft=False),
            **memory,
        }
