"""A model's settings as transformers' files: what its like in other languages read as well.

That is `config.json`, `preprocessor_config.json`, and the tokenizer as `tokenizer.json` with
`tokenizer_config.json` and `special_tokens_map.json`. They are made of clipperf's own
(`inputs.preprocess_spec`, `inputs.tokenize`), whatever library the model came from.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from clipperf.errors import ExportError
from clipperf.inputs.clean import import_late
from clipperf.inputs.preprocess_spec import INTERPOLATIONS, PreprocessSpec
from clipperf.inputs.tokenize import CONTRACTIONS, EOT, SOT, TOKENIZER_FILE, Tokenizer
from clipperf.nouns.model import ModelSpec, Similarity
from clipperf.system.files import write_json

CONFIG, PREPROCESSOR = "config.json", "preprocessor_config.json"
TOKENIZER, SPECIAL = "tokenizer_config.json", "special_tokens_map.json"

_START, _END = "<|startoftext|>", "<|endoftext|>"
"""What transformers calls CLIP's special tokens; open_clip has other names for the same ids."""

_ELSEWHERE = "serve texts with clipperf.load, or take the image tower alone (--tower image)"

_LIGATURES = ((0x132, 0x133), (0x149, 0x149), (0x1C4, 0x1CC), (0x1F1, 0x1F3), (0xFB00, 0xFB06))
_WIDTHS = ((0x3000, 0x3000), (0xFF01, 0xFFEF))
"""Where ligatures of Latin letters, and letters of another width, stand in Unicode."""
_UNSEEN = "\u206a-\u206f\ufeff\ufff9-\ufffc"

_PUNCTUATION = r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~]"""

PROBES = (
    *("", "a", "A photo of 2 dogs, it's 10:30!", "  tabs\tand\nlines ", "Café naïve façade"),
    *("東京タワー", "Привет, мир", "x-ray, t-shirt & co.", "word " * 300, "a" * 500),
)
"""Texts that whoever reads these files has to turn into the same tokens as clipperf does."""


def is_sigmoid(similarity: Similarity | None) -> bool:
    """Whether a model is one of SigLIP's kind, for which transformers has classes of its own."""
    return similarity is not None and similarity.kind == "sigmoid"


def write_config(
    folder: Path,
    spec: ModelSpec,
    similarity: Similarity | None,
    tokenizer: Tokenizer | None,
    more: Mapping[str, Any] | None = None,
) -> None:
    """Write `config.json`: the kind of model, sizes, special tokens, how similarity is computed."""
    kind = "siglip" if is_sigmoid(similarity) else "clip"
    text: dict[str, Any] = {
        "model_type": f"{kind}_text_model",
        "max_position_embeddings": spec.context_tokens,
        "projection_dim": spec.embed_dim,
    }
    config: dict[str, Any] = {
        "architectures": [f"{'Siglip' if kind == 'siglip' else 'CLIP'}Model"],
        "model_type": kind,
        "projection_dim": spec.embed_dim,
        "text_config": text,
        "vision_config": {
            "model_type": f"{kind}_vision_model",
            "image_size": spec.image_px,
            "projection_dim": spec.embed_dim,
        },
    }
    if similarity is not None:
        config["logit_scale_init_value"] = similarity.logit_scale
        if similarity.logit_bias is not None:
            config["logit_bias_init_value"] = similarity.logit_bias
    if tokenizer is not None:
        own = tokenizer.spec
        ids = {"bos_token_id": own.sot_id, "eos_token_id": own.eot_id, "pad_token_id": _pad_id(own)}
        text |= {"vocab_size": tokenizer.vocabulary, **ids}
        config["pad_token_id"] = ids["pad_token_id"]
    write_json(folder / CONFIG, {**config, **(more or {})})


