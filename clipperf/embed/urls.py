"""Images from the web: several at once, each within bounds of time, tries and bytes."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, wait
from dataclasses import replace
from functools import partial
from queue import SimpleQueue
from typing import Any
from urllib.parse import urljoin

from clipperf.embed.items import Item, Later, Url
from clipperf.errors import MissingDependencyError, UsageError
from clipperf.system import extras
from clipperf.text import shown
from clipperf.units import MIB
from clipperf.version import __version__

THREADS = 32
AHEAD = 2 * THREADS
"""Images that are fetched, or wait for their turn: what memory they take at most."""

CONNECT_S, READ_S, WHOLE_S = 10.0, 20.0, 60.0
"""Seconds to connect, between two pieces, and for all of an image."""

TRIES = 3
REDIRECTS = 5
AGAIN = (429, 500, 502, 503, 504)
"""Answers that are asked for again."""

MOST_BYTES = 32 * MIB
CHUNK_BYTES = 1 << 16
PATIENCE_S = 0.2
"""How long a run that ended may go unnoticed."""

ENDED = "the run ended before it came"


class _Watch:
    """Sockets that are being read, each shut down when its time is over: reading ends then.

    A bound between two pieces alone lets a server hold a thread for days, byte by byte.
    """

    def __init__(self, pause_s: float) -> None:
        self._reading: dict[int, tuple[socket.socket, float]] = {}
        self._over: dict[int, float] = {}
        self._lock = threading.Lock()
        self._pause_s = pause_s
        self.ended = self.over = threading.Event()
        threading.Thread(target=self._watch, name="clipperf-web-watch", daemon=True).start()

    def begin(self, over: float) -> None:
        """What this thread reads from now on has until then."""
        with self._lock:
            self._over[threading.get_ident()] = over

    def reads(self, sock: socket.socket | None) -> None:
        """This thread reads a socket."""
        own = threading.get_ident()
        with self._lock:
            if sock is not None and own in self._over:
                self._reading[own] = sock, self._over[own]

    def end(self) -> None:
        """This thread reads no more, or it reads another socket."""
        with self._lock:
            self._reading.pop(threading.get_ident(), None)

    def _watch(self) -> None:
        while not self.ended.wait(self._pause_s) and not self.over.is_set():
            self._shut(time.monotonic())
        self.ended.set()
        # Those that began meanwhile, too.
        self._shut(float("inf"))

    def _shut(self, now: float) -> None:
        with self._lock:
            for own, (sock, over) in list(self._reading.items()):
                if now > over:
                    del self._reading[own]
                    with contextlib.suppress(OSError):
                        sock.shutdown(socket.SHUT_RDWR)


def _client(watch: _Watch) -> Any:
    """A pool of connections that tell which sockets are read."""
    import urllib3
    from urllib3.connection import HTTPConnection, HTTPSConnection

    class Plain(HTTPConnection):
        def getresponse(self) -> Any:
            watch.reads(self.sock)
            return super().getresponse()

    class Secure(HTTPSConnection):
        def getresponse(self) -> Any:
            watch.reads(self.sock)
            return super().getresponse()

    class PlainPool(urllib3.HTTPConnectionPool):
        ConnectionCls = Plain

    class SecurePool(urllib3.HTTPSConnectionPool):
        ConnectionCls = Secure

    client = urllib3.PoolManager(
        num_pools=THREADS,
        maxsize=THREADS,
        retries=False,
        timeout=urllib3.Timeout(connect=CONNECT_S, read=READ_S),
        headers={"User-Agent": f"clipperf/{__version__}", "Accept-Encoding": "identity"},
    )
    client.pool_classes_by_scheme = {"http": PlainPool, "https": SecurePool}
    return client


class Web:
    """A client with connections that are kept; `get` may be called from several threads."""

    def __init__(self, pause_s: float = 0.5, whole_s: float = WHOLE_S) -> None:
        absent = missing()
        if absent is not None:
            raise absent
        import urllib3

        self._errors: Any = urllib3.exceptions
        self._pause_s, self._whole_s = pause_s, whole_s
        self._watch = _Watch(min(1.0, whole_s / 8))
        self._http = _client(self._watch)

    def ends_with(self, run: threading.Event) -> None:
        """Whoever reads gets no more soon after a run has ended."""
        self._watch.over = run

    def get(self, url: str) -> bytes:
        """The bytes at an address.

        Raises:
            UsageError: there are none, too many, or they do not come in time; the message says why.
        """
        over, why = time.monotonic() + self._whole_s, ""
        self._watch.begin(over)
        for number in range(TRIES):
            if number:
                self._watch.ended.wait(self._pause_s * 2 ** (number - 1))
            if self._watch.ended.is_set():
                raise UsageError(ENDED)
            try:
                status, data = self._followed(url, over)
            except (self._errors.LocationValueError, UnicodeError) as exc:
                raise UsageError(f"no address: {shown(exc)}") from exc
            except (self._errors.HTTPError, OSError, ValueError) as exc:
                why = _why(exc)
            else:
                if status == 200:
                    return data
                why = f"HTTP {status}"
                if status not in AGAIN:
                    break
            if time.monotonic() > over:
                raise UsageError(f"not whole after {self._whole_s:.0f} s")
        raise UsageError(why)

    def _followed(self, url: str, over: float) -> tuple[int, bytes]:
        for _ in range(REDIRECTS + 1):
            status, data, elsewhere = self._once(url, over)
            if elsewhere is None:
                return status, data
            url = urljoin(url, elsewhere)
        raise UsageError("too many redirects")

    def _once(self, url: str, over: float) -> tuple[int, bytes, str | None]:
        """A status, the bytes of a 200, and where else to look."""
        try:
            answer = self._http.request("GET", url, redirect=False, preload_content=False)
        except BaseException:
            self._watch.end()
            raise
        try:
            if answer.status != 200:  # its body may be long: nobody reads it
                return answer.status, b"", answer.get_redirect_location() or None
            parts, size = [], 0
            for part in answer.stream(CHUNK_BYTES, decode_content=False):
                parts.append(part)
                size += len(part)
                if size > MOST_BYTES:
                    raise UsageError(f"larger than {MOST_BYTES // MIB} MiB")
            # Without a length, its end may be that of its time, or the run's.
            if self._watch.ended.is_set():
                raise UsageError(ENDED)
            if time.monotonic() > over:
                raise UsageError(f"not whole after {self._whole_s:.0f} s")
            self._watch.end()
            answer.release_conn()
            return 200, b"".join(parts), None
        finally:
            self._watch.end()
            answer.close()

    def close(self) -> None:
        """Let all connections go; whoever reads one gets no more."""
        self._watch.ended.set()
        self._http.clear()


def missing() -> MissingDependencyError | None:
    """What to raise where the package that fetches URLs is not installed; None where it is."""
    return extras.missing("urllib3", "URLs need", "embed")


def _why(exc: Exception) -> str:
    """What an error of the client says, without the names of its objects."""
    cause = getattr(exc, "reason", None)
    said = str(cause if isinstance(cause, Exception) else exc)
    return shown(said.rpartition(": ")[2] or said)


Jobs = SimpleQueue[tuple[Future[bytes], str] | None]


def _work(web: Web, jobs: Jobs, at_end: Callable[[], None]) -> None:
    """Fetch what is asked for, to the end of the jobs."""
    while (job := jobs.get()) is not None:
        task, address = job
        if task.set_running_or_notify_cancel():
            try:
                task.set_result(web.get(address))
            except BaseException as exc:  # noqa: BLE001 - whoever reads it is told
                task.set_exception(exc)
        del task, job  # an image may be large, and the next job be far
    at_end()


class _Fetching:
    """Threads that fetch to the end of a run; daemons, for a process does not wait for a server."""

    def __init__(self, ended: threading.Event) -> None:
        self._web = Web()
        self._web.ends_with(ended)
        self._jobs: Jobs = SimpleQueue()
        self._threads = self._over = 0
        self._lock = threading.Lock()

    def begin(self, address: str) -> Future[bytes]:
        """The bytes of an image that is fetched from now on."""
        if self._threads < THREADS:
            name = f"clipperf-web-{self._threads}"
            given = self._web, self._jobs, self._count
            threading.Thread(target=_work, args=given, name=name, daemon=True).start()
            self._threads += 1
        task: Future[bytes] = Future()
        self._jobs.put((task, address))
        return task

    def close(self) -> None:
        """Begin no more: threads end with what was asked for, and connections with the last."""
        for _ in range(self._threads):
            self._jobs.put(None)

    def _count(self) -> None:
        with self._lock:
            self._over += 1
            last = self._over == self._threads
        if last:
            self._web.close()


def _result(task: Future[bytes], ended: threading.Event) -> bytes:
    while not ended.is_set():
        done, _ = wait((task,), PATIENCE_S)
        if done:
            return task.result()
    raise UsageError(ENDED)


def fetched(
    items: Iterator[Item], ended: threading.Event | None = None
) -> Generator[Item, None, None]:
    """Items whose URLs are being fetched, some of them ahead of their turn.

    What becomes of one is known when it is read, where the run has `ended` at once; it may be read
    after the last was handed out, or this was closed. A client is made with the first URL.
    """
    over = threading.Event() if ended is None else ended
    fetching: _Fetching | None = None
    waiting: deque[tuple[Item, Future[bytes] | None]] = deque()
    try:
        for each in items:
            task = None
            if isinstance(each.given, Url):
                fetching = fetching or _Fetching(over)
                task = fetching.begin(each.given.address)
                later = Later(each.given.address, partial(_result, task, over))
                each = replace(each, given=later)
            elif not waiting:
                yield each
                continue
            waiting.append((each, task))
            if len(waiting) > AHEAD:
                yield waiting.popleft()[0]
        while waiting:
            yield waiting.popleft()[0]
    finally:
        for _, task in waiting:
            if task is not None:
                task.cancel()
        if fetching is not None:
            fetching.close()
