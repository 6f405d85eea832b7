"""Parts of a dataset that tasks ask for: where they are found, and what is said of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from published_layouts import classified, picture

from clipperf.errors import UsageError
from clipperf.evals import worker
from clipperf.evals.accuracy import embed
from clipperf.evals.datasets import Dataset, load_dataset
from clipperf.evals.parts import with_tasks
from clipperf.evals.task import TASKS, Embeddings, Task


@pytest.fixture(autouse=True)
def learner() -> Iterator[None]:
    """A task that needs a part to train on, and may use one to search on."""
    task = Task(
        "learner",
        fits=lambda dataset: bool(dataset.labels),
        texts=lambda dataset: {},
        outcomes=lambda dataset, found: [],
        parts=("train",),
        may_use=("validation",),
        asked=True,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(TASKS._rows, "learner", task)
        yield


def fill(folder: Path, first: int) -> None:
    for i, name in enumerate(("cat", "dog")):
        path = folder / name / f"{i}.png"
        path.parent.mkdir(parents=True)
        path.write_bytes(picture(first + i, "png"))


def asked(path: Path, *names: str) -> Dataset:
    return with_tasks(
        load_dataset(path), names, lambda split, part: load_dataset(path, split=split, part=part)
    )


def test_the_splits_of_a_folder_are_parts(tmp_path: Path) -> None:
    for first, split in enumerate(("test", "train", "valid")):
        fill(tmp_path / "pets" / split, 10 * first)
    data = asked(tmp_path / "pets", "learner")
    assert data.tasks == ("learner",) and sorted(data.parts) == ["train", "validation"]
    assert [image.name for image in data.parts["train"].images] == [
        "train/cat/0.png",
        "train/dog/1.png",
    ]
    assert data.parts["validation"].images[0].name == "valid/cat/0.png"
    assert data.notes == ()
    assert asked(tmp_path / "pets").parts == {}  # not asked for


def test_what_may_be_used_and_is_not_there_is_noted(tmp_path: Path) -> None:
    for first, split in enumerate(("test", "train")):
        fill(tmp_path / "pets" / split, 10 * first)
    data = asked(tmp_path / "pets", "learner")
    assert list(data.parts) == ["train"]
    before = data.sha256
    assert before != load_dataset(tmp_path / "pets").sha256
    (tmp_path / "pets" / "train" / "cat" / "0.png").write_bytes(picture(99, "png"))
    assert asked(tmp_path / "pets", "learner").sha256 != before
    (note,) = data.notes
    assert note.startswith("pets has no part for validation: ") and "test, train" in note


def test_images_that_are_in_both_parts_are_counted(tmp_path: Path) -> None:
    fill(tmp_path / "pets" / "test", 0)
    fill(tmp_path / "pets" / "train", 1)
    data = asked(tmp_path / "pets", "learner")
    # The first image of the one is the second of the other.
    assert "pets: 1 images for train are evaluated on as well" in data.notes


def test_a_part_that_is_needed_and_not_there(tmp_path: Path) -> None:
    fill(tmp_path / "pets", 0)
    with pytest.raises(
        UsageError,
        match="pets has no part for train: it would be the same data as",
    ):
        asked(tmp_path / "pets", "learner")
    fill(tmp_path / "other" / "test", 0)
    with pytest.raises(UsageError, match="no split 'train'"):
        asked(tmp_path / "other", "learner")


def test_parts_have_the_same_classes(tmp_path: Path) -> None:
    fill(tmp_path / "pets" / "test", 0)
    fill(tmp_path / "pets" / "train", 10)
    (tmp_path / "pets" / "train" / "dog").rename(tmp_path / "pets" / "train" / "fox")
    # Names by number, which both have two of, do not hide it.
    for text in ("", 'classes = ["one", "two"]\n'):
        (tmp_path / "pets" / "task.toml").write_text(text)
        with pytest.raises(UsageError) as caught:
            asked(tmp_path / "pets", "learner")
        assert (
            "pets: its part for train has other classes: fox only there, dog only in what is "
            "evaluated: call the same classes alike" in str(caught.value)
        )


def labelled(data: Dataset) -> dict[str, str]:
    """The class of every image by name."""
    names = [data.class_names[label] for label in data.labels]
    return dict(zip((image.name.split("/", 1)[1] for image in data.images), names, strict=True))


@pytest.mark.parametrize("lacking", ["test", "train", "valid"])
@pytest.mark.parametrize("text", ["", "classnames", '[classes]\nbee = "a bee"'])
def test_a_class_without_images_in_one_part_shifts_no_labels(
    lacking: str, text: str, tmp_path: Path
) -> None:
    pets, classes = tmp_path / "pets", ("ape", "bee", "cat")
    for first, split in enumerate(("test", "train", "valid")):
        for i, name in enumerate(classes):
            if not (split == lacking and name == "ape"):
                (pets / split / name).mkdir(parents=True)
                (pets / split / name / "1.png").write_bytes(picture(10 * first + i, "png"))
    names = classes
    if text == "classnames":
        names = ("an ape", "a bee", "a cat")
        (pets / "classnames.txt").write_text("\n".join(names))
    elif text:
        names = ("ape", "a bee", "cat")
        (pets / "task.toml").write_text(text)
    data = asked(pets, "learner")
    assert data.class_names == names and data.class_keys == classes
    for split, part in {
        "test": data,
        "train": data.parts["train"],
        "valid": data.parts["validation"],
    }.items():
        own = dict(zip([f"{c}/1.png" for c in classes], names, strict=True))
        if split == lacking:
            del own["ape/1.png"]
        assert labelled(dataclasses.replace(part, class_names=names)) == own
    said = [note for note in data.notes if "they are classes there, too" in note]
    assert len(said) == (lacking == "test" and text != "classnames")
    if said:
        assert said[0].startswith("pets: 1 classes have images in its part for train and none in")


def test_classes_of_another_layout_are_the_same_by_their_list_of_names(tmp_path: Path) -> None:
    classified(tmp_path / "shards", [0, 1, 2])
    for i, name in enumerate(("sea", "sky")):
        (tmp_path / "more" / name).mkdir(parents=True)
        (tmp_path / "more" / name / "1.png").write_bytes(picture(200 + i, "png"))
    recipe = tmp_path / "own.toml"
    recipe.write_text('data = "shards"\ntrain = "more"\n')
    with pytest.raises(
        UsageError, match="its part for train has other classes: sea, sky only there, 0, 1, 2 only"
    ):
        asked(recipe, "learner")
    (tmp_path / "shards" / "classnames.txt").write_text("sea\nsky\n")
    with pytest.raises(UsageError, match="a sample is of class 2"):
        asked(recipe, "learner")
    classified(tmp_path / "pair", [0, 1])
    (tmp_path / "pair" / "classnames.txt").write_text("sea\nsky\n")
    recipe.write_text('data = "pair"\ntrain = "more"\n')
    assert asked(recipe, "learner").parts["train"].labels == (0, 1)
    # By number: another list of names is another set of classes.
    classified(tmp_path / "shards", [0, 1], first=90, split="train")
    (tmp_path / "shards" / "classnames.txt").write_text("sky\nsea\n")
    recipe.write_text('data = "pair"\ntrain = "shards"\n')
    with pytest.raises(
        UsageError, match=r"other names for the same numbers of classes \(0: sea, sky"
    ):
        asked(recipe, "learner")


def test_only_a_split_that_is_not_there_may_be_left_out(tmp_path: Path) -> None:
    for first, split in enumerate(("test", "train", "val")):
        fill(tmp_path / "pets" / split, 10 * first)
    broken = tmp_path / "pets" / "val" / "cat" / "0.png"
    broken.write_bytes(broken.read_bytes()[:-30])
    with pytest.raises(UsageError, match=r"val/cat/0\.png is not a readable image"):
        asked(tmp_path / "pets", "learner")
    broken.write_bytes(picture(20, "png"))
    recipe = tmp_path / "pets.toml"
    for place, said in (
        ("none", "pets.toml names .*none, which is not there"),
        ("pets", "what its TOML names for validation is no such part"),
        ("half", "what its TOML names for validation is no such part: .* has no split 'val'"),
    ):
        fill(tmp_path / "half" / "test", 30) if place == "half" else None
        recipe.write_text(f'data = "pets/test"\ntrain = "pets/train"\nvalidation = "{place}"\n')
        if place == "pets":
            recipe.write_text(recipe.read_text().replace('"pets"', '"pets/test"'))
        with pytest.raises(UsageError, match=said):
            asked(recipe, "learner")


def test_a_recipe_says_where_parts_are(tmp_path: Path) -> None:
    fill(tmp_path / "photos", 0)
    fill(tmp_path / "more", 10)
    recipe = tmp_path / "pets.toml"
    recipe.write_text('data = "photos"\ntask = "learner"\ntrain = "more"\n')
    data = asked(recipe)
    assert [image.name for image in data.parts["train"].images] == ["cat/0.png", "dog/1.png"]
    assert data.parts["train"].images[0].path == tmp_path / "more" / "cat" / "0.png"
    (note,) = data.notes
    assert note.startswith(
        "pets.toml has no part for validation: it would be the same data as what is evaluated"
    )


def test_what_a_table_says_beside_is_kept(tmp_path: Path) -> None:
    for i in range(3):
        (tmp_path / f"{i}.png").write_bytes(picture(i, "png"))
    (tmp_path / "labels.csv").write_text(
        "image,label,latitude,region,empty\n0.png,a,1.5, north ,\n1.png,b,-2,,\n2.png,a,3,south,\n"
    )
    data = load_dataset(tmp_path)
    assert data.columns == {"latitude": ("1.5", "-2", "3"), "region": ("north", "", "south")}
    (tmp_path / "labels.csv").unlink()
    (tmp_path / "labels.jsonl").write_text(
        '{"image": "0.png", "label": "a", "latitude": 1.5}\n'
        '{"image": "1.png", "label": "b", "latitude": -2}\n'
    )
    assert load_dataset(tmp_path).columns == {"latitude": ("1.5", "-2")}


class Bright:
    """Embeds an image as the mean of its channels."""

    def encode_images(self, images: list) -> np.ndarray:
        return np.stack(
            [np.asarray(i.open().convert("RGB"), float).mean((0, 1)) + 1 for i in images]
        )

    def encode_texts(self, texts: list) -> np.ndarray:
        return np.ones((len(texts), 3))


def test_parts_are_embedded_written_and_read(tmp_path: Path) -> None:
    for first, split in enumerate(("test", "train")):
        fill(tmp_path / "pets" / split, 10 * first)
    data = asked(tmp_path / "pets", "learner")
    found = embed(data, Bright())
    plain = embed(dataclasses.replace(data.parts["train"], tasks=("learner",)), Bright())
    assert np.array_equal(found.parts["train"], plain.images)
    assert not np.array_equal(found.parts["train"], found.images)
    both = Embeddings(found.images, {"images": plain.images}, found.parts)
    worker.save(both, tmp_path / "found.npz")
    again = worker.load(tmp_path / "found.npz")
    assert np.array_equal(again.images, both.images)
    assert np.array_equal(again.texts["images"], plain.images) and len(again.texts) == 1
    assert np.array_equal(again.parts["train"], found.parts["train"]) and len(again.parts) == 1


PROMPTS = '[classes]\ncat = ["a cute cat", "a pet {c}"]\n'
POOLED = '[pooled]\ncat = ["tabby", "tom"]\ndog = "dog"\n'


@pytest.mark.parametrize("more", ["", PROMPTS, POOLED])
def test_what_is_evaluated_is_no_part_however_it_is_asked_about(tmp_path: Path, more: str) -> None:
    """Parts are asked about without prompts, so that nothing but the images tells the same data."""
    fill(tmp_path / "pets", 0)
    (tmp_path / "pets.toml").write_text(f'data = "pets"\n{more}')
    with pytest.raises(UsageError, match="it would be the same data as what is evaluated"):
        asked(tmp_path / "pets.toml", "learner")
    fill(tmp_path / "more", 10)
    (tmp_path / "pets.toml").write_text(f'data = "pets"\ntrain = "more"\n{more}')
    data = asked(tmp_path / "pets.toml", "learner")
    assert list(data.parts) == ["train"], "and not as validation either"
    assert not any("evaluated on as well" in note for note in data.notes)
    for split in ("test", "train"):
        fill(tmp_path / "split" / split, 20 if split == "test" else 30)
    (tmp_path / "split.toml").write_text(f'data = "split"\nsplit = "train"\n{more}')
    with pytest.raises(UsageError, match="no part for train"):
        asked(tmp_path / "split.toml", "learner")


@pytest.mark.parametrize(
    ("column", "folds", "said"),
    [
        ("train,test", "fold", None),
        ("train,test", "fild", "has no column 'fild'; there are fold"),
        ("Train,Test", "fold", "its fold 'fold' says Test, Train"),
        ("test,", "fold", "its fold 'fold' has no image to train"),
    ],
)
def test_folds_that_divide_nothing_are_refused_whatever_is_asked(
    tmp_path: Path, column: str, folds: str, said: str | None
) -> None:
    """Else all of the data would be tested, its images to train on as well."""
    root = tmp_path / "table"
    root.mkdir()
    lines = ["image,label,fold"]
    for place, (name, own) in enumerate(zip(("cat", "dog"), column.split(","), strict=True)):
        (root / f"{place}.png").write_bytes(picture(place, "png"))
        lines.append(f"{place}.png,{name},{own}")
    (root / "labels.csv").write_text("\n".join(lines))
    (tmp_path / "table.toml").write_text(f'data = "table"\nfolds = ["{folds}"]\n')
    for names in ((), ("zeroshot",), ("learner",)):
        if said is None:
            assert asked(tmp_path / "table.toml", *names).folds == ("fold",)
        else:
            with pytest.raises(UsageError, match=said):
                asked(tmp_path / "table.toml", *names)


def test_folds_may_be_columns_of_the_part_for_training(tmp_path: Path) -> None:
    fill(tmp_path / "pets", 0)
    root = tmp_path / "table"
    root.mkdir()
    for place in range(2):
        (root / f"{place}.png").write_bytes(picture(40 + place, "png"))
    (root / "labels.csv").write_text("image,label,f\n0.png,cat,train\n1.png,dog,train\n")
    (tmp_path / "pets.toml").write_text('data = "pets"\ntrain = "table"\nfolds = ["f"]\n')
    assert asked(tmp_path / "pets.toml", "learner").parts["train"].columns["f"] == ("train",) * 2
    (tmp_path / "pets.toml").write_text('data = "pets"\ntrain = "table"\nfolds = ["g"]\n')
    with pytest.raises(UsageError, match="has no column 'g'; there are f"):
        asked(tmp_path / "pets.toml", "zeroshot")
