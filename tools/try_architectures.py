"""Write `docs/architectures.md`: which towers of open_clip's catalogue can be exported.

    python tools/try_architectures.py                 # try everything, rewrite the page
    python tools/try_architectures.py --list          # name the structures, try nothing
    python tools/try_architectures.py --only siglip   # try what speaks for architectures like it
    python tools/try_architectures.py --device cuda --share 0/8   # each eighth on a GPU, no page

Towers that differ in sizes only share a structure (see `architecture_structures`). The smallest
one of each is cut to two layers, given seeded weights, exported to ONNX, and its embeddings in
ONNX Runtime at batches 1, 3 and 8 are compared with PyTorch's. Every try is a process of its own,
so that a crash or a hang is a row. It downloads nothing. Ten minutes of one core. With `--device
cuda` the same graphs run in ONNX Runtime's CUDA provider, too.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import os
import sys
import tempfile
import time
import warnings
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from architecture_page import Outcome, others_of, page
from architecture_structures import Structure, small_config, structures

from clipperf.errors import ClipperfError
from clipperf.inputs.tokenize import text_lengths
from clipperf.models.open_clip_facts import config_facts, installed_configs
from clipperf.nouns.model import ModelSpec, Tower
from clipperf.nouns.variant import PRECISIONS, SIDES, Side
from clipperf.system.files import read_json, write_json, write_text

PAGE = Path(__file__).parents[1] / "docs" / "architectures.md"
SHORT_TOKENS = 16
"""The longest of the sample texts, their end token included."""
START_ID = 2
"""Stands for CLIP's, which small vocabularies lack."""


def attempt(architecture: str, side: Side, folder: Path, device: str = "cpu") -> Outcome:
    """Export one small tower and compare it; the outcome of a refusal holds its reason."""
    import torch

    from clipperf.graph import trace
    from clipperf.models import open_clip
    from clipperf.models.cutting import shown
    from clipperf.nouns.artifact import Cut

    config, changed = small_config(architecture, side, folder)
    facts = config_facts(config)
    spec = ModelSpec(
        id=architecture, family="open_clip", architecture=architecture, pretrained="random:0",
        image_px=facts["image_px"], context_tokens=facts["context_tokens"],
        embed_dim=facts["embed_dim"],
    )  # fmt: skip
    outcome: Outcome = {"changed": changed, "note": _unfetched(architecture, side)}
    try:
        tower = open_clip.build_from_config(spec, config, side)
        # CLIP's tokenizer begins every text alike, and an export relies on it.
        starts = side == "text" and facts["text_kind"] == "clip-bpe"
        tower = replace(tower, start_id=START_ID if starts else None)
        inputs = sample_inputs(tower)
        model = tower.module.model
        encode = model.encode_image if side == "image" else model.encode_text
        with torch.inference_mode():
            reference = encode(inputs, normalize=False).numpy()
        if side == "text":
            cut = Cut("eot", "at the end token")
            if not tower.dynamic_tokens:
                lengths = text_lengths(inputs.numpy(), pad_id(tower))
                cut = shown(tower.module, inputs.numpy(), lengths)
            tower = replace(tower, dynamic_tokens=cut.at is not None)
            outcome |= {"cut": cut.at, "why": cut.why}
        outcome["joined"] = trace.export_onnx(tower, folder / "model.onnx")
        outcome |= _compare(tower, folder / "model.onnx", inputs.numpy(), reference)
        if device == "cuda":
            outcome |= _on_cuda(spec, tower, folder / "model.onnx", inputs.numpy(), reference)
    except ClipperfError as exc:
        return outcome | {"status": "refused", "reason": str(exc)}
    worst = outcome["min_cosine"]
    if worst < PRECISIONS.get("fp32").min_cosine:
        reason = f"minimum cosine {worst:.6f} against PyTorch"
        return outcome | {"status": "refused", "reason": reason}
    return outcome | {"status": "exported"}


def _compare(tower: Tower, path: Path, inputs: Any, reference: Any) -> Outcome:
    import numpy as np

    from clipperf.engines.onnxruntime import open_session
    from clipperf.export.judge import parity

    engine = open_session(path, threads=1)
    found = parity.measure(engine, inputs, reference, "fp32")
    worst, apart = found.min_cosine, found.max_abs_diff
    if tower.dynamic_tokens:
        short = engine.run(np.ascontiguousarray(inputs[:, :SHORT_TOKENS]))
        cut = parity.compare(short, reference, "fp32", "short")
        worst, apart = min(worst, cut.min_cosine), max(apart, cut.max_abs_diff)
    unit = reference / np.linalg.norm(reference, axis=1, keepdims=True)
    alike = (unit @ unit.T)[~np.eye(len(unit), dtype=bool)]
    return {
        "min_cosine": worst if found.finite else 0.0,
        "max_abs_diff": apart,
        "most_alike": float(alike.max()),
        "size": float(np.linalg.norm(reference, axis=1).mean()),
    }


def _on_cuda(spec: ModelSpec, tower: Tower, path: Path, inputs: Any, reference: Any) -> Outcome:
    """The least cosine of the graph in ONNX Runtime's CUDA provider, whole texts and cut ones."""
    import numpy as np

    from clipperf.engines import contract
    from clipperf.export.judge import parity
    from clipperf.nouns.cell import Cell, EngineRequest

    cell = Cell(spec.id, tower.side, "ort-cuda", "fp32", "cuda", len(inputs), 1)
    engine = contract.get("ort-cuda").open(EngineRequest(cell, spec, str(path)))
    try:
        given = [inputs, inputs[:3], inputs[:1]]
        if tower.dynamic_tokens:
            given.append(np.ascontiguousarray(inputs[:, :SHORT_TOKENS]))
        worst = 1.0
        for array in [given[0], *given]:  # a shape's second run is captured where graphs are
            expected = reference[: len(array)]
            worst = min(worst, parity.compare(engine.run(array), expected, "fp32", "").min_cosine)
        return {"cuda_min_cosine": worst, "cuda_graphs": getattr(engine, "graphs", 0)}
    finally:
        engine.close()


