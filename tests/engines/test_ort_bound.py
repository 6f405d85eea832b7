"""ONNX Runtime with bound buffers, on the CPU's memory: a GPU's differs in where buffers are."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, save

from clipperf.engines import ort_bound
from clipperf.engines.onnxruntime import open_session
from clipperf.engines.ort_bound import BoundEngine
from clipperf.engines.ort_buffers import DriverBuffers
from clipperf.errors import EngineError


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    """y [batch, 3] = 2 * the sum of the four columns of x."""
    weights = helper.make_tensor("w", TensorProto.FLOAT, [4, 3], [2.0] * 12)
    shapes = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4]),
        helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 3]),
    ]
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    body = helper.make_graph([node], "toy", shapes[:1], shapes[1:], [weights])
    path = tmp_path / "toy.onnx"
    save(helper.make_model(body, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


def opened(graph: Path) -> Any:
    session = open_session(graph, threads=1)._session
    return BoundEngine(lambda: session, "CPUExecutionProvider", buffers=DriverBuffers("cpu"))


def test_each_shape_has_its_buffers_and_each_run_an_array(graph: Path) -> None:
    engine = opened(graph)
    first = engine.run(np.ones((2, 4), np.float32))
    second = engine.run(np.full((2, 4), 3, np.float32))
    third = engine.run(np.ones((5, 4), np.float32))
    assert first.tolist() == [[8.0] * 3] * 2, "not overwritten by the second run"
    assert second.tolist() == [[24.0] * 3] * 2
    assert third.shape == (5, 3)
    assert third.dtype == np.float32
    turned = np.arange(8, dtype=np.float32).reshape(4, 2).T  # not contiguous: 0 2 4 6 and 1 3 5 7
    assert engine.run(turned).tolist() == [[24.0] * 3, [32.0] * 3]
    with pytest.raises(EngineError, match="onnxruntime: "):
        engine.run(np.ones((2, 5), np.float32))
    engine.close()
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        engine.run(np.ones((2, 4), np.float32))


def test_only_the_latest_shapes_keep_buffers(graph: Path) -> None:
    engine = opened(graph)
    for rows in [*range(1, 30), 1, 29]:
        assert engine.run(np.ones((rows, 4), np.float32)).tolist() == [[8.0] * 3] * rows
        assert len(engine._latest) <= ort_bound.SHAPES
    assert [shape for shape, _ in engine._latest][-2:] == [(1, 4), (29, 4)]
    engine.close()


class Recorded:
    """A session that notes the number of the graph that each run asks for; fails where told."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self.asked: list[tuple[int, str]] = []
        self.fails: set[str] = set()
        self.threads: set[int] = set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def run_with_iobinding(self, binding: Any, options: Any) -> None:
        self.threads.add(threading.get_ident())
        number = options.get_run_config_entry("gpu_graph_id")
        if number in self.fails:
            raise RuntimeError("CUDA failure 901: operation failed during capture")
        self._session.run_with_iobinding(binding, None)
        self.asked.append((binding.get_outputs()[0].shape()[0], number))


def test_the_first_shapes_keep_their_graph_and_others_have_none(graph: Path) -> None:
    session = Recorded(open_session(graph, threads=1)._session)
    engine = BoundEngine(
        lambda: session, "CPUExecutionProvider", buffers=DriverBuffers("cpu"), graphs=True
    )
    for rows in [*range(1, 20), *range(1, 20)]:
        assert engine.run(np.ones((rows, 4), np.float32)).tolist() == [[8.0] * 3] * rows
    first, second = session.asked[:19], session.asked[19:]
    assert first == second, "a shape keeps its number: a graph holds the addresses of its buffers"
    numbers = dict(first)
    assert sorted(numbers[rows] for rows in range(1, 17)) == sorted(str(n) for n in range(16))
    assert {numbers[rows] for rows in range(17, 20)} == {"-1"}
    engine.close()


def test_a_shape_whose_capture_failed_is_run_without_a_graph(graph: Path) -> None:
    session = Recorded(open_session(graph, threads=1)._session)
    engine = BoundEngine(
        lambda: session, "CPUExecutionProvider", buffers=DriverBuffers("cpu"), graphs=True
    )
    session.fails = {"15"}  # the first one's number
    with pytest.raises(EngineError, match="failed during capture"):
        engine.run(np.ones((2, 4), np.float32))
    session.fails = set()  # another session's numbers
    for rows in (2, 3):
        assert engine.run(np.ones((rows, 4), np.float32)).tolist() == [[8.0] * 3] * rows
    assert session.asked == [(2, "-1"), (3, "15")]
    assert engine.graphs_left == 15, "one shape takes no more than one number"
    engine.close()


