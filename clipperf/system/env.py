"""What machine this is and which versions are installed. Nothing is timed here."""

from __future__ import annotations

import functools
import os
import platform
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipperf.nouns.result import Environment
from clipperf.system import gpus
from clipperf.system.files import digest_of, utc_now

PACKAGES = (
    "clipperf",
    "numpy",
    "torch",
    "open_clip_torch",
    "onnx",
    "onnxscript",
    "onnxruntime-gpu",
    "onnxruntime",
    "openvino",
    "nncf",
    "onnxruntime-ep-nv-tensorrt-rtx-cu13",
    "tensorrt",
    "tensorrt-cu13",
    "tensorrt-cu12",
    "tensorrt-rtx-cu13-bindings",
    "tensorrt-rtx-cu12-bindings",
    "tensorrt-rtx",
    "triton",
    "nvidia-cudnn-cu13",
    "cuda-bindings",
    "pycuda",
    "pillow",
    "cykooz-resizer",
    "tokenizers",
    "transformers",
    "timm",
    "scipy",
    "mlcommons-loadgen",
)
"""What computes, or makes what is computed with. What else computes comes from packages that bring
records of their own; see `installed_versions`."""


@functools.cache
def version_of(package: str) -> str | None:
    """The installed version of a distribution, or None; does not import it."""
    import importlib.metadata  # RAM that a deployed model need not pay for

    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def installed_versions() -> dict[str, str]:
    """Versions of the packages that can change a figure, without importing any.

    Those that bring runtimes, scenarios or whatever else has a registry are among them.
    """
    found = {name: v for name in PACKAGES if (v := version_of(name)) is not None}
    return found | {name: v for name, v in _bringing().items() if name not in found}


def _bringing() -> dict[str, str]:
    """Versions of the packages that have entry points for clipperf."""
    import importlib.metadata

    points = importlib.metadata.entry_points()
    found = {
        point.dist.name: point.dist.version
        for group in sorted(points.groups)
        if group.startswith("clipperf.")
        for point in points.select(group=group)
        if point.dist is not None
    }
    return dict(sorted(found.items()))


def available_cores() -> int:
    """Cores that this process may use: its affinity, cut by a cgroup quota if there is one."""
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    quota = _cgroup_quota()
    return max(1, min(cores, quota)) if quota else cores


def _cgroup_quota() -> int | None:
    try:
        limit, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
    except (OSError, ValueError):
        return None
    return None if limit == "max" else max(1, int(limit) // int(period))


@dataclass(frozen=True)
class Gpu:
    """An NVIDIA GPU, or a slice of one, as NVML describes it.

    `memory_bytes` is None where the GPU shares the machine's RAM. `lists_processes` says whether
    NVML answers which processes use it, so that their memory can be told apart.
    """

    name: str
    memory_bytes: int | None
    driver: str
    compute_capability: tuple[int, int]
    lists_processes: bool
    uuid: str | None = None


def gpu() -> Gpu | None:
    """The NVIDIA GPU that CUDA uses here (see `system.gpus`), or None where it would see none."""
    with gpus.driver() as nvml:
        if nvml is None or not (found := gpus.visible(nvml)):
            return None
        place = found[0]
        major, minor = nvml.nvmlDeviceGetCudaComputeCapability(place.board)
        return Gpu(
            name=gpus.text(nvml.nvmlDeviceGetName(place.handle)),
            memory_bytes=_memory_bytes(nvml, place.handle),
            driver=gpus.text(nvml.nvmlSystemGetDriverVersion()),
            compute_capability=(major, minor),
            lists_processes=_lists_processes(nvml, place.handle),
            uuid=place.uuid,
        )


def gpu_state() -> tuple[str | None, int | None, str | None]:
    """Name, memory in bytes and driver of `gpu`, or three Nones."""
    found = gpu()
    return (None, None, None) if found is None else (found.name, found.memory_bytes, found.driver)


def _memory_bytes(nvml: Any, device: Any) -> int | None:
    try:
        return int(nvml.nvmlDeviceGetMemoryInfo(device).total)
    except nvml.NVMLError:
        return None


def _lists_processes(nvml: Any, device: Any) -> bool:
    try:
        nvml.nvmlDeviceGetComputeRunningProcesses(device)
    except nvml.NVMLError:
        return False
    return True


@functools.cache
def cpu_flags() -> frozenset[str]:
    """The CPU's instruction sets as Linux names them; empty where it does not say."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return frozenset()
    named = (line.partition(":")[2] for line in lines if line.startswith(("flags", "Features")))
    return frozenset(next(named, "").split())


def saturates_int8() -> bool:
    """Whether this CPU adds two products of 8 bits in 16 bits: x86 without VNNI.

    There ``vpmaddubsw`` saturates, so an unlucky sum is off by several times the result's size.
    """
    x86 = platform.machine() in ("x86_64", "AMD64")
    return x86 and not {"avx512_vnni", "avx_vnni"} & cpu_flags()


def cpu_name() -> str:
    """The processor as the system names it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _git_sha() -> str | None:
    """The commit of the source tree that clipperf runs from; None for an installed wheel."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    try:
        done = subprocess.run(
            ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None


def capture() -> Environment:
    """Describe this machine now; `id` is a digest of everything but the time.

    RAM counts there in GiB: what the kernel keeps of it may differ from one start to the next.
    """
    import psutil

    found = gpu()
    facts = {
        "cpu": cpu_name(),
        "cores": available_cores(),
        "ram_bytes": int(psutil.virtual_memory().total),
        "gpu": found and found.name,
        "gpu_uuid": found and found.uuid,
        "vram_bytes": found and found.memory_bytes,
        "driver": found and found.driver,
        "os": platform.platform(),
        "python": platform.python_version(),
        "versions": installed_versions(),
        "git_sha": _git_sha(),
    }
    named = {**facts, "ram_bytes": round(int(psutil.virtual_memory().total) / 2**30)}
    return Environment(id=digest_of(named), created_utc=utc_now(), **facts)  # type: ignore[arg-type]
