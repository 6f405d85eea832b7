"""A tower that was rewritten for others is run before it is handed over."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from clipperf.errors import ArtifactError
from clipperf.export import rewriting
from clipperf.export.deployment import Made
from clipperf.export.folder import Exported
from clipperf.export.rewriting import write_graph
from clipperf.nouns.variant import Variant
from clipperf.system import store

GIVEN, FOUND = "input_ids", "text_embeds"


def made_of(folder: Path, variant: Variant) -> Made:
    manifest = store.read_manifest(folder)
    return Made(manifest.spec, ("text",), {variant: Exported(folder, manifest, ())})


def doubled(graph: onnx.GraphProto, own: str) -> list[onnx.NodeProto]:
    graph.initializer.append(numpy_helper.from_array(np.float32(2), "two"))
    return [helper.make_node("Mul", [own, "two"], [FOUND])]


def wrong_when_short(graph: onnx.GraphProto, own: str) -> list[onnx.NodeProto]:
    """Right for texts of the whole context alone."""
    graph.initializer.append(numpy_helper.from_array(np.array([77], np.int64), "whole"))
    return [
        helper.make_node("Shape", [GIVEN], ["columns"], start=1, end=2),
        helper.make_node("Equal", ["columns", "whole"], ["is_whole"]),
        helper.make_node("Neg", [own], ["wrong"]),
        helper.make_node("Where", ["is_whole", own, "wrong"], [FOUND]),
    ]


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (doubled, r"fails its self-test: an embedding of length .* more or less is allowed"),
        (wrong_when_short, "fails its self-test: minimum cosine -1.0"),
    ],
)
def test_a_graph_that_went_wrong_is_refused_in_words(
    sample_artifact: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    spoil: Callable[[onnx.GraphProto, str], list[onnx.NodeProto]],
    said: str,
) -> None:
    rewritten = rewriting.others.rewritten

    def spoilt(source: Path, target: Path, outputs: Sequence[str], **more: Any) -> bool:
        apart = rewritten(source, target, outputs, **more)
        model = onnx.load(target)
        for node in model.graph.node:
            node.output[:] = ["own" if name == FOUND else name for name in node.output]
        model.graph.node.extend(spoil(model.graph, "own"))
        onnx.save(model, target)
        return apart

    variant = Variant("onnx")
    made = made_of(sample_artifact, variant)
    write_graph(made, variant, "text", tmp_path / "whole" / "model.onnx", (FOUND,))
    monkeypatch.setattr(rewriting.others, "rewritten", spoilt)
    with pytest.raises(ArtifactError, match=said):
        write_graph(made, variant, "text", tmp_path / "spoilt" / "model.onnx", (FOUND,))


@pytest.mark.slow
def test_what_is_a_gpus_is_run_as_the_gate_ran_it(
    sample_in: Callable[[str], Path], tmp_path: Path
) -> None:
    """ONNX Runtime's optimizer would look for products in fp8, which a CPU does not have."""
    variant = Variant("onnx", "fp8")
    made = made_of(sample_in("fp8"), variant)
    assert not write_graph(made, variant, "text", tmp_path / "model.onnx", (FOUND,))
    assert (tmp_path / "model.onnx").is_file()
