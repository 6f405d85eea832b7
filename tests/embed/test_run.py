"""A dataset to vectors: what is written, what is refused, and where a run goes on."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import shutil
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import leftovers
from PIL import Image

import clipperf
from clipperf.embed import keeping
from clipperf.embed import run as runs
from clipperf.embed.formats import FORMATS
from clipperf.embed.items import Item, Wanted
from clipperf.embed.manifest import check_same, read_manifest
from clipperf.embed.run import embed
from clipperf.embed.shards import corrupt_in
from clipperf.embed.wishes import Limit, Summary, Wishes
from clipperf.errors import (
    ArtifactError,
    CorruptError,
    MissingDependencyError,
    StorageError,
    UsageError,
)
from clipperf.serve.bulk import Tower, open_tower
from clipperf.system import temporaries
from clipperf.system.files import locked

SHARD = 5
WISHES = Wishes(shard_items=SHARD)

Embed = Callable[..., Summary]


@pytest.fixture
def opened(sample_artifact: Path) -> Callable[[], Tower]:
    def tower(side: Any = "image", batch: int = 4) -> Tower:
        found = open_tower(sample_artifact, side, threads=1)
        found.batch = batch
        return found

    return tower


@pytest.fixture
def photos(tmp_path: Path, samples: str) -> Path:
    """Twelve images, some of them with odd names and in folders; two of them are corrupt."""
    folder = tmp_path / "photos"
    (folder / "Größe" / "深").mkdir(parents=True)
    images = sorted(Path(samples).glob("*.png"))[:10]
    assert len(images) == 10
    for number, image in enumerate(images):
        sub = ("", "Größe", "Größe/深")[number % 3]
        shutil.copy(image, folder / sub / f"{number} “é”.png")
    (folder / "0 cut.png").write_bytes(images[0].read_bytes()[:200])
    (folder / "no image.jpg").write_text("not an image")
    (folder / "notes.md").write_text("no image either")
    return folder


def ids_of(out: Path) -> list[str]:
    files = sorted(out.glob("*.ids.json"))
    return [id_ for file in files for id_ in json.loads(file.read_text("utf-8"))]


def vectors_of(out: Path) -> np.ndarray:
    return np.concatenate([np.load(file) for file in sorted(out.glob("*.npy"))])


def content(out: Path) -> dict[str, bytes]:
    """What a run leaves; when it was begun is the manifest's alone."""
    return {p.name: p.read_bytes() for p in sorted(out.iterdir()) if p.name != "manifest.json"}


def reasons(out: Path, shards: int) -> dict[str, str]:
    return {i: reason for number in range(shards) for i, reason in corrupt_in(out, number)}


# --- what is written -----------------------------------------------------------------------


def test_vectors_are_those_of_load(
    photos: Path, tmp_path: Path, opened: Any, sample_artifact: Path
) -> None:
    out = tmp_path / "out"
    summary = embed(photos, out, opened, WISHES)
    names = ids_of(out)
    assert len(names) == 10 and set(names) == {
        p.relative_to(photos).as_posix() for p in photos.rglob("*“é”.png")
    }
    with clipperf.load(sample_artifact, threads=1) as model:
        expected = model.encode_images([photos / name for name in names])
    assert np.abs(vectors_of(out) - expected).max() < 1e-5
    assert (summary.vectors, summary.corrupt, summary.shards, summary.made) == (10, 2, 3, 3)
    # 12 items in shards of 5.
    records = [json.loads((out / f"shard-00000{i}.json").read_text()) for i in range(3)]
    assert [record["items"] for record in records] == [5, 5, 2]
    assert sum(record["rows"] for record in records) == 10
    why = reasons(out, 3)
    assert why.keys() == {"0 cut.png", "no image.jpg"}
    assert why["no image.jpg"].startswith("not an image, or a format")
    assert dict(summary.named) == why
    assert not leftovers(tmp_path)


