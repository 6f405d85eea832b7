"""Towers of open_clip models: real key names in, open_clip's own embeddings out, bit for bit."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clipperf.errors import WeightsError
from clipperf.nouns.model import ModelSpec, Similarity
from clipperf.nouns.variant import Side

torch = pytest.importorskip("torch")
open_clip = pytest.importorskip("open_clip")
safetensors_torch = pytest.importorskip("safetensors.torch")

from toy_models import (  # noqa: E402
    CONFIGS,
    NAMES,
    PX,
    VOCAB,
    embed,
    encode,
    inputs_of,
    reference,
    saved,
    spec_of,
)

from clipperf.engines.onnxruntime import open_session  # noqa: E402
from clipperf.export.judge import parity  # noqa: E402
from clipperf.graph import trace as onnx_export  # noqa: E402
from clipperf.models import weights  # noqa: E402
from clipperf.models.families import open_clip as towers  # noqa: E402
from clipperf.models.open_clip import build_from_config, skeleton  # noqa: E402

pytestmark = pytest.mark.usefixtures("toy_catalogue")


# --- Checkpoints ---------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize("name", NAMES)
def test_a_checkpoint_gives_open_clips_embeddings(name: str, suffix: str, tmp_path: Path) -> None:
    spec = spec_of(name, saved(name, tmp_path / f"weights{suffix}"))
    for side in ("image", "text"):
        inputs = inputs_of(name, side, 3)
        expected = encode(reference(name), side, inputs)
        assert expected.shape == (3, spec.embed_dim)
        torch.testing.assert_close(embed(spec, side, inputs), expected, atol=1e-6, rtol=0)


def test_embeddings_of_length_one(tmp_path: Path) -> None:
    spec = spec_of("toy-clip", saved("toy-clip", tmp_path / "weights.pt"))
    for side in ("image", "text"):
        inputs = inputs_of("toy-clip", side, 2)
        expected = encode(reference("toy-clip"), side, inputs, normalize=True)
        torch.testing.assert_close(embed(spec, side, inputs, True), expected, atol=1e-6, rtol=0)


def test_training_checkpoints_are_unwrapped(tmp_path: Path) -> None:
    state = {f"module.{k}": v for k, v in reference("toy-clip").state_dict().items()}
    path = tmp_path / "epoch_3.pt"
    torch.save({"epoch": 3, "name": "run", "state_dict": state}, path)
    inputs = inputs_of("toy-clip", "text", 2)
    expected = encode(reference("toy-clip"), "text", inputs)
    assert torch.equal(embed(spec_of("toy-clip", path), "text", inputs), expected)
    assert set(weights.open_state_dict(path)) == set(reference("toy-clip").state_dict())


def test_the_old_file_format_and_half_precision(tmp_path: Path) -> None:
    state = {k: v.half() for k, v in reference("toy-clip").state_dict().items()}
    path = tmp_path / "old.pt"
    torch.save(state, path, _use_new_zipfile_serialization=False)
    tower = towers.build_tower(spec_of("toy-clip", path), "image")
    assert {p.dtype for p in tower.module.parameters()} == {torch.float32}
    inputs = inputs_of("toy-clip", "image", 2)
    expected = encode(reference("toy-clip"), "image", inputs)
    torch.testing.assert_close(tower.module(inputs), expected, atol=0.02, rtol=0)


def test_another_image_size_gets_its_positions_interpolated(tmp_path: Path) -> None:
    path = saved("toy-clip", tmp_path / "weights.safetensors")
    config = {"embed_dim": 32, **copy.deepcopy(CONFIGS["toy-clip"])}
    config["vision_cfg"]["image_size"] = 96
    model = open_clip.CLIP(**copy.deepcopy(config)).eval().requires_grad_(False)
    open_clip.load_checkpoint(model, str(path))
    inputs = torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    tower = build_from_config(spec_of("toy-clip", path), config, "image", path)
    assert tower.example.shape[2:] == (96, 96)
    expected = encode(model, "image", inputs)
    torch.testing.assert_close(tower.module(inputs), expected, atol=1e-6, rtol=0)
    assert tower.assumptions == {"image size": "positions resized from 64 to 96 px"}


def test_another_context_length_is_resized_and_said(tmp_path: Path) -> None:
    state = dict(reference("toy-clip").state_dict())
    state["positional_embedding"] = torch.randn(248, 64, generator=torch.Generator().manual_seed(2))
    torch.save(state, tmp_path / "long.pt")
    model = open_clip.create_model("toy-clip").eval().requires_grad_(False)
    open_clip.load_checkpoint(model, str(tmp_path / "long.pt"))
    spec = spec_of("toy-clip", tmp_path / "long.pt")
    inputs = inputs_of("toy-clip", "text", 2)
    torch.testing.assert_close(
        embed(spec, "text", inputs), encode(model, "text", inputs), atol=1e-6, rtol=0
    )
    said = towers.build_tower(spec, "text").assumptions
    assert said["context length"] == "positions resized from 248 to 77 tokens"
    assert set(towers.build_tower(spec, "image").assumptions) == {"activation"}


def test_only_one_tower_is_kept() -> None:
    image = towers.build_tower(spec_of("toy-coca"), "image").module.model
    text = towers.build_tower(spec_of("toy-clip"), "text").module.model
    assert {n.split(".")[0] for n, _ in image.named_parameters()} == {"visual"}
    assert not hasattr(text, "visual") and not hasattr(text, "logit_scale")


# --- Files that are no such checkpoint -----------------------------------------------------


class Trap:
    """Unpickling this creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("plain", [True, False])
