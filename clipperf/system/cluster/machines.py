"""The machines of a Ray cluster: what each of them is, and whether they can work together."""

from __future__ import annotations

import dataclasses
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from clipperf.nouns.result import Environment
from clipperf.system import env
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


NOTHING = Needs()


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
        return (
            sum(each.cpus for each in needs) <= self.declared.cpus
            and sum(each.gpus for each in needs) <= self.declared.gpus
            and sum(each.memory_bytes for each in needs) <= self.declared.memory_bytes
        )

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
    """What this machine is; runs on each node, with all that the node has declared."""
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
    """Ray's own account of each node that lives and takes work, by its id."""
    return {
        row["NodeID"]: row
        for row in ray.nodes()
        if row["Alive"] and row["Resources"].get("CPU", 0) >= 1
    }


def declared(row: dict[str, Any]) -> Needs:
    """What a node has to give."""
    found = row["Resources"]
    return Needs(found.get("CPU", 0.0), found.get("GPU", 0.0), int(found.get("memory", 0)))
