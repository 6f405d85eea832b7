"""Graphs kept without weights: traced once, filled exactly, and never trusted where they fail."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clipperf.nouns.model import Tower
from clipperf.nouns.variant import Side

torch = pytest.importorskip("torch")
pytest.importorskip("open_clip")
onnx = pytest.importorskip("onnx")
ir = pytest.importorskip("onnx_ir")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402
from toy_models import START, embed, encode, inputs_of, reference, saved, spec_of  # noqa: E402

from clipperf.engines.onnxruntime import open_session  # noqa: E402
from clipperf.export.judge import parity  # noqa: E402
from clipperf.graph import kept as graph  # noqa: E402
from clipperf.graph import trace as onnx_export  # noqa: E402
from clipperf.graph import weights  # noqa: E402
from clipperf.models.families import open_clip as towers  # noqa: E402
from clipperf.models.lean import LeanBlock, make_lean  # noqa: E402
from clipperf.models.open_clip import build_from_config  # noqa: E402

pytestmark = pytest.mark.usefixtures("toy_catalogue")


def export(name: str, pretrained: Path | str, side: Side, path: Path, precision: str) -> Path:
    spec = spec_of(name, pretrained)
    tower = towers.build_tower(spec, side)
    if side == "text":
        tower = replace(tower, start_id=START)
    path.mkdir(parents=True, exist_ok=True)
    key = onnx_export.graph_key(tower, False, precision, towers.model_config(spec))
    onnx_export.export_onnx(tower, path / "model.onnx", precision, key)
    return path / "model.onnx"


def refuse(*args: Any, **options: Any) -> None:
    raise AssertionError("this should not be needed")


# --- one block, many blocks ----------------------------------------------------------------


def deep_tower(side: Side, layers: int) -> Tower:
    """A toy with blocks of its own number, ready to be traced."""
    spec = spec_of("toy-clip", "random:1")
    config = towers.model_config(spec)
    for part in ("vision_cfg", "text_cfg"):
        config[part] = {**config[part], "layers": layers}
    tower = build_from_config(spec, config, side)
    make_lean(tower.module, START if side == "text" else None)
    return tower


@pytest.mark.parametrize("side", ["image", "text"])
def test_blocks_are_traced_once(side: Side, monkeypatch: Any) -> None:
    traced: list[int] = []
    whole = LeanBlock.finished

    def counted(self: Any, *arguments: Any, **options: Any) -> Any:
        traced.append(id(self))
        return whole(self, *arguments, **options)

    monkeypatch.setattr(LeanBlock, "finished", counted)
    counts, nodes = [], []
    for layers in (2, 3, 7):
        tower = deep_tower(side, layers)
        traced.clear()
        empty = graph.without_values(tower.module, torch.float32)
        model = onnx_export._traced(empty, tower, "fp32")
        graph.take_out_weights(model, empty)
        counts.append(len(traced))
        nodes.append(len(list(model.graph)))
        assert not model.functions
        assert {node.domain for node in model.graph} == {""}
        named = [str(node.name) for node in model.graph]
        assert len(set(named)) == len(named)
    assert counts[0] == counts[1] == counts[2] > 0
    assert nodes[2] - nodes[1] == 4 * (nodes[1] - nodes[0]) > 0


def test_blocks_that_differ_are_each_traced(tmp_path: Path) -> None:
    tower = deep_tower("image", 3)
    block = tower.module.model.visual.transformer.resblocks[1]
    block.mlp = torch.nn.Sequential(block.mlp.c_fc, torch.nn.ReLU(), block.mlp.c_proj)
    inputs = inputs_of("toy-clip", "image")
    with torch.inference_mode():
        expected = tower.module(inputs).numpy()
    onnx_export.export_onnx(tower, tmp_path / "model.onnx")
    operators = Counter(node.op_type for node in onnx.load(tmp_path / "model.onnx").graph.node)
    assert (operators["Gelu"], operators["Relu"]) == (2, 1)
    found = parity.measure(
        open_session(tmp_path / "model.onnx", 1), inputs.numpy(), expected, "fp32"
    )
    assert found.passed


# --- one graph, many checkpoints -----------------------------------------------------------

TOWERS: list[tuple[str, Side, str]] = [
    ("toy-clip", "text", "fp32"),
    ("toy-clip", "image", "fp16"),
    ("toy-resnet", "image", "fp32"),
    ("toy-clip", "text", "fp16"),
]


@pytest.mark.parametrize(("name", "side", "precision"), TOWERS)
def test_a_second_checkpoint_needs_no_trace(
    name: str, side: Side, precision: str, tmp_path: Path, home: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr(onnx_export, "_plain", refuse)
    inputs = inputs_of(name, side)
    first = export(name, saved(name, tmp_path / "w.safetensors"), side, tmp_path / "1", precision)
    (kept,) = (home / "graphs").iterdir()
    assert kept.stat().st_size < 2**20
    monkeypatch.setattr(onnx_export, "_traced", refuse)
    second = export(name, "random:3", side, tmp_path / "2", precision)
    expected = (
        encode(reference(name), side, inputs),
        embed(spec_of(name, "random:3"), side, inputs),
    )
    for path, embeddings in zip((first, second), expected, strict=True):
        model = onnx.load(path)
        assert [len(model.graph.input), len(model.graph.output)] == [1, 1]
        found = parity.measure(open_session(path, 1), inputs.numpy(), embeddings.numpy(), precision)
        assert found.passed, parity.explain(found, name)
    assert list((home / "graphs").iterdir()) == [kept]


@pytest.mark.parametrize(("name", "side", "precision"), TOWERS[:2])
def test_the_plain_exporter_writes_the_same(
    name: str, side: Side, precision: str, tmp_path: Path, home: Path, monkeypatch: Any
) -> None:
    pretrained = saved(name, tmp_path / "w.safetensors")
    fast = export(name, pretrained, side, tmp_path / "fast", precision)
    monkeypatch.setattr(onnx_export, "_filled", lambda *arguments: None)
    plain = export(name, pretrained, side, tmp_path / "plain", precision)
    assert contents(fast) == contents(plain)
    inputs = inputs_of(name, side).numpy()
    for given in (inputs, inputs[:1], *([inputs[:, :9]] if side == "text" else [])):
        found = [open_session(path, 1).run(given) for path in (fast, plain)]
        np.testing.assert_array_equal(*found)


def contents(path: Path) -> tuple[Counter[str], Counter[bytes]]:
    """A model's operators and the bytes of its initializers, each with how often it is there."""
    model = onnx.load(path)
    operators = Counter(node.op_type for node in model.graph.node)
    return operators, Counter(numpy_helper.to_array(t).tobytes() for t in model.graph.initializer)


