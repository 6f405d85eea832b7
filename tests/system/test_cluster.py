"""Tasks on a real Ray cluster of several nodes on this machine, and what is said without one."""

from __future__ import annotations

import functools
import itertools
import os
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from conftest import ROOT
from ray_nodes import Nodes, node, started

from clipperf.errors import ClusterError, LostError, MissingDependencyError, UsageError
from clipperf.system import env
from clipperf.system.cluster import joining, losses, machines, roll, waiting
from clipperf.system.cluster.machines import Facts, Needs, Node
from clipperf.system.cluster.remote import ROOM
from clipperf.system.cluster.roll import NODES_S, Roll
from clipperf.system.cluster.running import Cluster, opened
from clipperf.system.cluster.tasks import Done, Flight, Task

TOYS = """
import os, time
from pathlib import Path
from clipperf.errors import UsageError
from clipperf.system.cluster.machines import facts
from clipperf.system.cluster.remote import at_end

def square(tell, number, folder):
    tell((number, os.getpid(), os.environ["CLIPPERF_HOME"]))
    begun = time.monotonic()
    while (Path(folder) / f"wait-{number}").exists():
        time.sleep(0.02)
    time.sleep(0.05)
    gpus = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return number * number, begun, time.monotonic(), gpus

def refuse(tell):
    raise UsageError("not this one")

def break_(tell):
    return 1 / 0

def end(tell):
    os._exit(3)

def niceness(tell):
    return os.nice(0)

def refuse_and_clean(tell, folder):
    at_end((Path(folder) / "cleaned").touch)
    raise UsageError("not this one")

def facts_in_the_end(tell, folder):
    try:
        (Path(folder) / "dies").unlink()
    except FileNotFoundError:
        return facts()
    os._exit(3)

def talk(tell, folder, many):
    with open(Path(folder) / "talked", "w") as log:
        for number in range(many):
            tell(number)
            print(number, file=log, flush=True)
"""


# --- without a cluster ---------------------------------------------------------------------


def test_without_ray_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'clipperf\[ray\]'"), opened():
        pass


@pytest.mark.parametrize(
    "word", ["nowhere", "host:", "host:65536", "host:0", "http://host:1", "plan.toml"]
)
def test_what_is_no_address_is_refused(word: str) -> None:
    pytest.importorskip("ray")
    assert not joining.is_address(word) or word.startswith("host:")
    with pytest.raises(UsageError, match=f"{word} is no address: .* HOST:PORT"), opened(word):
        pass


