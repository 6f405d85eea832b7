"""What clipperf is installed without: which of its extras brings a package, and how that is said.

The base is what `clipperf.load` needs but for a runtime. The extra of a runtime bears the
runtime's name; those of PyTorch come with `export`.
"""

from __future__ import annotations

import platform
import sys

from clipperf.errors import MissingDependencyError

EXTRAS = {
    "torch": "export",
    "open_clip": "export",
    "onnx": "export",
    "onnx_ir": "export",
    "onnxscript": "export",
    "ml_dtypes": "export",
    "google": "export",  # protobuf, which onnx imports before
    "safetensors": "export",
    "onnxruntime": "onnx",
    "openvino": "openvino",
    "nncf": "openvino-int8",
    "transformers": "eval",
    "cykooz_resizer": "fast",
    "clip_benchmark": "benchmark",
    "pyarrow": "benchmark",
    "scipy": "probe",
    "threadpoolctl": "probe",
    "mteb": "adapters",
    "mlperf_loadgen": "serve",
    "urllib3": "serve",
    "ray": "ray",
    "fsspec": "ray",
}
"""The extra of each module that the base lacks; TensorRT's are in `engines.tensorrt.flavours`."""


GPU_BUILD, CPU_BUILD = "onnxruntime-gpu", "onnxruntime"
"""Two distributions of one module, of which the second that is installed overwrites the first."""

WITH_GPU_BUILD = ("export", "ort-cuda", "ort-trt", "ort-trt-rtx")


def has_gpu_build() -> bool:
    """Whether the first is made for this platform; elsewhere these extras bring the second."""
    if sys.platform != "linux":
        return sys.platform == "win32"
    return platform.machine() == "x86_64"


def install(extra: str) -> str:
    """The command that brings an extra."""
    from clipperf.system.env import version_of  # `--help` needs no more than this module

    said = f"pip install 'clipperf[{extra}]'"
    replaced = extra in WITH_GPU_BUILD and has_gpu_build()
    if replaced and version_of(CPU_BUILD) and not version_of(GPU_BUILD):
        return f"pip uninstall -y {CPU_BUILD} && {said}"
    return said


def bring(module: str) -> str:
    """The command that brings a module of `EXTRAS`."""
    return install(EXTRAS[module])


def missing(module: str, who: str, extra: str) -> MissingDependencyError | None:
    """What to raise where a module is not installed, begun with `who` needs it; None where it is.

    The module is looked for and not imported.
    """
    from importlib import util

    if util.find_spec(module) is not None:
        return None
    return MissingDependencyError(f"{who} {module}, which is not installed: {install(extra)}")


def told(exc: Exception) -> MissingDependencyError | None:
    """An import that failed in the words of this module; None for every other error."""
    module = (exc.name or "").partition(".")[0] if isinstance(exc, ModuleNotFoundError) else ""
    if module not in EXTRAS:
        return None
    return MissingDependencyError(f"this needs {module}, which is not installed: {bring(module)}")
