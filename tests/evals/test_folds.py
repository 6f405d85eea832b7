"""Folds: means over divisions of the data, by hand; STL-10's and UCF101's as published."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from conftest import ROOT
from published_layouts import picture

from clipperf.errors import UsageError
from clipperf.evals.datasets import Dataset, load_dataset
from clipperf.evals.folds import folds_of, held_for_test
from clipperf.evals.layout import MissingSplitError
from clipperf.evals.outcome import MEAN_OVER_CLASSES, SHARE, Outcome
from clipperf.evals.parts import with_tasks
from clipperf.evals.shots import over_repeats
from clipperf.evals.task import Embeddings, check, outcomes_of
from clipperf.inputs.sources import ImageSource


def outcome(hits: list[bool], groups: list[int], estimate: object = SHARE) -> Outcome:
    rest = np.array(hits), np.array(hits), np.array(groups)
    return Outcome("top-1", "image", estimate, *rest, chance=0.5)  # type: ignore[arg-type]


def test_a_mean_over_tests_that_differ() -> None:
    first, second = outcome([True, False], [0, 1]), outcome([True, True, True, False], [1, 0, 0, 1])
    both = over_repeats([first, second], [np.array([0, 4]), np.array([1, 2, 6, 9])])
    assert both.value == (1 / 2 + 3 / 4) / 2
    assert len(both.values) == 6 and both.groups.tolist() == [0, 1, 0, 1, 0, 1]
    # By hand: figures 0.5 and 0.75, so Student's half width is 12.706 x 0.1768 / sqrt 2 = 1.588.
    assert both.interval == (0.0, 1.0)
    own = dataclasses.replace(first, values=np.array([True, True]))
    ours = over_repeats([own, second], [np.array([0, 4]), np.array([1, 2, 6, 9])])
    low, high = ours.gap(both).interval()
    assert low < 0.25 < high and math.isfinite(high)


def test_a_mean_over_classes_of_each_test() -> None:
    first = outcome([True, False, False], [0, 0, 1], MEAN_OVER_CLASSES)
    second = outcome([True], [1], MEAN_OVER_CLASSES)
    both = over_repeats([first, second], [np.array([0, 1, 2]), np.array([3])])
    assert both.value == (0.25 + 1) / 2


# --- what is trained on and tested -----------------------------------------------------------


def divided(columns: dict[str, tuple[str, ...]], **more: object) -> Dataset:
    n = len(next(iter(columns.values())))
    images = tuple(ImageSource(f"{i}.png", Path(f"{i}.png")) for i in range(n))
    own = {
        "labels": tuple(i % 2 for i in range(n)),
        "class_names": ("dark", "bright"),
        "templates": ("{}",),
        "folds": tuple(columns),
    }
    return Dataset("d", "0", images, columns=columns, **{**own, **more})  # type: ignore[arg-type]


def found_for(data: Dataset) -> Embeddings:
    """Bright images lie along the second axis, but for the first image, which lies wrong."""
    rows = np.eye(2, dtype=np.float32)[list(data.labels)]
    rows[0] = [0, 1]
    return Embeddings(rows, {"prompts": np.eye(2, dtype=np.float32)})


def no_part(split: str, part: str) -> Dataset:
    assert part == "validation"
    raise MissingSplitError(f"no split {split}")


def test_data_that_divides_itself(home: Path) -> None:
    train, test = "train", "test"
    data = divided(
        {
            "a": (test, test, *[train] * 8, test, ""),
            "b": (*[train] * 8, test, test, "", ""),
        }
    )
    data = with_tasks(data, ("zeroshot", "linear-probe"), no_part)
    check(data)
    rows = {row.metric: row for row in outcomes_of(data, found_for(data))}
    # Zero-shot: images 0, 1, 8, 9, 10 are tested, the first is wrong.
    assert (rows["zeroshot top-1"].value, len(rows["zeroshot top-1"].values)) == (4 / 5, 5)
    # Fold a tests 0, 1, 10 and fold b 8, 9.
    probe = rows["linear probe top-1"]
    assert probe.value == pytest.approx((2 / 3 + 1) / 2) and len(probe.values) == 5
    assert probe.detail.startswith("mean over 2 folds; the first: strength ")
    assert [fold.train.tolist() for fold in folds_of(data)] == [[*range(2, 10)], [*range(8)]]
    few, kept = held_for_test(data, found_for(data))
    assert [i.name for i in few.images] == ["0.png", "1.png", "8.png", "9.png", "10.png"]
    assert kept.images.shape == (5, 2)
    with pytest.raises(UsageError, match="few shots are drawn of a part"):
        check(dataclasses.replace(data, tasks=("few-shot",)))


def test_features_are_another_evaluation(home: Path) -> None:
    data = divided({"a": ("test", "test", *["train"] * 8)}, tasks=("linear-probe",))
    found = found_for(data)
    wide = np.repeat(found.images, 3, axis=1)
    (row, *_) = outcomes_of(data, dataclasses.replace(found, features={"": wide}))
    assert row.features and row.detail.startswith("features of 6 values; mean over 1 folds")
    (row, *_) = outcomes_of(data, found)
    assert not row.features and row.detail.startswith("mean over 1 folds")


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"a": ("test", "test")}, "'a' has no image to train"),
        ({"a": ("train", "train")}, "'a' has no image to test"),
        ({"a": ("train", "held")}, "'a' says held"),
    ],
)
def test_folds_that_say_too_little(columns: dict[str, tuple[str, ...]], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        folds_of(divided(columns))
    with pytest.raises(UsageError, match="no column 'b'; there are a"):
        folds_of(divided(columns, folds=("b",)))


def test_a_class_that_a_fold_does_not_train(home: Path) -> None:
    """Images 0, 2, 4 ... are dark, 1, 3, 5 ... are bright; fold b trains on dark ones alone."""
    train, test = "train", "test"
    columns = {
        "a": (test, test, train, train, train, train),
        "b": (train, test, train, "", train, ""),
    }
    data = divided(columns, tasks=("linear-probe",))
    with pytest.raises(
        UsageError, match=r"^d: class 'bright' has no image to train on in its fold"
    ):
        check(data)
    check(dataclasses.replace(data, folds=("a",)))
    # Who tests dark ones alone needs no others.
    few = {"b": (train, "", train, "", test, "")}
    check(divided(few, tasks=("linear-probe",)))
    # The folds of a part for training, and a part without folds.
    part = divided({"b": columns["b"]})
    whole = divided({"b": ("",) * 6}, tasks=("linear-probe",), parts={"train": part})
    with pytest.raises(UsageError, match="class 'bright' has no image to train on in its fold 'b'"):
        check(whole)
    dark = dataclasses.replace(part, labels=(0,) * 6, folds=())
    with pytest.raises(UsageError, match=r"class 'bright' has no image to train on$"):
        check(dataclasses.replace(whole, folds=(), parts={"train": dark}))


def test_a_class_of_several_that_no_image_to_train_on_has(home: Path) -> None:
    sets = ((0,), (0, 1), (0,), (), (0,), ())
    dark = ((0,), (), (0,), (), (0,), ())
    train = divided({"x": ("",) * 6}, labels=(), label_sets=dark, folds=())
    data = divided({"x": ("",) * 6}, labels=(), label_sets=sets, tasks=("linear-probe",), folds=())
    with pytest.raises(UsageError, match=r"class 'bright' has no image to train on$"):
        check(dataclasses.replace(data, parts={"train": train}))


def test_a_clip_that_is_trained_on_and_tested() -> None:
    columns = {"a": ("train", "test", "train", "test"), "v": ("x", "y", "x", "x")}
    data = divided(columns, folds=("a",), clip="v", labels=(0, 1, 0, 0))
    with pytest.raises(UsageError, match=r"clip 'x' differ in .* fold 'a' \(test, train\)"):
        check(data)


def test_train_beside_folds_is_refused(tmp_path: Path) -> None:
    for i, (name, fold) in enumerate((("a", "train"), ("b", "train"), ("c", "test"))):
        for folder in ("own", "more"):
            path = tmp_path / folder / f"{name}.png"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(picture(i + 10 * (folder == "more"), "png"))
            with open(path.parent / "labels.csv", "a") as file:
                file.write(("" if i else "image,label,part\n") + f"{name}.png,{name},{fold}\n")
    recipe = tmp_path / "probe.toml"
    recipe.write_text('data = "own"\ntrain = "more"\nfolds = "part"\n')

    def load(split: str, part: str) -> Dataset:
        return load_dataset(recipe, split=split, part=part)

    for tasks in ((), ("linear-probe",)):
        with pytest.raises(UsageError) as caught:
            with_tasks(load_dataset(recipe), tasks, load)
        assert "(train = ...), and its folds (part) say" in str(caught.value)
    # Where the folds are those of the part for training, both belong together.
    table = tmp_path / "own" / "labels.csv"
    table.write_text(table.read_text().replace(",train\n", ",\n").replace(",test\n", ",\n"))
    data = with_tasks(load_dataset(recipe), ("linear-probe",), load)
    assert [fold.train.tolist() for fold in folds_of(data)] == [[0, 1]]


# --- published ones ----------------------------------------------------------------------------


def ucf101(root: Path) -> Path:
    """Eight videos of two classes in three splits, three frames each."""
    videos = [
        f"{title}/v_{title}_g{i:02d}_c01.avi" for i in range(4) for title in ("TaiChi", "YoYo")
    ]
    for fold in range(3):
        test = videos[2 * fold : 2 * fold + 2]
        train = [video for video in videos if video not in test]
        (root / f"testlist0{fold + 1}.txt").write_text("".join(f"{v}\n" for v in test))
        (root / f"trainlist0{fold + 1}.txt").write_text("".join(f"{v} 1\n" for v in train))
    for video in videos:
        for frame in range(3):
            path = root / "frames" / video.removesuffix(".avi") / f"{frame}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(picture(frame + 3 * ("YoYo" in video), "png"))
    return root


def test_ucf101_as_frames(tmp_path: Path) -> None:
    tmp_path.joinpath("ucf").mkdir()
    data = load_dataset(ucf101(tmp_path / "ucf"))
    assert data.class_names == ("Tai Chi", "Yo Yo") and len(data.images) == 24
    assert data.folds == ("split 01", "split 02", "split 03") and data.clip == "video"
    assert data.columns["video"][:4] == (*["v_TaiChi_g00_c01"] * 3, "v_TaiChi_g01_c01")
    first = folds_of(data)[0]
    assert first.test.tolist() == [0, 1, 2, 12, 13, 14]
    assert first.train.tolist() == [*range(3, 12), *range(15, 24)]


def test_ucf101_that_is_not_whole(tmp_path: Path) -> None:
    tmp_path.joinpath("ucf").mkdir()
    root = ucf101(tmp_path / "ucf")
    for frame in (root / "frames/YoYo/v_YoYo_g03_c01").iterdir():
        frame.unlink()
    assert "left out 1 videos without frames (v_YoYo_g03_c01)" in load_dataset(root).notes[0]
    (root / "testlist02.txt").write_text("YoYo/v_TaiChi_g00_c01.avi\n")
    with pytest.raises(UsageError, match=r"testlist02.txt line 1: .* another class or part"):
        load_dataset(root)
    (root / "testlist02.txt").unlink()
    with pytest.raises(UsageError, match=r"no testlist02\.txt beside the others"):
        load_dataset(root)


@pytest.fixture
def unpack_stl10() -> Iterator[ModuleType]:
    """The tool as a module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "tools"))
        import unpack_stl10 as tool

        yield tool


