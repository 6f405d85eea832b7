"""Folders as ``save_pretrained`` writes them: small models of transformers' with random weights."""

from __future__ import annotations

import json
import random
from functools import cache
from pathlib import Path
from typing import Any

CORPUS = (
    *("a photo of a dog", "a drawing of two cats on a red chair", "it's 10:30, is it?"),
    *("Привет, мир", "東京タワーの写真", "schöne Grüße aus Köln", "مرحبا بالعالم", "हिन्दी में"),
    *("una foto de un perro", "12345 67890", "naïve café façade"),
)
PX, PATCH_PX, TOKENS = 32, 8, 16
SIZES = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
CLASSES = {
    "clip": "CLIP",
    "siglip": "Siglip",
    "siglip2": "Siglip2",
    "altclip": "AltCLIP",
    "chinese_clip": "ChineseCLIP",
}


def save(kind: str, folder: Path, **changes: Any) -> Any:
    """Write model, tokenizer and image processor of a kind into `folder`; returns the model.

    `changes` go into the parts of the configuration: ``text={...}``, ``vision={...}``.
    """
    import torch
    import transformers

    tokenizer = tokenizer_of(kind)
    text = {**SIZES, "vocab_size": len(tokenizer), "max_position_embeddings": TOKENS}
    vision = {**SIZES, "image_size": PX, "patch_size": PATCH_PX}
    if kind == "clip":
        text |= {"eos_token_id": tokenizer.eos_token_id, "bos_token_id": tokenizer.bos_token_id}
    elif kind == "altclip":
        text |= {"project_dim": 24, "pad_token_id": tokenizer.pad_token_id}
    elif kind == "siglip2":
        del vision["image_size"]
        vision["num_patches"] = (PX // PATCH_PX) ** 2
    more = {} if kind.startswith("siglip") else {"projection_dim": 24}
    config = getattr(transformers, f"{CLASSES[kind]}Config")(
        text_config={**text, **changes.pop("text", {})},
        vision_config={**vision, **changes.pop("vision", {})},
        **{**more, **changes},
    )
    torch.manual_seed(0)
    model = getattr(transformers, f"{CLASSES[kind]}Model")(config).eval()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    image_processor(kind).save_pretrained(folder)
    return model


def save_student(kind: str, folder: Path) -> tuple[Any, Any, Any]:
    """A folder as a repository of M-CLIP's, of reduced size: transformer, linear, tokenizer."""
    import torch
    import transformers

    tokenizer = tokenizer_of(kind)
    base = transformers.AutoConfig.for_model(
        kind, **SIZES, vocab_size=len(tokenizer), max_position_embeddings=120,
        pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    base.save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder)
    config = {"model_type": "M-CLIP", "modelBase": "base", "numDims": 512}
    (folder / "config.json").write_text(json.dumps({**config, "transformerDimensions": 32}))
    torch.manual_seed(1)
    transformer = transformers.AutoModel.from_config(base).eval()
    linear = torch.nn.Linear(32, 512)
    state = {f"transformer.{name}": value for name, value in transformer.state_dict().items()}
    state |= {f"LinearTransformation.{name}": value for name, value in linear.state_dict().items()}
    torch.save(state, folder / "pytorch_model.bin")
    return transformer, linear, tokenizer


def image_processor(kind: str, **settings: Any) -> Any:
    """transformers' own of a kind, the one with Pillow, for images of `PX`."""
    import transformers.models as models

    name = "CLIP" if kind == "altclip" else CLASSES[kind]
    module = {"CLIP": "clip", "ChineseCLIP": "chinese_clip"}.get(name, name.lower())
    of = getattr(getattr(models, module), f"image_processing_pil_{module}")
    own: dict[str, Any] = {"size": {"shortest_edge": PX}, "crop_size": {"height": PX, "width": PX}}
    if kind == "siglip":
        own = {"size": {"height": PX, "width": PX}}
    elif kind == "siglip2":
        own = {"patch_size": PATCH_PX, "max_num_patches": (PX // PATCH_PX) ** 2}
    return getattr(of, f"{name}ImageProcessorPil")(**{**own, **settings})


def tokenizer_of(kind: str) -> Any:
    """A tokenizer of the class that models of a kind have: CLIP's own, the others trained here."""
    import transformers

    if kind == "clip":
        vocabulary, merges = clips_vocabulary()
        return transformers.CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=TOKENS)
    if kind in ("altclip", "xlm-roberta"):
        pieces = [tuple(piece) for piece in trained("unigram")["vocab"]]
        return transformers.XLMRobertaTokenizer(vocab=pieces, model_max_length=512)
    if kind in ("chinese_clip", "bert"):
        words = trained("words")["vocab"]
        return transformers.BertTokenizer(vocab=words, do_lower_case=False, model_max_length=512)
    pairs = trained("bytes")
    tokenizer = transformers.GemmaTokenizer(
        vocab=pairs["vocab"],
        merges=[tuple(pair) for pair in pairs["merges"]],
        model_max_length=TOKENS,
        padding_side="right",
        model_input_names=["input_ids"],
    )
    return tokenizer


@cache
def clips_vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """OpenAI's, under the names that transformers gives its special tokens."""
    import gzip

    import open_clip
    from tokenizers.pre_tokenizers import ByteLevel

    path = Path(open_clip.__file__).parent / "bpe_simple_vocab_16e6.txt.gz"
    lines = gzip.decompress(path.read_bytes()).decode().split("\n")[1 : 49152 - 256 - 2 + 1]
    merges = [(first, second) for first, second in (line.split() for line in lines)]
    letters = sorted(ByteLevel.alphabet())
    words = [*letters, *(c + "</w>" for c in letters), *(a + b for a, b in merges)]
    words += ["<|startoftext|>", "<|endoftext|>"]
    return {word: number for number, word in enumerate(words)}, merges


@cache
def trained(kind: str) -> dict[str, Any]:
    """The model of a small tokenizer, as JSON."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

    size = {"vocab_size": 400, "show_progress": False}
    trainer: Any
    if kind == "unigram":
        tokenizer = Tokenizer(models.Unigram())
        tokenizer.normalizer = normalizers.NFKC()
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
        trainer = trainers.UnigramTrainer(unk_token="<unk>", special_tokens=special, **size)
    elif kind == "words":
        tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False)
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
        trainer = trainers.WordPieceTrainer(special_tokens=special, **size)
    else:
        tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
        tokenizer.normalizer = normalizers.Replace(" ", "▁")
        special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
        special += [f"<0x{byte:02X}>" for byte in range(256)]
        size["vocab_size"] = 700
        trainer = trainers.BpeTrainer(special_tokens=special, **size)
    tokenizer.train_from_iterator(CORPUS * 20, trainer)
    found: dict[str, Any] = json.loads(tokenizer.to_str())["model"]
    return found


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


def save_sentencepiece(folder: Path) -> None:
    """SigLIP's first tokenizer, with the pieces of a small one that was trained here."""
    from transformers.convert_slow_tokenizer import import_protobuf

    folder.mkdir()
    model = import_protobuf().ModelProto()
    learned = [(piece, score) for piece, score in trained("unigram")["vocab"] if piece[0] != "<"]
    for number, (piece, score) in enumerate([("</s>", 0.0), ("<unk>", 0.0), *learned]):
        model.pieces.add(piece=piece, score=score, type={0: 3, 1: 2}.get(number, 1))
    model.trainer_spec.unk_id = 1
    model.normalizer_spec.name = "nmt_nfkc"
    (folder / "spiece.model").write_bytes(model.SerializeToString())
    settings = {"tokenizer_class": "SiglipTokenizer", "do_lower_case": True}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
