"""What `gc` removes, beside other processes and under kills; who reads meanwhile goes on."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import stored
from conftest import leftovers, store_of

import clipperf
from clipperf.errors import ArtifactError
from clipperf.export.folder import own_files
from clipperf.system import files, store
from clipperf.system.housekeeping.contents import entries
from clipperf.system.housekeeping.in_use import alone, using
from clipperf.system.housekeeping.plan import Choices, Plan, plan
from clipperf.system.housekeeping.references import References, note_tuning, references
from clipperf.system.housekeeping.removal import Removed, remove

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="locks and kills of POSIX")

UNUSED = Choices(unused=True)


def refers() -> References:
    return references(lambda runtime: runtime)


def planned(choices: Choices = UNUSED) -> Plan:
    return plan(entries(), refers(), choices, own_files)


def collected(choices: Choices = UNUSED) -> Removed:
    return remove(planned(choices), lambda: planned(choices))


@contextlib.contextmanager
def process(code: str, *args: object) -> Iterator[subprocess.Popen[str]]:
    """A Python process that has printed its first line; killed at the end if still there."""
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, args)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        try:
            assert child.stdout.readline(), "the child failed"
            yield child
        finally:
            child.kill()


def test_it_is_gone_with_what_is_empty_above_and_its_digests(home: Path) -> None:
    folder = stored.artifact(content=b"x" * 100_000)
    other = stored.artifact("RN50::openai")
    for path in (folder, other):
        store.cached_sha256(path / "image" / "model.onnx")
    stored.result("RN50::openai")
    before = sum(p.lstat().st_blocks * 512 for p in [folder, *folder.rglob("*")])
    done = collected()
    assert [removal.path for removal in done.gone] == [folder]
    assert (done.kept, done.failed, done.freed_bytes) == ([], [], before)
    assert not (home / "artifacts" / "ViT-B-32").exists()
    assert list(files.read_json(home / "digests.json")) == [str(other / "image" / "model.onnx")]
    assert store.find_artifacts() == [(other, store.read_manifest(other))]
    assert not leftovers(home)
    assert planned().removals == ()


def test_caches_and_leftovers_go(home: Path) -> None:
    folder = stored.artifact()
    kept = stored.caches()
    staging = stored.dead_staging(folder)
    half = stored.dead_staging(home / "results" / "a.json")
    lock = folder.with_name(f".{folder.name}.lock")
    lock.touch()
    done = collected(Choices(all_caches=True))
    assert done.failed == []
    assert {removal.path for removal in done.gone} == {
        *(staging, half, lock, kept["graph"], kept["probe"], kept["kernels"]),
        *(kept["compiled"].parent, kept["embeddings"].parent),
    }
    left = [path for path in home.rglob("*") if path.is_file()]
    assert set(left) == {path for path in folder.rglob("*") if path.is_file()}


# --- beside others -------------------------------------------------------------------------

STAGING = """
    import sys, time
    from pathlib import Path
    from clipperf.system import files
    target = Path(sys.argv[1])
    with files.locked(target), files.staged(target) as staging:
        (staging / "half").write_text("half")
        print(staging, flush=True)
        time.sleep(600)
"""


def test_the_staging_of_a_running_export_stays(home: Path) -> None:
    target = stored.artifact()
    target.rename(home / "waiting")
    with process(STAGING, target) as child:
        (staging,) = leftovers(home)
        found = planned()
        assert found.removals == ()
        assert {path for path, _ in found.kept} == {
            staging,
            target.with_name(f".{target.name}.lock"),
        }
        child.kill()
        child.wait()
        assert {removal.path for removal in planned().removals} == {path for path, _ in found.kept}
    assert collected().failed == []
    assert not leftovers(home)


def test_an_artifact_that_is_being_made_anew_stays(home: Path) -> None:
    target = stored.artifact()
    found = planned()
    with process(STAGING, target):
        done = remove(found, planned)
    assert done.gone == []
    assert done.kept == [(target, "a running command is writing it")]


def test_what_has_changed_since_the_plan_stays(home: Path, tmp_path: Path) -> None:
    changed, tuned = stored.artifact("A::w"), stored.artifact("B::w")
    vanished = stored.artifact("C::w")
    found = planned()
    stored.change_manifest(changed, created_utc="2026-03-01T00:00:00Z")
    note_tuning(stored.tuning(tuned, tmp_path / "tuned.json"))
    vanished.rename(tmp_path / "moved")
    done = remove(found, planned)
    assert (done.gone, done.failed) == ([], [])
    assert [path for path, _ in done.kept] == [changed, tuned]


def test_what_has_come_to_be_used_since_the_plan_stays(home: Path) -> None:
    measured, holds = stored.artifact(), stored.artifact("A::w")
    found = planned()
    stored.result()
    (holds / "image" / "labels.json").write_text("[]")
    done = remove(found, planned)
    assert (done.gone, done.failed) == ([], [])
    assert dict(done.kept)[measured] == "something refers to it meanwhile"
    assert "labels.json" in dict(done.kept)[holds]


USING = """
    import time
    from clipperf.system.housekeeping.in_use import using
    with using():
        print("up", flush=True)
        time.sleep(600)
"""


def test_what_loads_stays_while_a_command_uses_the_store(home: Path) -> None:
    folder, broken = stored.artifact("A::w"), stored.artifact("B::w")
    (broken / "text" / "model.onnx").unlink()
    staging = stored.dead_staging(folder)
    with process(USING) as child, using():
        done = collected()
        assert {removal.path for removal in done.gone} == {broken, staging}
        ((path, why),) = done.kept
        assert path == folder
        assert "a running command uses the store" in why
        assert broken.parent.is_dir(), "an export may be about to write there"
        child.kill()
    assert [removal.path for removal in collected().gone] == [folder]


def test_a_command_waits_until_gc_is_done(home: Path) -> None:
    home.mkdir()
    with alone() as held:
        assert held == "alone"
        command = [sys.executable, "-c", textwrap.dedent(USING)]
        child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert child.stdout is not None and child.stderr is not None
        said = child.stderr.readline()
    try:
        assert "waiting for clipperf store gc" in said
        assert child.stdout.readline() == "up\n"
    finally:
        child.kill()
        child.communicate()


# --- readers -------------------------------------------------------------------------------

READERS = """
    import os, sys
    from pathlib import Path
    from clipperf.errors import ArtifactError
    from clipperf.serve.held import held
    from clipperf.system import store
    from clipperf.system.files import sha256_file

    folder, number = Path(sys.argv[1]), int(sys.argv[2])
    go, start = os.pipe()

    def read():
        with held(folder) as handle:
            manifest = store.read_manifest(handle.folder)
            names = {**manifest.files, **manifest.towers[0].files}
            handle.keep(names)
            os.write(1, b".")
            os.read(go, 1)  # all have it open before the first goes on
            for name, digest in names.items():
                assert sha256_file(handle.path(name)) == digest, name
        return 0

    readers = []
    for _ in range(number):
        readers.append(os.fork())
        if readers[-1] == 0:
            try:
                os._exit(read())
            except BaseException:
                import traceback
                traceback.print_exc()
                os._exit(1)
    sys.stdin.readline()
    os.write(start, b"x" * number)
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in readers]
    print(codes.count(0), flush=True)
