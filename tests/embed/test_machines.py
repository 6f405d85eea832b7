"""`clipperf embed --ray` on a real Ray cluster of two nodes on this machine.

Each node has a store of its own. A toy runtime notes which node runs a batch, and waits where a
test wants it to.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest
from conftest import ROOT, Cli, leftovers, start
from packages import write_package
from ray_nodes import Nodes, node, started

from clipperf.embed import away
from clipperf.embed.away import Forward, Job
from clipperf.embed.dataset import opened
from clipperf.embed.items import Wanted
from clipperf.embed.machines import Machines, called
from clipperf.embed.manifest import Data, Plan
from clipperf.errors import ClipperfError, ClusterError, EngineError
from clipperf.system.cluster import remote
from clipperf.system.cluster.machines import Needs
from clipperf.system.cluster.tasks import Done, Task

TOYS = """
import dataclasses, json, os, sys, time
from pathlib import Path
from clipperf.engines import contract
from clipperf.engines.contract import Availability, Runtime

HERE, NODE = Path(os.environ["TOYS"]), os.environ.get("NODE", "home")

def is_tested():
    frame = sys._getframe()
    while frame is not None and not frame.f_code.co_filename.endswith("selftest.py"):
        frame = frame.f_back
    return frame is not None

class Engine:
    def __init__(self, request):
        cell = dataclasses.replace(request.cell, runtime="onnx")
        self._own = contract.get("onnx").open(dataclasses.replace(request, cell=cell))
    def run(self, array):
        if is_tested():
            return self._own.run(array)
        with open(HERE / "ran", "a") as log:
            log.write(json.dumps([NODE, os.getpid(), len(array)]) + "\\n")
        while (HERE / f"wait-{NODE}").exists():
            time.sleep(0.02)
        return self._own.run(array)
    def close(self):
        self._own.close()

def warning(tower):
    return f"beware on {NODE}" if (HERE / "warns").exists() else None

RUNTIME = Runtime("toy", "onnx", ("fp32",), ("cpu",), lambda d: Availability(True, "toy"), Engine,
                  warning=warning)
"""


# --- without a cluster ---------------------------------------------------------------------


def test_items_go_on_where_the_last_run_of_shards_ended(samples: str, tmp_path: Path) -> None:
    data = opened(Path(samples), Wanted(), tmp_path)
    names = [item.id for item in data.items(0)]
    taken: list[int] = []

    def counted(start: int) -> Iterator[Any]:
        taken.append(start)
        return data.items(start)

    forward = Forward(dataclasses.replace(data, items=counted, count=None))

    def some(start: int, count: int) -> list[str]:
        return [item.id for item, _ in zip(forward.items(start), range(count), strict=False)]

    # zip takes one item more than it gives, as whoever reads ahead does.
    assert some(0, 4) == names[:4] and some(7, 3) == names[7:10]
    assert taken == [0]
    assert some(2, 2) == names[2:4] and taken == [0, 2]
    assert some(20, 9) == names[20:] and taken == [0, 2]
    # Where it is known how many there are, nothing is read of what is passed over.
    taken.clear()
    forward = Forward(dataclasses.replace(data, items=counted))
    assert some(0, 4) == names[:4] and some(7, 3) == names[7:10]
    assert taken == [0, 7]
    assert some(11, 2) == names[11:13] and taken == [0, 7]


def test_another_dataset_under_the_same_path_is_refused(
    samples: str, tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a machine that has a copy with other times, or none at all."""
    monkeypatch.setattr(away, "_open", away._Open())
    found = opened(Path(samples), Wanted(), tmp_path)

    def job(path: Path, digest: str) -> Job:
        data = Data("folder", str(path), found.files, found.size_bytes, digest, 24)
        opening: Any = None
        return Job(opening, path, Wanted(), data, Plan("npy", "float32", 4, 6), None, False)

    with pytest.raises(ClusterError, match=r"is not what it is here: there 24 files .* rsync -t"):
        away._dataset(job(Path(samples), "another"))
    with pytest.raises(ClusterError, match=r"does not have the dataset: .* put it where all"):
        away._dataset(job(tmp_path / "none", found.digest))
    assert away._dataset(job(Path(samples), found.digest)).digest == found.digest
    remote.Kept().leave()
    assert not leftovers(home)