def test_code_in_a_checkpoint_never_runs(plain: bool, tmp_path: Path) -> None:
    path, created = tmp_path / "weights.pt", tmp_path / "created"
    content = {"state_dict": reference("toy-clip").state_dict(), "trap": Trap(created)}
    if plain:
        path.write_bytes(pickle.dumps(content, protocol=2))
    else:
        torch.save(content, path)
    with pytest.raises(WeightsError, match=r"weights\.pt holds more than weights"):
        towers.build_tower(spec_of("toy-clip", path), "image")
    assert not created.exists()
    torch.load(path, weights_only=False) if not plain else pickle.loads(path.read_bytes())
    assert created.exists(), "the trap itself is broken"


def test_a_checkpoint_of_another_architecture_is_named(tmp_path: Path) -> None:
    path = saved("toy-convnext", tmp_path / "weights.safetensors")
    with pytest.raises(WeightsError, match=r"missing, for example visual\.class_embedding"):
        towers.build_tower(spec_of("toy-clip", path), "image")
    state = dict(reference("toy-clip").state_dict())
    state["visual.proj"] = state["visual.proj"][:, :-1].contiguous()
    safetensors_torch.save_file(state, path)
    with pytest.raises(WeightsError, match=r"visual\.proj is \(64, 31\), .* wants \(64, 32\)"):
        towers.build_tower(spec_of("toy-clip", path), "image")
    del state["visual.ln_post.bias"]
    safetensors_torch.save_file(state, path)
    with pytest.raises(
        WeightsError, match=r"1 of \d+ .* image .* missing, .* visual\.ln_post\.bias"
    ):
        towers.build_tower(spec_of("toy-clip", path), "image")
    with pytest.raises(WeightsError, match=r"other tower are missing, .* visual\.ln_post\.bias"):
        towers.build_tower(spec_of("toy-clip", path), "text")


def test_a_file_may_hold_one_tower_alone(tmp_path: Path) -> None:
    state = {k: v for k, v in reference("toy-clip").state_dict().items() if "visual" not in k}
    safetensors_torch.save_file(state, tmp_path / "text.safetensors")
    spec = spec_of("toy-clip", tmp_path / "text.safetensors")
    inputs = inputs_of("toy-clip", "text", 2)
    assert torch.equal(embed(spec, "text", inputs), encode(reference("toy-clip"), "text", inputs))
    with pytest.raises(WeightsError, match="of its image tower are missing"):
        towers.build_tower(spec, "image")


