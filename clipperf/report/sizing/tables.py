"""A Sizing as tables: the plans, every option that passes, and what was rejected and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from clipperf import units
from clipperf.nouns.report import Report
from clipperf.nouns.result import Environment
from clipperf.report.columns import Column, environment_column, model_name, tabulate
from clipperf.report.sizing.solve import Option, Plan, Sizing


def sizing_reports(
    sizing: Sizing, known: Mapping[str, tuple[str, Environment | None]]
) -> tuple[Report, ...]:
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


def _plans(sizing: Sizing, labels: dict[str, str]) -> Report:
    alike = len({(o.cell.device, o.cell.threads) for p in sizing.plans for o in chosen(p)}) == 1
    columns: list[Column[Plan]] = [
        Column("Rank", lambda p: str(p.rank)),
        Column("Model", lambda p: model_name(p.model_id, p.random_weights), numeric=False),
        *environment_column(labels, lambda p: p.env_id),
        Column("Machines", lambda p: str(p.machines)),
        Column("Image tower", lambda p: _tower(p.image, alike), numeric=False, fold="empty"),
        Column("Text tower", lambda p: _tower(p.text, alike), numeric=False, fold="empty"),
        Column("RAM, all", lambda p: units.size(p.memory_bytes)),
        Column("RAM, fullest machine", lambda p: units.size(p.fullest_bytes)),
        Column("Headroom", lambda p: units.size(p.headroom_bytes)),
    ]
    several = len(labels) > 1
    found = []
    for plan in sizing.plans:
        if plan.rank == 1:
            where = f" on {labels[plan.env_id]}" if several else ""
            plural = "machine" if plan.machines == 1 else "machines"
            towers = "; ".join(f"{o.cell.side}: {_tower(o, alike)}" for o in chosen(plan))
            found.append(
                f"{targets_text(sizing)}{where}: {plan.machines} {plural} with "
                f"{model_name(plan.model_id, plan.random_weights)} ({towers})"
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


def chosen(plan: Plan) -> list[Option]:
    """The options of a plan, image first."""
    return [o for o in (plan.image, plan.text) if o is not None]


def _tower(option: Option | None, alike: bool) -> str:
    """Replicas of one tower in a few words; device and threads where they differ."""
    if option is None:
        return units.NOT_MEASURED
    c = option.cell
    text = f"{option.replicas} x {option.setup}, batch {c.batch}"
    return text if alike else f"{text}, {c.device}, {c.threads} threads"


def _shared_columns(labels: dict[str, str]) -> list[Column[Option]]:
    return [
        Column(
            "Model",
            lambda o: model_name(o.cell.model_id, o.random_weights),
            numeric=False,
            fold="constant",
        ),
        *environment_column(labels, lambda o: o.env_id),
        Column("Device", lambda o: o.cell.device, numeric=False, fold="constant"),
        Column("Threads", lambda o: str(o.cell.threads), fold="constant", phrase="{} threads"),
        Column("Tower", lambda o: o.cell.side, numeric=False),
        Column("Batch", lambda o: str(o.cell.batch)),
        Column("Runtime", lambda o: o.setup, numeric=False),
    ]


def _options(title: str, options: Sequence[Option], labels: dict[str, str]) -> Report:
    columns: list[Column[Option]] = [
        *_shared_columns(labels),
        Column("Items/s", lambda o: units.rate(o.rate_per_s)),
        Column("Latency ms", lambda o: units.ms(o.latency_s)),
        Column(
            "Quantile",
            lambda o: o.latency_quantile or units.NOT_MEASURED,
            numeric=False,
            fold="constant",
            phrase="latency: {}",
        ),
        Column("RAM MiB", lambda o: units.mib(o.rss_peak_bytes)),
        Column("VRAM MiB", lambda o: units.mib(o.vram_peak_bytes), fold="empty"),
        Column("Replicas", lambda o: str(o.replicas)),
        Column(
            "Fit a machine",
            lambda o: units.NOT_MEASURED if o.per_machine is None else str(o.per_machine),
        ),
        Column("Note", lambda o: "unstable" if o.unstable else "", numeric=False, fold="empty"),
    ]
    return tabulate(title, columns, options)


def _rejected(options: Sequence[Option], labels: dict[str, str]) -> Report:
    columns: list[Column[Option]] = [
        *_shared_columns(labels),
        Column("Why not", lambda o: "; ".join(o.broken), numeric=False),
    ]
    return tabulate("Configurations that do not pass", columns, options)
