"""Whether what one engine embedded can be searched with another: queries of A in an index of B.

A collection is embedded once and searched for years. Where the engine is changed meanwhile, its
queries meet an index that another engine made. That costs nothing where queries of A find in an
index of B what they find in an index of A, and what queries of B find there: each figure of a task
is taken crosswise, beside both engines by themselves, on the same samples in pairs. Texts search
images, and images search texts.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Literal

import numpy as np

from clipperf.errors import UsageError
from clipperf.evals.accuracy import beside, plain
from clipperf.evals.datasets import Dataset
from clipperf.evals.outcome import SHARE, Outcome
from clipperf.evals.task import Embeddings, fitting, nothing_to_score, outcomes_of
from clipperf.evals.verdicts import COMPARED, MARGIN, Verdict, margin_of, verdict_of
from clipperf.nouns.cell import Cell
from clipperf.nouns.result import CrossScore
from clipperf.nouns.variant import Side
from clipperf.units import points

NEIGHBOURS = 10
"""How many of the nearest are compared."""

NEAR = 1e-6
"""Cosines closer than this are as near: what float32 rounding makes of equal embeddings."""

_TILE = 1 << 22
"""Similarities at once: 16 MiB."""

Alone = Literal["queries", "index"]


@dataclass(frozen=True)
class Party:
    """One of the two engines: what people call it, its cell, and what it made of the dataset."""

    name: str
    cell: Cell
    found: Embeddings


def cross(
    dataset: Dataset,
    queries: Party,
    index: Party,
    *,
    random_weights: bool = False,
    env_id: str = "",
    margin: float = MARGIN,
) -> list[CrossScore]:
    """Every figure of queries of one engine in an index of the other, beside each one alone.

    Two rows a figure: against the engine that queries, which is what embedding the collection
    again would bring; and against that of the index, which is what there was before. The side of a
    score's cell is the one that queries, also where a task's figures are of images alone: those of
    classes are taken with prompts of A on images of B, and with images of A on prompts of B. Then
    the mean share of the nearest `NEIGHBOURS` that they have in common with either engine alone,
    in every index of more.

    Raises:
        UsageError: the two embed in other numbers of dimensions, or there is nothing to score.
    """
    widths = [one.found.images.shape[1] for one in (queries, index)]
    if widths[0] != widths[1]:
        raise UsageError(
            f"{queries.name} embeds in {widths[0]} dimensions and {index.name} in {widths[1]}: "
            "neither can search what the other has embedded"
        )
    both: dict[Alone, Party] = {"queries": queries, "index": index}
    alone = {
        which: {o.metric: o for o in outcomes_of(dataset, party.found)}
        for which, party in both.items()
    }
    rows: list[CrossScore] = []

    def add(which: Alone, side: Side, outcome: Outcome, theirs: Outcome | None) -> None:
        score = plain(queries.cell, dataset, outcome, random_weights, env_id)
        score = dataclasses.replace(score, cell=dataclasses.replace(score.cell, side=side))
        if theirs is not None:
            score = beside(score, outcome, theirs, both[which].cell.runtime, margin)
        rows.append(CrossScore(score, index.cell, (queries.name, index.name), which))

    for side, outcome in _crosswise(dataset, queries.found, index.found):
        if outcome.metric in alone["queries"]:
            for which in both:
                add(which, side, outcome, alone[which][outcome.metric])
    if not rows:
        raise nothing_to_score(dataset)
    for which, party in both.items():
        for outcome in _in_common(queries.found, index.found, party.found):
            add(which, outcome.side, outcome, None)
    return rows


def _crosswise(
    dataset: Dataset, queries: Embeddings, index: Embeddings
) -> Iterator[tuple[Side, Outcome]]:
    """The figures of texts of `queries` on images of `index`, then of its images on their texts."""
    for task in fitting(dataset):
        if not task.texts(dataset):
            continue
        texts = task.outcomes(dataset, dataclasses.replace(index, texts=queries.texts))
        images = task.outcomes(dataset, dataclasses.replace(queries, texts=index.texts))
        one_sided = all(outcome.side == "image" for outcome in texts)
        yield from (("text", o) for o in texts if one_sided or o.side == "text")
        yield from (("image", o) for o in images if o.side == "image")


# --- nearest neighbours --------------------------------------------------------------------


def _in_common(queries: Embeddings, index: Embeddings, alone: Embeddings) -> Iterator[Outcome]:
    """What is among the nearest of queries in an index, and is so of one engine alone."""
    ways: tuple[tuple[Side, Side], ...] = (
        ("text", "image"),
        ("image", "text"),
        ("image", "image"),
    )
    for side, other in ways:
        crossed = _of(queries, side), _of(index, other)
        by_itself = _of(alone, side), _of(alone, other)
        others = len(crossed[1]) - (side == other)
        if others > NEIGHBOURS:
            shares = in_common(crossed, by_itself, NEIGHBOURS, itself=side != other)
            yield Outcome(
                f"{side}-to-{other} {NEIGHBOURS} nearest in common",
                side,
                SHARE,
                shares,
                shares,
                np.zeros(len(shares), np.int64),
                NEIGHBOURS / others,
            )


def _of(found: Embeddings, side: Side) -> np.ndarray:
    """All images, or all texts."""
    return found.images if side == "image" else np.concatenate(list(found.texts.values()))


def in_common(
    crossed: tuple[np.ndarray, np.ndarray],
    alone: tuple[np.ndarray, np.ndarray],
    k: int,
    itself: bool = True,
) -> np.ndarray:
    """Of each query's k nearest, the share that is among its k nearest for another engine: [n].

    Each pair is queries [n, dim] and an index [m, dim] of more than k. What is as near as the k-th
    (`NEAR`) counts as one of them. Without `itself`, the query's own place is left out.
    """
    n, candidates = len(crossed[0]), len(crossed[1])
    rows = max(1, _TILE // candidates)
    shares = np.empty(n)
    for start in range(0, n, rows):
        part = slice(start, start + rows)
        here, there = (queries[part] @ index.T for queries, index in (crossed, alone))
        if not itself:
            own = np.arange(len(here))
            here[own, start + own] = there[own, start + own] = -np.inf
        nearest = np.argpartition(here, candidates - k, axis=1)[:, candidates - k :]
        least = np.partition(there, candidates - k, axis=1)[:, candidates - k, None]
        found = np.take_along_axis(there, nearest, axis=1)
        shares[part] = (found >= least - NEAR).mean(axis=1)
    return shares


# --- the answer ----------------------------------------------------------------------------


class Answer(Enum):
    """Whether the engine of the queries can take the place of the index's without new embeddings.

    Yes: every figure is equivalent to that of either engine alone. No: one is worse.
    """

    YES = "yes"
    NO = "no"
    TOO_FEW = "too few samples to say"
    NOTHING = "nothing can be said"


def answer_of(rows: Sequence[CrossScore]) -> Answer:
    """What all figures of one pair of engines say together."""
    verdicts = {verdict_of(row.score) for row in rows} & COMPARED
    if not verdicts:
        return Answer.NOTHING
    if Verdict.WORSE in verdicts:
        return Answer.NO
    return Answer.TOO_FEW if Verdict.TOO_FEW in verdicts else Answer.YES


def in_words(rows: Sequence[CrossScore]) -> str:
    """The answer as a sentence, with the worst loss against either engine alone."""
    answer, (queries, index) = answer_of(rows), rows[0].names
    if answer is Answer.NOTHING:
        why = _why_nothing(rows)
        return f"{answer.value}: no figure of {queries} and {index} could be compared{why}"
    said = {
        Answer.YES: f"{queries} can search what {index} has embedded",
        Answer.NO: f"{queries} needs what {index} has embedded to be embedded again",
        Answer.TOO_FEW: f"{queries} in an index of {index}",
    }[answer]
    compared = [row for row in rows if _verdict(row) in COMPARED]
    parts = [[row for row in compared if row.alone == which] for which in _ALONE]
    most = ", ".join(_loss(part) for part in parts if part)
    margin = f"{100 * margin_of(rows[0].score):g}"
    needed = [row.score.samples_needed for row in rows if _verdict(row) is Verdict.TOO_FEW]
    known = [n for n in needed if n is not None]
    more = f"; about {max(known)} samples would do" if known and answer is Answer.TOO_FEW else ""
    why = _of_two(rows) if answer is Answer.NO else ""
    return f"{answer.value}: {said}{why} (margin {margin}pp; {most}){more}"


def _of_two(rows: Sequence[CrossScore]) -> str:
    """What may be why two do not fit: they are no engines of one model; "" where they are."""
    ours, theirs = rows[0].score.cell.model_id, rows[0].index.model_id
    if ours == theirs:
        return ""
    return f": they are two models, {ours} and {theirs}, and each may have a space of its own"


def _why_nothing(rows: Sequence[CrossScore]) -> str:
    if any(row.score.random_weights for row in rows):
        models = dict.fromkeys(m for r in rows for m in (r.score.cell.model_id, r.index.model_id))
        named = " or ".join(models)
        return f": the weights of {named} are random, and what these find is left to chance"
    if any(_verdict(row) is Verdict.NOT_A_NUMBER for row in rows):
        return ": they are no numbers"
    return _of_two(rows)


_ALONE: tuple[Alone, ...] = ("queries", "index")


def _verdict(row: CrossScore) -> Verdict:
    return verdict_of(row.score)


def _loss(rows: Sequence[CrossScore]) -> str:
    """The worst figure against one of the engines, of those that decide."""
    worse = [row for row in rows if _verdict(row) is Verdict.WORSE]
    worst = min(worse or rows, key=lambda row: row.score.difference or 0.0)
    own = worst.names[worst.alone == "index"]
    interval = worst.score.diff_ci95
    bracket = "" if interval is None else f" [{points(interval[0])}, {points(interval[1])}]"
    return (
        f"against {own} alone at worst {points(worst.score.difference)} points{bracket} in "
        f"{worst.score.metric}"
    )