@pytest.mark.parametrize("side", ["image", "text"])
@pytest.mark.parametrize(("name", "kind"), [("toy-clip", "softmax"), ("toy-siglip", "sigmoid")])
def test_how_a_model_compares_is_read_off_its_checkpoint(
    name: str, kind: str, side: Side, tmp_path: Path
) -> None:
    """Numbers of no dimension, or of one, as older checkpoints have them; None without."""
    state = {k: v.contiguous().clone() for k, v in reference(name).state_dict().items()}
    path = tmp_path / "weights.safetensors"
    spec = spec_of(name, path)
    state["logit_scale"] = torch.tensor([4.5], dtype=torch.float16)
    bias = None
    if kind == "sigmoid":
        state["logit_bias"], bias = torch.tensor(-12.25), -12.25
    safetensors_torch.save_file(state, path)
    assert towers.build_tower(spec, side).similarity == Similarity(kind, 4.5, bias)  # type: ignore[arg-type]
    for missing in ("logit_scale", "logit_bias"):
        if missing in state:
            rest = {k: v for k, v in state.items() if k != missing}
            safetensors_torch.save_file(rest, path)
            assert towers.build_tower(spec, side).similarity is None
    assert towers.build_tower(spec_of(name), side).similarity is None, "random weights"


def test_a_bias_in_the_checkpoint_tells_how_it_was_trained(tmp_path: Path) -> None:
    """open_clip trains any architecture with a sigmoid."""
    state = {k: v.contiguous().clone() for k, v in reference("toy-clip").state_dict().items()}
    state |= {"logit_scale": torch.tensor(2.5), "logit_bias": torch.tensor(-10.0)}
    path = tmp_path / "weights.safetensors"
    safetensors_torch.save_file(state, path)
    found = towers.build_tower(spec_of("toy-clip", path), "text").similarity
    assert found == Similarity("sigmoid", 2.5, -10.0)


def with_layers_more(state: dict[str, Any]) -> dict[str, Any]:
    """The last of two layers four times more."""
    last = {k: v for k, v in state.items() if "resblocks.1." in k}
    more = {k.replace(".1.", f".{i}.", 1): v for k, v in last.items() for i in range(2, 6)}
    return {**state, **more}


def with_adapters(state: dict[str, Any]) -> dict[str, Any]:
    """A low-rank adapter beside one matrix, as peft saves it."""
    name = "transformer.resblocks.0.mlp.c_fc"
    return {
        **state,
        f"{name}.lora_A.default.weight": torch.ones(4, 64),
        f"{name}.lora_B.default.weight": torch.ones(256, 4),
    }


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            with_layers_more,
            r"no place for 96 of its tensors: .*resblocks\.2\..*No architecture",
        ),
        (with_adapters, r"no place for 2 of its tensors: .*lora_A.*Merge the adapter"),
        (lambda state: {**state, "ema.decay": torch.ones([])}, r"1 of its tensors: ema\.decay"),
    ],
)
def test_what_open_clip_refuses_is_refused(change: Any, said: str, tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    state = {k: v.clone() for k, v in change(reference("toy-clip").state_dict()).items()}
    safetensors_torch.save_file(state, path)
    with pytest.raises(RuntimeError, match="Unexpected key"):
        open_clip.load_checkpoint(open_clip.create_model("toy-clip"), str(path))
    for side in ("image", "text"):
        with pytest.raises(WeightsError, match=said):
            towers.build_tower(spec_of("toy-clip", path), side)


def test_another_text_width_is_named(tmp_path: Path) -> None:
    state = dict(reference("toy-clip").state_dict())
    state["positional_embedding"] = torch.zeros(77, 48)
    torch.save(state, tmp_path / "weights.pt")
    with pytest.raises(WeightsError, match=r"weights\.pt does not fit toy-clip"):
        towers.build_tower(spec_of("toy-clip", tmp_path / "weights.pt"), "text")


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.99])
def test_a_cut_file_is_damaged(suffix: str, share: float, tmp_path: Path) -> None:
    path = saved("toy-clip", tmp_path / f"weights{suffix}")
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(WeightsError, match=rf"weights\{suffix}"):
        towers.build_tower(spec_of("toy-clip", path), "image")


