"""A running server in the place of an engine: `--endpoint` of `clipperf profile`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Optional

import typer

from clipperf.commands.options import names, numbers, sides
from clipperf.commands.serving_options import CLOSED
from clipperf.errors import UsageError
from clipperf.nouns.cell import CLOSED_LOOP
from clipperf.nouns.serving import OFFLINE, SERVER, SINGLE_STREAM, Serving

if TYPE_CHECKING:
    from clipperf.bench.endpoints import Target
    from clipperf.nouns.model import Sizes

USUAL_CONNECTIONS = {SINGLE_STREAM: 1, OFFLINE: 4, SERVER: 64}
MOST_CONNECTIONS = 1024

EndpointUrl = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        "--endpoint",
        metavar="URL",
        help="Measure what a running server serves, by --scenario server, single-stream or "
        "offline: http://HOST:8000. A bearer token is taken from CLIPPERF_ENDPOINT_TOKEN.",
    ),
]
ProtocolName = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        "--protocol",
        help="With --endpoint: kserve (KServe v2, Triton) or openai (/v1/embeddings). Default: "
        "the server is asked.",
    ),
]
ServedAs = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        "--served-as",
        metavar="NAMES",
        help="With --endpoint: what the server calls the model, a name a tower, with commas. "
        "Default: MODEL, else clip_image and clip_text, else all that fit.",
    ),
]
Connections = Annotated[
    Optional[int],  # noqa: UP045
    typer.Option(
        "--connections",
        help="With --endpoint: requests that may be under way at once. Default: 64 with --scenario "
        "server, 4 with offline.",
    ),
]


def refuse_without(endpoint: str | None, **given: object) -> None:
    """Refuse options that are for a server where none is named; raises UsageError."""
    alone = next((name for name, value in given.items() if value is not None), None)
    if endpoint is None and alone is not None:
        raise UsageError(f"--{alone.replace('_', '-')} is for a server: add --endpoint URL")


def endpoint_target(
    url: str,
    models: list[str] | None,
    pretrained: str | None,
    sizes: Sizes,
    scenario: str,
    batches: tuple[int, ...],
    serving: Serving | None,
    tower: str,
    tokens: str | None,
    from_files: str | None,
    skip_unreadable: bool,
    protocol: str | None,
    served_as: str | None,
    connections: int | None,
    ours: dict[str, object],
) -> Target:
    """What of a server is measured; `ours` are options that say how an engine here is run.

    Raises:
        UsageError: options that do not go with a server, or not with each other.
        MissingDependencyError: the HTTP client or LoadGen is not installed.
    """
    from clipperf.bench import loadgen
    from clipperf.bench.endpoints import Target
    from clipperf.bench.file_work import file_work
    from clipperf.engines import http

    alone = next((name for name, value in ours.items() if value), None)
    if alone is not None:
        raise UsageError(f"{alone} is for engines in this process: leave it out with --endpoint")
    if serving is None:
        name = CLOSED if scenario == CLOSED_LOOP else scenario
        raise UsageError(
            f"--endpoint is not measured by --scenario {name}: add --scenario {SERVER} "
            f"--slo-ms 50, {SINGLE_STREAM} or {OFFLINE}"
        )
    if len(models or ()) > 1:
        raise UsageError("--endpoint measures one model: name one MODEL")
    if not models and (pretrained is not None or sizes.image_px or sizes.context_tokens):
        raise UsageError("--pretrained and sizes need a MODEL to go with them")
    asked = sides(tower)
    if from_files is not None and "image" not in asked:
        raise UsageError("--from-files is for image towers: leave out --tower text")
    count = USUAL_CONNECTIONS[scenario] if connections is None else connections
    if not 1 <= count <= MOST_CONNECTIONS:
        raise UsageError(f"--connections {count}: give a number from 1 to {MOST_CONNECTIONS}")
    if scenario == SINGLE_STREAM and count > 1:
        raise UsageError(f"--scenario {scenario} asks for one input at a time: no --connections")
    base = http.base_url(url)
    http.check()
    loadgen.check()
    return Target(
        url=base,
        sides=asked,
        batches=batches,
        scenario=scenario,
        serving=serving,
        connections=count,
        protocol=protocol,
        model=models[0] if models else "",
        pretrained=pretrained,
        sizes=sizes,
        served_as=names(served_as, "--served-as") if served_as else (),
        tokens=numbers(tokens, "--tokens") if tokens else None,
        files=None
        if from_files is None
        else file_work(from_files, ("exact",), skip_unreadable=skip_unreadable),
    )
