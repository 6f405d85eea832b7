"""The GPU runtimes of PyTorch and ONNX Runtime, as far as a machine without a GPU can show."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from clipperf.engines import contract, ort_gpu, ort_log, pytorch
from clipperf.engines import ort_providers as providers
from clipperf.engines.onnxruntime import check_provider, run_error
from clipperf.engines.ort_buffers import DriverBuffers
from clipperf.errors import EngineError, StorageError, UnsupportedError
from clipperf.models import zoo
from clipperf.nouns.cell import Cell, EngineRequest
from clipperf.nouns.model import ModelSpec
from clipperf.nouns.variant import Side
from clipperf.system import env, nvidia

ROOT = Path(__file__).parents[2]
HAS_GPU = env.gpu() is not None
without_gpu = pytest.mark.skipif(HAS_GPU, reason="says what happens without a GPU")

SPEC = ModelSpec("toy::random:0", "open_clip", "toy", "random:0", 224, 77, 4)


def request(
    runtime: str = "ort-trt",
    precision: str = "fp16",
    side: Side = "image",
    batch: int = 8,
    tokens: int | None = None,
    **more: Any,
) -> EngineRequest:
    cell = Cell(SPEC.id, side, runtime, precision, "cuda", batch, threads=1, tokens=tokens)
    return EngineRequest(cell, SPEC, more.pop("path", None), **more)


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    """pixels [batch, 4] times a matrix of twos: every output is twice the sum of its row."""
    value = helper.make_tensor_value_info
    node = helper.make_node("MatMul", ["pixel_values", "w"], ["image_embeds"])
    twos = helper.make_tensor("w", TensorProto.FLOAT, [4, 3], np.full(12, 2.0))
    body = helper.make_graph(
        [node],
        "toy",
        [value("pixel_values", TensorProto.FLOAT, ["batch", 4])],
        [value("image_embeds", TensorProto.FLOAT, ["batch", 3])],
        [twos],
    )
    model = helper.make_model(body, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, tmp_path / "toy.onnx")
    return tmp_path / "toy.onnx"


def test_a_session_is_not_opened_again_from_files_that_took_the_place(
    graph: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tokenizer and the rest of the old model are still in use."""
    failing: list[str] = []

    def session(*given: Any, **named: Any) -> Any:
        real = onnxruntime.InferenceSession(str(graph), providers=["CPUExecutionProvider"])

        class Session:
            def __getattr__(self, name: str) -> Any:
                return getattr(real, name)

            def run_with_iobinding(self, binding: Any, options: Any) -> None:
                if failing:
                    raise RuntimeError(failing.pop())
                real.run_with_iobinding(binding)

        return Session()

    monkeypatch.setattr(ort_gpu, "_session", session)
    monkeypatch.setattr(ort_gpu, "_load_cuda", lambda: None)
    engine = ort_gpu.open_cuda(request("ort-cuda", path=str(graph)))
    monkeypatch.setattr(engine, "_buffers", DriverBuffers("cpu"))
    rows = np.ones((2, 4), np.float32)
    assert engine.run(rows).tolist() == [[8.0] * 3] * 2
    for _ in range(2):
        failing.append("CUDA failure 2: out of memory")
        with pytest.raises(EngineError, match="out of memory at batch 2"):
            engine.run(rows)
        assert engine.run(rows).tolist() == [[8.0] * 3] * 2, "opened again"
    failing.append("CUDA failure 2: out of memory")
    with pytest.raises(EngineError, match="out of memory"):
        engine.run(rows)
    data = graph.read_bytes()
    graph.unlink()
    graph.write_bytes(data + b"\0")
    for _ in range(2):
        with pytest.raises(EngineError, match="replaced or removed: open the model again"):
            engine.run(rows)
    engine.close()


# --- options -------------------------------------------------------------------------------


def test_cuda_multiplies_in_tf32_only_where_asked() -> None:
    assert providers.cuda_options("fp32")["use_tf32"] == "0"
    assert providers.cuda_options("tf32")["use_tf32"] == "1"
    assert providers.cuda_options("fp16")["use_tf32"] == "0"


