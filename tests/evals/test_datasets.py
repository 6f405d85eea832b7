"""Datasets from real files: layouts, checksums, and an error that helps for each mistake."""

from __future__ import annotations

import json
import os
import unicodedata
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features
from published_layouts import pack
from published_layouts import picture as made

from clipperf.errors import UsageError
from clipperf.evals import place
from clipperf.evals.datasets import Dataset, load_dataset
from clipperf.evals.layout import DEFAULT_TEMPLATES
from clipperf.evals.place import SAMPLE


def picture(path: Path, shade: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 3), (shade, 100, 200)).save(path)
    return path


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def lines(*rows: dict) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    root = tmp_path / "pets"
    for shade, name in enumerate(["cat/1.png", "cat/deep/2.JPG", "big_dog/1.webp"]):
        picture(root / name, shade)
    write(root / "cat" / "notes.txt", "not an image")
    return root


@pytest.fixture
def captioned(tmp_path: Path) -> Path:
    root = tmp_path / "photos"
    picture(root / "a.png", 1)
    picture(root / "b.png", 2)
    write(root / "captions.csv", 'image,caption\na.png,"red, round"\nb.png,blue\na.png, ball \n')
    return root


@pytest.fixture
def sample(tmp_path: Path) -> Path:
    """A folder in the layout of the bundled sample."""
    root = tmp_path / "made"
    picture(root / "images" / "a.png", 1)
    picture(root / "images" / "b.png", 2)
    rows = [
        {"image": "images/a.png", "caption": "one", "category": "x"},
        {"image": "images/b.png", "caption": "two", "category": "y"},
        {"image": "images/a.png", "caption": "three", "category": "x"},
    ]
    write(root / "captions.jsonl", lines(*rows))
    found = {"categories": ["y", "x"], "class_names": ["a y", "an x"], "templates": ["see {}!"]}
    write(root / "classes.json", json.dumps(found))
    return root


