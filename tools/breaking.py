"""What the finders `kills` and `failing_calls` share: a place to break, and if it still stands."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from clipperf.engines.tensorrt import flavours
from clipperf.errors import ClipperfError
from clipperf.inspect.artifact import inspect
from clipperf.serve import tuned
from clipperf.system import store
from clipperf.system.files import read_json
from clipperf.system.temporaries import PREFIX

MODEL = "clipperf-sample"
PLAN = f"""
models = ["{MODEL}"]
towers = ["text"]
runtimes = ["onnx"]
batches = [1, 2]
datasets = ["few"]
quick = true
"""
"""Two groups and an evaluation."""
MINE = {"labels.json": "[]", "index/part.bin": "vectors", "image/notes.txt": "beside a tower"}
TIMEOUT_S = 600
GONE_S = 30.0
"""In which what a command that was killed has begun must be gone, here and on nodes."""
EMBED = "embed sample --artifact OUT --shard-items 100 --quiet --out VECTORS"
BUILD = f"export {MODEL} --tower text --runtime trt-rtx --precision fp16 --quiet --out ENGINE"
"""An engine of TensorRT for RTX, which is built without a GPU."""
TUNE = (
    f"tune {MODEL} --tower text --runtime onnx --precision fp32 --batch 1 --threads 1 --streams 1 "
    f"--minutes 0.05 --quiet --out TUNING"
)


@dataclass
class Place:
    """A folder with a store, an artifact with a user's files in it, and result files.

    `template` is a place that is complete; `reset` makes this one a copy of it. `cluster` is the
    address of a Ray cluster where there is one.
    """

    root: Path
    template: Path | None = None
    problems: list[str] = field(default_factory=list)
    fresh: bool = False
    cluster: str = ""

    @property
    def home(self) -> Path:
        """The store."""
        return self.root / "store"

    @property
    def out(self) -> Path:
        """The artifact of the user's choice, which has the image tower."""
        return self.root / "out"

    @property
    def engine(self) -> Path:
        """An engine of the text tower, where they can be built here."""
        return self.root / "engine"

    @property
    def tuning(self) -> Path:
        """What `TUNE` has found."""
        return self.root / "tuning.json"

    @property
    def vectors(self) -> Path:
        """Shards of vectors of the sample's images."""
        return self.root / "vectors"

    @property
    def sweep(self) -> Path:
        """The folder of the sweep of `PLAN`."""
        return self.root / "sweep"

    @property
    def environment(self) -> dict[str, str]:
        """The environment of commands."""
        scratch = self.root / "scratch"
        scratch.mkdir(parents=True, exist_ok=True)
        return {**os.environ, "CLIPPERF_HOME": str(self.home), "TMPDIR": str(scratch)}

    def command(self, words: str) -> list[str]:
        """A command in this place; the words in capitals stand for its paths."""
        names = {
            "JSON": "result.json",
            "ENGINE": "engine",
            "TUNING": "tuning.json",
            "FEW": "few",
            "PLAN": "plan.toml",
            "BRIEF": "brief.toml",
            "SWEEP": "sweep",
            "VECTORS": "vectors",
            "CROSSING": "crossing",
        }
        own = {word: self.root / name for word, name in names.items()}
        paths = {"OUT": self.out, "CLUSTER": self.cluster, **own}
        typed = [str(paths.get(word, word)) for word in words.split()]
        return [sys.executable, "-P", "-m", "clipperf", *typed]

    def run(self, words: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        return subprocess.run(
            self.command(words),
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
        )

    def build(self) -> None:
        """Make all there is to break: takes some exports."""
        for words in (
            f"export {MODEL} --quiet",
            f"export {MODEL} --tower image --quiet --out OUT",
            f"profile {MODEL} --tower text --runtime onnx --batch 1 --quick --quiet --json JSON",
            EMBED,
            TUNE,
            *((f"{BUILD} --target sm86",) if flavours.installed("trt-rtx") else ()),
        ):
            done = self.run(words)
            if done.returncode:
                raise SystemExit(f"{words}: {done.stderr}")
        for name, text in MINE.items():
            (self.out / name).parent.mkdir(parents=True, exist_ok=True)
            (self.out / name).write_text(text)
        (self.root / "plan.toml").write_text(PLAN)
        for number, name in enumerate(("a", "b")):
            (self.root / "few" / name).mkdir(parents=True)
            Image.new("RGB", (64, 64), (200 * number, 80, 90)).save(
                self.root / "few" / name / "1.png"
            )

    def reset(self, *, fresh: bool = False) -> None:
        """Become a copy of the template; a `fresh` store is empty."""
        assert self.template is not None
        shutil.rmtree(self.root, ignore_errors=True)
        shutil.copytree(self.template, self.root, symlinks=True)
        shutil.rmtree(self.root / "scratch", ignore_errors=True)
        shutil.rmtree(self.vectors, ignore_errors=True)
        self.fresh = fresh
        if fresh:
            shutil.rmtree(self.home)

    def look(self, when: str) -> None:
        """Note what does not stand any longer."""
        self._expect(f"{when}: a user's file is lost or altered", self._mine_stand())
        self._expect(f"{when}: the artifact is not whole", _whole(self.out, "image"))
        if flavours.installed("trt-rtx"):
            self._expect(f"{when}: the engine is not whole", _whole(self.engine, "text"))
        for record in self.vectors.glob("shard-*.json"):
            if record.suffixes == [".json"]:
                names = [record.name, *read_json(record)["files"]]
                self._expect(f"{when}: {record.name} is not whole", self._as_uninterrupted(names))
        for called, read in (("result file", self._result), ("tuning", self._tuning)):
            try:
                read()
            except ClipperfError as exc:
                self.problems.append(f"{when}: the {called}: {exc}")

    def look_at_all_vectors(self) -> None:
        """Note whether other shards are there than those of a run that nobody killed."""
        assert self.template is not None
        names = sorted(path.name for path in Place(self.template).vectors.iterdir())
        there = sorted(path.name for path in self.vectors.iterdir())
        pinned = [name for name in names if name.startswith("shard-")]
        same = names == there and self._as_uninterrupted(pinned)
        self._expect("the shards are not those of an uninterrupted run", same)

    def _as_uninterrupted(self, names: list[str]) -> bool:
        assert self.template is not None
        whole = Place(self.template).vectors
        try:
            return all(
                (self.vectors / name).read_bytes() == (whole / name).read_bytes() for name in names
            )
        except OSError:
            return False

    def swept(self, when: str) -> dict[str, int]:
        """The files of the sweep's groups, and when each was written; notes what cannot be read."""
        found = {}
        for path in sorted((self.sweep / "cells").glob("*.json")):
            try:
                result = store.read_result(path)
            except ClipperfError as exc:
                self.problems.append(f"{when}: the sweep: {exc}")
                continue
            if not path.name.endswith("-killed.json"):
                found[path.name] = path.stat().st_mtime_ns
            self._expect(
                f"{when}: {path.name} is empty", bool(result.measurements or result.scores)
            )
        return found

    def scored(self) -> set[tuple[str, ...]]:
        """The scores in the result file; nothing where it has none, or cannot be read."""
        try:
            scores = store.read_result(self.root / "result.json").scores
        except ClipperfError:
            return set()
        return {(s.dataset, s.metric, f"{s.value:.6f}", str(s.cell)) for s in scores}

    def look_for_leftovers(self) -> None:
        """Note staging and locks that are still there when a command has come to its end."""
        for path in self.root.rglob(".*"):
            if path.name.startswith(PREFIX) or path.suffix == ".lock":
                self.problems.append(f"left over: {path.relative_to(self.root)}")

    def _result(self) -> None:
        store.read_result(self.root / "result.json")

    def _tuning(self) -> None:
        if self.fresh:  # a store that was emptied took along what it names
            return
        for choice in tuned.read(self.tuning):
            held = choice.side is not None and _whole(choice.folder, choice.side)
            self._expect("the tuning's artifact is not whole", held)

    def _expect(self, problem: str, held: bool) -> None:
        if not held:
            self.problems.append(problem)

    def _mine_stand(self) -> bool:
        try:
            return all((self.out / name).read_text() == text for name, text in MINE.items())
        except OSError:
            return False


def _whole(folder: Path, side: str) -> bool:
    """Whether an artifact's folder has a tower, and nothing is wrong with it."""
    try:
        sides = [tower.side for tower in store.read_manifest(folder).towers]
        return side in sides and not inspect(folder).problems
    except ClipperfError:
        return False


def error_lines(stderr: str) -> list[str]:
    """What is wrong with the words of a command that failed; empty where nothing is."""
    lines = [line for line in stderr.splitlines() if line.strip()]
    if any("Traceback" in line for line in lines):
        return [f"a traceback: {lines[-1]}"]
    if not lines or not lines[-1].startswith(("error: ", "interrupted")):
        return [f"no error line at the end: {lines[-1:]}"]
    return []
