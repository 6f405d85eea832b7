"""The exception tree.

ClipperfError                     everything clipperf raises on purpose
├── UsageError                    bad input; the message names the fix            exit 2
├── MissingDependencyError        an optional package or device is absent         exit 2
├── WeightsError                  weights cannot be fetched, read or matched      exit 1
├── ExportError                   a tower cannot be turned into an artifact       exit 1
│   └── ParityError               exported, but its embeddings drifted too far    exit 1
├── ArtifactError                 a stored artifact is missing, damaged or alien  exit 1
│   └── NotThereError             no artifact has the name that was given          exit 2
├── StorageError                  disk full, unwritable folder, lock held         exit 1
├── EngineError                   a runtime failed to load or to run              exit 1
│   ├── NotFiniteError            a tower ran and gave NaN or infinity            exit 1
│   ├── RefusedError              a server has too much to do to answer           exit 1
│   └── UnsupportedError          this runtime cannot do this cell                exit 1
├── CorruptError                  more inputs cannot be read than were allowed    exit 1
├── ChildError                    a process of clipperf's own died or hung        exit 1
│   └── LimitError                it went over what it may take, and was ended    exit 1
├── ClusterError                  a cluster cannot be joined, or does not fit     exit 1
│   ├── HeadError                 its head no longer answers                      exit 1
│   └── LostError                 its machines or processes were lost, repeatedly exit 1
└── MeasurementError              the harness itself failed                       exit 1

UserWarning
├── AccuracyWarning               what runs may give worse embeddings than it should
├── UnreadableWarning             images that could not be read, where the rest was wanted
└── TuningWarning                 a tuning was made on another machine

Errors of third-party libraries are translated where they are called, with ``from exc``.
"""

from __future__ import annotations

from typing import Any, Literal


class ClipperfError(Exception):
    """Base of every error that clipperf raises on purpose; `exit_code` is the process's.

    Pickled, it takes along which of these caused it: who ended a process is told at home, too.
    """

    exit_code = 1

    def __reduce__(self) -> tuple[Any, ...]:
        cause = self.__cause__
        while cause is not None and not isinstance(cause, ClipperfError):
            cause = cause.__cause__
        state = {**vars(self), **({"__cause__": cause} if cause else {})}
        return type(self), self.args, state


class UsageError(ClipperfError):
    """The caller asked for something that cannot be; the message names the fix."""

    exit_code = 2


class MissingDependencyError(ClipperfError):
    """An optional package, library or device is not there; the message names what to install."""

    exit_code = 2


class WeightsError(ClipperfError):
    """Weights cannot be fetched, read, or do not fit the architecture."""


class ExportError(ClipperfError):
    """A tower cannot be turned into an artifact."""


class ParityError(ExportError):
    """The exported tower's embeddings differ too much from PyTorch fp32."""


class ArtifactError(ClipperfError):
    """A stored artifact is missing, damaged, or was written by an incompatible version."""


class NotThereError(ArtifactError):
    """There is no artifact of the name, or at the path, that the caller gave."""

    exit_code = 2


class StorageError(ClipperfError):
    """The disk is full, a folder cannot be written, or a lock is held too long."""


class EngineError(ClipperfError):
    """A runtime failed to load a tower or to run it."""


class NotFiniteError(EngineError):
    """A tower ran and gave NaN or infinity."""


class RefusedError(EngineError):
    """A server has too much to do for this request; another time it may have not.

    `after_s` is in how many seconds it wants to be asked again, None where it does not say.
    """

    def __init__(self, message: str, after_s: float | None = None) -> None:
        super().__init__(message)
        self.after_s = after_s


class UnsupportedError(EngineError):
    """This runtime cannot do what the cell asks, on this machine or at all."""


class CorruptError(ClipperfError):
    """More inputs of a dataset cannot be read than its user allows."""


class ChildError(ClipperfError):
    """A child process failed, died, hung, or wrote nonsense; callers say what that means to them.

    `code` is its return code, negative for the number of the signal that killed it, None where it
    was ended for its silence. `said` is its last words on standard error, a stack in most cases,
    of which the message holds one line.
    """

    def __init__(self, message: str, code: int | None = None, said: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.said = said

    @property
    def ended(self) -> Literal["killed", "limit"] | None:
        """What ended the child with nothing wrong in it: somebody's signal, or a limit."""
        return "killed" if self.code is not None and -self.code in FROM_OUTSIDE else None


FROM_OUTSIDE = (1, 2, 9, 15)
"""SIGHUP, SIGINT, SIGKILL, SIGTERM: signals that come from elsewhere, not from a crash."""


class LimitError(ChildError):
    """A child process went over a limit that the user has set, and was ended."""

    @property
    def ended(self) -> Literal["killed", "limit"] | None:
        """See `ChildError`."""
        return "limit"


class ClusterError(ClipperfError):
    """A cluster cannot be joined, or has no machine that fits what is asked."""


class HeadError(ClusterError):
    """The head of a cluster no longer answers; without it nothing new begins on the machines."""


class LostError(ClusterError):
    """The machines or processes that did a task were lost, as often as it was tried."""


class MeasurementError(ClipperfError):
    """The harness itself failed: a worker died, or a meter could not be read."""


class AccuracyWarning(UserWarning):
    """What was opened runs here, but may give worse embeddings; the message names the fix."""


class UnreadableWarning(UserWarning):
    """Images that could not be read; the rows of all others are there.

    `reasons` are what is wrong with each, by its place among the images.
    """

    def __init__(self, message: str, reasons: dict[int, str] | None = None) -> None:
        super().__init__(message)
        self.reasons = dict(reasons or {})


class TuningWarning(UserWarning):
    """A tuning was made on another machine; it works here but may not be the best."""
