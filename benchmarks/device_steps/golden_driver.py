"""One small kernel on a device, through the CUDA driver's own functions: libcuda, or the emulator under the same names.

A kernel here takes two addresses, of its output and its input, both of 32-bit words by block and thread, and where it
has one a tensor map of its input.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from device_steps.golden_tensor_map import ENCODE, TensorMap, address_of

Words = npt.NDArray[np.uint32]
LIBCUDA = "libcuda.so.1"
_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR
_READ, _WRITE = 1, 2  # of kw_declare
_UNKNOWN = re.compile(r"instruction '([^']+)' is not one the emulator knows")
_UNWRITTEN = 0xCDCDCDCD  # what an output holds before the launch


class DeviceError(RuntimeError):
    """A driver function failed; the message names it and says what the driver says."""


class UnsupportedError(DeviceError):
    """The library lacks a function, or the emulator an instruction: nothing was run, so nothing can be wrong."""


class _LaunchConfig(ctypes.Structure):  # CUlaunchConfig
    _fields_ = (
        ("grid", ctypes.c_uint * 3),
        ("block", ctypes.c_uint * 3),
        ("shared_bytes", ctypes.c_uint),
        ("stream", ctypes.c_void_p),
        ("attributes", ctypes.c_void_p),
        ("num_attributes", ctypes.c_uint),
    )


class WordDevice:
    """The first device of a driver library.

    Args:
        library: `libcuda.so.1`, or the path of the emulator's library.

    Raises:
        DeviceError: if the library cannot be opened, does not start or has no device.
    """

    def __init__(self, library: str = LIBCUDA, ordinal: int = 0) -> None:
        try:
            self._lib = ctypes.CDLL(library)
        except OSError as error:
            raise DeviceError(f"{library} cannot be opened: {error}") from error
        self._library_name = Path(library).name
        self.is_emulator = hasattr(self._lib, "kw_declare")
        self._set_types()
        self._call("cuInit", 0)
        device, name, version = ctypes.c_int(), ctypes.create_string_buffer(256), ctypes.c_int()
        self._call("cuDeviceGet", ctypes.byref(device), ordinal)
        self._call("cuDeviceGetName", name, len(name), device)
        self._call("cuDriverGetVersion", ctypes.byref(version))
        self.name = name.value.decode(errors="replace")
        self.driver_version = f"{version.value // 1000}.{version.value % 1000 // 10}"
        self.sm = 10 * self._attribute(_MAJOR, device) + self._attribute(_MINOR, device)
        self._ordinal = ordinal
        self._context = ctypes.c_void_p()
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(self._context), device)

    def run(
        self, ptx: str, entry: str, given: Words, out_words: int, *, sm: int = 0, tensor_map: TensorMap | None = None
    ) -> Words:
        """Launch one block per case and return what it wrote.

        Args:
            ptx: the module's text.
            entry: the kernel's name; its parameters are the addresses of the output and of the input.
            given: [cases, threads, words].
            out_words: words that each thread writes.
            sm: what the emulator is to be meanwhile; 0 leaves it as it is. A GPU is what it is.
            tensor_map: describes `given` in a third parameter.

        Returns:
            [cases, threads, out_words].

        Raises:
            UnsupportedError: if the library has no tensor maps, or the emulator does not know an instruction.
            DeviceError: if the driver refuses the module or the launch, or the emulator finds a fault.
        """
        if tensor_map and not hasattr(self._lib, ENCODE):
            raise UnsupportedError(f"{self._library_name} has no {ENCODE}")
        given = np.ascontiguousarray(given, dtype=np.uint32)
        out = np.full((*given.shape[:2], out_words), _UNWRITTEN, np.uint32)
        with self._current(), self._emulated_as(sm), self._kernel(ptx, entry) as kernel:
            self._launch(kernel, given, out, tensor_map)
        return out

    def _launch(self, kernel: ctypes.c_void_p, given: Words, out: Words, tensor_map: TensorMap | None) -> None:
        with self._on_device(out, _WRITE) as to, self._on_device(given, _READ) as source:
            values = [ctypes.c_uint64(to), ctypes.c_uint64(source)]
            places = [ctypes.addressof(one) for one in values]
            if tensor_map:
                status, memory = tensor_map.encode(self._lib, source)
                self._judge(ENCODE, status)
                places.append(address_of(memory))
            parameters = (ctypes.c_void_p * len(places))(*places)
            config = _LaunchConfig(grid=(given.shape[0], 1, 1), block=(given.shape[1], 1, 1))
            self._call("cuLaunchKernelEx", ctypes.byref(config), kernel, parameters, None)
            self._call("cuCtxSynchronize")
            if not self.is_emulator:
                self._call("cuMemcpyDtoH_v2", out.ctypes.data, to, out.nbytes)

    @contextmanager
    def _emulated_as(self, sm: int) -> Iterator[None]:
        """The emulator as another GPU than it says it is."""
        if not self.is_emulator or sm in (0, self.sm):
            yield
            return
        self._call("kw_configure", f"sm={sm}".encode())
        try:
            yield
        finally:
            self._call("kw_configure", f"sm={self.sm}".encode())

    @contextmanager
    def _on_device(self, array: Words, access: int) -> Iterator[int]:
        """The device address of an array's values: its own in the emulator, which is told its extent."""
        if self.is_emulator:
            self._call("kw_declare", array.ctypes.data, array.nbytes, access, 1)
            yield array.ctypes.data
            return
        address = ctypes.c_uint64()
        self._call("cuMemAlloc_v2", ctypes.byref(address), array.nbytes)
        try:
            self._call("cuMemcpyHtoD_v2", address.value, array.ctypes.data, array.nbytes)
            yield address.value
        finally:
            self._lib.cuMemFree_v2(address.value)

    @contextmanager
    def _current(self) -> Iterator[None]:
        self._call("cuCtxPushCurrent_v2", self._context)
        try:
            yield
        finally:
            self._lib.cuCtxPopCurrent_v2(ctypes.byref(ctypes.c_void_p()))

    @contextmanager
    def _kernel(self, ptx: str, entry: str) -> Iterator[ctypes.c_void_p]:
        library, kernel = ctypes.c_void_p(), ctypes.c_void_p()
        self._call("cuLibraryLoadData", ctypes.byref(library), ptx.encode(), None, None, 0, None, None, 0)
        try:
            self._call("cuLibraryGetKernel", ctypes.byref(kernel), library, entry.encode())
            yield kernel
        finally:
            self._lib.cuLibraryUnload(library)

    def _attribute(self, attribute: int, device: ctypes.c_int) -> int:
        value = ctypes.c_int()
        self._call("cuDeviceGetAttribute", ctypes.byref(value), attribute, device)
        return value.value

    def _call(self, name: str, *arguments: Any) -> None:  # Any: whatever ctypes converts
        self._judge(name, getattr(self._lib, name)(*arguments))

    def _judge(self, name: str, status: int) -> None:
        if not status:
            return
        reason = self._explain(status)
        if self.is_emulator and (unknown := _UNKNOWN.search(reason)):
            raise UnsupportedError(f"the emulator does not know {unknown[1]}")
        raise DeviceError(f"{name} failed: {reason}")

    def _explain(self, status: int) -> str:
        if self.is_emulator and (message := self._lib.kw_message()):
            return str(message.decode(errors="replace"))
        text = ctypes.c_char_p()
        found = self._lib.cuGetErrorString(status, ctypes.byref(text)) == 0 and text.value
        return f"{status} ({text.value.decode(errors='replace') if found and text.value else 'unknown'})"

    def _set_types(self) -> None:
        """Where ctypes' guess of int would cut an address or a size."""
        pointer, size, unsigned = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_uint
        types: dict[str, tuple[Any, ...]] = {
            "cuLibraryLoadData": (pointer, ctypes.c_char_p, pointer, pointer, unsigned, pointer, pointer, unsigned),
            "cuLibraryGetKernel": (pointer, pointer, ctypes.c_char_p),
            "cuLibraryUnload": (pointer,),
            "cuLaunchKernelEx": (pointer, pointer, pointer, pointer),
            "cuCtxPushCurrent_v2": (pointer,),
        }
        if self.is_emulator:
            self._lib.kw_message.restype = ctypes.c_char_p
            types["kw_configure"] = (ctypes.c_char_p,)
            types["kw_declare"] = (pointer, ctypes.c_uint64, ctypes.c_int, ctypes.c_int)
        else:
            types["cuMemAlloc_v2"] = (pointer, size)
            types["cuMemFree_v2"] = (ctypes.c_uint64,)
            types["cuMemcpyHtoD_v2"] = (ctypes.c_uint64, pointer, size)
            types["cuMemcpyDtoH_v2"] = (pointer, ctypes.c_uint64, size)
        for name, arguments in types.items():
            getattr(self._lib, name).argtypes = arguments


def emulator() -> WordDevice:
    """Return the emulator, built on first use, as a device."""
    from kernelwright.emulator.library import library_path

    return WordDevice(str(library_path()))
