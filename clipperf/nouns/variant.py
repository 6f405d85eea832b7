"""How a tower is made: for which runtime, in which precision, from which pixels.

A precision is one row of `PRECISIONS`. Whoever needs to know something of one asks its row, and
nobody compares names.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from clipperf.registry import Registry

Side = Literal["image", "text"]
SIDES: tuple[Side, Side] = ("image", "text")

PixelDtype = Literal["float32", "uint8"]
"""What an image tower takes: normalised floats, or bytes that it normalises itself."""
PIXEL_DTYPES: tuple[PixelDtype, PixelDtype] = ("float32", "uint8")
FLOATS: tuple[PixelDtype, ...] = ("float32",)

BASELINE_RUNTIME = "torch"
BASELINE_PRECISION = "fp32"
"""What every other runtime and precision is judged by: PyTorch with the weights as published."""


@dataclass(frozen=True)
class Numbers:
    """A kind of number by its width: "float" 32, 16 or 8, "bfloat" 16, "int" 8 or fewer."""

    kind: Literal["float", "bfloat", "int"]
    bits: int


@dataclass(frozen=True)
class Precision:
    """One precision: what is asked of it all over clipperf.

    `graph` is the precision of the ONNX graph that it is computed from, which everything that is
    not quantised keeps. `weights` and `activations` are what large products multiply.
    `fixed` is the precision with the same numbers whose scales are fixed, where there is one, and
    `gpu` the one that GPUs run for it, where that is another (see `on_gpu`).
    `tf32`: the GPU multiplies float32 in TF32 (10 bits of mantissa). `row_scales`: each row of an
    activation has a scale of its own, so that nothing depends on what shares a batch.

    `min_cosine` is what the parity gate asks for against PyTorch fp32, `arithmetic` adds to the
    words on what was compared. `first_gpu` is the first compute capability (89 for 8.9) that has
    these numbers, `instructions` what a CPU must have to multiply them: one of each group, as Linux
    names them; none where any CPU does. `emulated`: it is a GPU's; a CPU rounds as the GPU does and
    multiplies floats, which is slow and shows what the GPU will give, so nothing of it depends on
    what a CPU can do with 8 bits. `tune` is the place among what `tune` tries where the user
    does not say, by device. `onnx_types` are ONNX's names of the types that most bytes of the
    weights can have.
    """

    name: str
    graph: str
    weights: Numbers
    activations: Numbers
    min_cosine: float
    fixed: str | None = None
    gpu: str | None = None
    tf32: bool = False
    row_scales: bool = False
    arithmetic: str = ""
    first_gpu: int = 0
    instructions: tuple[tuple[str, ...], ...] = ()
    emulated: bool = False
    tune: Mapping[str, int] = field(default_factory=dict)
    onnx_types: tuple[str, ...] = ()

    @property
    def is_baseline(self) -> bool:
        """Whether it is the one that all others are judged by."""
        return self.name == BASELINE_PRECISION

    @property
    def samples(self) -> bool:
        """Whether it takes samples to make a tower: they set or judge the scales of activations."""
        return self.activations.bits <= 8

    @property
    def is_fixed(self) -> bool:
        """Whether scales are fixed when a tower is made, not taken from each input."""
        return self.fixed == self.name

    @property
    def is_quantised(self) -> bool:
        """Whether weights have eight bits or fewer."""
        return self.weights.bits <= 8

    @property
    def floats(self) -> Numbers:
        """The numbers of all that is not quantised."""
        return PRECISIONS.get(self.graph).weights

    @property
    def on_gpu(self) -> Precision:
        """The one whose ONNX graph GPUs run for it: with fixed scales, and floats of a GPU's."""
        return PRECISIONS.get(self.gpu or self.fixed or self.graph)


FLOAT32, FLOAT16, BFLOAT16 = Numbers("float", 32), Numbers("float", 16), Numbers("bfloat", 16)
FLOAT8, INT8 = Numbers("float", 8), Numbers("int", 8)
FLOAT8_TYPES = tuple(f"FLOAT8{kind}" for kind in ("E4M3FN", "E4M3FNUZ", "E5M2", "E5M2FNUZ", "E8M0"))

BF16_INSTRUCTIONS = ("avx512_bf16", "amx_bf16")
"""Any of these multiplies bf16 on x86."""

