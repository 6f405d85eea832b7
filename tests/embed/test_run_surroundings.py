"""`clipperf embed` in other surroundings: readers, disks, clocks, umasks, locales."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, Cli, leftovers
from surroundings import OLD, clock_backwards

from clipperf.embed import names

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="surroundings of POSIX")

Embed = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def images(samples: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine images with names beyond ASCII, and a table of them."""
    root = tmp_path_factory.mktemp("images")
    (root / "photos" / "Größe").mkdir(parents=True)
    for number, image in enumerate(sorted(Path(samples).glob("*.png"))[:9]):
        shutil.copy(image, root / "photos" / "Größe" / f"{number} “é”.png")
    lines = "".join(f"photos/Größe/{number} “é”.png,深{number}\n" for number in range(9))
    (root / "table.csv").write_text(f"path,id\n{lines}", "utf-8")
    return root


def words(data: Path, out: Path, artifact: Path) -> tuple[object, ...]:
    options = ("--batch", 2, "--shard-items", 3, "--threads", 1, "--workers", 1, "--quiet")
    return "embed", data, "--artifact", artifact, "--out", out, *options


@pytest.fixture(scope="module")
def whole(images: Path, sample_artifact: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The vectors of an ordinary run."""
    out = tmp_path_factory.mktemp("whole") / "out"
    command = [sys.executable, "-m", "clipperf", *words(images / "photos", out, sample_artifact)]
    subprocess.run(list(map(str, command)), check=True, capture_output=True, cwd=ROOT)
    assert len(list(out.glob("shard-*.npy"))) == 3
    return out


def content(out: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(out.iterdir()) if p.name != "manifest.json"}


# --- readers -------------------------------------------------------------------------------

READERS = """
    import hashlib, json, os, sys, time
    from pathlib import Path

    out, number, shards = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])

    def read():
        seen = set()
        while len(seen) < shards:
            for record in set(out.glob("shard-??????.json")) - seen:
                for name, file in json.loads(record.read_bytes())["files"].items():
                    data = (out / name).read_bytes()
                    assert len(data) == file["size_bytes"], name
                    assert hashlib.sha256(data).hexdigest() == file["sha256"], name
                seen.add(record)
            time.sleep(0.2)

    readers = []
    for _ in range(number):
        readers.append(os.fork())
        if readers[-1] == 0:
            try:
                os.write(1, b".")
                read()
                os._exit(0)
            except BaseException:
                import traceback
                traceback.print_exc()
                os._exit(1)
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in readers]
    print(codes.count(0), flush=True)
"""


def test_300_readers_find_every_shard_whole(
    images: Path, whole: Path, sample_artifact: Path, tmp_path: Path, cli: Cli
) -> None:
    """They look while it is written; a shard with a record is whole for all of them."""
    out = tmp_path / "out"
    command = [sys.executable, "-c", textwrap.dedent(READERS), out, "300", "3"]
    with subprocess.Popen(
        list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as readers:
        assert readers.stdout is not None
        try:
            assert readers.stdout.read(300) == b"." * 300
            cli(*words(images / "photos", out, sample_artifact), check=True)
            said, wrong = readers.communicate(timeout=120)
        finally:
            readers.kill()
    assert (said, wrong) == (b"300\n", b"")
    assert content(out) == content(whole)


# --- another file system -------------------------------------------------------------------


def test_vectors_on_another_file_system(
    images: Path, whole: Path, sample_artifact: Path, tmp_path: Path, elsewhere: Path, cli: Cli
) -> None:
    """The folder of vectors is a link to another one than images, artifact and store lie on."""
    (tmp_path / "out").symlink_to(elsewhere / "vectors")
    (elsewhere / "vectors").mkdir()
    command = words(images / "photos", tmp_path / "out", sample_artifact)
    cli(*command, check=True)
    (elsewhere / "vectors" / "shard-000001.json").unlink()
    assert "1 made now" in cli(*command, check=True).stdout
    assert content(elsewhere / "vectors") == content(whole)
    assert (tmp_path / "out").is_symlink()
    assert not leftovers(tmp_path) and not leftovers(elsewhere)


# --- a clock that goes backwards -----------------------------------------------------------


def test_a_clock_that_goes_backwards(
    images: Path,
    whole: Path,
    sample_artifact: Path,
    tmp_path: Path,
    cli: Cli,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In the run that began the folder, and in the one that goes on; files are of the future."""
    command, out = words(images / "photos", tmp_path / "out", sample_artifact), tmp_path / "out"
    clock_backwards(tmp_path, monkeypatch)
    done = cli(*command, "--json", check=True)
    assert json.loads(done.stdout)["seconds"] >= 0
    begun = json.loads((out / "manifest.json").read_text())["created_utc"]
    ordinary = json.loads((whole / "manifest.json").read_text())["created_utc"]
    assert begun < ordinary, "the clock did not go backwards"
    (out / "shard-000000.json").unlink()
    for path in out.iterdir():
        os.utime(path, (2**32, 2**32))
    assert json.loads(cli(*command, "--json", check=True).stdout)["made"] == 1
    assert content(out) == content(whole)


