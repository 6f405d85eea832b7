"""A Sizing as tables: the deployments, every option that passes, and what was rejected and why."""

from __future__ import annotations

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
from clipperf.report.sizing.types import Deployment, Option, Sizing
from clipperf.report.table import Table, Value
from clipperf.report.words import driven


def sizing_tables(
    sizing: Sizing, known: Mapping[str, tuple[str, Environment | None]]
) -> tuple[Table, ...]:
    """The tables of a sizing; `known` is what `records.environments` says of the same files."""
    labels = {env_id: label for env_id, (label, _) in known.items()}
    tables = [_plans(sizing, labels)]
    if sizing.options:
        tables.append(
            _options("Configurations that pass, figures of one replica", sizing.options, labels)
        )
    if sizing.rejected:
        tables.append(_rejected(sizing.rejected, labels))
    return tuple(tables)


def targets_text(sizing: Sizing) -> str:
    """The targets in one line."""
    t = sizing.targets
    parts = [f"{units.rate(t.images_per_s)} images/s"] if t.images_per_s else []
    parts += [f"{units.rate(t.texts_per_s)} texts/s"] if t.texts_per_s else []
    parts += [f"SLO {units.seconds(t.slo_s)}"] if t.slo_s is not None else []
    parts += [f"RAM {units.size(t.ram_bytes)} a machine"] if t.ram_bytes is not None else []
    parts += [f"VRAM {units.size(t.vram_bytes)} a machine"] if t.vram_bytes is not None else []
    return ", ".join([*parts, f"{units.share(t.utilisation)} utilisation"])


def _plans(sizing: Sizing, labels: dict[str, str]) -> Table:
    alike = len({(o.cell.device, o.cell.threads) for p in sizing.plans for o in p.towers}) == 1
    columns: list[Column[Deployment]] = [
        Column("Rank", lambda p: p.rank, key=True),
        *who_columns(labels, lambda p: p.towers[0], "never"),
        Column("Machines", lambda p: p.machines),
        Column("Image tower", lambda p: _tower(p.image, alike), "words", "empty"),
        Column("Text tower", lambda p: _tower(p.text, alike), "words", "empty"),
        Column("RAM, all", lambda p: p.memory_bytes, "size"),
        Column("RAM, fullest machine", lambda p: p.fullest_bytes, "size"),
        Column("Headroom", lambda p: p.headroom_bytes, "size"),
    ]
    several = len(labels) > 1
    found = []
    for plan in sizing.plans:
        if plan.rank == 1:
            where = f" on {labels[plan.env_id]}" if several else ""
            plural = "machine" if plan.machines == 1 else "machines"
            towers = "; ".join(f"{o.cell.side}: {_tower(o, alike)}" for o in plan.towers)
            found.append(
                f"{targets_text(sizing)}{where}: {plan.machines} {plural} with "
                f"{model_name(plan.model_id, plan.random_weights).text} ({towers})"
                f"{''.join(f'; {note}' for note in plan.notes)}."
            )
    if not sizing.plans:
        found.append(f"No configuration meets {targets_text(sizing)}.")
    found += sizing.unmet
    notes = [
        f"{p.model_id}{f' ({labels[p.env_id]})' if several else ''}: {note}."
        for p in sizing.plans
        for note in p.notes
    ]
    if several:
        notes.insert(
            0, "Ranks count within an environment: a machine of one is not one of another."
        )
    return tabulate("Machines", columns, sizing.plans, found, [*notes, *sizing.assumptions])


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
        Column("Items/s", lambda o: o.rate_per_s, "rate"),
        Column("Latency ms", lambda o: o.latency_s, "ms"),
        Column("Quantile", lambda o: o.latency_quantile, "words", "constant", "latency: {}"),
        Column("RAM MiB", lambda o: o.rss_peak_bytes, "MiB"),
        Column("VRAM MiB", lambda o: o.vram_peak_bytes, "MiB", "empty"),
        Column("Replicas", lambda o: o.replicas),
        Column("Fit a machine", lambda o: o.per_machine),
        Column("Note", _note, "note", "empty", key=True),
    ]
    return tabulate(title, columns, options)


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
