"""What is laid out for other tools, opened by these tools: their vectors are `clipperf.load`'s.

Preprocessing and cleaning of texts are the tools' own. So towers are compared on the pixels that
each tool made, and whole pipelines within what its resizing changes.
"""

from __future__ import annotations

import io
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import other_tools
import pytest
import torch
import transformers_folders
from PIL import Image

import clipperf
from clipperf.drift import drift_of
from clipperf.export.deployment import lay_out
from clipperf.export.make import make
from clipperf.inputs import transformers_files
from clipperf.inputs.tokenize import Tokenizer, eot_lengths
from clipperf.models import sample, transformers_tokenizer, zoo
from clipperf.models.family import family_of
from clipperf.models.tokenizer_files import write_clip_tokenizer
from clipperf.nouns.model import CLIP_IDS
from clipperf.nouns.variant import Variant

pytestmark = pytest.mark.slow

TEXTS = (
    "it’s a “ﬁne” ＣＡＴ\ufeff",
    *("a drawing of a cat", "it's 10:30", "", "A photo of 2 dogs, and a CAFÉ!", "red heart " * 60),
    "東京タワー",
)
LARGE = ((300, 200), (97, 251), (640, 480))
"""Sizes of images that have to be resized; the sample's are as small as its tower takes."""

NODE = """
import fs from 'node:fs';
import path from 'node:path';
import { env, AutoProcessor, AutoTokenizer, RawImage } from '@huggingface/transformers';
import * as library from '@huggingface/transformers';
const { folder, images, texts, dtypes, classes, padding } = JSON.parse(fs.readFileSync(0));
env.allowRemoteModels = false;
env.localModelPath = path.dirname(folder) + '/';
const name = path.basename(folder);
const rows = (t) => ({ dims: t.dims, data: Array.from(t.data, Number) });
const processor = await AutoProcessor.from_pretrained(name);
const tokenizer = await AutoTokenizer.from_pretrained(name);
const pixels = await processor(await Promise.all(images.map((each) => RawImage.read(each))));
const tokens = tokenizer(texts, { padding, truncation: true });
const found = { pixels: rows(pixels.pixel_values), tokens: rows(tokens.input_ids) };
for (const dtype of dtypes) {
  const vision = await library[classes[0]].from_pretrained(name, { dtype });
  const text = await library[classes[1]].from_pretrained(name, { dtype });
  const { [classes[2]]: image } = await vision(pixels);
  const { [classes[3]]: said } = await text(tokens);
  found[dtype] = { image: rows(image), text: rows(said) };
}
console.log(JSON.stringify(found));
"""
CLIP = (
    *("CLIPVisionModelWithProjection", "CLIPTextModelWithProjection"),
    *("image_embeds", "text_embeds"),
)

FASTEMBED = """
import json, sys, warnings
warnings.simplefilter("ignore")
from fastembed import ImageEmbedding, TextEmbedding
given = json.load(sys.stdin)
cpu = {"providers": ["CPUExecutionProvider"]}
vision, text = given["folder"] + "/vision", given["folder"] + "/text"
image = ImageEmbedding("Qdrant/clip-ViT-B-32-vision", specific_model_path=vision, **cpu)
text = TextEmbedding("Qdrant/clip-ViT-B-32-text", specific_model_path=text, **cpu)
print(json.dumps({
    "image": [row.tolist() for row in image.embed(given["images"])],
    "text": [row.tolist() for row in text.embed(given["texts"])],
}))
"""

OPTIMUM = """
import json, sys
from PIL import Image
from optimum.onnxruntime import ORTModelForCustomTasks
from transformers import AutoImageProcessor, AutoTokenizer
given = json.load(sys.stdin)
def opened(name):
    return ORTModelForCustomTasks.from_pretrained(
        given["folder"], subfolder="onnx", file_name=name, provider="CPUExecutionProvider"
    )
processor = AutoImageProcessor.from_pretrained(given["folder"], use_fast=False)
pixels = processor([Image.open(each) for each in given["images"]], return_tensors="pt")
tokens = AutoTokenizer.from_pretrained(given["folder"])(
    given["texts"], padding=True, truncation=True, return_tensors="pt"
)
print(json.dumps({
    "pixels": pixels["pixel_values"].tolist(),
    "tokens": tokens["input_ids"].tolist(),
    "image": opened("vision_model.onnx")(**pixels).image_embeds.tolist(),
    "text": opened("text_model.onnx")(**tokens).text_embeds.tolist(),
}))
"""


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Files of the bundled sample, as they are and enlarged."""
    folder = tmp_path_factory.mktemp("images")
    with zipfile.ZipFile(sample.folder() / "eval.zip") as archive:
        names = [n for n in archive.namelist() if n.endswith(".png")][::200][:8]
        found = [Image.open(io.BytesIO(archive.read(name))).convert("RGB") for name in names]
    found += [
        each.resize(size, Image.Resampling.LANCZOS)
        for each, size in zip(found, LARGE, strict=False)
    ]
    for number, image in enumerate(found):
        image.save(folder / f"{number:02}.png")
    return sorted(str(path) for path in folder.iterdir())


@pytest.fixture(scope="module")
def folders(layouts_store: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The sample, laid out for each of the tools."""
    root, home = tmp_path_factory.mktemp("layouts"), tmp_path_factory.mktemp("home") / "store"
    shutil.copytree(layouts_store, home)
    spec, sides = zoo.resolve("clipperf-sample"), ("image", "text")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLIPPERF_HOME", str(home))
        precisions = [Variant("onnx", each) for each in ("fp32", "fp16", "int8")]
        lay_out("transformers", spec, sides, precisions, root / "transformers")
        lay_out("fastembed", spec, sides, precisions[:1], root / "fastembed")
    return {path.name: path for path in root.iterdir()}


