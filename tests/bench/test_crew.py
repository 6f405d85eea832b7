"""Several processes that answer as one: their sums, their ends, the GPU that each sees."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from clipperf import cli
from clipperf.bench import cost, crew, meters, passes
from clipperf.bench.cost import QUICK, Limits
from clipperf.bench.crew import Crew, environment_of, merged, places_of, while_all_ran
from clipperf.bench.jobs import Event, Job, Prepared, blank, run_job
from clipperf.bench.profile import Sweep
from clipperf.bench.scenarios import closed_loop
from clipperf.errors import ChildError, UsageError
from clipperf.models import zoo
from clipperf.nouns.cell import Cell, EngineRequest
from clipperf.nouns.model import CLIP_IDS, ModelSpec
from clipperf.system import env as environment
from clipperf.system import gpus
from clipperf.system.child import Child

MIB = 2**20
SPEC = ModelSpec("sim", "simulated", "sim", "random:0", 8, 8, 16)
FAST = dataclasses.replace(
    QUICK, min_s=0.0, min_runs=6, max_s=5.0, block_s=0.0, sleep_s=0.0, target_rel_width=9.0
)


def request(tmp_path: Path, instances: int, device: str = "cpu", **script: Any) -> EngineRequest:
    path = tmp_path / "engine.json"
    path.write_text(json.dumps(script))
    cell = Cell("sim", "image", "simulated", "fp32", device, 2, 1, instances=instances)
    return EngineRequest(cell, SPEC, str(path))


def test_answers_as_one() -> None:
    one = {"rss_run_peak_bytes": 10, "load_s": 1.0, "samples": [1, 2], "provider": "P", "runs": 3}
    two = {"rss_run_peak_bytes": 20, "load_s": 0.5, "samples": [3], "provider": "P", "runs": 4}
    assert merged([one, two]) == {
        "rss_run_peak_bytes": 30,
        "load_s": 1.0,
        "samples": [1, 2, 3],
        "provider": "P",
        "runs": 7,
    }
    assert merged([one, {**two, "load_s": None}])["load_s"] is None
    # Three processes share 40 pages: their sum counts these twice too often.
    shared = [{"shared_bytes": each} for each in (40, 38, 40)]
    assert merged(shared) == {"shared_bytes": 78}


def test_memory_is_the_sum_with_shared_pages_once(tmp_path: Path) -> None:
    env = environment.capture()
    alone = passes.memory_pass(request(tmp_path, 1, load_bytes=60 * MIB), FAST, env)
    three = passes.memory_pass(request(tmp_path, 3, load_bytes=60 * MIB), FAST, env)
    assert (alone.status, three.status) == ("ok", "ok"), (alone.error, three.error)
    if meters.shared_bytes() is None:
        pytest.skip("nobody tells which pages are shared here")
    assert alone.rss_shared_bytes is None
    assert three.rss_shared_bytes is not None and three.rss_shared_bytes > 0
    assert three.rss_run_peak_bytes and three.rss_load_peak_bytes and three.rss_peak_bytes
    most = max(three.rss_run_peak_bytes, three.rss_load_peak_bytes)
    assert three.rss_peak_bytes == most - three.rss_shared_bytes
    # Each has 60 MiB of its own; what they share cannot be more than their bare processes are.
    assert three.rss_bare_bytes and alone.rss_bare_bytes
    assert three.rss_shared_bytes < three.rss_bare_bytes
    assert three.rss_peak_bytes > 3 * 60 * MIB
    assert three.rss_bare_bytes > 2 * alone.rss_bare_bytes


def test_each_block_holds_the_calls_of_all(tmp_path: Path) -> None:
    asked = request(tmp_path, 3, run_s=0.02)
    (row,) = passes.time_pass([asked], FAST, environment.capture(), "g")
    assert row.status == "ok", row.error
    assert row.cell.instances == 3 and len(row.run_s) == len(row.blocks)
    calls = set(zip(row.blocks, row.workers, strict=True))
    assert calls == {(block, worker) for block in row.blocks for worker in range(3)}


def test_calls_count_that_began_while_all_ran() -> None:
    """The quick one is done after 0.5; the slow one's third call began at 0.5, beside nobody."""
    assert while_all_ran([[0.125] * 4, [0.25] * 4]) == [[0.125] * 4, [0.25] * 2]
    assert while_all_ran([[1.0], [0.25]]) == [[1.0], [0.25]]


def test_a_row_is_stable_once_each_worker_is(tmp_path: Path) -> None:
    """Pooled, the calls of two that differ never settle; each one's own do at once."""
    settings = dataclasses.replace(QUICK, min_blocks=1, min_runs=6, min_s=0.0)
    turn = passes.Turn(
        request(tmp_path, 2), blank(request(tmp_path, 2), "time", environment.capture())
    )
    turn.add_block(0, [0.01] * 6 + [0.03] * 6, settings, [0] * 6 + [1] * 6)
    assert turn.row.stable
    turn.add_block(1, [0.01, 0.02], settings, [0, 1])
    turn.add_block(2, [0.05] * 7, settings, [1] * 7)
    assert not turn.row.stable and turn.row.workers[-1] == 1


