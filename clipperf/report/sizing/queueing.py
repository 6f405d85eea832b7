"""How long answers take when inputs come at random: a queue before one engine. Pure.

Inputs come one by one at random moments (Poisson). Whenever the engine is free it takes what
waits, up to `Service.most` at once, oldest first; it never waits for more to come. That is a queue
with bulk service whose time depends on the size of the bulk (Bailey 1954, "On queueing processes
with bulk service"; Neuts 1967, "A general class of bulk queues with Poisson input"). How many
wait when a run ends is a Markov chain, which is solved; what an arriving input then finds, and how
long its answer takes, is drawn from that chain with a fixed seed.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

DRAWS = 16_384
"""Arrivals that are drawn for a quantile; over seeds p99 differs by about 1 %."""

EVEN_STEPS = (0.7548776662466927, 0.5698402909980532)
"""Of points that fill a square evenly: 1 / p and 1 / p^2, p the root of p^3 = p + 1."""

LONGEST_QUEUE = 1024
LARGEST_RUN = 1024
"""Inputs at once up to which there is an answer: the chain of more takes gigabytes."""
MISSED = 1e-5
"""What may lie beyond the longest queue that is looked at."""

CLASSES = 8
"""Of run times in the chain; the latencies take every sample."""

MOST_LOAD, LEAST_LOAD = 0.95, 1 / 512
"""Shares of an engine's own rate between which one that holds is looked for."""

NEAR = 1.1
"""How far from a guess the rate is looked for."""

WITHIN = 0.01
"""How close, as a share of it, the highest rate that holds is found."""


@dataclass(frozen=True)
class Service:
    """How long an engine runs: `seconds` on average for 1, 2, ... inputs at once.

    `spread` are equally likely factors that a run's time is multiplied by, 1 on average.
    """

    seconds: tuple[float, ...]
    spread: tuple[float, ...] = (1.0,)

    @property
    def most(self) -> int:
        """How many inputs run together at most."""
        return len(self.seconds)

    @property
    def rate_per_s(self) -> float:
        """Inputs a second where as many always wait."""
        return self.most / self.seconds[-1]


@dataclass(frozen=True)
class Expected:
    """What is to be expected at a rate: a quantile of the seconds to an answer.

    `busy` is the share of time in which the engine runs, `mean_batch` the inputs of a run.
    """

    latency_s: float
    busy: float
    mean_batch: float


def service_of(timed: Sequence[tuple[int, float]], spread: Sequence[float] = ()) -> Service:
    """From mean seconds of a run by batch size, lowest first; the last is the most.

    Between two sizes time is taken to grow evenly, below the smallest to be the smallest's:
    a run of fewer inputs then takes longer here than it would, never less. `spread` are samples
    of one cell, of any mean.
    """
    sizes, seconds = zip(*timed, strict=True)
    means = np.interp(np.arange(1, sizes[-1] + 1), sizes, seconds)
    samples = np.asarray(spread or (1.0,), dtype=np.float64)
    return Service(tuple(means.tolist()), tuple((samples / samples.mean()).tolist()))


@lru_cache(maxsize=4096)
def expected(service: Service, rate_per_s: float, quantile: float) -> Expected | None:
    """What to expect at a rate; None where the queue would not stay short.

    Nor is there an answer for a service of more than LARGEST_RUN inputs at once.
    """
    waiting = _waiting(service, rate_per_s)
    if waiting is None:
        return None
    states = np.arange(len(waiting))
    taken = np.clip(states, 1, service.most)
    run_s = np.asarray(service.seconds)[taken - 1]
    # A cycle is a run, after an idle time where nothing waited.
    busy_s, idle_s = float(waiting @ run_s), float(waiting[0] / rate_per_s)
    found = _latencies(service, rate_per_s, waiting, np.maximum(states - taken, 0), run_s)
    return Expected(
        latency_s=float(np.quantile(found, quantile)),
        busy=busy_s / (busy_s + idle_s),
        mean_batch=float(waiting @ taken),
    )


