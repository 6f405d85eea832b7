"""What `malformed_inputs` damages, how each kind is used, and what has to be true of what comes."""

from __future__ import annotations

import re
import shutil
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import malformed_datasets as datasets
import malformed_vectors as vectors
import mutated_subjects
from hypothesis import strategies as st
from malformed_values import NUMBERS, TEXTS, VALUES, toml_of

from clipperf.bench.sweeps.ledger import HEAD, MARK, Ledger
from clipperf.bench.sweeps.plan_file import RULE_KEYS, read_plan
from clipperf.commands.embed import _limit
from clipperf.commands.options import names, numbers, ranged
from clipperf.commands.sizing_options import targets_in, targets_of
from clipperf.embed.run import embed
from clipperf.embed.shards import Record
from clipperf.engines.tensorrt import plan_file
from clipperf.errors import ClipperfError
from clipperf.inspect.artifact import inspect
from clipperf.models.published import basic_statistics
from clipperf.nouns.artifact import ShapeRange
from clipperf.nouns.result import ResultFile
from clipperf.report.build import build_report
from clipperf.report.compare.rules import parse_rule
from clipperf.report.format import render
from clipperf.report.inspection import inspection_table
from clipperf.report.merged import merged
from clipperf.report.sizing.asked import NAMES, price
from clipperf.report.sizing.solve import size
from clipperf.serialize import from_json
from clipperf.system.files import read_json
from clipperf.system.results import named
from clipperf.system.store import read_result, write_result

ROOT = Path(__file__).resolve().parent.parent
VERSIONS = ROOT / "tests" / "system"
"""Where a result file of each version of the format lies."""

PLAN = """
models = ["clipperf-sample", "ViT-B-32::openai"]
towers = ["text", "image"]
runtimes = ["torch", "onnx"]
precisions = ["fp32", "int8"]
batches = [1, 8, 32]
threads = [2]
tokens = [8, 77]
scenarios = ["closed", "server", "from-files"]
datasets = ["sample"]
quick = true
timeout_s = 60

[limits]
seconds = 600
ram_gb = 8.5

[server]
slo_ms = 50
max_delay_ms = 2
max_batches = [8, 32]

[from-files]
folder = "photos"
preprocess = ["exact"]
threads = [2]

[eval]
batch = 16
margin_pp = 0.5

[[include]]
model = "clipperf-*"
batch = [1, 8]

[[exclude]]
dataset = "sample"
precision = "int8"
"""
TOP = (
    *("models", "towers", "runtimes", "precisions", "batches", "threads", "tokens", "inputs"),
    *("device", "scenarios", "datasets", "quick", "timeout_s", "limits", "server", "from-files"),
    *("eval", "include", "exclude"),
)
TARGETS = """
images_per_s = 500
texts_per_s = 20.5
slo_ms = 50
percentile = 99
ram_gb = 64
disk_gb = 100
utilisation = 0.7
spare = 1
max_loss = 1.5
accuracy_on = "sample"

[price]
E1 = 0.4
"""


class Wrong(Exception):
    """What came of an input is not right; the text says how."""


@dataclass(frozen=True)
class Kind:
    """A kind of input: how it is written whole, which files are damaged, and what uses it.

    `use(folder, file)` raises `Wrong`, or clipperf's errors where the input is refused. Of `made`,
    where there are some, hypothesis makes other contents of the file.
    """

    write: Callable[[Path], object]
    use: Callable[[Path, Path], object]
    weight: float
    mutates: str = "*"
    made: st.SearchStrategy[bytes] | None = None


def prepare_child() -> None:
    """What inputs need in the process that uses them: nothing is fetched but from that process.

    What a package tries out in folders of its own when it is imported is no input's.
    """
    import filelock

    del filelock
    datasets.stay_here()


# --- plans and targets -----------------------------------------------------------------------


def _write(name: str, text: str) -> Callable[[Path], object]:
    def write(folder: Path) -> None:
        folder.mkdir(parents=True)
        (folder / name).write_text(text, "utf-8")

    return write


