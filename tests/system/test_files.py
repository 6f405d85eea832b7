"""Files as they are written, named, read and summed up; kills are in `test_store`."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import filelock
import pytest

from clipperf.errors import ArtifactError, StorageError
from clipperf.system import files
from clipperf.system.files import (
    check_writable,
    digest_of,
    locked,
    read_json,
    replacing,
    safe_name,
    sha256_file,
    sha256_files,
    staged,
    storage_error,
    sweep,
    translated,
    utc_now,
    write_json,
    write_text,
)


def names(folder: Path) -> list[str]:
    """What is in a folder but locks."""
    return sorted(p.name for p in folder.iterdir() if not p.name.endswith(".lock"))


def test_the_time() -> None:
    before = datetime.now(UTC).replace(microsecond=0)
    said = datetime.strptime(utc_now(), "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    assert before <= said <= datetime.now(UTC)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("ViT-B-32::laion2b_s34b", "ViT-B-32-laion2b_s34b"),
        ("a/b\\c d", "a-b-c-d"),
        ("-.hidden.-", "hidden"),
        ("x+y.z_9", "x+y.z_9"),
        ("müll", "m-ll"),
        ("///", "unnamed"),
        ("", "unnamed"),
    ],
)
def test_names_for_files(text: str, name: str) -> None:
    assert safe_name(text) == name


# --- what went wrong -----------------------------------------------------------------------


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def usage(folder: Path) -> SimpleNamespace:
        asked.append(folder)
        return SimpleNamespace(free=5 * 2**20)

    monkeypatch.setattr(shutil, "disk_usage", usage)
    error = storage_error(tmp_path / "new" / "file", OSError(number, "full"))
    assert isinstance(error, StorageError)
    assert "disk full while writing" in str(error) and "(5 MiB free)" in str(error)
    # The nearest folder that is there is asked.
    assert asked == [tmp_path]


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM, errno.EROFS])
def test_a_place_that_cannot_be_written(number: int, tmp_path: Path) -> None:
    said = str(storage_error(tmp_path / "x", OSError(number, "because")))
    assert said.startswith(f"cannot write {tmp_path / 'x'}: because. Choose another folder with ")
    assert "--out or CLIPPERF_HOME" in said


def test_other_reasons(tmp_path: Path) -> None:
    said = str(storage_error(tmp_path, OSError(errno.EIO, "broken")))
    assert said == f"cannot write {tmp_path}: broken"
    assert str(storage_error(tmp_path, OSError("odd"))) == f"cannot write {tmp_path}: odd"


def test_a_full_disk_of_which_nothing_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "exists", lambda path: False)
    assert "(0 MiB free)" in str(storage_error(Path("/x"), OSError(errno.ENOSPC, "full")))


def test_errors_are_translated_alone_when_they_are_of_the_system(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="broken") as caught, translated(tmp_path):
        raise OSError(errno.EIO, "broken")
    assert isinstance(caught.value.__cause__, OSError)
    with pytest.raises(ValueError, match="mine"), translated(tmp_path):
        raise ValueError("mine")


# --- one file ------------------------------------------------------------------------------


def test_a_file_is_synced_before_it_takes_its_place_and_its_folder_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, steps = tmp_path / "new" / "x.json", []
    sync, replace = os.fsync, os.replace

    def synced(fd: int) -> None:
        steps.append(("sync", Path(f"/proc/self/fd/{fd}").readlink()))
        sync(fd)

    def replaced(source: Path, place: Path) -> None:
        steps.append(("replace", Path(place)))
        replace(source, place)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", replaced)
    with replacing(target) as temporary:
        assert temporary.parent == target.parent and temporary.name.startswith(".tmp-")
        assert str(os.getpid()) in temporary.name and temporary.suffix == ".json"
        temporary.write_text("{}")
    assert steps == [("sync", temporary), ("replace", target), ("sync", target.parent)]
    assert names(target.parent) == ["x.json"]


def test_an_error_leaves_nothing_aside(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("old")
    with pytest.raises(ValueError), replacing(tmp_path / "x") as temporary:
        temporary.write_text("new")
        raise ValueError
    assert names(tmp_path) == ["x"] and (tmp_path / "x").read_text() == "old"


def test_the_bytes_of_text_and_json(tmp_path: Path) -> None:
    write_text(tmp_path / "t", "a\nü\n")
    assert (tmp_path / "t").read_bytes() == b"a\n\xc3\xbc\n"
    write_json(tmp_path / "j", {"b": [1, 2], "a": "ü"})
    assert (tmp_path / "j").read_bytes() == b'{\n "b": [\n  1,\n  2\n ],\n "a": "\xc3\xbc"\n}\n'
    assert read_json(tmp_path / "j") == {"b": [1, 2], "a": "ü"}


def test_what_is_no_json(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    with pytest.raises(ArtifactError, match=f"{re.escape(str(path))} does not exist"):
        read_json(path)
    for content in (b"{", b"\xff\xfe", b"[" * 100_000, b"1" * 5000):
        path.write_bytes(content)
        with pytest.raises(ArtifactError, match=re.escape(str(path))):
            read_json(path)
    path.unlink()
    path.mkdir()
    with pytest.raises(ArtifactError, match=re.escape(str(path))):
        read_json(path)


def test_a_place_is_tried_before_long_work(tmp_path: Path) -> None:
    check_writable(tmp_path / "new" / "x.json")
    assert names(tmp_path) == ["new"] and names(tmp_path / "new") == []
    check_writable(tmp_path / "new" / "y.json")
    assert names(tmp_path / "new") == []
    check_writable(tmp_path / "new" / "deep" / "down" / "z.json")
    assert names(tmp_path / "new" / "deep" / "down") == []
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError):
        check_writable(tmp_path / "file" / "x.json")


# --- a folder ------------------------------------------------------------------------------


@pytest.mark.parametrize("atomic", [True, False])
def test_a_folder_takes_the_place_of_another(
    atomic: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not atomic:
        monkeypatch.setattr(files, "_renameat2_exchange", lambda first, second: False)
    target = tmp_path / "deep" / "target"
    for content in ("one", "two"):
        with staged(target) as staging:
            assert staging.parent == target.parent and names(staging) == []
            assert staging.name.startswith(".tmp-") and staging.name.endswith("-target")
            (staging / "inner").mkdir()
            (staging / "inner" / content).write_text(content)
        assert names(target.parent) == ["target"]
        assert names(target / "inner") == [content]


def test_what_was_once_set_aside_is_in_nobody_s_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_renameat2_exchange", lambda first, second: False)
    for name in ("target", ".tmp-old-target"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").touch()
    with staged(tmp_path / "target") as staging:
        (staging / "new").touch()
    assert names(tmp_path) == ["target"] and names(tmp_path / "target") == ["new"]


def test_every_file_of_a_folder_is_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced, sync = [], os.fsync

    def recorded(fd: int) -> None:
        synced.append(Path(f"/proc/self/fd/{fd}").readlink().name)
        sync(fd)

    monkeypatch.setattr(os, "fsync", recorded)
    with staged(tmp_path / "target") as staging:
        (staging / "inner").mkdir()
        for name in ("a", "inner/b"):
            (staging / name).write_text("")
    assert sorted(synced[:2]) == ["a", "b"] and synced[2:] == [tmp_path.name]


@pytest.mark.skipif(sys.platform != "linux", reason="renameat2 is Linux's")
def test_the_exchange_is_one_system_call(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"from-{name}").touch()
    assert files._renameat2_exchange(tmp_path / "a", tmp_path / "b") is True
    assert names(tmp_path / "a") == ["from-b"] and names(tmp_path / "b") == ["from-a"]
    assert files._renameat2_exchange(tmp_path / "a", tmp_path / "missing") is False


@pytest.mark.skipif(sys.platform != "linux", reason="renameat2 is Linux's")
def test_the_exchange_takes_relative_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"from-{name}").touch()
    assert files._renameat2_exchange(Path("a"), Path("b")) is True
    assert names(tmp_path / "a") == ["from-b"]


def test_folders_are_not_synced_where_they_cannot_be_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", synced.append)
    for platform, syncs in (("win32", 1), ("linux", 2)):
        synced.clear()
        with monkeypatch.context() as patch:
            patch.setattr(files.sys, "platform", platform)
            write_text(tmp_path / "x", "")
        assert len(synced) == syncs


def test_platforms_without_an_exchange(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(files.ctypes, "CDLL", lambda *args, **more: SimpleNamespace())
        assert files._renameat2_exchange(tmp_path / "a", tmp_path / "b") is False
    monkeypatch.setattr(files.sys, "platform", "darwin")
    assert files._renameat2_exchange(tmp_path / "a", tmp_path / "b") is False


def test_leftovers_of_this_target_alone_are_swept(tmp_path: Path) -> None:
    gone = [".tmp-12-0123abcd-x", ".tmp-old-x"]
    kept = [
        ".tmp-12-0123abcd-xx",
        ".tmp-12-0123abcd-a-x",
        ".tmp-12-0123abc-x",
        ".tmp-old-xx",
        "x",
    ]
    for name in (*gone, *kept):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").touch()
    sweep(tmp_path / "x")
    assert names(tmp_path) == sorted(kept)


def test_what_was_set_aside_comes_back_where_nothing_took_its_place(tmp_path: Path) -> None:
    (tmp_path / ".tmp-old-x").mkdir()
    (tmp_path / ".tmp-old-x" / "file").touch()
    sweep(tmp_path / "x")
    assert names(tmp_path) == ["x"] and names(tmp_path / "x") == ["file"]


# --- locks ---------------------------------------------------------------------------------


HOLDER = """
import sys, time
from pathlib import Path
from clipperf.system.files import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_lock_that_is_not_given_back(tmp_path: Path) -> None:
    waits = []
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / "x")], stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        start = time.monotonic()
        with (
            pytest.raises(StorageError, match=r"another process has been building .*x for 0 s"),
            locked(tmp_path / "x", timeout_s=0.2, on_wait=lambda: waits.append(1)),
        ):
            raise AssertionError("held twice")
        assert waits == [1] and 0.2 <= time.monotonic() - start < 20
        with locked(tmp_path / "y", on_wait=lambda: waits.append(2)):
            pass
    finally:
        holder.kill()
        holder.wait()
    with locked(tmp_path / "x", on_wait=lambda: waits.append(3)):
        pass
    assert waits == [1]


