"""What a first run on a GPU is aimed at (docs/tensorrt.md), and what it measured of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from operator import ge, le
from typing import Any

from first_gpu_base import ENGINES, Data

OVER_COMPILED = {1: 1.5, 32: 1.2}
"""Times torch-compile, images of ViT-B-32 in fp16, by batch."""
OF_PRODUCTS = 0.6
"""Of the rate of large products in fp16, ViT-L-14's images at batch 32."""
OVER_PADDED = 3.0
SHORT, WHOLE_CONTEXT = 16, 77
"""Tokens: the length that most captions are padded to, and what all are without it."""
VRAM_SHARE = 0.1
NO_SLOWER = 1.0

MET, MISSED, NOT_MEASURED = "met", "missed", "not measured"


@dataclass(frozen=True)
class Aim:
    """One aim: how it ended, and why where nothing was measured."""

    aim: str
    measured: str | None
    outcome: str
    why: str | None = None


class Missing(Exception):
    """What of a run is not there; says what."""


def aims(stages: Data) -> list[Aim]:
    """Every aim, by what the stages of a run found."""
    found = [
        one(
            f"ViT-B-32's images in fp16 at batch {batch}: at least {least} times torch-compile",
            partial(over_compiled, stages, batch),
            partial(le, least),
            "{:.2f} times, {}",
        )
        for batch, least in OVER_COMPILED.items()
    ]
    found.append(
        one(
            f"ViT-L-14 in fp16 at batch 32: at least {OF_PRODUCTS:.0%} of the rate of products",
            partial(of_products, stages),
            partial(le, OF_PRODUCTS),
            "{:.0%}, {}",
        )
    )
    found.append(
        one(
            f"texts of {SHORT} tokens at batch 32: at least {OVER_PADDED:.0f} times "
            f"{WHOLE_CONTEXT} tokens",
            partial(over_padded, stages),
            partial(le, OVER_PADDED),
            "{:.2f} times, {}",
        )
    )
    found.append(
        one(
            f"VRAM of the process within {VRAM_SHARE:.0%} of the device's growth, by NVML",
            partial(vram_apart, stages),
            partial(ge, VRAM_SHARE),
            "{:.1%} apart, {}",
        )
    )
    found += [
        one(
            f"int8 no slower than fp16, images at batch {batch}",
            partial(over_halves, stages, batch),
            partial(le, NO_SLOWER),
            "{:.2f} times, {}",
        )
        for batch in OVER_COMPILED
    ]
    return found


def one(
    aim: str,
    measure: Callable[[], tuple[float, str]],
    holds: Callable[[float], bool],
    words: str,
) -> Aim:
    """`measure` gives a value and the runtime that it is of."""
    try:
        value, runtime = measure()
    except Missing as exc:
        return Aim(aim, None, NOT_MEASURED, str(exc))
    return Aim(aim, words.format(value, runtime), MET if holds(value) else MISSED)


def over_compiled(stages: Data, batch: int) -> tuple[float, str]:
    """Of one interleaved sweep."""
    rows = rows_of(stages, "compiled")
    ours = engine(rows, "compiled", side="image", precision="fp16", batch=batch)
    named = {"runtime": "torch-compile", "side": "image", "precision": "fp16", "batch": batch}
    theirs = the(rows, "compiled", **named)
    return theirs["median_ms"] / ours["median_ms"], ours["runtime"]


def of_products(stages: Data) -> tuple[float, str]:
    """Of the whole run from array to array, copies too."""
    ours = engine(rows_of(stages, "large"), "large", side="image", precision="fp16", batch=32)
    flop = stages["large"]["data"].get("flop")
    rate = data_of(stages, "products").get("tflop_per_s", {}).get("float16")
    if not flop or not rate:
        raise Missing("the tower's arithmetic or the rate of products in fp16 is not known")
    return 1e3 * 32 * flop / ours["median_ms"] / (1e12 * rate), ours["runtime"]


def over_padded(stages: Data) -> tuple[float, str]:
    """How much a text gains from its length."""
    rows = rows_of(stages, "texts")
    given = {"side": "text", "precision": "fp16", "batch": 32}
    short = engine(rows, "texts", tokens=SHORT, **given)
    whole = the(rows, "texts", tokens=WHOLE_CONTEXT, runtime=short["runtime"], **given)
    return whole["median_ms"] / short["median_ms"], short["runtime"]


def vram_apart(stages: Data) -> tuple[float, str]:
    """How far what NVML tells of the process is from what the device has less."""
    rows = [row for row in data_of(stages, "known").get("known", ()) if "seen_bytes" in row]
    if any("rehearsed" in row for row in rows):
        raise Missing("known was rehearsed")
    for name in ENGINES:
        for row in rows:
            if row["runtime"] != name or not row.get("device_bytes"):
                continue
            if row.get("source") == "nvml-device-delta":
                raise Missing("NVML tells of no process here: there is the device's figure alone")
            return abs(row["seen_bytes"] / row["device_bytes"] - 1), name
    raise Missing(f"known has no VRAM of {' or '.join(ENGINES)}{ended(stages, 'known')}")


def over_halves(stages: Data, batch: int) -> tuple[float, str]:
    """Of one interleaved sweep."""
    rows = rows_of(stages, "eight-bits")
    int8 = engine(rows, "eight-bits", side="image", precision="int8", batch=batch)
    named = {"runtime": int8["runtime"], "side": "image", "precision": "fp16", "batch": batch}
    halves = the(rows, "eight-bits", **named)
    return halves["median_ms"] / int8["median_ms"], int8["runtime"]


def data_of(stages: Data, name: str) -> Data:
    """What a stage found."""
    if name not in stages or not stages[name].get("data"):
        raise Missing(f"{name} found nothing{ended(stages, name)}")
    found: Data = stages[name]["data"]
    return found


def rows_of(stages: Data, name: str) -> list[Data]:
    """The cells of a stage that were timed."""
    rows = data_of(stages, name).get("rows", ())
    timed = [row for row in rows if row["status"] == "ok" and "median_ms" in row]
    if any("rehearsed" in row for row in rows):
        raise Missing(f"{name} was rehearsed")
    if not timed:
        raise Missing(f"{name} timed nothing{ended(stages, name)}")
    return timed


def engine(rows: Iterable[Data], stage: str, **cell: Any) -> Data:
    """A cell of the first of `ENGINES` that was timed: its figures count."""
    rows = list(rows)
    for name in ENGINES:
        if any(row["runtime"] == name for row in rows):
            return the(rows, stage, runtime=name, **cell)
    raise Missing(f"{stage} timed neither {' nor '.join(ENGINES)}")


def the(rows: Iterable[Data], stage: str, **cell: Any) -> Data:
    """The one row of a cell."""
    for row in rows:
        if all(row.get(name) == value for name, value in cell.items()):
            return row
    raise Missing(f"{stage} timed no {' '.join(str(value) for value in cell.values())}")


def ended(stages: Data, name: str) -> str:
    """How a stage ended that has not what is asked for, to be put behind that."""
    if name not in stages:
        return ": it was not run"
    record = stages[name]
    if record["status"] == "ok":
        return ""
    return ": " + ", ".join(part for part in (record["status"], record["reason"]) if part)
