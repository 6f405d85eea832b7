"""Linear probes and few shots as tasks: figures by hand, parts in every layout, kept fits."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from blobs import CLASSES, blobs, theirs, theirs_scored
from conftest import Cli
from published_layouts import array, picture, shards

from clipperf.errors import UsageError
from clipperf.evals import logistic
from clipperf.evals.accuracy import embed, score
from clipperf.evals.datasets import Dataset, load_dataset
from clipperf.evals.learning import answers_of
from clipperf.evals.outcome import Outcome
from clipperf.evals.parts import with_tasks
from clipperf.evals.precision import eleven_point, roc_auc
from clipperf.evals.probe import STRENGTHS, search
from clipperf.evals.task import Embeddings, outcomes_of, texts_of
from clipperf.inputs.sources import ImageSource
from clipperf.nouns.cell import Cell
from clipperf.system import store

NAMES = tuple("abcde")


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def dataset(answers: np.ndarray, classes: int = CLASSES, **more: object) -> Dataset:
    images = tuple(ImageSource(f"{i}.png", Path(f"{i}.png")) for i in range(len(answers)))
    own = {"class_names": NAMES[:classes], "templates": ("{}",), "labels": tuple(answers.tolist())}
    return Dataset("d", "0", images, **{**own, **more})  # type: ignore[arg-type]


def learned(task: str, classes: int = CLASSES, noise: float = 1.2, **more: object) -> Dataset:
    parts = {
        "train": dataset(blobs(150, 1, noise, classes)[1], classes),
        "validation": dataset(blobs(100, 2, noise, classes)[1], classes),
    }
    own = dataset(blobs(200, 3, noise, classes)[1], classes, tasks=(task,), parts=parts)
    return dataclasses.replace(own, **more)  # type: ignore[arg-type]


def embeddings(classes: int = CLASSES, noise: float = 1.2) -> Embeddings:
    train, validation, test = (
        unit(blobs(n, seed, noise, classes)[0]) for n, seed in ((150, 1), (100, 2), (200, 3))
    )
    return Embeddings(test, {}, {"train": train, "validation": validation})


def rows_of(data: Dataset, found: Embeddings) -> dict[str, Outcome]:
    return {row.metric: row for row in outcomes_of(data, found)}


def test_a_linear_probe_is_scikit_learns_own_sweep(home: Path) -> None:
    data, found = learned("linear-probe"), embeddings()
    train, validation = (
        (10.0 * found.parts[n].astype(float), answers_of(data.parts[n]))
        for n in ("train", "validation")
    )
    step, tried = search(lambda s: theirs_scored(train, STRENGTHS[s], validation))
    both = np.concatenate([train[0], validation[0]]), np.concatenate([train[1], validation[1]])
    expected = theirs(both, STRENGTHS[step]).score(10.0 * found.images, answers_of(data))
    rows = rows_of(data, found)
    assert rows["linear probe top-1"].value == pytest.approx(expected, abs=0.011)
    assert set(rows) == {"linear probe top-1", "linear probe mean per-class recall"}
    detail = rows["linear probe top-1"].detail
    assert f"strength {STRENGTHS[step]:.3g}, validation score {tried[step]:.4f}, " in detail
    assert detail.endswith(" iterations on 250 images")
    asked = dataclasses.replace(data, metrics=("top-1", "macro F1"))
    assert list(rows_of(asked, found)) == ["linear probe top-1", "linear probe macro F1"]


def test_without_a_validation_split_a_fifth_is_held_out(home: Path) -> None:
    data, found = learned("linear-probe"), embeddings()
    data = dataclasses.replace(data, parts={"train": data.parts["train"]})
    alone = Embeddings(found.images, {}, {"train": found.parts["train"]})
    detail = rows_of(data, alone)["linear probe top-1"].detail
    assert "held-out score" in detail and detail.endswith("on 150 images")


def test_two_classes_have_a_curve(home: Path) -> None:
    data = learned("linear-probe", 2, 3.0, metrics=("ROC AUC",))
    found = embeddings(2, 3.0)
    row = rows_of(data, found)["linear probe ROC AUC"]
    strength = float(row.detail.split()[1].rstrip(","))
    both = np.concatenate([found.parts["train"], found.parts["validation"]]) * 10.0
    labels = np.concatenate([answers_of(data.parts[n]) for n in ("train", "validation")])
    own = theirs((both, labels), strength).decision_function(10.0 * found.images)
    assert row.value == pytest.approx(roc_auc(own, answers_of(data) == 1), abs=2e-3)
    assert 0.6 < row.value < 1


def test_images_of_several_classes_are_scored_by_eleven_points(home: Path) -> None:
    found = embeddings()

    def several(n: int, seed: int) -> tuple[tuple[int, ...], ...]:
        rows, labels = blobs(n, seed)
        return tuple(
            tuple(sorted({int(label), *([1] if row[0] > 1 else [])}))
            for row, label in zip(rows, labels, strict=True)
        )

    parts = {
        name: dataset(np.zeros(n, int), labels=(), label_sets=several(n, seed))
        for name, n, seed in (("train", 150, 1), ("validation", 100, 2))
    }
    data = dataset(
        np.zeros(200, int),
        labels=(),
        label_sets=several(200, 3),
        tasks=("linear-probe",),
        parts=parts,
    )
    row = rows_of(data, found)["linear probe 11-point mAP"]
    strength = float(row.detail.split()[1].rstrip(","))
    both = np.concatenate([found.parts["train"], found.parts["validation"]]) * 10.0
    right = np.concatenate([answers_of(parts[n]) for n in ("train", "validation")])
    figures = [
        eleven_point(
            theirs((both, right[:, c]), strength).decision_function(10.0 * found.images),
            answers_of(data)[:, c],
        )
        for c in range(CLASSES)
    ]
    assert row.value == pytest.approx(np.mean(figures), abs=5e-3)
    wrong = {**parts, "train": dataset(blobs(150, 1)[1])}
    with pytest.raises(UsageError, match="its part for train must have several classes an image"):
        outcomes_of(dataclasses.replace(data, parts=wrong), found)


def test_the_same_features_are_trained_on_once(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for task in ("linear-probe", "few-shot"):
        data, found = learned(task, shots=(1, 2)), embeddings()
        found = dataclasses.replace(found, texts={"prompts": found.images[:CLASSES]})
        first = rows_of(data, found)
        with monkeypatch.context() as patch:
            patch.setattr(logistic, "_check", None)  # whoever trains, calls it
            again = rows_of(data, found)
            other = dataclasses.replace(
                found, parts={**found.parts, "train": -found.parts["train"]}
            )
            with pytest.raises(TypeError):
                outcomes_of(data, other)
        assert [r.value for r in again.values()] == [r.value for r in first.values()]
        assert [r.detail for r in again.values()] == [r.detail for r in first.values()]
        assert all(
            np.array_equal(a.decisions, b.decisions)
            for a, b in zip(first.values(), again.values(), strict=True)
        )


def test_few_shots_beside_zero_shot(home: Path) -> None:
    data, found = learned("few-shot", noise=2.5), embeddings(noise=2.5)
    centres = np.stack([found.parts["train"][np.arange(150) % 5 == c].mean(0) for c in range(5)])
    data = dataclasses.replace(data, parts={"train": data.parts["train"]})
    found = Embeddings(found.images, {"prompts": unit(centres)}, {"train": found.parts["train"]})
    assert texts_of(data) == {"prompts": NAMES}
    rows = rows_of(data, found)
    tops = [rows[f"{n}-shot top-1"] for n in (1, 2, 4, 8, 16)]
    assert len(rows) == 10 and tops[0].value < tops[2].value < tops[4].value
    assert tops[0].values.shape == (200, 3) and tops[0].chance == 0.2
    zero = float((found.images @ unit(centres).T).argmax(1).__eq__(answers_of(data)).mean())
    assert f"3 draws; zero-shot top-1, {zero:.4f}, is worth " in tops[0].detail
    asked = rows_of(dataclasses.replace(data, shots=(30, 3), repeats=2), found)
    assert list(asked)[::2] == ["3-shot top-1", "30-shot top-1"]
    assert asked["3-shot top-1"].values.shape == (200, 2)
    with pytest.raises(UsageError, match=r"^d: 31 shots, and a class has 30 samples"):
        outcomes_of(dataclasses.replace(data, shots=(31,)), found)
    none = dataset(np.arange(20) % 4)
    few = Embeddings(found.images, found.texts, {"train": found.images[:20]})
    with pytest.raises(UsageError, match="class 'e' has no image to train on"):
        outcomes_of(dataclasses.replace(data, parts={"train": none}), few)
    none, shots = dataset(np.arange(20) % 3), (1,)  # as linear probes say it, also of shots
    with pytest.raises(UsageError, match=r"^d: class 'd' and 1 more have no image to train on$"):
        outcomes_of(dataclasses.replace(data, parts={"train": none}, shots=shots), few)


def test_zero_shot_beside_few_shots_is_of_whole_clips(home: Path) -> None:
    """The centre frame of each clip looks like another class, the mean of its three does not."""
    own = np.eye(2, dtype=np.float32)
    part = dataset(np.arange(8) % 2, 2)
    columns = {"video": ("x",) * 3 + ("y",) * 3}
    data = dataset(
        np.array([0, 0, 0, 1, 1, 1]),
        2,
        tasks=("few-shot",),
        columns=columns,
        clip="video",
        shots=(1,),
        parts={"train": part},
    )
    frames = own[[0, 1, 0, 1, 0, 1]]
    found = Embeddings(frames, {"prompts": own}, {"train": own[np.arange(8) % 2]})
    row = rows_of(data, found)["1-shot top-1"]
    assert row.value == 0 and len(row.values) == 2
    assert "zero-shot top-1, 1.0000, is worth more than 1 shots" in row.detail


def test_two_models_are_given_the_same_draws(home: Path) -> None:
    data, found = learned("few-shot", shots=(2,)), embeddings()
    found = dataclasses.replace(found, texts={"prompts": found.images[:CLASSES]})
    base, same = (Cell("m", "image", runtime, "fp32", "cpu", 1, 1) for runtime in ("torch", "onnx"))
    scores = score(data, {base: found, same: found}, base)
    (top,) = [s for s in scores if s.metric == "2-shot top-1" and s.cell.runtime == "onnx"]
    assert top.difference == 0 and top.flips == 0 and top.n == 200 and top.mcnemar_p is None
    assert top.diff_ci95 is not None and -0.03 < top.diff_ci95[0] < 0 < top.diff_ci95[1]
    assert top.detail.startswith("3 draws; zero-shot top-1")


# --- parts in the layouts that they are published in -------------------------------------------


class Shade:
    """Embeds an image as its mean colour, off the grey diagonal."""

    def encode_images(self, images: list) -> np.ndarray:
        means = [np.asarray(i.open().convert("RGB"), float).mean((0, 1)) for i in images]
        return np.stack(means) / 128 - [0.5, 0, 1]

    def encode_texts(self, texts: list) -> np.ndarray:
        return np.eye(3)[np.arange(len(texts)) % 3]


LABELS = [0, 1, 0, 1, 0, 1]
SHADES = {"test": (10, 210, 20, 220, 30, 230), "train": (0, 240, 15, 200, 25, 190)}


def web(root: Path, several: bool = False) -> Path:
    texts = {"classnames.txt": "dark\nbright\n", "zeroshot_classification_templates.txt": "{c}"}
    for split, shades in SHADES.items():
        answers = (
            {"npy": array(np.eye(2)[label])} if several else {"cls": str(label).encode()}
            for label in LABELS
        )
        samples = (
            {**answer, "png": picture(s, "png")} for s, answer in zip(shades, answers, strict=True)
        )
        shards(root, samples, texts, split=split)
    return root


def folders(root: Path) -> Path:
    for split, shades in SHADES.items():
        for i, (shade, label) in enumerate(zip(shades, LABELS, strict=True)):
            path = root / split / ("bright", "dark")[1 - label] / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(picture(shade, "png"))
    return root


def tables(root: Path) -> Path:
    for split, shades in SHADES.items():
        (root / split).mkdir(parents=True)
        lines = ["file,kind"]
        for i, (shade, label) in enumerate(zip(shades, LABELS, strict=True)):
            (root / split / f"{i}.png").write_bytes(picture(shade, "png"))
            lines.append(f"{i}.png,{('dark', 'bright')[label]}")
        (root / split / "labels.csv").write_text("\n".join(lines) + "\n")
    recipe = root / "mine.toml"
    recipe.write_text(
        'data = "test/labels.csv"\ntrain = "train/labels.csv"\nimage = "file"\nlabel = "kind"\n'
        "shots = [1, 2]\nrepeats = 2\n"
    )
    return recipe


@pytest.mark.parametrize("make", [web, folders, tables])
def test_a_part_to_train_on_in_every_layout(make: object, home: Path, tmp_path: Path) -> None:
    path = make(tmp_path / "data")  # type: ignore[operator]
    data = with_tasks(
        load_dataset(path),
        ("linear-probe", "few-shot"),
        lambda split, part: load_dataset(path, split=split, part=part),
    )
    rows = rows_of(data, embed(data, Shade()))
    assert rows["linear probe top-1"].value == 1 and len(rows["linear probe top-1"].values) == 6
    assert rows["1-shot top-1"].value == 1
    repeats = 2 if make is tables else 3
    assert rows["2-shot top-1"].values.shape == (6, repeats) and "4-shot top-1" not in rows


def test_shards_of_several_classes_an_image(home: Path, tmp_path: Path) -> None:
    path = web(tmp_path / "data", several=True)
    data = with_tasks(
        load_dataset(path), ("linear-probe",), lambda split, part: load_dataset(path, split=split)
    )
    rows = rows_of(data, embed(data, Shade()))
    assert rows["linear probe 11-point mAP"].value == 1
    with pytest.raises(UsageError, match="no data for the task few-shot"):
        with_tasks(data, ("few-shot",), lambda split, part: data)


@pytest.mark.parametrize("wrong", ["shots = []", "shots = [0]", 'repeats = "3"', "shots = [true]"])
def test_a_recipe_with_other_than_numbers(wrong: str, tmp_path: Path) -> None:
    recipe = tables(tmp_path / "data")
    recipe.write_text(f'data = "test/labels.csv"\n{wrong}\n')
    with pytest.raises(UsageError, match="give whole numbers from 1 to 100000"):
        load_dataset(recipe)


# --- the bundled sample, on every runtime that is here -----------------------------------------


@pytest.fixture(scope="module")
def halves(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled sample's images by class, 12 to train on and 12 to test in each."""
    data, root = load_dataset("sample"), tmp_path_factory.mktemp("halves")
    for label, name in enumerate(data.class_names):
        own = [i for i, o in zip(data.images, data.labels, strict=True) if o == label][:24]
        for place, image in enumerate(own):
            path = root / ("train", "test")[place % 2] / name / Path(image.name).name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(image.read())
    (root / "task.toml").write_text('task = ["linear-probe", "few-shot"]\nshots = [1, 4]\n')
    return root


