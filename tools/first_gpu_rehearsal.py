"""What stands for a GPU while `first_gpu_run` is rehearsed.

Stages that run towers run the bundled sample, on CPU runtimes and on a simulated GPU, which is in
every process of the stage (`tests/simulated_machine`). What only a GPU has is done in the stage's
own process, on the CUDA of the tests, which keeps CUDA's rules and a clock of its own
(`tests/cuda_rules`), and where an engine of TensorRT is needed, on the tests' TensorRT, which keeps
its rules.
"""

from __future__ import annotations

import contextlib
import functools
import json
import sys
import tempfile
import time
import types
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from first_gpu_base import ROOT, Data, Stage, Wrong

from clipperf.bench.gpu_figures import Seen

RunStage = Callable[[Stage, str, float, dict[str, str]], Data]
"""Runs a stage on a device, within a limit, in an environment that has more."""

HIDDEN = "hidden"
"""A GPU in a container that hides which processes use it."""
WHERE = {
    "cpu": "on the CPU", "cuda": "on a simulated GPU",
    HIDDEN: "on a simulated GPU that hides its processes",
}  # fmt: skip

BOTH = ("cpu", "cuda")
DEVICES: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("environment", "parity", "served", "speed"), BOTH),
    **dict.fromkeys(("rescue", "eight-bits", "large", "batches", "precisions"), ("cuda",)),
    "memory": ("cuda", HIDDEN),
}
"""What stages are rehearsed on that run towers, where it is not the CPU alone."""

BYTES_PER_S = 1e6
KERNEL_S = 2e-3
FLOP = 1e6
"""Of one input, where a product takes a tenth of `KERNEL_S` for it."""
CAPACITY = 1 << 30
"""Of the simulated GPU: all of it is taken where too little is wanted."""
CONTEXT_BYTES = 300 << 20
"""What CUDA itself takes of a GPU, by the meter."""


@contextlib.contextmanager
def rehearsed(stage: str, device: str) -> Iterator[str]:
    """What a stage needs of a GPU; gives the device that it is to be run on."""
    prepare = ON_A_GPU.get(stage)
    with contextlib.ExitStack() as until_it_ends:
        if prepare is not None:
            prepare(until_it_ends)
        yield device if prepare is None else "cuda"


def rehearse(stage: Stage, limit_s: float, run_stage: RunStage, folder: Path) -> Data:
    """The record of a stage on each of its `DEVICES`; `folder` is where simulated GPUs are.

    Whatever broke a rule of CUDA's or TensorRT's there fails it.
    """
    began, found = time.monotonic(), []
    for device in DEVICES.get(stage.name, ("cpu",)):
        machine = folder / stage.name
        env = {} if device == "cpu" else simulated(machine, hides=device == HIDDEN)
        left_s = max(0.0, limit_s - (time.monotonic() - began))
        record = run_stage(stage, "cuda" if env else "cpu", left_s, env)
        if env and (said := rules_broken(machine)):
            record |= {"status": "failed", "reason": f"rules were broken: {'; '.join(said[:3])}"}
        where = "simulated" if stage.name in ON_A_GPU else WHERE[device]
        if record["status"] != "ok":
            record |= {"reason": f"{where}: {record['reason']}"}
        found.append({**record, "data": marked(record.get("data") or {}, where)})
    return joined(found)


def simulated(folder: Path, hides: bool = False) -> dict[str, str]:
    """The environment of processes on a simulated GPU of the tests, which is made in a folder."""
    env: dict[str, str] = _machine().installed(folder, hides=hides, capacity=CAPACITY)
    return env


def rules_broken(folder: Path) -> list[str]:
    """What broke rules on the simulated GPU of a folder."""
    return list(_machine().broken(folder))


def _machine() -> Any:
    sys.path.insert(0, str(ROOT / "tests"))
    try:
        import simulated_machine
    finally:
        del sys.path[0]
    return simulated_machine


def few(folder: Path) -> Path:
    """A folder of every 20th image of the bundled sample, with their captions."""
    from clipperf.evals.place import SAMPLE

    with zipfile.ZipFile(SAMPLE) as archive:
        rows = archive.read("captions.jsonl").decode().splitlines()[::20]
        archive.extractall(folder, [json.loads(row)["image"] for row in rows])
    (folder / "captions.jsonl").write_text("\n".join(rows))
    return folder


def marked(data: Data, where: str) -> Data:
    """What was found, each row with where it was rehearsed."""
    return {
        name: [{**row, "rehearsed": where} if isinstance(row, dict) else row for row in value]
        if isinstance(value, list)
        else f"Rehearsed, {where}:\n\n{value.strip()}"
        if name == "markdown"
        else value
        for name, value in data.items()
    }


def joined(records: Sequence[Data]) -> Data:
    """One record of several of a stage: the worst counts, what was found stands together.

    Failed and too slow are worse than skipped, the first counts. Rows follow each other, and of
    anything else the last counts.
    """
    worst = max(records, key=lambda one: {"ok": 0, "skipped": 1}.get(one["status"], 2))
    data: Data = {}
    for one in records:
        for name, value in one["data"].items():
            before = data.get(name)
            if isinstance(value, list) and isinstance(before, list):
                data[name] = [*before, *value]
            elif name == "markdown" and before is not None:
                data[name] = f"{before}\n\n{value}"
            else:
                data[name] = value
    seconds = round(sum(one["seconds"] for one in records), 1)
    return {**worst, "seconds": seconds, "rehearsed": True, "data": data}


