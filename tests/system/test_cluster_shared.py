"""What crosses between machines: whole, counted, and fetched once."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from clipperf.errors import ArtifactError, MissingDependencyError, StorageError, UsageError
from clipperf.system.cluster.shared import BLOBS, Blob, Shared

NAMES = ("model.onnx", "more/weights.bin")


@pytest.fixture(params=["path", "file", "memory"])
def shared(request: pytest.FixtureRequest, tmp_path: Path) -> Shared:
    """A shared place of each kind that needs no server."""
    urls = {
        "path": str(tmp_path / "place"),
        "file": f"file://{tmp_path}/place",
        "memory": f"memory://{tmp_path.name}",
    }
    return Shared(urls[request.param])


@pytest.fixture
def folder(home: Path) -> Path:
    """A folder of two files in the store of a machine."""
    made = home / "artifacts" / "one"
    (made / "more").mkdir(parents=True)
    (made / NAMES[0]).write_bytes(b"graph")
    (made / NAMES[1]).write_bytes(b"weights")
    return made


def test_a_folder_crosses_with_its_checksums(shared: Shared, folder: Path, tmp_path: Path) -> None:
    found = shared.put_folder(folder, "artifacts/one", NAMES)
    assert found.files[NAMES[0]] == Blob(hashlib.sha256(b"graph").hexdigest(), 5)
    other = tmp_path / "other"
    assert shared.fetch_folder(found, other) == other / "artifacts/one"
    assert (other / "artifacts/one" / NAMES[1]).read_bytes() == b"weights"
    # What is there already is taken as it is, and not written again.
    before = (folder / NAMES[0]).stat()
    assert shared.fetch_folder(found, tmp_path / "home") == folder
    assert (folder / NAMES[0]).stat() == before


def test_another_folder_of_the_name_stays_as_it_is(
    shared: Shared, folder: Path, tmp_path: Path
) -> None:
    found = shared.put_folder(folder, "artifacts/one", NAMES)
    mine = tmp_path / "other" / "artifacts" / "one" / NAMES[0]
    mine.parent.mkdir(parents=True)
    mine.write_bytes(b"mine")
    fetched = shared.fetch_folder(found, tmp_path / "other")
    assert fetched == tmp_path / "other" / "cache" / "shared" / found.digest
    assert (fetched / NAMES[0]).read_bytes() == b"graph" and mine.read_bytes() == b"mine"


def test_a_file_that_was_altered_on_the_way_is_not_taken(folder: Path, tmp_path: Path) -> None:
    shared = Shared(str(tmp_path / "place"))
    found = shared.put_folder(folder, "artifacts/one", NAMES)
    blob = tmp_path / "place" / BLOBS / found.files[NAMES[1]].sha256
    blob.write_bytes(b"weighty")  # of the same length
    with pytest.raises(ArtifactError, match="its sha256 is"):
        shared.fetch_folder(found, tmp_path / "other")
    assert not (tmp_path / "other" / "artifacts" / "one").exists()
    blob.unlink()
    with pytest.raises(ArtifactError, match="there is no"):
        shared.fetch_folder(found, tmp_path / "other")
    # What is missing is put again.
    shared.put_folder(folder, "artifacts/one", NAMES)
    assert shared.fetch_folder(found, tmp_path / "other").is_dir()


def test_small_things_are_whole_or_refused(shared: Shared) -> None:
    blob = shared.put("tasks/1/rows.json", b"[1]")
    assert shared.get("tasks/1/rows.json", blob) == b"[1]"
    shared.put("tasks/1/rows.json", b"[2]")
    with pytest.raises(ArtifactError, match="was altered"):
        shared.get("tasks/1/rows.json", blob)
    shared.remove("tasks/1")
    shared.remove("tasks/1")
    with pytest.raises(ArtifactError, match="there is no"):
        shared.get("tasks/1/rows.json")


def test_urls_that_cannot_be_say_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no path or URL that fsspec knows"):
        Shared("nosuch://bucket/x")
    monkeypatch.setitem(__import__("sys").modules, "s3fs", None)
    with pytest.raises(MissingDependencyError, match="s3fs"):
        Shared("s3://bucket/x")
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be read or written"):
        Shared(str(tmp_path / "file")).put("tasks/1", b"")
