"""HTTP to a server under measurement: connections that stay open, errors in words.

A bearer token is taken from the environment, sent with every request, and never written anywhere:
where a server repeats it, stars stand in its place. A request is sent again, once, where it went
over a kept connection that ended before a byte of the answer came, as one does that the server had
closed meanwhile; whatever else breaks is an error. Redirects are not followed: the token is for one
server.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from clipperf.engines.patience import patiently, refused
from clipperf.errors import (
    ArtifactError,
    EngineError,
    MissingDependencyError,
    UsageError,
)
from clipperf.serialize import parse_json
from clipperf.system import extras
from clipperf.system.env import version_of
from clipperf.text import one_line

if TYPE_CHECKING:
    import urllib3

MODULE = "urllib3"
TOKEN = "CLIPPERF_ENDPOINT_TOKEN"
"""The variable of the environment that holds a bearer token."""

CONNECT_S = 5.0
ANSWER_S = 60.0
"""How long an answer may take at most."""

MOST_BYTES = 1 << 28
"""Of an answer: 32 vectors take less than a thousandth."""

MOST_WORDS = 1 << 14
"""Bytes of an answer in which its reason is looked for."""

HIDDEN = "***"
"""What stands where a server repeats the token."""

BUSY = (429, 503)
"""What a server answers that has too much to do."""

API_PATHS = ("/v1", "/v2")
"""What URLs of servers often end in, and every protocol here adds by itself."""


@dataclass(frozen=True)
class Answer:
    """What came back: the status, headers by their names in lower case, and the body.

    `secret` is what no words of the server's may repeat, "" where there is nothing.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    secret: str = field(default="", repr=False)

    @property
    def json(self) -> Any:
        """The body as JSON; None where it is none that can be read."""
        try:
            return parse_json(self.body, "the answer")
        except ArtifactError:
            return None

    @property
    def reason(self) -> str:
        """Why a server refused, as servers of both protocols say it, else how the body begins."""
        found = self.json
        for name in ("error", "message", "detail"):
            if isinstance(found, dict) and name in found:
                found = found[name]
        if not isinstance(found, str):
            found = self.body[:MOST_WORDS].decode("utf-8", "replace")
        if self.secret:
            # As it is, in JSON and in a URL.
            for each in (self.secret, json.dumps(self.secret)[1:-1], quote(self.secret, safe="")):
                found = found.replace(each, HIDDEN)
        return one_line(found) or "without a word"

    def error(self, where: str) -> EngineError:
        """The answer as an error: a RefusedError where the server has too much to do."""
        said = f"{where}: HTTP {self.status}: {self.reason}"
        return refused(said, self.headers) if self.status in BUSY else EngineError(said)


def check() -> None:
    """Make sure that the client is here.

    Raises:
        MissingDependencyError: it is not.
    """
    if version_of(MODULE) is None:
        raise MissingDependencyError(
            f"--endpoint needs {MODULE}, which is not installed: {extras.bring(MODULE)}"
        )


def base_url(text: str) -> str:
    """The URL of a server, without what every protocol adds itself.

    Raises:
        UsageError: it is none, or holds what must not be kept: the message does not repeat it.
    """
    try:
        parts = urlsplit(text.strip())
        port = parts.port
    except ValueError as exc:
        raise UsageError("--endpoint is no URL: give http://HOST:PORT") from exc
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError("--endpoint is no URL of a server: give http://HOST:PORT")
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise UsageError(
            "--endpoint holds a user, a password or a query, which would be kept in the result "
            f"file: leave them out, and give a bearer token in the environment, as {TOKEN}"
        )
    path = parts.path.rstrip("/")
    for end in API_PATHS:
        path = path.removesuffix(end)
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}{'' if port is None else f':{port}'}{path.rstrip('/')}"


class _Silent(ConnectionError):
    """A connection ended before a byte of the answer came; `kept`: it had brought others before."""

    kept = False


def _manager(connections: int, answer_s: float) -> urllib3.PoolManager:
    """Connections to one server, whose end is `_Silent` where no byte of an answer came."""
    import http.client

    import urllib3
    from urllib3.connection import HTTPConnection, HTTPSConnection

    class Response(http.client.HTTPResponse):
        def begin(self) -> None:
            try:
                first = self.fp.peek(1)
            except ConnectionError as exc:
                raise _Silent(str(exc)) from exc
            if not first:
                raise _Silent("closed without an answer")
            super().begin()

    class Kept(HTTPConnection):
        response_class = Response
        answers = 0

        def connect(self) -> None:
            self.answers = 0
            super().connect()

        def getresponse(self) -> urllib3.HTTPResponse:  # type: ignore[override]
            try:
                found = super().getresponse()
            except _Silent as exc:
                exc.kept = self.answers > 0
                raise
            self.answers += 1
            return found

    class KeptTls(Kept, HTTPSConnection):
        pass

    class Pool(urllib3.HTTPConnectionPool):
        ConnectionCls = Kept

    class TlsPool(urllib3.HTTPSConnectionPool):
        ConnectionCls = KeptTls

    manager = urllib3.PoolManager(
        num_pools=1,
        maxsize=connections,
        block=True,
        retries=False,
        timeout=urllib3.Timeout(connect=CONNECT_S, read=answer_s),
    )
    manager.pool_classes_by_scheme = {"http": Pool, "https": TlsPool}
    return manager


