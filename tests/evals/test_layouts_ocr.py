"""Sets that are read off images: MNIST's files, Hateful Memes, full numbers."""

from __future__ import annotations

import dataclasses
import json
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from published_layouts import picture

from clipperf.errors import UsageError
from clipperf.evals.datasets import load_dataset
from clipperf.evals.task import Embeddings, outcomes_of
from clipperf.serialize import from_json, to_json


def mnist(root: Path, pixels: np.ndarray, labels: list[int], prefix: str = "t10k") -> Path:
    root.mkdir(parents=True, exist_ok=True)
    head = struct.pack(">4I", 0x0803, *pixels.shape)
    (root / f"{prefix}-images-idx3-ubyte").write_bytes(head + pixels.tobytes())
    head = struct.pack(">2I", 0x0801, len(labels))
    (root / f"{prefix}-labels-idx1-ubyte").write_bytes(head + bytes(labels))
    return root


PIXELS = np.random.default_rng(0).integers(0, 256, (3, 5, 4), np.uint8)


def test_mnists_own_files_are_read_in_place(tmp_path: Path) -> None:
    mnist(tmp_path / "MNIST" / "raw", PIXELS, [7, 0, 1])
    mnist(tmp_path / "MNIST" / "raw", PIXELS[:2], [3, 4], "train")
    data = load_dataset(tmp_path)
    assert data.labels == (7, 0, 1) and data.class_names == tuple("0123456789")
    assert [np.asarray(image.open()).tolist() for image in data.images] == PIXELS.tolist()
    assert data.images[0].open().mode == "L" and data.notes == ()
    assert load_dataset(tmp_path, split="train").labels == (3, 4)
    # What a child process is given opens as well.
    again = from_json(type(data), to_json(data))
    assert np.array_equal(np.asarray(again.images[2].open()), PIXELS[2])
    (tmp_path / "classnames.txt").write_text("".join(f"number {i}\n" for i in range(10)))
    assert load_dataset(tmp_path).class_names[7] == "number 7"


def test_mnist_as_the_published_set_has_its_prompts(home: Path) -> None:
    mnist(home / "datasets" / "wds_mnist", PIXELS, [7, 0, 1])
    data = load_dataset("mnist")
    assert data.prompts[7] == 'a photo of the number: "7".'


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("images-idx3", lambda data: data[:-1], "3 images of 5 x 4 are said for 3 labels, in 75"),
        ("images-idx3", lambda data: data[:9], "is cut"),
        ("images-idx3", lambda data: b"\x1f" + data[1:], "not with 0x803"),
        ("labels-idx1", lambda data: data[:-1], "3 labels are said, 2 are there"),
        ("labels-idx1", lambda data: data[:3], "is cut: 3 bytes"),
        ("labels-idx1", lambda data: data[:3] + b"\x02" + data[4:], "0x802, not with 0x801"),
    ],
)
def test_idx_files_that_are_damaged(tmp_path: Path, name: str, change: object, said: str) -> None:
    mnist(tmp_path, PIXELS, [7, 0, 1])
    path = tmp_path / f"t10k-{name}-ubyte"
    path.write_bytes(change(path.read_bytes()))  # type: ignore[operator]
    with pytest.raises(UsageError, match=said):
        load_dataset(tmp_path)


def test_an_idx_file_that_promises_more_than_there_is(tmp_path: Path) -> None:
    mnist(tmp_path, PIXELS, [7, 0, 1])
    path = tmp_path / "t10k-images-idx3-ubyte"
    path.write_bytes(struct.pack(">4I", 0x0803, 3, 2**31, 2**31) + bytes(60))
    with pytest.raises(UsageError, match="3 images of 2147483648 x 2147483648 are said"):
        load_dataset(tmp_path)
    path.unlink()
    with pytest.raises(UsageError, match="come in pairs"):
        load_dataset(tmp_path)


def memes(root: Path, table: str, labels: list[object]) -> None:
    (root / "img").mkdir(parents=True, exist_ok=True)
    rows = []
    for i, label in enumerate(labels):
        (root / "img" / f"{i}.png").write_bytes(picture(i, "png"))
        row = {"id": i, "img": f"img/{i}.png", "text": "what it says", "label": label}
        rows.append(json.dumps({k: v for k, v in row.items() if v is not None}))
    (root / table).write_text("\n".join(rows) + "\n")


def test_hateful_memes_by_roc_auc(tmp_path: Path) -> None:
    memes(tmp_path, "train.jsonl", [0, 0, 1])
    memes(tmp_path, "test.jsonl", [None, None])
    memes(tmp_path, "dev.jsonl", [1, 0, 0, 1])
    data = load_dataset(tmp_path)
    assert data.labels == (1, 0, 0, 1) and data.captions == ()  # what is read is no caption
    assert data.prompts == ("a meme.", "a hatespeech meme.")
    assert data.notes == (f"{tmp_path.name}: read dev.jsonl",)
    assert load_dataset(tmp_path, split="train").labels == (0, 0, 1)
    angle = np.radians([80, 10, 50, 40])
    images = np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32)
    found = Embeddings(images, {"prompts": np.eye(2, dtype=np.float32)})
    rows = outcomes_of(dataclasses.replace(data, metrics=("ROC AUC",)), found)
    # Of four pairs the hateful one is above in three: 80 over 10 and 50, 40 over 10.
    assert [row.value for row in rows] == [3 / 4]
    memes(tmp_path, "dev.jsonl", [1, None])
    with pytest.raises(UsageError, match="line 2: its label is None, not 0 or 1"):
        load_dataset(tmp_path)
    with pytest.raises(UsageError, match="no split 'val': choose one of dev, test, train"):
        load_dataset(tmp_path, split="val")


def test_full_numbers_are_classes_of_their_own(tmp_path: Path) -> None:
    for i in range(4):
        Image.new("RGB", (8, 8), (i, 0, 0)).save(tmp_path / f"{i}.png")
    (tmp_path / "labels.csv").write_text("image,label\n0.png,19\n1.png,1\n2.png,190\n3.png,19\n")
    (tmp_path / "task.toml").write_text("templates = ['a photo of the number \"{}\".']\n")
    data = load_dataset(tmp_path)
    assert data.class_names == ("1", "19", "190") and data.labels == (1, 0, 2, 1)
    assert data.prompts[2] == 'a photo of the number "190".'
