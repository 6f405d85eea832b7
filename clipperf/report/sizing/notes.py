"""The words beside a sizing: what its plans rest on, and what it leaves out."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from clipperf import units
from clipperf.nouns.result import ResultFile
from clipperf.report import findings
from clipperf.report.records import merge_scores
from clipperf.report.sizing.types import Option, Plan, Targets


def with_notes(plan: Plan, targets: Targets, results: Sequence[ResultFile]) -> Plan:
    """The plan with what its reader must know about the rows it rests on."""
    notes = []
    chosen = [o for o in (plan.image, plan.text) if o is not None]
    for o in chosen:
        if o.unstable:
            notes.append(f"the {o.cell.side} row is unstable")
        if o.rss_peak_bytes is None:
            notes.append(f"RAM of the {o.cell.side} tower was not measured")
        fill_s = o.cell.batch / targets.of(o.cell.side)
        if targets.slo_s is not None and o.cell.batch > 1 and fill_s > targets.slo_s:
            notes.append(
                f"at this rate one batch of {o.cell.batch} {o.cell.side}s takes "
                f"{units.seconds(fill_s)} to arrive, longer than the SLO"
            )
    notes += _accuracy_notes(plan, chosen, results)
    return dataclasses.replace(plan, notes=tuple(dict.fromkeys(notes)))


def _accuracy_notes(
    plan: Plan, chosen: Sequence[Option], results: Sequence[ResultFile]
) -> list[str]:
    if plan.random_weights:
        return ["random weights: cost only, accuracy unknown"]
    notes = []
    for engine in dict.fromkeys(o.setup for o in chosen):
        scores = [
            s
            for s in merge_scores(results)
            if (s.cell.model_id, s.cell.setup) == (plan.model_id, engine)
        ]
        verdicts = {findings.accuracy_verdict(s) for s in scores}
        lost = sorted({s.dataset for s in scores if findings.accuracy_verdict(s) == "lost"})
        if lost:
            notes.append(f"{engine} loses accuracy on {findings.listed(lost)}")
        elif not verdicts & {"kept", "baseline"} and not engine.endswith("fp32"):
            notes.append(f"accuracy of {engine} was not confirmed: run `clipperf eval`")
    if len({(o.cell.runtime, o.cell.precision) for o in chosen}) > 1:
        notes.append("the two towers run differently: evaluate them together before use")
    return notes


def assumptions(targets: Targets, options: Sequence[Option]) -> list[str]:
    """What the sizing takes for granted."""
    quantiles = sorted({o.latency_quantile for o in options if o.latency_quantile} - {"p99"})
    share = units.share(targets.utilisation)
    told = [
        f"Replicas = target / (measured rate x {share} utilisation), rounded up. The rate counts "
        f"every timed call, slow ones too, so it may differ from the median-based one of the "
        f"cost table.",
        "Each replica was measured alone. That several on one machine do not slow each other is "
        "assumed: confirm it with a load test.",
        "The SLO is held against the latency of one batch: waiting in a queue, and for a batch to "
        "fill, is not modelled.",
        "A machine takes as many replicas as its cores, RAM and VRAM hold; one tower is placed "
        "densely, the other fills the gaps. A GPU runs one replica of a tower, and both towers "
        "only where their loads together fit it.",
    ]
    if quantiles:
        told.append(
            f"p99 is not backed by enough calls in every row; latency is then the highest backed "
            f"quantile, or the slowest call (here: {', '.join(quantiles)})."
        )
    tokens = sorted({o.cell.tokens for o in options if o.cell.tokens is not None})
    if tokens:
        lengths = findings.listed([str(t) for t in tokens])
        told.append(f"Texts are {lengths} tokens long, the longest that were measured.")
    return told
