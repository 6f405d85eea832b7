"""open_clip architectures with small text towers of transformers, and the tokenizer for them."""

from __future__ import annotations

import contextlib
import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import open_clip
from toy_models import IMAGE

from clipperf.export.exporter import exporter_of
from clipperf.export.job import Built, Job, Tell
from clipperf.nouns.artifact import Parity
from clipperf.nouns.model import ModelSpec

CONTEXT, VOCAB = 40, 120
WORDS = [f"w{i}" for i in range(80)]

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": VOCAB}
BERT = {**SMALL, "intermediate_size": 64, "max_position_embeddings": 64}
M2M = {
    **{"d_model": 32, "encoder_layers": 2, "decoder_layers": 1, "vocab_size": VOCAB},
    **{"encoder_attention_heads": 2, "decoder_attention_heads": 2},
    **{"encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "max_position_embeddings": 64},
}
MT5 = {"d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 2, "num_heads": 2, "vocab_size": VOCAB}

TOWERS: dict[str, tuple[str, dict[str, Any], str]] = {
    "hub-roberta": ("roberta", {**BERT, "pad_token_id": 1}, "mean_pooler"),
    "hub-xlm-roberta": ("xlm-roberta", {**BERT, "pad_token_id": 1}, "mean_pooler"),
    "hub-m2m": ("m2m_100", {**M2M, "pad_token_id": 1}, "cls_pooler"),
    "hub-mt5": ("mt5", {**MT5, "pad_token_id": 1}, "mean_pooler"),
    "hub-bert": ("bert", {**BERT, "pad_token_id": 1}, "cls_pooler"),
    # Takes what its tokenizer pads with for a word.
    "hub-bert-reads-padding": ("bert", {**BERT, "pad_token_id": 0}, "mean_pooler"),
}


@contextlib.contextmanager
def registered(folder: Path) -> Iterator[None]:
    """Inside, the architectures of `TOWERS` are open_clip's; their files lie in `folder`."""
    from open_clip import factory
    from transformers import CONFIG_MAPPING

    kept = copy.copy(factory._MODEL_CONFIG_PATHS), copy.copy(factory._MODEL_CONFIGS)
    for name, (kind, sizes, pooler) in TOWERS.items():
        hub = folder / "hub" / name
        CONFIG_MAPPING[kind](**sizes).save_pretrained(hub)
        _tokenizer().save_pretrained(hub)
        text = {
            **{"hf_model_name": str(hub), "hf_tokenizer_name": str(hub), "hf_proj_type": "linear"},
            **{"context_length": CONTEXT, "hf_pooler_type": pooler},
        }
        config = {"embed_dim": 32, "vision_cfg": IMAGE, "text_cfg": text}
        (folder / f"{name}.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder)
    try:
        yield
    finally:
        factory._MODEL_CONFIG_PATHS[:], factory._MODEL_CONFIGS = kept[0], kept[1]


def _tokenizer() -> Any:
    """Words of a number each between <s> and </s>; special tokens may be typed."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = ["<s>", "<pad>", "</s>", "<unk>"]
    vocabulary = {word: i for i, word in enumerate([*special, *WORDS])}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    ends = [("<s>", 0), ("</s>", 2)]
    made.post_processor = processors.TemplateProcessing("<s> $A </s>", None, ends)
    return PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token="<s>", eos_token="</s>", pad_token="<pad>",
        unk_token="<unk>",
    )  # fmt: skip


def spec_of(name: str) -> ModelSpec:
    return ModelSpec(f"{name}::random:0", "open_clip", name, "random:0", 64, CONTEXT, 32)


class InHere:
    """A workshop whose jobs run in this process, where the architectures are known."""

    def __enter__(self) -> InHere:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def worker(self, torch: bool = False) -> InHere:
        return self

    def dismiss(self) -> None:
        pass

    def make(self, job: Job, tell: Tell) -> Built:
        return exporter_of(job.variant).job(job, tell)

    def gate(self, job: Job, built: Built) -> Parity:
        return exporter_of(job.variant).gate(job, built)
