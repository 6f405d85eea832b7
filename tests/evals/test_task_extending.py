"""Tasks and metrics of packages that are installed beside clipperf, through the real command."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
from conftest import ROOT, Cli, Install

from clipperf.errors import UsageError
from clipperf.evals.datasets import Dataset
from clipperf.evals.layout import Layout
from clipperf.evals.metric import Metric
from clipperf.evals.task import TASKS, Task, texts_of
from clipperf.system import store

TOYS = '''
"""Captions that shout must be found as well; the mean reciprocal rank of whatever is retrieved."""

import numpy as np

from clipperf.evals.metric import Metric, Ranked, measured
from clipperf.evals.outcome import SHARE, Outcome
from clipperf.evals.ranks import retrieve
from clipperf.evals.task import Task


def texts(dataset):
    return {"shouts": [caption.upper() for caption in dataset.captions]}


def outcomes(dataset, found):
    owner = np.asarray(dataset.caption_image)
    ranks = retrieve(found.images, found.texts["shouts"], owner).text_to_image
    images = len(found.images)
    return measured(Ranked("shout-to-image", "retrieval", "text", ranks, images, owner))


def reciprocal(ranked):
    values = 1 / (1 + ranked.ranks)
    rest = (values, values, ranked.groups, None)
    return [Outcome(f"{ranked.name} mean reciprocal rank", ranked.side, SHARE, *rest)]


TASK = Task("shouting", lambda dataset: bool(dataset.captions), texts, outcomes)
METRIC = Metric("mean-reciprocal-rank", "retrieval", reciprocal)
'''


def test_a_task_and_a_metric_from_outside_are_rows(
    install: Install, cli: Cli, sample_artifact: Path, samples: str, tmp_path: Path
) -> None:
    points = {
        "clipperf.task": {"shouting": "toys:TASK"},
        "clipperf.metric": {"mean-reciprocal-rank": "toys:METRIC"},
    }
    install("toys", TOYS, points)
    done = cli(
        *("eval", "clipperf-sample", "--dataset", samples, "--json", tmp_path / "eval.json"),
        home=sample_artifact.parents[3],
    )
    assert done.returncode == 0, done.stderr
    assert "shouts: 24" in done.stderr and "shout-to-image mean reciprocal rank" in done.stdout
    scores = store.read_result(tmp_path / "eval.json").scores
    own = [score for score in scores if score.cell.runtime == "onnx"]
    directions = ("text-to-image", "image-to-text", "shout-to-image")
    figures = ("recall@1", "recall@5", "recall@10", "mean reciprocal rank")
    assert [score.metric for score in own] == [f"{d} {f}" for d in directions for f in figures]
    found = {score.metric: score for score in own}
    for direction in directions:
        first, mean = (found[f"{direction} {f}"] for f in ("recall@1", "mean reciprocal rank"))
        assert first.value < mean.value < 1 and mean.chance is None
        assert mean.ci95[0] < mean.value < mean.ci95[1]
        assert mean.baseline_value == pytest.approx(mean.value, abs=1e-3)


@pytest.mark.parametrize("record", [Task, Metric, Layout])
def test_the_page_names_every_field_and_no_other(record: type) -> None:
    page = (ROOT / "docs" / "evaluations.md").read_text()
    rows = page.split("| record | field | holds |")[1].split("\n\n")[0].splitlines()[2:]
    own, named = "", []
    for row in rows:
        first, fields = row.strip("| ").split(" | ", 1) if row.startswith("| `") else (own, row)
        own = first.strip("`") or own
        if own == record.__name__:
            cell = fields.strip("| ").split(" | ")[0]
            named += [name.split("(")[0] for name in re.findall(r"`([^`]+)`", cell)]
    assert named == [field.name for field in dataclasses.fields(record)]


def test_tasks_that_name_other_texts_alike_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def task(name: str) -> Task:
        return Task(name, lambda dataset: True, lambda dataset: {"texts": [name]}, lambda d, e: [])

    monkeypatch.setattr(TASKS, "_rows", {name: task(name) for name in ("one", "another")})
    with pytest.raises(UsageError, match="task another: another task calls other texts 'texts'"):
        texts_of(Dataset("d", "", ()))
