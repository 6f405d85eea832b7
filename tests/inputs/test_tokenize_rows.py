"""Rows of tokens by hand: a tokenizer of a few words, and what is put around them."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from tokenizers import models, pre_tokenizers, processors

from clipperf.errors import ArtifactError, MissingDependencyError, UsageError
from clipperf.inputs import tokenize
from clipperf.inputs.tokenize import (
    CLEANERS,
    EOT,
    SOT,
    Tokenizer,
    TokenizerSpec,
    check_context,
    eot_lengths,
)
from clipperf.system.files import write_json

WORDS = {"<unk>": 0, "a": 1, "dog": 2, "cat": 3, "!": 4, "'s": 5, "7": 6, "é": 7, "ü": 8}
SOT_ID, EOT_ID, CLS_ID = 90, 91, 92
CLIP = TokenizerSpec("clip", "lower", 6, pad_id=0, sot_id=SOT_ID, eot_id=EOT_ID)
HF = TokenizerSpec("hf", "whitespace", 5, pad_id=9)
CLIPS = TokenizerSpec("clips", "lower", 7, 80, sot_id=SOT_ID, eot_id=EOT_ID, cls_id=CLS_ID)


def backend(special: bool = False) -> Any:
    made = tokenizers.Tokenizer(models.WordLevel(WORDS, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if special:
        made.add_special_tokens(["[CLS]", "[SEP]"])
        ids = [(name, made.token_to_id(name)) for name in ("[CLS]", "[SEP]")]
        made.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", None, ids)
    return made


def rows(spec: TokenizerSpec, texts: Any, context: int | None = None, **more: Any) -> Any:
    return Tokenizer(backend(**more), spec)(texts, context).tolist()


# --- clip ----------------------------------------------------------------------------------


def test_start_words_end_and_padding() -> None:
    assert rows(CLIP, ["a dog", "", "a dog's cat!"]) == [
        [SOT_ID, 1, 2, EOT_ID, 0, 0],
        [SOT_ID, EOT_ID, 0, 0, 0, 0],
        # Five words: the last token becomes the end.
        [SOT_ID, 1, 2, 5, 3, EOT_ID],
    ]
    assert rows(CLIP, "cat") == [[SOT_ID, 3, EOT_ID, 0, 0, 0]]
    assert rows(CLIP, ["a dog a"], 3) == [[SOT_ID, 1, EOT_ID]]
    assert rows(CLIP, ["a dog a"], 1) == [[EOT_ID]]
    assert rows(CLIP, []) == []
    padded = dataclasses.replace(CLIP, pad_id=77)
    assert rows(padded, ["cat"]) == [[SOT_ID, 3, EOT_ID, 77, 77, 77]]
    assert Tokenizer(backend(), CLIP)(["cat"]).dtype == np.int64


def test_texts_beyond_ascii_and_typed_specials_keep_their_places() -> None:
    typed = f"{SOT} dog {EOT} é"
    assert rows(CLIP, ["cat", "é dog", typed, "ü", "a"]) == [
        [SOT_ID, 3, EOT_ID, 0, 0, 0],
        [SOT_ID, 7, 2, EOT_ID, 0, 0],
        [SOT_ID, SOT_ID, 2, EOT_ID, 7, EOT_ID],
        [SOT_ID, 8, EOT_ID, 0, 0, 0],
        [SOT_ID, 1, EOT_ID, 0, 0, 0],
    ]
    assert rows(CLIP, [f"{EOT} cat"]) == [[SOT_ID, EOT_ID, 3, EOT_ID, 0, 0]]
    assert rows(CLIP, [f"{SOT} cat"]) == [[SOT_ID, SOT_ID, 3, EOT_ID, 0, 0]]


def test_special_tokens_of_the_file_are_left_out() -> None:
    made = Tokenizer(backend(special=True), CLIP)
    assert made(["é dog", "cat"]).tolist() == [
        [SOT_ID, 7, 2, EOT_ID, 0, 0],
        [SOT_ID, 3, EOT_ID, 0, 0, 0],
    ]
    assert rows(CLIPS, ["é"], special=True) == [[SOT_ID, 7, EOT_ID, 80, 80, 80, CLS_ID]]


def test_a_class_token_is_of_clips_alone() -> None:
    for spec, row in ((CLIP, [SOT_ID, 3, EOT_ID, 0, 0, 0]), (HF, [3, 9, 9, 9, 9])):
        assert rows(dataclasses.replace(spec, cls_id=CLS_ID), ["cat"]) == [row]


def test_one_id_is_set_to_zero_everywhere() -> None:
    zeroed = dataclasses.replace(CLIP, pad_id=4, zeroed_id=4)
    assert rows(zeroed, ["cat !"]) == [[SOT_ID, 3, 0, EOT_ID, 0, 0]]


def test_words_are_remembered_up_to_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    made = Tokenizer(backend(), CLIP)
    long = "dog" * 11
    made(["a cat", "cat a", long, f"{long} é {EOT}"])
    assert made._word_ids.keys() == {"a", "cat", EOT}
    assert (tokenize._CACHED_WORDS, tokenize._CACHED_LENGTH) == (65536, 32)
    made([("x" * 32)])
    assert len(made._word_ids) == 4
    monkeypatch.setattr(tokenize, "_CACHED_WORDS", 4)
    assert made(["dog"]).tolist() == [[SOT_ID, 2, EOT_ID, 0, 0, 0]]
    assert made._word_ids == {"dog": [2]}
    # What is remembered is used.
    made._word_ids["dog"] = [55]
    assert made(["dog"])[0, 1] == 55


def test_ascii_words_of_the_pattern() -> None:
    made = [[*tokenize._ASCII_WORDS.findall(text)] for text in ("I'll 12 ab!?c", "it's'd <<x")]
    assert made == [["I", "'ll", "1", "2", "ab", "!?", "c"], ["it", "'s", "'d", "<<", "x"]]
    every = "x'S x't x're x've x'm x'll x'd"
    assert tokenize._ASCII_WORDS.findall(every)[1::2] == [
        *("'S", "'t", "'re", "'ve", "'m", "'ll", "'d")
    ]
    assert tokenize._ASCII_WORDS.findall(SOT.upper()) == [SOT.upper()]


# --- hf and clips --------------------------------------------------------------------------


def test_hugging_face_rows() -> None:
    texts = ["a dog", "a dog cat ! a"]
    assert rows(HF, texts) == [[1, 2, 9, 9, 9], [1, 2, 3, 4, 1]]
    assert rows(HF, texts, 3) == [[1, 2, 9], [1, 2, 3]]
    left = dataclasses.replace(HF, padding_side="left")
    assert rows(left, texts) == [[9, 9, 9, 1, 2], [1, 2, 3, 4, 1]]
    cut_left = dataclasses.replace(HF, truncation_side="left")
    assert rows(cut_left, texts, 3) == [[1, 2, 9], [3, 4, 1]]
    cls, sep = len(WORDS), len(WORDS) + 1
    assert rows(HF, texts, special=True) == [[cls, 1, 2, sep, 9], [cls, 1, 2, 3, sep]]
    with pytest.raises(UsageError, match="context_tokens is 2, it must be 3 or more"):
        rows(HF, texts, 2, special=True)
    assert rows(HF, texts, 3, special=True) == [[cls, 1, sep], [cls, 1, sep]]


def test_special_tokens_that_are_typed() -> None:
    cls, sep = len(WORDS), len(WORDS) + 1
    assert rows(HF, ["[CLS] a"], special=True) == [[cls, cls, 1, sep, 9]]
    plain = dataclasses.replace(HF, plain_specials=True)
    assert rows(plain, ["[CLS] a"], special=True) == [[cls, 0, 1, sep, 9]]


def test_padding_and_truncation_of_the_file_are_not_used() -> None:
    made = backend()
    made.enable_padding(length=9)
    made.enable_truncation(1)
    assert Tokenizer(made, CLIP)(["a é dog"]).tolist() == [[SOT_ID, 1, 7, 2, EOT_ID, 0]]


def test_a_class_token_in_the_last_place() -> None:
    assert rows(CLIPS, ["a dog", "a dog cat ! a dog"]) == [
        [SOT_ID, 1, 2, EOT_ID, 80, 80, CLS_ID],
        [SOT_ID, 1, 2, 3, 4, EOT_ID, CLS_ID],
    ]
    assert rows(CLIPS, ["a dog"], 4) == [[SOT_ID, 1, EOT_ID, CLS_ID]]
    with pytest.raises(UsageError, match="4 or more"):
        rows(CLIPS, ["a dog"], 3)


def test_lengths_do_not_disturb_each_other() -> None:
    made = Tokenizer(backend(), HF)
    for context in (3, 5, 3, 1):
        assert made(["a dog cat ! a"], context).tolist() == [[1, 2, 3, 4, 1][:context]]


# --- what it says of itself ----------------------------------------------------------------


def test_properties() -> None:
    assert (Tokenizer(backend(), CLIP).context_tokens, Tokenizer(backend(), CLIP).eot_id) == (6, 91)
    starts = [Tokenizer(backend(), spec).start_id for spec in (CLIP, HF, CLIPS)]
    assert starts == [SOT_ID, None, None]
    assert Tokenizer(backend(), HF).eot_id is None


@pytest.mark.parametrize("wrong", [None, 5, b"x", ["a"]])
def test_what_is_no_text(wrong: Any) -> None:
    with pytest.raises(UsageError, match=f"text 1 is {type(wrong).__name__}, expected str"):
        rows(CLIP, ["a", wrong])


@pytest.mark.parametrize("context", [0, -1, True, 2.0, "3", None])
def test_contexts_that_hold_nothing(context: Any) -> None:
    with pytest.raises(UsageError, match="it must be 1 or more"):
        check_context(context, 1)
    check_context(1, 1)
    check_context(4, 4)
    with pytest.raises(UsageError, match="is 3, it must be 4 or more"):
        check_context(3, 4)


def test_lengths_up_to_the_first_end() -> None:
    tokens = np.array([[5, 9, 0, 9], [9, 0, 0, 0], [1, 2, 3, 4], [1, 2, 3, 9]])
    assert eot_lengths(tokens, 9).tolist() == [2, 1, 4, 4]
    assert eot_lengths(tokens[:, :2], 9).tolist() == [2, 1, 2, 2]


# --- cleaning ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("clean", "text", "cleaned"),
    [
        ("lower", "  A\n Dog's\tCat ", "a dog's cat"),
        ("whitespace", "  A\n Dog's\tCat ", "A Dog's Cat"),
        ("canonicalize", "  A_Dog's, (cat)! ", "a dogs cat"),
        ("lower", "&amp;amp; &lt;X&gt;", "& <x>"),
        ("lower", "schÃ¶n", "schön"),
        ("canonicalize", "É&amp;a–b", "éa–b"),
    ],
)
def test_cleaning(clean: str, text: str, cleaned: str) -> None:
    assert CLEANERS[clean](text) == cleaned


def test_cleaning_is_chosen_by_name() -> None:
    assert list(CLEANERS) == ["lower", "canonicalize", "whitespace", "none", "siglip"]
    assert CLEANERS["none"](" A\n&amp; ") == " A\n&amp; "
    with pytest.raises(UsageError, match="limit is 1,048,576"):
        CLEANERS["none"]("a" * (2**20 + 1))
    assert rows(HF, ["A  dog"]) == [[0, 2, 9, 9, 9]]
    assert rows(dataclasses.replace(HF, clean="lower"), ["A  dog"]) == [[1, 2, 9, 9, 9]]


@pytest.mark.parametrize("text", ["a&b", "\x00", "\x1f", "\x7f", "é"])
def test_which_texts_need_ftfy(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ftfy", None)
    with pytest.raises(MissingDependencyError, match=r"ftfy is not installed, which .*plain ASCII"):
        CLEANERS["lower"](text)
    assert CLEANERS["lower"]("\t~!%'(plain)\n") == "~!%'(plain)"
    with pytest.raises(MissingDependencyError, match=r"^sentence_x is not installed: pip install"):
        tokenize.import_late("sentence_x")


# --- on disk -------------------------------------------------------------------------------


def test_a_folder_is_read(tmp_path: Path) -> None:
    backend().save(str(tmp_path / "tokenizer.json"))
    write_json(tmp_path / "clipperf_tokenizer.json", CLIP.to_json())
    made = Tokenizer.from_folder(str(tmp_path))
    assert made.spec == CLIP
    assert made(["a dog"]).tolist() == [[SOT_ID, 1, 2, EOT_ID, 0, 0]]
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ArtifactError, match=r"cannot read .*tokenizer.json.*export the model"):
        Tokenizer.from_folder(tmp_path)


def test_a_spec_by_default() -> None:
    spec = TokenizerSpec("hf", "lower", 5, 0)
    assert spec.to_json() == {
        "kind": "hf",
        "clean": "lower",
        "context_tokens": 5,
        "pad_id": 0,
        **dict.fromkeys(("sot_id", "eot_id", "cls_id", "zeroed_id", "ids_below", "origin")),
        "padding_side": "right",
        "truncation_side": "right",
        "plain_specials": False,
    }
    assert TokenizerSpec.from_json({**spec.to_json(), "of_later": 1}) == spec


@pytest.mark.parametrize(
    ("spec", "field", "value"),
    [
        (HF, "kind", "bpe"),
        (HF, "clean", "upper"),
        (HF, "context_tokens", 0),
        (HF, "context_tokens", -5),
        (HF, "pad_id", -1),
        (HF, "eot_id", -1),
        (HF, "zeroed_id", -1),
        (HF, "padding_side", "top"),
        (HF, "truncation_side", "middle"),
        (CLIP, "sot_id", None),
        (CLIP, "eot_id", None),
        (CLIPS, "sot_id", None),
        (CLIPS, "eot_id", None),
        (CLIPS, "cls_id", None),
        (CLIPS, "cls_id", -1),
    ],
)
def test_specs_that_are_not_valid(spec: TokenizerSpec, field: str, value: Any) -> None:
    with pytest.raises(ArtifactError, match=f"^here: {field} is missing or not valid: {value!r}"):
        TokenizerSpec.from_json({**spec.to_json(), field: value}, "here")


def test_specs_that_are_valid() -> None:
    smallest = dataclasses.replace(HF, context_tokens=1, pad_id=0, zeroed_id=0, eot_id=0)
    for spec in (CLIP, HF, CLIPS, smallest, dataclasses.replace(CLIP, cls_id=None)):
        assert TokenizerSpec.from_json(spec.to_json()) == spec
    for wrong in ([], None, "x"):
        with pytest.raises(ArtifactError, match="tokenizer: expected an object"):
            TokenizerSpec.from_json(wrong)
    with pytest.raises(ArtifactError, match="export the model again"):
        TokenizerSpec.from_json({"kind": "hf"})
