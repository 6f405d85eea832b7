"""Settings as transformers' files: transformers itself reads them, and does what clipperf does."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import transformers_folders
from PIL import Image

from clipperf.errors import ExportError
from clipperf.inputs.preprocess import preprocess
from clipperf.inputs.preprocess_spec import PreprocessSpec
from clipperf.inputs.tokenize import CONFIG_FILE, Tokenizer, eot_lengths
from clipperf.inputs.transformers_files import (
    PROBES,
    _repairs,
    write_config,
    write_preprocessor,
    write_tokenizer,
)
from clipperf.models import transformers_tokenizer
from clipperf.models.tokenizer_files import write_clip_tokenizer
from clipperf.nouns.model import ModelSpec, Similarity

SPEC = ModelSpec("a::b", "open_clip", "a", "b", 32, 16, 24)


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("clip")
    write_clip_tokenizer(folder, 16)
    return folder


def test_transformers_reads_clips_tokenizer(clips: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    own = write_tokenizer(tmp_path, clips, any_padding=True)
    read = AutoTokenizer.from_pretrained(tmp_path, local_files_only=True)
    assert type(read).__name__.startswith("CLIPTokenizer")
    found = read(list(PROBES), padding=True, truncation=True, return_tensors="np")
    tokens = own(PROBES)
    for row, expected, length in zip(
        found["input_ids"], tokens, eot_lengths(tokens, 49407), strict=True
    ):
        assert row[:length].tolist() == expected[:length].tolist()
        assert set(row[length:].tolist()) <= {49407}
    assert (read.pad_token_id, read.model_max_length) == (49407, 16)


@pytest.mark.parametrize("clean", ["whitespace", "canonicalize"])
def test_what_clipperf_cleans_the_tokenizer_cleans(tmp_path: Path, clean: str) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    target.mkdir()
    write_clip_tokenizer(source, 16, clean)
    write_tokenizer(target, source, any_padding=True)
    steps = json.loads((target / "tokenizer.json").read_text())["normalizer"]["normalizers"]
    assert ({"type": "Lowercase"} in steps) == (clean == "canonicalize")


ODD = (
    *(
        "it’s a “cat”",
        "‘tis „low‟ ‚quoted‛ ʼn",
        "ﬁne ﬂat oﬃce ﬅ Ǆ ǉ Ĳ",
        "ＦＵＬＬ　ｗｉｄｔｈ！ ｶﾅ ￦",
    ),
    *("a\x00b\x07c\x1fd\x7fe", "a\ufeffb\u206ac\ufffcd", "wi\u200bdth stays", "tab\tand\x0bmore"),
)


@pytest.mark.parametrize("clean", ["lower", "whitespace", "canonicalize"])
def test_letters_that_ftfy_repairs_are_repaired(tmp_path: Path, clean: str) -> None:
    """As phones type quotes, and as PDFs and East Asian keyboards give letters."""
    from tokenizers import Tokenizer as Backend

    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    target.mkdir()
    write_clip_tokenizer(source, 32, clean)
    own = write_tokenizer(target, source, any_padding=True)
    read = Backend.from_file(str(target / "tokenizer.json"))
    for text in ODD:
        found, expected = read.encode(text).ids, own([text])[0]
        assert found == expected[: len(found)].tolist(), text
        assert found[-1] == 49407, text


def test_the_tables_of_letters_are_ftfys() -> None:
    from ftfy import chardata

    steps = [(step["pattern"]["Regex"], step["content"]) for step in _repairs()]
    letters = {pattern: content for pattern, content in steps if len(pattern) == 1}
    ours = {ord(letter): content for letter, content in letters.items()}
    assert ours == chardata.LIGATURES | chardata.WIDTH_MAP
    removed = re.compile(steps[-1][0])
    every = {code for code in range(0x110000) if removed.match(chr(code))}
    assert every == {code for code, content in chardata.CONTROL_CHARS.items() if content is None}


@pytest.mark.parametrize("kind", ["clip", "siglip", "altclip", "chinese_clip", "sentencepiece"])
def test_tokenizers_of_transformers_own_come_back(tmp_path: Path, kind: str) -> None:
    from transformers import AutoTokenizer

    own, source, target = (tmp_path / name for name in ("own", "source", "target"))
    for folder in (source, target):
        folder.mkdir()
    if kind == "sentencepiece":
        transformers_folders.save_sentencepiece(own)
    else:
        transformers_folders.tokenizer_of(kind).save_pretrained(own)
    transformers_tokenizer.write(own, 16, source)
    written = write_tokenizer(target, source, any_padding=False)
    read = AutoTokenizer.from_pretrained(target, local_files_only=True)
    texts = list(transformers_folders.CORPUS)
    found = read(texts, padding="max_length", truncation=True, return_tensors="np")
    assert np.array_equal(found["input_ids"], written(texts))


def test_what_no_tokenizer_of_transformers_does_is_refused(clips: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="looks at its padding, the token 0"):
        write_tokenizer(tmp_path, clips, any_padding=False)
    source = tmp_path / "zeroed"
    source.mkdir()
    for name in ("tokenizer.json", CONFIG_FILE):
        (source / name).write_bytes((clips / name).read_bytes())
    settings = json.loads((source / CONFIG_FILE).read_text())
    (source / CONFIG_FILE).write_text(json.dumps({**settings, "zeroed_id": 5}))
    with pytest.raises(ExportError, match=r"puts tokens in places .*--tower image"):
        write_tokenizer(tmp_path, source, any_padding=True)


def test_a_token_without_a_name_is_left_out(tmp_path: Path) -> None:
    own, source = tmp_path / "own", tmp_path / "source"
    source.mkdir()
    transformers_folders.tokenizer_of("chinese_clip").save_pretrained(own)
    transformers_tokenizer.write(own, 16, source)
    settings = json.loads((source / CONFIG_FILE).read_text())
    (source / CONFIG_FILE).write_text(json.dumps({**settings, "pad_id": 999_999}))
    write_tokenizer(tmp_path, source, any_padding=True)
    special = json.loads((tmp_path / "special_tokens_map.json").read_text())
    assert special == {"bos_token": "[CLS]", "eos_token": "[SEP]", "unk_token": "[UNK]"}
    assert "pad_token" not in json.loads((tmp_path / "tokenizer_config.json").read_text())


@pytest.mark.parametrize(
    "spec",
    [
        PreprocessSpec(32, 32, rules="transformers"),
        PreprocessSpec(32, 32, rules="transformers", short_px=40),
        PreprocessSpec(24, 32, resize_mode="squash", interpolation="bilinear"),
    ],
)
def test_transformers_makes_the_same_pixels(tmp_path: Path, spec: PreprocessSpec) -> None:
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    write_preprocessor(tmp_path, spec)
    settings = json.loads((tmp_path / "preprocessor_config.json").read_text())
    read = CLIPImageProcessorPil(**settings)
    noise = np.random.default_rng(0).integers(0, 256, (57, 83, 3), np.uint8)
    image = Image.fromarray(noise)
    found = np.asarray(read([image], return_tensors="np")["pixel_values"])
    own = preprocess([image], spec, np.empty((1, *spec.shape), np.float32))
    assert np.abs(found - own).max() < 1e-5


def test_other_preprocessing_is_refused(tmp_path: Path) -> None:
    spec = PreprocessSpec(32, 32, resize_mode="longest")
    for each in (spec, replace(spec, height_px=24, resize_mode="shortest")):
        with pytest.raises(ExportError, match="serve this model with"):
            write_preprocessor(tmp_path, each)


def test_the_configuration_names_the_kind_of_model(clips: Path, tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_folder(clips)
    write_config(tmp_path, SPEC, Similarity("softmax", 4.6), tokenizer, {"more": 1})
    found = json.loads((tmp_path / "config.json").read_text())
    assert (found["model_type"], found["projection_dim"], found["more"]) == ("clip", 24, 1)
    assert (found["pad_token_id"], found["logit_scale_init_value"]) == (49407, 4.6)
    assert found["text_config"]["max_position_embeddings"] == 16
    write_config(tmp_path, SPEC, Similarity("sigmoid", 4.7, -12.9), None)
    found = json.loads((tmp_path / "config.json").read_text())
    assert (found["model_type"], found["logit_bias_init_value"]) == ("siglip", -12.9)