# --- umask and locale ----------------------------------------------------------------------


@pytest.mark.parametrize("umask", [0o077, 0o000])
def test_umask(
    umask: int, images: Path, whole: Path, sample_artifact: Path, tmp_path: Path, cli: Cli
) -> None:
    """Vectors are the user's alone, or anybody's, as the user's umask says."""
    out = tmp_path / "out"
    before = os.umask(umask)
    try:
        cli(*words(images / "photos", out, sample_artifact), check=True)
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in out.iterdir()} == {0o666 & ~umask}
    assert out.stat().st_mode & 0o777 == 0o777 & ~umask
    assert content(out) == content(whole) and not leftovers(tmp_path)


def test_names_are_the_same_in_a_locale_without_utf_8(
    images: Path,
    whole: Path,
    sample_artifact: Path,
    tmp_path: Path,
    cli: Cli,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Ids, the dataset's digest and the bytes of all shards; so one run goes on in another."""
    out = tmp_path / "fürs Archiv"
    table = words(images / "table.csv", tmp_path / "ordinary", sample_artifact)
    cli(*table, check=True)
    for name, value in OLD.items():
        monkeypatch.setenv(name, value)
    cli(*words(images / "photos", out, sample_artifact), check=True)
    assert content(out) == content(whole)
    ids = json.loads((out / "shard-000000.ids.json").read_text("utf-8"))
    assert ids == [f"Größe/{number} “é”.png" for number in range(3)]
    cli(*words(images / "table.csv", tmp_path / "表", sample_artifact), check=True)
    assert content(tmp_path / "表") == content(tmp_path / "ordinary")
    monkeypatch.undo()
    (out / "shard-000002.json").unlink()
    done = cli(*words(images / "photos", out, sample_artifact), check=True)
    assert "1 made now" in done.stdout and content(out) == content(whole)
    assert np.load(out / "shard-000002.npy").shape == (3, 192)


@pytest.mark.parametrize("encoding", ["ascii", "iso8859-1"])
def test_names_in_other_encodings(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What Python makes of the bytes of a name becomes their text, and that the name again."""
    monkeypatch.setattr(sys, "getfilesystemencoding", lambda: encoding)
    monkeypatch.setattr(os, "fsencode", lambda name: name.encode(encoding, "surrogateescape"))
    monkeypatch.setattr(os, "fsdecode", lambda data: data.decode(encoding, "surrogateescape"))
    for text in ("Größe/深.png", "plain.png"):
        given = text.encode().decode(encoding, "surrogateescape")
        assert names.as_text(given) == text and names.on_disk(text) == given
    odd = b"\xff.png".decode(encoding, "surrogateescape")
    assert names.as_text(odd) == "\udcff.png" and names.on_disk("\udcff.png") == odd
    assert names.on_disk("\ud800") == "\ud800"
