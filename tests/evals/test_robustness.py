"""Effective robustness: the line between logits, by hand, and the tables that it is fitted to."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from clipperf.errors import UsageError
from clipperf.evals.robustness import (
    SHIFTED,
    bundled_points,
    fitted,
    read_points,
    robustness_of,
)
from clipperf.nouns.cell import Cell
from clipperf.nouns.result import Score


def logit(share: float) -> float:
    return math.log(share / (1 - share))


def logistic(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def test_the_line_by_hand() -> None:
    # logit(shifted) = 2 * logit(base) - 1, without noise.
    points = [(base, logistic(2 * logit(base) - 1)) for base in (0.4, 0.6, 0.8)]
    line = fitted([*points, (0.0, 0.3), (0.5, 1.0)])  # whose logits are infinite: left out
    assert (line.slope, line.offset, line.n) == (pytest.approx(2), pytest.approx(-1), 3)
    assert line.predicted(0.7) == pytest.approx(logistic(2 * logit(0.7) - 1))


@pytest.mark.parametrize(
    "points", [[], [(0.5, 0.4), (0.6, 0.5)], [(0.5, 0.1 * i) for i in range(6)]]
)
def test_too_few_models(points: list[tuple[float, float]]) -> None:
    with pytest.raises(UsageError, match="three models of different accuracy"):
        fitted(points)


def test_a_score_above_the_line() -> None:
    cell = Cell("m", "image", "onnx", "fp32", "cpu", 32, 1)
    other = Cell("m", "image", "onnx", "int8", "cpu", 32, 1)

    def score(of: Cell, dataset: str, value: float, metric: str = "zeroshot top-1") -> Score:
        return Score(of, dataset, "", metric, value, 100, (0, 1))

    points = {"imagenet-a": [(x, logistic(logit(x) - 2)) for x in (0.3, 0.5, 0.9)]}
    found = robustness_of(
        [
            score(cell, "imagenet1k", 0.5),
            score(cell, "imagenet-a", 0.3),
            score(cell, "imagenet-a", 0.9, "zeroshot top-5"),
            score(cell, "objectnet", 0.4),
            score(other, "imagenet-a", 0.3),  # without one on ImageNet
        ],
        points,
    )
    (one,) = found
    assert one.shifted.cell == cell and one.predicted == pytest.approx(logistic(-2))
    assert one.effective == pytest.approx(0.3 - logistic(-2))
    # A machine's score stands beside its own.
    assert (
        robustness_of(
            [
                score(cell, "imagenet1k", 0.5),
                replace(score(cell, "imagenet-a", 0.3), env_id="other"),
            ],
            points,
        )
        == []
    )


def test_the_bundled_table_and_ones_own(tmp_path: Path) -> None:
    bundled = bundled_points()
    assert tuple(bundled) == SHIFTED and all(len(own) > 100 for own in bundled.values())
    assert (0.8437, 0.7964) in bundled["imagenet-a"]  # ViT-H-14-378-quickgelu, dfn5b
    assert 0.5 < fitted(bundled["imagenetv2"]).predicted(0.7) < 0.7
    path = tmp_path / "models.csv"
    path.write_text("model,imagenet1k,imagenet-a,objectnet\nx,0.5,0.2,\ny,0.6,0.3,\nz,0.7,0.4,\n")
    assert read_points(path) == {"imagenet-a": [(0.5, 0.2), (0.6, 0.3), (0.7, 0.4)]}
    for text, said in (
        ("model,imagenet-a\nx,0.2\n", "need columns imagenet1k"),
        ("imagenet1k,model\n0.2,x\n", "any of imagenetv2"),
        ("imagenet1k,imagenet-a\n0.2,50\n", "line 2: 50 is no share of one"),
        ("imagenet1k,imagenet-a\n0.2,much\n", "line 2"),
        ("imagenet1k,imagenet-a\n0.2,0.1\n", "imagenet-a: a line takes three models"),
    ):
        path.write_text(text)
        with pytest.raises(UsageError, match=said):
            read_points(path)
