"""The extension `_launcher` (launcher.c) as Python sees it: types, and how it is found and set up."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol, cast

import torch
from torch.autograd import forward_ad

from .errors import DriverError, LaunchError

PlainTensor = tuple[int, int, int, int, tuple[int, ...], tuple[int, ...]]
"""data_ptr, DLPack's dtype code, device type and index, shape, strides in elements."""

LaunchRow = tuple[int, int, tuple[int, ...], tuple[int, ...], tuple[int, ...], "KernelObject"]
"""dtype code, flags, fixed sizes, lowest sizes, highest sizes, kernel."""

CPU, CUDA = 1, 2  # DLPack's device types


class DriverObject(Protocol):
    """A library with the CUDA driver's interface."""

    path: str
    is_emulator: bool

    def open(self) -> None: ...
    def version(self) -> int: ...
    def device_count(self) -> int: ...
    def device_name(self, ordinal: int, /) -> str: ...
    def device_attribute(self, ordinal: int, attribute: int, /) -> int: ...
    def configure(self, text: str, /) -> None: ...
    def message(self) -> str: ...
    def report(self) -> str: ...


class KernelObject(Protocol):
    """A kernel on one device."""

    name: str
    loaded: bool

    def load(self, image: bytes, /) -> None: ...


class OperationObject(Protocol):
    """A lowered binding with the rows of each device."""

    parameter_bytes: int
    launch: Callable[..., bool]
    launch_kernel: Callable[..., bool]
    match: Callable[..., str | None]

    def add_device(self, device_type: int, device_id: int, rows: tuple[LaunchRow, ...], /) -> None: ...
    def clear_devices(self) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Launcher:
    """The extension's classes, set up for this torch. `reads_tensors`: torch has the exchange interface."""

    driver: Callable[[str], DriverObject]
    kernel: Callable[..., KernelObject]
    operation: Callable[..., OperationObject]
    reads_tensors: bool


def in_forward_mode() -> bool:
    """Whether tensors may carry tangents of forward-mode differentiation."""
    return bool(forward_ad._current_level >= 0)


def load_launcher(package: str, *, plain_ints: bool) -> Launcher:
    """Import `<package>._launcher` and tell it about torch.

    Raises:
        DriverError: if the extension is missing or was built for another machine.
    """
    try:
        extension = importlib.import_module("._launcher", package)
    except ImportError as error:
        raise DriverError(
            f"{package}: the extension _launcher.abi3.so cannot be imported: {error}. "
            "It belongs into the module's folder; build the module again on this kind of machine"
        ) from error
    guards = [
        guard
        for name in ("_is_tracing", "_len_torch_dispatch_stack")
        if (guard := getattr(torch._C, name, None)) is not None
    ]
    guards.append(in_forward_mode)
    reads = extension.setup(
        tensor_type=torch.Tensor,
        parameter_type=torch.nn.Parameter,
        is_grad_enabled=torch.is_grad_enabled,
        is_neg=torch.Tensor.is_neg,
        guards=tuple(guards),
        driver_error=DriverError,
        launch_error=LaunchError,
        use_exchange=not plain_ints,
    )
    return Launcher(
        driver=cast(  # a C extension has no types
            "Callable[[str], DriverObject]",
            partial(extension.Driver, driver_error=DriverError, launch_error=LaunchError),
        ),
        kernel=extension.Kernel,
        operation=extension.Operation,
        reads_tensors=bool(reads),
    )
