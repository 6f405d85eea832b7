"""`clipperf doctor`: every runtime on every device, and the machine."""

from __future__ import annotations

import json

import pytest
from conftest import Become, Cli
from processors import AMX, AVX2

from clipperf.engines import candidates, contract
from clipperf.engines.tensorrt import flavours
from clipperf.errors import EngineError
from clipperf.inspect import doctor
from clipperf.report.doctor import machine_table
from clipperf.system import env
from clipperf.system.env import Gpu

EXPECTED = {
    ("torch", "cpu"),
    ("torch", "cuda"),
    ("torch-compile", "cpu"),
    ("torch-compile", "cuda"),
    ("onnx", "cpu"),
    ("openvino", "cpu"),
    ("ort-cuda", "cuda"),
    ("ort-trt", "cuda"),
    ("ort-trt-rtx", "cuda"),
    ("trt", "cuda"),
    ("trt-rtx", "cuda"),
}


def test_every_runtime_and_device_has_one_line(cli: Cli) -> None:
    rows = json.loads(cli("doctor", "--json", check=True).stdout)
    keys = [(row["runtime"], row["device"]) for row in rows]
    assert set(keys) >= EXPECTED
    assert len(keys) == len(set(keys))
    for row in rows:
        assert row["detail"]
        assert "\n" not in row["detail"] + row["fix"]
        assert row["usable"] is (row["fix"] == "")
    if env.gpu() is None:
        on_gpu = [row for row in rows if row["device"] == "cuda"]
        assert not any(row["usable"] for row in on_gpu)


def test_the_machine_s_table(monkeypatch: pytest.MonkeyPatch) -> None:
    facts = doctor.machine()
    assert facts["Cores"] == str(env.available_cores())
    assert {"RAM", "GPU", "TensorRT", "TensorRT for RTX", "cuda-bindings", "pycuda"} <= set(facts)
    there = Gpu("NVIDIA L4", 24 * 2**30, "580.1", (8, 9), lists_processes=False)
    monkeypatch.setattr(doctor, "gpu", lambda: there)
    facts = doctor.machine()
    assert facts["GPU"] == "NVIDIA L4"
    assert facts["Compute capability"] == "8.9"
    assert facts["VRAM"] == "24.00 GiB"
    assert facts["Driver"] == "580.1"
    assert facts["VRAM per process"].startswith("no")
    table = machine_table(facts)

    def lost() -> Gpu:
        raise EngineError("NVML does not tell which GPUs there are (GPU is lost)")

    monkeypatch.setattr(doctor, "gpu", lost)
    for module in (env, flavours):
        monkeypatch.setattr(module, "gpu", lost)
    assert "(GPU is lost)" in doctor.machine()["GPU"]
    for name in ("ort-cuda", "ort-trt-rtx", "trt", "trt-rtx"):
        found = contract.get(name).availability("cuda")
        assert not found.usable and "(GPU is lost)" in found.detail
    assert ("Compute capability", "8.9") in table.texts


@pytest.mark.parametrize(
    ("driver", "package", "said"),
    [
        ("570.86.10", "tensorrt-cu13", "570.86.10; TensorRT 11.0.0.114 for CUDA 13: R580 or later"),
        ("580.65.06", "tensorrt-cu13", None),
        ("570.86.10", "tensorrt-cu12", None),
        ("530.41.03", "tensorrt-cu12", "530.41.03; TensorRT 11.0.0.114 for CUDA 12: R535 or later"),
        ("535.54.03", "tensorrt-cu12", None),
        ("unknown", "tensorrt-cu13", None),
    ],
)
def test_a_driver_that_is_too_old_is_told_with_the_one_that_is_needed(
    driver: str, package: str, said: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = {package: "11.0.0.114"}
    for module in (doctor, flavours):
        monkeypatch.setattr(module, "version_of", installed.get)
    monkeypatch.setattr(flavours, "installed", lambda flavour: flavour == "trt")
    there = Gpu("NVIDIA L4", 24 * 2**30, driver, (8, 9), lists_processes=True)
    monkeypatch.setattr(doctor, "gpu", lambda: there)
    facts = doctor.machine()
    assert facts["Driver"] == (driver if said is None else f"{said} is needed")


def test_what_builds_engines_without_a_gpu_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    versions = {"trt": "10.13", "trt-rtx": "1.7"}
    monkeypatch.setattr(flavours, "version", versions.get)
    facts = doctor.machine()
    assert facts["TensorRT"] == "10.13"
    assert facts["TensorRT for RTX"] == "1.7, builds engines without a GPU"
    versions.clear()
    assert doctor.machine()["TensorRT for RTX"] == "not installed"


def test_an_unsupported_gpu_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    hopper = Gpu("NVIDIA H100", 80 * 2**30, "580.1", (9, 0), lists_processes=True)
    monkeypatch.setattr(env, "gpu", lambda: hopper)
    found = contract.get("ort-trt-rtx").availability("cuda")
    assert not found.usable
    assert "NVIDIA H100 has compute capability 9.0" in found.detail
    assert "ort-cuda" in found.fix


def test_the_doctor_names_the_instructions_and_what_follows(
    become: Become, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(candidates, "usable", lambda names: {"onnx": "cpu", "openvino": "cpu"})
    become(AVX2)
    facts = doctor.machine()
    assert facts["Instruction sets"] == "avx2"
    assert facts["bf16"].startswith("not multiplied as such") and "refused" in facts["bf16"]
    assert "7-bit" in facts["8-bit integers"]
    assert facts["Expected first"].startswith("onnx int8 (")
    assert "bf16 (" not in facts["Expected first"]
    become(AMX)
    facts = doctor.machine()
    assert facts["Instruction sets"].endswith("amx_tile, amx_int8, amx_bf16")
    assert facts["bf16"].startswith("multiplied")
    assert facts["Expected first"].startswith("openvino int8-bf16 (6.3x), then openvino int8")
    become(())
    assert doctor.machine()["Instruction sets"] == "none known here"
    monkeypatch.setattr(candidates, "usable", lambda names: {})
    assert doctor.machine()["Expected first"].startswith("nothing")
