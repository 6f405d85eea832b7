"""The first run on a GPU, rehearsed: every stage to its end, and limits that end what hangs."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import simulated_machine
from conftest import ROOT, store_of

from clipperf.engines import contract
from clipperf.engines.tensorrt import flavours
from clipperf.nouns.variant import SIDES
from clipperf.system.env import PACKAGES

sys.path.insert(0, str(ROOT / "tools"))
import first_gpu_base
import first_gpu_known
import first_gpu_page
import first_gpu_rehearsal
import first_gpu_run
import first_gpu_stages
import first_gpu_vectors
import verified_on
from first_gpu_base import Skipped, Stage, Wrong, merged

TOOL = ROOT / "tools" / "first_gpu_run.py"


def tool(out: Path, *words: str, timeout: float = 570) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"PYTHONPATH": str(ROOT), "CLIPPERF_HOME": str(out / "home")}
    return subprocess.run(
        [sys.executable, str(TOOL), "--out", str(out), *words],
        capture_output=True, text=True, timeout=timeout, env=env,
    )  # fmt: skip


def test_stages_run_on_the_cpu_are_kept_and_not_repeated(tmp_path: Path) -> None:
    words = ("--device", "cpu", "--only", "environment", "products", "memory")
    first = tool(tmp_path, *words)
    assert first.returncode == 0, first.stdout + first.stderr
    run = json.loads((tmp_path / "first-run-cpu.json").read_text())
    ended = {name: record["status"] for name, record in run["stages"].items()}
    assert ended == {"environment": "ok", "products": "ok", "memory": "skipped"}
    assert run["stages"]["products"]["data"]["tflop_per_s"]["float32"] > 0
    usable = {r["runtime"] for r in run["stages"]["environment"]["data"]["runtimes"] if r["usable"]}
    assert {"torch", "onnx"} <= usable
    if not str(run["environment"]["commit"]).endswith("+"):  # else it is begun anew
        second = tool(tmp_path, *words)
        assert second.returncode == 0
        assert second.stdout.count(" before") == 3, second.stdout
        assert json.loads((tmp_path / "first-run-cpu.json").read_text()) == run
        third = tool(tmp_path, "--device", "cpu", "--only", "products", "--again")
        assert third.returncode == 0
        assert " before" not in third.stdout
        again = json.loads((tmp_path / "first-run-cpu.json").read_text())["stages"]
        assert list(again) == list(run["stages"]), "the others are kept"
        assert again["memory"] == run["stages"]["memory"]
    page = (tmp_path / "first-run-cpu.md").read_text()
    assert "| memory | skipped |" in page
    assert "no GPU's memory on a CPU" in page


# --- the rehearsal: CPU runtimes, a simulated GPU, and the CUDA that keeps the rules ------------


@pytest.fixture(scope="module")
def rehearsal(sample_in: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a rehearsal whose store had the sample's graphs, for which eight bits take a
    search for the layers to keep."""
    out = tmp_path_factory.mktemp("rehearsal")
    for precision in ("fp32", "fp16", "fp8"):
        store_of(sample_in(precision), out / "store")
    done = tool(out, "--rehearse", "--minutes", "25", timeout=1600)
    assert done.returncode == 0, done.stdout + done.stderr
    return out


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_stage_is_rehearsed_to_its_end(rehearsal: Path) -> None:
    """As on a GPU but for sizes."""
    run = json.loads((rehearsal / "first-run-rehearsal.json").read_text())
    assert run["environment"]["device"] == "cpu", "which the README takes nothing from"
    ended = {name: record["status"] for name, record in run["stages"].items()}
    expected = dict.fromkeys((stage.name for stage in first_gpu_stages.STAGES), "ok")
    usable = contract.get("torch-compile").availability("cpu").usable
    assert ended == expected | ({} if usable else {"compiled": "skipped"})
    page = (rehearsal / "first-run-rehearsal.md").read_text()
    assert first_gpu_page.REHEARSED in page
    shown = {line.removeprefix("## ") for line in page.splitlines() if line.startswith("## ")}
    assert set(ended) <= shown, "each has a section of its own"
    data = {name: record["data"] for name, record in run["stages"].items()}
    assert all(row["ok"] for row in data["parity"]["rows"])
    places = {(row["runtime"], row["side"], row["rehearsed"]) for row in data["parity"]["rows"]}
    on_cpu, on_gpu, _ = first_gpu_rehearsal.WHERE.values()
    for side in SIDES:
        assert {("torch", side, on_cpu), ("onnx", side, on_cpu)} <= places
        assert ("trt", side, on_gpu) in places
        assert (("trt-rtx", side, on_gpu) in places) == flavours.installed("trt-rtx")
    places = {(row["runtime"], row["precision"]) for row in data["precisions"]["rows"]}
    assert places == {("trt", "tf32")} and all(row["ok"] for row in data["precisions"]["rows"])
    assert [(r["runtime"], r["rehearsed"]) for r in data["served"]["served"]] == [
        ("onnx", on_cpu), ("trt", on_gpu)
    ]  # fmt: skip
    (judged,) = data["eight-bits"]["vectors"]
    assert (judged["runtime"], judged["precision"], judged["rehearsed"]) == ("trt", "fp8", on_gpu)
    assert data["large"]["flop"] > 0
    assert "| met |" not in page, "no figure of a rehearsal meets an aim"
    for name in ("speed", "eight-bits", "large", "batches"):
        rows = [row for row in data[name]["rows"] if row["runtime"] == "trt"]
        assert rows and all(row["phases_ms"]["h2d"] > 0 for row in rows)
        assert all(row["vram_source"] == "nvml-process" for row in rows)
        assert all(row["rehearsed"] == on_gpu and row["device"] == "cuda" for row in rows)
        assert any(line.endswith(f"| {on_gpu} |") for line in section(page, name))
    compiled = {row["runtime"] for row in data["compiled"].get("rows", ())}
    assert compiled == ({"torch"} if usable else set())
    assert data["memory"]["seen_bytes"] == data["memory"]["known_bytes"]
    assert data["memory"]["source"] == "nvml-device-delta", "of the GPU that hides its processes"
    assert [(row["runtime"], row["wrong"]) for row in data["known"]["known"]] == [
        ("trt-rtx", [])
    ] * len(first_gpu_known.SIZES)
    assert all(row["largest_difference"] == 0 for row in data["graphs"]["graphs"])
    assert [row["precision"] for row in data["eight-bits"]["rows"]] == ["fp8"]
    (row,) = data["rescue"]["rescued"]
    assert (row["runtime"], row["side"]) == ("trt", "image")
    assert row["in_fp32"] > 0 and row["cosine"] > 0.999
    assert "| runtime | tower | operators in fp32 |" in page
    assert "recall@1" in data["retrieval"]["markdown"]


