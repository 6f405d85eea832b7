"""Texts to the token arrays that CLIP text towers expect, without torch or open_clip.

A tokenizer lives in an artifact folder as two files: `tokenizer.json`, read by the `tokenizers`
library, and `tokenizer_config.json`, a `TokenizerSpec`: what open_clip does around it in Python
(cleaning, context length, padding). Reading one needs numpy and tokenizers, and ftfy for texts
that are not plain ASCII; writing one needs open_clip's files. Token for token the result equals
open_clip's tokenizer of the machine that wrote the folder.
"""

from __future__ import annotations

import gzip
import html
import importlib.util
import re
import string
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from clipperf.errors import ArtifactError, ExportError, MissingDependencyError, UsageError
from clipperf.store import read_json, write_json, write_text

TOKENIZER_FILE = "tokenizer.json"
CONFIG_FILE = "tokenizer_config.json"
SOT, EOT = "<start_of_text>", "<end_of_text>"
KINDS = ("clip", "hf", "clips")
SIDES = ("right", "left")

_MERGES_FILE = "bpe_simple_vocab_16e6.txt.gz"
_MERGES = 49152 - 256 - 2
_CONTRACTIONS = ("'s", "'t", "'re", "'ve", "'m", "'ll", "'d")

# The word pattern on printable ASCII, where every version of Unicode agrees.
_ASCII_WORDS = re.compile(
    "|".join((SOT, EOT, *_CONTRACTIONS, "[a-z]+", "[0-9]", "[^ a-z0-9]+")), re.ASCII | re.IGNORECASE
)
_CACHED_WORDS = 1 << 16
_CACHED_LENGTH = 32

# On any other text ftfy and html.unescape are the identity: every fix of ftfy's needs an HTML
# entity, a character outside ASCII, or a control character other than tab and newline.
_MAY_NEED_FIXING = re.compile(r"[^\t\n -%'-~]")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)

# Compared with the reference whenever a tokenizer is written.
_PROBES = (
    *("", "a", "A photo of 2 dogs, it's 10:30!", "  tabs\tand\nlines ", "<b>&amp;lt;</b> &eacute;"),
    *(
        "CAFÉ naïve façade",
        "ＦＵＬＬ “quotes” ﬁ",
        "schÃ¶n",
        "東京タワー 🗼👍🏽",
        "Привет, мир",
        "١٢٣ x²",
    ),
    *("<start_of_text> typed <END_OF_TEXT>", "</s> <pad> [SEP] <bos>", "word " * 300, "a" * 500),
)