def test_a_session_is_opened_again_after_a_run_that_failed(graph: Path) -> None:
    """What a failed capture leaves of it does not come back (seen on an H200)."""
    opened_sessions: list[Recorded] = []
    full = True

    def open_another() -> Recorded:
        if full and opened_sessions:
            raise EngineError("no memory for a session")
        opened_sessions.append(Recorded(open_session(graph, threads=1)._session))
        return opened_sessions[-1]

    engine = BoundEngine(
        open_another, "CPUExecutionProvider", buffers=DriverBuffers("cpu"), graphs=True
    )
    assert engine.run(np.ones((1, 4), np.float32)).tolist() == [[8.0] * 3]
    with pytest.raises(EngineError, match="onnxruntime: "):
        engine.run(np.ones((2, 5), np.float32))  # nothing was run: the session is as it was
    assert engine.run(np.ones((1, 4), np.float32)).tolist() == [[8.0] * 3]
    assert len(opened_sessions) == 1
    opened_sessions[0].fails = {"13"}
    with pytest.raises(EngineError, match="failed during capture"):
        engine.run(np.ones((3, 4), np.float32))
    assert engine.graphs == 0
    with pytest.raises(EngineError, match="no memory for a session"):
        engine.run(np.ones((1, 4), np.float32))
    full = False
    for rows in (3, 1, 2, 1):
        assert engine.run(np.ones((rows, 4), np.float32)).tolist() == [[8.0] * 3] * rows
    assert [len(one.asked) for one in opened_sessions] == [2, 4]
    assert opened_sessions[1].asked == [(3, "-1"), (1, "15"), (2, "14"), (1, "15")]
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        engine.run(np.ones((1, 4), np.float32))
    assert len(opened_sessions) == 2, "a closed engine opens nothing"


def test_a_shape_without_room_for_its_buffers_ends_no_session(
    graph: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sessions: list[Recorded] = []

    def recorded() -> Recorded:
        sessions.append(Recorded(open_session(graph, threads=1)._session))
        return sessions[-1]

    engine = BoundEngine(
        recorded, "CPUExecutionProvider", buffers=DriverBuffers("cpu"), graphs=True
    )
    engine.run(np.ones((1, 4), np.float32))
    bind = engine._bind

    def full(kind: ort_bound.Kind, number: str) -> Any:
        if kind[0][0] == 9:
            raise RuntimeError("CUDA failure 2: out of memory")
        return bind(kind, number)

    monkeypatch.setattr(engine, "_bind", full)
    with pytest.raises(EngineError, match="out of memory at batch 9"):
        engine.run(np.ones((9, 4), np.float32))
    assert engine.graphs == 1, "the graph of the other shape is still there"
    monkeypatch.undo()
    assert engine.run(np.ones((9, 4), np.float32)).tolist() == [[8.0] * 3] * 9
    assert engine.graphs == 2 and len(sessions) == 1
    engine.close()


def test_who_handles_an_error_holds_no_session_by_it(graph: Path) -> None:
    sessions: list[weakref.ref[Recorded]] = []

    def recorded() -> Recorded:
        one = Recorded(open_session(graph, threads=1)._session)
        one.fails = {"15"} if not sessions else set()
        sessions.append(weakref.ref(one))
        return one

    engine = BoundEngine(
        recorded, "CPUExecutionProvider", buffers=DriverBuffers("cpu"), graphs=True
    )
    try:
        engine.run(np.ones((1, 4), np.float32))
    except EngineError as exc:
        assert "failed during capture" in str(exc)
        gc.collect()
        assert sessions[0]() is None, "its memory is needed by the next one"
        assert engine.run(np.ones((1, 4), np.float32)).tolist() == [[8.0] * 3]
    assert len(sessions) == 2
    engine.close()


def test_engines_of_all_threads_are_opened_and_run_in_one(graph: Path) -> None:
    """CUDA refuses memory to other threads while one captures a graph."""
    sessions: list[Recorded] = []
    at: set[int] = set()

    def recorded() -> Recorded:
        at.add(threading.get_ident())
        sessions.append(Recorded(open_session(graph, threads=1)._session))
        return sessions[-1]

    def served(rows: int) -> bool:
        engine = BoundEngine(
            recorded, "CPUExecutionProvider", buffers=DriverBuffers("cpu"), graphs=True
        )
        found = [engine.run(np.full((rows, 4), n, np.float32)) for n in (1, 2)]
        engine.close()
        return [one.tolist() for one in found] == [[[8.0 * n] * 3] * rows for n in (1, 2)]

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(served, range(1, 33)))
    assert len(sessions) == 32
    assert len(at) == 1
    assert {thread for one in sessions for thread in one.threads} == at
    assert threading.get_ident() not in at


def test_threads_do_not_read_each_others_buffers(graph: Path) -> None:
    """Both have one shape, and so the same buffers; a slow run leaves time to mix them up."""
    session = open_session(graph, threads=1)._session

    class Slow(Recorded):
        def run_with_iobinding(self, binding: Any, options: Any) -> None:
            time.sleep(0.002)
            self._session.run_with_iobinding(binding, options)
            time.sleep(0.002)

    engine = BoundEngine(
        lambda: Slow(session), "CPUExecutionProvider", buffers=DriverBuffers("cpu")
    )

    def found(value: int) -> bool:
        rows = engine.run(np.full((2, 4), value, np.float32))
        return rows.tolist() == [[8.0 * value] * 3] * 2

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(found, range(80)))


def test_the_buffers_of_a_run_that_failed_are_given_back(graph: Path) -> None:
    session = open_session(graph, threads=1)._session

    class Full(Recorded):
        def run_with_iobinding(self, binding: Any, options: Any) -> None:
            raise RuntimeError("CUDA failure 2: out of memory")

    engine = BoundEngine(
        lambda: Full(session), "CPUExecutionProvider", buffers=DriverBuffers("cpu")
    )
    with pytest.raises(EngineError, match="out of memory at batch 2"):
        engine.run(np.ones((2, 4), np.float32))
    assert not engine._latest and not engine._kept
