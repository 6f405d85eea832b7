"""ONNX Runtime's NVIDIA providers: what each needs and the options it gets. Nothing is loaded."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

from clipperf.engines.contract import Availability, verdict
from clipperf.engines.profiles import of_cell
from clipperf.nouns.cell import EngineRequest
from clipperf.nouns.variant import FLOAT16, PRECISIONS
from clipperf.system import nvidia
from clipperf.system.files import digest_of

PLUGIN = "onnxruntime_ep_nv_tensorrt_rtx"
PLUGIN_PACKAGE = "onnxruntime-ep-nv-tensorrt-rtx-cu13"

TENSORRT_LIBRARIES = ("libnvinfer.so.10", "libnvinfer_plugin.so.10", "libnvonnxparser.so.10")
"""What the TensorRT provider links, in the order of their dependencies: TensorRT 10, not 11."""

TENSORRT_10 = ">=10.14.1.48.post1,<11"
"""The versions of it that can still be installed, as in pyproject.toml."""


# --- what is installed ---------------------------------------------------------------------


def cuda_availability(device: str) -> Availability:
    """Whether ONNX Runtime's CUDA provider, its libraries and a GPU are there."""
    return verdict(
        [*_provider_problems(), *nvidia.gpu_problems(), *nvidia.missing(cuda_libraries())],
        f"{_ort_version()}, CUDA {cuda_major()}",
    )


def tensorrt_availability(device: str) -> Availability:
    """As for CUDA, and TensorRT 10."""
    package = f"'tensorrt-cu{cuda_major()}{TENSORRT_10}'"
    wanted = {**cuda_libraries(), **dict.fromkeys(TENSORRT_LIBRARIES, package)}
    return verdict(
        [*_provider_problems(), *nvidia.gpu_problems(), *nvidia.missing(wanted)],
        f"{_ort_version()}, TensorRT 10",
    )


def tensorrt_rtx_availability(device: str) -> Availability:
    """Whether the plugin is installed and there is a GPU that it takes."""
    from clipperf.system.env import gpu, version_of

    without = nvidia.gpu_problems()
    problems = [*_provider_problems(), *without]
    if not nvidia.package_folders(PLUGIN):
        problems.append((f"{PLUGIN_PACKAGE} is not installed", f"pip install {PLUGIN_PACKAGE}"))
    found = None if without else gpu()
    if found is not None and not takes_capability(found.compute_capability):
        problems.append((no_capability(found.name, found.compute_capability), "use ort-cuda"))
    version = version_of(PLUGIN_PACKAGE) or "unknown version"
    return verdict(problems, f"{_ort_version()}, plugin {version}")


def takes_capability(capability: tuple[int, int]) -> bool:
    """Whether the plugin lists a GPU of this compute capability (its provider options header)."""
    return capability in ((8, 6), (8, 9)) or capability >= (12, 0)


def no_capability(name: str, capability: tuple[int, int]) -> str:
    """Why the plugin does not take a GPU."""
    major, minor = capability
    return (
        f"{name} has compute capability {major}.{minor}, TensorRT-RTX's plugin takes "
        f"8.6, 8.9, 12.0 and later"
    )


def cuda_libraries() -> dict[str, str]:
    """The libraries that the CUDA provider needs, and the pip package of each."""
    major = cuda_major()
    suffix = "" if major >= 13 else f"-cu{major}"
    return {
        f"libcudart.so.{major}": f"nvidia-cuda-runtime{suffix}",
        f"libcublas.so.{major}": f"nvidia-cublas{suffix}",
        "libcurand.so.10": f"nvidia-curand{suffix}",
        "libcudnn.so.9": f"nvidia-cudnn-cu{major}",
    }


def _provider_problems() -> list[nvidia.Problem]:
    folders = nvidia.package_folders("onnxruntime")
    if any(any(folder.glob("capi/*onnxruntime_providers_cuda.*")) for folder in folders):
        return []
    return [("onnxruntime-gpu is not installed", "pip install onnxruntime-gpu")]


