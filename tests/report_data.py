"""Hand-built result files for the report's tests: nothing in them was measured."""

from __future__ import annotations

import dataclasses
import random

from clipperf.models.published import BasicStatistics
from clipperf.nouns.cell import Cell
from clipperf.nouns.model import ModelSpec
from clipperf.nouns.result import Environment, Measurement, ResultFile, Score

MIB = 2**20
GIB = 2**30

ENVIRONMENT = Environment(
    id="env-a",
    cpu="Xeon Test",
    cores=8,
    ram_bytes=16 * GIB,
    gpu=None,
    vram_bytes=None,
    driver=None,
    os="Linux",
    python="3.12.1",
    versions={"torch": "2.15.0", "onnxruntime-gpu": "1.31.0"},
    git_sha=None,
    created_utc="2026-01-01T00:00:00Z",
)
OTHER = dataclasses.replace(
    ENVIRONMENT, id="env-b", cpu="Other CPU", cores=4, gpu="GPU Test", vram_bytes=8 * GIB
)


def cell(
    side: str = "image",
    runtime: str = "torch",
    precision: str = "fp32",
    batch: int = 1,
    model: str = "M::w",
    **more,
) -> Cell:
    """A cell with the usual values."""
    values = {"device": "cpu", "threads": 2, "tokens": 77 if side == "text" else None} | more
    return Cell(
        model_id=model,
        side=side,
        runtime=runtime,
        precision=precision,
        batch=batch,
        **values,  # type: ignore[arg-type]
    )


def timed(c: Cell, run_s, blocks=None, group: str | None = "g", **more) -> Measurement:
    """A time pass that went well; by default every call is its own block."""
    values = {"load_s": 0.5, "first_run_s": 0.02, "stable": True, "disk_bytes": 100 * MIB} | more
    return Measurement(
        cell=c,
        kind="time",
        status="ok",
        env_id=values.pop("env_id", ENVIRONMENT.id),
        run_s=tuple(run_s),
        blocks=tuple(blocks if blocks is not None else range(len(tuple(run_s)))),
        group=group,
        **values,
    )


def memory(c: Cell, peak_mib: int, bare_mib: int = 10, **more) -> Measurement:
    """A memory pass that went well."""
    values = {"env_id": ENVIRONMENT.id, "disk_bytes": 100 * MIB} | more
    return Measurement(
        cell=c,
        kind="memory",
        status="ok",
        rss_bare_bytes=bare_mib * MIB,
        rss_peak_bytes=peak_mib * MIB,
        rss_source="VmHWM",
        **values,
    )


def broken(c: Cell, error: str, status: str = "failed", kind: str = "time") -> Measurement:
    """A pass that did not go well."""
    return Measurement(cell=c, kind=kind, status=status, env_id=ENVIRONMENT.id, error=error)


def result(measurements=(), scores=(), **more) -> ResultFile:
    """A result file around some rows."""
    values = {
        "schema_version": 1,
        "kind": "profile",
        "command": "clipperf profile M::w",
        "created_utc": "2026-01-01T00:00:00Z",
        "environments": (ENVIRONMENT,),
        "path": "a.json",
    } | more
    return ResultFile(measurements=tuple(measurements), scores=tuple(scores), **values)


def score(c: Cell, value: float = 0.6, **more) -> Score:
    """A score of 1000 samples."""
    values = {
        "dataset": "cifar10",
        "dataset_sha256": "d" * 64,
        "metric": "top-1",
        "n": 1000,
        "ci95": (value - 0.03, value + 0.03),
        "chance": 0.1,
        "env_id": ENVIRONMENT.id,
    } | more
    return Score(cell=c, value=value, **values)


# --- a realistic report --------------------------------------------------------------------

