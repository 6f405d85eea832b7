"""Real TensorRT builds, with TensorRT for RTX on whatever machine this is: no GPU is needed."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from conftest import ROOT

from clipperf.engines.contract import TOKEN_BUCKETS
from clipperf.engines.profiles import token_range
from clipperf.engines.tensorrt import flavours, plan_file
from clipperf.errors import ArtifactError, ExportError, MissingDependencyError, UsageError
from clipperf.export.job import Job
from clipperf.export.jobs import plan as tensorrt
from clipperf.export.plan_options import (
    EngineSettings,
    check_support,
    profiles_for,
    settings_of,
)
from clipperf.nouns.artifact import ShapeRange, TensorSpec
from clipperf.nouns.variant import Side, Variant
from clipperf.serialize import to_json
from clipperf.system import files, store
from clipperf.system.env import version_of

pytestmark = pytest.mark.skipif(
    not flavours.installed("trt-rtx"),
    reason="TensorRT for RTX is not installed: pip install 'clipperf[trt-rtx]'",
)

WIDTH = 64
INPUT = TensorSpec("x", "float32", ("batch", WIDTH))
OUTPUT = TensorSpec("y", "float32", ("batch", WIDTH))


def engine(precision: str = "fp32", runtime: str = "trt-rtx", **settings: Any) -> Variant:
    return Variant(runtime, precision, settings=EngineSettings(**settings))


def changed(variant: Variant, **settings: Any) -> Variant:
    return replace(variant, settings=replace(settings_of(variant), **settings))


AMPERE_ON = engine(targets=("sm86", "sm89", "sm120"))


def save(path: Path, nodes: list[Any], weights: list[Any], **options: Any) -> Path:
    """An ONNX file from `x` to `y`, both float32 [batch, 64]."""
    import onnx
    from onnx import TensorProto, helper

    graph = helper.make_graph(
        nodes,
        "toy",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, list(INPUT.shape))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, list(OUTPUT.shape))],
        weights,
    )
    opset = [helper.make_opsetid("", 20)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), path, **options)
    return path


def matmul(path: Path, kind: str = "FLOAT", seed: int = 0, **options: Any) -> Path:
    """One product with random weights, computed in the type `kind`."""
    from onnx import TensorProto, helper, numpy_helper

    dtype = TensorProto.DataType.Value(kind)
    values = np.random.default_rng(seed).standard_normal((WIDTH, WIDTH))
    weights = values.astype(helper.tensor_dtype_to_np_dtype(dtype))
    nodes = [
        helper.make_node("Cast", ["x"], ["inside"], to=dtype),
        helper.make_node("MatMul", ["inside", "w"], ["product"], name="product"),
        helper.make_node("Cast", ["product"], ["y"], to=TensorProto.FLOAT),
    ]
    return save(path, nodes, [numpy_helper.from_array(weights, "w")], **options)


def build(onnx: Path, variant: Variant = AMPERE_ON, plan: Path | None = None) -> Path:
    """Build with the toy's input; returns the plan."""
    plan = plan or onnx.with_suffix(".plan")
    tensorrt.build_plan(onnx, plan, variant, (INPUT,), label="toy")
    return plan


# --- real towers ---------------------------------------------------------------------------


