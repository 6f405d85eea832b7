"""What commands have in the shared place: it goes with them, or with the next one of all."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from clipperf.system.cluster import owning
from clipperf.system.cluster.owning import MARK, owned

HOLD = """
import sys, time
from clipperf.system.cluster.owning import owned
with owned(sys.argv[1]) as shared:
    shared.put(shared.own("rows.json"), b"[]")
    print(shared.run, flush=True)
    time.sleep(600)
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "place"


def tasks(place: Path) -> set[str]:
    """What lies in the folder of what is of one command."""
    return {path.name for path in (place / "tasks").iterdir()}


def left(place: Path, name: str, kernel: str | None, age_s: float) -> None:
    """What a command has left some time ago, with its mark if it ran on a kernel."""
    own = place / "tasks" / name
    own.mkdir(parents=True)
    (own / "rows.json").write_text("[]")
    paths = [own / "rows.json"]
    if kernel is not None:
        paths.append(own.with_name(f"{name}{MARK}"))
        paths[-1].write_text(kernel)
    for path in paths:
        os.utime(path, (time.time() - age_s,) * 2)


def test_what_is_a_commands_goes_with_it(place: Path) -> None:
    with owned(str(place)) as shared:
        blob = shared.put(shared.own("rows.json"), b"[1]")
        assert tasks(place) == {shared.run, f"{shared.run}{MARK}"}
        with owned(f"file://{place}") as beside:  # a second one of the same kernel
            assert beside.run != shared.run
        assert shared.get(shared.own("rows.json"), blob) == b"[1]", "the other one lives"
    assert tasks(place) == set()


@pytest.mark.skipif(sys.platform == "win32", reason="locks of POSIX")
def test_what_a_killed_command_has_left_goes_with_the_next(place: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(place)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        run = process.stdout.readline().strip()
        (place / "tasks" / run / ".half").touch()  # as one that is killed while it copies a file
        with owned(str(place)):
            assert (place / "tasks" / run / "rows.json").exists(), "it lives"
        process.kill()
        process.wait()
    with owned(str(place)) as shared:
        assert tasks(place) == {f"{run}{MARK}", shared.run + MARK}
        late = place / "tasks" / run
        late.mkdir()  # by a task of the dead command which is not ended yet
        (late / "rows.json").touch()
    assert tasks(place) == set()


def test_of_other_kernels_and_of_unknown_ones_the_old_goes(place: Path) -> None:
    hour_s = owning.DEAD.total_seconds()
    theirs_old, theirs, nobodys_old, nobodys = (digit * 16 for digit in "0a1b")
    left(place, theirs_old, "another", hour_s + 60)
    left(place, theirs, "another", hour_s / 2)
    left(place, nobodys_old, None, hour_s + 60)
    left(place, nobodys, None, hour_s / 2)
    with owned(str(place)):
        pass
    assert tasks(place) == {theirs, f"{theirs}{MARK}", nobodys}


def test_what_is_somebody_elses_stays_however_old(place: Path) -> None:
    hour_s = owning.DEAD.total_seconds()
    for name in ("my-thesis", "0" * 15, "0" * 17, f"0123456789abcdef{MARK}.bak"):
        left(place, name, None, 9 * hour_s)
    left(place, "todo", "another", 9 * hour_s)
    before = tasks(place)
    with owned(str(place)):
        pass
    assert tasks(place) == before and (place / "tasks" / "my-thesis" / "rows.json").is_file()


@pytest.mark.skipif(sys.platform != "linux", reason="namespaces of Linux")
def test_a_lock_that_another_mount_may_hide_is_not_asked(place: Path) -> None:
    """Containers of one kernel that mount the place each do not see each other's locks."""
    there = owning._here().decode().replace("mnt:[", "mnt:[9")
    assert there != owning._here().decode()
    left(place, "c" * 16, there, owning.DEAD.total_seconds() / 2)
    left(place, "d" * 16, owning._here().decode(), 0.0)
    with owned(str(place)):
        assert "c" * 16 in tasks(place), "it may live"
        assert "d" * 16 not in tasks(place), "nobody holds its lock"


def test_a_living_command_gives_signs(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owning, "SIGN_S", 0.01)
    with owned(str(place)) as shared:
        mark = place / "tasks" / f"{shared.run}{MARK}"
        os.utime(mark, (0, 0))
        until_s = time.monotonic() + 60
        while mark.stat().st_mtime == 0:
            assert time.monotonic() < until_s
            time.sleep(0.01)


def test_where_a_command_fails_its_mark_stays_for_the_next(place: Path) -> None:
    with pytest.raises(KeyError), owned(str(place)) as shared:
        shared.put(shared.own("rows.json"), b"[]")
        raise KeyError
    assert tasks(place) == {f"{shared.run}{MARK}"}, "tasks that are being ended may still write"
    with owned(str(place)):
        pass
    assert tasks(place) == set()
