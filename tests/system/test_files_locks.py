"""Lock files: nobody else may write them, and none stays."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from clipperf.system import files

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="permissions of POSIX")


@pytest.mark.parametrize(
    ("umask", "expected"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664), (0, 0o664)]
)
def test_a_lock_is_no_program_and_not_open_to_the_world(
    tmp_path: Path, umask: int, expected: int
) -> None:
    before = os.umask(umask)
    try:
        with files.locked(tmp_path / "artifact"):
            (lock,) = tmp_path.iterdir()
            assert stat.S_IMODE(lock.stat().st_mode) == expected
    finally:
        os.umask(before)
    assert list(tmp_path.iterdir()) == []


def test_a_lock_that_a_killed_holder_left_goes_with_the_next(tmp_path: Path) -> None:
    (tmp_path / ".artifact.lock").touch()
    with files.locked(tmp_path / "artifact"):
        assert (tmp_path / ".artifact.lock").exists()
    assert list(tmp_path.iterdir()) == []


def test_a_lock_that_is_removed_keeps_processes_apart(tmp_path: Path) -> None:
    """Five processes enter and leave 100 times in all; each looks whether it is alone."""
    code = """
        import os, sys, time
        from pathlib import Path
        from clipperf.system import files
        target, inside = Path(sys.argv[1]), Path(sys.argv[2])
        for _ in range(20):
            with files.locked(target):
                os.close(os.open(inside, os.O_CREAT | os.O_EXCL))
                time.sleep(0.001)
                inside.unlink()
    """
    command = [sys.executable, "-c", textwrap.dedent(code), tmp_path / "a", tmp_path / "inside"]
    processes = [subprocess.Popen(command) for _ in range(5)]
    assert [process.wait(timeout=120) for process in processes] == [0] * 5
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_writer_of_a_file_left_goes_with_the_next(tmp_path: Path) -> None:
    code = """
        import sys, time
        from pathlib import Path
        from clipperf.system import files
        with files.replacing(Path(sys.argv[1])) as temporary:
            temporary.write_text("half")
            print(temporary.name, flush=True)
            time.sleep(600)
    """
    path = tmp_path / "result.json"
    left = []
    for number in range(2):
        command = [sys.executable, "-c", textwrap.dedent(code), path]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            left.append(process.stdout.readline().strip())
            files.write_text(path, "while another writes")
            assert (tmp_path / left[-1]).exists(), "a living writer's file was removed"
            process.kill()
        assert sorted(p.name for p in tmp_path.iterdir()) == sorted([left[-1], path.name]), number
    files.write_text(tmp_path / "another.json", "new")
    assert (tmp_path / left[-1]).exists(), "it is another file's"
    files.write_text(path, "new")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["another.json", "result.json"]


@pytest.mark.parametrize("name", ["n" * 255, "ü" * 127, "x" * 230 + ".json"])
def test_the_longest_names_can_be_written(tmp_path: Path, name: str) -> None:
    files.write_text(tmp_path / name, "new")
    assert (tmp_path / name).read_text() == "new"
    folder = tmp_path / "folders" / name
    with files.locked(folder), files.staged(folder) as staging:
        (staging / "a").touch()
    assert [p.name for p in folder.parent.iterdir()] == [name]
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([name, "folders"])
