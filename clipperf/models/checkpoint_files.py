"""What checkpoint files hold, read without running any code of theirs.

Safetensors, shards of it and PyTorch's files are mapped into memory, so a tensor costs RAM only
where it is read. PyTorch's are unpickled by torch with `weights_only`; what training programs
commonly leave beside the weights is replaced by something that does nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import pickle
import pickletools
import re
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from clipperf.errors import ArtifactError, WeightsError
from clipperf.models import torchscript
from clipperf.system.files import read_json
from clipperf.system.store import cached_sha256
from clipperf.text import shortened

SHARD_LISTS = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
"""Files that say in which file of a folder each tensor is."""
WHOLE_FILES = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    "open_clip_pytorch_model.pth",
    "model.safetensors",
    "pytorch_model.bin",
    "pytorch_model.pth",
    "model.pth",
)
"""Checkpoints by the names that libraries give them, in open_clip's order."""


def read(path: Path) -> Any:
    """What a checkpoint holds: a file, a list of shards, or a folder with either.

    Raises:
        WeightsError: it is not there, damaged, or needs code to be unpickled.
    """
    if path.is_dir():
        path = find(path)
    if path.name.endswith(".index.json"):
        return _shards(path)
    if path.suffix in (".npz", ".npy"):
        raise WeightsError(f"{path} holds numpy arrays: save torch's tensors of them")
    try:
        if _is_safetensors(path):
            return _safetensors(path)
        if torchscript.is_archive(path):
            return torchscript.read(path)
        return _torch_file(path)
    except pickle.UnpicklingError as exc:
        raise WeightsError(_more_than_weights(path, exc)) from exc
    except (RuntimeError, OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as exc:
        raise WeightsError(f"{path} is no readable PyTorch checkpoint: {_first(exc)}") from exc


def parts(path: Path) -> tuple[Path, ...]:
    """The files of a checkpoint: those that a list of shards names, the list first; else itself.

    Raises:
        WeightsError: the list cannot be read, or a file is missing.
    """
    if not path.name.endswith(".index.json"):
        return (path,)
    return (path, *(path.parent / name for name in sorted(set(_places(path).values()))))


def digest(path: Path) -> str:
    """The sha256 of a checkpoint, which takes reading it once; of a list, that of all its files."""
    files = parts(path)
    if len(files) == 1:
        return cached_sha256(path)
    return hashlib.sha256("".join(map(cached_sha256, files)).encode()).hexdigest()


def find(folder: Path) -> Path:
    """The checkpoint in a folder: a list of shards, or one file.

    Raises:
        WeightsError: there is none, or several of which none has a usual name.
    """
    for name in (*WHOLE_FILES[:4], *SHARD_LISTS, *WHOLE_FILES[4:]):
        if (folder / name).is_file():
            return folder / name
    others = [
        path
        for suffix in ("safetensors", "bin", "pth", "pt", "ckpt")
        for path in sorted(folder.glob(f"*.{suffix}"))
    ]
    if len(others) == 1:
        return others[0]
    if any(folder.glob("*.distcp")):
        raise WeightsError(
            f"{folder} is a distributed checkpoint; make one file of it: python -m "
            f"torch.distributed.checkpoint.format_utils dcp_to_torch {folder} weights.pt"
        )
    several = ", ".join(path.name for path in others)
    raise WeightsError(
        f"{folder} holds {'several checkpoints: ' + several if others else 'no checkpoint'}; "
        f"looked for {', '.join((*WHOLE_FILES, *SHARD_LISTS))}. Pass the file"
    )


def _is_safetensors(path: Path) -> bool:
    """By its name, or as it begins: the length of a JSON object, and its brace."""
    if path.suffix == ".safetensors":
        return True
    with path.open("rb") as file:
        begin = file.read(9)
    return begin[8:] == b"{" and int.from_bytes(begin[:8], "little") < path.stat().st_size


def _safetensors(path: Path) -> dict[str, Any]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt", device="cpu") as f:
            return {name: f.get_tensor(name) for name in f.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as exc:
        raise WeightsError(f"{path} is no readable safetensors file: {exc}") from exc


def _places(path: Path) -> dict[str, str]:
    """The file of each tensor that a list names."""
    try:
        places = {
            str(name): str(file) for name, file in read_json(path, large=True)["weight_map"].items()
        }
    except (ArtifactError, KeyError, TypeError, AttributeError) as exc:
        raise WeightsError(f"{path} is no list of shards: {_first(exc)}") from exc
    names = sorted(set(places.values()))
    missing = [name for name in names if not (path.parent / name).is_file()]
    if missing:
        raise WeightsError(
            f"{path} lists {len(names)} files, {len(missing)} of which are not there: "
            f"{', '.join(missing[:3])}. Copy the whole folder"
        )
    return places


def _shards(path: Path) -> dict[str, Any]:
    """The tensors of all files that a list names; each file is read once."""
    places = _places(path)
    found: dict[str, Any] = {}
    for file in parts(path)[1:]:
        found.update(read(file))
    lost = [name for name in places if name not in found]
    if lost:
        raise WeightsError(f"{path} lists {lost[0]}, which {places[lost[0]]} does not hold")
    return found


# --- PyTorch's files -----------------------------------------------------------------------


def _torch_file(path: Path) -> Any:
    try:
        return _loaded(path)
    except pickle.UnpicklingError:
        replaced = [(_stand_in(name), name) for name in _named(path)]
        known: list[Any] = [(value, name) for value, name in replaced if value is not None]
        if not known:
            raise
    import torch

    with torch.serialization.safe_globals(known):
        return _loaded(path)


def _loaded(path: Path) -> Any:
    import torch

    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except RuntimeError as exc:
        if "mmap" not in str(exc):  # files of the old, non-zip format cannot be mapped
            raise
        return torch.load(path, map_location="cpu", weights_only=True)


class Nothing:
    """In the place of an object beside the weights: it takes everything, and holds nothing."""

    def __init__(self, *given: Any) -> None:
        del given

    def __new__(cls, *given: Any) -> Nothing:
        """Whatever the object was made from."""
        del given
        return super().__new__(cls)

    def __setstate__(self, state: Any) -> None:
        del state


def _dict(*given: Any) -> dict[str, Any]:
    del given
    return {}


def _list(*given: Any) -> list[Any]:
    del given
    return []


_FILLED = {"collections.defaultdict": _dict, "collections.deque": _list}
"""What pickle fills itself once it is made."""
_DICTS = ("AttributeDict", "EasyDict", "CfgNode", "ConfigDict")
"""Classes of settings that are pickled as dicts."""
_HARMLESS = (
    *("argparse.Namespace", "types.SimpleNamespace", "typing.Any"),
    *("torch.torch_version.TorchVersion", "builtins.int", "builtins.float", "builtins.str"),
    *("builtins.bool", "builtins.list", "builtins.dict", "builtins.tuple", "builtins.slice"),
    *("builtins.range", "builtins.frozenset", "uuid.UUID", "decimal.Decimal"),
)
_HARMLESS_PACKAGES = (
    *("numpy", "pathlib", "datetime", "omegaconf", "lightning", "pytorch_lightning"),
    *("lightning_fabric", "easydict", "yacs", "ml_collections"),
)
"""What training programs leave beside the weights: options, paths, times, seeds, settings. None of
it is imported or called: an object of these becomes one that holds nothing."""


def _stand_in(name: str) -> Any:
    """What is taken for a name that torch does not take; None for one that nobody expects."""
    owner, _, last = name.rpartition(".")
    if name in _FILLED:
        return _FILLED[name]
    if name not in _HARMLESS and owner.partition(".")[0] not in _HARMLESS_PACKAGES:
        return None
    return OrderedDict if last in _DICTS else Nothing


def _named(path: Path) -> list[str]:
    """The names of classes and functions in a file's pickled part, in the order they come in."""
    found: dict[str, None] = {}
    with contextlib.suppress(ValueError, OSError, KeyError, zipfile.BadZipFile, StopIteration):
        for operation, argument, _ in _operations(path):
            if operation.name == "GLOBAL":
                found[str(argument).replace(" ", ".").replace("__builtin__", "builtins")] = None
    return list(found)


def _operations(path: Path) -> Iterator[Any]:
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            name = next(n for n in archive.namelist() if n.endswith("data.pkl"))
            yield from pickletools.genops(archive.read(name))
        return
    with path.open("rb") as file:
        for _ in range(4):  # the old format: a mark, its version, the machine, the object
            yield from pickletools.genops(file)


def _more_than_weights(path: Path, exc: Exception) -> str:
    said = re.search(r"GLOBAL (\S+)|it names (\S+)", str(exc))
    name = "" if said is None else said[1] or said[2]
    if "torch.distributed" in str(exc):
        return (
            f"{path} holds one process's part of each tensor; save the whole ones, with "
            f"torch.distributed.checkpoint.state_dict.get_model_state_dict and full_state_dict=True"
        )
    if name.startswith(("torch.nn", "open_clip", "transformers")):
        named = f"a whole model ({name}), which is code beside its weights"
    elif name:
        named = f"more than weights ({name})"
    else:
        named = f"more than weights, or is damaged ({_first(exc)})"
    return (
        f"{path} holds {named}; clipperf never unpickles code. Where you trust it, save its "
        f"state_dict() as .safetensors and pass that"
    )


def _first(exc: BaseException) -> str:
    """The first line of an error, without torch's advice about an argument of its own."""
    said = str(exc).rpartition("WeightsUnpickler error:")[2].strip()
    return shortened((said.splitlines() or [type(exc).__name__])[0], 200)
