"""What an ended process has said, and why it ended."""

from __future__ import annotations

import os
import signal
import sys
from typing import IO

LINES = 12
CHARACTERS = 1500
FATAL = "Fatal Python error: "
"""How faulthandler's report of a crash begins."""


def last_words(file: IO[bytes], start: int) -> str:
    """The last lines that a process has written to its standard error, after byte `start`."""
    length = os.fstat(file.fileno()).st_size
    start = max(start, length - 4 * CHARACTERS)
    text = _read_at(file, start, length - start).decode("utf-8", "replace").strip()
    _, fatal, stack = text.rpartition(FATAL)
    if fatal:
        # faulthandler's report, innermost frame first.
        return "\n".join((fatal + stack).splitlines()[:LINES])[:CHARACTERS]
    return "\n".join(text.splitlines()[-LINES:])[-CHARACTERS:]


def _read_at(file: IO[bytes], start: int, n_bytes: int) -> bytes:
    """Read what a process may still be writing to: it shares the place where it writes next."""
    if sys.platform != "win32":
        return os.pread(file.fileno(), n_bytes, start)
    file.seek(start)
    return file.read(n_bytes)


def reason_of_end(said: str, code: int) -> str:
    """The line of a dead process's last words that says why; "" where none does."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    if code >= 0:  # an error of Python's, whose last line is the reason
        return lines[-1] if lines else ""
    # What else a killed process has said has nothing to do with its end.
    return next((line for line in lines if line.startswith(FATAL)), "")


def exit_reason(code: int) -> str:
    """Words for a return code of `subprocess`: negative is the number of a signal."""
    if code >= 0:
        return f"exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    # Nothing else that ends a process says anything about memory.
    hint = " (the kernel does this when RAM runs out)" if name == "SIGKILL" else ""
    return f"killed by {name}{hint}"
