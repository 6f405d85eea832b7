"""Near-duplicates of copies that were changed, and what an overlap does to an accuracy."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clipperf.evals import duplicates
from clipperf.evals.duplicates import CROPS, colours, near_duplicates, signature
from clipperf.evals.overlap import Share, evaluated_images, images_of, overlap_of
from clipperf.inputs.sources import ImageSource

Change = Callable[[Image.Image], Image.Image]


def scene(seed: int) -> Image.Image:
    """Soft shapes in colour, as far from another seed's as photos of different things are."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (7, 9, 3), np.uint8))
    return small.resize((180, 140), Image.Resampling.BICUBIC)


def jpeg(image: Image.Image) -> Image.Image:
    data = io.BytesIO()
    image.save(data, "JPEG", quality=30)
    return Image.open(data)


def jitter(image: Image.Image) -> Image.Image:
    hsv = np.asarray(image.convert("HSV")).astype(int) + np.array([6, 0, 0])
    hsv[..., 2] = hsv[..., 2] * 0.85
    return Image.fromarray((hsv % 256).astype(np.uint8), "HSV").convert("RGB")


CHANGES: dict[str, Change] = {
    "jpeg": jpeg,
    "aspect": lambda image: image.resize((240, 140)),
    "down and up": lambda image: image.resize((60, 47), Image.Resampling.NEAREST).resize(
        (180, 140)
    ),
    "zoom": lambda image: image.crop((18, 14, 162, 126)),
    "corner": lambda image: image.crop((0, 0, 155, 120)),
    "jitter": jitter,
    "rotated": lambda image: image.rotate(2, Image.Resampling.BICUBIC),
}


def stored(folder: Path, images: list[Image.Image]) -> list[ImageSource]:
    folder.mkdir()
    for number, image in enumerate(images):
        image.convert("RGB").save(folder / f"{number}.png")
    return [ImageSource(f"{n}.png", folder / f"{n}.png") for n in range(len(images))]


@pytest.mark.parametrize("change", CHANGES)
def test_changed_copies_are_found_and_nothing_else(change: str, tmp_path: Path) -> None:
    there = stored(tmp_path / "there", [scene(seed) for seed in range(60)])
    copies = [CHANGES[change](scene(seed)) for seed in range(10, 30)]
    here = stored(tmp_path / "here", [*copies, *(scene(seed) for seed in range(100, 120))])
    found = near_duplicates(here, there)
    assert all(match.other == match.own + 10 for match in found), "of other images"
    assert len(found) >= 18, f"{len(found)} of 20"
    assert all(match.bits <= 14 and match.cosine is None for match in found)


def test_embeddings_decide_about_what_is_near(tmp_path: Path) -> None:
    image = scene(1)
    faded = Image.merge("RGB", [image.getchannel(c) for c in "BRG"])  # like shapes, other colours
    here, there = stored(tmp_path / "here", [faded]), stored(tmp_path / "there", [image, scene(2)])
    grey = [stored(tmp_path / name, [i.convert("L")]) for name, i in (("g", faded), ("h", image))]
    assert not near_duplicates(here, there)
    assert signature(image).shape == (len(CROPS),) and colours(image).shape[0] == len(CROPS)
    one, other = np.eye(2)[:1], np.array([[1.0, 0.0], [1.0, 0.0]])
    assert not near_duplicates(here, there, (one, np.array([[0.8, 0.6], [1.0, 0.0]])))
    near = near_duplicates(grey[0], grey[0], (one, other[:1]))
    assert [(match.own, match.other, match.bits, match.cosine) for match in near] == [(0, 0, 0, 1)]


@pytest.mark.parametrize("kind", ["png", "bmp", "webp"])
def test_a_copy_is_found_whatever_it_shows(kind: str, tmp_path: Path) -> None:
    """One colour has no frequencies, and no colours around their mean."""
    plain = [Image.new("RGB", (40, 30), colour) for colour in ("red", "blue", "white")]
    there = stored(tmp_path / "there", [scene(1), *plain])
    (tmp_path / "here").mkdir()
    here = []
    for number, image in enumerate([plain[1], Image.new("RGB", (40, 30), "green"), plain[0]]):
        path = tmp_path / "here" / f"{number}.{kind}"
        image.save(path, lossless=True)
        here.append(ImageSource(path.name, path))
    found = near_duplicates(here, there)
    assert [(match.own, match.other) for match in found] == [(0, 2), (2, 1)]
    assert all((match.bits, match.colour) == (0, 1) for match in found)
    # Of equal bytes, too, and never of two images of other sizes.
    assert [m.other for m in near_duplicates(there[1:], there)] == [1, 2, 3]
    larger = stored(tmp_path / "larger", [Image.new("RGB", (80, 60), "red")])
    assert near_duplicates(larger, there) == []


