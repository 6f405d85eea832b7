"""Datasets as items: folders, tables, tars, Parquet; from any place on, in bounded memory."""

from __future__ import annotations

import io
import json
import os
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from clipperf.embed import dataset as datasets
from clipperf.embed import listing, unique
from clipperf.embed.dataset import Dataset
from clipperf.embed.items import Item, Later, Url, Wanted
from clipperf.errors import UsageError

TEXTS = Wanted("text")
Open = Callable[..., Dataset]


def png(shade: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (shade, 0, 0)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def opened(tmp_path: Path) -> Open:
    number = iter(range(99))

    def dataset(path: Path, wanted: Wanted = Wanted()) -> Dataset:  # noqa: B008 - frozen
        scratch = tmp_path / f"scratch-{next(number)}"
        scratch.mkdir()
        return datasets.opened(path, wanted, scratch)

    return dataset


def counted(found: Dataset, scratch: Path) -> int:
    scratch.mkdir(exist_ok=True)
    return datasets.survey(found, scratch)


def ids(found: Dataset, start: int = 0) -> list[str]:
    return [item.id for item in found.items(start)]


def given(items: Any) -> list[Any]:
    """What items are: bytes are read, reasons stand for what is missing."""
    return [_given(item) for item in items]


def _given(item: Item) -> Any:
    if isinstance(item.given, Later):
        return item.given.read()
    return item.problem if item.given is None else item.given


# --- folders -------------------------------------------------------------------------------


def test_a_folder_is_in_order_whatever_fits_into_memory(
    tmp_path: Path, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "photos"
    names = [f"{a}/{b}é{i}.PNG" for a in ("b", "a", "ü") for b in "yx" for i in range(3)]
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(png(1))
    (root / ".hidden.png").write_bytes(png(1))
    (root / "a" / "back").symlink_to(root)
    whole = opened(root)
    monkeypatch.setattr(listing, "SPILL", 4)
    pieces = opened(root)
    assert ids(pieces) == ids(whole) and sorted(ids(whole)) == sorted(names)
    assert ids(pieces, 5) == ids(whole)[5:]
    assert pieces.digest == whole.digest and (whole.files, whole.count) == (18, 18)
    assert given(whole.items(17)) == [root / ids(whole)[17]]
    os.utime(root / names[3], ns=(1, 1))
    assert opened(root).digest != whole.digest


def test_a_name_that_is_no_utf8_is_corrupt(tmp_path: Path, opened: Open) -> None:
    root = tmp_path / "photos"
    root.mkdir()
    (root / "a.png").write_bytes(png(1))
    with open(os.fsencode(root) + b"/b\xff.png", "wb") as file:
        file.write(png(2))
    bad = next(item for item in opened(root).items(0) if item.problem)
    assert (bad.id, bad.given, bad.problem) == (
        "b\\udcff.png",
        None,
        "its name is no UTF-8: rename it",
    )


def test_a_link_to_itself_is_corrupt_alone(tmp_path: Path, opened: Open) -> None:
    root = tmp_path / "photos"
    root.mkdir()
    (root / "a.png").write_bytes(png(1))
    (root / "b.png").symlink_to("b.png")
    assert ids(opened(root)) == ["a.png", "b.png"]


def test_texts_of_a_folder(tmp_path: Path, opened: Open) -> None:
    root = tmp_path / "texts"
    root.mkdir()
    (root / "a.txt").write_text(" grün \n", "utf-8")
    (root / "b.txt").write_bytes(b"\xff\xfe")
    assert given(opened(root, TEXTS).items(0))[0] == "grün"
    assert given(opened(root, TEXTS).items(1))[0].startswith("no UTF-8")


def test_a_folder_of_two_kinds_or_none_is_refused(tmp_path: Path, opened: Open) -> None:
    root = tmp_path / "mixed"
    root.mkdir()
    (root / "captions.csv").write_text("image\na.png\n")
    with pytest.raises(UsageError, match=r"holds nothing to embed.*1 \.csv; name the table"):
        opened(root)
    (root / "a.png").write_bytes(png(1))
    tarfile.open(root / "0.tar", "w").close()
    with pytest.raises(UsageError, match=r"holds 1 \.tar, 1 image files: name a folder"):
        opened(root)
    with pytest.raises(UsageError, match="is no dataset"):
        (root / "a.docx").write_text("x")
        opened(root / "a.docx")


def test_a_zip(tmp_path: Path, opened: Open) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("x/1.png", png(1))
        archive.writestr("x/2.png", png(2))
        archive.writestr("x/3.txt", "drei")
    assert ids(opened(tmp_path / "a.zip")) == ["x/1.png", "x/2.png"]
    assert given(opened(tmp_path / "a.zip").items(1)) == [png(2)]
    assert given(opened(tmp_path / "a.zip", TEXTS).items(0)) == ["drei"]


# --- tables --------------------------------------------------------------------------------


def test_a_table_of_paths_and_urls(tmp_path: Path, opened: Open) -> None:
    file = tmp_path / "t.csv"
    file.write_text(
        'Note,FilePath,ID\n"two\nlines",a/b.png,x\n,http://h/é.jpg,y\nz, ,z\n,too,many,4\n', "utf-8"
    )
    found = opened(file)
    assert counted(found, tmp_path / "ids") == 4
    assert [item.id for item in found.items(0)] == ["x", "y", "z", "row 3"]
    path, url, none, long = given(found.items(0))
    assert (path, url, none) == (tmp_path / "a/b.png", Url("http://h/é.jpg"), "' '")
    assert long.startswith("line 6: 4 fields, the header has 3")
    assert ids(found, 2) == ["z", "row 3"]
    assert ids(opened(file, Wanted("text", "Note", "FilePath")))[:2] == [
        "a/b.png",
        "http://h/é.jpg",
    ]


def test_rows_are_numbered_without_ids(tmp_path: Path, opened: Open) -> None:
    (tmp_path / "t.tsv").write_text("text\na, b\n\nc\n")
    (tmp_path / "t.jsonl").write_text('{"text": "ä"}\nnonsense\n[1]\n{"text": 3}\n', "utf-8")
    (tmp_path / "t.txt").write_text("one\n\nthree\n")
    tsv, objects, lines = (opened(tmp_path / f"t.{s}", TEXTS) for s in ("tsv", "jsonl", "txt"))
    assert (ids(tsv), given(tsv.items(0))) == (["0", "1"], ["a, b", "c"])
    assert given(lines.items(0)) == ["one", "an empty text", "three"]
    assert ids(objects) == ["0", "row 1", "row 2", "3"]
    assert given(objects.items(0))[::3] == ["ä", "3 is no text"]
    assert given(objects.items(1))[:2] == [
        "line 2 is no JSON: Expecting value: line 1 column 1 (char 0)",
        "line 3: [1] is no object",
    ]
    # Where it begins to read does not change which columns it reads.
    (tmp_path / "u.jsonl").write_text('{"text": "a", "id": 7}\n{"caption": "b", "id": 8}\n')
    later = opened(tmp_path / "u.jsonl", TEXTS)
    assert (given(later.items(0)), given(later.items(1))) == (["a", "no text"], ["no text"])
    with pytest.raises(UsageError, match="holds texts: give --tower text"):
        opened(tmp_path / "t.txt")


def test_a_long_field_and_columns_of_lines(tmp_path: Path, opened: Open) -> None:
    text = "word " * 40_000
    (tmp_path / "t.csv").write_text(f"text\n{text}\n")
    assert given(opened(tmp_path / "t.csv", TEXTS).items(0)) == [text.strip()]
    (tmp_path / "t.txt").write_text("one\n")
    for wanted, said in (
        (Wanted("text", "caption"), "--column is for tables"),
        (Wanted("text", None, "key"), "--id-column is for tables"),
    ):
        with pytest.raises(UsageError, match=said):
            opened(tmp_path / "t.txt", wanted)


def test_columns_that_are_not_there(tmp_path: Path, opened: Open) -> None:
    file = tmp_path / "t.csv"
    file.write_text("picture,id,name\na.png,1,n\n")
    with pytest.raises(UsageError, match=r"has no column image, .*; there are 'picture', 'id'"):
        opened(file)
    with pytest.raises(UsageError, match=r"no column 'x' \(--id-column\); there are 'picture'"):
        opened(file, Wanted(column="picture", id_column="x"))
    assert ids(opened(file, Wanted(column="picture"))) == ["1"]
    file.write_text("image,image\na,b\n")
    with pytest.raises(UsageError, match="two columns are called 'image'"):
        opened(file)
    file.write_bytes(b"image\n\xff\xff.png\n")
    with pytest.raises(UsageError, match="is not UTF-8"):
        counted(opened(file), tmp_path / "ids")


def test_ids_that_are_there_twice_are_named(
    tmp_path: Path, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "t.csv"
    rows = [f"p{i}.png,{'same' if i in (2, 7) else i}" for i in range(50)]
    file.write_text("image,id\n" + "\n".join(rows) + "\n")
    for most in (unique.MOST_BYTES, 64):  # in memory, and on the disk after every four
        monkeypatch.setattr(unique, "MOST_BYTES", most)
        with pytest.raises(UsageError, match=r"'same' is that of items 2, 7: change them"):
            counted(opened(file), tmp_path / f"ids-{most}")
    with pytest.raises(UsageError, match=r"row 0 has no id"):
        (tmp_path / "e.csv").write_text("image,id\na.png,\n")
        counted(opened(tmp_path / "e.csv"), tmp_path / "ids-e")
    monkeypatch.setattr(unique, "MOST_BYTES", 64)
    assert counted(opened(file, Wanted(id_column="image")), tmp_path / "other") == 50


# --- tars ----------------------------------------------------------------------------------


def tar(path: Path, files: dict[str, bytes]) -> None:
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


def test_any_file_of_a_sample_in_any_case(tmp_path: Path, opened: Open) -> None:
    files = {"0/a.left.png": png(1), "0/a.JPG": png(2), "0/b.left.png": png(3)}
    tar(tmp_path / "t.tar", files)
    left, jpg = (opened(tmp_path / "t.tar", Wanted(column=c)) for c in ("left.png", "JPG"))
    assert given(left.items(0)) == [png(1), png(3)]
    assert given(jpg.items(0)) == [png(2)]


def test_texts_of_parquet_that_are_no_utf8(tmp_path: Path, opened: Open) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    data = pyarrow.array([b"a cat", b"\xff\xfe", None], pyarrow.binary()).view(pyarrow.string())
    parquet.write_table(pyarrow.table({"text": data}), tmp_path / "t.parquet")
    cat, bad, none = given(opened(tmp_path / "t.parquet", TEXTS).items(0))
    assert (cat, none) == ("a cat", "no text") and bad.startswith("no UTF-8")
    odd = os.fsencode(tmp_path) + b"/\xff.parquet"
    os.rename(tmp_path / "t.parquet", odd)
    with pytest.raises(UsageError, match="is no UTF-8: rename it"):
        opened(Path(os.fsdecode(odd)), TEXTS)


def test_samples_of_tars(tmp_path: Path, opened: Open) -> None:
    root = tmp_path / "shards"
    said = json.dumps({"caption": "zwei"}).encode()
    tar(root / "1.tar", {"a.png": png(1), "a.txt": b" eins ", "b.json": said, "b.png": png(2)})
    tar(root / "0.tar", {"c.cls": b"3", "x/d.seg.png": png(4), "x/d.png": png(5), "e.txt": b"e"})
    images, texts = opened(root), opened(root, TEXTS)
    assert ids(images) == ["0.tar/x/d", "0.tar/e", "1.tar/a", "1.tar/b"] == ids(texts)
    assert given(images.items(0)) == [png(5), "the sample has no image", png(1), png(2)]
    assert given(texts.items(0)) == ["the sample has no text", "e", "eins", "zwei"]
    assert ids(images, 3) == ["1.tar/b"]
    assert given(opened(root, Wanted(column="seg.png")).items(0))[0] == png(4)
    assert counted(images, tmp_path / "ids") == 4
    single = opened(root / "1.tar")
    assert (ids(single), single.files) == (["1.tar/a", "1.tar/b"], 1)


def test_a_sample_that_is_there_twice_or_a_cut_tar_is_refused(tmp_path: Path, opened: Open) -> None:
    tar(tmp_path / "0.tar", {"a.png": png(1), "b.png": png(2), "a.jpg": png(3)})
    with pytest.raises(UsageError, match=r"/0\.tar: ids are .* '0.tar/a' is that of items 0, 2"):
        counted(opened(tmp_path / "0.tar"), tmp_path / "ids")
    data = (tmp_path / "0.tar").read_bytes()
    (tmp_path / "0.tar").write_bytes(data[:1200])
    with pytest.raises(UsageError, match="the archive is cut"):
        counted(opened(tmp_path / "0.tar"), tmp_path / "ids2")


# --- Parquet -------------------------------------------------------------------------------


def parquet(path: Path, columns: dict[str, list[Any]], group: int = 4) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet as files

    files.write_table(pyarrow.table(columns), path, row_group_size=group)


def test_a_column_of_parquet_whose_name_is_no_utf8(tmp_path: Path, opened: Open) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "t.parquet"
    table = pyarrow.table({"text": ["a cat"], "notizé": ["x"]})
    parquet.write_table(table, path, store_schema=False)
    data = path.read_bytes()
    assert "notizé".encode() in data
    path.write_bytes(data.replace("notizé".encode(), b"notiz\xe1z"))
    with pytest.raises(UsageError, match=r"t\.parquet is (no readable|damaged)"):
        opened(path, TEXTS)


def test_parquet_from_any_row_on(tmp_path: Path, opened: Open) -> None:
    root = tmp_path / "p"
    root.mkdir()
    images = [png(i) for i in range(10)]
    parquet(root / "0.parquet", {"image": images, "n": [*range(10)]})
    parquet(root / "1.parquet", {"image": [{"bytes": png(77), "path": "x.png"}, None]})
    found = opened(root)
    expected = [f"0.parquet:{i}" for i in range(10)] + ["1.parquet:0", "1.parquet:1"]
    for start in range(13):
        assert ids(found, start) == expected[start:]
    assert given(found.items(0)) == [*images, png(77), "no image"]
    assert (found.count, found.files, counted(found, tmp_path / "ids")) == (12, 2, 12)
    assert list(found.ids()) == expected


def test_parquet_of_urls_with_ids(tmp_path: Path, opened: Open) -> None:
    file = tmp_path / "l.parquet"
    urls = [f"https://h/{i}.jpg" for i in range(6)]
    parquet(file, {"TEXT": ["a"] * 6, "URL": urls, "id": [10, 11, 12, 13, 11, 15]})
    with pytest.raises(UsageError, match="'11' is that of items 1, 4"):
        counted(opened(file), tmp_path / "ids")
    found = opened(file, Wanted(id_column="URL"))
    assert counted(found, tmp_path / "ids2") == 6
    assert (ids(found, 4), given(found.items(4))) == (urls[4:], [Url(u) for u in urls[4:]])
    assert given(opened(file, TEXTS).items(0)) == ["a"] * 6
    with pytest.raises(UsageError, match=r"no column 'x' \(--column\); there are 'TEXT', 'URL'"):
        opened(file, Wanted(column="x"))


def test_a_file_that_is_no_parquet(tmp_path: Path, opened: Open) -> None:
    pytest.importorskip("pyarrow")
    (tmp_path / "a.parquet").write_bytes(b"PAR1 nonsense PAR1")
    with pytest.raises(UsageError, match=r"a.parquet is no readable Parquet file"):
        opened(tmp_path / "a.parquet")
