"""The one thread from which a GPU is called."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import pytest

from clipperf.engines.gpu_thread import on_gpu_thread


def test_it_is_the_same_thread_for_all_and_not_the_callers() -> None:
    found: list[int] = []
    callers = [
        threading.Thread(target=lambda: found.append(on_gpu_thread(threading.get_ident)))
        for _ in range(20)
    ]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert len(found) == 20
    assert len(set(found)) == 1
    assert threading.get_ident() not in found
    assert on_gpu_thread(lambda: on_gpu_thread(threading.get_ident)) == found[0], "no deadlock"


def test_what_it_raises_is_raised_to_the_caller_and_it_goes_on() -> None:
    with pytest.raises(ZeroDivisionError):
        on_gpu_thread(lambda: 1 // 0)
    assert on_gpu_thread(lambda: 7) == 7


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform does not fork")
def test_a_forked_child_has_a_thread_of_its_own() -> None:
    code = (
        "import os, signal\n"
        "from clipperf.engines.gpu_thread import on_gpu_thread\n"
        "assert on_gpu_thread(os.getpid) == os.getpid()\n"
        "child = os.fork()\n"
        "if not child:\n"
        "    signal.alarm(20)\n"  # a call that waits for ever is a failure
        "    os._exit(0 if on_gpu_thread(os.getpid) == os.getpid() else 3)\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "0", done.stderr


def test_what_is_called_while_the_interpreter_ends_is_done() -> None:
    code = (
        "import atexit\n"
        "from clipperf.engines.gpu_thread import on_gpu_thread\n"
        "on_gpu_thread(lambda: None)\n"
        "atexit.register(lambda: on_gpu_thread(lambda: print('closed')))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "closed", done.stderr


def test_at_the_end_of_the_interpreter_nobody_calls_beside_the_thread() -> None:
    """It works off what it was given while nothing new is taken, which callers then do in turns."""
    code = (
        "import threading, time\n"
        "from clipperf.engines.gpu_thread import on_gpu_thread\n"
        "inside, met = [], []\n"
        "def call():\n"
        "    inside.append(1)\n"
        "    met.append(len(inside))\n"
        "    time.sleep(0.01)\n"
        "    inside.pop()\n"
        "def work():\n"
        "    threading.main_thread().join(0.1)\n"
        "    for _ in range(20):\n"
        "        on_gpu_thread(call)\n"
        "    print(max(met), flush=True)\n"
        "on_gpu_thread(call)\n"
        "for _ in range(4):\n"
        "    threading.Thread(target=work).start()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["1"] * 4, done.stderr
