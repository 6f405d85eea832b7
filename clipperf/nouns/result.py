"""What measuring and evaluating leave: rows, the machine, the file."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from clipperf.nouns.cell import Cell, Status
from clipperf.nouns.endpoint import Endpoint
from clipperf.nouns.from_files import FileRun
from clipperf.nouns.memory import Foreseen
from clipperf.nouns.model import ModelSpec
from clipperf.nouns.serving import ServingRun


@dataclass(frozen=True)
class GpuLoad:
    """What NVML saw of the GPU while one cell ran without pause for `seconds` and `runs` runs.

    `energy_j` is the whole board's, from its counter, else from power samples (`energy_source`).
    Clocks are the lowest and highest SM clock seen; `throttle` names the reasons that slowed it,
    `missing` says what NVML did not tell and why.
    """

    seconds: float
    runs: int
    energy_j: float | None = None
    energy_source: str | None = None
    power_w: float | None = None
    sm_clock_mhz: tuple[int, int] | None = None
    temperature_c: int | None = None
    throttle: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()


Kind = Literal["time", "memory", "files", "serving", "check"]
"""What kind of pass a row is of."""

NOISY = "noisy times"
"""How a file's note ends that says what other programs took of the cores."""

Ended = Literal["killed", "limit"]
"""What ended a process in the middle of a pass: somebody's signal, or a limit that it went over."""


@dataclass(frozen=True)
class Measurement:
    """One pass over one cell, made in one fresh process.

    A "files" row holds `file_runs` alone, a run for each way from files to vectors, a "serving" row
    what came of inputs that were offered, in `serving`. A "check" row is a memory pass under a
    limit, at a batch whose peak was `foreseen`.

    Memory: `rss_bare_bytes` is the worker before it imported anything of the runtime,
    `rss_load_peak_bytes` and `rss_run_peak_bytes` are kernel high-water marks (VmHWM) of the two
    phases, `rss_peak_bytes` the larger. Of several instances all are sums, from which
    `rss_shared_bytes`, the pages that they share and a sum counts too often, is taken off in
    `rss_peak_bytes`; where these are not known that is an upper bound. Time: `run_s` are raw
    seconds of single calls, and `blocks` says to which block of calls each belongs. Cells with the
    same `group` took turns block by block, so their ratio is taken between blocks of equal number.
    Of several instances `workers` says which of them made each call.
    GPU: `vram_peak_bytes` as `vram_source` says, `vram_allocated_bytes` by the runtime's own
    account. `phases_s` holds the samples of separate runs, one per run under each of "h2d",
    "compute" and "d2h" (the GPU's events) and "host" (the host's clock around the same run).
    `error` says why a pass failed, `last_words` what a process that died wrote at last, `ended`
    what ended it from outside. `endpoint` is the server that embedded, where one did: `env_id` is
    then the machine that asked it, and nothing of the server's memory is known.
    """

    cell: Cell
    kind: Kind
    status: Status
    env_id: str
    load_s: float | None = None
    first_run_s: float | None = None
    run_s: tuple[float, ...] = ()
    blocks: tuple[int, ...] = ()
    workers: tuple[int, ...] = ()
    group: str | None = None
    stable: bool | None = None
    rss_bare_bytes: int | None = None
    rss_load_peak_bytes: int | None = None
    rss_run_peak_bytes: int | None = None
    rss_peak_bytes: int | None = None
    rss_shared_bytes: int | None = None
    rss_source: str | None = None
    vram_peak_bytes: int | None = None
    vram_source: str | None = None
    vram_allocated_bytes: int | None = None
    phases_s: dict[str, tuple[float, ...]] | None = None
    gpu: GpuLoad | None = None
    disk_bytes: int | None = None
    provider: str | None = None
    file_runs: tuple[FileRun, ...] = ()
    serving: ServingRun | None = None
    foreseen: Foreseen | None = None
    endpoint: Endpoint | None = None
    random_weights: bool = False
    error: str | None = None
    last_words: str | None = None
    ended: Ended | None = None

    @property
    def impossible(self) -> str | None:
        """What no clock can have shown, None where there is nothing of the kind."""
        told = [("of a call", s, 0 < s < math.inf) for s in self.run_s]
        for name, each in (self.phases_s or {}).items():
            told += [(f"of {name}", s, 0 <= s < math.inf) for s in each]
        once = (("of loading", self.load_s), ("of the first run", self.first_run_s))
        told += [(name, s, 0 <= s < math.inf) for name, s in once if s is not None]
        wrong = next(((name, s) for name, s, possible in told if not possible), None)
        if wrong is None:
            return None
        c = self.cell
        where = f"{c.model_id}, {c.side} tower, {c.setup}, batch {c.batch} on {c.device}"
        return f"{wrong[1]:g} seconds {wrong[0]} ({where})"

    def by_worker(self, samples: Sequence[float]) -> list[tuple[float, ...]]:
        """`samples`, one for each of `run_s`, of each of several instances; all where not known."""
        if len(self.workers) != len(samples) or not samples:
            return [tuple(samples)]
        pairs = list(zip(samples, self.workers, strict=True))
        return [tuple(s for s, w in pairs if w == own) for own in sorted(set(self.workers))]


