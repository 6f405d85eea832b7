"""Makes what the candidates of `peers.py` load, one command after the other, each measured."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from export_cost import run as run_measured
from peers_candidates import Candidate
from peers_environments import OWN, python_of
from peers_prepare import MODEL, SEED

from clipperf.bench import meters
from clipperf.nouns.variant import PRECISIONS, SIDES

HERE = Path(__file__).resolve().parent

STARTS_FROM = {"optimum-int8": "optimum-towers", "fastembed": "optimum-towers"}
"""Exports that are made from the files of another."""


def wanted_exports(candidates: Sequence[Candidate]) -> dict[str, Candidate | None]:
    """The exports to make, in an order that serves those made from others, and for whom."""
    found: dict[str, Candidate | None] = {}
    for one in [one for one in candidates if one.export]:
        if one.export in STARTS_FROM:
            found.setdefault(STARTS_FROM[one.export], one)
        found.setdefault(one.export, one)
    return found


def export_commands(
    name: str, one: Candidate | None, work: Path, environments: Path
) -> list[list[str]]:
    """The commands that make one export; clipperf's are one a tower, as workers load one.

    Its int8 starts from the seed, not from the file of the same weights: what is known to be
    random is not put to the accuracy gate, which would keep layers in fp32 by chance. A tower
    that fails the gate of cosines is kept, which exits with 1; `LEAST_COSINE` judges it here, and
    the table of goals leaves it out.
    """
    out = work / "exports" / name
    if one is None or not one.ours:
        python = python_of(OWN if one is None else one.home, environments)
        return [[python, str(HERE / "peers_exports.py"), name, str(work / "inputs"), str(out)]]
    rounded = PRECISIONS.get(one.precision).is_quantised
    file = str(work / "inputs" / "open_clip.safetensors")
    kept = [sys.executable, "-c", _KEPT]
    uint8 = name.endswith("-uint8")
    return [
        [
            *((*kept, str(out / side / "manifest.json")) if rounded else ()),
            *(sys.executable, "-m", "clipperf", "export", MODEL, "--quiet", "--tower", side),
            *("--pretrained", f"random:{SEED}" if rounded else file),
            *("--runtime", one.runtime, "--precision", one.precision, "--out", str(out / side)),
            *(("--input", "uint8") if uint8 else ()),
            *(("--keep-failed",) if rounded else ()),
        ]
        for side in (("image",) if uint8 else SIDES)
    ]


def make_export(
    name: str,
    one: Candidate | None,
    work: Path,
    environments: Path,
    env: Mapping[str, str],
) -> dict[str, Any]:
    """Run an export, or take the record of the one that is there already.

    The record holds "seconds", summed over its commands, "rss_bytes" and "anonymous_bytes", those
    of the larger command summed over its processes, and "busy_share", what other programs used of
    the cores before; or "error".
    """
    record = work / "exports" / f"{name}.json"
    if record.is_file():
        return dict(json.loads(record.read_text(encoding="utf-8")))
    record.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(work / "exports" / name, ignore_errors=True)  # what one that failed left
    busy = meters.busy_share()
    seconds, peak, anonymous = 0.0, 0, 0
    env = {**env, "CLIPPERF_HOME": str(work / "home"), "HF_HUB_OFFLINE": "1"}
    log = work / "exports" / f"{name}.log"
    for command in export_commands(name, one, work, environments):
        try:
            taken_s, rss, anon = run_logged(command, env, log)
        except OSError as exc:
            return {"error": str(exc)}
        except SystemExit:
            return {"error": last_line(log)[:400]}
        seconds, peak, anonymous = seconds + taken_s, max(peak, rss), max(anonymous, anon)
    found = {
        "seconds": seconds, "rss_bytes": peak, "anonymous_bytes": anonymous, "busy_share": busy,
    }  # fmt: skip
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
    return sum(int(tower["disk_bytes"]) for tower in towers_of(candidate, side))


def within_gate(candidate: Candidate) -> dict[str, bool]:
    """Whether each tower of clipperf's passed the gate of its export, by its manifest."""
    sides = [side for side in SIDES if (Path(candidate.options["graph"]) / side).is_dir()]
    return {
        side: all(tower["parity"]["passed"] for tower in towers_of(candidate, side))
        for side in sides
    }


def towers_of(candidate: Candidate, side: str) -> list[dict[str, Any]]:
    """The towers of an artifact folder of clipperf's, as its manifest describes them."""
    manifest = Path(candidate.options["graph"]) / side / "manifest.json"
    found: list[dict[str, Any]] = json.loads(manifest.read_text(encoding="utf-8"))["towers"]
    return found


def peers_environment(env: dict[str, str], work: Path, threads: int) -> dict[str, str]:
    """What the workers get besides: no hub, the same threads in Rust, compiled code kept here."""
    return {
        **env,
        "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parent)]),
        "RAYON_NUM_THREADS": str(threads),
        "HF_HUB_OFFLINE": "1",
        "TORCHINDUCTOR_CACHE_DIR": str(work / "inductor"),
    }
