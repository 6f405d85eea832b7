"""Published layouts, read from real files: what is in them, and what is said of half of one."""

from __future__ import annotations

import io
import json
import pickle
import shutil
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from published_layouts import array, captioned, classified, pack, picture, shards

from clipperf.errors import UsageError
from clipperf.evals.datasets import load_dataset


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def load_error(path: Path, **options: str) -> str:
    with pytest.raises(UsageError) as caught:
        load_dataset(path, **options)  # type: ignore[arg-type]
    return str(caught.value)


# --- WebDataset --------------------------------------------------------------------------------


def test_shards_for_classification(tmp_path: Path) -> None:
    data = load_dataset(classified(tmp_path / "wds_toy", [0, 2, 1, 0, 1]))
    assert data.labels == (0, 2, 1, 0, 1)
    assert data.class_names == ("sea", "sky", "sea")
    sea = ("a photo of sea.", "many sea")
    assert data.prompts == (*sea, "a photo of sky.", "many sky", *sea)
    assert [image.name for image in data.images][::2] == [
        *("test/0.tar/s0000000.webp", "test/1.tar/s0000002.webp", "test/2.tar/s0000004.webp"),
    ]
    assert [image.open().getpixel((0, 0))[0] for image in data.images] == pytest.approx(
        [0, 40, 80, 120, 160], abs=2
    )
    assert data.notes == ()


def test_more_than_ten_shards_come_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    data = load_dataset(classified(tmp_path / "w", [i % 3 for i in range(12)], per_shard=1))
    assert data.labels == (0, 1, 2) * 4


def test_shards_for_retrieval(tmp_path: Path) -> None:
    data = load_dataset(captioned(tmp_path / "w", [["a", "b"], ["c"], ["d", "", "e"]]))
    assert data.captions == ("a", "b", "c", "d", "e")
    assert data.caption_image == (0, 0, 1, 2, 2)
    assert data.labels == () and data.class_names == ()


def test_shards_with_several_classes_an_image(tmp_path: Path) -> None:
    rows = ([1, 0, 1], [0, 1, 0], [0, 0, 0])
    samples = [{"npy": array(row), "png": picture(i, "png")} for i, row in enumerate(rows)]
    texts = {"classnames.txt": "a\nb\nc\n", "dataset_type.txt": "multilabel\n"}
    data = load_dataset(shards(tmp_path / "w", samples, texts))
    assert data.label_sets == ((0, 2), (1,), ()) and data.labels == ()


def test_a_split_is_chosen(tmp_path: Path) -> None:
    classified(tmp_path / "w", [0, 1], split="train")
    classified(tmp_path / "w", [2, 2, 1])
    assert load_dataset(tmp_path / "w").labels == (2, 2, 1)
    assert load_dataset(tmp_path / "w", split="train").labels == (0, 1)
    message = load_error(tmp_path / "w", split="val")
    assert "has no split 'val': choose one of test, train with --split" in message


def test_one_tar_is_a_shard_or_a_packed_folder(tmp_path: Path) -> None:
    samples = [(f"{i}.{s}", d) for i in range(2) for s, d in (("png", picture(i, "png")),)]
    folder = pack(tmp_path / "a.tar", [(f"cat/{n}", d) for n, d in samples])
    assert load_dataset(folder).class_names == ("cat",)
    shard = pack(tmp_path / "b.tar", [*samples, ("0.txt", b"one"), ("1.txt", b"two\nmore")])
    assert load_dataset(shard).captions == ("one", "two", "more")


def test_a_shard_in_json_has_captions_or_labels(tmp_path: Path) -> None:
    said = [{"caption": "x"}, {"caption": "y"}]
    samples = [
        {"png": picture(i, "png"), "json": json.dumps(s).encode()} for i, s in enumerate(said)
    ]
    assert load_dataset(shards(tmp_path / "a", samples, {})).captions == ("x", "y")
    for sample, label in zip(samples, (1, 0), strict=True):
        sample["json"] = json.dumps({"label": label}).encode()
    data = load_dataset(shards(tmp_path / "b", samples, {"classnames.txt": "u\nv\n"}))
    assert data.labels == (1, 0)


