"""Engines side by side: where they stop paying, and what a sizing makes of them, by hand."""

from __future__ import annotations

import dataclasses

import pytest
from report_data import ENVIRONMENT, GIB, MIB, broken, cell, memory, result, timed

from clipperf.nouns.result import Measurement, ResultFile
from clipperf.nouns.serving import SERVER, Serving, ServingRun, Trial
from clipperf.report.build import build_report
from clipperf.report.instances import beside, instances_findings, instances_table
from clipperf.report.records import merge
from clipperf.report.sizing.packing import Load, Machine, pack
from clipperf.report.sizing.solve import size
from clipperf.report.sizing.types import Targets

LABELS = {"env-a": "E1"}
# Instances: seconds of a batch of 8, MiB of all. Rates: 80, 152, 160 images/s.
MEASURED = {1: (0.1, 300), 2: (16 / 152, 500), 4: (0.2, 900)}


def rows(**more: object) -> list[Measurement]:
    found = []
    for count, (seconds, peak) in MEASURED.items():
        c = cell(runtime="onnx", batch=8, **{"threads": 1, "instances": count, **more})  # type: ignore[arg-type]
        found += [timed(c, [seconds] * 6), memory(c, peak)]
    return found


def on_cores(cores: int, measured: list[Measurement]) -> list[ResultFile]:
    machine = dataclasses.replace(ENVIRONMENT, cores=cores)
    return [result(measured, environments=(machine,))]


def test_a_number_pays_where_every_smaller_one_gives_a_tenth_less() -> None:
    one, two, four = beside(merge([result(rows())]))
    assert [b.row.items_per_s for b in (one, two, four)] == [
        pytest.approx(80),
        pytest.approx(152),
        pytest.approx(160),
    ]
    assert [b.pays for b in (one, two, four)] == [True, True, False]  # 160 is 5 % more
    assert four.ratio == pytest.approx(2.0) and four.ratio_interval == pytest.approx((2.0, 2.0))
    assert (one.each_bytes, two.each_bytes, four.each_bytes) == (None, 200 * MIB, 200 * MIB)
    assert instances_findings(merge([result(rows())]), LABELS) == [
        "M::w image, onnx fp32, batch 8: 2 instances of 1 threads give 152 images/s, 1.90x what 1 "
        "of 1 does; more do not pay."
    ]
    alone = [row for row in rows() if row.cell.instances < 4]
    (said,) = instances_findings(merge([result(alone)]), LABELS)
    assert said.endswith("what 1 of 1 does, the most that were measured.")
    shaky = [dataclasses.replace(alone[0], stable=False), *alone[1:]]
    (said,) = instances_findings(merge([result(shaky)]), LABELS)
    assert said.endswith("measured. One of these rows is unstable.")


def test_instances_that_never_pay() -> None:
    measured = [timed(cell(batch=1, instances=k), [0.1 * k] * 6) for k in (1, 2)]
    assert instances_findings(merge([result(measured)]), LABELS) == [
        "M::w image, torch fp32, batch 1: more than 1 instance (10.0 images/s) do not pay."
    ]


def test_the_table_and_the_report() -> None:
    assert instances_table(merge([result(rows()[:2])]), LABELS) is None
    document = build_report([result(rows())])
    (section,) = [s for s in document.sections if s.key == "instances"]
    (table,) = section.tables
    names = [c.name for c in table.columns]
    got = [dict(zip(names, row, strict=True)) for row in table.texts]
    assert [row["Instances"] for row in got] == ["1", "2", "4"]
    assert [row["RAM, all"] for row in got] == ["300.0 MiB", "500.0 MiB", "900.0 MiB"]
    assert [row["Pays"] for row in got] == ["yes", "yes", "no"]
    assert any("more do not pay" in said for said in document.findings)


def test_threads_that_were_shared_out_are_of_one_family() -> None:
    measured = [
        timed(cell(batch=1, threads=2), [0.1] * 6),
        timed(cell(batch=1, threads=1, instances=2), [0.1] * 6),
    ]
    one, two = beside(merge([result(measured)]))
    assert (one.row.cell.threads, two.row.cell.threads) == (2, 1)
    assert two.ratio == pytest.approx(2.0) and two.pays


def test_threads_of_one_count_are_no_instances() -> None:
    """One instance gives 10 with a thread and 18 with two; two of one thread give 19: no more."""
    measured = [
        timed(cell(batch=1, threads=1), [0.1] * 6),
        timed(cell(batch=1, threads=2), [1 / 18] * 6),
        timed(cell(batch=1, threads=1, instances=2), [2 / 19] * 6),
    ]
    one, two = beside(merge([result(measured)]))
    assert [(b.row.cell.instances, b.row.cell.threads) for b in (one, two)] == [(1, 2), (2, 1)]
    assert two.ratio == pytest.approx(19 / 18) and not two.pays
    assert beside(merge([result(measured[:2])])) == [], "of one count alone"


def test_findings_name_what_differs() -> None:
    measured = [
        timed(cell("text", batch=1, instances=k, tokens=tokens), [0.1 * k] * 6)
        for tokens in (8, 77)
        for k in (1, 2)
    ]
    found = instances_findings(merge([result(measured)]), LABELS)
    assert sorted(text.partition(": more")[0] for text in found) == [
        "M::w text, torch fp32, batch 1, 77 tokens",
        "M::w text, torch fp32, batch 1, 8 tokens",
    ]