def test_all_are_warm_before_the_first_timed_call() -> None:
    asked: list[tuple[int, dict[str, Any]]] = []

    class Told:
        def __init__(self, number: int) -> None:
            self.number = number

        def send(self, op: str, **fields: Any) -> None:
            asked.append((self.number, fields))

        def answer(self, on_progress: Any = None, waited_s: float = 0.0) -> dict[str, Any]:
            asked.append((self.number, {}))
            return {"samples": [0.5, 0.5]}

        def end(self) -> None: ...

    numbers = iter(range(2))
    cell = Cell("sim", "image", "simulated", "fp32", "cpu", 2, 1, instances=2)
    fields = passes.block_command(dataclasses.replace(FAST, warmup=3, sleep_s=0.1))
    with Crew(cell, lambda env: Told(next(numbers))) as started:  # type: ignore[arg-type, return-value]
        told = started.ask("block", **fields)
    assert told == {"samples": [0.5] * 4, "workers": [0, 0, 1, 1]}
    warm = {**fields, "warmup": 2, "calls": 1, "min_s": 0.0}
    timed = {**fields, "warmup": 0, "sleep_s": 0.0}
    assert asked == [
        *((0, warm), (1, warm), (0, {}), (1, {})),
        *((0, timed), (1, timed), (0, {}), (1, {})),
    ]


def test_calls_of_all_overlap(tmp_path: Path) -> None:
    """Calls one after another take as long as their sum, whatever else the machine does."""
    asked = request(tmp_path, 3, run_s=0.1)
    with passes.worker_of(asked, FAST) as started:
        started.greet()
        started.ask("open", request=asked, text_ids=CLIP_IDS)
        wall_s = cost.stopwatch()
        fields = passes.block_command(dataclasses.replace(FAST, block_calls=5, warmup=0))
        samples = started.ask("block", **fields)["samples"]
        assert sum(samples) > wall_s()


def test_limits_and_deadlines_are_of_all_together(tmp_path: Path) -> None:
    """Each of three takes 60 MiB and more, none of them 150."""
    asked = request(tmp_path, 3, load_bytes=60 * MIB)
    env = environment.capture()
    alone = passes.memory_pass(request(tmp_path, 1, load_bytes=60 * MIB), FAST, env)
    assert alone.rss_peak_bytes is not None and alone.rss_peak_bytes < 150 * MIB
    limited = dataclasses.replace(FAST, limits=Limits(ram_bytes=150 * MIB))
    found = passes.memory_pass(asked, limited, env)
    assert found.status == "failed" and "over the limit of 150.0 MiB RAM" in str(found.error)
    kept = passes.memory_pass(
        asked, dataclasses.replace(FAST, limits=Limits(ram_bytes=600 * MIB)), env
    )
    assert kept.status == "ok", kept.error


def test_a_deadline_begins_once() -> None:
    """Of workers that are waited for one after another each has what is left of it."""
    waited: list[float] = []

    class Slow:
        pid = 1

        def send(self, op: str, **fields: Any) -> None: ...

        def answer(self, on_progress: Any = None, waited_s: float = 0.0) -> dict[str, Any]:
            waited.append(waited_s)
            time.sleep(0.02)
            return {"runs": 1}

        def end(self) -> None: ...

    cell = Cell("sim", "image", "simulated", "fp32", "cpu", 2, 1, instances=3)
    with Crew(cell, lambda env: Slow()) as started:  # type: ignore[arg-type, return-value]
        assert started.ask("load") == {"runs": 3}
    assert waited[0] == 0.0 and waited[1] >= 0.02 and waited[2] >= 0.04


def test_a_child_that_was_waited_for_has_what_is_left() -> None:
    silent = "import time; time.sleep(60)"
    with (
        Child("timeit", "-n1", "-r1", silent, timeout_s=3600.0) as child,
        pytest.raises(ChildError, match="no answer to 'start' within 3600 s"),
    ):
        child.greet(waited_s=3600.0)


def test_one_that_cannot_start_ends_those_that_did() -> None:
    told: list[str] = []

    class Started:
        def kill(self) -> None:
            told.append("kill")

        def end(self) -> None:
            told.append("end")

    left = [Started(), Started()]

    def start(shown: dict[str, str]) -> Any:
        if not left:
            raise ChildError("the worker cannot be started")
        return left.pop()

    cell = Cell("sim", "image", "simulated", "fp32", "cpu", 2, 1, instances=3)
    with pytest.raises(ChildError, match="cannot be started"):
        Crew(cell, start)
    assert told == ["kill", "kill", "end", "end"]