def test_a_broken_image_in_a_shard_is_named_or_left_out(tmp_path: Path) -> None:
    samples = [{"cls": b"0", "webp": picture(i)} for i in range(3)]
    samples[1]["webp"] = samples[1]["webp"][:-9]
    root = shards(tmp_path / "w", samples, {"classnames.txt": "a\nb\n"})
    data = load_dataset(root, skip_unreadable=True)
    assert len(data.images) == len(data.labels) == 2
    (note,) = data.notes
    assert "left out 1 image that cannot be read" in note and "0.tar:s0000001.webp" in note


@pytest.mark.parametrize(
    ("suffix", "answer", "words"),
    [
        ("cls", b"3", "of class 3, and classnames.txt has 3"),
        ("cls", b"sea", "is no number of a class"),
        ("cls", b"-1", "is no number of a class"),
        ("npy", pickle.dumps([1]), "is no array of numbers"),
        ("npy", array([0.5, 1]), "need zeros and ones"),
        *(
            ("npy", array(number), "is no number of a class")
            for number in (np.inf, np.nan, -1.0, 0.5)
        ),
        ("txt", b" \n", "its sample has no caption"),
        ("pyd", pickle.dumps(1), "lacks any of .cls"),
    ],
)
def test_mistakes_in_samples(tmp_path: Path, suffix: str, answer: bytes, words: str) -> None:
    root = classified(tmp_path / "w", [0])
    shards(root, [{suffix: answer, "webp": picture()}], {})
    message = load_error(root)
    assert words in message


def test_a_pickle_that_numpy_would_load_is_not_opened(tmp_path: Path) -> None:
    stream = io.BytesIO()
    np.save(stream, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    root = classified(tmp_path / "w", [0])
    shards(root, [{"npy": stream.getvalue(), "webp": picture()}], {})
    assert "is no array of numbers" in load_error(root)


@pytest.mark.parametrize("shape", ["(1000000000000,)", "(-1,)", "(3, 3)", "('a',)"])
def test_an_array_that_promises_more_than_there_is(tmp_path: Path, shape: str) -> None:
    said = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}"
    head = said.ljust(117) + "\n"
    lie = b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head.encode() + b"\0" * 24
    root = classified(tmp_path / "w", [0])
    shards(root, [{"npy": lie, "webp": picture()}], {})
    assert "is no array of numbers" in load_error(root)


def test_shards_that_are_missing_are_counted(tmp_path: Path) -> None:
    root = classified(tmp_path / "w", [0, 1, 2])
    (root / "test" / "1.tar").unlink()
    said = "test/nshards.txt says 2 shards, 1 are here: fetch those that are missing (1.tar)"
    assert said in load_error(root)
    for number in ("1000000000", "one", ""):
        (root / "test" / "nshards.txt").write_text(number)
        said = f"test/nshards.txt holds '{number}': it must be the number of shards"
        assert said in load_error(root)
    (root / "test" / "nshards.txt").unlink()
    assert load_dataset(root).labels == (0, 1)


def test_shards_by_other_names_are_counted_alone(tmp_path: Path) -> None:
    """Which of them are missing, or are no part of it, nothing says."""
    root = classified(tmp_path / "w", [0, 1, 2])
    for i in range(2):
        (root / "test" / f"{i}.tar").rename(root / "test" / f"part-{i + 1}.tar")
    (root / "test" / "nshards.txt").write_text("3")
    message = load_error(root)
    assert message.endswith("says 3 shards, 2 are here: fetch those that are missing")
    (root / "test" / "nshards.txt").write_text("1")
    message = load_error(root)
    assert "says 1 shards, 2 are here: 1 of them would be left out. Take" in message
    assert "part-" not in message


def test_a_shard_that_is_no_number_is_the_one_too_many(tmp_path: Path) -> None:
    """It comes before 1.tar in their order."""
    root = classified(tmp_path / "w", [0, 1, 2])
    shutil.copy(root / "test" / "1.tar", root / "test" / "copy.tar")
    assert "says 2 shards, 3 are here: test/copy.tar would be left out." in load_error(root)
    (root / "test" / "copy.tar").rename(root / "test" / "01.tar")
    assert "says 2 shards, 3 are here: test/01.tar would be left out." in load_error(root)


def test_more_shards_than_are_said(tmp_path: Path) -> None:
    root = classified(tmp_path / "w", range(3))
    (root / "test" / "nshards.txt").write_text("1\n")
    assert (
        "test/nshards.txt says 1 shards, 2 are here: test/1.tar would be left out. Take them away "
        "if they are no part of it; if they are, nshards.txt is of an older version: write 2"
    ) in load_error(root)


