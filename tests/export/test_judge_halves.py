"""Towers that fp16 cannot hold: found before an engine is built, and saved in fp32 in part."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import TINY

from clipperf.engines.tensorrt import flavours
from clipperf.errors import ExportError
from clipperf.export.judge import halves
from clipperf.export.make import make
from clipperf.export.plan_options import EngineSettings
from clipperf.graph import halves as graphs
from clipperf.models import sample, zoo
from clipperf.nouns.variant import SIDES, Variant
from clipperf.serve.parity_inputs import parity_inputs

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")

from onnx import TensorProto, helper  # noqa: E402
from torch import nn  # noqa: E402

FP16 = Variant("onnx", "fp16")


# --- what is suspect -------------------------------------------------------------------------


class Attending(nn.Module):
    """Attention behind a product with 30 and a mask of -infinity."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q = x * 30
        mask = torch.tensor([[0.0, -torch.inf], [0.0, 0.0]])
        return nn.functional.scaled_dot_product_attention(q, q, q, attn_mask=mask)


def test_the_largest_activation_counts_logits_and_leaves_masks_out() -> None:
    x = torch.ones(1, 1, 2, 4)
    # Queries and keys are [30, 30, 30, 30], 60 long: their logits are 60 * 60 / sqrt(4).
    assert halves.largest_activation(Attending(), x) == pytest.approx(1800)
    assert halves.largest_activation(nn.Identity(), x) == 0, "nothing is computed"


def test_a_fused_encoder_is_looked_into() -> None:
    """Without gradients PyTorch runs a whole encoder layer as one operator."""
    layer = nn.TransformerEncoderLayer(4, 1, 8, 0.0, batch_first=True).eval()
    with torch.no_grad():
        layer.linear1.bias.fill_(5000)  # inside; its products come to nothing
        layer.linear2.weight.zero_()
    assert torch.backends.mha.get_fastpath_enabled()
    assert halves.largest_activation(layer, torch.randn(1, 3, 4)) >= 4990
    assert torch.backends.mha.get_fastpath_enabled()


def test_weights_beyond_fp16_are_named() -> None:
    layer = nn.Linear(2, 2)
    assert halves.weights_beyond(layer) == []
    with torch.no_grad():
        layer.bias[1] = -70_000
    assert halves.weights_beyond(layer) == ["bias"]


# --- what saves a tower ------------------------------------------------------------------------


def test_sums_are_kept_where_rounding_loses_too_much(tmp_path: Path) -> None:
    """x + 30,000 is rounded to whole multiples of 16, and a norm takes the 30,000 away again."""
    make_node = helper.make_node
    graph = helper.make_graph(
        [
            make_node("Cast", ["x"], ["x16"], name="enter", to=TensorProto.FLOAT16),
            make_node("Add", ["x16", "far"], ["sum"], name="residual"),
            make_node("LayerNormalization", ["sum", "one"], ["normed"], name="norm"),
            make_node("Cast", ["normed"], ["y"], name="leave", to=TensorProto.FLOAT),
        ],
        "toy",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", 4])],
        [
            onnx.numpy_helper.from_array(np.full(4, 30_000, np.float16), "far"),
            onnx.numpy_helper.from_array(np.ones(4, np.float16), "one"),
        ],
    )
    path = tmp_path / "toy.onnx"
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path
    )
    rows = np.random.default_rng(0).normal(0, 20, (5, 4)).astype(np.float32)
    centred = rows - rows.mean(axis=1, keepdims=True)
    reference = centred / np.sqrt(centred.var(axis=1, keepdims=True) + 1e-5)
    before = halves.judged(halves.emulate(path, rows, 1), reference)
    assert before.finite and not before.passed
    saved = halves.save(path, rows, reference, threads=1)
    assert saved.kept == ("residual",)
    assert saved.parity.passed and saved.parity.min_cosine > 0.99999
    assert list(tmp_path.iterdir()) == [path], "nothing is left beside it"
    # Where nothing helps the verdict says so, and the graph is as it was traced.
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path
    )
    traced = path.read_bytes()
    hopeless = halves.save(path, rows, reference[::-1].copy(), threads=1)
    assert not hopeless.parity.passed and hopeless.kept == ()
    assert path.read_bytes() == traced


# --- whole exports -----------------------------------------------------------------------------


