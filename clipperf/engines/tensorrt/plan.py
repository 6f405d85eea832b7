"""A TensorRT plan loaded on the GPU, and the kernels that are kept of it between processes."""

from __future__ import annotations

import contextlib
import mmap
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipperf.engines.profiles import chosen, whole
from clipperf.engines.tensorrt import cuda as cuda_driver
from clipperf.engines.tensorrt import flavours, plan_file
from clipperf.errors import ArtifactError, EngineError, StorageError
from clipperf.nouns.cell import EngineRequest
from clipperf.system.files import replacing, safe_name

if TYPE_CHECKING:
    import tensorrt as trt


class Plan:
    """A loaded plan: what is TensorRT's own, with its log as the reason of every failure."""

    def __init__(self, request: EngineRequest, path: Path, cuda: cuda_driver.Cuda) -> None:
        self.flavour = request.cell.runtime
        if TYPE_CHECKING:
            import tensorrt as trt
        else:
            trt = flavours.load(self.flavour)
        module: Any = trt  # for what only TensorRT for RTX has
        self._cuda = cuda
        self._info = plan_file.read(path)
        if reason := plan_file.obstacle(self._info, cuda.kind):
            raise EngineError(f"{path}: {reason}")
        self.input, self.output = self._info.inputs[0], self._info.outputs[0]
        self.profiles = self._info.profile
        self.provider = f"{flavours.TITLES[self.flavour]} {trt.__version__}"
        self._log = flavours.Log()
        self._logger = flavours.logger(self.flavour, self._log)
        self._runtime: trt.Runtime | None = trt.Runtime(self._logger)
        with _mapped(path, self._info.plan_bytes) as data:
            self._engine: trt.ICudaEngine | None = self._runtime.deserialize_cuda_engine(data)
        if self._engine is None:
            raise self.failure(f"cannot load {path}")
        self._strategy = trt.ExecutionContextAllocationStrategy.USER_MANAGED
        self._config: Any = None
        self._kernels: KernelCache | None = None
        if flavours.capabilities(trt).runtime_cache:
            self._config = self._engine.create_runtime_config()
            self._config.set_execution_context_allocation_strategy(self._strategy)
            # Lazily, a captured graph would keep the slower kernels that stand in at first.
            eager = module.DynamicShapesKernelSpecializationStrategy.EAGER
            self._config.dynamic_shapes_kernel_specialization_strategy = eager
            self._kernels = KernelCache(self._config, kernel_file(request, cuda.kind))

    def profile_of(self, shape: tuple[int, ...]) -> int:
        """The place of the profile that an input is run in; see `engines.profiles.chosen`.

        Raises:
            EngineError: the plan was not built for it; with its range and the command that builds
                another.
        """
        found = chosen(self.profiles, shape)
        if found is not None:
            return found
        taken = whole(self.profiles)
        low, high = taken.min, taken.max
        if len(shape) == len(low) and not low[0] <= shape[0] <= high[0]:
            raise EngineError(
                f"this engine takes batches {low[0]} to {high[0]}, not {shape[0]}; build another "
                f"with clipperf export MODEL --runtime {self.flavour} --batch "
                f"{min(low[0], shape[0])}:{taken.opt[0]}:{max(high[0], shape[0])}"
            )
        raise EngineError(
            f"this engine takes inputs of shape {list(low)} to {list(high)}, not {list(shape)}"
        )

    def new_context(self, stream: int, profile: int = 0) -> trt.IExecutionContext:
        """An execution context whose activations the caller provides, in one of the profiles."""
        if self._engine is None:
            raise EngineError("this engine is closed")
        context = self._engine.create_execution_context(self._config or self._strategy)
        if context is None:
            raise self.failure("cannot make an execution context")
        self.change_profile(context, profile, stream)
        return context

    def change_profile(self, context: trt.IExecutionContext, profile: int, stream: int) -> None:
        """Bring a context, none of whose work is on its way, into a profile.

        Its shape and addresses have to be set again. What TensorRT copies for it is in `stream`.
        """
        if not context.set_optimization_profile_async(profile, stream):
            raise self.failure(f"cannot use its profile {profile}")

    def capturable(self, context: trt.IExecutionContext, stream: int) -> bool:
        """Whether TensorRT agrees that a context's work becomes a CUDA graph."""
        asked = getattr(context, "is_stream_capturable", None)
        return asked is None or bool(asked(stream))

    @property
    def weights_bytes(self) -> int:
        """Bytes of the weights on the GPU; the plan's own size where TensorRT does not say."""
        stat = getattr(self._engine, "get_engine_stat", None)
        return self._info.plan_bytes if stat is None else int(stat())

    def failure(self, what: str) -> EngineError:
        """The error of something that returned None or False."""
        reason = self._log.reason()
        self._log.errors.clear()  # the next failure has its own
        try:
            free = self._cuda.free_bytes()
        except EngineError as exc:  # CUDA itself does not work any more
            return EngineError(f"{self.provider} {what}: {reason}; {exc}")
        if re.search("out ?of ?memory", reason, re.IGNORECASE):
            return cuda_driver.out_of_memory(None, free)
        return EngineError(f"{self.provider} {what}: {reason}")

    def close(self) -> None:
        """Keep the compiled kernels and drop the engine."""
        if self._kernels is not None:
            self._kernels.save()
        self._kernels = self._config = self._engine = self._runtime = None


class KernelCache:
    """The kernels that TensorRT for RTX compiles when a plan first runs a shape, in a file.

    TensorRT itself refuses a file from another GPU, driver or version. Trouble with the file
    never fails a run: the kernels are compiled again.
    """

    def __init__(self, config: Any, file: Path | None) -> None:
        self._cache = config.create_runtime_cache()
        self._file = file
        self._stored = b""
        if file is not None:
            with contextlib.suppress(OSError):
                self._stored = file.read_bytes()
                self._cache.deserialize(self._stored)
        config.set_runtime_cache(self._cache)

    def save(self) -> None:
        """Write the file anew if there are other kernels than were read."""
        if self._file is None or (memory := self._cache.serialize()) is None:
            return
        data = bytes(memory)
        if data == self._stored:
            return
        with contextlib.suppress(StorageError), replacing(self._file) as temporary:
            temporary.write_bytes(data)


def kernel_file(request: EngineRequest, gpu: str) -> Path | None:
    """Where the compiled kernels of an artifact are kept for one kind of GPU, if anywhere."""
    if request.cache_folder is None or not request.key:
        return None
    return Path(request.cache_folder) / f"{safe_name(request.key)}-{gpu}.kernels"


@contextlib.contextmanager
def _mapped(path: Path, size: int) -> Iterator[mmap.mmap]:
    """A plan's bytes without a copy in RAM; its size first, since TensorRT trusts the header."""
    try:
        with path.open("rb") as f:
            if os.fstat(f.fileno()).st_size != size:
                raise ArtifactError(f"{path} is cut off or altered: {plan_file.AGAIN}")
            with mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) as data:
                yield data
    except OSError as exc:
        raise ArtifactError(f"{path} cannot be read: {exc.strerror}") from exc
