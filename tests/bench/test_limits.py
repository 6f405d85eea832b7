"""What a cell may take: real processes that take more are ended with all that they have started."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from clipperf.bench import cost, gpu_meters, limits, passes
from clipperf.bench.cost import Limits
from clipperf.bench.jobs import Job, Prepared
from clipperf.bench.limits import CellGuard, guard_of
from clipperf.bench.passes import memory_pass, time_pass
from clipperf.bench.scenarios import closed_loop
from clipperf.errors import ChildError, LimitError
from clipperf.nouns.cell import Cell, EngineRequest
from clipperf.nouns.model import ModelSpec
from clipperf.nouns.result import Environment
from clipperf.system.child import Child

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="/proc")

SPEC = ModelSpec("sim", "simulated", "sim", "random:0", 8, 8, 16)
ENVIRONMENT = Environment("e", "cpu", 2, 2**33, None, None, None, "os", "3", {}, None, "now")
MIB = 2**20

HELPERS = """
import subprocess, sys, time
from clipperf.system.protocol import serve

EAT = "import time; held = bytearray({size}); print('there', flush=True); time.sleep(60)"

def start(fields, tell):
    code = EAT.format(size=fields["size"])
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, start_new_session=True
    )
    process.stdout.readline()
    return {"pid": process.pid}

def wait(fields, tell):
    for _ in range(600):
        tell("still here")
        time.sleep(0.1)

if __name__ == "__main__":
    sys.exit(serve({"start": start, "wait": wait}))
