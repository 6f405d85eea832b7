"""The harness against an engine whose cost is exactly known.

Other work on the machine can delay a process at any time, so the tests of exactness take the
median of many samples and may repeat the measurement; their tolerances are never widened.
"""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from measuring import measure_group

from clipperf import stats
from clipperf.bench import gpu_meters, meters, passes
from clipperf.bench.cost import QUICK
from clipperf.bench.inputs import make_inputs
from clipperf.bench.jobs import Event, blank
from clipperf.bench.launchers.local import harness_overhead_s
from clipperf.bench.scenarios.closed_loop import describe, fits
from clipperf.errors import EngineError
from clipperf.nouns.cell import Cell, EngineRequest
from clipperf.nouns.model import CLIP_IDS, ModelSpec, TextIds
from clipperf.nouns.result import Measurement
from clipperf.system import env as environment
from clipperf.system.child import Child, child_environment

pytestmark = pytest.mark.timing

MIB = 2**20
ATTEMPTS = 3
FAST = replace(
    QUICK, min_s=0.0, min_runs=6, max_s=5.0, block_s=0.0, sleep_s=0.0, target_rel_width=9.0
)
SPEC = ModelSpec("sim", "simulated", "sim", "random:0", 8, 8, 16)

Make = Callable[..., EngineRequest]


