"""Tokenizers that have more tokens than the text tower: refused, or the words that have them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import Cli

import clipperf
from clipperf.errors import ArtifactError, UsageError
from clipperf.inputs.tokenize import CONFIG_FILE, TokenizerSpec

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
            f"text 1 ('a zebrafish') has the token {words}, and the text tower knows those below "
            f"{words}: leave that word out"
        )
        tokens = np.full((1, model.tokenizer.context_tokens), words)  # type: ignore[union-attr]
        with pytest.raises(UsageError, match=f"there are 0 to {words - 1}"):
            model.encode_tokens(tokens)


def test_what_the_tower_knows_is_a_number() -> None:
    spec = TokenizerSpec("hf", "whitespace", 5, pad_id=0)
    assert TokenizerSpec.from_json({**spec.to_json(), "ids_below": 7}).ids_below == 7
    with pytest.raises(ArtifactError, match="ids_below"):
        TokenizerSpec.from_json({**spec.to_json(), "ids_below": -1})
