"""A model repository of Triton's: each tower as a service of bytes and strings, and as an engine.

- ``clip_image``, ``clip_text``: Triton's Python backend on `clipperf.load`, from encoded images or
  strings to vectors (`serve.triton`), with the artifact that they open beside them.
- ``clip_image_tower``, ``clip_text_tower``: the graph or plan itself in Triton's own backend, for
  callers who prepare inputs themselves.

A model is called as its folder is: no configuration names it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from clipperf.engines import contract
from clipperf.errors import ArtifactError
from clipperf.export.deployment import Deployment, Made
from clipperf.export.exporter import Need
from clipperf.export.folder import copy_tower
from clipperf.export.rewriting import write_graph
from clipperf.nouns.artifact import OUTPUT_NAMES, Artifact, TensorSpec
from clipperf.nouns.cell import Cell
from clipperf.nouns.model import ModelSpec
from clipperf.nouns.tuning import Tuning
from clipperf.nouns.variant import SIDES, Side, Variant
from clipperf.serve.towers import DEFAULT_BATCH
from clipperf.serve.triton import INPUTS
from clipperf.system import store
from clipperf.system.files import write_text
from clipperf.system.foreign import link_or_copy

BACKENDS = {"onnx": ("onnxruntime", "model.onnx"), "trt": ("tensorrt", "model.plan")}
"""Triton's own backend for a runtime, and what it calls a model's file."""

TYPES = {"float32": "TYPE_FP32", "int64": "TYPE_INT64", "bytes": "TYPE_STRING"}

FIND_PACKAGES = """import os
import sys

