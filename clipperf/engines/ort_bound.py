"""ONNX Runtime with its input and output on the GPU, and CUDA graphs where a tower allows them."""

from __future__ import annotations

import sys
import traceback
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from clipperf.engines import contract
from clipperf.engines.gpu_thread import on_gpu_thread
from clipperf.engines.onnxruntime import library, run_error
from clipperf.engines.ort_buffers import Buffer, Buffers, DriverBuffers
from clipperf.errors import EngineError

GRAPHS = 16
"""So many input shapes, the first that come, run as CUDA graphs, which end with the session."""

SHAPES = 8
"""So many of the other shapes, the latest, keep buffers of their own on the device."""

Kind = tuple[tuple[int, ...], np.dtype[Any]]
"""An input's shape and type."""

NO_GRAPH = "-1"
"""Stands for a graph's number where a run is not to be captured."""

NOT_BEGUN = ("invalid dimensions", "Unexpected input data type")
"""Stand in ONNX Runtime's errors for inputs that do not fit, with which nothing was run."""


@dataclass(frozen=True)
class _Bound:
    """What is kept of an input's shape: its buffers, bound, and how the session is to run it."""

    binding: Any
    given: Buffer
    left: Buffer
    options: Any


class BoundEngine:
    """A session whose input and output lie on the device, one pair of buffers per shape.

    With `graphs` the session was opened with the CUDA provider's `enable_cuda_graph`, which
    captures the second run of a shape and replays it from then on: a tower is some hundred
    kernels, and launching them takes longer than small batches do. A run that fails may leave such
    a session in the midst of a capture, for good: then `open_session` opens another one for the
    next run. All of it happens in one thread (see `gpu_thread`).
    """

    def __init__(
        self,
        open_session: Callable[[], Any],
        provider: str,
        buffers: Buffers | None = None,
        min_tokens: int = contract.SHORTEST_TOKENS,
        graphs: bool = False,
        max_batch: int = sys.maxsize,
    ) -> None:
        self.min_tokens, self.max_batch = min_tokens, max_batch
        self.token_buckets = contract.TOKEN_BUCKETS if graphs else ()
        self.batch_buckets = contract.BATCH_BUCKETS if graphs else ()
        self._open = open_session
        self._session = on_gpu_thread(open_session)
        self._closed = self._begun = False
        self._buffers = buffers or DriverBuffers()
        self.takes_graphs = graphs
        self.graphs_left = GRAPHS if graphs else 0
        self._kept: dict[Kind, _Bound] = {}
        self._plain: set[Kind] = set()
        self._latest: OrderedDict[Kind, _Bound] = OrderedDict()
        self.provider = provider

    @property
    def graphs(self) -> int:
        """How many input shapes run as a CUDA graph now."""
        return len(self._kept)

    def run(self, array: np.ndarray) -> np.ndarray:
        """Embed a batch: copies it in, runs, and returns float32 [batch, embed_dim] copied out."""
        return on_gpu_thread(partial(self._run, array))

    def _run(self, array: np.ndarray) -> np.ndarray:
        if self._closed:
            raise EngineError("this engine is closed")
        if self._session is None:
            self._session = self._open()
        kind, self._begun = (array.shape, array.dtype), False
        try:
            return self._computed(array, kind)
        except Exception as exc:
            # Who handles the error must not hold by it a session that is to go.
            traceback.clear_frames(exc.__traceback__)
            self._failed(kind, self._begun and not any(sign in str(exc) for sign in NOT_BEGUN))
            raise run_error(exc, len(array)) from exc

    def _computed(self, array: np.ndarray, kind: Kind) -> np.ndarray:
        bound = self._kept.get(kind) or self._bound(kind)
        self._buffers.put(bound.given, array)
        self._begun = True
        self._session.run_with_iobinding(bound.binding, bound.options)
        return self._buffers.take(bound.left, bound.binding)

    def _failed(self, kind: Kind, begun: bool) -> None:
        """Leave nothing behind that a failed run may have spoiled, if it had `begun`."""
        if begun and self.takes_graphs:
            if kind in self._kept:  # a failed capture is not tried again
                self._plain.add(kind)
            self._free()
            self.graphs_left = GRAPHS
            return
        self._kept.pop(kind, None)
        self._latest.pop(kind, None)  # memory that other shapes may lack

    def _bound(self, kind: Kind) -> _Bound:
        """The buffers of a shape: with a graph's number while there are any left."""
        if self.graphs_left and kind not in self._plain:
            self._kept[kind] = self._bind(kind, str(self.graphs_left - 1))
            self.graphs_left -= 1
            return self._kept[kind]
        if kind not in self._latest:
            while len(self._latest) >= SHAPES:
                self._latest.popitem(last=False)
            self._latest[kind] = self._bind(kind, NO_GRAPH)
        self._latest.move_to_end(kind)
        return self._latest[kind]

    def _bind(self, kind: Kind, graph: str) -> _Bound:
        shape, dtype = kind
        entry, exit_ = self._session.get_inputs()[0], self._session.get_outputs()[0]
        given = self._buffers.new(shape, dtype)
        left = self._buffers.new((shape[0], *exit_.shape[1:]), np.dtype(np.float32))
        binding = self._session.io_binding()
        binding.bind_ortvalue_input(entry.name, given.value)
        binding.bind_ortvalue_output(exit_.name, left.value)
        options = None
        if self.takes_graphs:
            options = library().RunOptions()
            options.add_run_config_entry("gpu_graph_id", graph)
        return _Bound(binding, given, left, options)

    def _free(self) -> None:
        self._kept.clear()
        self._latest.clear()
        self._session = None

    def close(self) -> None:
        """Free the buffers and the session; safe to call twice."""
        self._closed = True
        on_gpu_thread(self._free)