def test_hashes_are_compared_tile_by_tile(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    other = rng.integers(0, 2**63, (70, len(CROPS)), np.uint64)
    own = np.concatenate([other[[69, 3, 30]], rng.integers(0, 2**63, (2, len(CROPS)), np.uint64)])
    other[40] = other[3]
    whole = list(duplicates._nearest(own, other))
    assert whole[0][0] == (0, 69) and whole[1][:2] == [(0, 3), (0, 40)]
    shapes: list[tuple[int, int]] = []
    plain = duplicates._distances

    def told(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        shapes.append((len(rows), len(columns)))
        return plain(rows, columns)

    monkeypatch.setattr(duplicates, "_distances", told)
    monkeypatch.setattr(duplicates, "_ROWS", 2)
    monkeypatch.setattr(duplicates, "_OTHERS", 16)
    assert list(duplicates._nearest(own, other)) == whole
    assert max(shapes) == (2, 16) and len(shapes) == 3 * 5
    # All alike: so many are looked at, and no more.
    same = list(duplicates._nearest(np.repeat(own[:1], 3, 0), np.repeat(own[:1], 50, 0)))
    assert same == [[(0, i) for i in range(duplicates.CANDIDATES)]] * 3


def test_an_overlap_by_hand() -> None:
    hits = np.array([True] * 8 + [False] * 2 + [True] * 5 + [False] * 5)
    found = overlap_of(hits, np.arange(20) < 10)
    assert (found.all, found.overlap, found.clean) == (Share(13, 20), Share(8, 10), Share(5, 10))
    assert found.gained == pytest.approx(0.65 - 0.5)
    # At least eight of ten heads: (45 + 10 + 1) / 1024.
    assert found.p == pytest.approx(56 / 1024)
    assert found.overlap.interval is not None
    assert found.overlap.interval[0] == pytest.approx(0.31932, abs=1e-4)
    sure = overlap_of(np.arange(100) < 60, np.arange(100) < 20)
    # All 20 against a half: 2^-20.
    assert sure.p == pytest.approx(0.5**20, rel=1e-6)


def test_an_overlap_of_nothing_and_of_all() -> None:
    hits = np.array([True, False])
    none, every = overlap_of(hits, np.zeros(2, bool)), overlap_of(hits, np.ones(2, bool))
    assert (none.overlap.accuracy, none.overlap.interval, none.p) == (None, None, None)
    assert none.gained == 0 and every.gained is None and every.p is None


def test_the_command(cli, sample_artifact: Path, tmp_path: Path) -> None:
    """Copies of half of the images of two classes, and photos of something else."""
    for name, seeds in (("red", range(6)), ("blue", range(6, 12))):
        stored(tmp_path / name, [scene(seed) for seed in seeds])
    data = tmp_path / "evaluated"
    data.mkdir()
    for name in ("red", "blue"):
        (tmp_path / name).rename(data / name)
    copies = [jpeg(scene(seed)) for seed in (0, 1, 2, 9)]
    stored(tmp_path / "other", [*copies, *(scene(seed) for seed in range(50, 60))])
    done = cli("overlap", data, tmp_path / "other", "-q")
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines()]
    assert ["All", "12", "100.0", "%"] in rows and ["Overlap", "4", "33.3", "%"] in rows
    assert ["Clean", "8", "66.7", "%"] in rows and "red/1.png is near 1.png" in done.stdout
    home = sample_artifact.parents[3]
    told = cli(
        "overlap", data, tmp_path / "other", "--model", sample_artifact, "--json", "-q", home=home
    )
    assert told.returncode == 0, told.stderr
    found = json.loads(told.stdout)
    assert (found["n"], len(found["pairs"])) == (12, 4)
    parts = found["accuracy"]
    assert (parts["all"]["n"], parts["overlap"]["n"], parts["clean"]["n"]) == (12, 4, 8)
    # Photos alone have no classes: pairs, and no accuracy.
    asked = ("overlap", tmp_path / "other", data, "--model", sample_artifact, "--json", "-q")
    found = json.loads(cli(*asked, home=home, check=True).stdout)
    assert (found["n"], len(found["pairs"]), found["accuracy"]) == (14, 4, None)
    # Images that cannot be read fail the command, or are left out on either side, and named.
    for folder in (data / "red", tmp_path / "other"):
        (folder / "broken.png").write_bytes((folder / "0.png").read_bytes()[:200])
    asked = ("overlap", data, tmp_path / "other", "-q")
    done = cli(*asked)
    assert done.returncode == 2 and "broken.png" in done.stderr
    done = cli(*asked, "--skip-unreadable", check=True)
    assert ["All", "12", "100.0", "%"] in [line.split() for line in done.stdout.splitlines()]
    said = "".join(done.stdout.split())  # lines may end anywhere in a long path
    for folder, name in ((data, "red/broken.png"), (tmp_path / "other", "broken.png")):
        assert f"{folder.name}:leftout1imagethatcannotberead" in said
        assert f"{folder / name}isnotareadableimage" in said
    model = ("--model", sample_artifact, "--json", "--skip-unreadable")
    found = json.loads(cli(*asked, *model, home=home, check=True).stdout)
    assert (found["n"], found["accuracy"]["all"]["n"], len(found["pairs"])) == (12, 12, 4)
    assert [note.split(": ", 1)[1][:28] for note in found["notes"]] == [
        "the 12 images that clipperf ",
        *["left out 1 image that cannot"] * 2,
    ]
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.png").write_bytes(b"none")
    done = cli("overlap", tmp_path / "bad", data, "--skip-unreadable")
    assert done.returncode == 2 and "no image in" in done.stderr
    nothing = cli("overlap", tmp_path / "none", tmp_path / "other")
    assert nothing.returncode == 2 and "no dataset at" in nothing.stderr
    nothing = cli("overlap", data, tmp_path / "none", "--skip-unreadable")
    assert nothing.returncode == 2 and "no folder, zip or tar" in nothing.stderr


def in_splits(folder: Path) -> Path:
    """Two classes of three images each in the split "test", and of four other ones in "train"."""
    for split, first, count in (("test", 0, 3), ("train", 20, 4)):
        (folder / split).mkdir(parents=True)
        for i, name in enumerate(("red", "blue")):
            seeds = range(first + count * i, first + count * (i + 1))
            stored(folder / split / name, [scene(seed) for seed in seeds])
    return folder


def shards(folder: Path, images: Path) -> Path:
    """A WebDataset of a folder in splits."""
    folder.mkdir()
    (folder / "classnames.txt").write_text("blue\nred\n")
    for split in ("test", "train"):
        (folder / split).mkdir()
        with tarfile.open(folder / split / "0.tar", "w") as archive:
            for i, path in enumerate(sorted((images / split).rglob("*.png"))):
                label = str(int(path.parent.name == "red")).encode()
                archive.add(path, f"{i}.png")
                info = tarfile.TarInfo(f"{i}.cls")
                info.size = len(label)
                archive.addfile(info, io.BytesIO(label))
    return folder


def test_the_same_images_count_with_a_model_and_without(
    cli, sample_artifact: Path, tmp_path: Path
) -> None:
    """Those of the test split, of which half are in the other folder; all of its own train are."""
    data = in_splits(tmp_path / "data")
    other = tmp_path / "other"
    shutil.copytree(data / "train", other)
    shutil.copytree(data / "test" / "red", other / "more")
    toml = tmp_path / "mine.toml"
    toml.write_text('data = "data"\n')
    packed = shards(tmp_path / "packed", data)
    for evaluated in (data, toml, packed):
        for model in ((), ("--model", sample_artifact)):
            asked = ("overlap", evaluated, other, *model, "--json", "-q")
            found = json.loads(cli(*asked, home=sample_artifact.parents[3], check=True).stdout)
            assert (found["n"], len(found["pairs"])) == (6, 3), (evaluated, model)
            assert found["notes"][0] == (
                f"{evaluated.name}: the 6 images that clipperf eval evaluates of it were looked "
                "at, and no others"
            )


def test_what_the_other_images_may_be(tmp_path: Path) -> None:
    data = in_splits(tmp_path / "data")
    packed = shards(tmp_path / "packed", data)
    (tmp_path / "mine.toml").write_text('data = "data"\n')
    assert len(images_of(str(data))[0]) == len(images_of(str(packed))[0]) == 6 + 8
    assert images_of(str(packed))[0][0].name == "test/0.tar/0.png"
    assert len(images_of(str(tmp_path / "mine.toml"))[0]) == 6
    # Where nothing is a test all count: photos alone, and what has no such split.
    for name, count in (("data/test/red", 3), ("only", 8)):
        if name == "only":
            shutil.copytree(data / "train", tmp_path / "only" / "train")
        found, none, notes = evaluated_images(str(tmp_path / name))
        assert (len(found), none) == (count, None)
        assert notes == [
            f"{tmp_path / name}: nothing of it is a test with answers: all of its {count} images "
            "were looked at"
        ]
