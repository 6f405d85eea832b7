"""What of a dataset's files a note counts as left out: those that nothing read, and no others."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
from published_layouts import picture

from clipperf.evals.datasets import load_dataset
from clipperf.evals.overlap import images_of

ROWS = "image,label\n0.png,a\n1.png,b\n"


def images(folder: Path) -> Path:
    folder.mkdir()
    for i in range(2):
        (folder / f"{i}.png").write_bytes(picture(i, "png"))
    return folder


def test_tables_that_a_toml_names_are_read(tmp_path: Path) -> None:
    root = images(tmp_path / "set")
    for name in ("mine.csv", "part.csv", "spare.csv"):
        (root / name).write_text(ROWS)
    for own, folder in ((tmp_path / "mine.toml", "set/"), (root / "mine.toml", "")):
        own.write_text(f'data = "{folder}mine.csv"\ntrain = "{folder}part.csv"\n')
        assert load_dataset(own).notes == (
            "mine.toml: left out 1 file of other suffixes: .csv 1 (first: spare.csv)",
        )


def test_the_lists_of_ucf101_are_read_wherever_they_lie(tmp_path: Path) -> None:
    frames = tmp_path / "frames"
    frames.mkdir()
    lists = tmp_path / "lists"
    lists.mkdir()
    for i, name in enumerate(("v_one", "v_two")):
        images(frames / name)
        for fold in ("01", "02", "03"):
            part = ("test", "train")[i]
            (lists / f"{part}list{fold}.txt").write_text(f"Dive/{name}.avi 1\n")
    (lists / "classInd.txt").write_text("1 Dive\n")
    assert load_dataset(tmp_path).notes == ()


@pytest.mark.parametrize("layout", ["karpathy", "folders"])
def test_a_toml_in_the_folder_is_read(layout: str, tmp_path: Path) -> None:
    root = tmp_path / "set"
    if layout == "folders":
        root.mkdir()
        images(root / "a")
        images(root / "b")
    else:
        images(root)
        (root / "dataset_x.json").write_text(
            '{"images": [{"filename": "0.png", "split": "test", "sentences": [{"raw": "x"}]}]}'
        )
    (root / "task.toml").write_text('split = "test"\n' if layout == "karpathy" else "")
    assert not [note for note in load_dataset(root).notes if "toml" in note]


def test_files_of_a_zip_that_lead_out_of_it_are_counted_and_named(tmp_path: Path) -> None:
    path = tmp_path / "set.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("a/0.png", "b/1.png", "../evil/a.png", "a/../../x.png", "/top/b.png"):
            archive.writestr(name, picture(len(name), "png"))
    said = "left out 3 files whose names lead out of it (../evil/a.png, /top/b.png, a/../../x.png)"
    found = load_dataset(path)
    assert [image.name for image in found.images] == ["a/0.png", "b/1.png"]
    assert found.notes == (f"set.zip: {said}",)
    sources, notes = images_of(str(path))
    assert len(sources) == 2 and notes == [f"{path}: {said}"]
