"""The child of `peers.py`: one candidate in one process; see `clipperf.system.protocol`.

Runs in any Python that has numpy, the candidate's packages and, on its path, clipperf and this
folder. An adapter is a module with ``open(setup) -> {name: action}``; an action takes `Inputs` and
returns embeddings [n, embed_dim] (for "tokenise" whatever the tokenizer returns). Its names are
those of `KINDS`, without what the candidate cannot do.

=========  ==================================================  ===================================
operation  fields                                              answer
=========  ==================================================  ===================================
open       adapter, setup                                      load_s, rss_bytes, kinds, versions
check      kind, texts                                         min_cosine, n
run        kind, texts, n, batch                               rss_bytes, seconds
block      kind, texts, n, batch, and those of `time_block`    samples
=========  ==================================================  ===================================
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from clipperf.bench import cost, meters
from clipperf.system.protocol import Fields, Tell, serve

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
    """What the worker holds between operations."""

    def __init__(self) -> None:
        self.folder = Path()
        self.actions: dict[str, Action] = {}
        self.peak = meters.PhasePeak()
        self.answer = "image"

    def open(self, fields: Fields, tell: Tell) -> Fields:
        """Load the candidate; its seconds include importing its packages."""
        setup = Setup(**{**fields["setup"], "folder": Path(fields["setup"]["folder"])})
        self.folder = setup.folder
        self.answer = setup.options.get("image_answer", "image")
        self.peak.start()
        adapter = importlib.import_module(fields["adapter"])
        self.actions, load_s = cost.timed(lambda: adapter.open(setup))
        peak = self.peak.take()
        versions = {name: importlib.metadata.version(name) for name in adapter.PACKAGES}
        kinds = [kind for kind in KINDS if kind in self.actions]
        return {"load_s": load_s, "rss_bytes": peak, "kinds": kinds, "versions": versions}

    def check(self, fields: Fields, tell: Tell) -> Fields:
        """The lowest cosine to PyTorch's embeddings in fp32."""
        found = np.asarray(self._action(fields)(self._inputs({**fields, **_CHECK})))
        name = fields["texts"] if fields["kind"] == "text" else self.answer
        with np.load(self.folder / "answers.npz") as answers:
            expected = answers[name][:CHECKED]
        if found.shape != expected.shape or not np.isfinite(found).all():
            raise ValueError(f"returned {list(found.shape)}, expected {list(expected.shape)}")
        return {"min_cosine": float(cosines(found, expected).min()), "n": len(expected)}

    def run(self, fields: Fields, tell: Tell) -> Fields:
        """One call, with its RAM peak apart from that of loading."""
        action, inputs = self._action(fields), self._inputs(fields)
        self.peak.start()
        _, seconds = cost.timed(lambda: action(inputs))
        return {"rss_bytes": self.peak.take(), "seconds": seconds}

    def block(self, fields: Fields, tell: Tell) -> Fields:
        """One block of timed calls."""
        inputs = self._inputs(fields)
        options = {key: fields[key] for key in ("warmup", "calls", "min_s", "max_s", "sleep_s")}
        return {"samples": cost.time_block(self._action(fields), inputs, **options)}  # type: ignore[arg-type]

    def _action(self, fields: Fields) -> Action:
        return self.actions[fields["kind"]]

    def _inputs(self, fields: Fields) -> Inputs:
        """The first `n` items; only what the kind needs is read, so that RAM is not charged."""
        n, images = fields["n"], sorted((self.folder / "images").glob("*.jpg"))
        pixels = np.zeros(0, np.float32)
        if fields["kind"] == "image":
            pixels = np.load(self.folder / "pixels.npy", mmap_mode="r")[:n].copy()
        texts = json.loads((self.folder / "texts.json").read_text(encoding="utf-8"))
        return Inputs(
            pixels,
            [str(path.with_suffix(".bmp")) for path in images[:n]],
            [str(path) for path in images[:n]],
            texts[fields["texts"]][:n] if fields["texts"] else [],
            fields["batch"],
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


def main() -> int:
    """Serve the parent with one session."""
    session = Session()
    return serve(
        {
            "open": session.open,
            "check": session.check,
            "run": session.run,
            "block": session.block,
        },
        greeting=lambda: {"rss_bare_bytes": meters.rss_bytes()},
    )


if __name__ == "__main__":
    sys.exit(main())
