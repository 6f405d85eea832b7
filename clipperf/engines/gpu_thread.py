"""The one thread of a process from which ONNX Runtime's GPU providers are called.

While the CUDA provider captures a graph, which the first run of a shape does, CUDA refuses memory
to every other thread of the process, and what fails there spoils the capture, too. And a session
keeps its graphs, and handles of cuDNN and cuBLAS, for each thread that calls it: a server with a
thread for each connection would capture every shape again in each.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")

_NAME = "clipperf-gpu"
_thread = ThreadPoolExecutor(1, thread_name_prefix=_NAME)


def on_gpu_thread(call: Callable[[], T]) -> T:
    """Call something there and wait; what it raises is raised here."""
    if threading.current_thread().name.startswith(_NAME):
        return call()
    try:
        answer = _thread.submit(call)
    except RuntimeError:  # the interpreter is ending: nobody else calls now
        return call()
    return answer.result()


def _renew() -> None:
    """Threads do not survive a fork."""
    global _thread
    _thread = ThreadPoolExecutor(1, thread_name_prefix=_NAME)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)
