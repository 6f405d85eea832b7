"""`clipperf export` on real files in real processes: cached, locked, gated, all or nothing.

Where the model does not matter a tiny one stands in for the bundled sample, in this process and
its children (`sitecustomize` reaches those): most of an export is then what torch's exporter
costs, some ten seconds a tower.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import random
import resource
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import (
    WEIGHTS,
    Cli,
    assert_usable,
    leftovers,
    only_locks,
    snapshot,
    start,
    use,
)

import clipperf
from clipperf.engines import onnxruntime as engine
from clipperf.errors import (
    ArtifactError,
    ClipperfError,
    EngineError,
    ParityError,
    StorageError,
    UsageError,
)
from clipperf.export import folder as folders
from clipperf.export import space
from clipperf.export.exporter import Below
from clipperf.export.exporters import onnx as build
from clipperf.export.judge import parity
from clipperf.export.make import make
from clipperf.models import sample, zoo
from clipperf.nouns.model import ModelSpec
from clipperf.nouns.variant import PRECISIONS, Variant
from clipperf.system import files, store

EXPORT = ("export", sample.NAME)
IMAGE = (*EXPORT, "--tower", "image")
HALF = Variant("onnx", "fp16", normalized=True)


@pytest.fixture
def folder(tiny: ModelSpec, home: Path, exported_once: Path) -> Path:
    """The artifact folder of "a" in this test's store, which may be damaged at will."""
    shutil.copytree(exported_once, home)
    (path,) = [found for found, _ in store.find_artifacts()]
    return path


# --- what an artifact folder holds ---------------------------------------------------------


def test_the_folder_holds_what_a_deployment_needs(sample_artifact: Path) -> None:
    names = {p.relative_to(sample_artifact).as_posix() for p in sample_artifact.rglob("*.*")}
    assert names == {
        "image/model.onnx",
        "text/model.onnx",
        "preprocess.json",
        "tokenizer.json",
        "clipperf_tokenizer.json",
        "parity-image.npy",
        "parity-inputs.zip",
        "parity-text.npy",
        "manifest.json",
    }
    manifest = store.read_manifest(sample_artifact)
    recorded = dict(manifest.files)
    for tower in manifest.towers:
        recorded.update(tower.files)
        assert tower.disk_bytes == (sample_artifact / tower.path).stat().st_size
    assert recorded.keys() == names - {"manifest.json"}
    for name, digest in recorded.items():
        assert files.sha256_file(sample_artifact / name) == digest
    assert_usable(sample_artifact)


def test_parity_is_recorded_and_passed(sample_artifact: Path) -> None:
    towers = store.read_manifest(sample_artifact).towers
    assert [tower.side for tower in towers] == ["image", "text"]
    for tower in towers:
        found = tower.parity
        assert found is not None and found.passed and found.finite
        assert found.n == 12 and found.min_cosine >= found.required_min_cosine == 0.99999
        assert tower.tokens is None and not tower.normalized


@pytest.mark.parametrize("side", ["image", "text"])
def test_the_onnx_checker_passes(sample_artifact: Path, side: str) -> None:
    import onnx

    onnx.checker.check_model(str(sample_artifact / side / "model.onnx"), full_check=True)


def test_any_batch_gives_the_same_images(sample_artifact: Path) -> None:
    px = store.read_manifest(sample_artifact).spec.image_px
    pixels = np.random.default_rng(0).normal(size=(17, 3, px, px)).astype(np.float32)
    session = engine.open_session(sample_artifact / "image" / "model.onnx", 2)
    whole = session.run(pixels)
    assert whole.shape[0] == 17
    for size in (1, 5):
        np.testing.assert_allclose(session.run(pixels[:size]), whole[:size], atol=1e-5)


def test_any_batch_and_length_give_the_same_texts(sample_artifact: Path) -> None:
    manifest = store.read_manifest(sample_artifact)
    context, eot = manifest.spec.context_tokens, manifest.tokenizer["eot_id"]
    rng = np.random.default_rng(0)
    tokens = np.zeros((17, context), np.int64)
    for row, length in zip(tokens, [2, 3, *rng.integers(3, 20, 15)], strict=True):
        row[:length] = [eot - 1, *rng.integers(300, 40000, length - 2), eot]
    session = engine.open_session(sample_artifact / "text" / "model.onnx", 2)
    whole = session.run(tokens)
    for size in (1, 5, 17):
        np.testing.assert_allclose(session.run(tokens[:size]), whole[:size], atol=1e-5)
    for length in (20, 21, 50, context - 1):
        np.testing.assert_allclose(session.run(tokens[:, :length]), whole, atol=1e-5)
    np.testing.assert_allclose(session.run(tokens[:1, :2]), whole[:1], atol=1e-5)


