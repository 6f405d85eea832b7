"""Weights put into kept graphs: what is made of constants alone is computed once, or stays."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from clipperf.errors import ExportError
from clipperf.graph import trace, weights
from clipperf.nouns.model import ModelSpec, Tower

SPEC = ModelSpec("x::random:0", "open_clip", "x", "random:0", 32, 77, 32)


def bert_of_open_clips(folder: Path) -> Tower:
    """A text tower whose types of tokens are gathered from fewer elements than they have places."""
    import torch
    import transformers

    from clipperf.models import open_clip

    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    transformers.BertConfig(
        **sizes, vocab_size=300, intermediate_size=64, max_position_embeddings=90
    ).save_pretrained(folder)
    vision = {"image_size": 32, "patch_size": 16, "width": 32, "layers": 1, "head_width": 16}
    text = {"hf_model_name": str(folder), "context_length": 77, "hf_proj_type": "mlp"}
    config = {"embed_dim": 32, "vision_cfg": vision, "text_cfg": text}
    tower = open_clip.build_from_config(SPEC, config, "text")
    tower.example[:] = torch.arange(1, 155).reshape(2, 77)
    return tower


def test_what_onnxs_evaluator_does_not_take_stays_in_the_graph(tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="the text tower is transformers' own")
    import onnx
    import torch

    from clipperf.engines.onnxruntime import open_session

    tower = bert_of_open_clips(tmp_path)
    with torch.inference_mode():
        wanted = tower.module(tower.example).numpy()
    trace.export_onnx(tower, tmp_path / "model.onnx")
    kinds = [node.op_type for node in onnx.load(tmp_path / "model.onnx").graph.node]
    assert "GatherElements" in kinds  # if not, the evaluator takes it, and this tests nothing
    found = open_session(tmp_path / "model.onnx", threads=1).run(tower.example.numpy())
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_a_constant_that_fails_late_leads_to_the_plain_exporter(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Inside the file, and beside it, where `ir.save` says so in another way."""
    pytest.importorskip("transformers", reason="the text tower is transformers' own")
    import torch

    from clipperf.engines.onnxruntime import open_session

    monkeypatch.setattr(weights, "_can_be_computed", lambda tensors: True)
    for beside_from in (trace.EXTERNAL_DATA_FROM_BYTES, 0):
        monkeypatch.setattr(trace, "EXTERNAL_DATA_FROM_BYTES", beside_from)
        tower = bert_of_open_clips(tmp_path)
        with torch.inference_mode():
            wanted = tower.module(tower.example).numpy()
        trace.export_onnx(tower, tmp_path / "model.onnx", key="some")
        assert (tmp_path / "model.onnx.data").exists() == (beside_from == 0)
        found = open_session(tmp_path / "model.onnx", threads=1).run(tower.example.numpy())
        np.testing.assert_allclose(found, wanted, atol=1e-5)
        assert not list((home / "graphs").iterdir()), "a graph that fails each time is not kept"


def test_a_constant_that_fails_in_the_plain_exporter_too_is_an_error_of_the_export(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("transformers", reason="the text tower is transformers' own")

    def fail(*arguments: object) -> None:
        raise weights.NotComputed("GatherElements: cannot reshape")

    monkeypatch.setattr(trace, "_finish", fail)
    tower = bert_of_open_clips(tmp_path)
    with pytest.raises(ExportError, match="a constant of its text tower cannot be computed: "):
        trace.export_onnx(tower, tmp_path / "model.onnx")
