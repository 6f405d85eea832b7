"""The forms in which vectors lie on the disk, each a record.

A shard in any form has float32 or float16 vectors [rows, dimension] and as many ids.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from clipperf.errors import MissingDependencyError
from clipperf.system import extras

Write = Callable[[Path, Sequence[str], np.ndarray], None]
"""Writes one file of ids and vectors."""


@dataclass(frozen=True)
class Format:
    """A form: how its files are written, by how their names end, and a package that it needs."""

    name: str
    files: dict[str, Write]
    needs: str | None = None


def _vectors(path: Path, ids: Sequence[str], vectors: np.ndarray) -> None:
    del ids
    with open(path, "wb") as file:
        np.lib.format.write_array(file, vectors, version=(1, 0), allow_pickle=False)


def _ids(path: Path, ids: Sequence[str], vectors: np.ndarray) -> None:
    del vectors
    path.write_text(json.dumps(list(ids), ensure_ascii=False) + "\n", "utf-8", newline="\n")


def _safetensors(path: Path, ids: Sequence[str], vectors: np.ndarray) -> None:
    from safetensors.numpy import save_file

    # One entry alone: the order of several differs from run to run.
    save_file({"vectors": vectors}, path, {"ids": json.dumps(list(ids), ensure_ascii=False)})


def _parquet(path: Path, ids: Sequence[str], vectors: np.ndarray) -> None:
    import pyarrow
    import pyarrow.parquet

    flat = pyarrow.array(vectors.reshape(-1))
    columns = {
        "id": pyarrow.array(list(ids), pyarrow.string()),
        "vector": pyarrow.FixedSizeListArray.from_arrays(flat, vectors.shape[1]),
    }
    # Vectors hardly become smaller when they are packed.
    pyarrow.parquet.write_table(
        pyarrow.table(columns), path, compression="NONE", use_dictionary=False
    )


FORMATS: dict[str, Format] = {
    format.name: format
    for format in (
        Format("npy", {".ids.json": _ids, ".npy": _vectors}),
        Format("safetensors", {".safetensors": _safetensors}, "safetensors"),
        Format("parquet", {".parquet": _parquet}, "pyarrow"),
    )
}


def check_format(format: Format) -> None:
    """Raise MissingDependencyError where a form needs a package that is not installed."""
    import importlib.util

    if format.needs is not None and importlib.util.find_spec(format.needs) is None:
        raise MissingDependencyError(
            f"{format.name} needs {format.needs}, which is not installed: {extras.install('embed')}"
        )
