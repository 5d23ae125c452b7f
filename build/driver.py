"""What the NVIDIA driver says about this machine. Asks libcuda itself: no torch, no toolkit."""

from __future__ import annotations

import ctypes

from kernelwright.gen.errors import BuildError

_SUCCESS = 0
_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR


def native_archs(library: str = "libcuda.so.1") -> list[int]:
    """Return the architecture of each GPU, such as 80, without repetition, in the driver's order.

    Raises:
        BuildError: if there is no driver or no GPU.
    """
    driver = _open(library)
    count = ctypes.c_int()
    _call(driver, "cuDeviceGetCount", ctypes.byref(count))
    if not count.value:
        raise BuildError("The NVIDIA driver sees no GPU.")
    found = []
    for ordinal in range(count.value):
        device, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
        _call(driver, "cuDeviceGet", ctypes.byref(device), ordinal)
        _call(driver, "cuDeviceGetAttribute", ctypes.byref(major), _MAJOR, device)
        _call(driver, "cuDeviceGetAttribute", ctypes.byref(minor), _MINOR, device)
        found.append(10 * major.value + minor.value)
    return list(dict.fromkeys(found))


def driver_release(library: str = "libcuda.so.1") -> tuple[int, int]:
    """Return the CUDA release that the driver supports, such as (13, 0).

    Raises:
        BuildError: if there is no driver that starts.
    """
    version = ctypes.c_int()
    _call(_open(library), "cuDriverGetVersion", ctypes.byref(version))
    return version.value // 1000, version.value % 1000 // 10


def _open(library: str) -> ctypes.CDLL:
    try:
        driver = ctypes.CDLL(library)
    except OSError as error:
        raise BuildError(f"No NVIDIA driver here ({library} cannot be opened).") from error
    _call(driver, "cuInit", 0)
    return driver


def _call(driver: ctypes.CDLL, name: str, *arguments: object) -> None:
    status: int = getattr(driver, name)(*arguments)
    if status != _SUCCESS:
        raise BuildError(f"The NVIDIA driver failed: {name} returned {status}.")
