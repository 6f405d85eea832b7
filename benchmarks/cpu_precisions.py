"""The precisions of CPUs in turns: PyTorch, ONNX Runtime and OpenVINO, as ratios to PyTorch fp32.

    python benchmarks/cpu_precisions.py [MODEL] [--pretrained random] [--batch 1,8,32]
    python benchmarks/cpu_precisions.py --tower text [--tokens 16]

Exports what is missing, then measures a tower as `clipperf profile` does, all of them taking turns
in one group, and prints a line for each. What this machine's processor refuses is left out with the
reason.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

from clipperf import stats
from clipperf.bench import cost, prepare
from clipperf.bench.passes import time_pass
from clipperf.bench.tune import CAPTION_TOKENS
from clipperf.engines import processor
from clipperf.errors import ClipperfError
from clipperf.models import zoo
from clipperf.nouns.cell import Cell, EngineRequest
from clipperf.nouns.result import Measurement
from clipperf.nouns.variant import SIDES
from clipperf.system import env

KINDS = (
    *(("torch", "fp32"), ("torch", "bf16")),
    *(("onnx", "fp32"), ("onnx", "int8")),
    *(("openvino", "fp32"), ("openvino", "bf16"), ("openvino", "int8"), ("openvino", "int8-bf16")),
)
SETTINGS = replace(cost.QUICK, max_s=8.0)


def main() -> None:
    """Export, measure, print one line a kind and batch."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", default="ViT-B-32")
    parser.add_argument("--pretrained", default="random")
    parser.add_argument("--batch", default="1,8,32")
    parser.add_argument("--tower", default="image", choices=SIDES)
    parser.add_argument("--tokens", type=int, default=CAPTION_TOKENS)
    asked = parser.parse_args()
    spec, cores = zoo.resolve(asked.model, asked.pretrained), env.available_cores()
    has = ", ".join(processor.instruction_sets())
    tokens = asked.tokens if asked.tower == "text" else None
    of = "images" if tokens is None else f"texts of {tokens} tokens"
    print(f"{spec.id} {of}, {cores} cores of {env.cpu_name()} ({has})")
    requests: list[EngineRequest] = []
    for runtime, precision in KINDS:
        cell = Cell(spec.id, asked.tower, runtime, precision, "cpu", 8, cores, tokens)
        try:
            requests.append(prepare.engine_request(cell, spec, lambda stage: None)[0])
        except ClipperfError as exc:
            print(f"{runtime} {precision}: {exc}")
    for batch in map(int, asked.batch.split(",")):
        now = [replace(r, cell=replace(r.cell, batch=batch)) for r in requests]
        rows = time_pass(now, SETTINGS, env.capture(), f"batch {batch}")
        for row in rows:
            print(said(row, rows[0]), flush=True)


def said(row: Measurement, baseline: Measurement) -> str:
    """A row's rate and its ratio to the baseline's, from pairs of blocks."""
    name = f"batch {row.cell.batch:2}  {row.cell.setup:19}"
    if row.status != "ok" or not row.run_s:
        return f"{name} {row.error}"
    ours, theirs = (stats.block_medians(r.run_s, r.blocks) for r in (row, baseline))
    both = sorted(ours.keys() & theirs.keys())
    ratio, interval = stats.paired_ratio([ours[b] for b in both], [theirs[b] for b in both])
    range_ = "" if interval is None else f" [{interval[0]:.2f}, {interval[1]:.2f}]"
    rate = row.cell.batch / stats.median(row.run_s)
    return f"{name} {rate:6.1f} /s  {ratio:.2f}x{range_}"


if __name__ == "__main__":
    main()
