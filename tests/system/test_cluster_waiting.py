"""What is said of a cluster that is waited for, and when."""

from __future__ import annotations

import collections
from types import SimpleNamespace
from typing import Any

import pytest

from clipperf.system.cluster import roll, waiting
from clipperf.system.cluster.machines import Needs, Node, amounts, left_of
from clipperf.system.cluster.roll import Roll
from clipperf.system.cluster.running import Cluster
from clipperf.system.cluster.tasks import Flight, Task
from clipperf.system.cluster.waiting import Waits, begins_late, cannot_take, not_begun

ANY: Any = SimpleNamespace(host="a")
ONE = Node("0" * 56, "10.0.0.1", Needs(4, 1), ANY)
OTHER = Node("1" * 56, "10.0.0.2", Needs(8), ANY)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, as the module sees it."""
    now = [100.0]
    monkeypatch.setattr(waiting, "time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


def test_it_is_said_after_a_moment_and_then_sparsely(clock: list[float]) -> None:
    said: list[str] = []
    waits = Waits(said.append)
    for second in range(1200):
        clock[0] = 100.0 + second
        waits.see(100.0, lambda: "a machine")
    # 6, then 30 s later, then each time as long again as it has lasted, but 300 s at most.
    times = ("6.0 s", "36.0 s", "72.0 s", "2 min 24 s", "4 min 48 s", "9 min 36 s", "14 min 36 s")
    assert said == [f"waiting for {each} now: a machine" for each in (*times, "19 min 36 s")]
    said.clear()
    waits.see(clock[0] - 5, lambda: "another")
    assert not said
    waits.see(clock[0] - 7, lambda: "another")
    assert said == ["waiting for 7.0 s now: another"]


def test_a_wait_that_outlasts_other_work_is_said_as_sparsely(clock: list[float]) -> None:
    """One machine is busy all the while; each task of another, of 4 s, is awaited."""
    state = SimpleNamespace(available_resources_per_node=dict)
    ray: Any = SimpleNamespace(
        get_runtime_context=lambda: SimpleNamespace(gcs_address="10.0.0.1:6379"),
        _private=SimpleNamespace(state=state),
    )
    said: list[str] = []
    own = Cluster.__new__(Cluster)
    own._ray, own._waits = ray, Waits(said.append)
    own._waiting, own._without_since_s = collections.deque(), None
    own._flying = [Flight(Task("it", len), print, print, print, node=ONE, placed_s=100.0)]
    own._roll = Roll(ray, Any)
    own._roll.nodes, own._roll.look_again = [ONE], lambda: None  # type: ignore[method-assign]

    def turn() -> None:
        clock[0] += 1.0

    own._turn = turn  # type: ignore[method-assign]
    for ended_s in range(104, 221, 4):
        own._until(lambda until_s=ended_s: clock[0] >= until_s)  # type: ignore[misc]
    times = [text.partition(" now: not begun yet: it on a ")[0] for text in said]
    assert times == [f"waiting for {each}" for each in ("7.0 s", "37.0 s", "74.0 s")]


def test_amounts_are_said_as_people_do() -> None:
    assert amounts(Needs(1)) == "1 CPU"
    assert amounts(Needs(0.5, 2, 2**31)) == "0.5 CPUs, 2 GPUs, 2.00 GiB"
    assert amounts(Needs(4), Needs(1, 1)) == "4 CPUs, 0 GPUs"
    has = Needs(4, 2, 2**31)
    assert left_of(has, Needs(0.5, 1, 2**31)) == "0.5 of 4 CPUs free, 1 of 2 GPUs"
    assert (
        left_of(Needs(4, 0, 2**31), Needs(4, 0, 2**30)) == "4 of 4 CPUs free, 1.00 GiB of 2.00 GiB"
    )
    assert left_of(has, None) == "4 CPUs, 2 GPUs, 2.00 GiB"


def test_each_machine_is_named_with_why_it_takes_none() -> None:
    task = Task("shards 1 to 2", len, needs=Needs(1, 2))
    others = ["c has declared 0 CPUs"]
    assert cannot_take([task], [ONE, OTHER], others) == (
        "shards 1 to 2 needs 1 CPU, 2 GPUs: a (10.0.0.1, node 00000000) has declared 4 CPUs, "
        "1 GPU; a (10.0.0.2, node 11111111) has declared 8 CPUs, 0 GPUs; c has declared 0 CPUs"
    )
    picky = Task("it", len, fits=lambda node: node is ONE, unfit="is of another kind")
    assert cannot_take([picky], [OTHER], []).endswith("node 11111111) is of another kind")
    assert cannot_take([], [], others) == "none is left; c has declared 0 CPUs"
    assert cannot_take([task], [], []) == "shards 1 to 2 needs 1 CPU, 2 GPUs: there is none"


def test_what_ray_has_not_begun_is_named_with_what_is_free(clock: list[float]) -> None:
    task = Task("it", len, needs=Needs(1), alone=False)
    flights = [
        Flight(task, print, print, print, node=ONE, placed_s=placed_s, begun=begun)
        for placed_s, begun in ((100.0, False), (100.0, True), (104.0, False))
    ]
    clock[0] = 107.0
    late = begins_late(flights)
    assert late == flights[:1]
    name = "a (10.0.0.1, node 00000000)"
    said = not_begun(late, {ONE.id: Needs(0, 1)})
    left = "0 of 4 CPUs free, 1 of 1 GPUs"
    assert said.startswith(f"not begun yet: it on {name}, {left}, of which it takes 1 CPU: ")
    said = not_begun(late, {})
    assert said.startswith(f"not begun yet: it on {name}, 4 CPUs, 1 GPU, of which it takes 1 CPU: ")


class Lost(Exception):
    """As Ray's errors."""


