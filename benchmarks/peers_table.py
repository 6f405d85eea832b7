"""Tables out of what `peers.py` measured. Pure: raw figures in, `Table`s out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from peers_candidates import EAGER, OPEN_CLIP, WORKS, Work
from roofline import bound_s, peaks

from clipperf import stats, units
from clipperf.report.table import Table, plain_table

RAM_ALLOWANCE_BYTES = 150e6
OPTIMUM = "optimum-onnx"
OURS = "clipperf"

GOALS = (
    ("images over PyTorch eager", "images", EAGER, 3.5),
    ("texts of 8 tokens over PyTorch eager", "texts of 8 tokens, batch 1", EAGER, 15.0),
    ("texts of 8 tokens over PyTorch eager", "texts of 8 tokens, batch 64", EAGER, 30.0),
    ("captions over PyTorch eager", "captions, batch", EAGER, 8.0),
    ("images over optimum-onnx fp32 at its best", "images", f"{OPTIMUM} fp32", 3.0),
    ("images over optimum-onnx at its best, its int8 too", "images", OPTIMUM, 3.0),
    ("texts over optimum-onnx fp32 at its best", "texts of 8", f"{OPTIMUM} fp32", 3.0),
    ("texts over optimum-onnx at its best, its int8 too", "texts of 8", OPTIMUM, 3.0),
    ("JPEG to embedding over open_clip", "JPEG", OPEN_CLIP, 3.0),
)
"""Title, start of the workloads' names, over whom, and the least ratio."""

Row = dict[str, Any]


def tables(data: dict[str, Any]) -> list[Table]:
    """Every table, the overview first."""
    parts = (overview, speed, memory, exports, roofline, goals)
    return [part(data) for part in parts]


# --- speed ---------------------------------------------------------------------------------


def rows_of(data: dict[str, Any], work: str) -> dict[str, Row]:
    """The rows of one workload that have samples, by candidate."""
    return {r["candidate"]: r for r in data["speed"] if r["work"] == work and r["blocks"]}


def medians(row: Row) -> list[float]:
    """Seconds of a call, block by block."""
    return [stats.median(block) for block in row["blocks"]]


def call_s(row: Row) -> float:
    """Seconds of a call: the median over blocks."""
    return stats.median(medians(row))


def ratio(
    ours: Row | None, theirs: Row | None
) -> tuple[float, tuple[float, float] | None] | tuple[None, None]:
    """How many times as fast `ours` is, block by block; Nones where either is not there."""
    if ours is None or theirs is None:
        return None, None
    pairs = list(zip(medians(ours), medians(theirs), strict=False))
    return stats.paired_ratio([a for a, _ in pairs], [b for _, b in pairs])


def overview(data: dict[str, Any]) -> Table:
    """Candidates down, workloads across: inputs a second and the ratio over the baseline."""
    measured = {row["work"] for row in data["speed"]}
    works = [work for work in WORKS if work.name in measured]
    by_work = {work.name: rows_of(data, work.name) for work in works}

    def cell(work: Work, candidate: str) -> str:
        row = by_work[work.name].get(candidate)
        if row is None:
            return "-"
        over, _ = ratio(row, by_work[work.name].get(work.baseline))
        return f"{units.rate(work.n / call_s(row))} ({units.ratio(over)})"

    names = dict.fromkeys(row["candidate"] for row in data["speed"])
    return plain_table(
        title="Inputs per second, and how many times as fast as the baseline",
        names=("runtime", *(work.name for work in works)),
        rows=tuple((name, *(cell(work, name) for work in works)) for name in names),
        caveats=("-: the candidate cannot do it, or is left out for a reason given below",),
        keys=("runtime",),
        numeric=(False, *(True for _ in works)),
    )


