"""What Hugging Face's `datasets` saves to disk: written by pyarrow as that library does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from published_layouts import picture

from clipperf.errors import UsageError
from clipperf.evals.datasets import load_dataset

pa = pytest.importorskip("pyarrow", reason="Arrow files need pyarrow")

IMAGE = pa.struct({"bytes": pa.binary(), "path": pa.string()})


def saved(
    root: Path,
    rows: list[list[tuple[Any, ...]]],
    other: str,
    kind: Any,
    info: Any,
    compression: str | None = None,
) -> Path:
    """A part as save_to_disk leaves it, one record batch a list of rows."""
    schema = pa.schema({"image": IMAGE, other: kind})
    root.mkdir(parents=True)
    with pa.OSFile(str(root / "data-00000-of-00001.arrow"), "wb") as sink:
        options = pa.ipc.IpcWriteOptions(compression=compression)
        with pa.ipc.new_stream(sink, schema, options=options) as writer:
            for batch in rows:
                images = [None if d is None else {"bytes": d, "path": None} for d, _ in batch]
                arrays = [pa.array(images, IMAGE), pa.array([v for _, v in batch], kind)]
                writer.write_batch(pa.record_batch(arrays, schema=schema))
    state = {"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}
    (root / "state.json").write_text(json.dumps(state))
    features = {"image": {"_type": "Image"}, other: info}
    (root / "dataset_info.json").write_text(json.dumps({"features": features}))
    return root


LABELS = {"_type": "ClassLabel", "names": ["cat", "big dog"]}


def classes(root: Path, *labels: int) -> Path:
    rows = [(picture(50 * i, "png"), label) for i, label in enumerate(labels)]
    return saved(root, [rows[:2], rows[2:]], "label", pa.int64(), LABELS)


def test_images_are_read_where_they_lie(tmp_path: Path) -> None:
    data = load_dataset(classes(tmp_path / "d", 0, 1, 1))
    assert data.class_names == ("cat", "big dog") and data.labels == (0, 1, 1)
    assert [image.open().getpixel((0, 0))[0] for image in data.images] == [0, 50, 100]
    assert data.images[2].read() == picture(100, "png")
    assert data.notes == ()


def test_parts_are_splits(tmp_path: Path) -> None:
    classes(tmp_path / "d" / "train", 0, 0, 1)
    classes(tmp_path / "d" / "test", 1, 0)
    (tmp_path / "d" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    assert load_dataset(tmp_path / "d").labels == (1, 0)
    assert load_dataset(tmp_path / "d", split="train").labels == (0, 0, 1)
    with pytest.raises(UsageError, match="choose one of test, train with --split"):
        load_dataset(tmp_path / "d", split="val")


def test_captions_may_be_lists(tmp_path: Path) -> None:
    rows = [(picture(i, "png"), texts) for i, texts in enumerate((["a", "b"], ["c"]))]
    info = {"feature": {"_type": "Value"}, "_type": "List"}
    data = load_dataset(saved(tmp_path / "d", [rows], "caption", pa.list_(pa.string()), info))
    assert data.captions == ("a", "b", "c") and data.caption_image == (0, 0, 1)


def test_images_that_are_not_in_the_file_are_named(tmp_path: Path) -> None:
    root = saved(tmp_path / "d", [[(None, 0)]], "label", pa.int64(), LABELS)
    with pytest.raises(UsageError, match="row 0: the image is not in the file"):
        load_dataset(root)


@pytest.mark.parametrize(
    ("features", "words"),
    [
        ([1], "'features' must be an object of objects"),
        ({"image": {"_type": "Image"}, "label": 3}, "'features' must be an object of objects"),
        (
            {"image": {"_type": "Image"}, "label": {**LABELS, "names": [1, 2]}},
            "the names of 'label' must be a list of texts",
        ),
    ],
)
def test_a_description_that_is_none(tmp_path: Path, features: Any, words: str) -> None:
    root = classes(tmp_path / "d", 0, 1)
    (root / "dataset_info.json").write_text(json.dumps({"features": features}))
    with pytest.raises(UsageError, match=words):
        load_dataset(root)


def test_a_column_of_a_name_that_is_not_there(tmp_path: Path) -> None:
    root = classes(tmp_path / "d", 0, 1)
    (root / "task.toml").write_text('label = "kind"')
    with pytest.raises(UsageError, match="no column 'kind' in image, label"):
        load_dataset(root)


def test_batches_without_rows_hold_nothing(tmp_path: Path) -> None:
    rows = [[(picture(0, "png"), 0)], [], [(picture(9, "png"), 1)]]
    data = load_dataset(saved(tmp_path / "d", rows, "label", pa.int64(), LABELS))
    assert data.labels == (0, 1)


def test_no_damage_escapes_as_another_error(tmp_path: Path) -> None:
    root = classes(tmp_path / "d", 0, 1)
    path = root / "data-00000-of-00001.arrow"
    whole = path.read_bytes()
    for at in range(0, len(whole), 17):
        for damaged in (whole[:at], whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :]):
            path.write_bytes(damaged)
            try:
                load_dataset(root)
            except UsageError as exc:
                assert str(exc)


@pytest.mark.parametrize("compression", ["lz4", "zstd"])
def test_packed_files_are_refused_before_they_are_unpacked(
    compression: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A few KB that would be 64 MiB."""
    bomb = [[(picture(0, "png") + bytes(1 << 24), 0)] for _ in range(4)]
    root = saved(tmp_path / "d", bomb, "label", pa.int64(), LABELS, compression)
    assert (root / "data-00000-of-00001.arrow").stat().st_size < 1 << 19
    unpacked: list[Any] = []
    monkeypatch.setattr(pa.ipc, "open_stream", unpacked.append)
    with pytest.raises(UsageError, match="packed Arrow files cannot be read in place"):
        load_dataset(root)
    assert unpacked == []


@pytest.mark.parametrize(
    "kind",
    [
        pa.null(),
        pa.dictionary(pa.int8(), pa.string()),
        *([pa.string_view(), pa.list_view(pa.string())] if hasattr(pa, "list_view") else []),
    ],
    ids=str,
)
def test_columns_that_say_more_than_is_there_are_refused(kind: Any, tmp_path: Path) -> None:
    value = None if kind == pa.null() else ["x"] if "list" in str(kind) else "x"
    info = {"_type": "Value"}
    root = saved(tmp_path / "d", [[(picture(0, "png"), value)]], "caption", kind, info)
    with pytest.raises(UsageError, match=r"column 'caption' is .*: need whole numbers, texts, or"):
        load_dataset(root)
