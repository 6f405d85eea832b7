"""`clipperf profile --endpoint`: ask a server what it serves, make cells of that, measure them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from clipperf.bench.cost import Settings
from clipperf.bench.jobs import LAUNCHERS, SCENARIOS, Event, Job, OnEvent, Prepared
from clipperf.bench.plan import text_lengths
from clipperf.bench.profile import SHORTEST_TEXT, measured
from clipperf.engines import http
from clipperf.engines.endpoint import PROTOCOLS, Wanted, ask
from clipperf.errors import ClipperfError, UsageError
from clipperf.models import catalog, zoo
from clipperf.models.family import family_of
from clipperf.models.published import normal
from clipperf.nouns.cell import Cell, EngineRequest
from clipperf.nouns.endpoint import REMOTE, Endpoint, Takes
from clipperf.nouns.from_files import FileWork
from clipperf.nouns.model import CLIP_IDS, OWN_SIZES, ModelSpec, Sizes, TextIds
from clipperf.nouns.result import ResultFile
from clipperf.nouns.serving import Serving
from clipperf.nouns.variant import Side
from clipperf.serve import stored
from clipperf.system import store
from clipperf.system.targets import existing
from clipperf.text import shown

UNASKED = "endpoint"
"""The runtime of a cell whose server has not said what it speaks."""

USUAL_PX, USUAL_TOKENS = 224, 77
"""Of models that nothing here knows: as of most CLIPs."""


@dataclasses.dataclass(frozen=True)
class Target:
    """What to measure of a server.

    `url` is as `http.base_url` gives it, `protocol` None where the server is to be asked, `model`
    what the user calls the model ("" for whatever is served), with its `pretrained` and `sizes`,
    and `served_as` what the server calls it, a name a tower. Of `connections` there are as many at
    once, and texts have each of `tokens`, by default the model's context.
    """

    url: str
    sides: tuple[Side, ...]
    batches: tuple[int, ...]
    scenario: str
    serving: Serving
    connections: int
    protocol: str | None = None
    model: str = ""
    pretrained: str | None = None
    sizes: Sizes = OWN_SIZES
    served_as: tuple[str, ...] = ()
    tokens: tuple[int, ...] | None = None
    files: FileWork | None = None

    @property
    def rows(self) -> int:
        """How many rows come of it where a server has all towers that are asked for."""
        return len(self.batches) * sum(
            len(self.tokens or (0,)) if side == "text" else 1 for side in self.sides
        )


def profile_endpoint(
    target: Target,
    settings: Settings,
    *,
    launcher: str = "local",
    command: str = "",
    path: Path | None = None,
    on_event: OnEvent = lambda event: None,
) -> ResultFile:
    """Measure what a server serves and write the result file, as `profile` does.

    What the server cannot, down to being there at all, is a row with the reason.

    Raises:
        UsageError, MissingDependencyError: before anything is asked.
        StorageError: the result file cannot be written.
    """
    http.check()
    SCENARIOS.get(target.scenario)
    if target.protocol is not None:
        PROTOCOLS.get(target.protocol)
    if target.tokens and min(target.tokens) < SHORTEST_TEXT:
        raise UsageError(f"--tokens {min(target.tokens)}: a text has a first and a last token")
    spec = known(target)
    return measured(
        lambda tell: jobs_of(target, spec, settings, tell),
        () if spec is None else (spec,),
        LAUNCHERS.get(launcher),
        command=command,
        path=path,
        on_event=on_event,
    )


def known(target: Target) -> ModelSpec | None:
    """The model that is named, None where nothing here knows the name; it is the server's then.

    A name of the hub's counts as known where weights are given, or it has a description here:
    whoever serves a model may call it anything.

    Raises:
        UsageError: what is named is known, and something about it is missing or wrong.
    """
    name = target.model
    if not name:
        return None
    listed = normal(name.partition("::")[0].partition("@")[0])
    mine = any(normal(entry.architecture) == listed for entry in catalog.entries())
    said = target.pretrained is not None or target.sizes != OWN_SIZES
    if not mine and not said and existing(name) is None and "/" in name:
        return None
    try:
        return zoo.resolve(name, target.pretrained, target.sizes)
    except UsageError:
        if mine or said or existing(name) is not None:
            raise
        return None


def jobs_of(
    target: Target, spec: ModelSpec | None, settings: Settings, on_event: OnEvent
) -> list[Job]:
    """A job for each cell: those of one server would take its cores from each other."""
    on_event(Event("started", f"{target.url}: asked what it serves"))
    served = target.served_as
    if spec is None and target.model and not served:
        served = (target.model,)
    wanted = Wanted(target.sides, served, target.model)
    try:
        found = ask(target.url, wanted, target.protocol)
    except ClipperfError as exc:
        missing = dict.fromkeys(target.sides, str(exc))
        return [_job(target, settings, cell) for cell in _unanswered(target, spec, missing)]
    for endpoint in found.endpoints:
        said = f"{endpoint.label}: {endpoint.side}, takes {endpoint.takes}, {endpoint.encoding}"
        on_event(Event("fact", f"{said}; {endpoint.protocol}, {endpoint.server}."))
    cells = [cell for endpoint in found.endpoints for cell in _cells(target, spec, endpoint)]
    cells += _unanswered(target, spec, found.missing)
    return [_job(target, settings, cell) for cell in cells]


def _job(target: Target, settings: Settings, prepared: Prepared) -> Job:
    request = prepared.request
    assert request.endpoint is not None
    parts = (request.cell.label, request.cell.tokens, request.endpoint.label)
    return Job(
        group="/".join(str(part) for part in parts if part is not None),
        scenario=target.scenario,
        cells=(prepared,),
        settings=settings,
        text_ids=_text_ids(request.spec),
        files=target.files,
        serving=target.serving,
    )


def _text_ids(spec: ModelSpec) -> TextIds:
    return CLIP_IDS if spec.family == UNASKED else family_of(spec).text_ids(spec)


def _unanswered(
    target: Target, spec: ModelSpec | None, missing: Mapping[Side, str]
) -> list[Prepared]:
    """The cells of towers that would have been measured, each with why it was not."""
    found = []
    for side, error in missing.items():
        takes: Takes = "image files" if side == "image" else "texts"
        name = ", ".join(target.served_as)
        nowhere = Endpoint(target.url, target.protocol or UNASKED, name, takes, side)
        own = spec or _unknown(target.model or name or target.url, nowhere)
        for tokens in text_lengths(own, side, target.tokens):
            for batch in target.batches:
                cell = _cell(target, own, nowhere, batch, tokens)
                request = EngineRequest(cell, own, None, endpoint=nowhere)
                found.append(Prepared(request, error=error))
    return found


def _cells(target: Target, spec: ModelSpec | None, endpoint: Endpoint) -> list[Prepared]:
    """The cells of one model of a server's."""
    own = spec or _unknown(target.model or endpoint.model, endpoint)
    compared = None if spec is None else _artifact(spec, endpoint.side)
    lengths: Sequence[int | None] = [None]
    if endpoint.side == "text":
        # Nothing here knows how long the texts of an unknown model may be.
        fixed = _fixed(endpoint, 1) if endpoint.takes == "tokens" else None
        wanted = target.tokens or (fixed or own.context_tokens,)
        lengths = list(wanted) if spec is None else text_lengths(spec, "text", wanted)
    found = []
    for tokens in lengths:
        for batch in target.batches:
            cell = _cell(target, own, endpoint, batch, tokens)
            error = _problem(cell, spec, endpoint)
            request = EngineRequest(cell, own, None, endpoint=endpoint)
            found.append(Prepared(request, error=error, compared=compared))
    return found