@pytest.mark.parametrize("named", [None, "10.0.0.1:6379"])
def test_a_head_that_asks_for_a_token_is_a_reason_that_is_named(
    named: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray itself says of it only that it failed to connect."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if named:
        monkeypatch.setenv("RAY_ADDRESS", named)
    address = joining.AUTO if named else "10.0.0.1:6379"
    said = joining._why(address, ConnectionError("Failed to connect"))
    assert "10.0.0.1:6379 cannot be joined: Failed to connect; " in said
    assert "set RAY_AUTH_MODE=token here" in said


def test_a_client_address_is_refused_with_the_reason() -> None:
    pytest.importorskip("ray")
    with pytest.raises(UsageError, match="run the command on a machine"), opened("ray://host:1"):
        pass


def test_where_nobody_listens_it_says_so() -> None:
    pytest.importorskip("ray")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        said = f"no Ray cluster answers at {address}"
        with pytest.raises(ClusterError, match=said), opened(address):
            pass


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ("127.0.0.1:{port}", "no Ray cluster answers at RAY_ADDRESS=127.0.0.1:"),
        ("ray://127.0.0.1:{port}", "RAY_ADDRESS=ray://127.0.0.1:.* run the command on a machine"),
        ("nowhere", "RAY_ADDRESS=nowhere is no address: .* HOST:PORT"),
    ],
)
def test_where_nobody_listens_at_ray_address_it_says_so(
    named: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        monkeypatch.setenv("RAY_ADDRESS", named.format(port=taken.getsockname()[1]))
        with pytest.raises((ClusterError, UsageError), match=said), opened():
            pass


def test_machines_with_another_clipperf_are_named() -> None:
    here = env.capture()
    one = Node("a" * 56, "10.0.0.1", Needs(), machines.facts())
    other = Node("b" * 56, "10.0.0.2", Needs(), Facts("0.0.9", "m", "host-2", here))
    assert machines.other_version([one]) is None
    said = machines.other_version([one, other])
    assert said is not None and "host-2 (10.0.0.2, node bbbbbbbb) has 0.0.9" in said


@pytest.mark.parametrize("settled", [False, True])
def test_a_machine_that_comes_later_with_another_clipperf_is_left_out(
    settled: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    other = Facts("0.0.9", "m", "host-2", env.capture())
    row = {"NodeManagerAddress": "10.0.0.2", "Resources": {"CPU": 1.0}}
    own: Any = Roll.__new__(Roll)
    own._ray = SimpleNamespace(
        get=lambda news: news, exceptions=SimpleNamespace(RayError=LostError)
    )
    own.asked = {"b" * 56: (iter([("begun", None), ("done", other)]), row)}
    own.left_out, own.nodes, own.is_settled = {}, [], settled
    own.hear("b" * 56)
    said = "host-2 (10.0.0.2, node bbbbbbbb) has 0.0.9"
    if settled:
        own.hear("b" * 56)
        assert said in own.left_out["b" * 56] and said in capsys.readouterr().err
    else:
        with pytest.raises(ClusterError) as caught:
            own.hear("b" * 56)
        assert said in str(caught.value)
    assert own.nodes == []


def test_machines_are_alike_where_all_that_counts_is() -> None:
    here = env.capture()
    one = Node("a", "", Needs(), Facts("1", "m", "h", here))

    def like(**changes: Any) -> bool:
        found = replace(one, facts=replace(one.facts, environment=replace(here, **changes)))
        return found.kind == one.kind

    assert like(id="other", gpu_uuid="GPU-2", created_utc="later", git_sha="abc")
    assert like(ram_bytes=here.ram_bytes + 1000)
    assert not like(cpu="another") and not like(gpu="NVIDIA L4")
    assert not like(versions={**here.versions, "numpy": "1.0"})


def test_a_module_that_is_not_there_is_no_loss() -> None:
    ray = pytest.importorskip("ray")
    wrapped = ray.exceptions.RayTaskError("f", "Traceback\nNo module named 'clipperf'", None)
    said = losses.why_not(ray, wrapped)
    assert said is not None and said.endswith("install the same clipperf there")
    assert losses.why_not(ray, ray.exceptions.WorkerCrashedError()) is None


@pytest.mark.parametrize(("kind", "there", "expected"), [
    ("done", True, "given back"),
    ("done", False, "ended"),  # its node is asked anew what it is, with all that it has declared
    ("failed", True, "ended"),
])  # fmt: skip
def test_what_becomes_of_a_process_that_is_kept(kind: str, there: bool, expected: str) -> None:
    said: list[object] = []
    facts: Any = None
    own: Any = Cluster.__new__(Cluster)
    at = Node("01234567", "10.0.0.1", Needs(2, 2), facts)
    own._roll = SimpleNamespace(nodes=[at] if there else [])
    own._starter = SimpleNamespace(
        give_back=lambda *its: said.extend(("given back", *its)),
        end=lambda processes: said.extend(("ended", *processes)),
    )
    task = Task("some", len, needs=Needs(1, 1), alone=False, kept=True)
    done: list[Done] = []
    error = UsageError("not this one")
    flight = Flight(task, print, done.append, print, node=at, process="its process")
    own._flying = [flight]
    own._end(flight, kind, error)
    its = (at.id, task.needs) if expected == "given back" else ()
    assert said == [expected, *its, "its process"]
    assert flight.ended and len(done) == 1 and (done[0].error is error) == (kind == "failed")


def test_a_machine_that_is_asked_again_is_hoped_for_while_it_is_at_work() -> None:
    facts: Any = None
    own: Any = Cluster.__new__(Cluster)
    at = Node("01234567", "10.0.0.1", Needs(2, 2), facts)
    task = Task("some", len, kept=True)
    flying, waiting = Flight(task, print, print, print, node=at), Flight(task, print, print, print)
    own._roll = SimpleNamespace(
        nodes=[], asked={at.id: None}, head=SimpleNamespace(why=""), words=["b has 0 CPUs"],
        may_come=lambda task: True, goes_on="the same command goes on",
    )  # fmt: skip
    own._flying, own._waiting, own._without_since_s = [flying], deque([waiting]), -NODES_S
    own._check_hope()
    assert own._without_since_s is None
    own._flying, own._without_since_s = [], time.monotonic() - 2 * NODES_S
    with pytest.raises(ClusterError) as caught:
        own._check_hope()
    assert str(caught.value) == (
        "no machine of the Ray cluster can do it: some needs 1 CPU: b has 0 CPUs; none has come "
        "for 120 s; the same command goes on"
    )


# --- with one ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a module of functions, which the machines have, too."""
    folder = tmp_path_factory.mktemp("cluster")
    (folder / "ray_toys.py").write_text(TOYS)
    return folder


@pytest.fixture(scope="module")
def nodes(place: Path) -> Iterator[Nodes]:
    """Two nodes, the second with two GPUs."""
    path = os.pathsep.join((str(place), str(ROOT)))
    made = [node(place / f"home-{n}", gpus=2 * n, PYTHONPATH=path) for n in range(2)]
    with started(made) as running:
        yield running


@pytest.fixture
def cluster(nodes: Nodes, place: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """The cluster, joined, with each node taken for a machine."""
    monkeypatch.syspath_prepend(str(place))
    monkeypatch.setenv(machines.APART, "1")
    with opened(nodes.address) as joined:
        yield joined


def toys() -> Any:
    import ray_toys

    return ray_toys


@pytest.mark.slow
def test_machines_say_what_they_are(cluster: Cluster) -> None:
    here = env.capture()
    assert [
        found.declared.gpus for found in sorted(cluster.nodes, key=lambda n: n.declared.gpus)
    ] == [0, 2]
    for found in cluster.nodes:
        assert found.facts.environment.id == here.id and found.declared.cpus == 1
        assert found.facts.machine == cluster.nodes[0].facts.machine


@pytest.mark.slow
def test_nothing_runs_beside_a_task_that_is_alone(cluster: Cluster, place: Path) -> None:
    done: list[Done] = []
    tasks = (Task(f"{n}", toys().square, (n, str(place))) for n in range(12))
    cluster.run(tasks, on_done=done.append)
    assert sorted(each.value[0] for each in done) == [n * n for n in range(12)]
    spans: dict[str, list[tuple[float, float]]] = {}
    for each in done:
        assert each.node is not None and each.error is None
        spans.setdefault(each.node.id, []).append(each.value[1:3])
    assert len(spans) == 2, "both machines had some"
    for own in spans.values():
        own.sort()
        assert all(end <= begun for (_, end), (begun, _) in itertools.pairwise(own))


@pytest.mark.slow
def test_what_flies_when_a_run_fails_is_ended(cluster: Cluster, place: Path) -> None:
    """Both machines are at work on what has no end, and are free for what comes next."""
    waits = [place / f"wait-{number}" for number in (50, 51)]
    pids: list[int] = []

    def told(task: Task, what: Any) -> None:
        pids.append(what[1])
        if len(pids) == 2:
            raise KeyError("at home")

    for path in waits:
        path.touch()
    try:
        with pytest.raises(KeyError, match="at home"):
            cluster.run((Task(f"{n}", toys().square, (n, str(place))) for n in (50, 51, 52)), told)
        assert cluster.call(Task("3", toys().square, (3, str(place))))[0] == 9
        end_s = time.monotonic() + 60
        while any(map(psutil.pid_exists, pids)):
            assert time.monotonic() < end_s, "a task goes on that nobody waits for"
            time.sleep(0.05)
    finally:
        for path in waits:
            path.unlink()


@pytest.mark.slow
def test_nodes_of_one_machine_take_turns(
    cluster: Cluster, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(machines.APART)
    done: list[Done] = []
    cluster.run(
        [Task(f"{n}", toys().square, (n, str(place))) for n in range(6)], on_done=done.append
    )
    spans = sorted(each.value[1:3] for each in done)
    assert all(end <= begun for (_, end), (begun, _) in itertools.pairwise(spans))


@pytest.mark.slow
def test_gpus_are_given_to_one_task_each(cluster: Cluster, place: Path) -> None:
    """Tasks that are not alone run beside each other as far as what they need is there."""
    for number in range(2):
        (place / f"wait-{number}").touch()
    done: list[Done] = []
    begun: set[int] = set()

    def told(task: Task, what: Any) -> None:
        begun.add(what[0])
        if begun == {0, 1}:  # beside each other
            for number in range(2):
                (place / f"wait-{number}").unlink(missing_ok=True)

    tasks = [
        Task(f"{n}", toys().square, (n, str(place)), Needs(cpus=0, gpus=1), alone=False)
        for n in range(6)
    ]
    cluster.run(tasks, told, done.append)
    first = {each.value[3] for each in done if each.value[0] < 2}
    assert first == {"0", "1"}
    for gpu in first:
        spans = sorted(each.value[1:3] for each in done if each.value[3] == gpu)
        assert all(end <= begun for (_, end), (begun, _) in itertools.pairwise(spans))


@pytest.mark.slow
def test_work_is_done_at_the_priority_of_a_command(cluster: Cluster) -> None:
    """Ray's own is 15 lower: whatever else runs on the machine would come first."""
    assert cluster.call(Task("nice", toys().niceness)) == os.nice(0)


@pytest.mark.slow
def test_errors_come_home_as_what_they_are(cluster: Cluster) -> None:
    with pytest.raises(UsageError, match="not this one"):
        cluster.call(Task("refused", toys().refuse))
    with pytest.raises(ClusterError, match="ZeroDivisionError"):
        cluster.call(Task("broken", toys().break_))
    nodes = r"(.* has declared 1 CPU, [02] GPUs(; |$)){2}"  # in the order of their ids
    said = f"can do it: many needs 1 CPU, 3 GPUs: {nodes}"
    with pytest.raises(ClusterError, match=said):
        cluster.call(Task("many", toys().refuse, needs=Needs(gpus=3)))


@pytest.mark.slow
def test_a_process_that_is_kept_and_fails_cleans_up(cluster: Cluster, place: Path) -> None:
    refused = Task("refused", toys().refuse_and_clean, (str(place),), alone=False, kept=True)
    with pytest.raises(UsageError, match="not this one"):
        cluster.call(refused)
    assert (place / "cleaned").exists()


@pytest.mark.slow
def test_a_process_that_is_kept_waits_where_home_is_slow(cluster: Cluster, place: Path) -> None:
    """As many wait in it as on their way, and some are in the hands of those who pass them on."""
    heard: list[int] = []
    most: list[int] = []

    def told(task: Task, number: int) -> None:
        if not heard:
            time.sleep(1)
            most.append(len((place / "talked").read_text().splitlines()))
        heard.append(number)

    task = Task("talks", toys().talk, (str(place), 100), alone=False, kept=True)
    cluster.call(task, told)
    assert heard == [*range(100)]
    assert ROOM <= most[0] <= 2 * ROOM + 4


@pytest.mark.slow
def test_a_process_that_ends_each_time_is_given_up(cluster: Cluster) -> None:
    told: list[str] = []
    with pytest.raises(LostError, match="given up after"):
        cluster.call(Task("ends", toys().end), on_lost=lambda task, text: told.append(text))
    assert len(told) == 2 and all("a worker on" in text and "died" in text for text in told)


@pytest.mark.slow
def test_a_process_that_was_killed_is_done_again(cluster: Cluster, place: Path) -> None:
    (place / "wait-1").touch()
    losses: list[str] = []

    def told(task: Task, what: Any) -> None:
        if losses:
            (place / "wait-1").unlink()
        else:
            os.kill(what[1], signal.SIGKILL)

    task = Task("killed", toys().square, (1, str(place)))
    found = cluster.call(task, told, lambda task, text: losses.append(text))
    assert found[0] == 1 and len(losses) == 1


@pytest.mark.slow
def test_others_go_on_while_one_is_called(cluster: Cluster, place: Path) -> None:
    """As a sweep makes what its next group needs while a group runs."""
    (place / "wait-7").touch()
    ended: list[int] = []

    def tasks() -> Iterator[Task]:
        yield Task("first", toys().square, (7, str(place)))
        assert cluster.call(Task("between", toys().square, (3, str(place))))[0] == 9
        assert not ended
        (place / "wait-7").unlink()
        yield Task("second", toys().square, (8, str(place)))

    cluster.run(tasks(), on_done=lambda done: ended.append(done.value[0]))
    assert sorted(ended) == [49, 64]


@pytest.mark.slow
def test_a_machine_that_other_work_has_is_waited_for_with_a_word(
    nodes: Nodes, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """First none can say what it is, then one that has cannot begin what it is given."""
    monkeypatch.syspath_prepend(str(place))
    monkeypatch.setenv(machines.APART, "1")
    for name in ("FIRST_S", "BEGIN_S"):
        monkeypatch.setattr(waiting, name, 0.5)
    said: list[str] = []
    held: list[Any] = []

    def release() -> None:
        while held:
            ray.kill(held.pop())

    def hear(text: str) -> None:
        said.append(text)
        release()

    def hold() -> None:
        """As other work does: one CPU of each node."""
        for row in ray.nodes():
            if row["Resources"].get("CPU"):
                at = NodeAffinitySchedulingStrategy(row["NodeID"], soft=False)
                held.append(other.options(num_cpus=1, scheduling_strategy=at).remote())
        ray.get([each.__ray_ready__.remote() for each in held])

    with joining.joined(nodes.address) as ray:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        other = ray.remote(type("Other", (), {}))
        hold()
        with opened(nodes.address, hear) as cluster:
            assert len(cluster.nodes) == 2 and len(said) == 1
            assert said[0].startswith("waiting for ") and said[0].count("has not said what it") == 2
            assert said[0].count(" of 1 CPUs free") == 2
            hold()
            assert cluster.call(Task("five", toys().square, (5, str(place))))[0] == 25
            assert len(said) == 2
            assert "not begun yet: five on " in said[1]
            assert " of 1 CPUs free" in said[1] and ", of which it takes 1 CPU" in said[1]


@pytest.mark.slow
def test_a_machine_whose_first_process_dies_is_asked_again(
    nodes: Nodes, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(place))
    monkeypatch.setattr(roll, "LOOK_S", 0.5)
    monkeypatch.setattr(roll, "facts", functools.partial(toys().facts_in_the_end, folder=place))
    (place / "dies").touch()
    with opened(nodes.address) as cluster:
        assert len(cluster.nodes) == 2 and not (place / "dies").exists()
    monkeypatch.setattr(roll, "facts", toys().end)
    with pytest.raises(ClusterError) as caught, opened(nodes.address):
        pass
    said = str(caught.value)
    assert said.startswith("no machine of the Ray cluster takes work: ")
    assert said.count(") starts no process, tried 3 times: WorkerCrashedError: ") == 2


@pytest.mark.slow
def test_a_machine_that_is_lost_is_replaced(cluster: Cluster, nodes: Nodes, place: Path) -> None:
    """The last test: it takes the second node away."""
    lost: list[tuple[str, str]] = []
    done: list[Done] = []
    begun: set[str] = set()
    for number in range(2):
        (place / f"wait-{number}").touch()

    def told(task: Task, what: Any) -> None:
        begun.add(what[2])
        if len(begun) == 2 and (place / "wait-0").exists():  # both machines have one
            nodes.kill(1)
            for number in range(2):
                (place / f"wait-{number}").unlink()

    cluster.run(
        [Task(f"{n}", toys().square, (n, str(place))) for n in range(4)],
        told,
        done.append,
        lambda task, text: lost.append((task.name, text)),
    )
    assert sorted(each.value[0] for each in done) == [0, 1, 4, 9]
    ((name, text),) = lost
    assert "was lost" in text and text.endswith("once more")
    assert [each.task.name for each in done if each.losses] == [name]
    assert len(cluster.nodes) == 1
