"""Metrics of ranks worked out by hand: which figures there are, what flips, what guessing gets."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from clipperf.evals.metric import METRICS, Answers, Located, Ranked, Scored, measured
from clipperf.evals.metrics.action_precision import DRAWS, lists
from clipperf.evals.metrics.average_precision import ALL_POINT, ELEVEN_POINT
from clipperf.evals.metrics.macro_f1 import MACRO_F1
from clipperf.evals.metrics.roc_auc import ROC_AUC
from clipperf.evals.metrics.worst_group import WORST
from clipperf.evals.outcome import MEAN_OVER_CLASSES, SHARE, SHARE_OF_GROUPS, Outcome
from clipperf.evals.resampling import unseen

RANKS = np.array([0, 1, 4, 5, 9, 10, 0])
GROUPS = np.array([0, 0, 1, 1, 2, 2, 2])
PREDICTED = np.array([0, 3, 3, 3, 3, 3, 2])
AT_1, AT_5, AT_10 = ([1, 0, 0, 0, 0, 0, 1], [1, 1, 1, 0, 0, 0, 1], [1, 1, 1, 1, 1, 0, 1])


def ranked(kind: str, candidates: int = 20, **more: Any) -> Ranked:
    return Ranked("pets", kind, "text", RANKS, candidates, GROUPS, **more)


def figures(rows: list[Outcome]) -> dict[str, list[int]]:
    return {row.metric: row.values.astype(int).tolist() for row in rows}


def test_every_metric_in_the_order_of_the_rows() -> None:
    rows = [metric for metric in METRICS if metric.name in METRICS.own()]
    assert [(metric.name, metric.kind) for metric in rows] == [
        ("top-k", "classification"),
        ("mean-per-class-recall", "classification"),
        ("recall-at-k", "retrieval"),
        ("worst-group", "classification"),
        ("average-precision", "multi-label"),
        ("action-precision", "actions"),
        ("by-group", "classification"),
        ("macro-f1", "classification"),
        ("mean-top-1-top-5", "classification"),
        ("roc-auc", "binary"),
        ("within-km", "geolocation"),
    ]
    rare = {metric.name for metric in rows if not metric.usual}
    assert rare == {"macro-f1", "mean-top-1-top-5", "roc-auc"}


def usual(answers: Answers) -> list[Outcome]:
    return [row for row in measured(answers) if row.usual]


def test_classification() -> None:
    rows = usual(ranked("classification", predicted=PREDICTED))
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
    for row in usual(ranked("classification")):
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
    assert [row.metric for row in usual(ranked(kind, candidates))] == metrics


def test_chance() -> None:
    assert ranked("retrieval", 4).chance(3) == 0.75
    assert ranked("retrieval", 4).chance(5) == 1.0
    # Two right among five, two drawn: 1 - (3/5)(2/4).
    assert ranked("retrieval", 5, right=np.array([2])).chance(2) == pytest.approx(0.7)


# --- what takes more than hits -------------------------------------------------------------


def named(answers: Answers) -> dict[str, Outcome]:
    return {row.metric.removeprefix("pets "): row for row in measured(answers)}


def test_the_mean_of_top_1_and_top_5() -> None:
    row = named(ranked("classification", predicted=PREDICTED))["mean(top-1, top-5)"]
    assert row.values.tolist() == [1, 0.5, 0.5, 0, 0, 0, 1] and row.value == pytest.approx(3 / 7)
    assert row.decisions is PREDICTED and row.chance == pytest.approx(3 / 20)
    assert "mean(top-1, top-5)" not in named(ranked("classification", 5))


def test_macro_f1() -> None:
    row = named(ranked("classification", predicted=PREDICTED))["macro F1"]
    # Class 0: one of two, no other taken for it: 2/3. Class 1: none. Class 2: one of three: 1/2.
    # Class 3 has no sample: what is taken for it counts against the others alone.
    assert row.value == pytest.approx((2 / 3 + 0 + 1 / 2) / 3)
    assert "macro F1" not in named(ranked("classification"))


def test_the_worst_group() -> None:
    parts = np.array([4, 4, 4, 9, 9, 9, 9])
    rows = named(ranked("classification", predicted=PREDICTED, parts=parts))
    assert rows["top-1, worst group"].value == pytest.approx(1 / 4)
    assert rows["top-5, worst group"].value == pytest.approx(1 / 4)
    assert rows["top-1, worst group"].interval[0] < 1 / 4
    assert not [name for name in named(ranked("classification")) if "worst" in name]


def test_few_samples_of_a_part_or_class_may_miss_much() -> None:
    """However many there are of the others, and though no answer changed."""
    parts = np.repeat([0, 1], [1000, 20])
    hits = np.ones(1020, bool)
    hits[:100] = False
    low, high = WORST.gap(hits, hits, parts).interval()
    # Of the small part 16.8 % may be lost unseen, from 100 %; of the large one 0.4 %, from 90 %.
    assert unseen(20) == pytest.approx(0.168433, abs=1e-6)
    assert low == pytest.approx((1 - unseen(20)) - 0.9)
    assert high == pytest.approx(unseen(1000))
    labels = np.repeat([0, 1], [98, 2])
    worth = 4 / (1 / 98 + 1 / 2)
    assert MACRO_F1.gap(labels, labels, labels).interval()[0] == pytest.approx(-unseen(worth))
    right = labels[:, None] == np.arange(2)
    values = np.stack([right.astype(float), right], axis=1)
    for estimate in (ALL_POINT, ELEVEN_POINT):
        gap = estimate.gap(values, values, labels)
        assert gap.interval() == pytest.approx((-unseen(worth), unseen(worth)))
    one = values[:, :, 1:]
    assert ROC_AUC.gap(one, one, labels).interval()[0] == pytest.approx(-unseen(2))


def test_average_precision_over_classes() -> None:
    scores = np.array([[0.9, 0.1, 0.0], [0.8, 0.3, 0.0], [0.7, 0.2, 0.0], [0.6, 0.0, 0.0]])
    right = np.array([[1, 0, 0], [0, 1, 0], [1, 0, 0], [0, 1, 0]], bool)
    rows = named(Scored("pets", "multi-label", "image", scores, right))
    # Class 0: 1 and 2/3; class 1: 1 at the first and 2/4 at the last; class 2 has no image.
    assert rows["mAP"].value == pytest.approx(((1 + 2 / 3) / 2 + (1 + 1 / 2) / 2) / 2)
    # From a recall of 0 to 0.5 the precision is 1 (six points), then 2/3 and 1/2 (five).
    eleven = ((6 + 5 * 2 / 3) / 11 + (6 + 5 / 2) / 11) / 2
    assert rows["11-point mAP"].value == pytest.approx(eleven)
    assert rows["mAP"].chance == pytest.approx(1 / 2)
    assert rows["mAP"].decisions.tolist() == [0, 0, 0, 0]


def test_roc_auc() -> None:
    scores, right = np.array([0.9, 0.4, 0.4, -0.2, -0.3]), np.array([1, 1, 0, 0, 1], bool)
    row = named(Scored("pets", "binary", "image", scores[:, None], right[:, None]))["ROC AUC"]
    # Of six pairs: 0.9 wins two, 0.4 ties one and wins one, -0.3 loses two.
    assert row.value == pytest.approx(3.5 / 6) and row.chance == 0.5
    assert row.decisions.tolist() == [True, True, True, False, False]


def test_actions_however_many_clips_a_video_has() -> None:
    actions = [("cut", "laptop"), ("cut", "tie"), ("wash", "laptop"), ("wash", "tie")]
    of = np.array([0, 0, 0, 0, 3, 1])
    annotations = np.array([1, 1, 0, 4, 1, 1])
    videos = np.array(["a", "a", "b", "b", "a", "c"])
    right, strata = lists(actions, of, annotations, videos)
    # Action 0: two positive clips of a; a negative and a hard one of b; "wash tie" of a is a
    # negative; "cut tie" of c shares the verb.
    assert right[:, 0].tolist() == [True, True, False, False, False, False]
    assert (strata[:, 0] % 3).tolist() == [1, 1, 0, 2, 0, 2]
    assert strata[0, 0] == strata[1, 0] and len(set(strata[:, 0])) == 5
    # Action 1: what is positive for others alone, beside its own; clips 2 and 3 say nothing of it.
    assert (strata[:, 1] >= 0).tolist() == [True, True, False, False, True, True]
    assert (strata[[0, 1, 4, 5], 1] % 3).tolist() == [2, 2, 2, 1]
    scores = np.zeros((6, 4))
    scores[:, 0] = [0.9, 0.2, 0.5, 0.1, 0.8, 0.0]
    scores[:, 1] = [0.9, 0.8, 0, 0, 0.7, 0.5]
    scores[:, 3] = [0, 0, 0, 0, 1, 0]
    rows = named(Scored("pets", "actions", "image", scores, right, strata))
    # Action 0: clips of a weigh a half: 1 at a recall of a half, then (1/2 + 1/2) / 3.
    first = (1 + 1 / 3) / 2
    # Action 1: three hard negatives of a weigh a third each, then the positive: 1/2. Action 3: 1.
    assert rows["mWAP"].value == pytest.approx((first + 1 / 2 + 1) / 3)
    # One of the two positive clips of a: 1 or 1/3, by a coin. Action 1: 1/2 whichever is drawn.
    sampled = 3 * rows["mWSAP"].value - 3 / 2
    heads = (sampled - 1 / 3) / (2 / 3) * DRAWS
    assert heads == pytest.approx(round(heads)) and 30 < heads < 70


def test_geolocation() -> None:
    km = np.array([0.5, 1.0, 24, 26, 900, 2600])
    rows = named(Located("pets", "image", km))
    assert {name: row.value for name, row in rows.items()} == pytest.approx(
        {
            "within 1 km": 2 / 6,
            "within 25 km": 3 / 6,
            "within 200 km": 4 / 6,
            "within 750 km": 4 / 6,
            "within 2500 km": 5 / 6,
        }
    )
