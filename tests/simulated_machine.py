"""A machine with a GPU, simulated for processes that are started on it.

`installed(folder)` gives the environment of such a machine: packages that come before the real
ones. NVML tells one GPU and the memory that each process holds of it, CUDA is `cuda_rules`, and an
engine of TensorRT is one of `tensorrt_rules` that computes what its ONNX graph does, in ONNX
Runtime on the CPU, when the stream gets there. `trt` has a builder of its own, which packs the
graph into the plan. `trt-rtx` is built by the real library, as it can be without a GPU, and its
graph is kept beside: what runs is the graph, not the plan.

What breaks the rules in any process is told by `broken`.
"""

from __future__ import annotations

import enum
import functools
import hashlib
import io
import json
import os
import shutil
import sys
import tempfile
import time
import types
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import cuda_rules
import numpy as np
import tensorrt_rules
from fake_nvml import FAKE_NVML

VERSION = "0.0.0.0"
"""Of its TensorRT, which no real one takes a plan of."""

NAME = "simulated GPU"
CAPACITY = 4 << 30
FOLDER = "CLIPPERF_SIMULATED_MACHINE"
LIBRARY_BYTES = 300 << 20
"""What CUDA takes of a GPU for each process, by the meter."""

HIDES = """
def nvmlDeviceGetComputeRunningProcesses(handle):
    return []
"""

NVML = """
def held():
    alive = [file for file in (HERE / "held").iterdir() if Path("/proc", file.name).exists()]
    return {int(file.name): int(file.read_text()) for file in alive}

def nvmlDeviceGetMemoryInfo(handle):
    total, used = handle.facts["total"], sum(held().values())
    return SimpleNamespace(used=used, free=total - used, total=total)

def nvmlDeviceGetComputeRunningProcesses(handle):
    return [SimpleNamespace(pid=pid, usedGpuMemory=used) for pid, used in held().items()]
"""

PACKAGES = {
    "pynvml.py": f"{FAKE_NVML}\n{NVML}",
    "cuda/__init__.py": "",
    "cuda/bindings/__init__.py": "import simulated_machine\n\nruntime = simulated_machine.gpu()\n",
    "tensorrt/__init__.py": "import simulated_machine\n\n"
    "globals().update(simulated_machine.tensorrt())\n",
    "tensorrt_rtx/__init__.py": "import simulated_machine\n\n"
    "globals().update(simulated_machine.tensorrt_rtx())\n",
    f"tensorrt_cu13-{VERSION}.dist-info/METADATA": "Metadata-Version: 2.1\nName: tensorrt-cu13\n"
    f"Version: {VERSION}\n",
}


What = Literal["no build", "no memory", "wrong", "hangs"]


@dataclass(frozen=True)
class Fault:
    """What goes wrong with the engines of a flavour that take `given`: `what` is one of these.

    "no build": it cannot be built. "no memory": there is too little of it to load. "wrong": from
    the third run of a shape on, when graphs are replayed, its vectors are others. "hangs": nor does
    its first run in a stage end, at the begin of which a file "hung" is written.
    """

    flavour: str
    given: str
    what: What

    def __post_init__(self) -> None:
        if self.what not in get_args(What):
            raise ValueError(f"{self.what!r} is none of {', '.join(get_args(What))}")


