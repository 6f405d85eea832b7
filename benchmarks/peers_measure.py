"""Runs the candidates of `peers.py`: answers checked, then time in turns, then memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peers_candidates import (
    LEAST_COSINE,
    LEAST_COSINE_JPEG,
    PYTORCH,
    WORKS,
    Candidate,
    Work,
)
from peers_environments import python_of
from peers_make import peers_environment, weight_bytes

from clipperf import stats
from clipperf.errors import ClipperfError
from clipperf.nouns.variant import SIDES
from clipperf.system.child import Child, child_environment

Say = Callable[[str], None]
MEMORY_BATCH = 8


@dataclass(frozen=True)
class Bench:
    """Where and how to measure.

    Every block is a sleep of `sleep_s`, a warm-up call, and timed calls: at least `calls` and
    `block_s` seconds of them, cut short after `block_max_s`. A call longer than `long_s` warms up
    in its first block only: what a sleep costs it is lost in its length.

    A peer that takes `hopeless` times as long as the fastest peer after `few_blocks` blocks has no
    more of them: its rate is known well enough, and no goal is measured by it.
    """

    work: Path
    environments: Path
    threads: int = 2
    blocks: int = 6
    calls: int = 2
    block_s: float = 0.15
    block_max_s: float = 0.7
    sleep_s: float = 0.1
    long_s: float = 0.5
    few_blocks: int = 2
    hopeless: float = 2.0
    timeout_s: float = 600.0


def opened(bench: Bench, candidate: Candidate, side: str) -> tuple[Child, dict[str, Any]]:
    """A worker with the candidate loaded, and its answer to "open".

    Raises:
        ClipperfError: it cannot be loaded.
    """
    env = peers_environment(child_environment(bench.threads), bench.work, bench.threads)
    python = python_of(candidate.home, bench.environments)
    worker = Child("peers_worker", python=python, env=env, timeout_s=bench.timeout_s)
    setup = {
        "folder": str(bench.work / "inputs"), "side": side, "threads": bench.threads,
        "options": candidate.options,
    }  # fmt: skip
    try:
        bare = worker.greet()["rss_bare_bytes"]
        answer = worker.ask("open", adapter=candidate.adapter, setup=setup)
    except ClipperfError:
        worker.end()
        raise
    kinds = [kind for kind in answer["kinds"] if kind in candidate.kinds]
    return worker, {**answer, "kinds": kinds, "rss_bare_bytes": bare}


# --- time ----------------------------------------------------------------------------------


def turns(names: Sequence[str], blocks: int) -> Iterator[tuple[int, str]]:
    """Who runs its block when: everybody once a block, forwards and backwards in turn.

    A machine that grows slower or faster evenly favours nobody that way.
    """
    for block in range(blocks):
        yield from ((block, name) for name in (names if block % 2 == 0 else reversed(names)))


def measure_side(
    bench: Bench, candidates: Sequence[Candidate], side: str, works: Sequence[Work], say: Say
) -> dict[str, Any]:
    """Check, then time all workloads of one tower; "candidates", "checks" and "speed" rows."""
    found: dict[str, Any] = {"candidates": [], "checks": [], "speed": []}
    workers: dict[str, Child] = {}
    kinds: dict[str, list[str]] = {}
    works = [work for work in works if work.side == side]
    try:
        asked = {work.kind for work in works}
        for candidate in [c for c in candidates if asked.intersection(c.kinds)]:
            try:
                worker, answer = opened(bench, candidate, side)
            except ClipperfError as exc:
                found["candidates"].append(
                    {"candidate": candidate.name, "side": side, "error": str(exc)}
                )
                say(f"{candidate.name}: left out: {exc}")
                continue
            workers[candidate.name] = worker
            known = {"candidate": candidate.name, "side": side, **answer}
            found["candidates"].append(known)
            checks = checked(worker, candidate, answer["kinds"], works)
            found["checks"] += checks
            refused = {check["kind"] for check in checks if not check["passed"]}
            kinds[candidate.name] = [k for k in answer["kinds"] if k not in refused]
            for check in checks:
                say(f"{candidate.name}: {check_words(check)}")
        for work in works:
            able = [name for name in workers if work.kind in kinds[name]]
            say(f"{work.name}: {', '.join(able)}")
            rivals = [c.name for c in candidates if not c.ours and c.name in able]
            found["speed"] += measure_work(bench, work, able, workers, rivals)
    finally:
        for worker in workers.values():
            worker.end()
    return found


def checked(
    worker: Child, candidate: Candidate, kinds: Sequence[str], works: Sequence[Work]
) -> list[dict[str, Any]]:
    """Each kind's and set of texts' lowest cosine to PyTorch, and whether that will do."""
    found = []
    for kind, texts in dict.fromkeys((work.kind, work.texts) for work in works):
        if kind not in kinds or kind == "tokenise":
            continue
        least = LEAST_COSINE_JPEG if kind == "jpeg" else LEAST_COSINE[candidate.precision]
        least = min(least, LEAST_COSINE[candidate.precision])
        row = {"candidate": candidate.name, "kind": kind, "texts": texts, "least": least}
        try:
            cosine = worker.ask("check", kind=kind, texts=texts)["min_cosine"]
        except ClipperfError as exc:
            found.append({**row, "min_cosine": None, "passed": False, "error": str(exc)})
            break
        found.append({**row, "min_cosine": cosine, "passed": cosine >= least})
    return found


def check_words(check: dict[str, Any]) -> str:
    """A check as a line for people."""
    what = f"{check['kind']} {check['texts']}".strip()
    if check["min_cosine"] is None:
        return f"{what} failed: {check['error']}"
    verdict = "agrees" if check["passed"] else f"REFUSED, {check['least']} is the least"
    return f"{what}: lowest cosine to PyTorch {check['min_cosine']:.6f}, {verdict}"


def measure_work(
    bench: Bench,
    work: Work,
    names: Sequence[str],
    workers: dict[str, Child],
    rivals: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """Samples of every candidate by block; one that fails keeps its reason and leaves.

    So does a hopeless one of the `rivals`, which are the peers.
    """
    rows: dict[str, dict[str, Any]] = {
        name: {"work": work.name, "candidate": name, "blocks": []} for name in names
    }
    stopped: set[str] | None = None
    for block, name in turns(names, bench.blocks):
        row = rows[name]
        if name not in workers:
            row.setdefault("error", "its worker ended in an earlier workload")
            continue
        if stopped is None and block == bench.few_blocks:
            stopped = hopeless({rival: rows[rival]["blocks"] for rival in rivals}, work, bench)
        if stopped is not None and name in stopped:
            row["stopped"] = True
            continue
        long = block > 0 and stats.median(row["blocks"][-1]) > bench.long_s
        try:
            answer = workers[name].ask(
                "block", **work.message, sleep_s=bench.sleep_s, warmup=0 if long else 1,
                calls=bench.calls, min_s=bench.block_s, max_s=bench.block_max_s,
            )  # fmt: skip
        except ClipperfError as exc:
            row["error"] = str(exc)
            workers.pop(name).end()
            continue
        row["blocks"].append(answer["samples"])
    return list(rows.values())


def hopeless(blocks: Mapping[str, Sequence[Sequence[float]]], work: Work, bench: Bench) -> set[str]:
    """Those whose blocks say that they are too far behind the fastest of all.

    Not the baseline nor PyTorch's fastest, over which goals are set.
    """
    times = {
        name: stats.median([stats.median(samples) for samples in some])
        for name, some in blocks.items()
        if some
    }
    pytorch = {name: times[name] for name in PYTORCH if name in times}
    needed = {work.baseline, *sorted(pytorch, key=lambda name: pytorch[name])[:1]}
    bound_s = bench.hopeless * min(times.values(), default=0.0)
    return {name for name, call_s in times.items() if call_s > bound_s} - needed


# --- memory --------------------------------------------------------------------------------


def measure_memory(
    bench: Bench, candidates: Sequence[Candidate], works: Sequence[Work], say: Say
) -> list[dict[str, Any]]:
    """RAM peaks (VmHWM) of loading and of one call of 8, in a fresh process each.

    The captions for texts, preprocessed pixels for images.
    """
    rows = []
    sides = {work.side for work in works}
    for side in [side for side in SIDES if side in sides]:
        kind, texts = ("image", "") if side == "image" else ("text", "captions")
        for candidate in candidates:
            if kind not in candidate.kinds:
                continue
            row: dict[str, Any] = {"candidate": candidate.name, "side": side}
            worker = None
            try:
                worker, answer = opened(bench, candidate, side)
                if kind not in answer["kinds"]:
                    continue
                ran = worker.ask("run", kind=kind, texts=texts, n=MEMORY_BATCH, batch=MEMORY_BATCH)
                row |= {
                    "rss_bare_bytes": answer["rss_bare_bytes"],
                    "rss_load_bytes": answer["rss_bytes"], "rss_run_bytes": ran["rss_bytes"],
                    "load_s": answer["load_s"], "first_s": ran["seconds"],
                    "weight_bytes": weight_bytes(candidate, side),
                }  # fmt: skip
            except ClipperfError as exc:
                row["error"] = str(exc)
            finally:
                if worker is not None:
                    worker.end()
            rows.append(row)
            say(f"memory: {candidate.name}, {side}")
    return rows


def chosen_works(words: Sequence[str] | None) -> list[Work]:
    """The workloads whose names hold one of the words; all without any."""
    if not words:
        return list(WORKS)
    return [work for work in WORKS if any(word in work.name for word in words)]