def test_a_shard_that_is_cut_is_named(tmp_path: Path) -> None:
    """Between two files, within one, and at its beginning: blocks of 512 bytes."""
    root = classified(tmp_path / "w", [0, 1])
    shard = root / "test" / "0.tar"
    whole = shard.read_bytes()
    for size in (0, 100, 512, 600, 1024, 1200, 2048):
        shard.write_bytes(whole[:size])
        message = load_error(root)
        assert "0.tar at byte " in message and "the archive is cut" in message, size
    shard.write_bytes(whole[:20] + b"!" + whole[21:])
    assert "0.tar at byte 0: no header of a tar: the archive is damaged" in load_error(root)


# --- other layouts -----------------------------------------------------------------------------

FLICKR8K = """image,caption
1.jpg,A child in a pink dress is climbing , up .
1.jpg,"A girl , going into a building ."
2.jpg,Two dogs
"""


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("captions.txt", FLICKR8K),
        (
            "Flickr8k.token.txt",
            "1.jpg#0\tA child in a pink dress is climbing , up .\n"
            "1.jpg#1\tA girl , going into a building .\n2.jpg#0\tTwo dogs\n",
        ),
        (
            "results.csv",
            "image_name| comment_number| comment\n"
            "1.jpg| 0| A child in a pink dress is climbing , up .\n"
            "1.jpg| 1| A girl , going into a building .\n2.jpg| 0| Two dogs\n",
        ),
    ],
)
def test_flickr_as_it_is_passed_around(tmp_path: Path, name: str, text: str) -> None:
    for i in (1, 2):
        write(tmp_path / "Images" / f"{i}.jpg", picture(i, "jpg"))
    write(tmp_path / name, text)
    data = load_dataset(tmp_path)
    assert data.captions == (
        "A child in a pink dress is climbing , up .",
        "A girl , going into a building .",
        "Two dogs",
    )
    assert data.caption_image == (0, 0, 1)


def test_flickr8k_has_lists_of_its_splits(tmp_path: Path) -> None:
    for i in (1, 2):
        write(tmp_path / "Images" / f"{i}.jpg", picture(i, "jpg"))
    write(tmp_path / "captions.txt", FLICKR8K)
    write(tmp_path / "Flickr_8k.testImages.txt", "2.jpg\n")
    assert load_dataset(tmp_path).captions == ("Two dogs",)


def test_karpathys_splits(tmp_path: Path) -> None:
    records = [
        {"filename": f"{i}.jpg", "filepath": "val2014", "split": split, "sentences": sentences}
        for i, (split, sentences) in enumerate(
            [
                ("test", [{"raw": "one"}, {"raw": "two "}]),
                ("train", [{"raw": "three"}]),
                ("restval", [{"raw": "four"}]),
                ("test", [{"raw": "five"}]),
            ]
        )
    ]
    for i in range(4):
        write(tmp_path / "val2014" / f"{i}.jpg", picture(i, "jpg"))
    write(tmp_path / "dataset_coco.json", json.dumps({"images": records}))
    data = load_dataset(tmp_path)
    assert data.captions == ("one", "two", "five") and data.caption_image == (0, 0, 1)
    assert load_dataset(tmp_path, split="train").captions == ("three", "four")
    assert "has no split 'val': choose one of restval, test, train" in load_error(
        tmp_path, split="val"
    )
    (tmp_path / "val2014" / "3.jpg").unlink()
    assert "no image '3.jpg'" in load_error(tmp_path)
    for wrong, words in (({"split": ["test"]}, "has no split"), ({"sentences": 5}, "no sentences")):
        write(tmp_path / "dataset_coco.json", json.dumps({"images": [{**records[0], **wrong}]}))
        assert words in load_error(tmp_path)


