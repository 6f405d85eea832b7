"""What a sweep's plan says, and the groups of cells that it comes to."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from conftest import Become

from clipperf.bench import cost
from clipperf.bench.cost import Limits
from clipperf.bench.file_work import file_work
from clipperf.bench.jobs import Prepared
from clipperf.bench.sweeps import estimate, ledger
from clipperf.bench.sweeps.cells import Driven, Study, Unit, planned
from clipperf.bench.sweeps.estimate import estimated
from clipperf.bench.sweeps.plan_file import read_plan
from clipperf.bench.sweeps.scored import check_datasets
from clipperf.engines.tensorrt import flavours
from clipperf.errors import MissingDependencyError, UsageError
from clipperf.models import zoo
from clipperf.nouns.cell import CLOSED_LOOP, Cell, EngineRequest
from clipperf.nouns.result import Environment, Measurement
from clipperf.system import env, store

ENVIRONMENT = Environment("e", "cpu", 2, 2**33, None, None, None, "os", "3", {}, None, "now")


def plan_of(folder: Path, text: str):
    path = folder / "plan.toml"
    path.write_text(text)
    return read_plan(path)


def study_of(folder: Path, text: str, models=("clipperf-sample",), threads=(1,)) -> Study:
    plan = plan_of(folder, f'models = ["clipperf-sample"]\n{text}')
    driven = tuple(Driven(CLOSED_LOOP, plan.batches) for _ in plan.scenarios)
    specs = tuple(map(zoo.resolve, models))
    return planned(Study(plan, specs, driven, cost.QUICK, threads))


def setups(study: Study) -> list[tuple[str, ...]]:
    return [tuple(cell.setup for cell in unit.cells) for unit in study.units]


# --- the file ------------------------------------------------------------------------------


def test_a_plan_says_all_of_it(tmp_path: Path) -> None:
    plan = plan_of(
        tmp_path,
        """
        models = ["A", "B", "A"]
        towers = ["text", "image"]
        runtimes = "onnx"
        batches = [8, 1, 8]
        tokens = 16
        scenarios = ["server", "closed"]
        quick = true
        [limits]
        seconds = 90
        ram_gb = 1.5
        [server]
        slo_ms = 50
        max_batches = [4, 8]
        [eval]
        margin_pp = 0
        [[include]]
        model = "A*"
        [[exclude]]
        batch = 8
        tower = "text"
        """,
    )
    assert plan.models == ("A", "B") and plan.runtimes == ("onnx",)
    assert plan.towers == ("image", "text"), "in clipperf's order"
    assert plan.batches == (8, 1) and plan.tokens == (16,) and plan.quick
    assert plan.scenarios == ("closed", "server")
    assert plan.limits == Limits(90.0, 1610612736, None)
    assert (plan.slo_ms, plan.max_batches, plan.margin) == (50.0, (4, 8), 0.0)
    cell = Cell("A::w", "text", "onnx", "fp32", "cpu", 8, 1)
    assert not plan.keeps(cell)
    assert plan.keeps(dataclasses.replace(cell, side="image"))
    assert plan.keeps(dataclasses.replace(cell, batch=1))
    assert not plan.keeps(dataclasses.replace(cell, model_id="B", batch=1)), "no include fits"
    assert plan.keeps(cell, "sample"), "an evaluation has no batch that a rule could mean"


def test_what_is_not_said_is_as_usual(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, 'models = ["A"]')
    assert plan.runtimes == ("torch", "onnx") and plan.precisions == ("fp32",)
    assert plan.batches == (8,) and plan.threads is None and plan.datasets == ()
    assert plan.limits == Limits() and plan.margin == 0.01 and plan.timeout_s == 900


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("runtime = 1", r"'runtime' is not known; there are .*, runtimes, precisions, "),
        ("limits.ram = 1", r"limits: 'ram' is not known; there are seconds, ram_gb, vram_gb"),
        ("server.slo = 1", r"server: 'slo' is not known; there are slo_ms, max_delay_ms"),
        ("[[exclude]]\nbatches = 1", r"exclude: 'batches' is not known; there are model, runtime"),
        ("[[include]]", "include is empty; say one of model, runtime"),
        ("[include]\nbatch = 1", "include must be \\[\\[include\\]\\]"),
        ('towers = ["images"]', r"towers = \['images'\]: choose from image, text"),
        ('scenarios = ["open"]', "choose from closed, single-stream, offline, server, from-files"),
        ('inputs = ["int8"]', "choose from float32, uint8"),
        ("batches = [0]", r"batches = \[0\]: give whole numbers from 1"),
        ("batches = [1.5]", "whole numbers"),
        ("batches = [2147483648]", "give whole numbers from 1 to 2147483647"),
        (
            'scenarios = ["from-files"]\ntowers = ["text"]\n[from-files]\nfolder = "x"',
            r'scenario "from-files" reads images, and towers = \[\'text\'\]: add "image"',
        ),
        ("batches = [true]", "whole numbers"),
        ("tokens = 1", "tokens = 1: give whole numbers from 2"),
        ('quick = "yes"', "quick = 'yes': give true or false"),
        ("runtimes = []", "runtimes is empty"),
        ("runtimes = [1]", "runtimes must be a list of texts"),
        ("limits = 1", "limits must be a table"),
        ("limits.seconds = 0", "seconds = 0: give a number above 0"),
        ("limits.ram_gb = nan", "ram_gb = nan: give a number above 0"),
        (f"timeout_s = 0x1{'0' * 400}", "give a number above 0, up to 86400"),
        ("eval.margin_pp = 101", "give a number from 0, up to 100"),
        ("eval.batch = [32, 64]", r"eval: batch = \[32, 64\]: give one whole number from 1"),
        ("eval.size = 1", "eval: 'size' is not known; there are margin_pp, batch"),
        ("server = {slo_ms = 50, max_delay_ms = 60}", "max_delay_ms = 60: give .* below slo_ms"),
        ('[[exclude]]\ndataset = "a"\nbatch = 1', "batch is of measured cells and dataset of"),
        ('scenarios = ["server"]', "needs slo_ms"),
        ('scenarios = ["from-files"]', "needs folder"),
        ("scenarios = []", "nothing to do"),
        ("x = ", "is no TOML"),
    ],
)
def test_a_plan_that_cannot_be_names_the_key_and_what_it_may_be(
    tmp_path: Path, text: str, said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        plan_of(tmp_path, f'models = ["A"]\n{text}')


def test_a_plan_needs_models_and_a_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="models must be a list of texts"):
        plan_of(tmp_path, "quick = true")
    with pytest.raises(UsageError, match=r"'model' is not known; there are .*, models, towers"):
        plan_of(tmp_path, 'model = ["A"]')
    with pytest.raises(UsageError, match="no plan can be read"):
        read_plan(tmp_path / "other.toml")
    (tmp_path / "plan.toml").write_bytes(b'models = ["\xff"]')
    with pytest.raises(UsageError, match="is no TOML"):
        read_plan(tmp_path / "plan.toml")


def test_a_plan_may_say_closed_as_results_do(tmp_path: Path) -> None:
    plan = plan_of(
        tmp_path,
        'models = ["A"]\nscenarios = ["server", "closed-loop"]\nserver.slo_ms = 50\n'
        '[[exclude]]\nscenario = "closed-loop"\nbatch = 8',
    )
    assert plan.scenarios == ("closed", "server")
    cell = Cell("A::w", "text", "onnx", "fp32", "cpu", 8, 1)
    assert cell.scenario == CLOSED_LOOP and not plan.keeps(cell)
    assert plan.keeps(dataclasses.replace(cell, scenario="server"))


@pytest.mark.parametrize(
    ("name", "said"),
    [("nope", "no dataset at .*nope"), ("empty", "no images in .*empty"), (" ", "is empty")],
)
def test_a_dataset_that_is_not_there_is_refused_before_anything(
    tmp_path: Path, name: str, said: str
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "good" / "cats").mkdir(parents=True)
    (tmp_path / "good" / "cats" / "1.png").write_bytes(b"not looked at yet")
    good = 'models = ["A"]\ndatasets = ["sample", "good", "https://host/set"'
    check_datasets(plan_of(tmp_path, f"{good}]"))
    with pytest.raises(UsageError, match=said):
        check_datasets(plan_of(tmp_path, f'{good}, "{name}"]'))


def test_a_way_of_making_pixels_that_is_none_is_named_with_its_place(samples: str) -> None:
    with pytest.raises(UsageError, match=r"p\.toml: \[from-files\]: preprocess 'exakt': choose"):
        file_work(samples, ["exakt"], None, "p.toml: [from-files]", "preprocess")
    with pytest.raises(UsageError, match=r"^--preprocess 'exakt': choose from exact, "):
        file_work(samples, ["exakt"])


# --- the cells -----------------------------------------------------------------------------


def test_groups_are_those_of_profile_and_evaluations_come_last(home: Path, tmp_path: Path) -> None:
    study = study_of(
        tmp_path,
        'precisions = ["fp32", "fp16"]\nbatches = [1, 4]\ntowers = "text"\ndatasets = ["sample"]',
    )
    pair, half = ("torch fp32", "onnx fp32"), ("torch fp32", "onnx fp16")
    assert setups(study) == [pair, pair, half, half, (*pair, "onnx fp16")]
    assert [unit.dataset for unit in study.units] == [None] * 4 + ["sample"]
    assert len({unit.id for unit in study.units}) == 5 and not study.unsupported


def test_what_cannot_be_is_named_with_its_reason(
    home: Path, tmp_path: Path, become: Become
) -> None:
    become(("avx2",))  # no instructions for bf16
    study = study_of(
        tmp_path,
        'runtimes = ["torch", "onnx", "openvino"]\nprecisions = ["fp32", "int8w", "bf16"]\n'
        'towers = ["text"]\ntokens = [8, 99]\nbatches = [1]',
    )
    reasons = {(each.cell.setup, each.cell.tokens): each.reason for each in study.unsupported}
    assert "takes texts of up to 77 tokens, not 99" in reasons["torch fp32", 99]
    assert "no int8w in onnx" in reasons["onnx int8w", 8]
    assert "takes a processor with avx512_bf16" in reasons["torch bf16", 8]
    assert "takes a processor with avx512_bf16" in reasons["openvino bf16", 8]
    assert "no bf16 in onnx, which has fp32, fp16, int8" in reasons["onnx bf16", 8]
    assert setups(study) == [
        ("torch fp32", "onnx fp32", "openvino fp32"),
        ("torch fp32", "openvino int8w"),
    ]


def test_a_runtime_that_is_not_here_is_unsupported_and_the_rest_stays(
    home: Path, tmp_path: Path
) -> None:
    study = study_of(tmp_path, 'runtimes = ["onnx", "ort-trt"]\ntowers = "image"')
    assert setups(study) == [("onnx fp32",)]
    assert study.units[0].cells[0].device == "cpu", "a GPU that is not there moves nobody"
    (missing,) = study.unsupported
    assert missing.cell.device == "cuda" and "runtime ort-trt on cuda: " in missing.reason
    with pytest.raises(UsageError, match="no runtime 'tensor'"):
        study_of(tmp_path, 'runtimes = ["onnx", "tensor"]')
    with pytest.raises(UsageError, match="no precision 'int2'"):
        study_of(tmp_path, 'precisions = ["int2"]')


def test_more_threads_than_cores_cannot_be(home: Path, tmp_path: Path) -> None:
    text, cores = 'runtimes = "onnx"\ntowers = "text"', env.available_cores()
    study = study_of(tmp_path, text, threads=(1, 100_000))
    assert [unit.cells[0].threads for unit in study.units] == [1]
    (bad,) = study.unsupported
    assert bad.reason.startswith(f"100000 threads, and this machine has {cores} core")
    with pytest.raises(UsageError, match="nothing is left to measure: 100000 threads, and"):
        study_of(tmp_path, text, threads=(100_000,))
    with pytest.raises(UsageError, match=r"to measure: its rules leave none of 1 cell$"):
        study_of(tmp_path, f"{text}\n[[exclude]]\ntower = 'text'")


def test_rules_leave_cells_out_and_groups_of_a_lone_baseline_with_them(
    home: Path, tmp_path: Path
) -> None:
    text = 'precisions = ["fp32", "fp16"]\nbatches = [1, 4]\ntowers = "image"\n'
    exclude = '[[exclude]]\nprecision = "fp16"\nbatch = 4\n'
    study = study_of(tmp_path, text + exclude)
    assert setups(study) == [("torch fp32", "onnx fp32")] * 2 + [("torch fp32", "onnx fp16")]
    study = study_of(tmp_path, text + '[[include]]\nruntime = "o*"\n' + exclude)
    assert setups(study) == [("onnx fp32",)] * 2 + [("onnx fp16",)]
    with pytest.raises(UsageError, match="nothing is left to measure"):
        study_of(tmp_path, text + '[[exclude]]\nmodel = "clip*"')
    # A GPU that is not here is known to the runtimes: the plan may be for another machine, too.
    assert setups(study_of(tmp_path, text + exclude + '[[exclude]]\ndevice = "cuda"'))
    for rule, said in (
        ('tower = "imag"', "a rule's tower = 'imag' fits no cell; there are image"),
        ('model = ["clip*", "ViT"]', "'ViT' fits no cell; there are clipperf-sample"),
        ("batch = 3", "batch = 3 fits no cell; there are 1, 4"),
        ('dataset = "sample"', "dataset = 'sample' fits no cell; there are none"),
        ('device = "gpu"', "device = 'gpu' fits no cell; there are cpu, cuda"),
    ):
        with pytest.raises(UsageError, match=said):
            study_of(tmp_path, f"{text}[[exclude]]\n{rule}")


def test_inputs_that_no_runtime_takes_are_refused_as_profile_refuses_them(
    home: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match='inputs = "uint8" is for runtimes that load exported'):
        study_of(tmp_path, 'runtimes = "torch"\ninputs = ["uint8"]\ntowers = "image"')
    study = study_of(tmp_path, 'inputs = ["uint8"]\ntowers = "image"')
    assert [cell.input for cell in study.units[0].cells] == ["float32", "uint8"]


def test_an_estimate_counts_blocks_and_bytes(home: Path, tmp_path: Path) -> None:
    study = study_of(tmp_path, 'runtimes = "onnx"\ntowers = "text"\nbatches = [1]')
    found = estimated(study)
    (seconds,) = found.seconds.values()
    # Six blocks of 0.1 s sleep and 0.1 s of calls, and two processes that start.
    assert 1.2 + 2 * 1.1 < seconds < 8
    assert found.most_s > found.total_s > seconds, "an export comes before"
    tower = study.specs[0].parameters("text") * 4
    assert tower < found.disk_bytes < tower + 100_000
    assert not found.fetch and not found.unknown
    study = study_of(tmp_path, 'runtimes = "onnx"\nscenarios = []\ndatasets = ["./photos"]')
    assert estimated(study).unknown == ("clipperf-sample/./photos",)


@pytest.mark.skipif(not flavours.installed("trt-rtx"), reason="TensorRT for RTX is not installed")
def test_what_cannot_be_made_here_is_no_reason_to_end_a_sweep(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An int8 engine of TensorRT for RTX on Turing: its rows say why, the others are measured."""
    study = study_of(tmp_path, 'runtimes = "onnx"\ntowers = "text"\nbatches = [1]')
    (unit,) = study.units
    cell = dataclasses.replace(unit.cells[0], runtime="trt-rtx", precision="int8", device="cuda")
    study = dataclasses.replace(study, units=(unit, dataclasses.replace(unit, cells=(cell,))))

    def names(kind: str) -> set[str]:
        monkeypatch.setattr(flavours, "gpu_kind", lambda: kind)
        return {name.split()[1] for name, _ in estimate._missing(study)}

    assert names("sm89") == {"onnx", "trt-rtx"}
    assert names("sm75") == {"onnx"}

    def absent(*given: object) -> str:
        raise MissingDependencyError("TensorRT for RTX is not installed")

    monkeypatch.setattr(flavours, "gpu_kind", absent)  # on a cluster another machine may have it
    assert {name.split()[1] for name, _ in estimate._missing(study)} == {"onnx"}


