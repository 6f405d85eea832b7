"""Towers in fp16 that would overflow or lose too much on a GPU, and what saves them."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from clipperf.engines.onnxruntime import library, run_error, session_options
from clipperf.export.judge import parity
from clipperf.graph.halves import KINDS, LARGEST, PROBES, emulation, keep_in_fp32, of_kind
from clipperf.nouns.artifact import Parity

if TYPE_CHECKING:
    import torch

RECIPE = 1
"""Raise it when the same tower comes to keep other operators."""

SUSPECT = LARGEST / 8
"""A tower is looked at closely whose fp32 activations go beyond this on the first two inputs."""

TOO_LARGE = LARGEST / 2
"""Tensors beyond this are kept in fp32: other inputs may have twice as much."""

MEANT = 1e30
"""What is larger is a mask."""

ROWS = 2
"""So many inputs go through an emulation at once."""


@dataclass(frozen=True)
class Found:
    """What an emulation shows: both embeddings [n, dim], and two figures of each fp16 tensor.

    Of a length, the largest figure is its square, which whoever computes it has on the way.
    """

    exact: np.ndarray
    rounded: np.ndarray
    largest: dict[str, float]
    apart: dict[str, float]


@dataclass(frozen=True)
class Saved:
    """What of a tower is kept in fp32, and how near its emulated embeddings come with that."""

    kept: tuple[str, ...]
    parity: Parity


def largest_activation(module: torch.nn.Module, inputs: torch.Tensor) -> float:
    """The largest magnitude that an operator of a tower gives in fp32, logits of attention among
    them by their bound (the longest query times the longest key), masks left out."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    class Watching(TorchDispatchMode):
        largest = 0.0

        def look(self, value: Any) -> None:
            if not (isinstance(value, torch.Tensor) and value.is_floating_point()):
                return
            size = _size(value)
            if not size < MEANT:
                sizes = value.abs()
                size = float(torch.where(sizes < MEANT, sizes, 0).max())
            self.largest = max(self.largest, size)

        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            result = func(*args, **(kwargs or {}))
            values = result if isinstance(result, tuple | list) else (result,)
            for value, given in zip(values, func._schema.returns, strict=False):
                # Views, of weights among them, compute nothing; what is done in place does.
                if given.alias_info is None or given.alias_info.is_write:
                    self.look(value)
                    if func._schema.name.endswith("vector_norm"):
                        self.look(value * value)  # as its sum of squares was
            if "scaled_dot_product" in str(func):
                query, key = (tensor.float().norm(dim=-1).max() for tensor in args[:2])
                scale = (kwargs or {}).get("scale") or args[0].shape[-1] ** -0.5
                self.look(query * key * scale)
            return result

    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # one operator, which hides all within
    try:
        with torch.inference_mode(), Watching() as watching:
            module(inputs)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    return watching.largest


def weights_beyond(module: torch.nn.Module) -> list[str]:
    """The weights of a tower of which some are larger than any float16."""
    return [name for name, w in module.named_parameters() if _size(w.detach()) > LARGEST]


def _size(tensor: torch.Tensor) -> float:
    """The largest magnitude, without a copy; 0 of none, NaN where one is."""
    if not tensor.numel():
        return 0.0
    low, high = tensor.aminmax()
    return max(-float(low), float(high))


def save(
    path: Path, inputs: np.ndarray, reference: np.ndarray, threads: int, precision: str = "fp16"
) -> Saved:
    """Keep as much of the fp16 tower at `path` in fp32 as its emulation on `inputs` asks for.

    What is too large comes first, then one of `KINDS` after the other until the emulated
    embeddings are as near to `reference` [n, dim] as fp16 has to come. Where nothing helps, the
    tower is left with what is too large in fp32, and the verdict says so.
    """
    found = emulate(path, inputs, threads)
    wide = {name for name, size in found.largest.items() if size > TOO_LARGE}
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".as-traced-") as folder:
        traced = Path(folder) / path.name
        shutil.copyfile(path, traced)  # the graph alone: weights beside it stay as they are

        def rewritten(kept_wide: set[str]) -> tuple[str, ...]:
            shutil.copyfile(traced, path)
            return keep_in_fp32(path, kept_wide) if kept_wide else ()

        def tried(kept_wide: set[str], known: Found | None = None) -> Saved:
            kept = rewritten(kept_wide)
            seen = known or emulate(path, inputs, threads)
            return Saved(kept, judged(seen, reference, precision))

        first = saved = tried(wide, None if wide else found)
        more = set(wide)
        for kind in KINDS:
            if saved.parity.passed:
                return saved
            more |= of_kind(traced, kind)
            saved = tried(more)
        if saved.parity.passed:
            return saved
        rewritten(wide)
        return first


def judged(found: Found, reference: np.ndarray, precision: str = "fp16") -> Parity:
    """The verdict on emulated embeddings."""
    rows = len(found.rounded)
    said = "inputs, emulated in fp16"
    return parity.compare(found.rounded, reference[:rows], precision, said, (rows,))


def emulate(path: Path, inputs: np.ndarray, threads: int) -> Found:
    """Run the fp16 tower at `path` as a GPU would round it, and in fp32 beside that.

    Raises:
        EngineError: it does not run; UnsupportedError: it has branches.
    """
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".emulated-") as folder:
        made = emulation(path, Path(folder))
        ort = library()
        options = session_options(threads)
        # Else casts that take one another back would go, and with them the rounding.
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        # A second copy of all weights, which a few runs do not gain from.
        options.add_session_config_entry("session.disable_prepacking", "1")
        probes = [tensor + probe for tensor in made.tensors for probe in PROBES]
        try:
            session = ort.InferenceSession(
                str(made.path), options, providers=["CPUExecutionProvider"]
            )
            name = session.get_inputs()[0].name
            asked = [session.get_outputs()[0].name, made.output, *probes]
            rows: list[Sequence[np.ndarray]] = [
                session.run(asked, {name: inputs[start : start + ROWS]})
                for start in range(0, len(inputs), ROWS)
            ]
        except Exception as exc:
            raise run_error(exc, ROWS) from exc
    exact, rounded = (np.concatenate([row[place] for row in rows]) for place in (0, 1))
    with np.errstate(invalid="ignore"):
        figures = np.array([row[2:] for row in rows], np.float64).max(axis=0)
    figures = np.where(np.isnan(figures), np.inf, figures).reshape(-1, len(PROBES))
    largest, apart = (dict(zip(made.tensors, column.tolist(), strict=True)) for column in figures.T)
    for name in made.lengths:
        largest[name] = max(largest[name], largest[name] ** 2)
    return Found(exact, rounded, largest, apart)