def test_every_runtime_and_precision_beside_pytorch(
    halves: Path,
    cli: Cli,
    sample_artifact: Path,
    sample_in: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    target = tmp_path / "eval.json"
    for precision in ("fp16", "int8"):
        sample_in(precision)
    command = ("eval", "clipperf-sample", "--dataset", halves, "--precision", "fp32,fp16,int8")
    done = cli(*command, "--json", target, "-q", check=True, home=sample_artifact.parents[3])
    assert "strength " in done.stdout and "3 draws; zero-shot top-1" in done.stdout
    scores = store.read_result(target).scores
    assert [s.cell.setup for s in scores if s.metric == "linear probe top-1"] == [
        *("torch fp32", "onnx fp32", "onnx fp16", "onnx int8"),
    ]
    found = {(s.cell.setup, s.metric): s for s in scores}
    for setup in ("torch fp32", "onnx fp32", "onnx fp16", "onnx int8"):
        probe, four = (found[setup, f"{name} top-1"] for name in ("linear probe", "4-shot"))
        assert probe.value > four.value > found[setup, "1-shot top-1"].value > probe.chance
    exact = found["onnx fp32", "4-shot top-1"]
    assert exact.difference == pytest.approx(0, abs=0.02) and exact.diff_ci95[0] < 0
