"""Stages of `first_gpu_run` that hold vectors of a GPU against PyTorch's in fp32 on the CPU."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Sequence
from typing import Any

from first_gpu_base import (
    BATCHES,
    COMPILED,
    COMPILED_BATCHES,
    EARLY,
    FIRST,
    LEAST_COSINE,
    OTHERS,
    Data,
    Keep,
    Skipped,
    Wrong,
    exported,
    least_cosine,
    model,
    sized,
    timed,
    usable,
)
from first_gpu_rescue import judged

from clipperf.nouns.variant import SIDES, Side


def parity(device: str, keep: Keep) -> Data:
    """Every usable runtime in fp16 (fp32 on a CPU), both towers."""
    without = sized((), COMPILED)
    names = [name for name in usable(device) if name not in without]
    if not names:
        raise Wrong(f"no runtime is usable on {device}")
    return vectors(device, keep, names, (FIRST if device == "cuda" else "fp32",))


def precisions(device: str, keep: Keep) -> Data:
    """The other float precisions of every runtime but the compiled one, one after the other."""
    if device == "cpu":
        raise Skipped("fp32 is all that a CPU is held to")
    names = timed(device, COMPILED)
    if not names:
        raise Wrong(f"no runtime is usable on {device}")
    return vectors(device, keep, names, OTHERS)


def in_order(names: Iterable[str]) -> list[str]:
    """Runtimes by what they take to begin and what they are worth; the compiled one last."""
    early = {name: place for place, name in enumerate(EARLY)}
    places = {name: early.get(name, len(early)) for name in names}
    return sorted(places, key=lambda name: (name in COMPILED, places[name], name))


def tried(names: Iterable[str], precisions: Sequence[str]) -> list[tuple[str, str, Side]]:
    """Runtime, precision and tower; each precision of all runtimes before the next one."""
    from clipperf.engines import contract

    return [
        (name, precision, side)
        for precision in precisions
        for name in in_order(names)
        if precision in contract.get(name).precisions
        for side in SIDES
    ]


def vectors(device: str, keep: Keep, names: Iterable[str], precisions: Sequence[str]) -> Data:
    """Runtimes against PyTorch fp32 on the CPU, both towers; each precision of all before the next.

    Raises:
        Wrong: some are not as near as their rounding allows, or could not be made or opened.
    """
    from clipperf.bench.inputs import make_inputs
    from clipperf.engines import contract
    from clipperf.nouns.cell import Cell, EngineRequest
    from clipperf.system import env, store

    spec = model()
    cores = env.available_cores()

    def request(
        side: Side, name: str, precision: str, on: str, path: str | None, key: str = ""
    ) -> EngineRequest:
        cell = Cell(spec.id, side, name, precision, on, max(BATCHES), cores)
        return EngineRequest(cell, spec, path, key=key, cache_folder=str(store.cache_folder()))

    batches = {
        (side, rows): make_inputs(
            EngineRequest(Cell(spec.id, side, "torch", "fp32", "cpu", rows, cores), spec, None)
        )
        for side in SIDES
        for rows in BATCHES
    }
    expected: dict[tuple[Side, int], Any] = {}
    for side in SIDES:
        engine = contract.get("torch").open(request(side, "torch", "fp32", "cpu", None))
        expected |= {(side, rows): engine.run(batches[side, rows]) for rows in BATCHES}
        engine.close()
    rows_found: list[Data] = []
    for name, precision, side in tried(names, precisions):
        found: Data = {"runtime": name, "precision": precision, "side": side, "cosine": None}
        start = time.perf_counter()
        try:
            path, key = exported(spec, side, name, precision)
            engine = contract.get(name).open(request(side, name, precision, device, path, key))
            with contextlib.closing(engine):
                sizes = COMPILED_BATCHES if name in COMPILED else BATCHES
                pairs = [(batches[side, n], expected[side, n]) for n in sizes]
                worst = least_cosine(engine, pairs)
            found |= {"cosine": worst, "ok": worst >= LEAST_COSINE[precision]}
            found["provider"] = getattr(engine, "provider", None)
        except Exception as exc:  # noqa: BLE001 - it is said, and the next runtimes are tried
            found |= {"ok": False, "error": f"{type(exc).__name__}: {exc}"[:600]}
        found["seconds"] = round(time.perf_counter() - start, 1)
        print(found, flush=True)
        rows_found.append(found)
        keep({"rows": rows_found})
    data: Data = {"rows": rows_found}
    bad = [f"{r['runtime']} {r['precision']} {r['side']}" for r in rows_found if not r["ok"]]
    if bad:
        raise Wrong(f"wrong or failed: {', '.join(bad)}", data)
    return data


def judged_vectors(name: str, sides: Sequence[Side], precision: str, device: str) -> list[Data]:
    """The engine that is measured, on the gate's inputs, beside PyTorch in fp32 on the CPU."""
    from clipperf.export.make import make
    from clipperf.nouns.variant import PRECISIONS, Variant

    spec = model()
    rows: list[Data] = []
    base = make(spec, sides, Variant("onnx", "fp32")).folder
    for side in sides:
        least = PRECISIONS.get(precision).min_cosine
        row: Data = {"runtime": name, "precision": precision, "side": side, "least": least}
        try:
            row["cosine"] = judged(spec, side, name, device, base, precision)
            row["ok"] = row["cosine"] >= least
        except Exception as exc:  # noqa: BLE001 - it is said, and the next runtimes are tried
            row |= {"cosine": None, "ok": False, "error": f"{type(exc).__name__}: {exc}"[:600]}
        print(row, flush=True)
        rows.append(row)
    return rows