class Http:
    """Up to `connections` requests at once to one server; more of them wait for one to be free."""

    def __init__(
        self, url: str, connections: int = 1, answer_s: float = ANSWER_S, patient: bool = False
    ) -> None:
        """Nothing is sent yet, and `patiently` if so; raises UsageError for a bad token."""
        self.url = url
        self._patient = patient
        self._answer_s = answer_s
        self._pool = _manager(connections, answer_s)
        self._headers = {"Accept": "application/json"}
        self._token = os.environ.get(TOKEN, "").strip()
        if self._token:
            if not (self._token.isascii() and self._token.isprintable()) or " " in self._token:
                raise UsageError(
                    f"{TOKEN} holds what no token may: characters beyond ASCII, spaces"
                )
            self._headers["Authorization"] = f"Bearer {self._token}"

    def get(self, path: str) -> Answer:
        """Ask for something, whatever the server answers; see `post`."""
        return self._request("GET", path, None, {})

    def post(self, path: str, body: bytes, headers: Mapping[str, str] | None = None) -> Answer:
        """Hand something in, whatever the server answers.

        Raises:
            RefusedError: of a patient one, the server has too much to do.
            EngineError: no answer came: nobody listens, it took too long, the connection broke; or
                the server wants to know who asks.
        """
        return self._request("POST", path, body, headers or {})

    def vectors(self, path: str, body: bytes, headers: Mapping[str, str], where: str) -> Answer:
        """The answer to a request for vectors, which must be one.

        Raises:
            RefusedError: the server has too much to do.
            EngineError: it answers with an error, or as `post`.
        """
        answer = self.post(path, body, headers)
        if answer.status == 200:
            return answer
        raise answer.error(where)

    def close(self) -> None:
        """Close all connections."""
        self._pool.clear()

    def _request(
        self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]
    ) -> Answer:
        def asked() -> Answer:
            answer = self._answered(method, path, body, headers)
            if self._patient and answer.status in BUSY:
                raise answer.error(self.url)
            return answer

        return patiently(asked)

    def _answered(
        self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]
    ) -> Answer:
        import urllib3

        try:
            try:
                answer = self._once(method, path, body, headers)
            except urllib3.exceptions.ProtocolError as exc:
                silent = exc.args[-1]
                if not (isinstance(silent, _Silent) and silent.kept):
                    raise
                answer = self._once(method, path, body, headers)
        except urllib3.exceptions.HTTPError as exc:
            raise EngineError(f"{self.url}: {self._why(exc)}") from exc
        if answer.status in (401, 403):
            given = "the token in it is refused" if self._token else "there is none"
            raise EngineError(
                f"{self.url}: HTTP {answer.status}: {answer.reason}: a bearer token is taken from "
                f"{TOKEN} of the environment, and {given}"
            )
        return answer

    def _once(
        self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]
    ) -> Answer:
        response = self._pool.request(
            method,
            f"{self.url}/{path}",
            body=body,
            headers={**self._headers, **headers},
            redirect=False,
            preload_content=False,
        )
        try:
            found = response.read(MOST_BYTES + 1)
        except BaseException:
            response.close()
            raise
        if len(found) > MOST_BYTES:
            response.close()
            raise EngineError(f"{self.url}: an answer of more than {MOST_BYTES:,} bytes")
        response.release_conn()
        named = {name.lower(): value for name, value in response.headers.items()}
        return Answer(response.status, named, found, self._token)

    def _why(self, exc: Exception) -> str:
        """Why no answer came."""
        import urllib3

        errors = urllib3.exceptions
        if isinstance(exc, errors.ReadTimeoutError):
            return f"no answer within {self._answer_s:g} s"
        if isinstance(exc, errors.NameResolutionError):
            return "there is no host of this name"
        if isinstance(exc, errors.NewConnectionError):
            said = one_line(str(exc).rpartition(": ")[2])
            return f"nobody answers ({said}): is the server running?"
        if isinstance(exc, errors.ConnectTimeoutError):
            return f"nobody takes the connection within {CONNECT_S:g} s: is the server running?"
        silent = isinstance(exc, errors.ProtocolError) and isinstance(exc.args[-1], _Silent)
        return f"the connection broke: {one_line(str(exc.args[-1] if silent else exc))}"
