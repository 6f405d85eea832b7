"""Tokenizers of transformers', copied: token for token, whatever the text."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from clipperf.errors import ExportError, WeightsError
from clipperf.inputs.tokenize import Tokenizer
from clipperf.models import transformers_tokenizer

pytest.importorskip("transformers", reason="tokenizers are transformers' own")
from transformers_folders import CORPUS, tokenizer_of

HOSTILE = (
    *("", " ", "\n", "\t \r\n", "\x00", "a\x00b", "\x1b[31m", "\ufeff", "\u200b\u200d", "\u202e"),
    *(
        "👍🏽",
        "👨‍👩‍👧‍👦",
        "é",
        "e\u0301",
        "ﬁ",
        "ＦＵＬＬ",
        "İ",
        "ß",
        "ǅ",
        "Ω",
        "\u0345",
        "\U0010ffff",
    ),
    *("<s>", "</s>", "<pad>", "[PAD] [CLS] [SEP]", "<|endoftext|>", "<eos> <bos>", "<mask>"),
    *("<unk>", "<0x41>", "▁", "##ing", "a</w>", "'S 'LL", "it's", "&amp;lt;", "<b>x</b>"),
    *("word " * 3000, "a" * 5000, "東" * 3000, "\n".join("ab" * 500), "1234567890" * 100),
)


def texts(count: int) -> list[str]:
    """The hostile ones, then random mixtures of scripts, controls, emoji and words."""
    chosen = random.Random(0)
    ranges = ((0, 0x7F), (0x20, 0x7E), (0xA0, 0x24F), (0x370, 0x5FF), (0x600, 0x6FF))
    ranges += ((0x900, 0x97F), (0xE00, 0xE7F), (0x3040, 0x30FF), (0x4E00, 0x9FFF))
    ranges += ((0xAC00, 0xD7A3), (0x1F300, 0x1FAFF), (0x2000, 0x206F), (0xFF00, 0xFFEF))
    words = [word for text in CORPUS for word in text.split()] + [*HOSTILE[:40]]
    found = list(HOSTILE)
    while len(found) < count:
        parts = []
        for _ in range(chosen.randint(1, 6)):
            if chosen.random() < 0.5:
                parts.append(chosen.choice(words))
            else:
                low, high = chosen.choice(ranges)
                length = chosen.randint(1, 8)
                parts.append("".join(chr(chosen.randint(low, high)) for _ in range(length)))
        found.append(chosen.choice(("", " ", "  ", "\n")).join(parts))
    return found


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
    class SiglipTokenizer:
        pad_token_id = 1

    monkeypatch.setattr(transformers_tokenizer, "opened", lambda folder: SiglipTokenizer())
    with pytest.raises(ExportError, match=r"SiglipTokenizer\) works in Python.*--tower image"):
        transformers_tokenizer.write(tmp_path, 16, tmp_path)
