"""How a cell begins that a server runs: connect, compare, see how much it does."""

from __future__ import annotations

import dataclasses

from clipperf.bench.jobs import Event, Job, OnEvent, Prepared
from clipperf.bench.passes import Turn
from clipperf.engines.http import ANSWER_S
from clipperf.errors import EngineError

WARM_CONNECTIONS = 16
"""Over as many at most is it seen how much a server does: a slow one would take minutes for all."""

LEAST_COSINE = 0.9
"""Below lies no other way to compute or to resize, but another model (the parity gate asks int8 for
0.99; a browser's resizing gave 0.98)."""


def begin(turn: Turn, prepared: Prepared, job: Job, on_event: OnEvent) -> int:
    """Have the server answer once, and compare its vectors where there is an artifact to.

    Returns over how many connections its speed is to be looked at.

    Raises:
        EngineError: the vectors are another model's; and whatever speaks against an answer.
    """
    request = turn.request
    opened = turn.ask(
        "open",
        request=request,
        text_ids=job.text_ids,
        paths=() if job.files is None else job.files.paths,
        answer_s=min(ANSWER_S, job.settings.timeout_s),
    )
    turn.row = dataclasses.replace(turn.row, provider=opened["provider"])
    first_run_s = turn.ask("first")["first_run_s"]
    turn.row = dataclasses.replace(turn.row, first_run_s=first_run_s)
    if prepared.compared is not None:
        _compare(turn, prepared.compared, on_event)
    return min(request.cell.streams, WARM_CONNECTIONS)


def _compare(turn: Turn, folder: str, on_event: OnEvent) -> None:
    """Note how near the server's vectors come to an artifact's."""
    endpoint = turn.row.endpoint
    assert endpoint is not None
    found = turn.ask("agree", folder=folder)
    if found["problem"] is not None:
        on_event(Event("note", f"{endpoint.label}: vectors not compared: {found['problem']}"))
        return
    cosine = found["least_cosine"]
    turn.row = dataclasses.replace(
        turn.row, endpoint=dataclasses.replace(endpoint, least_cosine=cosine)
    )
    if cosine < LEAST_COSINE:
        raise EngineError(
            f"{endpoint.label}: its vectors are not those of {turn.request.spec.id}: the lowest "
            f"cosine to the artifact {folder} is {cosine:.3f}; name the model that is served"
        )
