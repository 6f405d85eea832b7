"""The child of the harness that asks a server: connections and inputs in one fresh process.

Run as ``python -m clipperf.bench.endpoint_worker``; as `bench.worker`, whose operations it has as
far as a server can do them:

=========  =====================================  ==========================================
operation  fields                                 answer
=========  =====================================  ==========================================
open       request, text_ids, paths, answer_s     provider
first                                             first_run_s
agree      folder                                 least_cosine, problem
block      sleep_s, warmup, calls, min_s, max_s,  samples, streams
           streams
offer      scenario, serving, rate_per_s          trial
=========  =====================================  ==========================================
"""

from __future__ import annotations

import contextlib
import dataclasses
import sys
import time
from collections.abc import Callable

import numpy as np

from clipperf.bench import cost, loadgen
from clipperf.bench.endpoint_inputs import offered
from clipperf.engines.endpoint import open_endpoint
from clipperf.engines.patience import patiently
from clipperf.errors import ClipperfError, EngineError, RefusedError
from clipperf.nouns.cell import Engine, EngineRequest
from clipperf.nouns.endpoint import Takes
from clipperf.nouns.model import TextIds
from clipperf.nouns.serving import Serving, Trial
from clipperf.serialize import from_json, to_json
from clipperf.system.protocol import Fields, Tell, serve

COMPARED = 8
"""Vectors that are held against the artifact's."""

READINGS = 20
BETWEEN_S = 0.05


def settled(read: Callable[[], dict[int, int] | None]) -> dict[int, int] | None:
    """What a server has counted once two readings agree: it counts after it has answered."""
    found = read()
    for _ in range(READINGS if found is not None else 0):
        time.sleep(BETWEEN_S)
        again = read()
        if again == found:
            break
        found = again
    return found


class Session:
    """What the worker holds between operations."""

    def __init__(self) -> None:
        self.request: EngineRequest | None = None
        self.engine: Engine | None = None
        self.inputs: np.ndarray | None = None

    def open(self, fields: Fields, tell: Tell) -> Fields:
        """Make the inputs and what sends them; nothing is sent yet."""
        self.request = from_json(EngineRequest, fields["request"])
        self.inputs = offered(self.request, from_json(TextIds, fields["text_ids"]), fields["paths"])
        self.engine = open_endpoint(self.request, fields["answer_s"])
        return {"provider": getattr(self.engine, "provider", None)}

    def first(self, fields: Fields, tell: Tell) -> Fields:
        """The first answer, connecting included, but for tries that the server refused."""
        engine, inputs, request = self._opened()
        batch = inputs[: request.cell.batch]
        _, first_run_s = patiently(lambda: cost.timed(lambda: engine.run(batch)))
        return {"first_run_s": first_run_s}

    def agree(self, fields: Fields, tell: Tell) -> Fields:
        """The lowest cosine between the server's vectors and those of an artifact in a folder."""
        from clipperf.serve.load import load  # with a runtime, which nobody else needs here

        engine, inputs, request = self._opened()
        assert request.endpoint is not None
        some = inputs[: min(COMPARED, len(inputs))]
        if some.dtype == np.float32:  # within the pixels of every model
            some = some.clip(-1, 1)
        try:
            with load(fields["folder"]) as model:
                encode: dict[Takes, Callable[..., np.ndarray]] = {
                    "image files": model.encode_images,
                    "texts": model.encode_texts,
                    "pixels": model.encode_pixels,
                    "tokens": model.encode_tokens,
                }
                given = some.tolist() if some.dtype == object else some
                own = encode[request.endpoint.takes](given, normalize=True)
        except ClipperfError as exc:  # which says nothing of the server
            return {"least_cosine": None, "problem": str(exc)}
        theirs = np.concatenate([_run(engine, some[i : i + 1]) for i in range(len(some))])
        if theirs.shape != own.shape:
            raise EngineError(
                f"{request.endpoint.label}: gives vectors of {theirs.shape[1]} numbers, those of "
                f"{request.spec.id} have {own.shape[1]}: is it the model that you named?"
            )
        lengths = np.linalg.norm(theirs, axis=1, keepdims=True)
        cosines = (theirs / np.maximum(lengths, 1e-12) * own).sum(axis=1)
        return {"least_cosine": float(cosines.min()), "problem": None}

    def block(self, fields: Fields, tell: Tell) -> Fields:
        """One block of timed calls, over as many connections as asked for.

        Over fewer where the server has too much to do with them; over one it is asked again.
        """
        streams: int = fields["streams"]
        while streams > 1:
            with contextlib.suppress(RefusedError):
                return self._block(fields, streams)
            streams //= 2
        return self._block(fields, 1)

    def _block(self, fields: Fields, streams: int) -> Fields:
        engine, inputs, request = self._opened()
        samples = cost.time_block(
            engine.run if streams > 1 else lambda batch: _run(engine, batch),
            inputs[: request.cell.batch],
            warmup=fields["warmup"],
            calls=fields["calls"],
            min_s=fields["min_s"],
            max_s=fields["max_s"],
            sleep_s=fields["sleep_s"],
            streams=streams,
        )
        return {"samples": samples, "streams": streams}

    def offer(self, fields: Fields, tell: Tell) -> Fields:
        """One test of LoadGen's, with the batches that the server ran meanwhile."""
        engine, inputs, request = self._opened()
        batches = getattr(engine, "batches", lambda: None)
        before = settled(batches)
        trial: Trial = loadgen.offer(
            engine.run, inputs, fields["scenario"], from_json(Serving, fields["serving"]),
            fields["rate_per_s"], request.cell.streams, tell, request.cell.batch,
        )  # fmt: skip
        after = settled(batches)
        if before is not None and after is not None:
            grown = {size: count - before.get(size, 0) for size, count in after.items()}
            ran = tuple(sorted((size, count) for size, count in grown.items() if count > 0))
            trial = dataclasses.replace(trial, server_batches=ran)
        return {"trial": to_json(trial)}

    def close(self) -> None:
        """Close the connections, if there are any."""
        if self.engine is not None:
            self.engine.close()

    def _opened(self) -> tuple[Engine, np.ndarray, EngineRequest]:
        if self.engine is None or self.inputs is None or self.request is None:
            raise EngineError("no server was named")
        return self.engine, self.inputs, self.request


def _run(engine: Engine, batch: np.ndarray) -> np.ndarray:
    """Vectors of a batch, asked for again while the server refuses."""
    return patiently(lambda: engine.run(batch))


def main() -> int:
    """Serve the parent with one session."""
    session = Session()
    return serve(
        {
            "open": session.open,
            "first": session.first,
            "agree": session.agree,
            "block": session.block,
            "offer": session.offer,
        },
        at_end=session.close,
    )


if __name__ == "__main__":
    sys.exit(main())
