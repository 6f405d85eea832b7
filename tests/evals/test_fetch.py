"""Published datasets from a real server: whole, in order, and again where they broke off."""

from __future__ import annotations

import functools
import http.server
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import leftovers
from published_layouts import captioned, classified

from clipperf.errors import UsageError
from clipperf.evals import published
from clipperf.evals.datasets import load_dataset
from clipperf.evals.fetch import base_of
from clipperf.evals.layout import MissingSplitError

ASKED: list[str] = []
BROKEN: set[str] = set()


class Files(http.server.SimpleHTTPRequestHandler):
    """Serves a folder, notes what is asked for, and breaks off where it is told to."""

    def do_GET(self) -> None:
        ASKED.append(self.path)
        if any(self.path.endswith(name) for name in BROKEN):
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b"x" * 10)
            return
        super().do_GET()

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


@pytest.fixture
def hub(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A server of the folder "hub" in the place of the hub."""
    (tmp_path / "hub").mkdir()
    handler = functools.partial(Files, directory=str(tmp_path / "hub"))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("HF_ENDPOINT", url)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    ASKED.clear()
    BROKEN.clear()
    yield url
    server.shutdown()
    server.server_close()


def repository(tmp_path: Path, name: str) -> Path:
    return tmp_path / "hub" / "datasets" / "clip-benchmark" / name / "resolve" / "main"


def test_a_name_is_fetched_once(hub: str, tmp_path: Path, home: Path) -> None:
    classified(repository(tmp_path, "wds_vtab-cifar10"), [0, 1, 2, 1])
    told: list[str] = []
    data = load_dataset("vtab/cifar10", on_stage=told.append)
    assert data.name == "vtab/cifar10" and data.labels == (0, 1, 2, 1)
    assert [words.rpartition(" ")[2] for words in told] == ["1/2", "2/2"]
    asked = len(ASKED)
    again = load_dataset("wds/vtab/cifar10")
    assert len(ASKED) == asked and again.sha256 == data.sha256
    assert not leftovers(home)


def test_a_fetch_that_broke_off_goes_on_at_its_shard(hub: str, tmp_path: Path, home: Path) -> None:
    classified(repository(tmp_path, "wds_mnist"), [0, 1, 2, 1, 0])
    BROKEN.add("1.tar")
    with pytest.raises(UsageError, match="broke off after 10 of 1000 bytes") as caught:
        load_dataset("mnist")
    assert "hf download --repo-type dataset clip-benchmark/wds_mnist" in str(caught.value)
    assert [p.name for p in (home / "datasets").rglob("*.tar")] == ["0.tar"]
    BROKEN.clear()
    assert load_dataset("mnist").labels == (0, 1, 2, 1, 0)
    assert sum(path.endswith("0.tar") for path in ASKED) == 1
    assert not leftovers(home)


def test_an_address_as_people_copy_it(hub: str, tmp_path: Path) -> None:
    captioned(tmp_path / "hub" / "datasets" / "me" / "mine" / "resolve" / "main", [["a"], ["b"]])
    data = load_dataset(f"{hub}/datasets/me/mine/tree/main")
    assert data.captions == ("a", "b")
    assert base_of("https://h/datasets/a/b/tree/main/") == "https://h/datasets/a/b/resolve/main"


@pytest.mark.parametrize("number", ["0", "-1", "ten", "9" * 9])
def test_a_number_of_shards_that_cannot_be_is_refused(
    hub: str, tmp_path: Path, number: str
) -> None:
    root = repository(tmp_path, "wds_mnist")
    (root / "test").mkdir(parents=True)
    (root / "test" / "nshards.txt").write_text(number)
    with pytest.raises(UsageError, match=r"nshards\.txt says"):
        load_dataset("mnist")


def test_what_is_not_there_is_said(hub: str, home: Path) -> None:
    with pytest.raises(UsageError, match="404"):
        load_dataset("mnist")


def test_without_network_it_is_said_what_to_fetch_and_where_to_put_it(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with pytest.raises(UsageError) as caught:
        load_dataset("vtab/pets")
    for words in (
        "vtab/pets is not here",
        "http://127.0.0.1:9/datasets/clip-benchmark/wds_vtab-pets/resolve/main/test/nshards.txt",
        "hf download --repo-type dataset clip-benchmark/wds_vtab-pets --local-dir wds_vtab-pets",
        str(home / "datasets" / "wds_vtab-pets"),
    ):
        assert words in str(caught.value)
    with pytest.raises(UsageError, match="nobody has published it as a WebDataset"):
        load_dataset("birdsnap")
    with pytest.raises(UsageError, match=r"no dataset at .*the name of a published one"):
        load_dataset("vtab/no-such-set")


def test_a_folder_of_ones_own_comes_first(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    classified(tmp_path / "sets" / "vtab-pets", [2, 1])
    monkeypatch.setenv("CLIPPERF_DATASETS", str(tmp_path / "sets"))
    assert load_dataset("vtab/pets").labels == (2, 1)
    assert published.SETS["vtab/pets"].samples == 3669


def test_what_was_fetched_needs_no_network(
    hub: str, tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "hub" / "datasets" / "me" / "mine" / "resolve" / "main"
    classified(root, [0, 1, 2])
    classified(root, [0, 1, 2], first=50, split="train")
    url = f"{hub}/datasets/me/mine/tree/main"
    fetched = [load_dataset(url, split=split).sha256 for split in ("test", "train")]
    asked = len(ASKED)
    assert [load_dataset(url, split=split).sha256 for split in ("test", "train")] == fetched
    assert len(ASKED) == asked
    # A split that is not published, or cannot be asked for, is none; one that breaks off is broken.
    with pytest.raises(MissingSplitError, match="404"):
        load_dataset(url, split="val")
    classified(root, [0, 1], first=90, split="val")
    BROKEN.add("val/0.tar")
    with pytest.raises(UsageError, match="broke off") as caught:
        load_dataset(url, split="val")
    assert not isinstance(caught.value, MissingSplitError)
    monkeypatch.setattr(urllib.request, "urlopen", no_network)
    with pytest.raises(MissingSplitError, match="cannot be fetched: no network"):
        load_dataset(url, split="val")
    assert load_dataset(url).sha256 == fetched[0]
    with pytest.raises(UsageError, match="no network") as caught:
        load_dataset(f"{hub}/datasets/me/other")
    assert not isinstance(caught.value, MissingSplitError)


def no_network(*_: object, **__: object) -> None:
    raise urllib.error.URLError("no network")
