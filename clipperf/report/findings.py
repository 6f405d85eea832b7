"""Plain sentences that the data back, and the warnings that belong beside them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from clipperf import units
from clipperf.nouns.result import NOISY, ResultFile
from clipperf.nouns.variant import BASELINE_RUNTIME
from clipperf.report.gpu import gpu_caveats
from clipperf.report.pairs import SETUP, alike, is_baseline
from clipperf.report.records import RESOLVABLE_GAP, Row, labels_of, speed_ratio
from clipperf.report.words import driven, listed, row_name

ITEMS = {"image": "images/s", "text": "texts/s"}


# --- speed ---------------------------------------------------------------------------------


def speed_findings(rows: Sequence[Row], labels: dict[str, str]) -> list[str]:
    """Who is fastest on each tower at each batch, where the difference is resolved.

    Batches with the same verdict share a sentence. A lead is called only where the paired
    interval against every rival excludes 1 (or, without pairs, the intervals of the medians do
    not meet) and it is at least RESOLVABLE_GAP.
    """
    races: dict[tuple, list[Row]] = {}
    for row in rows:
        if row.items_per_s is not None:
            races.setdefault((row.env_id, alike(row.cell, *SETUP)), []).append(row)
    sentences: dict[tuple, list[tuple[Row, bool]]] = {}
    for rivals in races.values():
        if len(rivals) > 1:
            winners = leaders(rivals)
            setups = tuple(r.setup for r in winners)
            key = (winners[0].env_id, alike(winners[0].cell, *SETUP, "batch"), setups)
            unstable = any(r.stable is False for r in rivals)
            sentences.setdefault(key, []).append((winners[0], unstable))
    told_apart = [name for name in ("tokens", "threads") if _several(rows, name)]
    found = []
    for (env_id, _, setups), told in sentences.items():
        cell = told[0][0].cell
        doubt = " Some of these rows are unstable." if any(shaky for _, shaky in told) else ""
        where = f"{cell.model_id}, {cell.side} tower on {cell.device}"
        counts = [(getattr(cell, name), name) for name in told_apart]
        where += "".join(f", {count} {name}" for count, name in counts if count)
        where += driven(cell)
        where += f" ({labels[env_id]})" if len(labels) > 1 else ""
        batches = listed([str(row.cell.batch) for row, _ in told])
        rates = listed([units.rate(row.items_per_s) for row, _ in told])
        plural = "batch" if len(told) == 1 else "batches"
        if len(setups) == 1:
            found.append(
                f"{where}: {setups[0]} is fastest at {plural} {batches} "
                f"({rates} {ITEMS[cell.side]}).{doubt}"
            )
        else:
            found.append(
                f"{where}: no resolved difference between {listed(setups)} at {plural} "
                f"{batches} (the fastest median: {rates} {ITEMS[cell.side]}).{doubt}"
            )
    return found


def _several(rows: Sequence[Row], name: str) -> bool:
    return len({getattr(r.cell, name) for r in rows} - {None}) > 1


def leaders(rivals: Sequence[Row]) -> list[Row]:
    """The fastest row and those that it does not beat with a resolved difference, fastest first."""
    ranked = sorted(rivals, key=lambda r: -(r.items_per_s or 0.0))
    best = ranked[0]
    return [best, *(r for r in ranked[1:] if not clearly_faster(best, r))]


def clearly_faster(ours: Row, theirs: Row) -> bool:
    """Whether the lead of one row over another is resolved: paired where they took turns."""
    pair = speed_ratio(ours, theirs)
    if pair is not None:
        ratio, interval = pair
        return interval is not None and interval[0] > 1 and ratio >= 1 + RESOLVABLE_GAP
    if ours.items_interval is None or theirs.items_interval is None:
        return False
    if ours.items_per_s is None or theirs.items_per_s is None:
        return False
    separate = ours.items_interval[0] > theirs.items_interval[1]
    return separate and ours.items_per_s >= theirs.items_per_s * (1 + RESOLVABLE_GAP)


# --- memory --------------------------------------------------------------------------------


def memory_findings(rows: Sequence[Row], labels: dict[str, str]) -> list[str]:
    """The smallest peak RAM of each model's towers on a device, beside PyTorch at that batch."""
    groups: dict[tuple[str, str, str], dict[str, list[Row]]] = {}
    for row in rows:
        if row.rss_peak_bytes is not None:
            key = (row.env_id, row.cell.model_id, row.cell.device)
            groups.setdefault(key, {}).setdefault(row.cell.side, []).append(row)
    found = []
    for (env_id, model_id, device), sides in groups.items():
        parts = [_least_memory(side, group) for side, group in sides.items() if _rivals(group)]
        if parts:
            where = f" ({labels[env_id]})" if len(labels) > 1 else ""
            found.append(f"{model_id} on {device}{where}, least peak RAM: {'; '.join(parts)}.")
    return found


