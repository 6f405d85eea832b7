"""Checkpoints in the shapes that people have: each gives the embeddings of the same tensors."""

from __future__ import annotations

import argparse
import collections
import datetime
import itertools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clipperf.errors import WeightsError

torch = pytest.importorskip("torch")
open_clip = pytest.importorskip("open_clip")

from toy_models import CONFIGS, embed, encode, inputs_of, reference, spec_of  # noqa: E402

from clipperf.engines.onnxruntime import open_session  # noqa: E402
from clipperf.graph import trace  # noqa: E402
from clipperf.models import checkpoints, weights  # noqa: E402
from clipperf.models.families import open_clip as towers  # noqa: E402
from clipperf.models.open_clip import skeleton  # noqa: E402

pytestmark = pytest.mark.usefixtures("toy_catalogue")

State = dict[str, Any]


def state_of(name: str = "toy-clip") -> State:
    return {key: value.clone() for key, value in reference(name).state_dict().items()}


def behind(prefix: str, state: Mapping[str, Any]) -> State:
    return {f"{prefix}{key}": value for key, value in state.items()}


def scheduler(state: Mapping[str, Any]) -> State:
    """What a training program keeps beside the weights, of every common kind."""
    counts = collections.defaultdict(list, {"loss": [1.0]})
    return {
        "args": argparse.Namespace(lr=0.1, out=Path("runs"), when=datetime.datetime(2026, 1, 2)),
        "best": np.float64(0.5),
        "step": np.int64(7),
        "seen": np.arange(3, dtype=np.float32),
        "dtype": np.dtype("float32"),
        "random": np.random.RandomState(0).get_state(),
        "counts": counts,
        "last": collections.deque([1, 2]),
        "order": collections.OrderedDict(a=1),
        "tags": {"a", "b"},
        "part": slice(0, 3),
        "version": torch.torch_version.TorchVersion("2.9.0"),
        "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": [{"params": [0]}]},
    }


SHAPES: dict[str, Callable[[State], Any]] = {
    "plain": lambda state: state,
    "state_dict": lambda state: {"epoch": 3, "state_dict": state, **scheduler(state)},
    "model": lambda state: {"model": state, "epoch": torch.tensor(3), **scheduler(state)},
    "model_state_dict": lambda state: {"model_state_dict": state, "loss": 0.1},
    "ema": lambda state: {"ema": state, "decay": 0.999},
    "ema of a module": lambda state: {"ema": {"module": state, "updates": 7}},
    "model_ema": lambda state: {"model_ema": state},
    "timm's average": lambda state: {"state_dict_ema": state, "arch": "vit"},
    "twice nested": lambda state: {"state_dict": {"model": state}, "epoch": 1},
    "deepspeed": lambda state: {
        "module": state,
        "buffer_names": [],
        "param_shapes": [collections.OrderedDict(a=torch.Size([2]))],
        "optimizer": None,
        "ds_config": {"zero_optimization": {"stage": 1}},
        "ds_version": "0.15",
    },
    "fsdp": lambda state: {"model": behind("_fsdp_wrapped_module.", state), "optimizer": {}},
    "swa": lambda state: {**behind("module.", state), "n_averaged": torch.tensor(4)},
    "lightning": lambda state: {
        "state_dict": behind("model.", state),
        "pytorch-lightning_version": "2.4.0",
        "callbacks": {"ModelCheckpoint{'monitor': None}": {"best_model_path": "a.ckpt"}},
        "hyper_parameters": {"lr": 0.1},
    },
}


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A store that keeps the toy's graph, which is traced once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLIPPERF_HOME", str(tmp_path_factory.mktemp("graphs")))
        yield