def test_kept_graphs_hold_no_weights(tmp_path: Path, home: Path) -> None:
    export("toy-clip", "random:1", "text", tmp_path, "fp32")
    (kept,) = (home / "graphs").iterdir()
    model = onnx.load(kept)
    tower = towers.build_tower(spec_of("toy-clip", "random:1"), "text").module
    make_lean(tower, START)
    state = tower.state_dict()
    assert {value.name for value in model.graph.input[1:]} <= set(state)
    assert len(model.graph.input) > 20
    assert not {tensor.name for tensor in model.graph.initializer} & set(state)


def test_a_damaged_graph_is_traced_again(tmp_path: Path, home: Path) -> None:
    whole = export("toy-resnet", "random:1", "image", tmp_path / "1", "fp32").read_bytes()
    (kept,) = (home / "graphs").iterdir()
    content = kept.read_bytes()
    kept.write_bytes(content[: len(content) // 2])
    again = export("toy-resnet", "random:1", "image", tmp_path / "2", "fp32").read_bytes()
    assert len(again) == len(whole)
    assert kept.stat().st_size == len(content)


def test_what_cannot_be_traced_without_values_is_exported_plainly(
    tmp_path: Path, home: Path, monkeypatch: Any
) -> None:
    def fail(*arguments: Any) -> None:
        raise ValueError("a value is needed")

    monkeypatch.setattr(graph, "take_out_weights", fail)
    inputs = inputs_of("toy-resnet", "image")
    path = export("toy-resnet", "random:1", "image", tmp_path, "fp32")
    expected = embed(spec_of("toy-resnet", "random:1"), "image", inputs).numpy()
    assert parity.measure(open_session(path, 1), inputs.numpy(), expected, "fp32").passed
    assert not (home / "graphs").exists()


def test_a_kept_graph_that_does_not_fit_is_traced_again(
    tmp_path: Path, home: Path, monkeypatch: Any
) -> None:
    export("toy-resnet", "random:1", "image", tmp_path / "1", "fp32")
    (kept,) = (home / "graphs").iterdir()
    of_a_resnet = kept.read_bytes()
    monkeypatch.setattr(graph, "key", lambda *arguments: kept.stem)
    path = export("toy-clip", "random:1", "image", tmp_path / "2", "fp32")
    inputs = inputs_of("toy-clip", "image")
    expected = embed(spec_of("toy-clip", "random:1"), "image", inputs).numpy()
    assert parity.measure(open_session(path, 1), inputs.numpy(), expected, "fp32").passed
    assert list((home / "graphs").iterdir()) == [kept]
    assert kept.read_bytes() != of_a_resnet


def test_the_key_holds_everything_that_changes_a_graph(monkeypatch: Any) -> None:
    tower = towers.build_tower(spec_of("toy-clip"), "text")
    config = towers.model_config(spec_of("toy-clip"))

    def key(config: Any = config, tower: Any = tower, *rest: Any, normalized: bool = False) -> str:
        precision, opset, recipe = rest or ("fp32", 20, 1)
        return graph.key(config, tower, normalized, precision, opset, recipe)

    keys = {key(), key({**config, "quick_gelu": True}), key(config, tower, "fp16", 20, 1)}
    keys |= {key(config, tower, "fp32", 22, 1), key(config, tower, "fp32", 20, 2)}
    keys.add(key(normalized=True))
    keys.add(key(config, replace(tower, spec=replace(tower.spec, image_px=96))))
    keys.add(key(config, towers.build_tower(spec_of("toy-clip"), "image")))
    keys.add(key(config, replace(tower, start_id=START)))
    monkeypatch.setattr(graph, "version_of", lambda name: "0")
    keys.add(key())
    assert len(keys) == 10


# --- filling, by hand ----------------------------------------------------------------------


def hand_made(dtype: int = TensorProto.FLOAT) -> Any:
    """y = x @ transpose(w) + big[0], where big is v [1] repeated 2**20 times."""
    info = helper.make_tensor_value_info
    sizes = numpy_helper.from_array(np.array([2**20]), "sizes")
    first = numpy_helper.from_array(np.array(0), "first")
    made = helper.make_graph(
        [
            helper.make_node("Transpose", ["w"], ["t"], perm=[1, 0]),
            helper.make_node("Expand", ["v", "sizes"], ["big"]),
            helper.make_node("Gather", ["big", "first"], ["b"]),
            helper.make_node("MatMul", ["x", "t"], ["xt"]),
            helper.make_node("Add", ["xt", "b"], ["y"]),
        ],
        "g",
        [info("x", dtype, ["n", 3]), info("w", dtype, [2, 3]), info("v", dtype, [1])],
        [info("y", dtype, ["n", 2])],
        [sizes, first],
        value_info=[
            *(info("t", dtype, [3, 2]), info("big", dtype, [2**20])),
            *(info("b", dtype, []), info("xt", dtype, ["n", 2])),
        ],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return ir.from_proto(model)


STATE = {"w": torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]), "v": torch.tensor([10.0])}


def test_weights_are_transposed_and_what_would_grow_is_left(tmp_path: Path) -> None:
    model = hand_made()
    weights.fill(model, STATE)
    assert [node.op_type for node in model.graph] == ["Expand", "Gather", "MatMul", "Add"]
    ir.save(model, tmp_path / "model.onnx")
    loaded = onnx.load(tmp_path / "model.onnx")
    onnx.checker.check_model(loaded, full_check=True)
    held = {t.name: numpy_helper.to_array(t) for t in loaded.graph.initializer}
    assert set(held) == {"t", "v", "sizes", "first"}
    np.testing.assert_array_equal(held["t"], [[1, 4], [2, 5], [3, 6]])
    y = open_session(tmp_path / "model.onnx", 1).run(np.array([[1, 0, 2]], np.float32))
    np.testing.assert_array_equal(y, [[1 + 6 + 10, 4 + 12 + 10]])


def test_weights_are_cast_to_the_graphs_type(tmp_path: Path) -> None:
    model = hand_made(TensorProto.FLOAT16)
    third = {**STATE, "w": STATE["w"] / 3}
    weights.fill(model, third)
    ir.save(model, tmp_path / "model.onnx")
    held = {t.name: t for t in onnx.load(tmp_path / "model.onnx").graph.initializer}
    assert held["t"].data_type == TensorProto.FLOAT16
    expected = (STATE["w"] / 3).half().T.numpy()
    np.testing.assert_array_equal(numpy_helper.to_array(held["t"]), expected)


@pytest.mark.parametrize("state", [{"v": STATE["v"]}, {**STATE, "w": torch.zeros(3, 2)}])
def test_a_graph_of_another_architecture_is_refused(state: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="the graph wants w"):
        weights.fill(hand_made(), state)
