"""Models from a folder of open_clip's, from a JSON file, and at sizes of one's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import TINY, Cli

import clipperf
from clipperf.engines.onnxruntime import open_session
from clipperf.errors import UsageError, WeightsError
from clipperf.export.exporter import Below
from clipperf.export.exporters.onnx import EXPORTER
from clipperf.export.make import make
from clipperf.graph import trace
from clipperf.inputs.preprocess_spec import PreprocessSpec
from clipperf.models import sample, zoo
from clipperf.models.family import family_of
from clipperf.nouns.model import CLIP_IDS, OTHER_VOCABULARY, ModelSpec, Sizes
from clipperf.nouns.variant import SIDES, Variant
from clipperf.system import store

torch = pytest.importorskip("torch")
open_clip = pytest.importorskip("open_clip")

GREY = {"mean": [0.5] * 3, "std": [0.25] * 3, "interpolation": "bilinear", "resize_mode": "squash"}


@pytest.fixture
def folder(tmp_path: Path, home: Path) -> Path:
    """What open_clip pushes to the hub: configuration and weights, behind a wrapper's prefix."""
    made = tmp_path / "my-clip"
    made.mkdir()
    config = {"model_cfg": {**TINY, "quick_gelu": True}, "preprocess_cfg": GREY}
    (made / "open_clip_config.json").write_text(json.dumps(config))
    torch.manual_seed(3)
    state = open_clip.CLIP(**TINY, quick_gelu=True).state_dict()
    torch.save(state, made / "open_clip_pytorch_model.bin")
    return made


def arch(tmp_path: Path, **changes: Any) -> str:
    """A JSON file of an architecture; `changes` are made to its parts."""
    config = {**TINY, **{k: {**TINY[k], **v} for k, v in changes.items()}}  # type: ignore[dict-item]
    (tmp_path / "mine.json").write_text(json.dumps(config))
    return str(tmp_path / "mine.json")


def inputs(spec: ModelSpec) -> dict[str, Any]:
    """Two pictures and two texts as a model takes them."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.zeros(2, spec.context_tokens, dtype=torch.int64)
    for row, words in zip(tokens, (4, spec.context_tokens - 3), strict=True):
        row[1 : words + 1] = torch.randint(1, CLIP_IDS.high, (words,), generator=generator)
        row[0], row[words + 1] = CLIP_IDS.sot, CLIP_IDS.eot
    px = spec.image_px
    return {"image": torch.randn(2, 3, px, px, generator=generator), "text": tokens}


def assert_alike(spec: ModelSpec, model: Any) -> None:
    """Both towers give the embeddings of open_clip's own model."""
    model = model.eval().requires_grad_(False)
    for side, batch in inputs(spec).items():
        encode = model.encode_image if side == "image" else model.encode_text
        with torch.inference_mode():
            found = family_of(spec).build(spec, side, False).module(batch)
            torch.testing.assert_close(found, encode(batch), atol=1e-6, rtol=0)


# --- folders and files ---------------------------------------------------------------------


@pytest.mark.parametrize("spelt", ["local-dir:{}", "{}", "{}/"])
def test_a_folder_is_a_model(spelt: str, folder: Path) -> None:
    name = spelt.format(folder)
    assert zoo.must_read(name, None)
    spec = zoo.resolve(name)
    architecture, _, weights = spec.id.partition("::")
    assert architecture == spec.architecture and architecture.startswith("my-clip@")
    assert weights.startswith("open_clip_pytorch_model.bin@")
    assert (spec.family, spec.source) == ("open_clip_files", str(folder))
    assert (spec.image_px, spec.context_tokens, spec.embed_dim) == (32, 77, 32)
    assert str(zoo.weights_id(spec)).startswith("sha256:") and not zoo.must_read(name, None)
    assert_alike(spec, open_clip.create_model(f"local-dir:{folder}"))
    wanted = PreprocessSpec(32, 32, (0.5,) * 3, (0.25,) * 3, "bilinear", "squash")
    assert family_of(spec).pixels(spec) == wanted
    assert family_of(spec).text_ids(spec) == CLIP_IDS


