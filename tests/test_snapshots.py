"""Stored output against what the code at hand makes of the same data."""

from __future__ import annotations

import re

import pytest
from snapshot_data import FOLDER, outputs

STORED = sorted(path.name for path in FOLDER.iterdir() if path.suffix != ".md" or "-" in path.name)


@pytest.fixture(scope="module")
def now() -> dict[str, str]:
    return outputs()


def plain(name: str, text: str) -> str:
    """Of a page its tags, attributes and text: white space around line breaks and between tags
    may differ, and how quotes are escaped."""
    if not name.endswith(".html"):
        return text
    text = text.replace("&#39;", "&#x27;").replace("&#34;", "&quot;")
    return re.sub(r"\s*\n\s*", "\n", re.sub(r">\s+<", "><", text))


@pytest.mark.parametrize("name", STORED)
def test_output_is_as_stored(name: str, now: dict[str, str]) -> None:
    stored = (FOLDER / name).read_bytes().decode()
    assert plain(name, now[name]) == plain(name, stored)


def test_all_output_is_stored(now: dict[str, str]) -> None:
    assert sorted(now) == STORED
