"""The goals of clipperf on CPUs, by the kind of processor, and how far a run of `peers.py` came."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from peers_candidates import EAGER, OPEN_CLIP, PYTORCH, WORKS, Work
from peers_rows import Row, fastest, limit_share, ratio, rows_of

from clipperf import units
from clipperf.report.table import Table, plain_table

RAM_ALLOWANCE_BYTES = 150e6
OURS = "clipperf "

IMAGES = tuple(f"images, batch {b}" for b in (1, 8, 32))
JPEGS = tuple(f"JPEG to embedding, batch {b}" for b in (1, 8, 32))
SHORT = tuple(f"texts of 8 tokens, batch {b}" for b in (1, 64))
EVERY = tuple(work.name for work in WORKS if work.kind != "tokenise")

Numbers = tuple[float, ...]


@dataclass(frozen=True)
class Goal:
    """What clipperf's fastest within the gate is to reach in some workloads.

    `least` has a number for each of `works`, by the kind of processor. `over` are the candidates
    whose fastest it is compared with; None for every peer but PyTorch itself, and () for the limit
    of its own arithmetic. `pixels` is how it may make them of JPEG files.
    """

    title: str
    works: tuple[str, ...]
    least: dict[str, Numbers]
    over: tuple[str, ...] | None
    pixels: str = "exact"


def by_kind(amx: Numbers, vnni: Numbers, avx2: Numbers) -> dict[str, Numbers]:
    """Numbers under the names that `processor.kind` gives."""
    return {"AMX": amx, "VNNI": vnni, "AVX2": avx2}


GOALS = (
    Goal(
        f"images over {EAGER}", IMAGES, by_kind((7, 8, 10), (4.5,) * 3, (3.5, 2.7, 2.5)), (EAGER,)
    ),
    Goal(
        "images over PyTorch's best (bf16, compiled)",
        IMAGES,
        by_kind((2,) * 3, (3.5,) * 3, (2.5,) * 3),
        PYTORCH,
    ),
    Goal(
        "images, share of the limit of the arithmetic used",
        IMAGES[-1:],
        by_kind((0.60,), (0.75,), (0.85,)),
        (),
    ),
    Goal(f"texts of 8 tokens over {EAGER}", SHORT, by_kind((25, 80), (20, 40), (18, 32)), (EAGER,)),
    Goal(f"captions over {EAGER}", ("captions, batch 64",), by_kind((30,), (18,), (15,)), (EAGER,)),
    Goal(
        f"JPEG to embedding over {OPEN_CLIP}, exact",
        JPEGS,
        by_kind((4,) * 3, (3,) * 3, (3,) * 3),
        (OPEN_CLIP,),
    ),
    Goal(
        f"JPEG to embedding over {OPEN_CLIP}, draft",
        JPEGS,
        by_kind((6,) * 3, (4,) * 3, (3.5,) * 3),
        (OPEN_CLIP,),
        "draft",
    ),
    Goal(
        "over every other peer's best",
        EVERY,
        by_kind((1.5,) * len(EVERY), (1.5,) * len(EVERY), (1.3,) * len(EVERY)),
        None,
    ),
)


def goals(data: dict[str, Any]) -> Table:
    """Each goal of this kind of processor, what was measured, and by how much it is missed."""
    rows: list[tuple[str, ...]] = []
    for goal in GOALS if data["kind"] is not None else ():
        for name, least in zip(goal.works, goal.least[data["kind"]], strict=True):
            work = next(work for work in WORKS if work.name == name)
            if rows_of(data, name):
                rows.append((goal.title, name, *goal_row(data, goal, work, least)))
    rows += [_ram_goal(row) for row in data["memory"] if row.get("weight_bytes") is not None]
    columns = ("goal", "workload", "wanted", "measured [95 %]", "verdict", "who over whom")
    of = f"of a processor with {data['kind']}"
    notes = (
        of if data["kind"] is not None else "no goals are set for this kind of processor",
        "clipperf's is the fastest whose tower passed the gate of its export; at batch 1 without "
        "streams, since one input is to be ready soon, not several at once",
        "exact: the pixels of JPEG files are those of the reference, also over every other peer",
    )
    return plain_table("Goals", columns, tuple(rows), notes)


def goal_row(data: dict[str, Any], goal: Goal, work: Work, least: float) -> tuple[str, ...]:
    """Wanted, measured, verdict, who over whom."""
    found = rows_of(data, work.name)
    best = fastest(row for name, row in found.items() if _counts(data, goal, work, name))
    if goal.over == ():
        wanted = f"{100 * least:g} %"
        share = None if best is None else limit_share(data, work, best)
        if best is None or share is None:
            return wanted, "-", "not measured", "-"
        of = f"{best['candidate']} / {data['arithmetic'][best['candidate']]} limit"
        return wanted, units.share(share), _verdict(share, least), of
    rival = fastest(row for name, row in found.items() if _is_rival(goal, name))
    over, interval = ratio(best, rival)
    wanted = f"{least:g}x"
    if best is None or rival is None or over is None:
        return wanted, "-", "not measured", "-"
    who = f"{best['candidate']} / {rival['candidate']}"
    return wanted, units.ratio(over, interval), _verdict(over, least), who


def _counts(data: dict[str, Any], goal: Goal, work: Work, name: str) -> bool:
    """Whether a candidate is one of clipperf's that may reach the goal."""
    return (
        name.startswith(OURS)
        and data["gate"].get(name, {}).get(work.side, False)
        and data["pixels"][name] == goal.pixels
        and (work.batch > 1 or "streams" not in name)
    )


def _is_rival(goal: Goal, name: str) -> bool:
    if goal.over is None:
        return not name.startswith(OURS) and name not in PYTORCH
    return name in goal.over


def _verdict(found: float, least: float) -> str:
    return "met" if found >= least else f"missed by {units.share(1 - found / least)}"


def _ram_goal(row: Row) -> tuple[str, ...]:
    over = max(row["rss_load_bytes"] or 0, row["rss_run_bytes"] or 0) - row["weight_bytes"]
    short = over - RAM_ALLOWANCE_BYTES
    verdict = "met" if short <= 0 else f"missed by {short / 1e6:.0f} MB"
    name = f"{row['candidate']}, {row['side']}"
    wanted = f"+{RAM_ALLOWANCE_BYTES / 1e6:.0f} MB"
    return ("peak RAM over weights", name, wanted, f"+{over / 1e6:.0f} MB", verdict, "-")