INT8_INSTRUCTIONS = ("avx512_vnni", "avx_vnni", "amx_int8")
"""Any of these multiplies 8-bit integers on x86 into sums of 32 bits, which none saturates."""

# Least cosines: weights rounded to bf16 alone bring the bundled sample to 0.99996 and a random
# ViT-B-32 to 0.99997; computed in bf16 as well (OpenVINO, AVX-512), the ViT-B-32 comes to 0.99991.
# Errors grow with the root of the depth, and a wrong fold or cast lands far below 0.999. int8 is
# judged by the accuracy that it keeps as well; it gave 0.995 to 0.9999 here, and a layer that is
# too coarse for its outliers lands far below 0.99. With the rest in bf16 it is the same to 0.0001.
#
# What `tune` tries: fp16 gains nothing on CPUs, and full fp32 nothing on a GPU.
PRECISIONS: Registry[Precision] = Registry(
    "precision",
    rows=(
        Precision(
            "fp32", "fp32", FLOAT32, FLOAT32, 0.99999, tune={"cpu": 5}, onnx_types=("FLOAT",)
        ),
        Precision("tf32", "fp32", FLOAT32, FLOAT32, 0.999, tf32=True, tune={"cuda": 1}),
        Precision(
            "fp16", "fp16", FLOAT16, FLOAT16, 0.999, tune={"cuda": 0}, onnx_types=("FLOAT16",)
        ),
        Precision(
            "bf16",
            "bf16",
            BFLOAT16,
            BFLOAT16,
            0.999,
            arithmetic="; weights rounded to bf16, computed in float32",
            first_gpu=80,
            instructions=(BF16_INSTRUCTIONS,),
            tune={"cpu": 2},
            onnx_types=("BFLOAT16",),
        ),
        Precision("int8w", "fp32", INT8, FLOAT32, 0.99, tune={"cpu": 4}),
        Precision(
            "int8",
            "fp32",
            INT8,
            INT8,
            0.99,
            fixed="int8-static",
            gpu="int8-fp16",
            tune={"cpu": 1, "cuda": 2},
            onnx_types=("INT8",),
        ),
        Precision("int8-row", "fp32", INT8, INT8, 0.99, row_scales=True),
        Precision(
            "int8-static",
            "fp32",
            INT8,
            INT8,
            0.99,
            fixed="int8-static",
            tune={"cpu": 3},
        ),
        Precision(
            "int8-bf16",
            "bf16",
            INT8,
            INT8,
            0.99,
            instructions=(BF16_INSTRUCTIONS, INT8_INSTRUCTIONS),
            tune={"cpu": 0},
        ),
        Precision("int8-fp16", "fp16", INT8, INT8, 0.99, fixed="int8-fp16", emulated=True),
        Precision(
            "fp8",
            "fp16",
            FLOAT8,
            FLOAT8,
            0.99,
            fixed="fp8",
            first_gpu=89,
            emulated=True,
            tune={"cuda": 3},
            onnx_types=FLOAT8_TYPES,
        ),
    ),
)
"""Every precision, in the order in which tables list them."""


@dataclass(frozen=True)
class Variant:
    """How a model's towers are made.

    `runtime` is the one whose artifact it is ("onnx", "openvino", "trt"). `pixel_dtype` is what
    the image tower takes, `normalized` says whether the tower gives unit vectors. `settings` are
    the typed choices of the one exporter that makes it; None for its defaults. With `features` the
    image tower gives what it computes before its projection, too. What is `portable` is fed by
    others, on any machine: its text graph reads the first token, 8-bit weights saturate nowhere.
    """

    runtime: str
    precision: str = BASELINE_PRECISION
    pixel_dtype: PixelDtype = "float32"
    normalized: bool = False
    settings: Hashable | None = None
    features: bool = False
    portable: bool = False

    @property
    def row(self) -> Precision:
        """Its precision's row; raises UsageError where there is none."""
        return PRECISIONS.get(self.precision)

    @property
    def described(self) -> dict[str, str]:
        """What a manifest says of it among the options of its towers."""
        return {"portable": "yes"} if self.portable else {}

    @property
    def folder_name(self) -> str:
        """The part of a stored folder's name that says what kind of towers it holds."""
        parts = [self.precision, *(["normalized"] if self.normalized else [])]
        parts += ["features"] if self.features else []
        parts += ["portable"] if self.portable else []
        return "-".join([*parts, *([self.pixel_dtype] if self.pixel_dtype != "float32" else [])])