@pytest.mark.parametrize("content", [{}, {"epoch": 3}, [1, 2], {"state_dict": {}}])
def test_a_file_without_tensors_is_no_checkpoint(content: Any, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "weights.pt")
    with pytest.raises(WeightsError, match="holds no"):
        weights.open_state_dict(tmp_path / "weights.pt")


def test_the_tag_decides_about_quick_gelu() -> None:
    def quick(architecture: str, pretrained: str) -> bool:
        spec = ModelSpec("m", "open_clip", architecture, pretrained, 224, 77, 512)
        return bool(towers.model_config(spec).get("quick_gelu", False))

    assert quick("ViT-B-32", "openai")
    assert quick("ViT-B-32-quickgelu", "laion400m_e32")
    assert quick("ViT-B-32-quickgelu", "random:0")
    assert not quick("ViT-B-32", "laion2b_s34b_b79k")
    assert not quick("ViT-B-32", "random:0")


def test_quick_gelu_reaches_the_embeddings(tmp_path: Path, monkeypatch: Any) -> None:
    from open_clip import pretrained

    path = saved("toy-clip", tmp_path / "weights.safetensors")
    tags = {"quick": {"hf_hub": "a/b", "quick_gelu": True}, "plain": {"hf_hub": "a/b"}}
    monkeypatch.setitem(pretrained._PRETRAINED, "toy-clip", tags)
    monkeypatch.setattr(weights, "locate", lambda architecture, tag: path)
    quick = open_clip.create_model("toy-clip-quickgelu").eval().requires_grad_(False)
    quick.load_state_dict(reference("toy-clip").state_dict())
    for side in ("image", "text"):
        inputs = inputs_of("toy-clip", side, 2)
        for tag, model in (("quick", quick), ("plain", reference("toy-clip"))):
            expected = encode(model, side, inputs)
            assert torch.equal(embed(spec_of("toy-clip", tag), side, inputs), expected)
        assert not torch.equal(encode(quick, side, inputs), expected)


SIZES = {"input_resolution": PX, "context_length": 77, "vocab_size": VOCAB}


@pytest.mark.parametrize("wrapped", [False, True])
def test_openais_files_are_known_by_their_marks(wrapped: bool, tmp_path: Path) -> None:
    """Their weights were trained with QuickGELU, whatever the architecture says."""
    state = {**reference("toy-clip").state_dict(), **{k: torch.tensor(v) for k, v in SIZES.items()}}
    path = tmp_path / "openai.pt"
    torch.save({"state_dict": state} if wrapped else state, path)
    quick = open_clip.create_model("toy-clip-quickgelu").eval().requires_grad_(False)
    quick.load_state_dict(reference("toy-clip").state_dict())
    for side in ("image", "text"):
        inputs = inputs_of("toy-clip", side, 2)
        tower = towers.build_tower(spec_of("toy-clip", path), side)
        assert torch.equal(tower.module(inputs), encode(quick, side, inputs))
        assert tower.assumptions == {"activation": "QuickGELU, as the file is one of OpenAI's"}
        plain = towers.build_tower(spec_of("toy-clip", saved("toy-clip", tmp_path / "w.pt")), side)
        assert torch.equal(plain.module(inputs), encode(reference("toy-clip"), side, inputs))
        assert "GELU is assumed" in plain.assumptions["activation"]
        assert "export toy-clip-quickgelu" in plain.assumptions["activation"]
        named = towers.build_tower(spec_of("toy-clip-quickgelu", path), side)
        assert torch.equal(named.module(inputs), encode(quick, side, inputs))
        assert named.assumptions == {}
        assert towers.build_tower(spec_of("toy-clip"), side).assumptions == {}, "random weights"