SPEEDS = {
    # seconds of one item at batch 1, 8 and 32, for PyTorch fp32
    ("clipperf-sample", "image"): (0.0042, 0.0021, 0.0019),
    ("clipperf-sample", "text"): (0.0018, 0.0009, 0.0008),
    ("ViT-B-32::random:0", "image"): (0.0606, 0.0373, 0.0360),
    ("ViT-B-32::random:0", "text"): (0.0480, 0.0402, 0.0390),
}
FASTER = {
    ("torch", "fp32"): (1.0, 1.0, 1.0),
    ("onnx", "fp32"): (1.35, 0.97, 0.94),
    ("onnx", "int8"): (3.10, 2.50, 2.40),
}
DISK = {"fp32": 1.0, "int8": 0.26}


def realistic(seed: int = 0, calls: int = 140) -> list[ResultFile]:
    """A profile and an eval: two models, three engines, three batches, with a failed row."""
    rng = random.Random(seed)
    measurements = []
    for (model, side), base in SPEEDS.items():
        small = model == "clipperf-sample"
        weights = (24 if small else 335) if side == "image" else (9 if small else 243)
        for (runtime, precision), factors in FASTER.items():
            for i, batch in enumerate((1, 8, 32)):
                c = cell(side, runtime, precision, batch, model)
                if (model[0], side, runtime, precision, batch) == ("V", "text", "onnx", "int8", 32):
                    error = "bad allocation <MatMulInteger> while running batch 32"
                    measurements.append(broken(c, error))
                    continue
                middle = base[i] * batch / factors[i]
                runs = [middle * (1 + abs(rng.gauss(0, 0.03))) for _ in range(calls)]
                disk = round(weights * DISK[precision] * MIB)
                peak = (230 if runtime == "torch" else 60) + weights * DISK[precision] * 1.2 + batch
                common = {"random_weights": not small, "disk_bytes": disk}
                measurements.append(
                    timed(
                        c,
                        runs,
                        [n // 10 for n in range(calls)],
                        f"{model}-{side}-{batch}",
                        load_s=weights / 400 / (1 if runtime == "torch" else 2),
                        first_run_s=middle * 1.8,
                        stable=not (runtime == "torch" and batch == 32 and side == "text"),
                        **common,
                    )
                )
                measurements.append(memory(c, round(peak), 9, **common))
    spec = ModelSpec("ViT-B-32::random:0", "open_clip", "ViT-B-32", "random:0", 224, 77, 512)
    profile = result(
        measurements,
        command="clipperf profile clipperf-sample ViT-B-32::random:0 --batch 1,8,32",
        specs=(spec,),
        path="results/20260101-000000-profile-1a2b3c.json",
    )
    scores = []
    for (runtime, precision), value, difference in (
        (("torch", "fp32"), 0.642, None),
        (("onnx", "fp32"), 0.642, (0.0, 0.0, 0.0)),
        (("onnx", "int8"), 0.611, (-0.031, -0.044, -0.018)),
    ):
        scores.append(
            score(
                cell("image", runtime, precision, 8, "clipperf-sample"),
                value,
                baseline_runtime=None if difference is None else "torch",
                baseline_value=None if difference is None else 0.642,
                difference=None if difference is None else difference[0],
                diff_ci95=None if difference is None else difference[1:],
                flips=None if difference is None else round(-difference[0] * 1500),
            )
        )
        scores.append(
            score(
                cell("image", runtime, precision, 8, "ViT-B-32::random:0"),
                0.104,
                random_weights=True,
            )
        )
    evaluation = result(
        scores=scores,
        kind="eval",
        command="clipperf eval clipperf-sample ViT-B-32::random:0 --dataset cifar10",
        created_utc="2026-01-01T01:00:00Z",
        path="results/20260101-010000-eval-4d5e6f.json",
    )
    return [profile, evaluation]


PUBLISHED = (
    BasicStatistics("ViT-B-32::openai", 338, 3.20, 1.40),
    BasicStatistics("ViT-B-32::laion2b_e16", 577, 2.93, 1.40),
)
