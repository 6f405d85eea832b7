"""ONNX Runtime on an NVIDIA GPU: its CUDA and TensorRT providers and the TensorRT-RTX plugin.

Needs numpy and onnxruntime-gpu, and never imports torch. CUDA's libraries come from the nvidia-*
wheels, where `preload_dlls` finds them, or from the system.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import glob
import io
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from clipperf.engines import contract
from clipperf.engines import ort_providers as providers
from clipperf.engines.onnxruntime import (
    DISABLED_OPTIMIZERS,
    check_provider,
    library,
    said,
    session_options,
)
from clipperf.engines.ort_bound import BoundEngine
from clipperf.engines.ort_buffers import PluginBuffers
from clipperf.engines.ort_log import collected_stderr, reason_in
from clipperf.errors import EngineError, StorageError, UnsupportedError
from clipperf.nouns.cell import EngineRequest
from clipperf.system import nvidia
from clipperf.system.files import locked, staged
from clipperf.system.reading import stamps

CUDA = "CUDAExecutionProvider"
TENSORRT = "TensorrtExecutionProvider"
TENSORRT_RTX = "NvTensorRTRTXExecutionProvider"

NO_GRAPHS = "graph capture feature"
"""Stands in ONNX Runtime's error where a tower has parts that it puts on the CPU."""

RECORD_PLACEMENT = "session.record_ep_graph_assignment_info"

HEAVY_OPERATORS = frozenset({"Conv", "Gemm", "MatMul"})
"""Where these run is where a tower runs. Others, such as the arithmetic on shapes, may stay on
the CPU, where ONNX Runtime puts them on purpose."""


def open_cuda(request: EngineRequest) -> BoundEngine:
    """Open the artifact with the CUDA provider.

    Raises:
        EngineError: the provider or the file cannot be loaded, or another provider would run it.
        UnsupportedError: a precision that it does not run.
    """
    _check(request)
    _load_cuda()

    path = Path(str(request.path))
    first = stamps(_files(path))

    def opened(graphs: bool) -> BoundEngine:
        named = [(CUDA, providers.cuda_options(request.cell.precision, graphs))]

        def session() -> Any:
            if stamps(_files(path)) != first:
                raise EngineError(contract.REPLACED.format(path=path))
            return _session(request, CUDA, _options(request), named)

        return BoundEngine(session, CUDA, graphs=graphs)

    try:
        return opened(graphs=True)
    except EngineError as exc:
        if NO_GRAPHS not in str(exc.__cause__):  # its own words may be another line of the log
            raise
        return opened(graphs=False)


def _files(path: Path) -> list[Path]:
    """A graph and the weights beside it."""
    return sorted(path.parent.glob(f"{glob.escape(path.name)}*"))


def open_tensorrt(request: EngineRequest) -> BoundEngine:
    """Build or load the artifact's TensorRT engine and open it.

    Operators that TensorRT does not take run in the CUDA provider. Errors as `open_cuda`.
    """
    _check(request)
    _load_cuda()
    for wheel in nvidia.package_folders("tensorrt_libs"):
        for name in providers.TENSORRT_LIBRARIES:
            with contextlib.suppress(OSError):  # the session's error says what is missing
                ctypes.CDLL(str(wheel / name))

    def opened(folder: Path | None) -> BoundEngine:
        named = [
            (TENSORRT, providers.tensorrt_options(request, folder)),
            (CUDA, providers.cuda_options(request.cell.precision)),
        ]

        def session() -> Any:
            return _session(request, TENSORRT, _options(request), named)

        return BoundEngine(
            session,
            TENSORRT,
            min_tokens=providers.profile_tokens(request),
            max_batch=providers.profile_batch(request),
        )

    folder, engine = providers.cache_folder(request), None
    if folder is not None:
        with contextlib.suppress(StorageError), locked(folder):  # else it can be kept nowhere
            engine = _kept_engine(folder, opened)
            if engine is None:
                with staged(folder) as staging:  # a kill meanwhile leaves no half of an engine
                    engine = opened(staging)
    return opened(None) if engine is None else engine


def _kept_engine(folder: Path, opened: Callable[[Path | None], BoundEngine]) -> BoundEngine | None:
    """The engine that a folder keeps; None where there is none, or a damaged one.

    Raises:
        EngineError: it is not the folder that is at fault.
    """
    if not folder.is_dir():
        return None
    try:
        return opened(folder)
    except EngineError as exc:
        if not may_be_damage(exc):
            raise
        return None


def may_be_damage(error: EngineError) -> bool:
    """Whether what was kept may be at fault for an error: making it again may help then."""
    # What is too much for RAM may be a length that was damaged.
    full = contract.is_out_of_memory(error) and "bad_alloc" not in str(error)
    return not isinstance(error, UnsupportedError) and not full


