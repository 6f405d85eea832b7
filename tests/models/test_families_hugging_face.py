"""Models of transformers from folders and the hub's cache: exported, and equal to transformers'."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Cli
from PIL import Image

import clipperf
from clipperf.errors import UsageError, WeightsError
from clipperf.inputs.tokenize import Tokenizer
from clipperf.models import hub, transformers_weights, zoo
from clipperf.models.family import family_of
from clipperf.nouns.model import ModelSpec, Sizes
from clipperf.nouns.variant import SIDES

pytest.importorskip("transformers", reason="the models are transformers' own")
import transformers_folders
from transformers_folders import CLASSES, CORPUS, PX, TOKENS

TEXTS = [*CORPUS, "a long text " * 30, ""]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, Any]]:
    """`saved(kind)`: a folder and the model that it was saved from, made once."""
    root, made = tmp_path_factory.mktemp("saved"), {}

    def once(kind: str) -> tuple[Path, Any]:
        if kind not in made:
            made[kind] = root / f"my-{kind}", transformers_folders.save(kind, root / f"my-{kind}")
        return made[kind]

    return once


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """No network, and a cache of this test alone."""
    monkeypatch.setattr(hub, "hub_answers", lambda: False)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    yield


def images(count: int, square: bool = False) -> list[Image.Image]:
    generator = np.random.default_rng(3)
    sizes = generator.integers(20, 90, (count, 2))
    found = []
    for width, height in sizes:
        coarse = Image.fromarray(generator.integers(0, 256, (4, 4, 3), np.uint8))
        found.append(coarse.resize((int(width), int(width if square else height)), 3))
    return found


def wanted(kind: str, folder: Path, model: Any, pictures: list[Image.Image]) -> list[np.ndarray]:
    """What transformers' own processor and model make of images and of TEXTS."""
    import torch
    from transformers import AutoTokenizer

    pixels = transformers_folders.image_processor(kind)(pictures, return_tensors="pt")
    length = min(TOKENS, 14) if kind == "altclip" else TOKENS
    tokens = AutoTokenizer.from_pretrained(folder)(
        TEXTS, padding="max_length", truncation=True, max_length=length, return_tensors="pt"
    )
    with torch.no_grad():
        return [
            model.get_image_features(**pixels).pooler_output.numpy(),
            model.get_text_features(**tokens).pooler_output.numpy(),
        ]


def assert_same(found: np.ndarray, theirs: np.ndarray) -> None:
    assert found.shape == theirs.shape
    assert np.abs(found - theirs).max() <= 1e-4 * np.abs(theirs).max()
    lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(theirs, axis=1)
    assert ((found * theirs).sum(axis=1) / lengths > 0.99999).all()
    assert len(theirs) == 1 or np.ptp(theirs, axis=0).max() > 1e-3  # of different inputs


def test_a_folder_is_exported_and_embeds_as_transformers_does(
    saved: Callable[[str], tuple[Path, Any]], cli: Cli, home: Path
) -> None:
    folder, model = saved("clip")
    done = cli("export", folder, check=True)
    assert done.stdout.count("parity ok") == 2
    (manifest,) = home.rglob("manifest.json")
    pictures = images(5)
    with clipperf.load(manifest.parent) as loaded:
        found = loaded.encode_images(pictures), loaded.encode_texts(TEXTS)
    for mine, theirs in zip(found, wanted("clip", folder, model, pictures), strict=True):
        assert_same(mine, theirs)
    towers = json.loads(manifest.read_text())["towers"]
    spec = zoo.resolve(str(folder))
    assert {tower["weights_id"] for tower in towers} == {zoo.weights_id(spec)}
    assert spec.id.startswith("my-clip@") and "::model.safetensors@" in spec.id
    # open_clip's modules, so without what the embedding never reads
    assert [tower["first_token"] for tower in towers] == [None, 49406]


