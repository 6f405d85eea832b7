"""What is said of data that lacks something: which columns there are, and what to do."""

from __future__ import annotations

from pathlib import Path

import pytest
from published_layouts import picture

from clipperf.errors import UsageError
from clipperf.evals.datasets import Dataset, load_dataset
from clipperf.evals.figures import figures_of
from clipperf.evals.parts import with_tasks


def table(folder: Path, text: str, recipe: str = "") -> Dataset:
    """Two images with this table, and what a TOML beside them asks."""
    for i in range(2):
        (folder / f"{i}.png").write_bytes(picture(i, "png"))
    (folder / "labels.csv").write_text(text)
    (folder / "task.toml").write_text(recipe)
    return load_dataset(folder)


LABELS = "image,label,region\n0.png,a,n\n1.png,b,s\n"
NEEDS = {
    "geolocation": "the columns latitude and longitude in a table with the images; a TOML may .*",
    "bias": "one of the columns race, gender, age, or others as the group of a TOML",
    "lexicon": "one class an image, and a column lexicon with its candidate words",
    "neighbours": "one class an image, a column anchor that names an image, and no clip",
    "actions": "the columns verb, noun, annotation, id",
    "retrieval": "captions",
    "association": "cues and candidates, as WinoGAViL has them",
}


@pytest.mark.parametrize("task", NEEDS)
def test_a_task_says_what_it_needs(task: str, tmp_path: Path) -> None:
    data = table(tmp_path, LABELS)
    said = f"has no data for the task {task}: it needs {NEEDS[task]}; its columns are region$"
    with pytest.raises(UsageError, match=said):
        with_tasks(data, (task,), lambda split, part: data)


TABLES = {
    "captions": ("file_name,lat,lon\n0.png,1,2\n", "line 2: no column caption, label, or latitude "
                 "and longitude; there are 'file_name', 'lat', 'lon': rename them, or say in a "),
    "empty caption": ("image,caption\n0.png,\n", "line 2: empty caption"),
    "letters": ("Image,Label\n0.png,a\n", "line 2: no column image; there are 'Image', 'Label': "
                r"write it in small letters, or say in a TOML which it is \(image = \"Image\"\)"),
    "semicolons": ("image;label\n0.png;a\n", "line 2: no column image; there are 'image;label': "
                   "put commas between columns, not semicolons"),
    "no image": ("image,label\n,a\n", "line 2: no image$"),
    "empty": ("", r"labels\.csv is empty$"),
    "header": ("image,label\n", r"labels\.csv has no row of an image below its header$"),
}  # fmt: skip


@pytest.mark.parametrize("kind", TABLES)
def test_a_table_that_cannot_be_read_is_named_by_what_it_has(kind: str, tmp_path: Path) -> None:
    text, said = TABLES[kind]
    with pytest.raises(UsageError, match=said):
        table(tmp_path, text)


def test_spaces_around_a_label_are_none_of_it(tmp_path: Path) -> None:
    found = table(tmp_path, "image,label\n0.png,food \n1.png, pet\n0.png,food\n")
    assert (found.class_names, found.labels) == (("food", "pet"), (0, 1))


def test_a_table_of_figures_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--against '.*none\.csv' is not there: give published"):
        figures_of(str(tmp_path / "none.csv"))
    with pytest.raises(UsageError, match=r"--against '.*' is no file: give published, or a CSV"):
        figures_of(str(tmp_path))
    (tmp_path / "empty.csv").write_text("")
    with pytest.raises(UsageError, match=r"empty\.csv is empty; it takes "):
        figures_of(str(tmp_path / "empty.csv"))


def test_classes_of_which_no_image_can_be_read(tmp_path: Path) -> None:
    """They are not called folders without images, and the other part says why it has others."""
    for split, broken in (("test", "cat"), ("train", "dog")):
        for number, name in enumerate(("ant", "cat", "dog")):
            (tmp_path / split / name).mkdir(parents=True)
            seed = number + 10 * (split == "train")
            data = b"none" if name == broken else picture(seed, "png")
            (tmp_path / split / name / f"{split}.png").write_bytes(data)
    (tmp_path / "test" / "eel").mkdir()
    found = load_dataset(tmp_path, skip_unreadable=True)
    notes = [note.removeprefix(f"{tmp_path.name}: ") for note in found.notes]
    assert [note[:40] for note in notes] == [
        "1 class folders without images (eel), no",
        "left out 1 image that cannot be read, fo",
        "no image of 1 classes can be read: cat",
    ]
    assert found.unread == ("cat",)
    with pytest.raises(UsageError) as caught:
        with_tasks(
            found,
            ("linear-probe",),
            lambda split, part: load_dataset(tmp_path, split=split, skip_unreadable=True),
        )
    assert str(caught.value).endswith(
        "cat only there, dog only in what is evaluated: call the same classes alike; no image can "
        "be read of cat in what is evaluated; dog in its part for train: mend those files"
    )
