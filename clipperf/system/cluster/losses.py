"""What Ray's errors mean: a machine that is gone, a process that died, or neither."""

from __future__ import annotations

from typing import Any

from clipperf.errors import ClipperfError
from clipperf.system.cluster.machines import Node
from clipperf.text import one_line

NODE = (
    *("NodeDiedError", "LocalRayletDiedError", "TaskUnschedulableError", "OwnerDiedError"),
    # A process that is kept does not answer: Ray takes 15 s to find out that its machine is gone.
    # One that is not is asked what it is, and comes back.
    "ActorUnavailableError",
)


def raised(ray: Any) -> tuple[type[Exception], ...]:
    """What Ray raises where a task's process or machine is gone."""
    return (ray.exceptions.RayError, StopIteration)


def why_not(ray: Any, exc: Exception) -> str | None:
    """Why a task could not even begin on a machine that lives; None where something was lost.

    Ray hands on what was raised where it unpickled the task, which is that clipperf, or what
    brings the task, is not there.
    """
    if not isinstance(exc, ray.exceptions.RayTaskError):
        return None
    lines = [line for line in str(exc).splitlines() if line.strip()]
    named = [line for line in lines if "No module named" in line]
    if named:
        return f"{one_line(named[-1])}: install the same clipperf there"
    return one_line(lines[-1] if lines else type(exc).__name__)


def say_where(error: ClipperfError, node: Node) -> None:
    """Put the name of the machine that it is of before what an error says, if it is not there."""
    if node.name not in str(error) and error.args == (str(error),):
        error.args = (f"{node.name}: {error}",)


def is_of_machine(exc: Exception) -> bool:
    """Whether an error says that the machine is gone, and not a process on it alone."""
    return type(exc).__name__ in NODE


def named(exc: Exception) -> str:
    """An error of Ray's in a few words: its first line says the class and no more."""
    return "its end of news" if isinstance(exc, StopIteration) else type(exc).__name__


def told(exc: Exception) -> str:
    """`named` with what Ray says of it, as far as that is short."""
    said = one_line(str(exc)) if not isinstance(exc, StopIteration) else ""
    return f"{named(exc)}: {said}" if said else named(exc)