def _cell(
    target: Target, spec: ModelSpec, endpoint: Endpoint, batch: int, tokens: int | None
) -> Cell:
    return Cell(
        model_id=spec.id,
        side=endpoint.side,
        runtime=endpoint.protocol,
        precision="",
        device=REMOTE,
        batch=batch,
        threads=1,
        tokens=tokens,
        streams=target.connections,
        input="uint8" if endpoint.datatype == "UINT8" else "float32",
        scenario=target.scenario,
    )


def _problem(cell: Cell, spec: ModelSpec | None, endpoint: Endpoint) -> str | None:
    """Why a cell cannot be measured, as far as the server's own words tell; None: it may."""
    if endpoint.max_batch is not None and cell.batch > endpoint.max_batch:
        most = endpoint.max_batch
        return f"{endpoint.label} takes up to {most} inputs in a request: give --batch {most}"
    size = _fixed(endpoint, 0)
    if size is not None and size > 1:  # inputs that come alone, and the last of many, are fewer
        return (
            f"{endpoint.label} takes {size} inputs in a request, never fewer, which inputs that "
            f"come one by one are: serve it with any number (-1 in its shape)"
        )
    if size is not None and cell.batch > 1:
        return f"{endpoint.label} takes one input in a request: give --batch 1"
    if endpoint.takes == "tokens" and _fixed(endpoint, 1) not in (None, cell.tokens):
        return f"{endpoint.label} takes texts of {endpoint.shape[1]} tokens: give --tokens for that"
    if spec is None:
        return None
    px = _fixed(endpoint, 2)
    if endpoint.takes == "pixels" and px not in (None, spec.image_px):
        return _other(endpoint, spec, f"takes {px} px", f"takes {spec.image_px}")
    if endpoint.width not in (None, spec.embed_dim):
        said = f"gives vectors of {endpoint.width} numbers"
        return _other(endpoint, spec, said, f"gives {spec.embed_dim}")
    return None


def _other(endpoint: Endpoint, spec: ModelSpec, theirs: str, ours: str) -> str:
    return f"{endpoint.label} {theirs}, and {spec.id} {ours}: is it the model that you named?"


def _fixed(endpoint: Endpoint, axis: int) -> int | None:
    """The size of an axis of what a model takes, None where any will do."""
    shape = endpoint.shape
    return shape[axis] if len(shape) > axis and shape[axis] > 0 else None


def _unknown(name: str, endpoint: Endpoint) -> ModelSpec:
    """A model of which nothing is known but what its server says."""
    px = _fixed(endpoint, 2) if endpoint.takes == "pixels" else None
    return ModelSpec(
        id=shown(name),
        family=UNASKED,
        architecture=name,
        pretrained="served",
        image_px=px or USUAL_PX,
        context_tokens=USUAL_TOKENS,
        embed_dim=endpoint.width or 0,
    )


def _artifact(spec: ModelSpec, side: Side) -> str | None:
    """An artifact of the store with the same tower, None where there is none."""
    try:
        folder = stored.find(spec.id)
        if folder is None:
            return None
        manifest = store.read_manifest(folder)
    except ClipperfError:
        return None
    same = manifest.spec.id == spec.id and manifest.tower(side) is not None
    return str(folder.absolute()) if same else None
