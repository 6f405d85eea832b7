"""The main tables: what each tower costs, and the summary with accuracy beside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from clipperf import stats, units
from clipperf.errors import UsageError
from clipperf.nouns.cell import Cell
from clipperf.nouns.report import Report
from clipperf.nouns.result import ResultFile, Score
from clipperf.nouns.variant import SIDES, Side
from clipperf.report import findings
from clipperf.report.columns import Column, cell_columns, environment_column, model_name, tabulate
from clipperf.report.records import Row, environments, merge, merge_scores, setup_order

SUMMARY_SCORES = 4
"""Accuracy columns in the summary at most; the rest is in the accuracy table."""

QUANTILES = (("p90", 0.90), ("p95", 0.95), ("p99", 0.99))

NO_DIFFERENCE = "≈"


# --- cost ----------------------------------------------------------------------------------


def cost_report(results: Sequence[ResultFile]) -> Report:
    """What each tower costs: one row per model, tower, runtime, precision, device and batch.

    Raises:
        UsageError: the files hold no measurements.
    """
    rows = merge(results)
    if not rows:
        raise UsageError("no measurements to report: run `clipperf profile MODEL` first")
    labels = {env_id: label for env_id, (label, _) in environments(results).items()}
    columns: list[Column[Row]] = [
        *cell_columns(labels, threads=True),
        Column("Items/s", lambda r: units.rate(r.items_per_s)),
        Column("vs PyTorch", ratio_text),
        Column("p50 ms", lambda r: units.ms(r.p50_s)),
        Column("p90 ms", lambda r: units.ms(r.p90_s), fold="empty"),
        Column("p95 ms", lambda r: units.ms(r.p95_s), fold="empty"),
        Column("p99 ms", lambda r: units.ms(r.p99_s), fold="empty"),
        Column("Disk MiB", lambda r: units.mib(r.disk_bytes)),
        Column("RAM +MiB", lambda r: units.mib(r.rss_delta_bytes)),
        Column("RAM MiB", lambda r: units.mib(r.rss_peak_bytes)),
        Column("VRAM MiB", lambda r: units.mib(r.vram_peak_bytes), fold="empty"),
        Column("Load s", lambda r: _seconds(r.load_s)),
        Column("First ms", lambda r: units.ms(r.first_run_s)),
        Column("Note", _note, numeric=False, fold="empty"),
    ]
    legend = (
        'Items/s is the batch over the median call. "vs PyTorch" is the speed-up over PyTorch '
        "with its 95 % interval, block against block of one interleaved run.",
        '"RAM +MiB" is the peak over the bare worker, "RAM MiB" the whole process.',
    )
    caveats = [*legend, *_quantile_caveats(rows), *findings.cost_caveats(results, rows)]
    return tabulate("Cost per tower", columns, rows, findings.speed_findings(rows, labels), caveats)


def _seconds(value: float | None) -> str:
    return units.NOT_MEASURED if value is None else units.significant(value, 2)


def ratio_text(row: Row) -> str:
    """The speed-up over PyTorch with its interval."""
    if row.ratio is None:
        return units.NOT_MEASURED
    return units.ratio(row.ratio, row.ratio_interval)


def _note(row: Row) -> str:
    words = []
    if "unsupported" in (row.time_status, row.memory_status):
        words.append("unsupported")
    elif "failed" in (row.time_status, row.memory_status) or row.problems:
        words.append("failed")
    if row.stable is False:
        words.append("unstable")
    return ", ".join(words)


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
        c = row.cell
        key = (row.env_id, c.model_id, c.device, c.threads, c.batch, c.runtime, c.precision)
        lines.setdefault(key, {"image": [], "text": []})[c.side].append(row)
    pairs = []
    for towers in lines.values():
        images, texts = towers["image"], towers["text"]
        pairs += [Pair(image, text, image) for image in images for text in texts]
        pairs += [Pair(image, None, image) for image in images if not texts]
        pairs += [Pair(None, text, text) for text in texts if not images]
    return sorted(pairs, key=lambda p: _line_order(p, order))


def _line_order(pair: Pair, order: dict[str, int]) -> tuple:
    c = pair.any.cell
    tokens = (pair.text.cell.tokens if pair.text else None) or 0
    engine = setup_order(c)
    return (order[pair.any.env_id], c.model_id, c.device, c.threads, c.batch, *engine, tokens)


def summary(results: Sequence[ResultFile]) -> Report:
    """The basic statistics of every configuration, both towers and the accuracy in one line.

    Raises:
        UsageError: the files hold no measurements.
    """
    rows = merge(results)
    if not rows:
        raise UsageError("no measurements to report: run `clipperf profile MODEL` first")
    labels = {env_id: label for env_id, (label, _) in environments(results).items()}
    pairs = pair_towers(rows)
    sides = [side for side in SIDES if any(getattr(pair, side) for pair in pairs)]
    columns: list[Column[Pair]] = [
        Column(
            "Model",
            lambda p: model_name(p.any.cell.model_id, p.any.random_weights),
            numeric=False,
            fold="constant",
        ),
        *environment_column(labels, lambda p: p.any.env_id),
        Column("Device", lambda p: p.any.cell.device, numeric=False, fold="constant"),
        Column("Threads", lambda p: str(p.any.cell.threads), fold="constant", phrase="{} threads"),
        Column("Tokens", _tokens, fold="constant", phrase="{} tokens"),
        Column("Batch", lambda p: str(p.any.cell.batch)),
        Column("Runtime", lambda p: p.any.setup, numeric=False),
        Column("Disk MiB", lambda p: units.mib(disk_bytes(*(getattr(p, side) for side in sides)))),
        *_sided(sides, "{} RAM MiB", lambda r: units.mib(r.rss_peak_bytes)),
        *_sided(sides, "{} VRAM MiB", lambda r: units.mib(r.vram_peak_bytes), "empty"),
        *_sided(sides, "{} p50 ms", lambda r: units.ms(r.p50_s)),
        *_sided(sides, "{}s/s", lambda r: units.rate(r.items_per_s)),
        *_sided(sides, "{} vs PyTorch", short_ratio),
    ]
    score_columns, caveats = _score_columns(results)
    columns += score_columns
    columns.append(Column("Note", _pair_note, numeric=False, fold="empty"))
    return tabulate(
        "Basic statistics",
        columns,
        pairs,
        caveats=[
            "Each tower runs in its own process: disk is the sum of both towers, RAM and VRAM are "
            "the peak of each process."
            if len(sides) == 2
            else f"Of the {sides[0]} tower alone; RAM and VRAM are the peak of its process.",
            f"{NO_DIFFERENCE} marks a ratio whose 95 % interval includes 1, or that has none "
            "because too few blocks were measured.",
            *caveats,
            *findings.cost_caveats(results, rows),
        ],
    )


def disk_bytes(*towers: Row | None) -> int | None:
    """Bytes of all towers on disk; None where one of them is unknown."""
    known = [row.disk_bytes for row in towers if row is not None and row.disk_bytes is not None]
    return sum(known) if len(known) == len(towers) else None


def short_ratio(row: Row) -> str:
    """The speed-up alone, marked where its interval includes 1."""
    if row.ratio is None:
        return units.NOT_MEASURED
    low_high = row.ratio_interval
    unresolved = low_high is None or low_high[0] <= 1 <= low_high[1]
    return units.ratio(row.ratio) + (f" {NO_DIFFERENCE}" if unresolved else "")


def _sided(
    sides: Sequence[Side],
    name: str,
    text: Callable[[Row], str],
    fold: Literal["never", "empty"] = "never",
) -> list[Column[Pair]]:
    """The same column for each tower that there is."""

    def of(side: Side) -> Callable[[Pair], str]:
        def shown(pair: Pair) -> str:
            row: Row | None = getattr(pair, side)
            return units.NOT_MEASURED if row is None else text(row)

        return shown

    return [Column(name.format(side.capitalize()), of(side), fold=fold) for side in sides]


def _tokens(pair: Pair) -> str:
    tokens = pair.text.cell.tokens if pair.text else None
    return units.NOT_MEASURED if tokens is None else str(tokens)


def _pair_note(pair: Pair) -> str:
    notes = []
    for name, row in (("image", pair.image), ("text", pair.text)):
        if row is not None and _note(row):
            notes.append(f"{name} {_note(row)}")
    return "; ".join(notes)


def _score_columns(results: Sequence[ResultFile]) -> tuple[list[Column[Pair]], list[str]]:
    """Accuracy beside the cost: the first metric of each dataset, and what the reader must know."""
    scores = merge_scores(results)
    first: dict[str, tuple[str, str]] = {}
    for score in scores:
        first.setdefault(score.dataset, (score.dataset_sha256, score.metric))
    shown = list(first.items())[:SUMMARY_SCORES]
    columns: list[Column[Pair]] = []
    elsewhere = False
    for dataset, (sha256, metric) in shown:
        by_engine: dict[tuple, dict[str, Score]] = {}
        for s in scores:
            if (s.dataset, s.dataset_sha256, s.metric) == (dataset, sha256, metric):
                by_engine.setdefault(_score_key(s.cell), {})[s.env_id] = s
        columns.append(Column(f"{dataset} {metric}", _score_text(by_engine)))
        measured = {(r.env_id, _score_key(r.cell)) for r in merge(results)}
        elsewhere |= any(
            key in by_engine and env_id not in by_engine[key] for env_id, key in measured
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


def _score_key(cell: Cell) -> tuple[str, str, str]:
    return (cell.model_id, cell.setup, cell.device)


def _score_text(by_engine: dict[tuple, dict[str, Score]]) -> Callable[[Pair], str]:
    def text(pair: Pair) -> str:
        scores = by_engine.get(_score_key(pair.any.cell))
        if not scores:
            return units.NOT_MEASURED
        score = scores.get(pair.any.env_id) or list(scores.values())[-1]
        return findings.share_text(score.value) + (" random" if score.random_weights else "")

    return text
