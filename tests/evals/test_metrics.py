"""Metrics of ranks worked out by hand: which figures there are, what flips, what guessing gets."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from clipperf.evals.metric import METRICS, Ranked, measured
from clipperf.evals.outcome import MEAN_OVER_CLASSES, SHARE, SHARE_OF_GROUPS, Outcome

RANKS = np.array([0, 1, 4, 5, 9, 10, 0])
GROUPS = np.array([0, 0, 1, 1, 2, 2, 2])
PREDICTED = np.array([0, 3, 3, 3, 3, 3, 2])
AT_1, AT_5, AT_10 = ([1, 0, 0, 0, 0, 0, 1], [1, 1, 1, 0, 0, 0, 1], [1, 1, 1, 1, 1, 0, 1])


def ranked(kind: str, candidates: int = 20, **more: Any) -> Ranked:
    return Ranked("pets", kind, "text", RANKS, candidates, GROUPS, **more)


def figures(rows: list[Outcome]) -> dict[str, list[int]]:
    return {row.metric: row.values.astype(int).tolist() for row in rows}


def test_every_metric_in_the_order_of_the_rows() -> None:
    assert METRICS.own() == ["top-k", "mean-per-class-recall", "recall-at-k"]
    kinds = {metric.name: metric.kind for metric in METRICS if metric.name in METRICS.own()}
    assert kinds == {
        "top-k": "classification",
        "mean-per-class-recall": "classification",
        "recall-at-k": "retrieval",
    }


def test_classification() -> None:
    rows = measured(ranked("classification", predicted=PREDICTED))
    assert figures(rows) == {
        "pets top-1": AT_1,
        "pets top-5": AT_5,
        "pets mean per-class recall": AT_1,
    }
    top_1, top_5, recall = rows
    assert (top_1.estimate, top_5.estimate, recall.estimate) == (SHARE, SHARE, MEAN_OVER_CLASSES)
    # An image flips with its class, but at 5 with its hit.
    assert top_1.decisions is PREDICTED and recall.decisions is PREDICTED
    assert top_5.decisions.astype(int).tolist() == AT_5
    assert [row.chance for row in rows] == pytest.approx([1 / 20, 5 / 20, 1 / 20])
    assert all(row.side == "text" and row.groups is GROUPS for row in rows)
    assert [row.value for row in rows] == pytest.approx([2 / 7, 4 / 7, (1 / 2 + 0 + 1 / 3) / 3])


def test_without_predictions_an_image_flips_with_its_hit() -> None:
    for row in measured(ranked("classification")):
        assert row.decisions is row.values


def test_retrieval() -> None:
    rows = measured(ranked("retrieval", predicted=PREDICTED))
    assert figures(rows) == {
        "pets recall@1": AT_1,
        "pets recall@5": AT_5,
        "pets recall@10": AT_10,
    }
    assert [row.chance for row in rows] == pytest.approx([1 / 20, 5 / 20, 10 / 20])
    assert all(row.estimate is SHARE and row.decisions is row.values for row in rows)
    assert all(row.side == "text" and row.groups is GROUPS for row in rows)
    clustered = measured(ranked("retrieval", clustered=True))
    assert all(row.estimate is SHARE_OF_GROUPS for row in clustered)


@pytest.mark.parametrize(
    ("kind", "candidates", "metrics"),
    [
        ("classification", 1, []),
        ("classification", 2, ["pets top-1", "pets mean per-class recall"]),
        ("classification", 5, ["pets top-1", "pets mean per-class recall"]),
        ("classification", 6, ["pets top-1", "pets top-5", "pets mean per-class recall"]),
        ("retrieval", 1, []),
        ("retrieval", 6, ["pets recall@1", "pets recall@5"]),
        ("retrieval", 10, ["pets recall@1", "pets recall@5"]),
        ("retrieval", 11, ["pets recall@1", "pets recall@5", "pets recall@10"]),
        ("of a task's own", 20, []),
    ],
)
def test_what_cannot_miss_has_no_figure(kind: str, candidates: int, metrics: list[str]) -> None:
    assert [row.metric for row in measured(ranked(kind, candidates))] == metrics


def test_chance() -> None:
    assert ranked("retrieval", 4).chance(3) == 0.75
    assert ranked("retrieval", 4).chance(5) == 1.0
    # Two right among five, two drawn: 1 - (3/5)(2/4).
    assert ranked("retrieval", 5, right=np.array([2])).chance(2) == pytest.approx(0.7)
