"""What the store takes: names, holes and links counted as the disk counts them."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import stored

from clipperf.report.store import usage_json, usage_tables
from clipperf.system import store
from clipperf.system.housekeeping import usage
from clipperf.system.housekeeping.contents import entries


@pytest.fixture(autouse=True)
def in_store(home: Path) -> Path:
    home.mkdir()
    return home


def blocks(path: Path) -> int:
    return path.stat().st_blocks * 512


def test_a_file_of_two_names_counts_once(in_store: Path) -> None:
    (in_store / "a").write_bytes(b"x" * 10_000)
    os.link(in_store / "a", in_store / "b")
    size = usage.size_of([in_store / "a", in_store / "b"])
    assert (size.apparent, size.disk, size.shared, size.files) == (
        *(10_000, blocks(in_store / "a"), 0, 1),
    )
    assert usage.size_of([in_store / "a"]).freed == 0, "its content stays under the other name"
    assert size.freed == blocks(in_store / "a")


def test_holes_take_no_disk(in_store: Path) -> None:
    with open(in_store / "sparse", "wb") as file:
        file.truncate(50 * 2**20)
    size = usage.size_of([in_store / "sparse"])
    assert size.apparent == 50 * 2**20
    assert size.disk < 2**20


def test_links_are_not_followed(in_store: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "large").write_bytes(b"x" * 2**20)
    (in_store / "datasets").mkdir()
    (in_store / "datasets" / "mine").symlink_to(tmp_path / "photos")
    (found,) = usage.used(entries())
    assert found.entry.kind == "dataset"
    assert found.size.apparent < 1000


def test_kinds_and_totals_add_up(in_store: Path, tmp_path: Path) -> None:
    large = stored.artifact(content=b"x" * 300_000)
    small = stored.artifact("RN50::openai", precision="fp16", content=b"y" * 1000)
    stored.tuning(small)
    stored.result()
    stored.caches()
    stored.dead_staging(large)
    os.link(large / "image" / "model.onnx", tmp_path / "deployed.onnx")
    (in_store / "mine.txt").write_text("mine")
    found = usage.used(entries())
    told = json.loads(json.dumps(usage_json(found, store.home())))
    assert sum(e["disk_bytes"] for e in told["entries"]) == told["disk_bytes"]
    assert sum(k["apparent_bytes"] for k in told["kinds"].values()) == told["apparent_bytes"]
    # Every file of the store is counted: the linked one has its second name outside.
    files = [path for path in in_store.rglob("*") if path.is_file()]
    assert told["apparent_bytes"] == sum(path.stat().st_size for path in files)
    assert told["files"] == len(files)
    assert told["shared_bytes"] == blocks(tmp_path / "deployed.onnx")
    assert told["entries"][0]["path"] == str(large), "the largest comes first"
    assert told["entries"][0]["model"] == stored.MODEL
    kinds = {kind: size["files"] for kind, size in told["kinds"].items()}
    assert kinds == {
        "artifact": 8,
        "graph": 1,
        "embeddings": 2,
        "cache": 3,
        "tuning": 1,
        "result": 1,
        "leftover": 1,
        "other": 1,
    }
    by_kind, artifacts = usage_tables(found, store.home())
    assert by_kind.texts[0][0] == "artifacts"
    models = [row[:2] for row in artifacts.texts]
    assert models == [(stored.MODEL, "onnx-fp32"), ("RN50::openai", "onnx-fp16")]


def test_artifacts_that_share_towers_count_them_once(in_store: Path) -> None:
    one = stored.artifact(content=b"x" * 200_000)
    other = one.with_name("onnx-fp32-other")
    shutil.copytree(one, other, copy_function=os.link)
    both = usage.used(entries())
    assert [each.size.files for each in both] == [4, 0]
    total = both[0].size + both[1].size
    assert total.apparent == usage.size_of([one]).apparent


def test_an_empty_store_takes_nothing(in_store: Path) -> None:
    (table,) = usage_tables(usage.used(entries()), store.home())
    assert table.title.endswith("0 B on the disk")
    in_store.rmdir()
    assert entries() == []
