"""Whether texts may be cut: found out on the tower, right where it reads padding and where not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from clipperf.nouns.model import TextIds

torch = pytest.importorskip("torch")
pytest.importorskip("open_clip")
pytest.importorskip("transformers")

import hub_texts  # noqa: E402
from toy_models import spec_of as toy_spec  # noqa: E402

from clipperf.inputs.tokenize import Tokenizer, TokenizerSpec  # noqa: E402
from clipperf.models.cutting import TOLERANCE, proven, with_cut  # noqa: E402
from clipperf.models.families import open_clip as towers  # noqa: E402

pytestmark = pytest.mark.usefixtures("toy_catalogue")

PAD, EOT, CONTEXT = 1, 2, 24
IDS = TextIds(sot=0, eot=EOT, low=3, high=60)


@pytest.fixture(scope="module")
def hub(toy_catalogue: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with hub_texts.registered(tmp_path_factory.mktemp("configs")):
        yield


class Attending(torch.nn.Module):
    """One attention over embedded tokens; `masks` says what of it leaves padding out."""

    def __init__(self, scores: bool = True, mean: bool = True, positions: str = "start") -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.embedding = torch.randn(64, 16, generator=generator)
        self.places = torch.randn(CONTEXT, 16, generator=generator) * 0.1
        self.scores, self.mean, self.positions = scores, mean, positions

    def forward(self, tokens: Any) -> Any:
        length = tokens.shape[1]
        places = self.places[:length] if self.positions == "start" else self.places[-length:]
        x = self.embedding[tokens] + places
        there = tokens != PAD
        scores = x @ x.transpose(1, 2) / 16
        if self.scores:
            scores = scores.masked_fill(~there[:, None], float("-inf"))
        x = x + scores.softmax(-1) @ x
        if not self.mean:
            return x.mean(1)
        return (x * there[..., None]).sum(1) / there.sum(1, keepdim=True)


def test_a_tower_that_masks_padding_everywhere() -> None:
    found = proven(Attending(), PAD, CONTEXT, IDS)
    assert found.allowed and found.why.startswith("down to 2 tokens, embeddings of cut and padded")
    assert proven(Attending().double(), PAD, CONTEXT, replace(IDS, sot=None)).allowed


@pytest.mark.parametrize("reads", [{"scores": False}, {"mean": False}, {"positions": "end"}])
def test_a_tower_that_reads_padding_in_one_place(reads: dict[str, Any]) -> None:
    found = proven(Attending(**reads), PAD, CONTEXT, IDS)
    assert not found.allowed and found.why.startswith("the tower reads padding: ")


def test_a_tower_that_pads_with_another_token_than_its_tokenizer() -> None:
    assert not proven(Attending(), 5, CONTEXT, IDS).allowed


class Slightly(torch.nn.Module):
    """Adds a share of the number of tokens."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.whole, self.share = Attending(), share

    def forward(self, tokens: Any) -> Any:
        found = self.whole(tokens)
        return found * (1 + self.share * tokens.shape[1] / CONTEXT)


def test_the_tolerance_is_of_the_embeddings_length() -> None:
    # The shortest text loses 22 of 24 tokens, so 11/12 of the share.
    assert proven(Slightly(TOLERANCE / 2), PAD, CONTEXT, IDS).allowed
    assert not proven(Slightly(TOLERANCE * 2), PAD, CONTEXT, IDS).allowed
    large = torch.nn.Sequential(Attending(), torch.nn.Linear(16, 4))
    with torch.no_grad():
        large[1].weight *= 1e4
    assert proven(large, PAD, CONTEXT, IDS).allowed


class OfOneLength(Attending):
    def forward(self, tokens: Any) -> Any:
        return super().forward(tokens) + tokens.reshape(-1, CONTEXT).sum() * 0


class OfNothing(Attending):
    def forward(self, tokens: Any) -> Any:
        return super().forward(tokens) * float("nan")


def test_towers_that_cannot_show_it() -> None:
    found = proven(OfOneLength(), PAD, CONTEXT, IDS)
    assert not found.allowed
    assert found.why.startswith("the tower does not run on cut texts: RuntimeError: shape")
    assert not proven(OfNothing(), PAD, CONTEXT, IDS).allowed
    assert proven(Attending(), PAD, 1, IDS).why == "texts of 1 tokens have no padding to leave out"
    beyond = proven(Attending(), PAD, CONTEXT, replace(IDS, high=10**6))
    assert not beyond.allowed and "IndexError" in beyond.why


# --- towers of open_clip -------------------------------------------------------------------


def tokenizer_of(pad: int, eot: int | None, **more: Any) -> Tokenizer:
    from tokenizers import Tokenizer as Backend
    from tokenizers import models

    backend = Backend(models.WordLevel({f"w{i}": i for i in range(60)}, unk_token="w3"))
    return Tokenizer(backend, TokenizerSpec("hf", "lower", 16, pad, eot_id=eot, **more))


@pytest.mark.parametrize("name", list(hub_texts.TOWERS))
def test_towers_of_transformers(name: str, hub: None) -> None:
    tower = with_cut(towers.build_tower(hub_texts.spec_of(name), "text"), tokenizer_of(1, 2))
    assert tower.cut is not None
    assert tower.dynamic_tokens == tower.cut.allowed == (name != "hub-bert-reads-padding")


@pytest.mark.parametrize("name", ["toy-siglip", "toy-clipa", "toy-coca"])
def test_towers_of_open_clips_own_that_read_padding(name: str) -> None:
    tower = with_cut(towers.build_tower(toy_spec(name), "text"), tokenizer_of(1, 2))
    assert tower.cut is not None and not tower.cut.allowed and not tower.dynamic_tokens


def test_open_clips_own_tower_with_a_mask_of_padding() -> None:
    """Which configurations cannot ask for, and code can."""
    from open_clip.transformer import TextTransformer

    torch.manual_seed(0)
    sizes = {"context_length": CONTEXT, "vocab_size": 64, "width": 32, "heads": 2, "layers": 2}
    for pool, there in (("first", True), ("argmax", True), ("last", False)):
        options = {"no_causal_mask": True, "use_pad_mask": True, "pad_id": PAD, "pool_type": pool}
        tower = TextTransformer(**sizes, **options, output_dim=16).eval()
        assert proven(tower, PAD, CONTEXT, IDS).allowed == there
        assert not proven(tower, 5, CONTEXT, IDS).allowed


def test_causal_towers_need_no_proof_unless_texts_have_no_end() -> None:
    tower = towers.build_tower(toy_spec("toy-worldwide"), "text")
    causal = with_cut(tower, tokenizer_of(0, 2))
    assert causal.dynamic_tokens and causal.cut is not None and "end token" in causal.cut.why
    assert "embeddings of cut" in with_cut(tower, tokenizer_of(0, None)).cut.why  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "more",
    [{"padding_side": "left"}, {"kind": "clips", "sot_id": 4, "cls_id": 5}],
)
def test_texts_whose_last_place_is_always_read(more: dict[str, Any], hub: None) -> None:
    tokenizer = tokenizer_of(1, 2)
    tokenizer.spec = replace(tokenizer.spec, **more)
    tower = with_cut(towers.build_tower(hub_texts.spec_of("hub-roberta"), "text"), tokenizer)
    assert not tower.dynamic_tokens and tower.cut is not None
    assert "its end is always read" in tower.cut.why


def test_images_are_not_asked(tmp_path: Path) -> None:
    assert towers.build_tower(toy_spec("toy-clip"), "image").cut is None
