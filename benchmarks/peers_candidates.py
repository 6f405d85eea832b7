"""Who takes part in `peers.py`, in what, and what has to be exported first."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from export_cost import run as run_measured
from peers_prepare import CAPTIONS, MODEL, SEED

from clipperf.engines import contract
from clipperf.errors import ClipperfError
from clipperf.nouns.variant import SIDES

EAGER = "PyTorch eager"
OPEN_CLIP = "open_clip"
RUNTIMES = (
    *(("onnx", "fp32"), ("onnx", "int8")),
    *(("openvino", "fp32"), ("openvino", "int8w"), ("openvino", "int8")),
)
STREAMS = 2
"""As many as cores. Not for one input at once, which is then a matter of one core."""

HERE = Path(__file__).resolve().parent

LEAST_COSINE = {"fp32": 0.9999, "int8w": 0.99, "int8": 0.97}
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

    `own` says whether it runs in this Python or in that of the peers. `kinds` limits what it is
    measured in.
    """

    name: str
    adapter: str
    own: bool
    options: dict[str, Any] = field(default_factory=dict)
    export: str = ""
    precision: str = "fp32"
    kinds: tuple[str, ...] = ("image", "jpeg", "text", "tokenise")

    @property
    def ours(self) -> bool:
        """Whether it is clipperf's."""
        return self.adapter == "peers_clipperf"


def peers(exports: Path) -> list[Candidate]:
    """Everybody but clipperf."""
    model = {"model": MODEL}

    def optimum(name: str, export: str, padding: str, precision: str = "fp32") -> Candidate:
        options = {
            "graph": str(exports / export), "both": export == "optimum", "padding": padding,
            "file": "model.onnx" if precision == "fp32" else "model_quantized.onnx",
        }  # fmt: skip
        return Candidate(name, "peers_optimum", False, options, export, precision)

    return [
        Candidate(EAGER, "peers_torch", True, {**model, "runtime": "torch"}),
        Candidate("torch.compile", "peers_torch", True, {**model, "runtime": "torch-compile"}),
        Candidate(OPEN_CLIP, "peers_open_clip", True, model),
        Candidate("sentence-transformers", "peers_sentence_transformers", False),
        Candidate(
            "faster-clip", "peers_faster_clip", False, {"image_answer": "image_quickgelu"}, "",
            "int8",
        ),
        optimum("optimum-onnx, 77 tokens", "optimum", "max_length"),
        optimum("optimum-onnx, a graph a tower", "optimum-towers", "longest"),
        optimum("optimum-onnx int8, a graph a tower", "optimum-int8", "longest", "int8"),
    ]  # fmt: skip


def ours(exports: Path) -> tuple[list[Candidate], dict[str, str]]:
    """clipperf's runtimes that work here, and why the others are left out."""
    found, skipped = [], {}
    for runtime, precision in RUNTIMES:
        name = f"clipperf {runtime} {precision}"
        if reason := missing(runtime, precision):
            skipped[name] = reason
            continue
        export = f"clipperf-{runtime}-{precision}"
        options = {"graph": str(exports / export)}
        one = Candidate(name, "peers_clipperf", True, options, export, precision)
        found.append(one)
        if (runtime, precision) == ("onnx", "int8"):
            streams = {**options, "load": {"streams": STREAMS}}
            found.append(replace(one, name=f"{name}, {STREAMS} streams", options=streams))
        if precision == "int8":
            # What is decoded fast is handed over as bytes: the tower normalises them itself.
            export += "-uint8"
            fast = {"graph": str(exports / export), "load": {"preprocess": "fast"}}
            found.append(
                replace(
                    one,
                    name=f"{name}, fast pixels as uint8",
                    options=fast,
                    export=export,
                    kinds=("jpeg",),
                )
            )
    if importlib.util.find_spec("cykooz_resizer") is None:
        for one in [one for one in found if "preprocess" in one.options.get("load", {})]:
            found.remove(one)
            skipped[one.name] = "cykooz-resizer is not installed"
    return found, skipped


def missing(runtime: str, precision: str) -> str:
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


# --- exports -------------------------------------------------------------------------------