def test_a_folder_that_runs_in_transformers_modules_is_evaluated(
    saved: Callable[[str], tuple[Path, Any]], cli: Cli, samples: str, tmp_path: Path
) -> None:
    folder, rows = saved("altclip")[0], tmp_path / "rows.json"
    done = cli("eval", folder, "--runtime", "onnx", "--dataset", samples, "--json", rows)
    # 24 samples do not show that nothing is lost, but no more than that is wrong.
    assert done.returncode == 0 or "too few samples" in done.stderr, done.stderr
    scores = json.loads(rows.read_text())["scores"]
    runtimes = {row["cell"]["runtime"] for row in scores}
    assert runtimes == {"torch", "onnx"} and f"{folder.name}@" in done.stdout
    assert all(abs(row["difference"] or 0) <= 1 / 24 for row in scores)
    assert {row["cell"]["model_id"].partition("@")[0] for row in scores} == {folder.name}
    assert all(row["n"] == 24 and 0 <= row["value"] <= 1 for row in scores)


@pytest.mark.parametrize("kind", ["siglip", "siglip2", "altclip", "chinese_clip"])
def test_towers_of_every_kind_embed_in_onnx_runtime_as_transformers_does(
    kind: str, saved: Callable[[str], tuple[Path, Any]], tmp_path: Path
) -> None:
    import torch

    from clipperf.engines.onnxruntime import open_session
    from clipperf.graph import trace
    from clipperf.inputs.preprocess import preprocess
    from clipperf.inputs.tokenize import Tokenizer

    folder, model = saved(kind)
    spec = zoo.resolve(str(folder))
    family = family_of(spec)
    pictures = images(5, square=kind == "siglip2")  # of these NaFlex keeps the shape
    family.write_tokenizer(spec, tmp_path)
    inputs = {
        "image": preprocess(pictures, family.pixels(spec)),
        "text": Tokenizer.from_folder(tmp_path)(TEXTS),
    }
    for side, theirs in zip(SIDES, wanted(kind, folder, model, pictures), strict=True):
        tower = family.build(spec, side, False)
        with torch.inference_mode():
            assert_same(tower.module(torch.from_numpy(inputs[side])).numpy(), theirs)
        trace.export_onnx(tower, tmp_path / f"{side}.onnx")
        engine = open_session(tmp_path / f"{side}.onnx", threads=1)
        assert_same(engine.run(inputs[side]), theirs)
        assert_same(engine.run(inputs[side][:1]), theirs[:1])


@pytest.mark.parametrize(
    ("text", "vision", "mapped"),
    [
        ({"eos_token_id": 2}, {}, True),  # files of before 2023: the largest id
        ({"eos_token_id": 1000}, {}, True),  # any other id: its first place
        ({"layer_norm_eps": 1e-3}, {"layer_norm_eps": 1e-3}, True),
        ({"hidden_act": "gelu"}, {"hidden_act": "gelu"}, True),
        ({"intermediate_size": 40}, {"intermediate_size": 40}, True),
        ({"hidden_act": "gelu_pytorch_tanh"}, {"hidden_act": "silu"}, False),
    ],
)
def test_clip_is_open_clips_where_that_is_exact(
    text: dict[str, Any], vision: dict[str, Any], mapped: bool, tmp_path: Path
) -> None:
    import torch

    model = transformers_folders.save("clip", tmp_path, text=text, vision=vision)
    spec = zoo.resolve(str(tmp_path))
    tokens = torch.randint(3, 900, (4, TOKENS), generator=torch.Generator().manual_seed(1))
    for row, place in enumerate((3, 9, 15, 7)):
        tokens[row, place:] = 49407
        tokens[row, place - 1] = 1000
    pixels = torch.randn(2, 3, PX, PX, generator=torch.Generator().manual_seed(2))
    for side, given, encode in (
        ("image", pixels, model.get_image_features),
        ("text", tokens, model.get_text_features),
    ):
        tower = family_of(spec).build(spec, side, False)
        assert (type(tower.module.model).__name__ == "CLIP") == mapped
        with torch.inference_mode():
            assert_same(tower.module(given).numpy(), encode(given).pooler_output.numpy())