def test_crossmodal_3600_by_language(tmp_path: Path) -> None:
    rows = [
        {"image/key": "00a", "en": {"caption": ["a dog", "one dog"]}, "de": {"caption": ["Hund"]}},
        {"image/key": "00b", "en": {"caption": ["a cat"]}, "de": {"caption": ["Katze", "eine"]}},
    ]
    for i, row in enumerate(rows):
        write(tmp_path / "images" / f"{row['image/key']}.jpg", picture(i, "jpg"))
    write(tmp_path / "captions.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    data = load_dataset(tmp_path)
    assert data.captions == ("a dog", "one dog", "a cat") and data.caption_image == (0, 0, 1)
    assert load_dataset(tmp_path, language="de").captions == ("Hund", "Katze", "eine")
    assert "no captions in 'fr': choose one of de, en with --language" in load_error(
        tmp_path, language="fr"
    )


def test_folders_of_torchvision_with_splits(tmp_path: Path) -> None:
    for split, names in (("train", ("cat", "dog", "dog")), ("val", ("dog",))):
        for i, name in enumerate(names):
            write(tmp_path / split / name / f"{i}.png", picture(i, "png"))
    data = load_dataset(tmp_path, split="train")
    assert data.class_names == ("cat", "dog") and data.labels == (0, 1, 1)
    assert "has no split 'test': choose one of train, val with --split" in load_error(tmp_path)


# --- splits and languages ------------------------------------------------------------------------


def test_a_split_or_language_where_there_is_none(tmp_path: Path) -> None:
    for i, name in enumerate(("cat/1", "cat/2", "dog/1")):
        write(tmp_path / "pets" / f"{name}.png", picture(i, "png"))
    root = tmp_path / "pets"
    whole = "is not divided into splits, its 3 images are one: leave out "
    assert whole + "--split test" in load_error(root, split="test")
    one = "has its texts in one language: leave out "
    assert one + "--language de" in load_error(root, language="de")
    write(root / "task.toml", 'split = "val"\n')
    assert whole + "split = 'val' in its TOML" in load_error(root)
    write(root / "task.toml", 'language = "de"\n')
    assert one + "language = 'de' in its TOML" in load_error(root)
    assert load_dataset(root, split="train", part="train").labels == (0, 0, 1)
    # Of several datasets it is one that has none: they are told apart by a note.
    (root / "task.toml").unlink()
    data = load_dataset(root, split="val", language="de", among_others=True)
    assert data.labels == (0, 0, 1)
    assert [note.partition(" is ")[0].partition(" has ")[0] for note in data.notes] == [
        f"pets: {root}"
    ] * 2


def test_a_toml_and_an_option_that_ask_for_other_splits(tmp_path: Path) -> None:
    for i, split in enumerate(("train", "val")):
        for name in ("cat", "dog"):
            write(tmp_path / "pets" / split / name / "1.png", picture(i, "png"))
    write(tmp_path / "pets" / "task.toml", 'split = "val"\n')
    assert load_dataset(tmp_path / "pets").images[0].name == "val/cat/1.png"
    load_dataset(tmp_path / "pets", split="val")
    assert "--split train, and split = 'val' in its TOML: leave out one" in load_error(
        tmp_path / "pets", split="train"
    )


def test_captions_of_shards_are_in_one_language(tmp_path: Path, home: Path) -> None:
    root = captioned(home / "datasets" / "wds_flickr8k", [["a dog"], ["a cat"]])
    assert "has its texts in one language" in load_error(Path("flickr8k"), language="de")
    assert "has its texts in one language" in load_error(root, language="de")
    load_dataset(root, split="test")
    (shard,) = (root / "test").glob("*.tar")
    message = load_error(shard, split="test")
    assert "is not divided into splits, its 2 images are one: leave out --split test" in message


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_a_table_of_labels(tmp_path: Path, suffix: str) -> None:
    rows = [("a.png", "dog"), ("b.png", "cat"), ("c.png", "dog")]
    for i, (name, _) in enumerate(rows):
        write(tmp_path / name, picture(i, "png"))
    if suffix == "csv":
        text = "image,label\n" + "".join(f"{name},{label}\n" for name, label in rows)
    else:
        text = "".join(json.dumps({"image": n, "label": label}) + "\n" for n, label in rows)
    write(tmp_path / f"labels.{suffix}", text)
    data = load_dataset(tmp_path)
    assert data.class_names == ("cat", "dog") and data.labels == (1, 0, 1)
    assert data.captions == ()


def test_labels_that_are_numbers_index_the_names(tmp_path: Path) -> None:
    for i in range(2):
        write(tmp_path / f"{i}.png", picture(i, "png"))
    write(tmp_path / "metadata.csv", "file_name,label\n0.png,10\n1.png,2\n")
    data = load_dataset(tmp_path)
    assert data.class_names == ("2", "10") and data.labels == (1, 0)
    write(tmp_path / "classnames.txt", "".join(f"n{i % 3}\n" for i in range(11)))
    data = load_dataset(tmp_path)
    assert data.labels == (10, 2) and data.class_names[10] == data.class_names[1] == "n1"


# --- half of a layout --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("data/test-00000-of-00001.parquet", b"PAR1", "what save_to_disk wrote"),
        ("test/nshards.txt", b"1\n", "the shards of this WebDataset are not here"),
        ("dataset_info.json", b"{}", "without its .arrow files"),
        ("dataset_coco.json", b"{}", "Karpathy's captions without their images"),
        ("cifar-10-batches-py/data_batch", b"\x80\x04", "are pickles, which are never opened"),
        ("shards/00.tar.gz", b"\x1f\x8b", "unpack it first"),
        ("imagenet.tfrecord-00000", b"", "TensorFlow's records"),
    ],
)
def test_half_of_a_published_layout_is_named(
    tmp_path: Path, name: str, content: bytes, words: str
) -> None:
    write(tmp_path / name, content)
    message = load_error(tmp_path)
    assert words in message and name in message


