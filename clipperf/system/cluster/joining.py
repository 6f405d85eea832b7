"""Joining a Ray cluster, and what is said where that cannot be."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any

from clipperf.errors import ClusterError, MissingDependencyError, UsageError
from clipperf.system.cluster.head import why_none
from clipperf.system.extras import install
from clipperf.text import one_line

AUTO = "auto"
"""The cluster that this machine is part of, or that RAY_ADDRESS names."""

OWN = (AUTO, "local")
"""Addresses behind which nobody need listen yet."""

ADDRESS = re.compile(r"(?:[\w.-]+|\[[0-9a-fA-F:.]+\]):\d{1,5}")
CLIENT = "ray://"
RECONNECT_S = 600
ADDRESSES = (
    "an address is HOST:PORT of the cluster's head, such as 10.0.0.1:6379, or auto for the cluster "
    "that this machine is part of, as without one"
)
START = "check the address, or start a cluster with: ray start --head"
TOKEN = (
    "a head that `ray start` made may ask for a token: set RAY_AUTH_MODE=token here, with its "
    "~/.ray/auth_token on this machine, or RAY_AUTH_MODE=disabled for both"
)


@contextlib.contextmanager
def joined(address: str = AUTO) -> Iterator[Any]:
    """The module ``ray``, connected to a cluster; left again when the block ends.

    Where this process is connected already, that stays as it is.

    Raises:
        MissingDependencyError: Ray is not installed here.
        UsageError: `address` is no HOST:PORT.
        ClusterError: nothing answers there, or something else than a head, or one with another
            version of Ray or Python.
    """
    ray = imported()
    if ray.is_initialized():
        yield ray
        return
    _check_address(address)
    try:
        if address == AUTO:
            _check_found()
        with _own_sigterm():
            ray.init(
                address=address,
                log_to_driver=False,
                logging_level=logging.ERROR,
                configure_logging=True,
            )
    except (OSError, RuntimeError, ValueError, AssertionError, ray.exceptions.RayError) as exc:
        ray.shutdown()
        raise ClusterError(_why(address, exc)) from exc
    try:
        with _silent():
            yield ray
    finally:
        ray.shutdown()


@contextlib.contextmanager
def _own_sigterm() -> Iterator[None]:
    """Ray puts a handler of its own in the place of the command's, which cleans up and says so."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread() and before is not None:
            signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Ray prints the last words of a machine that is lost to standard output, whatever it is told.

    What commands print there is read by programs.
    """
    module: Any = sys.modules.get("ray._private.worker")
    name = "print_to_stdstream"
    before = getattr(module, name, None)
    if before is None:
        yield
        return
    setattr(module, name, lambda *data, **more: None)
    try:
        yield
    finally:
        setattr(module, name, before)


def imported() -> Any:
    """The module ``ray``.

    Raises:
        MissingDependencyError: it is not installed here.
    """
    # What Ray would send home, and what it would build for tasks out of a `uv run`, is off.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    # Ray ends a process whose head is gone, after a minute: `head` is what finds out, and says so.
    os.environ.setdefault("RAY_gcs_rpc_server_reconnect_timeout_s", f"{RECONNECT_S}")
    try:
        import ray
    except ImportError as exc:
        raise MissingDependencyError(
            f"--ray needs Ray, which is not installed: {install('ray')}"
        ) from exc
    return ray


def is_address(text: str) -> bool:
    """Whether a word of a command line can be what follows ``--ray``."""
    return text == AUTO or ADDRESS.fullmatch(text) is not None or text.startswith(CLIENT)


def _check_address(address: str) -> None:
    """Raise where it is no address, or nobody listens there; Ray itself would wait a minute."""
    said, where = f"--ray {address}", address
    if address == AUTO:
        address = os.environ.get("RAY_ADDRESS") or AUTO
        said = where = f"RAY_ADDRESS={address}"
    if address in OWN:
        return
    if address.startswith(CLIENT):
        raise UsageError(
            f"{said}: Ray's client is not supported: run the command on a machine of the "
            "cluster, with --ray HOST:PORT of its head"
        )
    if not ADDRESS.fullmatch(address) or not 0 < int(address.rpartition(":")[2]) < 2**16:
        raise UsageError(f"{said} is no address: {ADDRESSES}")
    _check_answers(address, where)


def _check_answers(address: str, where: str) -> None:
    """Raise where no head of a cluster answers."""
    if (reason := why_none(address)) is not None:
        raise ClusterError(f"no Ray cluster answers at {where}: {reason}; {START}")


def _check_found() -> None:
    """Raise where the cluster that Ray would find on this machine does not answer any more."""
    from ray._private import services

    logging.getLogger("ray").setLevel(logging.ERROR)  # as `joined` has it
    find = getattr(services, "get_ray_address_from_environment", None)
    if find is None or os.environ.get("RAY_ADDRESS"):  # that was looked at
        return
    try:
        found = find(AUTO, None)
    except TypeError:  # of another version of Ray
        return
    if isinstance(found, str) and ADDRESS.fullmatch(found):
        _check_answers(found, f"{found}, where one was started last on this machine")


def _why(address: str, exc: Exception) -> str:
    """What Ray says of a cluster that it cannot join, in one line with what helps."""
    said = one_line(str(exc))
    if "ersion mismatch" in said:
        return f"the Ray cluster at {address} has other versions: {said}"
    named = os.environ.get("RAY_ADDRESS")
    if address == AUTO and isinstance(exc, ConnectionError):
        if not named or named in OWN:
            other = "give --ray HOST:PORT of its head"
            return f"no Ray cluster was found on this machine: {START}, or {other}"
        address = f"RAY_ADDRESS={named}"  # somebody listens there, see `_check_address`
    return f"the Ray cluster at {address} cannot be joined: {said}; {TOKEN}"
