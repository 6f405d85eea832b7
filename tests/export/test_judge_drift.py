"""What a quantised tower loses, with towers whose embeddings are angles that tests turn."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers

from clipperf.errors import UsageError
from clipperf.evals.datasets import Dataset
from clipperf.evals.outcome import MeanGap
from clipperf.export.judge.drift import PROBES, Judge, Loss
from clipperf.inputs.preprocess_spec import PreprocessSpec
from clipperf.inputs.sources import ImageSource
from clipperf.inputs.tokenize import TokenizerSpec
from clipperf.system.files import write_json

N = 70
"""Images, one caption each: more than the probes."""
STEP = np.pi / N
"""The angle between two neighbours: all of them lie within a half circle."""

Turn = Callable[[int], float]


def straight(number: int) -> float:
    return 0.0


def upside_down(*numbers: int) -> Turn:
    return lambda number: np.pi if number in numbers else 0.0


def embedded(numbers: np.ndarray, turn: Turn) -> np.ndarray:
    angles = np.array([STEP * n + turn(int(n)) for n in numbers])
    return np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)


class Images:
    """A tower that reads an image's number from its colour."""

    def __init__(self, turn: Turn = straight) -> None:
        self.turn = turn
        self.batches: list[np.ndarray] = []

    def run(self, array: np.ndarray) -> np.ndarray:
        assert array.dtype == np.uint8
        self.batches.append(array)
        return embedded(array[:, 0, 0, 0], self.turn)

    def close(self) -> None:
        """Nothing is held."""