@pytest.mark.parametrize("side", ["image", "text"])
def test_the_sample_builds_for_three_targets(
    sample_artifact: Path, side: Side, tmp_path: Path
) -> None:
    manifest = store.read_manifest(sample_artifact)
    tower = manifest.tower(side)
    assert tower is not None
    tokens = token_range(manifest.spec.context_tokens)
    plan = tmp_path / "model.plan"
    job = Job(
        "tensorrt", manifest.spec, side, changed(AMPERE_ON, batch=(1, 4, 16), tokens=tokens),
        str(tmp_path), str(plan), (str(sample_artifact),), threads=1, min_cosine=0.9,
    )  # fmt: skip
    code = (
        "import json, sys\n"
        "from clipperf.export.exporter import job_from_json\n"
        "from clipperf.serialize import to_json\n"
        "exporter, job = job_from_json(json.load(sys.stdin))\n"
        "done = exporter.job(job, lambda stage: None)\n"
        "print(json.dumps([to_json(done), 'torch' in sys.modules]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=json.dumps(to_json(job)),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    told, torch_loaded = json.loads(done.stdout)
    info = plan_file.read(plan)
    assert (told["build_s"], told["peak_rss_bytes"]) == (info.build_s, info.peak_rss_bytes)
    assert (told["inputs"], told["outputs"]) == (to_json(info.inputs), to_json(info.outputs))
    assert told["tokens"] == tower.tokens
    assert not torch_loaded
    assert info.targets == ("sm86", "sm89", "sm120")
    assert (info.gpu, info.side, info.precision) == (None, side, "fp32")
    assert info.inputs == tower.inputs and info.outputs == tower.outputs
    assert info.plan_bytes == plan.stat().st_size
    assert info.plan_sha256 == files.sha256_file(plan)
    assert info.version == plan_file.read_header(plan).version  # type: ignore[union-attr]
    context = manifest.spec.context_tokens
    px = manifest.spec.image_px
    if side == "text":
        lengths = [bucket for bucket in TOKEN_BUCKETS if bucket < context] + [context]
        assert [one.max for one in info.profile] == [(16, length) for length in lengths]
        assert [one.min[1] for one in info.profile[1:]] == [n + 1 for n in lengths[:-1]]
        assert {one.opt[0] for one in info.profile} == {4} and info.profile[0].min == (1, 8)
    else:
        assert [one.opt[0] for one in info.profile] == [1, 4, 8, 16]
        assert {one.min for one in info.profile} == {(1, 3, px, px)}
        assert {one.max for one in info.profile} == {(16, 3, px, px)}
    assert info.build_s > 0
    # The library alone is some 110 MiB.
    assert info.peak_rss_bytes is None or 2**26 < info.peak_rss_bytes < 2**30
    assert plan_file.check(plan) == []


def test_half_precision_of_the_sample(sample_artifact: Path, tmp_path: Path) -> None:
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    full = sample_artifact / "image/model.onnx"
    half = tmp_path / "half.onnx"
    onnx.save(convert_float_to_float16(onnx.load(full), keep_io_types=True), half)
    px = store.read_manifest(sample_artifact).spec.image_px
    pixels = (TensorSpec("pixel_values", "float32", ("batch", 3, px, px)),)
    sizes = []
    for onnx_path, precision, targets in ((full, "fp32", ("sm86",)), (half, "fp16", ("sm75",))):
        plan = tmp_path / f"{precision}.plan"
        tensorrt.build_plan(onnx_path, plan, engine(precision, targets=targets), pixels)
        sizes.append(plan.stat().st_size)
    assert sizes[1] < 0.75 * sizes[0]


# --- what changes a plan -------------------------------------------------------------------


def test_a_build_repeats_byte_for_byte_and_other_weights_make_another(tmp_path: Path) -> None:
    first = matmul(tmp_path / "a.onnx", seed=1)
    other = matmul(tmp_path / "b.onnx", seed=2)
    again = build(first, plan=tmp_path / "again.plan")
    plans = [files.sha256_file(path) for path in (build(first), again, build(other))]
    assert plans[0] == plans[1] != plans[2]
    assert files.sha256_file(first) != files.sha256_file(other)


@pytest.mark.parametrize(
    "change",
    [
        replace(AMPERE_ON, precision="tf32"),
        changed(AMPERE_ON, targets=("sm86",)),
        changed(AMPERE_ON, batch=(1, 8, 32)),
    ],
    ids=["precision", "targets", "batch"],
)
def test_options_change_the_plan(tmp_path: Path, change: Variant) -> None:
    onnx = matmul(tmp_path / "a.onnx")
    plain = build(onnx, plan=tmp_path / "plain.plan").read_bytes()
    other = build(onnx, change, tmp_path / "other.plan").read_bytes()
    assert plain != other


def test_external_data_is_read(tmp_path: Path) -> None:
    inside = build(matmul(tmp_path / "inside.onnx"))
    outside = matmul(
        tmp_path / "outside.onnx", save_as_external_data=True, location="w", size_threshold=0
    )
    assert (tmp_path / "w").stat().st_size == WIDTH * WIDTH * 4
    assert build(outside).read_bytes() == inside.read_bytes()


def test_brain_floats_build_from_ampere_on(tmp_path: Path) -> None:
    onnx = matmul(tmp_path / "a.onnx", "BFLOAT16")
    options = replace(AMPERE_ON, precision="bf16")
    build(onnx, options)
    with pytest.raises(ExportError, match=r"Cannot compile for target.*sm75.*b16") as raised:
        build(onnx, changed(options, targets=("sm75",)), tmp_path / "turing.plan")
    assert "\n" not in str(raised.value)
    assert "TensorRT for RTX cannot build toy" in str(raised.value)
    assert not (tmp_path / "turing.plan").exists()


def test_turing_has_no_full_precision_products(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"SM75.*FP32 GEMM is not supported"):
        build(matmul(tmp_path / "a.onnx"), changed(AMPERE_ON, targets=("sm75",)))


def quantised(path: Path, quantiser: str) -> Path:
    """A product between quantise and dequantise nodes, weights stored in 8 bits."""
    from onnx import TensorProto, helper

    kind = TensorProto.INT8 if quantiser == "int8" else TensorProto.FLOAT8E4M3FN
    values = np.random.default_rng(0).integers(-9, 9, WIDTH * WIDTH).astype(np.float32)
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "x_scale", "zero"], ["x8"]),
        helper.make_node("DequantizeLinear", ["x8", "x_scale", "zero"], ["xq"]),
        helper.make_node("DequantizeLinear", ["w8", "w_scale", "zero"], ["wq"]),
        helper.make_node("MatMul", ["xq", "wq"], ["y"]),
    ]
    scales = [helper.make_tensor(n, TensorProto.FLOAT, [], [0.05]) for n in ("x_scale", "w_scale")]
    return save(
        path,
        nodes,
        [
            helper.make_tensor("w8", kind, [WIDTH, WIDTH], values),
            helper.make_tensor("zero", kind, [], [0]),
            *scales,
        ],
    )