def binary(root: Path) -> Path:
    """STL-10's files with 20 images to train on and 3 to test; the red plane holds the column."""
    root.mkdir()
    for part, n in (("train", 20), ("test", 3)):
        images = np.zeros((n, 3, 96, 96), np.uint8)
        images[:, 0] = np.arange(96)[:, None]
        images[:, 2] = np.arange(n)[:, None, None]
        (root / f"{part}_X.bin").write_bytes(images.tobytes())
        (root / f"{part}_y.bin").write_bytes(bytes(1 + i % 2 for i in range(n)))
    (root / "class_names.txt").write_text("airplane\nbird\n")
    folds = [[i, i + 1, i + 10] for i in range(10)]
    lines = "".join(" ".join(map(str, own)) + " \n" for own in folds)
    (root / "fold_indices.txt").write_text(lines)
    return root


def test_stl10_with_its_folds(
    unpack_stl10: ModuleType, tmp_path: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, target = binary(tmp_path / "stl10_binary"), tmp_path / "stl10"
    assert unpack_stl10.main([str(source), str(target)]) == 0
    assert capsys.readouterr().out.startswith("20 images to train on, 3 to test, in ")
    path = target / "task.toml"
    data = load_dataset(path)
    assert data.class_names == ("airplane", "bird") and data.labels == (0, 1, 0)
    pixels = np.asarray(data.images[2].open())
    assert pixels[7, 5].tolist() == [5, 0, 2]  # row 7, column 5, image 2
    data = with_tasks(
        data, ("linear-probe",), lambda split, part: load_dataset(path, split=split, part=part)
    )
    folds = folds_of(data)
    assert [fold.train.tolist() for fold in folds[:2]] == [[0, 1, 10], [1, 2, 11]]
    assert [fold.test.tolist() for fold in folds] == [[0, 1, 2]] * 10
    (source / "fold_indices.txt").write_text("0 1\n")
    assert unpack_stl10.main([str(source), str(target)]) == 2
    assert "has 1 folds, not 10" in capsys.readouterr().err
