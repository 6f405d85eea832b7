"""What a processor multiplies by its own instructions, from flags that the tests choose."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from clipperf.bench import cost, prepare, tune
from clipperf.bench.profile import Sweep, jobs_of
from clipperf.bench.search import Search
from clipperf.engines import candidates, contract, openvino, processor, pytorch
from clipperf.errors import EngineError, MeasurementError, UnsupportedError
from clipperf.evals import evaluate
from clipperf.export.exporter import exporter_of
from clipperf.inspect import doctor
from clipperf.models import zoo
from clipperf.nouns.cell import Cell, EngineRequest
from clipperf.nouns.variant import PRECISIONS, Variant
from clipperf.system import env

AVX2 = ("avx2",)
VNNI = ("avx2", "avx512f", "avx512_vnni")
BF16 = (*VNNI, "avx512_bf16")
AMX = (*BF16, "amx_tile", "amx_int8", "amx_bf16")
SPEC = zoo.resolve("clipperf-sample")

Become = Callable[[Sequence[str]], None]


@pytest.fixture
def become(monkeypatch: pytest.MonkeyPatch) -> Become:
    """`become(flags)` makes this machine's processor one that has these."""

    def given(flags: Sequence[str]) -> None:
        monkeypatch.setattr(env, "cpu_flags", lambda: frozenset(flags))

    return given


def cell(runtime: str, precision: str, device: str = "cpu") -> Cell:
    return Cell(SPEC.id, "text", runtime, precision, device, 1, 1)


@pytest.mark.parametrize(
    ("flags", "kind", "refused"),
    [
        ((), None, ["bf16", "int8-bf16"]),
        (("asimd", "bf16"), None, ["bf16", "int8-bf16"]),
        (AVX2, "AVX2", ["bf16", "int8-bf16"]),
        (VNNI, "VNNI", ["bf16", "int8-bf16"]),
        (("avx2", "avx_vnni"), "VNNI", ["bf16", "int8-bf16"]),
        (BF16, "VNNI", []),
        (AMX, "AMX", []),
        # No such processor is known: bf16 without products of 8 bits.
        (("avx2", "avx512_bf16"), "AVX2", ["int8-bf16"]),
    ],
)
def test_what_a_processor_is_and_what_it_lacks(
    become: Become, flags: Sequence[str], kind: str | None, refused: list[str]
) -> None:
    become(flags)
    assert processor.kind() == kind
    assert [row.name for row in PRECISIONS.rows if processor.lacks(row)] == refused


def test_the_reason_names_the_instructions_and_what_to_take(become: Become) -> None:
    become(AVX2)
    said = processor.lacks(PRECISIONS.get("int8-bf16"))
    assert said is not None
    assert "avx512_bf16 or amx_bf16 and avx512_vnni or avx_vnni or amx_int8" in said
    assert f"{env.cpu_name()} lacks" in said
    assert "(fp32, int8w, int8, int8-static)" in said


@pytest.mark.parametrize(
    ("runtime", "precision"),
    [
        *(("openvino", "bf16"), ("openvino", "int8-bf16")),
        *(("torch", "bf16"), ("torch-compile", "bf16")),
    ],
)
def test_no_engine_opens_what_would_be_computed_otherwise(
    become: Become, runtime: str, precision: str
) -> None:
    assert precision in contract.get(runtime).precisions
    become(VNNI)
    with pytest.raises(UnsupportedError, match="takes a processor with avx512_bf16 or amx_bf16"):
        contract.get(runtime).open(EngineRequest(cell(runtime, precision), SPEC, "/none.xml"))


def test_on_a_gpu_the_processor_does_not_count(become: Become) -> None:
    become(AVX2)
    processor.check_cell(cell("torch", "bf16", "cuda"))
    with pytest.raises(UnsupportedError):
        processor.check_cell(cell("torch", "bf16"))
    processor.check("a precision of a package")


@pytest.mark.parametrize("precision", ["bf16", "int8-bf16"])
def test_an_export_is_refused_before_anything_is_made(become: Become, precision: str) -> None:
    variant = Variant("openvino", precision)
    become(AVX2)
    with pytest.raises(UnsupportedError, match="amx_bf16"):
        exporter_of(variant).complete(SPEC, variant)
    become(AMX)
    pytest.importorskip("nncf", reason="needs the extra openvino")
    assert exporter_of(variant).complete(SPEC, variant).precision == precision


def test_floats_that_openvino_would_choose_otherwise_are_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Type:
        def get_type_name(self) -> str:
            return "f32"

    class Compiled:
        def get_property(self, name: str) -> Type:
            return Type()

    class Core:
        def compile_model(self, *_: object) -> Compiled:
            return Compiled()

    library = type("openvino", (), {"Core": Core})
    monkeypatch.setattr(openvino, "library", lambda: library)
    with pytest.raises(EngineError, match="would compute in f32, not in bf16"):
        openvino.open_compiled(Path("x.xml"), 1, precision="bf16")


def test_hints_by_precision() -> None:
    hints = {name: openvino.hint_of(name) for name in contract.get("openvino").precisions}
    assert hints == {
        "fp32": "f32", "bf16": "bf16", "int8w": "f32", "int8": "f32", "int8-bf16": "bf16",
    }  # fmt: skip
    assert pytorch.DTYPES[PRECISIONS.get("bf16").weights] == "bfloat16"


# --- the order of candidates ---------------------------------------------------------------

BOTH = {"onnx": "cpu", "openvino": "cpu"}


def order(precisions: Sequence[str] | None = None) -> list[tuple[str, str]]:
    return [(each.runtime, each.precision) for each in candidates.candidates(BOTH, precisions)]