@dataclass(frozen=True)
class TokenizerSpec:
    """What surrounds `tokenizer.json`; the content of `tokenizer_config.json`.

    `kind`: "clip" (open_clip's own BPE: SOT, text, EOT), "hf" (a Hugging Face tokenizer with its
    own special tokens) or "clips" (begin, text, end, padding and a class token in the last place).
    `clean` names open_clip's text cleaning. `zeroed_id` is replaced by 0 everywhere.
    `plain_specials` reads special tokens typed in a text as ordinary text. `eot_id` may be None
    for "hf".
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

        def check(name: str, fits: bool) -> None:
            if not fits:
                raise ArtifactError(
                    f"{where}: {name} is missing or not valid: {data.get(name)!r}; "
                    "export the model again"
                )

        if not isinstance(data, Mapping):
            raise ArtifactError(f"{where}: expected an object, got {type(data).__name__}")
        spec = cls(**{f.name: data.get(f.name, f.default) for f in fields(cls)})
        needed = {"clip": ("sot_id", "eot_id"), "clips": ("sot_id", "eot_id", "cls_id")}
        check("kind", spec.kind in KINDS)
        check("clean", spec.clean in CLEANERS)
        check("context_tokens", _is_id(spec.context_tokens) and spec.context_tokens > 0)
        check("pad_id", _is_id(spec.pad_id))
        for name in ("sot_id", "eot_id", "cls_id", "zeroed_id"):
            optional = name not in needed.get(spec.kind, ())
            value = getattr(spec, name)
            check(name, (optional and value is None) or _is_id(value))
        for name in ("padding_side", "truncation_side"):
            check(name, getattr(spec, name) in SIDES)
        check("plain_specials", isinstance(spec.plain_specials, bool))
        check("origin", spec.origin is None or isinstance(spec.origin, str))
        return spec


class Tokenizer:
    """A loaded tokenizer: `tokenizer(texts)` gives int64 [batch, context_tokens]."""

    def __init__(self, backend: Any, spec: TokenizerSpec) -> None:
        """Wrap a `tokenizers.Tokenizer`; use `from_folder` to read one from disk."""
        self.spec = spec
        backend.no_padding()
        backend.no_truncation()
        backend.encode_special_tokens = spec.plain_specials
        self._plain = backend
        # Truncation is state of the backend, so every length gets its own: calls from several
        # threads cannot disturb each other.
        self._truncating: dict[int, Any] = {}
        self._word_ids: dict[str, list[int]] = {}

    @classmethod
    def from_folder(cls, folder: str | Path) -> Tokenizer:
        """Read `tokenizer.json` and `tokenizer_config.json` of an artifact folder.

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
        backend_class = _import("tokenizers").Tokenizer
        try:
            backend = backend_class.from_buffer(Path(path).read_bytes())
        except Exception as exc:  # tokenizers raises no narrower class
            raise ArtifactError(f"cannot read {path}: {exc}; export the model again") from exc
        return cls(backend, spec)

    @property
    def context_tokens(self) -> int:
        """Columns of the token array."""
        return self.spec.context_tokens

    @property
    def eot_id(self) -> int | None:
        """The token that ends a text, for `eot_lengths`; None where the model has none."""
        return self.spec.eot_id

    def __call__(self, texts: str | Sequence[str], context_tokens: int | None = None) -> np.ndarray:
        """Tokens of every text as int64 [batch, context_tokens], padded and cut as open_clip does.

        Raises:
            UsageError: an element is not a string, or the context is too short for any text.
            MissingDependencyError: a text is not plain ASCII and ftfy is not installed.
        """
        texts = [texts] if isinstance(texts, str) else list(texts)
        for i, text in enumerate(texts):
            if not isinstance(text, str):
                raise UsageError(f"text {i} is {type(text).__name__}, expected str")
        spec = self.spec
        context = spec.context_tokens if context_tokens is None else context_tokens
        clean = CLEANERS[spec.clean]
        cleaned = [clean(text) for text in texts]
        if spec.kind == "clip":
            rows = self._clip_rows(cleaned, context)
        elif spec.kind == "clips":
            rows = self._clips_rows(cleaned, context)
        else:
            rows = self._hf_rows(cleaned, context)
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
        return tokens

    def _clip_rows(self, texts: list[str], context: int) -> list[list[Any]]:
        """SOT, text, EOT; a text too long is cut, and its last token becomes EOT."""
        _check_context(context, 1)
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
            _check_context(context, self._plain.num_special_tokens_to_add(False) + 1)
            backend = type(self._plain).from_str(self._plain.to_str())
            backend.encode_special_tokens = self.spec.plain_specials
            backend.enable_truncation(context, direction=self.spec.truncation_side)
            self._truncating[context] = backend
        return [e.ids for e in self._truncating[context].encode_batch_fast(texts)]

    def _clips_rows(self, texts: list[str], context: int) -> list[list[Any]]:
        """Begin, text, end; the caller pads and puts the class token in the last place."""
        _check_context(context, 4)
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