def test_other_weights_of_a_folder(folder: Path, tmp_path: Path) -> None:
    other = open_clip.CLIP(**TINY, quick_gelu=True)
    torch.save({"model": other.state_dict()}, tmp_path / "epoch_1.pt")
    assert_alike(zoo.resolve(str(folder), str(tmp_path / "epoch_1.pt")), other)
    assert_alike(zoo.resolve(f"{folder}::{tmp_path / 'epoch_1.pt'}"), other)
    noise = zoo.resolve(f"{folder}::random:5")
    assert (noise.random_weights, zoo.weights_id(noise)) == (True, "random:5")
    with pytest.raises(UsageError, match="leave --pretrained out"):
        zoo.resolve(f"{folder}::random", "random:1")


def test_what_changes_in_a_folder_is_another_model(folder: Path) -> None:
    first = zoo.resolve(str(folder))
    config = folder / "open_clip_config.json"
    before = config.read_text()
    config.write_text(before.replace("bilinear", "bicubic"))
    second = zoo.resolve(str(folder))
    (folder / "tokenizer_config.json").write_text("{}")
    third = zoo.resolve(str(folder))
    assert len({spec.architecture for spec in (first, second, third)}) == 3
    with pytest.raises(WeightsError, match=r"no longer describes my-clip@.*name the model again"):
        family_of(first).config(first)
    (folder / "tokenizer_config.json").unlink()
    config.write_text(before)
    assert family_of(first).config(first)["quick_gelu"]
    config.unlink()
    with pytest.raises(UsageError, match=r"there is no open_clip_config\.json in that folder"):
        zoo.resolve(f"local-dir:{folder}")


def test_a_file_is_an_architecture(folder: Path, tmp_path: Path) -> None:
    name = arch(tmp_path)
    with pytest.raises(UsageError, match="is an architecture alone: give its weights with --pret"):
        zoo.resolve(name)
    spec = zoo.resolve(name, str(folder))
    assert spec.architecture.startswith("mine@") and spec.source == name
    plain = open_clip.CLIP(**TINY)
    plain.load_state_dict(torch.load(folder / "open_clip_pytorch_model.bin"))
    assert_alike(spec, plain)
    said = family_of(spec).build(spec, "image", False).assumptions
    assert said["preprocessing"] == "open_clip's defaults are assumed, as the file does not say"
    assert said["activation"].startswith("GELU, open_clip's default, as the file does not say")
    config = {**TINY, "quick_gelu": False}
    (tmp_path / "decided.json").write_text(json.dumps(config))
    decided = zoo.resolve(str(tmp_path / "decided.json"), str(folder))
    assert "activation" not in family_of(decided).build(decided, "image", False).assumptions
    assert family_of(spec).pixels(spec) == PreprocessSpec(32, 32)
    smaller = zoo.resolve(arch(tmp_path, vision_cfg={"layers": 2}), "random")
    assert smaller.architecture != spec.architecture
    other = zoo.resolve(arch(tmp_path, text_cfg={"hf_tokenizer_name": "a/b"}), "random")
    assert family_of(other).text_ids(other) == OTHER_VOCABULARY


def test_sizes_that_a_file_leaves_out_are_open_clips(tmp_path: Path, home: Path) -> None:
    config = {"embed_dim": 16, "vision_cfg": {"layers": 1, "width": 64}, "text_cfg": {"layers": 1}}
    (tmp_path / "short.json").write_text(json.dumps(config))
    spec = zoo.resolve(str(tmp_path / "short.json"), "random")
    assert (spec.image_px, spec.context_tokens) == (224, 77)
    assert family_of(spec).build(spec, "image", False).example.shape == (2, 3, 224, 224)
    assert family_of(spec).pixels(spec) == PreprocessSpec(224, 224)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "cannot be read as JSON"),
        ("[1]", "holds no JSON object"),
        ('{"width": 3, "depth": 1}', "looked for embed_dim, vision_cfg, text_cfg, and found width"),
        ('{"embed_dim": 3, "vision_cfg": [], "text_cfg": {}}', "describes no model"),
        ('{"embed_dim": "x", "vision_cfg": {}, "text_cfg": {}}', "sizes are no whole numbers"),
        ('{"model_type": "clip"}', "is a file, and no model by itself"),
    ],
)
def test_other_files_are_refused(content: str, said: str, tmp_path: Path, home: Path) -> None:
    (tmp_path / "mine.json").write_text(content)
    with pytest.raises(UsageError, match=said):
        zoo.resolve(str(tmp_path / "mine.json"), "random")


