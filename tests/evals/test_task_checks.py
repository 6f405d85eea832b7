"""What can be told before anything is embedded, and what is kept where scoring fails after it."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from published_layouts import picture

from clipperf.errors import ClipperfError, MissingDependencyError, UsageError
from clipperf.evals import evaluate as evaluating
from clipperf.evals.compatibility import compare
from clipperf.evals.datasets import Dataset, load_dataset
from clipperf.evals.evaluate import evaluate
from clipperf.evals.metric import METRICS, Metric
from clipperf.evals.task import TASKS, Embeddings, Task, check, outcomes_of, texts_of
from clipperf.inputs.sources import ImageSource
from clipperf.models import zoo

COUNT = 12


def dataset(**more: object) -> Dataset:
    """Twelve images of three classes, four each."""
    own: dict[str, object] = {
        "images": tuple(ImageSource(f"{i}.png", Path(f"{i}.png")) for i in range(COUNT)),
        "labels": tuple(i % 3 for i in range(COUNT)),
        "class_names": ("a", "b", "c"),
        "templates": ("{}",),
    }
    return Dataset(**{"name": "pets", "sha256": "0", **own, **more})  # type: ignore[arg-type]


def several(*own: tuple[int, ...]) -> dict[str, object]:
    """Images of several classes: those given, and none for the others."""
    return {"labels": (), "label_sets": (*own, *[()] * (COUNT - len(own)))}


PLACES = {"latitude": ("1",) * COUNT, "longitude": ("2",) * COUNT}
WRONG = {"latitude": ("1",) * COUNT, "longitude": ("200",) * COUNT}
ACTIONS = {"verb": ("cut",) * COUNT, "noun": ("a",) * COUNT, "id": ("1",) * COUNT}
MISTAKES: dict[str, tuple[dict[str, object], str]] = {
    "group": ({"groups": ("region",)}, "pets has no column 'region'; there are none"),
    "value": (
        {"groups": ("sex=x",), "columns": {"sex": ("m",) * COUNT}},
        "no image has 'x' as its sex",
    ),
    "clip": ({"clip": "video"}, "pets has no column 'video' that names clips"),
    "clips": ({"clip": "v", "columns": {"v": ("one",) * COUNT}}, "the frames of clip 'one' differ"),
    "metric": (
        {"metrics": ("top1",)},
        "pets: no metric 'top1'; choose from 'zeroshot top-1', 'zeroshot ",
    ),
    "top-5": ({"metrics": ("top-5",)}, "no metric 'top-5'; choose from "),
    "clips of actions": (
        {
            "clip": "v",
            "labels": (),
            "class_names": (),
            "columns": {**ACTIONS, "annotation": ("1", "2") * 6, "v": ("x",) * COUNT},
        },
        "the frames of clip 'x' differ in their annotation (1, 2)",
    ),
    "anchor": ({"columns": {"anchor": ("none.png",) * COUNT}}, "'none.png', 0.png's anchor, is no"),
    "one class": (
        {"labels": (0,) * COUNT, "class_names": ("a",)},
        "nothing to score in pets: all of its images are of one class, 'a': give it images of",
    ),
    "worst group": (
        {"metrics": ("top-1, worst group",)},
        "no metric 'top-1, worst group'; choose from 'zeroshot top-1', 'zeroshot mean per-class "
        "recall', 'zeroshot macro F1'",
    ),
    "worst group of a probe": (
        {
            "metrics": ("linear probe top-1, worst group",),
            "tasks": ("linear-probe",),
            "parts": {"train": {}},
            "groups": ("sex",),
            "columns": {"sex": ("m", "f") * 6},
        },
        "no metric 'linear probe top-1, worst group'; choose from 'linear probe top-1', ",
    ),
    "annotation": ({"columns": {**ACTIONS, "annotation": ("7",) * COUNT}}, "its annotation is no"),
    "places": (
        {"tasks": ("geolocation",), "columns": PLACES, "parts": {"reference": {"columns": WRONG}}},
        "the longitude '200'",
    ),
    "lexicon": (
        {"tasks": ("lexicon",), "columns": {"lexicon": ("x|y",) * COUNT}},
        "its lexicon must hold its class",
    ),
    "bias": ({"tasks": ("bias",), "groups": ("none",)}, "pets has no column 'none'"),
    "kinds": (
        {"tasks": ("linear-probe",), "parts": {"train": several((1,), (0,))}},
        "its part for train must have one class an image",
    ),
    "one each": (
        {"tasks": ("linear-probe",), "parts": {"train": {"labels": (0, 1, 2)}}},
        "pets: every class has one sample: give a validation split",
    ),
    "no positive": (
        {**several((1,)), "tasks": ("linear-probe",), "parts": {"train": several((1,))}},
        "pets: no image to search the strength on has a class",
    ),
    "shots": (
        {"tasks": ("few-shot",), "shots": (5,), "parts": {"train": {}}},
        "pets: 5 shots, and a class has 4 samples",
    ),
    "shots that there are not": (  # of four images a class
        {"tasks": ("few-shot",), "metrics": ("16-shot top-1",), "parts": {"train": {}}},
        "pets: no metric '16-shot top-1'; choose from "
        + ", ".join(
            f"'{n}-shot {m}'"
            for n in (1, 2, 4)
            for m in ("top-1", "mean per-class recall", "macro F1")
        ),
    ),
    "clips of a part": (
        {
            "tasks": ("few-shot",),
            "clip": "v",
            "columns": {"v": tuple("0123") * 3, "anchor": ("0.png",)},
            "parts": {"train": {"clip": "v"}},
            "labels": (0, 1, 2, 0) * 3,
        },
        "pets has no column 'v' that names clips",
    ),
}


def with_parts(more: dict[str, object]) -> Dataset:
    parts = {name: dataset(**own) for name, own in dict(more.get("parts", {})).items()}  # type: ignore[call-overload]
    return dataset(**{**more, "parts": parts})


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_told_before_anything_is_embedded(mistake: str, home: Path) -> None:
    more, said = MISTAKES[mistake]
    data = with_parts(more)

    def prepare(*_: object) -> object:
        raise AssertionError("a model is made ready")

    with pytest.raises(UsageError) as caught:
        evaluate([zoo.resolve("clipperf-sample")], {"torch": "cpu"}, data, prepare)  # type: ignore[arg-type]
    assert said in str(caught.value)
    with pytest.raises(UsageError) as caught:
        compare([], data)
    assert said in str(caught.value)


def test_scipy_is_asked_for_before_a_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    for task in ("linear-probe", "few-shot"):
        data = with_parts({"tasks": (task,), "parts": {"train": {}}})
        check(data)
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, "scipy.optimize", None)
            with pytest.raises(MissingDependencyError, match=r"clipperf\[probe\]"):
                check(data)


GOOD: dict[str, dict[str, object]] = {
    "zeroshot": {"groups": ("sex",), "columns": {"sex": ("m", "f") * 6}},
    "two": {"labels": (0, 1) * 6, "class_names": ("a", "b")},
    "ten": {"class_names": tuple("abcdefghij"), "groups": ("s",), "columns": {"s": ("m",) * COUNT}},
    "several": several((1,), (0, 2)),
    "captions": {
        "labels": (), "captions": tuple("abcdefghijkl"), "caption_image": tuple(range(COUNT)),
    },
    "anchors": {"columns": {"anchor": ("0.png",) * COUNT}},
    "lexicon": {"tasks": ("lexicon",), "columns": {"lexicon": ("a|b|c",) * COUNT}},
    "actions": {"columns": {**ACTIONS, "annotation": ("1", "0") * 6, "noun": ("x", "y") * 6}},
    "bias": {
        "tasks": ("bias",), "columns": {"race": ("p", "q") * 6, "age": ("1", "2", "3") * 4},
        "candidates": ("d", "e"),
    },
    "geolocation": {
        "tasks": ("geolocation",), "columns": PLACES, "parts": {"reference": {"columns": PLACES}},
    },
    "few-shot": {"tasks": ("few-shot",), "shots": (1, 2), "parts": {"train": {}}},
    "linear-probe": {"tasks": ("linear-probe",), "parts": {"train": {}}},
}  # fmt: skip


@pytest.mark.parametrize("kind", GOOD)
def test_figures_have_the_names_that_were_said_before(kind: str, home: Path) -> None:
    data = with_parts(GOOD[kind])
    check(data)
    rng = np.random.default_rng(0)

    def unit(n: int) -> np.ndarray:
        rows = rng.normal(size=(n, 4)).astype(np.float32)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    texts = {name: unit(len(own)) for name, own in texts_of(data).items()}
    parts = {name: unit(len(part.images)) for name, part in data.parts.items()}
    found = Embeddings(unit(COUNT), texts, parts)
    tasks = [TASKS.get(name) for name in data.tasks] or [
        task for task in TASKS if task.fits(data) and not task.asked
    ]
    said = {figure for task in tasks for figure in task.figures(data)}
    there = {outcome.metric for task in tasks for outcome in task.outcomes(data, found)}
    assert there and there == said
    assert any("worst group" in figure for figure in there) == bool(data.groups and not data.tasks)
    for figure in there:
        check(dataclasses.replace(data, metrics=(figure,)))


def test_a_metric_that_does_not_say_its_figures_is_not_held_to_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = dataset(metrics=("luck",))
    with pytest.raises(UsageError, match="no metric 'luck'"):
        check(data)
    rows = {**METRICS._rows, "luck": Metric("luck", "classification", lambda ranked: [])}
    monkeypatch.setattr(METRICS, "_rows", rows)
    check(data)
    with pytest.raises(UsageError, match="no metric 'luck'"):
        found = Embeddings(np.eye(COUNT, dtype=np.float32), {"prompts": np.eye(3, COUNT)})
        outcomes_of(data, found)


def test_the_advice_on_data_of_one_class_works(tmp_path: Path) -> None:
    """No other task is named: none has a figure of one class. A class without images is enough."""
    (tmp_path / "pets" / "cat").mkdir(parents=True)
    (tmp_path / "pets" / "dog").mkdir()
    for i in range(2):
        (tmp_path / "pets" / "cat" / f"{i}.png").write_bytes(picture(i, "png"))
    with pytest.raises(UsageError) as caught:
        check(load_dataset(tmp_path / "pets"))
    assert str(caught.value).endswith("an empty folder that classes.json names)")
    (tmp_path / "pets" / "classes.json").write_text('{"cat": "a cat", "dog": "a dog"}')
    data = load_dataset(tmp_path / "pets")
    check(data)
    assert data.class_names == ("a cat", "a dog") and data.labels == (0, 0)
    root = tmp_path / "table"
    (tmp_path / "pets" / "cat").rename(root)
    (root / "labels.csv").write_text("image,label\n0.png,cat\n1.png,cat\n")
    with pytest.raises(UsageError, match=r"of one class, 'cat'.*a line of classnames\.txt"):
        check(load_dataset(root))
    (root / "classnames.txt").write_text("cat\ndog\n")
    check(load_dataset(root))


@pytest.fixture
def embedded(monkeypatch: pytest.MonkeyPatch) -> Callable[..., object]:
    """Embeddings of every runtime without a model; what `prepare` returns is its cell."""
    found = Embeddings(
        np.eye(COUNT, 3, dtype=np.float32) + 0.1, {"prompts": np.eye(3, dtype=np.float32)}
    )
    monkeypatch.setattr(evaluating, "preprocessing_notes", lambda request: ())
    monkeypatch.setattr(evaluating.worker, "kept_embeddings", lambda cell, *_: (
        dataclasses.replace(found, features={"": np.zeros(1)}) if cell.name == "onnx" else found
    ))  # fmt: skip
    return lambda cell, spec, stage: SimpleNamespace(features=False, name=cell.runtime)


def test_what_cannot_be_scored_costs_no_other_runtime(
    home: Path, embedded: Callable[..., object], monkeypatch: pytest.MonkeyPatch
) -> None:
    zeroshot = TASKS.get("zeroshot")

    def outcomes(data: Dataset, found: Embeddings) -> list:  # type: ignore[type-arg]
        if found.features:
            raise ClipperfError("no such figure")
        return zeroshot.outcomes(data, found)

    task = Task("broken", lambda data: True, zeroshot.texts, outcomes)
    monkeypatch.setattr(TASKS, "_rows", {"broken": task})
    spec = zoo.resolve("clipperf-sample")
    devices = {"torch": "cpu", "onnx": "cpu"}
    result, failures = evaluate([spec, spec], devices, dataset(), embedded, batch=4)  # type: ignore[arg-type]
    assert [failure.label.split()[2] for failure in failures] == ["onnx", "onnx"]
    assert {failure.reason for failure in failures} == {"pets: no such figure"}
    assert {score.cell.runtime for score in result.scores} == {"torch"}
