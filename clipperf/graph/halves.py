"""fp16 graphs: what they would compute on a GPU, and what of them is better kept in fp32.

A float16 ends at 65,504, and has 11 bits. Towers whose residual stream or whose hidden layers are
large pass the one or lose in the other: their vectors are NaN, or wrong. ONNX Runtime's CPU
provider may run fp16 operators in fp32 and rounds where it likes, so that such a tower can look
healthy there.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipperf.errors import UnsupportedError
from clipperf.graph.widen import widen

if TYPE_CHECKING:
    import onnx

LARGEST = 65504.0
"""The largest float16."""

ROUNDED = "/fp16"
PROBES = ("/largest", "/apart")
"""What stands behind a tensor's name: rounded as fp16 rounds, its magnitude, what rounding did."""

PASSES_ON = frozenset(
    [
        *("Add", "Cast", "Concat", "Expand", "Identity", "Mul", "Reshape", "Slice", "Transpose"),
        *("Unsqueeze", "Where"),
    ]
)
"""Operators that a mask of attention goes through before it meets a Softmax."""

NORMS = frozenset(("LayerNormalization", "ReduceMean", "ReduceL2", "ReduceSumSquare", "Pow"))
"""What begins with statistics of what it is given."""

TYPED = frozenset(("ConstantOfShape", "EyeLike", "RandomNormalLike", "RandomUniformLike"))
"""Operators whose type is an attribute: what they give stays what it is."""

KINDS = ("sums", "logits", "norms")
"""What may be kept in fp32 beside what is too large, in the order in which it is tried."""


@dataclass(frozen=True)
class Emulation:
    """A graph that computes a tower twice, in fp32 and rounded to fp16 behind each operator.

    `tensors` are those that are fp16 in the tower. Each has two more outputs, scalars: its
    largest finite magnitude (of what Softmax alone reads, its largest value: masks are meant to
    be large) and the largest difference that rounding has made by then. `lengths` are those that
    are square roots of sums of squares.
    """

    path: Path
    tensors: tuple[str, ...]
    output: str
    lengths: tuple[str, ...]


def emulation(source: Path, folder: Path) -> Emulation:
    """Write the emulation of the fp16 graph `source` into `folder`.

    The weights are those of the tower, as fp32, twice their size.

    Raises:
        UnsupportedError: the graph has branches or loops.
    """
    import onnx
    from onnx import TensorProto, helper

    halves = half_tensors(source)
    target = folder / "emulation.onnx"
    widen(source, target)
    model = onnx.load(target, load_external_data=False)
    graph, known = model.graph, set(halves)
    if any(attribute.HasField("g") for node in graph.node for attribute in node.attribute):
        raise UnsupportedError(
            "its activations come near to fp16's largest number, and a graph with branches cannot "
            "be checked for that: export the model with --precision bf16 or fp32"
        )
    masks = masking(graph)
    taken: dict[str, str] = {}
    nodes: list[onnx.NodeProto] = []
    zero = _zero(graph)
    for node in list(graph.node):
        nodes.append(node)
        made = [name for name in node.output if name in known]
        if not made and not any(name in taken for name in node.input):
            continue
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copy.name = node.name and node.name + ROUNDED
        del copy.input[:], copy.output[:]
        copy.input.extend(taken.get(name, name) for name in node.input)
        for name in node.output:
            taken[name] = name and name + ROUNDED
            copy.output.append(f"{name}/raw" if name in known else taken[name])
        nodes.append(copy)
        for name in made:
            nodes += [
                helper.make_node("Cast", [f"{name}/raw"], [f"{name}/half"], to=TensorProto.FLOAT16),
                helper.make_node("Cast", [f"{name}/half"], [taken[name]], to=TensorProto.FLOAT),
                *_probes(name, taken[name], name in masks, zero),
            ]
    output = graph.output[0].name
    rounded = taken.get(output, output)
    del graph.node[:], graph.value_info[:], graph.output[1:]
    graph.node.extend(nodes)
    if rounded != output:
        graph.output.append(helper.make_tensor_value_info(rounded, TensorProto.FLOAT, None))
    graph.output.extend(
        helper.make_tensor_value_info(name + probe, TensorProto.FLOAT, [])
        for name in halves
        for probe in PROBES
    )
    onnx.save(model, target)
    lengths = [n.output[0] for n in nodes if n.op_type == "ReduceL2" and n.output[0] in known]
    return Emulation(target, tuple(halves), rounded, tuple(lengths))


def _zero(graph: onnx.GraphProto) -> str:
    """The name of a constant that is zero, made here."""
    from onnx import TensorProto, helper

    name = "emulation/zero"
    graph.initializer.append(helper.make_tensor(name, TensorProto.FLOAT, [], [0.0]))
    return name