@pytest.mark.parametrize("precision", ["int8", "fp8"])
def test_quantised_graphs_build(tmp_path: Path, precision: str) -> None:
    onnx = quantised(tmp_path / "a.onnx", precision)
    plan = build(onnx, engine(precision, targets=("sm89", "sm120")))
    assert plan_file.read_header(plan).targets == ("sm89", "sm120")  # type: ignore[union-attr]


def test_eight_bit_floats_need_ada(tmp_path: Path) -> None:
    onnx = quantised(tmp_path / "a.onnx", "fp8")
    with pytest.raises(ExportError, match="sm86"):
        build(onnx, engine("fp8", targets=("sm86",)))


def test_what_onnxruntime_quantises_builds(tmp_path: Path) -> None:
    from onnxruntime import quantization as q

    source = matmul(tmp_path / "a.onnx")

    class Reader(q.CalibrationDataReader):
        def __init__(self) -> None:
            noise = np.random.default_rng(0).standard_normal((4, WIDTH)).astype(np.float32)
            self.left = [{"x": noise}]

        def get_next(self) -> Any:
            return self.left.pop() if self.left else None

    q.quantize_static(
        source, tmp_path / "q.onnx", Reader(), quant_format=q.QuantFormat.QDQ,
        activation_type=q.QuantType.QInt8, weight_type=q.QuantType.QInt8,
        extra_options={"ActivationSymmetric": True, "WeightSymmetric": True},
    )  # fmt: skip
    build(tmp_path / "q.onnx", replace(AMPERE_ON, precision="int8"))


# --- failures ------------------------------------------------------------------------------


def test_an_unknown_operator_is_one_error_with_its_node(tmp_path: Path) -> None:
    from onnx import helper

    onnx = save(tmp_path / "a.onnx", [helper.make_node("Bogus", ["x"], ["y"], name="odd")], [])
    with pytest.raises(ExportError) as raised:
        build(onnx)
    text = str(raised.value)
    assert "cannot read toy" in text and "node 'odd' (Bogus)" in text and "Plugin not found" in text
    assert "\n" not in text


