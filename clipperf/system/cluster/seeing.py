"""Whether the machines of a cluster see the shared place that the command at home uses."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence

from clipperf.errors import ClusterError
from clipperf.system.cluster.machines import Node
from clipperf.system.cluster.remote import Tell
from clipperf.system.cluster.running import Cluster
from clipperf.system.cluster.shared import Blob, Shared, shared_at
from clipperf.system.cluster.tasks import Done, Task


def sees(tell: Tell, url: str, name: str, blob: Blob) -> None:
    """Make sure that a shared place is the one that the command at home has written to.

    Raises:
        ClipperfError: it cannot be read, or holds something else.
    """
    shared_at(url).get(name, blob)


def check_seen(cluster: Cluster, nodes: Sequence[Node], shared: Shared) -> None:
    """Make sure that nodes of a cluster see the shared place.

    Raises:
        ClusterError: one does not; the message names it.
    """
    name = shared.own(f"seen-{secrets.token_hex(8)}")
    blob = shared.put(name, secrets.token_bytes(16))
    failed: list[Done] = []

    def done(done: Done) -> None:
        failed.extend([done] if done.error is not None else [])

    args = (shared.url, name, blob)
    try:
        cluster.run([Task(n.name, sees, args, fits=_is(n)) for n in nodes], on_done=done)
    finally:
        shared.remove(name)
    if failed:
        raise ClusterError(
            f"{failed[0].task.name} does not see {shared.url}: {failed[0].error}. Give "
            "--ray-store a folder that all machines see, or a URL such as s3://bucket/path"
        )


def _is(node: Node) -> Callable[[Node], bool]:
    return lambda other: other.id == node.id
