"""Whether exported graphs are what each TensorRT reads, by its published rules.

`tensorrt_operators.json` has the operators with their types and the opsets, with the sources. The
operators are those of TensorRT 10.1, older than the oldest that clipperf takes: what it reads, its
successors read. What the tables say of single operators in words is in `LIMITS` below.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

onnx = pytest.importorskip("onnx")
pytest.importorskip("open_clip")

import numpy as np  # noqa: E402
from onnx import TensorProto, helper, numpy_helper  # noqa: E402
from toy_models import NAMES, spec_of  # noqa: E402

from clipperf.engines.tensorrt import flavours  # noqa: E402
from clipperf.export.make import make  # noqa: E402
from clipperf.graph import halves, trace  # noqa: E402
from clipperf.models import hub, zoo  # noqa: E402
from clipperf.models.families import open_clip as towers  # noqa: E402
from clipperf.models.family import family_of  # noqa: E402
from clipperf.nouns.model import ModelSpec  # noqa: E402
from clipperf.nouns.variant import PRECISIONS, SIDES, Side, Variant  # noqa: E402

RULES: dict[str, Any] = json.loads(
    Path(__file__).with_name("tensorrt_operators.json").read_text(encoding="utf-8")
)
TYPES = {
    name: frozenset(row["types"].split())
    for row in RULES["operators"]
    for name in row["names"].split()
}
LOWEST = "10.14"
"""The oldest TensorRT that clipperf takes."""

NAMED = {
    TensorProto.FLOAT: "FP32", TensorProto.FLOAT16: "FP16", TensorProto.BFLOAT16: "BF16",
    TensorProto.INT32: "INT32", TensorProto.INT64: "INT64", TensorProto.BOOL: "BOOL",
    TensorProto.UINT8: "UINT8", TensorProto.INT8: "INT8", TensorProto.FLOAT8E4M3FN: "FP8",
}  # fmt: skip

BY_OUTPUT = frozenset({"Cast", "Constant", "ConstantOfShape", "Range"})
"""Operators whose table row speaks of what they give."""

REDUCING = frozenset(name for name in TYPES if name.startswith("Reduce"))


class Graph:
    """A graph with what is known of its values."""

    def __init__(self, model: onnx.ModelProto) -> None:
        inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
        graph = inferred.graph
        self.nodes = list(graph.node)
        self.inputs = {value.name for value in graph.input}
        self.constants = {tensor.name: tensor for tensor in graph.initializer}
        for node in self.nodes:
            for attribute in node.attribute:
                if node.op_type == "Constant" and attribute.name == "value":
                    self.constants[node.output[0]] = attribute.t
        self.types = {name: tensor.data_type for name, tensor in self.constants.items()}
        for value in (*graph.value_info, *graph.input, *graph.output):
            self.types[value.name] = value.type.tensor_type.elem_type

    def constant(self, node: onnx.NodeProto, place: int) -> np.ndarray | None:
        """The value of a node's input, None where it has none there or it is computed."""
        if len(node.input) <= place or node.input[place] not in self.constants:
            return None
        return numpy_helper.to_array(self.constants[node.input[place]])


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {each.name: helper.get_attribute_value(each) for each in node.attribute}


def _has(node: onnx.NodeProto, place: int) -> bool:
    return len(node.input) > place and bool(node.input[place])


def _zero(graph: Graph, node: onnx.NodeProto) -> bool:
    """Its zero point is none, or zeros."""
    found = graph.constant(node, 2)
    return not _has(node, 2) or (found is not None and not found.astype(np.float32).any())


def _ones(node: onnx.NodeProto) -> bool:
    return set(_attributes(node).get("dilations", [1])) == {1}


def _given(graph: Graph, node: onnx.NodeProto, place: int) -> bool:
    """An optional input is none, or fixed when the engine is built."""
    return not _has(node, place) or graph.constant(node, place) is not None


def _resized(graph: Graph, node: onnx.NodeProto) -> bool:
    said = _attributes(node)
    return (
        said.get("mode", b"nearest") in (b"nearest", b"linear")
        and not said.get("antialias", 0)
        and said.get("keep_aspect_ratio_policy", b"stretch") == b"stretch"
    )