def test_garbage_is_no_graph(tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_bytes(b"hello" * 20)
    with pytest.raises(ExportError, match="not an ONNX model"):
        build(tmp_path / "a.onnx")
    assert list(tmp_path.iterdir()) == [tmp_path / "a.onnx"]


def test_short_external_data_is_named(tmp_path: Path) -> None:
    onnx = matmul(tmp_path / "a.onnx", save_as_external_data=True, location="w", size_threshold=0)
    (tmp_path / "w").write_bytes(bytes(100))
    with pytest.raises(ExportError, match=r"out of range for file: .*file size=100"):
        build(onnx)


def test_the_wrong_shape_is_a_failed_build_with_the_logged_reason(tmp_path: Path) -> None:
    onnx = matmul(tmp_path / "a.onnx")
    wrong = TensorSpec("x", "float32", ("batch", WIDTH + 1))
    with pytest.raises(ExportError, match=r"cannot build toy: .*tensor x and profile 0"):
        tensorrt.build_plan(onnx, tmp_path / "p", AMPERE_ON, (wrong,), label="toy")
    with pytest.raises(ExportError, match="the graph takes x, not pixel_values"):
        tensorrt.build_plan(onnx, tmp_path / "p", AMPERE_ON, (replace(INPUT, name="pixel_values"),))


def test_a_full_disk_leaves_the_old_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from clipperf.errors import StorageError

    onnx = matmul(tmp_path / "a.onnx")
    plan = build(onnx)
    before = plan.read_bytes()

    class Full:
        def write(self, data: bytes) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    real = tensorrt._writer
    monkeypatch.setattr(tensorrt, "_writer", lambda flavour, file: real(flavour, Full()))
    with pytest.raises(StorageError, match="disk full"):
        build(onnx, changed(AMPERE_ON, batch=(1, 2, 3)))
    assert plan.read_bytes() == before
    assert {p.name for p in tmp_path.iterdir()} == {"a.onnx", "a.plan"}


@pytest.mark.skipif(flavours.gpu_kind() is not None, reason="there is a GPU here")
def test_without_a_gpu_the_present_one_cannot_be_the_target(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"needs an NVIDIA GPU.*--target sm89"):
        build(matmul(tmp_path / "a.onnx"), changed(AMPERE_ON, targets=()))


@pytest.mark.gpu
@pytest.mark.usefixtures("one_gpu")
@pytest.mark.skipif(flavours.gpu_kind() is None, reason="no NVIDIA GPU or driver here")
def test_without_targets_the_present_gpu_is_the_target(tmp_path: Path) -> None:
    kind = flavours.gpu_kind()
    if kind not in flavours.capabilities(flavours.load("trt-rtx")).targets:
        pytest.skip(f"TensorRT for RTX does not build for {kind}")
    onnx = matmul(tmp_path / "a.onnx")
    built = tensorrt.build_plan(
        onnx, tmp_path / "p", changed(AMPERE_ON, targets=()), (INPUT,), label="toy"
    )
    assert built.targets == (kind,)


def test_messages_are_told_only_when_asked(tmp_path: Path) -> None:
    onnx = matmul(tmp_path / "a.onnx")
    for verbose in (False, True):
        told: list[str] = []
        tensorrt.build_plan(
            onnx, tmp_path / "p", changed(AMPERE_ON, verbose=verbose), (INPUT,), tell=told.append
        )
        assert any(line.startswith("building for sm86, sm89, sm120") for line in told)
        assert any(line.startswith("tensorrt: ") for line in told) == verbose


# --- options -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"batch": (2, 1, 8)}, "--batch 2:1:8"),
        ({"batch": (0, 1, 8)}, "--batch"),
        ({"targets": ("ada",)}, "--target ada"),
        ({"targets": ("sm86", "sm86")}, "twice"),
        ({"workspace_bytes": 10}, "--workspace"),
        ({"opt_level": 6}, "--opt-level 6"),
    ],
)
def test_wrong_options_are_named(change: dict[str, Any], named: str) -> None:
    with pytest.raises(UsageError, match=named):
        changed(AMPERE_ON, **change)


RTX = flavours.Capabilities(("sm86", "sm89"), (), False, True, 1)
FULL = flavours.Capabilities((), ("ampere-plus",), True, False, 2)