@lru_cache(maxsize=1024)
def highest_rate(
    service: Service, slo_s: float, quantile: float, near: float | None = None
) -> float | None:
    """The highest rate at which so large a share of answers keeps to the bound, None where none.

    `near` is a guess from which the search begins.
    """

    def holds(rate: float) -> bool:
        found = expected(service, rate, quantile)
        return found is not None and found.latency_s <= slo_s

    least, most = (share * service.rate_per_s for share in (LEAST_LOAD, MOST_LOAD))
    if holds(most):
        return most
    low, high = least, most
    if near is not None and least < near < most:
        low, high = near, near
        while holds(high):
            low, high = high, min(most, high * NEAR)
    while not holds(low):
        if low <= least:
            return None
        low, high = max(least, low / NEAR), low
    while high > low * (1 + WITHIN):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


def _waiting(service: Service, rate_per_s: float) -> np.ndarray | None:
    """How likely it is that 0, 1, ... inputs wait when a run ends."""
    if rate_per_s >= service.rate_per_s or service.most > LARGEST_RUN:
        return None
    first = length = 2 * service.most + 64
    while length <= 2 * max(LONGEST_QUEUE, first):
        found = _stationary(service, rate_per_s, length)
        if found[-service.most :].sum() < MISSED * service.most:
            return found
        length *= 2
    return None


def _stationary(service: Service, rate_per_s: float, length: int) -> np.ndarray:
    counts = np.arange(length)
    log_factorials = np.cumsum(np.log(np.maximum(counts, 1)))
    spread = _classes(service.spread)
    means = rate_per_s * np.asarray(service.seconds)[:, None, None] * spread[None, :, None]
    arrivals = np.exp(counts * np.log(means) - means - log_factorials).mean(axis=1)
    chain = np.zeros((length, length))
    chain[0] = arrivals[0]
    for waiting in range(1, length):
        taken = min(waiting, service.most)
        chain[waiting, waiting - taken :] = arrivals[taken - 1, : length - waiting + taken]
    chain[:, -1] += 1 - chain.sum(axis=1)  # longer queues count as the longest
    balance = chain.T - np.eye(length)
    balance[-1] = 1.0
    found = np.linalg.solve(balance, np.eye(length)[-1])
    return np.maximum(found, 0) / np.maximum(found, 0).sum()


def _classes(spread: Sequence[float]) -> np.ndarray:
    """The samples in a few classes of equal size, each by its mean."""
    ordered = np.sort(np.asarray(spread, dtype=np.float64))
    if len(ordered) <= CLASSES:
        return ordered
    ends = np.linspace(0, len(ordered), CLASSES + 1).round().astype(int)
    means = np.array([ordered[a:b].mean() for a, b in itertools.pairwise(ends)])
    return means / means.mean()


def _latencies(
    service: Service, rate_per_s: float, waiting: np.ndarray, left: np.ndarray, run_s: np.ndarray
) -> np.ndarray:
    """Seconds to the answers of arrivals that are drawn.

    One finds the engine idle, else in a run, as long runs are by their length: it waits for its
    rest, then while those before it are taken in full runs, then runs with those behind it.
    """
    rng = np.random.default_rng(0)
    spread = np.sort(np.asarray(service.spread))
    most, seconds = service.most, np.asarray(service.seconds)
    shares = np.concatenate(([waiting[0]], rate_per_s * waiting * run_s))
    at = (np.arange(DRAWS) + 0.5) / DRAWS
    kind = np.searchsorted(np.cumsum(shares) / shares.sum(), at)
    idle = kind == 0
    state = np.clip(kind - 1, 0, len(waiting) - 1)
    by_length = np.cumsum(spread) / spread.sum()
    last = len(spread) - 1
    # Evenly spread over states, run times and moments within a run, as numbers drawn are not.
    long, part = (np.arange(DRAWS) * step % 1 for step in EVEN_STEPS)
    running = run_s[state] * spread[np.minimum(np.searchsorted(by_length, long), last)]
    before = left[state] + rng.poisson(rate_per_s * running * part)
    full, place = np.divmod(before, most)
    wait = running * (1 - part)
    for number in range(int(full.max(initial=0))):
        more = full > number
        wait[more] += seconds[-1] * rng.choice(spread, int(more.sum()))
    place[idle], wait[idle] = 0, 0.0
    behind = np.where(idle, 0, rng.poisson(rate_per_s * wait))
    size = np.minimum(most, place + 1 + behind)
    found: np.ndarray = wait + seconds[size - 1] * rng.choice(spread, DRAWS)
    return found
