"""Artifact folders where users put files of their own, and where nothing can be written."""

from __future__ import annotations

import dataclasses
import random
import shutil
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path

import pytest
from conftest import Cli, assert_usable, leftovers, store_of

import clipperf
from clipperf.errors import StorageError, UsageError
from clipperf.export import folder as folders
from clipperf.export.folder import Exported, Wanted
from clipperf.nouns.artifact import FEATURES_REFERENCE, Artifact
from clipperf.nouns.variant import Side, Variant
from clipperf.report.exported import exported_lines
from clipperf.system import files, store

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="kills, mounts and links of POSIX")

MINE = {
    "labels.json": "[]",
    "index/faiss/part-0.bin": "vectors",
    "image/notes.txt": "beside a tower",
    ".env": "hidden",
}

TOP = (".env", "index", "labels.json", "latest")


def put_mine(folder: Path) -> None:
    for name, text in MINE.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    (folder / "latest").symlink_to("index/faiss")


def assert_mine(folder: Path) -> None:
    assert {name: (folder / name).read_text() for name in MINE} == MINE
    assert (folder / "latest").readlink() == Path("index/faiss")


def ensured(
    artifact: Path,
    folder: Path,
    sides: Sequence[Side],
    version: str = "",
    extra: str | None = None,
    on_build: Callable[[object], object] = lambda sides: None,
) -> Exported:
    """Towers of an artifact made anew in `folder` by copying; another `version` is another key."""
    manifest = store.read_manifest(artifact)
    towers = {tower.side: tower for tower in manifest.towers}

    def build(missing: Sequence[Side], staging: Path) -> Iterable[Artifact]:
        on_build(missing)
        assert extra != "never built"
        for side in missing:
            for name in towers[side].files:
                (staging / name).parent.mkdir(exist_ok=True)
                shutil.copy(artifact / name, staging / name)
            if extra is not None:
                (staging / extra).write_text("clipperf's")
            yield Artifact(**{**vars(towers[side]), "key": towers[side].key + version})

    return folders.ensure(
        Wanted(
            folder=folder,
            spec=manifest.spec,
            variant=Variant("onnx"),
            weights_id=towers["image"].weights_id,
            keys={side: towers[side].key + version for side in sides},
            needed_bytes=dict.fromkeys(sides, 1),
            file="model.onnx",
        ),
        build,
        shared_from=artifact,
    )


# --- what users put there ------------------------------------------------------------------