@pytest.mark.parametrize(
    ("options", "can", "named"),
    [
        (
            engine("fp16", targets=("sm90",)),
            RTX,
            "choose --target from sm86, sm89",
        ),
        (engine("fp16", "trt", targets=("sm90",)), FULL, "leave out --target"),
        (engine("fp16", hardware_compat="ampere-plus"), RTX, "--target instead"),
        (engine("fp16", "trt", hardware_compat="all"), FULL, "choose from ampere-plus"),
        (engine("fp16", timing_cache="t"), RTX, "--timing-cache"),
    ],
)
def test_what_a_flavour_lacks_is_refused(options: Variant, can: Any, named: str) -> None:
    with pytest.raises(UsageError, match=named):
        check_support(options, can)


def test_ranges_fill_the_dynamic_axes_only() -> None:
    options = EngineSettings(batch=(1, 2, 4), tokens=token_range(20))
    text = profiles_for(TensorSpec("input_ids", "int64", ("batch", "tokens")), options)
    assert [(one.min, one.opt, one.max) for one in text] == [
        ((1, 8), (2, 8), (4, 8)),
        ((1, 9), (2, 16), (4, 16)),
        ((1, 17), (2, 20), (4, 20)),
    ]
    image = profiles_for(TensorSpec("pixel_values", "float32", ("batch", 3, 8, 8)), options)
    assert [(one.min, one.opt, one.max) for one in image] == [
        ((1, 3, 8, 8), (opt, 3, 8, 8), (4, 3, 8, 8)) for opt in (1, 2, 4)
    ]
    with pytest.raises(ExportError, match="'width'"):
        profiles_for(TensorSpec("x", "float32", ("batch", "width")), options)


def test_a_profile_that_tensorrt_refuses_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    onnx = matmul(tmp_path / "toy.onnx")
    wrong = ShapeRange("x", (1, WIDTH), (8, WIDTH), (4, WIDTH))
    monkeypatch.setattr(tensorrt, "profiles_for", lambda given, options: (wrong,))
    said = r"TensorRT for RTX refuses the profile \[1, 64\]:\[8, 64\]:\[4, 64\] of x"
    with pytest.raises(ExportError, match=said):
        build(onnx)


# --- flavours ------------------------------------------------------------------------------


def test_rtx_is_found_and_looked_at() -> None:
    can = flavours.capabilities(flavours.load("trt-rtx"))
    assert {"sm75", "sm86", "sm89", "sm120"} <= set(can.targets)
    assert (can.hardware_compat, can.timing_cache, can.runtime_cache) == ((), False, True)
    numbers = (flavours.version("trt-rtx") or "").split(".")
    assert len(numbers) == 4 and all(number.isdigit() for number in numbers)


def test_asking_what_is_installed_imports_nothing() -> None:
    code = (
        "import sys\n"
        "from clipperf.engines.tensorrt import flavours\n"
        "print([flavours.version(f) for f in flavours.FLAVOURS])\n"
        "assert not [n for n in sys.modules if n.startswith('tensorrt')]\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_type_stubs_alone_are_no_tensorrt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tensorrt").mkdir()
    (tmp_path / "tensorrt" / "__init__.pyi").touch()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    assert not flavours.installed("trt")
    assert flavours.version("trt") is None
    with pytest.raises(MissingDependencyError, match=r"pip install 'clipperf\[trt\]'"):
        flavours.load("trt")


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """TensorRT for RTX that poses as full TensorRT; what it is told ends up in the dictionary."""
    rtx = flavours.load("trt-rtx")
    told: dict[str, Any] = {}

    class Cache:
        def __init__(self, data: bytes) -> None:
            self.data = data

        def serialize(self) -> bytes:
            return self.data + b"+"

    class Config:
        """Forwards what both flavours know, keeps the rest."""

        def __init__(self, real: Any) -> None:
            object.__setattr__(self, "real", real)

        def __getattr__(self, name: str) -> Any:
            assert name not in ("set_compute_capability", "num_compute_capabilities")
            return getattr(self.real, name)

        def __setattr__(self, name: str, value: Any) -> None:
            told[name] = value

        def create_timing_cache(self, data: bytes) -> Cache | None:
            return None if data == b"damaged" else Cache(data)

        def set_timing_cache(self, cache: Cache, ignore_mismatch: bool) -> bool:
            told["cache"] = cache
            return True

        def get_timing_cache(self) -> Cache:
            return told["cache"]

        def set_memory_pool_limit(self, pool: Any, size: int) -> None:
            told[pool.name] = size

    class Builder(rtx.Builder):  # type: ignore[misc,name-defined]
        def __init__(self, logger: Any) -> None:
            rtx.Builder.__init__(self, logger)

        def create_builder_config(self) -> Any:
            return Config(rtx.Builder.create_builder_config(self))

        def build_serialized_network_to_stream(self, network: Any, config: Any, to: Any) -> bool:
            return bool(
                rtx.Builder.build_serialized_network_to_stream(self, network, config.real, to)
            )

    module = ModuleType("tensorrt")
    lacking = {"ComputeCapability", "IRuntimeCache"}
    vars(module).update({k: v for k, v in vars(rtx).items() if k not in lacking})
    vars(module).update(Builder=Builder)
    real_load: Callable[[str], ModuleType] = flavours.load
    monkeypatch.setattr(flavours, "load", lambda f: module if f == "trt" else real_load(f))
    return told


