"""ImageNet's shifted sets as their authors publish them: folders of numbers, and pooled classes."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from published_layouts import picture

from clipperf.errors import UsageError
from clipperf.evals.datasets import load_dataset
from clipperf.evals.published import imagenet_names
from clipperf.evals.task import Embeddings, outcomes_of


def folders(root: Path, names: list[str]) -> Path:
    for i, name in enumerate(names):
        (root / name).mkdir(parents=True)
        (root / name / "0.png").write_bytes(picture(i, "png"))
    return root


def test_folders_that_are_numbers_are_in_their_order(tmp_path: Path) -> None:
    root = folders(tmp_path / "v2", [str(i) for i in range(12)])
    (root / "classnames.txt").write_text("".join(f"class {i}\n" for i in range(12)))
    data = load_dataset(root)
    names = [image.name.split("/")[0] for image in data.images]
    of = dict(zip(names, data.labels, strict=True))
    # By name "10" would come before "2", and every class from the third on would be another.
    assert of == {str(i): i for i in range(12)}
    assert data.class_names[2] == "class 2"


def test_folders_of_wordnets_numbers_have_imagenets_names(tmp_path: Path) -> None:
    root = folders(tmp_path / "imagenet-a", ["n01498041", "n02119022", "n03670208"])
    (root / "README.txt").write_text("")
    data = load_dataset(root)
    assert data.class_names == ("stingray", "red fox", "limousine")
    assert len(data.templates) == 80
    assert imagenet_names([0, "n01440764", 999]) == ["tench", "tench", "toilet paper"]


def test_folders_of_other_numbers_are_named_by_hand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = folders(tmp_path / "tiny", ["n01498041", "n00000001"])
    with pytest.raises(UsageError, match="'n00000001' is none of ImageNet's 1000 classes; or name"):
        load_dataset(root)
    (root / "classes.json").write_text('{"n01498041": "ray", "n00000001": "thing"}')
    assert load_dataset(root).class_names == ("thing", "ray")
    (root / "classes.json").unlink()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"come with the package clip-benchmark.*classes\.json"):
        load_dataset(root)


def test_imagenets_classifier_is_pooled_for_a_sets_own_classes(tmp_path: Path) -> None:
    folders(tmp_path / "pets", ["bear", "dog"])
    recipe = tmp_path / "pets.toml"
    recipe.write_text(
        'data = "pets"\ntemplates = "imagenet1k"\n'
        '[pooled]\ndog = [151, 152]\nbear = ["n02132136"]\n'
    )
    data = load_dataset(recipe)
    names = ("brown bear", "Chihuahua", "Japanese Chin")
    assert [own[0] for own in data.prompt_sets] == [f"a bad photo of a {name}." for name in names]
    assert data.pools == (0, 1, 1) and len(data.prompts) == 3 * 80
    axes = np.eye(3, dtype=np.float32)
    found = Embeddings(axes[[2, 1]], {"prompts": np.repeat(axes, 80, axis=0)})
    rows = {row.metric: row.values.tolist() for row in outcomes_of(data, found)}
    # The bear looks like one dog, the dog like the other.
    assert rows["zeroshot top-1"] == [False, True]
    for text, said in (
        ("dog = [151]\nbear = [1000]", "pooled.bear: 1000 is none of ImageNet's 1000 classes"),
        ("dog = [151]\nbear = []", "pooled.bear is empty"),
        ('dog = [151]\nbear = [3, "x"]', "pooled.bear must be a text"),
    ):
        recipe.write_text(f'data = "pets"\n[pooled]\n{text}\n')
        with pytest.raises(UsageError, match=said):
            load_dataset(recipe)
