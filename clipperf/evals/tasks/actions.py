"""Unusual actions in videos: RareAct's mWAP and mWSAP (Miech et al. 2020).

Each clip was annotated for one action. The columns of RareAct's table: ``verb`` and ``noun``,
``annotation`` (1 it is seen, 0 it is not, 2 to 4 verb or noun alone or neither as meant), ``id``
the video. A recipe's ``clip`` names the column that says which frames are of one clip.
"""

from __future__ import annotations

import numpy as np

from clipperf.errors import UsageError
from clipperf.evals.clips import check_clips_agree, clips_of, over_frames
from clipperf.evals.datasets import Dataset
from clipperf.evals.metric import Scored, figures_of, measured
from clipperf.evals.metrics.action_precision import lists
from clipperf.evals.outcome import Outcome
from clipperf.evals.ranks import classifier_weights
from clipperf.evals.recipe import CLIP, prompts_of
from clipperf.evals.task import Embeddings, Task

COLUMNS = ("verb", "noun", "annotation", "id")
TEXTS = "actions"
TEMPLATES = ("{}",)


def actions_of(dataset: Dataset) -> list[tuple[str, str]]:
    """Verb and noun of every action, each once."""
    pairs = zip(dataset.columns["verb"], dataset.columns["noun"], strict=True)
    return list(dict.fromkeys(pairs))


def _texts(dataset: Dataset) -> dict[str, list[str]]:
    templates = dataset.templates or TEMPLATES
    names = [f"{verb} {noun}" for verb, noun in actions_of(dataset)]
    return {TEXTS: [prompt for name in names for prompt in prompts_of(name, templates)]}


def _outcomes(dataset: Dataset, found: Embeddings) -> list[Outcome]:
    images, first = over_frames(dataset, found)
    actions, columns = actions_of(dataset), dataset.columns
    of = np.array([actions.index((columns["verb"][i], columns["noun"][i])) for i in first])
    annotations = np.array([_number(dataset, int(i)) for i in first])
    videos = np.array([columns["id"][i] for i in first])
    prompts = found.texts[TEXTS].reshape(len(actions), -1, images.shape[1])
    scores = images.astype(np.float64) @ classifier_weights(prompts).astype(np.float64).T
    right, strata = lists(actions, of, annotations, videos)
    return measured(Scored("actions", "actions", "image", scores, right, strata))


def _number(dataset: Dataset, i: int) -> int:
    text = dataset.columns["annotation"][i]
    if text not in ("0", "1", "2", "3", "4"):
        raise UsageError(f"{dataset.images[i]}: its annotation is no number from 0 to 4")
    return int(text)


def _check(dataset: Dataset) -> None:
    for own in clips_of(dataset):
        _number(dataset, int(own[0]))
    for name in COLUMNS:
        check_clips_agree(dataset, dataset.columns[name], f"their {name}")


TASK = Task(
    name="actions",
    fits=lambda dataset: dataset.columns.keys() >= set(COLUMNS),
    texts=_texts,
    outcomes=_outcomes,
    check=_check,
    figures=lambda dataset: figures_of("actions", "actions", 0),
    uses=lambda dataset: (CLIP,),
    needs="the columns " + ", ".join(COLUMNS),
)
