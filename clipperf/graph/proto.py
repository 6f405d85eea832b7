"""ONNX graphs as protobuf messages: what those who rewrite them share.

Weights beside a graph are read here: onnx's own loader, and onnx-ir's, refuse files that have
several names (hard links), as those of an artifact may.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from clipperf.errors import ArtifactError
from clipperf.nouns.artifact import is_inside

if TYPE_CHECKING:
    import onnx


def load(path: Path) -> onnx.ModelProto:
    """A model with all of its weights in memory.

    Raises:
        ArtifactError: weights beside it lie in another folder, or are not all there.
    """
    import onnx

    model = onnx.load(path, load_external_data=False)
    take_in(model, path.parent)
    return model


def take_in(model: onnx.ModelProto, folder: Path) -> None:
    """Let the weights that lie in files of `folder`, beside the graph, be in the model itself.

    Raises:
        ArtifactError: as `load`.
    """
    for tensor in model.graph.initializer:
        if _is_outside(tensor):
            tensor.raw_data = _bytes_of(tensor, folder).tobytes()
            del tensor.external_data[:]
            tensor.data_location = tensor.DEFAULT


def values(tensor: onnx.TensorProto, folder: Path | None = None) -> np.ndarray:
    """A tensor's values; those of one that lies in a file of `folder` are mapped.

    Raises:
        ArtifactError: as `load`.
    """
    import onnx

    if not _is_outside(tensor) or folder is None:
        return onnx.numpy_helper.to_array(tensor)
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
    return _bytes_of(tensor, folder).view(dtype).reshape(tuple(tensor.dims))


def _is_outside(tensor: onnx.TensorProto) -> bool:
    return bool(tensor.data_location == tensor.EXTERNAL)


def _bytes_of(tensor: onnx.TensorProto, folder: Path) -> np.ndarray:
    found = {entry.key: entry.value for entry in tensor.external_data}
    name, offset = found.get("location", ""), int(found.get("offset", 0))
    if not is_inside(name):
        raise ArtifactError(f"{folder}: weights lie in {name!r}, outside of the folder")
    if "length" not in found:
        raise ArtifactError(f"{folder / name}: {tensor.name} has no length there")
    return mapped(folder / name, offset, int(found["length"]))


def mapped(path: Path, offset: int, length: int) -> np.ndarray:
    """Bytes of a file, mapped for reading.

    Raises:
        ArtifactError: the file is too short, or cannot be read.
    """
    if not length:
        return np.empty(0, np.uint8)
    try:
        return np.memmap(path, np.uint8, "r", offset, (length,))
    except (OSError, ValueError) as exc:
        raise ArtifactError(f"{path} does not hold {length} bytes from {offset} on: {exc}") from exc


def free_prefix(model: onnx.ModelProto, prefix: str) -> str:
    """`prefix`, with as many underscores behind it as it takes that no value begins with it."""
    nodes = model.graph.node
    names = {tensor.name for tensor in model.graph.initializer}
    names.update(name for node in nodes for name in (*node.input, *node.output))
    while any(name.startswith(prefix) for name in names):
        prefix += "_"
    return prefix


def files_beside(model: onnx.ModelProto) -> set[str]:
    """The names of the files beside a graph that weights of it lie in."""
    return {
        entry.value
        for tensor in model.graph.initializer
        if _is_outside(tensor)
        for entry in tensor.external_data
        if entry.key == "location"
    }


def needed(nodes: Iterable[Any], outputs: Iterable[Any]) -> list[Any]:
    """The nodes, in order, that an output depends on."""
    wanted = {value.name for value in outputs}
    kept = []
    for node in reversed(list(nodes)):
        if wanted & set(node.output):
            wanted |= set(node.input)
            kept.append(node)
    return kept[::-1]
