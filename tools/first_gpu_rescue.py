"""A tower whose activations pass what fp16 holds, in every runtime: a stage of `first_gpu_run`.

Exported to fp16, a few of its operators are kept in fp32 (docs/tensorrt.md). What an emulation
promises is held against a GPU here; PyTorch in fp16, which keeps nothing, stands beside it.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from first_gpu_base import (
    COMPILED,
    LEAST_COSINE,
    Data,
    Keep,
    Skipped,
    Wrong,
    exported,
    least_cosine,
    sized,
    timed,
)

if TYPE_CHECKING:
    from clipperf.nouns.model import ModelSpec
    from clipperf.nouns.variant import Side

PX = 64
SMALL = {
    "embed_dim": 64,
    "vision_cfg": {"image_size": PX, "patch_size": 16, "width": 64, "layers": 2, "head_width": 32},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2},
}
HIDDEN, BACK = 300, 20_000
"""What an MLP's first and second weights are multiplied by: then they add what fp16 cannot hold."""

PRECISION = "fp16"


def rescue(device: str, keep: Keep) -> Data:
    """Least cosine with PyTorch fp32 on the CPU, of both towers of a scaled CLIP."""
    from clipperf.engines import contract
    from clipperf.errors import ClipperfError
    from clipperf.export.make import make
    from clipperf.models import zoo
    from clipperf.nouns.variant import SIDES, Variant

    names = timed(device, COMPILED)
    names = [name for name in names if PRECISION in contract.get(name).precisions]
    if not any(contract.get(name).artifact for name in names):
        raise Skipped(f"no usable runtime on {device} takes an exported tower in {PRECISION}")
    with tempfile.TemporaryDirectory() as folder:
        spec = zoo.resolve(str(scaled(Path(folder) / "scaled")))
        sides: tuple[Side, ...] = sized(SIDES, SIDES[:1])
        base = make(spec, sides, Variant("onnx", PRECISION))
        rows: list[Data] = []
        for name in names:
            for side in sides:
                tower = base.manifest.tower(side)
                saved = contract.get(name).artifact is not None
                row: Data = {"runtime": name, "side": side, "rescued": saved, "cosine": None}
                row["in_fp32"] = len(tower.in_fp32) if tower is not None and saved else 0
                try:
                    row["cosine"] = judged(spec, side, name, device, base.folder)
                    row["ok"] = not saved or row["cosine"] >= LEAST_COSINE[PRECISION]
                except (ClipperfError, RuntimeError) as exc:
                    row |= {"ok": not saved, "error": f"{type(exc).__name__}: {exc}"[:600]}
                print(row, flush=True)
                rows.append(row)
                keep({"rescued": rows})
    data: Data = {"rescued": rows}
    if not all(row["in_fp32"] for row in rows if row["rescued"]):
        raise Wrong("a tower was not rescued at all: it holds nothing in fp32", data)
    if bad := [f"{row['runtime']} {row['side']}" for row in rows if not row["ok"]]:
        raise Wrong(f"wrong or failed: {', '.join(bad)}", data)
    return data


def judged(
    spec: ModelSpec, side: Side, name: str, device: str, inputs_of: Path, precision: str = PRECISION
) -> float:
    """The least cosine of the gate's inputs in its batches with PyTorch's, both in `inputs_of`."""
    import numpy as np

    from clipperf.engines import contract
    from clipperf.export.judge.parity import BATCHES, batches_of
    from clipperf.nouns.artifact import reference_name
    from clipperf.nouns.cell import Cell, EngineRequest
    from clipperf.serve.parity_inputs import parity_inputs
    from clipperf.system import env, store

    path, key = exported(spec, side, name, precision)
    inputs, expected = parity_inputs(inputs_of, side), np.load(inputs_of / reference_name(side))
    cell = Cell(spec.id, side, name, precision, device, max(BATCHES), env.available_cores())
    cache = str(store.cache_folder())
    request = EngineRequest(cell, spec, path, key=key, cache_folder=cache)
    with contextlib.closing(contract.get(name).open(request)) as engine:
        pairs = list(zip(batches_of(inputs), batches_of(expected), strict=True))
        return least_cosine(engine, pairs)


def scaled(folder: Path) -> Path:
    """A folder of open_clip's with a small CLIP of seeded weights, its MLPs scaled."""
    import open_clip
    import torch
    from safetensors.torch import save_file

    from clipperf.models import sample

    folder.mkdir()
    torch.manual_seed(0)
    state = open_clip.CLIP(**SMALL).state_dict()
    for name in state:
        if name.endswith("mlp.c_fc.weight"):
            state[name] *= HIDDEN
        if name.endswith("mlp.c_proj.weight"):
            state[name] *= BACK
    save_file(state, folder / "open_clip_model.safetensors")
    preprocess = {**sample.config()["preprocess_cfg"], "size": PX}
    config = {"model_cfg": {**SMALL, "quick_gelu": False}, "preprocess_cfg": preprocess}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    return folder