# --- Short texts ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["toy-clip", "toy-worldwide", "toy-hybrid"])
def test_short_texts_are_exact(name: str, tmp_path: Path) -> None:
    tower = towers.build_tower(spec_of(name, saved(name, tmp_path / "w.pt")), "text")
    assert tower.dynamic_tokens
    tokens = inputs_of(name, "text", 40)
    end = CONFIGS[name]["text_cfg"].get("eos_id", VOCAB - 1)
    for row in tokens:
        length = int((row == end).nonzero()[0, 0]) + 1
        short = tower.module(row[None, :length])
        padded = encode(reference(name), "text", row[None])
        torch.testing.assert_close(short, padded, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["toy-siglip", "toy-clipa", "toy-coca"])
def test_texts_that_see_their_padding_keep_their_length(name: str) -> None:
    tower = towers.build_tower(spec_of(name), "text")
    assert not tower.dynamic_tokens
    given, _ = onnx_export.io_specs(tower)
    assert given.shape == ("batch", CONFIGS[name]["text_cfg"]["context_length"])


# --- Random weights ------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in NAMES if name != "toy-hybrid"])
def test_random_weights_tell_inputs_apart(name: str) -> None:
    for side in ("image", "text"):
        inputs = inputs_of(name, side)
        found = embed(spec_of(name), side, inputs).double()
        assert found.isfinite().all()
        unit = torch.nn.functional.normalize(found, dim=-1)
        alike = (unit @ unit.T)[~torch.eye(len(unit), dtype=torch.bool)]
        assert alike.max() < 0.998, f"{side}: different inputs look alike"
        assert alike.median() < 0.98
        assert 0.01 < found.norm(dim=-1).mean() < 1000
        assert torch.equal(embed(spec_of(name), side, inputs).double(), found)
    other = embed(spec_of(name, "random:1"), "text", inputs).double()
    assert not torch.equal(other, found)


@pytest.mark.parametrize("name", NAMES)
def test_skeletons_hold_no_weights(name: str) -> None:
    model = skeleton(towers.model_config(spec_of(name)))
    real = [n for n, p in model.named_parameters() if not p.is_meta]
    assert bool(real) == (name == "toy-hybrid"), "hybrids run while they are built"
    assert not any(buffer.is_meta for buffer in model.buffers())


def test_masks_made_on_the_device_of_a_parameter_are_real() -> None:
    spec = ModelSpec("m", "open_clip", "swin_base_patch4_window7_224", "random:0", 224, 77, 640)
    assert not any(b.is_meta for b in skeleton(towers.model_config(spec)).buffers())


# --- Export --------------------------------------------------------------------------------

EXPORTS: list[tuple[str, Side, str]] = [
    ("toy-clip", "image", "fp16"),
    ("toy-clip", "text", "fp16"),
    ("toy-resnet", "image", "fp16"),
    ("toy-worldwide", "text", "fp32"),
    ("toy-coca", "image", "fp32"),
]


@pytest.mark.parametrize(("name", "side", "precision"), EXPORTS)
def test_exported_towers_match(name: str, side: Side, precision: str, tmp_path: Path) -> None:
    spec = spec_of(name, saved(name, tmp_path / "weights.safetensors"))
    tower = towers.build_tower(spec, side)
    inputs = inputs_of(name, side)
    expected = encode(reference(name), side, inputs).numpy()
    onnx_export.export_onnx(tower, tmp_path / "model.onnx", precision)
    engine = open_session(tmp_path / "model.onnx", threads=1)
    found = parity.measure(engine, inputs.numpy(), expected, precision)
    assert found.passed, parity.explain(found, name)
    assert engine.run(inputs[:1].numpy()).dtype == np.float32
    if tower.dynamic_tokens:
        tokens = inputs[:2].clone()
        end = CONFIGS[name]["text_cfg"].get("eos_id", VOCAB - 1)
        tokens[:, 9:] = 0
        tokens[:, 9] = end
        padded = encode(reference(name), side, tokens).numpy()
        short = engine.run(tokens[:, :10].numpy())
        assert parity.compare(short, padded, precision, "short").passed
