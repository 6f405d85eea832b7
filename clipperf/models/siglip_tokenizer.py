"""SigLIP's first tokenizer, which transformers has in Python over sentencepiece alone.

Its vocabulary file holds all that `tokenizers` needs, so neither transformers' class nor the
sentencepiece package has to be there. `inputs.clean` does the rest.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from clipperf.errors import ExportError, WeightsError
from clipperf.inputs.clean import SIGLIP_END, SIGLIP_UNKNOWN, import_late
from clipperf.inputs.tokenize import TokenizerSpec
from clipperf.models.tokenizer_files import write_files
from clipperf.models.transformers_config import TOKENIZER, read_settings

FILE = "spiece.model"
CLASS = "SiglipTokenizer"

_UNIGRAM = 1
"""`model_type` in sentencepiece's files."""


def is_in(folder: Path) -> bool:
    """Whether a folder of transformers' has this tokenizer."""
    said = (read_settings(folder / TOKENIZER) or {}).get("tokenizer_class")
    return said == CLASS and (folder / FILE).is_file()


def end_id(folder: Path) -> int:
    """The id of the token that ends a text, which the padding is as well; raises WeightsError."""
    return _ids(_read(folder / FILE))[0]


def write(folder: Path, context_tokens: int, target: Path) -> None:
    """Write the tokenizer of `folder` into `target`.

    Raises:
        WeightsError: its file is damaged.
        ExportError: its settings are other than those of Google's models.
    """
    said = read_settings(folder / TOKENIZER) or {}
    others = [
        name
        for name, usual in (
            ("do_lower_case", True),
            ("eos_token", SIGLIP_END),
            ("pad_token", SIGLIP_END),
            ("unk_token", SIGLIP_UNKNOWN),
        )
        if _text(said.get(name, usual)) != usual
    ]
    model = _read(folder / FILE)
    normalizer = model.normalizer_spec
    if model.trainer_spec.model_type != _UNIGRAM:
        others.append("model_type")
    if "nfkc" not in normalizer.name or not normalizer.remove_extra_whitespaces:
        others.append("normalizer_spec")
    if others:
        raise ExportError(
            f"the tokenizer in {folder} is a {CLASS} with other settings than Google's models have "
            f"({', '.join(others)}): export the image tower alone: --tower image"
        )
    end, unknown = _ids(model)
    spec = TokenizerSpec(
        kind="hf", clean="siglip", context_tokens=context_tokens, pad_id=end, eot_id=end
    )
    write_files(target, _backend(model, end, unknown), spec)


def _backend(model: Any, end: int, unknown: int) -> Any:
    tokenizers = import_late("tokenizers")
    normalizers, regex = tokenizers.normalizers, tokenizers.Regex
    pieces = [(piece.piece, piece.score) for piece in model.pieces]
    backend = tokenizers.Tokenizer(tokenizers.models.Unigram(pieces, unk_id=unknown))
    table = model.normalizer_spec.precompiled_charsmap
    backend.normalizer = normalizers.Sequence(
        [
            *([normalizers.Precompiled(table)] if table else []),
            normalizers.Replace(regex(r" +\z"), ""),
            normalizers.Replace(regex(" {2,}"), " "),
            normalizers.Replace(" ", "▁"),
        ]
    )
    backend.post_processor = tokenizers.processors.TemplateProcessing(
        single=f"$A {SIGLIP_END}", special_tokens=[(SIGLIP_END, end)]
    )
    backend.add_special_tokens(
        [
            tokenizers.AddedToken(token, normalized=False, special=True)
            for token in (SIGLIP_END, SIGLIP_UNKNOWN)
        ]
    )
    return backend


def _text(value: Any) -> Any:
    """A token as settings have it: by itself, or with how it is matched."""
    return value.get("content") if isinstance(value, dict) else value


def _ids(model: Any) -> tuple[int, int]:
    places = {piece.piece: number for number, piece in enumerate(model.pieces)}
    try:
        return places[SIGLIP_END], places[SIGLIP_UNKNOWN]
    except KeyError as exc:
        raise WeightsError(f"{FILE} has no {exc.args[0]} among its {len(places)} pieces") from exc


def _read(path: Path) -> Any:
    """The message of a sentencepiece model."""
    from transformers.convert_slow_tokenizer import import_protobuf

    try:
        return import_protobuf().ModelProto.FromString(path.read_bytes())
    except ImportError:
        raise
    except Exception as exc:  # protobuf's errors have no common kind in all of its versions
        raise WeightsError(f"{path} is no model of sentencepiece's: {exc}") from exc
