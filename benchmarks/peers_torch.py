"""Adapter: clipperf's own PyTorch towers, eager or compiled, texts padded to 77 tokens."""

from __future__ import annotations

from typing import Any

import numpy as np
from peers_worker import Action, Inputs, Setup, chunks

PACKAGES = ("torch", "open_clip_torch")


def open(setup: Setup) -> dict[str, Action]:
    """`options`: "runtime" is "torch" or "torch-compile", "precision" is "fp32" or "bf16"."""
    from clipperf.engines import contract
    from clipperf.models import zoo
    from clipperf.nouns.cell import Cell, EngineRequest

    spec = zoo.resolve(setup.options["model"], str(setup.folder / "open_clip.safetensors"))
    runtime = setup.options["runtime"]
    side: Any = setup.side
    precision = setup.options["precision"]
    cell = Cell(spec.id, side, runtime, precision, "cpu", 1, setup.threads)
    engine = contract.get(runtime).open(EngineRequest(cell, spec, None))
    if setup.side == "image":
        return {"image": lambda inputs: engine.run(inputs.pixels)}
    from open_clip import get_tokenizer

    tokenizer = get_tokenizer(spec.architecture)

    def tokenise(inputs: Inputs) -> list[np.ndarray]:
        return [tokenizer(part).numpy() for part in chunks(inputs.texts, inputs.batch)]

    def text(inputs: Inputs) -> np.ndarray:
        return np.concatenate([engine.run(tokens) for tokens in tokenise(inputs)])

    return {"text": text, "tokenise": tokenise}