def test_a_machine_whose_process_dies_is_asked_again_and_then_left_out() -> None:
    """A process may die as it starts, where much else does: that says nothing of the machine."""
    name = "b" * 56
    row = {"NodeID": name, "NodeManagerAddress": "10.0.0.2", "NodeManagerHostname": "b",
           "Alive": True, "Resources": {"CPU": 2.0}}  # fmt: skip
    asked: list[str] = []

    def begin(node_id: str, takes: Needs, call: object) -> Any:
        asked.append(node_id)
        return iter([Lost("no agent")])

    def get(what: Any) -> Any:
        raise what

    free = SimpleNamespace(available_resources_per_node=lambda: {name: {"CPU": 0.5}})
    ray: Any = SimpleNamespace(
        get=get, nodes=lambda: [row], _private=SimpleNamespace(state=free),
        exceptions=SimpleNamespace(RayError=Lost, RayTaskError=ZeroDivisionError),
        get_runtime_context=lambda: SimpleNamespace(gcs_address="10.0.0.1:6379"),
    )  # fmt: skip
    starter: Any = SimpleNamespace(begin=begin)
    own = Roll(ray, starter)
    for tries in range(1, roll.MOST_TRIES + 1):
        own.look()
        assert asked == [name] * tries and own.is_asking
        assert own.words == [
            "b (10.0.0.2, node bbbbbbbb) has not said what it is: 0.5 of 2 CPUs free"
        ]
        own.hear(name)
    own.look()
    assert not own.is_asking and len(asked) == roll.MOST_TRIES
    assert own.words == [
        "b (10.0.0.2, node bbbbbbbb) starts no process, tried 3 times: Lost: no agent"
    ]
    needs = Task("it", len, needs=Needs(1))
    own.nodes = [ONE]
    assert not own.may_come(needs)
    own.asked = {name: (None, row)}
    assert own.may_come(needs) and not own.may_come(Task("it", len, needs=Needs(3)))
    own.asked.clear()
    row["Alive"] = False
    own.look()
    assert own.words == [], "it has left"
