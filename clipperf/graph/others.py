"""Graphs as programs of others feed and read them, changed once a tower is made.

These programs name outputs by the kind of model, give texts of any length, and a mask beside the
token ids; in browsers a model is one file. What a tower computes stays as it is.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipperf.graph.proto import files_beside, take_in
from clipperf.inputs.tokenize import Tokenizer
from clipperf.nouns.artifact import Artifact

if TYPE_CHECKING:
    import onnx

MOST_BYTES = 2**31 - 2**25
"""The largest model that fits into one protobuf file, its nodes beside its weights."""

MASK = "attention_mask"
DATA = "_data"
"""What is added to a model's file name for that of its weights, where they lie beside it."""


@dataclass(frozen=True)
class Padded:
    """The one length of text that a tower takes: shorter ones are padded in the graph.

    `end_id`: see `Cut`.
    """

    tokens: int
    pad_id: int
    left: bool = False
    end_id: int | None = None


@dataclass(frozen=True)
class Cut:
    """The most tokens of a tower that takes texts of any length.

    Longer texts are cut in the graph. Texts that fill it and have no `end_id` get it back in the
    last place: transformers.js cuts it off. None where texts have no end, or lose their beginning.
    """

    tokens: int
    end_id: int | None = None


@dataclass(frozen=True)
class Ended:
    """The most tokens of a tower that reads a text at its end token.

    Longer texts are cut in the graph, and what has lost its end to a cut gets it back in the last
    place: transformers.js cuts it off.
    """

    tokens: int
    end_id: int


def lengths_of(tokenizer: Tokenizer, tower: Artifact) -> Padded | Ended | Cut:
    """What a text graph has to do about the lengths that others give."""
    spec, end_id = tokenizer.spec, tokenizer.end_id
    if spec.kind == "clips" or spec.zeroed_id is not None or spec.truncation_side == "left":
        end_id = None  # other places hold other tokens: whoever makes them has to end the text
    if tower.tokens is not None or tower.cut_at is None:
        length = tower.tokens or spec.context_tokens
        return Padded(length, spec.pad_id, spec.padding_side == "left", end_id)
    if tower.cut_at == "eot" and spec.eot_id is not None:
        return Ended(spec.context_tokens, spec.eot_id)
    return Cut(spec.context_tokens, end_id)


def rewritten(
    source: Path,
    target: Path,
    outputs: Sequence[str],
    *,
    text: bool = False,
    lengths: Padded | Ended | Cut | None = None,
) -> bool:
    """Write the graph of a tower for others to `target`; returns whether weights lie beside it.

    Its embeddings come under all names of `outputs`. A `text` graph takes a mask, too, which it
    does not read: what is behind the end of a text changes no embedding.
    """
    import onnx

    model = onnx.load(str(source), load_external_data=False)
    files = files_beside(model)
    size = source.stat().st_size + sum((source.parent / name).stat().st_size for name in files)
    apart = size > MOST_BYTES
    if apart:  # clipperf's own graphs have one such file
        (name,) = files
        _locate(model, f"{target.name}{DATA}")
        # No link: onnx and what is built on it refuse weights in files of several names.
        shutil.copyfile(source.parent / name, target.with_name(f"{target.name}{DATA}"))
    elif files:
        take_in(model, source.parent)
    _give(model, outputs)
    if isinstance(lengths, Padded):
        _pad(model, lengths)
    elif lengths is not None:
        _cut(model, lengths)
    if text:
        _take_mask(model)
    target.write_bytes(model.SerializeToString())
    return apart


def _locate(model: onnx.ModelProto, name: str) -> None:
    """Let the weights beside a graph lie in a file of this name."""
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = name


def _give(model: onnx.ModelProto, names: Sequence[str]) -> None:
    """Let a graph give its embeddings under these names, and nothing else."""
    import onnx

    graph = model.graph
    own = graph.output[0]
    computed = own.name
    if computed not in names:
        for node in graph.node:
            node.output[:] = [names[0] if name == computed else name for name in node.output]
            node.input[:] = [names[0] if name == computed else name for name in node.input]
        computed = names[0]
    values = []
    for name in names:
        value = onnx.ValueInfoProto()
        value.CopyFrom(own)
        value.name = name
        values.append(value)
        if name != computed:
            graph.node.append(onnx.helper.make_node("Identity", [computed], [name]))
    del graph.output[:]
    graph.output.extend(values)


