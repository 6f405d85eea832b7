"""`profile` on the real sample with real runtimes, and the figures that need no measuring."""

from __future__ import annotations

import json

import pytest
from conftest import store_of

from clipperf.bench import prepare
from clipperf.bench.cost import QUICK
from clipperf.bench.profile import Sweep, failures, profile
from clipperf.errors import MissingDependencyError, UsageError
from clipperf.models import sample, zoo
from clipperf.nouns.variant import SIDES
from clipperf.report.records import merge
from clipperf.system import store


@pytest.mark.parametrize(
    ("architecture", "mib"), [("ViT-B-32", 577), ("ViT-H-14", 3762), ("ViT-g-14", 5214)]
)
def test_disk_of_random_weights_is_the_published_one(architecture, mib):
    spec = zoo.resolve(architecture, "random")
    total = sum(prepare.checkpoint_bytes(spec, side) for side in SIDES)
    assert total / 2**20 == pytest.approx(mib, abs=1)


def test_towers_share_the_checkpoint_file_exactly():
    spec = zoo.resolve("clipperf-sample")
    size = sample.weights_path().stat().st_size
    assert sum(prepare.checkpoint_bytes(spec, side) for side in SIDES) == size


def test_sweep_counts_its_rows():
    spec = zoo.resolve("clipperf-sample")
    sweep = Sweep((spec,), ("torch", "onnx"), SIDES, (1, 8), ("fp32", "fp16"))
    # 2 towers x 2 batches: torch once, onnx in two precisions; a time row for each in each group.
    assert sweep.rows == 4 * 3 + 4 * 2 * 2


def test_no_model_means_what_is_exported_else_the_sample(home, sample_artifact, monkeypatch):
    assert [s.id for s in prepare.choose_models((), None)] == ["clipperf-sample"]
    monkeypatch.setenv("CLIPPERF_HOME", str(sample_artifact.parents[3]))
    assert [s.id for s in prepare.choose_models((), None)] == ["clipperf-sample"]
    assert {m.spec.id for _, m in store.find_artifacts()} == {"clipperf-sample"}
    with pytest.raises(UsageError, match="MODEL"):
        prepare.choose_models((), "random")


def test_runtime_that_cannot_run_here_is_refused_before_anything_is_measured(home):
    spec = zoo.resolve("clipperf-sample")
    with pytest.raises(UsageError, match="cpu"):
        profile(Sweep((spec,), ("onnx",), SIDES, (1,), device="tpu"), QUICK)
    with pytest.raises(UsageError, match="torch, torch-compile, onnx"):
        profile(Sweep((spec,), ("tnsor",), SIDES, (1,)), QUICK)
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        with pytest.raises(MissingDependencyError, match="GPU"):
            profile(Sweep((spec,), ("torch",), SIDES, (1,), device="cuda"), QUICK)
    assert not store.find_results()


@pytest.mark.slow
def test_profile_of_the_sample(cli, home, sample_artifact, tmp_path):
    store_of(sample_artifact, home)
    target = tmp_path / "p.json"
    done = cli(
        "profile", "clipperf-sample", "--quick", "--batch", "4", "--threads", "1",
        "--runtime", "torch,onnx",
        "--json", str(target),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "vs PyTorch" in done.stdout
    result = store.read_result(target)
    assert not failures(result)
    rows = {(r.cell.side, r.cell.runtime): r for r in merge([result])}
    assert set(rows) == {(s, r) for s in SIDES for r in ("torch", "onnx")}
    for (side, runtime), row in rows.items():
        ours = [m for m in result.measurements if (m.cell.side, m.cell.runtime) == (side, runtime)]
        assert {m.kind for m in ours} == {"time", "memory"}
        (time,) = [m for m in ours if m.kind == "time"]
        (memory,) = [m for m in ours if m.kind == "memory"]
        assert len(time.run_s) >= QUICK.block_calls and min(time.run_s) > 0
        assert len(time.blocks) == len(time.run_s)
        assert memory.rss_bare_bytes < memory.rss_load_peak_bytes <= memory.rss_peak_bytes
        assert memory.vram_peak_bytes is None
        assert time.disk_bytes == memory.disk_bytes > 1e6
        assert row.rss_delta_bytes == memory.rss_peak_bytes - memory.rss_bare_bytes
    # Importing torch alone costs more than the whole worker of ONNX Runtime.
    for side in SIDES:
        assert rows[side, "onnx"].rss_peak_bytes < rows[side, "torch"].rss_peak_bytes / 2
        assert rows[side, "onnx"].ratio is not None
        assert rows[side, "torch"].ratio is None
    assert result.environments[0].versions["torch"]
    assert any("does nothing" in note for note in result.notes)
    assert "does nothing" not in done.stderr


def test_failed_cell_is_a_row_and_exit_1(cli, home):
    # A checkpoint of another architecture is the plainest cell that cannot be prepared.
    import shutil

    weights = home.parent / "RN50.safetensors"
    shutil.copy(sample.weights_path(), weights)
    done = cli(
        "profile", "RN50", "--pretrained", str(weights), "--tower", "image", "--quick",
        "--runtime", "torch,onnx",
        "--batch", "1", "--json", "-", "--quiet",
    )  # fmt: skip
    assert done.returncode == 1
    result = json.loads(done.stdout)
    assert {m["status"] for m in result["measurements"]} == {"failed"}
    assert {m["cell"]["runtime"] for m in result["measurements"]} == {"torch", "onnx"}
    assert all("does not fit" in m["error"] for m in result["measurements"])