def export_commands(name: str, work: Path, peers_python: str) -> list[list[str]]:
    """The commands that make one export; clipperf's are one a tower, as workers load one.

    Its int8 starts from the seed, not from the file of the same weights: what is known to be
    random is not put to the accuracy gate, which would keep layers in fp32 by chance. A tower
    that fails the gate of cosines is kept, which exits with 1; `LEAST_COSINE` judges it here.
    """
    out = work / "exports" / name
    script = str(HERE / "peers_exports.py")
    if not name.startswith("clipperf-"):
        python = sys.executable if name == "torch" else peers_python
        return [[python, script, name, str(work / "inputs"), str(out)]]
    _, runtime, precision, *pixels = name.split("-")
    file = str(work / "inputs" / "open_clip.safetensors")
    pretrained = file if precision == "fp32" else f"random:{SEED}"
    kept = [sys.executable, "-c", _KEPT]
    return [
        [
            *((*kept, str(out / side / "manifest.json")) if precision == "int8" else ()),
            *(sys.executable, "-m", "clipperf", "export", MODEL, "--quiet", "--tower", side),
            *("--pretrained", pretrained),
            *("--runtime", runtime, "--precision", precision, "--out", str(out / side)),
            *(("--input", pixels[0]) if pixels else ()),
            *(("--keep-failed",) if precision == "int8" else ()),
        ]
        for side in (("image",) if pixels else SIDES)
    ]


def make_export(
    name: str, work: Path, peers_python: str, threads: int, environment: Callable[[int], dict]
) -> dict[str, Any]:
    """Run an export, or take the record of the one that is there already.

    The record holds "seconds", summed over its commands, and "rss_bytes" and "anonymous_bytes",
    those of the larger command summed over its processes; or "error".
    """
    record = work / "exports" / f"{name}.json"
    if record.is_file():
        return dict(json.loads(record.read_text(encoding="utf-8")))
    record.parent.mkdir(parents=True, exist_ok=True)
    seconds, peak, anonymous = 0.0, 0, 0
    env = {**environment(threads), "CLIPPERF_HOME": str(work / "home"), "HF_HUB_OFFLINE": "1"}
    log = work / "exports" / f"{name}.log"
    for command in export_commands(name, work, peers_python):
        try:
            taken_s, rss, anon = run_logged(command, env, log)
        except OSError as exc:
            return {"error": str(exc)}
        except SystemExit:
            return {"error": last_line(log)[:400]}
        seconds, peak, anonymous = seconds + taken_s, max(peak, rss), max(anonymous, anon)
    found = {"seconds": seconds, "rss_bytes": peak, "anonymous_bytes": anonymous}
    record.write_text(json.dumps(found), encoding="utf-8")
    return found


def run_logged(command: Sequence[str], env: dict[str, str], log: Path) -> tuple[float, int, int]:
    """`export_cost.run` with what the command says on standard error kept in a file."""
    wrapper = [sys.executable, "-c", _LOGGED, str(log), *command]
    return run_measured(wrapper, env)


_KEPT = (
    "import os, subprocess, sys; subprocess.run(sys.argv[2:]);"
    "sys.exit(not os.path.exists(sys.argv[1]))"
)
_LOGGED = (
    "import os, sys; f = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND);"
    "os.dup2(f, 2); os.execv(sys.argv[2], sys.argv[2:])"
)


def last_line(log: Path) -> str:
    """The last thing that a failed command said."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.is_file() else []
    return next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")


def weight_bytes(candidate: Candidate, side: str) -> int | None:
    """The bytes of one tower of clipperf's on disk, by its manifest."""
    if not candidate.ours:
        return None
    manifest = Path(candidate.options["graph"]) / side / "manifest.json"
    towers = json.loads(manifest.read_text(encoding="utf-8"))["towers"]
    return sum(int(tower["disk_bytes"]) for tower in towers)


def peers_environment(env: dict[str, str], work: Path, threads: int) -> dict[str, str]:
    """What the workers get besides: no hub, the same threads in Rust, compiled code kept here."""
    return {
        **env,
        "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parent)]),
        "RAYON_NUM_THREADS": str(threads),
        "HF_HUB_OFFLINE": "1",
        "TORCHINDUCTOR_CACHE_DIR": str(work / "inductor"),
    }
