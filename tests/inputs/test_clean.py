"""Long texts: cut where that changes no token, refused where it might, and never slow."""

from __future__ import annotations

import random
import re
from pathlib import Path

import numpy as np
import pytest

from clipperf.errors import ArtifactError, UsageError
from clipperf.inputs import clean as cleaning
from clipperf.inputs import tokenize
from clipperf.inputs.clean import CLEANERS, MAX_CHARACTERS, MAX_ENTITY_CHARACTERS, first_words
from clipperf.inputs.tokenize import Tokenizer, TokenizerSpec
from clipperf.models.tokenizer_files import write_clip_tokenizer

PIECES = (
    *("a dog", "it's", "!!", "_", "9", "word", "<b>", "<", "&lt;", "&amp;lt;", "&amp;amp;eacute;"),
    *("schÃ¶n", "Ã", "©", "“q”", "é", "ΟΔΟΣ", "ς", "\u0301", "ﬁ", "\x1b[31m", "&", "&#38;lt;"),
    *(
        "\x00",
        "＆",
        "ａｍｐ；",
        "amp;",
        "&#10;",
        "<end_of_text>",
        "東京",
        "ï¿½",
        "Â\xa0",
        ";",
        "&#1",
    ),
)
SPACES = (" ", " ", "", "\n", "\n", "\r\n", "\t", "\u2028", "\x85", "\xa0")


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tokenizer]:
    made = {}
    for clean in CLEANERS:
        folder = tmp_path_factory.mktemp(clean)
        write_clip_tokenizer(folder, 77, clean)
        made[clean] = Tokenizer.from_folder(folder)
    return made


def generated(rng: random.Random) -> str:
    pieces = PIECES if rng.random() < 0.7 else ("a", "dog", "&", "!", "it's", "B", "7")
    spaces = SPACES if rng.random() < 0.7 else (" ", "\n", "\t", "")
    return "".join(rng.choice(pieces) + rng.choice(spaces) for _ in range(rng.randrange(1, 120)))


@pytest.mark.parametrize("name", CLEANERS)
def test_cutting_changes_no_token(
    name: str, tokenizers: dict[str, Tokenizer], monkeypatch: pytest.MonkeyPatch
) -> None:
    rng, tokenizer = random.Random(name), tokenizers[name]
    texts = [generated(rng) for _ in range(150)]
    whole = {context: tokenizer(texts, context) for context in (3, 20)}
    cut = 0
    for first in (1, 40):
        monkeypatch.setattr(cleaning, "_WHOLE_CHARACTERS", first)
        for context, expected in whole.items():
            found = tokenizer(texts, context)
            bad = [t for t, a, b in zip(texts, found, expected, strict=True) if (a != b).any()]
            assert not bad, f"{len(bad)} differ at {first}, {context}: {bad[0]!r}"
            clean = CLEANERS[name]
            cut += sum(len(first_words(t, clean, context)) < len(clean(t)) for t in texts)
    assert cut > 100


