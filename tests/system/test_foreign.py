"""What users put into a folder of clipperf's comes with it into the next one."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import as_another_user

from clipperf.errors import UsageError
from clipperf.system.foreign import carry_over, check

OURS = {"manifest.json", "image/model.onnx"}.__contains__

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="links and permissions of POSIX")


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    old, new = tmp_path / "old", tmp_path / "new"
    for folder in (old, new):
        (folder / "image").mkdir(parents=True)
        for name in ("manifest.json", "image/model.onnx"):
            (folder / name).write_text(folder.name)
    return old, new


def test_everything_else_is_carried_over_as_it_is(folders: tuple[Path, Path]) -> None:
    old, new = folders
    (old / "labels.json").write_text("[]")
    (old / "index" / "deep").mkdir(parents=True)
    (old / "index" / "deep" / "part.bin").write_bytes(b"index")
    (old / "index").chmod(0o750)
    (old / "empty").mkdir()
    (old / "image" / "notes.txt").write_text("mine")
    (old / ".hidden").write_text("hidden")
    (old / "link").symlink_to("index/deep")
    (old / "dangling").symlink_to("nowhere")
    os.mkfifo(old / "pipe")
    (old / ".tmp-1-00000000-x").touch()
    carry_over(old, new, OURS)
    found = sorted(p.relative_to(new).as_posix() for p in new.rglob("*"))
    assert found == [
        *(".hidden", "dangling", "empty", "image", "image/model.onnx", "image/notes.txt", "index"),
        *("index/deep", "index/deep/part.bin", "labels.json", "link", "manifest.json", "pipe"),
    ]
    assert (new / "manifest.json").read_text() == (new / "image/model.onnx").read_text() == "new"
    assert (new / "index/deep/part.bin").samefile(old / "index/deep/part.bin")
    assert stat.S_IMODE((new / "index").stat().st_mode) == 0o750
    assert (new / "link").readlink() == Path("index/deep")
    assert (new / "dangling").readlink() == Path("nowhere")
    assert stat.S_ISFIFO((new / "pipe").stat().st_mode)


def test_copies_where_the_file_system_has_no_hard_links(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    old, new = folders
    (old / "labels.json").write_text("[]")
    (old / "link").symlink_to("labels.json")
    carry_over(old, new, OURS)
    assert (new / "labels.json").read_text() == "[]"
    assert not (new / "labels.json").samefile(old / "labels.json")
    assert (new / "link").is_symlink()


@pytest.mark.parametrize("mine", ["image/vocabulary", "text", "text/deep/file"])
def test_what_is_in_the_way_is_named(folders: tuple[Path, Path], mine: str) -> None:
    """clipperf comes to write a name that a user's file has, or a folder in the place of one."""
    old, new = folders
    (old / mine).parent.mkdir(parents=True, exist_ok=True)
    (old / mine).write_text("mine")
    if mine == "text":
        (new / "text").mkdir()
    elif mine == "image/vocabulary":
        (new / mine).write_text("new")
    else:
        (new / "text").write_text("new")
    with pytest.raises(UsageError, match=r"text|vocabulary.*is not clipperf's.*move it away"):
        carry_over(old, new, OURS)
    assert (old / mine).read_text() == "mine"


def test_what_is_mounted_in_a_folder_is_not_moved(folders: tuple[Path, Path]) -> None:
    old, new = folders
    (old / "disk").mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(old / "disk")]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        (old / "disk" / "file").touch()
        with pytest.raises(UsageError, match="unmount it"):
            carry_over(old, new, OURS)
    finally:
        subprocess.run(["umount", str(old / "disk")], check=True)


@pytest.mark.parametrize("mine", ["image/vocabulary", "text", "text/deep/file", "image/model.onnx"])
def test_what_will_be_in_the_way_is_found_before(folders: tuple[Path, Path], mine: str) -> None:
    old, _ = folders
    coming = {"text": ["text/model.onnx"], "text/deep/file": ["text"]}.get(mine, [mine])
    (old / mine).parent.mkdir(parents=True, exist_ok=True)
    (old / mine).write_text("mine")
    if mine == "image/model.onnx":  # ours, so it goes
        check(old, OURS, coming)
        return
    check(old, OURS, ["elsewhere", "image/model.onnx"])
    with pytest.raises(UsageError, match=r"is not clipperf's.*move it away"):
        check(old, OURS, coming)


AS_A_USER = """
import os, sys
from pathlib import Path
from clipperf.errors import UsageError
from clipperf.system import files, foreign
import filelock  # what is imported later this user may not read
folder = Path(sys.argv[1])
os.setgid(54321), os.setuid(54321)
os.umask(0o022)
out, ours = folder / "out", {"ours"}.__contains__
(out / "read only" / "deep").mkdir(parents=True)
(out / "read only" / "deep" / "file").write_text("mine")
(out / "unreadable").write_text("mine")
(out / "empty").mkdir()
modes = {"read only/deep": 0o555, "read only": 0o555, "unreadable": 0, "empty": 0o500}
for name, mode in modes.items():
    (out / name).chmod(mode)
for number in range(3):
    foreign.check(out, ours, ["ours"])
    with files.locked(out), files.staged(out) as staging:
        (staging / "ours").write_text(str(number))
        foreign.carry_over(out, staging, ours)
    assert (out / "ours").read_text() == str(number)
    assert (out / "read only" / "deep" / "file").read_text() == "mine"
    assert modes == {name: (out / name).stat().st_mode & 0o777 for name in modes}
    assert [p.name for p in folder.iterdir()] == ["out"], list(folder.iterdir())
(out / "closed").mkdir(mode=0)
try:
    foreign.check(out, ours, ["ours"])
except UsageError as exc:
    assert "closed is not clipperf's and cannot be kept (Permission denied)" in str(exc), exc
    print("fine")
"""


def test_what_is_read_only_or_unreadable_comes_along(tmp_path: Path) -> None:
    done = as_another_user(AS_A_USER)
    assert done.stdout == "fine\n", done.stderr


def test_a_folder_that_is_not_there_has_nothing(tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    carry_over(tmp_path / "old", tmp_path / "new", OURS)
    assert list((tmp_path / "new").iterdir()) == []


def test_a_users_name_that_begins_like_a_temporary_one_is_kept(folders: tuple[Path, Path]) -> None:
    old, new = folders
    (old / ".tmp-notes").write_text("mine")
    (old / ".tmp-123-0123abcd-model.onnx").write_text("a dead writer's")
    carry_over(old, new, lambda name: not name.startswith(".tmp-"))
    assert (new / ".tmp-notes").read_text() == "mine"
    assert not (new / ".tmp-123-0123abcd-model.onnx").exists()
