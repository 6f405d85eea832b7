"""What is written where a path is a link, a device, a pipe or a descriptor; and home folders."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from conftest import as_another_user

from clipperf.errors import StorageError, UsageError
from clipperf.models import zoo
from clipperf.system import files, store
from clipperf.system.targets import entries_of, existing, expanded, is_stream, real

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="devices and /proc of Linux")


def device(path: Path, kind: int, number: int) -> Path:
    """A device of our own: a test that goes wrong must not hit the machine's."""
    try:
        os.mknod(path, kind | 0o666, number)
    except PermissionError:
        pytest.skip("making devices needs root")
    return path


# --- links ---------------------------------------------------------------------------------


def test_a_file_behind_a_link_is_replaced_and_the_link_stays(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    target, link = tmp_path / "there" / "report.html", tmp_path / "link"
    target.write_text("old")
    target.chmod(0o640)
    before = target.stat().st_ino
    link.symlink_to("there/report.html")
    files.write_text(link, "new")
    assert link.is_symlink() and link.readlink() == Path("there/report.html")
    assert target.read_text() == "new" and target.stat().st_ino != before
    assert stat.S_IMODE(target.stat().st_mode) == 0o640
    assert sorted(p.name for p in tmp_path.iterdir()) == ["link", "there"]
    assert [p.name for p in target.parent.iterdir()] == ["report.html"]


def test_a_link_to_nothing_yet_is_written_through(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "later" / "file")
    files.check_writable(link)
    files.write_text(link, "new")
    assert link.is_symlink() and (tmp_path / "later" / "file").read_text() == "new"


def test_links_in_a_circle_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    with pytest.raises(StorageError, match="circle"):
        files.write_text(tmp_path / "a", "new")
    with pytest.raises(StorageError, match="circle"), files.locked(tmp_path / "a"):
        pass
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b"]


def test_a_folder_behind_a_link_is_exchanged_and_locked_there(tmp_path: Path) -> None:
    folder, link = tmp_path / "there" / "artifact", tmp_path / "link"
    folder.mkdir(parents=True)
    (folder / "old").touch()
    link.symlink_to(folder)
    with files.locked(link):
        with pytest.raises(StorageError, match="another process"), files.locked(folder, 0.1):
            pass
        with files.staged(link) as staging:
            assert staging.parent == folder.parent
            (staging / "new").touch()
    assert link.is_symlink() and real(link) == folder
    assert [p.name for p in folder.iterdir()] == ["new"]
    assert [p.name for p in folder.parent.iterdir()] == ["artifact"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["link", "there"]


# --- what is no file -----------------------------------------------------------------------


def test_a_device_is_written_into_and_stays(tmp_path: Path) -> None:
    null = device(tmp_path / "null", stat.S_IFCHR, os.makedev(1, 3))
    files.check_writable(null)
    for path in (null, tmp_path / "link"):
        if path != null:
            path.symlink_to(null)
        files.write_json(path, {"a": 1})
    assert stat.S_ISCHR(null.stat().st_mode)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["link", "null"]


def test_a_full_device_is_a_full_disk(tmp_path: Path) -> None:
    full = device(tmp_path / "full", stat.S_IFCHR, os.makedev(1, 7))
    with pytest.raises(StorageError, match="disk full"):
        files.write_text(full, "text")
    assert stat.S_ISCHR(full.stat().st_mode)


def test_a_disk_is_refused(tmp_path: Path) -> None:
    disk = device(tmp_path / "disk", stat.S_IFBLK, os.makedev(7, 255))
    with pytest.raises(StorageError, match="is a disk"):
        files.write_text(disk, "text")
    assert stat.S_ISBLK(disk.stat().st_mode)


def test_a_pipe_is_written_into_where_somebody_reads(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(StorageError, match="nobody reads"):
        files.write_text(pipe, "text")
    content = "much" * 100_000  # more than a pipe holds
    found: list[str] = []
    descriptor = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    os.set_blocking(descriptor, True)
    # Another end for writing: without one a reader that comes first finds the end of the file, and
    # leaves a writer that nobody reads from.
    writer = os.open(pipe, os.O_WRONLY)
    with open(descriptor) as reader:
        thread = threading.Thread(target=lambda: found.append(reader.read()))
        files.check_writable(pipe)
        thread.start()
        files.write_text(pipe, content)
        os.close(writer)
        thread.join(30)
    assert found == [content] and stat.S_ISFIFO(pipe.stat().st_mode)
    assert [p.name for p in tmp_path.iterdir()] == ["pipe"]


@pytest.mark.parametrize("name", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"])
@pytest.mark.parametrize("where", ["file", "pipe"])
def test_a_descriptor_is_written_into_where_it_stands(
    tmp_path: Path, name: str, where: str
) -> None:
    code = (
        "import sys; from pathlib import Path; from clipperf.system import files; "
        f"print('before'); files.write_text(Path({name!r}), 'text\\n'); print('after')"
    )
    log = tmp_path / "log"
    log.write_text("what stood there\n")
    with log.open("a") as file:
        done = subprocess.run(
            [sys.executable, "-c", code],
            stdout=file if where == "file" else subprocess.PIPE,
            text=True,
            timeout=60,
        )
    assert done.returncode == 0
    said = log.read_text() if where == "file" else done.stdout
    old = "what stood there\n" if where == "file" else ""
    assert said == f"{old}before\ntext\nafter\n"


@pytest.mark.parametrize("kind", ["file", "pipe", "device"])
def test_a_folder_takes_the_place_of_a_folder_only(tmp_path: Path, kind: str) -> None:
    target = tmp_path / "target"
    if kind == "file":
        target.touch()
    elif kind == "pipe":
        os.mkfifo(target)
    else:
        device(target, stat.S_IFCHR, os.makedev(1, 3))
    before = target.stat()
    with pytest.raises(StorageError, match="is no folder"), files.staged(target):
        pass
    assert target.stat().st_ino == before.st_ino
    assert [p.name for p in tmp_path.iterdir()] == ["target"]


def test_a_folder_is_no_stream_and_takes_no_file(tmp_path: Path) -> None:
    assert not is_stream(tmp_path) and not is_stream(tmp_path / "absent")
    (tmp_path / "folder").mkdir()
    with pytest.raises(StorageError, match="cannot write"):
        files.write_text(tmp_path / "folder", "text")
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]


# --- home folders --------------------------------------------------------------------------


def test_the_home_of_nobody_is_an_error_that_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"~no-such-user/x: .*write the path in full"):
        expanded("~no-such-user/x")
    monkeypatch.setenv("CLIPPERF_HOME", "~no-such-user/x")
    with pytest.raises(UsageError, match="in full"):
        store.home()


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"CLIPPERF_HOME": "/a/b", "XDG_CACHE_HOME": "/c", "HOME": "/d"}, "/a/b"),
        ({"CLIPPERF_HOME": "", "XDG_CACHE_HOME": "/c", "HOME": "/d"}, "/c/clipperf"),
        ({"XDG_CACHE_HOME": "/c"}, "/c/clipperf"),
        ({"XDG_CACHE_HOME": "", "HOME": "/d"}, "/d/.cache/clipperf"),
        ({"CLIPPERF_HOME": "~/e", "HOME": "/d"}, "/d/e"),
        ({}, "error: this user has no home folder: set CLIPPERF_HOME"),
        ({"CLIPPERF_HOME": "~/e"}, "error: ~/e: that home folder is not known here"),
    ],
)
def test_a_user_that_the_system_does_not_know(variables: dict[str, str], expected: str) -> None:
    """A container's user: a number without an entry in the list of users."""
    code = (
        "import os; from clipperf.errors import UsageError; from clipperf.system import store\n"
        "os.setuid(54321)\n"
        "try: print(store.home())\n"
        "except UsageError as exc: print('error:', exc)\n"
    )
    if os.geteuid() != 0:
        pytest.skip("becoming another user needs root")
    known = {key: value for key, value in os.environ.items() if key.startswith("PYTHON")}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**known, **variables},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.strip().startswith(expected), done.stderr


