"""The main tables: what each tower costs, and the summary with accuracy beside it."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from clipperf import stats
from clipperf.errors import UsageError
from clipperf.nouns.result import ResultFile, Score
from clipperf.nouns.variant import SIDES, Side
from clipperf.report import findings
from clipperf.report.accuracy import judged
from clipperf.report.columns import CELL, Column, Fold, cell_columns, tabulate, who_columns
from clipperf.report.pairs import alike
from clipperf.report.records import Row, labels_of, merge, merge_scores, setup_order
from clipperf.report.table import RANDOM, UNRESOLVED, Severity, Table, Unit, Value, worst

SUMMARY_SCORES = 4
"""Accuracy columns in the summary at most; the rest is in the accuracy table."""

BASELINE_UNSTABLE = "PyTorch unstable"

QUANTILES = (("p90", 0.90), ("p95", 0.95), ("p99", 0.99))

# --- cost ----------------------------------------------------------------------------------


def cost_table(results: Sequence[ResultFile]) -> Table:
    """What each tower costs: one row per model, tower, runtime, precision, device and batch.

    Raises:
        UsageError: the files hold no measurements.
    """
    rows = merge(results)
    if not rows:
        raise UsageError("no measurements to report: run `clipperf profile MODEL` first")
    labels = labels_of(results)
    columns: list[Column[Row]] = [
        *who_columns(labels),
        *cell_columns(CELL, rows),
        Column("Items/s", lambda r: r.items_per_s, "rate"),
        Column("vs PyTorch", lambda r: Value(r.ratio, "ratio", r.ratio_interval)),
        Column("p50 ms", lambda r: r.p50_s, "ms"),
        Column("p90 ms", lambda r: r.p90_s, "ms", "empty"),
        Column("p95 ms", lambda r: r.p95_s, "ms", "empty"),
        Column("p99 ms", lambda r: r.p99_s, "ms", "empty"),
        Column("Disk MiB", lambda r: r.disk_bytes, "MiB"),
        Column("RAM +MiB", lambda r: r.rss_delta_bytes, "MiB"),
        Column("RAM MiB", lambda r: r.rss_peak_bytes, "MiB"),
        Column("VRAM MiB", lambda r: r.vram_peak_bytes, "MiB", "empty"),
        Column("Load s", lambda r: r.load_s, "s"),
        Column("First ms", lambda r: r.first_run_s, "ms"),
        Column("Note", note, "note", "empty", key=True),
    ]
    several = [
        name for name in ("streams", "instances") if any(getattr(r.cell, name) > 1 for r in rows)
    ]
    items = f"batches of all {' and '.join(several)}" if several else "batch"
    own = ", each instance by its own" if "instances" in several else ""
    legend = (
        f'Items/s is the {items} over the median call{own}. "vs PyTorch" is the speed-up over '
        "PyTorch with its 95 % interval, block against block of one interleaved run.",
        '"RAM +MiB" is the peak over the bare worker, "RAM MiB" the whole process.',
    )
    caveats = [*legend, *_quantile_caveats(rows), *findings.cost_caveats(results, rows)]
    return tabulate("Cost per tower", columns, rows, findings.speed_findings(rows, labels), caveats)


def note(row: Row) -> Value:
    """How the measurement of a row went, and of the one that its ratio is over, where not well."""
    words = []
    if "unsupported" in (row.time_status, row.memory_status):
        words.append("unsupported")
    elif "failed" in (row.time_status, row.memory_status) or row.problems:
        words.append("failed")
    if row.stable is False:
        words.append("unstable")
    if row.baseline_stable is False:
        words.append(BASELINE_UNSTABLE)
    severity: Severity | None = "bad" if "failed" in words else "warn" if words else None
    return Value(", ".join(words), "note", severity=severity)


def _quantile_caveats(rows: Sequence[Row]) -> list[str]:
    timed = [r for r in rows if r.samples]
    hidden = []
    for name, q in QUANTILES:
        if timed and not any(getattr(r, f"{name}_s") is not None for r in timed):
            hidden.append(f"{name} ({stats.MIN_SAMPLES_FOR_QUANTILE[q]})")
    if not hidden:
        return []
    most = max(r.samples for r in timed)
    return [
        f"Not shown, because too few calls back it (calls needed): {', '.join(hidden)}; "
        f"the longest row has {most}."
    ]


# --- summary -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pair:
    """One line of the summary: both towers of one configuration, either of them absent.

    `any` is one of the two, for what they share: the image's, which says what it is fed, if any.
    """

    image: Row | None
    text: Row | None
    any: Row


def pair_towers(rows: Sequence[Row]) -> list[Pair]:
    """Put the towers of each configuration side by side, one line per text length and input."""
    lines: dict[tuple, dict[str, list[Row]]] = {}
    order: dict[str, int] = {}
    for row in rows:
        order.setdefault(row.env_id, len(order))
        key = (row.env_id, alike(row.cell, "side", "tokens", "input"))
        lines.setdefault(key, {"image": [], "text": []})[row.cell.side].append(row)
    pairs = []
    for towers in lines.values():
        images, texts = towers["image"], towers["text"]
        pairs += [Pair(image, text, image) for image in images for text in texts]
        pairs += [Pair(image, None, image) for image in images if not texts]
        pairs += [Pair(None, text, text) for text in texts if not images]
    return sorted(pairs, key=lambda p: _line_order(p, order))


def _line_order(pair: Pair, order: dict[str, int]) -> tuple:
    c = pair.any.cell
    driven = (c.threads, c.streams, c.instances, c.scenario, c.batch)
    place = (order[pair.any.env_id], c.model_id, c.device, *driven)
    return (*place, *setup_order(c), _tokens(pair) or 0)


def summary(results: Sequence[ResultFile]) -> Table:
    """The basic statistics of every configuration, both towers and the accuracy in one line.

    Raises:
        UsageError: the files hold no measurements.
    """
    rows = merge(results)
    if not rows:
        raise UsageError("no measurements to report: run `clipperf profile MODEL` first")
    labels = labels_of(results)
    pairs = pair_towers(rows)
    sides = [side for side in SIDES if any(getattr(pair, side) for pair in pairs)]
    either = operator.attrgetter("any")
    columns: list[Column[Pair]] = [
        *who_columns(labels, either),
        *cell_columns(["Device", "Threads", "Streams", "Instances", "Scenario"], pairs, either),
        Column("Tokens", _tokens, "count", "constant", "{} tokens"),
        *cell_columns(["Batch", "Runtime"], pairs, either),
        Column("Disk MiB", lambda p: disk_bytes(*(getattr(p, side) for side in sides)), "MiB"),
        *_sided(sides, "{} RAM MiB", lambda r: r.rss_peak_bytes, "MiB"),
        *_sided(sides, "{} VRAM MiB", lambda r: r.vram_peak_bytes, "MiB", "empty"),
        *_sided(sides, "{} p50 ms", lambda r: r.p50_s, "ms"),
        *_sided(sides, "{}s/s", lambda r: r.items_per_s, "rate"),
        *_sided(sides, "{} vs PyTorch", _short_ratio, "ratio"),
    ]
    score_columns, caveats = _score_columns(merge_scores(results), rows)
    columns += score_columns
    columns.append(Column("Note", _pair_note, "note", "empty", key=True))
    return tabulate(
        "Basic statistics",
        columns,
        pairs,
        caveats=[
            "Each tower runs in its own process: disk is the sum of both towers, RAM and VRAM are "
            "the peak of each process."
            if len(sides) == 2
            else f"Of the {sides[0]} tower alone; RAM and VRAM are the peak of its process.",
            f"{UNRESOLVED.text} marks a ratio whose 95 % interval includes 1, or that has none "
            "because too few blocks were measured.",
            *caveats,
            *findings.cost_caveats(results, rows),
        ],
    )


def disk_bytes(*towers: Row | None) -> int | None:
    """Bytes of all towers on disk; None where one of them is unknown."""
    known = [row.disk_bytes for row in towers if row is not None and row.disk_bytes is not None]
    return sum(known) if len(known) == len(towers) else None


def _short_ratio(row: Row) -> Value:
    """The speed-up alone, marked where its interval includes 1."""
    low_high = row.ratio_interval
    unresolved = low_high is None or low_high[0] <= 1 <= low_high[1]
    marked = row.ratio is not None and unresolved
    return Value(row.ratio, "ratio", mark=UNRESOLVED if marked else None)


def _sided(
    sides: Sequence[Side],
    name: str,
    figure: Callable[[Row], Value | float | None],
    unit: Unit,
    fold: Fold = "never",
) -> list[Column[Pair]]:
    """The same column for each tower that there is."""

    def of(side: Side) -> Callable[[Pair], Value | float | None]:
        def shown(pair: Pair) -> Value | float | None:
            row: Row | None = getattr(pair, side)
            return None if row is None else figure(row)

        return shown

    return [Column(name.format(side.capitalize()), of(side), unit, fold) for side in sides]


def _tokens(pair: Pair) -> int | None:
    return pair.text.cell.tokens if pair.text else None


def _pair_note(pair: Pair) -> Value:
    towers = (("image", pair.image), ("text", pair.text))
    notes = [(name, note(row)) for name, row in towers if row is not None and note(row).value]
    words = "; ".join(f"{name} {said.text}" for name, said in notes)
    return Value(words, "note", severity=worst(said for _, said in notes))


def _score_columns(
    scores: Sequence[Score], rows: Sequence[Row]
) -> tuple[list[Column[Pair]], list[str]]:
    """Accuracy beside the cost: the first metric of each dataset, and what the reader must know."""
    measured = {(r.env_id, judged(r.cell)) for r in rows}
    first: dict[str, tuple[str, str]] = {}
    for score in scores:
        first.setdefault(score.dataset, (score.dataset_sha256, score.metric))
    shown = list(first.items())[:SUMMARY_SCORES]
    columns: list[Column[Pair]] = []
    elsewhere = False
    for dataset, (sha256, metric) in shown:
        by_setup: dict[tuple, dict[str, Score]] = {}
        for s in scores:
            if (s.dataset, s.dataset_sha256, s.metric) == (dataset, sha256, metric):
                by_setup.setdefault(judged(s.cell), {})[s.env_id] = s
        columns.append(Column(f"{dataset} {metric}", _score_of(by_setup), "share"))
        elsewhere |= any(
            key in by_setup and env_id not in by_setup[key] for env_id, key in measured
        )
    caveats = []
    if len(first) > len(shown) or len({(s.dataset, s.metric) for s in scores}) > len(shown):
        caveats.append("More datasets and metrics are in the accuracy table.")
    if elsewhere:
        caveats.append(
            "Some accuracies were measured in another environment than the cost beside them."
        )
    if shown:
        caveats.append("Accuracy belongs to model, runtime, precision and device, not to a batch.")
    return columns, caveats


def _score_of(by_setup: dict[tuple, dict[str, Score]]) -> Callable[[Pair], Value | None]:
    def shown(pair: Pair) -> Value | None:
        scores = by_setup.get(judged(pair.any.cell))
        if not scores:
            return None
        score = scores.get(pair.any.env_id) or list(scores.values())[-1]
        return Value(score.value, "share", mark=RANDOM if score.random_weights else None)

    return shown
