"""Effective robustness: accuracy on a shifted set over what accuracy on ImageNet predicts.

(Taori et al. 2020, "Measuring Robustness to Natural Distribution Shifts in Image Classification".)
The prediction is a straight line between logits of accuracies, fitted to a table of models. Which
models those are decides what it means: beside models that were trained on ImageNet it is what the
paper calls effective robustness; beside other CLIPs, as in the table that is bundled, it is how
much more robust a model is than CLIPs of its accuracy.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from clipperf.errors import UsageError
from clipperf.inputs.sources import ImageSource, read_text
from clipperf.models.dataset_names import OPEN_CLIP_38
from clipperf.models.published import read_table
from clipperf.nouns.result import Score
from clipperf.text import shown

BASE = "imagenet1k"
SHIFTED = ("imagenetv2", "imagenet_sketch", "imagenet-a", "imagenet-r", "objectnet")
TOP1 = "zeroshot top-1"
BUNDLED = "open_clip's table of 38 datasets"

Points = Mapping[str, Sequence[tuple[float, float]]]
"""Accuracies of models on ImageNet and on a shifted set, by the set's name."""


@dataclass(frozen=True)
class Line:
    """logit(accuracy on the set) = slope * logit(accuracy on ImageNet) + offset, of `n` models."""

    slope: float
    offset: float
    n: int

    def predicted(self, accuracy: float) -> float:
        """The accuracy on the set that goes with one on ImageNet, both shares of one."""
        return 1 / (1 + math.exp(-(self.slope * _logit(accuracy) + self.offset)))


def fitted(points: Sequence[tuple[float, float]]) -> Line:
    """The line by least squares through accuracies (ImageNet, shifted set) of models.

    Raises:
        UsageError: there are fewer than three models, or all have one accuracy on ImageNet.
    """
    inside = [(a, b) for a, b in points if 0 < a < 1 and 0 < b < 1]
    if len(inside) < 3 or len({a for a, _ in inside}) < 2:
        raise UsageError(f"a line takes three models of different accuracy, not {len(inside)}")
    x, y = (np.array([_logit(value) for value in column]) for column in zip(*inside, strict=True))
    slope, offset = np.polyfit(x, y, 1)
    return Line(float(slope), float(offset), len(inside))


@dataclass(frozen=True)
class Robustness:
    """A score on a shifted set beside the one on ImageNet and what that predicts."""

    base: Score
    shifted: Score
    line: Line

    @property
    def predicted(self) -> float:
        """The accuracy on the shifted set of a model on the line."""
        return self.line.predicted(self.base.value)

    @property
    def effective(self) -> float:
        """What the score lies above it, as a share of one."""
        return self.shifted.value - self.predicted


def robustness_of(scores: Sequence[Score], points: Points) -> list[Robustness]:
    """Every cell's scores on shifted sets that the points know, beside its own on ImageNet."""
    top = {(s.env_id, s.cell, s.dataset): s for s in scores if s.metric == TOP1}
    found = []
    for (env_id, cell, dataset), score in top.items():
        base = top.get((env_id, cell, BASE))
        if base is not None and dataset in points and dataset != BASE and 0 < base.value < 1:
            found.append(Robustness(base, score, fitted(points[dataset])))
    return found


def check_shifted(datasets: Collection[str]) -> None:
    """Raise UsageError where no figure of these datasets could be predicted from another."""
    if BASE not in datasets or not {*SHIFTED} & {*datasets}:
        raise UsageError(
            f"--robustness predicts accuracies on {', '.join(SHIFTED)} from the one on {BASE}, and "
            "the suite lacks these: give --suite clip-paper-shift"
        )


def bundled_points() -> dict[str, list[tuple[float, float]]]:
    """Of the CLIPs in open_clip's published table."""
    named = {known: title for title, (known, _) in OPEN_CLIP_38.items()}
    rows = read_table("open_clip_zeroshot_38_datasets.csv")
    return {
        name: [(float(row[named[BASE]]), float(row[named[name]])) for row in rows]
        for name in SHIFTED
    }


def read_points(path: Path) -> dict[str, list[tuple[float, float]]]:
    """Of a CSV: a model a row, a column imagenet1k, and one a shifted set; shares of one.

    Raises:
        UsageError: it cannot be read, or a value is no share; the message names the line.
    """
    text = read_text(ImageSource(path.name, path))
    reader = csv.DictReader(text.splitlines(), strict=True)
    names = [name for name in reader.fieldnames or () if name in SHIFTED]
    if BASE not in (reader.fieldnames or ()) or not names:
        raise UsageError(f"{shown(path)}: need columns {BASE} and any of {', '.join(SHIFTED)}")
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    try:
        for row in reader:
            for name in names:
                if row[name]:
                    found[name].append((_share(row[BASE]), _share(row[name])))
    except (csv.Error, TypeError, ValueError) as exc:
        raise UsageError(f"{shown(path)} line {reader.line_num}: {shown(exc)}") from exc
    known = {name: own for name, own in found.items() if own}
    for name, own in known.items():
        try:
            fitted(own)  # now, not after hours of evaluating
        except UsageError as exc:
            raise UsageError(f"{shown(path)}: {name}: {exc}") from exc
    return known


def _share(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise ValueError(f"{text} is no share of one")
    return value


def _logit(share: float) -> float:
    return math.log(share / (1 - share))
