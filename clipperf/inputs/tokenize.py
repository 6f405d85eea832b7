"""Texts to the token arrays that CLIP text towers expect, without torch or open_clip.

A tokenizer lives in an artifact folder as two files: `tokenizer.json`, read by the `tokenizers`
library, and `clipperf_tokenizer.json`, a `TokenizerSpec`: what open_clip does around it in Python
(cleaning, context length, padding). Reading one needs numpy and tokenizers, and ftfy for texts
that are not plain ASCII. `models.tokenizer_files` writes them. Token for token the result equals
open_clip's tokenizer of the machine that wrote the folder.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from clipperf.errors import ArtifactError, UsageError
from clipperf.inputs.clean import CLEANERS, first_words, import_late
from clipperf.serialize import from_json
from clipperf.system.files import read_json
from clipperf.text import quoted, shown

TOKENIZER_FILE = "tokenizer.json"
CONFIG_FILE = "clipperf_tokenizer.json"
"""Not Hugging Face's `tokenizer_config.json`: its content is another."""
SOT, EOT = "<start_of_text>", "<end_of_text>"
KINDS = ("clip", "hf", "clips")
SIDES = ("right", "left")

MAX_CONTEXT_TOKENS = 8192
"""The longest context, far above any of open_clip's (77, some 256)."""

CONTRACTIONS = ("'s", "'t", "'re", "'ve", "'m", "'ll", "'d")

# The word pattern on printable ASCII, where every version of Unicode agrees.
_ASCII_WORDS = re.compile(
    "|".join((SOT, EOT, *CONTRACTIONS, "[a-z]+", "[0-9]", "[^ a-z0-9]+")), re.ASCII | re.IGNORECASE
)
_CACHED_WORDS = 1 << 16
_CACHED_LENGTH = 32


@dataclass(frozen=True)
class TokenizerSpec:
    """What surrounds `tokenizer.json`; the content of `clipperf_tokenizer.json`.

    `kind`: "clip" (open_clip's own BPE: SOT, text, EOT), "hf" (a Hugging Face tokenizer with its
    own special tokens) or "clips" (begin, text, end, padding and a class token in the last place).
    `clean` names open_clip's text cleaning. `zeroed_id` is replaced by 0 everywhere.
    `sot_id` of an "hf" one is what it begins every text with, None where that is not known.
    `plain_specials` reads special tokens typed in a text as ordinary text. `eot_id` may be None
    for "hf".
    `ids_below` are those that the text tower knows, where the tokenizer has more.
    `origin` says which Unicode tables split the words, or which language was set.
    """

    kind: str
    clean: str
    context_tokens: int
    pad_id: int
    sot_id: int | None = None
    eot_id: int | None = None
    cls_id: int | None = None
    zeroed_id: int | None = None
    padding_side: str = "right"
    truncation_side: str = "right"
    plain_specials: bool = False
    ids_below: int | None = None
    origin: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Any, where: str = "tokenizer") -> TokenizerSpec:
        """Build a spec from `to_json`'s values; unknown fields are ignored.

        Raises:
            ArtifactError: a field is missing or wrong; the message names it.
        """
        if not isinstance(data, Mapping):
            raise ArtifactError(f"{where}: expected an object, got {type(data).__name__}")
        try:
            spec = from_json(cls, data, where)
        except ArtifactError as exc:
            raise ArtifactError(f"{exc}; export the model again") from exc
        for name, fits in spec._fitting():
            if not fits:
                raise ArtifactError(
                    f"{where}: {name} is missing or not valid: {quoted(getattr(spec, name))}; "
                    "export the model again"
                )
        return spec

    def _fitting(self) -> Iterator[tuple[str, bool]]:
        """Each field beside whether its value is one that it may have."""
        yield "kind", self.kind in KINDS
        yield "clean", self.clean in CLEANERS
        yield "context_tokens", 0 < self.context_tokens <= MAX_CONTEXT_TOKENS
        yield "pad_id", _is_id(self.pad_id)
        needed = {"clip": ("sot_id", "eot_id"), "clips": ("sot_id", "eot_id", "cls_id")}
        for name in ("sot_id", "eot_id", "cls_id", "zeroed_id"):
            value = getattr(self, name)
            yield name, name not in needed.get(self.kind, ()) if value is None else _is_id(value)
        yield "ids_below", self.ids_below is None or (_is_id(self.ids_below) and self.ids_below > 0)
        for name in ("padding_side", "truncation_side"):
            yield name, getattr(self, name) in SIDES