class Texts(Images):
    """A tower that reads a text's number from its first token."""

    def run(self, array: np.ndarray) -> np.ndarray:
        self.batches.append(array)
        return embedded(array[:, 0], self.turn)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifact folder without towers: preprocessing, a tokenizer of 70 words, the images."""
    path = tmp_path_factory.mktemp("towers")
    write_json(path / "preprocess.json", PreprocessSpec(4, 4).to_json())
    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(N)}, unk_token="w0"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.save(str(path / "tokenizer.json"))
    spec = TokenizerSpec("hf", "whitespace", context_tokens=3, pad_id=0)
    write_json(path / "clipperf_tokenizer.json", spec.to_json())
    for i in range(N):
        Image.new("RGB", (4, 4), (i, 0, 0)).save(path / f"{i}.png")
    return path


def dataset(folder: Path, n: int = N, captions: bool = True, classes: int = 0) -> Dataset:
    return Dataset(
        "angles",
        "",
        tuple(ImageSource(f"{i}.png", folder / f"{i}.png") for i in range(n)),
        captions=tuple(f"w{i}" for i in range(n)) if captions else (),
        caption_image=tuple(range(n)) if captions else (),
        labels=tuple(i % classes for i in range(n)) if classes else (),
        class_names=tuple(f"w{i}" for i in range(classes)),
        templates=("{}",) if classes else (),
    )


def judge(folder: Path, data: Dataset, side: str = "image", both: bool = True) -> Judge:
    towers = {"image": Images(), "text": Texts()}
    fp32 = towers if both else {side: towers[side]}
    return Judge(side, folder, data, fp32, False, "uint8")  # type: ignore[arg-type]


def test_samples_are_prepared_exactly_whatever_the_folder_was_set_to(folder: Path) -> None:
    path = folder / "preprocess.json"
    before = path.read_bytes()
    try:
        write_json(path, PreprocessSpec(4, 4, method="draft").to_json())
        assert judge(folder, dataset(folder))._pixels.method == "exact"
    finally:
        path.write_bytes(before)


def test_a_tower_that_is_the_same_loses_nothing(folder: Path) -> None:
    found = judge(folder, dataset(folder))
    loss = found.loss(Images())
    assert (loss.n, loss.points) == (N, 0)
    assert loss.min_cosine == pytest.approx(1)
    assert found.drift(Images()) == pytest.approx(0, abs=1e-6)


def test_points_are_the_share_of_samples_that_went_wrong(folder: Path) -> None:
    found = judge(folder, dataset(folder))
    loss = found.loss(Images(upside_down(3, 40, 41, 60, 65, 69, 20)))
    # Seven of seventy are last instead of first, both ways.
    assert loss.points == pytest.approx(10)
    assert loss.min_cosine == pytest.approx(-1)
    # The first 64 are probes, of which every fourth is looked at: three of these seven, whose
    # cosine is -1 in the place of 1.
    assert found.drift(Images(upside_down(3, 40, 41, 60, 64, 69, 20))) == pytest.approx(2 * 3 / 16)


def test_the_worst_of_the_figures_counts(folder: Path) -> None:
    # Images 0 to 9 are classes 0 to 9; the nearest class is always right. One turns wrong.
    found = judge(folder, dataset(folder, 10, captions=False, classes=10))
    assert found.loss(Images(upside_down(4))).points == pytest.approx(10)
    # 20 images of 10 classes: right are the first ten alone, so one of them is 5 points.
    data = dataset(folder, 20, captions=True, classes=10)
    both = judge(folder, data)
    assert both.loss(Images(upside_down(4))).points == pytest.approx(5)
    # Image 15 was no hit among classes, but it was found by its caption.
    assert both.loss(Images(upside_down(15))).points == pytest.approx(5)


def test_two_images_or_two_classes_can_be_mistaken(folder: Path) -> None:
    for data in (dataset(folder, 2), dataset(folder, 2, captions=False, classes=2)):
        assert judge(folder, data).loss(Images(upside_down(1))).points == pytest.approx(50)


def test_more_hits_than_before_are_a_negative_loss(folder: Path) -> None:
    data = dataset(folder, 4, captions=False, classes=2)
    found = judge(folder, data)
    # Of the classes at 0 and 1 steps, image 2 (at 2 steps) should be 0: turned back it is.
    loss = found.loss(Images(lambda n: -2 * STEP if n == 2 else 0.0))
    assert loss.points == pytest.approx(-25)


def test_texts(folder: Path) -> None:
    found = judge(folder, dataset(folder), "text")
    loss = found.loss(Texts(upside_down(7)))
    assert loss.n == N and loss.points == pytest.approx(100 / N)
    assert [len(batch) for batch in found.probes] == [32, 32]
    assert [int(row[0]) for batch in found.probes for row in batch] == list(range(PROBES))


def test_probes_are_spread_over_the_set(folder: Path) -> None:
    found = judge(folder, dataset(folder))
    assert PROBES == 64 and sum(map(len, found.probes)) == 64
    assert [int(row[0, 0, 0]) for batch in found.probes for row in batch] == list(range(64))
    twice = Dataset("d", "", dataset(folder).images * 2)
    found = judge(folder, twice, both=False)
    numbers = [int(row[0, 0, 0]) for batch in found.probes for row in batch]
    assert numbers == [i % N for i in range(0, 128, 2)]
    few = judge(folder, dataset(folder, 5))
    assert sum(map(len, few.probes)) == 5


def test_one_tower_alone_is_judged_by_its_probes(folder: Path) -> None:
    found = judge(folder, dataset(folder), both=False)
    loss = found.loss(Images(upside_down(3)))
    assert (loss.n, loss.points) == (PROBES, None)
    assert loss.min_cosine == pytest.approx(-1)


def test_what_is_not_finite_has_no_points(folder: Path) -> None:
    found = judge(folder, dataset(folder))
    loss = found.loss(Images(lambda n: np.nan if n == 3 else 0.0))
    assert (loss.points, loss.min_cosine) == (None, 0)


def test_the_same_text_is_embedded_once(folder: Path) -> None:
    data = Dataset(
        "d",
        "",
        dataset(folder, 4).images,
        captions=("w0", "w1", "w1", "w3"),
        caption_image=(0, 1, 2, 3),
    )
    found = judge(folder, data, "text")
    assert found.loss(Texts()).n == 3


def test_what_cannot_be_judged(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="d holds no captions: choose another --calibrate"):
        judge(folder, Dataset("d", "", dataset(folder).images), "text", both=False)
    # One image and one class: nothing can be missed.
    for data in (dataset(folder, 1), dataset(folder, 3, captions=False, classes=1)):
        with pytest.raises(UsageError):
            judge(folder, data)
    write_json(tmp_path / "preprocess.json", PreprocessSpec(4, 4).to_json())
    assert judge(tmp_path, dataset(folder), both=False).loss(Images()).n == PROBES
    with pytest.raises(UsageError, match="no tokenizer"):
        judge(tmp_path, dataset(folder), "text", both=False)


def lost(points: float, gained: float = 0.0, n: float = 900) -> MeanGap:
    """A figure that lost so many points of `n` samples net, and gained so many to that end."""
    return MeanGap(gained / 100, (points + gained) / 100, n)


@pytest.mark.parametrize(
    ("loss", "within"),
    [
        (Loss(9, 0.99, (lost(1.0),)), True),
        (Loss(9, 0.99, (lost(1.01),)), False),
        (Loss(9, 0.99, (lost(0.0), lost(1.01))), False),
        (Loss(9, 0.9899, (lost(0.0),)), False),
        (Loss(9, 0.99), True),
        (Loss(9, 0.9), False),
        (Loss(9, 1.0, (lost(-5.0, 5.0),)), True),
        # Losses and gains that cancel out leave a doubt: 1 % each way is fine, 8 % is not.
        (Loss(9, 1.0, (lost(0.0, 1.0),)), True),
        (Loss(9, 1.0, (lost(0.0, 8.0),)), False),
        # No flip in ten samples may hide a third of all, and one flip more; two are too many.
        (Loss(9, 1.0, (lost(0.0, n=10),)), True),
        (Loss(9, 1.0, (lost(10.0, n=10),)), False),
    ],
)
def test_within(loss: Loss, within: bool) -> None:
    assert loss.within(margin=1.0, min_cosine=0.99) is within


def test_the_gate_compares_bounds_and_is_never_looser_than_the_figure() -> None:
    for n in (50, 372, 5000):
        for flips in range(30):
            for gains in range(flips + 1):
                loss = Loss(n, 1.0, (MeanGap(gains / n, (flips - gains) / n, n),))
                if loss.within(0.5, 0.99):
                    assert loss.points is not None and loss.points <= 0.5 + 1e-9
    none = Loss(50, 1.0, (MeanGap(0, 0, 50),))
    assert none.points == 0 and none.points_at_most == pytest.approx(7.112, abs=1e-3)
    assert Loss(50, 1.0).points_at_most is None
