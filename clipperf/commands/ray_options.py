"""The options of commands that work on a Ray cluster."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from clipperf.errors import UsageError

if TYPE_CHECKING:
    from clipperf.bench.jobs import Away

NAME = "--ray"
KEPT = "scores that are there are in the result, embeddings in the stores of the machines"

Ray = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        NAME,
        metavar="[HOST:PORT]",
        is_eager=True,  # what other options mean depends on it
        help="Work on the machines of a Ray cluster: of this one's, or of the head's address.",
    ),
]
RayStore = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        "--ray-store",
        metavar="PATH_OR_URL",
        help="With --ray, where artifacts and rows cross between machines: a folder that all of "
        "them see, or a URL of fsspec such as s3://bucket/path.",
    ),
]


def misplaced(args: Sequence[str]) -> str | None:
    """The word behind a ``--ray``, which is none of its address; None where there is none."""
    from clipperf.system.cluster.joining import is_address

    for word, following in itertools.pairwise(args):
        if word == NAME and not following.startswith("-") and not is_address(following):
            return following
    return None


def advice(word: str) -> str:
    """What an address looks like, for one who has given another word."""
    from clipperf.system.cluster.joining import ADDRESSES

    return f"{NAME} {word} is no address: {ADDRESSES}"


def with_address(args: Sequence[str]) -> list[str]:
    """Words of a command line with the usual address behind a ``--ray`` that has none.

    Any other word behind it, such as a plan's name, is none: an address is HOST:PORT.
    """
    from clipperf.system.cluster.joining import AUTO, is_address

    found = []
    for word, following in zip(args, [*args[1:], ""], strict=True):
        alone = word == NAME and not is_address(following)
        found.append(f"{NAME}={AUTO}" if alone else word)
    return found


@contextlib.contextmanager
def joined(
    ray: str, store: str, on_wait: Callable[[str], None], kept: str, look: bool = True
) -> Iterator[Away]:
    """The machines of a cluster; `store` is where things cross, with `look` all must see it.

    `on_wait` has words for what is waited for, `kept` says what there is when the cluster is gone.

    Raises:
        ClipperfError: the cluster cannot be joined, or does not see that place.
    """
    from clipperf.bench.launchers.ray import joined

    with joined(ray, store, look, on_wait, kept) as machines:
        yield machines


def check(ray: str | None, store: str | None, device: str | None) -> None:
    """Raise UsageError where one option makes another mean nothing."""
    if ray is None and store is not None:
        raise UsageError(f"--ray-store is for {NAME}")
    if ray is not None:
        check_device(device)


def check_device(device: str | None) -> None:
    """Raise UsageError where a device with --ray is a GPU of this machine."""
    if device is not None and ":" in device:
        raise UsageError(
            f"device {device}: with {NAME} each machine works on GPUs of its own: say cuda"
        )


def check_evaluation(
    ray: str | None,
    ray_store: str | None,
    device: str | None,
    runtime: str,
    index_compat: tuple[str, str] | None,
) -> None:
    """Raise UsageError where --ray cannot be followed."""
    from clipperf.bench.best import BEST

    check(ray, ray_store, device)
    if ray is not None and index_compat is not None:
        raise UsageError("--index-compat compares on this machine: leave out --ray")
    if ray is not None and runtime == BEST:
        raise UsageError(f"--runtime {BEST} looks at this machine: with --ray name runtimes")


@contextlib.contextmanager
def machines_of(
    ray: str | None,
    ray_store: str | None,
    devices: Mapping[str, str],
    on_wait: Callable[[str], None],
) -> Iterator[Away | None]:
    """The machines of a cluster, on which the runtimes run; None without --ray."""
    from clipperf.bench.jobs import Call
    from clipperf.bench.scoring import usable_there
    from clipperf.system import store

    if ray is None:
        yield None
        return
    with joined(ray, ray_store or str(store.home() / "ray"), on_wait, KEPT) as machines:
        machines.call(Call("the runtimes", usable_there, (dict(devices),)))
        yield machines
