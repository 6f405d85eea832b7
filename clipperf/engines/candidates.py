"""What is tried on a device where nobody says, the promising first: one order for all who ask.

`tune` measures them in this order, `export --runtime best` takes the first that passes its gate,
and `doctor` names it.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from clipperf.engines import contract, processor
from clipperf.nouns.variant import PRECISIONS, SIDES

MEASURED_WITH = {"image": "images", "text": "texts of 8 tokens, which PyTorch takes padded to 77"}

MEASURED: Mapping[str, Mapping[str, Mapping[tuple[str, str], float]]] = {
    "AMX": {
        "image": {
            ("openvino", "int8-bf16"): 6.3,
            ("openvino", "int8"): 6.1,
            ("openvino", "bf16"): 4.6,
            ("onnx", "int8"): 4.3,
            ("openvino", "fp32"): 1.2,
            ("onnx", "fp32"): 1.05,
        },
    },
    "VNNI": {
        "image": {
            ("openvino", "int8-bf16"): 4.22,
            ("openvino", "int8"): 4.05,
            ("onnx", "int8"): 3.23,
            ("openvino", "int8w"): 2.59,
            ("openvino", "bf16"): 2.36,
            ("openvino", "fp32"): 1.30,
            ("onnx", "fp32"): 1.26,
        },
        "text": {
            ("openvino", "int8"): 39.5,
            ("openvino", "int8-bf16"): 37.3,
            ("onnx", "int8"): 36.9,
            ("openvino", "int8w"): 30.9,
            ("openvino", "bf16"): 26.3,
            ("openvino", "fp32"): 14.2,
            ("onnx", "fp32"): 14.2,
        },
    },
    "AVX2": {
        "image": {
            ("onnx", "int8"): 2.27,
            ("openvino", "fp32"): 1.39,
            ("onnx", "fp32"): 1.38,
            ("openvino", "int8"): 1.20,
            ("openvino", "int8w"): 1.04,
        },
        "text": {
            ("onnx", "int8"): 21.3,
            ("openvino", "fp32"): 15.1,
            ("onnx", "fp32"): 14.9,
            ("openvino", "int8w"): 14.0,
            ("openvino", "int8"): 11.1,
        },
    },
}
"""Speed over PyTorch eager in fp32, batch 8, two cores, by the kind of processor (see
`processor.kind`), the tower, runtime and precision; `MEASURED_WITH` says of what.

AMX: a Xeon. VNNI, AVX2: AMD EPYCs, the first with AVX-512 and bf16, by `benchmarks/peers.py`
(docs/performance.md); PyTorch's texts are padded to 77 tokens, as open_clip's tokenizer gives them.
A kind that lacks a tower was not measured with it."""


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
        known = "" if self.times is None else f" ({self.times:.3g}x)"
        return f"{self.runtime} {self.precision}{known}"

    @property
    def multiplied_here(self) -> bool:
        """Whether it is of a GPU, or this machine's processor multiplies its precision."""
        return self.device != "cpu" or processor.lacks(PRECISIONS.get(self.precision)) is None


def candidates(
    devices: Mapping[str, str],
    precisions: Sequence[str] | None = None,
    sides: Sequence[str] = SIDES,
) -> list[Candidate]:
    """What to try of the runtimes of `devices`, each where that says; `precisions` None: the usual.

    By their measured speed, that of several `sides` being the geometric mean of what was measured
    on such a processor; what was not measured comes behind, in the order of its precision.
    """
    known = _measured(sides).values()
    found = [
        Candidate(
            name, precision, device, _times(name, precision, known) if device == "cpu" else None
        )
        for device in dict.fromkeys(devices.values())
        for precision in precisions or usual_precisions(device)
        for name in devices
        if devices[name] == device and precision in contract.get(name).precisions
    ]
    places = list(dict.fromkeys(devices.values()))
    return sorted(found, key=lambda each: (places.index(each.device), -(each.times or 0.0)))


def measured_with(sides: Sequence[str] = SIDES) -> str:
    """What the speeds of `candidates` for `sides` are of, for people."""
    known = [MEASURED_WITH[side] for side in _measured(sides)]
    mean = "geometric mean of " if len(known) > 1 else ""
    return f"{mean}ViT-B-32 {' and '.join(known)}, batch 8, two cores"


def _measured(sides: Sequence[str]) -> dict[str, Mapping[tuple[str, str], float]]:
    """The figures of this kind of processor for those of `sides` that have some, else for any."""
    known = MEASURED.get(processor.kind() or "", {})
    return {side: known[side] for side in sides if side in known} or dict(known)


def _times(
    runtime: str, precision: str, tables: Collection[Mapping[tuple[str, str], float]]
) -> float | None:
    """The geometric mean of a candidate's figures in all tables; None where one lacks it."""
    known = [table[runtime, precision] for table in tables if (runtime, precision) in table]
    if not known or len(known) < len(tables):
        return None
    return math.prod(known) ** (1 / len(known))


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
