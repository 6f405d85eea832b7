"""What a processor multiplies by its own instructions, from flags that the tests choose."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from conftest import Become
from processors import AMX, AVX2, BF16, VNNI

from clipperf.engines import contract, openvino, processor, pytorch
from clipperf.errors import EngineError, UnsupportedError
from clipperf.export.exporter import exporter_of
from clipperf.models import zoo
from clipperf.nouns.cell import Cell, EngineRequest
from clipperf.nouns.variant import PRECISIONS, Variant
from clipperf.system import env

SPEC = zoo.resolve("clipperf-sample")


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
