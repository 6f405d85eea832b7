"""`clipperf export --runtime trt-rtx` with real builds, which need no GPU, and who uses them.

Where the model does not matter, the tiny one of `conftest` stands in for the bundled sample.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import resource
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from conftest import Cli, assert_usable, leftovers, only_locks, snapshot, start, store_of, use

from clipperf.bench import prepare
from clipperf.engines import contract, profiles
from clipperf.engines import onnxruntime as ort_engine
from clipperf.engines.tensorrt import flavours, plan_file
from clipperf.errors import EngineError, StorageError, UsageError
from clipperf.export import folder as folders
from clipperf.export.exporter import Below, key_of
from clipperf.export.exporters import tensorrt
from clipperf.export.exporters.tensorrt import find_engines
from clipperf.export.job import Job, like
from clipperf.export.make import make
from clipperf.export.plan_options import EngineSettings, check_kinds, settings_of
from clipperf.inputs.tokenize import Tokenizer, eot_lengths
from clipperf.models import sample, zoo
from clipperf.nouns.artifact import Artifact
from clipperf.nouns.cell import Cell
from clipperf.nouns.model import ModelSpec
from clipperf.nouns.variant import Side, Variant
from clipperf.report.exported import exported_lines, failed
from clipperf.serve.parity_inputs import parity_inputs
from clipperf.system import env, files, store

pytestmark = pytest.mark.skipif(
    not flavours.installed("trt-rtx"),
    reason="TensorRT for RTX is not installed: pip install 'clipperf[trt-rtx]'",
)
without_gpu = pytest.mark.skipif(
    flavours.gpu_kind() is not None, reason="there is an NVIDIA GPU here"
)

RTX = ("export", sample.NAME, "--runtime", "trt-rtx")
SM89 = ("--target", "sm89")
GRAPH = Variant("onnx")


def engine(precision: str = "fp32", runtime: str = "trt-rtx", **settings: Any) -> Variant:
    return Variant(runtime, precision, settings=EngineSettings(**settings))


ADA = engine(targets=("sm89",))
THREE = ("sm86", "sm89", "sm120")
SIDES: tuple[Side, ...] = ("image", "text")


def tower_of(folder: Path, side: Side = "image") -> Artifact:
    tower = store.read_manifest(folder).tower(side)
    assert tower is not None
    return tower


def changed(**settings: Any) -> Variant:
    return dataclasses.replace(ADA, settings=dataclasses.replace(settings_of(ADA), **settings))


def batches(low: int, usual: int, high: int, **settings: Any) -> Variant:
    return changed(batch=(low, usual, high), **settings)


# --- the bundled sample --------------------------------------------------------------------


@pytest.fixture(scope="module")
def sample_home(
    sample_in: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """A store with the sample's towers, and their engines in fp32 and fp16 for three targets."""
    home = tmp_path_factory.mktemp("engines") / "home"
    for precision in ("fp32", "fp16"):
        store_of(sample_in(precision), home)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLIPPERF_HOME", str(home))
        for precision in ("fp32", "fp16"):
            make(zoo.resolve(sample.NAME), SIDES, engine(precision, targets=THREE))
    yield home


def folders_of(home: Path) -> dict[str, Path]:
    """The artifact folders of a store, by "runtime precision"."""
    found = store.find_artifacts(home / "artifacts")
    return {f"{manifest.runtime} {manifest.precision}": folder for folder, manifest in found}


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_both_towers_of_the_sample(sample_home: Path, precision: str) -> None:
    folder = folders_of(sample_home)[f"trt-rtx {precision}"]
    source = folders_of(sample_home)[f"onnx {precision}"]
    assert_usable(folder)
    manifest, graphs = store.read_manifest(folder), store.read_manifest(source)
    assert (manifest.runtime, manifest.precision) == ("trt-rtx", precision)
    assert [tower.side for tower in manifest.towers] == ["image", "text"]
    assert manifest.preprocess == graphs.preprocess and manifest.tokenizer == graphs.tokenizer
    px, context = manifest.spec.image_px, manifest.spec.context_tokens
    lengths = [bucket for bucket in contract.TOKEN_BUCKETS if bucket < context] + [context]
    ranges = {
        "image": [[(n, 3, px, px) for n in (1, opt, 64)] for opt in (1, 8, 64)],
        "text": [
            [(1, shortest), (8, length), (64, length)]
            for shortest, length in zip([8, *(n + 1 for n in lengths)], lengths, strict=False)
        ],
    }
    for tower in manifest.towers:
        side = tower.side
        graph, plan = tower_of(source, side), folder / tower.path
        assert set(tower.files) == {f"{side}/model.plan", f"{side}/model.plan.json"}
        assert tower.disk_bytes == sum((folder / name).stat().st_size for name in tower.files)
        assert tower.options == {
            "batch": "1:8:64",
            "tokens": f"8:{context}:{context}",
            "image_batches": "1,8,64",
            "text_tokens": ",".join(map(str, lengths)),
            "targets": "sm86,sm89,sm120",
        }
        assert (tower.inputs, tower.outputs) == (graph.inputs, graph.outputs)
        assert tower.weights_id == graph.weights_id and tower.tokens is None
        assert tower.build_s > 0
        assert tower.peak_rss_bytes is None or tower.peak_rss_bytes > plan.stat().st_size
        assert plan_file.check(plan) == []
        info = plan_file.read(plan)
        assert (info.flavour, info.precision, info.side) == ("trt-rtx", precision, side)
        assert info.targets == THREE
        assert info.model_id == sample.NAME
        assert info.onnx_sha256 == files.sha256_file(source / side / "model.onnx")
        assert [[one.min, one.opt, one.max] for one in info.profile] == ranges[side]
    if flavours.gpu_kind() is None:
        assert [tower.parity for tower in manifest.towers] == [None, None]


