"""The folder of a run: what an earlier run began there, and what it left half-done."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

from clipperf.embed.manifest import FILE, Manifest, read_manifest, write_manifest
from clipperf.errors import UsageError
from clipperf.system import temporaries
from clipperf.system.files import translated
from clipperf.system.targets import entries_of
from clipperf.text import shown

LISTING = "listing"
"""How the scratch folder of a run is called."""

_SHARD = r"shard-\d{6}(\.\w+)+"
_OURS = re.compile(rf"{re.escape(temporaries.PREFIX)}\d+-[0-9a-f]{{8}}-({LISTING}|{FILE}|{_SHARD})")


@contextlib.contextmanager
def folder(out: Path) -> Iterator[None]:
    """Make a folder, which is gone again where nothing was written; not one that was there."""
    there = out.is_dir()
    with translated(out):
        out.mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        if not there:
            with contextlib.suppress(OSError):
                out.rmdir()


def begun_in(out: Path) -> Manifest | None:
    """What an earlier run began here; None where no shard came of it.

    What it left half-done is removed, once it is sure that the folder is of vectors or empty;
    never what a process still writes, or what is not of such a run.

    Raises:
        UsageError: the folder holds something else.
        ArtifactError: its manifest is of something else, or damaged.
    """
    there = entries_of(out)
    left = [path for path in there if _OURS.fullmatch(path.name)]
    manifest = None
    if (out / FILE) in there:
        manifest = read_manifest(out)
    elif others := [path for path in there if path not in left]:
        raise UsageError(
            f"{shown(out)} holds other files ({shown(others[0].name)}): name an empty folder "
            f"with --out"
        )
    for path in left:
        with contextlib.suppress(OSError), temporaries.without_writer(path) as dead:
            if dead:
                temporaries.remove(path)
    records = (path for path in there if re.fullmatch(r"shard-\d{6}\.json", path.name))
    return manifest if any(records) else None


def begin(out: Path, manifest: Manifest) -> None:
    """Write the manifest of a folder in which no shard is whole; files of one go.

    Raises:
        StorageError: it cannot be written.
    """
    with translated(out):
        for path in entries_of(out):
            if re.fullmatch(_SHARD, path.name):
                path.unlink()
    write_manifest(out, manifest)
