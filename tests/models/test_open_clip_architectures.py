"""The page of what can be exported: it speaks of every architecture, and of CLIP-as-service's."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import pytest

from clipperf.models.open_clip_facts import installed_configs
from clipperf.models.published import basic_statistics

PAGE = Path(__file__).parents[2] / "docs" / "architectures.md"


@pytest.fixture(scope="module")
def rows() -> dict[str, list[str]]:
    """The cells of every row of the page's tables by the first cell."""
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    cells = [[c.strip() for c in line.strip("|").split(" | ")] for line in lines if line[:1] == "|"]
    return {row[0]: row for row in cells}


def test_every_architecture_has_a_row(rows: dict[str, list[str]]) -> None:
    if f"open_clip_torch {version('open_clip_torch')}" not in PAGE.read_text(encoding="utf-8"):
        pytest.skip("the page was written with another open_clip")
    assert set(installed_configs() or {}) <= rows.keys()


def test_every_model_of_clip_as_service_can_be_exported(rows: dict[str, list[str]]) -> None:
    for model in basic_statistics():
        if not model.alias.startswith("M-CLIP/"):
            told = dict(zip(rows["model"], rows[model.alias], strict=True))
            image, text = told["image tower"], told["text tower"]
            assert image.startswith("exported") and text.startswith("exported"), model.alias


def test_what_is_refused_has_a_reason(rows: dict[str, list[str]]) -> None:
    for row in rows.values():
        if len(row) == 8 and row[4].startswith(("refused", "crashed")):
            assert len(row[4].partition(": ")[2]) > 10, row[1]
