"""`eval` on the real sample: both runtimes answer alike, and random weights are marked."""

from __future__ import annotations

import io
import json
import os
import shutil
import zipfile
from pathlib import Path

import pytest
from PIL import Image
from published_layouts import classified

from clipperf.commands.evaluate import command
from clipperf.errors import UsageError
from clipperf.models import sample
from clipperf.system import store


def scores_of(result):
    return {(s.cell.runtime, s.cell.precision, s.metric): s for s in result.scores}


def test_onnx_keeps_the_samples_accuracy(cli, sample_artifact, tmp_path):
    target = tmp_path / "e.json"
    home = sample_artifact.parents[3]
    done = cli(
        "eval", "clipperf-sample", "--json", target, "--quiet", "--batch", "64", "--margin", "2pp",
        home=home,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = scores_of(store.read_result(target))
    metrics = {metric for _, _, metric in found}
    assert {"zeroshot top-1", "text-to-image recall@1", "image-to-text recall@10"} <= metrics
    for (runtime, _, metric), score in found.items():
        assert score.n >= 1500
        assert score.ci95[0] <= score.value <= score.ci95[1]
        if runtime == "onnx":
            base = found["torch", "fp32", metric]
            assert score.baseline_value == base.value
            assert abs(score.difference) <= 0.005, metric
            assert score.diff_ci95[0] <= score.difference <= score.diff_ci95[1]
            assert score.margin == 0.02 and score.samples_needed is None
    assert "clipperf-sample" in done.stdout


def test_a_margin_that_so_few_samples_cannot_show_fails(cli, sample_artifact, samples, tmp_path):
    target, home = tmp_path / "e.json", sample_artifact.parents[3]
    asked = ("eval", "clipperf-sample", "--dataset", samples, "-q", "--json", target)
    done = cli(*asked, "--margin", "0.5pp", home=home)
    assert done.returncode == 1
    said = [line for line in done.stderr.splitlines() if line.startswith("not equivalent: ")]
    scores = [s for s in store.read_result(target).scores if s.cell.runtime == "onnx"]
    assert len(said) == len(scores) > 0
    assert all("too few samples: about " in line and line.endswith(" would do") for line in said)
    # 24 of them: without a flip it would take 736.
    assert all(s.n == 24 and s.samples_needed >= 740 for s in scores)
    refused = cli("eval", "--margin", "half", home=home)
    assert refused.returncode == 2 and "give percentage points above 0" in refused.stderr


@pytest.mark.slow
def test_random_weights_are_marked_everywhere(cli, tmp_path):
    images = tmp_path / "photos"
    with zipfile.ZipFile(sample.folder() / "eval.zip") as archive:
        rows = [json.loads(r) for r in archive.read("captions.jsonl").decode().splitlines()]
        for row in rows[:40:2]:
            folder = images / row["category"].replace(" & ", " and ")
            folder.mkdir(parents=True, exist_ok=True)
            image = Image.open(io.BytesIO(archive.read(row["image"])))
            image.save(folder / row["image"].rpartition("/")[2])
    (images / "another").mkdir()
    Image.new("RGB", (80, 60), "red").save(images / "another" / "red.jpg")
    target = tmp_path / "e.json"
    done = cli(
        "eval", "ViT-S-32-alt", "--pretrained", "random", "--dataset", str(images),
        "--json", str(target), "--quiet",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "random" in done.stdout.lower()
    result = store.read_result(target)
    assert result.scores and all(score.random_weights for score in result.scores)
    page = cli("report", str(target), "--format", "md")
    assert "random weights" in page.stdout.lower()


def test_unreadable_images_are_left_out_of_every_runtime(cli, sample_artifact, samples, tmp_path):
    data = tmp_path / "few"
    shutil.copytree(samples, data)
    first, second, *rest = sorted(data.glob("*.*"))[:-1]
    assert len(rest) == 22
    first.write_bytes(first.read_bytes()[:-300])
    second.unlink()
    os.mkfifo(second)
    asked = ("eval", "clipperf-sample", "--dataset", data, "-q", "--json", tmp_path / "e.json")
    done = cli(*asked, home=sample_artifact.parents[3])
    assert done.returncode == 2 and f"{first} is not a readable image" in done.stderr
    done = cli(*asked, "--skip-unreadable", home=sample_artifact.parents[3])
    assert done.returncode == 0, done.stderr
    result = store.read_result(tmp_path / "e.json")
    assert {score.cell.runtime for score in result.scores} == {"torch", "onnx"}
    assert {score.n for score in result.scores} == {22}
    (note,) = result.notes
    assert note.startswith("few: left out 2 images that cannot be read, for every runtime alike: ")
    for path in (first, second):
        assert str(path) in note


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"dataset": ""}, "--dataset is empty: name one"),
        ({"suite": ""}, "--suite is empty: name one"),
        ({"suite": "datacomp38", "dataset": "sample"}, "leave out --dataset"),
        ({"robustness": "points.csv"}, "--robustness is of the datasets of a suite"),
        ({"robustness": "points.csv", "suite": "clip-as-service"}, "the suite lacks these"),
        (
            {"robustness": "points.csv", "suite": "clip-paper-shift", "json": Path("-")},
            "--robustness prints a table, and --json - prints JSON",
        ),
        ({"against": "published", "json": Path("-")}, "--against prints a table, and --json -"),
        ({"features": True, "dataset": "{data}"}, "--features are for probes, and data has none"),
        ({"index_compat": ("onnx", "onnx"), "features": True}, "leave out --runtime"),
        ({"index_compat": ("onnx", "onnx"), "robustness": "points.csv"}, "leave out --runtime"),
        ({"index_compat": ("onnx", "onnx"), "against": "published"}, "leave out --runtime"),
    ],
)
def test_options_that_would_do_nothing_are_refused(
    options: dict, said: str, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "points.csv").write_text("imagenet1k,imagenet-a\n0.3,0.1\n0.5,0.2\n0.8,0.5\n")
    classified(tmp_path / "data", [0, 1, 2])
    given = {
        name: value.format(data=tmp_path / "data") if isinstance(value, str) else value
        for name, value in options.items()
    }
    with pytest.raises(UsageError) as caught:
        command(["clipperf-sample"], quiet=True, **given)
    assert said in str(caught.value)
    assert not (home / "results").exists() or not any((home / "results").iterdir())