LIMITS: dict[str, tuple[Callable[[Graph, onnx.NodeProto], bool], str]] = {
    "QuantizeLinear": (_zero, "its zero point is not zero"),
    "DequantizeLinear": (_zero, "its zero point is not zero"),
    "LayerNormalization": (lambda _, node: len(node.output) == 1, "it has a second output"),
    "CumSum": (lambda graph, node: graph.constant(node, 1) is not None, "its axis is computed"),
    "TopK": (lambda _, node: _attributes(node).get("sorted", 1) == 1, "it is not sorted"),
    "ScatterND": (
        lambda _, node: _attributes(node).get("reduction", b"none") == b"none", "it reduces",
    ),
    "AveragePool": (lambda _, node: _ones(node), "it is dilated"),
    "MaxPool": (lambda _, node: _ones(node) and len(node.output) == 1, "dilated, or with indices"),
    "Resize": (_resized, "a mode that TensorRT has not"),
    "Slice": (partial(_given, place=3), "its axes are computed"),
    **dict.fromkeys(
        ("Squeeze", "Unsqueeze", *REDUCING), (partial(_given, place=1), "its axes are computed"),
    ),
}  # fmt: skip


def faults(model: onnx.ModelProto) -> Iterator[str]:
    """What the lowest TensorRT that clipperf takes would refuse in a graph."""
    opset = next(each.version for each in model.opset_import if not each.domain)
    low, high = RULES["opsets"][LOWEST]
    if not low <= opset <= high:
        yield f"opset {opset}"
    graph = Graph(model)
    for node in graph.nodes:
        name = f"{node.op_type} {node.name}"
        if node.domain or node.op_type not in TYPES:
            yield f"{name}: no such operator"
            continue
        place = node.output[0] if node.op_type in BY_OUTPUT else node.input[node.op_type == "Where"]
        kind = NAMED.get(graph.types.get(place, 0), "?")
        if kind not in TYPES[node.op_type]:
            yield f"{name}: takes no {kind}"
        kinds = {graph.types.get(x) for x in node.input if x not in graph.inputs}
        if TensorProto.UINT8 in kinds:
            yield f"{name}: bytes that are no input of the network"
        holds, why = LIMITS.get(node.op_type, (lambda *_: True, ""))
        if not holds(graph, node):
            yield f"{name}: {why}"


def narrow_norms(model: onnx.ModelProto) -> Iterator[str]:
    """Norms of a graph whose statistics are taken in half precision.

    The squares of an fp16 number pass fp16's limit from 256 on. `stash_type` is what ONNX says the
    statistics are taken in, FLOAT where it says nothing.
    """
    graph = Graph(model)
    squares = {
        node.output[0]
        for node in graph.nodes
        if node.op_type == "Pow" or (node.op_type == "Mul" and node.input[0] == node.input[1])
    }
    for node in graph.nodes:
        given = graph.types.get(node.input[0]) if node.input else None
        half = given in (TensorProto.FLOAT16, TensorProto.BFLOAT16)
        if node.op_type in ("LayerNormalization", "RMSNormalization"):
            if _attributes(node).get("stash_type", TensorProto.FLOAT) != TensorProto.FLOAT:
                yield f"{node.op_type} {node.name}: its statistics are not float32"
        elif half and (
            node.op_type in SQUARING
            or (node.op_type in ("ReduceMean", "ReduceSum") and node.input[0] in squares)
        ):
            yield f"{node.op_type} {node.name}: squares are summed in half precision"


SQUARING = (
    *("ReduceL2", "ReduceSumSquare", "LpNormalization"),
    *("InstanceNormalization", "GroupNormalization", "MeanVarianceNormalization"),
)


ONE = numpy_helper.from_array(np.array([1]), "one")


def one_node(op: str, kind: int = TensorProto.FLOAT, opset: int = 20, **said: Any) -> Any:
    """A graph of one operator on [2, 4]."""
    more, outputs = said.pop("more", []), said.pop("outputs", ["y"])
    node = helper.make_node(op, ["x", *(tensor.name for tensor in more)], outputs, **said)
    given = helper.make_tensor_value_info("x", kind, [2, 4])
    made = helper.make_tensor_value_info("y", kind, None)
    graph = helper.make_graph([node], "graph", [given], [made], more)
    opsets = [helper.make_opsetid("", opset)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (one_node("Relu"), ""),
        (one_node("Relu", opset=25), "opset 25"),
        (one_node("Relu", TensorProto.INT8), "takes no INT8"),
        (one_node("BitwiseNot", TensorProto.INT32), "no such operator"),
        (one_node("ReduceSum", more=[ONE]), ""),
        (one_node("TopK", more=[ONE], outputs=["y", "places"], sorted=0), "sorted"),
    ],
)
def test_what_breaks_a_rule_is_found(model: Any, said: str) -> None:
    found = list(faults(model))
    assert said in " ".join(found) if said else found == []


