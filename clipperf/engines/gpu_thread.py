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
_threads: dict[int, ThreadPoolExecutor] = {}
"""By the process: threads do not survive a fork."""


def on_gpu_thread(call: Callable[[], T]) -> T:
    """Call something there and wait; what it raises is raised here."""
    if threading.current_thread().name.startswith(_NAME):
        return call()
    process = os.getpid()
    thread = _threads.get(process)
    if thread is None:
        # As one step of the interpreter: a lock could be held by whom a fork left behind.
        thread = _threads.setdefault(process, ThreadPoolExecutor(1, thread_name_prefix=_NAME))
    try:
        answer = thread.submit(call)
    except RuntimeError:  # the interpreter is ending: nobody else calls now
        return call()
    return answer.result()
