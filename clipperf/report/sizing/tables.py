"""A Sizing as tables: the deployments, every option that passes, and what was rejected and why."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

from clipperf import units
from clipperf.nouns.result import Environment
from clipperf.report.columns import (
    CELL,
    Column,
    cell_columns,
    model_name,
    tabulate,
    who_columns,
)
from clipperf.report.largest import largest_table
from clipperf.report.sizing.types import (
    Assumed,
    Deployment,
    Option,
    Sizing,
    Targets,
    percentile,
)
from clipperf.report.table import ASSUMED, EXTRAPOLATED, Interval, Table, Value
from clipperf.report.words import driven


def sizing_tables(
    sizing: Sizing, known: Mapping[str, tuple[str, Environment | None]]
) -> tuple[Table, ...]:
    """The tables of a sizing; `known` is what `records.environments` says of the same files."""
    labels = {env_id: label for env_id, (label, _) in known.items()}
    tables = [_plans(sizing, labels)]
    if sizing.assumed:
        tables.append(_assumed(sizing.assumed))
    if has_front(sizing):
        tables.append(_front(sizing, labels))
    if sizing.options:
        tables.append(
            _options("Configurations that pass, figures of one replica", sizing.options, labels)
        )
    if sizing.rejected:
        tables.append(_rejected(sizing.rejected, labels))
    if (largest := largest_table(sizing.largest, labels)) is not None:
        tables.append(largest)
    return tuple(tables)


def has_front(sizing: Sizing) -> bool:
    """Whether there is something to weigh: none is the best in all.

    Without prices that is asked of each kind of machine.
    """
    priced = any(p.per_month is not None for p in sizing.front)
    return len(sizing.front) > (1 if priced else len({p.env_id for p in sizing.front}))


def targets_text(sizing: Sizing) -> str:
    """The targets in one line."""
    t = sizing.targets
    parts = [f"{units.rate(t.images_per_s)} images/s"] if t.images_per_s else []
    parts += [f"{units.rate(t.texts_per_s)} texts/s"] if t.texts_per_s else []
    if t.slo_s is not None:
        usual = t.percentile == Targets.percentile
        parts.append(f"{'SLO' if usual else percentile(t)} {units.seconds(t.slo_s)}")
    parts += [f"RAM {units.size(t.ram_bytes)} a machine"] if t.ram_bytes is not None else []
    parts += [f"VRAM {units.size(t.vram_bytes)} a machine"] if t.vram_bytes is not None else []
    parts += [f"disk {units.size(t.disk_bytes)} a machine"] if t.disk_bytes is not None else []
    on = f" on {t.accuracy_on}" if t.accuracy_on else ""
    parts += [f"accuracy {units.share(t.min_accuracy)}{on}"] if t.min_accuracy is not None else []
    parts += [f"at most {100 * t.max_loss:g} points lost{on}"] if t.max_loss is not None else []
    parts += [f"{t.spare} spare"] if t.spare else []
    return ", ".join([*parts, f"{units.share(t.utilisation)} utilisation"])


def _deployment_columns(labels: dict[str, str], alike: bool) -> list[Column[Deployment]]:
    several = len(labels) > 1
    env = [Column[Deployment]("Env", lambda p: _where(p, labels), "words", key=True)]
    return [
        *who_columns({}, lambda p: p.towers[0], "never"),
        *(env if several else []),
        Column("Machines", lambda p: Value(p.machines, "count", _differing(p.machines_interval))),
        Column("Image tower", lambda p: _tower(p.image, alike), "words", "empty"),
        Column("Text tower", lambda p: _tower(p.text, alike), "words", "empty"),
        Column(
            "Cost a month",
            lambda p: Value(p.per_month, "number", _differing(p.per_month_interval)),
            fold="empty",
        ),
        Column("Cost a million", lambda p: p.per_million, "number", "empty"),
        Column("Accuracy", _accuracy, fold="empty"),
        Column("Carries", lambda p: p.carries, "ratio"),
    ]


def _where(plan: Deployment, labels: dict[str, str]) -> str:
    if len(plan.kinds) < 2:
        return labels[plan.env_id]
    return " + ".join(f"{number} x {labels[env_id]}" for env_id, number in plan.kinds)


def _differing(interval: tuple[float, float | None] | None) -> tuple[float, float] | None:
    """An interval that says something; an end that nothing bounds is infinite."""
    if interval is None or interval[0] == interval[1]:
        return None
    return interval[0], math.inf if interval[1] is None else interval[1]


def _scaled(
    value: float | None, by: float, span: tuple[float, float | None] | None
) -> Interval | None:
    """The interval of a value that goes with another one, `by`, whose interval is `span`."""
    ends = _differing(span)
    if value is None or ends is None:
        return None
    return value * ends[0] / by, value * ends[1] / by


def _accuracy(plan: Deployment) -> Value:
    found = plan.quality
    if found is None:
        return Value(None, "share")
    return Value(found.value, "share", found.interval, EXTRAPOLATED if found.added else None)


def _plans(sizing: Sizing, labels: dict[str, str]) -> Table:
    alike = len({(o.cell.device, o.cell.threads) for p in sizing.plans for o in p.towers}) == 1
    columns: list[Column[Deployment]] = [
        Column("Rank", lambda p: p.rank, key=True),
        *_deployment_columns(labels, alike),
        Column("RAM, all", lambda p: p.memory_bytes, "size"),
        Column("RAM, fullest machine", lambda p: p.fullest_bytes, "size"),
        Column("Headroom", lambda p: p.headroom_bytes, "size"),
    ]
    several, priced = len(labels) > 1, any(p.per_month is not None for p in sizing.plans)
    found = [_headline(sizing, p, labels, alike) for p in sizing.plans if p.rank == 1]
    if not sizing.plans:
        found.append(f"No configuration meets {targets_text(sizing)}.")
    found += sizing.unmet
    notes = [
        f"{p.model_id}{f' ({_where(p, labels)})' if several else ''}: {note}."
        for p in sizing.plans
        for note in p.notes
    ]
    if several and not priced:
        notes.insert(
            0, "Ranks count within an environment: a machine of one is not one of another."
        )
    carries = "Carries is how many times the target all replicas hold within the utilisation."
    return tabulate(
        "Machines", columns, sizing.plans, found, [*notes, carries, *sizing.assumptions]
    )


def _headline(sizing: Sizing, plan: Deployment, labels: dict[str, str], alike: bool) -> str:
    priced = plan.per_month is not None
    where = f" on {_where(plan, labels)}" if len(labels) > 1 and not priced else ""
    plural = "machine" if plan.machines == 1 else "machines"
    kind = f" ({_where(plan, labels)})" if len(labels) > 1 and priced else ""
    towers = "; ".join(f"{o.cell.side}: {_tower(o, alike)}" for o in plan.towers)
    cost = ""
    if plan.per_month is not None and plan.per_million is not None:
        month, million = map(units.significant, (plan.per_month, plan.per_million))
        cost = f", {month} a month, {million} a million embeddings"
    return (
        f"{targets_text(sizing)}{where}: {plan.machines} {plural}{kind} with "
        f"{model_name(plan.model_id, plan.random_weights).text} ({towers}){cost}"
        f"{''.join(f'; {note}' for note in plan.notes)}."
    )


def _assumed(plans: Sequence[Assumed]) -> Table:
    """Apart from what was measured, and each number marked."""

    def assumed(value: float | None) -> Value:
        return Value(value, "rate", mark=None if value is None else ASSUMED)

    def cost(plan: Assumed, value: float | None) -> Value:
        span = _scaled(value, plan.machines, plan.machines_interval)
        return Value(value, "number", span, None if value is None else ASSUMED)

    columns: list[Column[Assumed]] = [
        Column("Model", lambda p: model_name(p.model_id, p.random_weights), "words", key=True),
        Column("Hardware", lambda p: p.hardware, "words", "constant", key=True),
        Column("Published setup", lambda p: p.setup, "words", key=True),
        Column("Images/s", lambda p: assumed(p.images_per_s), fold="empty"),
        Column("Texts/s", lambda p: assumed(p.texts_per_s), fold="empty"),
        Column(
            "Machines",
            lambda p: Value(p.machines, "count", _differing(p.machines_interval), ASSUMED),
        ),
        Column("Cost a month", lambda p: cost(p, p.per_month), fold="empty"),
        Column("Cost a million", lambda p: cost(p, p.per_million), fold="empty"),
        Column("Largest known error", _error, "words"),
        Column("Images rest on", lambda p: p.images_rest_on, "words", "empty"),
        Column("Texts rest on", lambda p: p.texts_rest_on, "words", "empty"),
    ]
    caveats = [
        "Nothing here was measured: others published these speeds, in their programs, precisions "
        "and largest batches, and neither an SLO nor memory nor an accuracy was held against "
        "them. One machine runs one tower at a time.",
        "Largest known error: of a speed that follows from another tower's by the ratio measured "
        "here, the factor by which such a prediction was off at worst, over towers of which both "
        "speeds are known; brackets of machines follow from it.",
        f"Published in: {'; '.join(sorted({s for p in plans for s in p.sources}))}.",
    ]
    return tabulate("Assumed, by published speeds", columns, plans, (), caveats)


def _error(plan: Assumed) -> str:
    if plan.error is None:
        return "not known"
    return "none carried over" if plan.error == 1 else units.ratio(plan.error)


MOST_OF_FRONT = 20


def _front(sizing: Sizing, labels: dict[str, str]) -> Table:
    shown = sizing.front[:MOST_OF_FRONT]
    alike = len({(o.cell.device, o.cell.threads) for p in shown for o in p.towers}) == 1
    columns = [
        *_deployment_columns(labels, alike),
        Column[Deployment]("RAM, all", lambda p: p.memory_bytes, "size"),
    ]
    caveats = [
        "No other configuration beats one of these, as good in everything and better in something: "
        "accuracy, what it carries, memory, cost (without prices machines of one kind)."
    ]
    if len(sizing.front) > len(shown):
        caveats.append(f"{len(sizing.front) - len(shown)} more are in the JSON of the sizing.")
    return tabulate("Pareto front", columns, shown, (), caveats)


def _tower(option: Option | None, alike: bool) -> str | None:
    """Replicas of one tower in a few words; device and threads where they differ."""
    if option is None:
        return None
    c = option.cell
    text = f"{option.replicas} x {c.setup}, batch {c.batch}"
    return (text if alike else f"{text}, {c.device}, {c.threads} threads") + driven(c)


def _shared_columns(options: Sequence[Option], labels: dict[str, str]) -> list[Column[Option]]:
    return [*who_columns(labels), *cell_columns(CELL, options, optional=["Tokens"])]


def _options(title: str, options: Sequence[Option], labels: dict[str, str]) -> Table:
    columns: list[Column[Option]] = [
        *_shared_columns(options, labels),
        Column("Items/s", lambda o: Value(o.rate_per_s, "rate", o.rate_interval)),
        Column("Held/s", _held),
        Column("Rests on", lambda o: o.basis, "words", "constant", "rests on: {}"),
        Column("Latency ms", lambda o: o.latency_s, "ms"),
        Column("Quantile", lambda o: o.latency_quantile, "words", "constant", "latency: {}"),
        Column("Expected ms", lambda o: o.expected_s, "ms", "empty"),
        Column("Busy", lambda o: o.busy, "share", "empty"),
        Column("RAM MiB", lambda o: o.rss_peak_bytes, "MiB"),
        Column("VRAM MiB", lambda o: o.vram_peak_bytes, "MiB", "empty"),
        Column("Accuracy", _quality, fold="empty"),
        Column("Replicas", lambda o: Value(o.replicas, "count", _differing(o.replicas_interval))),
        Column("Fit a machine", lambda o: o.per_machine),
        Column("Note", _note, "note", "empty", key=True),
    ]
    told = []
    if any(o.expected_s is not None for o in options):
        told.append(
            "Expected is the latency at the SLO's percentile, Busy the share of time in which a "
            "replica runs, both by the queueing estimate at the planned load, spare replicas out."
        )
    guessed = Counter(text for o in options for text in o.extrapolated)
    told += [
        f"Extrapolated in {number} {'row' if number == 1 else 'rows'}: {text}."
        for text, number in guessed.items()
    ]
    return tabulate(title, columns, options, (), told)


def _held(option: Option) -> Value:
    mark = EXTRAPOLATED if option.basis == "queueing estimate" else None
    return Value(option.held_per_s, "rate", option.held_interval, mark)


def _quality(option: Option) -> Value:
    found = option.quality
    return Value(None, "share") if found is None else Value(found.value, "share", found.interval)


def _note(option: Option) -> Value:
    if not option.unstable:
        return Value("", "note")
    return Value("unstable", "note", severity="warn")


def _rejected(options: Sequence[Option], labels: dict[str, str]) -> Table:
    columns: list[Column[Option]] = [
        *_shared_columns(options, labels),
        Column("Why not", lambda o: "; ".join(o.broken), "words"),
    ]
    return tabulate("Configurations that do not pass", columns, options)
