"""The tensors of a TorchScript archive, read without running any code of it.

An archive (what `torch.jit.save` writes, and the form of OpenAI's own CLIP files) is a zip file.
Its ``data.pkl`` is the tree of modules: each an object whose class is named after code in the
archive, with its parameters, buffers and submodules as attributes. Here such an object becomes a
dict, tensors are mapped from the file's ``data/`` entries, and every other name is refused.
"""

from __future__ import annotations

import pickle
import re
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def is_archive(path: Path) -> bool:
    """Whether a file is a TorchScript archive: a zip file with constants beside the data."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        names = {name.partition("/")[2] for name in archive.namelist()}
    return {"data.pkl", "constants.pkl"} <= names


def read(path: Path) -> dict[str, torch.Tensor]:
    """Every tensor of an archive under its module's path, memory-mapped.

    Raises:
        pickle.UnpicklingError: it holds something that no archive of modules does.
        OSError, ValueError, KeyError, zipfile.BadZipFile: it is damaged.
    """
    with zipfile.ZipFile(path) as archive:
        name = next(n for n in archive.namelist() if n.endswith("/data.pkl"))
        with archive.open(name) as stream:
            root = _Reader(stream, path, archive, name.removesuffix(".pkl")).load()
    if not isinstance(root, _Module):
        raise pickle.UnpicklingError("its data are no module")
    return dict(_tensors(root, ""))


class _Module(dict[str, Any]):
    """The attributes of one module; `stored` are its parameters and buffers where that is known."""

    stored: frozenset[str] | None = None

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.update(state)


def _tensors(module: _Module, prefix: str) -> list[tuple[str, torch.Tensor]]:
    """A module's parameters and buffers, and those of the modules in it."""
    import torch

    found = []
    for name, value in module.items():
        if isinstance(value, _Module):
            found += _tensors(value, f"{prefix}{name}.")
        elif isinstance(value, torch.Tensor) and (module.stored is None or name in module.stored):
            found.append((f"{prefix}{name}", value))
    return found


def _stored(code: str, name: str) -> frozenset[str] | None:
    """The parameters and buffers of a class, as its code lists them; None where it lists none."""
    own = re.search(rf"^class {re.escape(name)}\(.*?(?=^class |\Z)", code, re.MULTILINE | re.DOTALL)
    lists = re.findall(r"^  __(?:parameters|buffers)__ = \[(.*?)\]", own[0] if own else "", re.M)
    if len(lists) < 2:
        return None
    return frozenset(re.findall(r'"([^"]+)"', " ".join(lists)))


class _Reader(pickle.Unpickler):
    """An unpickler to which nothing but modules, tensors and plain values can be named."""

    def __init__(self, stream: Any, path: Path, archive: zipfile.ZipFile, data: str) -> None:
        super().__init__(stream)
        self._path, self._archive, self._data = path, archive, data
        self._root = data.rpartition("/")[0] + "/"
        self._mapped: Any = None

    def find_class(self, module: str, name: str) -> Any:
        """What a name in the data stands for."""
        import torch

        if module.partition(".")[0] == "__torch__":
            return self._class(module, name)
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _tensor
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module == "torch.jit._pickle":  # typed lists and dicts, beside the weights
            return _plain
        dtype = getattr(torch, _STORED.get(f"{module}.{name}", ""), None)
        if dtype is None:
            raise pickle.UnpicklingError(f"it names {module}.{name}")
        return dtype

    def _class(self, module: str, name: str) -> type[_Module]:
        """The class of modules that the archive's code calls so."""
        entry = f"{self._root}code/{module.replace('.', '/')}.py"
        try:
            code = self._archive.read(entry).decode("utf-8", "replace")
        except KeyError:
            return _Module
        return type(name, (_Module,), {"stored": _stored(code, name)})

    def persistent_load(self, pid: Any) -> Any:
        """The bytes of a tensor, mapped from the file, and their type."""
        import torch

        kind, dtype, key, _, _ = pid
        if kind != "storage" or not isinstance(dtype, torch.dtype):
            raise pickle.UnpicklingError(f"it refers to {kind!r}")
        entry = self._archive.getinfo(f"{self._data}/{key}")
        if entry.compress_type != zipfile.ZIP_STORED:
            raise pickle.UnpicklingError("its tensors are compressed")
        if self._mapped is None:
            size = self._path.stat().st_size
            self._mapped = torch.UntypedStorage.from_file(str(self._path), False, size)
        begin = _begin(self._path, entry)
        return self._mapped[begin : begin + entry.file_size], dtype


_STORED = {
    "torch.DoubleStorage": "float64",
    "torch.FloatStorage": "float32",
    "torch.HalfStorage": "float16",
    "torch.BFloat16Storage": "bfloat16",
    "torch.LongStorage": "int64",
    "torch.IntStorage": "int32",
    "torch.ShortStorage": "int16",
    "torch.CharStorage": "int8",
    "torch.ByteStorage": "uint8",
    "torch.BoolStorage": "bool",
}
"""torch's types by the names of their storages."""


def _tensor(
    stored: Any, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any
) -> torch.Tensor:
    import torch

    storage, dtype = stored
    return torch.empty(0, dtype=dtype).set_(storage, offset, size, stride)


def _plain(value: Any, *_: Any) -> Any:
    return value


def _begin(path: Path, entry: zipfile.ZipInfo) -> int:
    """Where an entry's bytes begin: behind its local header, of 30 bytes and two names."""
    with path.open("rb") as file:
        file.seek(entry.header_offset + 26)
        name, extra = struct.unpack("<HH", file.read(4))
    return entry.header_offset + 30 + int(name) + int(extra)
