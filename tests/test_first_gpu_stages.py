"""What the first run on a GPU does in which order, on which GPU, and what it is held against."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import fake_nvml
import pytest
import simulated_machine
from conftest import ROOT

from clipperf.system import gpus

sys.path.insert(0, str(ROOT / "tools"))
import first_gpu_aims
import first_gpu_base
import first_gpu_page
import first_gpu_run
import first_gpu_serving
import first_gpu_stages
import first_gpu_vectors
from first_gpu_base import Skipped, Stage, Wrong

GIB = 2**30


# --- the order ---------------------------------------------------------------------------------


def test_stages_come_in_the_order_of_their_worth() -> None:
    names = [stage.name for stage in first_gpu_stages.STAGES]
    assert names[:12] == [
        "environment", "parity", "gpu-tests", "memory", "known", "products", "rescue",
        "eight-bits", "batches", "compiled", "large", "retrieval",
    ]  # fmt: skip
    assert {"precisions", "structures", "served", "texts", "tuned", "speed"} < set(names[12:])
    assert len(names) == len(set(names))


def test_fp16_of_every_runtime_comes_first_and_builders_before_compilers() -> None:
    names = ("ort-trt", "torch-compile", "trt", "ort-cuda", "torch", "trt-rtx", "ort-trt-rtx")
    order = ["torch", "ort-cuda", "trt", "trt-rtx", "ort-trt", "ort-trt-rtx", "torch-compile"]
    first = first_gpu_vectors.tried(names, ("fp16",))
    assert [name for name, _, _ in first] == [name for name in order for _ in range(2)]
    assert first_gpu_base.FIRST == "fp16" and "fp16" not in first_gpu_base.OTHERS
    both = first_gpu_vectors.tried(names, ("fp16", "fp32"))
    assert both[: len(first)] == first
    assert {precision for _, precision, _ in both[len(first) :]} == {"fp32"}


def fake_stages(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    stages = tuple(Stage(name, name, 5, lambda device, keep: {}) for name in names)
    monkeypatch.setattr(first_gpu_run, "STAGES", stages)
    monkeypatch.setattr(first_gpu_run.signal, "signal", lambda *given: None)
    for name in (first_gpu_base.REHEARSAL, gpus.VISIBLE, gpus.ORDER, gpus.PINNED):
        monkeypatch.setenv(name, "")  # what is set meanwhile goes with the test
        monkeypatch.delenv(name)


def test_nothing_runs_beside_a_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorRT times its kernels while it builds: what was tuned under load is not measured."""
    fake_stages(monkeypatch, *"abcd")
    inside, beside = threading.Semaphore(1), []

    def attempt(stage: Stage, *given: Any) -> dict[str, Any]:
        if not inside.acquire(blocking=False):
            beside.append(stage.name)
            return first_gpu_run.ended("failed", "beside")
        threading.Event().wait(0.02)
        inside.release()
        return first_gpu_run.ended("ok", "")

    monkeypatch.setattr(first_gpu_run, "attempt", attempt)
    assert first_gpu_run.main(["--device", "cpu", "--out", str(tmp_path)]) == 0
    assert not beside