def test_the_measured_come_first_by_their_speed(
    become: Become, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = {
        "AMX": {("openvino", "int8-bf16"): 6.0, ("onnx", "int8"): 4.0, ("openvino", "bf16"): 5.0},
        "AVX2": {("onnx", "int8"): 2.0, ("openvino", "fp32"): 1.5, ("onnx", "fp32"): 1.2},
    }
    monkeypatch.setattr(candidates, "MEASURED", table)
    become(AMX)
    assert order()[:3] == [("openvino", "int8-bf16"), ("openvino", "bf16"), ("onnx", "int8")]
    # What was not measured comes behind, in the order of `tune`.
    assert order()[3:] == [
        ("openvino", "int8"), ("onnx", "int8-static"), ("openvino", "int8w"),
        ("onnx", "fp32"), ("openvino", "fp32"),
    ]  # fmt: skip
    become(AVX2)
    assert order()[:4] == [
        ("onnx", "int8"), ("openvino", "fp32"), ("onnx", "fp32"), ("openvino", "int8-bf16"),
    ]  # fmt: skip
    become(())
    assert order(["fp32", "int8"]) == [
        ("onnx", "fp32"), ("openvino", "fp32"), ("onnx", "int8"), ("openvino", "int8"),
    ]  # fmt: skip


def test_every_measured_figure_is_of_a_candidate() -> None:
    assert set(candidates.MEASURED) == set(processor.KINDS)
    for table in candidates.MEASURED.values():
        for runtime, precision in table:
            assert precision in contract.get(runtime).precisions
            assert "cpu" in PRECISIONS.get(precision).tune
    for kind in ("AVX2",):
        assert not any(PRECISIONS.get(p).instructions for _, p in candidates.MEASURED[kind])


def test_on_a_gpu_nothing_is_measured_yet() -> None:
    found = candidates.candidates({"trt": "cuda", "ort-cuda": "cuda"})
    assert [each.times for each in found] == [None] * len(found)
    assert [each.precision for each in found][:3] == ["fp16", "fp16", "tf32"]
    assert candidates.usable(["trt"], "abacus") == {}


# --- what the doctor says ------------------------------------------------------------------


def test_the_doctor_names_the_instructions_and_what_follows(
    become: Become, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(candidates, "usable", lambda names: BOTH)
    become(AVX2)
    facts = doctor.machine()
    assert facts["Instruction sets"] == "avx2"
    assert facts["bf16"].startswith("not multiplied as such") and "refused" in facts["bf16"]
    assert "7-bit" in facts["8-bit integers"]
    assert facts["Expected first"].startswith("onnx int8 (")
    assert "bf16 (" not in facts["Expected first"]
    become(AMX)
    facts = doctor.machine()
    assert facts["Instruction sets"].endswith("amx_tile, amx_int8, amx_bf16")
    assert facts["bf16"].startswith("multiplied")
    assert facts["Expected first"].startswith("openvino int8-bf16 (6.3x), then openvino int8")
    become(())
    assert doctor.machine()["Instruction sets"] == "none known here"
    monkeypatch.setattr(candidates, "usable", lambda names: {})
    assert doctor.machine()["Expected first"].startswith("nothing")


# --- profile, eval, tune -------------------------------------------------------------------


def test_pytorch_in_bf16_is_a_baseline_on_a_cpu() -> None:
    def setups(runtimes: tuple[str, ...], *precisions: str) -> list[list[str]]:
        sweep = Sweep((SPEC,), runtimes, ("text",), (1,), precisions)
        return [[cell.setup for cell in group.cells] for group in sweep.groups()]

    assert setups(("torch", "openvino"), "bf16") == [["torch fp32", "torch bf16", "openvino bf16"]]
    assert setups(("torch", "openvino"), "int8-bf16") == [["torch fp32", "openvino int8-bf16"]]
    # Others gain nothing there.
    assert setups(("torch", "onnx"), "fp16") == [["torch fp32", "onnx fp16"]]
    assert setups(("torch",), "bf16") == [["torch fp32", "torch bf16"]]
    devices = {"torch": "cpu", "openvino": "cpu", "torch-compile": "cpu"}
    own = prepare.baseline_precisions("cpu", ("bf16", "int8", "fp16"))
    assert own == ("bf16",)
    found = evaluate._cells(SPEC, devices, ("bf16",), own, {}, 1, 8)
    assert [cell.setup for cell in found] == [
        "torch fp32", "torch bf16", "openvino bf16", "torch-compile bf16",
    ]  # fmt: skip
    assert [cell.setup for cell in evaluate._cells(SPEC, devices, ("int8",), own, {}, 1, 8)] == [
        "torch fp32", "openvino int8", "torch-compile int8",
    ]  # fmt: skip


def test_what_the_processor_lacks_is_a_row_that_says_why(become: Become, home: Path) -> None:
    become(VNNI)
    sweep = Sweep((SPEC,), ("torch", "openvino"), ("text",), (1,), ("bf16",))
    (job,) = jobs_of(sweep, sweep.groups(), cost.QUICK, lambda event: None)
    errors = {each.request.cell.setup: each.error for each in job.cells}
    assert errors["torch fp32"] is None
    for setup in ("torch bf16", "openvino bf16"):
        assert "bf16 takes a processor with avx512_bf16 or amx_bf16" in str(errors[setup])
    wishes = tune.Wishes(SPEC, precisions=("bf16", "int8-bf16"))
    space = tune.space(wishes, "text", {"openvino": "cpu"})
    search = Search(
        space, lambda cell: prepare.engine_request(cell, SPEC, lambda stage: None),
        env.capture(), 60.0,
    )  # fmt: skip
    with pytest.raises(MeasurementError, match=r"int8-bf16 takes a processor"):
        search.run()
    assert len(search.trials) == 2
    assert all("takes a processor" in trial.verdict for trial in search.trials.values())
