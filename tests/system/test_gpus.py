"""Which of several GPUs is used, described and named: NVML's order and CUDA's, slices of one."""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import Cli
from fake_nvml import Fake, in_this_process, installer

import clipperf
from clipperf.engines import contract
from clipperf.errors import EngineError, UsageError
from clipperf.nouns.cell import EngineRequest
from clipperf.system import env, gpus
from clipperf.system.child import child_environment

# NVML numbers them otherwise than they lie on the bus, which is CUDA's order in children.
LATE = {"uuid": "GPU-late-1", "title": "Late", "bus": 9, "total": 24, "capability": (8, 6)}
EARLY = {"uuid": "GPU-early-1", "title": "Early", "bus": 2, "total": 80, "capability": (9, 0)}
SLICES = [
    None,
    {"uuid": "MIG-one", "title": "Early MIG 1g.10gb", "total": 10},
    {"uuid": "MIG-two", "title": "Early MIG 2g.20gb", "total": 20},
]
CUT = {**EARLY, "slices": SLICES}


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fake:
    """Installs an NVML, and has this process and its children forget which GPUs are visible."""
    install = installer(tmp_path, monkeypatch)
    for name in (gpus.VISIBLE, gpus.ORDER, gpus.PINNED):
        monkeypatch.setenv(name, "")  # whatever a test sets is undone after it
        monkeypatch.delenv(name)

    def here(**script: Any) -> Path:
        log = install(used=[0], processes=[[]], **script)
        in_this_process(log, monkeypatch)
        return log

    return here


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (None, ["GPU-early-1", "GPU-late-1"]),
        ("1", ["GPU-late-1"]),
        ("1, 0", ["GPU-late-1", "GPU-early-1"]),
        ("GPU-late-1,0", ["GPU-late-1", "GPU-early-1"]),
        ("GPU-la", ["GPU-late-1"]),
        ("GPU-", []),  # more than one
        ("0,7,1", ["GPU-early-1"]),  # what is no GPU hides the rest
        ("", []),
        ("-1", []),
    ],
)
def test_what_is_visible(
    shown: str | None, expected: list[str], fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake(gpus=[LATE, EARLY])
    if shown is not None:
        monkeypatch.setenv(gpus.VISIBLE, shown)
    with gpus.driver() as nvml:
        assert [place.uuid for place in gpus.visible(nvml)] == expected
    found = env.gpu()
    assert (None if found is None else found.uuid) == (expected[0] if expected else None)


def test_a_gpu_that_fell_off_the_bus_leaves_the_others(fake: Fake) -> None:
    """NVML counts it, hands it out to nobody, and does not end cleanly."""
    fake(gpus=[LATE, {**EARLY, "lost": True}])
    assert gpus.uuid_of("cuda") == "GPU-late-1"
    assert gpus.uuid_of("cuda:1") is None
    found = env.gpu()
    assert found is not None and found.uuid == "GPU-late-1"


def test_what_nvml_fails_at_is_an_error_of_clipperf_s(
    fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake(gpus=[EARLY])
    import pynvml

    def count() -> int:
        raise pynvml.NVMLError("Unknown Error")

    monkeypatch.setattr(pynvml, "nvmlDeviceGetCount", count)
    with pytest.raises(EngineError, match=r"which GPUs there are \(Unknown Error\)"):
        env.gpu()


def test_no_gpu_is_left_where_the_only_one_is_lost(fake: Fake) -> None:
    fake(gpus=[{**EARLY, "lost": True}])
    assert gpus.uuid_of("cuda") is env.gpu() is None


@pytest.mark.parametrize(
    ("device", "kind", "uuid", "name", "capability"),
    [
        (None, None, "GPU-early-1", "Early", (9, 0)),
        ("cuda", "cuda", "GPU-early-1", "Early", (9, 0)),
        ("cuda:1", "cuda", "GPU-late-1", "Late", (8, 6)),
        ("cuda:GPU-late-1", "cuda", "GPU-late-1", "Late", (8, 6)),
    ],
)
def test_a_process_and_its_children_see_the_gpu_that_was_named(
    device: str | None,
    kind: str | None,
    uuid: str,
    name: str,
    capability: tuple[int, int],
    fake: Fake,
) -> None:
    fake(gpus=[LATE, EARLY])
    assert gpus.pin(device) == kind
    code = "import json; from clipperf.system import env; print(json.dumps(vars(env.gpu())))"
    done = subprocess.run(
        [sys.executable, "-c", code], env=child_environment(), capture_output=True, timeout=60
    )
    child = json.loads(done.stdout)
    here = env.gpu()
    assert here is not None
    for found in (vars(here), child):
        assert (found["uuid"], found["name"]) == (uuid, name)
        assert tuple(found["compute_capability"]) == capability
    seen = child_environment()
    assert (seen[gpus.VISIBLE], seen[gpus.ORDER]) == (uuid, "PCI_BUS_ID")
    assert gpus.uuid_of("cuda") == uuid
    assert env.capture().gpu_uuid == uuid


def test_other_devices_and_no_gpu_change_nothing(fake: Fake) -> None:
    fake(gpus=[])
    assert [gpus.pin(device) for device in ("cpu", "cuda:1", None)] == ["cpu", "cuda", None]
    assert gpus.VISIBLE not in os.environ
    assert env.gpu() is None and gpus.uuid_of("cuda") is None


@pytest.mark.parametrize(
    ("shown", "device", "uuid", "title", "total"),
    [
        (None, "cuda", "MIG-one", "Early MIG 1g.10gb", 10),  # CUDA takes the first
        ("0", "cuda", "MIG-one", "Early MIG 1g.10gb", 10),
        ("MIG-two", "cuda", "MIG-two", "Early MIG 2g.20gb", 20),
        ("MIG-one,MIG-two", "cuda:1", "MIG-two", "Early MIG 2g.20gb", 20),
        ("MIG-two", "cuda:MIG-two", "MIG-two", "Early MIG 2g.20gb", 20),
        (None, "cuda:1", "GPU-late-1", "Late", 24),
    ],
)
def test_a_slice_is_described_as_one(
    shown: str | None,
    device: str,
    uuid: str,
    title: str,
    total: int,
    fake: Fake,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fake(gpus=[CUT, LATE])
    if shown is not None:
        monkeypatch.setenv(gpus.VISIBLE, shown)
    gpus.pin(device)
    found = env.gpu()
    assert found is not None
    assert (found.uuid, found.name, found.memory_bytes) == (uuid, title, total)
    assert found.compute_capability == ((8, 6) if uuid == "GPU-late-1" else (9, 0))


def test_a_gpu_that_is_cut_into_nothing_is_none(fake: Fake) -> None:
    fake(gpus=[{**EARLY, "slices": [None, None]}])
    assert env.gpu() is None


@pytest.mark.parametrize("device", ["cuda:2", "cuda:x", "cuda:GPU-other"])
def test_a_gpu_that_is_not_there_is_refused(device: str, fake: Fake) -> None:
    fake(gpus=[LATE, EARLY])
    with pytest.raises(UsageError, match=r"no such GPU \(cuda:0 is GPU-early-1, cuda:1 "):
        gpus.pin(device)
    assert gpus.VISIBLE not in os.environ


@pytest.mark.parametrize("command", ["profile", "tune", "eval", "export"])
def test_every_command_takes_a_gpus_number(command: str, fake: Fake, cli: Cli) -> None:
    fake(gpus=[LATE, EARLY])
    refused = cli(command, "clipperf-sample", "--device", "cuda:5")
    assert refused.returncode == 2
    assert "device cuda:5: there is no such GPU (cuda:0 is GPU-early-1" in refused.stderr
    # On to the next thing that is missing: the second GPU, whose kind TensorRT for RTX takes.
    there = cli(command, "clipperf-sample", "--device", "cuda:1", "--runtime", "nothing")
    assert there.returncode == 2 and "nothing" in there.stderr and "device" not in there.stderr


@pytest.mark.parametrize(("number", "said"), [(5, "there is no such GPU"), (1, "not on 'cuda'")])
def test_a_plan_takes_a_gpus_number(number: int, said: str, fake: Fake, cli: Cli) -> None:
    fake(gpus=[LATE, EARLY])
    plan = Path(os.environ["CLIPPERF_HOME"]).with_name("plan.toml")
    plan.write_text(
        f'models = ["clipperf-sample"]\nruntimes = ["onnx"]\ndevice = "cuda:{number}"\n'
    )
    done = cli("sweep", plan, "--dry-run")
    assert said in done.stdout + done.stderr, done.stderr
    assert "Traceback" not in done.stderr


def test_load_sees_the_gpu_alone_and_a_copy_elsewhere_the_same(
    fake: Fake, sample_artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake(gpus=[LATE, EARLY])
    with pytest.raises(UsageError, match=r"no such GPU"):
        clipperf.load(sample_artifact, runtime="ort-cuda", device="cuda:2")
    with pytest.raises(UsageError, match="onnx runs on cpu, not on 'cuda'"):
        clipperf.load(sample_artifact, device="cuda:1")
    assert os.environ[gpus.VISIBLE] == "GPU-late-1"
    opened: list[str] = []

    class Nothing:
        def close(self) -> None:
            """Nothing is held."""

    def opens(request: EngineRequest) -> Any:
        opened.append(request.cell.device)
        return Nothing()

    known, get = contract.get("ort-cuda"), contract.get
    monkeypatch.setattr(
        contract,
        "get",
        lambda name: dataclasses.replace(known, open=opens) if name == "ort-cuda" else get(name),
    )
    monkeypatch.delenv(gpus.VISIBLE)
    model = clipperf.load(sample_artifact, runtime="ort-cuda", device="cuda:1", self_test=False)
    assert opened == ["cuda", "cuda"] and os.environ[gpus.VISIBLE] == "GPU-late-1"
    again = pickle.loads(pickle.dumps(model))  # here its GPU is the first and only one
    assert os.environ[gpus.VISIBLE] == "GPU-late-1"
    for each in (model, again):
        each.close()


def test_a_process_that_uses_cuda_cannot_change_its_gpu(
    fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake(gpus=[LATE, EARLY])
    monkeypatch.setattr(gpus, "cuda_is_loaded", lambda: True)
    with pytest.raises(UsageError, match="Start it with CUDA_VISIBLE_DEVICES=GPU-late-1"):
        gpus.pin("cuda:1")
    monkeypatch.setenv(gpus.VISIBLE, "GPU-late-1")
    assert gpus.pin("cuda:0") == "cuda"


@pytest.mark.parametrize(
    ("visible", "device", "sees"),
    [
        (None, "cuda:1", "1"),
        (None, "cuda:GPU-late", "GPU-late"),
        ("3,5", "cuda:1", "5"),
        (None, "cuda", None),
        ("3,5", "cuda", "3,5"),
    ],
)
def test_where_nvml_is_silent_cuda_s_own_number_is_taken(
    visible: str | None,
    device: str,
    sees: str | None,
    fake: Fake,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A container without the driver's utilities has CUDA and no NVML."""
    fake(init=["Driver Not Loaded"])
    if visible is not None:
        monkeypatch.setenv(gpus.VISIBLE, visible)
    assert gpus.pin(device) == "cuda"
    assert os.environ.get(gpus.VISIBLE) == sees
    assert os.environ.get(gpus.ORDER) == (None if ":" not in device else "PCI_BUS_ID")
    if device == "cuda:1" and visible is None:
        assert gpus.pin(device) == "cuda", "it is this one already"
        with pytest.raises(UsageError, match=r"no such GPU \(cuda:0 is 1\)"):
            gpus.pin("cuda:2")


@pytest.mark.parametrize(
    ("visible", "device", "named"),
    [("3,5", "cuda:1", "cuda:5"), (None, "cuda:1", "cuda:1"), ("3,5", "cpu:0", "cpu:0")],
)
def test_where_nvml_is_silent_a_child_finds_the_gpu_by_what_it_inherits(
    visible: str | None, device: str, named: str, fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake(init=["Driver Not Loaded"])
    if visible is not None:
        monkeypatch.setenv(gpus.VISIBLE, visible)
    kind = gpus.pin(device)
    assert gpus.handed_on(kind) == named
    sees = os.environ.get(gpus.VISIBLE)
    assert gpus.pin(named) == kind and os.environ.get(gpus.VISIBLE) == sees


def test_where_nvml_is_silent_a_users_own_choice_is_counted_from_nought(
    fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake(init=["Driver Not Loaded"])
    monkeypatch.setenv(gpus.VISIBLE, "1")
    monkeypatch.setenv(gpus.ORDER, gpus.BY_BUS)
    with pytest.raises(UsageError, match=r"no such GPU \(cuda:0 is 1\)"):
        gpus.pin("cuda:1")
    assert gpus.pin("cuda:0") == "cuda" and os.environ[gpus.VISIBLE] == "1"


def test_where_nvml_is_silent_a_gpu_that_cuda_does_not_show_is_refused(
    fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake(init=["Driver Not Loaded"])
    monkeypatch.setenv(gpus.VISIBLE, "3,5")
    with pytest.raises(UsageError, match=r"no such GPU \(cuda:0 is 3, cuda:1 is 5\)"):
        gpus.pin("cuda:2")
    monkeypatch.setattr(gpus, "cuda_is_loaded", lambda: True)
    with pytest.raises(UsageError, match="Start it with CUDA_VISIBLE_DEVICES=5"):
        gpus.pin("cuda:1")
