"""What is tried on a device where nobody says, the promising first: one order for all who ask.

`tune` measures them in this order, `export --runtime best` takes the first that passes its gate,
and `doctor` names it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from clipperf.engines import contract, processor
from clipperf.nouns.variant import PRECISIONS

MEASURED_WITH = "ViT-B-32 images, batch 8, two cores"

MEASURED: Mapping[str, Mapping[tuple[str, str], float]] = {
    "AMX": {
        ("openvino", "int8-bf16"): 6.3,
        ("openvino", "int8"): 6.1,
        ("openvino", "bf16"): 4.6,
        ("onnx", "int8"): 4.3,
        ("openvino", "fp32"): 1.2,
        ("onnx", "fp32"): 1.05,
    },
    "VNNI": {
        ("openvino", "int8-bf16"): 7.42,
        ("openvino", "int8"): 7.31,
        ("onnx", "int8"): 6.27,
        ("openvino", "bf16"): 4.26,
        ("openvino", "fp32"): 2.42,
        ("onnx", "fp32"): 2.23,
    },
    "AVX2": {
        ("onnx", "int8"): 2.27,
        ("openvino", "fp32"): 1.39,
        ("onnx", "fp32"): 1.38,
        ("openvino", "int8"): 1.20,
        ("openvino", "int8w"): 1.04,
    },
}
"""Speed over PyTorch eager in fp32 by the kind of processor (see `processor.kind`), runtime and
precision; `MEASURED_WITH` says of what.

AMX: a Xeon. VNNI: an AMD EPYC with AVX-512 and bf16, by `benchmarks/cpu_precisions.py`. AVX2: an
AMD EPYC, by `benchmarks/peers.py` (docs/performance.md)."""


@dataclass(frozen=True)
class Candidate:
    """A runtime and a precision on a device.

    `times` is its speed over PyTorch in fp32 as it was measured on a processor of this kind; None
    where it was not.
    """

    runtime: str
    precision: str
    device: str
    times: float | None = None

    @property
    def label(self) -> str:
        """What it is called in lists."""
        known = "" if self.times is None else f" ({self.times:g}x)"
        return f"{self.runtime} {self.precision}{known}"

    @property
    def multiplied_here(self) -> bool:
        """Whether it is of a GPU, or this machine's processor multiplies its precision."""
        return self.device != "cpu" or processor.lacks(PRECISIONS.get(self.precision)) is None


def candidates(
    devices: Mapping[str, str], precisions: Sequence[str] | None = None
) -> list[Candidate]:
    """What to try of the runtimes of `devices`, each where that says; `precisions` None: the usual.

    By their measured speed; what was not measured comes behind, in the order of its precision.
    """
    measured = MEASURED.get(processor.kind() or "", {})
    found = [
        Candidate(
            name,
            precision,
            device,
            measured.get((name, precision)) if device == "cpu" else None,
        )
        for device in dict.fromkeys(devices.values())
        for precision in precisions or usual_precisions(device)
        for name in devices
        if devices[name] == device and precision in contract.get(name).precisions
    ]
    places = list(dict.fromkeys(devices.values()))
    return sorted(found, key=lambda each: (places.index(each.device), -(each.times or 0.0)))


def usual_precisions(device: str) -> list[str]:
    """What is tried on a device where the user does not say, the promising first."""
    rows = [row for row in PRECISIONS if device in row.tune]
    return [row.name for row in sorted(rows, key=lambda row: row.tune[device])]


def deployable() -> list[str]:
    """The runtimes that `clipperf.load` opens."""
    return [name for name in contract.names() if contract.get(name).artifact is not None]


def usable(names: Iterable[str], device: str | None = None) -> dict[str, str]:
    """Where runtimes run here: all on the GPU if one of them can, else on the CPU; or on `device`.

    Those that cannot run there are left out.
    """
    known = [contract.get(name) for name in names]
    for place in ("cuda", "cpu") if device is None else (device,):
        able = [r.name for r in known if place in r.devices and r.availability(place).usable]
        if able:
            return dict.fromkeys(able, place)
    return {}
