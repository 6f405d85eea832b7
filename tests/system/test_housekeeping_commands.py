"""`clipperf store` as it is typed: what it asks, its exit codes, other disks, umasks, locales."""

from __future__ import annotations

import json
import os
import pty
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import stored
from conftest import ROOT, Cli, leftovers

from clipperf.export.folder import SHARED_FILES, Wanted, copy_tower, ensure
from clipperf.nouns.artifact import Artifact
from clipperf.nouns.variant import Side, Variant
from clipperf.system import files, store

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="terminals of POSIX")


def test_gc_asks_and_refuses_where_nobody_can_be_asked(
    cli: Cli, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    staging = stored.dead_staging(stored.artifact())
    asked = cli("store", "gc", stdin=subprocess.DEVNULL)
    assert asked.returncode == 2
    assert "add --yes" in asked.stderr
    assert staging.name in asked.stdout, "what it would remove is listed"
    listed = cli("store", "gc", "--dry-run", "--json", check=True)
    (removal,) = json.loads(listed.stdout)["remove"]
    assert removal["path"] == str(staging)
    assert staging.is_dir()
    done = cli("store", "gc", "--yes", check=True)
    assert "removed 1 thing" in done.stdout
    assert not staging.exists()
    nothing = cli("store", "gc", stdin=subprocess.DEVNULL, check=True)
    assert "0 things to remove" in nothing.stdout


@pytest.mark.parametrize(("answer", "code"), [("y", 0), ("n", 1), ("", 1)])
def test_gc_asks_on_a_terminal(home: Path, answer: str, code: int) -> None:
    staging = stored.dead_staging(stored.artifact())
    ours, theirs = pty.openpty()
    try:
        os.write(ours, f"{answer}\n".encode())
        done = subprocess.run(
            [sys.executable, "-m", "clipperf", "store", "gc"],
            stdin=theirs, capture_output=True, text=True, cwd=ROOT, timeout=60,
        )  # fmt: skip
    finally:
        os.close(ours)
        os.close(theirs)
    assert done.returncode == code, done.stderr
    assert "Remove 1 thing" in done.stderr
    assert staging.exists() == bool(code)


def test_verify_and_du(cli: Cli, home: Path) -> None:
    folder = stored.artifact()
    whole = cli("store", "verify", "--json", check=True)
    assert json.loads(whole.stdout)["damaged"] == []
    (folder / "text" / "model.onnx").write_bytes(b"Weightstext")
    done = cli("store", "verify", "--quiet")
    assert done.returncode == 1
    assert done.stderr == ""
    assert f"damaged: {folder}" in done.stdout.splitlines()
    mend = "  mend it with: clipperf export ViT-B-32::openai --runtime onnx --precision fp32"
    assert mend in done.stdout.splitlines()
    used = json.loads(cli("store", "du", "--json", check=True).stdout)
    assert used["store"] == str(home)
    assert used["kinds"].keys() == {"artifact", "note"}


def test_what_is_no_days(cli: Cli) -> None:
    for days in ("-1", "nan", "soon"):
        done = cli("store", "gc", "--older-than", days)
        assert done.returncode == 2
        assert "--older-than" in done.stderr
    assert cli("store").returncode == 2


# --- another file system -------------------------------------------------------------------


def built(side: Side, below: Path) -> Artifact:
    tower = store.read_manifest(below).tower(side)
    assert tower is not None
    return tower


def test_a_store_on_another_file_system(
    elsewhere: Path, tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An export to --out takes files of the store, which cannot be linked or renamed there."""
    home, out = elsewhere / "home", tmp_path / "out"
    monkeypatch.setenv("CLIPPERF_HOME", str(home))
    below = stored.artifact(content=b"x" * 50_000)
    manifest = store.read_manifest(below)

    def build(sides: list[Side], staging: Path) -> Iterator[Artifact]:
        assert staging.stat().st_dev == tmp_path.stat().st_dev
        for side in sides:
            (staging / side).mkdir()
            shutil.copy2(below / side / "model.onnx", staging / side / "model.onnx")
            yield built(side, below)

    wanted = Wanted(
        out, manifest.spec, Variant("onnx"), "w",
        keys={tower.side: tower.key for tower in manifest.towers},
        needed_bytes={"image": 1, "text": 1}, file="model.onnx",
    )  # fmt: skip
    exported = ensure(wanted, build, shared_from=below)  # type: ignore[arg-type]
    assert exported.built == ("image", "text")
    assert store.check_files(out, exported.manifest, content=True) == []
    assert (out / SHARED_FILES["image"][0]).is_file()
    assert ensure(wanted, build, shared_from=below).up_to_date  # type: ignore[arg-type]
    bundle = tmp_path / "bundle"
    with files.staged(bundle) as staging:
        copy_tower(below, "image", staging)
    made = store.read_manifest(bundle / "image")
    assert store.check_files(bundle / "image", made, content=True) == []
    assert (bundle / "image" / "image" / "model.onnx").stat().st_nlink == 1
    stored.dead_staging(below)
    cli("store", "verify", home=home, check=True)
    done = cli("store", "gc", "--unused", "--yes", home=home, check=True)
    assert "removed 2 things" in done.stdout
    assert store.check_files(out, exported.manifest, content=True) == []
    assert not leftovers(tmp_path)


def test_artifacts_behind_a_link_to_another_file_system(
    elsewhere: Path, home: Path, cli: Cli
) -> None:
    home.mkdir()
    (home / "artifacts").symlink_to(elsewhere)
    folder = stored.artifact()
    stored.dead_staging(folder)
    assert folder.resolve().is_relative_to(elsewhere)
    cli("store", "verify", check=True)
    done = cli("store", "gc", "--unused", "--yes", check=True)
    assert "removed 2 things" in done.stdout
    assert list(elsewhere.iterdir()) == []
    assert (home / "artifacts").is_symlink()


# --- the surroundings of a process ---------------------------------------------------------


@pytest.mark.parametrize("umask", [0o077, 0o000])
def test_umask(cli: Cli, home: Path, umask: int) -> None:
    """What is written is the user's alone, or anybody's, as the user's umask says."""
    before = os.umask(umask)
    try:
        folder = stored.artifact()
        altered = folder / "text" / "model.onnx"
        altered.write_bytes(b"Weightstext")
        stored.dead_staging(folder)
        assert cli("store", "verify").returncode == 1
        notes = home / "digests.json"
        assert (notes.stat().st_mode & 0o777) == 0o666 & ~umask
        assert cli("store", "gc", "--verify", "--yes", "--quiet", check=True).stderr == ""
    finally:
        os.umask(before)
    assert list((home / "artifacts").iterdir()) == []
    assert not leftovers(home)


LOCALES = ("C", "POSIX", "tr_TR.UTF-8")
"""The last one is that of i and I; where it is not installed, it is one that is not known."""


@pytest.mark.parametrize("locale", LOCALES)
def test_locale(cli: Cli, tmp_path: Path, locale: str) -> None:
    """Names keep their letters, whatever a locale makes of i and I or of what is no ASCII."""
    home = tmp_path / "İstanbul ı"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLIPPERF_HOME", str(home))
        folder = stored.artifact("ViT-I-16::INIT")
        stored.dead_staging(folder)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("LC_ALL", "LANG"):
            patch.setenv(name, locale)
        patch.setenv("PYTHONUTF8", "0")
        patch.setenv("PYTHONCOERCECLOCALE", "0")
        used = cli("store", "du", "--json", home=home, check=True)
        listed = cli("store", "gc", "--unused", "--yes", home=home, check=True)
    told = json.loads(used.stdout)
    assert {each["model"] for each in told["entries"]} == {"ViT-I-16::INIT", None}
    assert "removed 2 things" in listed.stdout
    assert list((home / "artifacts").iterdir()) == []
