"""Stages of `first_gpu_run` that serve: `clipperf.load` on a GPU, tuning, every structure."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from first_gpu_base import (
    ENGINES,
    ENOUGH,
    MODEL,
    ROOT,
    Data,
    Keep,
    Skipped,
    Wrong,
    clipperf,
    sized,
    timed,
    usable,
)

from clipperf.errors import ClipperfError

CALLS = sized(600, 60)
MOST_GROWTH = sized(0.05, 1.0)
"""As a share; few calls end before a process has all that it keeps."""
LEAST = 0.999
"""The least cosine of a tower in fp16 with the same one in fp32 on the CPU."""
LEFT_BYTES = 64 << 20
"""So much of the GPU's memory is left where too little is wanted."""
AT_ONCE = 8
MANY = sized(250, 3)
MEMORY, HAD_ENOUGH = "memory at batch", "it had enough"


SERVING = ("ort-cuda", *ENGINES)
"""The runtimes of a GPU that `served` tries, each where it is usable."""


def served(device: str, keep: Keep) -> Data:
    """A model of `clipperf.load` beside the CPU's: self-test, threads, no memory, many calls."""
    names = [name for name in SERVING if name in timed(device, (), (*ENOUGH, *SERVING[:1]))]
    if device == "cpu":
        names = ["onnx"]
    if not names:
        raise Skipped(f"none of {', '.join(SERVING)} is usable here")
    rows: list[Data] = []
    for name in names:
        row: Data = {"runtime": name}
        rows.append(row)
        try:
            serve(name, device, row, lambda: keep({"served": rows}))
            row["wrong"] = unfit(row)
        except (ClipperfError, RuntimeError) as exc:
            row["wrong"] = f"{type(exc).__name__}: {exc}"[:600]
        keep({"served": rows})
    data: Data = {"served": rows}
    if bad := [f"{row['runtime']}: {row['wrong']}" for row in rows if row["wrong"]]:
        raise Wrong("; ".join(bad)[:900], data)
    return data


def serve(runtime: str, device: str, row: Data, keep: Callable[[], None]) -> None:
    """Puts into `row` what a runtime gives, in one thread, in many, without memory, for long."""
    from PIL import Image

    import clipperf as product
    from clipperf.export.make import make
    from clipperf.export.plan_options import EngineSettings
    from clipperf.models import zoo
    from clipperf.nouns.variant import SIDES, Variant

    spec = zoo.resolve("clipperf-sample")
    precision = sized("fp16", "fp32") if device == "cuda" else "fp32"
    whole = make(spec, SIDES, Variant("onnx", "fp32")).folder
    settings = EngineSettings(batch=(1, 8, 64))
    variant = Variant("onnx", precision)
    if runtime in ENGINES:
        variant = Variant(runtime, precision, settings=settings)
    folder = make(spec, SIDES, variant).folder
    rng = np.random.default_rng(0)
    images = [Image.fromarray(rng.integers(0, 255, (90, 120, 3), np.uint8)) for _ in range(33)]
    texts = [" ".join(["a", "small", "drawing", "of", "apples"] * n) for n in range(1, 13)]
    row["precision"] = precision
    with product.load(whole, runtime="onnx") as exact:
        expected = exact.encode_images(images), exact.encode_texts(texts)
    with product.load(folder, runtime=runtime, device=device, self_test=True) as model:

        def worst(count: int) -> float:
            found = model.encode_images(images[:count]), model.encode_texts(texts[:count])
            return min(_least_cosine(a, b) for a, b in zip(found, expected, strict=True))

        row["alone"] = worst(33)
        with ThreadPoolExecutor(AT_ONCE) as pool:
            row["threads"] = min(pool.map(worst, [1, 2, 3, 5, 8, 12, 16, 33] * sized(8, 1)))
        keep()
        if device == "cuda":
            row["without_memory"] = _without_memory(model, images)
            row["after_it"] = worst(33)
            keep()
        row |= _many_calls(model, device)


def unfit(row: Data) -> str:
    """What is wrong with what a runtime gave, in words; "" where nothing is.

    An engine of TensorRT takes no more at once than its profiles do, so that next to no memory may
    be enough for it.
    """
    bad = [k for k in ("alone", "threads", "after_it") if row.get(k, 1.0) < LEAST]
    if bad:
        return f"other vectors than the CPU's: {', '.join(bad)}"
    said = row.get("without_memory", MEMORY)
    if MEMORY not in said and not (said == HAD_ENOUGH and row["runtime"] in ENGINES):
        return f"too little memory was told as: {said}"
    if row["growth"] > MOST_GROWTH:
        return f"memory grew by {row['growth']:.1%}"
    return ""