def zipped(folder: Path, to: Path, compression: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(to, "w", compression) as archive:
        for path in sorted(folder.rglob("*")):
            archive.write(path, path.relative_to(folder).as_posix())
    return to


def test_class_folders(classes: Path) -> None:
    data = load_dataset(classes)
    assert data.name == "pets"
    assert data.class_names == ("big dog", "cat")
    assert [image.name for image in data.images] == [
        "big_dog/1.webp",
        "cat/1.png",
        "cat/deep/2.JPG",
    ]
    assert data.labels == (0, 1, 1)
    assert data.templates == DEFAULT_TEMPLATES
    assert data.captions == ()
    assert data.prompts[: len(DEFAULT_TEMPLATES)] == tuple(
        template.replace("{}", "big dog") for template in DEFAULT_TEMPLATES
    )
    assert data.images[1].open().size == (4, 3)


def test_class_folders_with_names_and_templates(classes: Path) -> None:
    (classes / "empty").mkdir()
    (classes / "ignored").mkdir()
    write(classes / "classes.json", json.dumps({"cat": "tabby {cat}", "empty": "void"}))
    write(classes / "templates.txt", "a {}\r\n\r\nmany {} and {}s\r\n")
    data = load_dataset(str(classes))
    assert data.class_names == ("big dog", "tabby {cat}", "void")
    assert data.templates == ("a {}", "many {} and {}s")
    assert data.prompts[3] == "many tabby {cat} and tabby {cat}s"
    assert data.labels == (0, 1, 1)


def test_captions_csv(captioned: Path) -> None:
    data = load_dataset(captioned)
    assert [image.name for image in data.images] == ["a.png", "b.png"]
    assert data.captions == ("red, round", "blue", "ball")
    assert data.caption_image == (0, 1, 0)
    assert data.labels == () and data.class_names == () and data.prompts == ()


def test_captions_file_written_by_a_spreadsheet(captioned: Path) -> None:
    text = '\ufeffid, image ,caption\r\n7,a.png,"two\r\nlines"\r\n8,./b.png,blue\r\n'
    (captioned / "captions.csv").write_bytes(text.encode())
    assert load_dataset(captioned).captions == ("two\r\nlines", "blue")


def test_sample_layout_has_both_tasks(sample: Path) -> None:
    data = load_dataset(sample)
    assert data.labels == (1, 0)
    assert data.class_names == ("a y", "an x")
    assert data.prompts == ("see a y!", "see an x!")
    assert data.captions == ("one", "two", "three")
    assert data.caption_image == (0, 1, 0)


def test_zip_is_the_same_dataset(sample: Path, tmp_path: Path) -> None:
    packed = load_dataset(zipped(sample, tmp_path / "made.zip"))
    stored = load_dataset(zipped(sample, tmp_path / "stored.zip", zipfile.ZIP_STORED))
    folder = load_dataset(sample)
    assert packed.sha256 == stored.sha256 == folder.sha256
    assert packed.images[1].open().tobytes() == folder.images[1].open().tobytes()
    assert "made.zip:images/b.png" in str(packed.images[1])


def test_named_sample_is_the_bundled_one(
    sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(place, "SAMPLE", zipped(sample, tmp_path / "eval.zip"))
    assert load_dataset("sample").name == "sample"
    monkeypatch.chdir(tmp_path)
    picture(tmp_path / "sample" / "cat" / "1.png")
    assert load_dataset("./sample").class_names == ("cat",)


@pytest.mark.skipif(not SAMPLE.exists(), reason="the sample is not built in this tree")
def test_bundled_sample_loads() -> None:
    data = load_dataset("sample")
    assert len(data.images) == len(data.labels) > len(data.class_names) > 1
    assert len(data.captions) >= len(data.images)
    assert data.images[-1].open().mode == "RGB"


def test_images_may_be_named_relative_to_the_images_folder(sample: Path) -> None:
    rows = [{"image": "a.png", "caption": "one", "category": "x"}]
    before = write(sample / "captions.jsonl", lines(*rows)) and load_dataset(sample)
    assert before.images[0].name == "images/a.png"


def test_checksum_covers_what_scores_depend_on(classes: Path) -> None:
    seen = {load_dataset(classes).sha256}

    def changed(change: Callable[[], object]) -> bool:
        change()
        before = len(seen)
        seen.add(load_dataset(classes).sha256)
        return len(seen) > before

    assert not changed(lambda: write(classes / "README", "words"))
    assert not changed(lambda: os.utime(classes / "cat" / "1.png", (0, 0)))
    assert changed(lambda: picture(classes / "cat" / "1.png", 99))
    assert changed(lambda: (classes / "cat" / "1.png").rename(classes / "cat" / "9.png"))
    assert changed(lambda: write(classes / "templates.txt", "a {}"))
    assert changed(lambda: write(classes / "classes.json", '{"cat": "kitten"}'))
    assert changed(
        lambda: (
            (classes / "cat").rename(classes / "feline")
            and write(classes / "classes.json", '{"feline": "kitten"}')
        )
    )


def test_checksum_does_not_depend_on_place_or_kind_of_captions(
    captioned: Path, tmp_path: Path
) -> None:
    first = load_dataset(captioned)
    moved = captioned.rename(tmp_path / "elsewhere")
    rows = [
        {"image": first.images[i].name, "caption": caption}
        for caption, i in zip(first.captions, first.caption_image, strict=True)
    ]
    (moved / "captions.csv").unlink()
    write(moved / "captions.jsonl", "\n" + lines(*rows) + "\n")
    assert load_dataset(moved).sha256 == first.sha256


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_accented_names_match_in_either_spelling(tmp_path: Path, form: str) -> None:
    name = "café ☕ 猫.png"
    picture(tmp_path / unicodedata.normalize(form, name))
    other = "NFD" if form == "NFC" else "NFC"
    row = {"image": unicodedata.normalize(other, name), "caption": "un café"}
    write(tmp_path / "captions.jsonl", lines(row))
    data = load_dataset(tmp_path)
    assert data.images[0].name == unicodedata.normalize("NFC", name)
    assert data.images[0].open().size == (4, 3)


def test_links_are_followed_and_loops_end(classes: Path, tmp_path: Path) -> None:
    picture(tmp_path / "store" / "fox" / "1.png", 7)
    (classes / "fox").symlink_to(tmp_path / "store" / "fox")
    (classes / "cat" / "3.png").symlink_to(classes / "cat" / "1.png")
    (classes / "cat" / "loop").symlink_to(classes)
    data = load_dataset(classes)
    assert data.class_names == ("big dog", "cat", "fox")
    assert data.labels == (0, 1, 1, 1, 2)


def test_hidden_files_are_left_out(classes: Path, tmp_path: Path) -> None:
    before = load_dataset(classes).sha256
    for name in ("cat/._1.png", "__MACOSX/cat/._1.png", "__MACOSX/cat/2.png", "cat/.DS_Store"):
        (classes / name).parent.mkdir(parents=True, exist_ok=True)
        write(classes / name, "what another system leaves behind")
    picture(classes / ".thumbnails" / "1.png")
    assert load_dataset(classes).sha256 == before
    packed = load_dataset(zipped(classes, tmp_path / "z.zip"))
    assert packed.sha256 == before and not any("DS_Store" in note for note in packed.notes)


def test_hidden_files_of_tars_are_left_out(tmp_path: Path) -> None:
    files = [(f"{i}.{kind}", data) for i in range(2) for kind, data in sample_of(i).items()]
    plain = pack(tmp_path / "a" / "s.tar", files)
    hidden = [(f"{folder}._{name}", b"x") for name, _ in files for folder in ("", "__MACOSX/")]
    other = pack(tmp_path / "b" / "s.tar", [(".DS_Store", b"x"), *hidden, *files])
    assert load_dataset(plain).sha256 == load_dataset(other).sha256
    roots = [tmp_path / root for root in ("plain", "with")]
    for root, tar in zip(roots, (plain, other), strict=True):
        (root / "test").mkdir(parents=True)
        tar.rename(root / "test" / "0.tar")
        write(root / "test" / "nshards.txt", "1")
    (roots[1] / "test" / "._0.tar").write_bytes(b"x")
    assert load_dataset(roots[0]).sha256 == load_dataset(roots[1]).sha256


def sample_of(i: int) -> dict[str, bytes]:
    """The files of a sample: an image and its caption."""
    return {"png": made(i, "png"), "txt": f"no {i}".encode()}


def load_error(path: Path) -> str:
    with pytest.raises(UsageError) as caught:
        load_dataset(path)
    return str(caught.value)


def test_missing_and_empty(tmp_path: Path) -> None:
    assert "no dataset at" in load_error(tmp_path / "nowhere")
    assert "no images in" in load_error(tmp_path)
    assert "neither a folder nor a readable zip" in load_error(write(tmp_path / "x.txt", "hi"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("image,caption\na.png,x\nc.png,y\n", "line 3: no image 'c.png'"),
        ("image,caption\n../photos/a.png,x\n", "line 2: no image '../photos/a.png'"),
        ("image,caption\na.png,x\nb.png,\n", "line 3: empty caption"),
        ("image,caption\na.png,x\nb.png\n", "line 3: empty caption"),
        ("image,caption\na.png,'  \n ,x\n", "line 3: no image"),
        ("image,caption\na.png,red, round\n", "line 2: more fields than columns"),
        ("a.png,x\nb.png,y\n", "the header lacks caption, image"),
        ("image;caption\na.png;x\n", "the header lacks caption, image"),
        ("", "the header lacks caption, image"),
        ("image,caption\n", "has no row of an image below its header"),
        ('image,caption\na.png,"x\n', "unexpected end of data"),
    ],
)
def test_captions_csv_mistakes(captioned: Path, text: str, words: str) -> None:
    write(captioned / "captions.csv", text)
    message = load_error(captioned)
    assert words in message
    assert "captions.csv" in message


def test_captions_csv_in_another_encoding(captioned: Path) -> None:
    (captioned / "captions.csv").write_bytes("image,caption\na.png,caf\u00e9\n".encode("latin-1"))
    assert "captions.csv is not UTF-8" in load_error(captioned)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("{'image': 1}", "line 2: not JSON"),
        ("[1]", "line 2: need a JSON object"),
        ('{"image": "images/a.png"}', "line 2: no column caption"),
        ('{"image": 5, "caption": "x"}', "line 2: no image"),
        ('{"image": "images/a.png", "caption": "x"}', "line 2: category None is not in"),
        ('{"image": "images/a.png", "caption": "x", "category": ["x"]}', "is not in classes.json"),
        ('{"image": "images/a.png", "caption": "x", "category": "y"}', "another category"),
    ],
)
def test_captions_jsonl_mistakes(sample: Path, row: str, words: str) -> None:
    first = lines({"image": "images/a.png", "caption": "one", "category": "x"})
    write(sample / "captions.jsonl", first + row + "\n")
    message = load_error(sample)
    assert words in message
    assert "captions.jsonl" in message


