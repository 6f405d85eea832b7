"""What a protocol of model servers offers, and how it is found.

A protocol is one `Protocol` record, in a file of `protocols/` that is named after it, or in an
installed package (see `registry`). Its engines are as those of runtimes, but for what they are
given: an array of objects [batch] for image files (`bytes`) and texts (`str`), else what a tower
takes. Any number of threads may be in their `run` at once. Beside `Engine` one may offer, looked
for by name:

- ``batches()``: how many batches of which size the server has run so far, by its own account; None
  where it does not say
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from clipperf.engines.http import Http
from clipperf.errors import ArtifactError, EngineError, RefusedError, UsageError
from clipperf.nouns.cell import Engine, EngineRequest
from clipperf.nouns.endpoint import Endpoint
from clipperf.nouns.variant import Side
from clipperf.registry import Registry
from clipperf.text import shown


@dataclass(frozen=True)
class Wanted:
    """What of a server is to be measured: models of the `sides`, by `names` that must be served.

    `model` is what the user calls the model, which may be what the server calls it.
    """

    sides: tuple[Side, ...]
    names: tuple[str, ...] = ()
    model: str = ""


@dataclass(frozen=True)
class Found:
    """The models to measure, and why there is none of a tower, for towers that are `missing`."""

    endpoints: tuple[Endpoint, ...]
    missing: Mapping[Side, str] = field(default_factory=dict)


UNREADABLE = (ArtifactError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
"""What looking into an answer raises where it holds something else than it should."""


@dataclass(frozen=True)
class Protocol:
    """One way in which servers are asked for vectors.

    `server(http)` is the name and version of what answers, None where it does not speak this.
    `models(http, wanted, server)` are the models to measure; it raises EngineError where nothing
    fits, and need not say that a tower is missing of which it knows no more. `open(http, request)`
    is an engine for `request.endpoint`, which closes `http`.
    """

    name: str
    server: Callable[[Http], str | None]
    models: Callable[[Http, Wanted, str], Found]
    open: Callable[[Http, EngineRequest], Engine]


class Served(ABC):
    """A model of a server as an engine: what all protocols share.

    One of them says in `vectors` how it asks; what comes back is checked here.
    """

    def __init__(self, http: Http, request: EngineRequest) -> None:
        assert request.endpoint is not None
        self._http, self._asked = http, request.endpoint
        self._width = request.spec.embed_dim or self._asked.width
        self.provider, self.streams = self._asked.server, request.cell.streams

    def run(self, array: np.ndarray) -> np.ndarray:
        """Vectors of a batch; see `Engine`.

        Raises:
            RefusedError: the server has too much to do.
            EngineError: it answers with an error, with nonsense, or not at all.
        """
        where = f"{self._asked.label}: batch of {len(array)}"
        return checked(self.vectors(array, where), len(array), self._width, where)

    @abstractmethod
    def vectors(self, array: np.ndarray, where: str) -> np.ndarray:
        """What the server answers to a batch, as numbers; `where` begins its errors."""

    def close(self) -> None:
        """Close the connections."""
        self._http.close()


PROTOCOLS: Registry[Protocol] = Registry("protocol", room="clipperf.engines.protocols")


def ask(url: str, wanted: Wanted, protocol: str | None = None) -> Found:
    """The models of a server that are to be measured; without a protocol each is tried.

    Each tower that is wanted has a model or is missing, unless models were named: then it is these.

    While the server has too much to do it is asked `patience.patiently`.

    Raises:
        UsageError: there is no such protocol.
        MissingDependencyError: no HTTP client is installed.
        RefusedError: the server has too much to do.
        EngineError: nobody answers, in none of the protocols, or nothing fits.
    """
    tried = list(PROTOCOLS) if protocol is None else [PROTOCOLS.get(protocol)]
    http = Http(url, patient=True)
    refusal: RefusedError | None = None
    try:
        for each in tried:
            try:
                server = each.server(http)
            except RefusedError as exc:  # something in front of it may do so for what is not there
                server, refusal = None, exc
            if server is not None:
                return _whole(each.models(http, wanted, server), wanted, url)
    finally:
        http.close()
    if refusal is not None:
        raise refusal
    names = " nor ".join(each.name for each in tried)
    raise EngineError(
        f"{url}: what answers there speaks {'neither ' if len(tried) > 1 else 'no '}{names}"
    )


def _whole(found: Found, wanted: Wanted, url: str) -> Found:
    """With every tower that is wanted and not there as missing; none is where models were named."""
    if wanted.names or all(each.model == wanted.model for each in found.endpoints):
        return replace(found, missing={})
    gone = [s for s in wanted.sides if all(each.side != s for each in found.endpoints)]
    usual = {side: f"{url}: no model there is an {side} tower" for side in gone}
    return replace(found, missing={side: found.missing.get(side, usual[side]) for side in gone})


def open_endpoint(request: EngineRequest, answer_s: float) -> Engine:
    """An engine that has a server embed; nothing is sent yet.

    Raises:
        UsageError: there is no such protocol here.
    """
    endpoint = request.endpoint
    if endpoint is None:
        raise UsageError(f"{request.cell.label}: nobody said which server")
    http = Http(endpoint.url, request.cell.streams, answer_s)
    return PROTOCOLS.get(endpoint.protocol).open(http, request)


def pick(wanted: Wanted, served: Sequence[str], usual: Sequence[str]) -> list[str]:
    """The names of models to look at: those that are `wanted`, else what the user calls it, else
    the `usual` ones, else all that are `served`.

    Raises:
        EngineError: one that is wanted is not served.
    """
    for name in wanted.names:
        if name not in served:
            raise EngineError(f"no model {shown(name)} is served there; {listing(served)}")
    if wanted.names:
        return list(wanted.names)
    if wanted.model in served:
        return [wanted.model]
    return [name for name in usual if name in served] or list(served)


def listing(served: Sequence[str]) -> str:
    """What there is, as the end of an error."""
    return f"served are: {', '.join(map(shown, served[:20])) or 'none'}"


def checked(found: np.ndarray, rows: int, width: int | None, where: str) -> np.ndarray:
    """Vectors as float32 [rows, width].

    Raises:
        EngineError: they have another shape, or are not finite.
    """
    if found.ndim != 2 or len(found) != rows:
        shape = "x".join(map(str, found.shape))
        raise EngineError(f"{where}: answered {shape} numbers to {rows} inputs")
    if width and found.shape[1] != width:
        raise EngineError(
            f"{where}: gives vectors of {found.shape[1]} numbers, expected {width}: is it the "
            f"model that you named?"
        )
    found = np.ascontiguousarray(found, np.float32)
    if not np.isfinite(found).all():
        raise EngineError(f"{where}: returned embeddings that are not finite")
    return found