def write_preprocessor(folder: Path, spec: PreprocessSpec, sigmoid: bool = False) -> None:
    """Write `preprocessor_config.json`.

    Raises:
        ExportError: images are prepared as no image processor of CLIP's or SigLIP's does.
    """
    square = spec.height_px == spec.width_px
    frame = {"height": spec.height_px, "width": spec.width_px}
    if spec.resize_mode == "longest" or (
        spec.resize_mode == "shortest" and not square and spec.rules == "open_clip"
    ):
        raise ExportError(
            f"images are resized by their {spec.resize_mode} side to {spec.width_px} x "
            f"{spec.height_px} px, which no image processor of CLIP's or SigLIP's does: serve this "
            f"model with clipperf.load"
        )
    crops = spec.resize_mode == "shortest"
    settings = {
        "image_processor_type": "SiglipImageProcessor" if sigmoid else "CLIPImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": spec.short_px or spec.width_px} if crops else frame,
        "resample": int(INTERPOLATIONS[spec.interpolation]),
        "do_center_crop": crops,
        "crop_size": frame,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(spec.mean),
        "image_std": list(spec.std),
    }
    write_json(folder / PREPROCESSOR, settings)


def write_tokenizer(folder: Path, source: Path, any_padding: bool) -> Tokenizer:
    """Write the tokenizer of the artifact folder `source` as transformers' files; returns it.

    `any_padding`: no embedding depends on what a text is padded with behind its end.

    Raises:
        ExportError: it does in Python what `tokenizer.json` cannot hold, or the result gives
            other tokens.
    """
    own = Tokenizer.from_folder(source)
    spec = own.spec
    data = json.loads((source / TOKENIZER_FILE).read_bytes())
    if spec.kind == "clips" or spec.zeroed_id is not None or spec.plain_specials:
        raise ExportError(
            f"the tokenizer puts tokens in places that tokenizer.json cannot name: {_ELSEWHERE}"
        )
    if spec.kind == "clip":
        if not any_padding:
            raise ExportError(
                f"the text tower looks at its padding, the token {spec.pad_id}, which is a letter "
                f"to transformers' tokenizers: {_ELSEWHERE}"
            )
        data = _clips(data, spec.clean, spec.sot_id, spec.eot_id)
    else:
        data["normalizer"] = _normalizer(spec.clean, data.get("normalizer"))
    data["truncation"] = data["padding"] = None
    write_json(folder / TOKENIZER_FILE, data)
    written = import_late("tokenizers").Tokenizer.from_file(str(folder / TOKENIZER_FILE))
    _check(written, own)
    named = {"bos_token": spec.sot_id, "eos_token": spec.eot_id, "pad_token": _pad_id(spec)}
    tokens = {name: written.id_to_token(i) for name, i in named.items() if i is not None}
    special = {name: token for name, token in tokens.items() if token is not None}
    unknown = data["model"].get("unk_token")
    if unknown is not None or spec.kind == "clip":
        special["unk_token"] = unknown or special["eos_token"]
    settings = {
        "tokenizer_class": "CLIPTokenizer" if spec.kind == "clip" else "PreTrainedTokenizerFast",
        "model_max_length": spec.context_tokens,
        "padding_side": spec.padding_side,
        "truncation_side": spec.truncation_side,
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
        **special,
    }
    write_json(folder / TOKENIZER, settings)
    write_json(folder / SPECIAL, special)
    return own


def _pad_id(spec: Any) -> int:
    """The id that these files pad with: CLIP's tokenizers pad with the end, as no tower sees it."""
    pad: int = spec.eot_id if spec.kind == "clip" else spec.pad_id
    return pad


def _check(written: Any, own: Tokenizer) -> None:
    """Raise ExportError where a tokenizer gives other tokens than clipperf's own."""
    spec = own.spec
    written.enable_truncation(spec.context_tokens, direction=spec.truncation_side)
    for text, row in zip(PROBES, own(PROBES), strict=True):
        found = written.encode(text).ids
        expected = row[len(row) - len(found) :] if spec.padding_side == "left" else row
        if found != expected[: len(found)].tolist():
            raise ExportError(
                f"the tokenizer cannot be written for others: it differs on {text[:40]!r}: "
                f"{_ELSEWHERE}"
            )