def cuda_major() -> int:
    """The CUDA that the installed onnxruntime-gpu was built for, read without importing it."""
    for folder in nvidia.package_folders("onnxruntime"):
        with contextlib.suppress(OSError):
            text = (folder / "capi" / "build_and_package_info.py").read_text()
            if found := re.search(r"cuda_version = '(\d+)", text):
                return int(found[1])
    return 13


def _ort_version() -> str:
    from clipperf.system.env import version_of

    return f"onnxruntime-gpu {version_of('onnxruntime-gpu') or 'unknown version'}"


# --- options -------------------------------------------------------------------------------


def cuda_options(precision: str, graphs: bool = False) -> dict[str, str]:
    """The CUDA provider's options. TF32 is its default and is switched off for "fp32".

    Its memory arena would double with every extension, which would hide what a tower needs.
    """
    return {
        "device_id": "0",
        "use_tf32": "1" if PRECISIONS.get(precision).tf32 else "0",
        "arena_extend_strategy": "kSameAsRequested",
        "enable_cuda_graph": "1" if graphs else "0",
    }


def profile_tokens(request: EngineRequest) -> int:
    """The longest text of the only profile: shorter ones are padded to it."""
    return of_cell(request).max[1]  # of a text tower; images have no short inputs


def profile_batch(request: EngineRequest) -> int:
    """The most inputs that the only profile takes at once."""
    return of_cell(request).max[0]


def profile(request: EngineRequest) -> dict[str, str]:
    """Shapes by "min", "opt" and "max", as both TensorRT providers spell them.

    They are of one profile, that which TensorRT's own engines run the cell in
    (`engines.profiles`); the TensorRT provider would never leave the first of several.
    """
    one = of_cell(request)
    found = {"min": one.min, "opt": one.opt, "max": one.max}
    return {kind: f"{one.name}:{'x'.join(map(str, shape))}" for kind, shape in found.items()}


def cache_folder(request: EngineRequest) -> Path | None:
    """Where a cell's compiled engine is kept; None where the artifact's key is not known.

    The providers' own cache keys leave out the weights: two checkpoints of one architecture
    would share an engine. The artifact's key holds them.
    """
    if request.cache_folder is None or not request.key:
        return None
    cell = request.cell
    chosen = tensorrt_options(request, None)  # the plugin's profile stands in them, too
    digest = digest_of(request.key, cell.runtime, cell.precision, chosen, _ort_version())
    return Path(request.cache_folder) / f"{cell.runtime}-{digest}"


def tensorrt_options(request: EngineRequest, folder: Path | None) -> dict[str, str]:
    """The TensorRT provider's options; engines are kept in `folder`, under a prefix of ours.

    Where fp16 is on, its networks are typed weakly: TensorRT may choose fp16 for what the graph
    has in fp32. In norms that a graph spells out, a Pow whose mean is taken stays in fp32, since
    squares pass fp16's limit from 256 on. Norms that are one operator, as in clipperf's own graphs,
    are TensorRT's own affair, and without fp16 the option is nothing.
    """
    shapes = profile(request)
    half = str(PRECISIONS.get(request.cell.precision).weights == FLOAT16)
    options = {
        "device_id": "0",
        "trt_fp16_enable": half,
        "trt_layer_norm_fp32_fallback": half,
        **{f"trt_profile_{kind}_shapes": text for kind, text in shapes.items()},
    }
    if folder is not None:
        options |= {
            "trt_engine_cache_enable": "True",
            "trt_engine_cache_path": str(folder),
            "trt_engine_cache_prefix": digest_of(request.key, request.cell.precision, shapes),
        }
    return options


def tensorrt_rtx_options(request: EngineRequest, folder: Path | None) -> dict[str, str]:
    """The plugin's options; what it compiles for the GPU at run time is kept in `folder`."""
    options = {f"nv_profile_{kind}_shapes": text for kind, text in profile(request).items()}
    return options if folder is None else {**options, "nv_runtime_cache_path": str(folder)}
