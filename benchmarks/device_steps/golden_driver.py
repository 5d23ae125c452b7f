"""One small kernel on a device, through the CUDA driver's own functions: libcuda, or the emulator under the same names.

A kernel here takes two addresses, of its output and its input, both of 32-bit words by block and lane.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

Words = npt.NDArray[np.uint32]
LIBCUDA = "libcuda.so.1"
LANES = 32
_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR
_READ, _WRITE = 1, 2  # of kw_declare
_UNWRITTEN = 0xCDCDCDCD  # what an output holds before the launch


class DeviceError(RuntimeError):
    """A driver function failed; the message names it and says what the driver says."""


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

    def run(self, ptx: str, entry: str, given: Words, out_words: int) -> Words:
        """Launch one block of a warp per case and return what it wrote.

        Args:
            ptx: the module's text.
            entry: the kernel's name; its parameters are the addresses of the output and of the input.
            given: [cases, 32, words].
            out_words: words that each lane writes.

        Returns:
            [cases, 32, out_words].

        Raises:
            DeviceError: if the driver refuses the module or the launch, or the emulator finds a fault.
        """
        given = np.ascontiguousarray(given, dtype=np.uint32)
        out = np.full((given.shape[0], LANES, out_words), _UNWRITTEN, np.uint32)
        with self._current(), self._kernel(ptx, entry) as kernel:
            self._launch(kernel, given, out)
        return out

    def _launch(self, kernel: ctypes.c_void_p, given: Words, out: Words) -> None:
        with self._on_device(out, _WRITE) as to, self._on_device(given, _READ) as source:
            values = [ctypes.c_uint64(to), ctypes.c_uint64(source)]
            parameters = (ctypes.c_void_p * 2)(*[ctypes.addressof(one) for one in values])
            config = _LaunchConfig(grid=(given.shape[0], 1, 1), block=(LANES, 1, 1))
            self._call("cuLaunchKernelEx", ctypes.byref(config), kernel, parameters, None)
            self._call("cuCtxSynchronize")
            if not self.is_emulator:
                self._call("cuMemcpyDtoH_v2", out.ctypes.data, to, out.nbytes)

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
        status: int = getattr(self._lib, name)(*arguments)
        if status:
            raise DeviceError(f"{name} failed: {self._explain(status)}")

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