def use_sweep_plan(folder: Path, file: Path) -> None:
    """Read a plan; what it asks for is what another reader of TOML finds in it."""
    plan = read_plan(file)
    found = tomllib.loads(file.read_text("utf-8"))
    pairs = {"models": plan.models, "batches": plan.batches, "datasets": plan.datasets}
    for name, own in pairs.items():
        if isinstance(found.get(name), list) and set(found[name]) != set(own):
            raise Wrong(f"{name} is {own}")
    if len(found.get("exclude", ())) != len(plan.exclude):
        raise Wrong("rules are lost")


def use_targets(folder: Path, file: Path) -> None:
    """Read targets, and size for them."""
    found = targets_of(targets_in(file), None)
    given = tomllib.loads(file.read_text("utf-8"))
    for name, own in (("images_per_s", found.images_per_s), ("texts_per_s", found.texts_per_s)):
        if given.get(name, 0.0) != own:
            raise Wrong(f"{name} is {own}")
    size([results()], found)


@cache
def results() -> ResultFile:
    """What was measured, as the newest version has it."""
    return read_result(VERSIONS / "result-2.json")


def use_option(folder: Path, file: Path) -> None:
    """A line for each option that has a language of its own; every one is read."""
    refused: ClipperfError | None = None
    readers: tuple[Callable[[str], object], ...] = (
        *(_limit, parse_rule, price),
        lambda text: numbers(text, "--batch"),
        lambda text: ranged(text, "--batch"),
        lambda text: names(text, "--runtime"),
    )
    for line in file.read_bytes().decode("utf-8", "surrogateescape").split("\n"):
        for read in readers:
            try:
                read(line)
            except ClipperfError as exc:
                refused = exc
    if refused is not None:
        raise refused


# --- results ---------------------------------------------------------------------------------


def _write_result(version: int) -> Callable[[Path], object]:
    def write(folder: Path) -> None:
        folder.mkdir(parents=True)
        shutil.copy(VERSIONS / f"result-{version}.json", folder / "result.json")

    return write


def use_result(folder: Path, file: Path) -> None:
    """Report results, in both forms."""
    document = build_report([read_result(file)], basic_statistics(), None)
    for form in ("text", "html"):
        render(document, form)


def write_merge(folder: Path) -> None:
    """Results of two versions, those of the second from another day."""
    for version in (1, 2):
        _write_result(version)(folder / str(version))
    file = folder / "2" / "result.json"
    file.write_text(file.read_text().replace("2026-11-22T", "2026-11-23T"))


def use_merge(folder: Path, file: Path) -> None:
    """Merge two files; no row is lost on the way to the third."""
    parts = [read_result(folder / name / "result.json") for name in ("1", "2")]
    target = folder / "both.json"
    write_result(target, merged(parts, "clipperf results merge"))
    found = read_result(target)
    for name in ("measurements", "scores", "crossed"):
        if len(getattr(found, name)) != sum(len(getattr(part, name)) for part in parts):
            raise Wrong(f"{name} are lost")


# --- folders ---------------------------------------------------------------------------------


def write_state(folder: Path) -> None:
    """A folder of vectors as a run leaves it, and the dataset beside it."""
    datasets.write_folder(folder / "photos")
    opened: Any = vectors.Toy
    embed(folder / "photos", folder / "out", opened, vectors.WISHES)
    shutil.copytree(folder / "out", folder / "whole")


def use_state(folder: Path, file: Path) -> None:
    """Give the command again after a file of its folder was damaged; a copy tells what is right.

    The dataset is another copy now, with its times of change.
    """
    opened: Any = vectors.Toy
    embed(folder / "photos", folder / "out", opened, vectors.CHECKED)
    names = sorted(path.name for path in (folder / "whole").iterdir())
    if names != sorted(path.name for path in (folder / "out").iterdir()):
        raise Wrong("other files are there than before")
    for name in names:
        own, right = (folder / "out" / name, folder / "whole" / name)
        if re.fullmatch(r"shard-\d{6}\.json", name):  # a key more in it does no harm
            same = _record(own) == _record(right)
        else:
            same = name == "manifest.json" or own.read_bytes() == right.read_bytes()
        if not same:
            raise Wrong(f"{name} is not that of an undisturbed run")


