"""From result files to a Document."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from clipperf.evals.robustness import BUNDLED, bundled_points, robustness_of
from clipperf.models.published import BasicStatistics
from clipperf.nouns.result import CrossScore, ResultFile, Score
from clipperf.report import findings, serving
from clipperf.report.accuracy import accuracy_findings
from clipperf.report.bias import score_tables
from clipperf.report.charts import speed_charts
from clipperf.report.crossing import crossing_findings, crossing_tables, merge_crossed
from clipperf.report.document import Document, Origin, Section, plain_json
from clipperf.report.from_files import files_findings, files_record, files_table, lines_of
from clipperf.report.gpu import gpu_record, gpu_table
from clipperf.report.instances import instances_findings, instances_table
from clipperf.report.largest import Largest, largest_of, largest_record, largest_table
from clipperf.report.latency import answer_charts, latency_charts
from clipperf.report.memory import memory_charts
from clipperf.report.published import published_table
from clipperf.report.recommend import recommended
from clipperf.report.records import Row, environments, in_order, merge, merge_scores
from clipperf.report.robustness import robustness_table
from clipperf.report.serving import serving_findings, serving_record, serving_table
from clipperf.report.sizing.solve import size
from clipperf.report.sizing.tables import has_front, sizing_tables, targets_text
from clipperf.report.sizing.types import Targets
from clipperf.report.speeds import speeds_table
from clipperf.report.table import Table, without_caveats
from clipperf.report.tables import cost_table, summary
from clipperf.report.tradeoff import tradeoff_charts
from clipperf.report.trust import trust_table
from clipperf.report.waterfall import waterfall_charts
from clipperf.serialize import to_json


def build_report(
    results: Sequence[ResultFile],
    published: Sequence[BasicStatistics] = (),
    targets: Targets | None = None,
    title: str = "CLIP cost and accuracy",
    left_out: Sequence[str] = (),
) -> Document:
    """Assemble the report of some result files.

    `published` are rows to stand beside what was measured, `targets` ask for a sizing section.
    `left_out` says which files are not in it, and why.

    Raises:
        UsageError: nothing was measured, or the targets make no sense.
    """
    ordered = in_order(results)
    known = environments(ordered)
    labels = {env_id: label for env_id, (label, _) in known.items()}
    rows, scores = merge(ordered), merge_scores(ordered)
    sizing = size(ordered, targets) if targets is not None else None
    sections: list[Section] = []
    lines: list[Largest] = []
    if rows:
        sections.append(_section("summary", "Basic statistics", SUMMARY, [summary(ordered)]))
        lines = largest_of(ordered)
        sections += _drawn(rows, scores, labels, largest_table(lines, labels))
    tables: list[Table] = []
    headed: tuple[str, ...] = ()
    if sizing is not None:
        tables = list(sizing_tables(sizing, known))
        intro = f"For {targets_text(sizing)}."
        first = 1 + bool(sizing.assumed) + has_front(sizing)
        sections.insert(0, _section("sizing", "Sizing", intro, tables[:first]))
        tables, headed = tables[first:], tables[0].findings
    if rows:
        sections.append(_section("cost", "Cost per tower", COST, [cost_table(ordered)]))
        if (beside := instances_table(rows, labels)) is not None:
            sections.append(_section("instances", "Instances", INSTANCES, [beside]))
        sections.append(_section("trust", "Trust", TRUST, [trust_table(ordered)]))
    if (fed := files_table(ordered)) is not None:
        steps = waterfall_charts(lines_of(ordered), rows, labels)
        section = _section("files", "From files", FILES, [fed])
        sections.append(dataclasses.replace(section, charts=steps))
    if (served := serving_table(ordered)) is not None:
        section = _section("serving", "Serving", SERVING, [served])
        answers = answer_charts(serving.lines_of(ordered), labels)
        sections.append(dataclasses.replace(section, charts=answers))
    meters = gpu_table(ordered) if rows else None
    if meters is not None:
        sections.append(_section("gpu", "GPU", GPU, [meters]))
    if tables:
        sections.append(_section("options", "Sizing in detail", OPTIONS, tables))
    if scores:
        sections.append(_section("accuracy", "Accuracy", ACCURACY, score_tables(ordered)))
    if above := robustness_of(scores, bundled_points()):
        sections.append(
            _section("shift", "Shift", SHIFT, [robustness_table(above, BUNDLED)]),
        )
    if crossed := crossing_tables(ordered):
        sections.append(_section("index", "Changing the engine", CROSSED, crossed))
    others = published_table(ordered, published) if rows and published else None
    if others is not None:
        sections.append(_section("published", "Published figures", PUBLISHED, [others]))
    elsewhere = speeds_table([r.cell.model_id for r in rows]) if rows and published else None
    if elsewhere is not None:
        sections.append(_section("speeds", "Published speeds", ELSEWHERE, [elsewhere]))
    shared = tuple(dict.fromkeys(findings.cost_caveats(ordered, rows))) if rows else ()
    # A caveat of the whole report is told once, not again under every table.
    sections = [_without(section, shared) for section in sections]
    headed = headed or recommended(rows, scores, labels)
    headline = [
        *headed,
        *findings.speed_findings(rows, labels),
        *findings.memory_findings(rows, labels),
        *instances_findings(rows, labels),
        *files_findings(ordered),
        *serving_findings(ordered),
        *accuracy_findings(scores, labels),
        *crossing_findings(ordered),
    ]
    return Document(
        title=title,
        findings=tuple(headline),
        caveats=(*left_out, *shared),
        sections=tuple(sections),
        environment=tuple(known.values()),
        provenance=tuple(_origin(r, labels) for r in ordered),
        records=(
            *map(_cost_record, rows),
            *map(largest_record, lines),
            *map(files_record, lines_of(ordered)),
            *map(serving_record, serving.lines_of(ordered)),
            *map(_score_record, scores),
            *(_cross_record(row) for line in merge_crossed(ordered) for row in line.both),
        ),
        sizing=plain_json(sizing) if sizing is not None else None,
        results=tuple(ordered),
        recommendation=headed,
    )


SUMMARY = "What each configuration takes and gives, both towers in one line."
SPEED = (
    "Whiskers are 95 % intervals of the median. Compare bars of one batch; gaps that the findings "
    "do not call are not resolved."
)
TRADEOFF = "What is faster, and what it keeps of the accuracy, on the same machine."
LATENCY = "What a rate costs in waiting, and how far single calls are from the median."
MEMORY = "Drawn where at least four batches were measured, so that a line can be wrong."
TRUST = "What the figures of each row rest on, and why they are not better."
OPTIONS = "Every configuration against the targets, one tower at a time."
COST = "Time and memory were measured in separate fresh processes, one pair for every row."
INSTANCES = "Engines side by side on one machine: what more of them give, and take."
FILES = "Image files to vectors: what holds an engine up that waits for its pixels."
SERVING = "Inputs that come as users send them, and the rates that keep to a bound."
GPU = "Read after the times, so that no meter runs while they are taken."
ACCURACY = "Each runtime answers the same samples as PyTorch; differences are taken in pairs."
SHIFT = "Accuracy on sets that ImageNet's classes were photographed or drawn for anew."
CROSSED = "Queries that one engine embeds, in a collection that another one has embedded."
ELSEWHERE = "What others measured on hardware of theirs; nothing of it was measured here."
PUBLISHED = "The same quantities from the CLIP-as-service benchmark, on its machine."


def _section(key: str, title: str, intro: str, tables: Sequence[Table]) -> Section:
    return Section(key, title, intro, tuple(dataclasses.replace(t, findings=()) for t in tables))


def _drawn(
    rows: Sequence[Row], scores: Sequence[Score], labels: dict[str, str], memory: Table | None
) -> list[Section]:
    """The sections of charts, and of `memory` the lines, without those that would be empty."""
    beside = tradeoff_charts(rows, scores, labels)
    held = () if memory is None else (memory,)
    found = (
        Section("tradeoff", "Accuracy and speed", TRADEOFF, (), beside),
        Section("speed", "Speed", SPEED, (), speed_charts(rows, labels)),
        Section("latency", "Latency", LATENCY, (), latency_charts(rows, labels)),
        Section("memory", "Memory", MEMORY, held, memory_charts(rows, labels)),
    )
    return [section for section in found if section.charts or section.tables]


def _without(section: Section, caveats: Sequence[str]) -> Section:
    return dataclasses.replace(
        section, tables=tuple(without_caveats(table, caveats) for table in section.tables)
    )


def _origin(result: ResultFile, labels: dict[str, str]) -> Origin:
    return Origin(
        path=result.path,
        kind=result.kind,
        command=result.command,
        created_utc=result.created_utc,
        environment=", ".join(labels[e.id] for e in result.environments if e.id in labels),
        measurements=len(result.measurements),
        scores=len(result.scores) + len(result.crossed),
        notes=result.notes,
    )


# --- records for machines ------------------------------------------------------------------


def _cost_record(row: Row) -> dict[str, Any]:
    """One cell in SI units, flat."""
    skipped = {"cell", "time", "source", "problems"}
    flat: dict[str, Any] = {"record": "cost", **to_json(row.cell)}
    for f in dataclasses.fields(row):
        if f.name not in skipped:
            flat.update(_spread(f.name, getattr(row, f.name)))
    flat["ratio_baseline"] = row.ratio_baseline.setup if row.ratio_baseline else None
    return {**flat, **gpu_record(row), "problems": "; ".join(row.problems) or None}


def _score_record(score: Score) -> dict[str, Any]:
    flat: dict[str, Any] = {"record": "score", **to_json(score.cell)}
    for f in dataclasses.fields(score):
        if f.name not in ("cell", "hits"):
            flat.update(_spread(f.name, getattr(score, f.name)))
    return flat


def _cross_record(row: CrossScore) -> dict[str, Any]:
    """The score of the queries' cell, and what embedded the index."""
    index = {f"index_{name}": value for name, value in to_json(row.index).items()}
    names = {"queries_by": row.names[0], "index_by": row.names[1], "alone": row.alone}
    return {**_score_record(row.score), "record": "crossing", **names, **index}


def _spread(name: str, value: Any) -> dict[str, Any]:
    """An interval as two columns, NAME_low and NAME_high; everything else as it is."""
    if "interval" not in name and "ci95" not in name:
        return {name: value}
    low, high = value if value is not None else (None, None)
    return {f"{name}_low": low, f"{name}_high": high}
