"""Running a kernel's PTX from Python, on numpy arrays and CPU torch tensors.

```python
from kernelwright import emulator
module = emulator.load("kernel.ptx")
report = module.launch("scale", grid=(4,), block=(128,), args=[x, np.int32(n)])
```
"""

from __future__ import annotations

import ctypes
import json
import signal
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any, Literal

import numpy as np

from .library import library_path
from .tensor_map import TensorMap

Access = Literal["read", "write", "read_write"]
_ACCESS: dict[str, int] = {"read": 1, "write": 2, "read_write": 3}
CHECKS = ("memory", "init", "async", "barrier", "race")
_ATTRIBUTE_CLUSTER_DIMENSION = 4
_KERNEL_SHARED_SIZE, _KERNEL_MAX_DYNAMIC_SHARED, _DEVICE_SHARED_OPTIN = 1, 8, 97


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something a check found; lines are 0 and warp and lane -1 where unknown."""

    kind: str
    text: str
    ptx_line: int
    cuda_file: str
    cuda_line: int
    block: tuple[int, int, int]
    warp: int
    lane: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a launch did: `counters` are exact counts, `fidelity` says how well each executed opcode is modelled.

    `printed` is what the kernel's printf wrote, in the order of execution.
    """

    kernel: str
    findings: list[Finding] = field(default_factory=list)
    counters: dict[str, int] = field(default_factory=dict)
    fidelity: dict[str, str] = field(default_factory=dict)
    tracks_undefined: bool = False
    printed: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """An array with the use a kernel may make of it; `initialised=False` makes reading before writing a finding."""

    array: Any  # a numpy array or anything with torch's data_ptr()
    access: Access = "read_write"
    initialised: bool = True


class EmulatorError(RuntimeError):
    """A module that cannot be loaded, a launch that is refused, or a finding. `report` is set for findings."""

    def __init__(self, message: str, report: Report | None = None) -> None:
        super().__init__(message)
        self.report = report


class _LaunchAttribute(ctypes.Structure):
    _fields_ = (("id", ctypes.c_int), ("pad", ctypes.c_char * 4), ("value", ctypes.c_uint * 16))


class _LaunchConfig(ctypes.Structure):
    _fields_ = (
        ("grid", ctypes.c_uint * 3),
        ("block", ctypes.c_uint * 3),
        ("shared_bytes", ctypes.c_uint),
        ("stream", ctypes.c_void_p),
        ("attributes", ctypes.POINTER(_LaunchAttribute)),
        ("num_attributes", ctypes.c_uint),
    )


_interrupts = threading.local()


def _poll() -> int:
    """Called from inside a launch, on its thread; entering Python lets a pending signal handler run."""
    return int(getattr(_interrupts, "pending", False))


_POLL = ctypes.CFUNCTYPE(ctypes.c_int)
_poll_callback = _POLL(_poll)  # kept for the life of the process: the library holds its address


@cache
def driver() -> ctypes.CDLL:
    """Return the emulator library, loaded once, for those who call its driver functions themselves."""
    lib = ctypes.CDLL(str(library_path()))
    for name in ("kw_message", "kw_report"):
        getattr(lib, name).restype = ctypes.c_char_p
    lib.kw_declare.argtypes = (ctypes.c_void_p, ctypes.c_uint64, ctypes.c_int, ctypes.c_int)
    lib.kw_configure.argtypes = lib.kw_launch_options.argtypes = (ctypes.c_char_p,)
    lib.kw_poll.argtypes = (_POLL,)
    options = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint)
    lib.cuLibraryLoadData.argtypes = (ctypes.c_void_p, ctypes.c_char_p, *options, *options)
    lib.cuLibraryGetKernel.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p)
    lib.cuLibraryUnload.argtypes = (ctypes.c_void_p,)
    lib.cuKernelGetAttribute.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p, ctypes.c_int)
    lib.cuKernelSetAttribute.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_void_p, ctypes.c_int)
    lib.cuKernelGetParamInfo.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p, ctypes.c_void_p)
    lib.cuLaunchKernelEx.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)
    lib.kw_poll(_poll_callback)
    return lib


