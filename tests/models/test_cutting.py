"""Text towers of which padding is cut: those that show on the tower itself that it is exact."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import clipperf
from clipperf.export.make import make
from clipperf.inputs.tokenize import Tokenizer, text_lengths
from clipperf.models import cutting, zoo
from clipperf.models.family import family_of
from clipperf.nouns.model import Tower
from clipperf.nouns.variant import Variant

pytest.importorskip("transformers", reason="the text towers are transformers' own")
from transformers_folders import CORPUS, TOKENS, save, save_student


def built(folder: Path) -> tuple[Tower, Tokenizer]:
    spec = zoo.resolve(str(folder))
    family = family_of(spec)
    family.write_tokenizer(spec, folder / "own")
    return family.build(spec, "text", False), Tokenizer.from_folder(folder / "own")


@pytest.mark.parametrize("kind", ["xlm-roberta", "bert"])
def test_padding_behind_a_mask_is_cut(kind: str, tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    save_student(kind, tmp_path)
    cut = cutting.cut_of(*built(tmp_path))
    assert cut.at == "padding"
    assert "6 texts, cut and padded, differ by" in cut.why


@pytest.mark.parametrize(
    ("kind", "at"), [("clip", "eot"), ("siglip", None), ("altclip", "padding")]
)
def test_towers_of_transformers(kind: str, at: str | None, tmp_path: Path) -> None:
    """SigLIP's attend to padding: their embeddings would change."""
    (tmp_path / "own").mkdir()
    save(kind, tmp_path)
    cut = cutting.cut_of(*built(tmp_path))
    assert cut.at == at
    if kind == "siglip":
        assert "differ by" in cut.why or "takes no cut texts" in cut.why


@pytest.mark.parametrize("activation", ["quick_gelu", "relu"])
def test_texts_that_are_padded_with_their_end_token(activation: str, tmp_path: Path) -> None:
    """CLIP's own are; with another activation transformers' modules run, and are asked."""
    (tmp_path / "own").mkdir()
    save("clip", tmp_path, text={"hidden_act": activation})
    like, tokenizer = built(tmp_path)
    assert tokenizer.spec.pad_id == tokenizer.eot_id
    asked = replace(like, dynamic_tokens=False)
    cut = cutting.cut_of(asked, tokenizer)
    assert cut.at == "eot" and "6 texts, cut and padded, differ by" in cut.why


class Sums:
    """A tower of which is known what it sees: [batch, tokens] to [batch, 1]."""

    def __init__(self, pad: int | None, needed: int = 1) -> None:
        self.pad, self.needed = pad, needed

    def __call__(self, tokens: Any) -> Any:
        import torch

        if tokens.shape[1] < self.needed:
            raise RuntimeError(f"needs {self.needed} tokens\nand said so")
        weights = torch.ones_like(tokens) if self.pad is None else (tokens != self.pad)
        return (torch.where(weights > 0, tokens + 1, 0)).sum(dim=1, keepdim=True).float()


def tower(module: Any, like: Tower) -> Tower:
    return replace(like, module=module, dynamic_tokens=False)


def test_a_tower_that_counts_padding_or_needs_it_is_not_cut(tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    save_student("bert", tmp_path)
    like, tokenizer = built(tmp_path)
    pad = tokenizer.spec.pad_id
    assert cutting.cut_of(tower(Sums(pad), like), tokenizer).at == "padding"
    seen = cutting.cut_of(tower(Sums(None), like), tokenizer)
    assert seen.at is None and "differ by" in seen.why
    stuck = cutting.cut_of(tower(Sums(pad, needed=77), like), tokenizer)
    assert (stuck.at, stuck.why) == (None, "the tower takes no cut texts: needs 77 tokens")
    tokenizer.spec = replace(tokenizer.spec, padding_side="left")
    left = cutting.cut_of(tower(Sums(pad), like), tokenizer)
    assert (left.at, left.why) == (None, "padding comes before the text")


def test_lengths_of_rows() -> None:
    rows = np.array([[5, 6, 1, 1], [5, 1, 6, 1], [1, 1, 1, 1], [1, 1, 1, 7], [5, 6, 7, 8]])
    assert text_lengths(rows, 1).tolist() == [2, 3, 1, 4, 4]


@pytest.mark.parametrize("runtime", ["onnx", "openvino"])
def test_an_exported_tower_is_fed_cut_texts(runtime: str, home: Path, tmp_path: Path) -> None:
    """The texts that are run are short, and their embeddings those of whole ones."""
    if runtime == "openvino":
        pytest.importorskip("openvino")
    save_student("xlm-roberta", tmp_path)
    spec = zoo.resolve(str(tmp_path))
    made = make(spec, ("text",), Variant(runtime))
    (text,) = made.manifest.towers
    assert text.tokens is None and text.inputs[0].shape == ("batch", "tokens")
    assert text.cut is not None and text.cut.at == made.manifest.cut_at == "padding"
    assert "cut at their padding" in text.findings["texts"]
    texts = [*CORPUS, "", "a <pad> b", "слово " * 200]
    with clipperf.load(made.folder) as model:
        shapes: list[tuple[int, ...]] = []
        engine = model._engines["text"]
        run = engine.run
        engine.run = lambda tokens: (shapes.append(tokens.shape), run(tokens))[1]  # type: ignore[method-assign]
        cut = model.encode_texts(texts, batch_size=4)
        assert min(length for _, length in shapes) < 20 < max(length for _, length in shapes) == 77
        model._cut = None
        whole = model.encode_texts(texts, batch_size=4)
    assert np.abs(cut - whole).max() <= 1e-5 * np.abs(whole).max()
    assert np.ptp(whole, axis=0).max() > 1e-3


def test_a_tower_that_sees_padding_keeps_its_length(home: Path, tmp_path: Path) -> None:
    save("siglip", tmp_path)
    made = make(zoo.resolve(str(tmp_path)), ("text",), Variant("onnx"))
    (text,) = made.manifest.towers
    assert (text.tokens, made.manifest.cut_at) == (TOKENS, None)
    assert text.findings["texts"].startswith("not cut (")
