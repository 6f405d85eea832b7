"""What is measured, and the engine that runs it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from clipperf.nouns.endpoint import REMOTE, Endpoint
from clipperf.nouns.model import ModelSpec
from clipperf.nouns.variant import PixelDtype, Side

if TYPE_CHECKING:
    import numpy as np

Status = Literal["ok", "failed", "unsupported"]

CLOSED_LOOP = "closed-loop"
"""The usual scenario: one caller, who asks again as soon as the answer is there."""


@dataclass(frozen=True)
class Cell:
    """What exactly is measured: the key of every measurement and score.

    `tokens` is the length of the text inputs (None for images). `streams` batches run at once
    and share the `threads`. `input` is what images are fed as; it says nothing of a text tower.
    `scenario` is how calls come while time is taken. Of what a server runs (`is_remote`) the
    runtime is the protocol that it is asked in, the precision "", as nobody knows it, and the
    streams are connections; its threads are its own affair, and 1 here. `instances` are processes
    side by side, each with so many threads and streams; on several GPUs, which `device` then names
    with commas, they are dealt out in turn.
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
    scenario: str = CLOSED_LOOP
    instances: int = 1

    @property
    def engines(self) -> int:
        """How many batches run at once."""
        return self.streams * self.instances

    @property
    def at_once(self) -> int:
        """How many inputs run at once."""
        return self.batch * self.engines

    @property
    def setup(self) -> str:
        """Runtime and precision as people say it, and the input where it is not the usual one."""
        usual = f"{self.runtime} {self.precision}".strip()
        return usual if self.input == "float32" else f"{usual} {self.input}"

    @property
    def is_remote(self) -> bool:
        """Whether a server runs it, wherever that is."""
        return self.device == REMOTE

    @property
    def label(self) -> str:
        """A short name for progress lines and errors."""
        several = f", {self.instances} instances" if self.instances > 1 else ""
        where = f"{self.model_id} {self.side} {self.setup} {self.device}"
        return f"{where} batch {self.batch}{several}"


@dataclass(frozen=True)
class EngineRequest:
    """What a runtime needs to open one tower; plain values, so that it crosses to a worker.

    `path` is the absolute path of the artifact's model file (None for PyTorch, which builds the
    tower from `spec`). `key` is the artifact's, a digest of everything that changes its bytes,
    and `cache_folder` an absolute path where a runtime may keep what it compiles from them.
    `held` names the same file through a handle on its folder (see `serve.held`), for this process
    and as long as the tower is being opened. `endpoint` is the server's model that runs the cell,
    where one does.
    """

    cell: Cell
    spec: ModelSpec
    path: str | None
    normalized: bool = False
    key: str = ""
    cache_folder: str | None = None
    held: str | None = None
    endpoint: Endpoint | None = None

    @property
    def file(self) -> str | None:
        """The file to open where only its content counts, not what it is called."""
        return self.held or self.path


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
