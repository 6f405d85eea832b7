"""Put what first runs on GPUs have shown into the README's "Verified on".

    python tools/verified_on.py             # results/first-run-*.json into README.md
    python tools/verified_on.py --check     # ends with 1 where the README says something else

The table stands between two comments. What no run has shown is there as not yet run on a GPU, and
nothing is taken from a rehearsal.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from first_gpu_base import ROOT

from clipperf.engines import contract
from clipperf.engines.tensorrt.flavours import DISTRIBUTIONS
from clipperf.nouns.variant import SIDES
from clipperf.system.files import read_json, write_text

BEGIN, END = "<!-- gpu: begin -->", "<!-- gpu: end -->"
NOT_RUN = "not yet run on a GPU"
PACKAGES: dict[str, tuple[str, ...]] = {
    "torch": ("torch",), "torch-compile": ("torch",), "ort-cuda": ("onnxruntime-gpu",),
    "ort-trt": ("onnxruntime-gpu",), "ort-trt-rtx": ("onnxruntime-ep-nv-tensorrt-rtx-cu13",),
    **DISTRIBUTIONS,
}  # fmt: skip
"""The packages of each runtime whose version counts, the first that is installed."""

VECTORS = ("parity", "precisions")
"""Stages that hold runtimes' vectors against PyTorch's."""

STAGES = {
    "gpu-tests": "the tests that need a GPU",
    "speed": "`clipperf profile` of ViT-B-32's images",
    "structures": "every structure of open_clip's catalogue, two layers of each, in `ort-cuda`",
    "served": "`clipperf.load`: threads, next to no memory, many calls",
    "tuned": "`clipperf tune`",
    "known": "phases and VRAM of each runtime against costs that are known before",
    "memory": "the VRAM meter against a known allocation",
    "retrieval": "`clipperf eval` on a GPU",
    "rescue": "a tower beyond fp16, rescued",
    "eight-bits": "int8 and fp8 engines",
    "large": "ViT-L-14",
}
"""Stages that show something by themselves."""

Data = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> int:
    """Rewrite the rows, or compare them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--results", type=Path, default=ROOT / "results")
    parser.add_argument("--readme", type=Path, default=ROOT / "README.md")
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args(arguments)
    runs = [
        read_json(path, large=True) for path in sorted(options.results.glob("first-run-*.json"))
    ]
    text = options.readme.read_text(encoding="utf-8")
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        print(f"{options.readme} needs {BEGIN} and {END} once each", file=sys.stderr)
        return 2
    before, _, rest = text.partition(BEGIN)
    lines = table([run for run in runs if on_a_gpu(run)])
    new = f"{before}{BEGIN}\n\n" + "\n".join(lines) + f"\n\n{END}{rest.partition(END)[2]}"
    if options.check:
        return int(new != text)
    write_text(options.readme, new)
    return 0


def on_a_gpu(run: Data) -> bool:
    """Whether a run was one; no stage of a rehearsal was, whatever its environment says."""
    stages = run["stages"].values()
    rows = (row for stage in stages for row in stage.get("data", {}).get("rows", ()))
    rehearsed = any("rehearsed" in one for one in (*stages, *rows))
    return run["environment"]["device"] == "cuda" and not rehearsed


def table(runs: Iterable[Data]) -> list[str]:
    """The table: runtimes by what their vectors were, then the stages that ended well."""
    shown: list[tuple[str, str]] = []
    runs = list(runs)
    on_gpus = [name for name in contract.names() if "cuda" in contract.get(name).devices]
    unseen = [(name, side) for name in on_gpus for side in SIDES]
    for run in runs:
        found = [
            row
            for stage in VECTORS
            for row in run["stages"].get(stage, {}).get("data", {}).get("rows", ())
        ]
        for name in dict.fromkeys(row["runtime"] for row in found):
            good = [row for row in found if row["runtime"] == name and row["ok"]]
            if good:
                shown.append((f"`{name}`: {_vectors(good)}", where(run, name)))
                seen = {(name, row["side"]) for row in good}
                unseen = [pair for pair in unseen if pair not in seen]
    for stage, title in STAGES.items():
        for run in runs:
            if run["stages"].get(stage, {}).get("status") == "ok":
                shown.append((title + _served(run, stage), where(run)))
    if unseen:
        shown.append((", ".join(_unseen(unseen)), NOT_RUN))
    missing = [
        title
        for stage, title in STAGES.items()
        if not any(run["stages"].get(stage, {}).get("status") == "ok" for run in runs)
    ]
    if missing:
        shown.append(("; ".join(missing), NOT_RUN))
    return ["| on a GPU | where |", "|---|---|", *(f"| {what} | {on} |" for what, on in shown)]


def _served(run: Data, stage: str) -> str:
    """ " in `trt`" and others, where a stage says in which runtimes it was."""
    rows = run["stages"][stage].get("data", {}).get("served", ())
    names = ", ".join(f"`{row['runtime']}`" for row in rows)
    return f", in {names}" if names else ""


def _unseen(pairs: Sequence[tuple[str, str]]) -> list[str]:
    """Runtimes of which nothing was shown, and "`ort-cuda` texts" where one tower was not."""
    found = []
    for name in dict.fromkeys(name for name, _ in pairs):
        sides = [side for other, side in pairs if other == name]
        found.append(f"`{name}`" if len(sides) == len(SIDES) else f"`{name}` {sides[0]}s")
    return found


def where(run: Data, runtime: str | None = None) -> str:
    """The GPU, its driver, the day, and the version of a runtime's package."""
    here = run["environment"]
    parts = [here["machine"], f"driver {here['driver']}", run["started"][:10]]
    named = (name for name in PACKAGES.get(runtime or "", ()) if name in here["versions"])
    if package := next(named, None):
        parts.append(f"{package} {here['versions'][package]}")
    return ", ".join(parts)


def _vectors(found: Sequence[Data]) -> str:
    """Such as "images in fp32, fp16; texts in fp16: vectors as PyTorch's in fp32 on the CPU"."""
    sides = []
    for side in ("image", "text"):
        named = [row["precision"] for row in found if row["side"] == side]
        if named:
            sides.append(f"{side}s in {', '.join(named)}")
    return f"{'; '.join(sides)}: vectors as PyTorch's in fp32 on the CPU"


if __name__ == "__main__":
    sys.exit(main())