Aim = Literal["high", "same"]


@dataclass(frozen=True)
class Score:
    """One accuracy figure of one cell, beside the PyTorch baseline on the same samples.

    `ci95` belongs to `value`; `difference` is value minus baseline with its paired `diff_ci95`.
    `flips` counts samples whose prediction differs between the two, right or wrong; `mcnemar_p` is
    McNemar's exact p-value of the hits among them. `margin` is the share of one that was allowed to
    be lost; `samples_needed` would settle that, where these do not. `detail` says how the model
    came to its answers where that is found anew for each, such as a probe's strength. `group` is
    the part of the samples that it is of, such as the worst, "" for all. `aim` says what is good: a
    "high" figure, or the "same" as the baseline's, where neither more nor less is better. `hits`
    says which of the samples are hits, where the value is their share and samples are independent:
    a bit each, the first sample's the highest of the first byte, in hexadecimal digits.
    """

    cell: Cell
    dataset: str
    dataset_sha256: str
    metric: str
    value: float
    n: int
    ci95: tuple[float, float]
    baseline_runtime: str | None = None
    baseline_value: float | None = None
    difference: float | None = None
    diff_ci95: tuple[float, float] | None = None
    flips: int | None = None
    mcnemar_p: float | None = None
    margin: float | None = None
    samples_needed: int | None = None
    chance: float | None = None
    random_weights: bool = False
    env_id: str = ""
    detail: str = ""
    group: str = ""
    aim: Aim = "high"
    hits: str = ""


@dataclass(frozen=True)
class CrossScore:
    """One figure of queries that one engine embedded, in an index that another one did.

    `score.cell` embedded the queries and `index` what they search; `names` are what people call
    the two. The score's baseline is one of them by itself, with queries and index of its own:
    `alone` says which. A score without one is the share of nearest neighbours that it has in common
    with that engine.
    """

    score: Score
    index: Cell
    names: tuple[str, str]
    alone: Literal["queries", "index"]


@dataclass(frozen=True)
class Environment:
    """The machine and the versions under which something was measured.

    `gpu_uuid` is NVIDIA's name of the one GPU, or slice of one, that was used.
    """

    id: str
    cpu: str
    cores: int
    ram_bytes: int
    gpu: str | None
    vram_bytes: int | None
    driver: str | None
    os: str
    python: str
    versions: dict[str, str]
    git_sha: str | None
    created_utc: str
    gpu_uuid: str | None = None


@dataclass(frozen=True)
class ResultFile:
    """What one `profile` or `eval` run leaves on disk; rewritten after every row.

    `environments` are the machines that it ran on; each row's `env_id` says on which.
    """

    schema_version: int
    kind: Literal["profile", "eval"]
    command: str
    created_utc: str
    environments: tuple[Environment, ...]
    measurements: tuple[Measurement, ...] = ()
    scores: tuple[Score, ...] = ()
    crossed: tuple[CrossScore, ...] = ()
    specs: tuple[ModelSpec, ...] = ()
    notes: tuple[str, ...] = ()
    path: str = ""

    @property
    def impossible(self) -> str | None:
        """What no run can have measured, None where there is nothing of the kind."""
        scores = (*self.scores, *(crossed.score for crossed in self.crossed))
        cells = [*(m.cell for m in self.measurements), *(s.cell for s in scores)]
        for cell in dict.fromkeys(cells):
            numbers = (cell.batch, cell.threads, cell.streams)
            if min(numbers) < 1:
                batch, threads, streams = numbers
                return f"batch {batch}, {threads} threads, {streams} streams"
            if cell.instances < 1:
                return f"{cell.instances} instances"
        return next(filter(None, (m.impossible for m in self.measurements)), None)
