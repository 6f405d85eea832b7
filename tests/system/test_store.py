"""Files that survive: real kills, a really full disk, locks between real processes."""

import contextlib
import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from clipperf.errors import ArtifactError, StorageError
from clipperf.nouns.artifact import Artifact, Manifest, TensorSpec
from clipperf.nouns.cell import Cell
from clipperf.nouns.model import ModelSpec
from clipperf.nouns.result import Environment, Measurement, ResultFile
from clipperf.serialize import to_json
from clipperf.system import files, store
from clipperf.system.temporaries import PREFIX

SPEC = ModelSpec("ViT-B-32::random:0", "open_clip", "ViT-B-32", "random:0", 224, 77, 512)
posix_only = pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CLIPPERF_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def temporaries(folder: Path) -> list[str]:
    return [p.name for p in folder.iterdir() if p.name.startswith(PREFIX)]


def start_child(code: str, *args: object) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, args)],
        stdout=subprocess.PIPE,
        encoding="utf-8",
    )


@contextlib.contextmanager
def child(code: str, *args: object) -> Iterator["subprocess.Popen[str]"]:
    """A Python process that has printed its first line; killed at the end if still there."""
    process = start_child(code, *args)
    assert process.stdout is not None
    try:
        assert process.stdout.readline(), "the child failed"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def manifest() -> Manifest:
    tower = Artifact(
        model_id=SPEC.id,
        side="image",
        runtime="onnx",
        precision="fp32",
        path="image.onnx",
        disk_bytes=8,
        files={"image.onnx": files.digest_of("x"), "image.data": files.digest_of("y")},
        inputs=(TensorSpec("image", "float32", ("batch", 3, 224, 224)),),
        outputs=(TensorSpec("image_embeds", "float32", ("batch", 512)),),
        normalized=False,
        tokens=None,
        key="k",
        weights_id="w",
        build_s=1.5,
        peak_rss_bytes=None,
        built_with={"onnx": "1"},
        parity=None,
    )
    return Manifest(
        schema_version=store.SCHEMA_VERSION,
        spec=SPEC,
        runtime="onnx",
        precision="fp32",
        preprocess={},
        tokenizer={},
        files={},
        towers=(tower,),
        created_utc=files.utc_now(),
        clipperf_version="0",
    )


def result() -> ResultFile:
    env = Environment("e", "cpu", 2, 2**33, None, None, None, "os", "3", {}, None, "now")
    cell = Cell(SPEC.id, "text", "onnx", "int8", "cpu", 8, 2, tokens=16)
    row = Measurement(cell, "time", "ok", "e", run_s=(0.1, 0.2), blocks=(0, 0), stable=False)
    return ResultFile(
        store.SCHEMA_VERSION, "profile", "clipperf profile", "now", (env,), (row,), specs=(SPEC,)
    )


# --- single files --------------------------------------------------------------------------


