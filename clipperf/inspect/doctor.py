"""What can run here: each runtime and device, what would make the others usable, the machine."""

from __future__ import annotations

from dataclasses import dataclass

from clipperf import units
from clipperf.engines import candidates, contract, ort_providers, processor
from clipperf.engines.tensorrt import cuda, flavours
from clipperf.errors import EngineError
from clipperf.nouns.variant import PRECISIONS
from clipperf.system.env import available_cores, gpu, saturates_int8, version_of

LEAST_DRIVER = {12: 525, 13: 580}
"""The first branch of NVIDIA's driver for each CUDA (its release notes, table of minor version
compatibility). Packages that bring a later driver's library make some older ones do, so this is
said and nothing is refused."""

EXPECTED = 4
"""So many of the candidates of `tune` are named."""


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

    try:
        found, none = gpu(), "none found"
    except EngineError as exc:
        found, none = None, str(exc)
    facts = {
        "Cores": str(available_cores()),
        "Instruction sets": ", ".join(processor.instruction_sets()) or "none known here",
        "bf16": _bf16_words(),
        "8-bit integers": _int8_words(),
        "Expected first": _expected_words(),
        "RAM": units.size(int(psutil.virtual_memory().total)),
        "GPU": none if found is None else found.name,
    }
    if found is not None:
        memory = found.memory_bytes
        listed = "yes, by NVML" if found.lists_processes else "no; the whole GPU's change is used"
        facts |= {
            "Compute capability": ".".join(map(str, found.compute_capability)),
            "VRAM": "shared with RAM" if memory is None else units.size(memory),
            "Driver": _driver_words(found.driver),
            "VRAM per process": listed,
        }
    for flavour in flavours.FLAVOURS:
        version = flavours.version(flavour)
        builds = ", builds engines without a GPU" if flavour in flavours.BUILDS_WITHOUT_GPU else ""
        facts[flavours.TITLES[flavour]] = f"{version}{builds}" if version else "not installed"
    for package in cuda.PACKAGES:
        facts[package] = version_of(package) or "not installed"
    return facts


def _driver_words(driver: str) -> str:
    """The driver, and what is installed for a CUDA that takes a later one."""
    built = [
        (
            f"{flavours.TITLES[flavour]} {version}",
            flavours.cuda_major(flavour),
            flavours.LEAST_DRIVER.get(flavour, LEAST_DRIVER),
        )
        for flavour in flavours.FLAVOURS
        if (version := flavours.version(flavour))
    ]
    if version := version_of("onnxruntime-gpu"):
        built.append((f"onnxruntime-gpu {version}", ort_providers.cuda_major(), LEAST_DRIVER))
    branch = driver.partition(".")[0]
    if not branch.isdigit():
        return driver
    short: dict[tuple[int, int], list[str]] = {}
    for name, major, table in built:
        least = table.get(major or 0)
        if major is not None and least is not None and int(branch) < least:
            short.setdefault((major, least), []).append(name)
    said = [
        f"{', '.join(names)} for CUDA {major}: R{least} or later is needed"
        for (major, least), names in sorted(short.items())
    ]
    return "; ".join([driver, *said])


def _bf16_words() -> str:
    """What the CPU means for bf16, in PyTorch and OpenVINO."""
    lacking = processor.lacks(PRECISIONS.get("bf16"))
    if lacking is None:
        return "multiplied as such; --precision bf16 and int8-bf16 run"
    return "not multiplied as such: --precision bf16 and int8-bf16 are refused"


def _expected_words() -> str:
    """The runtimes and precisions that `tune` tries first here, of those that can run."""
    devices = candidates.usable(candidates.deployable())
    found = [each for each in candidates.candidates(devices) if each.multiplied_here]
    if not found:
        return "nothing: no runtime that loads exported towers is usable"
    first, *others = (each.label for each in found[:EXPECTED])
    known = f" ({candidates.measured_with()}, over PyTorch fp32)" if found[0].times else ""
    return f"{first}{', then ' if others else ''}{', '.join(others)}{known}"


def _int8_words() -> str:
    """What the CPU means for int8 towers of ONNX Runtime."""
    if not saturates_int8():
        return "exact sums; int8 towers get 8-bit weights"
    return "no VNNI found: sums of 8-bit weights can saturate, so int8 towers get 7-bit weights"
