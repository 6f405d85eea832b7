"""One tower to make, and what was made: plain values that cross to a child process and back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from clipperf.errors import ArtifactError
from clipperf.nouns.artifact import Artifact, Cut, Parity, Quantization, TensorSpec
from clipperf.nouns.model import ModelSpec, Similarity
from clipperf.nouns.variant import Side, Variant
from clipperf.system import store

Tell = Callable[[str], None]
"""Told of each stage as it begins."""


@dataclass(frozen=True)
class Job:
    """One tower to make.

    `folder` is where the towers of both sides and what they share will lie, `file` the path of
    the model file. `sources` are the folders of what the `exporter` needs. `min_cosine` is what
    the parity gate asks for.
    """

    exporter: str
    spec: ModelSpec
    side: Side
    variant: Variant
    folder: str
    file: str
    sources: tuple[str, ...]
    threads: int
    min_cosine: float

    @property
    def label(self) -> str:
        """What it is called in errors."""
        return f"{self.spec.id} {self.side} {self.variant.runtime} {self.variant.precision}"

    @property
    def target(self) -> Path:
        """The path of the model file."""
        return Path(self.file)

    @property
    def shared(self) -> Path:
        """The folder with preprocessing, tokenizer and PyTorch's embeddings."""
        return Path(self.sources[0] if self.sources else self.folder)

    def source(self, place: int = 0) -> tuple[Path, Artifact]:
        """A tower that it needs, by the place of its folder: its model file and what it is.

        Raises:
            ArtifactError: it is gone.
        """
        folder = Path(self.sources[place])
        tower = store.read_manifest(folder).tower(self.side)
        if tower is None:
            raise ArtifactError(f"{folder} lost its {self.side} tower: export the model again")
        return folder / tower.path, tower


@dataclass(frozen=True)
class Built:
    """A tower that a job has made; see `Artifact` for most fields.

    `holds` is False where a search for layers to keep found no way to keep to its bounds;
    `needed` are the layers that it would have taken, none where all of them were not enough.
    `graph` is the key of its kept graph. `emulated` is the verdict on a tower in fp16 as a GPU
    would round it, None where its activations are far from what fp16 holds.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    tokens: int | None = None
    first_token: int | None = None
    weight_bits: int | None = None
    quantization: Quantization | None = None
    holds: bool = True
    needed: tuple[str, ...] = ()
    assumptions: dict[str, str] = field(default_factory=dict)
    cut: Cut | None = None
    similarity: Similarity | None = None
    joined: int = 0
    graph: str | None = None
    build_s: float = 0.0
    peak_rss_bytes: int | None = None
    features: int | None = None
    in_fp32: tuple[str, ...] = ()
    emulated: Parity | None = None


def like(source: Artifact) -> Built:
    """A tower that takes and gives what its source does, and was rounded as that was."""
    return Built(
        source.inputs,
        source.outputs,
        source.tokens,
        source.first_token,
        source.weight_bits,
        source.quantization,
        assumptions=source.assumptions,
        cut=source.cut,
        similarity=source.similarity,
        joined=source.joined,
        features=source.features,
        in_fp32=source.in_fp32,
    )
