"""Whether the head of a Ray cluster answers, asked by hand: Ray itself would try for a minute.

One call of gRPC's, a frame of HTTP/2 each way (RFC 9113, RFC 7541): nothing of Ray is called, which
prints what it likes and ends the process where it gives up.
"""

from __future__ import annotations

import contextlib
import os
import queue
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from clipperf import units
from clipperf.errors import HeadError
from clipperf.text import one_line

ANSWER_S = 10.0
"""How long a head may take to answer: one whose machine has much to do is not quick."""

LOOK_S = 3.0
"""The same while work goes on, which waits meanwhile."""

GONE_S, SILENT_S = 20.0, 120.0
"""How long nobody may listen, or nobody answer, before a head is given up."""

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, SETTINGS = 0, 1, 4
END_STREAM, END_HEADERS = 1, 4
NO_MESSAGE = bytes(5)
METHOD = b"/ray.rpc.NodeInfoGcsService/CheckAlive"
NO_SUCH_METHOD = b"grpc-status\x0212"
MOST_BYTES = 2**20
"""Of an answer that says nothing yet."""


Value = TypeVar("Value")


class _Other(Exception):
    """What listens is something else; the message says what it does."""


def why_none(address: str, limit_s: float = ANSWER_S) -> str | None:
    """Why no head of a Ray cluster answers at HOST:PORT; None where one does.

    One that wants a token first is one, and so is what may be one.
    """
    try:
        _ask(address, limit_s)
    except TimeoutError:
        return f"it does not answer within {units.seconds(limit_s)}"
    except (OSError, OverflowError) as exc:
        return _reason(exc)
    except _Other as exc:
        return f"something else listens there: {exc}"
    return None


def bounded(call: Callable[[], Value], limit_s: float = ANSWER_S) -> Value:
    """What a call returns that asks the head, for which Ray itself would wait for very long.

    Raises:
        TimeoutError: it takes too long, and goes on in a thread that nobody waits for.
    """
    found: queue.SimpleQueue[tuple[bool, Any]] = queue.SimpleQueue()

    def work() -> None:
        try:
            found.put((True, call()))
        except Exception as exc:  # noqa: BLE001 - raised where it is waited for
            found.put((False, exc))

    threading.Thread(target=work, daemon=True).start()
    try:
        is_well, what = found.get(timeout=limit_s)
    except queue.Empty:
        raise TimeoutError("Ray does not answer") from None
    if not is_well:
        raise what
    value: Value = what
    return value


class Head:
    """The head of a joined cluster, at HOST:PORT. `why` is why it does not answer; "" if it does.

    `silent_since_s` is since when it does not; None if it does.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self.silent_since_s: float | None = None
        self.why = ""

    @property
    def words(self) -> str:
        """That it does not answer, in words."""
        return f"the head of the Ray cluster at {self.address} does not answer: {self.why}"

    def answers(self) -> bool:
        """Whether it does now.

        Raises:
            HeadError: it has not for too long.
        """
        begun_s = time.monotonic()
        try:
            _ask(self.address, LOOK_S)
        except (OSError, OverflowError, _Other) as exc:
            patience_s = SILENT_S if isinstance(exc, TimeoutError) else GONE_S
            self.why = _reason(exc)
            self.silent_since_s = self.silent_since_s or begun_s
            waited_s = time.monotonic() - self.silent_since_s
            if waited_s > patience_s:
                raise HeadError(
                    f"the head of the Ray cluster at {self.address} has not answered for "
                    f"{units.seconds(waited_s)} ({self.why}): it was stopped, or its machine is "
                    "gone"
                ) from exc
            return False
        self.silent_since_s, self.why = None, ""
        return True


def _reason(exc: Exception) -> str:
    if isinstance(exc, OSError) and exc.strerror:
        return exc.strerror
    return one_line(str(exc)) or type(exc).__name__


def _ask(address: str, limit_s: float) -> None:
    """Call a method that every head has; with TLS see whether anybody listens.

    Raises:
        OSError: nobody listens, or it takes too long (TimeoutError).
        _Other: what listens is no head.
    """
    host, _, port = address.rpartition(":")
    until_s = time.monotonic() + limit_s
    with socket.create_connection((host.strip("[]"), int(port)), limit_s) as line:
        if os.environ.get("RAY_USE_TLS", "").lower() in ("1", "true"):
            return  # Ray has the certificates, and asks with them
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it may have said why
            line.sendall(PREFACE + _frame(SETTINGS) + _called())
        frames = _frames(line, until_s)
        kind, _, _ = next(frames, (None, 0, b""))
        if kind != SETTINGS:
            raise _Other("it does not speak gRPC")
        for kind, flags, body in frames:
            if kind == HEADERS and NO_SUCH_METHOD in body:
                raise _Other("it speaks gRPC, but is no head of a Ray cluster")
            if kind == HEADERS and (flags & END_STREAM == 0 or b"grpc-status" in body):
                return
            if kind == HEADERS:
                break
        raise _Other("it speaks HTTP/2, but is no head of a Ray cluster")


def _frames(line: socket.socket, until_s: float) -> Iterator[tuple[int, int, bytes]]:
    """Kind, flags and payload of what comes, to its end."""
    read = b""
    while len(read) < MOST_BYTES:
        while len(read) >= 9 + (size := int.from_bytes(read[:3], "big")):
            yield read[3], read[4], read[9 : 9 + size]
            read = read[9 + size :]
        if len(read) >= 9 and read[3] > 9:  # no kind of frame: nobody need wait for the rest
            return
        line.settimeout(max(0.001, until_s - time.monotonic()))
        some = line.recv(2**16)
        if not some:
            return
        read += some


def _called() -> bytes:
    """A call of a method without parameters, as the frames of the first stream."""
    fields = b"\x83\x86"  # POST, http
    for name, value in ((b"\x04", METHOD), (b"\x01", b"ray"), (b"\x0f\x10", b"application/grpc")):
        fields += name + _string(value)
    fields += b"\x00" + _string(b"te") + _string(b"trailers")
    return _frame(HEADERS, fields, END_HEADERS) + _frame(DATA, NO_MESSAGE, END_STREAM)


def _string(text: bytes) -> bytes:
    return bytes([len(text)]) + text


def _frame(kind: int, payload: bytes = b"", flags: int = 0) -> bytes:
    stream = 0 if kind == SETTINGS else 1
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload
