"""A Ray cluster of several nodes on this machine; a process of its own that ends with its parent.

``python ray_nodes.py TEMP NODES`` starts a head that takes no work and a node for each of the JSON
list ``NODES`` (what it declares, and its environment), prints the address, and then does what each
line of standard input says: ``kill 0`` ends a node with all its processes at once, ``add`` and the
JSON of a node starts one more, ``stop`` ends the head alone. It ends where its input does.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

STORE_BYTES = 80 * 2**20
START_S = 120
ROOM_BYTES = 2**30


def node(home: Path, gpus: int = 0, **env: str) -> dict[str, Any]:
    """A node with one CPU and a store of its own."""
    return {"gpus": gpus, "env": {**env, "CLIPPERF_HOME": str(home)}}


class Nodes:
    """A running cluster at an `address`."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.address = self._answer()["address"]

    def kill(self, number: int) -> None:
        """End a node and all that runs on it, as a power cut does."""
        self._ask(f"kill {number}")

    def stop(self) -> None:
        """End the head, with its processes alone: the other nodes do not know of it yet."""
        self._ask("stop")

    def add(self, one: dict[str, Any]) -> None:
        """Start one more node."""
        self._ask(f"add {json.dumps(one)}")

    def _ask(self, what: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(what + "\n")
        self._process.stdin.flush()
        self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        raise AssertionError(f"the cluster ended with {self._process.wait()}")


@contextmanager
def started(nodes: Sequence[dict[str, Any]]) -> Iterator[Nodes]:
    """A cluster of these nodes; skipped where Ray is not installed."""
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'clipperf[ray]'")
    # Sockets lie in there, whose paths may have no more than 107 characters.
    with tempfile.TemporaryDirectory(prefix="cr", dir="/tmp", ignore_cleanup_errors=True) as temp:
        process = subprocess.Popen(
            [sys.executable, __file__, temp, json.dumps(list(nodes))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        try:
            yield Nodes(process)
        finally:
            assert process.stdin is not None
            process.stdin.close()
            try:
                process.wait(START_S)
            finally:
                process.kill()
                process.wait()


def cut_off(node: Any) -> None:
    """End all processes of a node at once: workers that outlive it could still tell their news."""
    found = []
    for kind in node.all_processes.values():
        for each in kind:
            with suppress(psutil.NoSuchProcess):
                own = psutil.Process(each.process.pid)
                found += [own, *own.children(recursive=True)]
    for act in (psutil.Process.suspend, psutil.Process.kill):
        for process in found:
            with suppress(psutil.NoSuchProcess):
                act(process)


def main() -> None:
    """See the module."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["RAY_AUTH_MODE"] = "disabled"
    os.environ.pop("RAY_gcs_rpc_server_reconnect_timeout_s", None)  # is the command's
    from ray.cluster_utils import Cluster

    temp, asked = sys.argv[1], json.loads(sys.argv[2])
    usual = {"object_store_memory": STORE_BYTES}
    cluster = Cluster(
        initialize_head=True,
        head_node_args={**usual, "num_cpus": 0, "include_dashboard": False, "temp_dir": temp},
    )
    nodes: list[Any] = []

    def add(one: dict[str, Any]) -> None:
        own = {"num_cpus": 1, "num_gpus": one["gpus"], "memory": ROOM_BYTES}
        nodes.append(cluster.add_node(**usual, **own, env_vars=one["env"]))

    for one in asked:
        add(one)
    print(json.dumps({"address": cluster.address}), flush=True)
    for line in sys.stdin:
        what, _, which = line.strip().partition(" ")
        if what == "stop":
            cut_off(cluster.head_node)
        elif what == "kill":
            cut_off(nodes[int(which)])
            cluster.remove_node(nodes[int(which)], allow_graceful=False)
        else:
            add(json.loads(which))
        print("{}", flush=True)
    cluster.shutdown()


if __name__ == "__main__":
    main()