def speed(data: dict[str, Any]) -> Table:
    """One row for each workload and candidate."""
    rows = []
    for work in WORKS:
        for row in [row for row in data["speed"] if row["work"] == work.name]:
            rows.append(speed_row(data, work, row))
    return plain_table(
        title="Speed",
        names=("workload", "candidate", "per second [95 %]", "ratio [95 %]", "GEMM peak"),
        rows=tuple(rows),
        caveats=(
            f"ratio: over {EAGER} (texts padded to 77 tokens), for JPEG files over {OPEN_CLIP}; "
            "between blocks of equal number",
            "GEMM peak: share of the machine's measured matrix throughput, int8's for int8; above "
            "100 % other programs ran while it was measured; counted by the whole tower's "
            "operations, of which clipperf's graphs leave out 6.6 % (benchmarks/lean.py)",
            "at batch 1 captions are 16 calls; streams run two of them at once",
            "texts go in as strings: tokenisation is part of the time",
            "weights are random, so no layer of int8 is kept in fp32 for accuracy's sake; with "
            "trained weights some may be",
            *(f"left out: {name}: {reason}" for name, reason in data["skipped"].items()),
            *(
                f"left out: {row['candidate']}, {row['side']}: {row['error']}"
                for row in data["candidates"]
                if "error" in row
            ),
            *(_refusal(check) for check in data["checks"] if not check["passed"]),
        ),
        numeric=(False, False, True, True, True),
    )


def _refusal(check: Row) -> str:
    what = f"{check['candidate']}, {check['kind']} {check['texts']}".strip()
    if check["min_cosine"] is None:
        return f"not timed: {what}: {check['error']}"
    return (
        f"not timed: {what}: its embeddings differ from PyTorch's, lowest cosine "
        f"{check['min_cosine']:.4f} (at least {check['least']} is asked)"
    )


def speed_row(data: dict[str, Any], work: Work, row: Row) -> tuple[str, ...]:
    """Rate with its interval, ratio over the baseline, share of the peak."""
    if not row["blocks"]:
        return (work.name, row["candidate"], f"failed: {row.get('error', '')}", "-", "-")
    times = medians(row)
    interval = stats.median_interval(times)
    rate = units.rate(work.n / stats.median(times))
    if interval is not None:
        rate += f" [{units.rate(work.n / interval[1])}, {units.rate(work.n / interval[0])}]"
    over, over_interval = ratio(row, rows_of(data, work.name).get(work.baseline))
    return (
        work.name,
        row["candidate"],
        rate,
        units.ratio(over, over_interval),
        units.share(peak_share(data, work, row)) if work.kind == "image" else "-",
    )


def peak_share(data: dict[str, Any], work: Work, row: Row) -> float | None:
    """The share of the GEMM peak, of its own precision, that a candidate's image tower reaches."""
    if not data["roofline"]:
        return None
    precision = "int8" if data["precision"][row["candidate"]].startswith("int8") else "fp32"
    top = peaks(*data["roofline"])[precision]
    return work.n * data["image_flops"] / call_s(row) / top  # type: ignore[no-any-return]


# --- memory, exports, roofline -------------------------------------------------------------


def memory(data: dict[str, Any]) -> Table:
    """RAM peaks of one fresh process for each candidate and tower."""
    rows = []
    for row in data["memory"]:
        if "error" in row:
            rows.append((row["candidate"], row["side"], f"failed: {row['error']}", *["-"] * 4))
            continue
        peak = max(row["rss_load_bytes"] or 0, row["rss_run_bytes"] or 0)
        over = None if row["weight_bytes"] is None else peak - row["weight_bytes"]
        figures = (row["rss_load_bytes"], row["rss_run_bytes"], row["weight_bytes"], over)
        rows.append(
            (row["candidate"], row["side"], *map(units.mib, figures), units.seconds(row["load_s"]))
        )
    return plain_table(
        title="Peak RAM",
        names=(
            *("candidate", "tower", "load MiB", "8 inputs MiB", "weights MiB", "peak over MiB"),
            "load",
        ),
        rows=tuple(rows),
        caveats=(
            "VmHWM of a fresh process, its mark reset after loading",
            "open_clip, sentence-transformers and the optimum-onnx graph of 77 tokens hold both "
            "towers in the process, the others one",
        ),
        keys=("tower",),
        numeric=(False, False, True, True, True, True, True),
    )