@pytest.mark.parametrize("format", FORMATS)
def test_every_form_holds_the_same(format: str, photos: Path, tmp_path: Path, opened: Any) -> None:
    embed(photos, tmp_path / "npy", opened, replace(WISHES, normalize=True))
    out = tmp_path / "out"
    embed(photos, out, opened, replace(WISHES, normalize=True, format=format))
    ids: list[str] = []
    parts: list[np.ndarray] = []
    for stem in (f"shard-00000{i}" for i in range(3)):
        if format == "parquet":
            table = pytest.importorskip("pyarrow.parquet").read_table(out / f"{stem}.parquet")
            ids += table["id"].to_pylist()
            parts.append(np.array(table["vector"].to_pylist(), np.float32))
        elif format == "safetensors":
            safetensors = pytest.importorskip("safetensors")
            with safetensors.safe_open(out / f"{stem}.safetensors", "numpy") as file:
                ids += json.loads(file.metadata()["ids"])
                parts.append(file.get_tensor("vectors"))
        else:
            ids += json.loads((out / f"{stem}.ids.json").read_text("utf-8"))
            parts.append(np.load(out / f"{stem}.npy"))
    assert ids == ids_of(tmp_path / "npy")
    found = np.concatenate(parts)
    assert np.array_equal(found, vectors_of(tmp_path / "npy"))
    assert np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)


def test_half_floats(photos: Path, tmp_path: Path, opened: Any) -> None:
    embed(photos, tmp_path / "whole", opened, replace(WISHES, normalize=True))
    embed(photos, tmp_path / "half", opened, replace(WISHES, normalize=True, dtype="float16"))
    half, whole = vectors_of(tmp_path / "half"), vectors_of(tmp_path / "whole")
    assert half.dtype == np.float16 and np.array_equal(half, whole.astype(np.float16))


def test_texts(tmp_path: Path, opened: Any, sample_artifact: Path) -> None:
    file = tmp_path / "captions.csv"
    rows = [("a", "a red apple"), ("b", ""), ("c", "ein Gebäude, groß"), ("d", "a red apple")]
    with file.open("w", newline="", encoding="utf-8") as opened_file:
        csv.writer(opened_file).writerows([("ID", "Caption"), *rows])
    wishes = Wishes(wanted=Wanted("text"), shard_items=3)
    embed(file, tmp_path / "out", lambda: opened("text"), wishes)
    assert ids_of(tmp_path / "out") == ["a", "c", "d"]
    with clipperf.load(sample_artifact, threads=1) as model:
        expected = model.encode_texts(["a red apple", "ein Gebäude, groß", "a red apple"])
    assert np.abs(vectors_of(tmp_path / "out") - expected).max() < 1e-5
    assert reasons(tmp_path / "out", 2) == {"b": "an empty text"}


def test_a_text_that_its_tokenizer_refuses_is_corrupt_alone(opened: Any) -> None:
    # Without spaces there is nowhere to cut it before it is cleaned.
    with opened("text") as tower:
        rows, bad = tower.texts(["a cat", "x" * (1 << 20) + "y", "a dog"])
        assert bad.keys() == {1} and np.isnan(rows[1]).all()
        assert np.array_equal(rows[[0, 2]], tower.texts(["a cat", "a dog"])[0])


# --- where it goes on ----------------------------------------------------------------------


def test_what_is_whole_is_not_made_again(photos: Path, tmp_path: Path, opened: Any) -> None:
    out = tmp_path / "out"
    embed(photos, out, opened, WISHES)
    before = content(out)
    assert embed(photos, out, opened, WISHES).made == 0
    (out / "shard-000001.json").unlink()
    (out / "shard-000002.npy").write_bytes(b"cut")
    times = {p.name: p.stat().st_mtime_ns for p in out.glob("shard-000000*")}
    summary = embed(photos, out, opened, WISHES)
    assert (summary.made, summary.tried, summary.vectors, summary.corrupt) == (2, 7, 10, 2)
    assert content(out) == before
    assert times == {p.name: p.stat().st_mtime_ns for p in out.glob("shard-000000*")}


def test_damage_that_keeps_the_size_is_found_with_verify(
    photos: Path, tmp_path: Path, opened: Any
) -> None:
    out = tmp_path / "out"
    embed(photos, out, opened, WISHES)
    before = content(out)
    data = bytearray((out / "shard-000001.npy").read_bytes())
    data[-1] ^= 1
    (out / "shard-000001.npy").write_bytes(data)
    assert embed(photos, out, opened, WISHES).made == 0
    assert embed(photos, out, opened, replace(WISHES, verify=True)).made == 1
    assert content(out) == before