# Triton starts a Python of its own choice; CLIPPERF_PACKAGES names folders to import from.
sys.path[:0] = [path for path in os.environ.get("CLIPPERF_PACKAGES", "").split(os.pathsep) if path]
"""

MODEL_PY = f'''"""Made by clipperf: see clipperf.serve.triton."""

{FIND_PACKAGES}
from clipperf.serve.triton import TritonPythonModel  # noqa: E402, F401
'''

ONE_ON_CPU = "instance_group [ { kind: KIND_CPU count: 1 } ]\n"
"""What keeps Triton from making one of a model for each GPU."""

QUEUE_US = 2000
"""How long a request may wait for others: a few texts' time, a fraction of an image's."""


def needs(variant: Variant, sides: Sequence[Side]) -> list[Need]:
    """See `Deployment`: the engines may be others than those of the services."""
    others = {side: fed_by_others(variant, side) for side in sides}
    return [
        (variant, sides), *((other, (side,)) for side, other in others.items() if other != variant),
    ]  # fmt: skip


def fed_by_others(variant: Variant, side: Side) -> Variant:
    """The variant whose tower is served as an engine.

    Its callers need not begin a text with CLIP's start token, and nothing looks at the processor
    before it runs: a CPU runtime's eight bits suit those without VNNI, too.
    """
    eight_bits = variant.row.is_quantised and _is_for_cpus(variant.runtime)
    return replace(variant, portable=side == "text" or eight_bits)


def _is_for_cpus(runtime: str) -> bool:
    return contract.get(runtime).devices[0] == "cpu"


def write(made: Made, variants: Sequence[Variant], folder: Path) -> None:
    """See `Deployment`."""
    (variant,) = variants
    for side, cell in zip(made.sides, made.depends, strict=True):
        source, tower = made.tower(variant, side)
        sizes = batches(tower, cell)
        _write_service(source, tower, cell, sizes, folder / f"clip_{side}")
        _write_engine(made, variant, side, sizes, folder / f"clip_{side}_tower")


def _write_service(
    source: Path, tower: Artifact, cell: Cell | None, sizes: tuple[int, ...], folder: Path
) -> None:
    """The model that takes bytes or strings."""
    side = tower.side
    (folder / "1").mkdir(parents=True)
    copy_tower(source, side, folder)
    write_text(folder / "1" / "model.py", MODEL_PY)
    given = TensorSpec(INPUTS[side], "bytes", ("batch", 1))
    parameters = {}
    if cell is not None:
        parameters = {"threads": str(cell.threads), "streams": str(cell.streams)}
    said = config("python", (given,), tower.outputs[:1], sizes, parameters)
    if _is_for_cpus(tower.runtime):  # else Triton makes one for each GPU
        said += ONE_ON_CPU
    write_text(folder / "config.pbtxt", said)


def _write_engine(
    made: Made, variant: Variant, side: Side, sizes: tuple[int, ...], folder: Path
) -> None:
    """The model that takes what the tower takes."""
    taken = fed_by_others(variant, side)
    source, tower = made.tower(taken, side)
    backend, name = BACKENDS[variant.runtime]
    target = folder / "1" / name
    target.parent.mkdir(parents=True)
    given = tower.inputs
    if tower.path.endswith(".onnx"):
        write_graph(made, taken, side, target, (OUTPUT_NAMES[side],))
        if side == "text":  # of any length: see graph.others
            given = (replace(given[0], shape=("batch", "tokens")),)
    else:
        link_or_copy(source / tower.path, target)
    write_text(folder / "config.pbtxt", config(backend, given, tower.outputs[:1], sizes))


def tuned_cell(spec: ModelSpec, variant: Variant, side: Side) -> Cell | None:
    """How `clipperf tune` would run a tower of this variant; None where it did not choose it.

    It counts where it is for the runtime and the device that `clipperf.load` takes by itself.
    """
    device = contract.get(variant.runtime).devices[0]
    wanted = (side, variant.runtime, variant.precision, device)
    for sides in (SIDES, (side,)):
        path = store.tuning_path(spec, sides)
        try:
            data = store.read_versioned(path, "run clipperf tune again")
            found = store.record_of(Tuning, data, path, "run clipperf tune again")
        except ArtifactError:
            continue
        for tower in found.towers:
            cell = tower.cell
            if (cell.side, cell.runtime, cell.precision, cell.device) == wanted:
                return cell
    return None


def batches(tower: Artifact, cell: Cell | None) -> tuple[int, ...]:
    """Batches that a tower is best at, and the largest that it is to be given, behind them.

    An engine has both in its profile. Others take any, and are best where they were tuned; a
    request of several inputs has to find room even where one at a time is best.
    """
    profile = tower.options.get("batch", "")
    if profile:
        _, best, largest = (int(size) for size in profile.split(":"))
        return (*dict.fromkeys((best, largest)), largest)
    return (DEFAULT_BATCH,) if cell is None else (cell.batch, max(cell.batch, DEFAULT_BATCH))


def config(
    backend: str,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    sizes: tuple[int, ...],
    parameters: Mapping[str, str] | None = None,
) -> str:
    """The text of a `config.pbtxt`: tensors without their batch axis, and how requests are batched.

    `sizes` are preferred batches and behind them the largest; see `batches`.
    """
    *preferred, largest = sizes
    said = [f"backend: {json.dumps(backend)}", f"max_batch_size: {largest}"]
    for kind, tensors in (("input", inputs), ("output", outputs)):
        for tensor in tensors:
            dims = ", ".join(str(d) if isinstance(d, int) else "-1" for d in tensor.shape[1:])
            said.append(
                f"{kind} [ {{ name: {json.dumps(tensor.name)} data_type: {TYPES[tensor.dtype]} "
                f"dims: [ {dims} ] }} ]"
            )
    best = f"preferred_batch_size: [ {', '.join(map(str, preferred))} ] " if preferred else ""
    said.append(f"dynamic_batching {{ {best}max_queue_delay_microseconds: {QUEUE_US} }}")
    for name, value in (parameters or {}).items():
        said.append(
            f"parameters {{ key: {json.dumps(name)} "
            f"value: {{ string_value: {json.dumps(value)} }} }}"
        )
    return "\n".join([*said, ""])


DEPLOYMENT = Deployment(
    name="triton",
    reader="Triton",
    write=write,
    needs=needs,
    runtimes=tuple(BACKENDS),
    depends=lambda made, variants: [tuned_cell(made.spec, variants[0], s) for s in made.sides],
)