@pytest.fixture(scope="module")
def env() -> Any:
    return environment.capture()


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Requests for the simulated runtime; `name` goes where the precision is."""

    def request(name: str, **script: Any) -> EngineRequest:
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(script))
        return EngineRequest(Cell("sim", "image", "simulated", name, "cpu", 2, 1), SPEC, str(path))

    return request


def by_cell(rows: list[Measurement], kind: str) -> dict[str, Measurement]:
    return {row.cell.precision: row for row in rows if row.kind == kind}


def eventually(check: Callable[[], bool]) -> None:
    """Pass as soon as one of a few measurements does."""
    assert any(check() for _ in range(ATTEMPTS)), f"failed {ATTEMPTS} times"


# --- exactness -----------------------------------------------------------------------------


def test_latency_within_2_percent(make: Make, env: Any) -> None:
    settings = replace(FAST, min_runs=40, block_calls=8)
    request = make("fp32", run_s=0.020, load_s=0.1)

    def check() -> bool:
        row = passes.time_pass([request], settings, env, "g")[0]
        assert row.status == "ok", row.error
        assert len(row.run_s) == len(row.blocks) >= 40
        middle = stats.median(row.run_s)
        print(f"20 ms measured as {middle * 1e3:.4f} ms, load 100 ms as {row.load_s}")
        return abs(middle / 0.020 - 1) <= 0.02 and 0.1 <= (row.load_s or 0) <= 0.2

    eventually(check)


def test_two_engines_in_turns_have_their_true_ratio(make: Make, env: Any) -> None:
    settings = replace(FAST, min_blocks=12, block_calls=7, max_s=10.0)
    requests = [make("fp32", run_s=0.020), make("int8", run_s=0.010)]

    def check() -> bool:
        slow, fast = passes.time_pass(requests, settings, env, "g")
        ours, theirs = (stats.block_medians(r.run_s, r.blocks) for r in (fast, slow))
        assert list(ours) == list(theirs) == list(range(len(ours)))
        assert slow.group == fast.group == "g"
        ratio, interval = stats.paired_ratio(list(ours.values()), list(theirs.values()))
        print(f"ratio {ratio:.4f} {interval}")
        return abs(ratio / 2.0 - 1) <= 0.02

    eventually(check)


def test_ram_within_2_mib_for_load_and_run_apart(make: Make, env: Any) -> None:
    for load, run in ((200, 0), (0, 200), (200, 100)):
        request = make("fp32", load_bytes=load * MIB, run_bytes=run * MIB)
        row = passes.memory_pass(request, FAST, env)
        assert row.status == "ok", row.error
        if row.rss_source != "VmHWM":
            pytest.skip(f"RAM peaks cannot be told apart here: {row.rss_source}")
        assert row.rss_bare_bytes and row.rss_load_peak_bytes and row.rss_run_peak_bytes
        assert abs(row.rss_load_peak_bytes - row.rss_bare_bytes - load * MIB) < 2 * MIB
        assert abs(row.rss_run_peak_bytes - row.rss_bare_bytes - (load + run) * MIB) < 2 * MIB
        assert row.rss_peak_bytes == max(row.rss_load_peak_bytes, row.rss_run_peak_bytes)
        assert (row.vram_peak_bytes, row.vram_source) == (None, None)


def test_a_bare_worker_is_light(make: Make, env: Any) -> None:
    row = passes.memory_pass(make("fp32"), FAST, env)
    assert row.rss_bare_bytes is not None
    assert row.rss_bare_bytes < 64 * MIB


def test_the_harness_itself_costs_microseconds(env: Any) -> None:
    def check() -> bool:
        overhead_s = harness_overhead_s(env)
        print(f"overhead {overhead_s * 1e6:.2f} us")
        return 0 < overhead_s < 50e-6

    eventually(check)


def test_the_parent_does_not_poll(make: Make, env: Any) -> None:
    settings = replace(FAST, block_calls=1, min_blocks=6)
    busy = time.process_time()
    passes.time_pass([make("fp32", run_s=0.25)], settings, env, "g")
    assert time.process_time() - busy < 0.25, "3 s of waiting used too much processor time"


def test_stable_and_unstable_are_told_apart(make: Make, env: Any) -> None:
    settings = replace(FAST, target_rel_width=0.15, max_s=1.5)
    wild = passes.time_pass([make("int8", run_s=0.001, jitter_s=0.02)], settings, env, "g")[0]
    assert wild.status == "ok"
    assert wild.stable is False
    assert wild.run_s

    def check() -> bool:
        row = passes.time_pass([make("fp32", run_s=0.01)], replace(settings, max_s=9.0), env, "g")
        return row[0].stable is True

    eventually(check)


def test_a_wide_interval_alone_is_not_waited_for_long(make: Make, env: Any) -> None:
    """No interval is narrow enough here: it ends all the same, with the least that is asked for."""
    settings = replace(FAST, target_rel_width=-1.0, max_s=600.0, patience_s=0.1, min_runs=20)
    both = [make(precision, run_s=0.01) for precision in ("fp32", "int8")]
    for row in passes.time_pass(both, settings, env, "g"):
        assert row.status == "ok" and row.stable is False and len(row.run_s) >= 20


# --- failures ------------------------------------------------------------------------------

FAILURES = {
    "load": ({"fail_at": "load"}, "failed", "told to fail"),
    "unsupported": ({"fail_at": "load", "how": "unsupported"}, "unsupported", "not supported"),
    "run": ({"fail_at": "run"}, "failed", "told to fail"),
    "raise": ({"fail_at": "run", "how": "raise"}, "failed", "ValueError: simulated"),
    "nan": ({"fail_at": "run", "how": "nan"}, "failed", "not finite"),
    "shape": ({"fail_at": "run", "how": "shape"}, "failed", "expected float32 [2, 16]"),
    "segfault": ({"fail_at": "load", "how": "segfault"}, "failed", "SIGSEGV"),
    "sigkill": ({"fail_at": "run", "how": "signal", "exit_code": 9}, "failed", "SIGKILL"),
    "exit": ({"fail_at": "run", "how": "exit", "exit_code": 3}, "failed", "exit code 3"),
    "torch": ({"fake_modules": ["torch"]}, "failed", "imported torch"),
}


def test_failures_are_rows_with_reasons_and_the_sweep_goes_on(make: Make, env: Any) -> None:
    requests = [make(name, **script) for name, (script, _, _) in FAILURES.items()]
    requests.append(make("good", run_s=0.001))
    seen: list[Measurement] = []

    def on_event(event: Event) -> None:
        if event.measurement is not None:
            seen.append(event.measurement)

    rows = measure_group(requests, FAST, env, on_event, group="g")
    assert rows == seen
    memory, times = by_cell(rows, "memory"), by_cell(rows, "time")
    for name, (_, status, reason) in FAILURES.items():
        for row in (memory[name], times[name]):
            assert row.status == status, (name, row)
            assert reason in (row.error or ""), (name, row.error)
            assert row.run_s == ()
            assert row.env_id == env.id
    assert memory["good"].status == times["good"].status == "ok"
    assert len(times["good"].run_s) >= 6
    assert times["good"].provider == "SimulatedExecutionProvider"
    assert times["good"].random_weights
    assert "misbehave" in (memory["segfault"].last_words or ""), "the stack of a crash is kept"


def test_a_worker_that_dies_in_the_time_pass_leaves_the_others_running(
    make: Make, env: Any
) -> None:
    requests = [
        make("good", run_s=0.001),
        # The first run and two blocks of 4 calls work; the third block dies.
        make("sigkill", run_s=0.001, fail_at="run:11", how="signal", exit_code=9),
        make("error", run_s=0.001, fail_at="run:7"),
    ]
    rows = by_cell(measure_group(requests, FAST, env, group="g"), "time")
    assert rows["good"].status == "ok"
    assert len(set(rows["good"].blocks)) >= 6
    assert rows["sigkill"].status == "failed"
    assert "SIGKILL" in (rows["sigkill"].error or "")
    assert set(rows["sigkill"].blocks) == {0, 1}
    assert rows["error"].status == "failed"
    assert set(rows["error"].blocks) == {0}


def test_a_hang_is_ended_after_the_timeout(make: Make, env: Any) -> None:
    settings = replace(FAST, timeout_s=6.0)
    requests = [make("hang", fail_at="run", how="hang"), make("good")]
    start = time.monotonic()
    rows = measure_group(requests, settings, env)
    assert time.monotonic() - start < 30
    for row in rows:
        if row.cell.precision == "hang":
            assert row.status == "failed"
            assert "within 6 s" in (row.error or "") and "--timeout" in (row.error or "")
        else:
            assert row.status == "ok"


def test_output_of_libraries_does_not_reach_the_protocol(make: Make, env: Any) -> None:
    request = make("fp32", prints='{"status": "failed"}')
    rows = measure_group([request], FAST, env, disk_bytes={request.cell: 7})
    assert [(row.status, row.disk_bytes) for row in rows] == [("ok", 7), ("ok", 7)]


def test_a_missing_script_is_a_failed_row(make: Make, env: Any, tmp_path: Path) -> None:
    request = replace(make("fp32"), path=str(tmp_path / "absent.json"))
    rows = measure_group([request], FAST, env)
    assert all("absent.json" in (row.error or "") for row in rows)


@pytest.mark.parametrize("error", [None, "", "\n", "out of memory\nand more"])
def test_any_reason_of_a_failure_is_told_in_one_line(error: str | None, make: Make) -> None:
    failed = replace(blank(make("fp32"), "time", environment.capture()), status="failed")
    told = describe(replace(failed, error=error))
    first = "out of memory | and more" if error and error.strip() else ""
    assert told == f"sim image simulated fp32 cpu batch 2: time failed: {first}"


# --- groups --------------------------------------------------------------------------------


def test_turns_start_with_another_cell_each_round(
    make: Make, env: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    log: list[str] = []

    class FakeWorker:
        names = iter("abc")

        def __init__(self, module: str, **options: Any) -> None:
            self.name = next(self.names)

        def __enter__(self) -> Any:
            return self

        def __exit__(self, *error: Any) -> None:
            pass

        def greet(self) -> dict[str, Any]:
            return {}

        def ask(self, op: str, **fields: Any) -> dict[str, Any]:
            log.append(self.name if op == "block" else op)
            return {"load_s": 0.5, "provider": None, "first_run_s": 0.2, "samples": [0.1, 0.1]}

    monkeypatch.setattr(passes, "Child", FakeWorker)
    rows = passes.time_pass([make(n) for n in "abc"], replace(FAST, min_blocks=4), env, "g")
    assert "".join(log) == "openfirst" * 3 + "abc" + "bca" + "cab" + "abc"
    assert rows[0].blocks == (0, 0, 1, 1, 2, 2, 3, 3)
    assert all(row.stable for row in rows)


def test_a_group_that_does_not_fit_takes_turns_in_pairs(
    make: Make, env: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = [make("base"), make("one"), make("two"), make("big", load_bytes=300 * MIB)]
    # Three bare workers are over 90 MiB; two are under 0.9 * 105 MiB; the big one never fits.
    memory = {
        r.cell: Measurement(r.cell, "memory", "ok", env.id, rss_peak_bytes=size * MIB)
        for r, size in zip(requests, (40, 40, 40, 340), strict=True)
    }
    monkeypatch.setattr(meters, "available_ram_bytes", lambda: 105 * MIB)
    monkeypatch.setattr(meters, "busy_share", lambda: 0.5)
    notes: list[str] = []
    rows = measure_group(
        requests,
        FAST,
        env,
        lambda e: notes.append(e.text) if e.kind == "note" else None,
        group="g",
        known_memory=memory,
    )
    assert all(row.kind == "time" and row.status == "ok" for row in rows)
    assert [(r.cell.precision, r.group) for r in rows] == [
        ("base", "g"),
        ("one", "g"),
        ("base", "g#2"),
        ("two", "g#2"),
        ("big", "g#3"),
    ]
    assert notes[0] == "other programs use 50.0 % of the cores: noisy times"
    assert "cannot hold 4 workers" in notes[1]
    assert "alone" in notes[-1]


def test_gpu_memory_counts_too(make: Make, env: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    requests = [make("base"), make("one")]
    memory = {
        r.cell: Measurement(
            r.cell, "memory", "ok", env.id, rss_peak_bytes=1, vram_peak_bytes=600 * MIB
        )
        for r in requests
    }
    monkeypatch.setattr(gpu_meters, "available_vram_bytes", lambda device: 1000 * MIB)
    assert not fits(requests, memory)
    monkeypatch.setattr(gpu_meters, "available_vram_bytes", lambda device: 2000 * MIB)
    assert fits(requests, memory)
    monkeypatch.setattr(gpu_meters, "available_vram_bytes", lambda device: None)
    assert fits(requests, memory)


# --- workers -------------------------------------------------------------------------------


def test_importing_the_worker_imports_no_runtime() -> None:
    code = (
        "import sys, clipperf.bench.worker, clipperf.bench.launchers.local; "
        "heavy = {'torch', 'onnx', 'onnxruntime', 'jinja2', 'rich', 'typer', 'transformers'}; "
        "heavy &= set(sys.modules); "
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=child_environment(1))


def test_an_onnx_worker_never_imports_torch(tmp_path: Path, env: Any) -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    node = onnx.helper.make_node("GlobalAveragePool", ["image"], ["pooled"])
    flat = onnx.helper.make_node("Flatten", ["pooled"], ["image_embeds"])
    graph = onnx.helper.make_graph(
        [node, flat],
        "tiny",
        [onnx.helper.make_tensor_value_info("image", 1, ["batch", 3, 8, 8])],
        [onnx.helper.make_tensor_value_info("image_embeds", 1, ["batch", 3])],
    )
    model = onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10
    )
    onnx.save(model, tmp_path / "tiny.onnx")
    cell = Cell("tiny", "image", "onnx", "fp32", "cpu", 4, 1)
    spec = replace(SPEC, id="tiny", embed_dim=3)
    rows = measure_group([EngineRequest(cell, spec, str(tmp_path / "tiny.onnx"))], FAST, env)
    # `worker.forbid_torch` fails the row if torch is there after loading or running.
    assert [(row.status, row.error) for row in rows] == [("ok", None)] * 2
    assert rows[1].provider == "CPUExecutionProvider"


def test_threads_are_set_before_python_starts() -> None:
    variables = child_environment(3)
    assert variables["OMP_NUM_THREADS"] == variables["MKL_NUM_THREADS"] == "3"


def test_a_worker_ends_at_the_end_of_its_input() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "clipperf.bench.worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=child_environment(1),
    )
    out, _ = process.communicate(b"", timeout=60)
    assert json.loads(out)["status"] == "ok"
    assert process.returncode == 0


def test_commands_before_open_are_refused() -> None:
    with Child("clipperf.bench.worker", threads=1, timeout_s=60) as worker:
        worker.greet()
        with pytest.raises(EngineError, match="no engine is open"):
            worker.ask("block", sleep_s=0, warmup=0, calls=1, min_s=0, max_s=1)


PARENT = """
import json, sys
from dataclasses import replace
from clipperf.bench.cost import QUICK
from clipperf.bench.jobs import Job, Prepared, run_job
from clipperf.nouns.cell import Cell, EngineRequest
from clipperf.nouns.model import ModelSpec
from clipperf.system import env