def exports(data: dict[str, Any]) -> Table:
    """What each exporter takes for both towers."""
    rows = []
    for name, row in data["exports"].items():
        if "error" in row:
            rows.append((name, f"failed: {row['error']}", "-", "-"))
        else:
            figures = map(units.mib, (row["rss_bytes"], row["anonymous_bytes"]))
            rows.append((name, f"{row['seconds']:.1f}", *figures))
    return plain_table(
        title="Exports, both towers",
        names=("export", "seconds", "peak RSS MiB", "anonymous MiB"),
        rows=tuple(rows),
        caveats=(
            "whole commands from a checkpoint file; RSS is summed over a command's processes",
            "clipperf's are one command a tower with its check against PyTorch, seconds added",
            "anonymous: without pages of files, such as mapped weights, which cost nothing to drop",
            "optimum-int8 starts from the graphs of optimum-towers",
        ),
        numeric=(False, True, True, True),
    )


def roofline(data: dict[str, Any]) -> Table:
    """The machine's ceilings, and the images a second that they allow."""
    if not data["roofline"]:
        return plain_table("Roofline", ("figure", "value"), (), caveats=("not measured",))
    top = peaks(*data["roofline"])
    rows = [
        ("GEMM fp32", f"{top['fp32'] / 1e9:.0f} GFLOP/s"),
        ("GEMM int8", f"{top['int8'] / 1e9:.0f} GOP/s"),
        ("memory, reading", f"{top['read'] / 1e9:.1f} GB/s"),
        ("memory, copying", f"{top['copy'] / 1e9:.1f} GB/s"),
    ]
    for precision, width in (("fp32", 4), ("int8", 1)):
        size = data["image_parameters"] * width
        for batch in (1, 8, 32):
            least_s = bound_s(batch, data["image_flops"], size, top[precision], top["read"])
            rate = units.rate(batch / least_s)
            rows.append((f"images, batch {batch}, {precision}, at most", f"{rate} /s"))
    note = "what lies above these rates only a faster matrix product or fewer operations can give"
    return plain_table("Roofline", ("figure", "value"), rows, (note,), numeric=(False, True))


# --- goals ---------------------------------------------------------------------------------


def goals(data: dict[str, Any]) -> Table:
    """Each goal, what was measured, and whether it is met or by how much it is missed."""
    rows: list[tuple[str, ...]] = []
    for title, start, base, least in GOALS:
        for work in [work for work in WORKS if work.name.startswith(start)]:
            found = rows_of(data, work.name)
            if not found:
                continue
            # At batch 1 one input is to be ready soon, not several at once.
            mine = {k: v for k, v in found.items() if work.batch > 1 or "streams" not in k}
            best = fastest(data, mine, OURS)
            rival = fastest(data, found, base)
            over, interval = ratio(best, rival)
            wanted = f"{least:g}x"
            if best is None or rival is None or over is None:
                rows.append((title, work.name, wanted, "-", "not measured", "-"))
                continue
            verdict = "met" if over >= least else f"missed by {units.share(1 - over / least)}"
            who = f"{best['candidate']} / {rival['candidate']}"
            rows.append((title, work.name, wanted, units.ratio(over, interval), verdict, who))
    for row in data["memory"]:
        if row.get("weight_bytes") is not None:
            rows.append(_ram_goal(row))
    columns = ("goal", "workload", "wanted", "measured [95 %]", "verdict", "who over whom")
    return plain_table("Goals", columns, tuple(rows))


def fastest(data: dict[str, Any], found: dict[str, Row], base: str) -> Row | None:
    """The fastest of the candidates whose names start with `base`; "... fp32" takes those alone."""
    start = base.removesuffix(" fp32")
    named = [
        row
        for name, row in found.items()
        if name.startswith(start) and (start == base or data["precision"][name] == "fp32")
    ]
    return min(named, key=call_s, default=None)


def _ram_goal(row: Row) -> tuple[str, ...]:
    over = max(row["rss_load_bytes"] or 0, row["rss_run_bytes"] or 0) - row["weight_bytes"]
    short = over - RAM_ALLOWANCE_BYTES
    verdict = "met" if short <= 0 else f"missed by {short / 1e6:.0f} MB"
    name = f"{row['candidate']}, {row['side']}"
    wanted = f"+{RAM_ALLOWANCE_BYTES / 1e6:.0f} MB"
    return ("peak RAM over weights", name, wanted, f"+{over / 1e6:.0f} MB", verdict, "-")


def selected(names: Sequence[str], words: Sequence[str] | None) -> list[str]:
    """The names that hold one of the words; all without any."""
    return [name for name in names if not words or any(word in name for word in words)]