# --- the GPU -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("device", "uuid"), [("cuda", "GPU-slow"), ("cuda:1", "GPU-fast"), ("cuda:GPU-fast",) * 2]
)
def test_stages_see_the_gpu_that_is_described(
    device: str, uuid: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whose number CUDA counts otherwise, the fastest first."""
    uuid = uuid.removeprefix("cuda:")
    fake_stages(monkeypatch, "a")
    boards = [
        {"uuid": "GPU-fast", "title": "Fast", "bus": 9, "total": GIB},
        {"uuid": "GPU-slow", "title": "Slow", "bus": 1, "total": GIB},
    ]
    fake_nvml.in_this_process(fake_nvml.installer(tmp_path, monkeypatch)(gpus=boards), monkeypatch)
    seen: list[tuple[str, str | None, str | None]] = []

    def run_stage(stage: Stage, device: str, *given: Any) -> dict[str, Any]:
        seen.append((device, os.environ.get(gpus.VISIBLE), os.environ.get(gpus.ORDER)))
        return first_gpu_run.ended("ok", "")

    monkeypatch.setattr(first_gpu_run, "run_stage", run_stage)
    assert first_gpu_run.main(["--device", device, "--minutes", "5", "--out", str(tmp_path)]) == 0
    assert seen == [("cuda", uuid, "PCI_BUS_ID")]
    name = "slow" if uuid == "GPU-slow" else "fast"
    here = json.loads((tmp_path / f"first-run-{name}.json").read_text())["environment"]
    assert (here["machine"].lower(), here["gpu_uuid"]) == (name, uuid)


def test_a_gpu_that_is_not_there_is_refused_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fake_stages(monkeypatch, "a")
    fake_nvml.in_this_process(fake_nvml.installer(tmp_path, monkeypatch)(), monkeypatch)
    assert first_gpu_run.main(["--device", "cuda:1", "--out", str(tmp_path)]) == 2
    assert "device cuda:1: there is no such GPU (cuda:0 is GPU-fake)" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        first_gpu_run.main(["--device", "cudax"])
    assert "give cuda, cuda:1, cuda:UUID or cpu" in capsys.readouterr().err


# --- memory ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hides", "source"), [(False, "nvml-process"), (True, "nvml-device-delta")]
)
def test_the_meter_sees_a_known_allocation_where_processes_are_told_and_where_hidden(
    hides: bool, source: str, tmp_path: Path
) -> None:
    """By the sampler as it is: what was there before it began is in no figure of the device."""
    env = simulated_machine.installed(tmp_path / "machine", hides=hides)
    answer = tmp_path / "answer.json"
    words = [sys.executable, str(ROOT / "tools" / "first_gpu_stages.py"), "memory"]
    done = subprocess.run(
        [*words, "--device", "cuda", "--answer", str(answer)],
        env=os.environ | env | {first_gpu_base.REHEARSAL: "1"}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, answer.read_text() + done.stderr
    assert json.loads(answer.read_text()) == {
        "known_bytes": 1 << 24, "seen_bytes": 1 << 24, "device_bytes": 1 << 24, "source": source
    }  # fmt: skip
    assert simulated_machine.broken(tmp_path / "machine") == []


# --- clipperf.load, and eight bits ------------------------------------------------------------


GOOD: dict[str, Any] = {
    "runtime": "ort-cuda", "alone": 1.0, "threads": 1.0, "after_it": 1.0, "growth": 0.0,
    "without_memory": "EngineError: out of GPU memory at batch 99",
}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, ""),
        ({"threads": 0.9}, "other vectors than the CPU's: threads"),
        ({"without_memory": "it had enough"}, "too little memory was told as: it had enough"),
        ({"without_memory": "it had enough", "runtime": "trt"}, ""),
        ({"without_memory": "Oops", "runtime": "trt"}, "too little memory was told as: Oops"),
        ({"growth": 0.2}, "memory grew by 20.0%"),
    ],
)
def test_what_a_served_model_is_held_against(changes: dict[str, Any], said: str) -> None:
    assert first_gpu_serving.unfit(GOOD | changes) == said


def test_every_engine_is_served_and_one_that_fails_leaves_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def serve(runtime: str, device: str, row: dict[str, Any], keep: Any) -> None:
        if runtime == "trt":
            raise RuntimeError("no engine")
        row |= {**GOOD, "runtime": runtime}

    names = ["torch", "trt", "trt-rtx", "ort-cuda"]
    monkeypatch.setattr(first_gpu_serving, "timed", lambda *given: names)
    monkeypatch.setattr(first_gpu_serving, "serve", serve)
    with pytest.raises(Wrong, match=r"^trt: RuntimeError: no engine$") as raised:
        first_gpu_serving.served("cuda", lambda found: None)
    rows = raised.value.data["served"]
    assert [(row["runtime"], row["wrong"]) for row in rows] == [
        ("ort-cuda", ""), ("trt", "RuntimeError: no engine"), ("trt-rtx", "")
    ]  # fmt: skip
    assert "| trt-rtx |" in "\n".join(first_gpu_page.SECTIONS["served"]({"served": rows}))
    names[:] = ["torch"]
    with pytest.raises(Skipped, match="none of ort-cuda, trt, trt-rtx is usable here"):
        first_gpu_serving.served("cuda", lambda found: None)


def test_engines_of_eight_bits_are_judged_by_their_vectors(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Not by the gate of their export alone."""
    cosines = {("trt", "int8"): 0.9999, ("trt", "fp8"): 0.3}
    asked: list[str] = []

    def judged(spec: Any, side: str, name: str, device: str, base: Any, precision: str) -> float:
        return cosines[name, precision]

    class Made:
        folder = Path()

    def profiled(*words: str, keep: Any) -> dict[str, Any]:
        asked.append(words[words.index("--precision") + 1])
        return {"rows": []}

    monkeypatch.setattr("clipperf.export.make.make", lambda *given: Made)
    monkeypatch.setattr(first_gpu_vectors, "model", lambda: None)
    monkeypatch.setattr(first_gpu_vectors, "judged", judged)
    monkeypatch.setattr(first_gpu_stages, "timed", lambda device: ["torch", "trt"])
    monkeypatch.setattr(first_gpu_stages, "profiled", profiled)
    with pytest.raises(Wrong, match=r"^wrong or failed: trt fp8 image, trt fp8 text$") as raised:
        first_gpu_stages.eight_bits("cuda", lambda found: None)
    assert asked == ["fp16,int8,fp8"], "beside fp16, which int8 is to be no slower than"
    page = first_gpu_page.SECTIONS["eight-bits"](raised.value.data)
    assert any("| trt | int8 | text | 0.9999000 |" in line for line in page)
    assert any("| trt | fp8 | image | 0.3000000 |" in line and "False" in line for line in page)


def test_what_nobody_expected_of_one_engine_leaves_the_others_tried(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def judged(spec: Any, side: str, *given: Any) -> float:
        if side == "image":
            raise OSError("libnvinfer.so: cannot be opened")
        return 1.0

    class Made:
        folder = Path()

    monkeypatch.setattr("clipperf.export.make.make", lambda *given: Made)
    monkeypatch.setattr(first_gpu_vectors, "model", lambda: None)
    monkeypatch.setattr(first_gpu_vectors, "judged", judged)
    first, second = first_gpu_vectors.judged_vectors("trt", ("image", "text"), "fp8", "cuda")
    assert (first["ok"], first["error"]) == (False, "OSError: libnvinfer.so: cannot be opened")
    assert (second["ok"], second["cosine"]) == (True, 1.0)


# --- what was aimed at ---------------------------------------------------------------------------


def timed(runtime: str, ms: float, **changes: Any) -> dict[str, Any]:
    return {
        "side": "image", "runtime": runtime, "precision": "fp16", "batch": 32, "tokens": None,
        "status": "ok", "median_ms": ms, **changes,
    }  # fmt: skip


def ended(**data: Any) -> dict[str, Any]:
    return {"status": "ok", "reason": "", "data": data}


def whole_run() -> dict[str, Any]:
    """1.6 and 1.1 times torch.compile; 32 x 1 TFLOP in 64 ms of 800; 4 times; 200 of 210 MiB."""
    text = {"side": "text"}
    return {
        "compiled": ended(
            rows=[
                timed("trt", 0.5, batch=1), timed("torch-compile", 0.8, batch=1),
                timed("trt", 2.0), timed("torch-compile", 2.2),
            ]
        ),
        "large": ended(rows=[timed("trt", 64.0)], flop=1e12),
        "products": ended(tflop_per_s={"float16": 800.0}),
        "texts": ended(
            rows=[timed("trt", 1.0, tokens=16, **text), timed("trt", 4.0, tokens=77, **text)]
        ),
        "known": ended(
            known=[
                {"runtime": "trt", "seen_bytes": 200, "device_bytes": 210, "source": "nvml-process"}
            ]
        ),
        "eight-bits": ended(
            rows=[
                timed("trt", 2.0), timed("trt", 1.6, precision="int8"),
                timed("trt", 0.5, batch=1), timed("trt", 0.6, batch=1, precision="int8"),
            ]
        ),
    }  # fmt: skip


def test_the_aims_are_read_off_a_run() -> None:
    found = [(one.measured, one.outcome, one.why) for one in first_gpu_aims.aims(whole_run())]
    assert found == [
        ("1.60 times, trt", "met", None),
        ("1.10 times, trt", "missed", None),
        ("62%, trt", "met", None),  # 32 TFLOP in 0.064 s are 500 TFLOP/s
        ("4.00 times, trt", "met", None),
        ("4.8% apart, trt", "met", None),
        ("0.83 times, trt", "missed", None),
        ("1.25 times, trt", "met", None),
    ]


@pytest.mark.parametrize(
    ("spoil", "place", "why"),
    [
        (lambda run: run.pop("compiled"), 0, "compiled found nothing: it was not run"),
        (
            lambda run: run["compiled"].update(status="too slow", reason="ended", data={}),
            0, "compiled found nothing: too slow, ended",
        ),
        (lambda run: run["compiled"]["data"]["rows"].pop(1), 0, "compiled timed no torch-compile"),
        (lambda run: run["compiled"]["data"]["rows"][0].update(runtime="onnx"), 0, "timed no trt"),
        (lambda run: run["products"].update(data={}), 2, "products found nothing"),
        (lambda run: run["texts"]["data"]["rows"].pop(), 3, "texts timed no 77 trt text fp16 32"),
        (lambda run: run["known"]["data"].update(known=[]), 4, "has no VRAM of trt or trt-rtx"),
        (
            lambda run: run["known"]["data"]["known"][0].update(source="nvml-device-delta"),
            4, "NVML tells of no process here",
        ),
        (lambda run: run["eight-bits"]["data"]["rows"][1].update(rehearsed="x"), 6, "rehearsed"),
    ],
)  # fmt: skip
def test_an_aim_that_was_not_measured_says_why(spoil: Any, place: int, why: str) -> None:
    run = whole_run()
    spoil(run)
    one = first_gpu_aims.aims(run)[place]
    assert (one.outcome, one.measured) == ("not measured", None)
    assert why in (one.why or "")


def test_the_page_has_the_aims_before_the_stages() -> None:
    lines = first_gpu_page.aims_table(whole_run())
    assert lines[0] == "| aim | measured | outcome | why |"
    assert len(lines) == 2 + 7 and "| 1.10 times, trt | missed |" in lines[3]
    assert all("not measured" in line for line in first_gpu_page.aims_table({})[2:])
