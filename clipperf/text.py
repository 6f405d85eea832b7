"""Text that can be shown anywhere: nothing in it drives a terminal, and it is as long as allowed.

File names, ids of models, errors of libraries and what users type may hold anything. Whatever of
it reaches a terminal, a table or a page goes through `printable`, an error through `one_line`.
"""

from __future__ import annotations

import json
import re
import unicodedata
from typing import Any

LINE_CHARACTERS = 2000
"""Of a line on standard error."""

WORDS_CHARACTERS = 400
"""Of an error in a cell of a table or between other words."""

NAME_CHARACTERS, VALUE_CHARACTERS = 1000, 200
"""Of a name, such as a path, and of a value that a message quotes."""

CUT = " ... "

UNSHOWN = re.compile(
    "[\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff"
    "\U000e0000-\U000e007f]"
)
"""What JSON allows in a string as it is and no terminal should get: controls of C1 and of Unicode,
such as those that turn the direction of writing, and what UTF-8 has no bytes for."""


def printable(text: str) -> str:
    r"""Text with every control character as its escape: "\x1b[31m", "\n", "\u202e", "\udcff".

    The last is a byte of a file name that is no UTF-8. Other kinds of space become spaces.
    """
    return text if text.isprintable() else "".join(map(_shown, text))


def _shown(character: str) -> str:
    if character.isprintable():
        return character
    if unicodedata.category(character) == "Zs":
        return " "
    return character.encode("unicode_escape").decode("ascii")


def one_line(text: str, characters: int = WORDS_CHARACTERS) -> str:
    """All lines of a text in one, with bars between them, `shortened` and `printable`."""
    # What is much too long is cut before it is looked at, and again once it has its escapes.
    lines = (line.strip() for line in shortened(text, 4 * characters).splitlines())
    return shortened(printable(" | ".join(filter(None, lines))), characters)


def letters(name: str) -> str:
    """What of a name is compared where its case, spaces and hyphens do not matter: "rtx4090"."""
    return re.sub(r"[^0-9a-z]", "", name.lower())


def shown(name: object) -> str:
    """A name or path as it may stand in a message: a bounded part of it, in one line."""
    return printable(_counted(str(name), NAME_CHARACTERS))


def quoted(value: object) -> str:
    """A value that a user passed as it may stand in a message: a bounded part of its `repr`."""
    try:
        return printable(_counted(repr(value), VALUE_CHARACTERS))
    except Exception:  # noqa: BLE001 - an integer of 5,000 digits, or a class of the user's
        return f"a value of type {type(value).__name__}"


def number_of(count: int, noun: str) -> str:
    """So many of something: "1 shard", "2 shards"."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _counted(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[:most]}... ({len(text):,} characters)"


def shortened(text: str, characters: int) -> str:
    """A text of at most so many characters: its beginning and its end say most."""
    if len(text) <= characters:
        return text
    end = characters // 3
    return f"{text[: characters - len(CUT) - end]}{CUT}{text[-end:]}"


def json_text(value: Any) -> str:
    """Plain values as JSON that reads back exactly, in characters that any terminal can take."""
    text = json.dumps(value, indent=1, ensure_ascii=False)
    return UNSHOWN.sub(lambda found: json.dumps(found[0])[1:-1], text)