@pytest.mark.slow
def test_towers_made_one_after_the_other_share_a_folder(
    tiny: ModelSpec, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also what --precision fp16 and --normalize give: unit vectors, another folder."""
    first = make(tiny, ("image",), HALF)
    second = make(tiny, ("text",), HALF)
    assert first.folder == second.folder
    assert (first.built, second.built) == (("image",), ("text",))
    assert [tower.side for tower in second.manifest.towers] == ["image", "text"]
    assert make(tiny, ("image", "text"), HALF).up_to_date
    assert_usable(second.folder)
    for tower in second.manifest.towers:
        assert tower.normalized and tower.precision == "fp16"
        assert tower.parity is not None and tower.parity.passed
        assert tower.parity.required_min_cosine == 0.999
    weights_id = zoo.weights_id(tiny)
    assert weights_id is not None
    assert second.folder != store.artifact_folder(tiny, weights_id, "onnx", "fp16")
    assert second.folder != store.artifact_folder(tiny, weights_id, "onnx", "fp32")
    from PIL import Image

    with clipperf.load(second.folder, threads=1) as model:
        images = model.encode_images([Image.effect_noise((40, 50), 60), Image.new("RGB", (9, 9))])
        texts = model.encode_texts(["a", "a longer text"])
    for embeds in (images, texts):
        np.testing.assert_allclose(np.linalg.norm(embeds, axis=1), 1, atol=1e-3)


# --- caching -------------------------------------------------------------------------------


def test_a_repeat_is_up_to_date_cheap_and_touches_nothing(folder: Path, cli: Cli) -> None:
    before = snapshot(folder)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = cli(*IMAGE, check=True)
    now = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert "up to date" in done.stdout
    assert str(folder) in done.stdout
    assert now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime < 2
    assert snapshot(folder) == before
    said = json.loads(cli(*IMAGE, "--json", check=True).stdout)
    assert said["up_to_date"] is True and said["folder"] == str(folder)


def test_changed_weights_do_not_hit_the_cache(
    folder: Path, checkpoints: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = snapshot(folder)
    shutil.copytree(checkpoints / "a", tmp_path / "model", symlinks=True)
    shutil.copy(checkpoints / "sitecustomize.py", tmp_path)
    spec = use(monkeypatch, tmp_path / "model")
    assert make(spec, ("image",), Variant("onnx")).folder == folder, "same bytes at another path"
    weights = tmp_path / "model" / WEIGHTS
    old = weights.stat()
    weights.write_bytes((checkpoints / "b" / WEIGHTS).read_bytes())
    os.utime(weights, ns=(old.st_atime_ns, old.st_mtime_ns))
    assert weights.stat().st_size == old.st_size
    changed = make(spec, ("image",), Variant("onnx"))
    assert changed.built == ("image",)
    assert changed.folder != folder
    model = "image/model.onnx"
    assert (changed.folder / model).read_bytes() != (folder / model).read_bytes()
    spec = use(monkeypatch, checkpoints / "b")
    again = make(spec, ("image",), Variant("onnx"))
    assert again.up_to_date and again.folder == changed.folder
    assert snapshot(folder) == before


def test_the_cache_key_holds_everything_that_changes_the_bytes(
    tiny: ModelSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    def key(weights: str = "w", side: Any = "image", precision: str = "fp32", n: bool = False):
        return build.key(tiny, side, Variant("onnx", precision, normalized=n), Below(weights))

    keys = {key(), key("v"), key(side="text"), key(precision="fp16"), key(n=True)}
    monkeypatch.setattr("clipperf.graph.kept.version_of", lambda name: "0.0")
    assert len(keys | {key()}) == 6


@pytest.mark.slow
def test_two_files_of_one_published_architecture(cli: Cli, home: Path, tmp_path: Path) -> None:
    import open_clip
    import torch
    from safetensors.torch import save_file

    model = open_clip.create_model("ViT-S-32-alt")
    folders = set()
    for name in ("one", "two"):
        path = tmp_path / f"{name}.safetensors"
        save_file({k: v.contiguous() for k, v in model.state_dict().items()}, path)
        args = ("export", "ViT-S-32-alt", "--pretrained", path, "--tower", "image", "--json")
        said = json.loads(cli(*args, check=True).stdout)
        assert said["built"] == ["image"]
        folders.add(said["folder"])
        with torch.no_grad():
            model.visual.conv1.weight.mul_(-1)
    assert len(folders) == 2


# --- kills and crowds ----------------------------------------------------------------------


@pytest.mark.slow
def test_a_kill_at_any_moment_leaves_the_old_or_the_new(
    folder: Path, checkpoints: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Cli
) -> None:
    rng = random.Random(3)
    target = tmp_path / "out" / "artifact"
    target.parent.mkdir()
    shutil.copytree(folder, target)
    digests = {zoo.weights_id(use(monkeypatch, checkpoints / name)): name for name in ("a", "b")}
    holds = "a"
    # After which stage, and the longest time after it.
    moments = [("", 0.5), ("exporting", 4.0), ("checking parity", 0.2), ("checking parity", 0.6)]
    for stage, longest_s in moments:
        use(monkeypatch, checkpoints / ("b" if holds == "a" else "a"))
        with start(*IMAGE, "--out", target) as process:
            assert process.stderr is not None
            if stage:
                assert any(line.rstrip().endswith(stage) for line in process.stderr)
            time.sleep(rng.uniform(0, longest_s))
            os.killpg(process.pid, signal.SIGKILL)
        manifest = store.read_manifest(target)
        assert store.check_files(target, manifest, content=True) == []
        holds = digests[manifest.towers[0].weights_id]
    use(monkeypatch, checkpoints / ("b" if holds == "a" else "a"))
    assert "exported image" in cli(*IMAGE, "--out", target, check=True).stdout
    assert_usable(target)
    assert digests[store.read_manifest(target).towers[0].weights_id] != holds


def test_a_kill_before_anything_is_stored_leaves_nothing_usable(tiny: ModelSpec) -> None:
    with start(*IMAGE) as process:
        assert process.stderr is not None
        assert any(line.rstrip().endswith("preparing") for line in process.stderr)
        os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert store.find_artifacts() == []


def test_of_two_exports_at_once_one_builds(
    tiny: ModelSpec, checkpoints: Path, monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    processes = [start(*IMAGE), start(*IMAGE)]
    answers = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], answers
    first_lines = sorted(out.splitlines()[0].partition(": ")[2] for out, _ in answers)
    assert first_lines == ["exported image", "up to date"]
    ((found, _),) = store.find_artifacts()
    assert_usable(found)


# --- full disks ----------------------------------------------------------------------------


def test_too_small_a_disk_is_found_out_before_the_work(
    tiny: ModelSpec, small_disk: Path, cli: Cli
) -> None:
    done = cli(*EXPORT, "--tower", "text", "--out", small_disk / "out")
    assert done.returncode == 1
    assert "MiB are free" in done.stderr and "--out" in done.stderr
    assert len(done.stderr.splitlines()) == 1, "work was begun"
    assert only_locks(small_disk)


def test_a_disk_that_fills_while_writing(tiny: ModelSpec, small_disk: Path) -> None:
    unknown_size = dataclasses.replace(tiny, text_parameters=None)
    with pytest.raises(StorageError, match=r"disk full.*--out or CLIPPERF_HOME") as caught:
        make(unknown_size, ("text",), Variant("onnx"), out=small_disk / "out")
    assert caught.value.exit_code == 1
    assert only_locks(small_disk)
    assert shutil.disk_usage(small_disk).used < 2**16


# --- damage --------------------------------------------------------------------------------


def truncate(folder: Path) -> None:
    model = folder / "image" / "model.onnx"
    model.write_bytes(model.read_bytes()[:5000])


def delete(folder: Path) -> None:
    (folder / "image" / "model.onnx").unlink()


def delete_settings(folder: Path) -> None:
    (folder / "preprocess.json").unlink()


def empty_manifest(folder: Path) -> None:
    (folder / "manifest.json").write_text("")


def edit_manifest(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["towers"][0]["disk_bytes"] = "many"
    (folder / "manifest.json").write_text(json.dumps(manifest))


DAMAGES = [truncate, delete, delete_settings, empty_manifest, edit_manifest]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_damage_is_noticed(folder: Path, damage: Callable[[Path], None]) -> None:
    assert list(folders.current_towers(folder)) == ["image"]
    damage(folder)
    assert folders.current_towers(folder) == {}
    assert store.find_artifacts() == []
    if damage is not edit_manifest:  # what nobody reads in a deployment is not validated there
        with pytest.raises((ArtifactError, EngineError)):
            clipperf.load(folder, threads=1)


def test_a_damaged_artifact_is_built_again(folder: Path, cli: Cli) -> None:
    """Both the model and the manifest are broken, as after a failing disk."""
    truncate(folder)
    empty_manifest(folder)
    assert "exported image" in cli(*IMAGE, check=True).stdout
    assert_usable(folder)
    assert clipperf.load(folder, threads=1).embed_dim == 32


def test_a_folder_of_the_user_is_never_replaced(tiny: ModelSpec, tmp_path: Path, cli: Cli) -> None:
    precious = tmp_path / "photos"
    precious.mkdir()
    (precious / "holiday.jpg").write_bytes(b"not to be lost")
    before = snapshot(precious)
    done = cli(*IMAGE, "--out", precious)
    assert done.returncode == 2
    assert "choose another --out" in done.stderr
    file = tmp_path / "a-file"
    file.write_text("mine")
    assert cli(*IMAGE, "--out", file).returncode == 2
    assert snapshot(precious) == before and file.read_text() == "mine"


def test_an_artifact_of_another_architecture_is_never_replaced(
    folder: Path, tiny: ModelSpec
) -> None:
    other = dataclasses.replace(tiny, architecture="ViT-B-32", id="ViT-B-32::x")
    before = snapshot(folder)
    with pytest.raises(UsageError, match="choose another --out"):
        space.check_target(folder, other, "onnx")
    assert snapshot(folder) == before


# --- the parity gate -----------------------------------------------------------------------


def test_the_gate_by_hand() -> None:
    def at(*degrees: float) -> np.ndarray:
        angles = np.radians(degrees)
        return np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)

    reference = at(0, 10, 90)
    same = parity.compare(1.04 * reference, reference, "fp32", "angles")
    assert same.passed and same.finite and same.n == 3
    assert same.min_cosine == pytest.approx(1)
    assert same.max_abs_diff == pytest.approx(0.04)
    assert same.top1_agreement == 1
    assert not parity.compare(2 * reference, reference, "fp32", "angles").passed
    turned = parity.compare(at(0, 10, -80), reference, "fp32", "angles")
    lowest = math.cos(math.radians(170))
    assert turned.min_cosine == pytest.approx(lowest)
    assert turned.mean_cosine == pytest.approx((2 + lowest) / 3)
    assert turned.max_abs_diff == pytest.approx(1 + math.sin(math.radians(80)))
    assert turned.top1_agreement == pytest.approx(2 / 3)
    assert not turned.passed
    slightly = parity.compare(at(0, 10, 91), reference, "fp16", "angles")
    assert slightly.min_cosine == pytest.approx(math.cos(math.radians(1)))
    assert slightly.passed
    assert not parity.compare(at(0, 10, 91), reference, "fp32", "angles").passed
    assert not parity.compare(0 * reference, reference, "fp16", "angles").passed


def test_how_many_inputs_are_compared() -> None:
    small, large = zoo.resolve("ViT-B-32", "random"), zoo.resolve("ViT-H-14", "random")
    assert parity.batches_for(small, "image") == (1, 3, 8)
    assert parity.batches_for(large, "image") == parity.batches_for(large, "text") == (1, 3)
    assert parity.batches_for(dataclasses.replace(large, image_parameters=None), "image") == (
        1,
        3,
        8,
    )


@pytest.mark.parametrize(
    ("sizes", "smallest", "largest", "expected"),
    [
        ((1, 3, 8), 1, 32, (1, 3, 8)),
        ((1, 3, 8), 1, 4, (1, 3, 4, 4)),
        ((1, 3, 8), 1, 1, (1,) * 12),
        ((1, 3, 8), 4, 16, (4, 4, 8)),
        ((1, 3), 1, 2, (1, 2, 2)),
    ],
)
def test_an_engine_of_few_batches_is_checked_on_as_many_inputs(
    sizes: tuple[int, ...], smallest: int, largest: int, expected: tuple[int, ...]
) -> None:
    assert parity.batches_within(sizes, smallest, largest) == expected


class Echo:
    """An engine whose embeddings are its inputs; it keeps the sizes of its batches."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def run(self, inputs: np.ndarray) -> np.ndarray:
        self.sizes.append(len(inputs))
        return inputs


@pytest.mark.parametrize(
    ("rows", "sizes", "n", "agreement"),
    [(12, (1, 3, 8), 12, 1), (4, (1, 3, 8), 4, 1), (12, (1, 3), 4, 1), (2, (1, 3), 2, None)],
)
def test_inputs_that_repeat_count_once(
    rows: int, sizes: tuple[int, ...], n: int, agreement: float | None
) -> None:
    angles = np.radians(np.arange(12) ** 2)
    inputs = np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)
    engine = Echo()
    found = parity.measure(engine, inputs, inputs[:rows], "fp32", sizes=sizes)
    assert tuple(engine.sizes) == found.batches == sizes
    assert (found.n, found.top1_agreement, found.passed) == (n, agreement, True)
    assert found.inputs.startswith(f"{n} of")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_one_embedding_that_is_not_finite_fails(value: float) -> None:
    reference = np.eye(3, 4, dtype=np.float32)
    broken = reference.copy()
    broken[1, 2] = value
    found = parity.compare(broken, reference, "fp32", "rows")
    assert not found.passed and not found.finite
    assert "NaN or infinite" in parity.explain(found, "a tower")
    assert not parity.compare(reference, broken, "fp32", "rows").passed


