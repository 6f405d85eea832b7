"""What A and B were not measured alike in: machines, versions, threads, weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

from clipperf import units
from clipperf.nouns.result import Environment, ResultFile, Score
from clipperf.report.compare.match import Matched
from clipperf.report.pairs import alike
from clipperf.report.records import Row, environments
from clipperf.report.words import listed

FACTS = {
    "cpu": "processor",
    "cores": "cores",
    "ram_bytes": "RAM",
    "gpu": "GPU",
    "vram_bytes": "VRAM",
    "driver": "driver",
    "os": "system",
    "python": "Python",
}
HARDWARE = ("cpu", "cores", "gpu")


def warnings(
    a: Sequence[ResultFile],
    b: Sequence[ResultFile],
    rows: Matched[Row],
    scores: Matched[Score],
) -> list[str]:
    """What a reader must know before the ratios, a sentence each."""
    known_a, known_b = environments(a), environments(b)
    met = dict.fromkeys((p.a.env_id, p.b.env_id) for p in rows.pairs)
    met |= dict.fromkeys((p.a.env_id, p.b.env_id) for p in scores.pairs)
    found: dict[str, None] = {}
    for id_a, id_b in met:
        if id_a != id_b:
            lines = between(known_a[id_a][1], known_b[id_b][1])
            found |= dict.fromkeys(lines)
    said = [*found, *_threads(rows), *_weights(a, b)]
    crowded = rows.crowded + scores.crowded
    if crowded:
        rows_were = "1 row was" if crowded == 1 else f"{crowded} rows were"
        said.append(
            f"{rows_were} measured on several machines: of each the newest that A and B "
            "have both is compared, else the newest of each."
        )
    return said


def between(a: Environment | None, b: Environment | None) -> list[str]:
    """In what two machines differ."""
    if a is None or b is None:
        return ["A machine is not described in these files: it may be another one."]
    changed = [name for name in FACTS if _shown(a, name) != _shown(b, name)]
    found = []
    hardware = [name for name in changed if name in HARDWARE]
    if hardware:
        told = "; ".join(_change(a, b, name) for name in hardware)
        found.append(f"Another machine ({told}): ratios compare the machines, too.")
    others = [_change(a, b, name) for name in changed if name not in HARDWARE]
    found += [f"Other {', '.join(others)}."] if others else []
    packages = sorted({*a.versions, *b.versions})
    moved = [
        f"{name} {a.versions.get(name, 'none')} in A, {b.versions.get(name, 'none')} in B"
        for name in packages
        if a.versions.get(name) != b.versions.get(name)
    ]
    found += [f"Other versions: {'; '.join(moved)}."] if moved else []
    if a.git_sha != b.git_sha:
        source = [env.git_sha or "an installed package" for env in (a, b)]
        found.append(f"Other source of clipperf: {source[0]} in A, {source[1]} in B.")
    return found


def _shown(env: Environment, name: str) -> str:
    value = getattr(env, name)
    if name.endswith("_bytes"):
        return units.size(value)
    return "none" if value is None else str(value)


def _change(a: Environment, b: Environment, name: str) -> str:
    return f"{FACTS[name]} {_shown(a, name)} in A, {_shown(b, name)} in B"


def _threads(rows: Matched[Row]) -> list[str]:
    """Rows that would be the same, were it not for the number of threads."""
    ours = {alike(row.cell, "threads"): row.cell.threads for row in rows.only_a}
    theirs = {alike(row.cell, "threads"): row.cell.threads for row in rows.only_b}
    both = [key for key in theirs if key in ours]
    if not both:
        return []
    counts = [listed(_counts(side[key] for key in both)) for side in (ours, theirs)]
    return [
        f"Other threads: {counts[0]} in A, {counts[1]} in B, so {len(both)} of A's rows are "
        "not compared: measure both with the same --threads."
    ]


def _counts(numbers: Iterable[int]) -> list[str]:
    return [str(number) for number in sorted(set(numbers))]


def _weights(a: Sequence[ResultFile], b: Sequence[ResultFile]) -> list[str]:
    """Models of one name that are described otherwise."""
    ours = {spec.id: spec for result in a for spec in result.specs}
    theirs = {spec.id: spec for result in b for spec in result.specs}
    found = []
    for name in ours.keys() & theirs.keys():
        first, second = ours[name], theirs[name]
        fields = [f.name for f in dataclasses.fields(first) if f.name not in ("source", "licence")]
        changed = [f for f in fields if getattr(first, f) != getattr(second, f)]
        if changed:
            told = "; ".join(
                f"{f} {getattr(first, f)} in A, {getattr(second, f)} in B" for f in changed
            )
            found.append(f"Another model of the name {name}: {told}.")
    return sorted(found)