@pytest.mark.parametrize(
    ("side", "batch", "tokens", "expected"),
    [
        ("image", 8, None, [f"pixel_values:{n}x3x224x224" for n in (1, 8, 64)]),
        ("image", 2, None, [f"pixel_values:{n}x3x224x224" for n in (1, 1, 64)]),
        ("image", 128, None, [f"pixel_values:{n}x3x224x224" for n in (1, 64, 512)]),
        ("text", 1, 8, ["input_ids:1x8", "input_ids:8x8", "input_ids:64x8"]),
        ("text", 1, 20, ["input_ids:1x17", "input_ids:8x24", "input_ids:64x24"]),
        ("text", 1, 5, ["input_ids:1x5", "input_ids:8x8", "input_ids:64x8"]),
        ("text", 4, None, ["input_ids:1x49", "input_ids:8x77", "input_ids:64x77"]),
    ],
)
def test_profile_covers_the_cell(
    side: str, batch: int, tokens: int | None, expected: list[str]
) -> None:
    found = providers.profile(request(side=side, batch=batch, tokens=tokens))
    assert [found["min"], found["opt"], found["max"]] == expected


def test_tensorrt_options(tmp_path: Path) -> None:
    plain = providers.tensorrt_options(request(precision="tf32"), None)
    assert plain["trt_fp16_enable"] == plain["trt_layer_norm_fp32_fallback"] == "False"
    assert not any("cache" in name for name in plain)
    kept = providers.tensorrt_options(request(key="k"), tmp_path)
    assert kept["trt_fp16_enable"] == kept["trt_layer_norm_fp32_fallback"] == "True"
    assert kept["trt_engine_cache_enable"] == "True"
    assert kept["trt_engine_cache_path"] == str(tmp_path)
    assert kept["trt_profile_opt_shapes"] == "pixel_values:8x3x224x224"


def test_onnx_runtime_knows_every_tensorrt_option(tmp_path: Path) -> None:
    """Names and values are parsed before TensorRT is looked for, so this needs no GPU."""

    def complaint(options: dict[str, str]) -> str:
        try:
            onnxruntime.SessionOptions().add_provider(ort_gpu.TENSORRT, options)
        except Exception as exc:  # noqa: BLE001 - whatever it says is what is tested
            return str(exc)
        return ""

    assert "Invalid TensorRT EP option" in complaint({"trt_bogus": "1"})
    for flag in ("trt_fp16_enable", "trt_layer_norm_fp32_fallback"):
        assert "should be 'True' or 'False'" in complaint({flag: "1"})
    given = complaint(providers.tensorrt_options(request(key="k"), tmp_path))
    assert "Invalid TensorRT EP option" not in given
    assert "value for the key" not in given


def test_the_plugin_s_header_knows_every_option(tmp_path: Path) -> None:
    folders = nvidia.package_folders(providers.PLUGIN)
    if not folders:
        pytest.skip(f"{providers.PLUGIN_PACKAGE} is not installed")
    header = (folders[0] / "tensorrt_rtx_provider_options.h").read_text()
    options = providers.tensorrt_rtx_options(request("ort-trt-rtx", key="k"), tmp_path)
    assert options["nv_runtime_cache_path"] == str(tmp_path)
    assert len(options) == 4
    assert all(f'"{name}"' in header for name in options)


def test_two_checkpoints_never_share_an_engine(tmp_path: Path) -> None:
    first, again, other = (
        request(key=key, cache_folder=str(tmp_path)) for key in ("one", "one", "two")
    )
    assert providers.cache_folder(first) == providers.cache_folder(again)
    assert providers.cache_folder(first) != providers.cache_folder(other)
    prefixes = [
        providers.tensorrt_options(each, tmp_path)["trt_engine_cache_prefix"]
        for each in (first, other)
    ]
    assert len(set(prefixes)) == 2
    assert providers.cache_folder(request(cache_folder=str(tmp_path))) is None, "no key, no cache"


