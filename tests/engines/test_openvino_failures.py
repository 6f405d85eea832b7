"""What comes after a run of OpenVINO's that failed: the tower is compiled anew, for everybody."""

from __future__ import annotations

import gc
import threading
import weakref
from typing import Any

import numpy as np
import pytest

from clipperf.engines.openvino import OpenVinoEngine
from clipperf.errors import EngineError

ROWS = np.ones((2, 3), np.float32)


class Tower:
    """Stands for a compiled tower: `fails` says whether its runs do, `inside` is set by one."""

    def __init__(self, fails: bool, hold: threading.Event | None = None) -> None:
        self.fails, self.hold = fails, hold
        self.inside = threading.Event()
        self.runs = 0

    def create_infer_request(self) -> Any:
        return Request(self)


class Request:
    def __init__(self, tower: Tower) -> None:
        self.tower = tower

    def infer(self, given: dict[int, np.ndarray], share_inputs: bool) -> list[np.ndarray]:
        self.tower.runs += 1
        self.tower.inside.set()
        if self.tower.hold is not None:
            self.tower.hold.wait(20)
        if self.tower.fails:
            raise RuntimeError("[CPU] MatMul node can't alloc")
        return [given[0] * 2]


def engine_of(towers: list[Tower], streams: int = 1) -> OpenVinoEngine:
    waiting = iter(towers)
    return OpenVinoEngine(lambda: (next(waiting), None), streams)


def test_the_next_run_has_a_new_tower() -> None:
    towers = [Tower(fails=True), Tower(fails=False)]
    engine = engine_of(towers)
    with pytest.raises(EngineError, match="out of memory at batch 2"):
        engine.run(ROWS)
    np.testing.assert_array_equal(engine.run(ROWS), ROWS * 2)
    np.testing.assert_array_equal(engine.run(ROWS), ROWS * 2)
    assert [tower.runs for tower in towers] == [1, 2]


def test_runs_that_waited_do_not_run_on_the_tower_that_failed() -> None:
    """One call is too large; those of others, in a server's threads, are not its victims."""
    hold = threading.Event()
    towers = [Tower(fails=True, hold=hold), Tower(fails=False)]
    engine = engine_of(towers)
    outcomes: list[str] = []

    def run() -> None:
        try:
            engine.run(ROWS)
            outcomes.append("ok")
        except EngineError as exc:
            outcomes.append(str(exc))

    first = threading.Thread(target=run)
    first.start()
    assert towers[0].inside.wait(20)
    others = [threading.Thread(target=run) for _ in range(4)]
    for thread in others:
        thread.start()
    hold.set()
    for thread in (first, *others):
        thread.join(20)
        assert not thread.is_alive()
    assert sorted(outcomes)[:4] == ["ok"] * 4 and "out of memory" in sorted(outcomes)[4]
    assert [tower.runs for tower in towers] == [1, 4]


def test_a_run_that_ends_on_the_old_tower_says_nothing_of_the_new_ones_requests() -> None:
    """What is known of requests is kept by their numbers, and that of one that is gone is free."""
    hold = threading.Event()
    old, new = Tower(fails=False, hold=hold), Tower(fails=False)
    engine_of([Tower(fails=False)]).run(ROWS)  # the first run of a process is alone
    engine = engine_of([old, new], streams=2)
    late = threading.Thread(target=engine.run, args=(ROWS,))
    late.start()
    assert old.inside.wait(20)
    failing = Tower(fails=True)
    request = engine._free.get()  # the other one of the old tower
    request.tower = failing
    engine._free.put(request)
    with pytest.raises(EngineError, match="out of memory"):
        engine.run(ROWS)
    np.testing.assert_array_equal(engine.run(ROWS), ROWS * 2)
    known = set(engine._laid_out)
    hold.set()
    late.join(20)
    assert (old.runs, failing.runs, new.runs) == (1, 1, 1)
    assert engine._laid_out == known and len(known) == 1


def test_who_handles_the_error_does_not_hold_the_old_tower() -> None:
    """A retry in the handler must not need both in memory."""
    alive: list[bool] = []
    first = weakref.ref(old := Tower(fails=True))

    def compiling() -> tuple[Tower, None]:
        if not towers:
            gc.collect()
            alive.append(first() is not None)
            return Tower(fails=False), None
        return towers.pop(), None

    towers = [old]
    engine = OpenVinoEngine(compiling)
    del old
    try:
        engine.run(ROWS)
    except EngineError:
        np.testing.assert_array_equal(engine.run(ROWS), ROWS * 2)
    assert alive == [False]


def test_a_tower_that_cannot_be_compiled_is_tried_again_with_the_next_run() -> None:
    full = [True]

    def compiling() -> tuple[Tower, None]:
        if towers:
            return towers.pop(), None
        if full[0]:
            raise EngineError("openvino cannot load x: out of memory")
        return Tower(fails=False), None

    towers = [Tower(fails=True)]
    engine = OpenVinoEngine(compiling)
    for said in ("at batch 2", "cannot load"):
        with pytest.raises(EngineError, match=said):
            engine.run(ROWS)
    full[0] = False
    np.testing.assert_array_equal(engine.run(ROWS), ROWS * 2)
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        engine.run(ROWS)