def _least_cosine(a: np.ndarray, b: np.ndarray) -> float:
    b = b[: len(a)]
    cosines = (a * b).sum(1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))
    return float(np.nan_to_num(cosines, nan=-1).min())


def _without_memory(model: Any, images: Sequence[Any]) -> str:
    """What a large batch of another shape says while the GPU has next to nothing left."""
    from clipperf.engines.tensorrt import cuda as cuda_driver

    cuda, held = cuda_driver.open_cuda(), []
    try:
        for size in (16 << 30, 1 << 30, 128 << 20, 16 << 20):
            while _free_bytes(cuda) > LEFT_BYTES + size:
                held.append(cuda.device_alloc(size))
        try:
            model.encode_images(list(images) * MANY, batch_size=MANY * len(images))
        except ClipperfError as exc:
            return f"{type(exc).__name__}: {exc}"[:400]
        return HAD_ENOUGH
    finally:
        for one in held:
            cuda.device_free(one)


def _free_bytes(cuda: Any) -> int:
    return int(cuda._ok(cuda._rt.cudaMemGetInfo())[0])


def _many_calls(model: Any, device: str) -> Data:
    """How RAM and VRAM grow over calls of mixed shapes, behind the first twentieth."""
    import soak
    from soak import Calls, growth

    from clipperf.bench import gpu_meters

    found = soak.soak(model, CALLS, Calls(), CALLS)
    data: Data = {"calls": CALLS, "growth": growth(found), "rss_bytes": found[-1]}
    if device == "cuda":
        before = gpu_meters.available_vram_bytes(device)
        soak.soak(model, CALLS, Calls(1), CALLS)
        after = gpu_meters.available_vram_bytes(device)
        data["vram_grown_bytes"] = (before or 0) - (after or 0)
    return data


def tuned(device: str, keep: Keep) -> Data:
    """`clipperf tune` of ViT-B-32: what it chooses, and that `clipperf.load` opens it."""
    names = timed(device, ("torch", "torch-compile"))
    if not names:
        raise Skipped(f"nothing on {device} can be tuned")
    with tempfile.TemporaryDirectory() as folder:
        bundle = Path(folder) / "bundle"
        done = clipperf(
            "tune", *MODEL, "--device", device, "--runtime", ",".join(names),
            "--batch", sized("1,32", "1"), "--minutes", sized("1", "0.1"),
            *sized((), ("--precision", "fp32", "--tower", "text")), "--bundle", str(bundle),
            "--out", str(Path(folder) / "t.json"), "--json",
        )  # fmt: skip
        if done.returncode:
            raise Wrong(done.stderr.strip()[-400:])
        code = (
            "import sys, clipperf\n"
            "model = clipperf.load(sys.argv[1])\n"
            "print(model.encode_texts(['a cat', 'a dog']).shape)\n"
        )
        opened = subprocess.run(
            [sys.executable, "-c", code, str(bundle)], capture_output=True, text=True, cwd=ROOT
        )
        if opened.returncode:
            raise Wrong(f"the bundle does not open: {opened.stderr.strip()[-400:]}")
    return {"chosen": json.loads(done.stdout), "loaded": opened.stdout.strip()}


def structures(device: str, keep: Keep) -> Data:
    """Every structure of open_clip's catalogue, cut to two layers, in ONNX Runtime."""
    if device == "cuda" and "ort-cuda" not in usable(device):
        raise Skipped("ort-cuda is not usable here")
    shares = sized(min(AT_ONCE, os.cpu_count() or 1), 1)
    outcomes: Data = {}
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / f"{place}.json" for place in range(shares)]
        children = [
            subprocess.Popen(
                [
                    sys.executable, str(Path(__file__).with_name("try_architectures.py")),
                    "--device", device, "--share", f"{place}/{shares}", "--results", str(file),
                    *sized((), ("--alone", "ViT-S-32-alt")),
                ],
                cwd=ROOT, stdout=subprocess.DEVNULL,
            )
            for place, file in enumerate(files)
        ]  # fmt: skip
        codes = []
        for child, file in zip(children, files, strict=True):
            codes.append(child.wait())
            if file.exists():
                outcomes |= json.loads(file.read_text())
            keep({"structures": outcomes})
    data: Data = {"structures": outcomes}
    bad = [
        name
        for name, outcome in outcomes.items()
        if outcome["status"] != "exported" or outcome.get("cuda_min_cosine", 1.0) < 0.9999
    ]
    if bad or any(codes) or not outcomes:
        raise Wrong(f"{len(bad)} of {len(outcomes)}: {', '.join(bad)} (exits {codes})", data)
    return data
