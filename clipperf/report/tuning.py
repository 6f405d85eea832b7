"""What a tuning tried and chose, as a table."""

from __future__ import annotations

from clipperf import units
from clipperf.nouns.report import Report
from clipperf.nouns.tuning import Trial, TunedTower, Tuning
from clipperf.report.columns import Column, model_name, tabulate
from clipperf.report.records import setup_order


def tuning_report(tuning: Tuning) -> Report:
    """One row a candidate, the chosen one of each tower first, then the fastest."""
    columns: list[Column[Trial]] = [
        Column("Tower", lambda t: t.cell.side, numeric=False, fold="constant"),
        Column("Device", lambda t: t.cell.device, numeric=False, fold="constant"),
        Column("Runtime", lambda t: t.cell.setup, numeric=False),
        Column("Threads", lambda t: str(t.cell.threads)),
        Column("Streams", lambda t: str(t.cell.streams)),
        Column("Batch", lambda t: str(t.cell.batch)),
        Column("Items/s", lambda t: units.rate(t.items_per_s)),
        Column("Batch p90 ms", lambda t: units.ms(t.batch_s)),
        Column("Load s", lambda t: units.rate(t.load_s)),
        Column("Note", lambda t: (t.verdict or "chosen").splitlines()[0], numeric=False),
    ]
    rows = sorted(tuning.trials, key=_order)
    caveats = ["Items/s: by the median run. Batch p90 ms: below 64 runs the slowest one."]
    tokens = next((t.cell.tokens for t in tuning.trials if t.cell.tokens), None)
    if tokens is not None:
        caveats.append(f"Texts have {tokens} tokens.")
    if tuning.spec.random_weights:
        caveats.append("Random weights: accuracy cannot be judged, only how close embeddings are.")
    name = model_name(tuning.spec.id, tuning.spec.random_weights)
    findings = [_finding(tower) for tower in tuning.towers]
    return tabulate(f"Tuning of {name}", columns, rows, findings, caveats)


def _order(trial: Trial) -> tuple:
    cell = trial.cell
    return (
        cell.side,
        trial.verdict != "",
        -(trial.items_per_s or 0.0),
        *setup_order(cell),
        cell.batch,
    )


def _finding(tower: TunedTower) -> str:
    cell = tower.cell
    interval = tower.items_interval
    spread = f" [{units.rate(interval[0])}, {units.rate(interval[1])}]" if interval else ""
    streams = f" in {cell.streams} streams" if cell.streams > 1 else ""
    threads = "1 thread" if cell.threads == 1 else f"{cell.threads} threads"
    return (
        f"{cell.side}: {cell.setup} on {cell.device}, batch {cell.batch}, {threads}{streams}: "
        f"{units.rate(tower.items_per_s)}{spread} a second, p90 {units.seconds(tower.batch_s)} "
        f"a batch, {units.size(tower.rss_peak_bytes)} RAM"
    )
