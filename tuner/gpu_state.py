"""Clocks, power and what holds the clocks down, from NVIDIA's management library. None where there is none."""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

_LIBRARY = "libnvidia-ml.so.1"
_SM_CLOCK, _MEMORY_CLOCK = 1, 2  # nvmlClockType_t
_TEMPERATURE_GPU = 0  # nvmlTemperatureSensors_t
THROTTLE_REASONS = {  # nvml.h, nvmlClocksEventReason*; 0x1 is idle, which holds nothing down
    0x2: "application clocks",
    0x4: "software power cap",
    0x8: "hardware slowdown",
    0x10: "sync boost",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "hardware power brake",
    0x100: "display clocks",
}


def read_state(pci_bus_id: str | None, library: str = _LIBRARY) -> dict[str, Any] | None:  # Any: JSON
    """Return `sm_mhz`, `memory_mhz`, `power_w`, `temperature_c` and `throttle`, a list of reasons, at this moment.

    Args:
        pci_bus_id: as in `0000:1B:00.0`, since the library does not heed CUDA_VISIBLE_DEVICES; None is the first GPU.
        library: the management library.

    Returns:
        None if there is no such library or GPU; a value is None where this GPU does not tell.
    """
    lib = _open(library)
    device = ctypes.c_void_p()
    if lib is None:
        return None
    if pci_bus_id is None:
        status = lib.nvmlDeviceGetHandleByIndex_v2(0, ctypes.byref(device))
    else:
        status = lib.nvmlDeviceGetHandleByPciBusId_v2(pci_bus_id.encode(), ctypes.byref(device))
    if status:
        return None
    power_mw = _ask(lib, "nvmlDeviceGetPowerUsage", device)
    reasons = _ask(lib, "nvmlDeviceGetCurrentClocksThrottleReasons", device, kind=ctypes.c_ulonglong)
    return {
        "sm_mhz": _ask(lib, "nvmlDeviceGetClockInfo", device, _SM_CLOCK),
        "memory_mhz": _ask(lib, "nvmlDeviceGetClockInfo", device, _MEMORY_CLOCK),
        "power_w": None if power_mw is None else power_mw / 1000,
        "temperature_c": _ask(lib, "nvmlDeviceGetTemperature", device, _TEMPERATURE_GPU),
        "throttle": None if reasons is None else throttle_names(reasons),
    }


def throttle_names(reasons: int) -> list[str]:
    """Return the reasons in a bit mask, in words."""
    return [name for bit, name in THROTTLE_REASONS.items() if reasons & bit]


def current_pci_bus_id() -> str | None:
    """Return the bus id of torch's current GPU; None where torch does not say."""
    import torch

    one = torch.cuda.get_device_properties(torch.cuda.current_device())
    parts = [getattr(one, name, None) for name in ("pci_domain_id", "pci_bus_id", "pci_device_id")]
    numbers = [part for part in parts if part is not None]
    return "{:08X}:{:02X}:{:02X}.0".format(*numbers) if len(numbers) == len(parts) else None


def _ask(
    lib: ctypes.CDLL, function: str, device: ctypes.c_void_p, *choice: int, kind: type = ctypes.c_uint
) -> int | None:
    value = kind()
    try:
        status = getattr(lib, function)(device, *choice, ctypes.byref(value))
    except AttributeError:
        return None
    return None if status else int(value.value)


@cache
def _open(library: str) -> ctypes.CDLL | None:
    try:
        lib = ctypes.CDLL(library)
    except OSError:
        return None
    return None if lib.nvmlInit_v2() else lib
