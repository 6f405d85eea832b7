"""What the accuracy of a tower, and of two towers together, is known to be."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

from clipperf import units
from clipperf.errors import UsageError
from clipperf.nouns.cell import Cell
from clipperf.nouns.result import Score
from clipperf.report.accuracy import judged
from clipperf.report.pairs import full_precision, is_baseline
from clipperf.report.sizing.types import Quality, Targets
from clipperf.report.table import Interval
from clipperf.report.words import listed
from clipperf.text import quoted


@dataclass(frozen=True)
class Judge:
    """Scores of one dataset's content and metric, and what is asked of them.

    `contents` counts those that go by the dataset's name; the scores are of one of them.
    """

    dataset: str
    metric: str
    scores: tuple[Score, ...]
    targets: Targets
    contents: int = 1

    @property
    def asked(self) -> bool:
        """Whether an accuracy is a limit."""
        return self.targets.min_accuracy is not None or self.targets.max_loss is not None

    def of(self, cell: Cell) -> Quality | None:
        """What is known of a model as this cell runs it, both towers alike.

        In full precision it is PyTorch's own where nothing else was evaluated.
        """
        mine = [s for s in self.scores if same_tower(s, cell)]
        if not mine and full_precision(cell):
            mine = [s for s in self.scores if _is_baseline_of(s, cell)]
        if not mine:
            return None
        s = max(mine, key=lambda score: score.cell.device == cell.device)
        loss = None if s.difference is None or not math.isfinite(s.difference) else -s.difference
        known = s.diff_ci95 is not None and all(map(math.isfinite, s.diff_ci95))
        ends = (-s.diff_ci95[1], -s.diff_ci95[0]) if known and s.diff_ci95 is not None else None
        if s.baseline_value is None and is_baseline(s.cell):
            loss, ends = 0.0, (0.0, 0.0)  # which is what the others are held against
        return Quality(s.dataset, s.metric, s.value, s.ci95, loss, ends)

    def broken(self, quality: Quality | None) -> list[str]:
        """The limits that an accuracy breaks. A loss must keep to its limit with all its interval.

        The interval of the value itself is about which samples were drawn, so it decides nothing.
        """
        on = f"{self.dataset}, {self.metric}"
        if not self.asked:
            return []
        if quality is None:
            return [f"accuracy: not measured on {on}, run `clipperf eval`"]
        found, least, most = [], self.targets.min_accuracy, self.targets.max_loss
        if least is not None and quality.value < least - 1e-12:
            under = units.points(quality.value - least)
            found.append(
                f"accuracy: {units.share(quality.value)} on {on} is {under} points from "
                f"{units.share(least)}"
            )
        if most is not None:
            found += _too_much(quality, most, on)
        return found


def _too_much(quality: Quality, most: float, on: str) -> list[str]:
    if quality.loss is None or quality.loss_interval is None:
        return [f"accuracy: the loss on {on} has no interval, run `clipperf eval` on more samples"]
    highest = quality.loss_interval[1]
    if highest <= most + 1e-12:
        return []
    lost, limit = 100 * quality.loss, 100 * most
    if quality.loss > most:
        return [f"accuracy: loses {lost:.2f} points on {on}, {lost - limit:.2f} over {limit:g}"]
    return [
        f"accuracy: loses {lost:.2f} points on {on}, by its interval up to {100 * highest:.2f}, "
        f"over {limit:g}: more samples may settle it"
    ]


def together(image: Quality | None, text: Quality | None, alike: bool) -> Quality | None:
    """The accuracy of two towers; of two that run differently, their losses added.

    That no error makes up for another is the worse case. None where one of them is not known.
    """
    if image is None or text is None:
        return None
    if alike:
        return image
    if image.loss is None or text.loss is None:
        return None
    losses = (max(0.0, image.loss), max(0.0, text.loss))
    value = image.value + image.loss - sum(losses)
    ends: Interval | None = None
    if image.loss_interval is not None and text.loss_interval is not None:
        lows, highs = zip(image.loss_interval, text.loss_interval, strict=True)
        ends = (sum(lows), sum(max(0.0, high) for high in highs))
    return dataclasses.replace(
        image,
        value=value,
        interval=None,
        loss=sum(losses),
        loss_interval=ends,
        added=True,
    )


def judge_of(scores: Sequence[Score], targets: Targets) -> Judge | None:
    """Which scores count: those that were asked for, else the first dataset's main metric.

    Raises:
        UsageError: there is no such dataset or metric, or an accuracy is asked for of one of
            several datasets, or of none.
    """
    usable = [s for s in scores if s.aim == "high" and not s.group and not s.random_weights]
    usable = [s for s in usable if math.isfinite(s.value)]
    datasets = list(dict.fromkeys(s.dataset for s in usable))
    limited = targets.min_accuracy is not None or targets.max_loss is not None
    if not usable:
        if limited or targets.accuracy_on:
            raise UsageError(
                "an accuracy is asked for and these results hold no scores: run `clipperf eval "
                "MODEL --dataset NAME` and name its result file, too"
            )
        return None
    dataset, _, metric = (targets.accuracy_on or "").partition(":")
    if not dataset and limited and len(datasets) > 1:
        raise UsageError(
            f"the accuracy of which dataset? These results hold {listed(datasets)}: add "
            f"--accuracy-on {datasets[0]}"
        )
    dataset = dataset or datasets[0]
    metrics = list(dict.fromkeys(s.metric for s in usable if s.dataset == dataset))
    if not metrics:
        raise UsageError(
            f"--accuracy-on {quoted(dataset)}: these results hold scores on {listed(datasets)}"
        )
    metric = metric or metrics[0]
    if metric not in metrics:
        raise UsageError(
            f"--accuracy-on {quoted(f'{dataset}:{metric}')}: of {dataset} there is "
            f"{listed(metrics)}"
        )
    mine = [s for s in usable if (s.dataset, s.metric) == (dataset, metric)]
    # Figures of other samples are of another task. Of as many samples the newest content counts.
    contents = list(dict.fromkeys(s.dataset_sha256 for s in reversed(mine)))
    most = max(contents, key=lambda c: max(s.n for s in mine if s.dataset_sha256 == c))
    kept = tuple(s for s in mine if s.dataset_sha256 == most)
    return Judge(dataset, metric, kept, targets, len(contents))


def same_tower(score: Score, cell: Cell) -> bool:
    """Whether a score, taken on whatever device, is of a tower made and run like this one."""
    return judged(dataclasses.replace(score.cell, device=cell.device)) == judged(cell)


def _is_baseline_of(score: Score, cell: Cell) -> bool:
    return score.cell.model_id == cell.model_id and is_baseline(score.cell)