def test_a_working_directory_that_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(UsageError, match="working directory was removed"):
        expanded("file")
    assert expanded("/a/file") == Path("/a/file")


def test_a_name_that_no_file_can_have_is_an_error_in_words(tmp_path: Path) -> None:
    for write in (
        lambda path: files.write_text(path, "content"),
        lambda path: files.staged(path).__enter__(),
    ):
        with pytest.raises(StorageError, match="File name too long"):
            write(tmp_path / ("x" * 300))


@pytest.mark.parametrize("name", ["", " ", "x" * 100_000, "a\0b", "absent"])
def test_a_name_that_no_file_has_names_nothing(name: str) -> None:
    assert existing(name) is None


# --- paths of which nothing can be told ----------------------------------------------------

AS_A_USER = """
import os, sys
import filelock
from pathlib import Path
import clipperf, clipperf.serve.load
from clipperf.bench import tune
from clipperf.commands import options
from clipperf.errors import ClipperfError
from clipperf.evals import datasets
from clipperf.export import space
from clipperf.inspect import artifact
from clipperf.models import zoo
from clipperf.system import results, store
spec = zoo.resolve("clipperf-sample")
root = Path(sys.argv[1])
os.setgid(54321), os.setuid(54321)
(root / "closed").mkdir(mode=0)
(root / "a").symlink_to("b")
(root / "b").symlink_to("a")
strange = {
    root / "closed" / "x": "Permission denied",
    root / ("x" * 300): "File name too long",
    root / "a": "Too many levels of symbolic links",
}
for path, why in strange.items():
    for ask in (
        lambda: options.open_target(path, "profile").__enter__(),
        lambda: options.refuse_to_replace_data(path),
        lambda: results.alone(path, "--json").__enter__(),
        lambda: results.what_goes(path),
        lambda: store.read_manifest(path),
        lambda: store.read_result(path),
        lambda: space.check_target(path, spec, "onnx"),
        lambda: tune.check_bundle(path),
        lambda: datasets.load_dataset(path),
        lambda: artifact.inspect(path),
        lambda: clipperf.load(path),
    ):
        try:
            ask()
        except ClipperfError as exc:
            assert why in str(exc), exc
        else:
            raise AssertionError(path)
print("fine")
"""