def _pad(model: onnx.ModelProto, padded: Padded) -> None:
    """Let a graph of one length take texts of any: shorter ones are padded, longer ones cut."""
    from onnx import helper

    given = model.graph.input[0].name
    constants = {"length": [padded.tokens], "none": [0], "all": [0, 0, 0], "id": padded.pad_id}
    # Pads are [batch, tokens] at the beginning, then at the end.
    parts = ["none", "missing", "none", "none"] if padded.left else ["all", "missing"]
    name = "ids" if padded.end_id is None else "cut"
    nodes = [
        helper.make_node("Shape", [given], ["given"], start=1, end=2),
        helper.make_node("Sub", ["length", "given"], ["missing"]),
        helper.make_node("Concat", parts, ["pads"], axis=0),
        helper.make_node("Pad", [given, "pads", "id"], [name], mode="constant"),
    ]
    if padded.end_id is not None:
        nodes += [*_short(given), *_ended("short")]
        constants |= _places(padded.end_id)
    _put_before(model, nodes, constants)


def _cut(model: onnx.ModelProto, most: Ended | Cut) -> None:
    """Let a graph cut texts that are too long, and end those that have no end."""
    from onnx import helper

    given = model.graph.input[0].name
    name = "ids" if most.end_id is None else "cut"
    nodes = [helper.make_node("Slice", [given, "first", "length", "axis"], [name])]
    if isinstance(most, Ended):
        nodes += _ended()
    elif most.end_id is not None:
        nodes += [*_short(given), *_ended("short")]
    _put_before(model, nodes, {"length": [most.tokens], **_places(most.end_id)})


def _places(end_id: int | None) -> dict[str, Any]:
    """The constants of `_ended`, by name."""
    ends = {} if end_id is None else {"end": end_id}
    return {"first": [0], "last": [-1], "behind": [2**31], "axis": [1], **ends}


def _short(given: str) -> list[onnx.NodeProto]:
    """Nodes that say in "short" whether texts have fewer tokens than "length"."""
    from onnx import helper

    return [
        helper.make_node("Shape", [given], ["tokens"], start=1, end=2),
        helper.make_node("Less", ["tokens", "length"], ["short"]),
    ]


def _ended(unless: str = "") -> list[onnx.NodeProto]:
    """Nodes that give "ids" of "cut", with the end in the last place of each text without one.

    Nothing changes where `unless` is true.
    """
    from onnx import helper

    stays = f"has_end_or_{unless}" if unless else "has_end"
    return [
        helper.make_node("Equal", ["cut", "end"], ["is_end"]),
        helper.make_node("Cast", ["is_end"], ["ends"], to=7),  # INT64
        helper.make_node("ReduceMax", ["ends", "axis"], ["most_ends"], keepdims=1),
        helper.make_node("Cast", ["most_ends"], ["has_end"], to=9),  # BOOL
        *([helper.make_node("Or", ["has_end", unless], [stays])] if unless else ()),
        helper.make_node("Slice", ["cut", "last", "behind", "axis"], ["own_last"]),
        helper.make_node("Where", [stays, "own_last", "end"], ["right_last"]),
        helper.make_node("Slice", ["cut", "first", "last", "axis"], ["before_last"]),
        helper.make_node("Concat", ["before_last", "right_last"], ["ids"], axis=1),
    ]


def _put_before(
    model: onnx.ModelProto, nodes: Sequence[onnx.NodeProto], constants: Mapping[str, Any]
) -> None:
    """Let nodes make of what a graph is given the "ids" that its own nodes take."""
    import numpy as np
    import onnx
    from onnx import helper, numpy_helper

    graph = model.graph
    given = graph.input[0]

    def own(name: str) -> str:
        return name if name == given.name else f"{given.name}.{name}"

    for node in graph.node:
        node.input[:] = [own("ids") if name == given.name else name for name in node.input]
    for node in nodes:
        node.input[:] = map(own, node.input)
        node.output[:] = map(own, node.output)
    rest = list(graph.node)
    del graph.node[:]
    graph.node.extend([*nodes, *rest])
    used = {name for node in nodes for name in node.input}
    graph.initializer.extend(
        numpy_helper.from_array(np.array(value, np.int64), own(name))
        for name, value in constants.items()
        if own(name) in used
    )
    batch = given.type.tensor_type.shape.dim[0].dim_param or "batch"
    taken = helper.make_tensor_value_info(given.name, onnx.TensorProto.INT64, [batch, "tokens"])
    graph.input[0].CopyFrom(taken)


def _take_mask(model: onnx.ModelProto) -> None:
    """Let a graph take the mask that tokenizers give, which nothing in it reads.

    It is an input with a default, so whoever has no mask need not make one.
    """
    import numpy as np
    import onnx
    from onnx import helper, numpy_helper

    axes = [dim.dim_param for dim in model.graph.input[0].type.tensor_type.shape.dim]
    model.graph.input.append(helper.make_tensor_value_info(MASK, onnx.TensorProto.INT64, axes))
    model.graph.initializer.append(numpy_helper.from_array(np.ones((1, 1), np.int64), MASK))
