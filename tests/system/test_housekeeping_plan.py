"""What `gc` would remove of a store, and what it never does."""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import stored

from clipperf.export.folder import own_files
from clipperf.system import store
from clipperf.system.housekeeping import plan as planning
from clipperf.system.housekeeping.contents import entries
from clipperf.system.housekeeping.plan import Choices, Plan
from clipperf.system.housekeeping.references import note_tuning, references
from clipperf.system.temporaries import PREFIX

DAY_S = 86400


def artifact_of(runtime: str) -> str | None:
    return {"ort-cuda": "onnx", "onnx": "onnx", "openvino": "openvino"}.get(runtime)


def planned(**choices: object) -> Plan:
    chosen = Choices(**choices)  # type: ignore[arg-type]
    return planning.plan(entries(), references(artifact_of), chosen, own_files)


def going(**choices: object) -> set[Path]:
    return {removal.path for removal in planned(**choices).removals}


def written(path: Path, age_s: float) -> None:
    """Let all files of a folder be written so long ago."""
    for file in (path, *path.rglob("*")):
        os.utime(file, (time.time() - age_s,) * 2)


def test_a_store_in_order_loses_nothing(home: Path) -> None:
    stored.artifact()
    stored.artifact("RN50::openai")
    stored.tuning(stored.artifact(precision="fp16"))
    stored.result()
    stored.caches()
    (home / "datasets" / "flowers").mkdir(parents=True)
    (home / "notes.txt").write_text("mine")
    (home / "artifacts" / "README").write_text("mine")
    assert planned() == Plan((), (), 0)
    assert planned(verified=True).removals == ()


def test_what_cannot_be_opened_goes(home: Path) -> None:
    cut = stored.artifact("A::w")
    (cut / "text" / "model.onnx").write_bytes(b"cut")
    broken = stored.artifact("B::w")
    (broken / store.MANIFEST_NAME).write_text("{")
    old = stored.artifact("C::w")
    new = stored.artifact("D::w")
    for folder, version in ((old, 1), (new, 99)):
        data = json.loads((folder / store.MANIFEST_NAME).read_text())
        files = json.dumps({**data, "schema_version": version})
        (folder / store.MANIFEST_NAME).write_text(files)
    whys = {removal.path: removal.why for removal in planned().removals}
    assert whys.keys() == {cut, broken, old}
    assert whys[cut].startswith("damaged: text/model.onnx: 3 bytes, expected")
    assert "older clipperf" in whys[old]
    assert new not in going(unused=True, measured=True, verified=True)


def test_one_bit_goes_where_checksums_are_read(home: Path) -> None:
    folder = stored.artifact(content=b"weights")
    (folder / "text" / "model.onnx").write_bytes(b"Weightstext")
    kept = stored.caches()
    kept["graph"].write_bytes(b"graph")
    (kept["compiled"].parent / "1.blob").write_bytes(b"other")
    kept["embeddings"].with_name("whole.npy").write_bytes(kept["probe"].read_bytes())
    kept["embeddings"].write_bytes(b"cut")
    (home / "fetched.json").write_text("{")
    assert going() == set()
    assert going(verified=True) == {
        folder,
        kept["graph"],
        kept["compiled"].parent,
        kept["embeddings"],
        home / "fetched.json",
    }


@pytest.mark.parametrize(
    ("old", "new", "goes"),
    [
        ({}, {}, True),
        ({}, {"sides": ("image",)}, False),  # `load` would open the old one
        ({"sides": ("image",)}, {}, True),
        ({}, {"precision": "fp16"}, False),
        ({}, {"runtime": "openvino"}, False),
        ({}, {"model": "ViT-B-32::laion400m_e31"}, False),
        ({}, {"created": "2026-01-01T00:00:00Z"}, False),  # neither is the newer one
        ({}, {"created": "2999-01-01T00:00:00Z"}, False),  # of a clock that was wrong
    ],
)
def test_superseded(home: Path, old: dict[str, str], new: dict[str, str], goes: bool) -> None:
    before = stored.artifact(weights="old", **old)  # type: ignore[arg-type]
    after = stored.artifact(weights="new", **{"created": "2026-02-01T00:00:00Z", **new})  # type: ignore[arg-type]
    assert before != after
    assert going() == ({before} if goes else set())


