"""Families of models: what each answers for, and one that comes with an installed package."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import Cli, Install
from PIL import Image

import clipperf
from clipperf.errors import UsageError
from clipperf.models import catalog, sample, weights, zoo
from clipperf.models.family import FAMILIES, family_of
from clipperf.nouns.model import CLIP_IDS, ModelSpec

TOY = """
from pathlib import Path
from clipperf.inputs.preprocess_spec import PreprocessSpec
from clipperf.models.family import CatalogEntry, Family
from clipperf.nouns.model import CLIP_IDS, ModelSpec, Tower

PX, CONTEXT, DIM = 24, 20, 8

def resolve(name, pretrained):
    if not name.startswith("toy:"):
        return None
    sizes = (PX, CONTEXT, DIM, 1544, 395264)
    return ModelSpec(f"{name}::random:0", "toy", name, "random:0", *sizes)

def build(spec, side, normalize):
    import torch

    class Image(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.patches = torch.nn.Conv2d(3, DIM, 8, 8)

        def forward(self, pixels):
            found = self.patches(pixels).relu().mean(dim=(2, 3))
            return torch.nn.functional.normalize(found, dim=-1) if normalize else found

    class Text(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.words = torch.nn.Embedding(49408, DIM)

        def forward(self, tokens):
            found = self.words(tokens).sum(dim=1)
            return torch.nn.functional.normalize(found, dim=-1) if normalize else found

    torch.manual_seed(0)
    module = {"image": Image, "text": Text}[side]().eval().requires_grad_(False)
    shape = (2, 3, PX, PX) if side == "image" else (2, CONTEXT)
    example = torch.zeros(shape, dtype=torch.float32 if side == "image" else torch.int64)
    return Tower(spec, side, module, example, False)

def write_tokenizer(spec, folder):
    from clipperf.models.tokenizer_files import write_clip_tokenizer
    write_clip_tokenizer(folder, CONTEXT, "whitespace")

def unasked(spec):
    raise AssertionError("random weights have no file")

FAMILY = Family(
    name="toy", resolve=resolve, weights=unasked, fetch=unasked, config=lambda spec: {"px": PX},
    build=build, pixels=lambda spec: PreprocessSpec(PX, PX, (0, 0, 0), (1, 1, 1), "bilinear"),
    write_tokenizer=write_tokenizer, text_ids=lambda spec: CLIP_IDS,
    entries=lambda: [CatalogEntry("toy:one", PX, CONTEXT, DIM, "clip-bpe", ("mine",), {})],
)
"""
POINTS = {"clipperf.family": {"toy": "toy_family:FAMILY"}}


# --- clipperf's own ------------------------------------------------------------------------


def test_the_file_of_a_family_bears_its_name() -> None:
    assert FAMILIES.own()[:3] == ["sample", "open_clip", "open_clip_files"]
    for name in FAMILIES.own():
        assert FAMILIES.get(name).name == name


def test_every_listed_name_is_had_from_the_family_that_lists_it() -> None:
    for family in FAMILIES:
        listed = [entry for entry in family.entries() if entry.tags]
        assert listed or family.files
        for entry in listed[:: max(1, len(listed) // 8)]:
            spec = zoo.resolve(f"{entry.architecture}::{entry.tags[0]}")
            assert (spec.family, spec.architecture) == (family.name, entry.architecture)
            assert (spec.image_px, spec.embed_dim) == (entry.image_px, entry.embed_dim)
            assert spec.licence == entry.licence(entry.tags[0])


@pytest.mark.parametrize(
    "name", [sample.NAME, "CLIPPERF_Sample", f"{sample.NAME}::{sample.TAG}", f"{sample.NAME}::"]
)
def test_every_spelling_of_the_sample_is_the_sample(name: str) -> None:
    spec = zoo.resolve(name)
    assert (spec.id, spec.family) == (sample.NAME, "sample")
    assert family_of(spec).weights(spec) == sample.weights_path()


def test_the_sample_has_no_other_weights() -> None:
    with pytest.raises(UsageError, match="leave --pretrained out"):
        zoo.resolve(sample.NAME, "random")
    for tag in ("random", "laion2b"):
        with pytest.raises(UsageError, match=f"no tag '{tag}'.*bundled"):
            zoo.resolve(f"{sample.NAME}::{tag}")


def test_names_of_no_family_are_refused_as_ever(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="name is empty"):
        zoo.resolve(" ")
    with pytest.raises(UsageError, match=r"without a model: looked for open_clip_config\.json"):
        zoo.resolve(str(tmp_path))
    with pytest.raises(UsageError, match=r"unknown model 'ViT-B-33': did you mean [^?]*ViT-B-32"):
        zoo.resolve("ViT-B-33")


def test_a_family_that_is_not_installed_is_named() -> None:
    spec = ModelSpec("x::random:0", "elsewhere", "x", "random:0", 1, 1, 1)
    with pytest.raises(UsageError, match="no family 'elsewhere'; choose from: sample, open_clip"):
        family_of(spec)


def test_weights_are_told_apart(home: Path, tmp_path: Path) -> None:
    own = zoo.resolve(sample.NAME)
    assert str(zoo.weights_id(own)).startswith("sha256:")
    assert zoo.weights_id(zoo.resolve("RN50", "random:7")) == "random:7"
    tag = zoo.resolve("RN50", "openai")
    assert zoo.weights_id(tag) is None  # not fetched
    (home / "fetched.json").write_text(json.dumps({"RN50::openai": str(sample.weights_path())}))
    assert zoo.weights_id(tag) == zoo.weights_id(own)
    assert family_of(tag).fetch(tag) == sample.weights_path()
    (home / "fetched.json").write_text(json.dumps({"RN50::openai": str(tmp_path / "gone")}))
    assert zoo.weights_id(tag) is None
    (home / "fetched.json").write_text("[]")
    assert weights.known("RN50", "openai") is None


def test_synthetic_texts_suit_the_tokenizer() -> None:
    for name, alike in ((sample.NAME, True), ("RN50", True), ("ViT-B-16-SigLIP", False)):
        spec = zoo.resolve(name, None if name == sample.NAME else "random")
        ids = family_of(spec).text_ids(spec)
        assert (ids == CLIP_IDS) == alike
        assert 0 <= ids.low < ids.high and ids.eot not in range(ids.low, ids.high)


# --- one from elsewhere --------------------------------------------------------------------


@pytest.mark.slow
def test_a_family_from_an_installed_package_is_listed_exported_and_measured(
    install: Install, cli: Cli, home: Path, tmp_path: Path
) -> None:
    install("toy_family", TOY, POINTS)
    assert [entry.architecture for entry in catalog.entries()][-1] == "toy:one"
    assert "toy:one::mine" in cli("models", "--search", "toy:", check=True).stdout
    out = tmp_path / "artifact"
    done = cli("export", "toy:one", "--out", out, check=True)
    assert done.stdout.count("parity ok") == 2
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["spec"]["family"] == "toy"
    assert {tower["weights_id"] for tower in manifest["towers"]} == {"random:0"}
    names = [(t["inputs"][0]["name"], t["outputs"][0]["name"]) for t in manifest["towers"]]
    assert names == [("pixel_values", "image_embeds"), ("input_ids", "text_embeds")]
    assert json.loads((out / "preprocess.json").read_text())["interpolation"] == "bilinear"
    assert json.loads((out / "clipperf_tokenizer.json").read_text())["clean"] == "whitespace"
    unit = cli("export", "toy:one", "--normalize", "--out", tmp_path / "unit", check=True)
    assert unit.stdout.count("parity ok") == 2  # another graph, though of the same configuration

    images, texts = [Image.new("RGB", (30, 40), c) for c in ("red", "blue")], ["one", "two words"]
    with clipperf.load(out) as raw, clipperf.load(tmp_path / "unit") as normalized:
        for found, unit_vectors in (
            (raw.encode_images(images), normalized.encode_images(images)),
            (raw.encode_texts(texts), normalized.encode_texts(texts)),
        ):
            assert found.shape == (2, 8)
            np.testing.assert_allclose(np.linalg.norm(unit_vectors, axis=1), 1, atol=1e-5)
            lengths = np.linalg.norm(found, axis=1, keepdims=True)
            np.testing.assert_allclose(found / lengths, unit_vectors, atol=1e-5)

    rows = tmp_path / "profile.json"
    words = ("--quick", "--tower", "text", "--batch", 2, "--threads", 1, "--json", rows)
    words += ("--runtime", "torch,onnx")
    cli("profile", "toy:one", *words, check=True)
    measured = json.loads(rows.read_text())["measurements"]
    assert {(row["cell"]["runtime"], row["status"]) for row in measured} == {
        ("torch", "ok"),
        ("onnx", "ok"),
    }