def _probes(name: str, rounded: str, mask: bool, zero: str) -> list[Any]:
    """Nodes that reduce a tensor and its rounded one to the two scalars of `PROBES`."""
    from onnx import helper

    make, at = helper.make_node, f"{name}/probe"
    largest, apart = (name + probe for probe in PROBES)
    return [
        make("Sub", [name, name], [f"{at}/nil"]),  # NaN where it is infinite or NaN
        make("IsNaN", [f"{at}/nil"], [f"{at}/odd"]),
        make("Where", [f"{at}/odd", zero, name], [f"{at}/finite"]),
        make("Identity" if mask else "Abs", [f"{at}/finite"], [f"{at}/size"]),
        make("ReduceMax", [f"{at}/size"], [largest], keepdims=0),
        make("Sub", [name, rounded], [f"{at}/gap"]),
        make("Where", [f"{at}/odd", zero, f"{at}/gap"], [f"{at}/seen"]),
        make("Abs", [f"{at}/seen"], [f"{at}/far"]),
        make("ReduceMax", [f"{at}/far"], [apart], keepdims=0),
    ]


def half_tensors(source: Path) -> list[str]:
    """What the operators of a graph give in fp16, in their order."""
    import onnx

    return _halves_of(onnx.load(source, load_external_data=False))


def _halves_of(model: onnx.ModelProto) -> list[str]:
    import onnx

    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=False)
    values = [*inferred.graph.value_info, *inferred.graph.output]
    kinds = {value.name: value.type.tensor_type.elem_type for value in values}
    return [
        name
        for node in model.graph.node
        if node.op_type != "Constant"
        for name in node.output
        if kinds.get(name) == onnx.TensorProto.FLOAT16
    ]


def masking(graph: onnx.GraphProto) -> set[str]:
    """Tensors that nothing but a Softmax reads in the end: what is very small there is meant so."""
    outputs = {value.name for value in graph.output}
    found: set[str] = set()
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in reversed(list(graph.node)):
        for name in node.output:
            read = readers.get(name, [])
            if (
                read
                and name not in outputs
                and all(
                    one.op_type == "Softmax"
                    or (one.op_type in PASSES_ON and set(one.output) <= found)
                    for one in read
                )
            ):
                found.add(name)
        for name in node.input:
            readers.setdefault(name, []).append(node)
    return found


def of_kind(source: Path, kind: str) -> set[str]:
    """Tensors of a graph that are of one of `KINDS`: sums that norms read, as those of a residual
    stream are; what a Softmax reads; all that norms read."""
    import onnx

    graph = onnx.load(source, load_external_data=False).graph
    if kind == "logits":
        return masking(graph)
    read = {node.input[0] for node in graph.node if node.op_type in NORMS}
    if kind == "norms":
        return read
    return {name for node in graph.node if node.op_type == "Add" for name in node.output} & read


def keep_in_fp32(path: Path, tensors: Collection[str]) -> tuple[str, ...]:
    """Rewrite the fp16 graph at `path` so that these tensors are fp32; its weights stay fp16.

    The operators that give or read them compute in fp32. Returns the names of those that give
    them.
    """
    import onnx
    from onnx import TensorProto, helper

    model = onnx.load(path, load_external_data=False)
    graph, halves = model.graph, set(_halves_of(model))
    wide = set(tensors) & halves
    wide -= {name for node in graph.node if node.op_type in TYPED for name in node.output}
    narrow = halves | {t.name for t in graph.initializer if t.data_type == TensorProto.FLOAT16}
    narrow |= _constants(graph.node)
    nodes: list[onnx.NodeProto] = []
    kept: list[str] = []
    raised: dict[str, str] = {}

    def up(name: str) -> str:
        if name in wide or name not in narrow:
            return name
        if name not in raised:
            raised[name] = f"{name}/fp32"
            nodes.append(helper.make_node("Cast", [name], [raised[name]], to=TensorProto.FLOAT))
        return raised[name]

    for node in list(graph.node):
        gives = [name for name in node.output if name in wide]
        if gives:
            kept.append(node.name or gives[0])
        if not gives and not any(name in wide for name in node.input):
            nodes.append(node)
            continue
        if node.op_type == "Cast":
            if gives:
                _set_to(node, TensorProto.FLOAT)
            nodes.append(node)
            continue
        given = [up(name) for name in node.input]
        del node.input[:]
        node.input.extend(given)
        back = []
        for place, name in enumerate(list(node.output)):
            if name in halves and name not in wide:
                node.output[place] = f"{name}/wide"
                back.append(
                    helper.make_node("Cast", [f"{name}/wide"], [name], to=TensorProto.FLOAT16)
                )
        nodes += [node, *back]
    del graph.node[:]
    graph.node.extend(nodes)
    stay = [value for value in graph.value_info if value.name not in wide]
    del graph.value_info[:]
    graph.value_info.extend(stay)
    onnx.save(model, path)
    return tuple(kept)


def _constants(nodes: Iterable[onnx.NodeProto]) -> set[str]:
    """What Constant nodes give in fp16."""
    from onnx import TensorProto

    return {
        node.output[0]
        for node in nodes
        if node.op_type == "Constant"
        for attribute in node.attribute
        if attribute.name == "value" and attribute.t.data_type == TensorProto.FLOAT16
    }


def _set_to(node: onnx.NodeProto, kind: int) -> None:
    for attribute in node.attribute:
        if attribute.name == "to":
            attribute.i = kind
