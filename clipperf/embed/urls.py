"""Images from the web: several at once, each within bounds of time, tries and bytes."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any

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


class Web:
    """A client with connections that are kept; `get` may be called from several threads."""

    def __init__(self, pause_s: float = 0.5, whole_s: float = WHOLE_S) -> None:
        try:
            import urllib3
        except ImportError as exc:
            said = f"URLs need urllib3, which is not installed: {extras.install('embed')}"
            raise MissingDependencyError(said) from exc
        self._errors: Any = urllib3.exceptions
        self._pause_s, self._whole_s = pause_s, whole_s
        self._http = urllib3.PoolManager(
            num_pools=THREADS,
            maxsize=THREADS,
            retries=urllib3.Retry(total=REDIRECTS, connect=0, read=0, redirect=REDIRECTS, status=0),
            timeout=urllib3.Timeout(connect=CONNECT_S, read=READ_S),
            headers={"User-Agent": f"clipperf/{__version__}", "Accept-Encoding": "identity"},
        )

    def get(self, url: str) -> bytes:
        """The bytes at an address.

        Raises:
            UsageError: there are none, too many, or they do not come in time; the message says why.
        """
        over = time.monotonic() + self._whole_s
        for number in range(TRIES):
            if number:
                time.sleep(self._pause_s * 2 ** (number - 1))
            try:
                status, data = self._once(url, over)
            except (self._errors.LocationValueError, UnicodeError) as exc:
                raise UsageError(f"no address: {shown(exc)}") from exc
            except self._errors.HTTPError as exc:
                why = _why(exc)
            else:
                if status == 200:
                    return data
                why = f"HTTP {status}"
                if status not in AGAIN:
                    break
            if time.monotonic() > over:
                break
        raise UsageError(why)

    def _once(self, url: str, over: float) -> tuple[int, bytes]:
        answer = self._http.request("GET", url, preload_content=False)
        try:
            if answer.status != 200:
                answer.drain_conn() if int(answer.headers.get("Content-Length", "0")) else None
                return answer.status, b""
            parts, size = [], 0
            for part in answer.stream(CHUNK_BYTES, decode_content=False):
                parts.append(part)
                size += len(part)
                if size > MOST_BYTES:
                    raise UsageError(f"larger than {MOST_BYTES // MIB} MiB")
                if time.monotonic() > over:
                    raise UsageError(f"not whole after {self._whole_s:.0f} s")
            answer.release_conn()
            return 200, b"".join(parts)
        finally:
            answer.close()

    def close(self) -> None:
        """Let all connections go."""
        self._http.clear()


def _why(exc: Exception) -> str:
    """What an error of the client says, without the names of its objects."""
    cause = getattr(exc, "reason", None)
    said = str(cause if isinstance(cause, Exception) else exc)
    return shown(said.rpartition(": ")[2] or said)


def fetched(items: Iterator[Item]) -> Generator[Item, None, None]:
    """Items whose URLs are being fetched, some of them ahead of their turn.

    What becomes of one is known when it is read. A client is made with the first URL.
    """
    web: Web | None = None
    pool: ThreadPoolExecutor | None = None
    waiting: deque[Item] = deque()
    try:
        for each in items:
            if not isinstance(each.given, Url):
                if not waiting:
                    yield each
                    continue
                waiting.append(each)
            else:
                if web is None or pool is None:
                    web = Web()
                    pool = ThreadPoolExecutor(THREADS, thread_name_prefix="clipperf-web")
                address = each.given.address
                task: Future[bytes] = pool.submit(web.get, address)
                waiting.append(replace(each, given=Later(address, task.result)))
                del task
            if len(waiting) > AHEAD:
                yield waiting.popleft()
        while waiting:
            yield waiting.popleft()
    finally:
        if pool is not None and web is not None:
            pool.shutdown(wait=False, cancel_futures=True)
            web.close()
