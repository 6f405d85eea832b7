"""What to run, in a sentence: of all that was measured the fastest that keeps its accuracy."""

from __future__ import annotations

from collections.abc import Sequence

from clipperf import units
from clipperf.evals.verdicts import Verdict, margin_of, verdict_of
from clipperf.nouns.result import Score
from clipperf.nouns.variant import SIDES
from clipperf.report.accuracy import judged
from clipperf.report.columns import model_name
from clipperf.report.findings import ITEMS
from clipperf.report.pairs import full_precision
from clipperf.report.records import Row
from clipperf.report.words import driven, listed

KEPT = frozenset((Verdict.EQUIVALENT, Verdict.BASELINE))


def recommended(
    rows: Sequence[Row], scores: Sequence[Score], labels: dict[str, str]
) -> tuple[str, ...]:
    """A sentence for each model on each machine; see `clipperf size` for one with targets.

    Only scores of the same machine count: other processors round otherwise. What runs in full
    precision keeps PyTorch's accuracy where no score says that it is worse, anything else where
    all of its scores on that model are equivalent to PyTorch's within their margin. Of texts the
    longest count.
    """
    found = []
    for env_id, model_id in dict.fromkeys((r.env_id, r.cell.model_id) for r in rows):
        here = (env_id, model_id)
        every = [r for r in rows if (r.env_id, r.cell.model_id) == here and r.items_per_s]
        longest = {side: max(_lengths(every, side), default=0) for side in SIDES}
        mine = [row for row in every if (row.cell.tokens or 0) == longest[row.cell.side]]
        own = [s for s in scores if (s.env_id, s.cell.model_id) == here and s.aim == "high"]
        chosen = [best for side in SIDES if (best := _best(mine, own, side)) is not None]
        if chosen:
            where = f" on {labels[env_id]}" if len(labels) > 1 else ""
            towers = listed([_tower(row, every) for row in chosen])
            name = model_name(model_id, chosen[0].random_weights).text
            subject = "It is" if len(chosen) == 1 else "They are"
            why = f"{subject} {_why(chosen, mine, own)}."
            found.append(f"Recommended for {name}{where}: {towers}. {why}")
    return tuple(found)


def _best(rows: Sequence[Row], scores: Sequence[Score], side: str) -> Row | None:
    known = [row for row in rows if row.cell.side == side and _keeps(row, scores)]
    return max(known, key=lambda row: row.items_per_s or 0.0, default=None)


def _keeps(row: Row, scores: Sequence[Score]) -> bool:
    """Whether its accuracy is known to be PyTorch's, within the margin."""
    verdicts = {verdict_of(s) for s in scores if judged(s.cell) == judged(row.cell)}
    if full_precision(row.cell):
        return Verdict.WORSE not in verdicts
    return bool(verdicts) and verdicts <= KEPT


def _lengths(rows: Sequence[Row], side: str) -> set[int]:
    """The tokens of a tower's inputs; 0 of images."""
    return {row.cell.tokens or 0 for row in rows if row.cell.side == side}


def _tower(row: Row, rows: Sequence[Row]) -> str:
    """What to run one tower in; the device and the length of texts where `rows` have several."""
    cell = row.cell
    ratio = "" if row.ratio is None else f", {units.ratio(row.ratio)} PyTorch"
    several = len({r.cell.device for r in rows if r.cell.side == cell.side}) > 1
    device = f" on {cell.device}" if several else ""
    tokens = f" of {cell.tokens} tokens" if len(_lengths(rows, cell.side)) > 1 else ""
    return (
        f"{cell.side}s{tokens} in {cell.setup}{device} at batch {cell.batch}{driven(cell)} "
        f"({units.rate(row.items_per_s)} {ITEMS[cell.side]}{ratio})"
    )


def _why(chosen: Sequence[Row], rows: Sequence[Row], scores: Sequence[Score]) -> str:
    """What the choice rests on, and what would have been faster."""
    kept = {judged(row.cell) for row in chosen if not full_precision(row.cell)}
    shown = [s for s in scores if judged(s.cell) in kept]
    if shown:
        margin = max(map(margin_of, shown))
        on = listed(list(dict.fromkeys(f"{s.dataset} {s.metric}" for s in shown[:1])))
        said = f"the fastest that lost less than {100 * margin:g} points against PyTorch ({on}"
        more = len({(s.dataset, s.metric) for s in shown}) - 1
        said += f" and {more} more)" if more else ")"
    else:
        said = "the fastest in full precision"
    passed_over = dict.fromkeys(
        row.setup
        for best in chosen
        for row in rows
        if row.cell.side == best.cell.side
        and (row.items_per_s or 0.0) > (best.items_per_s or 0.0)
        and not _keeps(row, scores)
    )
    if passed_over:
        verb = "is" if len(passed_over) == 1 else "are"
        said += f"; {listed(list(passed_over))} {verb} faster, and not known to keep its accuracy"
    return said
