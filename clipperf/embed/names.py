"""Names of files as UTF-8 has them, whatever the encoding of the locale is.

Python reads names in the locale's encoding: in one without UTF-8 an id, and the digest of a
dataset, would be other ones than in the run before, and the paths of a table would lead nowhere.
"""

from __future__ import annotations

import os
import sys


def as_text(name: str) -> str:
    """A name that the system gave, as text; bytes that are no UTF-8 stay surrogates."""
    if _is_utf8():
        return name
    return os.fsencode(name).decode("utf-8", "surrogateescape")


def on_disk(text: str) -> str:
    """`as_text` back: what opens the file of that name."""
    if _is_utf8():
        return text
    try:
        return os.fsdecode(text.encode("utf-8", "surrogateescape"))
    except UnicodeEncodeError:  # no file can be called that
        return text


def _is_utf8() -> bool:
    return sys.getfilesystemencoding() == "utf-8"
