"""Which NVIDIA GPU is meant: NVML's order and CUDA's brought together by UUID.

CUDA numbers what CUDA_VISIBLE_DEVICES lists, by default the fastest first; NVML numbers all, in
the order of their bus. clipperf counts what is visible in the order of the bus. A process uses one
GPU, CUDA's first: `pin` makes the one that a user names the only one that it and its children see.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipperf.errors import EngineError, MissingDependencyError, UsageError

VISIBLE, ORDER = "CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"
BY_BUS = "PCI_BUS_ID"
PINNED = "CLIPPERF_PINNED"
"""What VISIBLE was set to by `pin`, here or in a parent."""

CUDA = "cuda"


@dataclass(frozen=True)
class Place:
    """A GPU, or a slice of one (MIG), as CUDA takes it.

    `handle` is NVML's of what is used, `board` that of the whole GPU: of a slice NVML tells memory
    and processes, and no power or clocks.
    """

    uuid: str
    handle: Any
    board: Any


@contextlib.contextmanager
def driver() -> Iterator[Any]:
    """NVML while the driver answers; None where there is none.

    Raises:
        EngineError: NVML fails within, as where a GPU is lost.
    """
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        yield None
        return
    try:
        yield pynvml
    except pynvml.NVMLError as exc:
        raise EngineError(
            f"NVML does not tell which GPUs there are ({exc}): see what nvidia-smi says"
        ) from exc
    finally:
        with contextlib.suppress(pynvml.NVMLError):  # a GPU that is lost is not let go of
            pynvml.nvmlShutdown()


def visible(nvml: Any) -> list[Place]:
    """What CUDA shows this process's children, in its order; see `child_environment`.

    Of a GPU that is cut into slices CUDA takes the first, unless one is named. As in CUDA, a name
    that is no GPU's hides those behind it.
    """
    boards = []
    for index in range(nvml.nvmlDeviceGetCount()):
        with contextlib.suppress(nvml.NVMLError):  # one that is lost is not CUDA's either
            board = nvml.nvmlDeviceGetHandleByIndex(index)
            boards.append((_bus(nvml, board), board))
    boards = [board for _, board in sorted(boards, key=lambda each: each[0])]
    named = os.environ.get(VISIBLE)
    if named is None:
        whole = (_whole(nvml, board) for board in boards)
        return [place for place in whole if place is not None]
    found: list[Place] = []
    for name in (part.strip() for part in named.split(",")):
        place = _named(nvml, boards, name)
        if place is None:
            break
        found.append(place)
    return found


def _bus(nvml: Any, board: Any) -> tuple[int, int, int]:
    place = nvml.nvmlDeviceGetPciInfo(board)
    return place.domain, place.bus, place.device


def _named(nvml: Any, boards: list[Any], name: str) -> Place | None:
    if name.isdigit():
        return _whole(nvml, boards[int(name)]) if int(name) < len(boards) else None
    if name.startswith("MIG-"):
        try:
            handle = nvml.nvmlDeviceGetHandleByUUID(name)
            return Place(name, handle, nvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(handle))
        except nvml.NVMLError:
            return None
    # CUDA takes the first letters of a UUID, where they are one GPU's alone.
    fitting = [board for board in boards if name and _uuid(nvml, board).startswith(name)]
    return _whole(nvml, fitting[0]) if len(fitting) == 1 else None


def _whole(nvml: Any, board: Any) -> Place | None:
    """A GPU; its first slice where it is cut into some, None where it could be used in none."""
    try:
        cut, _ = nvml.nvmlDeviceGetMigMode(board)
    except nvml.NVMLError:  # most GPUs cannot be cut
        cut = 0
    if not cut:
        return Place(_uuid(nvml, board), board, board)
    for index in range(nvml.nvmlDeviceGetMaxMigDeviceCount(board)):
        with contextlib.suppress(nvml.NVMLError):  # a place for a slice that is not there
            handle = nvml.nvmlDeviceGetMigDeviceHandleByIndex(board, index)
            return Place(_uuid(nvml, handle), handle, board)
    return None


def _uuid(nvml: Any, handle: Any) -> str:
    return text(nvml.nvmlDeviceGetUUID(handle))


def text(value: str | bytes) -> str:
    """What NVML says; some versions say it in bytes."""
    return value.decode() if isinstance(value, bytes) else value


def uuid_of(device: str) -> str | None:
    """The UUID of "cuda" or "cuda:1"; None for other devices and where NVML knows no such GPU."""
    kind, _, which = device.partition(":")
    if kind != CUDA:
        return None
    with driver() as nvml:
        found = [] if nvml is None else [place.uuid for place in visible(nvml)]
    return _of(found, which)


def _of(found: list[str], which: str) -> str | None:
    number = which or "0"
    if number.isdigit():
        return found[int(number)] if int(number) < len(found) else None
    return which if which in found else None


def shown(place: str) -> str:
    """What VISIBLE is for a process that is to see "cuda:1", or "cuda:GPU-...", alone.

    It is the GPU's UUID; where NVML tells none, what this process's own VISIBLE has at that place,
    and without one the number.

    Raises:
        UsageError: there is no such GPU.
    """
    which = place.partition(":")[2] or "0"
    found: list[str] = []
    with contextlib.suppress(ImportError), driver() as nvml:
        found = [] if nvml is None else [each.uuid for each in visible(nvml)]
    if not found:
        named = os.environ.get(VISIBLE)
        if named is None:
            return which
        found = [part for part in map(str.strip, named.split(",")) if part]
    told = _of(found, which)
    if told is None:
        raise UsageError(f"device {place}: there is no such GPU ({_listed(found)})")
    return told


def _listed(found: list[str]) -> str:
    told = (f"cuda:{number} is {each}" for number, each in enumerate(found))
    return ", ".join(told) or "none is visible"


def pin(device: str | None) -> str | None:
    """A device without its number: this process and its children see the GPU that it names alone.

    "cuda:1" is the second that is visible, "cuda:GPU-..." or "cuda:MIG-..." one by its UUID, "cuda"
    and None the first. Returns "cuda" for all of these but None; other devices as they are. Where
    NVML tells of no GPU, as in a container without the driver's utilities, a GPU that is named is
    CUDA's by the same order, that of the bus; where there is none, whoever opens it says so.

    Raises:
        UsageError: there is no such GPU, or this process has begun to use CUDA with another.
        MissingDependencyError: NVML's package is not installed.
        EngineError: NVML fails, as `driver` has it.
    """
    kind, _, which = (device or CUDA).partition(":")
    if kind != CUDA:
        return device
    try:
        with driver() as nvml:
            answers = nvml is not None
            found = [place.uuid for place in visible(nvml)] if answers else []
    except ImportError as exc:
        raise MissingDependencyError(
            f"device {device}: no GPU can be told apart; pip install nvidia-ml-py"
        ) from exc
    by_bus = os.environ.get(ORDER) == BY_BUS
    if not found:
        if answers or not which:
            return device and kind
        if by_bus and os.environ.get(VISIBLE) == os.environ.get(PINNED) == which:
            return kind  # it is this one already: a user's own VISIBLE says nothing of that
        uuid: str | None = shown(f"{CUDA}:{which}")
    else:
        uuid = _of(found, which)
    if uuid is None:
        raise UsageError(f"device {device}: there is no such GPU ({_listed(found)})")
    first = found[:1] == [uuid] and (len(found) == 1 or by_bus)
    if not first and cuda_is_loaded():
        raise UsageError(
            f"device {device}: this process has begun to use CUDA. Start it with "
            f"{VISIBLE}={uuid}, or open the model before anything else uses the GPU"
        )
    os.environ[VISIBLE] = os.environ[PINNED] = uuid
    os.environ[ORDER] = BY_BUS
    return device and kind


def handed_on(device: str | None) -> str | None:
    """A device that `pin` returned as another process finds it: by its UUID.

    Where NVML tells none it is what this process's VISIBLE was set to, which a child inherits.
    """
    if device != CUDA:
        return device
    sees = os.environ.get(VISIBLE)
    which = uuid_of(device) or (sees if sees == os.environ.get(PINNED) else None)
    return device if which is None else f"{device}:{which}"


def cuda_is_loaded() -> bool:
    """Whether CUDA's driver is in this process, which reads the variables once; Linux only."""
    try:
        return "/libcuda.so" in Path("/proc/self/maps").read_text()
    except OSError:
        return False
