"""What a tuning tried and chose, as a table."""

from __future__ import annotations

from clipperf import units
from clipperf.nouns.tuning import Trial, TunedTower, Tuning
from clipperf.report.columns import Column, model_name, tabulate
from clipperf.report.records import setup_order
from clipperf.report.table import Table, Value
from clipperf.report.words import driven
from clipperf.text import one_line

NOTE_CHARACTERS = 160


def tuning_table(tuning: Tuning) -> Table:
    """One row a candidate, the chosen one of each tower first, then the fastest."""
    columns: list[Column[Trial]] = [
        Column("Tower", lambda t: t.cell.side, "words", "constant", key=True),
        Column("Device", lambda t: t.cell.device, "words", "constant"),
        Column("Runtime", lambda t: t.cell.setup, "words", key=True),
        Column("Threads", lambda t: t.cell.threads),
        Column("Streams", lambda t: t.cell.streams),
        Column("Batch", lambda t: t.cell.batch, key=True),
        Column("Items/s", lambda t: t.items_per_s, "rate"),
        Column("Batch p90 ms", lambda t: t.batch_s, "ms"),
        Column("Load s", lambda t: t.load_s, "rate"),
        Column("Note", _note, "note", key=True),
    ]
    rows = sorted(tuning.trials, key=_order)
    caveats = ["Items/s: by the median run. Batch p90 ms: below 64 runs the slowest one."]
    tokens = next((t.cell.tokens for t in tuning.trials if t.cell.tokens), None)
    if tokens is not None:
        caveats.append(f"Texts have {tokens} tokens.")
    if tuning.spec.random_weights:
        caveats.append("Random weights: accuracy cannot be judged, only how close embeddings are.")
    name = model_name(tuning.spec.id, tuning.spec.random_weights).text
    findings = [_finding(tower) for tower in tuning.towers]
    return tabulate(f"Tuning of {name}", columns, rows, findings, caveats)


def _note(trial: Trial) -> Value:
    """Why it was not chosen; what could not be measured at all stands out."""
    said = one_line(trial.verdict, NOTE_CHARACTERS) or "chosen"
    return Value(said, "note", severity="bad" if trial.items_per_s is None else "plain")


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
    rate = Value(tower.items_per_s, "rate", tower.items_interval).text
    threads = "1 thread" if cell.threads == 1 else f"{cell.threads} threads"
    return (
        f"{cell.side}: {cell.setup} on {cell.device}, batch {cell.batch}, "
        f"{threads}{driven(cell)}: {rate} a second, p90 {units.seconds(tower.batch_s)} "
        f"a batch, {units.size(tower.rss_peak_bytes)} RAM"
    )
