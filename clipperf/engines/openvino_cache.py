"""What OpenVINO compiled, kept in a folder: which one is the tower's. `sealed` says if whole."""

from __future__ import annotations

import contextlib
from pathlib import Path

from clipperf.nouns.cell import EngineRequest
from clipperf.system.env import cpu_flags, version_of
from clipperf.system.files import digest_of, write_json
from clipperf.system.sealed import CHECKSUMS, folder_sums


def weights_of(path: Path) -> Path:
    """The file that an IR has its weights in."""
    return path.with_suffix(".bin")


def cache_folder(request: EngineRequest, *settings: int) -> Path | None:
    """Where a tower's compiled form is kept; None where it cannot be told from others.

    The weights are not in it but in the artifact's files, so a change of these counts, too, as do
    the `settings` that it is compiled with.
    """
    if request.cache_folder is None or request.path is None or not request.key:
        return None
    path = Path(request.path)
    stamps = []
    for file in (path, weights_of(path)):
        with contextlib.suppress(OSError):  # opening it will say so
            found = file.stat()
            stamps.append((found.st_size, found.st_mtime_ns))
    machine = (version_of("openvino"), sorted(cpu_flags()))
    split = (request.cell.threads, request.cell.streams, *settings)
    digest = digest_of(request.key, request.path, stamps, machine, split)
    return Path(request.cache_folder) / f"openvino-{digest}"


def seal(folder: Path) -> None:
    """Note what a cache folder holds, once it is full."""
    write_json(folder / CHECKSUMS, folder_sums(folder))