def test_one_that_dies_ends_them_all(tmp_path: Path) -> None:
    asked = request(tmp_path, 3)
    started = passes.worker_of(asked, FAST)
    assert isinstance(started, Crew)
    with started:
        started.greet()
        started.ask("open", request=asked, text_ids=CLIP_IDS)
        pids = started.pids
        assert len(set(pids)) == 3 and all(Path(f"/proc/{pid}").exists() for pid in pids)
        os.kill(pids[1], signal.SIGKILL)
        with pytest.raises(ChildError, match="SIGKILL"):
            started.ask("first")
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_pages_of_which_nobody_tells_make_a_bound_that_is_noted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Event] = []
    ok = dataclasses.replace(
        blank(request(tmp_path, 2), "memory", environment.capture()), rss_peak_bytes=100
    )
    closed_loop.tell_bound(dataclasses.replace(ok, rss_shared_bytes=10), told.append)
    closed_loop.tell_bound(dataclasses.replace(ok, status="failed"), told.append)
    one = dataclasses.replace(ok, cell=dataclasses.replace(ok.cell, instances=1))
    closed_loop.tell_bound(one, told.append)
    assert told == []
    monkeypatch.setattr(closed_loop, "memory_pass", lambda *given: ok)
    cells = (Prepared(request(tmp_path, 2)),)
    run_job(Job("g", "closed-loop", cells, FAST), environment.capture(), [], told.append)
    (note,) = [e.text for e in told if e.kind == "note" and "upper bound" in e.text]
    assert "which pages they share is not known here" in note


def test_a_gpu_is_taken_from_the_parents_own_list(monkeypatch: pytest.MonkeyPatch) -> None:
    @contextlib.contextmanager
    def silent() -> Iterator[None]:
        yield None

    monkeypatch.setattr(gpus, "driver", silent)
    monkeypatch.setenv(gpus.VISIBLE, "2, 3")
    assert [environment_of(f"cuda:{n}")[gpus.VISIBLE] for n in (0, 1)] == ["2", "3"]
    options = ["profile", "--device", "cuda:0,cuda:7"]
    found = CliRunner().invoke(cli.app, options)
    assert "cuda:7: there is no such GPU (cuda:0 is 2, cuda:1 is 3)" in str(found.exception)
    monkeypatch.setenv(gpus.VISIBLE, "")
    with pytest.raises(UsageError, match="none is visible"):
        environment_of("cuda:0")
    monkeypatch.delenv(gpus.VISIBLE)
    assert environment_of("cuda:1")[gpus.VISIBLE] == "1"


def test_each_sees_the_gpu_that_it_is_dealt(tmp_path: Path, monkeypatch: Any) -> None:
    """No GPU is here: what is shown to the processes is looked at, not what CUDA makes of it."""
    uuids = {"cuda:0": "GPU-a", "cuda:1": "GPU-b"}
    monkeypatch.setattr(crew.gpus, "shown", uuids.__getitem__)
    asked = request(tmp_path, 4, "cuda:0,cuda:1")
    assert places_of(asked.cell) == ["cuda:0", "cuda:1", "cuda:0", "cuda:1"]
    started = passes.worker_of(asked, FAST)
    assert isinstance(started, Crew)
    with started:
        started.greet()
        seen = []
        for pid in started.pids:
            found = Path(f"/proc/{pid}/environ").read_text().split("\0")
            seen += [part for part in found if part.startswith(gpus.VISIBLE)]
        assert seen == [f"{gpus.VISIBLE}=GPU-{name}" for name in "abab"]
        asks = [each["request"].cell for each in started._each({"request": asked})]
        assert {(cell.device, cell.instances) for cell in asks} == {("cuda", 1)}
    assert environment_of("cuda") == {} == environment_of("cpu")


def test_a_sweep_of_instances_shares_out_the_cores() -> None:
    spec = zoo.resolve("clipperf-sample")
    sweep = Sweep(
        (spec,), ("onnx",), ("image",), (1, 8), threads=8, instances=(1, 2, 16), divided=True
    )
    groups = sweep.groups()
    told = [(g.cells[0].instances, g.cells[0].threads) for g in groups]
    assert told == [(1, 8), (1, 8), (2, 4), (2, 4), (16, 1), (16, 1)]
    assert len({group.id for group in groups}) == 6
    fixed = dataclasses.replace(sweep, divided=False, instances=(2,)).groups()
    assert {g.cells[0].threads for g in fixed} == {8}
    several = dataclasses.replace(sweep, places=("cuda:0", "cuda:1"), instances=(1, 2))
    cells = [group.cells[0] for group in several.groups()]
    told = {(c.device, c.instances, c.threads) for c in cells}
    # Eight cores are shared out among all processes, wherever their GPUs are.
    assert told == {("cuda:0,cuda:1", 2, 4), ("cuda:0,cuda:1", 4, 2)}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--instances", "0"], "start at 1"),
        (["--instances", "2", "--scenario", "offline"], "--instances is for closed loops"),
        (["--device", "cuda:0,cuda:1", "--scenario", "offline"], "of several is for closed loops"),
        (["--device", "cuda:0,cpu"], "several are GPUs"),
        (["--device", "cuda,cuda"], "several are GPUs"),
        (["--device", "cuda:0,cuda:0"], "several are GPUs"),
    ],
)
def test_what_cannot_run_side_by_side(options: list[str], words: str) -> None:
    found = CliRunner().invoke(cli.app, ["profile", *options])
    assert found.exit_code != 0 and words in str(found.exception)
