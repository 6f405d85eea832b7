"""Tokenizers of transformers', copied: token for token, whatever the text."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from clipperf.errors import ExportError, WeightsError
from clipperf.inputs.tokenize import Tokenizer
from clipperf.models import transformers_tokenizer

pytest.importorskip("transformers", reason="tokenizers are transformers' own")
from transformers_folders import texts, tokenizer_of


@pytest.mark.parametrize("kind", ["clip", "siglip", "xlm-roberta", "bert"])
def test_texts_have_the_tokens_of_transformers(tmp_path: Path, kind: str) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    target.mkdir()
    theirs = tokenizer_of(kind)
    theirs.save_pretrained(source)
    transformers_tokenizer.write(source, 32, target)
    ours = Tokenizer.from_folder(target)
    asked = texts(2_500)
    wanted = theirs(asked, padding="max_length", truncation=True, max_length=32)["input_ids"]
    found = ours(asked)
    for text, mine, original in zip(asked, found, np.asarray(wanted), strict=True):
        assert mine.tolist() == original.tolist(), repr(text[:60])
    assert (found != ours.spec.pad_id).any()


def test_the_start_of_every_text_is_known_where_there_is_one(tmp_path: Path) -> None:
    for kind, first in (("clip", 49406), ("xlm-roberta", 0), ("bert", 2), ("siglip", None)):
        source, target = tmp_path / kind, tmp_path / f"{kind}-target"
        target.mkdir()
        tokenizer_of(kind).save_pretrained(source)
        transformers_tokenizer.write(source, 16, target)
        assert Tokenizer.from_folder(target).start_id == first, kind


def test_folders_without_a_tokenizer_and_with_one_that_does_not_pad(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"holds no tokenizer.*--tower image"):
        transformers_tokenizer.write(tmp_path, 16, tmp_path)
    tokenizer = tokenizer_of("bert")
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(WeightsError, match="pads with 0, the text tower takes 7"):
        transformers_tokenizer.write(tmp_path, 16, tmp_path, pad=7)
    tokenizer.pad_token = None
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ExportError, match="no padding token"):
        transformers_tokenizer.write(tmp_path, 16, tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(WeightsError, match="cannot be read"):
        transformers_tokenizer.write(tmp_path, 16, tmp_path)


def test_a_tokenizer_without_a_library_behind_it_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Slow:
        pad_token_id = 1

    monkeypatch.setattr(transformers_tokenizer, "opened", lambda folder: Slow())
    with pytest.raises(ExportError, match=r"Slow\) works in Python.*--tower image"):
        transformers_tokenizer.write(tmp_path, 16, tmp_path)