def open_tensorrt_rtx(request: EngineRequest) -> BoundEngine:
    """Open the artifact with the TensorRT-RTX plugin. Errors as `open_cuda`."""
    _check(request)
    devices = plugin_devices()
    if not devices:
        raise EngineError(f"{TENSORRT_RTX} finds no GPU that it takes; see clipperf doctor")
    folder = providers.cache_folder(request)

    def opened(folder: Path | None) -> BoundEngine:
        def session() -> Any:
            options, chosen = _options(request), providers.tensorrt_rtx_options(request, folder)
            options.add_provider_for_devices(devices[:1], chosen)
            return _session(request, TENSORRT_RTX, options)

        return BoundEngine(
            session,
            TENSORRT_RTX,
            PluginBuffers(devices[0]),
            min_tokens=providers.profile_tokens(request),
            max_batch=providers.profile_batch(request),
        )

    if folder is None or not _made(folder):
        return opened(None)
    try:
        return opened(folder)
    except EngineError as exc:
        if not may_be_damage(exc):
            raise
        engine = opened(None)  # where that works, what was kept is at fault
        shutil.rmtree(folder, ignore_errors=True)
        return engine


def _made(folder: Path) -> bool:
    """Whether a folder is there, made now if need be."""
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        return True
    return False


def plugin_devices() -> list[Any]:
    """The GPUs that the TensorRT-RTX plugin offers, once it is registered with ONNX Runtime.

    Raises:
        EngineError: the plugin cannot be loaded.
    """
    try:
        _register_plugin()
    except Exception as exc:
        raise EngineError(f"{TENSORRT_RTX} cannot be loaded: {reason_in(str(exc))}") from exc
    return [device for device in library().get_ep_devices() if device.ep_name == TENSORRT_RTX]


@functools.cache
def _register_plugin() -> None:
    """Once per process: a second registration is an error."""
    ort = library()
    import onnxruntime_ep_nv_tensorrt_rtx as plugin

    for runtime in Path(plugin.__file__).parent.glob("libcudart.so.*"):
        ctypes.CDLL(str(runtime))  # the plugin links it, and it is nowhere on the loader's path
    ort.register_execution_provider_library(TENSORRT_RTX, plugin.get_library_path())


# --- sessions ------------------------------------------------------------------------------


def _check(request: EngineRequest) -> None:
    cell = request.cell
    precisions = contract.get(cell.runtime).precisions
    if cell.precision not in precisions:
        known = ", ".join(precisions)
        raise UnsupportedError(f"{cell.runtime} runs {known}, not {cell.precision}")
    if request.path is None:
        raise EngineError(f"{cell.label}: no artifact was given")


def _load_cuda() -> None:
    """Load CUDA's libraries where wheels brought them; what is missing the session will say."""
    ort = library()
    with contextlib.redirect_stdout(io.StringIO()):
        ort.preload_dlls()


def _options(request: EngineRequest) -> Any:
    options = session_options(request.cell.threads)
    options.add_session_config_entry(RECORD_PLACEMENT, "1")
    return options


def _session(
    request: EngineRequest,
    wanted: str,
    options: Any,
    named: list[tuple[str, dict[str, str]]] | None = None,
) -> Any:
    """A session in which `wanted` runs the tower; every other outcome is an EngineError."""
    ort = library()
    failure: Exception | None = None
    with collected_stderr() as log:
        try:
            session = ort.InferenceSession(
                request.path,
                options,
                providers=named,
                disabled_optimizers=DISABLED_OPTIMIZERS,
                enable_fallback=0,
            )
        except Exception as exc:  # noqa: BLE001 - translated below, with what the log says
            failure = exc
    if failure is not None:
        reason = reason_in("".join(log) + said(failure))
        raise EngineError(f"{wanted} cannot load {request.path}: {reason}") from failure
    check_provider(session, wanted, reason_in("".join(log)))
    check_placement(session, wanted)
    return session


def check_placement(session: Any, wanted: str) -> None:
    """Make sure that the operators which cost time were given to `wanted`.

    Leading the list of providers is not enough: one that takes no part of the graph stays there.
    ONNX Runtime says since 1.24 which provider got which operator.

    Raises:
        EngineError: some of them went to another provider, or nothing is left for `wanted`.
    """
    placement = getattr(session, "get_provider_graph_assignment_info", None)
    if placement is None:
        return
    parts = placement()
    elsewhere = {
        f"{node.op_type} to {part.ep_name}"
        for part in parts
        for node in part.get_nodes()
        if part.ep_name != wanted and node.op_type in HEAVY_OPERATORS
    }
    if elsewhere or wanted not in {part.ep_name for part in parts}:
        what = ", ".join(sorted(elsewhere)) or "every operator to another provider"
        raise EngineError(f"onnxruntime gave {what}, not to {wanted}; use another runtime")
