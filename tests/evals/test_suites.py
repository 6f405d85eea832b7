"""The published tables as lists of datasets, and what is printed where most of them are missing."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import threading
from pathlib import Path

import pytest
from conftest import Cli, store_of
from published_layouts import captioned, classified, picture
from report_data import cell, score

from clipperf.errors import MissingDependencyError, UsageError
from clipperf.evals.datasets import Dataset, load_dataset
from clipperf.evals.evaluate import Failure
from clipperf.evals.published import SETS, clip_benchmark_texts
from clipperf.evals.suites import Wanted, evaluated, suites, wanted_in
from clipperf.nouns.result import ResultFile
from clipperf.system import env, store


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """A window that holds every table whole, however long the paths in it are."""
    monkeypatch.setenv("COLUMNS", "1000")


def test_every_table_is_whole(home: Path) -> None:
    sizes = {name: (len(rows), len({row[1] for row in rows})) for name, rows in suites().items()}
    # 21 sets and three for retrieval both ways; 27 twice; 38 with two for retrieval both ways.
    assert sizes == {
        "clip-as-service": (27, 24),
        "clip-paper": (27, 27),
        "clip-paper-linear-probe": (27, 27),
        "clip-paper-shift": (6, 6),
        "datacomp38": (40, 38),
    }
    assert {row[1] for rows in suites().values() for row in rows} <= SETS.keys()
    metric = {(name, row[1]): row[2] for name, rows in suites().items() for row in rows}
    assert metric["clip-as-service", "vtab/flowers"] == "zeroshot top-1"
    assert metric["clip-paper", "vtab/flowers"] == "zeroshot mean per-class recall"
    assert metric["clip-paper", "hateful_memes"] == "zeroshot ROC AUC"
    probes = {
        "hateful_memes": "ROC AUC",
        "voc2007_multilabel": "11-point mAP",
        "kinetics700": "mean(top-1, top-5)",
        "vtab/pets": "mean per-class recall",
        "imagenet1k": "top-1",
    }
    for name, own in probes.items():
        assert metric["clip-paper-linear-probe", name] == f"linear probe {own}"


def test_a_row_says_where_its_data_is_or_what_it_lacks(home: Path) -> None:
    root = classified(home / "datasets" / "wds_vtab-cifar10", [0, 1])
    rows = {row.dataset: row for row in wanted_in("clip-paper")}
    assert rows["vtab/cifar10"].path == root and rows["vtab/cifar10"].missing == ""
    assert rows["vtab/pets"].missing == "clip-benchmark/wds_vtab-pets"
    assert rows["ucf101"].missing == "not published as a WebDataset"
    with pytest.raises(UsageError, match="no suite 'none'; choose from clip-as-service, clip-p"):
        wanted_in("none")


def test_a_row_is_never_taken_from_the_current_folder(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    classified(home / "datasets" / "wds_mnist", [0, 1])
    other = classified(tmp_path / "mnist", [0, 1, 2, 0], first=100)
    monkeypatch.chdir(tmp_path)
    (row,) = [row for row in wanted_in("clip-paper") if row.dataset == "mnist"]
    data = load_dataset(row.given)  # type: ignore[arg-type]
    assert (data.name, len(data.images)) == ("mnist", 2)
    # Who names it means what is there, and a folder of datasets means its own.
    assert len(load_dataset("mnist").images) == 4
    (own,) = [row for row in wanted_in(str(tmp_path)) if row.dataset == "mnist"]
    assert own.given == other and len(load_dataset(other).images) == 4


def test_the_table_names_what_is_missing(
    cli: Cli, sample_artifact: Path, home: Path, tmp_path: Path
) -> None:
    store_of(sample_artifact, home)
    classified(home / "datasets" / "wds_vtab-cifar10", [i % 3 for i in range(9)])
    captioned(home / "datasets" / "wds_flickr8k", [[f"{i}", f"no {i}"] for i in range(6)])
    (home / "datasets" / "wds_flickr8k" / "more.bin").write_text("")
    (home / "datasets" / "wds_mscoco_captions").mkdir()
    (home / "datasets" / "wds_mscoco_captions" / "nothing.txt").write_text("")
    target = tmp_path / "suite.json"
    done = cli("eval", "clipperf-sample", "--suite", "clip-as-service", "-q", "--json", target)
    # What is here and cannot be read is a failure; what is not here is not.
    assert done.returncode == 1 and "failed: mscoco_captions: no images in" in done.stderr
    assert "vtab/pets" in done.stdout and "clip-benchmark/wds_vtab-pets" in done.stdout
    assert "no images in" in done.stdout
    assert "flickr8k: left out 1 file of other suffixes: .bin 1" in done.stdout
    assert "3 of 27 rows are filled; 24 lack data or a metric here." in done.stdout
    scores = json.loads(target.read_text())["scores"]
    assert {(s["dataset"], s["cell"]["runtime"]) for s in scores} == {
        (name, runtime) for name in ("vtab/cifar10", "flickr8k") for runtime in ("torch", "onnx")
    }
    folder = cli("eval", "clipperf-sample", "--suite", home / "datasets", "-q")
    assert folder.returncode == 1 and "failed: wds_mscoco_captions: " in folder.stderr
    assert "wds_flickr8k" in folder.stdout and "2 of 3 rows are filled" in folder.stdout


def test_a_pipe_gets_all_scores_of_a_suite_once(tmp_path: Path, home: Path) -> None:
    """It keeps whatever is written into it: two files in it would be none."""
    pipe, read = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()), daemon=True)
    reader.start()
    rows = [Wanted(name, name, "", classified(tmp_path / name, [0, 1])) for name in ("one", "two")]

    def run(data: Dataset, path: Path) -> tuple[ResultFile, list[Failure]]:
        found = (dataclasses.replace(score(cell(), 0.5), dataset=data.name),)
        return ResultFile(store.SCHEMA_VERSION, "eval", "", "", (env.capture(),), scores=found), []

    evaluated(rows, load_dataset, run, pipe)
    reader.join(60)
    assert [s["dataset"] for s in json.loads(read[0])["scores"]] == ["one", "two"]


def test_effective_robustness_stands_under_the_table(
    cli: Cli, sample_artifact: Path, home: Path
) -> None:
    store_of(sample_artifact, home)
    classified(home / "datasets" / "wds_imagenet1k", [i % 3 for i in range(9)])
    classified(home / "datasets" / "wds_imagenet-a", [i % 3 for i in range(9)], first=100)
    table = home / "models.csv"
    table.write_text("imagenet1k,imagenet-a\n0.3,0.1\n0.5,0.2\n0.8,0.5\n")
    words = ("eval", "clipperf-sample", "--suite", "clip-paper-shift", "-q", "--robustness")
    done = cli(*words, table, check=True)
    assert "2 of 6 rows are filled" in done.stdout
    assert "Effective robustness" in done.stdout and "fitted to" in done.stdout
    missing = cli(*words, home / "none.csv")
    assert missing.returncode == 2 and "none.csv" in missing.stderr


def test_the_table_of_linear_probes(
    cli: Cli, sample_artifact: Path, home: Path, tmp_path: Path
) -> None:
    store_of(sample_artifact, home)
    root = classified(home / "datasets" / "wds_vtab-cifar10", [i % 3 for i in range(9)])
    classified(root, [i % 3 for i in range(30)], split="train", first=2)
    classified(home / "datasets" / "wds_vtab-pets", [i % 3 for i in range(9)])
    target = tmp_path / "suite.json"
    done = cli(
        *("eval", "clipperf-sample", "--suite", "clip-paper-linear-probe", "-q"),
        *("--json", target),
        check=True,
    )
    assert "1 of 27 rows are filled; 26 lack data or a metric here." in done.stdout
    lines = [line for line in done.stdout.splitlines() if "no part for train" in line]
    assert len(lines) == 1 and "Pets" in lines[0]
    assert "has no part for validation" in done.stdout  # a note of the set that could be scored
    scores = json.loads(target.read_text())["scores"]
    assert {(s["metric"], s["n"], s["cell"]["runtime"]) for s in scores} == {
        ("linear probe top-1", 9, runtime) for runtime in ("torch", "onnx")
    }
    assert all(s["detail"].endswith("on 30 images") for s in scores)


# --- class names and templates of the package clip-benchmark -----------------------------------


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package laid out like clip-benchmark, which must not be imported."""
    root = tmp_path / "site" / "clip_benchmark"
    (root / "datasets").mkdir(parents=True)
    (root / "__init__.py").write_text("raise SystemError('it takes torch')")
    names = {"imagenet1k": ["missile", "tench", "missile"], "caltech101": ["x"]}
    names["caltech101_vtab"] = ["accordion", "airplane"]
    templates = {"imagenet1k": ["a {c}.", "the {c}."], "caltech101": ["one {c}"]}
    for name, found in (("classnames", names), ("zeroshot_classification_templates", templates)):
        (root / "datasets" / f"en_{name}.json").write_text(json.dumps(found))
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    # Another test may have imported the real one, whose place would be remembered.
    for name in [name for name in sys.modules if name.partition(".")[0] == "clip_benchmark"]:
        monkeypatch.delitem(sys.modules, name)
    return root