def test_a_bad_case_is_never_shorter(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Calls of 100 s, beyond the 10 s of a cell: one block takes what it takes."""
    study = study_of(tmp_path, 'runtimes = "onnx"\ntowers = "text"\nbatches = [1]')
    monkeypatch.setattr(estimate, "run_s", lambda cell, spec: 100.0)
    settings = dataclasses.replace(
        cost.QUICK, warmup=2, block_calls=2, block_s=0.1, block_max_s=1.0, sleep_s=0.1, max_s=10.0,
        memory_runs=3,
    )  # fmt: skip
    (unit,) = study.units
    likely, most = estimate.measured_s(unit, unit.driven, settings, 1)
    # Memory: a start of 0.6 + 0.5 s with a call, three more; a start, a block of three calls.
    assert likely == pytest.approx((1.1 + 100) + 300 + (1.1 + 100) + (0.1 + 300))
    # Calls of 300 s, starts that take twice as long.
    assert most == pytest.approx((2.2 + 300) + 900 + (2.2 + 300) + (0.1 + 900))
    again, least = estimate.measured_s(unit, unit.driven, settings, 0)
    assert again == pytest.approx(likely - 401.1) and least == pytest.approx(most - 1202.2)
    for batch in (1, 1_000_000):
        found = estimated(study_of(tmp_path, f"batches = [{batch}]\nquick = true"))
        assert found.most_s >= found.total_s


def test_towers_of_other_inputs_are_exports_of_their_own(
    home: Path, tmp_path: Path, sample_artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = 'runtimes = "onnx"\ntowers = "image"\ninputs = ["float32", "uint8"]'
    study = study_of(tmp_path, text)
    names = [name for name, _ in estimate._missing(study)]
    both = [f"clipperf-sample onnx fp32 image {each}" for each in ("float32", "uint8")]
    assert sorted(names) == both
    there = [(sample_artifact, store.read_manifest(sample_artifact))]
    monkeypatch.setattr(store, "find_artifacts", lambda: there)
    assert [name for name, _ in estimate._missing(study)] == both[1:]


# --- keys ----------------------------------------------------------------------------------


def test_a_key_holds_all_that_a_group_depends_on(home: Path, tmp_path: Path) -> None:
    study = study_of(tmp_path, 'runtimes = "onnx"\ntowers = "text"\nbatches = [1, 2]')
    one, other = study.units
    made, settings = ["k"], cost.QUICK
    key = ledger.key_of(one, made, settings, ENVIRONMENT)
    assert key == ledger.key_of(one, made, settings, ENVIRONMENT)
    limited = dataclasses.replace(settings, limits=Limits(seconds=5))
    assert key == ledger.key_of(one, made, limited, ENVIRONMENT), "what is done was within them"
    elsewhere = dataclasses.replace(ENVIRONMENT, id="another")
    others = [
        ledger.key_of(other, made, settings, ENVIRONMENT),
        ledger.key_of(one, ["k2"], settings, ENVIRONMENT),
        ledger.key_of(one, made, cost.DEFAULT, ENVIRONMENT),
        ledger.key_of(one, made, settings, elsewhere),
    ]
    assert len({key, *others}) == 5


def test_what_an_engine_is_made_from() -> None:
    cell = Cell("M", "image", "onnx", "fp32", "cpu", 1, 1)
    spec = zoo.resolve("clipperf-sample")
    assert ledger.made_of(Prepared(EngineRequest(cell, spec, "p", key="k")), "w") == "k"
    assert ledger.made_of(Prepared(EngineRequest(cell, spec, None)), "w") == "weights w"
    assert ledger.made_of(Prepared(EngineRequest(cell, spec, None), error="no"), "w") == (
        "not made: no"
    )


def test_what_was_killed_is_never_valid_and_what_was_over_a_limit_as_long_as_it_is_the_same(
    home: Path, tmp_path: Path
) -> None:
    spec = zoo.resolve("clipperf-sample")
    cell = Cell(spec.id, "image", "onnx", "fp32", "cpu", 1, 1)
    key = "0123456789abcdef"
    unit = Unit("M/image", spec, (cell,), Driven(CLOSED_LOOP, (1,)))
    kept, limits = ledger.Ledger(tmp_path / "out"), Limits(seconds=5)
    row = Measurement(cell, "time", "failed", "e", error="ended")
    result = ledger.new_result("profile", "", (ENVIRONMENT,), (spec,), (row,))
    kept.begin("")
    kept.write(unit, key, "killed", limits, result)
    assert kept.begun([unit]) == {"M/image"} and kept.find(unit, key, limits) is None
    kept.write(unit, key, "limit", limits, result)
    found = kept.find(unit, key, limits)
    assert found is not None and found.measurements == (row,)
    assert kept.find(unit, key, Limits(seconds=6)) is None
    assert kept.find(unit, "other", limits) is None
    assert not list((tmp_path / "out" / "cells").glob("*-killed.json")), "it was replaced"
    kept.write(unit, key, None, limits, result)
    assert kept.find(unit, key, Limits()) is not None


def test_a_folder_of_others_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    for name in ("thesis.txt", "plan.toml", ledger.MARK):
        (tmp_path / "mine" / name).write_text('models = ["mine"]')
        with pytest.raises(UsageError, match="holds something else than a sweep"):
            ledger.Ledger(tmp_path / "mine").begin("other")
        assert (tmp_path / "mine" / name).read_text() == 'models = ["mine"]'
    kept = ledger.Ledger(tmp_path / "own")
    kept.begin("one")
    first = (tmp_path / "own" / ledger.MARK).read_text()
    assert first.startswith("# The plan of the results") and first.endswith("\none")
    kept.begin(first)
    assert (tmp_path / "own" / ledger.MARK).read_text() == first, "its copy is a plan as well"
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="is no folder"):
        ledger.Ledger(tmp_path / "file").check()