def test_an_engine_with_other_options_is_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one of an earlier clipperf, which left norms in fp16 to TensorRT."""
    kept = request(key="k", cache_folder=str(tmp_path))
    before, options = providers.cache_folder(kept), providers.tensorrt_options

    def without(*given: Any) -> dict[str, str]:
        return {**options(*given), "trt_layer_norm_fp32_fallback": "False"}

    monkeypatch.setattr(providers, "tensorrt_options", without)
    assert providers.cache_folder(kept) != before


@pytest.mark.parametrize(
    ("capability", "takes"),
    [
        *(((7, 5), False), ((8, 0), False), ((8, 6), True), ((8, 9), True)),
        *(((9, 0), False), ((12, 0), True), ((12, 1), True)),
    ],
)
def test_gpus_of_the_plugin(capability: tuple[int, int], takes: bool) -> None:
    assert providers.takes_capability(capability) is takes


# --- the engine cache ----------------------------------------------------------------------


def test_engine_is_built_once_and_a_failed_build_leaves_nothing(
    tmp_path: Path, graph: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = request(key="k", cache_folder=str(tmp_path / "cache"), path=str(graph))
    target = providers.cache_folder(asked)
    assert target is not None
    seen: list[bool] = []

    def build(request: Any, wanted: str, options: Any, named: Any) -> Any:
        folder = Path(named[0][1]["trt_engine_cache_path"])
        seen.append(any(folder.iterdir()))
        (folder / "toy.engine").write_text("half")
        if len(seen) == 1:
            raise EngineError("out of GPU memory")
        return SimpleNamespace()

    monkeypatch.setattr(ort_gpu, "_session", build)
    with pytest.raises(EngineError, match="out of GPU memory"):
        ort_gpu.open_tensorrt(asked)
    assert not target.exists()
    ort_gpu.open_tensorrt(asked)
    ort_gpu.open_tensorrt(asked)
    assert seen == [False, False, True]
    assert [path.name for path in target.iterdir()] == ["toy.engine"]


def test_a_damaged_engine_is_built_again_and_replaced(
    tmp_path: Path, graph: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = request(key="k", cache_folder=str(tmp_path / "cache"), path=str(graph))
    target = providers.cache_folder(asked)
    assert target is not None

    def build(request: Any, wanted: str, options: Any, named: Any) -> Any:
        engine = Path(named[0][1]["trt_engine_cache_path"]) / "toy.engine"
        if engine.exists() and engine.read_text() != "whole":
            raise EngineError("cannot deserialize the engine")
        engine.write_text("whole")
        return SimpleNamespace()

    monkeypatch.setattr(ort_gpu, "_session", build)
    target.mkdir(parents=True)
    (target / "toy.engine").write_text("half")
    ort_gpu.open_tensorrt(asked)
    assert (target / "toy.engine").read_text() == "whole"
    assert [path.name for path in target.parent.iterdir()] == [target.name]


def test_where_no_engine_can_be_kept_it_is_built_all_the_same(
    tmp_path: Path, graph: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("no folder")
    asked = request(key="k", cache_folder=str(tmp_path / "file" / "cache"), path=str(graph))
    given: list[Any] = []

    def build(request: Any, wanted: str, options: Any, named: Any = None) -> Any:
        given.append(named)
        return SimpleNamespace()

    monkeypatch.setattr(ort_gpu, "_session", build)
    ort_gpu.open_tensorrt(asked)
    assert "trt_engine_cache_path" not in given[0][0][1]


def test_an_engine_that_cannot_be_kept_for_lack_of_space_is_used(
    tmp_path: Path, graph: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Staging a folder fails before the build, or the exchange behind it: it is built once."""
    asked = request(key="k", cache_folder=str(tmp_path / "cache"), path=str(graph))
    built: list[Any] = []
    monkeypatch.setattr(ort_gpu, "_session", lambda *a: built.append(a) or SimpleNamespace())
    for fails_before in (True, False):

        @contextlib.contextmanager
        def full(target: Path, before: bool = fails_before) -> Iterator[Path]:
            if before:
                raise StorageError("disk full")
            yield target
            raise StorageError("disk full")

        monkeypatch.setattr(ort_gpu, "staged", full)
        built.clear()
        ort_gpu.open_tensorrt(asked)
        assert len(built) == 1


