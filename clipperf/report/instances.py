"""Engines side by side on one machine: what they give and take together, and where that pays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from clipperf import units
from clipperf.report.columns import Column, cell_columns, tabulate, who_columns
from clipperf.report.findings import ITEMS
from clipperf.report.pairs import alike
from clipperf.report.records import RESOLVABLE_GAP, Row
from clipperf.report.table import Interval, Table, Value
from clipperf.report.words import apart


@dataclass(frozen=True)
class Beside:
    """A number of instances: their `row`, and what they give over the `first` number measured.

    `pays` is whether no fewer instances give as much, up to what can be told apart.
    """

    row: Row
    first: Row
    pays: bool

    @property
    def ratio(self) -> float | None:
        """Their throughput over that of the first."""
        ours, theirs = self.row.items_per_s, self.first.items_per_s
        return ours / theirs if ours and theirs else None

    @property
    def ratio_interval(self) -> Interval | None:
        """As far as both intervals reach: the two were not measured in turns."""
        ours, theirs = self.row.items_interval, self.first.items_interval
        return (ours[0] / theirs[1], ours[1] / theirs[0]) if ours and theirs else None

    @property
    def each_bytes(self) -> float | None:
        """What each instance more than the first number takes."""
        ours, theirs = self.row.rss_peak_bytes, self.first.rss_peak_bytes
        more = self.row.cell.instances - self.first.cell.instances
        return (ours - theirs) / more if more and ours is not None and theirs is not None else None


def families(rows: Sequence[Row]) -> list[list[Row]]:
    """Rows that differ in instances, and in the threads of each, alone: where there are several.

    Of each number of instances the one whose threads give most: what threads gain is not theirs.
    """
    found: dict[tuple, dict[int, Row]] = {}
    for row in rows:
        if row.items_per_s is not None:
            mine = found.setdefault((row.env_id, alike(row.cell, "instances", "threads")), {})
            best = mine.get(row.cell.instances)
            if best is None or row.items_per_s > (best.items_per_s or 0.0):
                mine[row.cell.instances] = row
    return [[mine[count] for count in sorted(mine)] for mine in found.values() if len(mine) > 1]


def beside(rows: Sequence[Row]) -> list[Beside]:
    """Every number of instances of each family; see `families`.

    A number pays where it gives more than each smaller one by RESOLVABLE_GAP at least.
    """
    found = []
    for mine in families(rows):
        most = 0.0
        for row in mine:
            rate = row.items_per_s or 0.0
            pays = rate > most * (1 + RESOLVABLE_GAP)
            most = max(most, rate)
            found.append(Beside(row, mine[0], pays))
    return found


def instances_table(rows: Sequence[Row], labels: dict[str, str]) -> Table | None:
    """Throughput and memory over the number of instances; None where only one was measured."""
    found = beside(rows)
    if not found:
        return None

    def of(record: Beside) -> Row:
        return record.row

    names = ("Device", "Streams", "Scenario", "Tower", "Tokens", "Batch", "Runtime")
    columns: list[Column[Beside]] = [
        *who_columns(labels, of),
        *cell_columns(names, found, of),
        Column("Instances", lambda b: b.row.cell.instances, key=True),
        Column("Threads each", lambda b: b.row.cell.threads, fold="constant", phrase="{} threads"),
        Column("Items/s", lambda b: Value(b.row.items_per_s, "rate", b.row.items_interval)),
        Column("Over the first", lambda b: Value(b.ratio, "ratio", b.ratio_interval)),
        Column("p50 ms", lambda b: b.row.p50_s, "ms"),
        Column("RAM, all", lambda b: b.row.rss_peak_bytes, "size"),
        Column("Each more", _each, "size", "empty"),
        Column("VRAM, all", lambda b: b.row.vram_peak_bytes, "size", "empty"),
        Column("Pays", lambda b: "yes" if b.pays else "no", "words"),
    ]
    caveats = [
        "Instances are processes that run at the same time; RAM is the sum of their peaks, pages "
        "that they share counted once. The first row of each is compared with; they were not "
        "measured in turns.",
        "Of each number of instances the threads with the highest throughput are here.",
        f"More instances pay where they give over {units.percent(RESOLVABLE_GAP, 0)} % more than "
        f"every smaller number did.",
    ]
    return tabulate("Instances", columns, found, instances_findings(rows, labels), caveats)


def _each(record: Beside) -> int | None:
    return None if record.each_bytes is None else round(record.each_bytes)


def instances_findings(rows: Sequence[Row], labels: dict[str, str]) -> list[str]:
    """In words, where more instances stop paying."""
    found: dict[tuple, list[Beside]] = {}
    for each in beside(rows):
        key = (each.row.env_id, alike(each.row.cell, "instances", "threads"))
        found.setdefault(key, []).append(each)
    told, cells = [], [mine[0].row.cell for mine in found.values()]
    for (env_id, _), mine in found.items():
        best = [each for each in mine if each.pays][-1]
        cell, first = best.row.cell, mine[0].row.cell
        where = f"{cell.model_id} {cell.side}, {cell.setup}, batch {cell.batch}"
        where += apart(first, cells, "tokens", "device", "streams")
        where += f" ({labels[env_id]})" if len(labels) > 1 else ""
        rate = f"{units.rate(best.row.items_per_s)} {ITEMS[cell.side]}"
        if best is mine[0]:
            count = f"{first.instances} instance{'s' if first.instances > 1 else ''}"
            told.append(f"{where}: more than {count} ({rate}) do not pay.")
            continue
        gain = units.ratio(best.ratio)
        shaky = any(each.stable is False for each in (best.row, mine[0].row))
        doubt = " One of these rows is unstable." if shaky else ""
        end = ", the most that were measured" if best is mine[-1] else "; more do not pay"
        told.append(
            f"{where}: {cell.instances} instances of {cell.threads} threads give {rate}, {gain} "
            f"what {first.instances} of {first.threads} does{end}.{doubt}"
        )
    return told
