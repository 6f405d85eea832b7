"""What a runtime offers, and how it is found.

A runtime is one `Runtime` record, in a file of `runtimes/` that is named after it, or in an
installed package (see `registry`). Runtimes of one library share the module that uses it.

Nothing in here keeps time: only `bench.cost` holds a clock. What an engine may offer beyond
`Engine`, looked for by name:

- ``provider``: what really ran, such as "CUDAExecutionProvider"
- ``run_phases(array)``: as `run`, and the `Phases` by the GPU's events; absent where the
  runtime cannot tell them apart
- ``run_features(array)``: as `run`, and what an image tower computed before its projection; the
  embeddings once more where the tower has no second output
- ``streams``: how many threads may be in `run` at once; absent where only one may
- ``min_tokens``: the shortest text that it takes; shorter ones are padded
- ``token_buckets``: the lengths that texts are padded to, since every shape costs it memory or time
- ``batch_buckets``: the batches that whoever serves fills up to, for the same reason; a measurement
  gives it the batch that is measured
- ``max_batch``: the most inputs that it takes at once
- ``allocated_bytes()``: the most device memory held so far, by the runtime's own account
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from clipperf.errors import EngineError
from clipperf.nouns.artifact import Artifact
from clipperf.nouns.cell import Engine, EngineRequest
from clipperf.registry import Registry

SHORTEST_TOKENS = 3
"""Begin and end of an empty text, and one more: behind a begin that is a constant a single token
would be multiplied in another order. An engine that needs longer input has `min_tokens`."""

TOKEN_BUCKETS = (8, 16, 24, 32, 48, 77)
"""Ascending. Texts cut to their own ends come in any length, and a graph replays one alone."""

BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
"""Ascending. Calls bring any number of inputs, and a graph replays one alone. Of captions, 1 to 32
a call in six lengths, a cache of 16 graphs serves 99 % of the runs so and 47 % without, for 1.4
times the rows (`tests/serve/test_texts.py`)."""


USUAL_BATCHES = (1, 8, 64)
"""The smallest batch, the one to tune for and the largest of engines that are built for a range,
where nobody says."""

OUT_OF_MEMORY = (
    *("out of memory", "failed to allocate", "alloc_failed", "allocation_failed", "bad_alloc"),
    "can't alloc",
)
"""What stands in the errors of libraries that found too little memory, in lower case."""


@dataclass(frozen=True)
class Availability:
    """Whether a runtime is usable on a device here; `fix` is the command that would make it."""

    usable: bool
    detail: str
    fix: str = ""


@dataclass(frozen=True)
class Runtime:
    """One way to run a tower.

    `artifact` is the runtime whose artifact it loads ("onnx", "trt"), None where it builds the
    tower from the weights itself. `devices` are those that it knows, the usual one first.
    `availability(device)` says whether it can run here, else the command that would make it; it
    imports no heavy package. `open(request)` loads one tower; it raises EngineError, or
    UnsupportedError where the runtime never could. `streams` says whether its engines can run
    several batches at once; the others take cells of one stream only. `warning(tower)` is why a
    tower that runs here may give worse embeddings than where it was made, None where it does not.
    `by_handle` says that all it reads of an artifact is `request.file` and what lies beside it,
    `features` that its engines have ``run_features``.
    """

    name: str
    artifact: str | None
    precisions: tuple[str, ...]
    devices: tuple[str, ...]
    availability: Callable[[str], Availability]
    open: Callable[[EngineRequest], Engine]
    streams: bool = False
    warning: Callable[[Artifact], str | None] = lambda tower: None
    by_handle: bool = False
    features: bool = False


REPLACED = "{path} was replaced or removed: open the model again"
"""What is said where a tower cannot be opened a second time."""


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error, of a library's own or of Python's, says that memory was too small."""
    said = str(error).lower()
    return isinstance(error, MemoryError) or any(sign in said for sign in OUT_OF_MEMORY)


def failed_run(library: str, error: Exception, batch: int, reason: str) -> EngineError:
    """A library's error in a run, as `reason` tells it; too little memory in users' own words."""
    if is_out_of_memory(error):
        return EngineError(f"{library}: out of memory at batch {batch}; use a smaller --batch")
    return EngineError(f"{library}: {reason}")


def verdict(problems: Iterable[tuple[str, str]], detail: str) -> Availability:
    """Usable where there is no problem, else all of them in one line with their remedies.

    A problem is what is missing, and the command that mends it.
    """
    found = list(problems)
    if not found:
        return Availability(True, detail)
    remedies = dict.fromkeys(remedy for _, remedy in found)
    return Availability(False, "; ".join(text for text, _ in found), "; ".join(remedies))


RUNTIMES: Registry[Runtime] = Registry(
    "runtime",
    room="clipperf.engines.runtimes",
    first=("torch", "torch-compile"),
    hidden=("simulated",),
)
"""Every runtime; "simulated", which has exactly known cost and tests the harness, is for tests."""

get, names = RUNTIMES.get, RUNTIMES.names