def test_full_tensorrt_gets_its_own_options(tmp_path: Path, full: dict[str, Any]) -> None:
    cache = tmp_path / "timings"
    options = engine(
        "tf32", "trt", hardware_compat="ampere-plus", workspace_bytes=2**28, opt_level=4,
        timing_cache=str(cache),
    )  # fmt: skip
    onnx = matmul(tmp_path / "a.onnx")
    build(onnx, options)
    assert full["hardware_compatibility_level"].name == "AMPERE_PLUS"
    assert (full["WORKSPACE"], full["builder_optimization_level"]) == (2**28, 4)
    assert cache.read_bytes() == b"+"
    build(onnx, options)
    assert cache.read_bytes() == b"++"
    cache.write_bytes(b"damaged")
    build(onnx, options)
    assert cache.read_bytes() == b"+"
    cache.unlink()
    cache.mkdir()  # timings that can neither be read nor kept stop no build
    build(onnx, options)
    assert full["cache"].serialize() == b"+" and cache.is_dir()


def test_the_type_checker_sees_the_names_of_tensorrt(tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    if version_of("tensorrt-stubs") is None:
        pytest.skip("no stubs: pip install --no-deps tensorrt-stubs")
    stubs = tmp_path / "stubs"
    subprocess.run([sys.executable, ROOT / "tools/typing_stubs.py", stubs], check=True)
    source = Path(tensorrt.__file__).read_text()
    for word, wrong in (
        ("create_network(", "create_netwrk("),
        ("BuilderFlag.TF32", "BuilderFlag.TF33"),
    ):
        assert word in source
        (tmp_path / "wrong.py").write_text(source.replace(word, wrong))
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "mypy",
                "--cache-dir",
                tmp_path / "cache",
                tmp_path / "wrong.py",
            ],
            capture_output=True,
            text=True,
            cwd=ROOT,
            env={**os.environ, "MYPYPATH": str(stubs)},
        )
        assert done.returncode == 1, done.stdout + done.stderr
        assert wrong.rstrip("(").split(".")[-1] in done.stdout


# --- plans as files ------------------------------------------------------------------------


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    """A sound plan with its sidecar."""
    onnx = matmul(tmp_path / "a.onnx")
    tensorrt.build_engine(
        onnx, tmp_path / "a.plan", AMPERE_ON, model_id="toy", side="image",
        inputs=(INPUT,), outputs=(OUTPUT,), digest=files.sha256_file(onnx),
    )  # fmt: skip
    return tmp_path / "a.plan"


def test_header_bits_are_the_targets(tmp_path: Path) -> None:
    onnx = matmul(tmp_path / "a.onnx", "FLOAT16")
    for kind in flavours.capabilities(flavours.load("trt-rtx")).targets:
        path = build(onnx, engine("fp16", targets=(kind,)))
        header = plan_file.read_header(path)
        assert header is not None and header.targets == (kind,)
        assert header.plan_bytes == path.stat().st_size
        assert header.version == flavours.version("trt-rtx")


@pytest.mark.parametrize("keep", [0, 10, 64, 1000, -1])
def test_truncation_shows_in_the_header(plan: Path, keep: int) -> None:
    plan.write_bytes(plan.read_bytes()[:keep])
    problems = plan_file.check(plan)
    assert len(problems) == 1
    assert ("cut off" if keep >= 64 or keep < 0 else "no plan") in problems[0]