@pytest.mark.parametrize(
    ("missing", "machines", "expected"),
    [
        (range(6), 2, [1, 1, 1, 1, 1, 1]),
        (range(30), 2, [5, 4, 3, 3, 2, 2, 1, 1] + [1] * 9),
        ([*range(3), *range(9, 12)], 1, [2, 1, 1, 1, 1]),
        (range(100), 1, [8] * 9 + [8, 6, 4, 3, 2, 1, 1, 1, 1, 1]),
    ],
)
def test_runs_get_shorter_towards_the_end(missing: Any, machines: int, expected: list[int]) -> None:
    own: Any = Machines.__new__(Machines)
    own._cluster, own._needs = SimpleNamespace(nodes=[None] * machines), Needs()
    runs = list(own._shared_out(missing))
    assert [number for run in runs for number in run] == list(missing)
    assert [len(run) for run in runs] == expected


def test_runs_are_for_as_many_processes_as_there_are_gpus() -> None:
    own: Any = Machines.__new__(Machines)
    declared = Needs(cpus=16, gpus=4), Needs(cpus=2, gpus=4), Needs(cpus=8)
    own._cluster = SimpleNamespace(nodes=[SimpleNamespace(declared=each) for each in declared])
    own._needs = Needs(gpus=1)
    assert own._processes() == 6
    # 36 // (3 * 6), then 34 // 18 and less.
    assert [len(run) for run in own._shared_out(range(36))] == [2] + [1] * 34


def test_what_fails_says_where_once() -> None:
    there: Any = SimpleNamespace(name="a (10.0.0.1, node 01234567)")
    task, told = Task("some", away.describe), []

    def run(error: ClipperfError) -> Any:
        def own(tasks: Any, on_told: Any, on_done: Any, on_lost: Any) -> None:
            told.extend(tasks)
            on_done(Done(task, there, None, error))

        return SimpleNamespace(run=own)

    for error in (EngineError("no room"), EngineError(f"{there.name}: no room")):
        with pytest.raises(EngineError, match=r"^a \(10.0.0.1, node 01234567\): no room$"):
            called(run(error), task, lambda task, text: None)
    assert told == [task, task]


def test_what_machines_warn_of_is_said_once_with_the_first_ones_name() -> None:
    told: list[str] = []
    own: Any = Machines.__new__(Machines)
    own._warned, own._warn = set(), told.append
    for name, warned in (("a", ("one",)), ("b", ("one", "two")), ("a", ("two", "one"))):
        at = SimpleNamespace(name=name)
        own._cluster = SimpleNamespace(node_of=lambda task, at=at: at)
        own._hear(Task("some", away.describe), away.Warned(warned))
    assert told == ["a: one", "b: two"]


def test_who_tells_waits_where_home_is_slow() -> None:
    told: list[int] = []

    def work(tell: remote.Tell) -> str:
        for number in range(3 * remote.ROOM):
            tell(number)
            told.append(number)
        return "end"

    news = remote.Kept().perform(work, ())
    assert next(news) == ("begun", None) and next(news) == ("told", 0)
    until(lambda: len(told) == remote.ROOM + 1)
    time.sleep(0.1)
    assert len(told) == remote.ROOM + 1
    assert [*news] == [*(("told", number) for number in range(1, 3 * remote.ROOM)), ("done", "end")]


def test_options_that_go_together(tmp_path: Path, samples: str, cli: Cli) -> None:
    words = ("embed", samples, "--out", tmp_path / "out")
    for more, said in (
        (("--ray-store", tmp_path), "--ray-store is for --ray"),
        (("--ray", "--device", "cuda:1"), "works on GPUs of its own: say cuda"),
        (("--ray", "--model", "a", "--artifact", "b"), "leave out --model"),
    ):
        done = cli(*words, *more)
        assert done.returncode == 2 and said in done.stderr
    assert not (tmp_path / "out").exists()
    done = cli("eval", "clipperf-sample", "--ray", "--device", "cuda:1")
    assert done.returncode == 2 and "works on GPUs of its own: say cuda" in done.stderr


