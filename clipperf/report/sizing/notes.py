"""The words beside a sizing: what its deployments rest on, and what it leaves out."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from clipperf import units
from clipperf.evals.verdicts import Verdict, verdict_of
from clipperf.nouns.result import Score
from clipperf.report.accuracy import judged
from clipperf.report.pairs import full_precision
from clipperf.report.serving import Line
from clipperf.report.sizing.quality import Judge, same_tower
from clipperf.report.sizing.types import Deployment, Option, Targets, percentile
from clipperf.report.words import listed


def with_notes(plan: Deployment, targets: Targets, scores: Sequence[Score]) -> Deployment:
    """The deployment with what its reader must know about the rows it rests on."""
    notes = []
    for o in plan.towers:
        c = o.cell
        if o.unstable:
            notes.append(f"the {c.side} row is unstable")
        if o.rss_peak_bytes is None:
            notes.append(f"RAM of the {c.side} tower was not measured")
        ends = (*(o.rate_interval or ()), *(o.held_interval or ()))
        if 0 in ends or math.inf in ends:
            notes.append(
                f"the timed calls of the {c.side} tower differ so much that one end of its "
                f"interval is open: time more of them"
            )
        fill_s = c.at_once / targets.of(c.side)
        waits = o.basis == "as driven" and c.at_once > 1
        if targets.slo_s is not None and waits and fill_s > targets.slo_s:
            batches = f"one batch of {c.batch} {c.side}s takes"
            if c.engines > 1:
                batches = f"{c.engines} batches of {c.batch} {c.side}s, one a stream, take"
            notes.append(
                f"at this rate {batches} {units.seconds(fill_s)} to arrive, longer than the SLO"
            )
    guessed = [o.cell.side for o in plan.towers if o.basis == "queueing estimate"]
    if guessed:
        towers = "tower holds" if len(guessed) == 1 else "towers hold"
        notes.append(f"what the {listed(guessed)} {towers} is a queueing estimate")
    notes += _accuracy_notes(plan, scores)
    return dataclasses.replace(plan, notes=tuple(dict.fromkeys(notes)))


def _accuracy_notes(plan: Deployment, scores: Sequence[Score]) -> list[str]:
    if plan.random_weights:
        return ["random weights: cost only, accuracy unknown"]
    notes = []
    for cell in {judged(o.cell): o.cell for o in plan.towers}.values():
        mine = [s for s in scores if s.aim == "high" and same_tower(s, cell)]
        verdicts = {verdict_of(s) for s in mine}
        lost = sorted({s.dataset for s in mine if verdict_of(s) is Verdict.WORSE})
        if lost:
            notes.append(f"{cell.setup} loses accuracy on {listed(lost)}")
        elif not verdicts & {Verdict.EQUIVALENT, Verdict.BASELINE} and not full_precision(cell):
            notes.append(f"accuracy of {cell.setup} was not confirmed: run `clipperf eval`")
    if len({(o.cell.runtime, o.cell.precision) for o in plan.towers}) > 1:
        notes.append("the two towers run differently: evaluate them together before use")
    return notes


def servers_left_out(lines: Sequence[Line]) -> str:
    """Which rows are of running servers, and why they are not sized; "" where there are none."""
    names = [
        f"{line.cell.model_id} {line.cell.side}, {line.endpoint.label}"
        for line in lines
        if line.cell.is_remote and line.endpoint is not None
    ]
    if not names:
        return ""
    return (
        f"Running servers are left out, as the machine, the threads and the memory of one are not "
        f"known: {'; '.join(dict.fromkeys(names))}."
    )


def assumptions(
    targets: Targets, options: Sequence[Option], judge: Judge | None = None
) -> list[str]:
    """What the sizing takes for granted."""
    bases = {o.basis for o in options}
    wanted = "p99" if targets.slo_s is None else percentile(targets)
    measured = [o for o in options if o.basis != "server scenario"]
    quantiles = sorted({o.latency_quantile for o in measured if o.latency_quantile} - {wanted})
    share = units.share(targets.utilisation)
    spare = f", and {targets.spare} spare" if targets.spare else ""
    told = [
        f"Replicas = target / (held rate x {share} utilisation), rounded up{spare}. A rate counts "
        f"every timed call, slow ones too, so it may differ from the median-based one of the "
        f"cost table; brackets are 95 % intervals, and machines and costs follow from them.",
    ]
    if not all(o.alone for o in options):
        told.append(
            "Each replica was measured alone. That several on one machine do not slow each other "
            "is assumed: confirm it with a load test, or measure it with `clipperf profile "
            "--instances`."
        )
    if any(o.alone for o in options):
        told.append(
            "Where several instances were measured side by side, they are one replica, with what "
            "they held together and the pages that they share counted once, and a machine runs one "
            "of these: nothing is assumed of more than were measured."
        )
    if "server scenario" in bases:
        told.append(
            "Server scenario: the highest rate of random arrivals that LoadGen called valid "
            "within a bound at least as strict; its bracket ends at the next rate that was not."
        )
    if "queueing estimate" in bases:
        told.append(
            "Queueing estimate, not measured: inputs come at random (Poisson), split at random "
            "over replicas, their instances and streams, and an engine takes what waits up to its "
            "batch, for as long as its timed calls took. Measure it with `clipperf profile "
            f"--scenario server --slo-ms {1e3 * (targets.slo_s or 0):g}`."
        )
    if "as driven" in bases and targets.slo_s is not None:
        told.append(
            "The SLO is held against the latency of one batch where calls came as a scenario of "
            "its own made them: waiting in a queue, and for a batch to fill, is not modelled."
        )
    told.append(
        "A machine takes as many replicas as its cores, RAM and VRAM hold; one tower is placed "
        "densely, the other fills the gaps. A GPU runs one replica of a tower, and both towers "
        "only where their loads together fit it."
    )
    if targets.vram_bytes is not None and all(o.cell.device.startswith("cpu") for o in options):
        told.append("The budget of VRAM changes nothing: no row of these results ran on a GPU.")
    if judge is not None:
        told.append(
            f"Accuracy: {judge.dataset}, {judge.metric}. Of two towers that run differently the "
            f"losses of both are added."
        )
        if judge.contents > 1:
            told.append(
                f"These results hold {judge.contents} contents of {judge.dataset}: only the "
                f"scores of the one with the most samples count, of equal ones of the newest."
            )
    if targets.prices:
        told.append(
            "A month has 730 hours, of which machines run all; costs are in the prices' currency. "
            "A million embeddings are images and texts as the target has them."
        )
    if quantiles:
        told.append(
            f"{wanted} is not backed by enough calls in every row; latency is then the highest "
            f"backed quantile, or the slowest call (here: {', '.join(quantiles)})."
        )
    tokens = sorted({o.cell.tokens for o in options if o.cell.tokens is not None})
    if tokens:
        lengths = listed([str(t) for t in tokens])
        told.append(f"Texts are {lengths} tokens long, the longest that were measured.")
    return told