class Killed(BaseException):
    """As SIGKILL: nothing is tidied up behind it, as far as Python can do that."""


@pytest.mark.parametrize("calls", range(1, 12))
def test_ended_at_any_file_it_goes_on(
    calls: int, photos: Path, tmp_path: Path, opened: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each file that is renamed in turn is the last one."""
    embed(photos, tmp_path / "whole", opened, WISHES)
    real, left = os.replace, [calls]

    def replaced(*args: Any) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise Killed
        real(*args)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", replaced)
        try:
            embed(photos, tmp_path / "out", opened, WISHES)
        except Killed:
            ended = True
        else:
            ended = False
    # A manifest; two files, or three where items are corrupt, and a record for each of 3 shards.
    assert ended == (calls < 12)
    embed(photos, tmp_path / "out", opened, WISHES)
    assert content(tmp_path / "out") == content(tmp_path / "whole")


def test_items_are_taken_as_they_are_needed(
    photos: Path, tmp_path: Path, opened: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside the batch that runs one is ready and one is prepared: no more is in memory."""
    taken, ahead, real = [0], [0], runs.datasets.opened
    alive: weakref.WeakSet[Item] = weakref.WeakSet()
    most = [0]

    def counted(items: Iterator[Item]) -> Iterator[Item]:
        for item in items:
            taken[0] += 1
            alive.add(item)
            yield item

    def dataset(*args: Any) -> Any:
        found = real(*args)
        return replace(found, items=lambda start: counted(found.items(start)))

    def told(said: str, done: int, total: int) -> None:
        ahead.append(taken[0] - done)
        most.append(len(alive))

    monkeypatch.setattr(runs.datasets, "opened", dataset)
    embed(
        *(photos, tmp_path / "out", lambda: opened(batch=2), replace(WISHES, shard_items=12)),
        on_items=told,
    )
    assert taken[0] == 12 and 0 < max(ahead) <= 4
    assert max(most) <= 8  # those that are done and the last loops' own


def test_a_dataset_that_changes_while_it_is_read(photos: Path, tmp_path: Path, opened: Any) -> None:
    def told(said: str, done: int, total: int) -> None:
        os.utime(photos / "0 cut.png", ns=(1, 1))

    with pytest.raises(UsageError, match="changed while it was read"):
        embed(photos, tmp_path / "out", opened, WISHES, on_items=told)


def test_vectors_that_half_floats_have_no_room_for(
    photos: Path, tmp_path: Path, opened: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeping, "finished", lambda rows, *_: np.full_like(rows, 70_000))
    with pytest.raises(UsageError, match="float16 has no room"):
        embed(photos, tmp_path / "out", opened, replace(WISHES, dtype="float16"))


# --- what is refused -----------------------------------------------------------------------


def test_another_run_is_refused(photos: Path, tmp_path: Path, opened: Any) -> None:
    out = tmp_path / "out"
    embed(photos, out, opened, WISHES)
    before = content(out)
    for wishes, said in (
        (replace(WISHES, normalize=True), "normalisation was False, now True"),
        (replace(WISHES, shard_items=6), "--shard-items was 5, now 6; shards was 3, now 2"),
        (replace(WISHES, format="parquet"), "--format was 'npy', now 'parquet'"),
        (replace(WISHES, dtype="float16"), "--dtype was 'float32', now 'float16'"),
    ):
        with pytest.raises(UsageError, match=f"was begun with something else: {said}. Repeat"):
            embed(photos, out, opened, wishes)
    with pytest.raises(UsageError, match="batch was 4, now 2"):
        embed(photos, out, lambda: opened(batch=2), WISHES)
    with pytest.raises(UsageError, match="--tower was 'image', now 'text'; artifact was"):
        text = Wishes(wanted=Wanted("text"), shard_items=SHARD)
        (photos / "a.txt").write_text("a")
        embed(photos, out, lambda: opened("text"), text)
    shutil.copy(photos / "0 cut.png", photos / "one more.png")
    with pytest.raises(
        UsageError, match=r"the dataset was 12 files of .* now 13 files of .* bytes"
    ):
        embed(photos, out, opened, WISHES)
    (photos / "one more.png").unlink()
    os.utime(photos / "0 cut.png", (1, 1))
    with pytest.raises(UsageError, match=r"has 12 files of .* as before, but .* times of change"):
        embed(photos, out, opened, WISHES)
    assert content(out) == before


def test_another_preprocessing_is_named_as_its_option_is(
    photos: Path, tmp_path: Path, opened: Any
) -> None:
    embed(photos, tmp_path / "out", opened, WISHES)
    told = read_manifest(tmp_path / "out")
    assert told.preprocess is not None
    other = replace(told, preprocess={**told.preprocess, "method": "fast"})
    with pytest.raises(UsageError, match=r"else: --preprocess was 'exact', now 'fast'\. Repeat"):
        check_same(tmp_path / "out", told, other)


def test_another_artifact_is_refused(
    photos: Path, tmp_path: Path, opened: Any, sample_artifact: Path
) -> None:
    """Such as one that was exported anew, of other weights or with another opset."""
    embed(photos, tmp_path / "out", opened, WISHES)
    folder = shutil.copytree(sample_artifact, tmp_path / "other")
    manifest = json.loads((folder / "manifest.json").read_text())
    for tower in manifest["towers"]:
        tower["key"] = "0123456789abcdef"
    (folder / "manifest.json").write_text(json.dumps(manifest))

    def other() -> Tower:
        found = open_tower(folder, "image", threads=1)
        found.batch = 4
        return found

    said = r"else: artifact was '[0-9a-f]{16}', now '0123456789abcdef'\. Repeat"
    with pytest.raises(UsageError, match=said):
        embed(photos, tmp_path / "out", other, WISHES)


def test_a_second_run_beside_it_is_refused(photos: Path, tmp_path: Path, opened: Any) -> None:
    out = tmp_path / "out"
    with locked(out), pytest.raises(StorageError, match="another command is writing"):
        embed(photos, out, opened, WISHES)
    assert embed(photos, out, opened, WISHES).made == 3


def test_folders_with_something_else_are_refused(photos: Path, tmp_path: Path, opened: Any) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    with pytest.raises(UsageError, match=r"holds other files \(thesis.tex\)"):
        embed(photos, tmp_path / "mine", opened, WISHES)
    with pytest.raises(UsageError, match="lies in the dataset"):
        embed(photos, photos / "out", opened, WISHES)
    (tmp_path / "alien").mkdir()
    (tmp_path / "alien" / "manifest.json").write_text('{"schema_version": 1, "kind": "x"}')
    with pytest.raises(ArtifactError, match="is not of vectors"):
        embed(photos, tmp_path / "alien", opened, WISHES)
    with pytest.raises(UsageError, match="no format 'csv': choose npy, safetensors, parquet"):
        embed(photos, tmp_path / "out", opened, replace(WISHES, format="csv"))
    with pytest.raises(UsageError, match="there is no such file or folder"):
        embed(tmp_path / "absent", tmp_path / "out", opened, WISHES)
    assert not (tmp_path / "out").exists()


def test_nothing_to_embed_leaves_nothing(tmp_path: Path, opened: Any) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="holds nothing to embed"):
        embed(tmp_path / "empty", tmp_path / "out", opened, WISHES)
    (tmp_path / "empty.csv").write_text("image\n")
    with pytest.raises(UsageError, match="holds nothing to embed"):
        embed(tmp_path / "empty.csv", tmp_path / "out", opened, WISHES)
    assert [path.name for path in tmp_path.iterdir() if "out" in path.name] == []


