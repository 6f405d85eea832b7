"""The README's commands run as written, and what it shows is what they print."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from clipperf.models import sample

QUOTED = (
    "image_to_text_recall@1",
    "image_to_text_recall@10",
    "text_to_image_recall@1",
    "text_to_image_recall@10",
    "category_top1",
)

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def lines() -> list[str]:
    """Every line of the README's `sh` blocks, continuations folded away."""
    blocks = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    found = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [line.strip() for line in found if line.strip() and not line.startswith("#")]


def commands(on_gpu: bool = False) -> list[str]:
    """The lines without their comments: those marked as needing a GPU, or the others."""
    return [x.split("  #")[0].strip() for x in lines() if x.endswith("  # GPU") == on_gpu]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("readme")


@pytest.fixture(scope="module")
def stocked(folder, best_store):
    """The store has what `best` takes here: to find that out once is enough."""
    shutil.copytree(best_store, folder / "store")


@pytest.fixture(scope="module")
def environment(folder):
    bin_folder = Path(sys.executable).parent
    return {
        **os.environ,
        "CLIPPERF_HOME": str(folder / "store"),
        "CLIPPERF": str(bin_folder / "clipperf"),
        "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}",
    }


def test_the_two_commands_are_there_and_make_knows_them():
    assert "make demo" in commands()
    assert "make test" in commands()
    for target in ("demo", "test"):
        done = subprocess.run(
            ["make", "--dry-run", target], cwd=ROOT, capture_output=True, text=True, check=True
        )
        assert "pip install" in done.stdout or ".installed" not in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("command", [c for c in commands() if c.startswith("clipperf ")])
def test_command_runs_as_written(command, folder, environment, stocked):
    words = shlex.split(command)
    done = subprocess.run(
        words, env=environment, cwd=folder, capture_output=True, text=True, timeout=900
    )
    # Two measurements of one thing, between which a shared machine may lose half of its speed.
    broken = "--fail-if" in command and re.search(r"[1-9]\d* of \d+ rules failed", done.stdout)
    assert done.returncode == (1 if broken else 0), f"{command}\n{done.stdout}\n{done.stderr}"
    assert done.stdout.strip()


@pytest.mark.parametrize("command", commands(on_gpu=True))
def test_command_on_a_gpu_says_what_is_missing_elsewhere(command, folder, environment):
    done = subprocess.run(
        shlex.split(command),
        env={**environment, "CLIPPERF_HOME": str(folder / "gpu-store")},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=900,
    )
    if done.returncode != 0:
        assert done.returncode == 2, done.stderr
        assert re.search("no NVIDIA GPU|is not installed", done.stderr)
        assert len(done.stderr.splitlines()) == 1


def test_docker_commands_fit_the_dockerfile():
    build, run = (shlex.split(line) for line in commands() if line.startswith("docker "))
    assert (ROOT / build[build.index("--file") + 1]).is_file()
    image = build[build.index("--tag") + 1]
    assert run[run.index("--gpus") :][:2] == ["--gpus", "all"]
    assert " ".join(run[run.index(image, 2) :]) == "clipperf profile --runtime trt --batch 8"
    assert run[run.index("--volume") + 1].endswith(":/cache")
    assert f"#   {shlex.join(run)}" in (ROOT / "Dockerfile.cuda").read_text()


@pytest.mark.slow
def test_python_example_runs(folder, environment, stocked):
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)

    from clipperf.models import sample

    with zipfile.ZipFile(sample.folder() / "eval.zip") as archive:
        name = next(n for n in archive.namelist() if n.endswith(".png"))
        (folder / "photo.png").write_bytes(archive.read(name))
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_sample_figures_are_the_measured_ones():
    measured = json.loads((sample.folder() / "metrics.json").read_text())["metrics"]
    for name in QUOTED:
        figure = measured[name]
        low, high = figure["ci95"]
        quoted = f"{figure['value']:.3f} [{low:.3f}, {high:.3f}]"
        assert quoted in README, f"{name}: {quoted}"


def test_links_point_at_files():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        if not target.startswith("http"):
            assert (ROOT / target).exists(), target