class Tokenizer:
    """A loaded tokenizer: `tokenizer(texts)` gives int64 [batch, context_tokens]."""

    def __init__(self, backend: Any, spec: TokenizerSpec) -> None:
        """Wrap a `tokenizers.Tokenizer`; use `from_folder` to read one from disk."""
        self.spec = spec
        backend.no_padding()
        backend.no_truncation()
        backend.encode_special_tokens = spec.plain_specials
        self._plain = backend
        # Truncation is state of a backend: each length has its own, as several threads may call.
        self._truncating: dict[int, Any] = {}
        self._word_ids: dict[str, list[int]] = {}

    @classmethod
    def from_folder(cls, folder: str | Path) -> Tokenizer:
        """Read `tokenizer.json` and `clipperf_tokenizer.json` of an artifact folder.

        Raises:
            ArtifactError: a file is missing or damaged.
            MissingDependencyError: the `tokenizers` package is not installed.
        """
        config_path = Path(folder) / CONFIG_FILE
        spec = TokenizerSpec.from_json(read_json(config_path), str(config_path))
        return cls.from_file(Path(folder) / TOKENIZER_FILE, spec)

    @classmethod
    def from_file(cls, path: str | Path, spec: TokenizerSpec) -> Tokenizer:
        """Read one `tokenizer.json` whose spec is already known. Raises as `from_folder`."""
        backend_class = import_late("tokenizers").Tokenizer
        try:
            backend = backend_class.from_buffer(Path(path).read_bytes())
        except Exception as exc:  # tokenizers raises no narrower class
            raise ArtifactError(
                f"cannot read {path}: {shown(exc)}; export the model again"
            ) from exc
        return cls(backend, spec)

    @property
    def context_tokens(self) -> int:
        """Columns of the token array."""
        return self.spec.context_tokens

    @property
    def eot_id(self) -> int | None:
        """The token that ends a text, for `eot_lengths`; None where the model has none."""
        return self.spec.eot_id

    @property
    def start_id(self) -> int | None:
        """The token that every text begins with; None where that is not known."""
        return self.spec.sot_id if self.spec.kind != "clips" else None

    @property
    def end_id(self) -> int | None:
        """The special token that every text ends with, before its padding; None: there is none."""
        if self.spec.kind != "hf":
            return self.spec.eot_id
        found = self._plain.encode("a")
        return int(found.ids[-1]) if found.special_tokens_mask[-1:] == [1] else None

    @property
    def vocabulary(self) -> int:
        """Ids of tokens lie below this."""
        found = max(int(self._plain.get_vocab_size()), self._last_special + 1)
        return found if self.spec.ids_below is None else min(found, self.spec.ids_below)

    @property
    def _last_special(self) -> int:
        spec = self.spec
        return max(i for i in (spec.pad_id, spec.sot_id, spec.eot_id, spec.cls_id) if i is not None)

    def __call__(self, texts: str | Sequence[str], context_tokens: int | None = None) -> np.ndarray:
        """Tokens of every text as int64 [batch, context_tokens], padded and cut as open_clip does.

        Raises:
            UsageError: an element is not a string, or too long (`clean.MAX_CHARACTERS`), or the
                context is too short for any text, or beyond `MAX_CONTEXT_TOKENS`.
            MissingDependencyError: a text is not plain ASCII and ftfy is not installed.
        """
        texts = [texts] if isinstance(texts, str) else list(texts)
        for i, text in enumerate(texts):
            if not isinstance(text, str):
                raise UsageError(f"text {i} is {type(text).__name__}, expected str")
        spec = self.spec
        context = spec.context_tokens if context_tokens is None else context_tokens
        clean = CLEANERS[spec.clean]
        check_context(context, 1)
        if spec.kind == "clip":
            cleaned = [first_words(text, clean, context) for text in texts]
            rows = self._clip_rows(cleaned, context)
        else:
            cut = self._clips_rows if spec.kind == "clips" else self._hf_rows
            rows = cut([clean(text) for text in texts], context)
        tokens = np.full((len(rows), context), spec.pad_id, np.int64)
        for out, row in zip(tokens, rows, strict=True):
            if spec.kind == "hf" and spec.padding_side == "left":
                out[context - len(row) :] = row
            else:
                out[: len(row)] = row
        if spec.kind == "clips" and spec.cls_id is not None:
            tokens[:, -1] = spec.cls_id
        if spec.zeroed_id is not None:
            tokens[tokens == spec.zeroed_id] = 0
        if spec.ids_below is not None and len(odd := np.argwhere(tokens >= spec.ids_below)):
            row, token = odd[0][0], int(tokens[tuple(odd[0])])
            raise UsageError(
                f"text {row} ({quoted(texts[row])}) has the token {token}, "
                f"{quoted(self._plain.id_to_token(token))}, and the text tower knows those below "
                f"{spec.ids_below}: leave that word out"
            )
        return tokens

    def _clip_rows(self, texts: list[str], context: int) -> list[list[Any]]:
        """SOT, text, EOT; a text too long is cut, and its last token becomes EOT."""
        sot, eot = self.spec.sot_id, self.spec.eot_id
        rows = [[sot, *ids, eot][:context] for ids in self._clip_ids(texts)]
        for row in rows:
            row[-1] = eot
        return rows

    def _clip_ids(self, texts: list[str]) -> list[list[int]]:
        """Tokens of cleaned texts, without SOT and EOT.

        Captions repeat their words, so a dictionary of ASCII words is several times faster than
        the library, which spends its time in the word pattern.
        """
        ids: list[list[int]] = [[] for _ in texts]
        others = []
        for i, text in enumerate(texts):
            if text.isascii() and text.isprintable():
                for word in _ASCII_WORDS.findall(text):
                    ids[i] += self._word_ids.get(word) or self._ids_of_word(word)
            elif SOT in text or EOT in text:
                # The reference finds typed special tokens with the word pattern, left to right, so
                # "<<start_of_text>" holds none. Added tokens of the library would come first.
                for word, _ in self._plain.pre_tokenizer.pre_tokenize_str(text):
                    ids[i] += self._ids_of_word(word)
            else:
                others.append(i)
        if others:
            batch = [texts[i] for i in others]
            encodings = self._plain.encode_batch_fast(batch, add_special_tokens=False)
            for i, encoding in zip(others, encodings, strict=True):
                ids[i] = encoding.ids
        return ids

    def _ids_of_word(self, word: str) -> list[int]:
        """Tokens of one word in the byte alphabet (printable ASCII stands for itself)."""
        special = {SOT: self.spec.sot_id, EOT: self.spec.eot_id}.get(word)
        ids = [t.id for t in self._plain.model.tokenize(word)] if special is None else [special]
        if len(word) <= _CACHED_LENGTH and word.isascii():
            if len(self._word_ids) >= _CACHED_WORDS:
                self._word_ids.clear()
            self._word_ids[word] = ids
        return ids

    def _hf_rows(self, texts: list[str], context: int) -> list[list[int]]:
        """The tokenizer's own special tokens, truncated by the library."""
        if context not in self._truncating:
            check_context(context, self._plain.num_special_tokens_to_add(False) + 1)
            backend = type(self._plain).from_str(self._plain.to_str())
            backend.encode_special_tokens = self.spec.plain_specials
            backend.enable_truncation(context, direction=self.spec.truncation_side)
            self._truncating[context] = backend
        return [e.ids for e in self._truncating[context].encode_batch_fast(texts)]

    def _clips_rows(self, texts: list[str], context: int) -> list[list[Any]]:
        """Begin, text, end; the caller pads and puts the class token in the last place."""
        check_context(context, 4)
        encodings = self._plain.encode_batch_fast(texts, add_special_tokens=False)
        return [
            [self.spec.sot_id, *encoding.ids[: context - 3], self.spec.eot_id]
            for encoding in encodings
        ]


