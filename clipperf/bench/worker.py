"""The child of the harness: one engine in one fresh process.

Run as ``python -m clipperf.bench.worker``; `system.protocol` says how it is spoken to. The worker
greets with its bare RSS. Its operations:

=========  =====================================  ==========================================
operation  fields                                 answer
=========  =====================================  ==========================================
open       request, text_ids                      load_s, rss_load_peak_bytes, rss_source,
                                                  provider
memory     runs                                   rss_run_peak_bytes, vram_allocated_bytes
shared                                            shared_bytes
first                                             first_run_s
block      sleep_s, warmup, calls, min_s, max_s   samples
load       seconds                                runs, seconds
phases     warmup, runs, max_s                    phases_s
pixels     paths, spec                            decode_s, resize_s
feed       paths, spec, threads, calls            samples of (wait_s, engine_s)
sizes                                             sizes
offer      scenario, serving, rate_per_s          trial
=========  =====================================  ==========================================

It ends with the first operation that fails.
"""

from __future__ import annotations

import sys

# Imported here because `from_json` puts it off until first use, and its RAM would then be charged
# to whichever engine is opened.
import msgspec  # noqa: F401
import numpy as np

from clipperf.bench import cost, meters
from clipperf.bench.inputs import make_inputs
from clipperf.engines import contract
from clipperf.errors import EngineError, UnsupportedError
from clipperf.nouns.cell import Engine, EngineRequest
from clipperf.nouns.model import TextIds
from clipperf.serialize import from_json, to_json
from clipperf.system.protocol import Fields, Tell, serve


