"""What the worker hands on of its request."""

from __future__ import annotations

import threading

import numpy as np

from clipperf.bench import worker
from clipperf.nouns.cell import Cell, EngineRequest
from clipperf.nouns.model import ModelSpec

SPEC = ModelSpec("m", "sample", "m", "bundled", 64, 77, 192)


class Pair:
    """Two runs at once: each waits for the other, which one thread alone would do for ever."""

    streams = 2

    def __init__(self) -> None:
        self.together = threading.Barrier(2, timeout=60)

    def run(self, array: np.ndarray) -> np.ndarray:
        self.together.wait()
        return array

    def close(self) -> None:
        pass


def test_a_load_is_that_of_all_streams() -> None:
    session = worker.Session()
    session.engine, session.inputs = Pair(), np.zeros((1, 3), np.float32)
    cell = Cell("m", "image", "trt", "fp16", "cuda", 1, 1, streams=2)
    session.request = EngineRequest(cell, SPEC, None)
    found = session.load({"seconds": 0.0}, lambda said: None)
    assert found["runs"] == 2 and found["seconds"] > 0