def _put(until: contextlib.ExitStack, owner: Any, name: str, value: Any) -> None:
    """Set an attribute until the stage ends."""
    until.callback(setattr, owner, name, getattr(owner, name))
    setattr(owner, name, value)


def gpu_of(until: contextlib.ExitStack) -> Any:
    """A GPU that keeps the rules, whose copies take their bytes at `BYTES_PER_S`.

    Where one was broken the stage ends with Wrong, whatever else it has to say.
    """
    sys.path.insert(0, str(ROOT / "tests"))
    import cuda_rules

    from clipperf.engines.tensorrt import cuda as cuda_driver

    class Paced(cuda_rules.Gpu):
        size = 0

        def cudaMemcpyAsync(self, to: Any, source: Any, size: int, kind: Any, stream: Any) -> Any:
            self.size = size
            return super().cudaMemcpyAsync(to, source, size, kind, stream)

        def cudaMemcpy(self, to: Any, source: Any, size: int, kind: Any) -> Any:
            """From pageable memory it has reached the GPU when the call is over."""
            done = self.cudaMemcpyAsync(to, source, size, kind, cuda_rules.LEGACY)
            self.cudaStreamSynchronize(cuda_rules.LEGACY)
            return done

        def seconds(self, kind: str) -> float:
            if kind in ("h2d", "d2h"):
                return self.size / BYTES_PER_S
            return KERNEL_S if kind == "kernel" else 0.0

    gpu: Any = Paced(capacity=4 << 30, pace=lambda kind: gpu.seconds(kind))

    def check(kind: Any, error: BaseException | None, trace: Any) -> None:
        if gpu.broken:
            said = f"CUDA's rules were broken: {gpu.broken[:3]}"
            raise Wrong(said, getattr(error, "data", None))

    until.push(check)
    driver = cuda_rules.driver(gpu)
    _put(until, cuda_driver, "open_cuda", lambda: driver)
    return gpu


def held_of(gpu: Any) -> Seen:
    """What the meter says of the process: all blocks, and what CUDA takes itself."""
    held = CONTEXT_BYTES + sum(block.data.size for block in gpu.memory.values())
    return Seen(1, held, "rehearsal", vram_device_bytes=held)


def copies(until: contextlib.ExitStack) -> None:
    """The GPU, whose clock is that of the stage."""
    import first_gpu_costs

    gpu = gpu_of(until)
    _put(until, first_gpu_costs, "time", types.SimpleNamespace(perf_counter=lambda: gpu.now))


def known(until: contextlib.ExitStack) -> None:
    """An engine of TensorRT on the GPU; its tower takes images of six numbers."""
    import first_gpu_known as stage

    gpu = gpu_of(until)
    _put(until, stage, "clock", lambda: gpu.now)
    _put(until, stage, "product_flop_per_s", lambda: FLOP / (KERNEL_S / 10))
    _put(until, stage, "vram", lambda device: contextlib.nullcontext(lambda: held_of(gpu)))
    _put(until, stage, "subjects", functools.partial(engine_on, gpu))


def engine_on(
    gpu: Any, device: str, held: Callable[[], Seen], change: Callable[[Any], None] = lambda _: None
) -> Iterator[Any]:
    """The one subject of `known`: TensorRT's engine as it is; `change` may spoil what is below."""
    import first_gpu_known as stage
    import tensorrt_rules

    from clipperf.engines.tensorrt import cuda as cuda_driver
    from clipperf.engines.tensorrt import flavours, plan_file
    from clipperf.engines.tensorrt.engine import TensorRTEngine
    from clipperf.engines.tensorrt.plan import Plan

    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as until:
        path = Path(folder) / "model.plan"
        path.write_bytes(b"plan")
        info = tensorrt_rules.info(path)
        plan_file.write(path, info)
        module = tensorrt_rules.TensorRT(gpu, info, rtx=True)
        module.weights_bytes = 64 << 20
        _put(until, flavours, "load", lambda flavour: module)
        _put(until, flavours, "installed", lambda flavour: True)
        _put(until, flavours, "version", lambda flavour: info.version)
        before, cuda = held(), cuda_driver.open_cuda()
        with contextlib.closing(
            TensorRTEngine(Plan(tensorrt_rules.request(path), path, cuda), cuda)
        ) as engine:
            change(engine)
            rows = np.random.default_rng(0)
            yield stage.Subject(
                "trt-rtx", engine,
                lambda size: rows.normal(size=(size, tensorrt_rules.WIDTH)).astype(np.float32),
                module.weights_bytes, FLOP, before,
            )  # fmt: skip


def graphs(until: contextlib.ExitStack) -> None:
    """ONNX Runtime on the CPU, which is told the graphs' numbers and captures none."""
    import first_gpu_costs

    from clipperf.engines import onnxruntime, ort_gpu
    from clipperf.engines.ort_bound import BoundEngine
    from clipperf.engines.ort_buffers import DriverBuffers

    def opened(request: Any) -> BoundEngine:
        def session() -> Any:
            return onnxruntime.cpu_session(Path(request.path), request.cell.threads)

        return BoundEngine(session, onnxruntime.CPU, DriverBuffers("cpu"), graphs=True)

    _put(until, ort_gpu, "open_cuda", opened)
    _put(until, first_gpu_costs, "usable", lambda device: ["ort-cuda"])


ON_A_GPU: dict[str, Callable[[contextlib.ExitStack], None]] = {
    "copies": copies,
    "known": known,
    "graphs": graphs,
}
"""The stages that skip without a GPU, and what each needs."""
