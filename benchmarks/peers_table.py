"""Tables out of what `peers.py` measured. Pure: raw figures in, `Table`s out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from peers_candidates import EAGER, OPEN_CLIP, WORKS, Work
from peers_goals import goals
from peers_rows import Row, call_s, limit_share, medians, ratio, rows_of
from roofline import bound_s, peaks

from clipperf import stats, units
from clipperf.report.table import Table, plain_table

BUSY_SHARE = 0.1
"""Above it other programs use so much of the cores that seconds mean nothing."""
OPERATIONS = {"fp32": "GFLOP/s", "bf16": "GFLOP/s", "int8": "GOP/s"}
WEIGHT_BYTES = {"fp32": 4, "bf16": 2, "int8": 1}


def tables(data: dict[str, Any]) -> list[Table]:
    """Every table, the overview first, each with the instruction sets of its machine."""
    parts = (overview, speed, memory, exports, roofline, goals)
    sets = ", ".join(data["instruction_sets"]) or "none that matter"
    said = f"processor: {data['environment']['cpu']}, instruction sets: {sets}"
    made = [part(data) for part in parts]
    return [replace(table, caveats=(said, *table.caveats)) for table in made]


# --- speed ---------------------------------------------------------------------------------


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
        names=(
            *("workload", "candidate", "per second [95 %]", "ratio [95 %]"),
            *("arithmetic", "of its limit"),
        ),
        rows=tuple(rows),
        caveats=(
            f"ratio: over {EAGER} (texts padded to 77 tokens), for JPEG files over {OPEN_CLIP}; "
            "between blocks of equal number",
            "of its limit: the operations of the whole tower a second, as a share of the best "
            "matrix product of that arithmetic on this machine; above 100 % other programs ran "
            "while that was measured. Texts count to their end token, so padding is work for "
            "nothing; clipperf's graphs leave out 6.6 % of an image's operations "
            "(benchmarks/lean.py)",
            "at batch 1 captions are 16 calls; streams run two of them at once",
            "texts go in as strings: tokenisation is part of the time",
            "faster-clip, fastembed and infinity-emb take pictures, not pixels: their images are "
            "bitmaps of 224x224, read as part of the time",
            "weights are random, so no layer of int8 is kept in fp32 for accuracy's sake; with "
            "trained weights some may be",
            *_stopped(data),
            *(f"left out: {name}: {reason}" for name, reason in data["skipped"].items()),
            *(
                f"left out: {row['candidate']}, {row['side']}: {row['error']}"
                for row in data["candidates"]
                if "error" in row
            ),
            *(_refusal(check) for check in data["checks"] if not check["passed"]),
        ),
        numeric=(False, False, True, True, False, True),
    )


def _stopped(data: dict[str, Any]) -> list[str]:
    """What to say of rows that have fewer blocks than the others."""
    if not any(row.get("stopped") for row in data["speed"]):
        return []
    few, hopeless = (data["settings"][key] for key in ("few_blocks", "hopeless"))
    return [
        f"rates of peers without an interval are of {few} blocks, the others of "
        f"{data['settings']['blocks']}: they took {hopeless:g} times as long as the fastest peer"
    ]


def _refusal(check: Row) -> str:
    what = f"{check['candidate']}, {check['kind']} {check['texts']}".strip()
    if check["min_cosine"] is None:
        return f"not timed: {what}: {check['error']}"
    return (
        f"not timed: {what}: its embeddings differ from PyTorch's, lowest cosine "
        f"{check['min_cosine']:.4f} (at least {check['least']} is asked)"
    )


def speed_row(data: dict[str, Any], work: Work, row: Row) -> tuple[str, ...]:
    """Rate with its interval, ratio over the baseline, share of the limit."""
    if not row["blocks"]:
        return (work.name, row["candidate"], f"failed: {row.get('error', '')}", *["-"] * 3)
    times = medians(row)
    interval = stats.median_interval(times)
    rate = units.rate(work.n / stats.median(times))
    if interval is not None:
        rate += f" [{units.rate(work.n / interval[1])}, {units.rate(work.n / interval[0])}]"
    over, over_interval = ratio(row, rows_of(data, work.name).get(work.baseline))
    share = limit_share(data, work, row)
    return (
        work.name,
        row["candidate"],
        rate,
        units.ratio(over, over_interval),
        "-" if share is None else data["arithmetic"][row["candidate"]],
        units.share(share),
    )


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
            "open_clip, transformers, sentence-transformers, infinity-emb and optimum-onnx's graph "
            "of 77 tokens hold both towers in the process, the others one",
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
            alone = (row.get("busy_share") or 0.0) <= BUSY_SHARE
            rows.append((name, f"{row['seconds']:.1f}" if alone else "-", *figures))
    return plain_table(
        title="Exports, both towers",
        names=("export", "seconds", "peak RSS MiB", "anonymous MiB"),
        rows=tuple(rows),
        caveats=(
            "-: other programs ran beside it",
            "whole commands from a checkpoint file; RSS is summed over a command's processes",
            "clipperf's are one command a tower with its check against PyTorch, seconds added",
            "anonymous: without pages of files, such as mapped weights, which cost nothing to drop",
            "optimum-int8 and fastembed start from the graphs of optimum-towers",
        ),
        numeric=(False, True, True, True),
    )


def roofline(data: dict[str, Any]) -> Table:
    """The machine's ceilings, and the images a second that they allow."""
    if not data["roofline"]:
        return plain_table("Roofline", ("figure", "value"), (), caveats=("not measured",))
    top = peaks(*data["roofline"])
    kinds = [kind for kind in ("fp32", "bf16", "int8") if kind in top]
    rows = [
        *((f"GEMM {kind}", f"{top[kind] / 1e9:.0f} {OPERATIONS[kind]}") for kind in kinds),
        ("memory, reading", f"{top['read'] / 1e9:.1f} GB/s"),
        ("memory, copying", f"{top['copy'] / 1e9:.1f} GB/s"),
    ]
    for kind in kinds:
        size = data["image_parameters"] * WEIGHT_BYTES[kind]
        for batch in (1, 8, 32):
            least_s = bound_s(batch, data["image_flops"], size, top[kind], top["read"])
            rate = units.rate(batch / least_s)
            rows.append((f"images, batch {batch}, {kind}, at most", f"{rate} /s"))
    note = "what lies above these rates only a faster matrix product or fewer operations can give"
    notes = (note, *([] if "bf16" in top else ["bf16: this processor does not multiply it"]))
    return plain_table("Roofline", ("figure", "value"), rows, notes, numeric=(False, True))


def selected(names: Sequence[str], words: Sequence[str] | None) -> list[str]:
    """The names that hold one of the words; all without any."""
    return [name for name in names if not words or any(word in name for word in words)]
