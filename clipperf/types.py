"""The nouns of clipperf: frozen records without I/O.

Everything that crosses a process or file boundary is one of these; `serialize` turns them into
plain JSON values and back. What was not measured is None, never 0.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeVar

import numpy as np

Side = Literal["image", "text"]
SIDES: tuple[Side, Side] = ("image", "text")

Precision = Literal["fp32", "tf32", "fp16", "bf16", "int8w", "int8", "int8-static", "fp8"]

PixelDtype = Literal["float32", "uint8"]
"""What an image tower takes: normalised floats, or bytes that it normalises itself."""
PIXEL_DTYPES: tuple[PixelDtype, PixelDtype] = ("float32", "uint8")

Status = Literal["ok", "failed", "unsupported"]

T = TypeVar("T")


@dataclass(frozen=True)
class ModelSpec:
    """One CLIP: an architecture and where its weights come from.

    `id` is ``ARCHITECTURE::WEIGHTS``, for example ``ViT-B-32::laion2b_s34b_b79k``,
    ``ViT-B-32::random:0`` or ``ViT-B-32::checkpoint.safetensors``.
    `pretrained` is an open_clip tag, ``random:SEED``, or the absolute path of a file.
    """

    id: str
    family: str
    architecture: str
    pretrained: str
    image_px: int
    context_tokens: int
    embed_dim: int
    image_parameters: int | None = None
    text_parameters: int | None = None
    licence: str | None = None

    @property
    def random_weights(self) -> bool:
        """Whether the weights are seeded noise: right for sizing, meaningless for accuracy."""
        return self.pretrained.split(":")[0] == "random"


@dataclass(frozen=True)
class Tower:
    """One half of a CLIP, ready to run in PyTorch. Holds live objects; never serialised.

    `module` maps a float32 image batch [batch, 3, px, px] or an int64 token batch
    [batch, tokens] to float32 embeddings [batch, embed_dim].
    `example` is one valid input batch of 2. `dynamic_tokens` says whether a text batch cut at
    its longest EOT gives the same embeddings as the padded one (causal, EOT-pooled towers).
    `start_id` is the token that the tokenizer begins every text with, None where it has none.
    """

    spec: ModelSpec
    side: Side
    module: Any
    example: Any
    dynamic_tokens: bool
    start_id: int | None = None


@dataclass(frozen=True)
class TensorSpec:
    """An input or output of an engine; a dynamic axis is a name, such as "batch"."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True)
class Parity:
    """How close an artifact's embeddings are to PyTorch fp32 on the same `n` inputs.

    Cosines are per input, between the two runtimes' embeddings. `top1_agreement` is the share
    of inputs whose nearest neighbour among the other side's reference embeddings is the same,
    None below three inputs, where there is no choice.
    """

    n: int
    batches: tuple[int, ...]
    min_cosine: float
    mean_cosine: float
    max_abs_diff: float
    top1_agreement: float | None
    finite: bool
    required_min_cosine: float
    passed: bool
    inputs: str


@dataclass(frozen=True)
class Artifact:
    """One exported tower on disk.

    `path` is relative to the artifact folder; `files` maps every file (external data included),
    relative to the folder, to its sha256. `tokens` is the fixed text length, or None where the
    token axis is dynamic (and for images). `key` holds everything that changes the bytes.
    `options` are the settings of the build that users choose, such as an engine's batch range;
    `notes` what the build found out, such as the layers that had to stay in fp32.
    """

    model_id: str
    side: Side
    runtime: str
    precision: str
    path: str
    disk_bytes: int
    files: dict[str, str]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    normalized: bool
    tokens: int | None
    key: str
    weights_id: str
    build_s: float
    peak_rss_bytes: int | None
    built_with: dict[str, str]
    parity: Parity | None
    options: dict[str, str] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ShapeRange:
    """The shapes of one input that an engine takes: smallest, the one it is tuned for, largest."""

    name: str
    min: tuple[int, ...]
    opt: tuple[int, ...]
    max: tuple[int, ...]