def section(page: str, name: str) -> list[str]:
    """The lines of a stage's section."""
    return page.partition(f"\n## {name}\n")[2].partition("\n## ")[0].splitlines()


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(not flavours.installed("trt-rtx"), reason="TensorRT for RTX is not installed")
def test_what_fails_on_the_simulated_gpu_is_a_row_and_the_rest_goes_on(
    rehearsal: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wrong vector of a graph, too little memory, an engine that is not built, and a hang."""
    shutil.copytree(rehearsal / "store", tmp_path / "store")
    shutil.copytree(rehearsal / "simulated-gpu" / "plans", tmp_path / "plans")
    for built in (tmp_path / "store" / "artifacts").glob("*/*/trt-rtx-*"):
        shutil.rmtree(built)
    monkeypatch.setenv("CLIPPERF_HOME", str(tmp_path / "store"))
    monkeypatch.setenv(first_gpu_base.REHEARSAL, "1")
    machine, fault = tmp_path / "machine", simulated_machine.Fault
    env = simulated_machine.installed(
        machine,
        [
            fault("trt", "pixel_values", "wrong"),
            fault("trt", "input_ids", "no memory"),
            fault("trt-rtx", "pixel_values", "no build"),
            fault("trt-rtx", "input_ids", "hangs"),
        ],
    )

    class Patient(subprocess.Popen):  # type: ignore[type-arg]
        """Its limit is reached when it hangs, however fast this machine is."""

        def wait(self, timeout: float | None = None) -> int:
            deadline = time.monotonic() + 600
            while timeout is not None and not (machine / "hung").exists():
                if self.poll() is not None:
                    break
                assert time.monotonic() < deadline, "no engine hung within 600 s"
                time.sleep(0.1)
            return super().wait(timeout)

    stages = {stage.name: stage for stage in first_gpu_stages.STAGES}
    with monkeypatch.context() as patch:
        patch.setattr(first_gpu_run.subprocess, "Popen", Patient)
        record = first_gpu_run.run_stage(stages["parity"], "cuda", 0.5, env)
    assert record["status"] == "too slow"
    wrong, no_memory, not_built = record["data"]["rows"]
    assert (wrong["runtime"], wrong["side"], wrong["ok"]) == ("trt", "image", False)
    assert wrong["cosine"] < 0.9 and "error" not in wrong
    assert (no_memory["runtime"], no_memory["side"]) == ("trt", "text")
    assert "out of GPU memory" in no_memory["error"]
    assert (not_built["runtime"], not_built["side"]) == ("trt-rtx", "image")
    assert "TensorRT for RTX cannot build" in not_built["error"]
    after = first_gpu_run.run_stage(stages["speed"], "cuda", 900, env)
    assert after["status"] == "failed" and "trt-rtx image batch 1" in after["reason"]
    ended = {row["runtime"]: row["status"] for row in after["data"]["rows"]}
    assert ended == {"trt": "ok", "trt-rtx": "failed"}


def test_what_breaks_a_rule_fails_the_stage(tmp_path: Path) -> None:
    """In whatever process: what was found stays, and each row says where it was rehearsed."""

    def run_stage(stage: Stage, device: str, limit_s: float, env: dict[str, str]) -> dict[str, Any]:
        if env:
            code = "from cuda.bindings import runtime\nruntime.cudaFree(7)"
            subprocess.run([sys.executable, "-c", code], env=os.environ | env, check=True)
        return stage_record("ok", rows=[{"runtime": device}])

    stage = next(stage for stage in first_gpu_stages.STAGES if stage.name == "speed")
    record = first_gpu_rehearsal.rehearse(stage, 60, run_stage, tmp_path)
    assert record["status"] == "failed"
    said = "rules were broken: device memory was freed that is not allocated"
    assert record["reason"] == f"on a simulated GPU: {said}"
    assert record["data"]["rows"] == [
        {"runtime": "cpu", "rehearsed": "on the CPU"},
        {"runtime": "cuda", "rehearsed": "on a simulated GPU"},
    ]
    assert (record["seconds"], record["rehearsed"]) == (2.0, True)


@pytest.mark.parametrize(
    ("on_cpu", "on_gpu", "status", "reason"),
    [
        ("ok", "ok", "ok", ""),
        ("ok", "skipped", "skipped", "on a simulated GPU: said"),
        ("skipped", "ok", "skipped", "on the CPU: said"),
        ("skipped", "too slow", "too slow", "on a simulated GPU: said"),
        ("failed", "skipped", "failed", "on the CPU: said"),
        ("too slow", "failed", "too slow", "on the CPU: said"),
    ],
)
def test_the_worse_half_of_a_stage_is_named(
    on_cpu: str, on_gpu: str, status: str, reason: str, tmp_path: Path
) -> None:
    def run_stage(stage: Stage, device: str, limit_s: float, env: dict[str, str]) -> dict[str, Any]:
        ended = on_cpu if device == "cpu" else on_gpu
        return stage_record(ended) | {"reason": "" if ended == "ok" else "said"}

    stage = next(stage for stage in first_gpu_stages.STAGES if stage.name == "speed")
    record = first_gpu_rehearsal.rehearse(stage, 60, run_stage, tmp_path)
    assert (record["status"], record["reason"]) == (status, reason)


@pytest.mark.parametrize("name", ["copies", "known"])
def test_a_broken_rule_of_cuda_fails_whatever_stage_has_its_gpu(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The copies of these stages are rehearsed in their own process, which tells no machine."""
    from clipperf.engines.tensorrt import cuda as cuda_driver

    def run(device: str, keep: Any) -> dict[str, Any]:
        cuda_driver.open_cuda()._rt.cudaFree(7)
        return {"rows": [3]}

    monkeypatch.setattr(first_gpu_stages, "REHEARSED", True)
    monkeypatch.setattr(first_gpu_stages, "STAGES", (Stage(name, "One", 5, run),))
    answer = tmp_path / "answer.json"
    assert first_gpu_stages.main([name, "--device", "cpu", "--answer", str(answer)]) == 1
    found = json.loads(answer.read_text())
    said = "CUDA's rules were broken: ['device memory was freed that is not allocated']"
    assert found == {"rows": [3], "reason": said}


def test_parity_of_nothing_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(first_gpu_vectors, "usable", lambda device: [])
    with pytest.raises(Wrong, match="no runtime is usable on cuda"):
        first_gpu_stages.parity("cuda", lambda data: None)


def test_the_simulated_tensorrt_takes_nothing_that_it_does_not_know() -> None:
    with pytest.raises(ValueError, match="'hang' is none of no build, no memory, wrong, hangs"):
        simulated_machine.Fault("trt", "input_ids", "hang")  # type: ignore[arg-type]
    config: Any = simulated_machine.Config()
    config.builder_optimization_level = 3
    with pytest.raises(AttributeError):
        config.optimization_level = 3


def test_the_simulated_gpu_tells_what_a_process_holds(tmp_path: Path) -> None:
    env = simulated_machine.installed(tmp_path / "one")
    code = (
        "import os, pynvml\nfrom cuda.bindings import runtime\n"
        "from clipperf.bench import gpu_sampler\nfrom clipperf.system.env import gpu\n"
        "runtime.cudaMalloc(5 << 20)\nfound = gpu()\n"
        "with gpu_sampler.opened(found.uuid) as meter:\n"
        "    print(found.name, meter.process_bytes(os.getpid()) - (300 << 20))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | env, capture_output=True, text=True
    )
    assert done.stdout.strip() == f"{simulated_machine.NAME} {5 << 20}", done.stderr


@pytest.mark.parametrize(("commit", "kept"), [("abc", True), ("abd", False), ("abc+", False)])
def test_what_other_code_found_is_put_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, commit: str, kept: bool
) -> None:
    file = tmp_path / "first-run-toy.json"
    monkeypatch.setattr(first_gpu_run, "commit", lambda: "abc+" if commit == "abc+" else "abc")
    before = first_gpu_run.begun(file, "cpu", "toy", None)
    before["stages"]["products"] = stage_record("ok")
    before["started"] = "2026-01-02T03:04:05Z"
    file.write_text(json.dumps(before))
    monkeypatch.setattr(first_gpu_run, "commit", lambda: commit)
    found = first_gpu_run.begun(file, "cpu", "toy", None)
    assert found["stages"] == (before["stages"] if kept else {})
    aside = tmp_path / "earlier-first-run-toy-2026-01-02T030405Z.json"
    assert aside.exists() != kept
    if not kept:
        assert json.loads(aside.read_text()) == before
        assert not file.exists()


