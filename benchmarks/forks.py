"""What a model costs in forked processes, kept as it is or opened again: figures for `serve.forks`.

Run as ``python benchmarks/forks.py FOLDER``. Each line is one parent that opens the artifact and
forks children one after the other, idle, or while two of its threads embed. A child that does not
answer within seconds has failed: it waits for a thread, or a lock, that only the parent has.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

import asked
import numpy as np
from PIL import Image

import clipperf
from clipperf.serve import load
from clipperf.serve.model import ClipModel

FORKS, CALLS, WAIT_S = 50, 3, 8
IMAGES = [Image.new("RGB", (64, 64), colour) for colour in ("red", "blue", "green", "white")] * 8


def private_bytes() -> int:
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) * 1024


def child(model: ClipModel, wanted: np.ndarray, answer: int) -> None:
    signal.alarm(WAIT_S)
    seconds = []
    for _ in range(CALLS):
        start = time.perf_counter()
        found = model.encode_images(IMAGES, workers=0)
        seconds.append(time.perf_counter() - start)
    figures = seconds[0], statistics.median(seconds[1:]), private_bytes() / 2**20
    os.write(answer, " ".join(map(str, figures)).encode())
    os._exit(0 if np.allclose(found, wanted, atol=1e-4) else 1)


def parent(folder: str, threads: int, again: bool, busy: bool) -> None:
    if not again:
        load.watch = lambda model: None  # type: ignore[assignment]
    model = clipperf.load(folder, threads=threads)
    wanted = model.encode_images(IMAGES, workers=0)

    def embed() -> None:
        while True:
            model.encode_images(IMAGES, workers=0)

    for _ in range(2 if busy else 0):
        threading.Thread(target=embed, daemon=True).start()
    time.sleep(0.3)
    figures, failed = [], 0
    for _ in range(FORKS):
        answer, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            child(model, wanted, write)
        os.close(write)
        failed += os.waitpid(pid, 0)[1] != 0
        said = os.read(answer, 200).split()
        os.close(answer)
        figures += [tuple(map(float, said))] if said else []
    first, later, mib = (statistics.median(each) for each in zip(*figures, strict=True))
    print(
        f"{threads} threads, {'opened again' if again else 'kept':12}, "
        f"{'busy' if busy else 'idle'} parent: {failed} of {FORKS} failed; first call "
        f"{first * 1e3:.0f} ms, later {later * 1e3:.0f} ms, {mib:.0f} MiB private",
        flush=True,
    )
    os._exit(0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder")
    parser.add_argument("--one", nargs=3, type=int, help="threads, opened again, busy")
    given = parser.parse_args()
    if given.one:
        return parent(given.folder, given.one[0], bool(given.one[1]), bool(given.one[2]))
    for busy in (0, 1):
        for threads in (1, 2):
            for again in (0, 1):
                one = map(str, (threads, again, busy))
                subprocess.run([sys.executable, __file__, given.folder, "--one", *one], check=True)
    return None


if __name__ == "__main__":
    asked.run(main)