@dataclass(frozen=True)
class PlanInfo:
    """The sidecar of a TensorRT plan: what cannot be read back from the plan without its GPU.

    `flavour` is the runtime ("trt", "trt-rtx"), `version` TensorRT's own. `targets` are GPU
    kinds such as "sm89"; `gpu` is the name of the one that it was built on, None where it was
    built ahead of time. `options` are the builder's settings, `onnx_sha256` covers the source
    graph with its external data.
    """

    schema_version: int
    flavour: str
    version: str
    model_id: str
    side: Side
    precision: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    profile: tuple[ShapeRange, ...]
    targets: tuple[str, ...]
    gpu: str | None
    options: dict[str, str]
    onnx_sha256: str
    plan_sha256: str
    plan_bytes: int
    build_s: float
    peak_rss_bytes: int | None
    created_utc: str


@dataclass(frozen=True)
class Manifest:
    """`manifest.json` of an artifact folder: one model at one precision, one or both towers."""

    schema_version: int
    spec: ModelSpec
    runtime: str
    precision: str
    preprocess: dict[str, Any]
    tokenizer: dict[str, Any]
    files: dict[str, str]
    towers: tuple[Artifact, ...]
    created_utc: str
    clipperf_version: str

    def tower(self, side: Side) -> Artifact | None:
        """The artifact of one side, or None where only the other was exported."""
        return next((t for t in self.towers if t.side == side), None)


@dataclass(frozen=True)
class Cell:
    """What exactly is measured: the key of every measurement and score.

    `tokens` is the length of the text inputs (None for images). `streams` batches run at once
    and share the `threads`. `input` is what images are fed as; it says nothing of a text tower.
    """

    model_id: str
    side: Side
    runtime: str
    precision: str
    device: str
    batch: int
    threads: int
    tokens: int | None = None
    streams: int = 1
    input: PixelDtype = "float32"

    @property
    def engine(self) -> str:
        """Runtime and precision as people say it, and the input where it is not the usual one."""
        usual = f"{self.runtime} {self.precision}"
        return usual if self.input == "float32" else f"{usual} {self.input}"

    @property
    def label(self) -> str:
        """A short name for progress lines and errors."""
        return f"{self.model_id} {self.side} {self.engine} {self.device} batch {self.batch}"


@dataclass(frozen=True)
class EngineRequest:
    """What a runtime needs to open one tower; plain values, so that it crosses to a worker.

    `path` is the absolute path of the artifact's model file (None for PyTorch, which builds the
    tower from `spec`). `key` is the artifact's, a digest of everything that changes its bytes,
    and `cache_folder` an absolute path where a runtime may keep what it compiles from them.
    """

    cell: Cell
    spec: ModelSpec
    path: str | None
    normalized: bool = False
    key: str = ""
    cache_folder: str | None = None


@dataclass(frozen=True)
class Phases:
    """Seconds of one run by the GPU's own events: copy in, compute, copy out."""

    h2d_s: float
    compute_s: float
    d2h_s: float


class Engine(Protocol):
    """A loaded tower in some runtime."""

    def run(self, array: np.ndarray) -> np.ndarray:
        """Embed a batch: returns float32 [batch, embed_dim] once it is on the host.

        As many threads as the engine has `streams` may call it at once, else one alone.
        """
        ...

    def close(self) -> None:
        """Free what the runtime holds; safe to call twice."""
        ...


@dataclass(frozen=True)
class GpuLoad:
    """What NVML saw of the GPU while one cell ran without pause for `seconds` and `runs` runs.

    `energy_j` is the whole board's, from its counter, else from power samples (`energy_source`).
    Clocks are the lowest and highest SM clock seen; `throttle` names the reasons that slowed it.
    """

    seconds: float
    runs: int
    energy_j: float | None = None
    energy_source: str | None = None
    power_w: float | None = None
    sm_clock_mhz: tuple[int, int] | None = None
    temperature_c: int | None = None
    throttle: tuple[str, ...] = ()


