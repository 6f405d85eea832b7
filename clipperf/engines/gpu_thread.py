"""The one thread of a process from which ONNX Runtime's CUDA and TensorRT providers are called.

While the CUDA provider captures a graph, which the first run of a shape does, CUDA refuses memory
to every other thread of the process, and what fails there spoils the capture, too. And a session
keeps its graphs, and handles of cuDNN and cuBLAS, for each thread that calls it: a server with a
thread for each connection would capture every shape again in each. The TensorRT-RTX plugin, which
captures nothing here, is called by whoever calls; beside `ort-cuda` in one process that may fail a
first run of a shape.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

from clipperf.system.processes import own

T = TypeVar("T")

_NAME = "clipperf-gpu"
_threads: dict[int, ThreadPoolExecutor] = {}


def on_gpu_thread(call: Callable[[], T]) -> T:
    """Call something there and wait; what it raises is raised here."""
    if threading.current_thread().name.startswith(_NAME):
        return call()
    thread = own(_threads, partial(ThreadPoolExecutor, 1, thread_name_prefix=_NAME))
    try:
        answer = thread.submit(call)
    except RuntimeError as exc:
        if "shutdown" not in str(exc):
            raise
        return call()  # the interpreter is ending: nobody else calls now
    return answer.result()
