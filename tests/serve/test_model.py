"""What a model takes and gives beside images and texts, and what of it goes into a pickle."""

from __future__ import annotations

import copy
import dataclasses
import json
import multiprocessing
import pickle
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import store_of
from PIL import Image

import clipperf
from clipperf.errors import ArtifactError, UsageError
from clipperf.inputs.preprocess import preprocess
from clipperf.inputs.preprocess_spec import PreprocessSpec
from clipperf.inputs.tokenize import Tokenizer
from clipperf.nouns.model import Similarity
from clipperf.serve.model import ClipModel
from clipperf.serve.similarity import probabilities
from clipperf.system import files, store

IMAGES = [Image.new("RGB", (90, 70), colour) for colour in ("red", "blue", "green")]
TEXTS = ["a red apple", "the sea", "a very long text " * 30]
START, END = 49406, 49407


@pytest.fixture(scope="module")
def model(sample_artifact: Path) -> Iterator[ClipModel]:
    with clipperf.load(sample_artifact, threads=1) as opened:
        yield opened


class Bytes:
    """An image tower that takes bytes and gives their means."""

    def run(self, array: np.ndarray) -> np.ndarray:
        assert array.dtype == np.uint8 and array.flags.c_contiguous
        return array.mean(axis=(2, 3), dtype=np.float32)

    def close(self) -> None: ...


# --- pixels --------------------------------------------------------------------------------


def test_prepared_pixels_give_the_embeddings_of_their_images(model: ClipModel) -> None:
    assert model.pixels is not None
    expected = model.encode_images(IMAGES)
    floats = preprocess(IMAGES, model.pixels)
    whole = preprocess(IMAGES, model.pixels, np.empty(floats.shape, np.uint8))
    for pixels in (floats, whole, np.asfortranarray(floats), whole[::-1][::-1]):
        np.testing.assert_allclose(model.encode_pixels(pixels), expected, atol=1e-5)
        np.testing.assert_allclose(model.encode_pixels(pixels, batch_size=2), expected, atol=1e-5)
    unit = model.encode_pixels(floats, normalize=True)
    np.testing.assert_allclose(np.linalg.norm(unit, axis=1), 1, atol=1e-6)
    assert model.encode_pixels(floats[:0]).shape == (0, 192)


def test_bytes_reach_a_tower_of_bytes_as_they_are() -> None:
    engine: Any = {"image": Bytes()}
    model = ClipModel(
        engine, PreprocessSpec(4, 4), None, embed_dim=3, cut=None, pixel_dtype="uint8"
    )
    pixels = np.arange(5 * 48, dtype=np.uint8).reshape(5, 3, 4, 4)
    found = model.encode_pixels(pixels, batch_size=2)
    np.testing.assert_allclose(found, pixels.mean(axis=(2, 3)), atol=1e-4)
    with pytest.raises(UsageError, match="normalises by itself: give it bytes, uint8"):
        model.encode_pixels(pixels.astype(np.float32))


PIXELS: dict[str, tuple[Callable[[np.ndarray], Any], str]] = {
    "a list": (lambda good: good.tolist(), "takes a numpy array, not a list"),
    "one image": (lambda good: good[0], r"pixels\[None\] is a batch of one"),
    "channels last": (lambda good: good.transpose(0, 2, 3, 1), r"transpose\(0, 3, 1, 2\)"),
    "another size": (lambda good: good[..., 1:], r"\[3, 3, 64, 63\], this model takes \['n', 3"),
    "float64": (lambda good: good.astype(np.float64), "float64 .*give uint8.* or float32"),
    "not normalised": (lambda good: good * 0 + 255, "from 255 to 255; normalised pixels lie"),
    "not a number": (lambda good: good * np.nan, "from nan to nan"),
    "infinite": (lambda good: good + np.inf, "from inf to inf"),
}


@pytest.mark.parametrize(("change", "said"), PIXELS.values(), ids=PIXELS)
def test_other_pixels_are_refused_with_the_reason(
    model: ClipModel, change: Callable[[np.ndarray], Any], said: str
) -> None:
    assert model.pixels is not None
    with pytest.raises(UsageError, match=said):
        model.encode_pixels(change(preprocess(IMAGES, model.pixels)))


