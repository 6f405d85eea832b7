"""Association: which of some candidate images go with a cue (Bitton et al. 2022, WinoGAViL).

A cue is put as open_clip's published figures have it: in lower case, with "A" or "An" before it. Of
each game's candidates as many are selected as are right, those with the highest cosine. The Jaccard
index is what was selected and right over what was either.
"""

from __future__ import annotations

import numpy as np

from clipperf.evals.datasets import Dataset
from clipperf.evals.outcome import SHARE, Outcome
from clipperf.evals.task import Embeddings, Task

CUES, FIGURE = "cues", "association Jaccard"
SIZES: dict[str, tuple[int, ...]] = {", 5 and 6": (5, 6), ", 10 and 12": (10, 12)}
"""The games by their number of candidates, as published figures have them."""


def prompt(cue: str) -> str:
    """What is embedded for a cue: "A werewolf", "An oven"."""
    return f"{'An' if cue[0].lower() in 'aeiou' else 'A'} {cue.lower()}"


def selected(dataset: Dataset, found: Embeddings) -> list[tuple[int, ...]]:
    """The images that are selected in each game, in the order of their numbers.

    Of equal ones that come last in the game's list first, a right one last of all.
    """
    games = []
    for cue, choices, chosen in zip(
        found.texts[CUES], dataset.choices, dataset.chosen, strict=True
    ):
        scores = found.images[list(choices)].astype(np.float64) @ cue.astype(np.float64)
        right = np.isin(choices, chosen)
        order = np.lexsort((-np.arange(len(choices)), right, -np.round(scores, 12)))
        games.append(tuple(sorted(choices[i] for i in order[: len(chosen)])))
    return games


def _outcomes(dataset: Dataset, found: Embeddings) -> list[Outcome]:
    games = selected(dataset, found)
    values = np.array(
        [len({*a} & {*b}) / len({*a} | {*b}) for a, b in zip(games, dataset.chosen, strict=True)]
    )
    decisions = np.array([",".join(map(str, game)) for game in games])
    sizes = np.array([len(choices) for choices in dataset.choices])
    rows = []
    for name, own in {"": np.unique(sizes), **SIZES}.items():
        inside = np.isin(sizes, np.asarray(own))
        if inside.any():
            rest = (values[inside], decisions[inside], np.zeros(int(inside.sum()), np.int64), None)
            rows.append(Outcome(f"{FIGURE}{name}", "text", SHARE, *rest))
    return rows


TASK = Task(
    name="association",
    fits=lambda dataset: bool(dataset.cues),
    texts=lambda dataset: {CUES: tuple(map(prompt, dataset.cues))},
    outcomes=_outcomes,
    figures=lambda dataset: [f"{FIGURE}{name}" for name in ("", *SIZES)],
    needs="cues and candidates, as WinoGAViL has them",
)
