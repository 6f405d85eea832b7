"""Images from a web server of this machine: tries, bounds, and reasons in words."""

from __future__ import annotations

import io
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from PIL import Image

from clipperf.embed import urls
from clipperf.embed.items import Item, Later, Url
from clipperf.embed.run import embed
from clipperf.embed.urls import Web, fetched
from clipperf.embed.wishes import Limit, Wishes
from clipperf.errors import CorruptError, UsageError
from clipperf.serve.bulk import Tower, open_tower

pytest.importorskip("urllib3")

ASKED: Counter[str] = Counter()


def _png(gray: int) -> bytes:
    file = io.BytesIO()
    Image.new("L", (32, 32), gray).save(file, "png")
    return file.getvalue()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        ASKED[self.path] += 1
        kind = self.path.strip("/").split("-")[0]
        if kind == "ok" or (kind == "later" and ASKED[self.path] == 3):
            return self._answer(200, self.path.encode())
        if kind == "late":
            time.sleep(0.2)
            return self._answer(200, _png(len(self.path)))
        if kind == "large":
            return self._answer(200, b"x" * 5000)
        if kind in ("loop", "file", "moved"):
            target = {"loop": "/loop", "file": "file:///etc/passwd", "moved": "/ok-moved"}[kind]
            return self._answer(302, b"", target)
        if kind == "slow":
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            for _ in range(30):
                self.wfile.write(b"x")
                self.wfile.flush()
                time.sleep(0.05)
            self.close_connection = True
            return None
        if kind in ("drip", "hang", "endless"):
            return self._drip(kind)
        if kind == "short":
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b"x")
            self.close_connection = True
            return None
        return self._answer(503 if kind == "later" else int(kind), b"no")

    def _drip(self, kind: str) -> None:
        """A header without an end, none at all, or a page without an end: for 6 s."""
        if kind != "hang":
            self.send_response(200 if kind == "drip" else 404)
            self.end_headers() if kind == "endless" else self.flush_headers()
        for _ in range(60):
            if kind != "hang":
                self.wfile.write(b"x" if kind == "drip" else b"x" * 5000)
                self.wfile.flush()
            time.sleep(0.1)
        self.close_connection = True

    def _answer(self, status: int, data: bytes, target: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        if target:
            self.send_header("Location", target)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as found:
        found.daemon_threads = True
        found.handle_error = lambda *args: None  # type: ignore[method-assign]
        threading.Thread(target=found.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{found.server_address[1]}"
        found.shutdown()


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    monkeypatch.setattr(urls, "MOST_BYTES", 4000)
    ASKED.clear()
    found = Web(pause_s=0.01, whole_s=0.4)
    yield found
    found.close()


def test_what_is_there(web: Web, server: str) -> None:
    assert web.get(f"{server}/ok-1") == b"/ok-1"
    assert web.get(f"{server}/moved") == b"/ok-moved"


def test_what_comes_later_is_asked_for_again(web: Web, server: str) -> None:
    assert web.get(f"{server}/later") == b"/later"
    assert ASKED["/later"] == 3


@pytest.mark.parametrize(
    ("path", "said", "asked"),
    [
        ("404", "HTTP 404", 1),
        ("500", "HTTP 500", 3),
        ("429", "HTTP 429", 3),
        ("large", "larger than 0 MiB", 1),
        ("slow", "not whole after 0 s", 1),
        ("loop", "too many redirects", None),
        ("file", "no address|not supported|scheme", None),
        ("short", "1 bytes read, 999 more expected", 3),
    ],
)
def test_what_is_not_there_has_a_reason(
    path: str, said: str, asked: int | None, web: Web, server: str
) -> None:
    with pytest.raises(UsageError, match=f"(?i){said}"):
        web.get(f"{server}/{path}")
    assert asked is None or ASKED[f"/{path}"] == asked


@pytest.mark.parametrize("path", ["slow-bound", "drip", "hang", "endless"])
def test_no_server_holds_a_thread(path: str, web: Web, server: str) -> None:
    """Each sends for 1.5 s or 6 s, and no piece of it comes late."""
    begun = time.monotonic()
    with pytest.raises(UsageError, match=r"not whole|HTTP 404"):
        web.get(f"{server}/{path}")
    assert time.monotonic() - begun < 1.2


def test_an_end_does_not_wait_for_what_is_fetched(server: str) -> None:
    ended = threading.Event()
    items = fetched((Item(str(i), Url(f"{server}/hang-{i}")) for i in range(3)), ended)
    held = next(items).given
    assert isinstance(held, Later)
    threading.Timer(0.1, ended.set).start()
    begun = time.monotonic()
    with pytest.raises(UsageError, match="the run ended"):
        held.read()
    items.close()
    assert time.monotonic() - begun < 1.5
    assert all(t.daemon for t in threading.enumerate() if t.name.startswith("clipperf-web"))


def test_a_run_that_is_refused_ends_though_a_server_hangs(
    server: str, tmp_path: Path, sample_artifact: Path
) -> None:
    """The second shard's images do not come for 6 s when the first one has too many corrupt."""
    file = tmp_path / "t.csv"
    paths = ["404-1", "404-2", "hang-1", "hang-2", "hang-3", "hang-4"]
    file.write_text("url\n" + "".join(f"{server}/{path}\n" for path in paths))

    def opened() -> Tower:
        found = open_tower(sample_artifact, "image", threads=1)
        found.batch = 1
        return found

    wishes = Wishes(shard_items=2, limit=Limit(number=0))
    begun = time.monotonic()
    with pytest.raises(CorruptError, match="404"):
        embed(file, tmp_path / "out", opened, wishes)
    assert time.monotonic() - begun < 4


@pytest.mark.parametrize("closed", [False, True])
def test_what_was_handed_out_comes_after_the_last_item(server: str, closed: bool) -> None:
    """Whoever reads is behind whoever hands out: by then the generator is at its end, or closed."""
    ASKED.clear()
    items = fetched(Item(str(i), Url(f"{server}/late-{'x' * i}")) for i in range(5))
    handed = [next(items) for _ in range(3)] if closed else list(items)
    if closed:
        items.close()
    given = [item.given for item in handed]
    assert [each.read() for each in given if isinstance(each, Later)] == [
        _png(len("/late-") + i) for i in range(len(handed))
    ]
    if closed:
        return
    limit = time.monotonic() + 10  # its threads end with the last image
    while any(t.name.startswith("clipperf-web-") for t in threading.enumerate()):
        assert time.monotonic() < limit
        time.sleep(0.02)


def test_no_image_is_lost_to_the_ends_of_ranges(
    server: str, tmp_path: Path, sample_artifact: Path
) -> None:
    """A run, and one that goes on with gaps: every server takes a moment for an answer."""
    file, out = tmp_path / "t.csv", tmp_path / "out"
    file.write_text("url\n" + "".join(f"{server}/late-{'x' * i}\n" for i in range(5)))

    def opened() -> Tower:
        found = open_tower(sample_artifact, "image", threads=1)
        found.batch = 4
        return found

    def contents() -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in out.iterdir()}

    found = embed(file, out, opened, Wishes(shard_items=1))
    assert (found.vectors, found.corrupt, found.made) == (5, 0, 5)
    before = contents()
    for gap in (0, 2, 4):
        (out / f"shard-{gap:06d}.json").unlink()
    ASKED.clear()
    found = embed(file, out, opened, Wishes(shard_items=1))
    assert (found.vectors, found.corrupt, found.made) == (5, 0, 3)
    assert contents() == before
    # Nothing beside what was missing.
    assert ASKED == {"/late-": 1, "/late-xx": 1, "/late-xxxx": 1}


def test_nobody_there(web: Web) -> None:
    with pytest.raises(UsageError, match="refused"):
        web.get("http://127.0.0.1:9/a.png")
    with pytest.raises(UsageError, match=r"no address|resolve|known"):
        web.get("http://[")


def test_some_are_fetched_ahead_in_order(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(urls, "AHEAD", 5)
    taken = []

    def items() -> Iterator[Item]:
        for i in range(20):
            taken.append(i)
            given = Url(f"{server}/{'404' if i == 3 else 'ok'}-{i}") if i % 2 else b"held"
            yield Item(str(i), given)

    ahead, found = [], []
    for place, item in enumerate(fetched(items())):
        ahead.append(len(taken) - place)
        if isinstance(item.given, Later):
            try:
                found.append(item.given.read())
            except UsageError as exc:
                found.append(str(exc).encode())
        else:
            found.append(b"held")
        assert item.id == str(place)
    expected = [f"/ok-{i}".encode() if i % 2 else b"held" for i in range(20)]
    expected[3] = b"HTTP 404"
    assert found == expected and max(ahead) == 6