def test_a_package_that_is_missing(
    photos: Path, tmp_path: Path, opened: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"clipperf\[embed\]"):
        embed(photos, tmp_path / "out", opened, replace(WISHES, format="safetensors"))


def test_what_others_left_or_write_stays(photos: Path, tmp_path: Path, opened: Any) -> None:
    """An artifact that is set aside, and what another writer is at."""
    for name in (".tmp-old-model", ".tmp-1-0123abcd-model"):
        out = tmp_path / f"out{name}"
        (out / name).mkdir(parents=True)
        (out / name / "tower.onnx").write_text("x")
        with pytest.raises(UsageError, match="holds other files"):
            embed(photos, out, opened, WISHES)
        assert (out / name / "tower.onnx").exists()
    out = tmp_path / "out"
    out.mkdir()
    with temporaries.made(out / "shard-000000.npy") as held:
        (out / ".tmp-1-0123abcd-listing").mkdir()
        embed(photos, out, opened, WISHES)
        assert held.exists() and not (out / ".tmp-1-0123abcd-listing").exists()


def test_a_folder_that_was_there_stays(photos: Path, tmp_path: Path, opened: Any) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="holds nothing to embed"):
        embed(tmp_path / "empty", tmp_path / "mine", opened, WISHES)
    assert (tmp_path / "mine").is_dir()


