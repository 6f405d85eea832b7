"""Tokenizers that have more tokens than the text tower: refused, or the words that have them."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from conftest import Cli

import clipperf
from clipperf.errors import ArtifactError, UsageError, WeightsError
from clipperf.inputs.tokenize import CONFIG_FILE, Tokenizer, TokenizerSpec
from clipperf.models.tokenizer_files import write_hf_tokenizer
from clipperf.models.vocabulary import fitted

pytest.importorskip("transformers", reason="the models are transformers' own")
import transformers_folders


def test_a_tokenizer_of_another_model_is_refused_at_the_export(cli: Cli, tmp_path: Path) -> None:
    words = len(transformers_folders.tokenizer_of("chinese_clip"))
    transformers_folders.save("chinese_clip", tmp_path / "m", text={"vocab_size": words - 3})
    done = cli("export", tmp_path / "m", "--tower", "text", "-q")
    assert done.returncode != 0 and "Traceback" not in done.stderr
    assert (
        f"has tokens up to {words - 1}, and its text tower knows those up to {words - 4} "
        f"(vocab_size {words - 3}): one of them is another model's"
    ) in " ".join(done.stderr.split())


def test_words_that_were_added_are_named_when_they_come(cli: Cli, tmp_path: Path) -> None:
    """The tower has no row for them; all other texts are as before."""
    transformers_folders.save("chinese_clip", tmp_path / "m")
    tokenizer = transformers_folders.tokenizer_of("chinese_clip")
    words = len(tokenizer)
    assert tokenizer.add_tokens(["zebrafish"]) == 1
    tokenizer.save_pretrained(tmp_path / "m")
    cli("export", tmp_path / "m", "--tower", "text", "--out", tmp_path / "a", "-q", check=True)
    assert json.loads((tmp_path / "a" / CONFIG_FILE).read_text())["ids_below"] == words
    with clipperf.load(tmp_path / "a") as model:
        rows = model.encode_texts(["a photo", "a photo of a dog"])
        assert np.isfinite(rows).all() and not np.allclose(rows[0], rows[1])
        with pytest.raises(UsageError) as caught:
            model.encode_texts(["a photo", "a zebrafish"])
        assert str(caught.value) == (
            f"text 1 ('a zebrafish') has the token {words}, 'zebrafish', and the text tower knows "
            f"those below {words}: leave that word out"
        )
        tokens = np.full((1, model.tokenizer.context_tokens), words)  # type: ignore[union-attr]
        with pytest.raises(UsageError, match=f"there are 0 to {words - 1}"):
            model.encode_tokens(tokens)


def test_what_the_tower_knows_is_a_number() -> None:
    spec = TokenizerSpec("hf", "whitespace", 5, pad_id=0)
    assert TokenizerSpec.from_json({**spec.to_json(), "ids_below": 7}).ids_below == 7
    with pytest.raises(ArtifactError, match="ids_below"):
        TokenizerSpec.from_json({**spec.to_json(), "ids_below": -1})
    with pytest.raises(ArtifactError, match="ids_below"):  # it is a count, and no text has none
        TokenizerSpec.from_json({**spec.to_json(), "ids_below": 0})


# --- SigLIP's: T5's tokenizer has 100 tokens of which the text tower knows none --------------

PIECES = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0), ("▁a", -2.0), ("▁dog", -3.0)]
EXTRA = [f"<extra_id_{i}>" for i in reversed(range(100))]


def tower(words: int) -> Any:
    from torch import nn

    return nn.ModuleDict({"token_embedding": nn.Embedding(words, 4)})


def written(folder: Path, vocabulary: list[tuple[str, float]], **options: Any) -> None:
    """A tokenizer of T5's with such pieces, as open_clip wraps it."""
    import transformers

    hf = transformers.T5TokenizerFast(vocab=vocabulary, **options)
    hf.pad_token_id = hf.eos_token_id = 1  # SigLIP's

    def call(texts: list[str]) -> np.ndarray:
        found = hf(texts, padding="max_length", truncation=True, max_length=8)["input_ids"]
        return np.asarray(found)

    wrapped: Any = type("HFTokenizer", (), {"__call__": lambda self, texts: call(texts)})()
    wrapped.tokenizer, wrapped.context_length = hf, 8
    wrapped.clean_fn = SimpleNamespace(__name__="_clean_whitespace")
    folder.mkdir()
    write_hf_tokenizer(folder, wrapped)


@pytest.mark.parametrize(
    ("more", "options", "word"),
    [
        ([], {}, "<extra_id_0>"),  # added by transformers
        (EXTRA, {}, "<extra_id_0>"),  # among the pieces, as transformers converts T5's files
        ([f"▁{word}" for word in EXTRA], {"extra_ids": 0}, "▁<extra_id_0>"),  # in mT5's own file
        ([f"▁{word}" for word in EXTRA], {}, "<extra_id_0>"),
    ],
)
def test_texts_without_the_tokens_that_t5_adds_are_encoded(
    more: list[str], options: dict[str, Any], word: str, tmp_path: Path
) -> None:
    written(tmp_path / "t", [*PIECES, *((piece, -20.0) for piece in more)], **options)
    tokenizer = fitted("SigLIP", tower(len(PIECES)), tmp_path / "t")
    assert tokenizer.spec.ids_below == tokenizer.vocabulary == len(PIECES)
    assert Tokenizer.from_folder(tmp_path / "t").spec == tokenizer.spec
    assert tokenizer(["a dog", "dog 犬"]).tolist() == [
        [4, 5, 1, 1, 1, 1, 1, 1],
        [5, 3, 2, 1, 1, 1, 1, 1],
    ]
    with pytest.raises(UsageError, match=rf"text 1 .*has the token \d+, '{word}', and the text"):
        tokenizer(["a dog", "a <extra_id_0>"])


def test_a_word_of_t5s_that_the_tower_does_not_know_is_refused(tmp_path: Path) -> None:
    written(tmp_path / "t", [*PIECES, *((piece, 0.0) for piece in EXTRA)])
    with pytest.raises(WeightsError, match="has tokens up to 5, and its text tower knows those up"):
        fitted("SigLIP", tower(len(PIECES) - 1), tmp_path / "t")


@pytest.mark.parametrize("last", ["the unknown", "the end"])
def test_a_special_token_that_ordinary_texts_have_is_one_of_theirs(
    last: str, tmp_path: Path
) -> None:
    from tokenizers import Tokenizer as Backend
    from tokenizers import models, processors

    at = {"the unknown": 2, "the end": 1}[last]
    words = ["<pad>", "</s>", "<unk>", "a", "dog"]
    words.append(words.pop(at))
    vocabulary = {word: i for i, word in enumerate(words)}
    backend = Backend(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.add_special_tokens(["<pad>", "</s>", "<unk>"])
    backend.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", vocabulary["</s>"])]
    )
    spec = TokenizerSpec("hf", "whitespace", 8, pad_id=0)
    (tmp_path / "tokenizer.json").write_text(backend.to_str())
    (tmp_path / CONFIG_FILE).write_text(json.dumps(spec.to_json()))
    assert fitted("m", tower(5), tmp_path).spec.ids_below is None
    with pytest.raises(WeightsError, match="has tokens up to 4, and its text tower knows those up"):
        fitted("m", tower(4), tmp_path)
