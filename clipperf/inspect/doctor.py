"""What can run here: each runtime and device, what would make the others usable, the machine."""

from __future__ import annotations

from dataclasses import dataclass

from clipperf import units
from clipperf.engines import contract
from clipperf.engines.tensorrt import cuda, flavours
from clipperf.system.env import available_cores, gpu, saturates_int8, version_of


@dataclass(frozen=True)
class Check:
    """Whether a runtime is usable on a device: why, and what would make it so ("" if it is)."""

    runtime: str
    device: str
    usable: bool
    detail: str
    fix: str


def check() -> list[Check]:
    """Every runtime on every device that it knows."""
    checks = []
    for name in contract.names():
        runtime = contract.get(name)
        for device in runtime.devices:
            found = runtime.availability(device)
            fix = "" if found.usable else found.fix
            checks.append(Check(name, device, found.usable, found.detail, fix))
    return checks


def machine() -> dict[str, str]:
    """What decides which runtimes are usable and what can be measured, in words."""
    import psutil

    found = gpu()
    facts = {
        "Cores": str(available_cores()),
        "8-bit integers": _int8_words(),
        "RAM": units.size(int(psutil.virtual_memory().total)),
        "GPU": "none found" if found is None else found.name,
    }
    if found is not None:
        memory = found.memory_bytes
        listed = "yes, by NVML" if found.lists_processes else "no; the whole GPU's change is used"
        facts |= {
            "Compute capability": ".".join(map(str, found.compute_capability)),
            "VRAM": "shared with RAM" if memory is None else units.size(memory),
            "Driver": found.driver,
            "VRAM per process": listed,
        }
    for flavour in flavours.FLAVOURS:
        version = flavours.version(flavour)
        builds = ", builds engines without a GPU" if flavour in flavours.BUILDS_WITHOUT_GPU else ""
        facts[flavours.TITLES[flavour]] = f"{version}{builds}" if version else "not installed"
    for package in cuda.PACKAGES:
        facts[package] = version_of(package) or "not installed"
    return facts


def _int8_words() -> str:
    """What the CPU means for int8 towers of ONNX Runtime."""
    if not saturates_int8():
        return "exact sums; int8 towers get 8-bit weights"
    return "no VNNI found: sums of 8-bit weights can saturate, so int8 towers get 7-bit weights"