@pytest.mark.parametrize(
    ("found", "words"),
    [
        ({}, "'categories' must be a list"),
        ({"categories": ["x", 3]}, "'categories' must be a list"),
        ({"categories": ["x", "y"], "class_names": ["x"]}, "differ in length"),
        ({"categories": ["x", "x"]}, "a category is there twice"),
        ({"categories": ["x", "y"], "templates": ["a photo"]}, "'a photo' has no {}"),
        ({"categories": ["x", "y"], "templates": []}, "no templates"),
        ({"categories": []}, "no classes"),
        (["x"], "need a JSON object"),
    ],
)
def test_sample_classes_mistakes(sample: Path, found: object, words: str) -> None:
    write(sample / "classes.json", json.dumps(found))
    message = load_error(sample)
    assert words in message
    assert "classes.json" in message


@pytest.mark.parametrize(
    ("found", "words"),
    [
        ({"cat": 1}, "must map folders to names"),
        ({"cta": "a cat"}, "names 'cta', which is not a folder"),
        ({"x" * 300: "long"}, "cannot be looked at"),
        ({"a\0": "zero"}, "cannot be looked at"),
    ],
)
def test_folder_classes_mistakes(classes: Path, found: object, words: str) -> None:
    write(classes / "classes.json", json.dumps(found))
    assert words in load_error(classes)


