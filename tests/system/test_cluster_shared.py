"""What crosses between machines: whole, counted, and fetched once."""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from object_stores import BUCKET, SCHEMES, ObjectStore, serving

from clipperf.errors import ArtifactError, MissingDependencyError, StorageError, UsageError
from clipperf.system.cluster import owning
from clipperf.system.cluster.running import Cluster
from clipperf.system.cluster.shared import BLOBS, TASKS, Blob, Shared
from clipperf.system.cluster.tasks import Done, Flight, Task

NAMES = ("model.onnx", "more/weights.bin")


@pytest.fixture(scope="session")
def s3() -> Iterator[ObjectStore]:
    """A server of S3's kind."""
    with serving("s3") as server:
        yield server


@pytest.fixture(scope="session")
def gs() -> Iterator[ObjectStore]:
    """A server of Google Cloud Storage's kind."""
    with serving("gs") as server:
        yield server


@pytest.fixture(params=["path", "file", "memory", *SCHEMES])
def shared(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Shared:
    """A shared place of each kind."""
    urls = {
        "path": str(tmp_path / "place"),
        "file": f"file://{tmp_path}/place",
        "memory": f"memory://{tmp_path.name}",
    }
    if request.param in urls:
        return Shared(urls[request.param])
    return Shared(f"{there(request, monkeypatch)}/{tmp_path.name}")


def there(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of a running server's bucket, whose clients this process has the variables of."""
    server: ObjectStore = request.getfixturevalue(request.param)
    for name, value in server.env.items():
        monkeypatch.setenv(name, value)
    return server.url


@pytest.fixture
def folder(home: Path) -> Path:
    """A folder of two files in the store of a machine."""
    made = home / "artifacts" / "one"
    (made / "more").mkdir(parents=True)
    (made / NAMES[0]).write_bytes(b"graph")
    (made / NAMES[1]).write_bytes(b"weights")
    return made


def test_what_a_command_elsewhere_has_left_goes_by_its_age(
    shared: Shared, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No lock tells there whether it lives; see `test_cluster_owning` for where one does."""
    theirs = Shared(shared.url, "0123456789abcdef")
    mark = f"{theirs.run}{owning.MARK}"
    theirs.put(theirs.own("rows.json"), b"[]")
    theirs.put(f"{TASKS}/{mark}", b"another kernel")
    with owning.owned(shared.url) as own:
        own.put(own.own("rows.json"), b"[]")
        assert own.names(TASKS) == sorted([own.run, f"{own.run}{owning.MARK}", theirs.run, mark])
    assert theirs.names(TASKS) == [theirs.run, mark], "it may live"
    monkeypatch.setattr(owning, "DEAD", timedelta(hours=-1))
    with owning.owned(shared.url):
        pass
    assert theirs.names(TASKS) == []


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


@pytest.mark.parametrize("shared", ["path", "memory", "s3"], indirect=True)
def test_a_file_that_goes_before_it_is_put_is_told_as_that(
    shared: Shared, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `clipperf store gc` may meanwhile: it says nothing of the shared place."""
    exists = shared._fs.exists

    def gone(target: str) -> Any:
        (folder / NAMES[0]).unlink()
        return exists(target)

    monkeypatch.setattr(shared._fs, "exists", gone)
    said = f"^{re.escape(str(folder / NAMES[0]))} was removed before it was copied"
    with pytest.raises(ArtifactError, match=said):
        shared.put_folder(folder, "artifacts/one", NAMES)


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
    monkeypatch.setitem(sys.modules, "adlfs", None)
    with pytest.raises(MissingDependencyError, match="adlfs"):
        Shared("abfs://bucket/x")
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be read or written"):
        Shared(str(tmp_path / "file")).put("tasks/1", b"")


@pytest.fixture(params=SCHEMES)
def bucket(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of a bucket."""
    return there(request, monkeypatch)


def test_a_bucket_that_is_not_there(
    bucket: str, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    shared = Shared(f"{bucket.replace(BUCKET, 'none-such')}/x")
    for write in (
        lambda: shared.put("tasks/1", b"1"),
        lambda: shared.put_folder(folder, "artifacts/one", NAMES),
    ):
        with pytest.raises(
            StorageError, match=r"there is no bucket or folder none-such: create it"
        ):
            write()
    with pytest.raises(ArtifactError, match="there is no none-such/x/tasks/1"):
        shared.get("tasks/1")
    assert capfd.readouterr() == ("", "")


def test_an_object_that_was_altered_in_a_bucket(bucket: str, folder: Path, tmp_path: Path) -> None:
    import fsspec

    shared = Shared(f"{bucket}/{tmp_path.name}")
    found = shared.put_folder(folder, "artifacts/one", NAMES)
    blob = f"{bucket}/{tmp_path.name}/{BLOBS}/{found.files[NAMES[1]].sha256}"
    with fsspec.open(blob, "wb") as file:
        file.write(b"weighty")
    with pytest.raises(ArtifactError, match="its sha256 is"):
        shared.fetch_folder(found, tmp_path / "other")
    assert not (tmp_path / "other" / "artifacts" / "one").exists()


def test_a_full_disk_here_is_told_from_a_full_shared_place(
    home: Path, tmp_path: Path, small_disk: Path
) -> None:
    """Both are one kernel's folders in this test; elsewhere one is a machine's, one of all."""
    folder = home / "artifacts" / "large"
    folder.mkdir(parents=True)
    (folder / "weights.bin").write_bytes(bytes(4 * 2**20))
    shared = Shared(str(tmp_path / "place"))
    found = shared.put_folder(folder, "artifacts/large", ["weights.bin"])
    with pytest.raises(StorageError, match=f"^disk full while writing {small_disk}/") as caught:
        shared.fetch_folder(found, small_disk / "store")
    assert shared.url not in str(caught.value)
    assert not [path for path in small_disk.rglob("*") if path.stat().st_size > 2**20]
    full = Shared(str(small_disk / "place"))
    said = f"^the shared place {small_disk}/place is full: .* --ray-store another"
    with pytest.raises(StorageError, match=said):
        full.put_folder(folder, "artifacts/large", ["weights.bin"])
    with pytest.raises(StorageError, match=said):
        full.put("tasks/1/rows.json", bytes(4 * 2**20))
    assert not [path for path in small_disk.rglob("*") if path.stat().st_size > 2**20]


def test_what_a_machine_says_of_its_disk_names_it() -> None:
    at: Any = SimpleNamespace(name="a (10.0.0.1, node 01234567)", id="0")
    own: Any = Cluster.__new__(Cluster)
    done: list[Done] = []
    flight = Flight(Task("it", len), print, done.append, print, node=at)
    own._flying = [flight]
    own._end(flight, "failed", StorageError("disk full while writing /x"))
    own._flying = [flight]
    own._end(flight, "failed", UsageError("no such model"))
    assert [str(each.error) for each in done] == [
        "a (10.0.0.1, node 01234567): disk full while writing /x",
        "no such model",
    ]
