"""What the stages of `first_gpu_run` share."""

from __future__ import annotations

import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from clipperf.system.files import read_json

if TYPE_CHECKING:
    from clipperf.nouns.cell import Engine
    from clipperf.nouns.model import ModelSpec
    from clipperf.nouns.variant import Side

ROOT = Path(__file__).parents[1]

REHEARSAL = "CLIPPERF_REHEARSAL"
REHEARSED = REHEARSAL in os.environ
"""Whether this is a rehearsal: every stage to its end, with small models, and no figure counts."""

T = TypeVar("T")


def sized(whole: T, rehearsed: T) -> T:
    """What a stage takes, and what is enough to rehearse it."""
    return rehearsed if REHEARSED else whole


MODEL: tuple[str, ...] = sized(("ViT-B-32", "--pretrained", "random"), ("clipperf-sample",))
LARGE: tuple[str, ...] = sized(("ViT-L-14", "--pretrained", "random"), MODEL)
FIRST = sized("fp16", "fp32")
"""The precision that is shown of every runtime before any other is tried."""
OTHERS: tuple[str, ...] = sized(("fp32", "tf32", "bf16"), ("tf32",))
LEAST_COSINE = {"fp32": 0.99999, "tf32": 0.999, "fp16": 0.999, "bf16": 0.99}
"""With PyTorch in fp32 on the CPU: what rounding alone leaves of a ViT."""
BATCHES: tuple[int, ...] = sized((1, 3, 8, 33), (1, 3))
COMPILED_BATCHES = (8,)
KNOWN_BYTES = sized(1 << 30, 1 << 24)
ENGINES = ("trt", "trt-rtx")
"""TensorRT's own engines, in both flavours: the runtimes that a simulated GPU has."""
EARLY = ("torch", "ort-cuda", *ENGINES)
"""The order of runtimes: those that open at once, then TensorRT's own engines, then the others."""
COMPILED = ("torch-compile",)
"""Half a minute for each shape: left out where others answer the stage's question."""
ENOUGH = ("onnx", "trt")
"""The runtimes that are enough for a rehearsal of what is measured, one on each device."""
SKIPPED = 77

Data = dict[str, Any]
Keep = Callable[[Data], None]
"""Puts what was found so far where it outlives the stage."""


class Skipped(Exception):
    """Nothing here can run the stage; says why."""


class Wrong(Exception):
    """Something is not as it must be; says what, and holds what was found besides."""

    def __init__(self, reason: str, data: Data | None = None) -> None:
        super().__init__(reason)
        self.data = data or {}


@dataclass(frozen=True)
class Stage:
    """A stage: it is ended after `limit_s`, and not begun with less than `least_s` left."""

    name: str
    title: str
    limit_s: float
    run: Callable[[str, Keep], Data]
    least_s: float = 10.0


def model() -> ModelSpec:
    """The model of most stages."""
    from clipperf.models import zoo

    return zoo.resolve(MODEL[0], pretrained=MODEL[2] if len(MODEL) > 1 else None)


def usable(device: str) -> list[str]:
    """The runtimes that work here on a device; on a simulated GPU those that are simulated."""
    from clipperf.inspect import doctor

    names = [check.runtime for check in doctor.check() if check.device == device and check.usable]
    return sized(names, [name for name in names if device == "cpu" or name in ENGINES])


def timed(device: str, without: Sequence[str] = (), rehearsed: Sequence[str] = ENOUGH) -> list[str]:
    """The usable runtimes that are measured, of which some are enough for a rehearsal."""
    names = [name for name in usable(device) if name not in without]
    return sized(names, [name for name in names if name in rehearsed])


def clipperf(
    *words: str, heard: Callable[[], None] = lambda: None
) -> subprocess.CompletedProcess[str]:
    """One command of clipperf, its output kept; what it says of its progress is shown at once.

    `heard` is called after each line of that. Where it fails the lines are read on: a pipe that
    nobody reads would hold the command up.
    """
    print(" ".join(words), flush=True)
    with subprocess.Popen(
        [sys.executable, "-m", "clipperf", *words],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
    ) as child:  # fmt: skip
        said: list[str] = []

        def listen() -> None:
            for line in child.stderr or ():
                said.append(line)
                try:
                    print(line, end="", flush=True)
                    heard()
                except Exception as exc:  # noqa: BLE001 - a full disk, say
                    with contextlib.suppress(OSError):  # which may hold the log, too
                        print(f"what was found is not kept: {exc}", flush=True)

        listener = threading.Thread(target=listen)
        listener.start()
        answer = child.stdout.read() if child.stdout else ""
        listener.join()
    print(answer[-2000:], flush=True)
    return subprocess.CompletedProcess(words, child.returncode, answer, "".join(said))


