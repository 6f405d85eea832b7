"""The one thread of a process from which the engines that drive a GPU themselves call it.

These are ONNX Runtime's CUDA and TensorRT providers, its plugin for TensorRT for RTX, and both
flavours of TensorRT. While the CUDA provider captures a graph, which the first runs of a shape do,
CUDA refuses memory to every other thread of the process, and what fails there spoils the capture,
too. And a session keeps its graphs, and handles of cuDNN and cuBLAS, for each thread that calls
it: a server with a thread for each connection would capture every shape again in each. PyTorch
calls from whichever thread is there, as does code that is not clipperf's.

Handing a call over and waiting for it takes some 20 microseconds.
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
_ending = threading.RLock()


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
        with _ending:  # of the interpreter, which joins no thread that is a daemon
            thread.shutdown()  # waits for what was handed over before
            return call()
    try:
        return answer.result()
    finally:
        del answer  # an error's frames would hold it, and it the error, and both what they used
