"""TensorRT and TensorRT for RTX: finding them, what each can do, and their log.

Both flavours have one API with small differences. The differences are in `Capabilities`, found
by looking at the module; the rest of clipperf never asks for a version. Types are those of full
TensorRT (package tensorrt-stubs), whichever flavour runs.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any

from clipperf.errors import MissingDependencyError
from clipperf.system import extras
from clipperf.system.env import gpu, version_of

if TYPE_CHECKING:
    import tensorrt

FLAVOURS = ("trt", "trt-rtx")
PRECISIONS = ("fp32", "tf32", "fp16", "bf16", "int8", "fp8")
"""What both build and run."""

BUILDS_WITHOUT_GPU = frozenset({"trt-rtx"})

RUNS_ON = {"trt-rtx": ("sm75", "sm86", "sm89", "sm120", "sm121")}
"""The GPU kinds that a flavour is supported on, where not all are: TensorRT for RTX names compute
capability 7.5, 8.6, 8.9, 12.0 and 12.1, though it builds for 8.0 too (its support matrix)."""

TITLES = {"trt": "TensorRT", "trt-rtx": "TensorRT for RTX"}

INSTALL = {flavour: extras.install(flavour) for flavour in ("trt", "trt-rtx")}

MODULES = {"trt": ("tensorrt",), "trt-rtx": ("tensorrt_rtx", "tensorrt_rtx_bindings")}
"""Names to import; the bindings' wheel of TensorRT for RTX installs only the second."""

LEAST_DRIVER = {"trt": {12: 535, 13: 580}}
"""The first branch of the driver for each CUDA where a flavour names one of its own: TensorRT's
prerequisites of 10.16 to 11.4 on Linux; those of TensorRT for RTX name none."""

DISTRIBUTIONS = {
    "trt": ("tensorrt", "tensorrt-cu13", "tensorrt-cu12"),
    "trt-rtx": ("tensorrt-rtx-cu13-bindings", "tensorrt-rtx-cu12-bindings", "tensorrt-rtx"),
}


@dataclass(frozen=True)
class Capabilities:
    """What a TensorRT module can do.

    `targets` are the GPU kinds ("sm89") that it builds for ahead of time and runs on; empty where
    it only builds for the GPU that is present. `hardware_compat` are the levels at which a plan
    runs on other kinds. `timing_cache` says whether timings of one build can speed up the next,
    `runtime_cache` whether kernels are compiled when a plan is loaded and can be kept then.
    `network_flags` are those that make a network strongly typed.
    """

    targets: tuple[str, ...]
    hardware_compat: tuple[str, ...]
    timing_cache: bool
    runtime_cache: bool
    network_flags: int


def installed(flavour: str) -> bool:
    """Whether a flavour's Python package is there; imports nothing."""
    return _module_name(flavour) is not None


def _module_name(flavour: str) -> str | None:
    for name in MODULES[flavour]:
        spec = importlib.util.find_spec(name)
        # Type stubs alone leave a folder without code, which Python takes for a namespace.
        if spec is not None and spec.origin is not None:
            return name
    return None


def version(flavour: str) -> str | None:
    """The installed version of a flavour as its four numbers, or None; imports nothing."""
    if not installed(flavour):
        return None
    found = next((v for name in DISTRIBUTIONS[flavour] if (v := version_of(name))), None)
    return None if found is None else ".".join(found.split(".")[:4])


def cuda_major(flavour: str) -> int | None:
    """The CUDA that an installed flavour was built for, as its packages' names say; else None."""
    names = (name for name in DISTRIBUTIONS[flavour] if version_of(name) is not None)
    found = (re.search(r"-cu(\d+)", name) for name in names)
    return next((int(match[1]) for match in found if match), None)


def load(flavour: str) -> ModuleType:
    """Import a flavour's module.

    Raises:
        MissingDependencyError: it is not installed, or a library of it is missing.
    """
    name = _module_name(flavour)
    if name is None:
        other = next(f for f in FLAVOURS if f != flavour)
        offer = f"; {TITLES[other]} is installed: --runtime {other}" if installed(other) else ""
        raise MissingDependencyError(
            f"{TITLES[flavour]} is not installed: {INSTALL[flavour]}{offer}"
        )
    try:
        module = importlib.import_module(name)
    except (ImportError, OSError) as exc:
        raise MissingDependencyError(
            f"{TITLES[flavour]} cannot be loaded ({exc}); install it again: {INSTALL[flavour]}"
        ) from exc
    if not hasattr(module, "Builder"):
        raise MissingDependencyError(
            f"{name} is installed without its library; install it again: {INSTALL[flavour]}"
        )
    return module


def capabilities(module: Any) -> Capabilities:
    """Look at a TensorRT module.

    TensorRT for RTX keeps the attributes for timing caches and hardware compatibility but ignores
    them: it times nothing while building, since kernels are compiled where the plan is loaded. So
    the runtime cache, which holds those kernels, tells the two apart.
    """
    members_of = getattr(getattr(module, "ComputeCapability", None), "__members__", ())
    found = [name.lower() for name in members_of if name.startswith("SM")]
    levels = getattr(module, "HardwareCompatibilityLevel", None)
    compiles_at_load = hasattr(module, "IRuntimeCache")
    members = [] if levels is None or compiles_at_load else list(levels.__members__)
    flag = module.NetworkDefinitionCreationFlag.STRONGLY_TYPED
    return Capabilities(
        targets=tuple(kind for kind in found if kind in RUNS_ON["trt-rtx"]),
        hardware_compat=tuple(name.lower().replace("_", "-") for name in members if name != "NONE"),
        timing_cache=not compiles_at_load and hasattr(module, "ITimingCache"),
        runtime_cache=compiles_at_load,
        network_flags=1 << int(flag),
    )


class Log:
    """What TensorRT said. It returns None or False on failure and gives the reason only here."""

    def __init__(self, on_message: Callable[[str], None] | None = None) -> None:
        self.errors: list[str] = []
        self.warnings: list[str] = []
        self._on_message = on_message

    def take(self, severity: str, message: str) -> None:
        """Note one message. `severity` is TensorRT's name for it, such as "INTERNAL_ERROR"."""
        if severity in ("ERROR", "INTERNAL_ERROR"):
            self.errors.append(message.strip())
        elif severity == "WARNING":
            self.warnings.append(message.strip())
        if self._on_message is not None:
            self._on_message(f"{severity.lower()}: {message.strip()}")

    def reason(self) -> str:
        """The errors in one line, each said once."""
        said = dict.fromkeys(" ".join(error.split()) for error in self.errors)
        # Without a driver every failure is followed by this complaint of cleaning up.
        causes = [error for error in said if "catchCudaError" not in error]
        return "; ".join(causes or said) or "it gave no reason"


def logger(flavour: str, log: Log) -> tensorrt.ILogger:
    """A logger for TensorRT that hands everything to `log`. Keep it as long as what uses it."""
    if TYPE_CHECKING:
        import tensorrt as trt
    else:
        trt = load(flavour)

    class Collector(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: trt.ILogger.Severity, message: str) -> None:
            log.take(severity.name, message)

    return Collector()


def unsupported(flavour: str, kind: str) -> str | None:
    """Why a flavour does not run on a GPU kind such as "sm90"; None where it does."""
    known = RUNS_ON.get(flavour)
    if known is None or kind in known:
        return None
    return f"{TITLES[flavour]} runs on {', '.join(known)}, not on {kind}"


def gpu_kind() -> str | None:
    """The kind of the NVIDIA GPU here, such as "sm90", or None."""
    found = gpu()
    return None if found is None else "sm{}{}".format(*found.compute_capability)