# --- with one ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the toy is installed, and notes what it runs."""
    root = tmp_path_factory.mktemp("machines")
    points = "[clipperf.runtime]\ntoy = embed_toys:RUNTIME\n"
    write_package(root / "site", "embed_toys", TOYS, points)
    return root


@pytest.fixture(scope="module")
def shared_env(place: Path, checkpoints: Path) -> dict[str, str]:
    path = os.pathsep.join((str(place / "site"), str(checkpoints), str(ROOT)))
    sample = str(checkpoints / "a")
    return {"PYTHONPATH": path, "TOYS": str(place), "CLIPPERF_TEST_SAMPLE": sample}


@pytest.fixture(scope="module")
def nodes(place: Path, shared_env: dict[str, str]) -> Iterator[Nodes]:
    made = [node(place / f"home-{n}", NODE=f"{n}", **shared_env) for n in range(2)]
    with started(made) as running:
        yield running


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory, samples: str) -> Path:
    """48 images in shards of 4, of which two cannot be read."""
    folder = tmp_path_factory.mktemp("photos")
    for number, image in enumerate(sorted(Path(samples).glob("*.png"))):
        for copy in range(2):
            os.link(image, folder / f"{number:02d}-{copy}.png")
    for number in (5, 17):
        (folder / f"{number:02d}-0.png").unlink()
        (folder / f"{number:02d}-0.png").write_text("no image")
    return folder


@pytest.fixture
def words(
    place: Path,
    shared_env: dict[str, str],
    photos: Path,
    exported_once: Path,
    nodes: Nodes,
    tmp_path: Path,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Callable[..., list[object]]]:
    """`words(out)` is the command without Ray, `words(out, ray=True)` with it."""
    for name, value in {**shared_env, "PYTHONFAULTHANDLER": "1"}.items():
        monkeypatch.setenv(name, value)
    (place / "ran").unlink(missing_ok=True)
    artifact = next(exported_once.glob("artifacts/*/*/*"))

    def made(out: Path, ray: bool = False) -> list[object]:
        options = ("--batch", 2, "--shard-items", 4, "--threads", 1, "--workers", 1)
        more = ("--ray", nodes.address, "--ray-store", f"file://{tmp_path}/shared") if ray else ()
        what = ("--artifact", artifact, "--runtime", "toy", "--out", out)
        return ["embed", photos, *what, *options, *more]

    yield made
    for path in place.glob("wait-*"):
        path.unlink()


@contextlib.contextmanager
def begun(*args: object) -> Iterator[subprocess.Popen[str]]:
    """A command that does not outlive the block, however that ends."""
    with start(*args) as process:
        try:
            yield process
        finally:
            process.kill()


def ran(place: Path) -> dict[str, set[int]]:
    """The processes that have run a batch, by node."""
    found: dict[str, set[int]] = {}
    path = place / "ran"
    for line in path.read_text().splitlines() if path.exists() else ():
        node_, pid, _ = json.loads(line)
        found.setdefault(node_, set()).add(pid)
    return found


def hold(place: Path, *names: str) -> None:
    for name in names:
        (place / f"wait-{name}").touch()


def release(place: Path) -> None:
    for path in place.glob("wait-*"):
        path.unlink()


def until(true: Callable[[], Any], process: subprocess.Popen[str] | None = None) -> None:
    end = time.monotonic() + 120
    while not true():
        if process is not None and process.poll() is not None:
            raise AssertionError(f"it ended: {process.communicate()}")
        if time.monotonic() > end and process is not None:
            process.send_signal(signal.SIGABRT)  # its threads' stacks are in what it says then
            raise AssertionError(f"it did not come: {process.communicate()}")
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.02)


def content(out: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(out.iterdir()) if p.name != "manifest.json"}


