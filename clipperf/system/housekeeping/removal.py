"""What was planned is removed: renamed first, so that nothing half-removed looks whole.

A kill at any moment leaves a thing as it was, or under a temporary name that nobody opens and that
the next writer or the next `gc` removes. What has changed since the plan stays.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from clipperf.errors import ArtifactError, ClipperfError, StorageError
from clipperf.system import temporaries
from clipperf.system.files import locked, read_json, write_json
from clipperf.system.housekeeping.in_use import Held, alone
from clipperf.system.housekeeping.plan import Plan, Removal, stamp_of
from clipperf.system.housekeeping.usage import size_of
from clipperf.system.store import home

BUSY: dict[Held, str] = {
    "with others": "a running command uses the store: repeat this when it is done",
    "unknown": "the file system has no locks that tell if a command uses it: remove it by hand",
}


@dataclass
class Removed:
    """What came of it: what is gone, what stayed and why, what could not be removed."""

    gone: list[Removal] = field(default_factory=list)
    kept: list[tuple[Path, str]] = field(default_factory=list)
    failed: list[tuple[Path, str]] = field(default_factory=list)
    freed_bytes: int = 0


class _StaysError(StorageError):
    """It is left as it is; the message says why."""


def remove(plan: Plan, again: Callable[[], Plan]) -> Removed:
    """Remove what a plan says and `again()`, the same plan made anew, says still."""
    done = Removed()
    away: list[Path] = []
    with alone() as held:
        now = again()
        # What lies beside a folder under temporary names goes with the lock of that.
        for removal in sorted(plan.removals, key=lambda each: each.kind != "leftover"):
            try:
                put = _put_away(removal, held, now)
            except FileNotFoundError:  # somebody was faster
                continue
            except _StaysError as exc:
                done.kept.append((removal.path, str(exc)))
            except (OSError, ClipperfError) as exc:
                said = getattr(exc, "strerror", None) or str(exc)
                done.failed.append((removal.path, said))
            else:
                done.gone.append(removal)
                away += [] if put is None else [put]
    done.freed_bytes = size_of(away).freed
    for put in away:
        with contextlib.suppress(OSError):
            temporaries.remove(put)
        if os.path.lexists(put):
            done.failed.append((put, "not all of it could be removed"))
    with alone() as held:
        if held == "alone":  # else somebody may be about to write where nothing is now
            _tidy(done)
    return done


def _put_away(removal: Removal, held: Held, now: Plan) -> Path | None:
    """Give it a temporary name, which is returned; None where it is gone at once.

    Raises:
        FileNotFoundError: there is nothing.
        _StaysError: it is used, or has changed.
        OSError, ClipperfError: it cannot be renamed.
    """
    path = removal.path
    if not os.path.lexists(path):
        raise FileNotFoundError
    with _nobody_writes(removal):
        if stamp_of(path) != removal.stamp:
            raise _StaysError("it has changed meanwhile")
        if removal.kind == "artifact":
            if path not in {still.path for still in now.removals}:
                said = dict(now.kept).get(path, "something refers to it meanwhile")
                raise _StaysError(said)
            if removal.loads and held != "alone":
                raise _StaysError(BUSY[held])
        if removal.kind == "leftover" and not temporaries.is_one(path.name):
            path.unlink()  # a lock, which is held; under another name it would be somebody's
            return None
        return temporaries.put_away(path)


@contextlib.contextmanager
def _nobody_writes(removal: Removal) -> Iterator[None]:
    """Hold the lock of what is being written there, if anything is."""
    if removal.kind == "leftover":
        with temporaries.without_writer(removal.path) as dead:
            if not dead:
                raise _StaysError("a running process holds it")
            yield
        return

    def refuse() -> None:
        raise _StaysError("a running command is writing it")

    if removal.path.is_dir() and removal.kind != "embeddings":
        with locked(removal.path, 0.0, refuse):
            yield
    else:
        yield


def _tidy(done: Removed) -> None:
    """Remove what is empty above artifacts that are gone, and forget the digests of their files."""
    artifacts = [removal.path for removal in done.gone if removal.kind == "artifact"]
    for path in artifacts:
        for folder in (path.parent, path.parent.parent):
            with contextlib.suppress(OSError):  # something else lies in it
                folder.rmdir()
    if not artifacts:
        return
    with contextlib.suppress(ArtifactError, StorageError):
        known = read_json(home() / "digests.json")
        if isinstance(known, dict):
            top = str(home() / "artifacts") + os.sep
            kept = {
                name: value
                for name, value in known.items()
                if not name.startswith(top) or os.path.lexists(name)
            }
            write_json(home() / "digests.json", kept)
