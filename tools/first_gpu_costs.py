"""Stages of `first_gpu_run` that measure what a GPU itself costs and gives."""

from __future__ import annotations

import itertools
import os
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from first_gpu_base import KNOWN_BYTES, Data, Keep, Skipped, Wrong, model, sized, usable

RUNS = 30


def median_ms(run: Callable[[], Any], runs: int = RUNS) -> float:
    """The median of some runs after a few that warm up, in milliseconds."""
    for _ in range(5):
        run()
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return round(1e3 * statistics.median(times), 4)


def memory(device: str, keep: Keep) -> Data:
    """What the meters see of a known gibibyte on the GPU.

    The sampler is there before CUDA is: of a container that hides processes it tells the growth of
    what the whole device holds, which begins when it starts.
    """
    from clipperf.bench import gpu_meters
    from clipperf.engines.tensorrt import cuda as cuda_driver

    if device == "cpu":
        raise Skipped("no GPU's memory on a CPU")
    with gpu_meters.sampler(device) as sampler:
        if sampler is None:
            raise Wrong("NVML's sampler did not start")
        cuda = cuda_driver.open_cuda()
        seen: list[Any] = []
        first = cuda.device_alloc(1 << 20)  # with it CUDA takes what it needs itself
        for size in (0, KNOWN_BYTES):
            held = cuda.device_alloc(size) if size else None
            sampler.begin(os.getpid())
            time.sleep(0.5)
            seen.append(sampler.end())
            if held is not None:
                cuda.device_free(held)
        cuda.device_free(first)
    before, during = seen
    if before is None or during is None or None in (before.vram_peak_bytes, during.vram_peak_bytes):
        raise Wrong("the sampler saw no memory")
    grown = (during.vram_peak_bytes or 0) - (before.vram_peak_bytes or 0)
    data = {"known_bytes": KNOWN_BYTES, "seen_bytes": grown, "source": during.vram_source}
    if before.vram_source != during.vram_source:
        raise Wrong(f"it was {before.vram_source} before and {during.vram_source} then", data)
    if None not in (before.vram_device_bytes, during.vram_device_bytes):
        data["device_bytes"] = (during.vram_device_bytes or 0) - (before.vram_device_bytes or 0)
    if abs(grown - KNOWN_BYTES) > KNOWN_BYTES / 10:
        raise Wrong(f"of {KNOWN_BYTES} bytes the meter saw {grown}", data)
    return data


def products(device: str, keep: Keep) -> Data:
    """The rate of matrix products in PyTorch: the limit that towers are held against."""
    import torch

    rates = {}
    size = 8192 if device == "cuda" else 1024
    dtypes = ("float16", "bfloat16", "float32") if device == "cuda" else ("float32",)
    for name in dtypes:
        a = torch.randn(size, size, device=device, dtype=getattr(torch, name))
        b = torch.randn(size, size, device=device, dtype=getattr(torch, name))
        times = []
        for _ in range(12):
            if device == "cuda":
                torch.cuda.synchronize()
            start = time.perf_counter()
            a @ b
            if device == "cuda":
                torch.cuda.synchronize()
            times.append(time.perf_counter() - start)
        rates[name] = round(2 * size**3 / statistics.median(times[2:]) / 1e12, 2)
    return {"size": size, "tflop_per_s": rates}


def copies(device: str, keep: Keep) -> Data:
    """Ways to copy images in: by the driver from pageable memory, or through pinned memory.

    The input is another array each time, as large as 1, 32 and 128 images in float32.
    """
    from clipperf.engines.tensorrt import cuda as cuda_driver

    if device == "cpu":
        raise Skipped("nothing is copied to a GPU")
    cuda = cuda_driver.open_cuda()
    rt, image = cuda._rt, 3 * 224 * 224 * 4
    most = sized(128, 2) * image
    sources = [np.random.default_rng(n).integers(0, 255, most, np.uint8) for n in range(6)]
    held, stream = cuda.device_alloc(most), cuda.stream()
    address, pinned = int(held), cuda.host_alloc(most)
    pool = ThreadPoolExecutor(8)

    def pageable(array: np.ndarray) -> None:
        kind = rt.cudaMemcpyKind.cudaMemcpyHostToDevice
        cuda._ok(rt.cudaMemcpy(address, array.ctypes.data, array.nbytes, kind))

    def in_pieces(array: np.ndarray, size: int = 4 << 20) -> None:
        for start in range(0, array.nbytes, size):
            piece = pinned[start : min(start + size, array.nbytes)]
            piece[:] = array[start : start + piece.size]
            cuda.to_device(address + start, piece, stream)
        cuda.synchronize(stream)

    def by_threads(array: np.ndarray, size: int = 1 << 20) -> None:
        def one(start: int) -> None:
            piece = pinned[start : min(start + size, array.nbytes)]
            piece[:] = array[start : start + piece.size]
            cuda.to_device(address + start, piece, stream)

        list(pool.map(one, range(0, array.nbytes, size)))
        cuda.synchronize(stream)

    rows = []
    for images in sized((1, 32, 128), (1, 2)):
        row: Data = {"images": images}
        given = itertools.cycle(array[: images * image] for array in sources)
        for way in (pageable, in_pieces, by_threads):
            row[way.__name__] = median_ms(partial(_next, way, given))
        rows.append(row)
    return {"copies": rows}


def _next(way: Callable[[np.ndarray], None], given: Iterator[np.ndarray]) -> None:
    way(next(given))


def graphs(device: str, keep: Keep) -> Data:
    """ONNX Runtime's CUDA provider with and without CUDA graphs, from array to array."""
    from clipperf.bench.inputs import make_inputs
    from clipperf.engines import ort_bound, ort_gpu
    from clipperf.export.make import make
    from clipperf.nouns.cell import Cell, EngineRequest
    from clipperf.nouns.variant import SIDES, Variant

    if "ort-cuda" not in usable(device):
        raise Skipped("ort-cuda is not usable here")
    spec = model()
    precision = sized("fp16", "fp32")
    done = make(spec, SIDES, Variant("onnx", precision))
    rows: list[Data] = []
    for tower in done.manifest.towers:
        for batch in sized((1, 8, 32), (1, 3)):
            cell = Cell(spec.id, tower.side, "ort-cuda", precision, "cuda", batch, 8)
            request = EngineRequest(cell, spec, str(Path(done.folder) / tower.path))
            array, outputs = make_inputs(request), []
            row: Data = {"side": tower.side, "batch": batch}
            for name, most in (("with", ort_bound.GRAPHS), ("without", 0)):
                engine = ort_gpu.open_cuda(request)
                engine.graphs_left = min(most, engine.graphs_left)
                row[f"{name}_ms"] = median_ms(partial(engine.run, array))
                row[f"{name}_graphs"] = engine.graphs
                outputs.append(engine.run(array))
                engine.close()
            row["largest_difference"] = float(np.abs(outputs[0] - outputs[1]).max())
            rows.append(row)
            keep({"graphs": rows})
    if not all(row["with_graphs"] for row in rows):
        raise Wrong("a tower was opened without graphs", {"graphs": rows})
    return {"graphs": rows}