spec = ModelSpec("sim", "simulated", "sim", "random:0", 8, 8, 16)
cells = [
    Prepared(EngineRequest(Cell("sim", "image", "simulated", n, "cpu", 1, 1), spec, sys.argv[1]))
    for n in ("fp32", "int8")
]
def tell(event):
    print(json.dumps([event.kind, event.text]), flush=True)
try:
    job = Job("", "closed-loop", tuple(cells), replace(QUICK, max_s=600.0))
    run_job(job, env.capture(), (), tell)
except KeyboardInterrupt:
    print(json.dumps(["interrupted", ""]), flush=True)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_workers_die_with_the_sweep(how: signal.Signals, tmp_path: Path) -> None:
    import psutil

    script = tmp_path / "slow.json"
    script.write_text(json.dumps({"run_s": 0.01, "jitter_s": 0.5}))
    parent = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(PARENT), str(script)],
        stdout=subprocess.PIPE,
        encoding="utf-8",
        env=child_environment(1),
        # A suite started in the background ignores Ctrl-C, and so would all that it starts.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert parent.stdout is not None
    lines = []
    for line in parent.stdout:
        lines.append(json.loads(line))
        if "in turns" in lines[-1][1]:
            break
    end = time.monotonic() + 30
    while len(children := psutil.Process(parent.pid).children()) < 2 and time.monotonic() < end:
        time.sleep(0.05)
    assert len(children) == 2
    os.kill(parent.pid, how)
    rest = parent.stdout.read()
    parent.wait(timeout=30)
    parent.stdout.close()
    _, alive = psutil.wait_procs(children, timeout=10)
    assert not alive
    assert ("interrupted" in rest) == (how == signal.SIGINT)
    # What was done before was handed over already.
    assert sum(kind == "measured" for kind, _ in lines) == 2