def configure(**settings: object) -> None:
    """Change the process-wide emulated device and defaults, such as `configure(sm=90, sms=3)`.

    Raises:
        EmulatorError: for an unknown setting or value; nothing is changed then.
    """
    lib = driver()
    text = ",".join(f"{key}={value}" for key, value in settings.items())
    if lib.kw_configure(text.encode()):
        raise EmulatorError(_message(lib))


def _message(lib: ctypes.CDLL) -> str:
    text: bytes = lib.kw_message()
    return text.decode(errors="replace")


def load(source: str | Path) -> Module:
    """Load PTX from a file, or from its text (a `str` with a line break).

    Raises:
        EmulatorError: if the text is malformed or holds an instruction the emulator does not know; the line is named.
    """
    is_text = isinstance(source, str) and "\n" in source
    text = str(source) if is_text else Path(source).read_text(encoding="utf-8")
    return Module(text, name="PTX text" if is_text else str(source))


class Module:
    """A loaded PTX module. It stays loaded, as modules on a device do, until it is unloaded or the process ends."""

    def __init__(self, text: str, *, name: str = "PTX text") -> None:
        self._lib = driver()
        handle = ctypes.c_void_p()
        if self._lib.cuLibraryLoadData(ctypes.byref(handle), text.encode(), None, None, 0, None, None, 0):
            raise EmulatorError(f"{name}: {_message(self._lib)}")
        self._handle = handle

    def unload(self) -> None:
        """Free what the module holds, for those who load very many; it cannot be launched any more."""
        if self._lib.cuLibraryUnload(self._handle):
            raise EmulatorError(_message(self._lib))

    def _kernel(self, name: str) -> ctypes.c_void_p:
        kernel = ctypes.c_void_p()
        if self._lib.cuLibraryGetKernel(ctypes.byref(kernel), self._handle, name.encode()):
            raise EmulatorError(_message(self._lib))
        static, most = ctypes.c_int(), ctypes.c_int()
        self._lib.cuKernelGetAttribute(ctypes.byref(static), _KERNEL_SHARED_SIZE, kernel, 0)
        self._lib.cuDeviceGetAttribute(ctypes.byref(most), _DEVICE_SHARED_OPTIN, 0)
        if self._lib.cuKernelSetAttribute(_KERNEL_MAX_DYNAMIC_SHARED, max(most.value - static.value, 0), kernel, 0):
            raise EmulatorError(_message(self._lib))
        return kernel

    def parameter_sizes(self, kernel: str) -> list[int]:
        """Return the size in bytes of each of a kernel's parameters."""
        handle = self._kernel(kernel)
        sizes: list[int] = []
        offset, size = ctypes.c_size_t(), ctypes.c_size_t()
        while not self._lib.cuKernelGetParamInfo(handle, len(sizes), ctypes.byref(offset), ctypes.byref(size)):
            sizes.append(size.value)
        return sizes

    def launch(
        self,
        kernel: str,
        *,
        grid: Sequence[int],
        block: Sequence[int],
        args: Sequence[Any],
        memory: Iterable[Any] = (),
        shared_bytes: int = 0,
        cluster: Sequence[int] = (1, 1, 1),
        checks: str | Iterable[str] = "all",
        seed: int = 0,
        on_finding: Literal["raise", "collect"] = "raise",
        counters: bool | None = None,
        max_instructions: int | None = None,
        resident_blocks: int | None = None,
        threads: int | None = None,
        registers: int | None = None,
    ) -> Report:
        """Run a kernel to its end.

        Args:
            kernel: its name in the PTX.
            grid: thread blocks along x, y, z; trailing ones may be left out.
            block: threads along x, y, z; likewise.
            args: one for each parameter: arrays and CPU tensors (their address), `Memory`, `TensorMap`, numpy scalars,
                or ctypes structures and bytes for parameters passed by value.
            memory: further arrays the kernel may touch, through pointers inside structures.
            shared_bytes: dynamic shared memory of a block.
            cluster: only (1, 1, 1).
            checks: "all", "none", or some of `CHECKS`.
            seed: 0 for the fixed order of warps, anything else for a random one.
            on_finding: whether the first finding raises, or all are collected in the report.
            counters: whether traffic and operations are counted; by default when any check is on.
            max_instructions: warp instructions after which the launch is given up; 0 for no limit.
            resident_blocks: thread blocks that may wait on one another; by default as many as the device would hold.
            threads: host threads to run blocks on; by default one for each processor. The result does not depend on it.
            registers: of each thread, as ptxas gave them, which `setmaxnreg` shares out; by default as many as the
                device has for a block of this size.

        Returns:
            The report, also when findings were collected.

        Raises:
            EmulatorError: for a refused launch, and for a finding unless they are collected.
            KeyboardInterrupt: on Ctrl-C, within about 20 ms.
        """
        handle = self._kernel(kernel)
        declared: list[Memory] = [one if isinstance(one, Memory) else Memory(array=one) for one in memory]
        buffers = self._parameters(kernel, args, declared)
        params = (ctypes.c_void_p * max(len(buffers), 1))(*[ctypes.addressof(b) for b in buffers])
        settings = {"checks": _checks(checks), "seed": seed, "on_finding": on_finding, "print": 0}
        settings["counters"] = None if counters is None else int(counters)
        settings |= {"max_instructions": max_instructions, "resident_blocks": resident_blocks, "threads": threads}
        settings["registers"] = registers
        self._prepare(settings, declared)
        config = _configuration(grid, block, shared_bytes, cluster)
        with _interruptible():
            code = self._lib.cuLaunchKernelEx(ctypes.byref(config), handle, params, None)
            text: bytes = self._lib.kw_report()
            message = _message(self._lib)
        report = _parse_report(text)
        if code and not (on_finding == "collect" and report.findings):
            raise EmulatorError(message, report if report.findings else None)
        return report

    def _parameters(
        self, kernel: str, args: Sequence[Any], declared: list[Memory]
    ) -> list[ctypes.Array[ctypes.c_char]]:
        """Return the bytes of each parameter; arrays are added to `declared`."""
        sizes = self.parameter_sizes(kernel)
        if len(args) != len(sizes):
            raise EmulatorError(f"kernel {kernel} takes {len(sizes)} arguments, got {len(args)}")
        buffers = []
        for index, (arg, size) in enumerate(zip(args, sizes, strict=True)):
            raw = self._tensor_map(arg, declared) if isinstance(arg, TensorMap) else _argument(arg, declared)
            if len(raw) != size:
                raise EmulatorError(f"kernel {kernel}: argument {index} has {len(raw)} bytes, the parameter {size}")
            buffers.append(ctypes.create_string_buffer(raw, max(size, 1)))
        return buffers

    def _tensor_map(self, map_: TensorMap, declared: list[Memory]) -> bytes:
        declared.append(Memory(array=map_.array, access=map_.access))
        status, raw = map_.encode(self._lib)
        if status:
            raise EmulatorError(_message(self._lib))
        return raw

    def _prepare(self, settings: dict[str, object], declared: Iterable[Memory]) -> None:
        """Tell the library this thread's next launch: its settings, where they are not None, and its memory."""
        options = ",".join(f"{key}={value}" for key, value in settings.items() if value is not None)
        if self._lib.kw_launch_options(options.encode()):
            raise EmulatorError(_message(self._lib))
        for one in declared:
            address, extent = _extent(one.array)
            if self._lib.kw_declare(address, extent, _ACCESS[one.access], int(one.initialised)):
                raise EmulatorError(_message(self._lib))


