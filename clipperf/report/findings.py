"""Plain sentences that the data back, and the warnings that belong beside them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from clipperf import units
from clipperf.nouns.result import ResultFile, Score
from clipperf.report.gpu import gpu_caveats
from clipperf.report.records import RESOLVABLE_GAP, Row, environments, finite, speed_ratio

KEPT_WITHIN = 0.01
"""Accuracy counts as kept where the whole paired interval lies above minus one point."""

ITEMS = {"image": "images/s", "text": "texts/s"}


def share_text(value: float | None, interval: tuple[float, float] | None = None) -> str:
    """`units.share`, with "-" for what is not a finite number."""
    return units.share(finite(value), interval)


def listed(words: Sequence[str]) -> str:
    """Words as prose: "a", "a and b", "a, b and c"."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


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
            c = row.cell
            key = (row.env_id, c.model_id, c.side, c.device, c.tokens, c.threads)
            races.setdefault((*key, c.batch), []).append(row)
    sentences: dict[tuple, list[tuple[int, float]]] = {}
    shaky: dict[tuple, bool] = defaultdict(bool)
    for key, rivals in races.items():
        if len(rivals) > 1:
            winners = leaders(rivals)
            engines = tuple(r.setup for r in winners)
            told = sentences.setdefault((*key[:-1], engines), [])
            told.append((key[-1], winners[0].items_per_s or 0.0))
            shaky[(*key[:-1], engines)] |= any(r.stable is False for r in rivals)
    found = []
    for verdict, told in sentences.items():
        env_id, model_id, side, device, tokens, _, engines = verdict
        doubt = " Some of these rows are unstable." if shaky[verdict] else ""
        where = f"{model_id}, {side} tower on {device}"
        where += f", {tokens} tokens" if tokens and _several(rows, "tokens") else ""
        where += f" ({labels[env_id]})" if len(labels) > 1 else ""
        batches = listed([str(batch) for batch, _ in told])
        rates = listed([units.rate(rate) for _, rate in told])
        plural = "batch" if len(told) == 1 else "batches"
        if len(engines) == 1:
            found.append(
                f"{where}: {engines[0]} is fastest at {plural} {batches} "
                f"({rates} {ITEMS.get(side, 'items/s')}).{doubt}"
            )
        else:
            found.append(
                f"{where}: no resolved difference between {listed(engines)} at {plural} "
                f"{batches} (the fastest median: {rates} {ITEMS.get(side, 'items/s')}).{doubt}"
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
    text += str(least.cell.batch)
    peers = [r for r in group if r.cell.batch == least.cell.batch and r.setup == "torch fp32"]
    if peers and least.setup != "torch fp32":
        text += f"; torch fp32 {units.size(peers[0].rss_peak_bytes)}"
    return text + ")"


# --- accuracy ------------------------------------------------------------------------------


def accuracy_verdict(score: Score) -> str:
    """What the paired difference to the baseline says, in one word or two."""
    if score.random_weights:
        return "RANDOM WEIGHTS"
    if finite(score.value) is None:
        return "not a number"
    if score.difference is None:
        return "baseline" if score.baseline_value is None else "not compared"
    interval = score.diff_ci95
    if interval is None:
        return "unresolved"
    if interval[0] > -KEPT_WITHIN:
        return "kept"
    return "lost" if interval[1] < 0 else "unresolved"


def accuracy_findings(scores: Sequence[Score], labels: dict[str, str]) -> list[str]:
    """Whether each runtime keeps the baseline's accuracy; silent about random weights."""
    groups: dict[tuple, list[Score]] = {}
    for s in scores:
        if s.difference is not None and accuracy_verdict(s) in ("kept", "lost", "unresolved"):
            c = s.cell
            key = (s.env_id, c.model_id, c.device, c.setup)
            groups.setdefault(key, []).append(s)
    found = []
    for (env_id, model_id, device, engine), group in groups.items():
        where = f"{model_id} on {device}" + (f" ({labels[env_id]})" if len(labels) > 1 else "")
        found.append(f"{where}: {engine} {_accuracy_sentence(group)}")
    return found


def _accuracy_sentence(group: Sequence[Score]) -> str:
    """One runtime's verdicts over all datasets and metrics, with the worst of them."""
    verdicts = [accuracy_verdict(s) for s in group]
    lost, unsure = verdicts.count("lost"), verdicts.count("unresolved")
    kept = units.points(KEPT_WITHIN).lstrip("+")
    told = [s for s, v in zip(group, verdicts, strict=True) if not lost or v == "lost"]
    worst = min(told, key=lambda s: s.difference or 0.0)
    figures = (
        f"{worst.dataset}, {worst.metric}: {units.points(worst.difference, worst.diff_ci95)} "
        f"points over {worst.n} samples"
    )
    if lost:
        return f"loses accuracy in {lost} of {_count(group)} (worst {figures})."
    if unsure:
        return (
            f"may or may not keep the accuracy within {kept} point: {unsure} of {_count(group)} "
            f"cannot tell (worst {figures})."
        )
    return f"keeps the accuracy within {kept} point in {_count(group)} (worst {figures})."


def _count(group: Sequence[Score]) -> str:
    return "1 score" if len(group) == 1 else f"{len(group)} scores"


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
    few = [r for r in rows if 0 < r.samples < 6]
    if few:
        found.append(f"{len(few)} rows have fewer than 6 calls: no interval can be given.")
    if any(r.items_per_s is not None for r in rows):
        gap = units.share(RESOLVABLE_GAP).replace(".0", "")
        found.append(f"Speed differences under {gap} are not resolved and not called.")
    known = environments(results)
    if len({r.env_id for r in rows}) > 1:
        found.append(
            f"Mixed environments ({listed([label for label, _ in known.values()])}): rows of "
            f"different environments are not comparable; no ratio crosses them."
        )
    unpaired = [
        r
        for r in rows
        if r.items_per_s is not None and r.ratio is None and r.cell.runtime != "torch"
    ]
    if unpaired:
        found.append(
            f"{len(unpaired)} timed rows have no ratio: PyTorch did not take turns with them in "
            f"the same run."
        )
    other = sorted({r.ratio_baseline for r in rows if r.ratio_baseline} - {"torch fp32"})
    if other:
        found.append(f"Some ratios are over {listed(other)}: torch fp32 was not in that run.")
    found += gpu_caveats(rows, {env_id: label for env_id, (label, _) in known.items()})
    several = len(known) > 1
    for r in rows:
        where = f"{known[r.env_id][0]} {r.cell.label}" if several else r.cell.label
        found += [f"{where}: {problem}" for problem in r.problems]
    return found