def test_a_pointer_of_git_lfs_is_no_shard(tmp_path: Path) -> None:
    root = classified(tmp_path / "w", [0])
    write(root / "test" / "0.tar", "version https://git-lfs.github.com/spec/v1\noid sha256:1\n")
    assert "run git lfs pull" in load_error(root)


def test_a_folder_of_the_hubs_cache_is_read_at_its_version(tmp_path: Path) -> None:
    hub = tmp_path / "datasets--clip-benchmark--wds_toy"
    classified(hub / "snapshots" / "0123abc", [1, 0])
    (hub / "blobs").mkdir()
    assert load_dataset(hub).labels == (1, 0)


def test_a_packed_tar_says_what_unpacks_it(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w:gz") as archive:
        archive.addfile(tarfile.TarInfo("x"), io.BytesIO())
    assert "unpack it first with gzip -d" in load_error(path)


# --- names are labels for people ---------------------------------------------------------------


def test_classes_of_one_name_are_two_classes(tmp_path: Path) -> None:
    for folder, shade in (("n04008634", 1), ("n03773504", 2)):
        write(tmp_path / folder / "1.png", picture(shade, "png"))
    names = {"n04008634": "missile", "n03773504": "missile"}
    write(tmp_path / "classes.json", json.dumps(names))
    data = load_dataset(tmp_path)
    assert data.class_names == ("missile", "missile") and data.labels == (0, 1)
    assert len(data.prompts) == 10


# --- lists of images, as torchvision reads original archives -----------------------------------


@pytest.mark.parametrize(
    ("folder", "table", "lines", "images", "names"),
    [
        (
            *("food-101/", "meta/test.txt", "pie/1\nsoup/2\npie/3\n"),
            *(("pie/1.jpg", "soup/2.jpg", "pie/3.jpg"), ("pie", "soup")),
        ),
        (
            *("", "labels/test1.txt", "dotted/a.jpg\nwoven/b.jpg\ndotted/c.jpg\n"),
            *(("dotted/a.jpg", "woven/b.jpg", "dotted/c.jpg"), ("dotted", "woven")),
        ),
        (
            *("", "annotations/test.txt", "beagle_1 5 2 1\nBirman_cat_2 7 1 2\nbeagle_9 5 2 1\n"),
            *(("beagle_1.jpg", "Birman_cat_2.jpg", "beagle_9.jpg"), ("beagle", "Birman cat")),
        ),
        (
            *("data/", "images_variant_test.txt", "0061 707-320\n0062 A300 B4\n0063 707-320\n"),
            *(("0061.jpg", "0062.jpg", "0063.jpg"), ("707-320", "A300 B4")),
        ),
    ],
)
def test_lists_of_original_archives(
    tmp_path: Path, folder: str, table: str, lines: str, images: tuple[str, ...], names: Any
) -> None:
    for i, image in enumerate((*images, "of/another/split.jpg")):
        write(tmp_path / folder / "images" / image, picture(i, "jpg"))
    write(tmp_path / folder / table, lines)
    data = load_dataset(tmp_path)
    assert data.class_names == names and data.labels == (0, 1, 0)
    assert [image.name for image in data.images] == [f"{folder}images/{n}" for n in images]
    assert "has no split 'train': choose one of test with --split" in load_error(
        tmp_path, split="train"
    )
    (tmp_path / folder / "images" / images[2]).unlink()
    assert f"no image '{images[2]}' in images" in load_error(tmp_path)