def test_a_path_of_which_nothing_can_be_told_is_an_error_that_says_why() -> None:
    done = as_another_user(AS_A_USER)
    assert done.stdout == "fine\n", done.stderr


def test_what_a_folder_holds(tmp_path: Path) -> None:
    for name in ("b", "a"):
        (tmp_path / name).write_text("")
    assert entries_of(tmp_path) == [tmp_path / "a", tmp_path / "b"]
    assert entries_of(tmp_path / "a") == entries_of(tmp_path / "none") == []
    done = as_another_user(
        "import os, sys; from pathlib import Path; from clipperf.system.targets import entries_of\n"
        "os.setgid(54321), os.setuid(54321)\n"
        "(Path(sys.argv[1]) / 'closed').mkdir(mode=0)\n"
        "try: entries_of(Path(sys.argv[1]) / 'closed')\n"
        "except Exception as exc: print(type(exc).__name__, exc)"
    )
    assert done.stdout.startswith("UsageError") and "cannot be listed: Perm" in done.stdout, done


def test_an_empty_path_is_none() -> None:
    with pytest.raises(UsageError, match="a path is empty"):
        expanded("")


def test_a_tag_needs_no_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert not zoo.must_read("clipperf-sample", None)
    assert not zoo.must_read("ViT-B-32", "laion2b_s34b_b79k")
    assert not zoo.must_read("ViT-B-32::laion2b_s34b_b79k", None)
    with pytest.raises(UsageError, match=r"weights\.pt: the working directory was removed"):
        zoo.resolve("ViT-B-32", "weights.pt")
