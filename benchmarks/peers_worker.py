"""The child of `peers.py`: one candidate in one process, driven by one JSON object a line.

Runs in any Python that has numpy, the candidate's packages and, on its path, clipperf and this
folder. An adapter is a module with ``open(setup) -> {name: action}``; an action takes `Inputs` and
returns embeddings [n, embed_dim] (for "tokenise" whatever the tokenizer returns). Its names are
those of `KINDS`, without what the candidate cannot do.

=======  ==================================================  ===================================
command  fields                                              answer
=======  ==================================================  ===================================
open     adapter, setup                                      load_s, rss_bytes, kinds, versions
check    kind, texts                                         min_cosine, n
run      kind, texts, n, batch                               rss_bytes, seconds
block    kind, texts, n, batch, and those of `time_block`    samples
=======  ==================================================  ===================================
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import os
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from clipperf.bench import cost, meters
from clipperf.system.processes import die_with_parent, protocol_streams

KINDS = ("image", "jpeg", "text", "tokenise")
CHECKED = 16


@dataclass(frozen=True)
class Setup:
    """What an adapter is given: the prepared folder, the tower, threads, and its own options."""

    folder: Path
    side: str
    threads: int
    options: dict[str, Any]


@dataclass(frozen=True)
class Inputs:
    """One call's work. Each action reads what it needs.

    `pixels` is float32 [n, 3, 224, 224], `bitmaps` the same pictures as uncompressed files,
    `jpegs` the files that they come from, `texts` strings; `batch` is how many go at once.
    """

    pixels: np.ndarray
    bitmaps: list[str]
    jpegs: list[str]
    texts: list[str]
    batch: int


Action = Callable[[Inputs], Any]


class Session:
    """What the worker holds between commands."""

    def __init__(self) -> None:
        self.folder = Path()
        self.actions: dict[str, Action] = {}
        self.peak = meters.PhasePeak()
        self.answer = "image"

    def open(self, command: dict[str, Any]) -> dict[str, Any]:
        """Load the candidate; its seconds include importing its packages."""
        setup = Setup(**{**command["setup"], "folder": Path(command["setup"]["folder"])})
        self.folder = setup.folder
        self.answer = setup.options.get("image_answer", "image")
        self.peak.start()
        adapter = importlib.import_module(command["adapter"])
        self.actions, load_s = cost.timed(lambda: adapter.open(setup))
        peak = self.peak.take()
        versions = {name: importlib.metadata.version(name) for name in adapter.PACKAGES}
        kinds = [kind for kind in KINDS if kind in self.actions]
        return {"load_s": load_s, "rss_bytes": peak, "kinds": kinds, "versions": versions}

    def check(self, command: dict[str, Any]) -> dict[str, Any]:
        """The lowest cosine to PyTorch's embeddings in fp32."""
        found = np.asarray(self._action(command)(self._inputs({**command, **_CHECK})))
        name = command["texts"] if command["kind"] == "text" else self.answer
        with np.load(self.folder / "answers.npz") as answers:
            expected = answers[name][:CHECKED]
        if found.shape != expected.shape or not np.isfinite(found).all():
            raise ValueError(f"returned {list(found.shape)}, expected {list(expected.shape)}")
        return {"min_cosine": float(cosines(found, expected).min()), "n": len(expected)}

    def run(self, command: dict[str, Any]) -> dict[str, Any]:
        """One call, with its RAM peak apart from that of loading."""
        action, inputs = self._action(command), self._inputs(command)
        self.peak.start()
        _, seconds = cost.timed(lambda: action(inputs))
        return {"rss_bytes": self.peak.take(), "seconds": seconds}

    def block(self, command: dict[str, Any]) -> dict[str, Any]:
        """One block of timed calls."""
        inputs = self._inputs(command)
        options = {key: command[key] for key in ("warmup", "calls", "min_s", "max_s", "sleep_s")}
        return {"samples": cost.time_block(self._action(command), inputs, **options)}  # type: ignore[arg-type]

    def _action(self, command: dict[str, Any]) -> Action:
        return self.actions[command["kind"]]

    def _inputs(self, command: dict[str, Any]) -> Inputs:
        """The first `n` items; only what the kind needs is read, so that RAM is not charged."""
        n, images = command["n"], sorted((self.folder / "images").glob("*.jpg"))
        pixels = np.zeros(0, np.float32)
        if command["kind"] == "image":
            pixels = np.load(self.folder / "pixels.npy", mmap_mode="r")[:n].copy()
        texts = json.loads((self.folder / "texts.json").read_text(encoding="utf-8"))
        return Inputs(
            pixels,
            [str(path.with_suffix(".bmp")) for path in images[:n]],
            [str(path) for path in images[:n]],
            texts[command["texts"]][:n] if command["texts"] else [],
            command["batch"],
        )


_CHECK = {"n": CHECKED, "batch": 8}


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The cosine of each row of `a` with that of `b`: float64 [n]."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    result: np.ndarray = (a * b).sum(axis=1) / lengths
    return result


def chunks(items: Any, batch: int) -> list[Any]:
    """`items` in slices of `batch`."""
    return [items[i : i + batch] for i in range(0, len(items), batch)]


def serve(commands: TextIO, answers: TextIO) -> int:
    """Answer commands until "stop", the end of input, or the first failure."""
    session = Session()
    handlers = {
        "open": session.open, "check": session.check, "run": session.run, "block": session.block,
    }  # fmt: skip

    def answer(status: str, **fields: Any) -> None:
        answers.write(json.dumps({"status": status, **fields}) + "\n")
        answers.flush()

    answer("ok", pid=os.getpid(), rss_bare_bytes=meters.rss_bytes())
    for line in commands:
        command = json.loads(line)
        if command["op"] == "stop":
            break
        try:
            answer("ok", **handlers[command["op"]](command))
        except Exception as exc:  # noqa: BLE001 - whatever a candidate raises becomes a row
            traceback.print_exc()
            answer("failed", error=f"{type(exc).__name__}: {exc}"[:500])
            return 1
    return 0


def main() -> int:
    """Move the protocol off the standard descriptors, so that libraries may print; serve."""
    die_with_parent()
    return serve(*protocol_streams())


if __name__ == "__main__":
    sys.exit(main())
