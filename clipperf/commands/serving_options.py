"""How inputs come: `--scenario` of `clipperf profile`, and the options beside it."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Optional

import typer

from clipperf.commands.options import numbers
from clipperf.errors import UsageError
from clipperf.nouns.cell import CLOSED_LOOP
from clipperf.nouns.serving import OFFLINE, SERVER, SERVING, SINGLE_STREAM, Serving

CLOSED = "closed"
USUAL_BATCH, USUAL_MAX_BATCH = "8", "32"
USUAL_DELAY_MS, USUAL_DELAY_SHARE = 2.0, 0.1
MOST_MS = 86_400_000

ScenarioChoice = Annotated[
    str,
    typer.Option(
        "--scenario",
        help="How inputs come. closed: the next batch as soon as the one before is done; by "
        "MLCommons LoadGen: single-stream, offline (all at once), server (as many a second as keep "
        "to --slo-ms, at random moments).",
    ),
]
Batches = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option("--batch", help="Batch sizes: 8, or 1,8,32; default: 8."),
]
LatencyBound = Annotated[
    Optional[float],  # noqa: UP045
    typer.Option(
        "--slo-ms",
        help="With --scenario server: 99 % of answers must come within as many milliseconds.",
    ),
]
MaxBatch = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        "--max-batch",
        help="With --scenario server: how many inputs are run together at most, with commas; "
        "default: 32.",
    ),
]
MaxDelayMs = Annotated[
    Optional[float],  # noqa: UP045
    typer.Option(
        "--max-delay-ms",
        help="With --scenario server: how long an input waits for others; default: 2, and "
        "at most a tenth of --slo-ms.",
    ),
]

Rate = Annotated[
    Optional[float],  # noqa: UP045
    typer.Option(
        "--rate",
        help="With --scenario server: offer so many inputs a second for 30 s (--quick: 3), and "
        "look for no other rate.",
    ),
]

USUAL = {
    SINGLE_STREAM: Serving(min_queries=100, percentile=0.9),
    OFFLINE: Serving(min_queries=1),
    SERVER: Serving(),
}
"""Queries as LoadGen asks for in its own scenarios, where of a single stream the 90th percentile is
judged; 99 % of a server's answers."""
QUICK_S, QUICK_QUERIES, QUICK_REL_WIDTH = 3.0, 700, 0.10
RATE_S = 30.0
"""How long a rate that is asked for is offered at least."""
BOUNDS = 20
"""A test takes as many times the bound at least: a queue that grows has to show by its end."""


def offered(
    scenario: str,
    batch: str | None,
    slo_ms: float | None,
    max_batch: str | None,
    max_delay_ms: float | None,
    quick: bool,
    remote: bool = False,
    rate: float | None = None,
) -> tuple[str, tuple[int, ...], Serving | None]:
    """The scenario's name in results, the batch sizes, and how inputs come where they are offered.

    A server that is asked (`remote`) makes its own batches of inputs that come one by one.

    Raises:
        UsageError: there is no such scenario, or an option is another one's.
    """
    if scenario not in SERVING:
        from clipperf.bench.jobs import SCENARIOS  # with what measures, which --help does without

        SCENARIOS.get(CLOSED_LOOP if scenario == CLOSED else scenario)
    if scenario != SERVER:
        given = {"--slo-ms": slo_ms, "--max-batch": max_batch, "--max-delay-ms": max_delay_ms}
        given |= {"--rate": rate}
        alone = next((name for name, value in given.items() if value is not None), None)
        if alone is not None:
            raise UsageError(f"{alone} is for inputs that come at random: add --scenario {SERVER}")
    if scenario not in SERVING:
        name = CLOSED_LOOP if scenario == CLOSED else scenario
        return name, numbers(batch or USUAL_BATCH, "--batch"), None
    serving = usual(scenario, quick)
    if scenario == SINGLE_STREAM:
        if batch not in (None, "1"):
            raise UsageError(f"--scenario {scenario} runs one input at a time: leave out --batch")
        return scenario, (1,), serving
    if scenario == OFFLINE:
        return scenario, numbers(batch or USUAL_BATCH, "--batch"), serving
    if remote:
        own = {"--batch": batch, "--max-batch": max_batch, "--max-delay-ms": max_delay_ms}
        alone = next((name for name, value in own.items() if value is not None), None)
        if alone is not None:
            raise UsageError(f"the server makes its own batches: leave out {alone}")
        max_batch, max_delay_ms = "1", 0.0
    if batch is not None:
        raise UsageError(f"--scenario {scenario} makes its own batches: give --max-batch {batch}")
    if slo_ms is None:
        raise UsageError(f"--scenario {SERVER} needs a bound on the time of an answer: --slo-ms 50")
    batches = numbers(max_batch or USUAL_MAX_BATCH, "--max-batch")
    return scenario, batches, at_rate(bounded(serving, slo_ms, max_delay_ms), rate, quick)


def usual(scenario: str, quick: bool) -> Serving:
    """How inputs come in a scenario of serving, where nobody says more; `quick`: fewer of them."""
    serving = USUAL[scenario]
    if not quick:
        return serving
    queries = min(serving.min_queries, QUICK_QUERIES)
    return replace(serving, min_s=QUICK_S, min_queries=queries, rel_width=QUICK_REL_WIDTH)


def at_rate(serving: Serving, rate: float | None, quick: bool) -> Serving:
    """With the only rate that is offered; raises UsageError where it cannot be one."""
    if rate is None:
        return serving
    if not 0 < rate < 1e6:
        raise UsageError(f"--rate {rate:g}: give inputs a second above 0, below a million")
    least_s = serving.min_s if quick else max(serving.min_s, RATE_S)
    return replace(serving, rate_per_s=rate, min_s=least_s)


def bounded(serving: Serving, slo_ms: float, max_delay_ms: float | None) -> Serving:
    """With the milliseconds that an answer may take, and that an input may wait; None: as usual.

    Raises:
        UsageError: one cannot be.
    """
    if not 0 < slo_ms < MOST_MS:
        raise UsageError(f"--slo-ms {slo_ms:g}: give milliseconds above 0, up to a day")
    if max_delay_ms is None:
        max_delay_ms = min(USUAL_DELAY_MS, USUAL_DELAY_SHARE * slo_ms)
    if not 0 <= max_delay_ms < slo_ms:
        raise UsageError(
            f"--max-delay-ms {max_delay_ms:g}: give milliseconds from 0, below --slo-ms {slo_ms:g}"
        )
    slo_s, delay_s = slo_ms / 1e3, max_delay_ms / 1e3
    min_s = max(serving.min_s, BOUNDS * slo_s)
    return replace(serving, slo_s=slo_s, max_delay_s=delay_s, min_s=min_s)