def _configuration(
    grid: Sequence[int], block: Sequence[int], shared_bytes: int, cluster: Sequence[int]
) -> _LaunchConfig:
    config = _LaunchConfig(grid=_three(grid), block=_three(block), shared_bytes=shared_bytes)
    if tuple(_three(cluster)) != (1, 1, 1):
        attribute = _LaunchAttribute(id=_ATTRIBUTE_CLUSTER_DIMENSION)
        attribute.value[:3] = list(_three(cluster))
        config.attributes = ctypes.pointer(attribute)
        config.num_attributes = 1
    return config


@contextmanager
def _interruptible() -> Iterator[None]:
    """Let Ctrl-C end a launch: the handler only notes it, the launch's next poll ends it, then the old handler runs."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    seen: list[tuple[int, FrameType | None]] = []

    def note(number: int, frame: FrameType | None) -> None:
        seen.append((number, frame))
        _interrupts.pending = True

    before = signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before if before is not None else signal.SIG_DFL)
        _interrupts.pending = False
        if seen:
            if callable(before):
                before(*seen[0])
            elif before != signal.SIG_IGN:
                raise KeyboardInterrupt


def _three(values: Sequence[int]) -> Any:
    three = [int(v) for v in values] + [1] * (3 - len(values))
    if len(three) != 3 or any(v < 0 or v > 0xFFFFFFFF for v in three):
        raise EmulatorError(f"a size must be 1 to 3 counts, got {tuple(values)}")
    return (ctypes.c_uint * 3)(*three)


def _checks(checks: str | Iterable[str]) -> str:
    if isinstance(checks, str):
        return checks
    return "+".join(sorted(checks)) or "none"


def _extent(array: Any) -> tuple[int, int]:
    """Return the address and the number of bytes an array's elements span."""
    if isinstance(array, np.ndarray):
        low, high = np.lib.array_utils.byte_bounds(array)
        return int(low), int(high - low)
    if getattr(array, "device", None) is not None and array.device.type != "cpu":
        raise EmulatorError(f"a tensor on {array.device} cannot be emulated; move it to the CPU")
    if array.numel() == 0:
        return int(array.data_ptr()), 0
    span = sum((size - 1) * stride for size, stride in zip(array.shape, array.stride(), strict=True)) + 1
    return int(array.data_ptr()), int(span * array.element_size())


