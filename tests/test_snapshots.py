"""Stored output against what the code at hand makes of the same data."""

from __future__ import annotations

import re

import pytest
from snapshot_data import FOLDER, outputs

STORED = sorted(path.name for path in FOLDER.iterdir() if path.name != "README.md")

INSIDE = re.compile(r"(?<=<)(td|th|li)\b[^>]*>.*?</\1(?=>)", re.DOTALL)


@pytest.fixture(scope="module")
def now() -> dict[str, str]:
    return outputs()


def plain(name: str, text: str) -> str:
    """Of a page its tags, attributes and text: how quotes are escaped may differ, and white space
    around line breaks and between tags, but not whether there is some inside of a cell of a table
    or an item of a list. Its style and script, and the policy that names it, are not stored."""
    if not name.endswith(".html"):
        return text
    text = text.replace("&#39;", "&#x27;").replace("&#34;", "&quot;")
    text = re.sub(r"<(style|script)>.*?</\1>", r"<\1></\1>", text, flags=re.DOTALL)
    text = re.sub(r" content=\"default-src [^\"]*\"", "", text)
    text = INSIDE.sub(lambda found: re.sub(r"(?<=>)\s+(?=<)", "&#32;", found[0]), text)
    return re.sub(r"\s*\n\s*", "\n", re.sub(r">\s+<", "><", text))


@pytest.mark.parametrize("name", STORED)
def test_output_is_as_stored(name: str, now: dict[str, str]) -> None:
    stored = (FOLDER / name).read_bytes().decode()
    assert plain(name, now[name]) == plain(name, stored)


def test_all_output_is_stored(now: dict[str, str]) -> None:
    assert sorted(now) == STORED