@pytest.mark.parametrize("factor", [1.0, 1.5, np.nan])
def test_a_broken_graph_fails_the_gate(folder: Path, tmp_path: Path, factor: float) -> None:
    import onnx
    from onnx import numpy_helper

    path = folder / "image" / "model.onnx"
    pixels = np.random.default_rng(1).normal(size=(12, 3, 32, 32)).astype(np.float32)
    reference = engine.open_session(path, 1).run(pixels)
    model = onnx.load(path)
    tensor = max(
        (t for t in model.graph.initializer if len(t.dims) == 2), key=lambda t: math.prod(t.dims)
    )
    values = numpy_helper.to_array(tensor).copy()
    values[: len(values) // 2] *= factor
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    onnx.save(model, tmp_path / "broken.onnx")
    broken = engine.open_session(tmp_path / "broken.onnx", 1)
    assert parity.measure(broken, pixels, reference, "fp32").passed == (factor == 1.0)


@pytest.mark.slow
def test_a_tower_that_fails_the_gate_is_stored_only_on_demand(
    tiny: ModelSpec, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = dataclasses.replace(PRECISIONS.get("fp32"), min_cosine=1.1)
    monkeypatch.setitem(PRECISIONS._rows, "fp32", row)
    with pytest.raises(ParityError, match="--keep-failed") as caught:
        make(tiny, ("image",), Variant("onnx"))
    assert isinstance(caught.value, ClipperfError) and "1.1 is required" in str(caught.value)
    assert store.find_artifacts() == [] and not leftovers(home)
    kept = make(tiny, ("image",), Variant("onnx"), keep_failed=True)
    assert_usable(kept.folder)
    found = store.read_manifest(kept.folder).towers[0].parity
    assert found is not None and not found.passed
    from clipperf.report.exported import exported_lines, failed

    assert failed(kept)
    assert "PARITY FAILED" in "\n".join(exported_lines(kept))
    again = make(tiny, ("image",), Variant("onnx"), keep_failed=True)
    assert again.up_to_date and failed(again), "kept, but still a failure"
    with pytest.raises(ParityError):  # nobody uses it who has not asked for it
        make(tiny, ("image",), Variant("onnx"))
    assert_usable(kept.folder)
