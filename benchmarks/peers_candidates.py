"""Who takes part in `peers.py`, in what, and who cannot on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from peers_environments import OWN, absent
from peers_prepare import CAPTIONS, MODEL

from clipperf.engines import contract, processor
from clipperf.errors import ClipperfError
from clipperf.nouns.variant import PRECISIONS

EAGER = "PyTorch eager"
OPEN_CLIP = "open_clip"
PYTORCH = (EAGER, f"{EAGER} bf16", "torch.compile", "torch.compile bf16")
"""All that PyTorch itself can do, the baseline first."""

RUNTIMES = (
    *(("onnx", "fp32"), ("onnx", "int8")),
    *(("openvino", "fp32"), ("openvino", "bf16"), ("openvino", "int8w")),
    *(("openvino", "int8"), ("openvino", "int8-bf16")),
)
STREAMED = (("onnx", "int8"), ("openvino", "int8"), ("openvino", "int8-bf16"))
"""What also runs in `STREAMS` streams."""
STREAMS = 2
"""As many as cores. Not for one input at once, which is then a matter of one core."""

LEAST_COSINE = {"fp32": 0.9999, "bf16": 0.999, "int8w": 0.99, "int8": 0.97, "int8-bf16": 0.97}
"""Below it a candidate gives another answer than PyTorch, and its speed is not worth reporting."""
LEAST_COSINE_JPEG = 0.99
"""Decoders and resizers differ, too."""


@dataclass(frozen=True)
class Work:
    """One workload: `n` inputs of a kind, `batch` at once; `texts` names the set of texts.

    Every call gets all `n`, so that captions of many lengths are in it even at batch 1.
    """

    name: str
    side: str
    kind: str
    n: int
    batch: int
    texts: str = ""

    @property
    def baseline(self) -> str:
        """The candidate that ratios are taken over."""
        return OPEN_CLIP if self.kind == "jpeg" else EAGER

    @property
    def message(self) -> dict[str, Any]:
        """What the worker needs to know of it."""
        return {"kind": self.kind, "texts": self.texts, "n": self.n, "batch": self.batch}


WORKS = (
    *(Work(f"images, batch {b}", "image", "image", b, b) for b in (1, 8, 32)),
    *(Work(f"JPEG to embedding, batch {b}", "image", "jpeg", b, b) for b in (1, 8, 32)),
    *(Work(f"texts of 8 tokens, batch {b}", "text", "text", b, b, "short") for b in (1, 8, 64)),
    *(
        Work(f"captions, batch {b}", "text", "text", max(16, b), b, "captions")
        for b in (1, 8, CAPTIONS)
    ),
    Work("captions to tokens, batch 64", "text", "tokenise", CAPTIONS, CAPTIONS, "captions"),
)


@dataclass(frozen=True)
class Candidate:
    """One way to run the model: an adapter, its options, and the exports that it needs.

    `home` is the environment that it lives in (see `peers_environments`), `modules` what that of
    clipperf may lack of it. `runtime` is clipperf's, empty for all others. `precision` says what it
    multiplies. `kinds` limits what it is measured in. `pixels` is how it makes them of JPEG files:
    "exact", or a method of clipperf's.
    """

    name: str
    adapter: str
    home: str = OWN
    options: dict[str, Any] = field(default_factory=dict)
    export: str = ""
    precision: str = "fp32"
    runtime: str = ""
    kinds: tuple[str, ...] = ("image", "jpeg", "text", "tokenise")
    modules: tuple[str, ...] = ()
    pixels: str = "exact"

    @property
    def ours(self) -> bool:
        """Whether it is clipperf's."""
        return self.runtime != ""

    @property
    def arithmetic(self) -> str:
        """What its large products are made of, by whose limit it is judged: see `roofline`."""
        numbers = PRECISIONS.get(self.precision).activations
        return {"int": "int8", "bfloat": "bf16"}.get(numbers.kind, "fp32")


