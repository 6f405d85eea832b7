"""Memory that ONNX Runtime's bound inputs and outputs lie in, and how arrays get there and back."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from inspect import signature
from typing import Any, Protocol

import numpy as np

from clipperf.engines.onnxruntime import library
from clipperf.errors import EngineError


@dataclass(frozen=True)
class Buffer:
    """A tensor of ONNX Runtime's on a device; `host` is one as large in pinned memory, if any.

    `array` is the latter's memory, and is valid for as long as the buffer is.
    """

    value: Any
    host: Any = None
    array: np.ndarray | None = None


class Buffers(Protocol):
    """Makes buffers, and copies into them and out of them."""

    def new(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Buffer:
        """A buffer with anything in it."""

    def put(self, buffer: Buffer, array: np.ndarray) -> None:
        """Copy an array of the buffer's shape and type to the device, wholly on return."""

    def take(self, buffer: Buffer, binding: Any) -> np.ndarray:
        """The only output of a run that ended, in an array of its own."""


class DriverBuffers:
    """Memory of ONNX Runtime's own on "cuda" or "cpu"; the driver copies from the caller's memory.

    In whole runs a way of ours through pinned memory was slower (docs/tensorrt.md).
    """

    def __init__(self, device: str = "cuda") -> None:
        self._device = device

    def new(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Buffer:
        make = library().OrtValue.ortvalue_from_shape_and_type
        return Buffer(make(shape, dtype.type, self._device, 0))

    def put(self, buffer: Buffer, array: np.ndarray) -> None:
        buffer.value.update_inplace(np.ascontiguousarray(array))

    def take(self, buffer: Buffer, binding: Any) -> np.ndarray:
        result: np.ndarray = binding.copy_outputs_to_cpu()[0]
        return result


class PluginBuffers:
    """Memory that a plugin offers for its device, each with pinned memory of its own beside it.

    ONNX Runtime's "cuda" is the memory of its own CUDA provider, which need not be there. Copies
    are the plugin's and are over when they return: `copy_tensors` without a stream.

    Raises:
        EngineError: the plugin offers no such memory for the device, or ONNX Runtime is too old.
    """

    def __init__(self, device: Any) -> None:
        ort = library()
        if "memory_info" not in signature(ort.OrtValue.ortvalue_from_shape_and_type).parameters:
            raise EngineError(
                f"onnxruntime {ort.__version__} binds no memory of a plugin: "
                f"pip install --upgrade 'onnxruntime-gpu>=1.28'"
            )
        kinds = ort.OrtDeviceMemoryType
        self._device = device.memory_info(kinds.DEFAULT)
        self._host = device.memory_info(kinds.HOST_ACCESSIBLE)
        if self._device is None or self._host is None:
            which = "device" if self._device is None else "pinned"
            raise EngineError(f"{device.ep_name} offers no {which} memory to bind; update it")

    def new(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Buffer:
        make = library().OrtValue.ortvalue_from_shape_and_type
        value, host = (make(shape, dtype.type, memory_info=m) for m in (self._device, self._host))
        # `host.numpy()` is the same memory, but looks for the CUDA provider's libraries first, and
        # where these are missing says so on standard error.
        size = host.tensor_size_in_bytes()
        memory = (ctypes.c_char * size).from_address(host.data_ptr())
        return Buffer(value, host, np.frombuffer(memory, dtype).reshape(shape))

    def put(self, buffer: Buffer, array: np.ndarray) -> None:
        assert buffer.array is not None
        np.copyto(buffer.array, array, casting="no")
        library().copy_tensors([buffer.host], [buffer.value])

    def take(self, buffer: Buffer, binding: Any) -> np.ndarray:
        assert buffer.array is not None
        library().copy_tensors([buffer.value], [buffer.host])
        return buffer.array.copy()