def test_texts_come_from_the_package(package: Path) -> None:
    assert clip_benchmark_texts("imagenet1k")[0] == ["missile", "tench", "missile"]
    assert clip_benchmark_texts("vtab/caltech101") == (["accordion", "airplane"], ["one {c}"])
    assert clip_benchmark_texts("objectnet") == ([], ["a {c}.", "the {c}."])
    with pytest.raises(UsageError, match="no class names in 'xx'"):
        clip_benchmark_texts("imagenet1k", "xx")


def test_folders_of_a_published_set_get_its_names(package: Path, home: Path) -> None:
    for i, folder in enumerate(("n01", "n02", "n03")):
        path = home / "datasets" / "imagenet1k" / folder / "1.png"
        path.parent.mkdir(parents=True)
        path.write_bytes(picture(i, "png"))
    data = load_dataset("imagenet1k")
    assert data.class_names == ("missile", "tench", "missile") and data.labels == (0, 1, 2)
    assert data.prompts[:2] == ("a missile.", "the missile.") == data.prompts[4:]
    (home / "datasets" / "imagenet1k" / "n03" / "1.png").unlink()
    with pytest.raises(UsageError, match="2 classes, imagenet1k has 3"):
        load_dataset("imagenet1k")


def test_a_recipe_may_name_a_published_set(package: Path, tmp_path: Path) -> None:
    root = classified(tmp_path / "w", [0, 1, 2])
    (root / "task.toml").write_text('classes = "imagenet1k"\ntemplates = "imagenet1k"\n')
    assert load_dataset(root).prompts[2:4] == ("a tench.", "the tench.")


def test_the_package_is_asked_for_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"clipperf\[benchmark\]"):
        clip_benchmark_texts("mnist")


def test_a_split_that_one_of_several_datasets_has_not(
    cli: Cli, sample_artifact: Path, home: Path, tmp_path: Path
) -> None:
    """Alone it is refused; among others it is evaluated as it is, and a note says so."""
    store_of(sample_artifact, home)
    classified(tmp_path / "sets" / "shards", [i % 3 for i in range(6)], split="val")
    for i, name in enumerate(("cat/1", "dog/1")):
        path = tmp_path / "sets" / "folders" / f"{name}.png"
        path.parent.mkdir(parents=True)
        path.write_bytes(picture(i, "png"))
    asked = ("eval", "clipperf-sample", "--split", "val", "-q")
    done = cli(*asked, "--dataset", tmp_path / "sets" / "folders")
    assert done.returncode == 2
    assert "is not divided into splits, its 2 images are one: leave out --split val" in done.stderr
    done = cli(*asked, "--suite", tmp_path / "sets", check=True)
    assert "folders is not divided into splits, its 2 images are one" in done.stdout
    assert "shards is not divided" not in done.stdout