def test_weights_in_several_files_and_of_pytorch_are_the_same_model(
    saved: Callable[[str], tuple[Path, Any]], tmp_path: Path
) -> None:
    import torch

    folder, model = saved("altclip")
    shards, pickled = tmp_path / "shards", tmp_path / "pickled"
    shutil.copytree(folder, shards)
    shutil.copytree(folder, pickled)
    for each in (shards, pickled):
        (each / "model.safetensors").unlink()
    model.save_pretrained(shards, max_shard_size="60KB")
    assert len(list(shards.glob("model-*.safetensors"))) > 1
    # As older versions wrote it, with buffers that are computed now.
    state = {key.replace(".layers.", ".layer."): value for key, value in model.state_dict().items()}
    state["text_model.roberta.embeddings.position_ids"] = torch.arange(16)[None]
    torch.save(state, pickled / "pytorch_model.bin")
    pixels = torch.randn(2, 3, PX, PX)
    with torch.inference_mode():
        theirs = model.get_image_features(pixels).pooler_output.numpy()
        for each in (shards, pickled):
            spec = zoo.resolve(str(each))
            tower = family_of(spec).build(spec, "image", False)
            assert_same(tower.module(pixels).numpy(), theirs)
    spec = zoo.resolve(str(shards))
    assert (spec.image_parameters, spec.text_parameters) == tuple(
        sum(p.numel() for name, p in model.named_parameters() if name.startswith(parts))
        for parts in (("vision", "visual"), "text")
    )
    next(shards.glob("model-00002*")).unlink()
    with pytest.raises(WeightsError, match="not there"):
        zoo.resolve(str(shards))