def gone(place: Path) -> bool:
    """Whether no process that has run a batch is left."""
    pids = {pid for own in ran(place).values() for pid in own}
    return not any(psutil.pid_exists(pid) for pid in pids)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a run without Ray has left; made by the first test that asks."""
    return {"out": tmp_path_factory.mktemp("alone") / "out"}


@pytest.fixture
def whole(alone: dict[str, Any], words: Any, cli: Cli, place: Path) -> dict[str, bytes]:
    """The shards of a run without Ray."""
    if not alone["out"].exists():
        assert cli(*words(alone["out"])).returncode == 3
        assert ran(place).keys() == {"home"}
        (place / "ran").unlink()
    return content(alone["out"])


@pytest.mark.slow
def test_the_same_shards_with_and_without(
    words: Any, whole: dict[str, bytes], place: Path, tmp_path: Path, cli: Cli
) -> None:
    """Both nodes run the tower, each in one process; corrupt items are counted and named.

    What each machine warns of is said, with its name.
    """
    hold(place, "0")
    (place / "warns").touch()
    out = tmp_path / "out"
    with begun(*words(out, ray=True), "--json") as process:
        until(lambda: ran(place).keys() == {"0", "1"}, process)
        release(place)
        told, said = process.communicate(timeout=120)
    assert process.returncode == 3, said
    (place / "warns").unlink()
    for node_ in ("0", "1"):
        (line,) = (line for line in said.splitlines() if f": beware on {node_}" in line)
        assert re.match(r"warning: \S+ \(.*, node \w{8}\): \S+/model.onnx: beware", line)
    summary = json.loads(told)
    assert (summary["vectors"], summary["corrupt"], summary["shards"]) == (46, 2, 12)
    assert (summary["made"], summary["tried"], summary["lost"]) == (12, 48, [])
    assert [id_ for id_, _ in ((e["id"], e["reason"]) for e in summary["named"])] == [
        "05-0.png",
        "17-0.png",
    ]
    assert content(out) == whole
    assert all(len(own) == 1 for own in ran(place).values())
    until(lambda: gone(place))
    assert not leftovers(tmp_path) and not leftovers(place)
    # The same command goes on without Ray, and the other way round.
    (out / "shard-000003.json").unlink()
    done = cli(*words(out))
    assert done.returncode == 3 and "1 made now" in done.stdout
    assert content(out) == whole


@pytest.mark.slow
def test_a_killed_command_goes_on_and_a_killed_worker_loses_nothing(
    words: Any, whole: dict[str, bytes], place: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    hold(place, "0")
    with begun(*words(out, ray=True), "--quiet") as process:
        until(lambda: "0" in ran(place) and len([*out.glob("shard-??????.json")]) > 2, process)
        process.kill()
    until(lambda: gone(place))  # its actors end with it
    release(place)
    made = {p.name: p.stat().st_mtime_ns for p in out.glob("shard-??????.*")}
    assert made and set(made) < set(whole)
    (place / "ran").unlink()
    hold(place, "0", "1")
    with begun(*words(out, ray=True), "--json") as process:
        until(lambda: ran(place), process)
        (name, (pid,)), *_ = ran(place).items()
        os.kill(pid, signal.SIGKILL)
        release(place)
        told, said = process.communicate(timeout=120)
    assert process.returncode == 3, said
    lost = json.loads(told)["lost"]
    assert len(lost) == 1 and re.search("a worker on .* died|was lost", lost[0])
    assert lost[0].endswith("once more")
    assert lost[0] in said
    assert content(out) == whole
    assert made.items() <= {p.name: p.stat().st_mtime_ns for p in out.iterdir()}.items()
    assert not leftovers(tmp_path) and len(ran(place)[name]) <= 2


@pytest.mark.slow
def test_ctrl_c_ends_what_runs(words: Any, place: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    hold(place, "0", "1")
    with begun(*words(out, ray=True)) as process:
        until(lambda: ran(place).keys() == {"0", "1"}, process)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130 and said.strip().endswith("interrupted")
    until(lambda: gone(place))
    assert not leftovers(tmp_path) and not leftovers(place)


@pytest.mark.slow
def test_texts_of_a_model_that_one_of_the_machines_exports(
    words: Any, nodes: Nodes, place: Path, tmp_path: Path, cli: Cli
) -> None:
    table = tmp_path / "texts.csv"
    table.write_text("id,text\n" + "".join(f"t{n},a drawing of {n} things\n" for n in range(9)))
    common = ("embed", table, "--tower", "text", "--shard-items", 4, "--threads", 1, "--batch", 2)
    out, again = tmp_path / "out", tmp_path / "again"
    cluster = ("--ray", nodes.address, "--ray-store", tmp_path / "shared")
    cli(*common, "--out", out, "--model", "clipperf-sample", *cluster, check=True)
    made = [*place.glob("home-?/artifacts/*/*/*/text")]
    assert made, "it lies in the stores of the machines"
    cli(*common, "--out", again, "--artifact", made[0].parent, check=True)
    assert content(out) == content(again)
    assert np.load(out / "shard-000002.npy").shape[0] == 1


@pytest.mark.slow
def test_a_node_that_is_killed_loses_nothing(
    words: Any, whole: dict[str, bytes], nodes: Nodes, place: Path, tmp_path: Path
) -> None:
    """It takes the second node away."""
    out = tmp_path / "out"
    hold(place, "1")
    with begun(*words(out, ray=True), "--json") as process:
        until(lambda: ran(place).keys() == {"0", "1"}, process)
        until(lambda: len([*out.glob("shard-??????.json")]) > 2, process)
        nodes.kill(1)
        told, said = process.communicate(timeout=120)
    assert process.returncode == 3, said
    summary = json.loads(told)
    assert (summary["vectors"], summary["made"], summary["tried"]) == (46, 12, 48)
    assert len(summary["lost"]) == 1 and "was lost" in summary["lost"][0]
    assert content(out) == whole and not leftovers(tmp_path)


@pytest.mark.slow
def test_a_head_that_goes_ends_each_command_with_one_error(
    words: Any, whole: dict[str, bytes], alone: Any, nodes: Nodes, place: Path, tmp_path: Path,
    cli: Cli,
) -> None:  # fmt: skip
    """The last test: one works on the only machine, two wait for it, when the head is ended."""
    out, plan = tmp_path / "out", tmp_path / "plan.toml"
    shutil.copytree(alone["out"], out)
    for number in range(3, 12):
        (out / f"shard-{number:06d}.json").unlink()
    plan.write_text('models = ["clipperf-sample"]\nruntimes = ["onnx"]\n')
    hold(place, "0")
    with contextlib.ExitStack() as ended:
        embeds = ended.enter_context(begun(*words(out, ray=True), "--json"))
        until(lambda: ran(place), embeds)
        more = "--ray", nodes.address
        sweeps = ended.enter_context(begun("sweep", plan, "--json-lines", *more))
        evaluates = ended.enter_context(begun("eval", "clipperf-sample", *more))
        assert sweeps.stdout is not None and evaluates.stderr is not None
        waits = [json.loads(sweeps.stdout.readline()), evaluates.stderr.readline()]
        nodes.stop()
        ends = [each.communicate(timeout=120) for each in (embeds, sweeps, evaluates)]
    assert waits[0]["event"] == "waiting"
    for said in (waits[0]["text"], waits[1]):
        assert re.match(r"waiting for .* has not said what it is: 0 of 1 CPUs free", said)
    kept = ("the shards that are whole are there", f"are finished are in {tmp_path}", "are there")
    for process, (_, said), there in zip((embeds, sweeps, evaluates), ends, kept, strict=True):
        *before, last = said.splitlines()
        assert process.returncode == 1
        assert last.startswith(f"error: the head of the Ray cluster at {nodes.address} has not")
        assert (
            last.endswith("; the same command goes on once the cluster is back") and there in last
        )
        assert not [line for line in before if "rpc_client" in line or "Traceback" in line]
    assert "waiting for " in ends[0][1] and " does not answer: " in ends[0][1]
    assert not leftovers(tmp_path)
    release(place)
    assert cli(*words(out)).returncode == 3 and content(out) == whole
