"""Frames beside a frame by hand, and sentences as images."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

from clipperf.errors import UsageError
from clipperf.evals.datasets import Dataset, load_dataset
from clipperf.evals.task import Embeddings, outcomes_of
from clipperf.inputs.sources import ImageSource


def frames(anchors: str, clips: str, labels: str) -> Dataset:
    images = tuple(ImageSource(f"{i}.png", Path(f"{i}.png")) for i in range(len(labels)))
    return Dataset(
        *("d", "", images),
        labels=tuple(map(int, labels)),
        class_names=("a", "b", "c"),
        templates=("{}",),
        columns={"anchor": tuple(anchors), "film": tuple(clips)},
        clip="film",
        tasks=("neighbours",),
    )


def test_a_clip_counts_where_every_frame_is_right() -> None:
    axes = np.eye(3, dtype=np.float32)
    dataset = frames("010010001", "xxxyyyzzz", "000111222")
    # x: all right; y: the anchor right, one beside it not; z: the anchor wrong alone.
    seen = axes[[0, 0, 0, 1, 1, 2, 2, 2, 0]]
    rows = {row.metric: row for row in outcomes_of(dataset, Embeddings(seen, {"prompts": axes}))}
    assert rows["zeroshot PM-0"].values.tolist() == [True, True, False]
    assert rows["zeroshot PM-10"].values.tolist() == [True, False, False]
    assert rows["zeroshot PM-10"].decisions.tolist() == [0, 2, 0]
    assert rows["zeroshot PM-0"].chance == pytest.approx(1 / 3)
    with pytest.raises(UsageError, match=r"3\.png: its clip must have one frame with 1"):
        outcomes_of(
            frames("010000001", "xxxyyyzzz", "000111222"), Embeddings(seen, {"prompts": axes})
        )


def test_sentences_become_images_that_can_be_evaluated(tmp_path: Path) -> None:
    table = tmp_path / "dev.tsv"
    long = "it 's a charming and often affecting journey " * 12
    table.write_text(f'sentence\tlabel\nso bad\t0\n{long}\t1\n"quoted" words\t1\n')
    tool = ROOT / "tools" / "render_sentences.py"
    done = subprocess.run(
        [sys.executable, tool, table, tmp_path / "rendered"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    dataset = load_dataset(tmp_path / "rendered")
    assert dataset.class_names == ("negative", "positive") and dataset.labels == (0, 1, 1)
    for source in dataset.images:
        pixels = np.asarray(Image.open(source.path))
        assert pixels.shape == (448, 448, 3) and pixels.min() == 0
        dark = np.argwhere(pixels[..., 0] < 128)
        assert len(dark) > 50 and dark.min() >= 8 and dark.max() < 448 - 8  # nothing is cut off
