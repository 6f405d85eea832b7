"""Inputs that come as users send them: how they are offered to an engine, and what came of it.

The scenarios are those of MLPerf Inference (https://arxiv.org/abs/1911.02549, section III), and
LoadGen, its load generator, drives them.
"""

from __future__ import annotations

from dataclasses import dataclass

SINGLE_STREAM = "single-stream"
"""The scenario: one input at a time, the next as soon as the answer is there."""

OFFLINE = "offline"
"""The scenario: all inputs are there at once."""

SERVER = "server"
"""The scenario: inputs come one by one at random moments, as many a second as keep to a bound."""

SERVING = (SINGLE_STREAM, OFFLINE, SERVER)


@dataclass(frozen=True)
class Serving:
    """What is asked for.

    `slo_s` bounds the `percentile` (a share of one) of the seconds from an input's arrival to its
    embedding; None but for "server". There an engine is given up to a cell's batch of inputs at
    once, and waits for them for `max_delay_s` after the first; the rate is known once one that does
    not hold is at most `rel_width` above it. A test takes `min_s` seconds and `min_queries` queries
    at least. `seed` is that of arrival times and of the order of inputs. Where there is a
    `rate_per_s` it alone is offered, and no other looked for.
    """

    slo_s: float | None = None
    percentile: float = 0.99
    max_delay_s: float = 0.002
    rel_width: float = 0.05
    min_s: float = 10.0
    min_queries: int = 1000
    seed: int = 0
    rate_per_s: float | None = None


@dataclass(frozen=True)
class Trial:
    """One test of LoadGen's: what was offered, what came of it, what LoadGen says of it.

    `offered_per_s` is the mean rate of arrivals that was asked for (None where nothing sets it),
    `per_s` how many inputs were finished a second, `latency_s` their latencies in seconds by
    percentile in percent, as LoadGen took them, `least_s` the lowest. `valid` is its verdict, and
    `reasons` why it is not. `batches` says how many runs had how many inputs. `settings` are
    LoadGen's that differ from its own, its version and seeds among them. `most_at_once` is how many
    runs were under way together at most, `refused` how many inputs a server had too much to do for.
    `server_batches` are as `batches`, of what a server put together by its own account.
    """

    queries: int
    per_s: float
    latency_s: dict[str, float]
    valid: bool
    reasons: tuple[str, ...] = ()
    offered_per_s: float | None = None
    batches: tuple[tuple[int, int], ...] = ()
    settings: dict[str, float | str] | None = None
    least_s: float = 0.0
    most_at_once: int | None = None
    refused: int = 0
    server_batches: tuple[tuple[int, int], ...] = ()

    @property
    def rate_per_s(self) -> float:
        """What this test stands for: the rate that was asked for, else that of the answers."""
        return self.per_s if self.offered_per_s is None else self.offered_per_s

    @property
    def mean_batch(self) -> float | None:
        """Inputs a run, the server's where it tells; None where none was counted."""
        batches = self.server_batches or self.batches
        runs = sum(count for _, count in batches)
        return sum(size * count for size, count in batches) / runs if runs else None


@dataclass(frozen=True)
class ServingRun:
    """What a cell gave: what was asked, and every trial in its order.

    `best` is the place among them of the one that counts, None where none is valid.
    """

    serving: Serving
    trials: tuple[Trial, ...] = ()
    best: int | None = None

    @property
    def counts(self) -> Trial | None:
        """The trial that counts: in "server" the valid one with the highest rate."""
        return None if self.best is None else self.trials[self.best]
