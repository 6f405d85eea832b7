"""Serving in a report: figures by hand."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from report_data import ENVIRONMENT, result

from clipperf.errors import UsageError
from clipperf.nouns.cell import Cell
from clipperf.nouns.endpoint import REMOTE, Endpoint
from clipperf.nouns.result import Measurement
from clipperf.nouns.serving import OFFLINE, SERVER, Serving, ServingRun, Trial
from clipperf.report.build import build_report
from clipperf.report.compare.comparison import compare
from clipperf.report.compare.rules import parse_rule
from clipperf.report.format import render
from clipperf.report.serving import (
    lines_of,
    serving_findings,
    serving_record,
    serving_table,
    too_much_per_s,
    verdict,
)
from clipperf.report.sizing.solve import size
from clipperf.report.sizing.types import Targets

CELL = Cell("m", "text", "onnx", "fp32", "cpu", 16, 2, tokens=77, scenario=SERVER)
ASKED = Serving(slo_s=0.05, max_delay_s=0.002)
LATENCY = {"50": 0.010, "90": 0.020, "95": 0.025, "97": 0.03, "99": 0.041, "99.9": 0.05}


def trial(rate: float, valid: bool, queries: int = 1000, **changes: Any) -> Trial:
    reasons = () if valid else ("too many answers came late",)
    batches = ((1, 200), (4, 200))
    made = Trial(queries, rate - 1, LATENCY, valid, reasons, rate, batches)
    return dataclasses.replace(made, **changes)


def row(trials: tuple[Trial, ...], best: int | None, **changes: Any) -> Measurement:
    run = ServingRun(changes.pop("asked", ASKED), trials, best)
    changes = {"status": "ok", "cell": CELL, **changes}
    return Measurement(kind="serving", env_id=ENVIRONMENT.id, serving=run, **changes)


HELD = row((trial(70, True), trial(100, False), trial(84, True), trial(92, False)), 2)


def shown(*rows: Measurement) -> list[dict[str, Any]]:
    table = serving_table([result(list(rows))])
    assert table is not None
    names = [heading.name for heading in table.columns]
    return [dict(zip(names, (v.value for v in line), strict=True)) for line in table.rows]


def test_the_highest_rate_that_holds_and_the_next_that_does_not() -> None:
    (line,) = shown(HELD)
    assert line["Inputs/s"] == 84 and line["Too much /s"] == 92
    assert (line["p50 ms"], line["p99 ms"]) == (0.010, 0.041)
    # 200 runs of one and 200 of four: 1,000 inputs in 400 runs.
    assert line["Mean batch"] == 2.5 and line["Verdict"] == "VALID"
    assert line["Bound ms"] == 0.05 and line["Wait ms"] == 0.002
    assert serving_findings([result([HELD])]) == [
        "m text, onnx fp32: 84.0 inputs/s with 99.0 % of answers within 50.0 ms."
    ]


def test_a_percentile_needs_queries_behind_it() -> None:
    (line,) = shown(row((trial(70, True, queries=600),), 0))
    assert line["p90 ms"] == 0.020 and line["p99 ms"] is None
    (line,) = shown(row((trial(70, True, queries=63),), 0))
    assert line["p90 ms"] is None and line["p50 ms"] == 0.010


def test_what_never_held_says_why() -> None:
    (line,) = lines_of([result([row((trial(9, False), trial(4, False)), None)])])
    assert verdict(line) == "INVALID even at 4.00 inputs/s: too many answers came late"
    assert too_much_per_s(line) == 4 and serving_record(line)["inputs_per_s"] is None
    (line,) = lines_of([result([row((), None, status="failed", error="out of\nmemory")])])
    assert verdict(line) == "out of | memory"
    offline = dataclasses.replace(CELL, scenario=OFFLINE)
    late = trial(9, False, offered_per_s=None, reasons=("it ended too soon",))
    (line,) = lines_of([result([row((late,), None, asked=Serving(), cell=offline)])])
    assert verdict(line) == "INVALID: it ended too soon" and too_much_per_s(line) is None


def test_bounds_stand_apart_and_the_newest_of_each_counts() -> None:
    wider = row((trial(120, True),), 0, asked=dataclasses.replace(ASKED, slo_s=0.1))
    old = dataclasses.replace(result([HELD, wider]), created_utc="2020-01-01T00:00:00Z")
    new = dataclasses.replace(
        result([row((trial(75, True),), 0)]), created_utc="2021-01-01T00:00:00Z"
    )
    found = {line.slo_s: line.trial.rate_per_s for line in lines_of([old, new]) if line.trial}
    assert found == {0.05: 75, 0.1: 120}


@pytest.mark.parametrize("form", ["text", "md", "html", "json", "csv"])
def test_a_report_of_serving_alone(form: str) -> None:
    text = render(build_report([result([HELD])]), form)
    assert "VALID" in text and "84" in text


# --- servers -------------------------------------------------------------------------------

REMOTE_CELL = dataclasses.replace(
    CELL, runtime="kserve", precision="", device=REMOTE, batch=1, threads=1, streams=8
)
SERVED = Endpoint(
    "http://gpu:8000", "kserve", "clip_text", "texts", "text", server="triton 2.51.0",
    least_cosine=0.99987,
)  # fmt: skip


def at_server(rate: float, **changes: Any) -> Measurement:
    """A row of a server's: 200 requests of one input each, which it ran in 50 batches of four."""
    most = changes.pop("most_at_once", 5)
    found = trial(
        rate, True, batches=((1, 200),), server_batches=((4, 50),), most_at_once=most
    )  # fmt: skip
    changes = {"cell": REMOTE_CELL, "endpoint": SERVED, **changes}
    return row((found, trial(2 * rate, False)), 0, **changes)


