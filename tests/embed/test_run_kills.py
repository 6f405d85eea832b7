"""`clipperf embed` as a command, ended by SIGKILL, and its exit codes."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import ROOT, Cli, leftovers, start

from clipperf.commands import embed_tower
from clipperf.errors import UsageError


def content(out: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(out.iterdir()) if p.name != "manifest.json"}


def words(samples: str, out: Path, artifact: Path) -> tuple[object, ...]:
    options = ("--batch", 2, "--shard-items", 4, "--threads", 1, "--workers", 1, "--quiet")
    return "embed", samples, "--artifact", artifact, "--out", out, *options


def test_the_command(samples: str, tmp_path: Path, cli: Cli, sample_artifact: Path) -> None:
    out, command = tmp_path / "out", words(samples, tmp_path / "out", sample_artifact)
    done = cli(*command)
    assert done.returncode == 0, done.stderr
    assert "clipperf-sample image in onnx fp32: 24 vectors of 192 float32" in done.stdout
    assert "6 shards (npy), 6 made now: 24 items in" in done.stdout
    bad = tmp_path / "bad"
    bad.mkdir()
    (bad / "\u202e\x1b[31mno.png").write_text("no image")
    done = cli(*words(str(bad), tmp_path / "out2", sample_artifact), "--json")
    assert done.returncode == 3, done.stderr
    said = json.loads(done.stdout)
    assert (said["vectors"], said["corrupt"]) == (0, 1) and "\x1b" not in done.stdout
    done = cli(*words(str(bad), out, sample_artifact))
    assert done.returncode == 2 and "was begun with something else" in done.stderr
    done = cli(*words(str(bad), tmp_path / "out3", sample_artifact), "--max-corrupt", "0")
    assert done.returncode == 1 and "more than --max-corrupt allows" in done.stderr
    for more, fix in (
        (("--max-corrupt", "x%"), "give a number of items, or a share such as 5%"),
        (("--model", "clipperf-sample"), "leave out --model"),
        (("--tower", "both"), "choose image or text"),
    ):
        done = cli(*words(samples, out, sample_artifact), *more)
        assert done.returncode == 2 and fix in done.stderr


def test_a_precision_that_would_not_run_is_refused() -> None:
    closed: list[bool] = []
    cell = SimpleNamespace(runtime="ort-cuda", precision="fp32")
    tower: Any = SimpleNamespace(cell=cell, close=lambda: closed.append(True))
    for asked in (None, "fp32"):
        assert embed_tower.in_precision(tower, asked) is tower
    assert not closed
    with pytest.raises(UsageError, match=r"--precision tf32 .* opens what .* in fp32"):
        embed_tower.in_precision(tower, "tf32")
    assert closed


def test_options_of_images_are_refused_with_texts(
    tmp_path: Path, cli: Cli, sample_artifact: Path
) -> None:
    (tmp_path / "t.txt").write_text("one\n")
    options = ("--artifact", sample_artifact, "--out", tmp_path / "out", "--tower", "text")
    done = cli("embed", tmp_path / "t.txt", *options, "--workers", 2)
    assert done.returncode == 2 and "are for images" in done.stderr


def test_killed_in_its_second_shard_it_goes_on(
    samples: str, tmp_path: Path, cli: Cli, sample_artifact: Path
) -> None:
    out, whole = tmp_path / "out", tmp_path / "whole"
    cli(*words(samples, whole, sample_artifact), check=True)
    with start(*words(samples, out, sample_artifact)) as process:
        while not (out / "shard-000000.json").exists() and process.poll() is None:
            time.sleep(0.002)
        process.kill()
    made = {p.name: p.stat().st_mtime_ns for p in out.glob("shard-000000*")}
    done = cli(*words(samples, out, sample_artifact), check=True)
    assert content(out) == content(whole)
    assert made == {p.name: p.stat().st_mtime_ns for p in out.glob("shard-000000*")}
    assert "6 shards" in done.stdout and not leftovers(tmp_path)


@pytest.mark.slow
def test_killed_at_random_moments_it_ends_the_same(
    samples: str, tmp_path: Path, cli: Cli, sample_artifact: Path
) -> None:
    whole, chance, struck = tmp_path / "whole", random.Random(0), 0
    begun = time.monotonic()
    cli(*words(samples, whole, sample_artifact), check=True)
    longest = time.monotonic() - begun
    for number in range(8):
        out = tmp_path / f"out-{number}"
        for _ in range(3):
            with start(*words(samples, out, sample_artifact)) as process:
                time.sleep(chance.uniform(0.4 * longest, longest))
                alive = process.poll() is None
                process.kill()
            struck += alive
            longest *= 1.0 if alive else 0.8  # the first run had less of the machine
            for record in out.glob("shard-??????.json"):  # what is there is whole
                for name in json.loads(record.read_text())["files"]:
                    assert (out / name).read_bytes() == (whole / name).read_bytes()
        cli(*words(samples, out, sample_artifact), check=True)
        assert content(out) == content(whole) and not leftovers(tmp_path)
        shutil.rmtree(out)
    assert struck >= 8


@pytest.mark.slow
def test_a_second_command_is_refused_and_ctrl_c_leaves_whole_shards(
    samples: str, tmp_path: Path, cli: Cli, sample_artifact: Path
) -> None:
    images = tmp_path / "many"
    images.mkdir()
    for number in range(40):
        for image in Path(samples).glob("*.png"):
            os.link(image, images / f"{number}-{image.name}")
    out = tmp_path / "out"
    with start(*words(str(images), out, sample_artifact)) as process:
        while not (out / "manifest.json").exists() and process.poll() is None:
            time.sleep(0.01)
        second = cli(*words(str(images), out, sample_artifact))
        assert second.returncode == 1 and "another command is writing" in second.stderr
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
        assert process.returncode == 130 and said.strip().endswith("interrupted")
    assert not leftovers(tmp_path)
    done = cli(*words(str(images), out, sample_artifact), "--json", check=True)
    assert json.loads(done.stdout)["vectors"] == 960


@pytest.mark.slow
def test_memory_does_not_grow_with_the_dataset(
    samples: str, tmp_path: Path, sample_artifact: Path
) -> None:
    """Peak RAM of 24 and of 4,800 images is alike."""
    code = """
import sys
from functools import partial
from pathlib import Path
from clipperf.embed.run import embed
from clipperf.embed.wishes import Wishes
from clipperf.serve.bulk import open_tower
from clipperf.system.processes import status_bytes
tower = partial(open_tower, sys.argv[1], "image", threads=1)
embed(Path(sys.argv[2]), Path(sys.argv[3]), tower, Wishes(shard_items=200))
print(status_bytes("VmHWM"))
"""
    peaks = []
    for copies in (1, 200):
        folder = tmp_path / f"images-{copies}"
        folder.mkdir()
        for number in range(copies):
            for image in Path(samples).glob("*.png"):
                os.link(image, folder / f"{number}-{image.name}")
        done = subprocess.run(
            [sys.executable, "-c", code, sample_artifact, folder, tmp_path / f"out-{copies}"],
            capture_output=True,
            text=True,
            cwd=ROOT,
            check=True,
        )
        peaks.append(int(done.stdout))
    assert peaks[1] < peaks[0] + 24 * 2**20