def test_what_lies_beside_the_towers_is_kept(
    sample_artifact: Path, home: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert ensured(sample_artifact, out, ["image"]).built == ("image",)
    put_mine(out)
    assert ensured(sample_artifact, out, ["text"]).built == ("text",)
    assert_mine(out)
    assert ensured(sample_artifact, out, ["image", "text"], "2").built == ("image", "text")
    assert_mine(out)
    assert_usable(out)
    shared = {*chain(*folders.SHARED_FILES.values())}
    assert sorted(p.name for p in out.iterdir()) == sorted(
        [*(shared - {FEATURES_REFERENCE}), "manifest.json", "image", "text", *TOP]
    )
    assert [path.name for path in tmp_path.glob(".*")] == [], "no lock and no staging beside it"


def test_another_way_to_preprocess_keeps_it_too(
    sample_artifact: Path, home: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    exported = ensured(sample_artifact, out, ["image", "text"])
    put_mine(out)
    changed = folders.set_preprocess(exported, "draft")
    assert (
        store.read_manifest(out).preprocess["method"]
        == "draft"
        == changed.manifest.preprocess["method"]
    )
    assert_mine(out)
    assert_usable(out)


def test_a_new_folder_prepares_exactly_whatever_its_source_was_set_to(
    sample_artifact: Path, home: Path, tmp_path: Path
) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    folders.set_preprocess(ensured(sample_artifact, source, ["image", "text"]), "draft")
    first = ensured(source, out, ["image"])
    said = [first.manifest.preprocess, files.read_json(out / "preprocess.json")]
    assert [each["method"] for each in said] == ["exact", "exact"]
    assert_usable(out)
    folders.set_preprocess(first, "fast")
    added = ensured(source, out, ["text"])
    anew = ensured(source, out, ["image", "text"], "2")
    assert added.manifest.preprocess["method"] == "fast", "as the folder says"
    assert anew.built == ("image", "text") and anew.manifest.preprocess["method"] == "fast"
    assert store.read_manifest(source).preprocess["method"] == "draft"


def test_another_precision_in_its_place_is_told(
    sample_artifact: Path, home: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    first = ensured(sample_artifact, out, ["image"])
    manifest = dataclasses.replace(first.manifest, precision="int8")
    files.write_json(out / store.MANIFEST_NAME, manifest)
    anew = ensured(sample_artifact, out, ["image"], "2")
    again = ensured(sample_artifact, out, ["image"], "3")
    assert (first.replaced, anew.replaced, again.replaced) == (None, "onnx int8", None)
    assert "  in the place of onnx int8, which was there" in exported_lines(anew)


def test_files_of_a_tower_that_is_made_anew_go(
    sample_artifact: Path, home: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    ensured(sample_artifact, out, ["image"])
    manifest = store.read_manifest(out)
    (tower,) = manifest.towers
    (out / "image" / "old.data").write_text("a file that the former recipe wrote")
    listed = {**tower.files, "image/old.data": files.sha256_file(out / "image/old.data")}
    size = tower.disk_bytes + (out / "image/old.data").stat().st_size
    old = Artifact(**{**vars(tower), "files": listed, "disk_bytes": size})
    files.write_json(
        out / store.MANIFEST_NAME, type(manifest)(**{**vars(manifest), "towers": (old,)})
    )
    ensured(sample_artifact, out, ["image"], "2")
    assert not (out / "image" / "old.data").exists()
    assert_usable(out)


def test_a_name_that_both_want_is_refused_and_all_stays(
    sample_artifact: Path, home: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    ensured(sample_artifact, out, ["image"])
    put_mine(out)
    with pytest.raises(UsageError, match=r"notes.txt is not clipperf's.*move it away"):
        ensured(sample_artifact, out, ["image"], "2", extra="image/notes.txt")
    assert_mine(out)
    assert store.read_manifest(out).towers[0].key.endswith("2") is False
    assert_usable(out)


@pytest.mark.parametrize("mine", ["text", "text/model.onnx", "tokenizer.json/mine"])
def test_a_name_that_both_want_is_found_before_the_build(
    sample_artifact: Path, home: Path, tmp_path: Path, mine: str
) -> None:
    out = tmp_path / "out"
    exported = ensured(sample_artifact, out, ["image"])
    (out / "tokenizer.json").unlink()
    (out / mine).parent.mkdir(exist_ok=True)
    (out / mine).write_text("mine")
    own = [name for name in exported.manifest.files if not name.startswith("tokenizer")]
    files.write_json(
        out / store.MANIFEST_NAME,
        dataclasses.replace(
            exported.manifest, files={name: exported.manifest.files[name] for name in own}
        ),
    )
    with pytest.raises(UsageError, match=r"is not clipperf's.*move it away"):
        ensured(sample_artifact, out, ["image", "text"], extra="never built")
    assert (out / mine).read_text() == "mine"
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("where", ["out", "out/index"])
def test_what_is_mounted_is_found_before_the_build(
    sample_artifact: Path, home: Path, tmp_path: Path, where: str
) -> None:
    out, built = tmp_path / "out", []
    mounted = tmp_path / where
    mounted.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(mounted)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        with pytest.raises((StorageError, UsageError), match="mounted"):
            ensured(sample_artifact, out, ["image"], on_build=built.append)
    finally:
        subprocess.run(["umount", str(mounted)], check=True)
    assert built == []


def test_users_files_of_names_that_only_another_tower_has_stay(
    sample_artifact: Path, home: Path, tmp_path: Path
) -> None:
    """Beside a manifest that does not name it, a tokenizer.json is the user's."""
    out = tmp_path / "out"
    ensured(sample_artifact, out, ["image"])
    manifest = store.read_manifest(out)
    named = {name: value for name, value in manifest.files.items() if "token" not in name}
    files.write_json(out / store.MANIFEST_NAME, dataclasses.replace(manifest, files=named))
    (out / "tokenizer.json").write_text("mine")
    ours = folders.own_files(out)
    assert not ours("tokenizer.json") and ours("preprocess.json") and ours("image/model.onnx")


def test_whose_a_file_is_where_the_manifest_is_damaged(tmp_path: Path) -> None:
    for damage in (None, "{"):
        if damage is not None:
            (tmp_path / store.MANIFEST_NAME).write_text(damage)
        ours = folders.own_files(tmp_path)
        assert all(map(ours, ("manifest.json", "text/model.onnx.data", "parity-text.npy")))
        assert not any(map(ours, ("image/notes.txt", "text/mine/model.onnx", "notes.txt")))


def test_the_folder_behind_a_link_is_the_one_that_changes(
    sample_artifact: Path, home: Path, tmp_path: Path
) -> None:
    (tmp_path / "disk").mkdir()
    link = tmp_path / "link"
    link.symlink_to("disk/artifact")  # which the first export makes
    for version in ("", "2"):
        assert ensured(sample_artifact, link, ["image"], version).folder == link
        assert link.is_symlink()
        assert_usable(tmp_path / "disk" / "artifact")
        assert clipperf.load(link, threads=1).embed_dim == 192
    assert sorted(p.name for p in tmp_path.iterdir() if p != home) == ["disk", "link"]
    assert [p.name for p in (tmp_path / "disk").iterdir()] == ["artifact"]


EXCHANGING = """
    import sys
    from itertools import count
    from pathlib import Path
    from clipperf.export import folder
    from clipperf.export.folder import Exported
    from clipperf.system import files, store
    out = Path(sys.argv[1])
    if sys.argv[2] == "False":
        files._renameat2_exchange = lambda first, second: False
    exported = Exported(out, store.read_manifest(out), ())
    for number in count():
        folder.set_preprocess(exported, ("draft", "exact")[number % 2])
        if number == 1:
            print("up", flush=True)
"""


@pytest.mark.parametrize("atomic", [True, False])
def test_a_kill_at_any_moment_loses_nothing_of_theirs(
    sample_artifact: Path, home: Path, tmp_path: Path, atomic: bool
) -> None:
    out = tmp_path / "out"
    exported = ensured(sample_artifact, out, ["image", "text"])
    put_mine(out)
    chance = random.Random(3)
    staged = 0
    for _ in range(6):
        with subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(EXCHANGING), str(out), str(atomic)],
            stdout=subprocess.PIPE,
        ) as process:
            assert process.stdout is not None and process.stdout.readline()
            time.sleep(chance.uniform(0, 0.1))
            process.kill()
        staged += bool(leftovers(tmp_path))
        if atomic:
            assert_mine(out)
        other = "draft"
        if out.exists() and store.read_manifest(out).preprocess["method"] == "draft":
            other = "exact"
        if not out.exists():  # set aside: the next holder of the lock puts it back
            with files.locked(out, timeout_s=30):
                pass
        folders.set_preprocess(exported, other)
        assert_mine(out)
        assert_usable(out)
        assert [path.name for path in tmp_path.glob(".*")] == []
    assert staged, "no kill struck in the middle: the test proves nothing"


# --- a store that cannot be written --------------------------------------------------------


@pytest.fixture
def read_only(sample_artifact: Path, home: Path, cli: Cli) -> Iterator[Path]:
    """A store with the sample's towers, on a file system that is mounted read-only."""
    store_of(sample_artifact, home)
    bind = subprocess.run(["mount", "--bind", home, home], capture_output=True, text=True)
    if bind.returncode:
        pytest.skip(f"nothing can be mounted here: {bind.stderr.strip()}")
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", home], check=True)
        with pytest.raises(OSError, match="Read-only"):
            (home / "file").touch()
        yield home
    finally:
        subprocess.run(["umount", "-l", home], check=True)


def test_what_is_there_is_used_where_nothing_can_be_written(
    read_only: Path, sample_artifact: Path, cli: Cli
) -> None:
    folder = read_only / sample_artifact.relative_to(sample_artifact.parents[3])
    assert "up to date" in cli("export", "clipperf-sample", check=True).stdout
    assert "up to date" in cli("export", "clipperf-sample", "--preprocess", "exact").stdout
    assert "runs here" in cli("inspect", folder, check=True).stdout
    assert clipperf.load(folder, threads=1).encode_texts(["a cat"]).shape == (1, 192)


@pytest.mark.slow
def test_what_is_there_is_measured_where_nothing_can_be_written(
    read_only: Path, cli: Cli, tmp_path: Path, samples: str
) -> None:
    measured = tmp_path / "profile.json"
    one = ("--tower", "text", "--runtime", "onnx", "--batch", 1, "--quick", "--json", measured)
    cli("profile", "clipperf-sample", *one, check=True)
    scored = tmp_path / "eval.json"
    cli(
        *("eval", "clipperf-sample", "--runtime", "onnx", "--precision", "fp32"),
        *("--dataset", samples, "--json", scored),
        check=True,
    )
    assert measured.stat().st_size and scored.stat().st_size


def test_what_is_not_there_is_an_error_that_names_the_fix(read_only: Path, cli: Cli) -> None:
    done = cli("export", "clipperf-sample", "--tower", "text", "--precision", "fp16")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "Read-only file system" in done.stderr.splitlines()[-1]
    assert "CLIPPERF_HOME" in done.stderr.splitlines()[-1]


def test_a_folder_of_another_user_is_used(
    sample_artifact: Path, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the read-only store, but the permissions forbid it."""
    out = tmp_path / "out"
    ensured(sample_artifact, out, ["image"])

    def forbidden(*arguments: object, **options: object) -> None:
        raise StorageError("cannot write here: Permission denied")

    monkeypatch.setattr(files, "locked", forbidden)
    assert ensured(sample_artifact, out, ["image"]).up_to_date
    with pytest.raises(StorageError, match="Permission denied"):
        ensured(sample_artifact, out, ["text"])