def _clips(data: dict[str, Any], clean: str, start: int | None, end: int | None) -> dict[str, Any]:
    """CLIP's own tokenizer as transformers has it: the same vocabulary, named and split its way."""
    names = {SOT: _START, EOT: _END}
    vocabulary = {names.get(word, word): i for word, i in data["model"]["vocab"].items()}
    words = "|".join((*CONTRACTIONS, r"[\p{L}]+", r"[\p{N}]", r"[^\s\p{L}\p{N}]+"))
    letters = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    return {
        "version": "1.0",
        "added_tokens": [
            {
                "id": i,
                "content": name,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": True,
            }
            for name, i in ((_START, start), (_END, end))
        ],
        "normalizer": _normalizer(clean, {"type": "NFC"}),
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {
                    "type": "Split",
                    "pattern": {"Regex": words},
                    "behavior": "Removed",
                    "invert": True,
                },
                {**letters, "use_regex": True},
            ],
        },
        "post_processor": {
            "type": "RobertaProcessing",
            "sep": [_END, end],
            "cls": [_START, start],
            "trim_offsets": False,
            "add_prefix_space": False,
        },
        "decoder": {**letters, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": _END,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "</w>",
            "fuse_unk": False,
            "byte_fallback": False,
            "vocab": vocabulary,
            "merges": [
                " ".join(pair) if isinstance(pair, list) else pair
                for pair in data["model"]["merges"]
            ],
        },
    }


def _normalizer(clean: str, own: dict[str, Any] | None) -> dict[str, Any] | None:
    """A tokenizer's own normalizer behind what clipperf cleans in Python.

    Entities, mojibake and codes of terminals are not repaired: no normalizer does that.
    """
    spaces = [_replace(r"\s+", " "), {"type": "Strip", "strip_left": True, "strip_right": True}]
    lower = {"type": "Lowercase"}
    before = {
        "none": [],
        "whitespace": spaces,
        "lower": [*spaces, lower],
        "canonicalize": [_replace("_", " "), _replace(_PUNCTUATION, ""), lower, *spaces],
        "siglip": [_replace("▁", " "), lower, _replace(_PUNCTUATION, ""), *spaces],
    }[clean]
    if clean in ("lower", "canonicalize", "whitespace"):
        before = [*_repairs(), *before]
    behind = [] if own is None else own["normalizers"] if own["type"] == "Sequence" else [own]
    if clean == "siglip":  # its own expressions are not known in every language
        behind = [step for step in behind if step["type"] == "Precompiled"]
        behind += [_replace(" {2,}", " "), {"type": "Prepend", "prepend": "▁"}, _replace(" ", "▁")]
    steps = [*before, *behind]
    if len(steps) > 1:
        return {"type": "Sequence", "normalizers": steps}
    return steps[0] if steps else None


def _repairs() -> Iterator[dict[str, Any]]:
    """What ftfy makes of single letters, by Unicode's own tables, in its order.

    Ligatures are taken apart, wide and narrow letters become usual ones, curly quotes straight
    ones, and what controls a terminal or a text's direction is left out.
    """
    for letter in _letters(_LIGATURES):
        _, *codes = unicodedata.decomposition(letter).split()
        yield _replace(letter, "".join(chr(int(code, 16)) for code in codes))
    for letter in _letters(_WIDTHS):
        if unicodedata.decomposition(letter).startswith(("<wide>", "<narrow>")):
            yield _replace(letter, unicodedata.normalize("NFKC", letter))
    yield _replace("[\u02bc\u2018-\u201b]", "'")
    yield _replace("[\u201c-\u201f]", '"')
    yield _replace(r"[\x00-\x08\x0b\x0e-\x1f\x7f" + _UNSEEN + "]", "")


def _letters(ranges: Iterable[tuple[int, int]]) -> Iterator[str]:
    return (chr(code) for first, last in ranges for code in range(first, last + 1))


def _replace(pattern: str, content: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": {"Regex": pattern}, "content": content}