def test_loading_is_strict(saved: Callable[[str], tuple[Path, Any]], tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder, _ = saved("siglip")
    state = load_file(folder / "model.safetensors")
    name = "vision_model.post_layernorm.bias"
    for damage, said in (
        ({**state, "vision_model.extra": state[name].clone()}, "no place for 1"),
        ({key: value for key, value in state.items() if key != name}, f"missing.*{name}"),
        ({**state, name: state[name][:5].clone()}, r"\(5,\), the architecture wants \(32,\)"),
    ):
        target = tmp_path / "damaged"
        shutil.copytree(folder, target, dirs_exist_ok=True)
        save_file(damage, target / "model.safetensors")
        spec = zoo.resolve(str(target))
        with pytest.raises(WeightsError, match=said):
            family_of(spec).build(spec, "image", False)


def test_weights_with_another_librarys_names(
    saved: Callable[[str], tuple[Path, Any]], tmp_path: Path
) -> None:
    """The names that were expected, those that are there, and what to do."""
    import open_clip
    from safetensors.torch import save_file

    def copied(name: str, weights: Path) -> Path:
        shutil.copytree(saved(name)[0], tmp_path / name)
        shutil.copyfile(weights, tmp_path / name / "model.safetensors")
        return tmp_path / name

    config = {
        "embed_dim": 24,
        "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 32, "layers": 2},
        "text_cfg": {"context_length": 16, "width": 32, "heads": 2, "layers": 2},
    }
    config["vision_cfg"] |= {"head_width": 16}  # type: ignore[operator]
    state = open_clip.CLIP(**config).state_dict()  # type: ignore[arg-type]
    open_clips, transformers = tmp_path / "oc", saved("clip")[0] / "model.safetensors"
    open_clips.mkdir()
    (open_clips / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
    save_file({k: v.clone() for k, v in state.items()}, open_clips / "open_clip_model.safetensors")
    weights = open_clips / "open_clip_model.safetensors"
    folders = [copied(kind, weights) for kind in ("clip", "siglip", "altclip")]
    student = tmp_path / "student"
    transformers_folders.save_student("bert", student)
    cases = [
        (str(folder), None, "open_clip's models: give its architecture or the folder with its open")
        for folder in folders
    ]
    theirs = "transformers' models: give the folder with its config.json"
    cases += [(str(open_clips), str(transformers), theirs)]
    cases += [(str(student), str(transformers), theirs)]
    cases += [(str(folders[0]), str(student / "pytorch_model.bin"), "M-CLIP's text towers: give")]
    for name, pretrained, said in cases:
        spec = zoo.resolve(name, pretrained)
        with pytest.raises(WeightsError, match=rf"for example \S+\. .* are names of {said}"):
            family_of(spec).build(spec, "text", False)


def test_what_is_beside_the_weights_is_part_of_the_model(
    saved: Callable[[str], tuple[Path, Any]], tmp_path: Path
) -> None:
    folder, _ = saved("clip")
    copy = tmp_path / "my-clip"
    shutil.copytree(folder, copy)
    specs = [zoo.resolve(str(folder)), zoo.resolve(str(copy))]
    assert specs[0].id == specs[1].id
    settings = json.loads((copy / "preprocessor_config.json").read_text())
    (copy / "preprocessor_config.json").write_text(json.dumps({**settings, "resample": 2}))
    changed = zoo.resolve(str(copy))
    assert changed.id != specs[0].id and changed.architecture != specs[0].architecture
    (copy / "model.safetensors").unlink()
    with pytest.raises(
        WeightsError, match=r"holds no weights.*tokenizer.json.*--pretrained random"
    ):
        zoo.resolve(str(copy))
    noise = zoo.resolve(str(copy), "random:3")
    assert noise.random_weights and noise.id == f"{changed.architecture}::random:3"
    other = zoo.resolve(str(copy), str(folder / "model.safetensors"))
    assert zoo.weights_id(other) == zoo.weights_id(specs[0])
    (copy / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid ...\n")
    with pytest.raises(WeightsError, match="pointer of Git LFS"):
        zoo.resolve(str(copy))


def test_a_tokenizer_without_a_longest_text(
    saved: Callable[[str], tuple[Path, Any]], tmp_path: Path
) -> None:
    """What transformers writes where nobody has set one: a number beyond all."""
    folder, _ = saved("clip")
    copy = tmp_path / "unlimited"
    shutil.copytree(folder, copy)
    settings = json.loads((copy / "tokenizer_config.json").read_text())
    unlimited = {**settings, "model_max_length": int(1e30)}
    (copy / "tokenizer_config.json").write_text(json.dumps(unlimited))
    spec = zoo.resolve(str(copy))
    assert spec.context_tokens == zoo.resolve(str(folder)).context_tokens
    family_of(spec).write_tokenizer(spec, tmp_path)
    assert Tokenizer.from_folder(tmp_path)(["a dog"]).shape == (1, spec.context_tokens)


def cached(source: Path, cache: Path, repo: str, commit: str, *names: str) -> Path:
    """A repository in the hub's cache, with some files of a folder."""
    root = cache / f"models--{repo.replace('/', '--')}"
    (root / "refs").mkdir(parents=True, exist_ok=True)
    (root / "refs" / "main").write_text(commit)
    snapshot = root / "snapshots" / commit
    snapshot.mkdir(parents=True, exist_ok=True)
    for path in source.iterdir():
        if path.name in names or not names:
            shutil.copy(path, snapshot)
    return snapshot


def test_a_repository_is_found_in_the_hubs_cache(
    saved: Callable[[str], tuple[Path, Any]], tmp_path: Path
) -> None:
    folder, _ = saved("clip")
    commit = "0123456789abcdef0123456789abcdef01234567"
    snapshot = cached(folder, tmp_path / "hub", "me/my-clip", commit, "config.json")
    spec = zoo.resolve("me/my-clip")
    assert (spec.id, spec.image_px, spec.embed_dim) == ("me/my-clip@01234567", PX, 24)
    assert zoo.weights_id(spec) is None  # not fetched
    with pytest.raises(WeightsError, match=r"me/my-clip cannot be fetched.*hf download me/my"):
        family_of(spec).fetch(spec)
    shutil.copy(folder / "model.safetensors", snapshot)
    assert family_of(spec).fetch(spec) == snapshot / "model.safetensors"
    assert str(zoo.weights_id(spec)).startswith("sha256:")
    for name in ("hf-hub:me/my-clip", "me/my-clip@main", "me/my-clip@01234567", spec.id):
        assert zoo.resolve(name).source == str(snapshot), name
    assert zoo.resolve("me/my-clip", "random").id == "me/my-clip@01234567::random:0"
    with pytest.raises(UsageError, match="no other weights than its own"):
        zoo.resolve("me/my-clip", "laion2b")


def test_a_repository_of_open_clips_is_read_as_open_clip_does(
    checkpoints: Path, saved: Callable[[str], tuple[Path, Any]], tmp_path: Path
) -> None:
    commit = "89" * 20
    snapshot = cached(checkpoints / "a", tmp_path / "hub", "me/both", commit)
    spec = zoo.resolve("me/both")
    assert (spec.family, spec.source) == ("open_clip_files", str(snapshot))
    assert spec.id.startswith("me/both@") and spec.architecture.startswith("me/both@")
    shutil.copy(saved("clip")[0] / "config.json", snapshot)  # for both libraries
    assert zoo.resolve("hf-hub:me/both").family == "open_clip_files"
    assert zoo.resolve("me/both").family == "hugging_face"
    (snapshot / "model.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"hf download me/both"):
        zoo.resolve("hf-hub:me/both")


def test_texts_of_another_length_where_padding_does_not_count(
    saved: Callable[[str], tuple[Path, Any]],
) -> None:
    folder, _ = saved("altclip")
    spec = zoo.resolve(f"{folder}", sizes=Sizes(context_tokens=9))
    assert spec.context_tokens == 9 and spec.id.endswith("@9tokens")
    tower = family_of(spec).build(spec, "text", False)
    assert tower.example.shape == (2, 9)
    assert tower.assumptions["context length"] == ("texts are cut at 9 tokens, the model takes 14")
    for kind, sizes, said in (
        ("altclip", Sizes(context_tokens=15), "takes 14 at most"),
        ("siglip", Sizes(context_tokens=9), "leave --context-length out"),
        ("clip", Sizes(image_px=64), "leave --image-size out"),
    ):
        with pytest.raises(UsageError, match=said):
            zoo.resolve(str(saved(kind)[0]), sizes=sizes)


def test_without_network_the_error_says_what_to_do(cli: Cli, tmp_path: Path) -> None:
    for name in ("openai/clip-vit-base-patch32", "hf-hub:laion/CLIP-ViT-B-32-laion2B-s34B-b79K"):
        with pytest.raises(WeightsError, match=r"cannot be fetched.*hf download.*--local-dir"):
            zoo.resolve(name)
    with pytest.raises(UsageError, match="after hf-hub: comes ORG/NAME"):
        zoo.resolve("hf-hub:nonsense")


def test_without_network_a_client_that_was_imported_before_asks_nobody(tmp_path: Path) -> None:
    code = (
        "from huggingface_hub import constants\n"
        "from clipperf.models import weights\n"
        "weights.locate('ViT-B-32', 'openai')"
    )
    offline = {"HF_ENDPOINT": "http://127.0.0.1:9", "CLIPPERF_HOME": str(tmp_path)}
    hidden = ("HF_HUB_OFFLINE", "https_proxy", "HTTPS_PROXY")
    own = {name: value for name, value in os.environ.items() if name not in hidden}
    done = subprocess.run(
        [sys.executable, "-c", code], env={**own, **offline}, capture_output=True, text=True
    )
    assert "WeightsError" in done.stderr and "no connection to the hub" in done.stderr
    assert "Retrying" not in done.stderr


def test_models_of_other_kinds_are_refused_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(UsageError, match=r"model_type 'bert'.*CLIPModel, SiglipModel"):
        zoo.resolve(str(tmp_path))
    code = {"model_type": "jina_clip", "auto_map": {"AutoModel": "modeling_clip.JinaCLIPModel"}}
    (tmp_path / "config.json").write_text(json.dumps(code))
    with pytest.raises(UsageError, match=r"comes as code on the hub.*never runs"):
        zoo.resolve(str(tmp_path))
    (tmp_path / "config.json").write_text("[")
    with pytest.raises(WeightsError, match=r"config\.json"):
        zoo.resolve(str(tmp_path))
    (tmp_path / "config.json").write_text(
        '{"model_type": "clip", "vision_config": {"image_size": [32, 64]}}'
    )
    with pytest.raises(WeightsError, match=r"\[32, 64\].*no squares"):
        zoo.resolve(str(tmp_path))


def test_padding_is_hidden_where_the_tokenizer_says_so(
    saved: Callable[[str], tuple[Path, Any]], tmp_path: Path
) -> None:
    """SigLIP attends to padding, unless its tokenizer makes a mask, as it does where none says."""
    import torch
    from transformers import AutoTokenizer

    folder, model = saved("siglip")
    copy = tmp_path / "masked"
    shutil.copytree(folder, copy)
    settings = json.loads((copy / "tokenizer_config.json").read_text())
    assert settings["model_input_names"] == ["input_ids"]
    silent = tmp_path / "silent"
    shutil.copytree(folder, silent)
    names = ["input_ids", "attention_mask"]
    for each, said in ((copy, {"model_input_names": names}), (silent, {})):
        kept = {name: value for name, value in settings.items() if name != "model_input_names"}
        (each / "tokenizer_config.json").write_text(json.dumps({**kept, **said}))
    assert "attention_mask" in AutoTokenizer.from_pretrained(silent)("a")
    tokens = torch.randint(5, 300, (2, TOKENS), generator=torch.Generator().manual_seed(1))
    tokens[0, 6:] = 0
    tokens[1, 2] = 0  # typed, and so seen
    mask = torch.ones_like(tokens)
    mask[0, 6:] = 0
    masked = {"attention_mask": mask}
    for each, given in ((folder, {}), (silent, masked), (copy, masked)):
        spec: ModelSpec = zoo.resolve(str(each))
        tower = family_of(spec).build(spec, "text", False)
        with torch.inference_mode():
            theirs = model.get_text_features(tokens, **given).pooler_output.numpy()
            assert_same(tower.module(tokens).numpy(), theirs)
    assert family_of(spec).config(spec) != family_of(spec).config(replace(spec, source=str(folder)))


def test_all_kinds_are_tried_here() -> None:
    from clipperf.models.transformers_config import KINDS

    assert set(CLASSES) == set(KINDS)
    assert transformers_weights.IMAGE_PARTS[0] == "vision_model."


def test_tokens_are_counted_as_whole_numbers_are() -> None:
    """Of texts of any length there is, whether floats are summed, for TensorRT's sake, or not."""
    import torch

    from clipperf.models.transformers_towers import attended, counted

    tokens = torch.tensor([[5, 1, 7, 1, 1], [1, 1, 9, 8, 1], [1, 1, 1, 1, 1]])
    for most in (5, 512):
        found = counted(tokens, 1, most)
        assert found.tolist() == [[2, 1, 3, 1, 1], [1, 1, 2, 3, 1], [1, 1, 1, 1, 1]]
        seen = attended(tokens, 1, most).int()
        assert seen.tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 0], [0] * 5]
        left = attended(tokens, 1, most, "left").int()
        assert left.tolist() == [[1, 1, 1, 1, 1], [0, 0, 1, 1, 1], [0] * 5]
    many = torch.full((1, 100_000), 3)
    assert torch.equal(counted(many, 1, 100_000), torch.arange(2, 100_002)[None])
    assert counted(many, 1, 100_000).dtype == torch.int64


@pytest.mark.parametrize("length", [77, 256, 512])
def test_openvino_counts_tokens_in_bf16_too(length: int) -> None:
    """It rounds all floats where it computes in bf16, which knows no odd number beyond 256."""
    openvino = pytest.importorskip("openvino")
    import torch

    from clipperf.models.transformers_towers import counted

    class Tower(torch.nn.Module):
        """The bits of each token's position, looked up in a table, times a matrix."""

        def __init__(self) -> None:
            super().__init__()
            numbers = torch.arange(1024)[:, None] >> torch.arange(10)
            self.table = torch.nn.Embedding.from_pretrained((numbers & 1).float())
            self.linear = torch.nn.Linear(10, 10, bias=False)
            torch.nn.init.eye_(self.linear.weight)

        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            """int64 [batch, tokens] to float [batch, tokens, 10]."""
            return self.linear(self.table(counted(tokens, 1, length)))

    tokens = torch.full((2, length), 3)
    tokens[1, length // 2 :] = 1
    model = openvino.convert_model(Tower().eval(), example_input=tokens)
    wanted = {"INFERENCE_PRECISION_HINT": "bf16"}
    found = openvino.Core().compile_model(model, "CPU", wanted)(tokens.numpy())[0]
    positions = (found.astype(np.int64) << np.arange(10)).sum(axis=-1)
    assert np.array_equal(positions, counted(tokens, 1, length).numpy())
