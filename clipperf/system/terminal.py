"""The one place that writes to standard output and standard error.

What is written there never changes what was done: a stream that is closed, full, broken or of a
narrow encoding ends no work and leaves no traceback. Characters that an encoding lacks are written
as escapes. After `take_over` that holds for what libraries print, too.

- Standard error (`say`): lines that cannot be written are dropped.
- Standard output, where the reader has gone, as with ``| head``: nobody wants the rest, and that
  is no error.
- Standard output, otherwise (closed, disk full): `show` fails, which prints what a command was
  asked for, so that it exits with 1. `tell` says so on standard error alone: it prints what came of
  work that is done and lies elsewhere, as an exported folder does, and the exit code is the work's.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import select
import sys
from typing import Any

from clipperf.errors import StorageError
from clipperf.text import LINE_CHARACTERS, one_line

GONE = (errno.EPIPE, errno.ECONNRESET, errno.ESHUTDOWN)
"""Errors of a stream whose reader has gone."""


class Descriptor(io.FileIO):
    """A descriptor that is written to as long as that works; `failed` is why it no longer does."""

    def __init__(self, number: int, failed: OSError | None = None) -> None:
        super().__init__(number, "wb", closefd=False)
        self.failed = failed
        self.told = False

    def write(self, data: Any) -> int:
        """Write; what cannot be written is dropped."""
        while self.failed is None:
            try:
                written = super().write(data)
                if written is not None:
                    return written
                select.select([], [self], [])  # somebody made it one that does not wait
            except OSError as exc:
                self.failed = exc
        return memoryview(data).nbytes


def take_over() -> None:
    """Have all of this process's output go through here; for commands, not for libraries.

    Descriptors that were closed are opened on nothing: what is opened next would get their
    numbers, and with them what libraries print.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    for number, name in ((1, "stdout"), (2, "stderr")):
        stream = getattr(sys, name)
        if stream is not getattr(sys, f"__{name}__"):
            continue  # a caller's own, who looks after it
        closed = OSError(errno.EBADF, os.strerror(errno.EBADF)) if stream is None else None
        taken = io.TextIOWrapper(
            io.BufferedWriter(Descriptor(number, closed)),
            encoding=getattr(stream, "encoding", "utf-8"),
            errors="backslashreplace",
            line_buffering=number == 2 or getattr(stream, "line_buffering", False),
            write_through=getattr(stream, "write_through", False),
        )
        setattr(sys, name, taken)


def say(text: str) -> None:
    """A line on standard error, as far as there is one."""
    if sys.stderr is None:  # what is printed to None goes to standard output
        return
    with contextlib.suppress(OSError, ValueError):  # ValueError: it was closed
        print(one_line(text, LINE_CHARACTERS), file=sys.stderr, flush=True)


def say_at_once(text: str) -> None:
    """A line on standard error from a handler of signals, which may come in the middle of one."""
    with contextlib.suppress(OSError):
        os.write(2, f"{one_line(text, LINE_CHARACTERS)}\n".encode())


def ask(question: str) -> str | None:
    """The answer to a question on standard error; None where nobody can be asked."""
    if sys.stdin is None or sys.stderr is None or sys.stdin.closed or not sys.stdin.isatty():
        return None
    with contextlib.suppress(OSError, ValueError):
        print(one_line(question), end=" ", file=sys.stderr, flush=True)
    try:
        return sys.stdin.readline().strip()
    except (OSError, ValueError):
        return None


def show(text: str, end: str = "\n", page: bool = False) -> None:
    """Print what a command was asked for; a `page` in UTF-8, as files are written.

    Raises:
        StorageError: standard output is closed or full.
    """
    if page and isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")
    lost = _print(text, end)
    if lost is not None:
        raise lost


def tell(text: str, page: bool = False) -> None:
    """Print what came of work that is done, for whoever reads it; otherwise as `show`."""
    try:
        show(text, page=page)
    except StorageError as exc:
        say(f"{exc}; the work itself is done")


def finish() -> None:
    """Notice what went wrong with what others have printed, the help for example.

    Raises:
        StorageError: standard output is closed or full.
    """
    lost = _print("", "")
    if lost is not None:
        raise lost


def _print(text: str, end: str) -> StorageError | None:
    """Print to standard output; why it takes nothing, once, if it matters."""
    failed: OSError | None = None
    try:
        print(text, end=end, flush=True)
    except OSError as exc:  # of a caller's own stream
        failed = exc
    own = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    if isinstance(own, Descriptor) and own.failed is not None and not own.told:
        failed, own.told = own.failed, True
    if failed is None or failed.errno in GONE:
        return None
    return StorageError(f"cannot write to standard output: {failed.strerror or failed}")