@pytest.fixture(scope="module")
def own(sample_artifact: Path) -> Any:
    with clipperf.load(sample_artifact) as model:
        yield model


@pytest.fixture(scope="module")
def own_tokens(sample_artifact: Path) -> np.ndarray:
    return Tokenizer.from_folder(sample_artifact)(TEXTS)


def rows(found: Any) -> np.ndarray:
    """An array of what a tool printed."""
    if isinstance(found, dict):
        return np.array(found["data"], np.float32).reshape(found["dims"])
    return np.array(found, np.float32)


def assert_same_tokens(found: np.ndarray, own: np.ndarray) -> None:
    """Up to the end of each text; behind it others pad with the end, where clipperf has 0.

    transformers.js cuts a long text without giving its end back, which the graph does.
    """
    assert found.shape[1] <= own.shape[1]
    for row, expected, length in zip(found, own, eot_lengths(own, CLIP_IDS.eot), strict=True):
        whole = length - (length == own.shape[1])
        assert row[:whole].tolist() == expected[:whole].tolist()
        assert set(row[length:].tolist()) <= {CLIP_IDS.eot}


def assert_equal(found: np.ndarray, expected: np.ndarray, cosine: float, most: float) -> None:
    drift = drift_of(found, expected)
    assert drift.finite
    assert drift.min_cosine >= cosine, drift
    assert drift.max_abs_diff <= most, drift


def test_transformers_js_gives_the_same_vectors(folders, images, own, own_tokens, tmp_path) -> None:
    given = {
        "folder": str(folders["transformers"]),
        "images": images,
        "texts": TEXTS,
        "dtypes": ["fp32", "fp16", "q8"],
        "classes": CLIP,
        "padding": True,
    }
    found = other_tools.node_with(other_tools.transformers_js(), NODE, given, tmp_path / "node")
    pixels, tokens = rows(found["pixels"]), rows(found["tokens"]).astype(np.int64)
    assert_same_tokens(tokens, own_tokens)
    texts = own.encode_texts(list(TEXTS))
    for dtype, cosine, most in (("fp32", 0.9999999, 1e-4), ("fp16", 0.9999, 0.2), ("q8", 0.99, 3)):
        made = found[dtype]
        assert_equal(rows(made["image"]), own.encode_pixels(pixels), cosine, most)
        assert_equal(rows(made["text"]), texts, cosine, most)
    whole = own.encode_images(images)
    small = len(images) - len(LARGE)
    assert_equal(rows(found["fp32"]["image"])[:small], whole[:small], 0.9999999, 1e-4)
    assert_equal(rows(found["fp32"]["image"])[small:], whole[small:], 0.99, 5)


def test_optimum_gives_the_same_vectors(folders, images, own) -> None:
    given = {"folder": str(folders["transformers"]), "images": images, "texts": TEXTS}
    found = other_tools.python_with(other_tools.optimum(), OPTIMUM, given)
    assert_equal(rows(found["image"]), own.encode_pixels(rows(found["pixels"])), 0.9999999, 1e-4)
    assert_equal(rows(found["image"]), own.encode_images(images), 0.9999, 0.05)
    assert_equal(rows(found["text"]), own.encode_texts(list(TEXTS)), 0.9999999, 1e-4)


def test_fastembed_gives_the_same_vectors(folders, images, own) -> None:
    given = {"folder": str(folders["fastembed"]), "images": images, "texts": TEXTS}
    found = other_tools.python_with(other_tools.fastembed(), FASTEMBED, given)
    # fastembed makes unit vectors of images, not of texts.
    assert_equal(rows(found["image"]), own.encode_images(images, normalize=True), 0.9999, 1e-2)
    assert_equal(rows(found["text"]), own.encode_texts(list(TEXTS)), 0.9999999, 1e-4)


SIGLIP = ("SiglipVisionModel", "SiglipTextModel", "pooler_output", "pooler_output")


@pytest.fixture(scope="module")
def siglip(sample_artifact: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A small SigLIP of transformers' laid out for transformers.js, and clipperf's own folder."""
    root = tmp_path_factory.mktemp("siglip")
    transformers_folders.save("siglip", root / "model")
    spec, sides = zoo.resolve(str(root / "model")), ("image", "text")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLIPPERF_HOME", str(root / "home"))
        lay_out("transformers", spec, sides, [Variant("onnx")], root / "laid")
        return root / "laid", make(spec, sides, Variant("onnx")).folder


@pytest.mark.parametrize("padding", ["max_length", True])
def test_transformers_js_reads_siglip_whatever_it_pads(siglip, images, tmp_path, padding) -> None:
    """The graph pads texts to the one length that SigLIP was trained with."""
    laid, folder = siglip
    given = {
        "folder": str(laid),
        "images": images,
        "texts": transformers_folders.CORPUS[:4],
        "dtypes": ["fp32"],
        "classes": SIGLIP,
        "padding": padding,
    }
    found = other_tools.node_with(other_tools.transformers_js(), NODE, given, tmp_path / "node")
    with clipperf.load(folder) as model:
        texts, image = (
            model.encode_texts(given["texts"]),
            model.encode_pixels(rows(found["pixels"])),
        )
    assert_equal(rows(found["fp32"]["text"]), texts, 0.9999999, 1e-4)
    assert_equal(rows(found["fp32"]["image"]), image, 0.9999999, 1e-4)


def test_the_text_graph_reads_the_first_token(folders) -> None:
    """clipperf's own graphs take CLIP's start token for granted; others may have none."""
    spec = zoo.resolve("clipperf-sample")
    tower = family_of(spec).build(spec, "text", False)
    ids = np.array([[49406, 320, 2368, 49407], [320, 2368, 539, 49407]], np.int64)
    path = folders["transformers"] / "onnx" / "text_model.onnx"
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    found = session.run(["text_embeds"], {"input_ids": ids, "attention_mask": np.ones_like(ids)})
    with torch.inference_mode():
        expected = tower.module(torch.from_numpy(ids)).numpy()
    assert_equal(found[0], expected, 0.9999999, 1e-4)


WEB = """
import fs from 'node:fs';
import * as ort from 'onnxruntime-web/wasm';
const { files, ids } = JSON.parse(fs.readFileSync(0));
ort.env.wasm.numThreads = 1;
ort.env.logLevel = 'error';
const found = {};
for (const file of files) {
  const session = await ort.InferenceSession.create(fs.readFileSync(file));
  const given = new ort.Tensor('int64', BigInt64Array.from(ids, BigInt), [1, ids.length]);
  const { text_embeds } = await session.run({ input_ids: given });
  found[file] = [Array.from(text_embeds.data)];
}
console.log(JSON.stringify(found));
"""


def test_webassembly_runs_every_precision_as_browsers_do(folders, own, tmp_path) -> None:
    onnx = folders["transformers"] / "onnx"
    cosines = {"text_model": 0.9999999, "text_model_fp16": 0.9999, "text_model_quantized": 0.99}
    ids = [49406, 320, 3610, 539, 320, 2368, 49407]
    given = {"files": [str(onnx / f"{name}.onnx") for name in cosines], "ids": ids}
    found = other_tools.node_with(other_tools.transformers_js(), WEB, given, tmp_path / "web")
    expected = own.encode_texts(["a drawing of a cat"])
    for name, cosine in cosines.items():
        assert_equal(rows(found[str(onnx / f"{name}.onnx")]), expected, cosine, 3)


TOKENIZER = """
import fs from 'node:fs';
import path from 'node:path';
import { env, AutoTokenizer } from '@huggingface/transformers';
const { folder, texts } = JSON.parse(fs.readFileSync(0));
env.allowRemoteModels = false;
env.localModelPath = path.dirname(folder) + '/';
const tokenizer = await AutoTokenizer.from_pretrained(path.basename(folder));
const ids = (text) => Array.from(tokenizer(text).input_ids.data, Number);
console.log(JSON.stringify(texts.map(ids)));
"""


@pytest.mark.parametrize("kind", ["lower", "canonicalize", "sentencepiece", "siglip", "altclip"])
def test_javascript_cleans_and_splits_texts_as_clipperf_does(tmp_path: Path, kind: str) -> None:
    source, laid = tmp_path / "source", tmp_path / "laid"
    source.mkdir()
    laid.mkdir()
    if kind in ("lower", "canonicalize"):
        write_clip_tokenizer(source, 64, kind)
    else:
        if kind == "sentencepiece":
            transformers_folders.save_sentencepiece(tmp_path / "own")
        else:
            transformers_folders.tokenizer_of(kind).save_pretrained(tmp_path / "own")
        transformers_tokenizer.write(tmp_path / "own", 64, source)
    own = transformers_files.write_tokenizer(laid, source, any_padding=True)
    texts = [*transformers_folders.CORPUS, *(t for t in transformers_files.PROBES if len(t) < 60)]
    given = {"folder": str(laid), "texts": texts}
    js = other_tools.transformers_js()
    found = other_tools.node_with(js, TOKENIZER, given, tmp_path / "node")
    for text, ids, expected in zip(texts, found, own(texts), strict=True):
        assert ids == expected[: len(ids)].tolist(), text
        assert len(ids) == 64 or expected[len(ids)] in (own.spec.pad_id, own.spec.eot_id), text