def test_what_open_clip_does_not_know_is_said(tmp_path: Path, home: Path) -> None:
    for changes, said in (
        ({"vision_cfg": {"depth": 3}}, "makes no model of this configuration: TypeError: .*depth"),
        ({"vision_cfg": {"timm_model_name": "no_such_net"}}, "RuntimeError: .*no_such_net"),
    ):
        spec = zoo.resolve(arch(tmp_path, **changes), "random")
        with pytest.raises(WeightsError, match=said):
            family_of(spec).build(spec, "image", False)


def test_a_vocabulary_that_clips_tokenizer_does_not_fit(tmp_path: Path, home: Path) -> None:
    spec = zoo.resolve(arch(tmp_path, text_cfg={"vocab_size": 1000}), "random")
    with pytest.raises(UsageError, match=r"has 1000 tokens, and CLIP's tokenizer 49408: name its"):
        family_of(spec).write_tokenizer(spec, tmp_path)


def test_a_tokenizer_in_the_folder_is_taken(folder: Path, tmp_path: Path) -> None:
    """One of six words, which no hub has."""
    transformers = pytest.importorskip("transformers")
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = ["[PAD]", "[UNK]", "[SEP]", "red", "blue", "dog"]
    backend = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]", sep_token="[SEP]"
    ).save_pretrained(folder)
    config = json.loads((folder / "open_clip_config.json").read_text())
    config["model_cfg"]["text_cfg"] = {
        **TINY["text_cfg"],  # type: ignore[dict-item]
        "vocab_size": 6,
        "context_length": 5,
        "hf_tokenizer_name": "nobody/nowhere",
    }
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    spec = zoo.resolve(str(folder), "random")
    family_of(spec).write_tokenizer(spec, tmp_path)
    from clipperf.inputs.tokenize import Tokenizer as Written

    assert Written.from_folder(tmp_path)(["blue dog", "a red cat"]).tolist() == [
        [4, 5, 0, 0, 0],
        [1, 3, 1, 0, 0],
    ]


# --- through the commands ------------------------------------------------------------------


