"""Dispatch tables: a folder with `table.json` and the files it names (docs/module.md).

Everything a table holds is checked when it is read; the files of a kernel when it is first used.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from .binding import DTYPE_CODES, Binding, read_binding
from .errors import TableError
from .schema import Node, read_json

SCHEMA = 1
TABLE_FILE = "table.json"
LABELS = ("hand", "modelled", "measured")
ImageKind = Literal["cubin", "ptx"]
WARP_SIZE = 32
NO_BOUND = 2**63 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelFile:
    """A file beside `table.json`, with what it must hold."""

    path: Path
    num_bytes: int
    sha256: str

    def read(self) -> bytes:
        """Return the bytes, if they are the ones the table was written with.

        Raises:
            TableError: if the file is missing, or its size or digest differs.
        """
        try:
            data = self.path.read_bytes()
        except OSError as error:
            raise TableError(f"{self.path} cannot be read: {error}. Build the module or the table again") from error
        if len(data) != self.num_bytes:
            raise TableError(
                f"{self.path} has {len(data):,} bytes, its table expects {self.num_bytes:,}. "
                "The file was cut or replaced; build the module or the table again"
            )
        digest = hashlib.sha256(data).hexdigest()
        if digest != self.sha256:
            raise TableError(
                f"{self.path} has sha256 {digest}, its table expects {self.sha256}. "
                "The file was replaced; build the module or the table again"
            )
        return data


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelRecord:
    """A compiled kernel, as its table describes it. Sizes in bytes; `constants` by the binding's names."""

    name: str
    operation: str
    sm: int
    is_arch_specific: bool
    dtype: str
    problem: Mapping[str, object]
    schedule: Mapping[str, object]
    entry: str
    threads: int
    smem_bytes: int
    constants: Mapping[str, int]
    registers: int
    spill_bytes: int
    files: Mapping[str, KernelFile]
    verified: tuple[Mapping[str, object], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A rule: this kernel, for these sizes, on this device (None: any), as known from `label`."""

    kernel: str
    device: str | None
    label: str
    when: Mapping[str, tuple[int, int]]
    evidence: Mapping[str, object]
    runner_up: Mapping[str, object] | None
    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceFacts:
    """A GPU that the emulator may play, or one that the driver reports. Sizes in bytes."""

    name: str
    title: str
    sm: int
    num_sms: int
    max_smem_bytes: int
    smem_per_sm_bytes: int = 0
    regs_per_sm: int = 0
    max_threads_per_sm: int = 0
    max_blocks_per_sm: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table and the folder it came from. `origin` is how it was found, for messages."""

    name: str
    folder: Path
    origin: str
    devices: Mapping[str, DeviceFacts]
    operations: Mapping[str, Binding]
    kernels: Mapping[str, KernelRecord]
    rows: tuple[Row, ...]


def read_table(path: Path, *, origin: str) -> Table:
    """Return the table in a folder, or the one whose `table.json` is named.

    Raises:
        TableError: naming file and place of the first fault.
    """
    file = path if path.name == TABLE_FILE else path / TABLE_FILE
    root = read_json(file, schema=SCHEMA)
    members = root.mapping(["schema", "name", "devices", "operations", "kernels", "rows"])
    operations = {name: read_binding(node) for name, node in members["operations"].members().items()}
    kernels = {
        name: _read_kernel(name, node, operations, file.parent) for name, node in members["kernels"].members().items()
    }
    return Table(
        name=members["name"].text(),
        folder=file.parent,
        origin=origin,
        devices={name: _read_device(name, node) for name, node in members["devices"].members().items()},
        operations=operations,
        kernels=kernels,
        rows=tuple(_read_row(node, number, kernels, operations) for number, node in enumerate(members["rows"].items())),
    )


def _read_device(name: str, node: Node) -> DeviceFacts:
    members = node.members()
    needed = ["sm", "num_sms", "max_smem_bytes"]
    more = ["smem_per_sm_bytes", "regs_per_sm", "max_threads_per_sm", "max_blocks_per_sm"]
    for key in needed:
        if key not in members:
            raise node.fault(f"lacks the key {key!r}")
    numbers = {key: members[key].integer(0) for key in needed + more if key in members}
    title = members["title"].text() if "title" in members else name
    return DeviceFacts(name=name, title=title, **numbers)


def _read_kernel(name: str, node: Node, operations: Mapping[str, Binding], folder: Path) -> KernelRecord:
    members = node.members()
    if "operation" not in members:
        raise node.fault("lacks the key 'operation'")
    operation = members["operation"].text(list(operations))
    binding = operations[operation]
    required = ["operation", "sm", "problem", "schedule", "entry", "threads", "smem_bytes", *binding.constants]
    required += ["registers", "spill_bytes", "files", "source_digest", "verified"]
    node.mapping(required, ["target"])
    sm = members["sm"].integer(10, 999)
    target = members["target"].text([f"sm_{sm}", f"sm_{sm}a"]) if "target" in members else ""
    files = members["files"].mapping([], ["cubin", "ptx"])
    problem = _read_problem(members["problem"], binding)
    return KernelRecord(
        name=name,
        operation=operation,
        sm=sm,
        is_arch_specific=target.endswith("a"),
        dtype=str(problem["dtype"]),
        problem=problem,
        schedule=members["schedule"].plain_mapping(),
        entry=members["entry"].text(),
        threads=_read_threads(members),
        smem_bytes=members["smem_bytes"].integer(0, 2**31 - 1),
        constants=_read_constants(members, binding),
        registers=members["registers"].integer(),
        spill_bytes=members["spill_bytes"].integer(),
        files={kind: _read_file(one, folder) for kind, one in files.items()},
        verified=tuple(item.plain_mapping() for item in members["verified"].items()),
    )


def _read_constants(members: Mapping[str, Node], binding: Binding) -> dict[str, int]:
    """A constant that the schedule has too decides the grid: launched with another, the kernel computes wrongly."""
    schedule = members["schedule"].plain_mapping()
    constants = {key: members[key].integer(0) for key in binding.constants}
    for key, value in constants.items():
        if schedule.get(key, value) != value:
            raise members[key].fault(f"is {value}, and {schedule[key]!r} in the schedule. Build the table again")
    return constants


def _read_threads(members: Mapping[str, Node]) -> int:
    """A block of other threads than the kernel's code divides its work by leaves some of it undone, without a word."""
    threads, num_warps = members["threads"].integer(1, 1024), members["schedule"].plain_mapping().get("num_warps")
    if isinstance(num_warps, int) and threads != WARP_SIZE * num_warps:
        raise members["threads"].fault(
            f"is {threads}, and num_warps {num_warps} in the schedule. Build the table again"
        )
    return threads


def _read_problem(node: Node, binding: Binding) -> dict[str, object]:
    """A field of the problem that the binding does not route by could select a kernel that computes otherwise."""
    members = node.mapping(["dtype", *binding.fixed, *binding.flags])
    members["dtype"].text([name for name in DTYPE_CODES if name in ("fp16", "bf16")])
    for key in binding.fixed:
        members[key].integer(1)
    for key in binding.flags:
        members[key].boolean()
    return {key: member.value for key, member in members.items()}


def _read_file(node: Node, folder: Path) -> KernelFile:
    members = node.mapping(["file", "bytes", "sha256"])
    name = members["file"].text()
    if Path(name).name != name or name in (".", ".."):
        raise members["file"].fault(f"must be the name of a file beside the table, got {name!r}")
    return KernelFile(path=folder / name, num_bytes=members["bytes"].integer(), sha256=members["sha256"].text())


def _read_row(node: Node, number: int, kernels: Mapping[str, KernelRecord], operations: Mapping[str, Binding]) -> Row:
    members = node.mapping(["kernel", "device", "label", "when", "evidence", "runner_up"])
    kernel = members["kernel"].text()
    if kernel not in kernels:
        raise members["kernel"].fault(f"names {kernel!r}, which is not among the table's kernels")
    sizes = operations[kernels[kernel].operation].sizes
    runner_up = members["runner_up"]
    return Row(
        kernel=kernel,
        device=members["device"].optional_text(),
        label=members["label"].text(LABELS),
        when={size: _read_bounds(one) for size, one in members["when"].mapping([], sizes).items()},
        evidence=members["evidence"].plain_mapping(),
        runner_up=None if runner_up.value is None else runner_up.plain_mapping(),
        number=number,
    )


def _read_bounds(node: Node) -> tuple[int, int]:
    items = list(node.items())
    if len(items) != 2:
        raise node.fault("must be a pair of inclusive bounds, null for none")
    low = 0 if items[0].value is None else items[0].integer(0)
    high = NO_BOUND if items[1].value is None else items[1].integer(0)
    if low > high:
        raise node.fault(f"is empty: {low} is above {high}")
    return low, high


def rows_in_order(table: Table, device_names: frozenset[str]) -> list[Row]:
    """Return the rows for a device: those for it alone, then measured, modelled and hand rows, in file order."""

    def group(row: Row) -> int:
        return 0 if row.device is not None else 1 + LABELS[::-1].index(row.label)

    mine = [row for row in table.rows if row.device is None or row.device.lower() in device_names]
    return sorted(mine, key=lambda row: (group(row), row.number))


def image_or_reason(kernel: KernelRecord, device: DeviceFacts, *, is_emulated: bool) -> tuple[ImageKind | None, str]:
    """Return which file of a kernel runs on a device; None, and the reason, if none does."""
    if kernel.is_arch_specific and kernel.sm != device.sm:
        return None, f"is compiled for sm_{kernel.sm}a alone, the device is sm{device.sm}"
    if kernel.sm > device.sm:
        return None, f"is compiled for sm{kernel.sm}, the device is sm{device.sm}"
    if not is_emulated and kernel.sm // 10 == device.sm // 10 and "cubin" in kernel.files:
        return "cubin", ""
    if "ptx" in kernel.files:
        return "ptx", ""
    if is_emulated:
        return None, "has no PTX beside it, which the emulator needs"
    return None, f"has no PTX beside it, which sm{device.sm} needs, as its cubin is for sm{kernel.sm}"


def why_too_large(kernel: KernelRecord, device: DeviceFacts) -> str | None:
    """A thread block's shared memory is within what the device grants one."""
    if kernel.smem_bytes <= device.max_smem_bytes:
        return None
    return (
        f"needs {kernel.smem_bytes:,} bytes of shared memory per block, {device.title} grants {device.max_smem_bytes:,}"
    )
