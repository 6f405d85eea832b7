"""Numbers beside a class in published shards: columns, and groups of which the worst counts."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from published_layouts import array, picture, shards

from clipperf.errors import UsageError
from clipperf.evals.datasets import load_dataset
from clipperf.evals.suites import wanted_in
from clipperf.evals.task import Embeddings, outcomes_of

TEXTS = {
    "classnames.txt": "sea\nsky\n",
    "zeroshot_classification_templates.txt": "a photo of {c}.\n",
}


def published(root: Path, rows: Sequence[tuple[int, Sequence[float] | None]]) -> Path:
    """Shards of classes, with numbers beside some of them."""
    samples = [
        {
            "cls": str(label).encode(),
            "png": picture(20 * i, "png"),
            **({} if numbers is None else {"npy": array(numbers)}),
        }
        for i, (label, numbers) in enumerate(rows)
    ]
    return shards(root, samples, TEXTS)


ROWS: list[tuple[int, Sequence[float]]] = [
    *((0, (0, 14, 0)), (1, (0, 15, 1)), (0, (2, 14, 0))),
    *((1, (2, 14, 1)), (1, (2, 15, 1)), (0, (4, 15, 0))),
]


def test_the_worst_region_of_fmow_as_published(home: Path) -> None:
    published(home / "datasets" / "wds_wilds-fmow_test", ROWS)
    data = load_dataset("wilds/fmow")
    assert data.columns == {
        "region": ("0", "0", "2", "2", "2", "4"),
        "year": ("14", "15", "14", "14", "15", "15"),
        "y": ("0", "1", "0", "1", "1", "0"),
    }
    assert data.groups == ("region",) and data.labels == (0, 1, 0, 1, 1, 0)
    axes = np.eye(2, dtype=np.float32)
    # Wrong: the second image of region 0, and one of the three of region 2.
    found = Embeddings(axes[[0, 0, 0, 1, 0, 0]], {"prompts": axes})
    rows = {row.metric: row.value for row in outcomes_of(data, found)}
    assert rows["zeroshot top-1, worst group"] == 1 / 2
    assert rows["zeroshot top-1, region 0"] == 1 / 2
    assert rows["zeroshot top-1, region 2"] == pytest.approx(2 / 3)
    assert rows["zeroshot top-1, region 4"] == 1
    assert "zeroshot top-1, year 14" not in rows
    # What the published table of 38 sets asks for.
    (wanted,) = (row for row in wanted_in("datacomp38") if row.dataset == "wilds/fmow")
    asked = dataclasses.replace(data, metrics=(wanted.metric,))
    assert [row.metric for row in outcomes_of(asked, found)] == [wanted.metric]


@pytest.mark.parametrize(
    ("folder", "name", "groups"),
    [
        ("wds_fairness-dollar_street_test", "dollar_street", ("income_ds",)),
        ("wds_wilds-camelyon17_test", "wilds/camelyon17", ()),
    ],
)
def test_other_sets_with_groups(home: Path, folder: str, name: str, groups: tuple[str]) -> None:
    published(home / "datasets" / folder, ROWS)
    assert load_dataset(name).groups == groups


def test_numbers_of_a_set_of_ones_own_are_columns(tmp_path: Path) -> None:
    data = load_dataset(published(tmp_path / "w", [(0, (1.5, -2)), (1, (3, 4))]))
    assert data.columns == {"metadata 0": ("1.5", "3"), "metadata 1": ("-2", "4")}
    assert data.groups == ()
    # Where not every sample has them they are none of anything.
    data = load_dataset(published(tmp_path / "v", [(0, (1.5, -2)), (1, None)]))
    assert data.columns == {} and data.labels == (0, 1)
    with pytest.raises(UsageError, match="1 numbers, the first sample has 2"):
        load_dataset(published(tmp_path / "u", [(0, (1.5, -2)), (1, (3,))]))