def exported(spec: ModelSpec, side: Side, name: str, precision: str) -> tuple[str | None, str]:
    """The file of a tower that a runtime opens, made where it is not there, and its key.

    None and "" for runtimes that open none.
    """
    from clipperf.engines import contract
    from clipperf.export.make import make
    from clipperf.export.plan_options import EngineSettings
    from clipperf.nouns.variant import PRECISIONS, Variant

    kind = contract.get(name).artifact
    if kind is None:
        return None, ""
    row = PRECISIONS.get(precision)
    if kind in ("onnx", "openvino"):
        variant = Variant(kind, precision if row.is_quantised else row.graph)
    else:
        variant = Variant(name, precision, settings=EngineSettings(batch=(1, 8, 64)))
    done = make(spec, (side,), variant)
    tower = done.manifest.tower(side)
    if tower is None:
        raise Wrong(f"{name} {precision} has no {side} tower")
    return str(done.folder / tower.path), tower.key


def least_cosine(engine: Engine, pairs: Sequence[tuple[Any, Any]]) -> float:
    """Of batches and what PyTorch makes of them, three times each; -1 for what is not finite."""
    import numpy as np

    worst = 1.0
    for _ in range(3):  # plain, captured, replayed where there are graphs
        for given, wanted in pairs:
            found = engine.run(given)
            lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(wanted, axis=1)
            cosines = (found * wanted).sum(1) / lengths
            worst = min(worst, float(np.nan_to_num(cosines, nan=-1).min()))
    return worst


def profiled(*words: str, keep: Keep = lambda found: None) -> Data:
    """The rows of a profile: medians of its times, and its memory.

    What is measured so far is kept while it goes on.

    Raises:
        Wrong: cells failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "result.json"

        def rows_now() -> list[Data]:
            return merged(read_json(file, large=True)["measurements"])

        kept = (0, 0)

        def heard() -> None:
            nonlocal kept
            if not file.exists():
                return
            state = file.stat()
            now = (state.st_size, state.st_mtime_ns)
            if now != kept:
                kept = now
                keep({"rows": rows_now()})

        done = clipperf("profile", *words, "--quick", "--json", str(file), heard=heard)
        if not file.exists():
            raise Wrong(done.stderr.strip()[-400:] or f"exit status {done.returncode}")
        rows = rows_now()
    failed = [row for row in rows if row["status"] == "failed"]
    if failed:
        named = "; ".join(
            f"{r['runtime']} {r['side']} batch {r['batch']}: {r['error']}" for r in failed
        )
        raise Wrong(named[:600], {"rows": rows})
    return {"rows": rows}


def merged(measurements: Iterable[Data]) -> list[Data]:
    """One row a cell, of its passes for time and for memory."""
    rows: dict[tuple[Any, ...], Data] = {}
    for one in measurements:
        cell = one["cell"]
        named = ("side", "runtime", "precision", "device", "batch", "tokens", "input")
        row = rows.setdefault(
            tuple(cell.get(name) for name in named),
            {name: cell.get(name) for name in named} | {"status": "ok", "error": None},
        )
        if one["status"] != "ok":
            row |= {"status": one["status"], "error": one.get("error")}
        elif one["kind"] == "time":
            median_s = statistics.median(one["run_s"])
            row |= {
                "median_ms": round(1e3 * median_s, 4),
                "rows_per_s": round(cell["batch"] / median_s, 1),
                "load_s": one.get("load_s"),
                "provider": one.get("provider"),
                "stable": one.get("stable"),
                "gpu": one.get("gpu"),
                "phases_ms": {
                    name: round(1e3 * statistics.median(values), 4)
                    for name, values in (one.get("phases_s") or {}).items()
                },
            }
        else:
            row |= {
                name: one.get(name)
                for name in (
                    "vram_peak_bytes",
                    "vram_source",
                    "vram_allocated_bytes",
                    "rss_peak_bytes",
                )
            }
    return list(rows.values())