"""


def test_300_processes_that_read_an_artifact_go_on_when_it_is_removed(home: Path) -> None:
    """All have it open when it is removed; each reads the bytes that it began with."""
    folder = stored.artifact(content=b"x" * 200_000)
    command = [sys.executable, "-c", textwrap.dedent(READERS), folder, "300"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, **pipes) as readers:  # type: ignore[call-overload]
        try:
            assert readers.stdout.read(300) == b"." * 300
            assert [removal.path for removal in collected().gone] == [folder]
            assert not folder.exists()
            said, _ = readers.communicate(b"\n", timeout=60)
        finally:
            readers.kill()
    assert said == b"300\n"


def test_300_commands_use_a_store_at_once(home: Path) -> None:
    """Each holds it with the others; `gc` gets it when the last of them has ended."""
    code = """
        import os, sys
        from clipperf.system.housekeeping.in_use import using
        children = []
        for _ in range(300):
            children.append(os.fork())
            if children[-1] == 0:
                with using():
                    os.write(1, b".")
                    sys.stdin.readline()
                os._exit(0)
        for pid in children:
            os.waitpid(pid, 0)
    """
    home.mkdir()
    command = [sys.executable, "-c", textwrap.dedent(code)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, **pipes) as commands:  # type: ignore[call-overload]
        assert commands.stdout.read(300) == b"." * 300
        with alone() as held:
            assert held == "with others"
        commands.stdin.close()
        commands.wait(timeout=60)
    with alone() as held:
        assert held == "alone"


def test_who_lists_artifacts_meanwhile_is_not_stopped(home: Path) -> None:
    """Folders come and go with all that is above them."""
    code = """
        import sys
        sys.path.insert(0, sys.argv[1])
        import stored
        from clipperf.export.folder import own_files
        from clipperf.system.housekeeping.contents import entries
        from clipperf.system.housekeeping.plan import Choices, plan
        from clipperf.system.housekeeping.references import references
        from clipperf.system.housekeeping.removal import remove
        refers = lambda: references(lambda runtime: runtime)
        while True:
            stored.artifact()
            stored.artifact(precision="fp16")
            planned = lambda: plan(entries(), refers(), Choices(unused=True), own_files)
            remove(planned(), planned)
            print("again", flush=True)
    """
    seen = set()
    with process(code, Path(stored.__file__).parent) as child:
        end = time.monotonic() + 2
        while time.monotonic() < end:
            seen.add(len(store.find_artifacts()))
        assert child.poll() is None
    assert len(seen) > 1, "nothing changed meanwhile: the test proves nothing"


def test_a_loaded_model_goes_on_and_the_next_load_says_what_is_missing(
    sample_artifact: Path, home: Path
) -> None:
    folder = store_of(sample_artifact, home)
    with clipperf.load(folder) as model:
        before = model.encode_texts(["a cat"])
        assert [removal.path for removal in collected().gone] == [folder]
        assert (model.encode_texts(["a cat"]) == before).all()
    with pytest.raises(ArtifactError, match="there is no such file or folder"):
        clipperf.load(folder)
    with pytest.raises(ArtifactError, match=r"make it with: clipperf export clipperf-sample"):
        clipperf.load("clipperf-sample")


# --- kills ---------------------------------------------------------------------------------

COLLECTOR = """
    import os, sys, time
    from clipperf.export.folder import own_files
    from clipperf.system.housekeeping.contents import entries
    from clipperf.system.housekeeping.plan import Choices, plan
    from clipperf.system.housekeeping.references import references
    from clipperf.system.housekeeping.removal import remove

    refers = lambda: references(lambda runtime: runtime)
    choices = Choices(unused=True, all_caches=True)
    planned = lambda: plan(entries(), refers(), choices, own_files)
    found = planned()
    left = int(sys.argv[1])
    for name in ("rename", "unlink", "rmdir"):  # so many are done, then it waits to be killed
        def counted(*args, call=getattr(os, name), **more):
            global left
            left -= 1
            if left < 0:
                print("there", flush=True)
                time.sleep(60)
            return call(*args, **more)
        setattr(os, name, counted)
    remove(found, planned)
    print("done", flush=True)
"""


def test_a_kill_leaves_nothing_half_removed_that_looks_whole(home: Path) -> None:
    rng = random.Random(3)
    struck = 0
    for number in range(8):
        for model in range(12):
            with contextlib.suppress(FileExistsError):
                stored.artifact(f"model{model}::w")
        stored.caches()
        with process(COLLECTOR, rng.randrange(1, 80)) as child:
            child.send_signal(signal.SIGKILL)
            child.wait()
        for path in (home / "artifacts").glob("*/*/*"):
            if not path.name.startswith("."):
                manifest = store.read_manifest(path)
                assert store.check_files(path, manifest, content=True) == [], number
        struck += bool(leftovers(home))
        done = collected(Choices())
        assert done.failed == []
        assert not leftovers(home), "the next gc removes what this one left"
    assert struck >= 2, "no kill struck in the middle: the test proves nothing"


# --- what cannot be removed ----------------------------------------------------------------


def test_what_may_not_be_removed_is_told(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = stored.artifact("A::w"), stored.artifact("B::w")
    rename = os.rename

    def refusing(source: Path, target: Path) -> None:
        if source == one:
            raise PermissionError(13, "Permission denied", str(source))
        rename(source, target)

    monkeypatch.setattr(os, "rename", refusing)
    done = collected()
    assert [removal.path for removal in done.gone] == [other]
    assert done.failed == [(one, "Permission denied")]
    assert store.check_files(one, store.read_manifest(one), content=True) == []
