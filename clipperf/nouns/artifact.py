"""Exported towers on disk: what an artifact folder's manifest and a plan's sidecar hold."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from clipperf.nouns.model import ModelSpec, Similarity
from clipperf.nouns.variant import Side

INPUT_NAMES: dict[Side, str] = {"image": "pixel_values", "text": "input_ids"}
OUTPUT_NAMES: dict[Side, str] = {"image": "image_embeds", "text": "text_embeds"}
"""What exported graphs call their tensors, as the ecosystem's do (transformers, optimum)."""


FEATURES_NAME = "image_features"
"""The second output of image towers that give what they compute before their projection."""

INPUTS_FILE = "parity-inputs.zip"
"""The file with the images and texts that an artifact was judged on."""

FEATURES_REFERENCE = "parity-image-features.npy"
"""The file with PyTorch fp32's features of the first parity inputs, [n, width]."""


LAYOUT_RECORD = "clipperf_layout.json"
"""The file that says which layout a folder holds (`export.deployment`)."""


def reference_name(side: Side) -> str:
    """The file with PyTorch fp32's embeddings of a side's first parity inputs, [n, embed_dim]."""
    return f"parity-{side}.npy"


PARITY_FILES: dict[Side, tuple[str, ...]] = {
    "image": (INPUTS_FILE, reference_name("image"), FEATURES_REFERENCE),
    "text": (INPUTS_FILE, reference_name("text")),
}
"""What an artifact of each side tests itself with."""


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
class Quantization:
    """What it took to round a tower to eight bits, and what that cost.

    `kept` are those of its `layers` that stayed in the precision `kept_in`. `min_cosine` is the
    least between its embeddings of the `samples` and fp32's, `points_lost` the largest loss of
    recall@1 and top-1 in percentage points, and `points_at_most` its 97.5 % bound; None with random
    weights.
    """

    layers: int
    kept: tuple[str, ...]
    kept_in: str
    samples: int
    min_cosine: float
    points_lost: float | None = None
    points_at_most: float | None = None


CutAt = Literal["eot", "padding"]


@dataclass(frozen=True)
class Cut:
    """Where the texts of a tower end, behind which they may be cut without changing an embedding.

    `at` is "eot" for their first end token, "padding" for what is padding to the last; None where
    every text has to have its full length. `why` is what showed it, in words.
    """

    at: CutAt | None
    why: str


@dataclass(frozen=True)
class Artifact:
    """One exported tower on disk.

    `path` is relative to the artifact folder; `files` maps every file (external data included),
    relative to the folder, to its sha256. `tokens` is the fixed text length, or None where the
    token axis is dynamic (and for images). `key` holds everything that changes the bytes.
    `options` are the settings of the build that users choose, such as an engine's batch range.
    `first_token` is the one that a text tower takes every text to begin with, None where it reads
    it. `weight_bits` are those of an int8 weight, sign included, where a CPU limits them or could.
    `assumptions`, `similarity`: see `nouns.model.Tower`. `cut` is None for images. `joined` are
    the parts whose branches became one convolution (`graph.fuse`). `made_on` is the machine that
    judged it, as far as that decides what a CPU runtime computes (`serve.machine`). `in_fp32` are
    the operators of a tower in fp16 that compute in fp32 (`export.judge.halves`).
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
    first_token: int | None = None
    weight_bits: int | None = None
    quantization: Quantization | None = None
    assumptions: dict[str, str] = field(default_factory=dict)
    cut: Cut | None = None
    similarity: Similarity | None = None
    joined: int = 0
    features: int | None = None
    made_on: dict[str, str] = field(default_factory=dict)
    in_fp32: tuple[str, ...] = ()

    @property
    def cut_at(self) -> CutAt | None:
        """Where its texts may be cut; None where they may not, and for images."""
        return None if self.cut is None else self.cut.at

    @property
    def findings(self) -> dict[str, str]:
        """What the build found out, as people read it."""
        said = dict(self.assumptions)
        if self.cut is not None and self.cut.at != "eot":
            how = "cut at their padding" if self.cut.at else "not cut"
            said["texts"] = f"{how} ({self.cut.why})"
        if self.joined:
            said["branches"] = f"joined in {self.joined} parts"
        if self.in_fp32:
            said["operators in fp32"] = f"{len(self.in_fp32)}, such as {self.in_fp32[0]}"
        if self.features is not None and len(self.outputs) == 1:
            said["features"] = "the embeddings: no projection after them is known"
        if self.first_token is not None:
            said["first token"] = f"taken to be {self.first_token}, not read"
        if (cost := self.quantization) is not None:
            said["layers"] = str(cost.layers)
            said[f"kept in {cost.kept_in}"] = ", ".join(cost.kept) or "none"
            said["samples"] = str(cost.samples)
            said["min cosine"] = f"{cost.min_cosine:.5f}"
            if cost.points_lost is not None:
                bound = cost.points_at_most
                most = "" if bound is None else f" (at most {bound:.2f}, for all that they tell)"
                said["points lost"] = f"{cost.points_lost:.2f}{most}"
        if self.weight_bits is not None:
            said["weight bits"] = str(self.weight_bits)
        return said


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
    graph with its external data, `weight_bits` are its weights' (see `Artifact`).
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
    weight_bits: int | None = None


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

    @property
    def cut_at(self) -> CutAt | None:
        """Where texts may be cut; None where they may not, or where there is no text tower."""
        text = self.tower("text")
        return None if text is None else text.cut_at

    @property
    def all_files(self) -> list[str]:
        """Every file that the manifest names, those of the towers included."""
        return [*self.files, *(name for tower in self.towers for name in tower.files)]

    @property
    def contradiction(self) -> str | None:
        """What cannot be, such as files outside of the folder; None: nothing."""
        sides = [tower.side for tower in self.towers]
        if len(set(sides)) < len(sides):
            return f"two towers of one side ({', '.join(sides)})"
        for tower in self.towers:
            if tower.path not in tower.files:
                return f"the {tower.side} tower's path {tower.path!r} is not one of its files"
            names = [output.name for output in tower.outputs[1:]]
            more = [FEATURES_NAME] if tower.side == "image" else []
            if len(tower.inputs) != 1 or not tower.outputs or names not in ([], more):
                return f"the {tower.side} tower has not one input and one output"
        outside = [name for name in self.all_files if not is_inside(name)]
        return f"{outside[0]!r} is no file inside the folder" if outside else None


def is_inside(name: str) -> bool:
    """Whether a path is one below a folder as manifests spell it: plain names, "/" between."""
    parts = name.split("/")
    return not any(part in ("", ".", "..") for part in parts) and not set(name) & set("\\:\0")


@dataclass(frozen=True)
class Layout:
    """`LAYOUT_RECORD` in a folder: what was written there, of what.

    `files` have the sha256 of each.
    """

    schema_version: int
    layout: str
    spec: ModelSpec
    sides: tuple[Side, ...]
    precisions: tuple[str, ...]
    key: str
    files: dict[str, str]
    created_utc: str
    clipperf_version: str