def _rivals(group: Sequence[Row]) -> bool:
    return len({r.setup for r in group}) > 1


def _least_memory(side: str, group: Sequence[Row]) -> str:
    least = min(group, key=lambda r: (r.rss_peak_bytes or 0, r.cell.batch, r.setup))
    text = f"{side} tower {units.size(least.rss_peak_bytes)} ({least.setup}, batch "
    text += f"{least.cell.batch}{driven(least.cell)}"
    rivals = [r for r in group if alike(r.cell, *SETUP) == alike(least.cell, *SETUP)]
    peers = [r for r in rivals if is_baseline(r.cell)]
    if peers and not is_baseline(least.cell):
        text += f"; {peers[0].setup} {units.size(peers[0].rss_peak_bytes)}"
    return text + ")"


# --- caveats -------------------------------------------------------------------------------


def cost_caveats(results: Sequence[ResultFile], rows: Sequence[Row]) -> list[str]:
    """What a reader of the cost figures must know before acting on them."""
    found = []
    random_models = sorted({r.cell.model_id for r in rows if r.random_weights})
    if random_models:
        found.append(
            f"Random weights: {listed(random_models)}. Cost and size are those of trained weights; "
            f"accuracy would mean nothing."
        )
    unstable = [r for r in rows if r.stable is False]
    if unstable:
        found.append(
            f"Unstable: the median's interval stayed wide in {len(unstable)} of {len(rows)} rows "
            f"(marked). Repeat them on a quieter machine."
        )
    shaky = [r for r in rows if r.baseline_stable is False]
    if shaky:
        found.append(
            f"Ratios over an unstable row of PyTorch: {len(shaky)} (marked); they are as doubtful."
        )
    noted = Counter(n for r in results if r.measurements for n in r.notes if n.endswith(NOISY))
    for note, count in noted.items():
        found.append(f"Noted while it was measured: {note}{f' ({count} times)' * (count > 1)}.")
    few = [r for r in rows if 0 < r.samples < 6]
    if few:
        found.append(f"Fewer than 6 calls in {len(few)} of the rows: no interval can be given.")
    if any(r.items_per_s is not None for r in rows):
        gap = f"{units.percent(RESOLVABLE_GAP, 0)} %"
        found.append(f"Speed differences under {gap} are not resolved and not called.")
    labels = labels_of(results)
    if len({r.env_id for r in rows}) > 1:
        found.append(
            f"Mixed environments ({listed(list(labels.values()))}): rows of "
            f"different environments are not comparable; no ratio crosses them."
        )
    unpaired = [
        r
        for r in rows
        if r.items_per_s is not None and r.ratio is None and r.cell.runtime != BASELINE_RUNTIME
    ]
    if unpaired:
        found.append(
            f"{len(unpaired)} timed rows have no ratio: PyTorch did not take turns with them in "
            f"the same run."
        )
    baselines = {r.ratio_baseline for r in rows if r.ratio_baseline is not None}
    other = sorted({cell.setup for cell in baselines if not is_baseline(cell)})
    if other:
        found.append(f"Some ratios are over {listed(other)}: torch fp32 was not in that run.")
    found += gpu_caveats(rows, labels)
    found += [f"{row_name(r, labels)}: {problem}" for r in rows for problem in r.problems]
    return found