"""


def request(tmp_path: Path, runtime: str = "simulated", **script: object) -> EngineRequest:
    path = tmp_path / f"script-{len(list(tmp_path.iterdir()))}.json"
    path.write_text(json.dumps(script))
    cell = Cell("sim", "image", runtime, "fp32", "cpu", 1, 1)
    return EngineRequest(cell, SPEC, str(path))


def limited(**values: float) -> cost.Settings:
    return dataclasses.replace(cost.QUICK, limits=Limits(**values))  # type: ignore[arg-type]


def test_a_cell_that_loads_too_much_is_ended_in_its_memory_pass(tmp_path: Path) -> None:
    asked = request(tmp_path, load_bytes=300 * MIB, load_s=30.0)
    start = time.monotonic()
    row = memory_pass(asked, limited(ram_bytes=200 * MIB), ENVIRONMENT)
    assert time.monotonic() - start < 15, "it was not waited for"
    assert row.status == "failed" and row.ended == "limit"
    assert row.error is not None and row.error.startswith("over the limit of 200.0 MiB RAM: ")
    fine = memory_pass(request(tmp_path, load_bytes=MIB), limited(ram_bytes=200 * MIB), ENVIRONMENT)
    assert fine.status == "ok" and fine.ended is None and fine.rss_peak_bytes < 200 * MIB


def test_a_cell_over_its_time_is_ended_and_the_others_go_on(tmp_path: Path) -> None:
    slow = request(tmp_path, run_s=60.0)
    quick = dataclasses.replace(request(tmp_path, run_s=0.01))
    quick = dataclasses.replace(quick, cell=dataclasses.replace(quick.cell, batch=2))
    rows = time_pass([slow, quick], limited(seconds=12.0), ENVIRONMENT, "g")
    assert [row.ended for row in rows] == ["limit", None]
    assert rows[0].error is not None and "over the limit of 12.0 s for a pass" in rows[0].error
    assert rows[1].status == "ok" and len(rows[1].run_s) >= 12


def test_time_counts_a_cells_own_turns_alone(tmp_path: Path) -> None:
    guard = CellGuard(Limits(seconds=0.5), "cpu")
    guard.begin()
    time.sleep(0.2)
    assert guard.look(1) is None
    time.sleep(0.6)  # another cell's turn
    guard.begin()
    time.sleep(0.2)
    assert guard.look(1) is None
    guard.begin()
    time.sleep(0.2)
    assert guard.look(1) is not None


def test_what_a_cell_over_its_limit_took_is_its_time_row_too(tmp_path: Path) -> None:
    asked = request(tmp_path, load_bytes=300 * MIB)
    job = Job("g", "closed-loop", (Prepared(asked),), limited(ram_bytes=200 * MIB))
    rows = []
    closed_loop.measure(job, ENVIRONMENT, (), lambda event: rows.append(event.measurement))
    found = [(row.kind, row.status, row.ended) for row in rows if row is not None]
    assert found == [("memory", "failed", "limit"), ("time", "failed", "limit")]


def test_children_in_sessions_of_their_own_count_and_end_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "helpers.py").write_text(HELPERS)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    guard = guard_of(Limits(ram_bytes=400 * MIB), "cpu", 0.05)
    with Child("helpers", guard=guard) as child:
        small = child.ask("start", size=100 * MIB)["pid"]
        with pytest.raises(LimitError, match=r"over the limit of 400.0 MiB RAM: \d") as caught:
            child.ask("start", size=500 * MIB)
        assert caught.value.ended == "limit"
        end = time.monotonic() + 10
        while psutil.pid_exists(small) and time.monotonic() < end:
            time.sleep(0.05)
        assert not psutil.pid_exists(small)


def test_progress_that_never_ends_is_no_way_around_a_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "helpers.py").write_text(HELPERS)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with (
        Child("helpers", guard=guard_of(Limits(seconds=1.5), "cpu")) as child,
        pytest.raises(LimitError, match=r"over the limit of 1\.5 s"),
    ):
        child.ask("wait")


def test_the_memory_of_a_gpu_is_what_became_less(monkeypatch: pytest.MonkeyPatch) -> None:
    free = [1000 * MIB, 900 * MIB, 700 * MIB]
    monkeypatch.setattr(gpu_meters, "available_vram_bytes", lambda device: free.pop(0))
    monkeypatch.setattr(limits, "VRAM_S", 0.0)
    guard = CellGuard(Limits(vram_bytes=200 * MIB), "cuda")
    assert guard.look(1) is None
    assert guard.look(1) == "over the limit of 200.0 MiB VRAM: 300.0 MiB, so it was ended"
    monkeypatch.setattr(gpu_meters, "available_vram_bytes", lambda device: None)
    assert CellGuard(Limits(vram_bytes=1), "cpu").look(1) is None


def test_the_memory_of_a_gpu_is_a_processs_own_where_others_are_open(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    held = {11: 300 * MIB, 12: 300 * MIB}
    monkeypatch.setattr(limits, "VRAM_S", 0.0)
    monkeypatch.setattr(
        gpu_meters, "available_vram_bytes", lambda device: 1000 * MIB - sum(held.values())
    )
    monkeypatch.setattr(gpu_meters, "family_vram_bytes", lambda device, pid: held.get(pid))
    one, two = (CellGuard(Limits(vram_bytes=400 * MIB), "cuda", alone=False) for _ in held)
    assert one.look(11) is None and two.look(12) is None
    held[12] = 500 * MIB
    assert one.look(11) is None, "another cell of the group has taken it"
    assert two.look(12) == "over the limit of 400.0 MiB VRAM: 500.0 MiB, so it was ended"
    # Where NVML tells no processes apart, cells that take turns are judged in their memory pass.
    monkeypatch.setattr(gpu_meters, "family_vram_bytes", lambda device, pid: None)
    one = CellGuard(Limits(vram_bytes=400 * MIB), "cuda", alone=False)
    held[12] = 900 * MIB
    assert one.look(11) is None


def test_cells_that_take_turns_are_not_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[bool] = []

    def noting(*args: object, alone: bool = True, **more: object) -> Child:
        made.append(alone)
        raise ChildError("not started")

    monkeypatch.setattr(passes, "worker_of", noting)
    one, two = request(tmp_path), request(tmp_path)
    for cells in ([one, two], [one]):
        assert {row.status for row in time_pass(cells, cost.QUICK, ENVIRONMENT, "g")} == {"failed"}
    memory_pass(one, cost.QUICK, ENVIRONMENT)
    assert made == [False, False, True, True]


def test_what_a_family_holds_of_a_gpu_is_summed(monkeypatch: pytest.MonkeyPatch) -> None:
    held: dict[int, int | None] = {5: 10, 6: None, 7: 32}

    @contextlib.contextmanager
    def opened(gpu: str):
        yield SimpleNamespace(process_bytes=held.get)

    monkeypatch.setattr(gpu_meters.gpu_sampler, "opened", opened)
    monkeypatch.setattr(gpu_meters, "family_pids", lambda pid: [pid, 6, 7])
    assert gpu_meters.family_vram_bytes("cuda", 5) == 42
    assert gpu_meters.family_vram_bytes("cpu", 5) is None
    held.clear()
    assert gpu_meters.family_vram_bytes("cuda", 5) is None, "not known is not nothing"


def test_where_nvml_says_nothing_of_any_process_the_device_is_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In some containers every process holds 0 bytes: then what is free tells, if anything."""
    gpu = SimpleNamespace(process_bytes=lambda pid: 0, free_bytes=lambda: free[0])
    free = [1000 * MIB]
    monkeypatch.setattr(limits, "VRAM_S", 0.0)
    monkeypatch.setattr(gpu_meters, "gpu_of", lambda device: "GPU-1")
    monkeypatch.setattr(gpu_meters.gpu_sampler, "opened", lambda gpu_: contextlib.nullcontext(gpu))
    monkeypatch.setattr(gpu_meters, "family_pids", lambda pid: [pid, 6])
    assert gpu_meters.family_vram_bytes("cuda", 5) is None
    guard = CellGuard(Limits(vram_bytes=400 * MIB), "cuda")
    free[0] = 700 * MIB
    assert guard.look(5) is None
    free[0] = 500 * MIB
    assert guard.look(5) == "over the limit of 400.0 MiB VRAM: 500.0 MiB, so it was ended"


def test_who_ended_a_process(tmp_path: Path) -> None:
    assert guard_of(Limits(), "cpu") is None
    ended = {code: ChildError("", code=code).ended for code in (-9, -15, -11, 1, None)}
    assert ended == {-9: "killed", -15: "killed", -11: None, 1: None, None: None}
    killed = memory_pass(
        request(tmp_path, fail_at="run", how="signal", exit_code=9), cost.QUICK, ENVIRONMENT
    )
    crashed = memory_pass(request(tmp_path, fail_at="run", how="segfault"), cost.QUICK, ENVIRONMENT)
    assert (killed.ended, crashed.ended) == ("killed", None)