def test_a_machine_does_what_its_instances_did_together() -> None:
    # 8 cores. One alone holds 80, and so would 8 of them 640; measured are 160 at most, by 4.
    # 448 / (160 x 0.7) = 4 machines of 4 instances; of 2: 448 / (152 x 0.7) = 4.2, so 5; of 1: 8.
    sizing = size(on_cores(8, rows()), Targets(448, 0))
    by_count = {o.cell.instances: o for o in sizing.options}
    assert [by_count[k].replicas for k in (1, 2, 4)] == [8, 5, 4]
    assert [by_count[k].per_machine for k in (1, 2, 4)] == [1, 1, 1]
    (plan,) = sizing.plans
    assert plan.image is not None and plan.image.cell.instances == 4
    assert plan.machines == 4 and plan.fullest_bytes == 900 * MIB
    assert any("side by side" in said for said in sizing.assumptions)
    assert not any("measured alone" in said for said in sizing.assumptions), "none was"
    # Without the others one replica alone is taken to fit eight times.
    (plan,) = size(on_cores(8, rows()[:2]), Targets(448, 0)).plans
    assert (plan.image and plan.image.per_machine, plan.machines) == (8, 1)


@pytest.mark.parametrize("batch", [8, 32])
def test_a_server_scenario_is_capped_by_instances_of_whatever_batch(batch: int) -> None:
    """70 a replica, and 8 of one thread would fit: instances were measured, so it is one."""
    c = cell(runtime="onnx", batch=batch, threads=1, scenario=SERVER)
    run = ServingRun(Serving(slo_s=0.5), (Trial(1000, 100.0, {"99": 0.4}, True, (), 100.0),), 0)
    line = Measurement(c, "serving", "ok", ENVIRONMENT.id, serving=run)
    options = size(on_cores(8, [*rows(), line]), Targets(100, 0, slo_s=0.5)).options
    (served,) = (o for o in options if o.basis == "server scenario")
    assert served.alone and (served.per_machine, served.cores) == (1, 1)
    # Threads of another number were not measured side by side.
    two = dataclasses.replace(line, cell=dataclasses.replace(c, threads=2))
    options = size(on_cores(8, [*rows(), two]), Targets(100, 0, slo_s=0.5)).options
    (served,) = (o for o in options if o.basis == "server scenario")
    assert not served.alone and served.per_machine == 4


def test_instances_that_failed_cap_nothing() -> None:
    c = cell(runtime="onnx", batch=8, threads=1, instances=4)
    sizing = size(on_cores(8, [*rows()[:2], broken(c, "no memory")]), Targets(448, 0))
    (plan,) = sizing.plans
    assert (plan.image and plan.image.per_machine, plan.machines) == (8, 1)
    assert any("measured alone" in said for said in sizing.assumptions)


def test_more_instances_than_cores_run_where_they_were_measured() -> None:
    sizing = size(on_cores(2, rows(threads=2)), Targets(100, 0))
    (plan,) = sizing.plans
    assert plan.image is not None and (plan.image.cell.instances, plan.image.cores) == (2, 2)
    assert plan.machines == 1 and sizing.rejected == ()


def test_the_other_tower_takes_the_cores_that_are_left() -> None:
    texts = cell(side="text", runtime="onnx", threads=2)
    measured = [*rows(), timed(texts, [0.01] * 6), memory(texts, 100)]
    # 4 of 8 cores are the images': texts of 2 threads fit twice beside them.
    (plan,) = size(on_cores(8, measured), Targets(110, 130)).plans
    assert plan.image is not None and plan.text is not None
    assert (plan.image.cell.instances, plan.text.replicas, plan.machines) == (4, 2, 1)


def test_two_streams_of_two_instances_are_four_engines() -> None:
    c = cell(batch=2, streams=2, instances=2)
    assert (c.engines, c.at_once, c.label) == (
        4,
        8,
        "M::w image torch fp32 cpu batch 2, 2 instances",
    )
    (row,) = merge([result([timed(c, [0.5] * 6)])])
    assert row.items_per_s == pytest.approx(16.0)
    # With an SLO each engine has a queue of its own: they hold four times what one does.
    one = dataclasses.replace(c, streams=1, instances=1)
    options = size(
        on_cores(8, [timed(c, [0.01] * 20), timed(one, [0.01] * 20)]), Targets(1, 0, slo_s=0.1)
    ).options
    four, alone = (next(o for o in options if o.cell == each) for each in (c, one))
    assert four.basis == alone.basis == "queueing estimate"
    assert four.held_per_s == pytest.approx(4 * (alone.held_per_s or 0))


def test_a_machine_runs_no_more_than_the_most() -> None:
    load = Load(1, GIB, 0, False, 3, 2.5, 0.1, most=1)
    machine = Machine(8, 16 * GIB, None)
    assert machine.capacity(load) == 1
    assert machine.holds([load], [1]) and not machine.holds([load], [2])
    assert pack([load], machine) == [(3, (1,))]
