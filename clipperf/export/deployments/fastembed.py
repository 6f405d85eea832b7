"""Folders as fastembed reads its CLIP models: one for images, one for texts, `model.onnx` in each.

They are what ``specific_model_path`` takes: ``vision`` of ``ImageEmbedding``, ``text`` of
``TextEmbedding``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from clipperf.export.deployment import Deployment, Made
from clipperf.export.deployments.transformers import write_settings
from clipperf.export.rewriting import write_graph
from clipperf.nouns.artifact import OUTPUT_NAMES
from clipperf.nouns.variant import Side, Variant

FOLDERS: dict[Side, str] = {"image": "vision", "text": "text"}


def write(made: Made, variants: Sequence[Variant], folder: Path) -> None:
    """See `Deployment`."""
    (variant,) = variants
    for side in made.sides:
        target = folder / FOLDERS[side] / "model.onnx"
        taken = replace(variant, portable=True)
        write_graph(made, taken, side, target, (OUTPUT_NAMES[side],))
        write_settings(made, (side,), target.parent)


DEPLOYMENT = Deployment(
    name="fastembed",
    reader="fastembed",
    write=write,
    needs=lambda variant, sides: [(replace(variant, portable=True), sides)],
)
