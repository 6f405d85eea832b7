"""Folders as transformers.js and optimum read them: ``onnx/`` beside transformers' own files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from clipperf.errors import UsageError
from clipperf.export.deployment import Deployment, Made
from clipperf.export.rewriting import write_graph
from clipperf.inputs import transformers_files
from clipperf.nouns.artifact import OUTPUT_NAMES
from clipperf.nouns.variant import Side, Variant

FILES: dict[Side, str] = {"image": "vision_model", "text": "text_model"}

POOLED = "pooler_output"
"""What SigLIP's classes read; CLIP's have another meaning for it."""


def suffix(variant: Variant) -> str:
    """What these tools add to a file's name for a precision: transformers.js's dtype "q8" is int8.

    Raises:
        UsageError: they have no name for it.
    """
    row = variant.row
    if row.is_baseline:
        return ""
    if row.weights.kind == "float" and row.weights.bits == 16:
        return "_fp16"
    if row.weights.kind == "int" and not row.is_fixed and not row.emulated:
        return "_quantized"
    fixed = row.weights.kind == "int" and row.is_fixed
    made = ", which --calibrate makes of int8: leave that out, or" if fixed else ":"
    raise UsageError(
        f"--layout transformers has no file for {variant.precision}{made} choose from fp32, fp16, "
        f"int8"
    )


def outputs_of(made: Made, side: Side) -> tuple[str, ...]:
    """The names under which these tools look for embeddings."""
    own = OUTPUT_NAMES[side]
    return (POOLED, own) if transformers_files.is_sigmoid(made.similarity) else (own,)


def write(made: Made, variants: Sequence[Variant], folder: Path) -> None:
    """See `Deployment`."""
    apart = {}
    for variant in variants:
        for side in made.sides:
            name = f"{FILES[side]}{suffix(variant)}.onnx"
            target = folder / "onnx" / name
            taken = replace(variant, portable=True)
            if write_graph(made, taken, side, target, outputs_of(made, side)):
                apart[name] = True
    settings = {"transformers.js_config": {"use_external_data_format": apart}} if apart else {}
    write_settings(made, made.sides, folder, settings)


def write_settings(
    made: Made, sides: Sequence[Side], folder: Path, more: Mapping[str, Any] | None = None
) -> None:
    """Write what says how the inputs of `sides` are made."""
    tokenizer = None
    if "text" in sides:
        source, tower = made.settings("text")
        any_padding = tower.cut_at == "eot"
        tokenizer = transformers_files.write_tokenizer(folder, source, any_padding)
    if "image" in sides:
        sigmoid = transformers_files.is_sigmoid(made.similarity)
        transformers_files.write_preprocessor(folder, made.pixels, sigmoid)
    transformers_files.write_config(folder, made.spec, made.similarity, tokenizer, more)


def check(variants: Sequence[Variant]) -> None:
    """See `Deployment`."""
    named: dict[str, str] = {}
    for variant in variants:
        other = named.setdefault(suffix(variant), variant.precision)
        if other != variant.precision:
            raise UsageError(
                f"--layout transformers: {other} and {variant.precision} would be the same file; "
                f"take one of them"
            )


DEPLOYMENT = Deployment(
    name="transformers",
    reader="transformers.js or optimum",
    write=write,
    needs=lambda variant, sides: [(replace(variant, portable=True), sides)],
    several=True,
    check=check,
)