# --- tokens --------------------------------------------------------------------------------


def test_tokens_give_the_embeddings_of_their_texts(model: ClipModel, sample_artifact: Path) -> None:
    tokens = Tokenizer.from_folder(sample_artifact)(TEXTS)
    expected = model.encode_texts(TEXTS)
    np.testing.assert_allclose(model.encode_tokens(tokens), expected, atol=1e-5)
    np.testing.assert_allclose(model.encode_tokens(tokens, batch_size=1), expected, atol=1e-5)
    np.testing.assert_allclose(model.encode_tokens(tokens.astype("uint16")), expected, atol=1e-5)
    short = tokens[:2, :6]
    assert (short == END).any(axis=1).all()
    np.testing.assert_allclose(model.encode_tokens(short), expected[:2], atol=1e-5)
    assert model.encode_tokens(np.array([[START, END]])).shape == (1, 192)
    assert model.encode_tokens(tokens[:0]).shape == (0, 192)


TOKENS: dict[str, tuple[Callable[[np.ndarray], Any], str]] = {
    "a list": (lambda good: good.tolist(), "takes a numpy array, not a list"),
    "one text": (lambda good: good[0], r"give whole numbers \[n, tokens\]"),
    "floats": (lambda good: good * 1.0, r"float64 .*give whole numbers"),
    "too long": (lambda good: np.tile(good, 2), r"\[3, 154\]: this model takes 1 to 77 tokens"),
    "no columns": (lambda good: good[:, :0], "takes 1 to 77 tokens"),
    "negative": (lambda good: good - 50_000, "with ids from -.*: there are 0 to 49407"),
    "beyond the vocabulary": (lambda good: good + 1, "to 49408: there are 0 to 49407"),
    "another start": (
        lambda good: np.vstack([good[:1], good[1:2] * 0 + 5]),
        "text 1 begins with 5, this tower takes every text to begin with 49406",
    ),
}


@pytest.mark.parametrize(("change", "said"), TOKENS.values(), ids=TOKENS)
def test_other_tokens_are_refused_with_the_reason(
    model: ClipModel, sample_artifact: Path, change: Callable[[np.ndarray], Any], said: str
) -> None:
    tokens = Tokenizer.from_folder(sample_artifact)(TEXTS)
    with pytest.raises(UsageError, match=said):
        model.encode_tokens(change(tokens))


def test_a_tower_that_cuts_nothing_takes_whole_rows(model: ClipModel) -> None:
    fixed = ClipModel(dict(model._engines), None, model._tokenizer, embed_dim=192, cut=None)
    with pytest.raises(UsageError, match="takes 77 tokens a text, padded as its tokenizer does"):
        fixed.encode_tokens(np.array([[START, END]]))


# --- probabilities -------------------------------------------------------------------------


def test_probabilities_are_open_clips(model: ClipModel, sample_artifact: Path) -> None:
    """The checkpoint's own number, and a softmax by hand."""
    from safetensors import safe_open

    from clipperf.models import sample

    with safe_open(sample.weights_path(), "np") as file:
        scale = float(file.get_tensor("logit_scale"))
    assert model.logit_scale == scale == 2.623046875 and model.logit_bias is None
    images, texts = model.encode_images(IMAGES), model.encode_texts(TEXTS)
    unit = [each / np.linalg.norm(each, axis=1, keepdims=True) for each in (images, texts)]
    logits = np.exp(scale) * (unit[0] @ unit[1].T).astype(np.float64)
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    found = model.probabilities(images, texts)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    np.testing.assert_allclose(model.probabilities(3 * images, unit[1]), expected, rtol=1e-4)
    manifest = json.loads((sample_artifact / "manifest.json").read_text())
    for tower in manifest["towers"]:
        assert tower["similarity"] == {
            "kind": "softmax", "logit_scale": scale, "logit_bias": None
        }  # fmt: skip