def test_without_a_shard_it_begins_anew(photos: Path, tmp_path: Path, opened: Any) -> None:
    """Such as after a first try in which nothing could be embedded."""
    out = tmp_path / "out"
    embed(photos, out, opened, WISHES)
    for record in out.glob("shard-??????.json"):
        record.unlink()
    other = replace(WISHES, normalize=True, shard_items=12)
    assert embed(photos, out, opened, other).made == 1
    embed(photos, tmp_path / "fresh", opened, other)
    assert content(out) == content(tmp_path / "fresh")


def test_a_damaged_list_of_corrupt_items(photos: Path, tmp_path: Path, opened: Any) -> None:
    out = tmp_path / "out"
    embed(photos, out, opened, WISHES)
    for path in out.glob("*.corrupt.jsonl"):
        path.write_bytes(b"\xff" * path.stat().st_size)
    named = embed(photos, out, opened, WISHES).named
    assert named and all("is damaged: --verify" in why for _, why in named)


# --- corrupt items -------------------------------------------------------------------------


def table(tmp_path: Path, photos: Path) -> Path:
    """Twelve images by their paths in a CSV, whose content is not looked at beforehand."""
    file = photos.parent / "photos.csv"
    names = sorted(p.relative_to(photos.parent).as_posix() for p in photos.rglob("*.[pj][np]g"))
    with file.open("w", newline="", encoding="utf-8") as opened_file:
        csv.writer(opened_file).writerows([("path",), *([name] for name in names)])
    return file


def test_corrupt_items_are_tried_again_on_request(
    photos: Path, tmp_path: Path, opened: Any
) -> None:
    file, out = table(tmp_path, photos), tmp_path / "out"
    assert embed(file, out, opened, WISHES).corrupt == 2
    for name in ("0 cut.png", "no image.jpg"):
        Image.new("RGB", (70, 60), (10, 20, 30)).save(photos / name)
    assert embed(file, out, opened, WISHES).made == 0
    summary = embed(file, out, opened, replace(WISHES, retry_corrupt=True))
    assert summary.made in (1, 2) and (summary.corrupt, summary.vectors) == (0, 12)
    assert not list(out.glob("*.corrupt.jsonl"))
    embed(file, tmp_path / "fresh", opened, WISHES)
    assert content(out) == content(tmp_path / "fresh")


def test_too_many_corrupt_items_end_a_run(photos: Path, tmp_path: Path, opened: Any) -> None:
    for number in range(8):
        (photos / f"z{number}.jpg").write_text("x")  # behind all others but "no image.jpg"
    out = tmp_path / "out"
    # 20 items, ten of them corrupt.
    assert embed(photos, out, opened, replace(WISHES, limit=Limit(share=0.5))).corrupt == 10
    shutil.rmtree(out)
    for limit in (Limit(number=9), Limit(share=0.49)):
        with pytest.raises(CorruptError, match=r"--max-corrupt allows; .* The last one: "):
            embed(photos, out, opened, replace(WISHES, limit=limit))
        assert (out / "shard-000000.json").exists()
        assert not (out / "shard-000003.json").exists()
    assert embed(photos, out, opened, WISHES).corrupt == 10
    # Nothing is left to be made.
    with pytest.raises(CorruptError, match="corrupt: 10 of 20 items, more than --max-corrupt"):
        embed(photos, out, opened, replace(WISHES, limit=Limit(number=9)))