def test_a_long_text_costs_what_its_beginning_does(
    tokenizers: dict[str, Tokenizer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted in characters that are cleaned, of 20 million."""
    cleaned: list[int] = []
    real = cleaning._fixed
    monkeypatch.setattr(cleaning, "_fixed", lambda text: (cleaned.append(len(text)), real(text))[1])
    tokenizer = tokenizers["lower"]
    beginning = "a photo of a dog " * 100
    for text in (beginning * 12_000, f"un café\n{beginning}\n" * 11_000):
        assert len(text) > 18_000_000
        cleaned.clear()
        assert np.array_equal(tokenizer([text]), tokenizer([text[:3000]]))
        assert cleaned[0] < 10_000


def test_entities_in_entities_are_bounded(tokenizers: dict[str, Tokenizer]) -> None:
    """Each level is one more pass over all of it: 200 kB took half a minute."""
    tokenizer = tokenizers["lower"]
    expected = tokenizer("&")
    assert np.array_equal(tokenizer("&" + "amp;" * 500), expected)
    for nested in ("&" + "amp;" * 10**5, "＆" + "ａｍｐ；" * 10**4, "café &lt; " * 10**5):
        with pytest.raises(UsageError, match=r"a text of [\d,]+ characters is too long") as caught:
            tokenizer([nested])
        assert f"{MAX_ENTITY_CHARACTERS:,}" in str(caught.value) and len(str(caught.value)) < 500
    for long in ("x" * (MAX_CHARACTERS + 1), "café " * 10**6):
        with pytest.raises(UsageError, match=f"the limit is {MAX_CHARACTERS:,}; cut it"):
            tokenizer([long])
    assert tokenizer(["café " * 10**4]).shape == (1, 77)
    assert tokenizer(["x" * 10**5]).shape == (1, 77)


@pytest.mark.parametrize("kind", ["hf", "clips"])
@pytest.mark.parametrize("side", ["right", "left"])
def test_other_tokenizers_read_all_of_a_text_or_refuse_it(kind: str, side: str) -> None:
    """Where their words end is theirs, and "left" keeps the last tokens: nothing is cut before."""
    from tokenizers import Tokenizer as Backend
    from tokenizers import models, pre_tokenizers

    backend = Backend(models.WordLevel({"[UNK]": 0, "a": 1, "é": 2, "z": 3}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    spec = TokenizerSpec(
        kind, "whitespace", 8, pad_id=9, sot_id=7, eot_id=8, cls_id=6, truncation_side=side
    )
    tokenizer = Tokenizer(backend, spec)
    long = "a\n" * (MAX_ENTITY_CHARACTERS // 2 - 2) + "é z"
    last = tokenizer([long])[0].tolist()
    if kind == "hf":
        assert last == ([1] * 6 + [2, 3] if side == "left" else [1] * 8)
    else:
        assert last == [7, 1, 1, 1, 1, 1, 8, 6]
    # Only entities take long, so only where they are the bound is a narrow one.
    assert tokenizer(["a\n" * MAX_ENTITY_CHARACTERS + "é z"])[0].tolist() == last
    assert tokenizer(["a & b; " * MAX_ENTITY_CHARACTERS]).shape == (1, 8)
    for entity in ("&lt;", "＆ｌｔ；", "ï¼†lt;"):
        with pytest.raises(UsageError, match=r"characters is too long.*holds HTML entities"):
            tokenizer(["a\n" * MAX_ENTITY_CHARACTERS + entity])


def test_absurd_contexts_and_ids_are_refused(
    tokenizers: dict[str, Tokenizer], tmp_path: Path
) -> None:
    """77e9 columns are 2 TiB for four texts."""
    good = tokenizers["lower"].spec.to_json()
    for name, value in {
        "context_tokens": 77_000_000_000,
        "pad_id": 2**63,
        "eot_id": 2**31,
        "sot_id": -1,
        "zeroed_id": 10**30,
    }.items():
        with pytest.raises(ArtifactError, match=name) as caught:
            TokenizerSpec.from_json({**good, name: value})
        assert len(str(caught.value)) < 400
    for context in (77_000_000_000, tokenize.MAX_CONTEXT_TOKENS + 1, 10**5000):
        with pytest.raises(UsageError, match="and at most 8192"):
            tokenizers["lower"](["a"], context)
        with pytest.raises(UsageError, match="and at most 8192"):
            write_clip_tokenizer(tmp_path, context)
    assert tokenizers["lower"](["a"], tokenize.MAX_CONTEXT_TOKENS).shape == (1, 8192)


def test_what_ftfy_takes_from_line_to_line_is_kept() -> None:
    """A "<" ends the unescaping for the lines behind it; a cut behind a newline keeps that."""
    text = "&lt;\n<\n&eacute;\n" + "x\n" * 20
    assert re.match(r"< < é x", CLEANERS["whitespace"](text))
