"""FairFace and ObjectNet as their authors publish them."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from published_layouts import encrypted_zip, picture

from clipperf.errors import UsageError
from clipperf.evals.datasets import load_dataset
from clipperf.evals.layout import MissingSplitError
from clipperf.evals.parts import with_tasks
from clipperf.evals.task import check

FACES = {
    "train": [("White", "Male", "3-9"), ("Black", "Female", "20-29"), ("Indian", "Male", "50-59")],
    "val": [("Black", "Male", "20-29"), ("White", "Female", "3-9")],
}


def fairface(root: Path) -> Path:
    for first, (split, people) in enumerate(FACES.items()):
        (root / split).mkdir(parents=True)
        rows = ["file,age,gender,race,service_test"]
        for i, (race, gender, age) in enumerate(people, start=1):
            (root / split / f"{i}.jpg").write_bytes(picture(40 * first + i, "jpg"))
            rows.append(f"{split}/{i}.jpg,{age},{gender},{race},{i % 2 == 0}")
        (root / f"fairface_label_{split}.csv").write_text("\n".join(rows) + "\n")
    return root


def test_fairface_opens_as_it_is(tmp_path: Path) -> None:
    root = fairface(tmp_path / "FairFace")
    data = load_dataset(root)
    assert [image.name for image in data.images] == ["val/1.jpg", "val/2.jpg"]
    assert data.columns == {
        "age": ("20-29", "3-9"),
        "gender": ("Male", "Female"),
        "race": ("Black", "White"),
        "service_test": ("False", "True"),
    }
    assert data.notes == () and load_dataset(root, split="val").sha256 == data.sha256
    train = load_dataset(root, split="train")
    assert [image.name for image in train.images] == [f"train/{i}.jpg" for i in (1, 2, 3)]
    with pytest.raises(UsageError, match=r"nothing to score in FairFace: .*; ask for --task bias"):
        check(data)
    check(with_tasks(data, ["bias"], lambda *_: data))
    (root / "task.toml").write_text('label = "race"\ngroup = ["gender"]\n')
    data = with_tasks(
        load_dataset(root), ["linear-probe"], lambda s, p: load_dataset(root, split=s, part=p)
    )
    # A race that has no face in the validation split is one of the classes.
    assert data.class_names == ("Black", "Indian", "White") and data.labels == (0, 2)
    assert data.parts["train"].labels == (2, 0, 1)
    (root / "fairface_label_train.csv").unlink()
    with pytest.raises(MissingSplitError, match="no split 'train'"):
        load_dataset(root, split="train")


FOLDERS = {"air_freshener": "Air freshener", "alarm_clock": "Alarm clock", "banana": "Banana"}


def bordered(inside: tuple[int, int, int]) -> bytes:
    image = Image.new("RGB", (12, 9), "red")
    image.paste(inside, (2, 2, 10, 7))
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def objectnet(root: Path) -> Path:
    (root / "mappings").mkdir(parents=True)
    for i, folder in enumerate(FOLDERS):
        (root / "images" / folder).mkdir(parents=True)
        (root / "images" / folder / "0a.png").write_bytes(bordered((10, 20, 60 * i)))
    shared = {"Banana": "banana", "Alarm clock": "analog clock; digital clock"}
    for name, found in (
        ("folder_to_objectnet_label", FOLDERS),
        ("objectnet_to_imagenet_1k", shared),
        ("pytorch_to_imagenet_2012_id", {"0": 1}),
    ):
        (root / "mappings" / f"{name}.json").write_text(json.dumps(found))
    (root / "mappings" / "imagenet_to_label_2012_v2").write_text("tench, Tinca tinca\n")
    return root


def test_objectnet_opens_as_it_is(tmp_path: Path) -> None:
    root = objectnet(tmp_path / "objectnet-1.0")
    with zipfile.ZipFile(tmp_path / "objectnet-1.0.zip", "w") as archive:
        for path in sorted(root.rglob("*.*")):
            archive.write(path, path.relative_to(tmp_path))
    for place, within in ((root, ""), (tmp_path / "objectnet-1.0.zip", "objectnet-1.0/")):
        data = load_dataset(place)
        assert data.class_names == ("alarm clock", "banana") and data.labels == (0, 1)
        assert data.class_keys == ("alarm_clock", "banana")
        assert [image.name for image in data.images] == [
            f"{within}images/alarm_clock/0a.png",
            f"{within}images/banana/0a.png",
        ]
        for image, blue in zip(data.images, (60, 120), strict=True):
            pixels = np.asarray(image.open())
            assert pixels.shape == (5, 8, 3) and (pixels == (10, 20, blue)).all()
        assert [note.split(": ", 1)[1] for note in data.notes] == [
            "left out 1 image of classes that ImageNet does not have"
        ]


def test_objectnet_with_its_password_is_to_be_unpacked(tmp_path: Path) -> None:
    """As it is published: every file is encrypted, the names of them are not."""
    root, password = objectnet(tmp_path / "objectnet-1.0"), b"objectnetisatestset"
    files = {
        path.relative_to(tmp_path).as_posix(): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }
    packed = encrypted_zip(tmp_path / "objectnet-1.0.zip", files, password)
    with zipfile.ZipFile(packed) as archive:
        for name, data in files.items():
            assert archive.read(name, password) == data
        with pytest.raises(RuntimeError, match="password required"):
            archive.read(next(iter(files)))
    with pytest.raises(UsageError) as caught:
        load_dataset(packed)
    # The first file that it is known by.
    assert str(caught.value) == (
        f"{packed}:objectnet-1.0/mappings/folder_to_objectnet_label.json is encrypted: unpack the "
        "zip with its password"
    )
    # Nor can images be, where the rest is open.
    shown = {name: data for name, data in files.items() if "images" in name}
    packed = encrypted_zip(tmp_path / "images.zip", shown, password)
    with pytest.raises(UsageError, match=r"0a\.png is encrypted: unpack the zip with its password"):
        load_dataset(packed)
    message = "no image in .* can be read: .*is encrypted: unpack the zip with its password"
    with pytest.raises(UsageError, match=message):
        load_dataset(packed, skip_unreadable=True)


def test_the_border_is_part_of_what_an_image_is_known_by(tmp_path: Path) -> None:
    root = objectnet(tmp_path / "objectnet-1.0")
    cut = load_dataset(root).images
    (root / "mappings").rename(tmp_path / "mappings")
    whole = load_dataset(root / "images").images[1:]
    assert [a.sha256 for a in cut] == [b.sha256 for b in whole]
    assert not {a.identity for a in cut} & {b.identity for b in whole}
    assert whole[0].open().size == (12, 9)
    (tmp_path / "mappings").rename(root / "mappings")
    (root / "images" / "banana" / "0a.png").write_bytes(picture(0, "png", (4, 4)))
    with pytest.raises(UsageError, match="4x4 pixels are all border"):
        load_dataset(root).images[1].open()
    (root / "mappings" / "folder_to_objectnet_label.json").write_text('{"banana": "Banana"}')
    with pytest.raises(UsageError, match="names no folder of Alarm clock"):
        load_dataset(root)