def peers(exports: Path) -> list[Candidate]:
    """Everybody but clipperf."""

    def torch(runtime: str, precision: str) -> Candidate:
        name = {"torch": EAGER, "torch-compile": "torch.compile"}[runtime]
        name += "" if precision == "fp32" else f" {precision}"
        options = {"model": MODEL, "runtime": runtime, "precision": precision}
        return Candidate(name, "peers_torch", OWN, options, "", precision)

    def transformers(precision: str) -> Candidate:
        name = "transformers, SDPA" + ("" if precision == "fp32" else f", {precision}")
        return Candidate(
            name, "peers_transformers", OWN, {"dtype": precision}, "", precision,
            modules=("transformers",),
        )  # fmt: skip

    def optimum(name: str, export: str, padding: str, precision: str = "fp32") -> Candidate:
        options = {
            "graph": str(exports / export), "both": export == "optimum", "padding": padding,
            "file": "model.onnx" if precision == "fp32" else "model_quantized.onnx",
        }  # fmt: skip
        return Candidate(name, "peers_optimum", "peers", options, export, precision)

    def graph(export: str) -> dict[str, str]:
        return {"graph": str(exports / export)}

    return [
        *(torch(r, p) for r in ("torch", "torch-compile") for p in ("fp32", "bf16")),
        Candidate(OPEN_CLIP, "peers_open_clip", OWN, {"model": MODEL}),
        *(transformers(p) for p in ("fp32", "bf16")),
        Candidate("sentence-transformers", "peers_sentence_transformers", "peers"),
        Candidate("infinity-emb", "peers_infinity", "peers-infinity"),
        Candidate(
            "faster-clip", "peers_faster_clip", "peers", {"image_answer": "image_quickgelu"}, "",
            "int8",
        ),
        Candidate("fastembed", "peers_fastembed", "peers", graph("fastembed"), "fastembed"),
        optimum("optimum-onnx, 77 tokens", "optimum", "max_length"),
        optimum("optimum-onnx, a graph a tower", "optimum-towers", "longest"),
        optimum("optimum-onnx int8, a graph a tower", "optimum-int8", "longest", "int8"),
        Candidate(
            "optimum-intel int8, a graph a tower", "peers_optimum_intel", "peers-intel",
            graph("optimum-intel-int8"), "optimum-intel-int8", "int8",
        ),
    ]  # fmt: skip


def ours(exports: Path) -> list[Candidate]:
    """clipperf's: every runtime and precision, some in streams, some from pixels made faster."""
    found = []
    for runtime, precision in RUNTIMES:
        one = clipperf_one(exports, runtime, precision)
        found.append(one)
        if (runtime, precision) in STREAMED:
            found.append(in_streams(one))
    for runtime, precision in (("onnx", "int8"), ("openvino", best_int8())):
        # What is decoded fast is handed over as bytes: the tower normalises them itself.
        one = clipperf_one(exports, runtime, precision, "-uint8")
        for method in ("fast", "draft"):
            kind = replace(
                one,
                name=f"{one.name}, {method} pixels as uint8",
                options={**one.options, "load": {"preprocess": method}},
                kinds=("jpeg",),
                modules=(*one.modules, "cykooz_resizer"),
                pixels=method,
            )
            found += [kind, *([in_streams(kind)] if method == "draft" else [])]
    return found


def best_int8() -> str:
    """OpenVINO's precision of 8 bits that is the fastest here."""
    return "int8" if processor.lacks(PRECISIONS.get("int8-bf16")) else "int8-bf16"


def clipperf_one(exports: Path, runtime: str, precision: str, pixels: str = "") -> Candidate:
    """A runtime and precision as it is; `pixels` is what its export's name ends with."""
    export = f"clipperf-{runtime}-{precision}{pixels}"
    options = {"graph": str(exports / export)}
    name = f"clipperf {runtime} {precision}"
    return Candidate(name, "peers_clipperf", OWN, options, export, precision, runtime)


def in_streams(one: Candidate) -> Candidate:
    """The same in several streams."""
    load = {**one.options.get("load", {}), "streams": STREAMS}
    return replace(
        one, name=f"{one.name}, {STREAMS} streams", options={**one.options, "load": load}
    )


# --- who cannot take part ------------------------------------------------------------------


def able(
    candidates: Sequence[Candidate], environments: Path
) -> tuple[list[Candidate], dict[str, str]]:
    """Those that can run here, and why the others cannot."""
    reasons = {one.name: missing(one, environments) for one in candidates}
    return (
        [one for one in candidates if not reasons[one.name]],
        {name: reason for name, reason in reasons.items() if reason},
    )


def missing(one: Candidate, environments: Path) -> str:
    """Why a candidate cannot take part; empty where it can."""
    lacking = processor.lacks(PRECISIONS.get(one.precision))
    if lacking is not None:
        return f"this processor refuses it: {lacking}"
    if one.ours and (reason := lost_runtime(one.runtime, one.precision)):
        return reason
    return absent(one.home, one.modules, environments)


def lost_runtime(runtime: str, precision: str) -> str:
    """Why one of clipperf's runtimes cannot take part; empty where it can."""
    if runtime not in contract.names():
        return f"this clipperf has no runtime {runtime}"
    try:
        record = contract.get(runtime)
    except ClipperfError as exc:
        return str(exc)
    if precision not in record.precisions:
        return f"its runtime {runtime} does not run {precision}"
    usable = record.availability("cpu")
    return "" if usable.usable else f"{usable.detail}; to use it: {usable.fix}"
