"""The largest batch within a limit of memory: what a line says, and what a run of it took."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from clipperf import units
from clipperf.nouns.cell import Cell
from clipperf.nouns.memory import (
    FEWEST_BATCHES,
    FURTHEST,
    MemoryFit,
    What,
    by_tower,
    line_of,
    peak_of,
    tower_of,
)
from clipperf.nouns.result import Measurement, ResultFile
from clipperf.report.columns import Column, cell_columns, tabulate, who_columns
from clipperf.report.records import Row, in_order, merge
from clipperf.report.table import Table, Value
from clipperf.report.words import listed
from clipperf.serialize import to_json
from clipperf.text import one_line


@dataclass(frozen=True)
class Largest:
    """What is known of a tower's memory over the batch, in one setup.

    `cell` has the largest batch that was measured and the longest texts. `fit` is None where too
    few batches were. `batch` is the largest that the line says to keep to `limit_bytes`: 0 where
    not one input does, None where nothing follows. `peak_bytes` is the line's at that batch,
    `margin_bytes` what was kept above it, `measured_bytes` that of the run that checked it, None
    where none did; `failed` says why one did not end well.
    """

    cell: Cell
    env_id: str
    random_weights: bool
    what: What
    batches: tuple[int, ...]
    fit: MemoryFit | None
    limit_bytes: int | None = None
    batch: int | None = None
    peak_bytes: float | None = None
    margin_bytes: float | None = None
    measured_bytes: int | None = None
    failed: str | None = None

    @property
    def off(self) -> float | None:
        """How far the measured peak was above what was predicted, as a share of that."""
        if self.measured_bytes is None or not self.peak_bytes:
            return None
        return self.measured_bytes / self.peak_bytes - 1


def largest_of(
    results: Sequence[ResultFile], ram_bytes: int | None = None, vram_bytes: int | None = None
) -> list[Largest]:
    """Each tower in each setup, within the limits that are asked for and those that were checked.

    Without any there are the lines alone, and nothing of towers that have none. A limit of VRAM is
    none of what ran on a processor.
    """
    asked: dict[What, int | None] = {"RAM": ram_bytes, "VRAM": vram_bytes}
    checks = _checks(results)
    found: list[Largest] = []
    rows = [row for row in merge(results) if row.memory_status == "ok"]
    for env_id in dict.fromkeys(row.env_id for row in rows):
        here = [row for row in rows if row.env_id == env_id]
        for tower, mine in by_tower(here, lambda row: row.cell).items():
            own = checks.get((env_id, tower), {}).values()
            for what, limit in asked.items():
                found += _within(mine, [row for row in own if _of_what(row, what)], what, limit)
    return found


def _checks(results: Sequence[ResultFile]) -> dict[tuple[str, Cell], dict[tuple, Measurement]]:
    """The newest check of each limit of each tower, whichever batch was the largest then."""
    found: dict[tuple[str, Cell], dict[tuple, Measurement]] = {}
    for result in in_order(results):
        for row in result.measurements:
            if row.kind == "check" and row.foreseen is not None:
                own = found.setdefault((row.env_id, tower_of(row.cell)), {})
                own[row.foreseen.what, row.foreseen.limit_bytes] = row
    return found


def _of_what(row: Measurement, what: What) -> bool:
    return row.foreseen is not None and row.foreseen.what == what


def _within(
    rows: Sequence[Row], checks: Sequence[Measurement], what: What, limit: int | None
) -> list[Largest]:
    known = [row for row in rows if peak_of(row, what) is not None]
    if not known:
        return []
    line = line_of(known, what)
    fitted = [row for row in known if line.fit is None or row.cell.tokens == line.tokens]
    last = max(fitted, key=lambda row: (row.cell.tokens or 0, row.cell.batch))
    plain = Largest(last.cell, last.env_id, last.random_weights, what, line.batches, line.fit)
    found = []
    for row in checks:
        assert row.foreseen is not None
        found.append(
            dataclasses.replace(
                plain,
                limit_bytes=row.foreseen.limit_bytes,
                batch=row.cell.batch,
                peak_bytes=row.foreseen.peak_bytes,
                margin_bytes=row.foreseen.residual_bytes,
                measured_bytes=peak_of(row, what) if row.status == "ok" else None,
                failed=None if row.status == "ok" else one_line(row.error or row.status),
            )
        )
    if limit is not None and limit not in {each.limit_bytes for each in found}:
        batch = line.largest(limit)
        found.append(
            dataclasses.replace(
                plain,
                limit_bytes=limit,
                batch=batch,
                peak_bytes=line.at(batch),
                margin_bytes=line.margin(batch),
            )
        )
    return found or ([plain] if line.fit is not None else [])


def unmeasured(found: Sequence[Largest], ram_bytes: int | None, vram_bytes: int | None) -> str:
    """Of which limits nothing can be said as no peak was measured, in words; "" where all can."""
    asked: dict[What, int | None] = {"RAM": ram_bytes, "VRAM": vram_bytes}
    told = {each.what for each in found}
    return " ".join(
        f"No largest batch within {units.size(limit)} {what} is known: no peak of {what} was "
        f"measured."
        for what, limit in asked.items()
        if limit is not None and what not in told
    )


def largest_table(found: Sequence[Largest], labels: dict[str, str]) -> Table | None:
    """The lines, what they say of limits, and what runs took; None where there is no line.

    Towers without one are told below it, see `without_line`.
    """
    missing = without_line(found)
    found = [each for each in found if each.fit is not None]
    if not found:
        return None
    names = ("Device", "Threads", "Streams", "Instances", "Scenario", "Tower", "Tokens", "Runtime")
    columns: list[Column[Largest]] = [
        *who_columns(labels),
        *cell_columns(names, found),
        Column("Memory", lambda each: each.what, "words", "constant", key=True),
        Column("Batches", lambda each: ", ".join(map(str, each.batches)), "words", "constant"),
        Column("Weights", lambda each: _of(each.fit, lambda fit: fit.weights_bytes), "size"),
        Column("Else", lambda each: _of(each.fit, lambda fit: fit.base_bytes), "size"),
        Column("An input", _an_input, "size"),
        Column("Largest residual", lambda each: _of(each.fit, _residual), "size"),
        Column("Limit", lambda each: each.limit_bytes, "size", "empty", key=True),
        Column("Largest batch", lambda each: each.batch, "count", "empty"),
        Column("Predicted", lambda each: _whole(each.peak_bytes), "size", "empty"),
        Column("Margin", lambda each: _whole(each.margin_bytes), "size", "empty"),
        Column("Measured", lambda each: each.measured_bytes, "size", "empty"),
        Column("Off", _off, "words", "empty"),
        Column("Note", _note, "note", "empty", key=True),
    ]
    caveats = [
        "Peak = weights + else + an input's share x batch, by least squares; the weights are the "
        "tower's files. The largest batch keeps to its limit with a margin, below which 97.5 % of "
        "runs stay where peaks lie on a line but for chance; that they rise faster beyond the "
        "measured batches is not seen in these: run it, or measure larger ones.",
    ]
    if any(each.measured_bytes is not None or each.failed for each in found):
        caveats.append(
            "Measured: one run of that batch in a process that is ended where it takes more."
        )
    caveats += [missing] if missing else []
    return tabulate("Memory over batch", columns, found, caveats=caveats)


def _of(fit: MemoryFit | None, figure: Callable[[MemoryFit], float | None]) -> int | None:
    return None if fit is None else _whole(figure(fit))


def _whole(value: float | None) -> int | None:
    return None if value is None else round(value)


def _residual(fit: MemoryFit) -> float:
    return fit.residual_bytes


def _an_input(each: Largest) -> int | None:
    """At the longest texts, where these differ."""
    return _of(each.fit, lambda fit: fit.each(each.cell.tokens))


def _off(each: Largest) -> str:
    return "" if each.off is None else f"{100 * each.off:+.1f} %"


def _note(each: Largest) -> Value:
    if each.failed is not None:
        return Value(each.failed, "note", severity="bad")
    said = why_not(each)
    return Value(said, "note", severity="warn" if said else None)


def why_not(each: Largest) -> str:
    """Why no batch, or none that is larger, follows from a line, and what to do; "" where no why.

    One follows wherever the line meets the limit, and none where no limit was asked for.
    """
    if each.fit is None or each.limit_bytes is None:
        return ""
    last = each.fit.batches[-1]
    if each.batch == FURTHEST * last:
        return f"the limit is further: no more than {FURTHEST} x batch {last} is foreseen"
    if each.batch:
        return ""
    if each.batch == 0:
        return f"not one input keeps to {units.size(each.limit_bytes)}"
    return f"up to batch {last} it does not grow by more than the residual: measure larger ones"


def without_line(found: Sequence[Largest]) -> str:
    """Which towers have no line as too few batches were measured, in words; "" where all have."""
    names = [
        f"{each.cell.model_id} {each.cell.side} {each.cell.setup}, {each.what} "
        f"(batch {listed([str(batch) for batch in each.batches])})"
        for each in found
        if each.fit is None
    ]
    if not names:
        return ""
    more = f", and {len(names) - 3} more" if len(names) > 3 else ""
    return (
        f"No largest batch is predicted where fewer than {FEWEST_BATCHES} batches of one length "
        f"were measured, as a line through fewer fits anything: `clipperf profile --batch "
        f"1,8,32,128`. Here: {'; '.join(names[:3])}{more}."
    )


def largest_record(each: Largest) -> dict[str, Any]:
    """A line in SI units, flat."""
    fit = each.fit
    return {
        "record": "memory",
        **to_json(each.cell),
        "env_id": each.env_id,
        "what": each.what,
        "batches": ", ".join(map(str, each.batches)),
        "weights_bytes": None if fit is None else fit.weights_bytes,
        "base_bytes": None if fit is None else fit.base_bytes,
        "per_item_bytes": None if fit is None else fit.per_item_bytes,
        "per_token_bytes": None if fit is None else fit.per_token_bytes,
        "residual_bytes": None if fit is None else fit.residual_bytes,
        "limit_bytes": each.limit_bytes,
        "largest_batch": each.batch,
        "predicted_bytes": each.peak_bytes,
        "margin_bytes": each.margin_bytes,
        "measured_bytes": each.measured_bytes,
        "failed": each.failed,
        "random_weights": each.random_weights,
    }