def eot_lengths(tokens: np.ndarray, eot_id: int) -> np.ndarray:
    """Tokens of each row up to and including its first EOT: int64 [batch].

    `tokens` is [batch, context_tokens]; a row without EOT has its full length. Cutting a batch at
    the maximum changes no embedding of a causal tower that pools at the first EOT.
    """
    is_eot = np.asarray(tokens) == eot_id
    return np.where(is_eot.any(axis=1), is_eot.argmax(axis=1) + 1, is_eot.shape[1])


def text_lengths(tokens: np.ndarray, pad_id: int) -> np.ndarray:
    """Tokens of each row up to its last that is no padding, at least one: int64 [batch].

    `tokens` is [batch, context_tokens]. Padding that was typed within a text belongs to it.
    """
    others = np.asarray(tokens)[:, ::-1] != pad_id
    return np.where(others.any(axis=1), others.shape[1] - others.argmax(axis=1), 1)


def check_context(context: int, at_least: int) -> None:
    """Raise UsageError for a context length that holds no text, or that nothing can hold."""
    if not _is_id(context) or not at_least <= context <= MAX_CONTEXT_TOKENS:
        raise UsageError(
            f"context_tokens is {quoted(context)}, it must be {at_least} or more, and at most "
            f"{MAX_CONTEXT_TOKENS}"
        )


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 31