class Session:
    """What the worker holds between operations."""

    def __init__(self) -> None:
        self.request: EngineRequest | None = None
        self.engine: Engine | None = None
        self.inputs: np.ndarray | None = None
        self.peak = meters.PhasePeak()

    def open(self, fields: Fields, tell: Tell) -> Fields:
        """Load the engine; its seconds include importing the runtime, as a cold start does."""
        request = from_json(EngineRequest, fields["request"])
        self.request = request
        self.peak.start()

        def load() -> Engine:
            return contract.get(request.cell.runtime).open(request)

        self.engine, load_s = cost.timed(load)
        peak = self.peak.take()
        streams = getattr(self.engine, "streams", 1)
        if request.cell.streams > streams:
            raise UnsupportedError(f"{request.cell.label}: runs at most {streams} batches at once")
        forbid_torch(request.cell.runtime)
        self.inputs = make_inputs(request, from_json(TextIds, fields["text_ids"]))
        return {
            "load_s": load_s,
            "rss_load_peak_bytes": peak,
            "rss_source": self.peak.source,
            "provider": getattr(self.engine, "provider", None),
        }

    def memory(self, fields: Fields, tell: Tell) -> Fields:
        """The RAM peak of some runs, apart from that of loading; VRAM as the runtime counts it."""
        engine, inputs = self._opened()
        self.peak.start()
        for _ in range(fields["runs"]):
            output = engine.run(inputs)
        peak = self.peak.take()
        self._check(output)
        account = getattr(engine, "allocated_bytes", None)
        return {
            "rss_run_peak_bytes": peak,
            "vram_allocated_bytes": None if account is None else account(),
        }

    def shared(self, fields: Fields, tell: Tell) -> Fields:
        """What of this process's RAM others have, too, while all of them hold their engines."""
        return {"shared_bytes": meters.shared_bytes()}

    def first(self, fields: Fields, tell: Tell) -> Fields:
        """The first run, which pays for what the runtime puts off until then."""
        engine, inputs = self._opened()
        output, first_run_s = cost.timed(lambda: engine.run(inputs))
        self._check(output)
        return {"first_run_s": first_run_s}

    def block(self, fields: Fields, tell: Tell) -> Fields:
        """One block of timed calls, in as many threads as the cell has streams."""
        engine, inputs = self._opened()
        assert self.request is not None
        samples = cost.time_block(
            engine.run,
            inputs,
            warmup=fields["warmup"],
            calls=fields["calls"],
            min_s=fields["min_s"],
            max_s=fields["max_s"],
            sleep_s=fields["sleep_s"],
            streams=self.request.cell.streams,
        )
        return {"samples": samples}

    def load(self, fields: Fields, tell: Tell) -> Fields:
        """Runs without pause, while the parent has the GPU's power read."""
        engine, inputs = self._opened()
        assert self.request is not None
        streams = self.request.cell.streams
        runs, seconds = cost.run_for(engine.run, inputs, fields["seconds"], streams)
        return {"runs": runs, "seconds": seconds}

    def phases(self, fields: Fields, tell: Tell) -> Fields:
        """Copies and compute apart; None where the engine cannot tell them apart."""
        engine, inputs = self._opened()
        run = getattr(engine, "run_phases", None)
        if run is None:
            return {"phases_s": None}
        return {
            "phases_s": cost.time_phases(
                run, inputs, fields["warmup"], fields["runs"], fields["max_s"]
            )
        }

    def pixels(self, fields: Fields, tell: Tell) -> Fields:
        """What an image's pixels cost while nothing else runs."""
        from clipperf.bench import file_runs  # Pillow's RAM is none of a tower's
        from clipperf.inputs.preprocess_spec import PreprocessSpec

        assert self.request is not None
        spec = from_json(PreprocessSpec, fields["spec"])
        decode_s, resize_s = file_runs.pixel_costs(fields["paths"], spec, self.request.cell.input)
        return {"decode_s": decode_s, "resize_s": resize_s}

    def feed(self, fields: Fields, tell: Tell) -> Fields:
        """Batches of files, decoded and resized beside the engine."""
        from clipperf.bench import file_runs
        from clipperf.inputs.preprocess_spec import PreprocessSpec

        engine, _ = self._opened()
        assert self.request is not None
        cell, spec = self.request.cell, from_json(PreprocessSpec, fields["spec"])
        samples = file_runs.feed(
            engine, fields["paths"], spec, cell.input, cell.batch, fields["threads"],
            fields["calls"],
        )  # fmt: skip
        return {"samples": samples}

    def sizes(self, fields: Fields, tell: Tell) -> Fields:
        """Run twice in sizes of batches that are to come: powers of two, and the whole.

        On a GPU the second run of a shape makes its graph.
        """
        engine, inputs = self._opened()
        sizes = [2**n for n in range(len(inputs).bit_length()) if 2**n < len(inputs)]
        for size in (*sizes, len(inputs)):
            for _ in range(2):
                engine.run(inputs[:size])
        return {"sizes": len(sizes) + 1}

    def offer(self, fields: Fields, tell: Tell) -> Fields:
        """One test of LoadGen's."""
        from clipperf.bench import loadgen  # none of a tower's either
        from clipperf.nouns.serving import Serving

        engine, inputs = self._opened()
        assert self.request is not None
        trial = loadgen.offer(
            engine.run, inputs, fields["scenario"], from_json(Serving, fields["serving"]),
            fields["rate_per_s"], self.request.cell.streams, tell,
        )  # fmt: skip
        return {"trial": to_json(trial)}

    def close(self) -> None:
        """Close the engine, if one is open."""
        if self.engine is not None:
            self.engine.close()

    def _opened(self) -> tuple[Engine, np.ndarray]:
        if self.engine is None or self.inputs is None:
            raise EngineError("no engine is open")
        return self.engine, self.inputs

    def _check(self, output: np.ndarray) -> None:
        """A wrong answer has no speed worth reporting."""
        assert self.request is not None
        cell = self.request.cell
        expected = (cell.batch, self.request.spec.embed_dim)
        if output.shape != expected or output.dtype != np.float32:
            raise EngineError(
                f"{cell.label}: returned {output.dtype} {list(output.shape)}, "
                f"expected float32 {list(expected)}"
            )
        if not np.isfinite(output).all():
            raise EngineError(f"{cell.label}: returned embeddings that are not finite")
        forbid_torch(cell.runtime)


def forbid_torch(runtime: str) -> None:
    """Refuse to report the RAM of a deployment runtime that dragged torch in."""
    if contract.get(runtime).artifact is not None and "torch" in sys.modules:
        raise EngineError(
            f"the {runtime} worker imported torch, which costs several times the RAM of a tower; "
            f"its figures would be wrong"
        )


def main() -> int:
    """Serve the parent with one session."""
    session = Session()
    return serve(
        {
            "open": session.open,
            "memory": session.memory,
            "shared": session.shared,
            "first": session.first,
            "block": session.block,
            "load": session.load,
            "phases": session.phases,
            "pixels": session.pixels,
            "feed": session.feed,
            "sizes": session.sizes,
            "offer": session.offer,
        },
        greeting=lambda: {"rss_bare_bytes": meters.rss_bytes()},
        at_end=session.close,
    )


if __name__ == "__main__":
    sys.exit(main())