def test_half_precision_takes_half_the_disk_and_every_tower_has_a_key(sample_home: Path) -> None:
    full, half = (folders_of(sample_home)[f"trt-rtx {p}"] for p in ("fp32", "fp16"))
    for side in SIDES:
        sizes = [(folder / side / "model.plan").stat().st_size for folder in (half, full)]
        assert sizes[0] < 0.65 * sizes[1]
    assert len({tower_of(folder, side).key for folder in (full, half) for side in SIDES}) == 4


@without_gpu
def test_a_repeat_is_up_to_date_cheap_and_touches_nothing(sample_home: Path, cli: Cli) -> None:
    folder = folders_of(sample_home)["trt-rtx fp16"]
    before = snapshot(folder)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = cli(*RTX, "--precision", "fp16", home=sample_home, check=True)
    now = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime < 3
    assert "up to date" in done.stdout and str(folder) in done.stdout
    assert done.stdout.count("parity not checked: needs a sm86, sm89 or sm120 GPU") == 2
    assert snapshot(folder) == before


def test_brain_floats_build_from_ampere_on(
    sample_home: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The image tower is a ResNet, whose batch norms TensorRT takes only folded in bf16."""
    spec = zoo.resolve(sample.NAME)
    done = make(spec, ("image",), engine("bf16", targets=THREE))
    assert plan_file.read(done.folder / "image" / "model.plan").targets == THREE
    before = snapshot(home)
    with pytest.raises(UsageError, match=r"no bf16 engine for sm75: .* sm86, sm89"):
        make(spec, ("image",), engine("bf16", targets=("sm75",)))
    assert snapshot(home) == before


@pytest.mark.slow
@pytest.mark.parametrize(
    ("precision", "graph_of", "numbers", "bits", "targets"),
    [
        ("fp8", "fp8", "FLOAT8E4M3FN", None, ("sm89", "sm120")),
        ("int8", "int8-fp16", "INT8", 8, THREE),
    ],
)
def test_eight_bits_of_both_towers(
    sample_home: Path, sample_in: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch,
    precision: str, graph_of: str, numbers: str, bits: int | None, targets: tuple[str, ...],
) -> None:  # fmt: skip
    """All that is not rounded is fp16, and integers have 8 bits on any host.

    Without a GPU fp8 is built for those of the usual kinds that have it.
    """
    if precision == "fp8":  # its graph is the same on any host
        store_of(sample_in(graph_of), sample_home)
    monkeypatch.setenv("CLIPPERF_HOME", str(sample_home))
    monkeypatch.setattr(env, "cpu_flags", lambda: frozenset({"avx2"}))
    spec = zoo.resolve(sample.NAME)
    done = make(spec, SIDES, engine(precision, targets=targets))
    assert_usable(done.folder)
    folder = folders_of(sample_home)[f"onnx {graph_of}"]
    graph = store.read_manifest(folder)
    for side in SIDES:
        tower, source = tower_of(done.folder, side), graph.tower(side)
        plan = done.folder / tower.path
        assert plan_file.check(plan) == [] and plan_file.read(plan).targets == targets
        assert plan_file.read(plan).weight_bits == tower.weight_bits == bits
        assert source is not None and source.parity is not None and source.parity.passed
        assert tower.findings == source.findings
        cost = tower.quantization
        assert cost is not None and cost.points_lost is not None
        assert cost.points_lost <= 0.5 and cost.min_cosine >= 0.99 and cost.kept_in == "fp16"
        constants = onnx.load(folder / tower.path.replace(".plan", ".onnx")).graph.initializer
        kinds = {onnx.TensorProto.DataType.Name(t.data_type) for t in constants if len(t.dims)}
        assert kinds - {"INT64"} == {"FLOAT16", numbers}
    half = tower_of(folders_of(sample_home)["trt-rtx fp16"], "text")
    # Each profile adds its own part; with what is not rounded in fp32 it would be near twice.
    assert tower_of(done.folder, "text").disk_bytes < 1.25 * half.disk_bytes
    known = {
        p: key_of(spec, tower.weights_id, "text", tensorrt.needs(spec, SIDES, engine(p))[0][0])
        for p in ("int8", "fp8")
    }
    assert known["int8"] != known["fp8"] and known[precision] == source.key


# --- a tiny model, built at will -----------------------------------------------------------


@pytest.fixture(scope="session")
def onnx_once(checkpoints: Path, exported_once: Path, tmp_path_factory: Any) -> Path:
    """A store with both ONNX towers of "a" and the image tower of "b"."""
    root = tmp_path_factory.mktemp("tiny-onnx") / "home"
    shutil.copytree(exported_once, root)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLIPPERF_HOME", str(root))
        make(use(patch, checkpoints / "a"), SIDES, GRAPH)
        make(use(patch, checkpoints / "b"), ("image",), GRAPH)
    return root


@pytest.fixture
def stocked(tiny: ModelSpec, home: Path, onnx_once: Path) -> ModelSpec:
    """The tiny model "a", with a store that holds `onnx_once`."""
    shutil.copytree(onnx_once, home)
    return tiny


def test_towers_made_one_after_the_other_share_a_folder(stocked: ModelSpec) -> None:
    image = make(stocked, ("image",), ADA)
    plan = snapshot(image.folder / "image")
    text = make(stocked, ("text",), ADA)
    assert text.folder == image.folder and text.built == ("text",)
    assert [tower.side for tower in text.manifest.towers] == ["image", "text"]
    assert snapshot(image.folder / "image") == plan
    assert make(stocked, SIDES, ADA).up_to_date
    assert_usable(text.folder)


def test_every_choice_has_its_own_folder(stocked: ModelSpec) -> None:
    choices = [
        ADA,
        batches(1, 2, 4),
        batches(1, 8, 64, targets=("sm86",)),
        batches(1, 8, 64, targets=("sm86", "sm89")),
        dataclasses.replace(ADA, precision="tf32"),
        changed(opt_level=1),
    ]
    made: dict[Path, dict[str, tuple[int, bytes]]] = {}
    for wanted in choices:
        done = make(stocked, ("image",), wanted)
        assert done.built == ("image",) and done.folder not in made
        made[done.folder] = snapshot(done.folder)
    for wanted, folder in zip(choices, made, strict=True):
        again = make(stocked, ("image",), wanted)
        assert again.up_to_date and again.folder == folder
    assert {folder: snapshot(folder) for folder in made} == made


def test_the_cache_key_holds_everything_that_changes_the_bytes(
    sample_artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = tower_of(sample_artifact)
    other = dataclasses.replace(graph, files={"image/model.onnx": "0" * 64})
    beside = dataclasses.replace(graph, files={**graph.files, "image/weights": "1" * 64})
    spec = zoo.resolve(sample.NAME)

    def key(graph: Artifact, wanted: Variant) -> str:
        return tensorrt.key(spec, "image", wanted, Below(graph.key, graph.files))

    keys = [key(each, ADA) for each in (graph, other, beside)]
    for change in (
        {"batch": (1, 8, 65)},
        {"batch": (1, 9, 64)},
        {"tokens": (9, 77, 77)},
        {"targets": ("sm86",)},
        {"targets": ()},
        {"workspace_bytes": 2**30},
        {"opt_level": 3},
        {"hardware_compat": "ampere-plus"},
    ):
        keys.append(key(graph, changed(**change)))
    for noun in ({"precision": "tf32"}, {"runtime": "trt"}):
        keys.append(key(graph, dataclasses.replace(ADA, **noun)))
    with monkeypatch.context() as patch:
        patch.setattr(profiles, "TOKEN_BUCKETS", (8, 40))
        keys.append(key(graph, ADA))
        patch.setattr(profiles, "BATCH_STEP", 4)
        keys.append(key(graph, ADA))
    monkeypatch.setattr(flavours, "version", lambda flavour: "9.9.9.9")
    keys.append(key(graph, ADA))
    assert len(set(keys)) == len(keys)
    timings = changed(timing_cache="/any/where")
    assert key(graph, timings) == keys[-1], "where timings lie changes no plan"


@pytest.mark.parametrize(
    ("flavour", "precision", "kind", "refused"),
    [
        ("trt-rtx", "fp8", "sm86", True),
        ("trt-rtx", "fp8", "sm89", False),
        ("trt-rtx", "fp32", "sm75", True),
        ("trt-rtx", "tf32", "sm75", True),
        # It builds there, and NVIDIA lists no int8 for it.
        ("trt-rtx", "int8", "sm75", True),
        ("trt-rtx", "fp16", "sm75", False),
        ("trt-rtx", "int8", "sm86", False),
        # Full TensorRT picks its kernels on the GPU, whose own limits are left.
        ("trt", "fp8", "sm86", True),
        ("trt", "fp8", "sm90", False),
        ("trt", "bf16", "sm75", True),
        ("trt", "fp32", "sm75", False),
        ("trt", "int8", "sm75", False),
    ],
)
def test_kinds_that_lack_a_precision(
    flavour: str, precision: str, kind: str, refused: bool
) -> None:
    can = flavours.capabilities(flavours.load("trt-rtx"))
    wanted = engine(precision, flavour)
    if flavour == "trt":
        can = dataclasses.replace(can, targets=())
    else:
        wanted = engine(precision, flavour, targets=(kind,))
    with (
        pytest.raises(UsageError, match=f"{precision} engine for {kind}")
        if refused
        else (contextlib.nullcontext())
    ):
        check_kinds(wanted, can, kind)


def test_options_are_completed(stocked: ModelSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    bare = engine()

    def completed(wanted: Variant, spec: ModelSpec = stocked) -> EngineSettings:
        return settings_of(tensorrt.complete(spec, wanted))

    for kind, targets in ((None, THREE), ("sm120", ("sm120",))):
        monkeypatch.setattr(flavours, "gpu_kind", lambda kind=kind: kind)
        assert completed(bare).targets == targets
        assert completed(ADA).targets == ("sm89",)
    # A100, H100, B200 and what is newer: what is built for the GPU here would never run on it.
    for kind in ("sm80", "sm90", "sm100", "sm999"):
        monkeypatch.setattr(flavours, "gpu_kind", lambda kind=kind: kind)
        with pytest.raises(UsageError, match=rf"not on {kind}, .*--runtime trt, or .*--target"):
            completed(bare)
        assert completed(ADA).targets == ("sm89",)
    monkeypatch.setattr(flavours, "gpu_kind", lambda: None)
    assert completed(engine("fp8")).targets == ("sm89", "sm120")
    short = dataclasses.replace(stocked, context_tokens=5)
    assert completed(bare, short).tokens == (5, 5, 5)


# --- two checkpoints -----------------------------------------------------------------------


def test_two_checkpoints_never_share_an_engine(
    stocked: ModelSpec, checkpoints: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = make(stocked, ("image",), ADA)
    before = snapshot(first.folder)
    other = use(monkeypatch, checkpoints / "b")
    assert (other.architecture, other.id) == (stocked.architecture, stocked.id)
    second = make(other, ("image",), ADA)
    assert second.built == ("image",) and second.folder != first.folder
    mine, theirs = tower_of(first.folder), tower_of(second.folder)
    assert mine.key != theirs.key and mine.weights_id != theirs.weights_id
    plans = [(folder / "image/model.plan").read_bytes() for folder in (first.folder, second.folder)]
    assert plans[0] != plans[1]
    assert make(other, ("image",), ADA).up_to_date
    assert snapshot(first.folder) == before


def test_a_second_checkpoint_replaces_the_first_and_never_mixes(
    stocked: ModelSpec, checkpoints: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    first = make(stocked, SIDES, ADA, out=out)
    assert len(first.manifest.towers) == 2
    other = use(monkeypatch, checkpoints / "b")
    with pytest.raises(UsageError, match=r"text tower of other weights, sizes .* --tower both"):
        make(other, ("image",), ADA, out=out)
    assert_usable(out)
    second = make(other, SIDES, ADA, out=out)
    assert second.folder == out and second.built == SIDES
    assert {tower.weights_id for tower in second.manifest.towers} == {tower_of(out).weights_id}
    assert tower_of(out).weights_id != first.manifest.towers[0].weights_id
    assert_usable(out)


# --- what is refused before any work -------------------------------------------------------

PRECISION_LIST = "choose from fp32, tf32, fp16, bf16"


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("--runtime", "trt-rtx", "--precision", "foo"), PRECISION_LIST),
        (("--runtime", "trt", "--precision", "foo"), PRECISION_LIST),
        (("--runtime", "trt-rtx", "--target", "sm99"), "choose --target from sm75, sm86, sm89"),
        (
            ("--runtime", "trt-rtx", "--precision", "fp8", "--target", "sm86,sm89"),
            "no fp8 engine for sm86: choose --target from sm89, sm120, sm121",
        ),
        (("--runtime", "trt-rtx", "--target", "sm75"), "no fp32 engine for sm75"),
        (
            ("--runtime", "trt-rtx", "--precision", "int8", "--target", "sm75"),
            "no int8 engine for sm75: choose --target from sm86, sm89, sm120, sm121, or",
        ),
        (("--runtime", "trt-rtx", "--target", "ada"), "GPU kinds such as sm86,sm89,sm120"),
        (("--runtime", "trt-rtx", "--target", ","), "--target needs at least one name"),
        (("--runtime", "trt-rtx", "--batch", "many"), "--batch many: give MIN:OPT:MAX"),
        (("--runtime", "trt-rtx", "--batch", "1:8"), "--batch 1:8: give MIN:OPT:MAX"),
        (("--runtime", "trt-rtx", "--batch", ""), "give MIN:OPT:MAX"),
        (("--runtime", "trt-rtx", "--batch", "8:4:64"), "--batch 8:4:64: give MIN:OPT:MAX"),
        (("--runtime", "trt-rtx", "--batch", "0:1:2"), "1 <= MIN"),
        (("--runtime", "trt-rtx", "--batch", "1:8:999999"), "--batch takes up to 65536"),
        (("--runtime", "onnx", "--verbose"), "add --runtime trt or trt-rtx"),
        (("--runtime", "trt-rtx", "--hardware-compat", "ampere-plus"), "--target instead"),
        (("--runtime", "trt-rtx", "--timing-cache", "x"), "leave out --timing-cache"),
        (("--batch", "1:8:64"), "add --runtime trt or trt-rtx"),
        (("--runtime", "onnx", "--target", "sm89"), "add --runtime trt or trt-rtx"),
        (("--runtime", "tensorrt"), "trt, trt-rtx or best"),
        (("--runtime", "trt-rtx", "--out", "/etc"), "choose another --out"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_refusals_name_the_fix(args: tuple[str, ...], said: str, cli: Cli, home: Path) -> None:
    done = cli("export", sample.NAME, *args)
    assert done.returncode == 2, done.stderr
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1, "one line, before any stage"
    assert not home.exists()


@pytest.mark.skipif(flavours.installed("trt"), reason="full TensorRT is installed here")
@pytest.mark.parametrize("more", [(), SM89], ids=["plain", "target"])
def test_without_full_tensorrt_the_other_flavour_is_offered(
    more: tuple[str, ...], cli: Cli, home: Path
) -> None:
    done = cli("export", sample.NAME, "--runtime", "trt", *more)
    assert done.returncode == 2
    assert "pip install 'clipperf[trt]'" in done.stderr and "--runtime trt-rtx" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not home.exists()


# --- kills, crowds, damage, full disks -----------------------------------------------------


def child_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])


def alive(pid: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
def test_a_kill_while_building_ends_the_child_and_leaves_the_old(
    stocked: ModelSpec, tmp_path: Path, cli: Cli
) -> None:
    out = tmp_path / "out" / "artifact"
    make(stocked, ("image",), ADA, out=out)
    before = snapshot(out)
    command = (*RTX, "--tower", "image", "--target", ",".join(THREE), "--out", out)
    with start(*command) as process:
        assert process.stderr is not None
        assert any("building for" in line for line in process.stderr)
        child = child_of(process.pid)
        os.kill(child, signal.SIGSTOP)  # so that it is still building when its parent dies
        assert alive(child) and leftovers(out.parent)
        process.kill()
    deadline = time.monotonic() + 10
    while alive(child) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not alive(child)
    assert snapshot(out) == before
    assert "exported image" in cli(*command, check=True).stdout
    assert tower_of(out).options["targets"] == "sm86,sm89,sm120"
    assert_usable(out)


def test_of_two_exports_at_once_one_builds(stocked: ModelSpec) -> None:
    processes = [start(*RTX, *SM89, "--tower", "image") for _ in range(2)]
    answers = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], answers
    first_lines = sorted(out.splitlines()[0].partition(": ")[2] for out, _ in answers)
    assert first_lines == ["exported image", "up to date"]
    (folder,) = [found for found, manifest in store.find_artifacts() if manifest.runtime != "onnx"]
    assert_usable(folder)


@pytest.mark.parametrize("damage", ["cut off", "altered", "no sidecar"])
def test_a_damaged_plan_is_built_again(stocked: ModelSpec, damage: str) -> None:
    folder = make(stocked, ("image",), ADA).folder
    plan = folder / "image/model.plan"
    sound, times = plan.read_bytes(), plan.stat()
    if damage == "no sidecar":
        plan_file.sidecar_path(plan).unlink()
    else:
        plan.write_bytes(sound[:-1] if damage == "cut off" else sound[:-1] + bytes([sound[-1] ^ 1]))
        os.utime(plan, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert folders.current_towers(folder) == {}
    again = make(stocked, ("image",), ADA)
    assert again.built == ("image",) and again.folder == folder
    assert plan.read_bytes() == sound
    assert_usable(folder)


def test_too_small_a_disk_is_found_out_before_the_build(
    stocked: ModelSpec, small_disk: Path
) -> None:
    stages: list[str] = []
    with pytest.raises(StorageError, match=r"MiB are free.*--out"):
        make(stocked, ("text",), ADA, out=small_disk / "out", on_stage=stages.append)
    assert stages == [] and only_locks(small_disk)


def test_a_disk_that_fills_while_building(
    stocked: ModelSpec, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folders, "check_space", lambda *args: None)
    with pytest.raises(StorageError, match=r"disk full.*--out or CLIPPERF_HOME"):
        make(stocked, ("text",), ADA, out=small_disk / "out")
    assert only_locks(small_disk)
    assert shutil.disk_usage(small_disk).used < 2**16


def test_a_graph_that_tensorrt_cannot_read_is_one_error(stocked: ModelSpec, cli: Cli) -> None:
    """An operator that no parser knows, in an artifact that is otherwise sound."""
    import onnx

    source = make(stocked, ("image",), GRAPH).folder
    path = source / "image/model.onnx"
    model = onnx.load(path)
    node = next(node for node in model.graph.node if node.op_type == "MatMul")
    node.op_type = "Bogus"
    onnx.save(model, path)
    manifest = json.loads((source / store.MANIFEST_NAME).read_text())
    tower = next(tower for tower in manifest["towers"] if tower["side"] == "image")
    tower["disk_bytes"] = path.stat().st_size
    tower["files"]["image/model.onnx"] = files.sha256_file(path)
    (source / store.MANIFEST_NAME).write_text(json.dumps(manifest))
    done = cli(*RTX, *SM89, "--tower", "image", "--quiet")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "cannot read clipperf-sample image" in line and f"node {node.name!r} (Bogus)" in line
    assert {manifest.runtime for _, manifest in store.find_artifacts()} == {"onnx"}
    assert not leftovers(store.home())


# --- which engine is used ------------------------------------------------------------------

RANGES = {
    "few": batches(1, 1, 4),
    "many": batches(1, 8, 64),
    "eight": batches(8, 8, 8),
    "blackwell": batches(1, 1, 2, targets=("sm120",)),
}


@pytest.fixture(scope="session")
def engines_once(checkpoints: Path, onnx_once: Path, tmp_path_factory: Any) -> Path:
    """A store with image engines of "a" in `RANGES`, and one of "b" for batches 1 to 2."""
    root = tmp_path_factory.mktemp("tiny-engines") / "home"
    shutil.copytree(onnx_once, root)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLIPPERF_HOME", str(root))
        spec = use(patch, checkpoints / "a")
        for wanted in RANGES.values():
            make(spec, ("image",), wanted)
        make(use(patch, checkpoints / "b"), ("image",), batches(1, 1, 2))
    return root


@pytest.fixture
def played(
    tiny: ModelSpec, home: Path, engines_once: Path, monkeypatch: pytest.MonkeyPatch
) -> SimpleNamespace:
    """The store of `engines_once`, the folders of "a" by name, and an Ada GPU that is played."""
    shutil.copytree(engines_once, home)
    kinds = {"gpu": "sm89"}
    monkeypatch.setattr(flavours, "gpu_kind", lambda: kinds["gpu"])
    weights = zoo.weights_id(tiny)
    assert weights is not None
    by_range = {
        (tower.options["batch"], tower.options["targets"]): folder
        for folder, manifest in store.find_artifacts()
        for tower in manifest.towers
        if manifest.runtime == "trt-rtx" and tower.weights_id == weights
    }
    named = {
        name: by_range[":".join(map(str, settings.batch)), settings.targets[0]]
        for name, settings in ((name, settings_of(wanted)) for name, wanted in RANGES.items())
    }
    return SimpleNamespace(spec=tiny, kinds=kinds, **named)


def test_the_smallest_range_that_fits_is_found(
    played: SimpleNamespace, checkpoints: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def found(low: int, high: int, wanted: Variant = ADA) -> Path | None:
        return find_engines(zoo.resolve(sample.NAME), ("image",), wanted, (low, high))

    assert found(1, 1) == found(2, 4) == played.few
    assert found(1, 5) == found(1, 64) == found(7, 8) == played.many
    assert found(8, 8) == played.eight
    assert found(1, 65) is None
    assert found(1, 1, dataclasses.replace(ADA, precision="tf32")) is None
    assert found(1, 1, dataclasses.replace(ADA, runtime="trt")) is None
    assert find_engines(played.spec, SIDES, ADA, (1, 1)) is None, "no text engine was built"
    played.kinds["gpu"] = "sm120"
    assert found(1, 2) == played.blackwell and found(1, 4) is None
    for gpu in ("sm86", "sm90", None):
        played.kinds["gpu"] = gpu
        assert found(1, 1) is None
    played.kinds["gpu"] = "sm89"
    use(monkeypatch, checkpoints / "b")
    other = found(1, 2)
    assert other is not None and other not in vars(played).values() and found(1, 4) is None
    use(monkeypatch, checkpoints / "a")
    assert found(1, 1) == played.few
    monkeypatch.setattr(flavours, "version", lambda flavour: "1.0.0.0")
    assert found(1, 1) is None


def refuse(folder: Path) -> None:
    """As if the engine had failed the gate and had been kept on demand."""
    manifest = json.loads((folder / store.MANIFEST_NAME).read_text())
    manifest["towers"][0]["parity"] = {
        "n": 12, "batches": [1, 3, 8], "min_cosine": 0.5, "mean_cosine": 0.9, "max_abs_diff": 1.0,
        "top1_agreement": 0.5, "finite": True, "required_min_cosine": 0.999, "passed": False,
        "inputs": "images",
    }  # fmt: skip
    (folder / store.MANIFEST_NAME).write_text(json.dumps(manifest))


def break_sidecar(folder: Path) -> None:
    sidecar = plan_file.sidecar_path(folder / "image/model.plan")
    sidecar.write_text(sidecar.read_text().replace('"schema_version": 1', '"schema_version": 9'))


def cut_plan(folder: Path) -> None:
    plan = folder / "image/model.plan"
    plan.write_bytes(plan.read_bytes()[:-1])


def change_graph(folder: Path) -> None:
    """As if the ONNX tower had been exported anew, with other bytes, since the engine was built."""
    sidecar = plan_file.sidecar_path(folder / "image/model.plan")
    info = plan_file.read(folder / "image/model.plan")
    sidecar.write_text(sidecar.read_text().replace(info.onnx_sha256, "0" * 64))


def profile_once(folder: Path) -> None:
    """As an earlier clipperf built it: with one profile for all that it takes."""
    plan = folder / "image/model.plan"
    info = plan_file.read(plan)
    plan_file.write(plan, dataclasses.replace(info, profile=(profiles.whole(info.profile),)))


@pytest.mark.parametrize("damage", [refuse, break_sidecar, cut_plan, change_graph, profile_once])
def test_an_engine_that_cannot_be_trusted_is_passed_over(
    played: SimpleNamespace, damage: Any
) -> None:
    damage(played.few)
    assert find_engines(played.spec, ("image",), ADA, (1, 4)) == played.many


def test_a_sweep_takes_what_fits_its_cells_and_an_evaluation_any_batch(
    played: SimpleNamespace,
) -> None:
    def used(batch: int, largest: int | None = None) -> Path:
        cell = Cell(played.spec.id, "image", "trt-rtx", "fp32", "cuda", batch, 1)
        request, size = prepare.engine_request(cell, played.spec, lambda stage: None, largest)
        plan = Path(str(request.path))
        tower = tower_of(plan.parents[1])
        assert (request.key, size) == (tower.key, tower.disk_bytes)
        return plan.parents[1]

    assert used(8, 8) == played.eight
    assert used(1, 4) == used(4, 4) == used(4) == played.few
    assert used(1, 8) == used(8, 64) == used(8) == played.many


def test_a_sweep_beyond_every_range_exports_one_that_reaches_it(
    played: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[Any, ...]] = []

    def made(spec: ModelSpec, sides: Any, wanted: Variant, on_stage: Any) -> Any:
        asked.append((sides, wanted.runtime, wanted.precision, settings_of(wanted).batch))
        return SimpleNamespace(folder=Path("made"))

    monkeypatch.setattr("clipperf.export.make.make", made)

    def folder(largest: int) -> Path:
        return prepare.artifact_folder(
            played.spec, ["image"], Variant("trt-rtx"), lambda stage: None, (1, largest)
        )

    assert folder(64) == played.many and asked == []
    assert folder(200) == Path("made")
    assert asked == [(["image"], "trt-rtx", "fp32", (1, 8, 512))]


# --- parity --------------------------------------------------------------------------------


class Recorder:
    """The ONNX tower in the place of its engine, with the sizes of the batches that it got."""

    def __init__(self, path: Path) -> None:
        self.sizes: list[int] = []
        self.closed = False
        self._session = ort_engine.open_session(path, 1)

    def run(self, array: np.ndarray) -> np.ndarray:
        self.sizes.append(len(array))
        if len(self.sizes) > 7:
            raise EngineError("too many runs")
        return self._session.run(array)

    def close(self) -> None:
        self.closed = True


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("few", [1, 3, 4, 4]),
        ("many", [1, 3, 8, 23]),
        ("eight", [8, 8]),
        ("blackwell", [1, *[2] * 6]),
    ],
)
def test_parity_is_checked_within_the_profile(
    played: SimpleNamespace, name: str, sizes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = make(played.spec, ("image",), GRAPH).folder
    recorder = Recorder(source / "image/model.onnx")
    runtime = SimpleNamespace(devices=("cuda",), open=lambda request: recorder)
    monkeypatch.setattr(contract, "get", lambda name: runtime)
    folder = getattr(played, name)
    job = Job(
        "tensorrt", played.spec, "image", ADA, str(folder), str(folder / "image/model.plan"),
        (str(source),), threads=1, min_cosine=0.999,
    )  # fmt: skip
    found = tensorrt.checked(job, like(tower_of(folder)))
    assert recorder.sizes == sizes and list(found.batches) == sizes
    assert found.n == 12 and found.passed
    assert recorder.closed


@pytest.mark.parametrize("wrong", [None, 16])
def test_parity_is_checked_at_every_length_that_texts_are_tuned_for(
    sample_home: Path, monkeypatch: pytest.MonkeyPatch, wrong: int | None
) -> None:
    """Each length is a profile, with kernels of its own."""
    folder, source = (folders_of(sample_home)[f"{name} fp32"] for name in ("trt-rtx", "onnx"))
    session, lengths = ort_engine.open_session(source / "text/model.onnx", 1), []

    def run(array: np.ndarray) -> np.ndarray:
        lengths.append(array.shape[1])
        return session.run(array) * (-1 if array.shape[1] == wrong else 1)

    runtime = SimpleNamespace(
        devices=("cuda",), open=lambda request: SimpleNamespace(run=run, close=lambda: None)
    )
    monkeypatch.setattr(contract, "get", lambda name: runtime)
    monkeypatch.setattr(tensorrt, "_present_gpu", lambda: "a GPU")
    spec = store.read_manifest(source).spec
    job = Job(
        "tensorrt", spec, "text", ADA, str(folder), str(folder / "text/model.plan"),
        (str(source),), threads=1, min_cosine=0.999,
    )  # fmt: skip
    found = tensorrt.checked(job, like(tower_of(folder, "text")))
    tuned = [one.opt[1] for one in plan_file.read(folder / "text/model.plan").profile]
    ends = parity_ends(source)
    assert lengths[3:] == [length for length in tuned if length >= min(ends)]
    assert (found.n, found.batches) == (12, (1, 3, 8))
    assert found.passed == (wrong is None)
    assert found.inputs.endswith("; on a GPU, cut at 16 tokens" if wrong else "; on a GPU")


def parity_ends(folder: Path) -> np.ndarray:
    """Where the texts end that towers are judged by."""
    tokenizer = Tokenizer.from_folder(folder)
    return eot_lengths(parity_inputs(folder, "text"), eot_id=tokenizer.eot_id or 0)


@pytest.mark.parametrize(
    ("targets", "said"),
    [("sm89", "a sm89 GPU"), ("sm86,sm89", "a sm86 or sm89 GPU")],
)
def test_the_summary_says_why_parity_was_not_checked(
    played: SimpleNamespace, targets: str, said: str
) -> None:
    manifest = store.read_manifest(played.few)
    tower = dataclasses.replace(manifest.towers[0], options={"targets": targets}, parity=None)
    exported = folders.Exported(
        played.few, dataclasses.replace(manifest, towers=(tower,)), ("image",)
    )
    assert exported_lines(exported)[1].endswith(f"parity not checked: needs {said}")
    assert not failed(exported)


# --- running, on a machine that cannot -----------------------------------------------------


@without_gpu
@pytest.mark.parametrize("command", ["profile", "eval"])
@pytest.mark.parametrize("runtime", ["trt", "trt-rtx"])
def test_without_a_gpu_one_line_says_what_is_missing(
    command: str, runtime: str, cli: Cli, home: Path
) -> None:
    done = cli(command, sample.NAME, "--runtime", runtime)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: runtime {runtime} on cuda: ") and "no NVIDIA GPU" in line
    assert "To use it: " in line
    if runtime == "trt" and not flavours.installed("trt"):
        assert "pip install 'clipperf[trt]'" in line and "--runtime trt-rtx" in line
    assert done.stdout == "" and not home.exists()


@pytest.mark.parametrize(
    ("runtimes", "device", "expected"),
    [
        (["torch", "onnx"], None, {"torch": "cpu", "onnx": "cpu"}),
        (["trt-rtx"], None, {"trt-rtx": "cuda"}),
        (["torch", "trt"], None, {"torch": "cuda", "trt": "cuda"}),
        (["onnx", "trt"], None, {"onnx": "cpu", "trt": "cuda"}),
        (["torch", "ort-cuda"], "cuda", {"torch": "cuda", "ort-cuda": "cuda"}),
        (["torch"], "cpu", {"torch": "cpu"}),
        (["trt-rtx"], "cpu", "runtime trt-rtx runs on cuda, not on 'cpu'"),
        (["onnx"], "cuda", "runtime onnx runs on cpu, not on 'cuda'"),
        (["trt-lite"], None, "no runtime 'trt-lite'"),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, list) else "",
)
def test_where_each_runtime_runs(
    runtimes: list[str], device: str | None, expected: dict[str, str] | str
) -> None:
    if isinstance(expected, str):
        with pytest.raises(UsageError, match=expected):
            prepare.choose_devices(runtimes, device)
    else:
        assert prepare.choose_devices(runtimes, device) == expected
