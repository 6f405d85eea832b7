"""What stands for a GPU while `first_gpu_run` is rehearsed, in the process of one stage.

Stages that run a tower run the bundled sample on CPU runtimes. What only a GPU has is done on the
CUDA of the tests, which keeps CUDA's rules and a clock of its own (`tests/cuda_rules`), and where
an engine of TensorRT is needed, on the tests' TensorRT, which keeps its rules.
"""

from __future__ import annotations

import contextlib
import functools
import sys
import tempfile
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from first_gpu_base import ROOT

BYTES_PER_S = 1e6
KERNEL_S = 2e-3
FLOP = 1e6
"""Of one input, where a product takes a tenth of `KERNEL_S` for it."""
CONTEXT_BYTES = 300 << 20
"""What CUDA itself takes of a GPU, by the meter."""


@contextlib.contextmanager
def rehearsed(stage: str) -> Iterator[str]:
    """What a stage needs of a GPU; gives the device that it is to be run on."""
    prepare = ON_A_GPU.get(stage)
    with contextlib.ExitStack() as until_it_ends:
        if prepare is not None:
            prepare(until_it_ends)
        yield "cpu" if prepare is None else "cuda"


def _put(until: contextlib.ExitStack, owner: Any, name: str, value: Any) -> None:
    """Set an attribute until the stage ends."""
    until.callback(setattr, owner, name, getattr(owner, name))
    setattr(owner, name, value)


def gpu_of(until: contextlib.ExitStack) -> Any:
    """A GPU that keeps the rules, whose copies take their bytes at `BYTES_PER_S`."""
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
    driver = cuda_rules.driver(gpu)
    _put(until, cuda_driver, "open_cuda", lambda: driver)
    return gpu


def held_bytes(gpu: Any) -> int:
    """What the meter says of the process: all blocks, and what CUDA takes itself."""
    return CONTEXT_BYTES + sum(block.data.size for block in gpu.memory.values())


def memory(until: contextlib.ExitStack) -> None:
    """A meter that reads the GPU's own account."""
    from clipperf.bench import gpu_meters
    from clipperf.bench.gpu_figures import Seen

    gpu = gpu_of(until)

    class Sampler:
        def begin(self, pid: int | None = None) -> None:
            pass

        def end(self) -> Seen:
            return Seen(1, vram_peak_bytes=held_bytes(gpu), vram_source="rehearsal")

    @contextlib.contextmanager
    def sampler(device: str) -> Iterator[Sampler]:
        yield Sampler()

    _put(until, gpu_meters, "sampler", sampler)


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
    _put(until, stage, "vram", lambda device: contextlib.nullcontext(lambda: held_bytes(gpu)))
    _put(until, stage, "subjects", functools.partial(engine_on, gpu))


def engine_on(
    gpu: Any, device: str, held: Callable[[], int], change: Callable[[Any], None] = lambda _: None
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
    if gpu.broken:
        raise stage.Wrong(f"CUDA's rules were broken: {gpu.broken[:3]}")


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
    "memory": memory,
    "copies": copies,
    "known": known,
    "graphs": graphs,
}
"""The stages that skip without a GPU, and what each needs."""