def _record(path: Path) -> Record:
    """A shard's record but for its number of clipped images, a note that nothing rests on."""
    return replace(from_json(Record, read_json(path), str(path)), clipped=0)


def write_sweep(folder: Path) -> None:
    """The folder of a sweep with two files of cells."""
    (folder / "cells").mkdir(parents=True)
    (folder / MARK).write_text(HEAD + PLAN)
    for version in (1, 2):
        name = f"group-{version}-{'0123456789abcdef'}.json"
        shutil.copy(VERSIONS / f"result-{version}.json", folder / "cells" / name)


def use_sweep(folder: Path, file: Path) -> None:
    """Begin a sweep in its folder, and read its cells as other commands do."""
    marked = (folder / MARK).read_bytes().startswith(HEAD.encode())
    Ledger(folder).begin(PLAN)
    if not marked:
        raise Wrong("a folder that is no sweep's was taken for one")
    if (folder / MARK).read_text() != HEAD + PLAN:
        raise Wrong("the mark is not the plan")
    named(str(folder / "cells"))


def write_plans(folder: Path) -> None:
    """A plan of TensorRT's whose sidecar has several profiles."""
    profiles = tuple(
        ShapeRange("pixel_values", (1, 3, 64, 64), (best, 3, 64, 64), (32, 3, 64, 64))
        for best in (1, 8, 32)
    )
    folder.parent.mkdir(parents=True, exist_ok=True)
    mutated_subjects.write_plan(folder, profiles)


def use_plans(folder: Path, file: Path) -> None:
    """Read, check and inspect it; profiles that are read are some that a run can be in."""
    plan = folder / "model.plan"
    inspection_table(inspect(plan))
    plan_file.check(plan)
    info = plan_file.read(plan)
    for profile in info.profile:
        if not all(
            a <= b <= c for a, b, c in zip(profile.min, profile.opt, profile.max, strict=True)
        ):
            raise Wrong(f"a profile from {profile.min} by {profile.opt} to {profile.max}")


# --- the kinds -------------------------------------------------------------------------------


def _dataset(kind: vectors.Source) -> Kind:
    def use(folder: Path, file: Path) -> None:
        wrong = vectors.used(kind, folder)
        if wrong:
            raise Wrong(wrong)

    return Kind(kind.write, use, kind.weight, kind.mutates, kind.made)


_FEW_NAMES = st.lists(TEXTS | st.just("clipperf-sample"), min_size=1, max_size=3)
_FEW = st.lists(st.integers(0, 9) | st.sampled_from(("fp32", "int8", "uint8")), max_size=3)
KINDS: dict[str, Kind] = {
    "sweep-plan": Kind(
        *(_write("plan.toml", PLAN), use_sweep_plan, 14.0),
        made=toml_of(
            st.dictionaries(st.sampled_from((*TOP, *RULE_KEYS)), VALUES, max_size=8)
            | st.fixed_dictionaries({"models": _FEW_NAMES}, optional=dict.fromkeys(TOP[3:8], _FEW))
        ),
    ),
    "targets": Kind(
        *(_write("targets.toml", TARGETS), use_targets, 6.0),
        made=toml_of(
            st.dictionaries(st.sampled_from(NAMES) | TEXTS, VALUES, max_size=8)
            | st.dictionaries(st.sampled_from(NAMES), st.floats(0, 110) | NUMBERS, max_size=4)
        ),
    ),
    "option": Kind(
        _write("line", "5%\np99<1.2x\nE1=0.4\n1,8,32\n1:8:64\nonnx,torch"),
        *(use_option, 14.0),
        made=st.lists(TEXTS, max_size=4).map(
            lambda lines: "\n".join(lines).encode("utf-8", "surrogatepass")
        ),
    ),
    "result-1": Kind(_write_result(1), use_result, 2.0),
    "result-2": Kind(_write_result(2), use_result, 2.0),
    "merge": Kind(write_merge, use_merge, 8.0, "result.json"),
    "state": Kind(write_state, use_state, 6.0, "out/*"),
    "sweep": Kind(write_sweep, use_sweep, 6.0),
    "plans": Kind(write_plans, use_plans, 8.0, "*.json"),
    **{name: _dataset(kind) for name, kind in datasets.SOURCES.items()},
}