def test_template_mistakes(classes: Path) -> None:
    write(classes / "templates.txt", "a photo of a {}\na photo\n")
    assert "template 'a photo' has no {}" in load_error(classes)
    write(classes / "templates.txt", "\n")
    assert "no templates" in load_error(classes)


def test_ambiguous_layouts_say_what_to_do(classes: Path, captioned: Path) -> None:
    picture(classes / "stray.png")
    assert "images outside any class folder" in load_error(classes)
    write(classes / "captions.csv", "image,caption\nstray.png,x\n")
    message = load_error(classes)
    assert "(big_dog, cat)" in message and "move captions.csv elsewhere" in message
    write(captioned / "captions.jsonl", lines({"image": "a.png", "caption": "x"}))
    assert "both captions.csv and captions.jsonl" in load_error(captioned)


def test_what_is_not_an_image_is_named_when_loading(classes: Path) -> None:
    write(classes / "cat" / "bad.jpg", "<html>not found</html>")
    assert f"{classes / 'cat' / 'bad.jpg'} is not a readable image" in load_error(classes)
    (classes / "cat" / "bad.jpg").write_bytes(b"")
    assert "bad.jpg" in load_error(classes)
    (classes / "cat" / "bad.jpg").unlink()
    (classes / "cat" / "bad.jpg").symlink_to(classes / "gone.jpg")
    assert "bad.jpg" in load_error(classes)


def test_a_damaged_png_is_named_when_loading(classes: Path) -> None:
    path = classes / "cat" / "1.png"
    data = bytearray(path.read_bytes())
    data[-20] ^= 0xFF
    path.write_bytes(data)
    assert "1.png is not a readable image" in load_error(classes)