def test_a_whole_batch_of_corrupt_images(tmp_path: Path, opened: Any) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(11):
        if number == 6:
            Image.new("RGB", (70, 60), (10, 20, 30)).save(folder / "06.png")
        else:
            (folder / f"{number:02d}.png").write_text("x")
    summary = embed(folder, tmp_path / "out", lambda: opened(batch=2), WISHES)
    assert (summary.vectors, summary.corrupt) == (1, 10)
    assert ids_of(tmp_path / "out") == ["06.png"]
    assert vectors_of(tmp_path / "out").shape == (1, 192)


def test_what_was_good_stays_where_corrupt_items_are_tried_again(
    photos: Path, tmp_path: Path, opened: Any
) -> None:
    """Though it cannot be read any more: the network is down, or the disk of images is gone."""
    names = sorted(p.relative_to(tmp_path).as_posix() for p in photos.rglob("*.[pj][np]g"))
    file = table(tmp_path, photos)
    for form in ("npy", "safetensors", "parquet"):
        if form != "npy":
            pytest.importorskip("safetensors")
            pytest.importorskip("pyarrow")
        out, wishes = tmp_path / form, replace(WISHES, format=form, retry_corrupt=True)
        embed(file, out, opened, wishes)
        before = content(out)
        (tmp_path / "gone").mkdir(exist_ok=True)
        for name in names:
            shutil.move(tmp_path / name, tmp_path / "gone" / name.replace("/", "_"))
        assert embed(file, out, opened, wishes).vectors == 10
        assert content(out) == before
        # One that was corrupt is there now, those beside it are not.
        Image.new("RGB", (70, 60), (10, 20, 30)).save(photos / "0 cut.png")
        summary = embed(file, out, opened, wishes)
        assert (summary.vectors, summary.corrupt) == (11, 1)
        if form == "npy":
            good = [name for name in names if not name.endswith("no image.jpg")]
            places = [str(names.index(name)) for name in good]
            assert ids_of(out) == places
            old = {n: np.load(io.BytesIO(d)) for n, d in before.items() if n.endswith(".npy")}
            own = np.concatenate([old[name] for name in sorted(old)])
            same = [np.abs(own - row).max(1).min() == 0 for row in vectors_of(out)]
            assert same.count(False) == 1 and not same[names.index("photos/0 cut.png")]
        (photos / "0 cut.png").unlink()
        for name in names:
            shutil.move(tmp_path / "gone" / name.replace("/", "_"), tmp_path / name)


@pytest.mark.parametrize("call", ["opened", "survey"])
def test_a_full_disk_while_the_dataset_is_read(
    call: str, photos: Path, tmp_path: Path, opened: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(runs.datasets, call, full)
    with pytest.raises(StorageError, match="disk full"):
        embed(photos, tmp_path / "out", opened, WISHES)


def test_a_shard_of_safetensors_as_others_are(tmp_path: Path) -> None:
    """Its mode is that of other files; ids that its header has no room for are refused."""
    pytest.importorskip("safetensors")
    write = FORMATS["safetensors"].files[".safetensors"]
    file, rows = tmp_path / "a", np.ones((2, 3), np.float32)
    file.touch(0o644)
    before = file.stat()
    write(file, ["ä", "b"], rows)
    assert (file.stat().st_ino, file.stat().st_mode) == (before.st_ino, before.st_mode)
    with pytest.raises(UsageError, match="fewer --shard-items"):
        write(file, ["x" * 60_000_000] * 2, rows)


# --- a disk without room -------------------------------------------------------------------


def test_a_full_disk_leaves_whole_shards(photos: Path, small_disk: Path, opened: Any) -> None:
    out, filler = small_disk / "out", small_disk / "filler"
    wishes = replace(WISHES, shard_items=2)
    embed(photos, photos.parent / "whole", opened, wishes)
    size = 3 * 2**20 - 15 * 4096
    filler.write_bytes(b"x" * size)
    with pytest.raises(StorageError, match="disk full"):
        embed(photos, out, opened, wishes)
    there = len(list(out.glob("shard-??????.json")))
    assert not leftovers(small_disk)
    filler.unlink()
    summary = embed(photos, out, opened, wishes)
    assert summary.made == 6 - there and there < 6
    assert content(out) == content(photos.parent / "whole")
