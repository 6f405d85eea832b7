"""Graphs for programs of others: what they take and give, and that the vectors stay."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from clipperf.graph import others
from clipperf.graph.others import Ended, Padded, rewritten

TOKENS, WIDTH = 5, 3


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    """Token ids [batch, 5] to the sum of id times a weight of its place: [batch, 3]."""
    weights = np.arange(TOKENS * WIDTH, dtype=np.float32).reshape(TOKENS, WIDTH)
    nodes = [
        helper.make_node("Cast", ["input_ids"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["floats", "weights"], ["text_embeds"]),
    ]
    model = helper.make_model(
        helper.make_graph(
            nodes,
            "tower",
            [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", TOKENS])],
            [helper.make_tensor_value_info("text_embeds", TensorProto.FLOAT, ["batch", WIDTH])],
            [numpy_helper.from_array(weights, "weights")],
        ),
        opset_imports=[helper.make_opsetid("", 20)],
        ir_version=10,
    )
    path = tmp_path / "model.onnx"
    onnx.save(
        model,
        path,
        save_as_external_data=True,
        location="model.onnx.data",
        size_threshold=0,
    )
    return path


def run(path: Path, **inputs: list[list[int]]) -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    given = {name: np.array(value, np.int64) for name, value in inputs.items()}
    return dict(zip([o.name for o in session.get_outputs()], session.run(None, given), strict=True))


IDS = [[1, 2, 3, 4, 5]]
EXPECTED = [[0 * 1 + 3 * 2 + 6 * 3 + 9 * 4 + 12 * 5, 135, 150]]


def test_weights_go_into_the_one_file(graph: Path, tmp_path: Path) -> None:
    target = tmp_path / "out" / "text_model.onnx"
    target.parent.mkdir()
    assert rewritten(graph, target, ["text_embeds"]) is False
    assert [path.name for path in target.parent.iterdir()] == ["text_model.onnx"]
    assert run(target, input_ids=IDS)["text_embeds"].tolist() == EXPECTED


def test_large_weights_lie_beside_it_as_transformers_js_names_them(
    graph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(others, "MOST_BYTES", 100)
    target = tmp_path / "out" / "text_model.onnx"
    target.parent.mkdir()
    assert rewritten(graph, target, ["text_embeds"]) is True
    assert {path.name for path in target.parent.iterdir()} == {
        "text_model.onnx",
        "text_model.onnx_data",
    }
    assert run(target, input_ids=IDS)["text_embeds"].tolist() == EXPECTED
    assert run(graph, input_ids=IDS)["text_embeds"].tolist() == EXPECTED


@pytest.mark.parametrize(
    "names", [["text_embeds"], ["pooler_output"], ["pooler_output", "text_embeds"]]
)
def test_embeddings_come_under_all_names(graph: Path, tmp_path: Path, names: list[str]) -> None:
    target = tmp_path / "named.onnx"
    rewritten(graph, target, names)
    found = run(target, input_ids=IDS)
    assert list(found) == names
    assert all(value.tolist() == EXPECTED for value in found.values())


def test_a_mask_may_be_given_and_need_not_be(graph: Path, tmp_path: Path) -> None:
    target = tmp_path / "masked.onnx"
    rewritten(graph, target, ["text_embeds"], text=True)
    assert run(target, input_ids=IDS)["text_embeds"].tolist() == EXPECTED
    mask = [[1, 1, 0, 0, 0]]
    assert run(target, input_ids=IDS, attention_mask=mask)["text_embeds"].tolist() == EXPECTED


@pytest.mark.parametrize("left", [False, True])
def test_texts_of_any_length_become_those_of_the_tower(
    graph: Path, tmp_path: Path, left: bool
) -> None:
    target = tmp_path / "padded.onnx"
    rewritten(graph, target, ["text_embeds"], text=True, lengths=Padded(TOKENS, 9, left))
    whole = [[9, 9, 7, 8, 6]] if left else [[7, 8, 6, 9, 9]]
    expected = run(graph, input_ids=whole)["text_embeds"].tolist()
    mask = [[1, 1, 1]]
    found = run(target, input_ids=[[7, 8, 6]], attention_mask=mask)
    assert found["text_embeds"].tolist() == expected
    assert run(target, input_ids=whole)["text_embeds"].tolist() == expected
    longer = [[3, 2, 1, *whole[0]]] if left else [[*whole[0], 1, 2, 3]]
    assert run(target, input_ids=longer)["text_embeds"].tolist() == expected


def test_what_has_lost_its_end_gets_it_back_in_the_last_place(graph: Path, tmp_path: Path) -> None:
    target = tmp_path / "ended.onnx"
    rewritten(graph, target, ["text_embeds"], text=True, lengths=Ended(TOKENS, 9))
    given = [[1, 2, 3, 4, 5, 6, 7], [1, 9, 0, 0, 0, 0, 0], [1, 2, 3, 4, 5, 9, 9]]
    meant = [[1, 2, 3, 4, 9], [1, 9, 0, 0, 0], [1, 2, 3, 4, 9]]
    expected = run(graph, input_ids=meant)["text_embeds"].tolist()
    assert run(target, input_ids=given)["text_embeds"].tolist() == expected
    assert run(target, input_ids=meant)["text_embeds"].tolist() == expected