def test_a_record_that_is_tracked_is_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, file = tmp_path / "code.py", tmp_path / "results" / "first-run-toy.json"
    file.parent.mkdir()
    for path in (code, file):
        path.write_text("{}\n")
    user = ("-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false")
    for words in (("init", "-q"), ("add", "."), (*user, "commit", "-qm", "One")):
        subprocess.run(["git", "-C", str(tmp_path), *words], check=True)
    monkeypatch.setattr(first_gpu_run, "ROOT", tmp_path)
    clean = first_gpu_run.commit()
    assert clean is not None and not clean.endswith("+")
    file.unlink()
    before = first_gpu_run.begun(file, "cpu", "toy", None)
    before["stages"]["products"] = stage_record("ok")
    file.write_text(json.dumps(before))
    assert first_gpu_run.begun(file, "cpu", "toy", None) == before
    code.write_text("1\n")
    assert first_gpu_run.commit() == f"{clean}+"


def test_without_a_gpu_it_says_how_to_rehearse(tmp_path: Path) -> None:
    from clipperf.system.env import gpu

    if gpu() is not None:
        pytest.skip("there is a GPU here")
    done = tool(tmp_path)
    assert done.returncode == 2
    assert "--device cpu" in done.stderr


def test_no_stage_begins_without_time(tmp_path: Path) -> None:
    done = tool(tmp_path, "--device", "cpu", "--minutes", "0", "--only", "products")
    assert done.returncode == 0
    run = json.loads((tmp_path / "first-run-cpu.json").read_text())
    assert run["stages"]["products"]["status"] == "not reached"


