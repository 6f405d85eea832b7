"""The accuracy table and what it says."""

from __future__ import annotations

from collections.abc import Sequence

from clipperf.errors import UsageError
from clipperf.evals.verdicts import COMPARED, MARGIN, Verdict, in_words, margin_of, verdict_of
from clipperf.nouns.cell import Cell
from clipperf.nouns.result import ResultFile, Score
from clipperf.report.columns import KEY, Column, cell_columns, tabulate, who_columns
from clipperf.report.pairs import alike
from clipperf.report.records import labels_of, merge_scores
from clipperf.report.table import Severity, Table, Value
from clipperf.report.words import listed

SEVERITY_OF: dict[Verdict, Severity] = {
    Verdict.EQUIVALENT: "good",
    Verdict.WORSE: "bad",
    Verdict.DIFFERENT: "bad",
    Verdict.TOO_FEW: "warn",
    Verdict.RANDOM_WEIGHTS: "bad",
}
"""How a verdict is set; "plain" what is not here."""


LOADS = ("Threads", "Batch")
"""What tells rows apart that differ in nothing else: shown where it differs."""

MOST_AT_CHANCE = 10
"""Rows that are named one by one."""


def judged(cell: Cell) -> tuple[object, ...]:
    """What accuracy belongs to: a model as it is run, whatever the load."""
    return alike(cell, "side", "batch", "threads", "tokens", "streams", "instances", "scenario")


def accuracy_table(results: Sequence[ResultFile]) -> Table:
    """Every score with its interval, beside the PyTorch baseline on the same samples.

    Those of which neither more nor less is better are not here; see `report.bias`.

    Raises:
        UsageError: the files hold no scores.
    """
    scores = [score for score in merge_scores(results) if score.aim == "high"]
    if not scores:
        raise UsageError("no scores to report: run `clipperf eval MODEL --dataset NAME` first")
    labels = labels_of(results)
    columns: list[Column[Score]] = [
        *who_columns(labels),
        *cell_columns(["Device", *LOADS], scores, optional=LOADS),
        Column("Dataset", lambda s: s.dataset, "words", **KEY),
        Column("Metric", lambda s: s.metric, "words", **KEY),
        *cell_columns(["Runtime"], scores),
        Column("n", lambda s: s.n),
        Column("Score", lambda s: Value(s.value, "share", s.ci95)),
        Column("Baseline", lambda s: s.baseline_value, "share", "empty"),
        Column(
            "Difference, points", lambda s: Value(s.difference, "points", s.diff_ci95), fold="empty"
        ),
        Column("Flips", _flips, fold="empty"),
        Column("p", lambda s: s.mcnemar_p, "number", "empty"),
        Column("Chance", lambda s: s.chance, "share", "empty"),
        Column("Verdict", _verdict, "verdict"),
        Column("Detail", lambda s: s.detail, "words", "empty"),
    ]
    caveats = []
    random_models = sorted({s.cell.model_id for s in scores if s.random_weights})
    if random_models:
        caveats.append(
            f"RANDOM WEIGHTS: {listed(random_models)}. These scores only show that the "
            f"evaluation runs; they say nothing about the model."
        )
    caveats.append(
        f"Brackets are 95 % intervals; differences are paired on the same samples. Equivalent: the "
        f"whole interval lies above -{_margins(scores)}; worse: it lies below 0. Flips count "
        f"samples whose prediction changed, right or wrong; p is McNemar's of hits among them."
    )
    at_chance = [
        f"{s.cell.model_id} {s.cell.setup} on {s.dataset}, {s.metric}"
        for s in scores
        if s.chance is not None
        and not s.random_weights
        and s.ci95[0] <= s.chance
        # A group has few samples; the dataset's own figure stands beside it.
        and not s.group
    ]
    if at_chance:
        more = len(at_chance) - MOST_AT_CHANCE
        rest = f"; and {more} more" if more > 0 else ""
        named = "; ".join(at_chance[:MOST_AT_CHANCE])
        caveats.append(f"Not shown to be above chance: {named}{rest}.")
    versions: dict[str, set[str]] = {}
    for s in scores:
        versions.setdefault(s.dataset, set()).add(s.dataset_sha256)
    changed = sorted(d for d, digests in versions.items() if len(digests) > 1)
    if changed:
        caveats.append(
            f"More than one version (sha256) of {listed(changed)}: their scores are not comparable."
        )
    caveats += [note for result in results for note in result.notes if result.kind == "eval"]
    return tabulate("Accuracy", columns, scores, accuracy_findings(scores, labels), caveats)


def _flips(score: Score) -> Value:
    if score.flips is None or not score.n:
        return Value(None, "count")
    return Value(score.flips, "count", beside=Value(score.flips / score.n, "share"))


def _verdict(score: Score) -> Value:
    verdict = verdict_of(score)
    return Value(in_words(score), "verdict", severity=SEVERITY_OF.get(verdict, "plain"))


def accuracy_findings(scores: Sequence[Score], labels: dict[str, str]) -> list[str]:
    """Whether each runtime keeps the baseline's accuracy; silent about random weights."""
    groups: dict[tuple, list[Score]] = {}
    for s in scores:
        if s.aim == "high" and verdict_of(s) in COMPARED:
            groups.setdefault((s.env_id, judged(s.cell)), []).append(s)
    found = []
    for (env_id, _), group in groups.items():
        c = group[0].cell
        where = f"{c.model_id} on {c.device}" + (f" ({labels[env_id]})" if len(labels) > 1 else "")
        found.append(f"{where}: {c.setup} {_accuracy_sentence(group)}")
    return found


def _accuracy_sentence(group: Sequence[Score]) -> str:
    """One runtime's verdicts over all datasets and metrics, with the worst of them."""
    verdicts = [verdict_of(s) for s in group]
    lost, unsure = verdicts.count(Verdict.WORSE), verdicts.count(Verdict.TOO_FEW)
    within = _margins(group)
    told = [s for s, v in zip(group, verdicts, strict=True) if not lost or v is Verdict.WORSE]
    worst = min(told, key=lambda s: s.difference or 0.0)
    difference = Value(worst.difference, "points", worst.diff_ci95)
    figures = f"{worst.dataset}, {worst.metric}: {difference.text} points over {worst.n} samples"
    if lost:
        return f"loses accuracy in {lost} of {_count(group)} (worst {figures})."
    if unsure:
        return (
            f"may or may not keep the accuracy within {within}: {unsure} of {_count(group)} "
            f"cannot tell{_needed(group)} (worst {figures})."
        )
    return f"keeps the accuracy within {within} in {_count(group)} (worst {figures})."


def _needed(group: Sequence[Score]) -> str:
    """How many samples would settle all of them, where that is known."""
    needed = [s.samples_needed for s in group if verdict_of(s) is Verdict.TOO_FEW]
    known = [n for n in needed if n is not None]
    return f" and take up to {max(known)} samples" if known and len(known) == len(needed) else ""


def _margins(scores: Sequence[Score]) -> str:
    """What those that were compared were allowed to lose, in points; else the usual."""
    known = {margin_of(s) for s in scores if s.difference is not None} or {MARGIN}
    margins = sorted(100 * each for each in known)
    return f"{listed([f'{each:g}' for each in margins])} {'point' if margins == [1] else 'points'}"


def _count(group: Sequence[Score]) -> str:
    return "1 score" if len(group) == 1 else f"{len(group)} scores"
