"""Writes the tokenizer files of an artifact folder, which `clipperf.inputs.tokenize` reads.

CLIP's own tokenizer is made from open_clip's vocabulary file; those from the Hugging Face hub are
copied. Whatever is written is read back and compared with the original.
"""

from __future__ import annotations

import gzip
import importlib.util
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from clipperf.errors import (
    ArtifactError,
    ExportError,
    MissingDependencyError,
    UsageError,
    WeightsError,
)
from clipperf.inputs.clean import CLEANERS, import_late
from clipperf.inputs.tokenize import (
    CONFIG_FILE,
    CONTRACTIONS,
    EOT,
    SOT,
    TOKENIZER_FILE,
    Tokenizer,
    TokenizerSpec,
    check_context,
)
from clipperf.system import extras
from clipperf.system.files import write_json, write_text

_MERGES_FILE = "bpe_simple_vocab_16e6.txt.gz"
_MERGES = 49152 - 256 - 2

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
    check_context(context_tokens, 1)
    tokenizers, regex = import_late("tokenizers"), import_late("regex")
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
    write_files(folder, backend, spec)
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
        sot_id=hf.bos_token_id if clips else getattr(open_clip_tokenizer, "start_id", None),
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
    copy = import_late("tokenizers").Tokenizer.from_str(backend.to_str())
    copy.no_padding()
    copy.no_truncation()
    write_files(folder, copy, spec)
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


def write_fetched(folder: str | Path, name: str, get: Callable[[], Any]) -> TokenizerSpec:
    """Write the tokenizer of the model called `name`, which `get` has from open_clip.

    Raises:
        WeightsError: it lives on the hub and cannot be fetched.
        MissingDependencyError: it needs the transformers package.
        ExportError: see `write_tokenizer`.
    """
    try:
        tokenizer = get()
    except ImportError as exc:
        raise MissingDependencyError(
            f"the tokenizer of {name} needs the transformers package: "
            f"{extras.bring('transformers')}"
        ) from exc
    except OSError as exc:
        raise WeightsError(
            f"the tokenizer of {name} cannot be fetched from the hub "
            f"({str(exc).splitlines()[0]}). Fetch it once on a machine with network and copy the "
            f"hub cache, or export the image tower alone: --tower image"
        ) from exc
    return write_tokenizer(folder, tokenizer)


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


def write_files(folder: str | Path, backend: Any, spec: TokenizerSpec) -> None:
    """Write a `tokenizers.Tokenizer` and what surrounds it."""
    write_text(Path(folder) / TOKENIZER_FILE, backend.to_str())
    write_json(Path(folder) / CONFIG_FILE, spec.to_json())


def _read_merges() -> list[tuple[str, str]]:
    """The BPE merges bundled with open_clip, best first."""
    found = importlib.util.find_spec("open_clip")
    if found is None or found.origin is None:
        raise MissingDependencyError(f"open_clip is not installed: {extras.bring('open_clip')}")
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

    fixed_words = (SOT, EOT, *CONTRACTIONS)
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
