"""A kept graph that is damaged is an absent one, and one that cannot be kept stops nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
import onnx_ir as ir
import pytest

from clipperf.graph import kept


@pytest.fixture
def model() -> ir.Model:
    given = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["batch", 2])
    node = onnx.helper.make_node("Neg", ["x"], ["y"])
    produced = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["batch", 2])
    graph = onnx.helper.make_graph([node], "negative", [given], [produced])
    return ir.from_proto(onnx.helper.make_model(graph))


def flipped(content: bytes) -> bytes:
    """One letter of the operator's name: still a model that can be parsed."""
    assert b"Neg" in content
    return content.replace(b"Neg", b"Nef")


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "cut": lambda content: content[:-1],
    "half": lambda content: content[: len(content) // 2],
    "flipped": flipped,
    "zeroes": lambda content: bytes(len(content)),
    "text": lambda content: b"no graph",
    "twice": lambda content: content * 2,
    "of another clipperf": lambda content: content[: -kept.MARK_BYTES],
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_graph_is_an_absent_one(
    model: ir.Model, home: Path, damage: Callable[[bytes], bytes]
) -> None:
    assert kept.kept("key") is None
    kept.keep("key", model)
    (file,) = (home / "graphs").iterdir()
    whole = file.read_bytes()
    found = kept.kept("key")
    assert found is not None and [node.op_type for node in found.graph] == ["Neg"]
    assert onnx.load(file).graph.node[0].op_type == "Neg", "other programs can read it, too"
    file.write_bytes(damage(whole))
    assert kept.kept("key") is None
    kept.keep("key", model)
    assert file.read_bytes() == whole and kept.kept("key") is not None


def test_a_folder_in_its_place_is_none_and_stops_nothing(model: ir.Model, home: Path) -> None:
    (home / "graphs" / "key.onnx").mkdir(parents=True)
    assert kept.kept("key") is None
    kept.keep("key", model)
    kept.forget("key")


def test_where_nothing_can_be_kept_nothing_is(model: ir.Model, home: Path) -> None:
    home.write_text("a file in the place of the store")
    kept.keep("key", model)
    kept.forget("key")
    assert kept.kept("key") is None