def test_a_damaged_one_supersedes_nothing(home: Path) -> None:
    stored.artifact(weights="old")
    after = stored.artifact(weights="new", created="2026-02-01T00:00:00Z")
    (after / "image" / "model.onnx").unlink()
    assert going() == {after}


def test_one_that_is_damaged_by_its_checksum_takes_nothing_with_it(home: Path) -> None:
    before = stored.artifact(weights="old")
    after = stored.artifact(weights="new", created="2026-02-01T00:00:00Z")
    model = after / "image" / "model.onnx"
    model.write_bytes(bytes([model.read_bytes()[0] ^ 1]) + model.read_bytes()[1:])
    assert going() == {before}, "by their sizes both are whole"
    assert going(verified=True) == {after}, "and read it is the old one that opens"


def test_what_cannot_be_read_now_is_not_damaged(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = stored.artifact()
    opened = open

    def failing(path: object, *args: object, **more: object) -> object:
        if str(path).startswith(str(folder)):
            raise OSError(errno.ESTALE, "Stale file handle")
        return opened(path, *args, **more)  # type: ignore[call-overload]

    monkeypatch.setattr("builtins.open", failing)
    found = planned(unused=True, measured=True)
    assert found.removals == ()
    assert [path for path, _ in found.kept] == [folder]
    assert "Stale file handle" in found.kept[0][1]


def test_a_folder_of_a_users_that_begins_like_ours_stays(home: Path) -> None:
    mine = home / "datasets" / "mine" / ".tmp-old_images"
    mine.mkdir(parents=True)
    assert going(unused=True, measured=True, all_caches=True, verified=True) == set()


@pytest.mark.parametrize("content", ["{", "{}", '["a", 1]'])
def test_a_damaged_note_of_tunings_keeps_all_that_loads(home: Path, content: str) -> None:
    folder, note = stored.artifact(), home / "tunings.json"
    note.write_text(content)
    found = planned(unused=True, measured=True, verified=True)
    assert found.removals == () and str(note) in dict(found.kept)[folder]
    note_tuning(home.parent / "elsewhere.json")
    assert note.read_text() == content, "it is not written over"


# --- references ----------------------------------------------------------------------------


def tuned_in_the_store(folder: Path, outside: Path) -> None:
    stored.tuning(folder)


def tuned_elsewhere(folder: Path, outside: Path) -> None:
    note_tuning(stored.tuning(folder, outside / "tuned.json"))


def tuned_by_another_version(folder: Path, outside: Path) -> None:
    path = stored.tuning(folder)
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema_version": 99}))


def tuned_and_damaged(folder: Path, outside: Path) -> None:
    stored.tuning(folder).write_text("{")


def measured(folder: Path, outside: Path) -> None:
    stored.result()


def measured_on_a_gpu(folder: Path, outside: Path) -> None:
    stored.result(runtime="ort-cuda")


Refer = Callable[[Path, Path], None]


@pytest.mark.parametrize(
    "refer", [tuned_in_the_store, tuned_elsewhere, tuned_by_another_version, tuned_and_damaged]
)
def test_what_a_tuning_names_stays(home: Path, tmp_path: Path, refer: Refer) -> None:
    folder = stored.artifact(weights="old")
    stored.artifact(weights="new", created="2026-02-01T00:00:00Z")
    refer(folder, tmp_path)
    for choices in ({}, {"unused": True}, {"measured": True}, {"measured": True, "verified": True}):
        assert folder not in going(**choices)
    said = dict(planned(unused=True).kept)[folder]
    assert "tuning" in said
    (folder / "image" / "model.onnx").unlink()
    assert folder not in going(measured=True)


def test_a_tuning_that_was_removed_holds_nothing(home: Path, tmp_path: Path) -> None:
    folder = stored.artifact()
    tuned_elsewhere(folder, tmp_path)
    assert going(unused=True) == set()
    (tmp_path / "tuned.json").unlink()
    assert going(unused=True) == {folder}


@pytest.mark.parametrize("refer", [measured, measured_on_a_gpu])
def test_what_was_measured_stays_until_it_is_asked_for(
    home: Path, tmp_path: Path, refer: Refer
) -> None:
    folder = stored.artifact()
    free = stored.artifact(precision="fp16")
    assert going(unused=True) == {folder, free}
    refer(folder, tmp_path)
    assert going() == set()
    assert going(unused=True) == {free}
    whys = {removal.path: removal.why for removal in planned(measured=True).removals}
    assert whys == {
        folder: "only results refer to it",
        free: "nothing in the store refers to it",
    }


def test_notes_of_tunings(home: Path, tmp_path: Path) -> None:
    folder = stored.artifact()
    note_tuning(stored.tuning(folder))
    assert not (home / "tunings.json").exists(), "those of the store are found without"
    paths = [stored.tuning(folder, tmp_path / f"{i}.json") for i in range(3)]
    for path in (*paths, paths[0]):
        note_tuning(path)
    assert json.loads((home / "tunings.json").read_text()) == list(map(str, paths))
    paths[2].unlink()
    note_tuning(stored.tuning(folder, tmp_path / "3.json"))
    assert [Path(p).name for p in json.loads((home / "tunings.json").read_text())] == [
        "0.json", "1.json", "3.json",
    ]  # fmt: skip


# --- what is a user's ----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["labels.json", "index/vectors.npy"])
@pytest.mark.parametrize("damage", [True, False])
def test_files_of_a_user_stay(home: Path, name: str, damage: bool) -> None:
    folder = stored.artifact()
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text("mine")
    if damage:
        (folder / store.MANIFEST_NAME).write_text("{")
    found = planned(unused=True)
    assert found.removals == ()
    ((path, why),) = found.kept
    assert path == folder
    assert name in why


def test_a_link_to_another_disk_stays(home: Path, tmp_path: Path) -> None:
    folder = stored.artifact()
    folder.rename(tmp_path / "elsewhere")
    folder.symlink_to(tmp_path / "elsewhere")
    found = planned(unused=True)
    assert found.removals == ()
    assert "it is a link" in found.kept[0][1]
    parent = folder.parent.parent  # a folder above may lie anywhere
    folder.unlink()
    (tmp_path / "elsewhere").rename(folder)
    parent.rename(tmp_path / "moved")
    parent.symlink_to(tmp_path / "moved")
    assert going(unused=True) == {folder}


# --- age -----------------------------------------------------------------------------------


def test_age_is_that_of_the_latest_change(home: Path) -> None:
    old, young = stored.artifact("A::w"), stored.artifact("B::w")
    kept = stored.caches()
    for path in (old, kept["graph"], kept["compiled"].parent):
        written(path, 31 * DAY_S)
    written(young, 31 * DAY_S)
    os.utime(young / store.MANIFEST_NAME)
    asked = {"unused": True, "all_caches": True}
    everything = {
        *(old, young, kept["graph"], kept["probe"], kept["kernels"]),
        *(kept["compiled"].parent, kept["embeddings"].parent),
    }
    assert going(**asked) == everything
    left = {old, kept["graph"], kept["compiled"].parent}
    assert going(**asked, older_than_s=30 * DAY_S) == left
    assert going(**asked, older_than_s=32 * DAY_S) == set()
    assert going(**asked, older_than_s=0) == everything


def test_leftovers_go_at_any_age_and_after_any_change_of_the_clock(home: Path) -> None:
    dead = stored.dead_staging(stored.artifact())
    for age_s in (0, 10 * DAY_S, -10 * DAY_S):
        written(dead, age_s)
        assert going(older_than_s=DAY_S) == {dead}


def test_a_clock_that_went_backwards(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was written before has its time in the future: no age that could be compared."""
    folder = stored.artifact()
    written(folder, 40 * DAY_S)
    asked = {"unused": True, "older_than_s": 30 * DAY_S}
    assert going(**asked) == {folder}
    written(folder, -40 * DAY_S)
    found = planned(**asked)
    assert found.removals == ()
    assert found.kept == ((folder, "its time lies in the future, so its age is not known"),)
    now = time.time()
    written(folder, 40 * DAY_S)
    monkeypatch.setattr(time, "time", lambda: now - 365 * DAY_S)
    assert planned(**asked).removals == ()


def test_what_waits_to_be_put_back_is_no_leftover(home: Path) -> None:
    folder = stored.artifact()
    aside = folder.with_name(f"{PREFIX}old-{folder.name}")
    folder.rename(aside)
    found = planned(unused=True)
    assert found.removals == ()
    assert found.kept == ((aside, "waits to be put back by the next export of it"),)