def test_a_server_beside_an_engine_of_this_process() -> None:
    ours, theirs = shown(HELD, at_server(200))
    assert (ours["Server"], ours["Model there"], ours["Connections"]) == (None, None, None)
    assert (ours["Threads"], ours["Device"], ours["Least cosine"]) == (2, "cpu", None)
    assert theirs["Server"] == "http://gpu:8000" and theirs["Model there"] == "clip_text (texts)"
    assert (theirs["Runtime"], theirs["Device"], theirs["Threads"]) == ("kserve", "remote", None)
    assert (theirs["Connections"], theirs["Wait ms"], theirs["Inputs/s"]) == (8, None, 200)
    assert theirs["Mean batch"] == 4 and theirs["Least cosine"] == 0.99987
    assert serving_findings([result([at_server(200)])]) == [
        "m text, kserve, clip_text at http://gpu:8000: 200 inputs/s with 99.0 % of answers within "
        "50.0 ms."
    ]
    record = serving_record(lines_of([result([at_server(200)])])[0])
    assert (record["server_url"], record["server"], record["connections"]) == (
        *("http://gpu:8000", "triton 2.51.0"), 8,
    )  # fmt: skip
    text = render(build_report([result([HELD, at_server(200)])]), "text")
    assert "http://gpu:8000" in text and "0.99987" in text


def test_two_servers_of_one_model_stand_apart() -> None:
    other = dataclasses.replace(SERVED, url="http://other:8000")
    # What else is known of a server may change: the newest row of it counts.
    newer = dataclasses.replace(SERVED, server="triton 2.60.0")
    rows = [at_server(200), at_server(300, endpoint=other), at_server(250, endpoint=newer)]
    found = {line["Server"]: line["Inputs/s"] for line in shown(*rows)}
    assert found == {"http://gpu:8000": 250, "http://other:8000": 300}


def test_connections_that_were_all_in_use_are_told() -> None:
    def caveats(most: int) -> str:
        table = serving_table([result([at_server(200, most_at_once=most)])])
        assert table is not None
        return " ".join(table.caveats)

    assert "Give --connections 16" in caveats(8) and "connections were" not in caveats(7)


def test_servers_are_no_machines_to_size() -> None:
    targets = Targets(0, 50, slo_s=0.05)
    other = dataclasses.replace(SERVED, url="http://other:8000")
    files = [result([HELD, at_server(900), at_server(950, endpoint=other)])]
    sizing = size(files, targets)
    # 50 / (84 x 0.7) = 0.85: one replica of the engine here, whatever servers do.
    assert [(o.cell.runtime, o.held_per_s, o.replicas) for o in sizing.options] == [("onnx", 84, 1)]
    assert not sizing.rejected
    (said,) = [text for text in sizing.assumptions if "servers" in text]
    assert "m text, clip_text at http://gpu:8000; m text, clip_text at http://other:8000" in said
    assert not any("servers" in text for text in size([result([HELD])], targets).assumptions)
    with pytest.raises(UsageError, match=r"no measurements to size from.*at http://gpu:8000"):
        size([result([at_server(900)])], targets)


def test_servers_are_compared_with_themselves_alone() -> None:
    a, b = result([at_server(200), HELD]), result([at_server(150), HELD], path="b.json")
    found = compare([a], [b], [parse_rule("throughput<0.9")])
    by_name = {pair.cell.scenario: changes for pair, changes in found.rows}
    server = "server, 99.0 % within 50.0 ms"
    assert set(by_name) == {server, f"{server}, clip_text at http://gpu:8000"}
    assert by_name[server]["throughput"].ratio == 1
    changed = by_name[f"{server}, clip_text at http://gpu:8000"]
    assert changed["throughput"].ratio == 0.75 and changed["ram"].ratio is None
    assert found.failed

    never = row((trial(9, False),), None, cell=REMOTE_CELL, endpoint=SERVED)
    lost = compare([a], [result([never, HELD], path="b.json")], [parse_rule("throughput<0.9")])
    assert lost.failed, "what A measured and B could not"
    elsewhere = dataclasses.replace(SERVED, url="http://other:8000")
    apart = compare([a], [result([at_server(200, endpoint=elsewhere), HELD], path="b.json")])
    assert [pair.cell.scenario for pair, _ in apart.rows] == [server]


def test_a_server_is_the_same_on_another_port() -> None:
    def at(port: int, rate: float) -> Measurement:
        url = f"http://gpu:{port}"
        return at_server(rate, endpoint=dataclasses.replace(SERVED, url=url))

    def pairs(*rows: Measurement) -> dict[str, float | None]:
        found = compare([result([at(8000, 200)])], [result(list(rows), path="b.json")])
        return {p.cell.scenario.rpartition(" at ")[2]: c["throughput"].ratio for p, c in found.rows}

    assert pairs(at(9000, 150)) == {"gpu": 0.75}
    # Where both sides have a URL it is that one, and the other port is a server of its own.
    assert pairs(at(9000, 150), at(8000, 220)) == {"http://gpu:8000": 1.1}
    model = dataclasses.replace(SERVED, url="http://gpu:9000", model="another")
    with pytest.raises(UsageError):
        pairs(at_server(150, endpoint=model))