# --- inputs --------------------------------------------------------------------------------


def test_inputs_are_valid_and_equal_for_every_runtime() -> None:
    import numpy as np

    spec = replace(SPEC, image_px=32, context_tokens=77)
    image = EngineRequest(Cell("m", "image", "onnx", "fp32", "cpu", 3, 1), spec, None)
    array = make_inputs(image)
    assert array.shape == (3, 3, 32, 32) and array.dtype == np.float32
    assert abs(float(array.mean())) < 0.1 and abs(float(array.std()) - 1) < 0.1
    other = replace(image, cell=replace(image.cell, runtime="torch"))
    assert np.array_equal(array, make_inputs(other))
    taken = make_inputs(replace(image, cell=replace(image.cell, input="uint8")))
    assert taken.shape == array.shape and taken.dtype == np.uint8
    assert (taken.min(), taken.max()) == (0, 255)
    text = EngineRequest(Cell("m", "text", "onnx", "fp32", "cpu", 5, 1, tokens=9), spec, None)
    rows = make_inputs(text)
    assert rows.shape == (5, 9) and rows.dtype == np.int64
    assert (rows[:, 0] == 49406).all() and (rows[:, -1] == 49407).all()
    assert rows[:, 1:-1].min() >= CLIP_IDS.low and rows[:, 1:-1].max() < 49406
    assert (rows.argmax(axis=1) == 8).all(), "towers pool where the largest id is"
    whole = replace(text, cell=replace(text.cell, tokens=None))
    assert make_inputs(whole).shape == (5, 77)
    small = make_inputs(text, TextIds(sot=None, eot=1, low=2, high=1000))
    assert small.max() < 1000 and (small[:, -1] == 1).all()