def exported(path: Path, side: Any, folder: Path) -> Any:
    """The embeddings of an exported tower, through ONNX Runtime."""
    spec = spec_of("toy-clip", path)
    tower = towers.build_tower(spec, side)
    key = trace.graph_key(tower, False, "fp32", towers.model_config(spec))
    trace.export_onnx(tower, folder / f"{side}.onnx", "fp32", key)
    engine = open_session(folder / f"{side}.onnx", threads=1)
    return engine.run(inputs_of("toy-clip", side, 3).numpy())


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_gives_pytorchs_embeddings(shape: str, graphs: None, tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    torch.save(SHAPES[shape](state_of()), path)
    assert weights.chosen_in(path) == {} and not weights.are_openais(path)
    for side in ("image", "text"):
        expected = encode(reference("toy-clip"), side, inputs_of("toy-clip", side, 3))
        found = exported(path, side, tmp_path)
        np.testing.assert_allclose(found, expected.numpy(), rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_is_read_from_the_old_format(shape: str, tmp_path: Path) -> None:
    own, path = state_of(), tmp_path / "weights.pt"
    torch.save(SHAPES[shape](own), path, _use_new_zipfile_serialization=False)
    found = weights.open_state_dict(path)
    assert found.keys() == own.keys()
    assert all(torch.equal(found[name], own[name]) for name in own)


PREFIXES = ("module.", "_orig_mod.", "model.", "clip.")
ORDERS = [
    "".join(order)
    for length in range(len(PREFIXES) + 1)
    for order in itertools.permutations(PREFIXES, length)
]


@pytest.mark.parametrize("shape", ["plain", "state_dict", "model", "deepspeed", "swa"])
def test_prefixes_in_every_order_and_combination(shape: str, tmp_path: Path) -> None:
    """65 orders of four prefixes: the model's own names, and the very tensors."""
    assert len(ORDERS) == 65
    own, path = state_of(), tmp_path / "weights.pt"
    for prefix in ORDERS:
        torch.save(SHAPES[shape](behind(prefix, own)), path)
        found = weights.open_state_dict(path)
        assert found.keys() == own.keys(), prefix
        assert all(torch.equal(found[name], own[name]) for name in own), prefix
    for side in ("image", "text"):
        inputs = inputs_of("toy-clip", side, 2)
        expected = encode(reference("toy-clip"), side, inputs)
        assert torch.equal(embed(spec_of("toy-clip", path), side, inputs), expected)


def test_wrappers_within_names_are_removed() -> None:
    """Parts that were compiled, sharded or recomputed by themselves."""
    name = "visual.transformer.resblocks.0.attn.in_proj_weight"
    for wrapper in ("_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module"):
        wrapped = {name.replace(".attn", f".{wrapper}.attn"): 1, "logit_scale": 2}
        assert checkpoints.own_names(list(wrapped)) == {
            name: next(iter(wrapped)),
            "logit_scale": "logit_scale",
        }


@pytest.mark.parametrize(
    "names",
    [
        ["model.a", "a"],  # taken for one, two tensors would be
        ["image_encoder.model.a", "text_encoder.a", "logit_scale"],  # MobileCLIP's own files
        ["module.a", "b.a", "c.a"],  # the fewer
        ["a._orig_mod.b", "a.b"],
    ],
)
def test_names_that_only_look_like_prefixes_stay(names: list[str]) -> None:
    assert checkpoints.own_names(names) == {name: name for name in names}


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_other_precisions_run_in_fp32(dtype: str, tmp_path: Path) -> None:
    state = {key: value.to(getattr(torch, dtype)) for key, value in state_of().items()}
    torch.save({"model": behind("module._orig_mod.", state)}, tmp_path / "weights.pt")
    same = open_clip.create_model("toy-clip").eval().requires_grad_(False)
    same.load_state_dict({key: value.float() for key, value in state.items()})
    for side in ("image", "text"):
        inputs = inputs_of("toy-clip", side, 2)
        found = embed(spec_of("toy-clip", tmp_path / "weights.pt"), side, inputs)
        assert found.dtype is torch.float32
        assert torch.equal(found, encode(same, side, inputs))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_positions_are_resized(dtype: str, tmp_path: Path) -> None:
    state = {key: value.to(getattr(torch, dtype)) for key, value in state_of().items()}
    state["visual.positional_embedding"] = state["visual.positional_embedding"][:10]  # 3 by 3
    torch.save(state, tmp_path / "weights.pt")
    model = open_clip.create_model("toy-clip").eval().requires_grad_(False)
    fp32 = {key: value.float() for key, value in state.items()}
    torch.save(fp32, tmp_path / "fp32.pt")
    open_clip.load_checkpoint(model, str(tmp_path / "fp32.pt"))
    inputs = inputs_of("toy-clip", "image", 2)
    tower = towers.build_tower(spec_of("toy-clip", tmp_path / "weights.pt"), "image")
    torch.testing.assert_close(tower.module(inputs), encode(model, "image", inputs))
    assert tower.assumptions["image size"] == "positions resized from 48 to 64 px"


def test_of_several_weights_the_first_place_counts_and_that_is_said(tmp_path: Path) -> None:
    averaged = {key: value + 1 for key, value in state_of().items()}
    torch.save({"model_ema": averaged, "model": state_of()}, tmp_path / "weights.pt")
    spec = spec_of("toy-clip", tmp_path / "weights.pt")
    inputs = inputs_of("toy-clip", "text", 2)
    tower = towers.build_tower(spec, "text")
    assert torch.equal(tower.module(inputs), encode(reference("toy-clip"), "text", inputs))
    said = "those under model; the file has others under model_ema"
    assert tower.assumptions["weights"] == said


# --- TorchScript ---------------------------------------------------------------------------


class Kept(torch.nn.Module):
    """A model with the marks of OpenAI's files, as those keep them: as buffers."""

    def __init__(self, model: Any, marked: bool) -> None:
        super().__init__()
        for name, value in model.named_children():
            self.add_module(name, value)
        for name in ("positional_embedding", "text_projection", "logit_scale"):
            self.register_parameter(name, getattr(model, name))
        if marked:
            for name, value in (("input_resolution", 64), ("context_length", 77)):
                self.register_buffer(name, torch.tensor(value))
            self.register_buffer("vocab_size", torch.tensor(120))
        self.aside = torch.ones(3)
        self.register_buffer("attn_mask", model.attn_mask, persistent=False)

    def forward(self, x: Any) -> Any:
        return self.visual(x) + self.aside[0]


@pytest.mark.parametrize("marked", [False, True])
@pytest.mark.filterwarnings("ignore")
def test_a_torchscript_archive_is_read_without_its_code(
    marked: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Kept(reference("toy-clip"), marked).half().float().eval()
    path = tmp_path / "clip.pt"
    torch.jit.save(torch.jit.trace(model, torch.zeros(1, 3, 64, 64)), str(path))
    expected = torch.jit.load(str(path)).state_dict()

    def never(*given: Any, **options: Any) -> None:
        raise AssertionError("code of the file")

    monkeypatch.setattr(torch.jit, "load", never)
    found = weights.open_state_dict(path)
    assert found.keys() == expected.keys() - checkpoints.OPENAI_MARKS
    assert all(torch.equal(found[name], expected[name]) for name in found)
    assert weights.are_openais(path) == marked
    quick = open_clip.create_model("toy-clip-quickgelu" if marked else "toy-clip").eval()
    quick.load_state_dict({k: v for k, v in found.items() if k != "attn_mask"})
    for side in ("image", "text"):
        inputs = inputs_of("toy-clip", side, 2)
        tower = towers.build_tower(spec_of("toy-clip", path), side)
        torch.testing.assert_close(tower.module(inputs), encode(quick, side, inputs))


# --- what is refused -----------------------------------------------------------------------


def refused(content: Any, tmp_path: Path, **options: Any) -> str:
    torch.save(content, tmp_path / "weights.pt", **options)
    with pytest.raises(WeightsError) as caught:
        towers.build_tower(spec_of("toy-clip", tmp_path / "weights.pt"), "image")
    said = str(caught.value)
    assert "weights_only" not in said and "safe_globals" not in said, "no option of clipperf's"
    return said


@pytest.mark.parametrize(
    ("content", "keys"),
    [
        ({"epoch": 3, "optimizer": {"state": {}}}, "its keys are epoch, optimizer"),
        ({"weights_of_mine": {"a": torch.ones(1)}}, "its keys are weights_of_mine"),
        ({str(i): i for i in range(20)}, "its keys are 0, 1, 2, 3, 4, 5, 6, 7, ..."),
        ({"model": {}}, "its keys are model"),
        ([torch.ones(2)], "it is a list"),
        (torch.ones(2), "it is a Tensor"),
        ({}, "it is empty"),
    ],
)
def test_a_file_without_weights_says_its_keys_and_what_was_looked_for(
    content: Any, keys: str, tmp_path: Path
) -> None:
    said = refused(content, tmp_path)
    assert keys in said
    assert "Looked for tensors by name, as they are or under state_dict, model_state_dict," in said


@pytest.mark.parametrize("old", [False, True], ids=["zip", "old format"])
def test_a_whole_model_is_named(old: bool, tmp_path: Path) -> None:
    options = {"_use_new_zipfile_serialization": not old}
    said = refused(torch.nn.Linear(2, 2), tmp_path, **options)
    assert "holds a whole model (torch.nn.modules.linear.Linear)" in said
    said = refused({"model": state_of(), "call": print}, tmp_path, **options)
    assert "holds more than weights (print)" in said


def test_a_stage_3_file_names_the_tool_that_joins_it(tmp_path: Path) -> None:
    empty = {key: torch.empty(0) for key in state_of()}
    said = refused({"module": empty, "ds_version": "0.15"}, tmp_path)
    assert "zero_to_fp32.py" in said and "no values of" in said


def test_the_architectures_of_its_sizes_are_named(tmp_path: Path) -> None:
    """A ViT-B-32 by its shapes alone: storage of one number, seen as many."""
    model = skeleton(open_clip.get_model_config("ViT-B-32"))
    state = {key: torch.zeros(()).expand(t.shape) for key, t in model.state_dict().items()}
    said = refused(state, tmp_path)
    named = said.partition("Its sizes are those of ")[2].split(", ")
    assert {"ViT-B-32", "ViT-B-32-256", "ViT-B-32-quickgelu"} <= set(named)


def test_names_of_transformers_are_known(tmp_path: Path) -> None:
    state = {"text_model.embeddings.token_embedding.weight": torch.ones(2, 2)}
    said = refused(state, tmp_path)
    assert "are names of transformers' models: give the folder with its config.json" in said
    assert "text_model." in said or "vision_model." in said


def test_what_is_no_part_of_a_model_is_named_alone(tmp_path: Path) -> None:
    state = {**state_of(), "classifier.weight": torch.zeros(10, 64)}
    assert "no place for 1 of its tensors: classifier.weight" in refused(state, tmp_path)


def test_weights_of_whole_numbers_and_of_numpy_say_so(tmp_path: Path) -> None:
    quantised = {name: tensor.to(torch.int8) for name, tensor in state_of().items()}
    said = refused(quantised, tmp_path)
    assert "holds whole numbers for weights (" in said and "is torch.int8): save" in said
    arrays = {name: tensor.numpy() for name, tensor in state_of().items()}
    assert "of its values are no tensors of torch's, such as" in refused(arrays, tmp_path)
    np.savez(tmp_path / "w.npz", **arrays)
    with pytest.raises(WeightsError, match=r"w\.npz holds numpy arrays: save torch's tensors"):
        checkpoints.opened(tmp_path / "w.npz")


def test_positions_of_another_width_say_both(tmp_path: Path) -> None:
    state = {**state_of(), "positional_embedding": torch.zeros(77, 48)}
    said = refused(state, tmp_path)
    assert "positional_embedding is (77, 48), and the architecture's texts are 64 wide" in said
    state = {**state_of(), "visual.positional_embedding": torch.zeros(13, 64)}
    assert "no square grid (12 places)" in refused(state, tmp_path)


def test_the_toy_fits_no_architecture(tmp_path: Path) -> None:
    state = state_of("toy-clipa")
    assert CONFIGS["toy-clipa"]["vision_cfg"]["no_ln_pre"]
    said = refused(state, tmp_path)
    assert "missing, for example visual.ln_pre.weight" in said
    assert "No architecture of open_clip's has its sizes; it holds" in said