def _argument(arg: Any, declared: list[Memory]) -> bytes:
    """Return a parameter's bytes; arrays are added to `declared`."""
    if isinstance(arg, Memory):
        declared.append(arg)
        arg = arg.array
    elif isinstance(arg, np.ndarray):
        declared.append(Memory(array=arg, access="read_write" if arg.flags.writeable else "read"))
    elif hasattr(arg, "data_ptr"):
        declared.append(Memory(array=arg))
    if isinstance(arg, np.ndarray):
        return int(arg.ctypes.data).to_bytes(8, "little")
    if hasattr(arg, "data_ptr"):
        return int(arg.data_ptr()).to_bytes(8, "little")
    if isinstance(arg, np.generic):
        return arg.tobytes()
    if isinstance(arg, ctypes.Structure | ctypes.Array | bytes | bytearray):
        return bytes(arg)
    if isinstance(arg, ctypes._SimpleCData):
        return bytes(arg)
    raise EmulatorError(
        f"cannot pass {type(arg).__name__} to a kernel: its size is not known. Use an array, a tensor, a numpy scalar "
        "such as np.int32(1), a ctypes structure, or bytes."
    )


def _parse_report(text: bytes) -> Report:
    data = json.loads(text or b"{}")
    findings = [Finding(**{**one, "block": tuple(one["block"])}) for one in data.get("findings", [])]
    return Report(
        kernel=data.get("kernel", ""),
        findings=findings,
        counters=data.get("counters", {}),
        fidelity=data.get("fidelity", {}),
        tracks_undefined=data.get("tracks_undefined", False),
        printed=data.get("printed", "").encode("latin-1").decode(errors="replace"),  # the JSON has one character a byte
    )