UNDAMAGED = {
    "what it cannot do": UnsupportedError("no bf16"),
    "a full GPU": EngineError("CUDA failure 2: out of memory"),
}


@pytest.mark.parametrize("error", UNDAMAGED.values(), ids=UNDAMAGED)
@pytest.mark.parametrize("runtime", ["ort-trt", "ort-trt-rtx"])
def test_an_error_that_is_not_the_caches_fault_leaves_it(
    tmp_path: Path, graph: Path, monkeypatch: pytest.MonkeyPatch, runtime: str, error: EngineError
) -> None:
    opened, failed = watched(monkeypatch, tmp_path, graph, runtime, lambda cached: error)
    with pytest.raises(type(error), match=str(error)):
        opened()
    assert failed == ["kept"]
    assert (next((tmp_path / "cache").iterdir()) / "kernels").read_text() == "whole"


def test_a_cache_is_removed_only_where_it_works_without(
    tmp_path: Path, graph: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    always = EngineError("the driver is too old")
    opened, failed = watched(monkeypatch, tmp_path, graph, "ort-trt-rtx", lambda cached: always)
    with pytest.raises(EngineError, match="driver"):
        opened()
    assert failed == ["kept", "without"]
    (folder,) = (tmp_path / "cache").iterdir()
    assert (folder / "kernels").is_file()
    watched(monkeypatch, tmp_path, graph, "ort-trt-rtx", lambda kept: always if kept else None)
    opened()
    assert not folder.exists()


@pytest.mark.parametrize("runtime", ["ort-trt", "ort-trt-rtx"])
def test_texts_are_padded_to_the_longest_of_the_only_profile(
    runtime: str, tmp_path: Path, graph: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for tokens, longest in ((None, SPEC.context_tokens), (8, 8), (9, 16)):
        opened, _ = watched(
            monkeypatch, tmp_path, graph, runtime, lambda cached: None, tokens, side="text"
        )
        assert opened().min_tokens == longest
        assert opened().max_batch == 64, "which whoever serves must not go beyond"


def watched(
    monkeypatch: pytest.MonkeyPatch,
    root: Path,
    graph: Path,
    runtime: str,
    error: Callable[[bool], EngineError | None],
    tokens: int | None = None,
    side: Side = "image",
) -> tuple[Callable[[], Any], list[str]]:
    """What opens a tower whose cache is there, and fails as `error` says, with or without it."""
    more = {"key": "k", "cache_folder": str(root / "cache"), "path": str(graph)}
    asked = request(runtime, side=side, tokens=tokens, **more)

    def options(request: Any, folder: Path | None) -> dict[str, str]:
        return {"folder": str(folder)}

    monkeypatch.setattr(providers, "tensorrt_options", options)  # a cache's name is of them, too
    target = providers.cache_folder(asked)
    assert target is not None
    target.mkdir(parents=True, exist_ok=True)
    (target / "kernels").write_text("whole")
    failed: list[str] = []

    def session(request: Any, wanted: str, options: Any, named: Any = None) -> Any:
        given = named[0][1] if named else options.given
        kept = given["folder"] == str(target)
        found = error(kept)
        if found is not None:
            failed.append("kept" if kept else "without")
            raise found
        return SimpleNamespace(
            get_inputs=lambda: [SimpleNamespace(name="pixel_values")],
            get_outputs=lambda: [SimpleNamespace(name="image_embeds")],
        )

    class Options:
        given: dict[str, str]

        def add_provider_for_devices(self, devices: Any, chosen: dict[str, str]) -> None:
            self.given = chosen

    class Device:
        def memory_info(self, kind: Any) -> str:
            return f"memory of {kind}"

    monkeypatch.setattr(providers, "tensorrt_rtx_options", options)
    monkeypatch.setattr(ort_gpu, "plugin_devices", lambda: [Device()])
    monkeypatch.setattr(ort_gpu, "_options", lambda request: Options())
    monkeypatch.setattr(ort_gpu, "_session", session)
    opened = {"ort-trt": ort_gpu.open_tensorrt, "ort-trt-rtx": ort_gpu.open_tensorrt_rtx}[runtime]
    return lambda: opened(asked), failed


# --- the provider that really ran ----------------------------------------------------------


def part(provider: str, *operators: str) -> SimpleNamespace:
    nodes = [SimpleNamespace(op_type=name) for name in operators]
    return SimpleNamespace(ep_name=provider, get_nodes=lambda: nodes)


class FakeSession:
    """A session that says what it is told to."""

    def __init__(self, running: list[str], *parts: SimpleNamespace) -> None:
        self.get_providers = lambda: running
        self.get_provider_graph_assignment_info = lambda: parts


def test_silent_fallback_is_an_error_with_its_reason() -> None:
    fallen = FakeSession(["CPUExecutionProvider"])
    with pytest.raises(EngineError, match=r"asked for CUDA.*chose CPU.*: libcurand is missing"):
        check_provider(fallen, ort_gpu.CUDA, "libcurand is missing")
    check_provider(FakeSession([ort_gpu.CUDA, "CPUExecutionProvider"]), ort_gpu.CUDA)


def test_a_provider_that_leads_the_list_but_runs_nothing_is_an_error() -> None:
    running = [ort_gpu.TENSORRT, ort_gpu.CUDA, "CPUExecutionProvider"]
    lying = FakeSession(running, part(ort_gpu.CUDA, "MatMul", "Add"))
    check_provider(lying, ort_gpu.TENSORRT)
    with pytest.raises(EngineError, match="MatMul to CUDAExecutionProvider"):
        ort_gpu.check_placement(lying, ort_gpu.TENSORRT)
    with pytest.raises(EngineError, match="not to Tensorrt"):
        ort_gpu.check_placement(FakeSession(running, part(ort_gpu.CUDA, "Add")), ort_gpu.TENSORRT)
    shapes_on_cpu = part("CPUExecutionProvider", "Shape", "Gather")
    honest = FakeSession(running, part(ort_gpu.TENSORRT, "MatMul", "Conv"), shapes_on_cpu)
    ort_gpu.check_placement(honest, ort_gpu.TENSORRT)


def test_onnx_runtime_s_own_record_of_placement(graph: Path) -> None:
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry(ort_gpu.RECORD_PLACEMENT, "1")
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    ort_gpu.check_placement(session, "CPUExecutionProvider")
    with pytest.raises(EngineError, match="MatMul to CPUExecutionProvider, not to CUDA"):
        ort_gpu.check_placement(session, ort_gpu.CUDA)


OPEN = """
import sys
from clipperf.engines import contract
from clipperf.errors import EngineError
from clipperf.nouns.cell import Cell, EngineRequest
from clipperf.nouns.model import ModelSpec

name, path = sys.argv[1:]
spec = ModelSpec("toy::random:0", "open_clip", "toy", "random:0", 224, 77, 4)
cell = Cell(spec.id, "image", name, "fp16", "cuda", 8, 1)
try:
    contract.get(name).open(EngineRequest(cell, spec, path))
except EngineError as exc:
    print(exc)
assert "torch" not in sys.modules
"""


@without_gpu
@pytest.mark.parametrize("runtime", ["ort-cuda", "ort-trt", "ort-trt-rtx"])
def test_asked_for_real_without_a_gpu(runtime: str, graph: Path) -> None:
    """Registering and opening fail in one clear line, print nothing, and never import torch."""
    if runtime == "ort-trt-rtx" and not nvidia.package_folders(providers.PLUGIN):
        pytest.skip(f"{providers.PLUGIN_PACKAGE} is not installed")
    done = subprocess.run(
        [sys.executable, "-c", OPEN, runtime, str(graph)],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    assert len(said) == 1, said
    assert "ExecutionProvider" in said[0]
    assert "lib" in said[0] or "CUDA" in said[0], said


@pytest.mark.parametrize("runtime", ["ort-cuda", "ort-trt", "ort-trt-rtx"])
def test_precisions_that_a_provider_does_not_run(runtime: str) -> None:
    with pytest.raises(UnsupportedError, match=f"{runtime} runs .*fp16, not bf16"):
        contract.get(runtime).open(request(runtime, "bf16", path="toy.onnx"))
    with pytest.raises(EngineError, match="no artifact"):
        contract.get(runtime).open(request(runtime))


def test_reasons_out_of_onnx_runtime_s_log() -> None:
    log = (
        "\x1b[1;31m2026-01-01 [E:onnxruntime:Default, provider_bridge_ort.cc:2458 operator()] "
        "FAIL : Failed to load library /y.so with error: libcurand.so.10: cannot open shared "
        "object file: No such file or directory\n\x1b[m\nEP Error"
    )
    assert ort_log.reason_in(log) == (
        "libcurand.so.10: cannot open shared object file: No such file or directory"
    )
    failed = (
        "/a.cc:1 cudaError CUDA failure 35: driver is insufficient ; GPU=-1 ; hostname=x ; expr"
    )
    assert ort_log.reason_in(failed) == "CUDA failure 35: driver is insufficient"
    assert ort_log.reason_in("\n  plain words \nmore") == "plain words"
    assert ort_log.reason_in("") == ""


def test_what_libraries_write_is_collected_and_passed_on(capfd: pytest.CaptureFixture[str]) -> None:
    with ort_log.collected_stderr() as log:
        subprocess.run(["/bin/sh", "-c", "echo deep >&2"], check=True)
    assert log == ["deep\n"]
    assert capfd.readouterr().err == "deep\n"


def test_what_nobody_needs_is_dropped(capfd: pytest.CaptureFixture[str]) -> None:
    """Else a warning at every session would be taken for the reason of an error."""
    warning = "[W:onnxruntime:Default] No registered plugin EP device found for 'CUDA'"
    with ort_log.collected_stderr() as log:
        subprocess.run(["/bin/sh", "-c", f'echo "{warning}" >&2; echo why >&2'], check=True)
    assert log == ["why\n"]
    assert ort_log.reason_in(log[0]) == "why"
    assert capfd.readouterr().err == "why\n"


def test_a_full_gpu_is_said_plainly() -> None:
    real = RuntimeError("bfc_arena.cc:376 Failed to allocate memory for requested buffer of size 9")
    assert str(run_error(real, 512)) == (
        "onnxruntime: out of memory at batch 512; use a smaller --batch"
    )


# --- what is missing -----------------------------------------------------------------------


def test_missing_libraries_are_named_with_their_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    (tmp_path / "libtoy.so.1").touch()
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
    wanted = {"libtoy.so.1": "toy", "libtoy.so.2": "toy2", "libtoyhelper.so.2": "toy2"}
    problems = nvidia.missing(wanted)
    assert problems == [("no libtoy.so.2, libtoyhelper.so.2", "pip install toy2")]
    found = contract.verdict([*problems, ("no GPU", "buy one")], "all well")
    assert not found.usable
    assert found.detail == "no libtoy.so.2, libtoyhelper.so.2; no GPU"
    assert found.fix == "pip install toy2; buy one"
    assert contract.verdict([], "all well") == contract.Availability(True, "all well")


def test_the_cuda_provider_links_what_is_looked_for() -> None:
    """The names in the table are those in the provider's own list of libraries."""
    folder = nvidia.package_folders("onnxruntime")[0] / "capi"
    provider = folder / "libonnxruntime_providers_cuda.so"
    if not provider.exists():
        pytest.skip("onnxruntime-gpu for Linux is not installed")
    content = provider.read_bytes()
    names = [name for name in providers.cuda_libraries() if "cudnn" not in name]
    assert all(name.encode() in content for name in names), names
    linked = (folder / "libonnxruntime_providers_tensorrt.so").read_bytes()
    assert b"libnvinfer.so.10" in linked
    assert b"libcudnn.so.9" in linked


@without_gpu
@pytest.mark.parametrize(
    "runtime", ["torch", "torch-compile", "ort-cuda", "ort-trt", "ort-trt-rtx"]
)
def test_every_gpu_runtime_says_that_there_is_no_gpu(runtime: str) -> None:
    found = contract.get(runtime).availability("cuda")
    assert not found.usable
    assert "no NVIDIA GPU" in found.detail
    assert "\n" not in found.detail + found.fix


# --- torch ---------------------------------------------------------------------------------


def test_compiled_text_tower_equals_eager() -> None:
    spec = zoo.resolve("clipperf-sample")
    if not contract.get("torch-compile").availability("cpu").usable:
        pytest.skip("no C++ compiler")
    tokens = np.random.default_rng(0).integers(1, 400, (2, spec.context_tokens))
    embeds = []
    for runtime in ("torch", "torch-compile"):
        cell = Cell(spec.id, "text", runtime, "fp32", "cpu", 2, 2)
        engine = contract.get(runtime).open(EngineRequest(cell, spec, None))
        embeds.append(engine.run(tokens))
        engine.close()
    np.testing.assert_allclose(embeds[0], embeds[1], atol=2e-5)
    assert not np.array_equal(embeds[0][0], embeds[0][1])


def test_no_compiler_is_said_with_what_mends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("CXX", "no-such-compiler")
    found = contract.get("torch-compile").availability("cpu")
    assert not found.usable
    assert "C++ compiler" in found.detail
    assert "g++" in found.fix
    assert contract.get("torch").availability("cpu").usable
    said = pytorch.run_error(RuntimeError("InvalidCxxCompiler: No working C++ compiler"), "at x")
    assert "apt install g++" in str(said)
    said = pytorch.run_error(
        RuntimeError("CppCompileError: fatal error: Python.h: No such"), "at x"
    )
    assert "apt install python3-dev" in str(said)


def test_memory_errors_of_torch() -> None:
    import torch

    full = pytorch.run_error(torch.OutOfMemoryError("CUDA out of memory. Tried"), "at batch 64")
    assert str(full) == "out of GPU memory at batch 64; use a smaller --batch"
    copied = RuntimeError("CUDA error: out of memory\nCompile with TORCH_USE_CUDA_DSA")
    assert str(pytorch.run_error(copied, "at batch 9")).startswith("out of GPU memory at batch 9")
    other = pytorch.run_error(RuntimeError("\nshapes differ\nmore"), "at batch 1")
    assert str(other) == "torch: shapes differ"
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert "out of RAM" in str(pytorch.run_error(caught.value, "at batch 1"))


def test_tf32_is_not_for_the_cpu() -> None:
    cell = Cell("m", "image", "torch", "tf32", "cpu", 1, 1)
    with pytest.raises(UnsupportedError, match="tf32 is a mode of NVIDIA GPUs"):
        pytorch.open(EngineRequest(cell, SPEC, None))


@pytest.mark.skipif(
    not pytorch.compile_availability("cpu").usable, reason="torch.compile needs a compiler"
)
def test_more_shapes_are_compiled_than_torch_allows_by_default() -> None:
    """All engines of a process share what is compiled of one function."""
    import torch
    import torch._dynamo

    class Doubled(torch.nn.Module):
        def forward(self, given: torch.Tensor) -> torch.Tensor:
            return given * 2

    torch._dynamo.reset()
    with torch._dynamo.config.patch(recompile_limit=2, accumulated_recompile_limit=2):
        engine = pytorch.PyTorchEngine(pytorch.compiled(Doubled()))
        for rows in range(2, 6):
            assert engine.run(np.ones((rows, 3), np.float32)).tolist() == [[2.0] * 3] * rows
