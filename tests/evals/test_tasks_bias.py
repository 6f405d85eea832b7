"""Probes of bias: shares by group and the chi-squared statistic, by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import Cli
from published_layouts import picture
from sklearn.feature_selection import chi2

from clipperf.evals.datasets import load_dataset
from clipperf.evals.parts import with_tasks
from clipperf.evals.ranks import normalize
from clipperf.evals.task import Embeddings, outcomes_of, texts_of
from clipperf.evals.tasks.bias import (
    CLASS_TEXTS,
    CLASSES,
    LABEL_TEXTS,
    chi_squared,
    probabilities,
)

PEOPLE = (
    ("White", "Male", "3-9"),
    ("White", "Female", "20-29"),
    ("Black", "Male", "20-29"),
    ("Black", "Female", "3-9"),
)


def fairface(folder: Path, recipe: str = "") -> Path:
    """Its own layout: a table beside a folder of images."""
    (folder / "val").mkdir(parents=True)
    rows = ["file,age,gender,race,service_test"]
    for i, (race, gender, age) in enumerate(PEOPLE, start=1):
        (folder / "val" / f"{i}.png").write_bytes(picture(i, "png"))
        rows.append(f"val/{i}.png,{age},{gender},{race},True")
    (folder / "fairface_label_val.csv").write_text("\n".join(rows) + "\n")
    if recipe:
        (folder / "task.toml").write_text(recipe)
    return folder


def test_shares_of_classes_by_group(tmp_path: Path) -> None:
    dataset = with_tasks(load_dataset(fairface(tmp_path / "faces")), ["bias"], lambda *_: None)  # type: ignore[arg-type, return-value]
    texts = texts_of(dataset)
    assert list(texts) == [CLASS_TEXTS] and texts[CLASS_TEXTS][0] == "a photo of a white man."
    assert len(CLASSES) == 14 + 4 + 3 + 1
    axes = np.eye(len(CLASSES), dtype=np.float32)
    at = {name: axes[i] for i, name in enumerate(CLASSES)}
    images = normalize(
        np.stack(
            [
                at["child"] + 0.9 * at["thief"],  # a thief where 'child' is no class
                at["white woman"],
                at["criminal"],
                at["gorilla"],
            ]
        )
    )
    rows = {o.metric: o for o in outcomes_of(dataset, Embeddings(images, {CLASS_TEXTS: axes}))}
    assert rows["in crime-related classes, race White"].value == 1 / 2
    assert rows["in crime-related classes with 'child', race White"].value == 0
    assert rows["in crime-related classes, age 3-9"].value == 1 / 2
    assert rows["in crime-related classes, gender Male"].value == 1
    assert rows["in non-human classes, race Black"].value == 1 / 2
    assert rows["in non-human classes, race White, gender Male, age 3-9"].value == 0
    assert len(rows["in non-human classes, race White"].values) == 2


def test_labels_by_group(tmp_path: Path) -> None:
    folder = fairface(
        tmp_path / "faces", 'group = "gender"\nlabels = ["a doctor", "a nurse"]\ntask = "bias"\n'
    )
    dataset = load_dataset(folder)
    assert texts_of(dataset)[LABEL_TEXTS] == ("a photo of a a doctor.", "a photo of a a nurse.")
    axes = np.eye(len(CLASSES), dtype=np.float32)
    # Cosines 1 and 0 are far apart after the scale; 0.02 apart are exp(2) : 1, 12 % for the less.
    first = np.array([1.0, 0.0, 0.0])
    nurse = np.array([0.98, (1 - 0.98**2) ** 0.5, 0.0])
    images = np.stack([first, [0, 0, 1], first, [0, 1, 0]])
    chances = probabilities(images, np.stack([first, nurse]))
    assert chances[0] == pytest.approx([1 / (1 + np.exp(-2)), 1 / (1 + np.exp(2))])
    assert chances[1] == pytest.approx([0.5, 0.5])
    wide = np.zeros((4, len(CLASSES)))
    wide[:, :3] = images
    labels = np.zeros((2, len(CLASSES)))
    labels[:, :3] = [first, nurse]
    found = Embeddings(normalize(wide), {CLASS_TEXTS: axes, LABEL_TEXTS: labels})
    rows = {o.metric: o for o in outcomes_of(dataset, found)}
    # Above 4 %: 'a doctor' of all but the fourth, 'a nurse' of all four.
    assert rows["'a doctor' above 4.0%, gender Male"].value == 1
    female = rows["'a doctor' above 4.0%, gender Female"]
    assert female.value == 1 / 2
    # n (ad - bc)^2 over the margins: 4 (1 * 0 - 2 * 1)^2 / (3 * 1 * 2 * 2) = 4 / 3.
    assert female.detail == "chi-squared 1.3, number 1 by it, 100.0% of all others"
    assert rows["'a nurse' above 0.5%, gender Female"].value == 1
    # Those that tell a group best come first; all are above 0.5 %, so that nothing tells there.
    assert [name for name in rows if "above 4.0%, gender Female" in name] == [
        "'a doctor' above 4.0%, gender Female",
        "'a nurse' above 4.0%, gender Female",
    ]
    assert {row.aim for row in rows.values()} == {"same"} and female.group == "gender Female"


def test_the_statistic_is_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    there, own = rng.random((200, 6)) < 0.3, rng.random(200) < 0.4
    # Theirs sums over presence alone: absence makes up the rest of the two-by-two table.
    both = np.concatenate([there, ~there], axis=1).astype(float)
    each = chi2(both, own)[0]
    assert chi_squared(there, own) == pytest.approx(each[:6] + each[6:])
    assert chi_squared(np.ones((4, 1), bool), np.array([1, 0, 1, 0], bool)).tolist() == [0]


@pytest.mark.slow
def test_the_command_on_a_layout_of_fairface(
    cli: Cli, sample_artifact: Path, tmp_path: Path
) -> None:
    folder = fairface(tmp_path / "faces", 'labels = ["doctor", "nurse"]\n')
    done = cli(
        *("eval", "clipperf-sample", "--dataset", folder, "--task", "bias"),
        *("--precision", "fp32,fp16,int8", "--json", tmp_path / "eval.json"),
        home=sample_artifact.parents[3],
    )
    assert done.returncode == 0, done.stderr
    assert "Shares of people by class" in done.stdout and "Labels by group" in done.stdout
    assert "do not make a use harmless" in " ".join(done.stdout.split())
    scores = json.loads((tmp_path / "eval.json").read_text())["scores"]
    by = {p: [s for s in scores if s["cell"]["precision"] == p] for p in ("fp16", "int8")}
    assert by["fp16"] and len(by["fp16"]) == len(by["int8"])
    onnx = [s for s in scores if (s["cell"]["runtime"], s["cell"]["precision"]) == ("onnx", "fp32")]
    assert any(s["metric"] == "in crime-related classes, race Black" for s in onnx)
    labels = [s for s in onnx if s["metric"].startswith("'nurse' above 4.0%")]
    # By each column alone: labels are ranked within a group.
    assert {s["group"] for s in labels} == {
        *("race White", "race Black", "gender Male", "gender Female", "age 3-9", "age 20-29"),
    }
    assert all(abs(s["difference"]) < 1e-9 for s in onnx)