def test_a_zero_point_that_is_not_zero_is_found() -> None:
    scale = numpy_helper.from_array(np.float32(0.1), "scale")
    for point, expected in ((0, 0), (3, 1)):
        zero = numpy_helper.from_array(np.int8(point), "zero")
        model = one_node("QuantizeLinear", more=[scale, zero])
        model.graph.output[0].type.tensor_type.elem_type = TensorProto.INT8
        assert len(list(faults(model))) == expected


SCALE = numpy_helper.from_array(np.float32(0.1), "scale")
AXES = helper.make_tensor_value_info("axes", TensorProto.INT64, [1])
SIZES = {"starts": [0], "ends": [1], "sizes": [2, 8], "k": [2]}


def constant(name: str) -> onnx.TensorProto:
    return numpy_helper.from_array(np.array(SIZES[name], np.int64), name)


def computed(op: str, *before: str, **said: Any) -> Any:
    """One operator whose last input, its axes, is another input of the graph."""
    model = one_node(op, more=[constant(name) for name in before], **said)
    model.graph.node[0].input.append("axes")
    model.graph.input.append(AXES)
    return model


def resized(**said: Any) -> Any:
    model = one_node("Resize", more=[constant("sizes")], **said)
    model.graph.node[0].input[:] = ["x", "", "", "sizes"]
    return model


def quantized(op: str, kind: int, point: int) -> Any:
    zero = numpy_helper.from_array(np.int8(point), "zero")
    model = one_node(op, kind, more=[SCALE, zero])
    other = {TensorProto.FLOAT: TensorProto.INT8, TensorProto.INT8: TensorProto.FLOAT}[kind]
    model.graph.output[0].type.tensor_type.elem_type = other
    return model


def pooled(op: str, **said: Any) -> Any:
    model = one_node(op, kernel_shape=[1, 1], **said)
    model.graph.input[0].CopyFrom(
        helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2, 4, 4])
    )
    return model


def scattered(reduction: str) -> Any:
    places = numpy_helper.from_array(np.array([[0]], np.int64), "places")
    rows = numpy_helper.from_array(np.ones((1, 4), np.float32), "rows")
    return one_node("ScatterND", more=[places, rows], reduction=reduction)


EXAMPLES: dict[str, tuple[Any, Any]] = {
    "QuantizeLinear": (
        quantized("QuantizeLinear", TensorProto.FLOAT, 3),
        quantized("QuantizeLinear", TensorProto.FLOAT, 0),
    ),
    "DequantizeLinear": (
        quantized("DequantizeLinear", TensorProto.INT8, -1),
        quantized("DequantizeLinear", TensorProto.INT8, 0),
    ),
    "LayerNormalization": (
        one_node(
            "LayerNormalization",
            more=[numpy_helper.from_array(np.ones(4, np.float32), "scale")],
            outputs=["y", "mean"],
        ),
        one_node(
            "LayerNormalization", more=[numpy_helper.from_array(np.ones(4, np.float32), "scale")]
        ),
    ),
    "CumSum": (
        computed("CumSum"),
        one_node("CumSum", more=[numpy_helper.from_array(np.int64(1), "axis")]),
    ),
    "TopK": (
        one_node("TopK", more=[constant("k")], outputs=["y", "places"], sorted=0),
        one_node("TopK", more=[constant("k")], outputs=["y", "places"]),
    ),
    "ScatterND": (scattered("add"), scattered("none")),
    "AveragePool": (pooled("AveragePool", dilations=[2, 2]), pooled("AveragePool")),
    "MaxPool": (pooled("MaxPool", outputs=["y", "places"]), pooled("MaxPool")),
    "Resize": (resized(mode="cubic"), resized(mode="linear")),
    "Slice": (
        computed("Slice", "starts", "ends"),
        one_node("Slice", more=[constant("starts"), constant("ends"), ONE]),
    ),
    **{
        name: (computed(name), one_node(name, more=[ONE]))
        for name in ("Unsqueeze", *sorted(REDUCING))
    },
    "Squeeze": (computed("Squeeze"), one_node("Squeeze")),
}
"""A graph that breaks each rule of `LIMITS`, and one that keeps it."""


def test_every_rule_has_an_example() -> None:
    assert set(EXAMPLES) == set(LIMITS)


@pytest.mark.parametrize("name", sorted(LIMITS))
def test_each_rule_tells_its_examples_apart(name: str) -> None:
    broken, kept = EXAMPLES[name]
    if name == "CumSum":  # its axis is a scalar
        broken.graph.input[1].type.tensor_type.shape.ClearField("dim")
    if name == "Squeeze":  # what has one row
        kept.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    assert LIMITS[name][1] in " ".join(faults(broken))
    assert list(faults(kept)) == []