def test_a_cut_jpeg_is_named_when_decoded(classes: Path) -> None:
    path = classes / "cat" / "deep" / "2.JPG"
    Image.effect_noise((64, 64), 80).save(path)
    path.write_bytes(path.read_bytes()[:-500])
    data = load_dataset(classes)
    with pytest.raises(UsageError, match=r"2\.JPG is not a readable image"):
        data.images[2].open()


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow comments on damaged TIFF tags
@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "gif", "bmp", "tif", "ppm"])
def test_no_damage_escapes_as_another_error(tmp_path: Path, suffix: str) -> None:
    path = picture(tmp_path / "cat" / f"1.{suffix}")
    whole = path.read_bytes()
    for at in range(0, len(whole), max(1, len(whole) // 60)):
        for damaged in (whole[:at], whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :]):
            path.write_bytes(damaged)
            try:
                loaded: Dataset = load_dataset(tmp_path)
                loaded.images[0].open()
            except UsageError as exc:
                assert f"1.{suffix}" in str(exc)


def test_no_damage_to_a_zip_escapes_as_another_error(sample: Path, tmp_path: Path) -> None:
    path = zipped(sample, tmp_path / "made.zip")
    whole = path.read_bytes()
    for at in range(0, len(whole), 7):
        for damaged in (whole[:at], whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :]):
            path.write_bytes(damaged)
            try:
                load_dataset(path)
            except UsageError as exc:
                assert str(exc)


# --- what is left out -------------------------------------------------------------------------


def test_every_format_that_encode_images_reads_is_listed(tmp_path: Path) -> None:
    """These were dropped without a word."""
    for suffix in ("jfif", "tga", "jp2", "avif"):
        if suffix != "avif" or features.check("avif"):
            picture(tmp_path / f"class {suffix}" / f"1.{suffix}")
    data = load_dataset(tmp_path)
    assert {"class jfif", "class tga", "class jp2"} <= set(data.class_names)
    assert data.notes == ()
    zipped(tmp_path, tmp_path.parent / f"{tmp_path.name}.zip")
    assert load_dataset(tmp_path.parent / f"{tmp_path.name}.zip").sha256 == data.sha256


def test_what_is_left_out_is_counted_and_named(classes: Path) -> None:
    (classes / "fox").mkdir()
    for i in range(3):
        write(classes / "fox" / f"{i}.heic", "x")
    (classes / "void").mkdir()
    notes = load_dataset(classes).notes
    assert notes == (
        "pets: left out 4 files of other suffixes: .heic 3, .txt 1 (first: cat/notes.txt)",
        "pets: 2 class folders without images (fox, void), no classes unless classes.json names "
        "them",
    )
    assert (
        load_dataset(zipped(classes, classes.parent / "p.zip"))
        .notes[1]
        .startswith("p.zip: 1 class folders without images (fox)")
    )


def test_images_without_captions_are_counted(captioned: Path) -> None:
    picture(captioned / "c.png")
    assert load_dataset(captioned).notes == (
        "photos: left out 1 image that no caption names (c.png)",
    )
    assert load_dataset("sample").notes == ()


def test_images_of_16_bits_are_named(classes: Path) -> None:
    Image.fromarray(np.full((4, 3), 40_000, np.uint16)).save(classes / "cat" / "deep.png")
    (note,) = load_dataset(classes).notes[1:]
    assert "1 images hold values that are no bytes" in note and "cat/deep.png" in note


# --- going on without unreadable images -------------------------------------------------------


def damage(root: Path) -> None:
    """A cut JPEG whose header is whole, a text, and a pipe."""
    Image.effect_noise((64, 64), 80).save(root / "cat" / "cut.jpg")
    whole = (root / "cat" / "cut.jpg").read_bytes()
    (root / "cat" / "cut.jpg").write_bytes(whole[:-900])
    write(root / "cat" / "text.png", "no image")
    (root / "odd").mkdir()
    os.mkfifo(root / "odd" / "pipe.png")


