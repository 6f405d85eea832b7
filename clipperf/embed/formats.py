"""The forms in which vectors lie on the disk, each a record.

A shard in any form has float32 or float16 vectors [rows, dimension] and as many ids.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from clipperf.errors import UsageError
from clipperf.system import extras

MOST_HEADER_BYTES = 100_000_000
"""The longest header of a safetensors file that its readers take."""

HEADER_ROOM = 1000
"""Bytes of it for all but the ids."""

Write = Callable[[Path, Sequence[str], np.ndarray], None]
"""Writes one file of ids and vectors."""

Read = Callable[[Path], tuple[list[str], np.ndarray]]
"""Reads the ids and vectors of a shard, given its path without suffixes.

Raises OSError, ValueError, KeyError or TypeError where it is damaged."""


@dataclass(frozen=True)
class Format:
    """A form: how its files are written, by how their names end, and a package that it needs."""

    name: str
    files: dict[str, Write]
    read: Read
    needs: str | None = None


def _vectors(path: Path, ids: Sequence[str], vectors: np.ndarray) -> None:
    del ids
    with open(path, "wb") as file:
        np.lib.format.write_array(file, vectors, version=(1, 0), allow_pickle=False)


def _ids(path: Path, ids: Sequence[str], vectors: np.ndarray) -> None:
    del vectors
    path.write_text(json.dumps(list(ids), ensure_ascii=False) + "\n", "utf-8", newline="\n")


def _read_npy(stem: Path) -> tuple[list[str], np.ndarray]:
    ids = json.loads(Path(f"{stem}.ids.json").read_text("utf-8"))
    return ids, np.load(f"{stem}.npy", allow_pickle=False)


def _safetensors(path: Path, ids: Sequence[str], vectors: np.ndarray) -> None:
    from safetensors.numpy import save

    said = json.dumps(list(ids), ensure_ascii=False)
    # Once more, as a text in the JSON of the header.
    size = len(json.dumps(said, ensure_ascii=False).encode())
    if size > MOST_HEADER_BYTES - HEADER_ROOM:
        raise UsageError(
            f"the ids of a shard take {size:,} bytes, a safetensors file has room for "
            f"{MOST_HEADER_BYTES:,}: choose fewer --shard-items or another --format, and another "
            f"--out"
        )
    # One entry alone: the order of several differs from run to run.
    path.write_bytes(save({"vectors": vectors}, {"ids": said}))


def _read_safetensors(stem: Path) -> tuple[list[str], np.ndarray]:
    data = Path(f"{stem}.safetensors").read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    own = header["vectors"]
    dtype = {"F32": np.float32, "F16": np.float16}[own["dtype"]]
    vectors = np.frombuffer(data, dtype, offset=start).reshape(own["shape"])
    return json.loads(header["__metadata__"]["ids"]), vectors


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


def _read_parquet(stem: Path) -> tuple[list[str], np.ndarray]:
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(f"{stem}.parquet").combine_chunks()
    vectors = table["vector"].combine_chunks()
    width = vectors.type.list_size
    return table["id"].to_pylist(), vectors.flatten().to_numpy().reshape(-1, width)


FORMATS: dict[str, Format] = {
    format.name: format
    for format in (
        Format("npy", {".ids.json": _ids, ".npy": _vectors}, _read_npy),
        Format("safetensors", {".safetensors": _safetensors}, _read_safetensors, "safetensors"),
        Format("parquet", {".parquet": _parquet}, _read_parquet, "pyarrow"),
    )
}


def check_format(form: Format) -> None:
    """Raise MissingDependencyError where a form needs a package that is not installed."""
    if form.needs is not None:
        absent = extras.missing(form.needs, f"{form.name} needs", "embed")
        if absent is not None:
            raise absent