class Lock:
    """A lock that is held by somebody for so many tries; remembers what is asked of it."""

    tries = 0
    asked: ClassVar[list[float | str]] = []

    def __init__(self, path: Path) -> None:
        self.path = path

    def acquire(self, timeout: float) -> None:
        self.asked.append(timeout)
        if len(self.asked) <= self.tries:
            raise filelock.Timeout(str(self.path))

    def release(self) -> None:
        self.asked.append("release")


@pytest.mark.parametrize(
    ("tries", "more", "asked"),
    [
        (0, {}, [1.0, "release"]),
        (1, {}, [1.0, 3600.0, "release"]),
        (1, {"timeout_s": 0.5}, [0.5, 0.5, "release"]),
        (2, {"timeout_s": 7.0}, [1.0, 7.0]),
    ],
)
def test_how_long_a_lock_is_waited_for(
    tries: int,
    more: dict[str, float],
    asked: list[float | str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Lock, "tries", tries)
    monkeypatch.setattr(Lock, "asked", [])
    monkeypatch.setattr(filelock, "FileLock", Lock)
    with contextlib.suppress(StorageError), locked(tmp_path / "x", **more):
        assert tries < 2
    assert Lock.asked == asked


def test_the_holder_sweeps_and_gives_back(tmp_path: Path) -> None:
    (tmp_path / ".tmp-12-0123abcd-x").mkdir()
    with locked(tmp_path / "new" / "x"):
        assert (tmp_path / "new").is_dir()
    with pytest.raises(ValueError), locked(tmp_path / "x"):
        assert names(tmp_path) == ["new"]
        raise ValueError
    with locked(tmp_path / "x", timeout_s=1.0):
        pass


# --- sums ----------------------------------------------------------------------------------


def test_sums_of_files(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    (tmp_path / "b").write_bytes(b"")
    # FIPS 180-2, appendix B.1, and the sum of nothing.
    abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    nothing = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert sha256_file(tmp_path / "a") == abc
    assert sha256_files(tmp_path, ["b", "a"]) == {"b": nothing, "a": abc}
    with pytest.raises(ArtifactError, match="cannot be read: No such file"):
        sha256_file(tmp_path / "c")


def test_digests_are_of_canonical_json() -> None:
    text = json.dumps([{"a": 1, "b": "ü"}, [None, True]], sort_keys=True, ensure_ascii=False)
    expected = hashlib.sha256(text.encode()).hexdigest()[:16]
    assert digest_of({"b": "ü", "a": 1}, (None, True)) == expected
    assert len(expected) == 16
    assert digest_of(1) != digest_of("1") != digest_of([1])
