"""A cluster whose head is not one, has no machines, or goes: what is said, and how soon."""

from __future__ import annotations

import os
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import ROOT, Cli
from ray_nodes import Nodes, node, started

from clipperf.errors import ClusterError, HeadError
from clipperf.system.cluster import head, joining, roll
from clipperf.system.cluster.head import Head, why_none
from clipperf.system.cluster.machines import APART
from clipperf.system.cluster.running import opened
from clipperf.system.cluster.tasks import Done, Task

WAITS = """
import time
from pathlib import Path

def wait(tell, folder):
    tell("begun")
    while not (Path(folder) / "go").exists():
        time.sleep(0.02)
    return "done"
"""

SETTINGS = b"\0\0\0\4\0\0\0\0\0"
"""An empty frame of them, with which HTTP/2 begins."""


def answer(fields: bytes, flags: int) -> bytes:
    """Settings and a frame of headers."""
    return SETTINGS + len(fields).to_bytes(3, "big") + bytes([1, flags, 0, 0, 0, 1]) + fields


@contextmanager
def listening(said: bytes) -> Iterator[str]:
    """The address of what answers every caller so, and then no more."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        held: list[socket.socket] = []

        def serve() -> None:
            while True:
                try:
                    line, _ = server.accept()
                except OSError:
                    return
                held.append(line)
                line.sendall(said)

        threading.Thread(target=serve, daemon=True).start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)
        for line in held:
            line.close()


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "something else .* does not speak gRPC"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "something else .* does not speak gRPC"),
        (b"", "does not answer within"),
        (SETTINGS, "does not answer within"),
        (answer(b"\x88\x40\x0bgrpc-status\x0212", 5), "something else .* speaks gRPC, but is no"),
        (answer(b"\x8d", 5), "something else .* speaks HTTP/2, but is no"),  # 404
    ],
)
def test_what_is_no_head_is_told_from_one(said: bytes, expected: str) -> None:
    with listening(said) as address:
        found = why_none(address, 0.5)
    assert found is not None
    assert re.search(expected, found)


@pytest.mark.parametrize("said", [
    answer(b"\x88", 4),  # a message follows
    answer(b"\x88\x40\x0bgrpc-status\x0216", 5),  # it wants a token: Ray says so, and how
])  # fmt: skip
def test_a_head_is_one_also_where_it_wants_a_token(said: bytes) -> None:
    with listening(said) as address:
        assert why_none(address, 5) is None


def test_with_tls_it_is_seen_whether_anybody_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_USE_TLS", "1")
    with listening(b"\x15\x03\x01\x00\x02\x02\x0a") as address:  # an alert of TLS
        assert why_none(address) is None
    assert why_none(address) is not None, "nobody listens any more"


def test_where_something_else_listens_the_command_ends_with_one_line(cli: Cli) -> None:
    pytest.importorskip("ray")
    with listening(b"HTTP/1.1 400 Bad Request\r\n\r\n") as address:
        done = cli("eval", "clipperf-sample", "--ray", address)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr == (
        f"error: no Ray cluster answers at {address}: something else listens there: it does not "
        f"speak gRPC; {joining.START}\n"
    )


def test_a_cluster_that_was_started_last_and_is_gone_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Ray finds such a one by a file that a head which is killed leaves behind."""
    services = pytest.importorskip("ray._private.services")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    found: Any = lambda address, temp: "127.0.0.1:1"  # noqa: E731
    monkeypatch.setattr(services, "get_ray_address_from_environment", found)
    with pytest.raises(ClusterError, match=r"127.0.0.1:1, where one was .*: Connection"), opened():
        pass