def checkpoint(folder: Path, hidden: float, back: float) -> Path:
    """A tiny CLIP whose MLPs are scaled: inside by about `hidden`, their results by both."""
    import open_clip
    from safetensors.torch import save_file

    folder.mkdir()
    torch.manual_seed(0)
    state = open_clip.CLIP(**TINY).state_dict()
    for name in state:
        if name.endswith("mlp.c_fc.weight"):
            state[name] *= hidden
        if name.endswith("mlp.c_proj.weight"):
            state[name] *= back
    save_file(state, folder / "open_clip_model.safetensors")
    preprocess = {**sample.config()["preprocess_cfg"], "size": 32}
    config = {"model_cfg": {**TINY, "quick_gelu": False}, "preprocess_cfg": preprocess}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    return folder


def test_a_tower_whose_activations_overflow_is_saved(tmp_path: Path, home: Path) -> None:
    spec = zoo.resolve(str(checkpoint(tmp_path / "large", 300, 20_000)))
    done = make(spec, SIDES, FP16)
    for tower in done.manifest.towers:
        assert tower.parity is not None and tower.parity.passed
        assert tower.in_fp32, "something had to be kept"
        assert "operators in fp32" in tower.findings
        path = done.folder / tower.path
        kept = {node.name for node in onnx.load(path).graph.node} & set(tower.in_fp32)
        assert kept == set(tower.in_fp32)
        inputs = parity_inputs(done.folder, tower.side)
        reference = np.load(done.folder / f"parity-{tower.side}.npy")
        found = halves.emulate(path, inputs[: len(reference)], threads=2)
        assert halves.judged(found, reference).passed
        assert max(found.largest.values()) <= halves.TOO_LARGE, "with room for other inputs"
    again = make(spec, SIDES, FP16)
    assert all(again.manifest.tower(s).in_fp32 == done.manifest.tower(s).in_fp32 for s in SIDES)

    # The same towers as they were traced would be lost.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(graphs, "keep_in_fp32", lambda path, tensors: ())
        patch.setattr(halves, "keep_in_fp32", lambda path, tensors: ())
        tower = done.manifest.towers[0]
        fresh = tmp_path / "as-traced.onnx"
        exported_without_help(spec, tower.side, fresh)
        inputs = parity_inputs(done.folder, tower.side)
        reference = np.load(done.folder / f"parity-{tower.side}.npy")
        lost = halves.save(fresh, inputs[: len(reference)], reference, threads=2)
        assert not lost.parity.finite


def exported_without_help(spec: zoo.ModelSpec, side: str, path: Path) -> None:
    """A tower in fp16 as it is traced."""
    from clipperf.graph import trace
    from clipperf.models.family import family_of

    trace.export_onnx(family_of(spec).build(spec, side, False), path, "fp16")


@pytest.mark.slow
def test_tensorrt_builds_what_was_saved(tmp_path: Path, home: Path) -> None:
    if not flavours.installed("trt-rtx"):
        pytest.skip("TensorRT for RTX is not installed")
    spec = zoo.resolve(str(checkpoint(tmp_path / "large", 300, 20_000)))
    settings = EngineSettings(targets=("sm89",))
    done = make(spec, SIDES, Variant("trt-rtx", "fp16", settings=settings))
    assert all(tower.in_fp32 for tower in done.manifest.towers)


def test_weights_that_fp16_cannot_hold_are_an_error_that_names_the_way_out(
    tmp_path: Path, home: Path
) -> None:
    spec = zoo.resolve(str(checkpoint(tmp_path / "weights", 1, 5e6)))
    with pytest.raises(ExportError, match=r"mlp\.c_proj\.weight.*65504.*--precision bf16 or fp32"):
        make(spec, ("image",), FP16)


@pytest.mark.slow
def test_the_way_out_and_a_usual_tower_keep_nothing(
    tmp_path: Path, home: Path, tiny: zoo.ModelSpec
) -> None:
    spec = zoo.resolve(str(checkpoint(tmp_path / "weights", 1, 5e6)))
    for model, precision in ((spec, "bf16"), (tiny, "fp16")):
        tower = make(model, ("image",), Variant("onnx", precision)).manifest.towers[0]
        assert tower.in_fp32 == ()
        assert "operators in fp32" not in tower.findings
