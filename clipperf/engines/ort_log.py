"""What ONNX Runtime writes to standard error, and what of it says what is wrong."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import tempfile
from collections.abc import Iterator


@contextlib.contextmanager
def collected_stderr() -> Iterator[list[str]]:
    """Collect what is written to descriptor 2, as ONNX Runtime's log is; it has no hook.

    Yields a list that holds the text after the block; it is passed on to the real one too.
    """
    collected: list[str] = []
    try:
        kept = os.dup(2)
    except OSError:  # it is closed
        yield collected
        return
    if sys.stderr is not None:
        sys.stderr.flush()
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        try:
            yield collected
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            file.seek(0)
            text = b"".join(line for line in file if not any(sign in line for sign in HARMLESS))
            collected.append(text.decode(errors="replace"))
            os.write(2, text)


HARMLESS = (b"No registered plugin EP device found", b"cannot use the graph capture feature")
"""In lines that nobody needs: a warning at every session with the CUDA provider (ONNX Runtime
1.31), which is no plugin; and what the error of a session says, after which it is opened anew."""

REASONS = (r"with error: (.+)", r"(CUDA failure \d+: [^;]+?)\s*;", r"(Please install TensorRT.+)")
"""What says in ONNX Runtime's log why a provider cannot be used, the most exact first."""


def reason_in(log: str) -> str:
    """The one line of a log or an error that says what is wrong; "" where there is none."""
    for pattern in REASONS:
        if found := re.search(pattern, log):
            return found[1].strip()
    return next((line.strip() for line in log.splitlines() if line.strip()), "")