@dataclass(frozen=True)
class Measurement:
    """One pass over one cell, made in one fresh process.

    Memory: `rss_bare_bytes` is the worker before it imported anything of the runtime,
    `rss_load_peak_bytes` and `rss_run_peak_bytes` are kernel high-water marks (VmHWM) of the two
    phases, `rss_peak_bytes` the larger. Time: `run_s` are raw seconds of single calls, and
    `blocks` says to which block of calls each belongs. Cells with the same `group` took turns
    block by block, so their ratio is taken between blocks of equal number.
    GPU: `vram_peak_bytes` as `vram_source` says, `vram_allocated_bytes` by the runtime's own
    account. `phases_s` holds the samples of separate runs, one per run under each of "h2d",
    "compute" and "d2h" (the GPU's events) and "host" (the host's clock around the same run).
    """

    cell: Cell
    kind: Literal["time", "memory"]
    status: Status
    env_id: str
    load_s: float | None = None
    first_run_s: float | None = None
    run_s: tuple[float, ...] = ()
    blocks: tuple[int, ...] = ()
    group: str | None = None
    stable: bool | None = None
    rss_bare_bytes: int | None = None
    rss_load_peak_bytes: int | None = None
    rss_run_peak_bytes: int | None = None
    rss_peak_bytes: int | None = None
    rss_source: str | None = None
    vram_peak_bytes: int | None = None
    vram_source: str | None = None
    vram_allocated_bytes: int | None = None
    phases_s: dict[str, tuple[float, ...]] | None = None
    gpu: GpuLoad | None = None
    disk_bytes: int | None = None
    provider: str | None = None
    random_weights: bool = False
    error: str | None = None


@dataclass(frozen=True)
class Score:
    """One accuracy figure of one cell, beside the PyTorch baseline on the same samples.

    `ci95` belongs to `value`; `difference` is value minus baseline with its paired `diff_ci95`.
    `flips` counts samples whose prediction differs between the two, right or wrong.
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
    chance: float | None = None
    random_weights: bool = False
    env_id: str = ""


@dataclass(frozen=True)
class Environment:
    """The machine and the versions under which something was measured."""

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


@dataclass(frozen=True)
class ResultFile:
    """What one `profile` or `eval` run leaves on disk; rewritten after every row."""

    schema_version: int
    kind: Literal["profile", "eval"]
    command: str
    created_utc: str
    environment: Environment
    measurements: tuple[Measurement, ...] = ()
    scores: tuple[Score, ...] = ()
    specs: tuple[ModelSpec, ...] = ()
    notes: tuple[str, ...] = ()
    path: str = ""


@dataclass(frozen=True)
class Trial:
    """What came of one candidate of a tuning.

    `batch_s` is what a batch takes at most, as far as the samples say: the 90th percentile, below
    64 samples the slowest. `verdict` is why it was not chosen, "" for the chosen one.
    """

    cell: Cell
    verdict: str
    items_per_s: float | None = None
    items_interval: tuple[float, float] | None = None
    batch_s: float | None = None
    load_s: float | None = None
    samples: int = 0


@dataclass(frozen=True)
class TunedTower:
    """The best candidate of one tower. `artifact` is its folder, seen from the tuning file."""

    cell: Cell
    artifact: str
    key: str
    items_per_s: float
    items_interval: tuple[float, float] | None
    batch_s: float
    rss_peak_bytes: int | None


@dataclass(frozen=True)
class Tuning:
    """What `tune` leaves on disk and `load` opens.

    `max_batch_s` is the bound on the time of a batch, `margin` the points of recall@1 and top-1
    that a quantised tower may lose; `budget_s` was allowed, `spent_s` taken.
    """

    schema_version: int
    kind: Literal["tuning"]
    command: str
    created_utc: str
    environment: Environment
    spec: ModelSpec
    max_batch_s: float | None
    margin: float
    budget_s: float
    spent_s: float
    towers: tuple[TunedTower, ...]
    trials: tuple[Trial, ...]


@dataclass(frozen=True)
class Report:
    """A table with its words: what every reporter renders and none of them computes."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    findings: tuple[str, ...] = ()
    caveats: tuple[str, ...] = ()
    numeric: tuple[bool, ...] = field(default=())