def write_clip_tokenizer(
    folder: str | Path, context_tokens: int = 77, clean: str = "lower"
) -> TokenizerSpec:
    """Write open_clip's own BPE tokenizer into an existing folder, without importing open_clip.

    The word pattern spells out every letter and digit that the installed `regex` module knows:
    the Unicode tables of the tokenizers library differ from it in newer scripts.

    Raises:
        UsageError: unknown `clean`, or a context below 1.
        MissingDependencyError: open_clip, regex or tokenizers is not installed.
        ArtifactError: open_clip's vocabulary file is damaged.
    """
    if clean not in CLEANERS:
        raise UsageError(f"unknown cleaning {clean!r}; expected one of {', '.join(CLEANERS)}")
    _check_context(context_tokens, 1)
    tokenizers, regex = _import("tokenizers"), _import("regex")
    merges = _read_merges()
    # The library's set is unordered; the reference lists printable bytes first, then the others
    # as characters from U+0100 on: both in code point order.
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    words = [*alphabet, *(c + "</w>" for c in alphabet), *(a + b for a, b in merges), SOT, EOT]
    vocabulary = {word: i for i, word in enumerate(words)}
    backend = tokenizers.Tokenizer(
        tokenizers.models.BPE(vocab=vocabulary, merges=merges, end_of_word_suffix="</w>")
    )
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
        [
            # Inverted: the matches are the words, everything between them is dropped.
            tokenizers.pre_tokenizers.Split(
                tokenizers.Regex(_word_pattern(regex)), behavior="removed", invert=True
            ),
            tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    spec = TokenizerSpec(
        kind="clip",
        clean=clean,
        context_tokens=context_tokens,
        pad_id=0,
        sot_id=vocabulary[SOT],
        eot_id=vocabulary[EOT],
        origin=f"words split by the Unicode tables of regex {regex.__version__}",
    )
    _write(folder, backend, spec)
    return spec


def write_hf_tokenizer(folder: str | Path, open_clip_tokenizer: Any) -> TokenizerSpec:
    """Write an open_clip HFTokenizer or SigLipTokenizer into an existing folder.

    Its fast tokenizer's JSON is copied with the settings around it, read back, and compared with
    the original on a set of difficult texts.

    Raises:
        ExportError: it has no fast tokenizer, an unknown cleaning or mode, lacks a special token
            that it needs, or the copy does not give the same tokens.
    """
    hf = open_clip_tokenizer.tokenizer
    backend = getattr(hf, "backend_tokenizer", None)
    if backend is None:
        raise ExportError(
            f"{type(hf).__name__} has no fast tokenizer to copy; "
            "pip install sentencepiece tiktoken, then load the model again"
        )
    try:
        # Multilingual tokenizers set their language's special tokens anew in every call, so only
        # one that has been called holds what it really does.
        open_clip_tokenizer(["a"])
    except Exception as exc:
        raise ExportError(f"{type(hf).__name__} cannot tokenize a single letter: {exc}") from exc
    mode = getattr(open_clip_tokenizer, "tokenizer_mode", "") or "hf"
    if mode not in ("hf", "clips"):
        raise ExportError(f"unknown tokenizer mode {mode!r}; expected none or 'clips'")
    clips = mode == "clips"
    eot = hf.eos_token_id if hf.eos_token_id is not None else hf.sep_token_id
    strip = getattr(open_clip_tokenizer, "strip_sep_token", False) and not clips
    language = getattr(hf, "cur_lang_code", None)
    spec = TokenizerSpec(
        kind=mode,
        clean=_cleaning_of(open_clip_tokenizer),
        context_tokens=open_clip_tokenizer.context_length,
        pad_id=hf.pad_token_id,
        sot_id=hf.bos_token_id if clips else None,
        eot_id=hf.eos_token_id if clips else eot,
        cls_id=hf.cls_token_id if clips else None,
        zeroed_id=hf.sep_token_id if strip else None,
        padding_side=hf.padding_side,
        truncation_side=hf.truncation_side,
        plain_specials=bool(getattr(hf, "split_special_tokens", False)),
        origin=f"language {hf.convert_ids_to_tokens(language)}" if language is not None else None,
    )
    try:
        TokenizerSpec.from_json(spec.to_json(), type(hf).__name__)
    except ArtifactError as exc:
        raise ExportError(f"this tokenizer cannot be exported: {exc}") from exc
    # A copy, because saving must not reset the truncation of the caller's.
    copy = _import("tokenizers").Tokenizer.from_str(backend.to_str())
    copy.no_padding()
    copy.no_truncation()
    _write(folder, copy, spec)
    _verify(folder, open_clip_tokenizer)
    return spec


def write_tokenizer(folder: str | Path, open_clip_tokenizer: Any) -> TokenizerSpec:
    """Write whatever `open_clip.get_tokenizer` returned, and compare it with the original.

    Raises:
        ExportError: no equal torch-free tokenizer can be made; the message says why.
    """
    if hasattr(open_clip_tokenizer, "tokenizer"):
        return write_hf_tokenizer(folder, open_clip_tokenizer)
    if getattr(open_clip_tokenizer, "reduction_fn", None) is not None:
        raise ExportError(
            "this tokenizer shortens long texts at random (reduction_mask), which is made for "
            "training; get it with reduction_mask='' to cut them at the end"
        )
    spec = write_clip_tokenizer(
        folder, open_clip_tokenizer.context_length, _cleaning_of(open_clip_tokenizer)
    )
    if Tokenizer.from_folder(folder)._plain.get_vocab() != open_clip_tokenizer.encoder:
        raise ExportError(
            "this tokenizer's vocabulary is not open_clip's own; additional special tokens and "
            "other BPE files cannot be exported"
        )
    _verify(folder, open_clip_tokenizer)
    return spec


def _verify(folder: str | Path, open_clip_tokenizer: Any) -> None:
    """Compare the tokenizer just written with the one it was made from."""
    written = Tokenizer.from_folder(folder)(_PROBES)
    expected = np.asarray(open_clip_tokenizer(list(_PROBES)))
    if not np.array_equal(written, expected):
        bad = next(i for i in range(len(_PROBES)) if not np.array_equal(written[i], expected[i]))
        raise ExportError(
            f"the exported tokenizer differs from the original on {_PROBES[bad][:40]!r}; "
            "it does something in Python that tokenizer.json cannot hold"
        )


def _write(folder: str | Path, backend: Any, spec: TokenizerSpec) -> None:
    write_text(Path(folder) / TOKENIZER_FILE, backend.to_str())
    write_json(Path(folder) / CONFIG_FILE, spec.to_json())


def _read_merges() -> list[tuple[str, str]]:
    """The BPE merges bundled with open_clip, best first."""
    found = importlib.util.find_spec("open_clip")
    if found is None or found.origin is None:
        raise MissingDependencyError("open_clip is not installed: pip install open_clip_torch")
    path = Path(found.origin).parent / _MERGES_FILE
    try:
        lines = gzip.decompress(path.read_bytes()).decode("utf-8").split("\n")
    except (OSError, EOFError, ValueError) as exc:
        raise ArtifactError(f"cannot read {path}: {exc}; reinstall open_clip_torch") from exc
    pairs = [line.split() for line in lines[1 : 1 + _MERGES]]
    if len(pairs) != _MERGES or any(len(pair) != 2 for pair in pairs):
        raise ArtifactError(f"{path} is not CLIP's list of merges; reinstall open_clip_torch")
    return [(first, second) for first, second in pairs]


def _word_pattern(regex: Any) -> str:
    """CLIP's word pattern, case-insensitive, with its Unicode classes spelled out.

    Classes are read from the regex module itself, one character at a time, because case folding
    moves a few: U+0345 belongs to none of the three and vanishes.
    """
    every = "".join(map(chr, (*range(0xD800), *range(0xE000, sys.maxunicode + 1))))

    def members(pattern: str, among: str = every) -> list[str]:
        return regex.findall(pattern, among, regex.IGNORECASE)

    fixed_words = (SOT, EOT, *_CONTRACTIONS)
    # Few characters fold to one of these words': scan for all of them once.
    folding = "".join(members(f"[{''.join(set(''.join(fixed_words)))}]"))

    def either_case(word: str) -> str:
        return "".join(f"[{_ranges(members(character, folding))}]" for character in word)

    letters, digits = members(r"[\p{L}]"), members(r"[\p{N}]")
    not_others = regex.sub(r"[^\s\p{L}\p{N}]", "", every, flags=regex.IGNORECASE)
    return "|".join(
        (
            *map(either_case, fixed_words),
            *(f"[{_ranges(letters)}]+", f"[{_ranges(digits)}]", f"[^{_ranges(not_others)}]+"),
        )
    )


def _ranges(characters: Iterable[str]) -> str:
    """The inside of a regular expression's character class."""
    spans: list[list[int]] = []
    for code in sorted(map(ord, characters)):
        if spans and spans[-1][1] == code - 1:
            spans[-1][1] = code
        else:
            spans.append([code, code])
    return "".join(f"\\x{{{a:X}}}" + (f"-\\x{{{b:X}}}" if b > a else "") for a, b in spans)


def _cleaning_of(open_clip_tokenizer: Any) -> str:
    """The name of an open_clip tokenizer's cleaning; SigLipTokenizer's is built in."""
    clean_fn = getattr(open_clip_tokenizer, "clean_fn", None)
    name = "canonicalize" if clean_fn is None else clean_fn.__name__.removeprefix("_clean_")
    if name not in CLEANERS:
        raise ExportError(f"unknown text cleaning {name!r}; known: {', '.join(CLEANERS)}")
    return name


def _fixed(text: str) -> str:
    """Mojibake, entities and odd characters repaired, outer whitespace removed."""
    if _MAY_NEED_FIXING.search(text):
        text = html.unescape(html.unescape(_import("ftfy").fix_text(text)))
    return text.strip()


def _clean_whitespace(text: str) -> str:
    return " ".join(_fixed(text).split())


def _clean_lower(text: str) -> str:
    return _clean_whitespace(text).lower()


def _clean_canonicalize(text: str) -> str:
    # Only ASCII punctuation goes, as in the reference.
    text = _fixed(text).replace("_", " ").translate(_NO_PUNCTUATION)
    return " ".join(text.lower().split())


CLEANERS: dict[str, Callable[[str], str]] = {
    "lower": _clean_lower,
    "canonicalize": _clean_canonicalize,
    "whitespace": _clean_whitespace,
}


def _import(name: str) -> Any:
    """Import an optional or late dependency."""
    try:
        return importlib.import_module(name)
    except ImportError as exc:
        why = ", which tokenisation of text beyond plain ASCII needs" if name == "ftfy" else ""
        raise MissingDependencyError(f"{name} is not installed{why}: pip install {name}") from exc


def _check_context(context: int, at_least: int) -> None:
    if not _is_id(context) or context < at_least:
        raise UsageError(f"context_tokens is {context!r}, it must be {at_least} or more")


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
