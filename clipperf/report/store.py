"""What lies in the store, whether it is whole and what may go, as tables."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from clipperf import units
from clipperf.report.columns import Column, tabulate
from clipperf.report.table import Table, Value, plain_table
from clipperf.system.housekeeping.contents import TITLES
from clipperf.system.housekeeping.plan import Plan
from clipperf.system.housekeeping.removal import Removed
from clipperf.system.housekeeping.usage import Size, Used
from clipperf.system.housekeeping.verify import Verified, kinds_of
from clipperf.text import one_line

DISK = (
    "Size: bytes of the files. Disk: the blocks that they take. What has several names, as towers "
    "do that are linked, counts once."
)
SHARED = "Elsewhere, too: blocks that stay when the store goes, as files outside share them."

Row = tuple[str, int, Size]


def usage_tables(found: Sequence[Used], root: Path) -> tuple[Table, ...]:
    """What the store takes: by kind, then each artifact, the largest first."""
    kinds = [
        (title, len(sizes), _sum(sizes))
        for kind, title in TITLES.items()
        if (sizes := [each.size for each in found if each.entry.kind == kind])
    ]
    kinds.sort(key=lambda row: -row[2].disk)
    total = _sum([each.size for each in found])
    columns: list[Column[Row]] = [
        Column("kind", lambda row: row[0], "words", key=True),
        Column("things", lambda row: row[1]),
        Column("files", lambda row: row[2].files),
        Column("size", lambda row: row[2].apparent, "size"),
        Column("disk", lambda row: row[2].disk, "size"),
        Column("elsewhere, too", lambda row: row[2].shared or None, "size", fold="empty"),
    ]
    title = f"{one_line(str(root))}: {units.size(total.disk)} on the disk"
    caveats = [DISK, *([SHARED] if total.shared else [])]
    tables = [tabulate(title, columns, kinds, caveats=caveats)]
    artifacts = [each for each in found if each.entry.kind == "artifact"]
    if artifacts:
        tables.append(_artifacts(artifacts))
    return tuple(tables)


def _artifacts(found: Sequence[Used]) -> Table:
    totals: dict[str, int] = {}
    for each in found:
        model = each.entry.model or ""
        totals[model] = totals.get(model, 0) + each.size.disk
    order = sorted(found, key=lambda e: (-totals[e.entry.model or ""], e.entry.model or ""))
    columns: list[Column[Used]] = [
        Column("model", lambda e: e.entry.model, "words", key=True, group=True),
        Column("runtime and precision", lambda e: e.entry.setup, "words", key=True),
        Column("towers", _towers, "words"),
        Column("exported", _created, "words"),
        Column("size", lambda e: e.size.apparent, "size"),
        Column("disk", lambda e: e.size.disk, "size"),
    ]
    return tabulate("Artifacts", columns, order)


def _towers(each: Used) -> str | None:
    made = each.entry.manifest
    return None if made is None else ", ".join(tower.side for tower in made.towers)


def _created(each: Used) -> str | None:
    made = each.entry.manifest
    return "cannot be opened" if made is None else made.created_utc[:10]


def _sum(sizes: Sequence[Size]) -> Size:
    return sum(sizes, start=Size())


def usage_json(found: Sequence[Used], root: Path) -> dict[str, Any]:
    """The same as plain values, in bytes."""
    kinds: dict[str, Size] = {}
    for each in found:
        kinds[each.entry.kind] = kinds.get(each.entry.kind, Size()) + each.size
    return {
        "store": str(root),
        **_bytes(_sum([each.size for each in found])),
        "kinds": {kind: _bytes(size) for kind, size in sorted(kinds.items())},
        "entries": [
            {
                "path": str(each.entry.path),
                "kind": each.entry.kind,
                "model": each.entry.model,
                "runtime": each.entry.manifest.runtime if each.entry.manifest else None,
                "precision": each.entry.manifest.precision if each.entry.manifest else None,
                **_bytes(each.size),
            }
            for each in found
        ],
    }


def _bytes(size: Size) -> dict[str, int]:
    return {
        "apparent_bytes": size.apparent,
        "disk_bytes": size.disk,
        "shared_bytes": size.shared,
        "files": size.files,
    }


def verified_table(found: Verified, root: Path) -> Table:
    """What was checked, and how much of it is damaged."""
    rows = [
        (title, str(n), units.size(read), str(bad) if bad else "-")
        for title, n, read, bad in kinds_of(found)
    ]
    names = ("kind", "checked", "read", "damaged")
    caveats = [f"not checked: {count} x {why}" for why, count in sorted(found.unchecked.items())]
    title = f"{one_line(str(root))}: {'damaged' if found.damaged else 'all of it is whole'}"
    return plain_table(title, names, rows, caveats, numeric=(False, True, True, True))


def damage_lines(found: Verified) -> list[str]:
    """What is damaged and the command that mends it, in lines that are whole, to be copied."""
    lines = []
    for each in found.damaged:
        lines += [f"damaged: {each.entry.path}", *(f"  {one_line(said)}" for said in each.problems)]
        lines.append(f"  mend it with: {each.fix}")
    return lines


def verified_json(found: Verified, root: Path) -> dict[str, Any]:
    """The same as plain values."""
    return {
        "store": str(root),
        "checked": dict(found.checked),
        "bytes_read": dict(found.bytes_read),
        "unchecked": dict(found.unchecked),
        "damaged": [
            {
                "path": str(each.entry.path),
                "kind": each.entry.kind,
                "problems": list(each.problems),
                "fix": each.fix,
            }
            for each in found.damaged
        ],
    }


def plan_table(found: Plan, root: Path) -> Table:
    """What would go, and why; what stays although it would go but for a reason."""
    rows = [
        (Value(_place(each.path, root)), Value(each.freed_bytes, "size"), Value(each.why))
        for each in found.removals
    ]
    size = units.size(found.freed_bytes)
    title = f"{one_line(str(root))}: {things(len(rows))} to remove, {size}"
    names = ("path", "frees", "why")
    empty = plain_table(title, names, [], _kept(found.kept), numeric=(False, True, False))
    return Table(empty.title, empty.columns, tuple(rows), (), empty.caveats)


def things(number: int) -> str:
    """So many things, in words."""
    return "1 thing" if number == 1 else f"{number} things"


def _place(path: Path, root: Path) -> str:
    """A path as it is seen from the store."""
    return str(path.relative_to(root)) if path.is_relative_to(root) else str(path)


def _kept(kept: Sequence[tuple[Path, str]]) -> list[str]:
    return [f"stays: {one_line(f'{path} ({why})')}" for path, why in kept]


def removed_lines(found: Removed) -> list[str]:
    """What came of it, in lines."""
    said = [f"removed {things(len(found.gone))}, {units.size(found.freed_bytes)}"]
    said += _kept(found.kept)
    return [*said, *(f"not removed: {path} ({why})" for path, why in found.failed)]


def plan_json(found: Plan, root: Path) -> dict[str, Any]:
    """The same as plain values."""
    return {
        "store": str(root),
        "freed_bytes": found.freed_bytes,
        "remove": [
            {
                "path": str(each.path),
                "kind": each.kind,
                "why": each.why,
                "freed_bytes": each.freed_bytes,
            }
            for each in found.removals
        ],
        "kept": _told(found.kept),
    }


def removed_json(found: Removed, root: Path) -> dict[str, Any]:
    """What came of it, as plain values."""
    return {
        "store": str(root),
        "freed_bytes": found.freed_bytes,
        "removed": [{"path": str(e.path), "kind": e.kind, "why": e.why} for e in found.gone],
        "kept": _told(found.kept),
        "failed": _told(found.failed),
    }


def _told(pairs: Sequence[tuple[Path, str]]) -> list[dict[str, str]]:
    return [{"path": str(path), "why": why} for path, why in pairs]
