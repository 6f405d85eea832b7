"""What `clipperf overlap` prints."""

from __future__ import annotations

from clipperf import units
from clipperf.evals.overlap import LEVEL, Looked, Share
from clipperf.report.table import Table, plain_table

MOST_PAIRS = 20
"""Pairs that are named; JSON has all."""


def overlap_table(found: Looked) -> Table:
    """All, Overlap and Clean, with their accuracies where a model was asked."""
    overlapping = len(found.pairs)
    counts = {"All": found.n, "Overlap": overlapping, "Clean": found.n - overlapping}
    rows = [[name, str(n), units.share(n / found.n)] for name, n in counts.items()]
    names = ["", "images", "share"]
    caveats = [f"{own} is near {other}" for own, other, _ in found.pairs[:MOST_PAIRS]]
    if overlapping > MOST_PAIRS:
        caveats.append(f"and {overlapping - MOST_PAIRS} more: --json lists all")
    if found.accuracy is not None:
        names += ["zero-shot top-1", f"{100 * LEVEL:g} % interval"]
        parts = (found.accuracy.all, found.accuracy.overlap, found.accuracy.clean)
        rows = [[*row, *_accuracy(part)] for row, part in zip(rows, parts, strict=True)]
        gained, p = found.accuracy.gained, found.accuracy.p
        if gained is not None and p is not None:
            caveats.insert(
                0,
                f"All minus Clean: {units.points(gained)} points; p {units.significant(p, 2)} that "
                "the overlap is no easier (one-sided binomial; of several sets, divide 5 % by "
                "their number).",
            )
    caveats += found.notes
    numeric = [False, *[True] * (len(names) - 1)]
    return plain_table("Overlap", names, rows, caveats, numeric=numeric)


def _accuracy(share: Share) -> list[str]:
    if share.accuracy is None or share.interval is None:
        return [units.NOT_MEASURED] * 2
    low, high = share.interval
    return [units.share(share.accuracy), f"{units.percent(low)} to {units.percent(high)}"]
