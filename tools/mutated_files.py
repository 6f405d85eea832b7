"""What becomes of damaged files: mutate an artifact, a tuning, a plan or results, and use them.

    python tools/mutated_files.py                    # 4,000 mutations of the bundled sample
    python tools/mutated_files.py --count 200 --seed 7

Each mutation is of one file, drawn from a seed: bits flipped, bytes cut, inserted or repeated,
and in JSON also values of other types, left out, nested deep, huge, NaN, and other paths. Then
the folder is loaded and embeds images and texts, and is inspected; a tuning is loaded, a plan's
sidecar read, results are reported. All of it happens in child processes, and what a child cannot
survive is counted, too. Prints how many mutations were

- refused: with an error of clipperf's own,
- harmless: the embeddings are the same,
- by verify: equal in size and of other embeddings, so that `load(verify=True)` has to see it,
- sealed: of other embeddings because a small file was changed and the manifest with it,

and the failures, one line each: silent (other embeddings and no word), foreign (another
exception than clipperf's own), crashed. Exit code 1 where there are any.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TextIO

import mutated_subjects
import numpy as np
from PIL import Image

import clipperf
from clipperf.errors import ClipperfError

IMAGES = [Image.new("RGB", (90, 70), colour) for colour in ("red", "blue")]
TEXTS = ["a red apple", "two houses by the sea"]
SEALED = ("preprocess.json", "tokenizer.json", "clipperf_tokenizer.json")
"""Files whose change is in half of the cases told to the manifest, so that it is read."""

SILENCE_S = 120.0
"""How long one mutation may take before its process counts as hung."""

WEIGHTS = (".onnx", ".data", ".xml", ".bin")
"""Files of which `load` compares the size alone."""

HUGE = (10**30, -(10**30), 2**63, 2**64, -1, 0, 1e308, float("nan"), float("inf"))
PATHS = ("../manifest.json", "/etc/passwd", "", ".", "a\0b", "image/../../x", "nothing", "a\\b")
OTHERS: tuple[Any, ...] = (None, True, "", "x", [], {}, [None], {"a": 1}, 3, 2.5, *PATHS, *HUGE)


@dataclass(frozen=True)
class Found:
    """What came of one mutation: "refused", "harmless", "by verify", or a failure."""

    place: int
    outcome: str
    what: str


# --- mutations -----------------------------------------------------------------------------


def mutated(data: bytes, name: str, draw: random.Random) -> tuple[bytes, str]:
    """Other content for a file, and in words how it was made."""
    if name.endswith(".json") and draw.random() < 0.75:
        return _mutated_json(data, draw)
    at = draw.randrange(max(1, len(data)))
    kind = draw.choice(("flip", "flip", "flip", "cut", "insert", "repeat", "zero", "empty"))
    if kind == "flip":
        changed = bytearray(data)
        for _ in range(draw.choice((1, 1, 8))):
            changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
        return bytes(changed), "bits flipped"
    if kind == "cut":
        return data[:at], f"cut to {at} bytes"
    if kind == "insert":
        return data[:at] + draw.randbytes(draw.choice((1, 100))) + data[at:], "bytes inserted"
    if kind == "repeat":
        return data[:at] + data[at // 2 :], "bytes repeated"
    if kind == "zero":
        return data[:at] + bytes(len(data) - at), f"zeros from {at}"
    return b"", "emptied"


def _mutated_json(data: bytes, draw: random.Random) -> tuple[bytes, str]:
    value = json.loads(data)
    holders = list(_holders(value, "$"))
    where, holder, key = draw.choice(holders)
    kind = draw.choice(("other", "other", "other", "left out", "deep", "digits", "twice"))
    if kind == "other":
        holder[key] = draw.choice(OTHERS)
    elif kind == "left out":
        del holder[key]
    elif kind == "deep":
        holder[key] = "@"
        levels = draw.choice((70, 900, 3000, 100_000))
        deep = "[" * levels + "]" * levels
        return json.dumps(value).replace('"@"', deep, 1).encode(), f"{where}: {levels} levels"
    elif kind == "digits":
        holder[key] = "@"
        text = json.dumps(value).replace('"@"', "9" * draw.choice((25, 4301, 10**6)), 1)
        return text.encode(), f"{where}: digits"
    elif isinstance(holder, list):
        holder.insert(key, holder[key])
    else:
        holder[f"{key}2"] = holder[key]
    return json.dumps(value).encode(), f"{where}: {kind}"


def _holders(value: Any, where: str) -> Iterator[tuple[str, Any, Any]]:
    """Every place in JSON values: what it is called, what it lies in and under which key."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in list(pairs):
        yield f"{where}.{key}", value, key
        if isinstance(inner, dict | list) and len(inner) < 1000:
            yield from _holders(inner, f"{where}.{key}")