def test_a_head_is_given_up_after_a_while_and_sooner_where_nobody_listens(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [1000.0]
    monkeypatch.setattr(head, "time", SimpleNamespace(monotonic=lambda: now[0]))
    errors: list[Exception | None] = [ConnectionRefusedError(111, "Connection refused")]

    def ask(address: str, limit_s: float) -> None:
        if errors[0] is not None:
            raise errors[0]

    monkeypatch.setattr(head, "_ask", ask)
    own = Head("10.0.0.1:6379")
    assert not own.answers() and own.silent_since_s == 1000.0
    assert own.words.endswith("10.0.0.1:6379 does not answer: Connection refused")
    now[0] += head.GONE_S
    assert not own.answers()
    errors[0] = None
    assert own.answers() and own.silent_since_s is None and own.why == ""
    errors[0] = TimeoutError("timed out")
    assert not own.answers()
    now[0] += head.SILENT_S
    assert not own.answers()
    now[0] += 1
    with pytest.raises(HeadError, match=r"6379 has not answered for 2 min 01 s \(timed out\)"):
        own.answers()
    errors[0] = ConnectionRefusedError(111, "Connection refused")
    own.silent_since_s = now[0] - head.GONE_S - 1
    with pytest.raises(HeadError, match=r"for 21.0 s \(Connection refused\): it was stopped"):
        own.answers()


def test_a_call_that_asks_a_head_that_is_gone_is_not_waited_for() -> None:
    ended = threading.Event()
    with pytest.raises(TimeoutError):
        head.bounded(ended.wait, 0.05)
    ended.set()
    assert head.bounded(lambda: 3) == 3
    with pytest.raises(ZeroDivisionError):
        head.bounded(lambda: 1 // 0)


# --- with one ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("head")
    (folder / "ray_waits.py").write_text(WAITS)
    return folder


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    """A head that takes no work, alone."""
    with started([]) as running:
        yield running


@pytest.mark.slow
def test_a_head_alone_that_takes_no_work_is_an_error_at_once(nodes: Nodes) -> None:
    assert why_none(nodes.address) is None
    waited: list[str] = []
    with pytest.raises(ClusterError) as caught, opened(nodes.address, waited.append):
        pass
    assert " takes work: " in str(caught.value)  # and not "within"
    assert not waited and str(caught.value).endswith(
        f") has declared 0 CPUs; add one with: ray start --address {nodes.address}"
    )


@pytest.mark.slow
def test_what_answers_at_a_node_of_a_cluster_is_no_head(nodes: Nodes) -> None:
    """A server of gRPC's own, as the head is."""
    with joining.joined(nodes.address) as ray:
        row = ray.nodes()[0]
    found = why_none(f"{row['NodeManagerAddress']}:{row['NodeManagerPort']}")
    assert found is not None and "it speaks gRPC, but is no head" in found


@pytest.mark.slow
def test_a_head_that_goes_is_said_and_ends_the_work(
    nodes: Nodes, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last test: it ends the head. Work goes on until then, as machines need no head for it."""
    path = os.pathsep.join((str(place), str(ROOT)))
    nodes.add(node(place / "home", PYTHONPATH=path))
    monkeypatch.setenv(APART, "1")
    monkeypatch.syspath_prepend(str(place))
    monkeypatch.setattr(head, "GONE_S", 15.0)  # long enough for a busy machine to say so first
    monkeypatch.setattr(roll, "LOOK_S", 0.5)
    monkeypatch.setattr("clipperf.system.cluster.waiting.FIRST_S", 1.0)
    import ray_waits

    waited: list[str] = []
    done: list[Done] = []

    def told(task: Task, what: str) -> None:
        nodes.stop()

    def tasks() -> Iterator[Task]:
        yield Task("first", ray_waits.wait, (str(place),))
        yield Task("second", ray_waits.wait, (str(place),))

    with (
        pytest.raises(HeadError) as caught,
        opened(nodes.address, waited.append, "what was made is there") as cluster,
    ):
        cluster.run(tasks(), told, done.append)
    assert not done
    said = str(caught.value)
    assert said.startswith(f"the head of the Ray cluster at {nodes.address} has not answered for ")
    assert said.endswith(
        "it was stopped, or its machine is gone; what was made is there; the same command goes on "
        "once the cluster is back"
    )
    words = f"the head of the Ray cluster at {nodes.address} does not answer: "
    assert any(words in text for text in waited)
