"""The table of precisions: what each is, and in which order tables and `tune` take them."""

from __future__ import annotations

import pytest

from clipperf.errors import UsageError
from clipperf.nouns import variant
from clipperf.nouns.variant import PRECISIONS, Numbers, Variant

ORDER = [
    *("fp32", "tf32", "fp16", "bf16", "int8w", "int8", "int8-row", "int8-static", "int8-bf16"),
    *("int8-fp16", "fp8"),
]


def test_the_order_of_tables() -> None:
    assert PRECISIONS.own() == ORDER
    assert [PRECISIONS.rank(name) for name in ORDER] == list(range(11))
    assert PRECISIONS.rank("of-a-plugin") == 11


@pytest.mark.parametrize(
    ("device", "order"),
    [
        ("cpu", ["int8-bf16", "int8", "bf16", "int8-static", "int8w", "fp32"]),
        ("cuda", ["fp16", "tf32", "int8", "fp8"]),
    ],
)
def test_the_order_in_which_tune_tries(device: str, order: list[str]) -> None:
    tried = [row for row in PRECISIONS.rows if device in row.tune]
    assert {row.name: row.tune[device] for row in tried} == {n: i for i, n in enumerate(order)}
    assert all(set(row.tune) <= {"cpu", "cuda"} for row in PRECISIONS.rows)


@pytest.mark.parametrize(
    ("name", "graph", "weights", "activations", "min_cosine"),
    [
        ("fp32", "fp32", ("float", 32), ("float", 32), 0.99999),
        ("tf32", "fp32", ("float", 32), ("float", 32), 0.999),
        ("fp16", "fp16", ("float", 16), ("float", 16), 0.999),
        ("bf16", "bf16", ("bfloat", 16), ("bfloat", 16), 0.999),
        ("int8w", "fp32", ("int", 8), ("float", 32), 0.99),
        ("int8", "fp32", ("int", 8), ("int", 8), 0.99),
        ("int8-static", "fp32", ("int", 8), ("int", 8), 0.99),
        ("int8-bf16", "bf16", ("int", 8), ("int", 8), 0.99),
        ("int8-fp16", "fp16", ("int", 8), ("int", 8), 0.99),
        ("fp8", "fp16", ("float", 8), ("float", 8), 0.99),
    ],
)
def test_numbers_and_the_least_cosine(
    name: str,
    graph: str,
    weights: tuple[str, int],
    activations: tuple[str, int],
    min_cosine: float,
) -> None:
    row = PRECISIONS.get(name)
    assert (row.name, row.graph, row.min_cosine) == (name, graph, min_cosine)
    assert (row.weights.kind, row.weights.bits) == weights
    assert (row.activations.kind, row.activations.bits) == activations
    bits = {"fp32": ("float", 32), "fp16": ("float", 16), "bf16": ("bfloat", 16)}
    assert (row.floats.kind, row.floats.bits) == bits[graph]


def named(attribute: str) -> list[str]:
    return [row.name for row in PRECISIONS.rows if getattr(row, attribute)]


def test_what_is_true_of_which() -> None:
    assert named("is_baseline") == ["fp32"]
    assert named("tf32") == ["tf32"]
    rounded = ["int8", "int8-row", "int8-static", "int8-bf16", "int8-fp16", "fp8"]
    assert named("samples") == rounded
    assert named("is_fixed") == ["int8-static", "int8-fp16", "fp8"]
    assert named("emulated") == ["int8-fp16", "fp8"]
    assert named("is_quantised") == ORDER[4:]
    assert named("instructions") == ["bf16", "int8-bf16"]
    assert named("arithmetic") == ["bf16"]
    fixed = {row.name: row.fixed for row in PRECISIONS.rows if row.fixed}
    fixes_itself = {name: name for name in ("int8-static", "int8-fp16", "fp8")}
    assert fixed == {"int8": "int8-static", **fixes_itself}
    on_gpu = {name: PRECISIONS.get(name).on_gpu.name for name in ("tf32", "fp16", "int8", "fp8")}
    assert on_gpu == {"tf32": "fp32", "fp16": "fp16", "int8": "int8-fp16", "fp8": "fp8"}
    # bf16 from Ampere on (8.0), fp8 from Ada on (8.9).
    gpus = {row.name: row.first_gpu for row in PRECISIONS.rows if row.first_gpu}
    assert gpus == {"bf16": 80, "fp8": 89}


def test_names_of_onnx() -> None:
    assert {row.name: row.onnx_types for row in PRECISIONS.rows if row.onnx_types} == {
        "fp32": ("FLOAT",),
        "fp16": ("FLOAT16",),
        "bf16": ("BFLOAT16",),
        "int8": ("INT8",),
        "fp8": (
            "FLOAT8E4M3FN",
            "FLOAT8E4M3FNUZ",
            "FLOAT8E5M2",
            "FLOAT8E5M2FNUZ",
            "FLOAT8E8M0",
        ),
    }


def test_words_that_all_modules_share() -> None:
    assert variant.SIDES == ("image", "text")
    assert variant.PIXEL_DTYPES == ("float32", "uint8")
    assert variant.FLOATS == ("float32",)
    assert (variant.BASELINE_RUNTIME, variant.BASELINE_PRECISION) == ("torch", "fp32")


def test_a_variant_without_choices() -> None:
    plain = Variant("onnx")
    assert (plain.precision, plain.pixel_dtype, plain.normalized) == ("fp32", "float32", False)
    assert plain.settings is None
    assert plain.row is PRECISIONS.get("fp32")
    assert plain.row.weights == Numbers("float", 32)


def test_folders_are_named_by_what_is_in_them() -> None:
    assert Variant("onnx").folder_name == "fp32"
    assert Variant("onnx", "int8", "uint8").folder_name == "int8-uint8"
    assert Variant("onnx", normalized=True).folder_name == "fp32-normalized"
    assert Variant("trt", "fp16", "uint8", True).folder_name == "fp16-normalized-uint8"


def test_no_such_precision() -> None:
    with pytest.raises(UsageError, match="no precision 'int4'; choose from: fp32, tf32"):
        _ = Variant("onnx", "int4").row
