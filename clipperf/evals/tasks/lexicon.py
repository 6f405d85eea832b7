"""Reading with a lexicon: which of its own candidate words stands in each image (IIIT5K).

The column ``lexicon`` holds an image's candidates with "|" between them, its class is the right
one; upper and lower case are one.
"""

from __future__ import annotations

import numpy as np

from clipperf.errors import UsageError
from clipperf.evals.datasets import Dataset
from clipperf.evals.metric import Ranked, figures_of, measured
from clipperf.evals.outcome import Outcome
from clipperf.evals.ranks import TIE, classifier_weights
from clipperf.evals.recipe import prompts_of
from clipperf.evals.task import Embeddings, Task

COLUMN, TEXTS = "lexicon", "words"


def lexicons(dataset: Dataset) -> list[list[str]]:
    """The candidate words of every image, in lower case, the right one first.

    Raises:
        UsageError: the right word is no candidate, or the only one.
    """
    found = []
    for image, label, text in zip(
        dataset.images, dataset.labels, dataset.columns[COLUMN], strict=True
    ):
        right = dataset.class_names[label].lower()
        words = list(
            dict.fromkeys(word.strip().lower() for word in text.split("|") if word.strip())
        )
        if right not in words or len(words) < 2:
            raise UsageError(f"{image}: its lexicon must hold its class and another word")
        found.append([right, *(word for word in words if word != right)])
    return found


def _words(dataset: Dataset) -> list[str]:
    return list(dict.fromkeys(word for own in lexicons(dataset) for word in own))


def _texts(dataset: Dataset) -> dict[str, list[str]]:
    return {TEXTS: [p for word in _words(dataset) for p in prompts_of(word, dataset.templates)]}


def _outcomes(dataset: Dataset, found: Embeddings) -> list[Outcome]:
    words, own = _words(dataset), lexicons(dataset)
    prompts = found.texts[TEXTS].reshape(len(words), len(dataset.templates), -1)
    weights = classifier_weights(prompts).astype(np.float64)
    place = {word: i for i, word in enumerate(words)}
    ranks, predicted = [], []
    for image, candidates in zip(found.images.astype(np.float64), own, strict=True):
        indices = [place[word] for word in candidates]
        scores = weights[indices] @ image
        ranks.append(int((scores[1:] >= scores[0] - TIE).sum()))
        predicted.append(indices[int(np.argmax(scores))])
    right = np.array([place[candidates[0]] for candidates in own])
    return measured(
        Ranked(
            "lexicon",
            "classification",
            "image",
            np.array(ranks),
            candidates=np.array([len(candidates) for candidates in own]),
            groups=right,
            predicted=np.array(predicted),
        )
    )


def _figures(dataset: Dataset) -> list[str]:
    most = max(map(len, lexicons(dataset)))
    return figures_of("lexicon", "classification", most)


TASK = Task(
    name="lexicon",
    fits=lambda dataset: bool(dataset.labels) and COLUMN in dataset.columns,
    texts=_texts,
    outcomes=_outcomes,
    asked=True,
    figures=_figures,
    needs=f"one class an image, and a column {COLUMN} with its candidate words",
)
