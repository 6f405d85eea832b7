"""open_clip's cleaning of texts: entities and mojibake repaired, spaces joined, letters lowered.
And that of SigLIP's first tokenizer in transformers, which repairs nothing.

Cleaning costs far more than tokenising does, and of a long text nearly all of it is for words that
no model reads. So long texts are cut before, where that is exact, and bounded where it is not.
"""

from __future__ import annotations

import html
import importlib
import re
import string
import unicodedata
from collections.abc import Callable
from typing import Any

from clipperf.errors import MissingDependencyError, UsageError
from clipperf.text import quoted

MAX_CHARACTERS = 1 << 20
"""The longest text that is tokenised, in about two seconds (mojibake alone: six). Longer ones are
cut before, where that is exact: see `first_words`."""

MAX_ENTITY_CHARACTERS = 1 << 14
"""The same for a text with HTML entities. ftfy goes over a line until nothing changes, once for
each level of an entity in an entity ("&amp;amp;amp;..."): that is quadratic, about three seconds of
a busy core at worst."""

_WHOLE_CHARACTERS = 1 << 12
"""Up to here, no text is cut before it is cleaned."""

# On any other text ftfy and html.unescape are the identity: every fix of ftfy's needs an HTML
# entity, a character outside ASCII, or a control character other than tab and newline.
_MAY_NEED_FIXING = re.compile(r"[^\t\n -%'-~]")
_ENTITY = re.compile(r"&#?[0-9A-Za-z]{1,24};")
"""What ftfy takes for one."""
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def first_words(text: str, clean: Callable[[str], str], words: int) -> str:
    """`clean(text)`, of which a long text has no more than a beginning of at least `words` words.

    As every word of CLIP's own tokenizer is one token or more, this changes none of the first
    `words` tokens. Text that needs no fixing is cut at any space. Other text is cut behind a
    newline: ftfy works line by line, and takes from a line to later ones alone (a "<" ends the
    unescaping); no entity reaches over a newline; and whoever lowers letters looks no further.
    Within a line nothing can be cut, as its end can change how its beginning is read.
    """
    if len(text) <= _WHOLE_CHARACTERS:
        return clean(text)
    cut = "\n" if _MAY_NEED_FIXING.search(text) else r"\s"
    end = _WHOLE_CHARACTERS
    while True:
        found = re.compile(cut).search(text, end)
        end = len(text) if found is None else found.end()
        cleaned = clean(text[:end])
        if end == len(text) or len(cleaned.split()) >= words:
            return cleaned
        end *= 2


def _fixed(text: str) -> str:
    """Mojibake, entities and odd characters repaired, outer whitespace removed."""
    text = _bounded(text)
    if _MAY_NEED_FIXING.search(text):
        fix = import_late("ftfy").fix_text
        if len(text) > MAX_ENTITY_CHARACTERS and (
            # Wide letters and mojibake may turn into one.
            _ENTITY.search(text) or _ENTITY.search(fix(text, unescape_html=False))
        ):
            raise _too_long(text, MAX_ENTITY_CHARACTERS, ", as it holds HTML entities")
        text = html.unescape(html.unescape(fix(text)))
    return text.strip()


def _bounded(text: str) -> str:
    """The text as it is, if it is not too long."""
    if len(text) > MAX_CHARACTERS:
        raise _too_long(text, MAX_CHARACTERS)
    return text


def _too_long(text: str, limit: int, why: str = "") -> UsageError:
    return UsageError(
        f"a text of {len(text):,} characters is too long, the limit is {limit:,}{why}; cut it, "
        f"for a model reads its first words alone: {quoted(text)}"
    )


def _clean_whitespace(text: str) -> str:
    return " ".join(_fixed(text).split())


def _clean_lower(text: str) -> str:
    return _clean_whitespace(text).lower()


def _clean_canonicalize(text: str) -> str:
    # Only ASCII punctuation goes, as in the reference.
    text = _fixed(text).replace("_", " ").translate(_NO_PUNCTUATION)
    return " ".join(text.lower().split())


SIGLIP_END, SIGLIP_UNKNOWN = "</s>", "<unk>"
_SIGLIP_TOKENS = re.compile(f"({SIGLIP_END}|{SIGLIP_UNKNOWN})")


def _clean_siglip(text: str) -> str:
    """As transformers' `SiglipTokenizer`, which keeps its special tokens where they are typed."""
    parts = _SIGLIP_TOKENS.split(_bounded(text).replace("▁", " "))
    for place in range(0, len(parts), 2):
        words = re.sub(r"\s+", " ", parts[place].lower().translate(_NO_PUNCTUATION)).strip()
        parts[place] = _composed(words)
    # What comes first begins a word, and no second end is put behind one that was typed.
    return f" {''.join(parts)}".removesuffix(SIGLIP_END)


_LONGEST_DECOMPOSITION = 4


def _composed(text: str) -> str:
    """NFKC as sentencepiece has it: left to right, of each place the longest letter that is known.

    Marks are not put in order. `tokenizers` reads the same table, but for whole letters with their
    marks, of which it loses some.
    """
    if unicodedata.is_normalized("NFKC", text):
        return text
    found, place = [], 0
    while place < len(text):
        for length in range(min(_LONGEST_DECOMPOSITION, len(text) - place), 0, -1):
            part = text[place : place + length]
            if len(unicodedata.normalize("NFKC", part)) == 1:
                break
        place += length
        marked = place < len(text) and unicodedata.category(text[place]).startswith("M")
        found.append(unicodedata.normalize("NFKC", part) if length > 1 or marked else part)
    return "".join(found)


CLEANERS: dict[str, Callable[[str], str]] = {
    "lower": _clean_lower,
    "canonicalize": _clean_canonicalize,
    "whitespace": _clean_whitespace,
    "none": _bounded,
    "siglip": _clean_siglip,
}


def import_late(name: str) -> Any:
    """Import an optional or late dependency."""
    try:
        return importlib.import_module(name)
    except ImportError as exc:
        why = ", which tokenisation of text beyond plain ASCII needs" if name == "ftfy" else ""
        raise MissingDependencyError(f"{name} is not installed{why}: pip install {name}") from exc