def test_write_text_replaces_whole_and_leaves_nothing_aside(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "file.txt"
    files.write_text(path, "old")
    files.write_text(path, "new €\n")
    assert path.read_bytes() == "new €\n".encode()
    assert [p.name for p in path.parent.iterdir()] == ["file.txt"]


def test_a_failed_write_keeps_the_old_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file.txt"
    files.write_text(path, "old")

    def broken(fd: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(StorageError, match="cannot write"):
        files.write_text(path, "new")
    assert path.read_text() == "old"
    assert temporaries(tmp_path) == []


@posix_only
def test_unwritable_folder_names_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(StorageError, match="cannot write"):
        files.write_text(tmp_path / "file" / "x.json", "{}")
    if os.geteuid() == 0:
        return
    tmp_path.chmod(0o500)
    with pytest.raises(StorageError, match="--out or CLIPPERF_HOME"):
        files.write_text(tmp_path / "x.json", "{}")


@posix_only
def test_a_kill_while_writing_a_file_leaves_old_or_new(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    code = """
        import itertools, sys
        from pathlib import Path
        from clipperf.system import files
        for i in itertools.count():
            files.write_json(Path(sys.argv[1]), [i] * 20000)
            if i == 0:
                print("up", flush=True)
    """
    rng = random.Random(0)
    for _ in range(12):
        with child(code, path) as process:
            time.sleep(rng.uniform(0, 0.05))
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
        values = json.loads(path.read_text())
        assert len(values) == 20000
        assert len(set(values)) == 1


# --- folders -------------------------------------------------------------------------------


def test_staged_exchanges_whole_folders(tmp_path: Path) -> None:
    target = tmp_path / "artifact"
    for content in ("first", "second"):
        with files.staged(target) as staging:
            (staging / f"{content}.bin").write_text(content)
            assert not (target / f"{content}.bin").exists()
    assert [p.name for p in target.iterdir()] == ["second.bin"]
    assert temporaries(tmp_path) == []


def test_an_error_while_staging_keeps_the_old_folder(tmp_path: Path) -> None:
    target = tmp_path / "artifact"
    with files.staged(target) as staging:
        (staging / "a").write_text("old")
    with pytest.raises(RuntimeError), files.staged(target) as staging:
        (staging / "a").write_text("new")
        raise RuntimeError("export failed")
    assert (target / "a").read_text() == "old"
    assert temporaries(tmp_path) == []


def test_staged_works_without_an_atomic_exchange(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_renameat2_exchange", lambda first, second: False)
    test_staged_exchanges_whole_folders(tmp_path)


@posix_only
@pytest.mark.parametrize("atomic", [True, False])
def test_a_kill_while_staging_leaves_old_or_new_never_neither(tmp_path: Path, atomic: bool) -> None:
    """Both files of the folder come from one round, whenever the SIGKILL strikes."""
    target = tmp_path / "artifact"
    code = """
        import itertools, sys
        from pathlib import Path
        from clipperf.system import files
        target = Path(sys.argv[1])
        if sys.argv[2] == "False":
            files._renameat2_exchange = lambda first, second: False
        for i in itertools.count(int(sys.argv[3])):
            with files.locked(target), files.staged(target) as staging:
                (staging / "weights").write_text(str(i) * 5000)
                (staging / "manifest").write_text(str(i))
            print(i, flush=True)
    """
    rng = random.Random(1)
    newest = 0
    left_behind = 0
    for _ in range(25):
        with child(code, target, atomic, newest + 1) as process:
            time.sleep(rng.uniform(0, 0.03))
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
        if atomic:
            assert target.is_dir(), "a reader without a lock sees the old folder or the new one"
        left_behind += bool(temporaries(tmp_path))
        with files.locked(target, timeout_s=30):
            seen = int((target / "manifest").read_text())
            assert (target / "weights").read_text() == str(seen) * 5000
        assert seen > newest
        newest = seen
        assert temporaries(tmp_path) == [], "the next holder of the lock sweeps"
    assert left_behind, "no kill struck in the middle of a write: the test proves nothing"


def test_sweep_puts_back_what_was_set_aside(tmp_path: Path) -> None:
    target = tmp_path / "artifact"
    aside = tmp_path / f"{PREFIX}old-artifact"
    aside.mkdir()
    (aside / "a").write_text("old")
    with files.locked(target):
        assert (target / "a").read_text() == "old"
    assert temporaries(tmp_path) == []


def test_sweep_leaves_other_targets_alone(tmp_path: Path) -> None:
    """A target whose name ends like another's is being built at the same time."""
    with files.locked(tmp_path / "onnx-fp32"), files.staged(tmp_path / "onnx-fp32") as staging:
        (staging / "a").write_text("a")
        with files.locked(tmp_path / "fp32"):
            assert staging.exists()
    assert (tmp_path / "onnx-fp32" / "a").exists()


HOLDER = """
    import sys, time
    from pathlib import Path
    from clipperf.system import files
    with files.locked(Path(sys.argv[1])):
        print("held", flush=True)
        time.sleep(600)
"""


@posix_only
def test_the_lock_keeps_processes_apart_and_dies_with_its_holder(tmp_path: Path) -> None:
    target = tmp_path / "artifact"
    with child(HOLDER, target) as process:
        with pytest.raises(StorageError, match="another process"), files.locked(target, 0.3):
            pass
        process.kill()
        process.wait()
        with files.locked(target, timeout_s=10):
            pass


def test_a_lock_that_is_held_is_told_once(tmp_path: Path) -> None:
    told = []
    with (
        child(HOLDER, tmp_path / "artifact"),
        pytest.raises(StorageError, match="another process"),
        files.locked(tmp_path / "artifact", 0.3, on_wait=lambda: told.append(1)),
    ):
        pass
    assert told == [1]


@pytest.mark.skipif(sys.platform != "linux", reason="/proc refuses new files even to root")
def test_a_folder_that_takes_no_lock_is_refused_at_once() -> None:
    with pytest.raises(StorageError, match="cannot write"), files.locked(Path("/proc/artifact")):
        pass


def test_the_lock_serialises_writers(tmp_path: Path) -> None:
    """Four processes add 20 each to a counter that is read and written without care."""
    counter = tmp_path / "counter"
    counter.write_text("0")
    code = """
        import sys
        from pathlib import Path
        from clipperf.system import files
        path = Path(sys.argv[1])
        for _ in range(20):
            with files.locked(path):
                path.write_text(str(int(path.read_text()) + 1))
    """
    writers = [start_child(code, counter) for _ in range(4)]
    for writer in writers:
        writer.communicate(timeout=120)
        assert writer.returncode == 0
    assert counter.read_text() == "80"


# --- a full disk ---------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("mounting a small tmpfs needs root on Linux")
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    done = subprocess.run(mount, capture_output=True, encoding="utf-8")
    if done.returncode != 0:
        pytest.skip(f"tmpfs cannot be mounted here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_while_staging(small_disk: Path) -> None:
    target = small_disk / "artifact"
    with files.locked(target), files.staged(target) as staging:
        (staging / "a").write_bytes(b"o" * 1000)
    with (
        pytest.raises(StorageError, match="disk full"),
        files.locked(target),
        files.staged(target) as staging,
    ):
        (staging / "a").write_bytes(b"n" * 2**22)
    assert (target / "a").read_bytes() == b"o" * 1000
    assert temporaries(small_disk) == []


def test_a_full_disk_while_writing_a_result(small_disk: Path) -> None:
    path = small_disk / "result.json"
    files.write_text(path, "old")
    with pytest.raises(StorageError, match=r"disk full.*CLIPPERF_HOME"):
        files.write_text(path, "n" * 2**22)
    assert path.read_text() == "old"
    assert temporaries(small_disk) == []


# --- checksums -----------------------------------------------------------------------------


def test_cached_sha256_notices_a_changed_file(
    tmp_path: Path, own_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import hashlib

    path = tmp_path / "weights"
    path.write_bytes(b"aaaa")
    first = store.cached_sha256(path)
    assert first == hashlib.sha256(b"aaaa").hexdigest()

    def unread(path: Path) -> str:
        raise AssertionError("an unchanged file was read again")

    with monkeypatch.context() as patch:
        patch.setattr(store, "sha256_file", unread)
        assert store.cached_sha256(path) == first
    path.write_bytes(b"bbbb")
    os.utime(path, ns=(1, 1))
    assert store.cached_sha256(path) == hashlib.sha256(b"bbbb").hexdigest()
    replaced = tmp_path / "other"
    replaced.write_bytes(b"cccc")
    os.utime(replaced, ns=(1, 1))
    os.replace(replaced, path)
    assert store.cached_sha256(path) == hashlib.sha256(b"cccc").hexdigest(), "inode differs"


@pytest.mark.parametrize("damage", ["", "[1, 2]", '{"x": 3}', "{", '"text"', "\x00"])
def test_cached_sha256_survives_a_damaged_cache(
    tmp_path: Path, own_home: Path, damage: str
) -> None:
    path = tmp_path / "weights"
    path.write_bytes(b"aaaa")
    first = store.cached_sha256(path)
    (own_home / "digests.json").write_text(damage)
    assert store.cached_sha256(path) == first
    assert str(path) in json.loads((own_home / "digests.json").read_text())


def test_cached_sha256_of_a_damaged_entry(tmp_path: Path, own_home: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(b"aaaa")
    first = store.cached_sha256(path)
    stamp = json.loads((own_home / "digests.json").read_text())[str(path)][:-1]
    wrong = (*([*stamp, digest] for digest in (None, 7, "", "abc", first[:-1], first.upper())),)
    for entry in (None, 3, [], "abc", [1, 2, 3], {"a": 1}, stamp, *wrong):
        (own_home / "digests.json").write_text(json.dumps({str(path): entry}))
        assert store.cached_sha256(path) == first


def test_a_wrong_digest_that_is_remembered_accuses_no_file(tmp_path: Path, own_home: Path) -> None:
    for name in ("image.onnx", "image.data"):
        (tmp_path / name).write_bytes(name.encode()[:4])
    digests = files.sha256_files(tmp_path, ("image.onnx", "image.data"))
    (tower,) = manifest().towers
    known = dataclasses.replace(manifest(), towers=(dataclasses.replace(tower, files=digests),))
    assert store.check_files(tmp_path, known, content=True) == []
    noted = json.loads((own_home / "digests.json").read_text())
    for entry in noted.values():
        entry[-1] = "0" * 64
    (own_home / "digests.json").write_text(json.dumps(noted))
    assert store.check_files(tmp_path, known, content=True) == []
    (tmp_path / "image.data").write_bytes(b"evil")
    (problem,) = store.check_files(tmp_path, known, content=True)
    assert problem.startswith("image.data was altered")


def test_what_cannot_be_remembered_is_read_again(tmp_path: Path, own_home: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(b"aaaa")
    own_home.write_text("a file in the place of the store")
    for _ in range(2):
        assert store.cached_sha256(path) == files.sha256_file(path)
    assert own_home.read_text() == "a file in the place of the store"


def test_a_missing_file_has_no_digest(tmp_path: Path) -> None:
    for digest in (files.sha256_file, store.cached_sha256):
        with pytest.raises(ArtifactError, match="absent"):
            digest(tmp_path / "absent")


def test_names_and_digests_are_stable() -> None:
    assert files.safe_name("ViT-B-32::laion2b/x y") == "ViT-B-32-laion2b-x-y"
    assert files.safe_name("..") == "unnamed"
    assert files.digest_of({"b": 1, "a": [1, 2]}) == files.digest_of({"a": (1, 2), "b": 1})
    assert files.digest_of("a") != files.digest_of("b")
    one = store.artifact_folder(SPEC, "weights 1", "onnx", "fp32")
    two = store.artifact_folder(SPEC, "weights 2", "onnx", "fp32")
    assert one != two


# --- manifests and results -----------------------------------------------------------------


def write_artifact(folder: Path) -> Manifest:
    record = manifest()
    folder.mkdir(parents=True)
    (folder / "image.onnx").write_bytes(b"1234")
    (folder / "image.data").write_bytes(b"5678")
    files.write_json(folder / store.MANIFEST_NAME, record)
    return record


def test_manifest_round_trip_and_file_check(own_home: Path) -> None:
    folder = store.artifact_folder(SPEC, "w", "onnx", "fp32")
    record = write_artifact(folder)
    assert store.read_manifest(folder) == record
    assert store.check_files(folder, record) == []
    altered = store.check_files(folder, record, content=True)
    assert len(altered) == 2 and "altered" in altered[0]
    assert store.find_artifacts() == [(folder, record)]
    (folder / "image.data").write_bytes(b"56789")
    assert "9 bytes, expected 8" in store.check_files(folder, record)[0]
    (folder / "image.data").unlink()
    assert "image.data is missing" in store.check_files(folder, record)
    assert store.find_artifacts() == []


DAMAGES: dict[str, Any] = {
    "empty": "",
    "cut": '{"schema_version": 1, "spec"',
    "binary": "\x00\x01",
    "deep": "[" * 100_000,
    "number": f'{{"schema_version": {"9" * 5000}}}',
    "list": "[]",
    "null": "null",
    "version": json.dumps({"schema_version": 99}),
    "fields": json.dumps({"schema_version": store.SCHEMA_VERSION}),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_manifests_and_results(damage: str, own_home: Path) -> None:
    folder = store.artifact_folder(SPEC, "w", "onnx", "fp32")
    write_artifact(folder)
    (folder / store.MANIFEST_NAME).write_text(DAMAGES[damage])
    with pytest.raises(ArtifactError, match=store.MANIFEST_NAME):
        store.read_manifest(folder)
    assert store.find_artifacts() == []
    path = store.new_result_path("profile")
    path.parent.mkdir(parents=True)
    path.write_text(DAMAGES[damage])
    with pytest.raises(ArtifactError, match=path.name):
        store.read_result(path)


def test_a_wrong_type_is_named_by_its_path(own_home: Path) -> None:
    data = to_json(result())
    data["measurements"][0]["cell"]["batch"] = "many"
    path = store.new_result_path("profile")
    files.write_json(path, data)
    with pytest.raises(ArtifactError, match=r"measurements\.cell\.batch"):
        store.read_result(path)


def test_no_manifest_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="clipperf export"):
        store.read_manifest(tmp_path)


def test_result_round_trip_and_order(own_home: Path) -> None:
    first = store.new_result_path("profile")
    store.write_result(first, result())
    read = store.read_result(first)
    assert read.path == str(first)
    assert read.measurements == result().measurements
    assert read.specs == (SPEC,)
    assert store.find_results() == [first]
    with pytest.raises(ArtifactError, match="does not exist"):
        store.read_result(first.with_name("other.json"))