def test_unreadable_images_can_be_left_out(classes: Path) -> None:
    before = load_dataset(classes)
    damage(classes)
    assert "text.png" in load_error(classes)
    data = load_dataset(classes, skip_unreadable=True)
    assert (data.sha256, data.images, data.labels, data.class_names) == (
        *(before.sha256, before.images, before.labels, before.class_names),
    )
    skipped = next(note for note in data.notes if "cannot be read" in note)
    assert skipped.startswith("pets: left out 3 images that cannot be read, for every runtime")
    for name in ("cut.jpg", "text.png", "it is a named pipe"):
        assert name in skipped
    assert any("no image of 1 classes can be read: odd" in note for note in data.notes)


def test_a_class_of_which_nothing_can_be_read_is_named(classes: Path, captioned: Path) -> None:
    (classes / "big_dog" / "1.webp").write_bytes(b"")
    data = load_dataset(classes, skip_unreadable=True)
    assert data.class_names == ("cat",)
    assert "pets: no image of 1 classes can be read: big dog" in data.notes
    (captioned / "captions.csv").unlink()
    write(captioned / "labels.csv", "image,label\na.png,x\nb.png,y\n")
    (captioned / "a.png").write_bytes(b"")
    notes = load_dataset(captioned, skip_unreadable=True).notes
    assert [note for note in notes if note.endswith("no image of 1 classes can be read: x")]
    write(captioned / "classnames.txt", "sea\nsky\n")
    write(captioned / "labels.csv", "image,label\na.png,1\nb.png,0\n")
    notes = load_dataset(captioned, skip_unreadable=True).notes
    assert [note for note in notes if note.endswith("no image of 1 classes can be read: sky")]


def test_images_that_fit_no_frame_are_left_out_too(classes: Path) -> None:
    """They can be decoded, and fail where a model prepares them."""
    before = load_dataset(classes)
    Image.new("RGB", (1, 600)).save(classes / "cat" / "line.png")
    Image.new("I;16", (1, 400)).save(classes / "cat" / "deep.tiff")
    assert len(load_dataset(classes).images) == len(before.images) + 2
    data = load_dataset(classes, skip_unreadable=True)
    assert data.images == before.images
    skipped = next(note for note in data.notes if "cannot be read" in note)
    assert "line.png: 1x600 pixels are too narrow for resize mode 'longest'" in skipped
    assert "deep.tiff: 1x400 pixels" in skipped and "scale it to 8 bits first" in skipped


def test_captions_of_unreadable_images_are_left_out_too(captioned: Path) -> None:
    (captioned / "a.png").write_bytes(b"")
    data = load_dataset(captioned, skip_unreadable=True)
    assert data.captions == ("blue",) and data.caption_image == (0,)
    assert [image.name for image in data.images] == ["b.png"]
    assert "left out 1 image that cannot be read" in data.notes[0]
    (captioned / "b.png").write_bytes(b"")
    with pytest.raises(UsageError, match=r"no image in .* can be read: .*a\.png is not a readable"):
        load_dataset(captioned, skip_unreadable=True)


def test_a_class_that_is_named_stays_without_its_images(sample: Path, classes: Path) -> None:
    write(classes / "classes.json", json.dumps({"big_dog": "hound"}))
    (classes / "big_dog" / "1.webp").write_bytes(b"")
    for path in (classes, zipped(classes, classes.parent / "p.zip")):
        data = load_dataset(path, skip_unreadable=True)
        assert (data.class_names, data.labels) == (("hound", "cat"), (1, 1))


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b", "data:image/png;base64," + "A" * 10**6])
def test_what_is_no_dataset_is_quoted_in_part(name: str) -> None:
    with pytest.raises(UsageError, match=r"no dataset at|cannot be looked at") as caught:
        load_dataset(name)
    assert len(str(caught.value)) < 1500


def test_mistakes_of_any_length_are_quoted_in_part(captioned: Path, sample: Path) -> None:
    write(captioned / "captions.csv", f"image,caption\n{'y' * 100_000},x\n")
    assert len(load_error(captioned)) < 1500
    row = {"image": "images/a.png", "caption": "one", "category": "x" * 10**6}
    write(sample / "captions.jsonl", lines(row))
    assert len(load_error(sample)) < 1500