def test_siglips_probabilities_are_of_each_pair() -> None:
    """SigLIP's own numbers: a scale of 117.33, a bias of -12.93."""
    how = Similarity("sigmoid", 4.765, -12.93)
    images = np.array([[1, 0], [0, 1], [np.nan, 0]], np.float32)
    texts = np.array([[2, 0], [0.1, 0.994987]], np.float32)
    found = probabilities(how, images, texts, 2)
    # exp(4.765) = 117.33: the logits are 104.4, -1.197, -12.93 and 103.8.
    expected = [[1, 0.2320], [2.4242e-06, 1]]
    np.testing.assert_allclose(found[:2], expected, rtol=1e-3)
    assert np.isnan(found[2]).all()


@pytest.mark.parametrize(
    ("images", "texts"),
    [
        (np.zeros((2, 191), np.float32), np.zeros((2, 192), np.float32)),
        (np.zeros((2, 192), np.float32), np.zeros(192, np.float32)),
        (np.zeros((2, 192), np.int64), np.zeros((2, 192), np.float32)),
    ],
)
def test_what_is_no_embedding_has_no_probability(
    model: ClipModel, images: np.ndarray, texts: np.ndarray
) -> None:
    with pytest.raises(UsageError, match=r"_embeds is .*give what encode_images"):
        model.probabilities(images, texts)


def test_no_inputs_have_no_probabilities(model: ClipModel) -> None:
    none, one = np.zeros((0, 192), np.float32), np.ones((1, 192), np.float32)
    assert model.probabilities(none, one).shape == (0, 1)
    assert model.probabilities(one, none).shape == (1, 0)


