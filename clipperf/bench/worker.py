"""The child of the harness: one engine in one fresh process, driven line by line.

Run as ``python -m clipperf.bench.worker``. The protocol is one JSON object a line, on what were
standard input and output when the process started. Both are moved to descriptors of their own
first: a library that prints lands in standard error, one that reads finds nothing.

The worker greets with its bare RSS, then answers each command with one line:

=========  =====================================  ==========================================
command    fields                                 answer
=========  =====================================  ==========================================
open       request, text_ids, seed                load_s, rss_load_peak_bytes, rss_source,
                                                  provider
memory     runs                                   rss_run_peak_bytes, rss_source,
                                                  vram_allocated_bytes
first                                             first_run_s
block      sleep_s, warmup, calls, min_s, max_s   samples
load       seconds                                runs, seconds
phases     warmup, runs, max_s                    phases_s
stop                                              (none; the process ends)
=========  =====================================  ==========================================

Every answer holds ``status``: "ok", or "failed" or "unsupported" with ``error``, after which the
worker ends. It also ends at the end of its input, so it never outlives its parent.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from typing import Any, TextIO

import numpy as np

from clipperf.bench import cost, meters
from clipperf.bench.inputs import CLIP_IDS, TextIds, make_inputs
from clipperf.engines import contract
from clipperf.errors import ClipperfError, EngineError, UnsupportedError
from clipperf.nouns.cell import Cell, Engine, EngineRequest
from clipperf.nouns.model import ModelSpec
from clipperf.system.processes import die_with_parent, protocol_streams


class Session:
    """What the worker holds between commands."""

    def __init__(self) -> None:
        self.request: EngineRequest | None = None
        self.engine: Engine | None = None
        self.inputs: np.ndarray | None = None
        self.peak = meters.PhasePeak()

    def open(self, command: dict[str, Any]) -> dict[str, Any]:
        """Load the engine; its seconds include importing the runtime, as a cold start does."""
        request = request_from_json(command["request"])
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
        ids = command.get("text_ids")
        self.inputs = make_inputs(
            request, CLIP_IDS if ids is None else TextIds(**ids), command.get("seed", 0)
        )
        return {
            "load_s": load_s,
            "rss_load_peak_bytes": peak,
            "rss_source": self.peak.source,
            "provider": getattr(self.engine, "provider", None),
        }

    def memory(self, command: dict[str, Any]) -> dict[str, Any]:
        """The RAM peak of some runs, apart from that of loading; VRAM as the runtime counts it."""
        engine, inputs = self._opened()
        self.peak.start()
        for _ in range(command["runs"]):
            output = engine.run(inputs)
        peak = self.peak.take()
        self._check(output)
        account = getattr(engine, "allocated_bytes", None)
        return {
            "rss_run_peak_bytes": peak,
            "rss_source": self.peak.source,
            "vram_allocated_bytes": None if account is None else account(),
        }

    def first(self, command: dict[str, Any]) -> dict[str, Any]:
        """The first run, which pays for what the runtime puts off until then."""
        engine, inputs = self._opened()
        output, first_run_s = cost.timed(lambda: engine.run(inputs))
        self._check(output)
        return {"first_run_s": first_run_s}

    def block(self, command: dict[str, Any]) -> dict[str, Any]:
        """One block of timed calls, in as many threads as the cell has streams."""
        engine, inputs = self._opened()
        assert self.request is not None
        samples = cost.time_block(
            engine.run,
            inputs,
            warmup=command["warmup"],
            calls=command["calls"],
            min_s=command["min_s"],
            max_s=command["max_s"],
            sleep_s=command["sleep_s"],
            streams=self.request.cell.streams,
        )
        return {"samples": samples}

    def load(self, command: dict[str, Any]) -> dict[str, Any]:
        """Runs without pause, while the parent has the GPU's power read."""
        engine, inputs = self._opened()
        runs, seconds = cost.run_for(engine.run, inputs, command["seconds"])
        return {"runs": runs, "seconds": seconds}

    def phases(self, command: dict[str, Any]) -> dict[str, Any]:
        """Copies and compute apart; None where the engine cannot tell them apart."""
        engine, inputs = self._opened()
        run = getattr(engine, "run_phases", None)
        if run is None:
            return {"phases_s": None}
        return {
            "phases_s": cost.time_phases(
                run, inputs, command["warmup"], command["runs"], command["max_s"]
            )
        }

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


def request_from_json(data: dict[str, Any]) -> EngineRequest:
    """The parent's request. Not `from_json`: pydantic's RAM would be counted as ours."""
    return EngineRequest(
        cell=Cell(**data["cell"]),
        spec=ModelSpec(**data["spec"]),
        path=data["path"],
        normalized=data["normalized"],
        key=data["key"],
        cache_folder=data["cache_folder"],
    )


def serve(commands: TextIO, answers: TextIO) -> int:
    """Answer commands until "stop", the end of input, or the first failure."""
    session = Session()
    handlers: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
        "open": session.open,
        "memory": session.memory,
        "first": session.first,
        "block": session.block,
        "load": session.load,
        "phases": session.phases,
    }

    def answer(status: str, **fields: Any) -> None:
        answers.write(json.dumps({"status": status, **fields}) + "\n")
        answers.flush()

    answer("ok", pid=os.getpid(), rss_bare_bytes=meters.rss_bytes())
    for line in commands:
        command = json.loads(line)
        if command["op"] == "stop":
            break
        try:
            answer("ok", **handlers[command["op"]](command))
        except UnsupportedError as exc:
            answer("unsupported", error=str(exc))
            return 1
        except ClipperfError as exc:
            answer("failed", error=str(exc))
            return 1
        except Exception as exc:  # noqa: BLE001 - whatever a runtime raises becomes a row
            traceback.print_exc()
            answer("failed", error=f"{type(exc).__name__}: {exc}"[:2000])
            return 1
    if session.engine is not None:
        session.engine.close()
    return 0


def prefer_as_victim() -> None:
    """Tell Linux to end this process first when RAM runs out, and to leave no core file."""
    if sys.platform == "linux":
        import resource
        from contextlib import suppress
        from pathlib import Path

        with suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text("1000")
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def main() -> int:
    """Move the protocol off the standard descriptors, then serve."""
    # The parent is the one that Ctrl-C is for; it ends its workers itself.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    die_with_parent()
    prefer_as_victim()
    return serve(*protocol_streams())


if __name__ == "__main__":
    sys.exit(main())