@pytest.mark.parametrize(
    ("left_s", "expected"),
    [
        (1000, ("too slow", "ended after 200 s")),
        (150, ("not reached", "ended after 150 s, all left")),
    ],
)
def test_a_stage_is_too_slow_only_by_its_own_limit(
    left_s: float, expected: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_stage(stage: Stage, device: str, limit_s: float) -> dict[str, Any]:
        ended = first_gpu_run.ended("too slow", f"ended after {limit_s:.0f} s")
        return ended | {"data": {"rows": [1]}}

    monkeypatch.setattr(first_gpu_run, "run_stage", run_stage)
    monkeypatch.setattr(first_gpu_run.time, "monotonic", lambda: 5.0)
    stage = Stage("slow", "Slow", 200, lambda device, keep: {})
    record = first_gpu_run.attempt(stage, "cpu", 5.0 + left_s, None)
    assert (record["status"], record["reason"]) == expected
    assert record["data"] == {"rows": [1]}


def test_a_stage_that_hangs_is_ended_with_its_children(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = tmp_path / "child.pid"
    hanging = (
        "import os, pathlib, subprocess, sys, time\n"
        "answer = sys.argv[sys.argv.index('--answer') + 1]\n"
        "pathlib.Path(answer).write_text('{\"rows\": [1]}')\n"
        "words = [sys.executable, '-c', 'import time; time.sleep(600)']\n"
        "child = subprocess.Popen(words, start_new_session=True)\n"  # no part of the stage's group
        f"pathlib.Path({str(left)!r}).write_text(str(child.pid))\n"
        "print('waiting', flush=True)\n"
        "time.sleep(600)\n"
    )
    (tmp_path / "first_gpu_stages.py").write_text(hanging)
    monkeypatch.setattr(first_gpu_run, "__file__", str(tmp_path / "first_gpu_run.py"))
    stage = Stage("hangs", "Hangs", 3, lambda device, keep: {})
    record = first_gpu_run.run_stage(stage, "cpu", 3.0)
    assert (record["status"], record["said"]) == ("too slow", "waiting")
    assert record["data"] == {"rows": [1]}, "what it had found is kept"
    deadline = time.monotonic() + 10
    while Path(f"/proc/{left.read_text()}").exists() and time.monotonic() < deadline:
        state = Path(f"/proc/{left.read_text()}/stat").read_text().split()[2]
        if state == "Z":
            break
        time.sleep(0.05)
    else:
        assert not Path(f"/proc/{left.read_text()}").exists()


def test_a_run_goes_on_and_ends_in_time_when_a_stage_hangs(tmp_path: Path) -> None:
    """The tool itself, with a stage that no polite signal ends and that has found something."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for file in TOOL.parent.glob("*.py"):
        shutil.copy(file, tools)
    costs, stages = tools / "first_gpu_costs.py", tools / "first_gpu_stages.py"
    hangs = (
        "def products(device, keep):\n    import signal\n"
        "    signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "    keep({'size': 7})\n    print('it waits', flush=True)\n    time.sleep(600)\n\n\n"
    )
    text = costs.read_text()
    costs.write_text(f"{text}\n\n{hangs}")
    text = stages.read_text()
    limit = '"The rate of matrix products", 60'
    assert limit in text
    stages.write_text(text.replace(limit, '"The rate of matrix products", 12'))
    env = os.environ | {"PYTHONPATH": str(ROOT), "CLIPPERF_HOME": str(tmp_path / "home")}
    words = ["--device", "cpu", "--only", "products", "copies", "--out", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, str(tools / TOOL.name), *words],
        capture_output=True, text=True, timeout=200, env=env,
    )  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr
    found = json.loads((tmp_path / "first-run-cpu.json").read_text())["stages"]
    hung = found["products"]
    assert (hung["status"], hung["reason"]) == ("too slow", "ended after 12 s")
    assert (hung["data"], hung["said"]) == ({"size": 7}, "it waits"), "what it had found is kept"
    assert found["copies"]["status"] == "skipped", "the next one ran"
    assert "| products | too slow |" in (tmp_path / "first-run-cpu.md").read_text()


@pytest.mark.parametrize(
    ("code", "said", "reason"),
    [
        (3, "", "exit status 3"),
        (1, "one\ntwo", "exit status 1: two"),
        (-9, "at work", "killed by SIGKILL: at work"),
    ],
)
def test_a_stage_that_gives_no_reason_is_told_by_how_it_ended(
    code: int, said: str, reason: str
) -> None:
    assert first_gpu_run.how_it_ended(code, said) == reason


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_who_stops_the_tool_stops_its_stages(number: signal.Signals, tmp_path: Path) -> None:
    """And what these have started: here a pytest that collects."""
    words = ("--device", "cpu", "--only", "gpu-tests", "--out", str(tmp_path))
    env = os.environ | {"PYTHONPATH": str(ROOT), "CLIPPERF_HOME": str(tmp_path / "home")}
    with subprocess.Popen([sys.executable, str(TOOL), *words], env=env) as process:
        parent, stages = psutil.Process(process.pid), []
        while len(stages) < 2 and process.poll() is None:
            stages = parent.children(recursive=True)
            time.sleep(0.05)
        process.send_signal(number)
        assert process.wait(30) == 128 + number
    _, alive = psutil.wait_procs(stages, timeout=10)
    assert len(stages) >= 2 and not alive


@pytest.mark.parametrize(
    ("kept", "words", "said"),
    [
        ("{", (), "first-run-cpu.json"),
        ("[1]", (), "is no record of a first run"),
        (None, ("--minutes", "nan"), "give minutes, 0 or more"),
        (None, ("--out", "/dev/null/x"), "name another folder with --out"),
    ],
)
def test_what_cannot_be_begun_is_said_in_words(
    kept: str | None, words: tuple[str, ...], said: str, tmp_path: Path
) -> None:
    if kept is not None:
        (tmp_path / "first-run-cpu.json").write_text(kept)
    done = tool(tmp_path, "--device", "cpu", "--only", "memory", *words)
    assert done.returncode == 2 and said in done.stderr and "Traceback" not in done.stderr
    assert kept is None or (tmp_path / "first-run-cpu.json").read_text() == kept


@pytest.mark.parametrize(
    ("raised", "code", "reason"),
    [
        (Skipped("no such runtime"), 77, "no such runtime"),
        (Wrong("two vectors differ", {"rows": [3]}), 1, "two vectors differ"),
        (Wrong("nothing was printed"), 1, "nothing was printed"),
        (KeyError("no such row"), 1, "KeyError: 'no such row'"),
    ],
)
def test_how_a_stage_says_that_something_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, raised: Exception, code: int, reason: str
) -> None:
    def run(device: str, keep: Any) -> Any:
        keep({"rows": [3]})
        raise raised

    monkeypatch.setattr(first_gpu_stages, "STAGES", (Stage("one", "One", 5, run),))
    answer = tmp_path / "answer.json"
    assert first_gpu_stages.main(["one", "--answer", str(answer)]) == code
    found = json.loads(answer.read_text())
    assert found.pop("reason") == reason
    assert found == ({} if code == 77 else {"rows": [3]})


def test_the_arithmetic_of_a_tower_is_counted() -> None:
    """ViT-S-32-alt: 7 x 7 patches of 3 x 32 x 32 values into 256 channels are the least of it."""
    from clipperf.models import zoo

    parameters, flop = first_gpu_known.arithmetic(zoo.resolve("ViT-S-32-alt", pretrained="random"))
    assert parameters > 3 * 32 * 32 * 256
    assert flop > 2 * 49 * 3 * 32 * 32 * 256
    assert first_gpu_known.arithmetic(zoo.resolve("clipperf-sample"))[1] > 0, "of another family"


# --- phases and memory against what was known of them before ----------------------------------


KNOWN = {"h2d": 0.010, "compute": 0.002, "d2h": 0.001}
"""Seconds: a copy in of 10 ms, and a run of 14 ms when it computes for 3."""


@pytest.mark.parametrize(
    ("changes", "wall_s", "said"),
    [
        ({}, 0.014, []),
        ({"h2d": 0.0201}, 0.024, []),  # twice as long, and what events cannot resolve
        ({"h2d": 0.0205}, 0.0245, ["h2d took 20.500 ms, its bytes take 10.000"]),
        ({"h2d": 0.004}, 0.008, ["h2d took 4.000 ms, its bytes take 10.000"]),
        ({"d2h": 0.003}, 0.016, ["d2h took 3.000 ms, its bytes take 1.000"]),
        ({"d2h": 0.0004}, 0.0134, []),  # half of the bytes: the tower gives halves
        ({"compute": 0.001}, 0.012, ["compute took 1.000 ms, its arithmetic takes 2.000"]),
        ({}, 0.030, ["all phases are 14.000 ms of a run of 30.000"]),
        ({}, 0.010, ["all phases are 14.000 ms of a run of 10.000"]),
    ],
)
def test_phases_are_held_against_bytes_and_arithmetic(
    changes: dict[str, float], wall_s: float, said: list[str]
) -> None:
    found = {"h2d": 0.010, "compute": 0.003, "d2h": 0.001} | changes
    wrong = first_gpu_known.misfits(found, KNOWN, wall_s)
    assert len(wrong) == len(said)
    assert all(one.startswith(words) for one, words in zip(wrong, said, strict=True))


@contextlib.contextmanager
def known_stage(spoil: Callable[[Any, Any], None]) -> Any:
    """The stage on the CUDA that keeps the rules, with its GPU or engine spoiled."""
    with contextlib.ExitStack() as until:
        gpu = first_gpu_rehearsal.gpu_of(until)
        real = first_gpu_rehearsal.engine_on

        def engine_on(*given: Any, **named: Any) -> Any:
            return real(*given, **named, change=lambda engine: spoil(gpu, engine))

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(first_gpu_rehearsal, "gpu_of", lambda until: gpu)
            patch.setattr(first_gpu_rehearsal, "engine_on", engine_on)
            patch.setattr(first_gpu_rehearsal, "KERNEL_S", first_gpu_rehearsal.KERNEL_S)
            first_gpu_rehearsal.known(until)
            yield


def slow_copies(gpu: Any, engine: Any) -> None:
    copy_in = engine._copy_in

    def thrice(array: Any) -> None:
        for _ in range(3):
            copy_in(array)
            engine._cuda.synchronize(engine._stream)

    engine._copy_in = thrice


def a_cheap_kernel(gpu: Any, engine: Any) -> None:
    first_gpu_rehearsal.KERNEL_S /= 20  # half of what the arithmetic takes


def hidden_memory(gpu: Any, engine: Any) -> None:
    gpu.allocate(512 << 20, "nobody knows")


def no_weights(gpu: Any, engine: Any) -> None:
    engine.allocated_bytes = lambda: 1 << 20


def nothing(gpu: Any, engine: Any) -> None:
    pass


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (nothing, None),
        (slow_copies, "h2d took"),
        (a_cheap_kernel, "compute took"),
        (hidden_memory, "the meter saw"),
        (no_weights, "with weights of 64"),
    ],
)
def test_a_cost_that_does_not_fit_is_named(
    monkeypatch: pytest.MonkeyPatch, spoil: Callable[[Any, Any], None], said: str | None
) -> None:
    monkeypatch.setattr(first_gpu_known, "FIXED_S", 1e-6)  # its arrays are small
    monkeypatch.setattr(first_gpu_known, "SIZES", (1, 8))
    found: dict[str, Any] = {}
    with known_stage(spoil):
        if said is None:
            found |= first_gpu_known.known("cuda", found.update)
            assert [row["wrong"] for row in found["known"]] == [[], []]
        else:
            with pytest.raises(Wrong, match=said):
                first_gpu_known.known("cuda", found.update)
    held = found["known"][-1]
    assert held["weights_bytes"] == 64 << 20
    assert "d2h" in held["found_ms"] and "d2h" in held["known_ms"]


def cell(**changes: Any) -> dict[str, Any]:
    return {
        "side": "image", "runtime": "torch", "precision": "fp16", "device": "cuda", "batch": 8,
        "tokens": None, "input": "float32", **changes,
    }  # fmt: skip


def test_a_result_that_cannot_be_kept_holds_up_no_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its lines are more than a pipe holds; what is as before is not kept again."""
    one = {"cell": cell(), "kind": "time", "status": "ok", "run_s": [0.004]}
    measured = {"measurements": [one]}
    code = (
        "import json, pathlib, sys\n"
        "file = pathlib.Path(sys.argv[sys.argv.index('--json') + 1])\n"
        f"file.write_text({json.dumps(measured)!r})\n"
        "for number in range(3000):\n    print('x' * 60, file=sys.stderr)\n"
    )
    package = tmp_path / "clipperf"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "__main__.py").write_text(code)
    monkeypatch.setattr(first_gpu_base, "ROOT", tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    kept: list[Any] = []

    def keep(found: Any) -> None:
        kept.append(found)
        raise OSError("no space left on device")

    found = first_gpu_base.profiled("toy", keep=keep)
    assert kept == [found] and found["rows"][0]["runtime"] == "torch"
    assert capsys.readouterr().out.count("not kept: no space left on device") == 1


def test_a_cells_passes_become_one_row() -> None:
    rows = merged(
        [
            {"cell": cell(), "kind": "memory", "status": "ok", "vram_peak_bytes": 2**30},
            {"cell": cell(), "kind": "time", "status": "ok", "run_s": [0.004, 0.002, 0.009]},
            {"cell": cell(runtime="trt"), "kind": "time", "status": "failed", "error": "no engine"},
        ]
    )
    assert [row["runtime"] for row in rows] == ["torch", "trt"]
    assert (rows[0]["median_ms"], rows[0]["rows_per_s"]) == (4.0, 2000.0)
    assert rows[0]["vram_peak_bytes"] == 2**30
    assert (rows[1]["status"], rows[1]["error"]) == ("failed", "no engine")


def gpu_run(**stages: Any) -> dict[str, Any]:
    return {
        "environment": {
            "device": "cuda", "machine": "NVIDIA Toy", "driver": "600.1", "cores": 4,
            "python": "3.12.1", "versions": {"torch": "2.15.0"}, "clipperf": "0.1", "commit": None,
        },
        "started": "2026-01-02T03:04:05Z",
        "stages": stages,
    }  # fmt: skip


def stage_record(status: str, **data: Any) -> dict[str, Any]:
    return {"status": status, "reason": "", "seconds": 1.0, "data": data}


PARITY = [
    {"runtime": "torch", "precision": "fp16", "side": "image", "ok": True, "cosine": 0.9999},
    {"runtime": "torch", "precision": "fp32", "side": "image", "ok": True, "cosine": 1.0},
    {"runtime": "torch", "precision": "fp16", "side": "text", "ok": False, "cosine": 0.2},
    {"runtime": "trt", "precision": "fp16", "side": "text", "ok": False, "cosine": None},
]


def test_the_page_compares_with_eager_in_the_same_precision() -> None:
    times = [("torch", "fp32", 8.0), ("torch", "fp16", 4.0), ("trt", "fp16", 1.0)]
    rows = [
        cell(runtime=name, precision=precision)
        | {"status": "ok", "median_ms": ms, "rows_per_s": 8e3 / ms}
        for name, precision, ms in times
    ]
    page = first_gpu_page.page(gpu_run(speed=stage_record("ok", rows=rows)))
    table = [line.split(" | ") for line in page.splitlines() if line.startswith("| image")]
    assert [(line[3], line[5], line[7]) for line in table] == [
        ("torch", "8.000", "0.50"), ("torch", "4.000", "1.00"), ("trt", "1.000", "4.00")
    ]  # fmt: skip


def test_the_readme_gets_what_was_shown_and_nothing_else(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{verified_on.BEGIN}\nold\n{verified_on.END}\nafter\n")
    run = gpu_run(parity=stage_record("failed", rows=PARITY), memory=stage_record("ok"))
    (tmp_path / "first-run-toy.json").write_text(json.dumps(run))
    rehearsal = gpu_run(speed=stage_record("ok"))
    rehearsal["environment"]["device"] = "cpu"
    (tmp_path / "first-run-cpu.json").write_text(json.dumps(rehearsal))
    words = ["--results", str(tmp_path), "--readme", str(readme)]
    assert verified_on.main([*words, "--check"]) == 1
    assert verified_on.main(words) == 0
    assert verified_on.main([*words, "--check"]) == 0
    text = readme.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    where = "NVIDIA Toy, driver 600.1, 2026-01-02"
    assert (
        f"| `torch`: images in fp16, fp32: vectors as PyTorch's in fp32 on the CPU | {where}, "
        "torch 2.15.0 |\n"
    ) in text
    assert f"| the VRAM meter against a known allocation | {where} |\n" in text
    not_run = [line for line in text.splitlines() if line.endswith("| not yet run on a GPU |")]
    assert len(not_run) == 2
    assert "`trt`" in not_run[0]
    assert "`torch` texts" in not_run[0]
    assert "`torch`," not in not_run[0]
    assert "`clipperf profile`" in not_run[1]
    readme.write_text("no place for it")
    assert verified_on.main(words) == 2


@pytest.mark.parametrize("flavour", flavours.FLAVOURS)
def test_the_readme_tells_the_version_of_whichever_package_brought_tensorrt(flavour: str) -> None:
    said = "NVIDIA Toy, driver 600.1, 2026-01-02"
    for package in flavours.DISTRIBUTIONS[flavour]:
        assert package in PACKAGES, "else no record has it"
        run = gpu_run()
        run["environment"]["versions"][package] = "11.0.0"
        assert verified_on.where(run, flavour) == f"{said}, {package} 11.0.0"
        (other,) = set(flavours.FLAVOURS) - {flavour}
        assert verified_on.where(run, other) == said


@pytest.mark.parametrize("marked", ["stage", "row"])
def test_the_readme_gets_nothing_from_a_rehearsal(tmp_path: Path, marked: str) -> None:
    """Not even from one that says of itself that it was on a GPU."""
    mark = {"rehearsed": "on a simulated GPU"}
    rows = [{**row, **(mark if marked == "row" else {})} for row in PARITY[:2]]
    record = stage_record("ok", rows=rows) | (mark if marked == "stage" else {})
    run = gpu_run(parity=record, speed=stage_record("ok"))
    (tmp_path / "first-run-toy.json").write_text(json.dumps(run))
    readme = tmp_path / "README.md"
    readme.write_text(f"{verified_on.BEGIN}\n{verified_on.END}\n")
    assert verified_on.main(["--results", str(tmp_path), "--readme", str(readme)]) == 0
    lines = [line for line in readme.read_text().splitlines() if line.startswith("| ")]
    assert len(lines) == 3 and all(line.endswith("| not yet run on a GPU |") for line in lines[1:])
    for one in (*rows, record):
        one.pop("rehearsed", None)
    assert verified_on.on_a_gpu(gpu_run(parity=record)), "as it is without the mark"


def test_the_readme_says_what_the_results_say() -> None:
    assert verified_on.main(["--check"]) == 0
