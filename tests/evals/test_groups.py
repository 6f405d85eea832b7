"""Figures by group, frames of a clip, pooled classifiers: what a recipe asks of its classes."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from published_layouts import picture

from clipperf.errors import UsageError
from clipperf.evals.clips import centre_frames, clips_of, over_frames
from clipperf.evals.datasets import Dataset, load_dataset
from clipperf.evals.groups import groups_of, parts_of
from clipperf.evals.outcome import Outcome
from clipperf.evals.ranks import classify, normalize
from clipperf.evals.task import Embeddings, check, outcomes_of, texts_of
from clipperf.inputs.sources import ImageSource


def data(labels: str, **rest: object) -> Dataset:
    """A dataset with one class for every letter."""
    images = tuple(ImageSource(f"{i}.png", Path(f"{i}.png")) for i in range(len(labels)))
    names = tuple(sorted(set(labels)))
    numbers = tuple(names.index(label) for label in labels)
    return Dataset(
        "d",
        "",
        images,
        labels=numbers,
        class_names=names,
        templates=("{}",),
        **rest,  # type: ignore[arg-type]
    )


def embedded(dataset: Dataset, answers: str) -> Embeddings:
    """Images that look like the class of a letter each; prompts are one axis a class."""
    axes = np.eye(len(dataset.class_names), dtype=np.float32)
    images = axes[[dataset.class_names.index(letter) for letter in answers]]
    return Embeddings(images, {"prompts": axes})


def figures(dataset: Dataset, found: Embeddings) -> dict[str, Outcome]:
    return {outcome.metric: outcome for outcome in outcomes_of(dataset, found)}


REGIONS = {"region": ("north", "south", "north", "south", "south", ""), "year": tuple("112212")}


def test_every_group_has_a_figure_by_hand() -> None:
    dataset = data("abcabc", columns=REGIONS, groups=("region",))
    rows = figures(dataset, embedded(dataset, "abaabb"))
    # Right: a, b, -, a, b, -.
    assert {name: row.value for name, row in rows.items() if "region" in name} == {
        "zeroshot top-1, region north": 1 / 2,
        "zeroshot top-1, region south": 1.0,
        "zeroshot top-1, region unknown": 0.0,
    }
    assert rows["zeroshot top-1, worst group"].value == 0
    assert len(rows["zeroshot top-1, region south"].values) == 3
    assert rows["zeroshot top-1"].value == 4 / 6


def test_a_metric_that_is_asked_for_brings_its_groups() -> None:
    asked = ("top-1", "mean per-class recall")
    dataset = data("abcabc", columns=REGIONS, groups=("region",), metrics=asked)
    check(dataset)
    rows = figures(dataset, embedded(dataset, "abaabb"))
    # North: a right, c taken for a. South: b, a, b right. Unknown: c taken for b.
    recall = "zeroshot mean per-class recall"
    assert {name: row.value for name, row in rows.items()} == {
        "zeroshot top-1": 4 / 6,
        recall: pytest.approx(2 / 3),
        "zeroshot top-1, worst group": 0.0,
        "zeroshot top-1, region north": 1 / 2,
        "zeroshot top-1, region south": 1.0,
        "zeroshot top-1, region unknown": 0.0,
        f"{recall}, region north": 1 / 2,
        f"{recall}, region south": 1.0,
        f"{recall}, region unknown": 0.0,
    }
    assert rows[f"{recall}, region south"].group == "region south"
    # One that is named is that alone, and without a metric the groups' rows are those of top-1.
    for name in ("top-1, region north", f"{recall}, region south", "top-1, worst group"):
        one = dataclasses.replace(dataset, metrics=(name,))
        check(one)
        assert [m.removeprefix("zeroshot ") for m in figures(one, embedded(one, "abaabb"))] == [
            name.removeprefix("zeroshot ")
        ]
    usual = figures(dataclasses.replace(dataset, metrics=()), embedded(dataset, "abaabb"))
    assert [name for name in usual if "region" in name] == [
        f"zeroshot top-1, region {name}" for name in ("north", "south", "unknown")
    ]


def test_combinations_and_all_others() -> None:
    dataset = data("abcabc", columns=REGIONS, groups=("region=north", "year"))
    found = groups_of(dataset, range(6))
    assert {name: np.flatnonzero(own).tolist() for name, own in found.items()} == {
        "region north": [0, 2],
        "region other than north": [1, 3, 4, 5],
        "year 1": [0, 1, 4],
        "year 2": [2, 3, 5],
        "region north, year 1": [0],
        "region north, year 2": [2],
        "region other than north, year 1": [1, 4],
        "region other than north, year 2": [3, 5],
    }
    numbers = parts_of(dataset, range(6))
    assert numbers is not None and numbers.tolist() == [0, 2, 1, 3, 2, 3]
    assert parts_of(data("ab"), range(2)) is None and groups_of(data("ab"), range(2)) == {}


@pytest.mark.parametrize(
    ("group", "said"),
    [
        ("country", "d has no column 'country'; there are region, year"),
        ("region=west", "no image has 'west' as its region"),
    ],
)
def test_groups_that_are_not_there(group: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        groups_of(data("abcabc", columns=REGIONS, groups=(group,)), range(6))


CLIPS = {"video": ("x", "y", "x", "y", "x", "z")}


def test_the_frames_of_a_clip_answer_together() -> None:
    dataset = data("abababab"[:4] + "ac", columns=CLIPS, clip="video")
    assert [own.tolist() for own in clips_of(dataset)] == [[0, 2, 4], [1, 3], [5]]
    # Clip x: two frames look like a and one like b; y: one like b, one like c; z: like a.
    found = embedded(dataset, "abbcaa")
    images, first = over_frames(dataset, found)
    assert first.tolist() == [0, 1, 5]
    root = 5**0.5
    assert images == pytest.approx(
        np.array([[2 / root, 1 / root, 0], [0, 0.5**0.5, 0.5**0.5], [1, 0, 0]]), abs=1e-6
    )
    rows = figures(dataset, found)
    # y's mean ties b with c, which counts against it; z is wrong.
    assert rows["zeroshot top-1"].value == pytest.approx(1 / 3)
    assert len(rows["zeroshot top-1"].values) == 3


@pytest.mark.parametrize("tasks", [(), ("bias",)])
def test_a_clip_in_two_groups_is_refused(tasks: tuple[str, ...]) -> None:
    columns = {**CLIPS, "region": ("north", "south", "north", "south", "", "north")}
    dataset = data("ababac", columns=columns, clip="video", tasks=tasks)
    check(dataclasses.replace(dataset, groups=() if not tasks else ("video",)))
    with pytest.raises(UsageError) as caught:
        check(dataclasses.replace(dataset, groups=("region",)))
    assert str(caught.value).startswith(
        "d: the frames of clip 'x' differ in their group by region (region north, region unknown)"
    )
    # Against all others they are one group: north is not south.
    check(dataclasses.replace(dataset, groups=("region=south",)))


def test_centre_frames() -> None:
    part = data("ab", columns={"video": ("p", "q")}, clip="video")
    dataset = data("ababac", columns=CLIPS, clip="video", parts={"train": part})
    wide = {"": np.arange(6.0)[:, None], "train": np.array([[7.0], [8.0]])}
    found = Embeddings(np.arange(12.0).reshape(6, 2), {}, {"train": np.ones((2, 2))}, wide)
    small, own = centre_frames(dataset, found)
    assert [image.name for image in small.images] == ["2.png", "3.png", "5.png"]
    assert small.labels == (0, 1, 2) and small.columns == {"video": ("x", "y", "z")}
    assert own.images.tolist() == [[4, 5], [6, 7], [10, 11]] and len(own.parts["train"]) == 2
    assert own.features[""].tolist() == [[2], [3], [5]]
    assert own.features["train"].tolist() == [[7], [8]]
    plain = data("ab")
    assert centre_frames(plain, found) == (plain, found)


def test_the_frames_of_a_folder_are_a_clip(tmp_path: Path) -> None:
    for i, name in enumerate(("run/v1/1", "run/v1/2", "jump/v2/1", "jump/v3/1")):
        path = tmp_path / "films" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(i, "png"))
    recipe = tmp_path / "films.toml"
    recipe.write_text('data = "films"\nclip = "folder"\nmetric = "top-1"\n')
    dataset = load_dataset(recipe)
    assert [own.tolist() for own in clips_of(dataset)] == [[0], [1], [2, 3]]
    axes = np.eye(2, dtype=np.float32)
    # Jumping, running, and of two frames that look like either half, a tie.
    found = Embeddings(axes[[0, 1, 0, 1]], {"prompts": np.repeat(axes, 5, axis=0)})
    top = figures(dataset, found)["zeroshot top-1"]
    assert top.values.tolist() == [True, False, False]


def test_clips_that_contradict_themselves() -> None:
    with pytest.raises(UsageError, match="the frames of clip 'x' differ in class"):
        clips_of(data("abcabc", columns=CLIPS, clip="video"))
    with pytest.raises(UsageError, match=r"1\.png: its video is empty: name its clip"):
        clips_of(data("ab", columns={"video": ("x", "")}, clip="video"))
    with pytest.raises(UsageError, match="no column 'film' that names clips"):
        clips_of(data("ab", columns=CLIPS, clip="film"))


def test_the_best_of_the_pooled_classifiers_counts() -> None:
    # Two dogs, one cat: their mean would be further from the image than the cat is.
    weights = normalize(np.array([[1.0, 0.0], [0.0, 1.0], [0.9, 0.5]]))
    images = normalize(np.array([[0.05, 1.0], [0.9, 0.4]]))
    found = classify(images, weights, np.array([0, 1]), pools=np.array([0, 0, 1]))
    assert found.predicted.tolist() == [0, 1] and found.ranks.tolist() == [0, 0]
    scores = images.astype(np.float64) @ weights.astype(np.float64).T
    best = np.stack([scores[:, :2].max(axis=1), scores[:, 2]], axis=1)
    assert best.argmax(axis=1).tolist() == found.predicted.tolist()


def test_what_is_asked_may_be_a_group_as_well(tmp_path: Path) -> None:
    for i in range(3):
        (tmp_path / f"{i}.png").write_bytes(picture(i, "png"))
    (tmp_path / "labels.csv").write_text(
        "image,race,gender\n0.png,White,Male\n1.png,Black,Male\n2.png,Indian,Female\n"
    )
    (tmp_path / "task.toml").write_text('label = "race"\ngroup = "race=White"\n')
    dataset = load_dataset(tmp_path)
    assert dataset.class_names == ("Black", "Indian", "White")
    assert {name: own.tolist() for name, own in groups_of(dataset, range(3)).items()} == {
        "race White": [True, False, False],
        "race other than White": [False, True, True],
    }
    assert dataset.columns["gender"] == ("Male", "Male", "Female")
    # Gender by race: what is asked and what it is asked by change places.
    (tmp_path / "task.toml").write_text(
        'label = "gender"\ngroup = ["race", "gender"]\ntemplates = ["a {}"]\n'
        '[classes]\nMale = "man"\nFemale = "woman"\n'
    )
    dataset = load_dataset(tmp_path)
    assert texts_of(dataset) == {"prompts": ("a woman", "a man")}
    axes = np.eye(2, dtype=np.float32)
    rows = figures(dataset, Embeddings(axes[[1, 0, 0]], {"prompts": axes}))
    assert {n: r.value for n, r in rows.items() if n.startswith("zeroshot top-1, race")} == {
        "zeroshot top-1, race Black": 0,
        "zeroshot top-1, race Indian": 1,
        "zeroshot top-1, race White": 1,
        "zeroshot top-1, race Black, gender Male": 0,
        "zeroshot top-1, race Indian, gender Female": 1,
        "zeroshot top-1, race White, gender Male": 1,
    }


def test_a_recipe_pools_groups_and_joins_frames(tmp_path: Path) -> None:
    for i in range(4):
        (tmp_path / f"{i}.png").write_bytes(picture(i, "png"))
    (tmp_path / "labels.csv").write_text(
        "image,label,region,film\n0.png,cat,north,x\n1.png,cat,south,x\n2.png,dog,north,y\n"
        "3.png,dog,south,z\n"
    )
    recipe = tmp_path / "task.toml"
    recipe.write_text(
        'group = "region"\nclip = "film"\ntemplates = ["a {}"]\n'
        '[pooled]\ndog = ["husky", "poodle"]\ncat = ["tabby"]\n'
    )
    dataset = load_dataset(tmp_path)
    assert (dataset.groups, dataset.clip) == (("region",), "film")
    assert dataset.class_names == ("cat", "dog") and dataset.pools == (0, 1, 1)
    assert texts_of(dataset) == {"prompts": ("a tabby", "a husky", "a poodle")}
    axes = np.eye(3, dtype=np.float32)
    rows = figures(dataset, Embeddings(axes[[0, 0, 2, 1]], {"prompts": axes}))
    assert rows["zeroshot top-1"].value == 1 and len(rows["zeroshot top-1"].values) == 3
    for text, said in (
        ('[pooled]\ndog = ["husky"]\n', "pooled must name every class and no other: cat"),
        ('[pooled]\ndog = ["a"]\ncat = ["b"]\nfox = ["c"]\n', "and no other: fox"),
        ("pooled = 3\n", "pooled must be a table"),
        ('[classes]\ncat = ["x"]\n[pooled]\ndog = ["a"]\ncat = ["b"]\n', "not both"),
    ):
        recipe.write_text(text)
        with pytest.raises(UsageError, match=said):
            load_dataset(tmp_path)


def test_a_label_column_is_a_group_as_well(tmp_path: Path) -> None:
    """Accuracy by race of what is classified by race, as in the CLIP paper's Table 5."""
    for i in range(4):
        (tmp_path / f"{i}.png").write_bytes(picture(i, "png"))
    rows = "file,age,gender,race,label\n0.png,1,M,White,x\n1.png,1,F,Black,x\n2.png,1,M,White,y\n"
    (tmp_path / "fairface_label_val.csv").write_text(rows + "3.png,1,F,Black,y\n")
    recipe = tmp_path / "task.toml"
    recipe.write_text('label = "race"\ngroup = ["race=White", "gender"]\n')
    dataset = load_dataset(tmp_path)
    assert dataset.class_names == ("Black", "White") and dataset.labels == (1, 0, 1, 0)
    assert "race other than White, gender F" in groups_of(dataset, range(4))
    recipe.write_text('label = "rase"\n')
    with pytest.raises(UsageError, match="no column rase; there are age, file, gender"):
        load_dataset(tmp_path)
