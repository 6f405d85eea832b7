"""Columns that a recipe names: those that are not there, and tasks that do not go by them."""

from __future__ import annotations

from pathlib import Path

import pytest
from published_layouts import picture

from clipperf.errors import UsageError
from clipperf.evals.datasets import Dataset, load_dataset
from clipperf.evals.parts import with_tasks
from clipperf.evals.task import check, unused

TABLES = {
    "captions": "image,caption,region\n{0},one,n\n{1},two,s\n{2},three,n\n{3},four,s\n",
    "labels": "image,label,region,video,lexicon\n"
    "{0},a,n,v,a|b\n{1},a,s,v,a|b\n{2},b,n,w,a|b\n{3},b,s,w,b|c\n",
    "places": "image,latitude,longitude,region\n{0},1,2,n\n{1},1,2,n\n{2},3,4,n\n{3},3,4,s\n",
}


def data(folder: Path, table: str, recipe: str) -> Dataset:
    """Four images with a table, as tasks see them; the part beside it has others of the same."""
    for number, name in enumerate(("own", "part")):
        root = folder / name
        root.mkdir()
        for i in range(4):
            (root / f"{i}.png").write_bytes(picture(10 * number + i, "png"))
        text = TABLES[table].format(*(f"{i}.png" for i in range(4)))
        (root / f"{table if table == 'captions' else 'labels'}.csv").write_text(text)
    own = folder / "mine.toml"
    own.write_text(f'data = "own"\ntrain = "part"\nreference = "part"\n{recipe}\n')
    return with_tasks(load_dataset(own), (), lambda split, part: load_dataset(own, part=part))


WITH = {
    "retrieval": ("captions", ""),
    "zeroshot": ("labels", ""),
    "linear-probe": ("labels", 'task = "linear-probe"\n'),
    "lexicon": ("labels", 'task = "lexicon"\n'),
    "few-shot": ("labels", 'task = "few-shot"\n'),
    "geolocation": ("places", 'task = "geolocation"\n'),
}


@pytest.mark.parametrize("task", WITH)
@pytest.mark.parametrize("line", ['group = "nosuch"', 'clip = "nosuch"', 'group = "nosuch=1"'])
def test_a_column_that_is_not_there_is_told_whatever_the_task(
    task: str, line: str, tmp_path: Path
) -> None:
    table, more = WITH[task]
    with pytest.raises(UsageError, match=r"mine\.toml has no column 'nosuch'.*; there are .*regio"):
        check(data(tmp_path, table, more + line))


USES = {
    "retrieval": (),
    "zeroshot": ("group", "clip"),
    "linear-probe": ("clip",),
    "lexicon": (),
    "few-shot": ("clip",),
    "geolocation": (),
}
COLUMN = {"group": "region", "clip": "video"}


@pytest.mark.parametrize("task", USES)
@pytest.mark.parametrize("name", COLUMN)
def test_a_task_that_does_not_go_by_a_column_refuses_it(
    task: str, name: str, tmp_path: Path
) -> None:
    table, more = WITH[task]
    column = COLUMN[name] if table == "labels" else "region"
    found = data(tmp_path, table, f'{more}{name} = "{column}"')
    if name in USES[task]:
        assert unused(found) == ()
        return
    with pytest.raises(UsageError, match=rf"mine\.toml: {name} is of no use to {task}: .* TOML"):
        check(found)


def test_several_tasks_of_which_one_goes_by_it_are_noted(tmp_path: Path) -> None:
    found = data(tmp_path, "labels", 'task = ["zeroshot", "lexicon"]\ngroup = "region"')
    check(found)
    assert unused(found) == (
        "mine.toml: group is of no use to lexicon: its figures are of all images, not of groups",
    )


def test_the_column_of_classes_is_a_group_on_request(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r'no column \'label\'.*its TOML says label = "label"$'):
        check(data(tmp_path, "labels", 'group = "label"'))
    (tmp_path / "again").mkdir()
    found = data(tmp_path / "again", "labels", 'group = "label"\nlabel = "label"')
    check(found)
    assert found.columns["label"] == ("a", "a", "b", "b") and found.labels == (0, 0, 1, 1)


def table(folder: Path, text: str, recipe: str = "", name: str = "labels.csv") -> Dataset:
    """Two images with this table, and what a TOML beside them asks."""
    for i in range(2):
        (folder / f"{i}.png").write_bytes(picture(i, "png"))
    (folder / name).write_text(text)
    (folder / "task.toml").write_text(recipe)
    return load_dataset(folder)


TWICE = {
    "label": ("image,label\n0.png,a\n1.png,b\n0.png,b\n", "another category", "'a', here 'b'"),
    "region": (
        "image,label,region\n0.png,a,north\n1.png,b,s\n0.png,a,ZZ\n",
        "another region",
        "'north', here 'ZZ'",
    ),
    "latitude": (
        "image,latitude,longitude\n0.png,1,2\n1.png,3,4\n0.png,50,2\n",
        "another latitude",
        "'1', here '50'",
    ),
}


@pytest.mark.parametrize("column", TWICE)
def test_rows_of_one_image_that_contradict_each_other(column: str, tmp_path: Path) -> None:
    text, what, values = TWICE[column]
    said = rf"labels\.csv line 4: '0\.png' had {what} in an earlier line: {values}"
    with pytest.raises(UsageError, match=said):
        table(tmp_path, text)


def test_rows_of_one_image_that_agree_or_are_of_its_captions(tmp_path: Path) -> None:
    found = table(tmp_path, "image,label,region\n0.png,a,\n1.png,b,s\n0.png,a,north\n0.png,a,\n")
    assert found.columns["region"] == ("north", "s") and found.labels == (0, 1)
    (tmp_path / "labels.csv").unlink()
    text = "image,caption,who,region\n0.png,x,ann,n\n0.png,y,bob,n\n1.png,z,ann,s\n"
    found = table(tmp_path, text, name="captions.csv")
    assert found.captions == ("x", "y", "z") and found.columns["region"] == ("n", "s")
    # Who wrote a caption is nothing of the image: asked for as a group it is refused.
    said = r"captions\.csv line 3: '0\.png' had another who in an earlier line: 'ann', here 'bob'"
    with pytest.raises(UsageError, match=said):
        table(tmp_path, text, 'group = "who=ann"', name="captions.csv")


@pytest.mark.parametrize("column", ["label", "region"])
def test_a_header_with_a_column_twice(column: str, tmp_path: Path) -> None:
    text = f"image,label,region,{column}\n0.png,a,n,x\n1.png,b,s,x\n"
    with pytest.raises(UsageError, match=rf"labels\.csv: the header names {column} twice"):
        table(tmp_path, text)