def sample_inputs(tower: Tower) -> Any:
    """12 images of large random blotches, or 12 rows of random tokens up to `SHORT_TOKENS`."""
    import torch

    from clipperf.models.towers import eos_id, pool_type, text_part

    generator = torch.Generator().manual_seed(0)
    if tower.side == "image":
        size = tuple(tower.example.shape[2:])
        blotches = torch.randn(12, 3, 5, 5, generator=generator) * 1.5
        return torch.nn.functional.interpolate(blotches, size=size, mode="bicubic")
    text = text_part(tower.module.model)
    context = tower.example.shape[1]
    pad = pad_id(tower)
    end = {"argmax": text.vocab_size - 1}.get(pool_type(text), 2)
    if pool_type(text) == "eos":
        end = eos_id(text)
    rows = torch.full((12, context), pad)
    for row in rows:
        words = int(torch.randint(2, min(SHORT_TOKENS, context) - 1, (), generator=generator))
        row[:words] = torch.randint(3, text.vocab_size - 2, (words,), generator=generator)
        row[words] = end
        if tower.start_id is not None:
            row[0] = tower.start_id
    return rows


def pad_id(tower: Tower) -> int:
    """What texts are padded with."""
    from clipperf.models.towers import text_part

    config = getattr(text_part(tower.module.model), "config", None)
    return int(getattr(config, "pad_token_id", 0))


def _unfetched(architecture: str, side: Side) -> str:
    """What an export says of a text tower from the hub on a machine without network."""
    from clipperf.models import open_clip

    config = (installed_configs() or {})[architecture]
    if side == "image" or "hf_model_name" not in config["text_cfg"]:
        return ""
    try:
        open_clip.skeleton(config)
    except ClipperfError as exc:
        return str(exc)
    return ""


def run_attempt(structure: Structure, timeout_s: float, device: str = "cpu") -> Outcome:
    """`attempt` in a process of its own; a crash or a hang is an outcome as well."""
    # Forked, so that each need not import torch, timm and transformers again.
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    named = (structure.smallest, structure.side)
    child = context.Process(target=_answer, args=(sender, *named, device))
    start = time.monotonic()
    child.start()
    sender.close()
    outcome: Outcome = {"status": "crashed", "reason": f"no answer in {timeout_s:.0f} s"}
    if receiver.poll(timeout_s):
        try:
            outcome = receiver.recv()
        except EOFError:
            child.join()
            outcome["reason"] = f"the process ended with code {child.exitcode}"
    child.kill()
    child.join()
    return {**outcome, "seconds": round(time.monotonic() - start, 1)}


def _answer(sender: Connection, architecture: str, side: Side, device: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        try:
            outcome = attempt(architecture, side, Path(folder), device)
        except Exception as exc:  # noqa: BLE001 - whatever a try raises is its row
            first = (str(exc).strip().splitlines() or [""])[0]
            outcome = {"status": "crashed", "reason": f"{type(exc).__name__}: {first}"[:400]}
    sender.send(outcome)


def main() -> int:
    """Try what was asked for; exit 1 where a try crashed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--list", action="store_true", help="name the structures, try nothing")
    parser.add_argument("--only", default="", help="architectures whose name contains this")
    parser.add_argument("--alone", default="", help="look at no other architectures than these")
    parser.add_argument("--out", type=Path, help=f"the page, by default {PAGE} for a full run")
    parser.add_argument("--results", type=Path, help="outcomes as JSON: what is in it is kept")
    parser.add_argument("--no-tries", action="store_true", help="the page of --results as it is")
    parser.add_argument("--timeout", type=float, default=600.0, help="seconds of one try")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--share", default="0/1", help="K/N: every Nth structure from the Kth on")
    arguments = parser.parse_args()
    # The same answers on every machine: nothing comes from a hub, not even where there is one.
    os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    found = [
        structure
        for side in SIDES
        for structure in structures(side, arguments.alone)
        if any(arguments.only.lower() in name.lower() for name in structure.members)
    ]
    first, _, step = arguments.share.partition("/")
    whole = len(found)
    found = found[int(first) :: int(step)]
    if arguments.list:
        for s in found:
            print(f"{s.side}: {s.label}: {', '.join(s.members)}")
        return 0
    outcomes: dict[str, Outcome] = {}
    if arguments.results and arguments.results.exists():
        outcomes = read_json(arguments.results)
    for number, structure in enumerate(found, 1):
        if arguments.no_tries:
            outcomes.setdefault(structure.id, {"status": "not tried"})
        elif structure.id not in outcomes:
            outcomes[structure.id] = run_attempt(structure, arguments.timeout, arguments.device)
            if arguments.results:
                write_json(arguments.results, outcomes)
        print(f"{number}/{len(found)} {structure.side} {structure.smallest}: ", end="")
        print(json.dumps(outcomes[structure.id]), flush=True)
    partly = arguments.only or arguments.alone or len(found) < whole or arguments.device == "cuda"
    out = arguments.out or (None if partly else PAGE)
    if out:
        older = out.read_text(encoding="utf-8") if out.exists() else ""
        write_text(out, page(found, outcomes) + others_of(older))
        print(f"written to {out}")
    return int(any(outcomes[s.id]["status"] == "crashed" for s in found))


if __name__ == "__main__":
    sys.exit(main())
