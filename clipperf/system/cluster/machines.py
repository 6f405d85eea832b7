"""The machines of a Ray cluster: what each of them is, and whether they can work together."""

from __future__ import annotations

import dataclasses
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from clipperf import units
from clipperf.nouns.result import Environment
from clipperf.system import env, temporaries
from clipperf.system.cluster.head import bounded
from clipperf.version import __version__

APART = "CLIPPERF_RAY_APART"
"""Set to 1, each Ray node counts as a machine of its own, though several may be on one."""


@dataclasses.dataclass(frozen=True)
class Facts:
    """What a machine says of itself; `machine` is equal for what shares one kernel."""

    version: str
    machine: str
    host: str
    environment: Environment


@dataclasses.dataclass(frozen=True)
class Needs:
    """What a task takes of its machine at least."""

    cpus: float = 1
    gpus: float = 0
    memory_bytes: int = 0

    def hold(self, needs: Sequence[Needs]) -> bool:
        """Whether a machine that has so much has as much as all of these take together."""
        return (
            sum(each.cpus for each in needs) <= self.cpus
            and sum(each.gpus for each in needs) <= self.gpus
            and sum(each.memory_bytes for each in needs) <= self.memory_bytes
        )


ONE_CPU = Needs()


@dataclasses.dataclass(frozen=True)
class Node:
    """A Ray node with what it has declared, and what its machine is."""

    id: str
    address: str
    declared: Needs
    facts: Facts

    @property
    def machine(self) -> str:
        """Equal for nodes beside which nothing may run when one of them is measured on."""
        return self.id if os.environ.get(APART) == "1" else self.facts.machine

    def holds(self, needs: Sequence[Needs]) -> bool:
        """Whether it has as much as all of these take together."""
        return self.declared.hold(needs)

    @property
    def name(self) -> str:
        """What people know it by."""
        return f"{self.facts.host} ({self.address}, node {self.id[:8]})"

    @property
    def kind(self) -> tuple[object, ...]:
        """Equal for machines whose figures can stand beside each other."""
        found = self.facts.environment
        ram_gib = round(found.ram_bytes / 2**30)
        versions = tuple(sorted(found.versions.items()))
        return (found.cpu, found.cores, ram_gib, found.gpu, found.vram_bytes, found.driver,
                found.os, found.python, versions)  # fmt: skip


def facts(tell: object = None) -> Facts:
    """What this machine is; runs on each node, with all that the node has declared.

    What killed tasks have left among its temporary files goes.
    """
    temporaries.sweep_scratch()
    return Facts(__version__, kernel(), platform.node(), env.capture())


def kernel() -> str:
    """Equal for what shares one kernel."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return platform.node()


def other_version(nodes: Sequence[Node]) -> str | None:
    """What to say of machines that have another clipperf; None where none has."""
    others = {node.name: node.facts.version for node in nodes if node.facts.version != __version__}
    if not others:
        return None
    named = ", ".join(f"{name} has {version}" for name, version in others.items())
    return (
        f"the machines have other versions of clipperf than {__version__}, which is here: "
        f"{named}; install one version everywhere"
    )


def alive(ray: Any) -> dict[str, dict[str, Any]]:
    """Ray's own account of each node that lives and takes work, by its id.

    Raises:
        TimeoutError: the head does not answer.
    """
    found = bounded(ray.nodes)
    return {row["NodeID"]: row for row in found if row["Alive"] and _takes_work(row)}


def without_work(ray: Any) -> list[str]:
    """The nodes that live and take no work, and why not; none where the head does not answer."""
    try:
        found = bounded(ray.nodes)
    except TimeoutError:
        return []
    rows = [row for row in found if row["Alive"] and not _takes_work(row)]
    return [f"{named(row)} has declared {amounts(declared(row), ONE_CPU)}" for row in rows]


def _takes_work(row: dict[str, Any]) -> bool:
    return bool(row["Resources"].get("CPU", 0) >= 1)


def declared(row: dict[str, Any]) -> Needs:
    """What a node has to give."""
    return _of(row["Resources"])


def free_of(ray: Any) -> dict[str, Needs]:
    """What each node has to give now, by its id; empty where Ray does not say."""
    try:
        found = bounded(lambda: ray._private.state.available_resources_per_node())
    except (AttributeError, TimeoutError, ray.exceptions.RayError):
        return {}
    return {name: _of(resources) for name, resources in found.items()}


def named(row: dict[str, Any]) -> str:
    """What people know a node by that has not said yet what it is; as `Node.name`."""
    host = row.get("NodeManagerHostname") or "node"
    return f"{host} ({row['NodeManagerAddress']}, node {row['NodeID'][:8]})"


def amounts(needs: Needs, of: Needs | None = None) -> str:
    """ "4 CPUs, 1 GPU, 2.00 GiB"; with `of` all that this names, though it be 0."""
    of = of or needs
    said = [f"{needs.cpus:g} {'CPU' if needs.cpus == 1 else 'CPUs'}"]
    if of.gpus:
        said.append(f"{needs.gpus:g} {'GPU' if needs.gpus == 1 else 'GPUs'}")
    if of.memory_bytes:
        said.append(units.size(needs.memory_bytes))
    return ", ".join(said)


def left_of(has: Needs, free: Needs | None) -> str:
    """What of a machine is free: "0 of 4 CPUs free, 1 of 1 GPUs"; memory where some is taken."""
    if free is None:
        return amounts(has)
    said = [f"{free.cpus:g} of {has.cpus:g} CPUs free"]
    if has.gpus:
        said.append(f"{free.gpus:g} of {has.gpus:g} GPUs")
    if free.memory_bytes < has.memory_bytes:
        said.append(f"{units.size(free.memory_bytes)} of {units.size(has.memory_bytes)}")
    return ", ".join(said)


def _of(resources: dict[str, float]) -> Needs:
    return Needs(
        resources.get("CPU", 0.0), resources.get("GPU", 0.0), int(resources.get("memory", 0))
    )
