"""Graphs for programs of others: what they take and give, and that the vectors stay."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest
import transformers_folders
from onnx import TensorProto, helper, numpy_helper

from clipperf.graph import others
from clipperf.graph.others import Cut, Ended, Padded, lengths_of, rewritten
from clipperf.inputs.tokenize import Tokenizer
from clipperf.models import transformers_tokenizer
from clipperf.models.tokenizer_files import write_clip_tokenizer

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


LONG, PADDED, SHORT = [1, 2, 3, 4, 5], [1, 9, 0, 0, 0], [1, 9]
"""Of a tower of five tokens whose texts end with 9: one cut without its end, and two whole ones."""


@pytest.mark.parametrize("lengths", [Padded(TOKENS, 0, False, 9), Cut(TOKENS, 9)])
def test_what_fills_the_context_without_an_end_gets_it(
    graph: Path, tmp_path: Path, lengths: Padded | Cut
) -> None:
    target = tmp_path / "cut.onnx"
    rewritten(graph, target, ["text_embeds"], text=True, lengths=lengths)
    expected = run(graph, input_ids=[[1, 2, 3, 4, 9], PADDED])["text_embeds"].tolist()
    assert run(target, input_ids=[LONG, PADDED])["text_embeds"].tolist() == expected
    longer = [[*LONG, 6, 7, 9], [*PADDED, 0, 0, 0]]
    assert run(target, input_ids=longer)["text_embeds"].tolist() == expected


def test_what_is_short_is_left_as_it_is(graph: Path, tmp_path: Path) -> None:
    target = tmp_path / "short.onnx"
    rewritten(graph, target, ["text_embeds"], lengths=Padded(TOKENS, 0, False, 9))
    for ids in ([1, 2, 3], SHORT):
        whole = [[*ids, *[0] * (TOKENS - len(ids))]]
        expected = run(graph, input_ids=whole)["text_embeds"].tolist()
        assert run(target, input_ids=[ids])["text_embeds"].tolist() == expected


def test_what_is_too_long_is_cut_where_texts_have_no_end(graph: Path, tmp_path: Path) -> None:
    target = tmp_path / "endless.onnx"
    rewritten(graph, target, ["text_embeds"], lengths=Cut(TOKENS))
    expected = run(graph, input_ids=[LONG])["text_embeds"].tolist()
    assert run(target, input_ids=[[*LONG, 6, 7]])["text_embeds"].tolist() == expected


@pytest.fixture
def echo(tmp_path: Path) -> Path:
    """Token ids [batch, tokens] to themselves, as floats."""
    axes = ["batch", "tokens"]
    model = helper.make_model(
        helper.make_graph(
            [helper.make_node("Cast", ["input_ids"], ["text_embeds"], to=TensorProto.FLOAT)],
            "tower",
            [helper.make_tensor_value_info("input_ids", TensorProto.INT64, axes)],
            [helper.make_tensor_value_info("text_embeds", TensorProto.FLOAT, axes)],
        ),
        opset_imports=[helper.make_opsetid("", 20)],
        ir_version=10,
    )
    onnx.save(model, tmp_path / "echo.onnx")
    return tmp_path / "echo.onnx"


@pytest.mark.parametrize(
    ("kind", "tokens", "cut_at", "end"),
    [
        ("sentencepiece", 16, None, "</s>"),  # SigLIP's, which pads with the end
        ("siglip", 16, None, None),  # Gemma's, without an end here
        ("altclip", None, "padding", "</s>"),
        ("altclip", 16, None, "</s>"),
        ("chinese_clip", None, "padding", "[SEP]"),
        ("clip", 16, None, "<end_of_text>"),
        ("clip", 16, "eot", "<end_of_text>"),
        ("clip", None, "eot", "<end_of_text>"),
    ],
)
def test_a_long_text_cut_as_transformers_js_does_is_clipperfs_own(
    echo: Path, tmp_path: Path, kind: str, tokens: int | None, cut_at: str | None, end: str | None
) -> None:
    """It cuts the array behind its post-processor: the first 16 of all tokens, the end not kept."""
    source = tmp_path / "source"
    source.mkdir()
    if kind == "clip":
        write_clip_tokenizer(source, 16)
    elif kind == "sentencepiece":
        transformers_folders.save_sentencepiece(tmp_path / "own")
    else:
        transformers_folders.tokenizer_of(kind).save_pretrained(tmp_path / "own")
    if kind != "clip":
        transformers_tokenizer.write(tmp_path / "own", 16, source)
    own = Tokenizer.from_folder(source)
    long, short = transformers_folders.CORPUS[0] * 20, transformers_folders.CORPUS[0][:5]
    uncut = own(long, 512)[0]
    given = np.stack([uncut[:16], own(short)[0]])
    expected = own([long, short])
    end_id = given[0, 15] if end is None else own._plain.token_to_id(end)
    assert end is None or (end_id not in given[0] and end_id in expected[1])
    assert expected[0].tolist() == [*given[0, :15], end_id]

    lengths = lengths_of(own, SimpleNamespace(tokens=tokens, cut_at=cut_at))
    rewritten(echo, tmp_path / "text.onnx", ["text_embeds"], text=True, lengths=lengths)
    ids = run(tmp_path / "text.onnx", input_ids=given)["text_embeds"]
    assert ids.tolist() == expected.tolist()
    longer = np.stack([uncut[:40], np.pad(own(short)[0], (0, 24), constant_values=own.spec.pad_id)])
    ids = run(tmp_path / "text.onnx", input_ids=longer)["text_embeds"]
    assert ids.tolist() == expected.tolist()