def installed(
    folder: Path, faults: Iterable[Fault] = (), *, hides: bool = False, capacity: int = CAPACITY
) -> dict[str, str]:
    """Make the machine in a folder; what a process's environment must have to be on it.

    `hides`: its NVML tells what the GPU holds, and of no process, as in many containers.

    One that was there before is made anew, but for the graphs of plans, which lie beside the folder
    and are of all machines there.
    """
    shutil.rmtree(folder, ignore_errors=True)
    for name, code in PACKAGES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(code)
    if hides:
        with (folder / "pynvml.py").open("a") as file:
            file.write(HIDES)
    for name in ("held", "broken"):
        (folder / name).mkdir()
    (folder.parent / "plans").mkdir(exist_ok=True)
    gpu = {"uuid": "GPU-simulated", "title": NAME, "bus": 1, "total": capacity}
    told = {"power_mw": [70_000], "sm_mhz": [1500], "temperature": [40], "reasons": [0]}
    (folder / "fake.json").write_text(json.dumps({"gpus": [gpu], "driver": "580.0", **told}))
    (folder / "faults.json").write_text(json.dumps([vars(fault) for fault in faults]))
    paths = [str(folder), str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    return {FOLDER: str(folder), "PYTHONPATH": os.pathsep.join(path for path in paths if path)}


def broken(folder: Path) -> list[str]:
    """Each rule that a process of this machine broke."""
    return sorted({said for file in (folder / "broken").iterdir() for said in lines_of(file)})


def lines_of(file: Path) -> list[str]:
    return file.read_text().splitlines()


# --- in a process of the machine -------------------------------------------------------------


def here() -> Path:
    return Path(os.environ[FOLDER])


def capacity_here() -> int:
    told: int = json.loads((here() / "fake.json").read_text())["gpus"][0]["total"]
    return told


@functools.cache
def faults() -> tuple[Fault, ...]:
    return tuple(Fault(**one) for one in json.loads((here() / "faults.json").read_text()))


class Told(list[str]):
    """What breaks the rules, in a file as well, which outlives the process."""

    def append(self, said: str) -> None:
        super().append(said)
        with (here() / "broken" / str(os.getpid())).open("a") as file:
            file.write(f"{said}\n")


class Gpu(cuda_rules.Gpu):
    """Tells NVML what this process holds of it."""

    def __init__(self) -> None:
        super().__init__(capacity=capacity_here())
        self.broken = Told()
        self._tell()

    def allocate(self, size: int, owner: str) -> int:
        address = super().allocate(size, owner)
        self._tell()
        return address

    def release(self, address: int) -> None:
        super().release(address)
        self._tell()

    def _tell(self) -> None:
        file = here() / "held" / str(os.getpid())
        temporary = here() / f"{file.name}.new"
        temporary.write_text(str(LIBRARY_BYTES + self.capacity - self.free_bytes()))
        temporary.replace(file)


@functools.cache
def gpu() -> Gpu:
    return Gpu()


class Plan(tensorrt_rules.TensorRT):
    """What is loaded of one plan: `packed` is its graph with its profiles; see `pack`."""

    def __init__(self, packed: bytes, *, flavour: str, size: int) -> None:
        from clipperf.engines import onnxruntime
        from clipperf.graph.widen import runnable_on_cpu

        self._folder = tempfile.TemporaryDirectory()
        with zipfile.ZipFile(io.BytesIO(packed)) as archive:
            archive.extractall(self._folder.name)
            told = json.loads(archive.read("plan.json"))
        graph = Path(self._folder.name) / told["graph"]
        with runnable_on_cpu(graph, "bf16" if told["bf16"] else "fp32") as file:
            # Each 8-bit number is rounded as a GPU rounds it, and not taken for the CPU's kernels.
            self.session = onnxruntime.cpu_session(file, 2, precision="fp8")
        info = types.SimpleNamespace(
            inputs=[tensor_of(one) for one in self.session.get_inputs()],
            outputs=[tensor_of(one) for one in self.session.get_outputs()[:1]],
            profile=[types.SimpleNamespace(**one) for one in told["profiles"]],
        )
        super().__init__(gpu(), info, rtx=flavour == "trt-rtx", work=4096)
        self.weights_bytes = size
        self.seen: dict[tuple[int, ...], int] = {}
        mine = [one for one in faults() if one.flavour == flavour]
        self.faults = {one.what for one in mine if one.given == info.inputs[0].name}
        if "no memory" in self.faults:
            self.fail_contexts = "Error Code 2: OutOfMemory (Requested size was 9 bytes.)"

    def result(self, values: np.ndarray) -> np.ndarray:
        """What the graph makes of a batch."""
        if "hangs" in self.faults and "first_gpu_stages" in sys.argv[0]:
            (here() / "hung").touch()
            time.sleep(3600)
        given, left = self.info.inputs[0], self.info.outputs[0]
        found: np.ndarray = self.session.run([left.name], {given.name: values})[0]
        self.seen[values.shape] = self.seen.get(values.shape, 0) + 1
        if "wrong" in self.faults and self.seen[values.shape] > 2:
            found = np.roll(found, 1, axis=1)
        return found


def tensor_of(given: Any) -> Any:
    """A graph's input or output as a sidecar describes it."""
    types_of = {"tensor(float)": "float32", "tensor(float16)": "float16", "tensor(int64)": "int64"}
    return types.SimpleNamespace(
        name=given.name, dtype=types_of[given.type], shape=tuple(given.shape)
    )


def pack(graph: Path, profiles: list[dict[str, Any]]) -> bytes:
    """A graph with its weights and the profiles of a plan: what runs in the plan's place."""
    import onnx_ir as ir

    values = ir.load(graph).graph.initializers.values()
    files = {value.const_value.path for value in values if hasattr(value.const_value, "path")}
    told = {
        "graph": graph.name,
        "profiles": profiles,
        "bf16": any(value.dtype == ir.DataType.BFLOAT16 for value in values),
    }
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as archive:
        archive.writestr("plan.json", json.dumps(told))
        for file in {graph, *(graph.parent / Path(name).name for name in files)}:
            archive.write(file, file.name)
    return written.getvalue()


def refuses(flavour: str, given: str) -> bool:
    return any(one == Fault(flavour, given, "no build") for one in faults())


NO_BUILD = "Error Code 2: OutOfMemory (no further information)"


def error(logger: Any, said: str) -> None:
    logger.log(types.SimpleNamespace(name="ERROR"), said)


class Runtime:
    """`find` gives what runs in a plan's place, None for what is no plan."""

    def __init__(self, flavour: str, find: Callable[[bytes], bytes | None], logger: Any) -> None:
        self._flavour, self._find, self._logger = flavour, find, logger

    def deserialize_cuda_engine(self, data: Any) -> Any:
        content = bytes(data)
        packed = self._find(content)
        if packed is None:
            error(self._logger, "Error Code 1: Serialization (no plan)")
            return None
        plan = Plan(packed, flavour=self._flavour, size=len(content))
        return tensorrt_rules.Runtime(plan, self._logger).deserialize_cuda_engine(b"plan")


# --- TensorRT for RTX: the real builder --------------------------------------------------------


def tensorrt_rtx() -> dict[str, Any]:
    """Its names."""
    import tensorrt_rtx_bindings as real

    graphs: dict[int, Path] = {}

    class OnnxParser(real.OnnxParser):
        def __init__(self, network: Any, logger: Any) -> None:
            super().__init__(network, logger)
            self.network = network

        def parse_from_file(self, path: str) -> bool:
            graphs[id(self.network)] = Path(path)
            return bool(super().parse_from_file(path))

    class Tee(real.IStreamWriter):
        def __init__(self, to: Any) -> None:
            super().__init__()
            self.to, self.digest = to, hashlib.sha256()

        def write(self, data: bytes) -> int:
            self.digest.update(data)
            return int(self.to.write(data))

    class Builder(real.Builder):
        def __init__(self, logger: Any) -> None:
            super().__init__(logger)
            self.logger_, self.profiles = logger, []

        def create_optimization_profile(self) -> Any:
            self.profiles.append(super().create_optimization_profile())
            return self.profiles[-1]

        def build_serialized_network_to_stream(self, network: Any, config: Any, to: Any) -> bool:
            name = network.get_input(0).name
            if refuses("trt-rtx", name):
                error(self.logger_, NO_BUILD)
                return False
            tee = Tee(to)
            if not super().build_serialized_network_to_stream(network, config, tee):
                return False
            shapes = [[tuple(shape) for shape in one.get_shape(name)] for one in self.profiles]
            profiles = [{"name": name, "min": a, "opt": b, "max": c} for a, b, c in shapes]
            kept = here().parent / "plans" / tee.digest.hexdigest()
            kept.write_bytes(pack(graphs[id(network)], profiles))
            return True

    def find(plan: bytes) -> bytes | None:
        kept = here().parent / "plans" / hashlib.sha256(plan).hexdigest()
        return kept.read_bytes() if kept.exists() else None

    rules = tensorrt_rules.TensorRT
    return {
        **{name: value for name, value in vars(real).items() if not name.startswith("__")},
        "__version__": real.__version__,
        "OnnxParser": OnnxParser,
        "Builder": Builder,
        "Runtime": functools.partial(Runtime, "trt-rtx", find),
        "ExecutionContextAllocationStrategy": rules.ExecutionContextAllocationStrategy,
        "DynamicShapesKernelSpecializationStrategy": (
            rules.DynamicShapesKernelSpecializationStrategy
        ),
    }


# --- TensorRT: a builder that packs ------------------------------------------------------------


class Profile:
    def __init__(self) -> None:
        self.told: dict[str, Any] = {}

    def set_shape(self, name: str, low: Any, usual: Any, high: Any) -> None:
        self.told = {"name": name, "min": [*low], "opt": [*usual], "max": [*high]}


class Network:
    num_outputs = 0

    def __init__(self) -> None:
        self.graph, self.inputs = Path(), []

    @property
    def num_inputs(self) -> int:
        return len(self.inputs)

    def get_input(self, place: int) -> Any:
        return self.inputs[place]


class OnnxParser:
    num_errors = 0

    def __init__(self, network: Network, logger: Any) -> None:
        self._network, self._logger = network, logger

    def parse_from_file(self, path: str) -> bool:
        import onnx_ir as ir

        graph = ir.load(path).graph
        self._network.graph, self._network.inputs = Path(path), list(graph.inputs)
        self._network.num_outputs = len(graph.outputs)
        return True


class TimingCache:
    def __init__(self, stored: bytes) -> None:
        self._stored = stored

    def serialize(self) -> bytes:
        return self._stored + b"."


class Config:
    """What is set is taken, where an attribute or an enumeration here has the name."""

    __slots__ = (
        "_timings",
        "builder_optimization_level",
        "hardware_compatibility_level",
        "profiles",
    )

    def __init__(self) -> None:
        self.builder_optimization_level: int | None = None
        self.hardware_compatibility_level: HardwareCompatibilityLevel | None = None
        self.profiles: list[Profile] = []
        self._timings: TimingCache | None = None

    def add_optimization_profile(self, profile: Profile) -> int:
        self.profiles.append(profile)
        return len(self.profiles) - 1

    def set_flag(self, flag: Any) -> None:
        BuilderFlag(flag)

    clear_flag = set_flag

    def set_preview_feature(self, feature: Any, on: bool) -> None:
        PreviewFeature(feature)

    def set_memory_pool_limit(self, pool: Any, size: int) -> None:
        MemoryPoolType(pool)

    def create_timing_cache(self, stored: bytes) -> TimingCache:
        return TimingCache(stored)

    def set_timing_cache(self, cache: TimingCache, ignore_mismatch: bool) -> bool:
        self._timings = cache
        return True

    def get_timing_cache(self) -> TimingCache:
        assert self._timings is not None
        return self._timings


class BuilderFlag(enum.Enum):
    TF32 = 0
    REQUIRE_USER_ALLOCATION = 1


class PreviewFeature(enum.Enum):
    RUNTIME_ACTIVATION_RESIZE_10_10 = 0


class MemoryPoolType(enum.Enum):
    WORKSPACE = 0


class HardwareCompatibilityLevel(enum.Enum):
    NONE = 0
    AMPERE_PLUS = 1


class IStreamWriter:
    def __init__(self) -> None:
        pass


class Builder:
    def __init__(self, logger: Any) -> None:
        self._logger = logger

    def create_network(self, flags: int) -> Network:
        return Network()

    def create_builder_config(self) -> Config:
        return Config()

    def create_optimization_profile(self) -> Profile:
        return Profile()

    def build_serialized_network_to_stream(self, network: Network, config: Config, to: Any) -> bool:
        if refuses("trt", network.inputs[0].name):
            error(self._logger, NO_BUILD)
            return False
        to.write(pack(network.graph, [profile.told for profile in config.profiles]))
        return True


def tensorrt() -> dict[str, Any]:
    """Its names."""
    rules = tensorrt_rules.TensorRT
    found = [
        *(OnnxParser, Builder, BuilderFlag, PreviewFeature, MemoryPoolType, IStreamWriter),
        *(HardwareCompatibilityLevel, rules.NetworkDefinitionCreationFlag, rules.ILogger),
    ]
    return {
        **{one.__name__: one for one in found},
        "__version__": VERSION,
        "Dims": tuple,
        "ITimingCache": TimingCache,
        "ExecutionContextAllocationStrategy": rules.ExecutionContextAllocationStrategy,
        "Runtime": functools.partial(Runtime, "trt", lambda plan: plan if zipped(plan) else None),
    }


def zipped(plan: bytes) -> bool:
    return zipfile.is_zipfile(io.BytesIO(plan))
