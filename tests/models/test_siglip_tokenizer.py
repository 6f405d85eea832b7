"""SigLIP's first tokenizer, from its vocabulary file alone: hand-computed, and as transformers'."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clipperf.errors import ExportError, WeightsError
from clipperf.inputs.tokenize import Tokenizer
from clipperf.models import transformers_tokenizer

pytest.importorskip("transformers", reason="reads sentencepiece's files")
from transformers_folders import CORPUS, texts

PIECES = ("<pad>", "</s>", "<unk>", "▁", "▁a", "▁dog", "s", "d", "o", "g", "é", "가", "A")
SETTINGS = {"tokenizer_class": "SiglipTokenizer", "do_lower_case": True}


def save(folder: Path, settings: dict[str, Any] | None = None, **changes: Any) -> Path:
    """A folder with the tokenizer's two files; `changes` are made to its normalizer."""
    from transformers.convert_slow_tokenizer import import_protobuf

    folder.mkdir()
    model = import_protobuf().ModelProto()
    for number, piece in enumerate(PIECES):
        kind = {0: 3, 1: 3, 2: 2}.get(number, 1)  # control, unknown, normal
        model.pieces.add(piece=piece, score=-1.0 if len(piece) > 1 else -5.0, type=kind)
    model.trainer_spec.unk_id = 2
    model.normalizer_spec.name = changes.get("name", "nmt_nfkc")
    (folder / "spiece.model").write_bytes(model.SerializeToString())
    (folder / "tokenizer_config.json").write_text(json.dumps({**SETTINGS, **(settings or {})}))
    return folder


def written(folder: Path, context_tokens: int = 8, pad: int | None = None) -> Tokenizer:
    target = folder / "target"
    target.mkdir(exist_ok=True)
    transformers_tokenizer.write(folder, context_tokens, target, pad)
    return Tokenizer.from_folder(target)


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("", []),
        ("  A,  DOG's!\n", [4, 5, 6]),
        ("_a", [4]),
        ("▁a", [4]),
        ("a </s> dog", [4, 1, 7, 8, 9]),
        ("a <unk>", [4, 2]),
        ("a</s>", [4]),
        ("a dog a dog a dog a dog a dog", [4, 5, 4, 5, 4, 5, 4]),
        ("aé", [4, 10]),
        ("ae\u0301", [4, 10]),
        ("a\u1100\u1161", [4, 11]),  # a syllable of two letters
        ("a東京", [4, 2]),  # what is unknown side by side is one
    ],
)
def test_tokens_are_those_computed_by_hand(tmp_path: Path, text: str, ids: list[int]) -> None:
    tokenizer = written(save(tmp_path / "siglip"))
    assert tokenizer(text)[0].tolist() == ids + [1] * (8 - len(ids))
    assert (tokenizer.spec.pad_id, tokenizer.eot_id, tokenizer.start_id) == (1, 1, None)


def test_what_other_settings_mean_is_not_guessed(tmp_path: Path) -> None:
    for number, (settings, changes, said) in enumerate(
        (
            ({"do_lower_case": False}, {}, "do_lower_case"),
            ({"eos_token": {"content": "<eos>"}}, {}, "eos_token"),
            ({}, {"name": "identity"}, "normalizer_spec"),
        )
    ):
        folder = save(tmp_path / str(number), settings, **changes)
        with pytest.raises(ExportError, match=rf"other settings.*\({said}\).*--tower image"):
            written(folder)
    folder = save(tmp_path / "masked")
    with pytest.raises(ExportError, match=r"pads with the token that ends a text.*input_ids"):
        written(folder, pad=1)
    (folder / "spiece.model").write_bytes(b"\xff" * 100)
    with pytest.raises(WeightsError, match="no model of sentencepiece's"):
        written(folder)


def test_texts_have_the_tokens_of_transformers_own(tmp_path: Path) -> None:
    trainer = pytest.importorskip("sentencepiece").SentencePieceTrainer
    from transformers import SiglipTokenizer

    (tmp_path / "corpus").write_text("\n".join([*CORPUS, "a <b> c > d <"] * 30))
    trainer.train(
        input=str(tmp_path / "corpus"), model_prefix=str(tmp_path / "spiece"), vocab_size=300,
        model_type="unigram", pad_id=0, eos_id=1, unk_id=2, bos_id=-1, hard_vocab_limit=False,
        normalization_rule_name="nmt_nfkc", minloglevel=2,
    )  # fmt: skip
    theirs = SiglipTokenizer(str(tmp_path / "spiece.model"))
    theirs.save_pretrained(tmp_path)
    asked = texts(10_000)
    wanted = theirs(asked, padding="max_length", truncation=True, max_length=32)["input_ids"]
    found = written(tmp_path, 32)(asked)
    for text, mine, original in zip(asked, found, np.asarray(wanted), strict=True):
        assert mine.tolist() == original.tolist(), repr(text[:60])