def test_other_damage_is_told_apart(plan: Path) -> None:
    sound = plan.read_bytes()
    plan.write_bytes(sound + b"x")
    assert "1 bytes too many" in plan_file.check(plan)[0]
    changed = bytearray(sound)
    changed[-5] ^= 1
    plan.write_bytes(changed)
    assert "altered" in plan_file.check(plan)[0]
    assert plan_file.check(plan, content=False) == []
    plan.write_bytes(sound)
    assert plan_file.check(plan) == []
    plan.unlink()
    assert "missing" in plan_file.check(plan)[0]


def test_the_sidecar_is_checked(plan: Path) -> None:
    sidecar = plan_file.sidecar_path(plan)
    sound = json.loads(sidecar.read_text())

    def problem(**changes: Any) -> str:
        sidecar.write_text(json.dumps({**sound, **changes}))
        (found,) = plan_file.check(plan)
        return found

    assert "belongs to another plan" in problem(version="1.6.0.1")
    assert "belongs to another plan" in problem(flavour="trt")
    assert "belongs to another plan" in problem(targets=["sm90"])
    assert "is damaged" in problem(flavour="trt-lite")
    assert "is damaged" in problem(inputs=[{}])
    assert "another version of clipperf" in problem(schema_version=99)
    one, *others = sound["profile"]
    assert others, "a batch axis is tuned for several batches"
    for wrong in ({"name": "y"}, {"min": one["min"][1:]}, {"opt": [1000, *one["opt"][1:]]}):
        assert "is damaged" in problem(profile=[one, {**one, **wrong}])
    assert "is damaged" in problem(profile=[])
    sidecar.write_text(json.dumps({**sound, "profile": [one]}))
    assert plan_file.check(plan) == [], "engines had one once"
    sidecar.write_text(json.dumps({**sound, "build_s": "long"}))
    with pytest.raises(ArtifactError, match="build_s"):
        plan_file.read(plan)
    sidecar.write_text("{")
    assert "is damaged" in plan_file.check(plan)[0]
    sidecar.unlink()
    assert "is missing" in plan_file.check(plan)[0]


def test_another_installed_version_or_gpu_is_said(
    plan: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = plan_file.read(plan)
    assert plan_file.obstacle(info, "sm89") is None
    assert plan_file.obstacle(info, None) == "no NVIDIA GPU was found"
    assert "GPU here is sm75" in (plan_file.obstacle(info, "sm75") or "")
    assert (plan_file.obstacle(info, "sm90") or "").startswith(
        "TensorRT for RTX runs on sm75, sm86, sm89, sm120, sm121, not on sm90: export"
    )
    later = replace(info, targets=("sm86",), options={"hardware_compat": "ampere-plus"})
    assert plan_file.obstacle(later, "sm89") is None
    assert plan_file.obstacle(later, "sm75") is not None
    monkeypatch.setattr(flavours, "version", lambda flavour: "1.6.0.1")
    assert f"built with TensorRT for RTX {info.version}, 1.6.0.1 is installed" in (
        plan_file.obstacle(info, "sm89") or ""
    )
    assert "export the model again" in plan_file.check(plan)[0]
    monkeypatch.setattr(flavours, "installed", lambda flavour: False)
    assert "pip install 'clipperf[trt-rtx]'" in plan_file.check(plan)[0]


def test_a_worker_reads_a_sidecar_without_heavy_packages(plan: Path) -> None:
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from clipperf.engines.tensorrt import plan_file\n"
        "path = Path(sys.argv[1])\n"
        "assert plan_file.read(path).side == 'image' and not plan_file.check(path)\n"
        "assert not {'torch', 'tensorrt_rtx_bindings', 'onnx'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(plan)], check=True)


def test_a_copied_plan_is_the_same_plan(plan: Path, tmp_path: Path) -> None:
    (tmp_path / "moved").mkdir()
    for file in (plan, plan_file.sidecar_path(plan)):
        shutil.copy2(file, tmp_path / "moved")
    assert plan_file.check(tmp_path / "moved" / plan.name) == []
