"""What of NVIDIA's software is installed: looked up on disk, nothing of it is loaded."""

from __future__ import annotations

import functools
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

from clipperf.errors import EngineError

Problem = tuple[str, str]
"""What is missing, and the command that mends it."""


def gpu_problems() -> list[Problem]:
    """Whether there is no NVIDIA GPU with a driver."""
    from clipperf.system.env import gpu

    try:
        found = gpu()
    except EngineError as exc:
        return [(str(exc), "see what nvidia-smi says")]
    if found is None:
        return [("no NVIDIA GPU or driver found", "run on a machine where nvidia-smi works")]
    return []


def missing(libraries: dict[str, str]) -> list[Problem]:
    """The libraries that are not there, of a table of file name to pip package; Linux only.

    Elsewhere nothing is known before the runtime loads them, and its own error has to say it.
    """
    if sys.platform != "linux":
        return []
    absent: dict[str, list[str]] = {}
    for name, package in libraries.items():
        if not has_library(name):
            absent.setdefault(package, []).append(name)
    return [(f"no {', '.join(names)}", f"pip install {pkg}") for pkg, names in absent.items()]


def has_library(name: str) -> bool:
    """Whether a shared library such as "libcublas.so.13" lies where the loader or a wheel has it.

    Runtimes load the libraries of the nvidia-* and tensorrt wheels by path, the others by name.
    """
    listed = os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep)
    folders = [*wheel_folders(), *(Path(folder) for folder in listed if folder)]
    return any((folder / name).exists() for folder in folders) or name in _loader_cache()


def wheel_folders() -> list[Path]:
    """Where pip puts NVIDIA's libraries."""
    nvidia = [path for root in package_folders("nvidia") for path in root.glob("*/lib")]
    return [*nvidia, *package_folders("tensorrt_libs")]


def package_folders(name: str) -> list[Path]:
    """The folders of an installed package (several for a namespace); it is not imported."""
    spec = importlib.util.find_spec(name)
    return [Path(path) for path in (spec and spec.submodule_search_locations) or ()]


@functools.cache
def _loader_cache() -> frozenset[str]:
    """The names that the dynamic loader finds by its cache; none where there is no ldconfig."""
    try:
        done = subprocess.run(
            ["/sbin/ldconfig", "-p"], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return frozenset()
    return frozenset(re.findall(r"^\s+(\S+) \(", done.stdout, flags=re.MULTILINE))
