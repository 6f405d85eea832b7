"""Rendered SST2: the tool, and the folder that it leaves."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from conftest import ROOT

from clipperf.evals.datasets import load_dataset


@pytest.fixture
def render_sentences() -> Iterator[ModuleType]:
    """The tool as a module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "tools"))
        import render_sentences as tool

        yield tool


def test_sentences_are_rendered_black_on_white(
    render_sentences: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "dev.tsv"
    table.write_text(
        "sentence\tlabel\nno movement , no yuks .\t0\na gem\t1\n" + "long " * 90 + "\t0\n"
    )
    assert render_sentences.main([str(table), str(tmp_path / "sst")]) == 0
    assert capsys.readouterr().out.startswith("3 sentences in ")
    data = load_dataset(tmp_path / "sst")
    assert data.prompts == ("a negative review of a movie.", "a positive review of a movie.")
    assert data.labels == (0, 0, 1)
    for source in data.images:
        image = source.open()
        assert image.size == (448, 448) and image.mode == "RGB"
        grey = np.asarray(image.convert("L"))
        edge = render_sentences.MARGIN - 2
        inner = grey[edge:-edge, edge:-edge]
        # Ink, all of it inside of the margin, and as much to the left as to the right.
        assert (
            inner.min() == 0 and (grey == 255).sum() - (inner == 255).sum() == 448**2 - inner.size
        )
        columns = np.flatnonzero((grey < 128).any(axis=0))
        assert abs(columns[0] - (447 - columns[-1])) <= 4
    # The same sentence is the same image; one of whole lines has no header.
    (tmp_path / "test.txt").write_text("0 no movement , no yuks .\n1\ta gem\n")
    assert list(render_sentences.sentences(tmp_path / "test.txt")) == [
        ("0", "no movement , no yuks ."),
        ("1", "a gem"),
    ]
    again = render_sentences.rendered("no movement , no yuks .")
    assert again.tobytes() == data.images[0].open().tobytes()
    (tmp_path / "test.txt").write_text("good\n")
    assert render_sentences.main([str(tmp_path / "test.txt"), str(tmp_path / "x")]) == 2
    assert "line 1: need a label" in capsys.readouterr().err