# --- what is done with the files -----------------------------------------------------------


def embedded(path: Path, verify: bool = False) -> list[np.ndarray]:
    """What the model there makes of a few inputs."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with clipperf.load(path, verify=verify) as model:
            return [model.encode_images(IMAGES), model.encode_texts(TEXTS)]


def same(found: list[np.ndarray], wanted: list[np.ndarray]) -> bool:
    """Whether embeddings are equal but for rounding."""
    return len(found) == len(wanted) and all(
        a.shape == b.shape and np.allclose(a, b, rtol=1e-4, atol=1e-4)
        for a, b in zip(found, wanted, strict=True)
    )


def use_artifact(folder: Path, name: str, wanted: list[np.ndarray]) -> tuple[str, str]:
    """Inspect and load a folder in which the file `name` was mutated."""
    from clipperf.inspect.artifact import inspect

    try:
        inspect(folder)
        found = embedded(folder, verify=name.endswith(".npy"))
    except ClipperfError as exc:
        return "refused", str(exc)
    if same(found, wanted):
        return "harmless", ""
    if name.endswith(WEIGHTS):
        try:
            embedded(folder, verify=True)
        except ClipperfError as exc:
            return "by verify", str(exc)
    return "silent", "other embeddings"


def use_tuning(folder: Path, name: str, wanted: list[np.ndarray]) -> tuple[str, str]:
    """Load a tuning that was mutated."""
    try:
        found = embedded(folder / name)
    except ClipperfError as exc:
        return "refused", str(exc)
    return ("harmless", "") if same(found, wanted) else ("silent", "other embeddings")


def use_plan(folder: Path, name: str, wanted: list[np.ndarray]) -> tuple[str, str]:
    """Read and inspect a plan whose sidecar was mutated."""
    from clipperf.engines.tensorrt import plan_file
    from clipperf.inspect.artifact import inspect
    from clipperf.report.inspection import inspection_table

    del wanted
    plan = folder / name.removesuffix(".json")
    try:
        inspection_table(inspect(plan))
        plan_file.check(plan)
        plan_file.read(plan)
    except ClipperfError as exc:
        return "refused", str(exc)
    return "harmless", ""


def use_result(folder: Path, name: str, wanted: list[np.ndarray]) -> tuple[str, str]:
    """Report results that were mutated."""
    from clipperf.models.published import basic_statistics
    from clipperf.report.build import build_report
    from clipperf.report.format import render
    from clipperf.system.store import read_result

    del wanted
    try:
        document = build_report([read_result(folder / name)], basic_statistics(), None)
        for form in ("text", "html"):
            render(document, form)
    except ClipperfError as exc:
        return "refused", str(exc)
    return "harmless", ""


USES: dict[str, Callable[[Path, str, list[np.ndarray]], tuple[str, str]]] = {
    "artifact": use_artifact,
    "tuning": use_tuning,
    "plan": use_plan,
    "result": use_result,
}


def _use(folder: Path) -> str:
    return folder.name.partition("-")[0]


# --- children ------------------------------------------------------------------------------


def work(subjects: Path, seed: int, places: range, answers: Connection) -> None:
    """A child: try the mutations with these numbers, and tell of each."""
    os.environ["CLIPPERF_HOME"] = str(subjects / "home")
    files = [
        (kind.name, path.relative_to(kind))
        for kind in sorted(subjects.iterdir())
        if _use(kind) in USES
        for path in sorted(kind.rglob("*"))
        if path.is_file() and (kind.name != "tuning" or path.parent == kind)
    ]
    embeds = [kind for kind in subjects.iterdir() if _use(kind) in ("artifact", "tuning")]
    wanted = {
        kind.name: embedded(next(kind.glob("*.json")) if _use(kind) == "tuning" else kind)
        for kind in embeds
    }
    for place in places:
        draw = random.Random(f"{seed}-{place}")
        kind, name = draw.choice(files)
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary) / kind
            shutil.copytree(subjects / kind, folder, copy_function=os.link)
            data, how = mutated((folder / name).read_bytes(), name.name, draw)
            (folder / name).unlink()
            (folder / name).write_bytes(data)
            sealed = name.name in SEALED and draw.random() < 0.5
            if sealed:
                mutated_subjects.seal(folder)
                how += ", sealed"
            what = f"{place}: {kind}/{name}: {how}"
            answers.send(Found(place, "begun", what))
            try:
                outcome, said = USES[_use(folder)](folder, str(name), wanted.get(kind, []))
                outcome = "sealed" if sealed and outcome == "silent" else outcome
            except Exception as exc:  # noqa: BLE001 - this is what is looked for
                trace = traceback.extract_tb(exc.__traceback__)[-1]
                outcome, said = "foreign", f"{type(exc).__name__}: {exc!s:.150} ({trace})"
        answers.send(Found(place, outcome, f"{what}: {said:.300}"))


Work = Callable[[Path, int, range, Connection], None]
"""What a child does with the inputs of some numbers; tells of each when it begins and ends."""


def run(subjects: Path, count: int, seed: int, first: int = 0, doing: Work = work) -> list[Found]:
    """Try so many mutations of the files in the folders of `subjects`; what came of each."""
    context = multiprocessing.get_context("spawn")
    found: list[Found] = []
    place = first
    while place < first + count:
        ours, theirs = context.Pipe()
        places = range(place, first + count)
        child = context.Process(target=doing, args=(subjects, seed, places, theirs))
        child.start()
        theirs.close()
        begun = Found(place, "crashed", f"{place}: before the first")
        try:
            while ours.poll(SILENCE_S):
                begun = ours.recv()
                if begun.outcome != "begun":
                    found.append(begun)
                    place = begun.place + 1
            child.kill()
            how = f"hung for {SILENCE_S:g} s"
        except EOFError:
            child.join()
            how = f"ended with {child.exitcode}"
        child.join()
        if place < first + count:
            found.append(Found(place, "crashed", f"{begun.what}: {how}"))
            place += 1
    return found


FAILURES = ("silent", "foreign", "crashed")


# --- what is mutated -----------------------------------------------------------------------


def prepare(artifact: Path, results: list[Path], root: Path) -> Path:
    """Lay out what is mutated: an artifact, a tuning of it, a plan, results; returns the folder."""
    shutil.copytree(artifact, root / "artifact")
    mutated_subjects.write_external(root / "artifact-external", artifact)
    mutated_subjects.write_tuning(root / "tuning", artifact)
    mutated_subjects.write_plan(root / "plan")
    (root / "result").mkdir()
    for path in results or [mutated_subjects.write_result(root / "result")]:
        if path.parent != root / "result":
            shutil.copy(path, root / "result")
    return root


def _own_stdout() -> TextIO:
    """Standard output for this script alone: what libraries print there, in this process and its
    children, goes to standard error from now on."""
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return answer


def main() -> int:
    """Mutate, use, count."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--count", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="the number of the first mutation")
    parser.add_argument("--folder", type=Path, help="an artifact folder, instead of the sample")
    parser.add_argument("--result", type=Path, action="append", help="a result file")
    options = parser.parse_args()
    answer = _own_stdout()
    if options.folder is None:
        from clipperf.export.make import make
        from clipperf.models import zoo
        from clipperf.nouns.variant import Variant

        made = make(zoo.resolve("clipperf-sample"), ("image", "text"), Variant("onnx"))
        options.folder = made.folder
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as root:
        subjects = prepare(options.folder, options.result or [], Path(root))
        found = run(subjects, options.count, options.seed, options.first)
    counts = Counter(one.outcome for one in found)
    for one in found:
        if one.outcome in FAILURES:
            print(f"{one.outcome}: {one.what}", file=answer)
    for outcome in ("refused", "harmless", "by verify", "sealed", *FAILURES):
        print(f"{outcome:>10} {counts[outcome]:>6}", file=answer)
    print(f"{'all':>10} {len(found):>6}  in {time.monotonic() - started:.0f} s", file=answer)
    answer.flush()
    return int(any(counts[outcome] for outcome in FAILURES))


if __name__ == "__main__":
    sys.exit(main())
