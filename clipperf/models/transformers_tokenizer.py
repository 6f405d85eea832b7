"""The tokenizer of a folder of transformers', as the files that `inputs.tokenize` reads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from clipperf.errors import ExportError, MissingDependencyError, WeightsError
from clipperf.models import siglip_tokenizer
from clipperf.models.tokenizer_files import write_hf_tokenizer
from clipperf.models.transformers_config import TOKENIZER

FILES = (
    *("tokenizer.json", "vocab.json", "vocab.txt"),
    *("spiece.model", "sentencepiece.bpe.model", "tokenizer.model"),
)
"""One of these holds the vocabulary."""


def opened(folder: Path) -> Any:
    """transformers' own tokenizer of a folder.

    Raises:
        WeightsError: there is none.
        MissingDependencyError: it needs a package that is not installed.
    """
    if not any((folder / name).is_file() for name in FILES):
        raise WeightsError(
            f"{folder} holds no tokenizer ({', '.join(FILES)}): save it there with the model's "
            f"processor.save_pretrained(FOLDER), or export the image tower alone: --tower image"
        )
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except ImportError as exc:
        raise MissingDependencyError(
            f"the tokenizer in {folder} needs a package: {str(exc).strip().splitlines()[0]}. "
            f"pip install sentencepiece protobuf"
        ) from exc
    except Exception as exc:
        said = (str(exc).strip().splitlines() or [""])[0]
        raise WeightsError(
            f"the tokenizer in {folder} cannot be read: {type(exc).__name__}: {said}"
        ) from exc


def _clean_none(text: str) -> str:
    """What cleaning there is the tokenizer itself does; `inputs.clean` knows it by this name."""
    return text


class Original:
    """A tokenizer of transformers' with what `write_hf_tokenizer` asks of one of open_clip's.

    Called, it does what the model's processor does with ``padding="max_length"``: no cleaning.
    """

    def __init__(self, tokenizer: Any, context_tokens: int) -> None:
        self.tokenizer = tokenizer
        self.context_length = context_tokens

        self.clean_fn = _clean_none
        first = {row[0] for row in self(["", "a", "A photo.", "東京"])}
        self.start_id = first.pop() if len(first) == 1 else None

    def __call__(self, texts: str | Sequence[str]) -> Any:
        """Token ids, [batch, context_length]."""
        return self.tokenizer(
            list(texts), padding="max_length", truncation=True, max_length=self.context_length
        )["input_ids"]


def write(folder: Path, context_tokens: int, target: Path, pad: int | None = None) -> None:
    """Write the tokenizer of `folder` into `target`, and compare the two.

    `pad` is the padding that the text tower looks for, None where it looks for none.

    Raises:
        WeightsError: there is none, or it pads with another token than the tower knows.
        ExportError: it does what `tokenizers` cannot.
        MissingDependencyError: it needs a package that is not installed.
    """
    if siglip_tokenizer.is_in(folder):
        _check_end(folder, siglip_tokenizer.end_id(folder), pad)
        siglip_tokenizer.write(folder, context_tokens, target)
        return
    tokenizer = opened(folder)
    if getattr(tokenizer, "backend_tokenizer", None) is None:
        raise ExportError(
            f"the tokenizer in {folder} ({type(tokenizer).__name__}) works in Python alone, and "
            f"cannot be copied: export the image tower alone (--tower image), or the same model of "
            f"open_clip's if there is one (clipperf models --search NAME)"
        )
    if pad is not None and tokenizer.pad_token_id != pad:
        raise WeightsError(
            f"the tokenizer in {folder} pads with {tokenizer.pad_token_id}, the text tower takes "
            f"{pad} for padding (pad_token_id in config.json): one of them is another model's"
        )
    _check_end(folder, tokenizer.eos_token_id, pad)
    if tokenizer.pad_token_id is None:
        raise ExportError(
            f"the tokenizer in {folder} has no padding token, so texts of several lengths cannot "
            f"be one batch; set its pad_token and save it again"
        )
    write_hf_tokenizer(target, Original(tokenizer, context_tokens))


def _check_end(folder: Path, end: int | None, pad: int | None) -> None:
    """Raise ExportError where a text tower has to hide padding that ends texts as well."""
    if end is not None and end == pad:
        raise ExportError(
            f"the tokenizer in {folder} pads with the token that ends a text, and makes a mask to "
            f"tell them apart, which token ids alone cannot. Where the model was trained without a "
            f'mask, as SigLIP was, write "model_input_names": ["input_ids"] into {TOKENIZER}'
        )