@pytest.mark.slow
def test_commands_take_folders_and_files(cli: Cli, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = ("--image-size", 48, "--context-length", 40, "--out", out)
    done = cli("export", f"local-dir:{folder}", *words, check=True)
    assert done.stdout.count("parity ok") == 2
    assert "image size: positions resized from 32 to 48 px" in done.stdout
    assert "context length: positions resized from 77 to 40 tokens" in done.stdout
    manifest = store.read_manifest(out)
    assert manifest.spec.id.endswith("@48px@40tokens")
    assert (manifest.spec.image_px, manifest.spec.context_tokens) == (48, 40)
    said = {tower.side: tower.assumptions for tower in manifest.towers}
    assert said["image"]["image size"] == "positions resized from 32 to 48 px"
    assert manifest.preprocess["height_px"] == 48
    model = open_clip.create_model(
        f"local-dir:{folder}", force_image_size=48, force_context_length=40
    ).eval()
    with clipperf.load(out) as opened, torch.inference_mode():
        expected = model.encode_text(open_clip.tokenize(["a red dog"], context_length=40))
        np.testing.assert_allclose(opened.encode_texts(["a red dog"]), expected, atol=2e-5)
    assert_alike(manifest.spec, model)
    image = manifest.tower("image")
    assert image is not None and image.inputs[0].shape == ("batch", 3, 48, 48)

    with pytest.raises(UsageError, match="its text tower of other weights, sizes or options"):
        make(zoo.resolve(str(folder)), ("image",), Variant("onnx"), out=out)
    own = make(zoo.resolve(str(folder)), SIDES, Variant("onnx"), out=out)
    shapes = {tower.side: tower.inputs[0].shape for tower in own.manifest.towers}
    assert shapes["image"][1:] == (3, 32, 32), "the folder's towers were made anew"
    with clipperf.load(out) as opened:
        assert opened.encode_texts(["a red dog"]).shape == (1, 32)

    rows = tmp_path / "rows.json"
    quick = ("--quick", "--tower", "text", "--batch", 2, "--threads", 1, "--json", rows)
    words = ("--pretrained", "random", "--runtime", "torch")
    cli("profile", arch(tmp_path), *words, *quick, check=True)
    measured = json.loads(rows.read_text())["measurements"]
    assert {row["cell"]["model_id"].partition("@")[0] for row in measured} == {"mine"}
    assert {row["disk_bytes"] for row in measured} == {None}, "unknown, not 0"


# --- sizes ---------------------------------------------------------------------------------


def test_other_sizes_lie_elsewhere_in_the_store(folder: Path) -> None:
    specs = [
        zoo.resolve(str(folder), None, sizes) for sizes in (Sizes(), Sizes(48), Sizes(None, 9))
    ]
    weights_id = str(zoo.weights_id(specs[0]))
    assert {zoo.weights_id(spec) for spec in specs} == {weights_id}
    places = [store.artifact_folder(spec, weights_id, "onnx", "fp32") for spec in specs]
    assert len({place.parent for place in places}) == 3
    assert len({place.parent.parent for place in places}) == 1
    assert "-48px-" in places[1].parent.name and "-9tokens-" in places[2].parent.name
    keys = [EXPORTER.key(spec, "image", Variant("onnx"), Below(weights_id)) for spec in specs[:2]]
    assert keys[0] != keys[1]


@pytest.mark.parametrize(
    ("name", "sizes", "id"),
    [
        ("ViT-B-32@256px", Sizes(), "ViT-B-32::random:0@256px"),
        ("ViT-B-32", Sizes(256, 64), "ViT-B-32::random:0@256px@64tokens"),
        ("ViT-B-32@64tokens", Sizes(256), "ViT-B-32::random:0@256px@64tokens"),
        ("ViT-B-32@224px@77tokens", Sizes(), "ViT-B-32::random:0"),
        ("ViT-B-32", Sizes(224, 77), "ViT-B-32::random:0"),
    ],
)
def test_the_id_tells_the_sizes(name: str, sizes: Sizes, id: str) -> None:
    spec = zoo.resolve(name, "random", sizes)
    assert spec.id == id
    assert zoo.resolve(id) == spec, "an id names its model"


@pytest.mark.parametrize(
    ("name", "sizes", "said"),
    [
        ("ViT-B-32", Sizes(250), "sees squares of 32 px; give a multiple, such as 224"),
        ("ViT-B-32", Sizes(0), "from 1 to 4096"),
        ("ViT-B-32", Sizes(None, 9000), "from 1 to 8192"),
        ("ViT-B-32@256px", Sizes(288), "the name already says 256: leave --image-size 288 out"),
        ("RN50::openai", Sizes(288), "open_clip has no rule for the positions of RN50::openai"),
        ("coca_ViT-B-32", Sizes(None, 40), "end in that of a class token"),
        (sample.NAME, Sizes(96), "models of the family sample no others: leave --image-size"),
    ],
)
def test_sizes_that_cannot_be_are_refused(name: str, sizes: Sizes, said: str) -> None:
    weights = None if "::" in name or name == sample.NAME else "random"
    with pytest.raises(UsageError, match=said):
        zoo.resolve(name, weights, sizes)


def test_timms_towers_are_resized_by_timms_rule(tmp_path: Path, home: Path) -> None:
    vision = {"timm_model_name": "test_vit", "timm_pool": "token", "timm_proj": "linear"}
    vision |= {"image_size": 160}
    name = arch(tmp_path, vision_cfg=vision)
    torch.manual_seed(1)
    model = open_clip.CLIP(**json.loads(Path(name).read_text()))
    torch.save(model.state_dict(), tmp_path / "timm.pt")
    spec = zoo.resolve(name, str(tmp_path / "timm.pt"), Sizes(192))
    model.visual.set_input_size(192)
    assert_alike(spec, model)
    tower = family_of(spec).build(spec, "image", False)
    assert tower.assumptions["image size"] == "positions resized from 160 to 192 px"
    trace.export_onnx(tower, tmp_path / "timm.onnx", "fp32", None)
    with torch.inference_mode():
        expected = tower.module(tower.example + 1).numpy()
    found = open_session(tmp_path / "timm.onnx", threads=1).run(tower.example.numpy() + 1)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    with pytest.raises(WeightsError, match="sees squares of 16 px"):
        family_of(spec).build(zoo.resolve(name, "random", Sizes(170)), "image", False)
