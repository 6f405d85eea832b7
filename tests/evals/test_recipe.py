"""Anybody's own evaluation: what a small TOML changes, and an error for each mistake in it."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
from published_layouts import captioned, classified, picture

from clipperf.errors import UsageError
from clipperf.evals.datasets import Dataset, load_dataset
from clipperf.evals.task import Embeddings, fitting, outcomes_of


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    root = tmp_path / "pets"
    for i, name in enumerate(("cat", "dog", "dog")):
        path = root / name / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(i, "png"))
    return root


def with_recipe(root: Path, text: str) -> Dataset:
    (root / "task.toml").write_text(text)
    return load_dataset(root)


def test_a_recipe_in_a_folder(folders: Path) -> None:
    data = with_recipe(
        folders,
        'task = "zeroshot"\nmetric = ["top-1"]\ntemplates = ["a {}", "the {c}"]\n'
        'classes = ["tabby", "hound"]\n',
    )
    assert data.class_names == ("tabby", "hound") and data.labels == (0, 1, 1)
    assert data.prompts == ("a tabby", "the tabby", "a hound", "the hound")
    assert (data.tasks, data.metrics) == (("zeroshot",), ("top-1",))
    assert [task.name for task in fitting(data)] == ["zeroshot"]
    assert data.notes == ()


def test_classes_may_have_prompts_of_their_own(folders: Path) -> None:
    plain = load_dataset(folders)
    data = with_recipe(
        folders,
        'templates = ["a {}"]\n[classes]\ncat = "kitten"\n'
        'dog = ["my dog", "a hound", "man\'s best friend"]\n',
    )
    assert data.prompt_sets == (("a kitten",), ("my dog", "a hound", "man's best friend"))
    assert data.prompts == ("a kitten", "my dog", "a hound", "man's best friend")
    assert data.sha256 != plain.sha256


def test_a_recipe_elsewhere_names_its_data(folders: Path, tmp_path: Path) -> None:
    (folders / "mine.csv").write_text("path,kind\ncat/0.png,x\ndog/1.png,y\ndog/2.png,x\n")
    recipe = tmp_path / "mine.toml"
    recipe.write_text('data = "pets/mine.csv"\nimage = "path"\nlabel = "kind"\n')
    data = load_dataset(recipe)
    assert data.class_names == ("x", "y") and data.labels == (0, 1, 0)


def test_a_recipe_for_shards(tmp_path: Path) -> None:
    classified(tmp_path / "w", [1, 0])
    classified(tmp_path / "w", [2], split="train")
    data = with_recipe(tmp_path / "w", 'split = "train"\ntemplates = ["{}!"]\n')
    assert data.labels == (2,) and data.prompts == ("sea!", "sky!", "sea!")


def test_a_prefix_stands_before_every_caption(tmp_path: Path) -> None:
    root = captioned(tmp_path / "w", [["dogs"], ["cats", "a cat"]])
    assert with_recipe(root, 'prefix = "a photo of "').captions == (
        *("a photo of dogs", "a photo of cats", "a photo of a cat"),
    )
    root = classified(tmp_path / "classes", [0, 1])
    with pytest.raises(UsageError, match="prefix is for captions, and the data has none"):
        with_recipe(root, 'prefix = "a photo of "')


def test_a_recipe_in_a_folder_names_what_lies_beside_it(tmp_path: Path) -> None:
    own = tmp_path / "own"
    for first, place in ((0, own / "photos"), (10, own / "learn"), (20, tmp_path / "outside")):
        for i, name in enumerate(("cat", "dog")):
            (place / name).mkdir(parents=True)
            (place / name / f"{i}.png").write_bytes(picture(first + i, "png"))
    recipe = own / "task.toml"
    recipe.write_text('data = "photos"\ntrain = "learn"\nvalidation = "../outside"\n')
    for given in (own, recipe):
        for part, place in (("", "photos"), ("train", "learn"), ("validation", "../outside")):
            data = load_dataset(given, part=part)
            assert [image.path.resolve() for image in data.images] == [
                (own / place / "cat" / "0.png").resolve(),
                (own / place / "dog" / "1.png").resolve(),
            ]
    (own / "photos" / "labels.csv").write_text("image,label\ncat/0.png,x\ndog/1.png,y\n")
    recipe.write_text('data = "photos/labels.csv"\n')
    assert load_dataset(own).class_names == ("x", "y")
    recipe.write_text('data = "none"\n')
    with pytest.raises(UsageError, match=r"own/task\.toml names .*own/none, which is not there"):
        load_dataset(own)


def test_a_recipe_in_an_archive_names_tables_alone(folders: Path, tmp_path: Path) -> None:
    (folders / "task.toml").write_text('data = "cat"\n')
    with zipfile.ZipFile(tmp_path / "pets.zip", "w") as archive:
        for path in sorted(folders.rglob("*.*")):
            archive.write(path, path.relative_to(folders))
    with pytest.raises(
        UsageError, match="names cat, which is no table there: in an archive a TOML"
    ):
        load_dataset(tmp_path / "pets.zip")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("task = ", "is no TOML"),
        ("templtes = []", "templtes is not known; there are task, metric, templates,"),
        ("split = 3", "split must be a text"),
        ("templates = []", "templates is empty"),
        ('templates = ["a photo"]', "'a photo' has no {} or {c}"),
        ("classes = 3", "classes must be a list of names, or a table"),
        ('classes = ["cat"]', "1 classes, the data has 2"),
        ('[classes]\nbird = "x"', "no class bird; there are cat, dog"),
        ('data = "other.csv"', "other.csv, which is not there"),
    ],
)
def test_mistakes_are_named(folders: Path, text: str, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        with_recipe(folders, text)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [('task = "retrieval"', "has no data for the task retrieval"), ('task = "x"', "no task 'x'")],
)
def test_a_task_that_cannot_be_is_refused(folders: Path, text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        fitting(with_recipe(folders, text))


def test_only_the_metrics_that_are_wanted_are_rows(folders: Path) -> None:
    data = with_recipe(folders, 'metric = "mean per-class recall"\ntemplates = ["a {}"]\n')
    found = Embeddings(
        np.eye(3, 2, dtype=np.float32) + 0.1, {"prompts": np.eye(2, dtype=np.float32)}
    )
    (outcome,) = outcomes_of(data, found)
    # The cat is right, the first dog is, the second lies between both: a tie is a miss.
    assert outcome.metric == "zeroshot mean per-class recall"
    assert outcome.value == (1 + 0.5) / 2
    wrong = with_recipe(folders, 'metric = "recall@1"\ntemplates = ["a {}"]\n')
    with pytest.raises(UsageError, match="no metric 'recall@1'; choose from 'zeroshot top-1', "):
        outcomes_of(wrong, found)