def test_an_artifact_of_before_has_no_scale(sample_artifact: Path, tmp_path: Path) -> None:
    folder = tmp_path / "old"
    shutil.copytree(sample_artifact, folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    for tower in manifest["towers"]:
        del tower["similarity"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with clipperf.load(folder, threads=1) as old:
        assert (old.logit_scale, old.logit_bias) == (None, None)
        with pytest.raises(UsageError, match="no logit_scale"):
            old.probabilities(np.ones((1, 192), np.float32), np.ones((1, 192), np.float32))


# --- pickles -------------------------------------------------------------------------------


def spawned(model: ClipModel) -> np.ndarray:
    return model.encode_texts(TEXTS)


def test_a_spawned_process_opens_it_again(model: ClipModel) -> None:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        found = pool.apply(spawned, (model,))
    np.testing.assert_allclose(found, model.encode_texts(TEXTS), atol=1e-5)


def test_options_go_along(sample_artifact: Path, tmp_path: Path) -> None:
    options = {"threads": 2, "streams": 2, "runtime": "onnx", "preprocess": "draft"}
    with clipperf.load(sample_artifact, **options) as first:  # type: ignore[arg-type]
        again = pickle.loads(pickle.dumps(first))
    with again:
        assert again.pixels.method == "draft"
        assert [engine.streams for engine in again._engines.values()] == [2, 2]
        np.testing.assert_allclose(again.encode_images(IMAGES).shape, (3, 192))
        with copy.deepcopy(again) as third:
            assert third._engines["text"] is not again._engines["text"]


def test_other_towers_under_the_path_are_an_error(sample_artifact: Path, tmp_path: Path) -> None:
    folder = tmp_path / "artifact"
    shutil.copytree(sample_artifact, folder)
    with clipperf.load(folder, threads=1) as model:
        kept = pickle.dumps(model)
    manifest = store.read_manifest(folder)
    changed = [dataclasses.replace(tower, key="another") for tower in manifest.towers]
    files.write_json(folder / "manifest.json", dataclasses.replace(manifest, towers=tuple(changed)))
    with pytest.raises(ArtifactError, match="exported anew since this model was pickled"):
        pickle.loads(kept)
    shutil.rmtree(folder)
    with pytest.raises(ArtifactError, match=r"no such file or folder \(opened again"):
        pickle.loads(kept)


def test_what_cannot_be_opened_again_is_not_pickled(sample_artifact: Path) -> None:
    model = clipperf.load(sample_artifact, threads=1)
    model.close()
    with pytest.raises(UsageError, match="is closed, so it cannot be pickled"):
        pickle.dumps(model)
    own = ClipModel({}, None, None, embed_dim=2, cut=None)
    with pytest.raises(UsageError, match=r"was not opened by clipperf\.load"):
        pickle.dumps(own)


# --- names ---------------------------------------------------------------------------------


def stored(home: Path, source: Path, **changes: Any) -> Path:
    """Another artifact in the store: a copy whose manifest is changed."""
    folder = home / "artifacts" / "x" / "y" / str(len(list(home.rglob("manifest.json"))))
    shutil.copytree(source, folder)
    manifest = store.read_manifest(folder)
    spec = dataclasses.replace(manifest.spec, **changes.pop("spec", {}))
    files.write_json(folder / "manifest.json", dataclasses.replace(manifest, spec=spec, **changes))
    return folder


def opened(*arguments: Any, **options: Any) -> Path:
    with clipperf.load(*arguments, threads=1, **options) as model:
        return Path(model.__reduce__()[1][0])


def test_a_name_opens_what_the_store_holds(sample_artifact: Path, home: Path) -> None:
    usual = store_of(sample_artifact, home)
    for name in ("clipperf-sample", "Clipperf_Sample", "clipperf-sample::bundled"):
        assert opened(name) == usual
    half = stored(home, sample_artifact, precision="fp16", created_utc="2999")
    assert opened("clipperf-sample") == usual, "fp32 comes first, however old"
    assert opened("clipperf-sample", precision="fp16", runtime="onnx") == half
    newer = stored(home, sample_artifact, created_utc="2998")
    assert opened("clipperf-sample") == newer, "the newest of equal ones"
    towers = store.read_manifest(usual).towers[:1]
    stored(home, sample_artifact, created_utc="3000", towers=towers)
    assert opened("clipperf-sample") == newer, "both towers come before one"


def test_weights_that_an_export_would_take_come_first(sample_artifact: Path, home: Path) -> None:
    architecture = {"architecture": "ViT-B-32"}

    def weights(tag: str, created_utc: str) -> Path:
        spec = {**architecture, "id": f"ViT-B-32::{tag}", "pretrained": tag}
        return stored(home, sample_artifact, spec=spec, created_utc=created_utc)

    random = weights("random:0", "2027")
    assert opened("ViT-B-32") == random
    own = weights("own.pt@01234567", "2021")
    other = weights("laion400m_e32", "2020")
    assert opened("ViT-B-32") == own, "the newest, but for random ones"
    usual = weights("datacomp_xl_s13b_b90k", "2019")
    assert opened("ViT-B-32") == usual
    assert opened("vit-b-32::laion400m-e32") == other
    assert opened("ViT-B-32::random:0") == random
    assert opened("ViT-B-32::own.pt@01234567") == own


def test_what_the_store_lacks_is_said_with_the_command(
    sample_artifact: Path, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store_of(sample_artifact, home)
    monkeypatch.chdir(tmp_path)
    for name, options, said in (
        ("ViT-B-32", {}, "make it with: clipperf export ViT-B-32$"),
        ("clipperf-sample", {"precision": "int8"}, "export clipperf-sample --precision int8$"),
        ("clipperf-sample", {"runtime": "openvino"}, "clipperf-sample --runtime openvino$"),
        ("ViT-B-32-of-mine", {}, "as the name of a model: unknown model .*did you mean ViT-B-32"),
        ("models/vit", {}, "models/vit: there is no such file or folder$"),
        ("/models/vit", {}, "/models/vit: there is no such file or folder$"),
        (Path("ViT-B-32"), {}, "ViT-B-32: there is no such file or folder$"),
    ):  # fmt: skip
        with pytest.raises(ArtifactError, match=said):
            clipperf.load(name, **options)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="holds towers in fp32, not 'fp16'"):
        clipperf.load(sample_artifact, precision="fp16")
    with pytest.raises(UsageError, match="no precision 'fp17'"):
        clipperf.load("clipperf-sample", precision="fp17")
    (tmp_path / "clipperf-sample").mkdir()
    with pytest.raises(ArtifactError, match="not an artifact folder"):
        clipperf.load("clipperf-sample")
