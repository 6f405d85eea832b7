"""Sizings played through: ten random targets, what was predicted and what a simulation gave.

    python benchmarks/sizing_queue.py [--answers 200000]

Each target is made up with the times that a replica's runs take, sized by `clipperf`'s own
arithmetic, and then played in a discrete-event simulation (simpy, extra `dev`) that knows nothing
of it: inputs come at random (Poisson) at the target rate, each goes to a replica at random and to
one of its streams, and an engine takes what waits. Replicas are as many as the sizing says. p99
and the share of busy time are compared with those that it predicts.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Any

import asked
import numpy as np

from clipperf.nouns.cell import Cell
from clipperf.nouns.result import Environment, Measurement, ResultFile
from clipperf.report.records import merge
from clipperf.report.sizing.held import longest_texts
from clipperf.report.sizing.queueing import Service
from clipperf.report.sizing.service import service_at
from clipperf.report.sizing.solve import size
from clipperf.report.sizing.types import Option, Targets

ALLOWED = 0.10
"""How far a prediction may be from the simulation."""

MACHINE = Environment(
    "made-up", "made up", 64, 2**38, None, None, None, "", "", {}, None, "2026-01-01T00:00:00Z"
)


@dataclass(frozen=True)
class Case:
    """A sizing of one tower and the queue in it: arrivals at one stream of one replica."""

    targets: Targets
    option: Option
    service: Service
    rate_per_s: float


@dataclass(frozen=True)
class Played:
    """What a simulation gave, with 95 % intervals over its parts."""

    answers: int
    latency_s: float
    latency_interval_s: tuple[float, float]
    busy: float


def cases(count: int = 10, seed: int = 0) -> Iterator[Case]:
    """Targets and run times at random: 1 to 64 inputs at once, 2 to 200 ms, 1 or 2 streams."""
    rng = random.Random(seed)
    found = 0
    while found < count:
        batches = sorted({1, *rng.sample((1, 2, 4, 8, 16, 32, 64), rng.randint(0, 3))})
        one_s = 10 ** rng.uniform(-2.7, -0.7)
        fixed = rng.uniform(0.1, 0.8)
        shape = rng.choice((25, 100, 400))
        streams = rng.choice((1, 1, 2))
        rows = []
        for batch in batches:
            mean_s = one_s * (fixed + (1 - fixed) * batch)
            samples = [mean_s * rng.gammavariate(shape, 1 / shape) for _ in range(700)]
            cell = Cell("made-up", "image", "onnx", "fp32", "cpu", batch, 2, streams=streams)
            blocks = tuple(n // 10 for n in range(len(samples)))
            rows.append(
                Measurement(cell, "time", "ok", MACHINE.id, run_s=tuple(samples), blocks=blocks)
            )
        result = ResultFile(1, "profile", "", MACHINE.created_utc, (MACHINE,), tuple(rows))
        last_s = one_s * (fixed + (1 - fixed) * batches[-1])
        rate = batches[-1] * streams / last_s
        targets = Targets(
            images_per_s=rate * rng.uniform(1, 8),
            texts_per_s=0.0,
            slo_s=last_s * rng.uniform(1.2, 4),
            utilisation=rng.uniform(0.6, 0.95),
        )
        options = [o for o in size([result], targets).options if o.cell.batch == batches[-1]]
        if not options or options[0].replicas is None:
            continue
        measured = longest_texts(merge([result]))
        row = next(r for r in measured if r.cell == options[0].cell)
        engines = options[0].replicas * streams
        service, _ = service_at(row, measured)
        found += 1
        yield Case(targets, options[0], service, targets.images_per_s / engines)


def play(service: Service, rate_per_s: float, answers: int, seed: int) -> Played:
    """Let so many inputs come to one engine, and see how long their answers take.

    One stream of one replica stands for all: split at random, what comes to each is Poisson, too.
    """
    import simpy

    rng = np.random.default_rng(seed)
    world = simpy.Environment()
    waiting: list[float] = []
    took: list[float] = []
    state: dict[str, Any] = {"bell": None, "busy_s": 0.0}

    def users() -> Generator[Any, Any, None]:
        for gap in rng.exponential(1 / rate_per_s, answers):
            yield world.timeout(gap)
            waiting.append(world.now)
            if state["bell"] is not None:
                state["bell"].succeed()
                state["bell"] = None

    def engine() -> Generator[Any, Any, None]:
        while len(took) < answers:
            if not waiting:
                state["bell"] = world.event()
                yield state["bell"]
            batch = waiting[: service.most]
            del waiting[: len(batch)]
            run_s = service.seconds[len(batch) - 1] * float(rng.choice(service.spread))
            state["busy_s"] += run_s
            yield world.timeout(run_s)
            took.extend(world.now - came for came in batch)

    world.process(users())
    done = world.process(engine())
    world.run(until=done)
    latencies = np.asarray(took)
    parts = [np.quantile(part, 0.99) for part in np.array_split(latencies, 10)]
    reach = 2.262 * float(np.std(parts, ddof=1)) / len(parts) ** 0.5
    p99 = float(np.quantile(latencies, 0.99))
    return Played(len(took), p99, (p99 - reach, p99 + reach), state["busy_s"] / world.now)


def off(case: Case, played: Played) -> tuple[float, float]:
    """How far p99 and the share of busy time are from the simulation's, as shares of these."""
    assert case.option.expected_s is not None and case.option.busy is not None
    return case.option.expected_s / played.latency_s - 1, case.option.busy / played.busy - 1


def main() -> None:
    """Print the table; exit code 1 where a prediction is further off than allowed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--answers", type=asked.count, default=200_000, help="of each simulation")
    given = parser.parse_args()
    print(
        "| target /s | SLO ms | batch up to | streams | replicas | load of a stream "
        "| p99 ms predicted | p99 ms played | off | busy predicted | busy played | off |\n"
        f"|{'---|' * 12}"
    )
    worst = 0.0
    for number, case in enumerate(cases()):
        played = play(case.service, case.rate_per_s, given.answers, number)
        late, busy = off(case, played)
        worst = max(worst, abs(late), abs(busy))
        o = case.option
        low, high = (1e3 * end for end in played.latency_interval_s)
        print(
            f"| {case.targets.images_per_s:.1f} | {1e3 * (case.targets.slo_s or 0):.0f} "
            f"| {o.cell.batch} | {o.cell.streams} | {o.replicas} "
            f"| {case.rate_per_s / case.service.rate_per_s:.2f} | {1e3 * (o.expected_s or 0):.1f} "
            f"| {1e3 * played.latency_s:.1f} [{low:.1f}, {high:.1f}] | {late:+.1%} "
            f"| {o.busy:.1%} | {played.busy:.1%} | {busy:+.1%} |"
        )
    print(f"\nFurthest off: {worst:.1%}; allowed: {ALLOWED:.0%}.")
    raise SystemExit(worst > ALLOWED)


if __name__ == "__main__":
    asked.run(main)