def test_newer_rules_only_add() -> None:
    ranges = [tuple(RULES["opsets"][version]) for version in ("10.1", "10.14", "10.15", "11")]
    assert ranges == sorted(ranges) and len({low for low, _ in ranges}) == 1
    assert not set(TYPES) & {name for added in RULES["added"].values() for name in added}
    assert set(RULES["sources"]) == set(RULES["opsets"])


def test_a_norm_in_half_precision_is_found() -> None:
    scale = numpy_helper.from_array(np.ones(4, np.float16), "scale")
    half, full = TensorProto.FLOAT16, TensorProto.FLOAT
    norm = partial(one_node, "LayerNormalization", half, more=[scale])
    assert list(narrow_norms(norm())) == list(narrow_norms(norm(stash_type=full))) == []
    assert "not float32" in " ".join(narrow_norms(norm(stash_type=half)))
    assert "summed in half" in " ".join(narrow_norms(one_node("ReduceL2", half, more=[ONE])))
    assert list(narrow_norms(one_node("ReduceL2", full, more=[ONE]))) == []
    for square, found in (("Mul", 1), ("Add", 0)):
        model = one_node("ReduceMean", half, more=[ONE])
        model.graph.node.insert(0, helper.make_node(square, ["x", "x"], ["square"]))
        model.graph.node[1].input[0] = "square"
        assert len(list(narrow_norms(model))) == found


def sound(path: Path) -> None:
    """A graph of an export is what TensorRT reads, and its norms are taken in float32."""
    model = onnx.load(path)
    assert list(faults(model)) == []
    assert list(narrow_norms(model)) == []


@pytest.mark.slow
@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("name", NAMES)
def test_towers_of_every_kind(name: str, side: Side, toy_catalogue: None, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    for precision in ("fp16", "bf16") if name in ("toy-resnet", "toy-clip") else ("fp16",):
        tower = towers.build_tower(spec_of(name), side, False)
        trace.export_onnx(tower, path, precision)
        sound(path)


KINDS = ("altclip", "chinese_clip", "clip", "siglip", "siglip2", "bert", "xlm-roberta")


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_towers_of_every_kind_of_transformers(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last two are texts of M-CLIP's. Those of four kinds count the tokens before each."""
    pytest.importorskip("transformers", reason="the models are transformers' own")
    import transformers_folders

    monkeypatch.setattr(hub, "hub_answers", lambda: False)
    folder, student = tmp_path / kind, kind in ("bert", "xlm-roberta")
    (transformers_folders.save_student if student else transformers_folders.save)(kind, folder)
    spec = zoo.resolve(str(folder))
    path, counts = tmp_path / "model.onnx", False
    for side in ("text",) if student else SIDES:
        trace.export_onnx(family_of(spec).build(spec, side, False), path, "fp16")
        counts |= any(node.op_type == "CumSum" for node in onnx.load(path).graph.node)
        sound(path)
    assert counts == (kind in ("altclip", "chinese_clip", "bert", "xlm-roberta"))


@pytest.mark.slow
@pytest.mark.parametrize("side", SIDES)
def test_a_tower_parts_of_which_are_kept_in_fp32(
    side: Side, toy_catalogue: None, tmp_path: Path
) -> None:
    """Every third tensor, of whatever operator, and so casts before and behind most of them."""
    path = tmp_path / "model.onnx"
    trace.export_onnx(towers.build_tower(spec_of("toy-clip"), side, False), path, "fp16")
    assert len(halves.keep_in_fp32(path, set(halves.half_tensors(path)[::3]))) > 10
    sound(path)


@pytest.mark.slow
@pytest.mark.parametrize("precision", flavours.PRECISIONS)
def test_every_precision_of_the_sample(precision: str, sample_in: Callable[[str], Path]) -> None:
    folder = sample_in(PRECISIONS.get(precision).on_gpu.name)
    for side in SIDES:
        sound(folder / side / "model.onnx")


OPTIONS: dict[str, tuple[Side, dict[str, Any]]] = {
    "normalised": ("image", {"normalized": True}),
    "bytes": ("image", {"pixel_dtype": "uint8"}),
    "features": ("image", {"features": True}),
    "portable": ("text", {"portable": True}),
    "fp16": ("text", {"precision": "fp16"}),
    "bytes in fp16": ("image", {"precision": "fp16", "pixel_dtype": "uint8"}),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_of_an_export(name: str, tiny: ModelSpec) -> None:
    side, chosen = OPTIONS[name]
    variant = Variant("onnx", **({"precision": "fp32"} | chosen))
    tower = make(tiny, (side,), variant)
    sound(tower.folder / side / "model.onnx")
