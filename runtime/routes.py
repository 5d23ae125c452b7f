"""From tables to the one kernel that runs a call, with the reasons why others do not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from .binding import DTYPE_CODES, Binding
from .launcher import KernelObject, LaunchRow
from .table import (
    NO_BOUND,
    DeviceFacts,
    ImageKind,
    KernelRecord,
    Row,
    Table,
    image_or_reason,
    rows_in_order,
    why_too_large,
)

FORWARD = "flash_fwd"
"""The operation that every module has; the others make its gradients."""
BACKWARD, QUERY_GRADIENT, DELTA, CONVERT = "flash_bwd", "flash_bwd_dq", "flash_bwd_delta", "flash_bwd_convert"


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """What a call asks for: dtype, compile-time flags and sizes of the binding.

    `multiples`: numbers that fields of the schedule, by name, must divide.
    """

    operation: str
    dtype: str
    flags: Mapping[str, bool]
    sizes: Mapping[str, int]
    multiples: Mapping[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        sizes = ", ".join(f"{name} {size}" for name, size in self.sizes.items())
        flags = ", ".join(name for name, value in self.flags.items() if value)
        return f"{self.operation} {self.dtype}: {sizes}; {flags or 'no flag'}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A row of a table on one device. `why_illegal` says why its kernel cannot run there, "" if it can."""

    table: Table
    row: Row
    kernel: KernelRecord
    image: ImageKind | None
    why_illegal: str

    def why_unfit(self, call: Call) -> str | None:
        """Return why this row does not answer the call, None if it does."""
        problem = self.kernel.problem
        if self.kernel.dtype != call.dtype:
            return f"computes {self.kernel.dtype}, not {call.dtype}"
        for name, is_set in call.flags.items():
            if is_set and name not in problem:
                return f"knows no {name}, which the call has"
        for name, chosen in {**call.flags, **call.sizes}.items():
            if name in problem and problem[name] != chosen:
                return f"is compiled for {name}={problem[name]}, the call has {name}={chosen}"
        for name, number in call.multiples.items():
            tile = self.kernel.schedule.get(name)
            if isinstance(tile, int) and number % tile:
                return f"has {name} {tile}, which does not divide the {number} of the block mask"
        for name, value in call.sizes.items():
            low, high = self.row.when.get(name, (0, NO_BOUND))
            if not low <= value <= high:
                upper = "any" if high == NO_BOUND else str(high)
                return f"is meant for {name} from {low} to {upper}, the call has {value}"
        return self.why_illegal or None

    def has_other_tile(self, call: Call) -> bool:
        """Whether nothing but the tile keeps this row from answering the call."""
        return self.why_unfit(call) is not None and self.why_unfit(replace(call, multiples={})) is None

    def grid(self, binding: Binding, numbers: Mapping[str, int]) -> tuple[int, int, int]:
        """Return the grid of a launch, from sizes, scalars and numbers of the device."""
        return binding.grid_for({**numbers, **self.kernel.constants})


def candidates(
    tables: Iterable[Table], device: DeviceFacts, names: frozenset[str], *, operation: str, is_emulated: bool
) -> list[Candidate]:
    """Return the rows of all tables that speak of this operation, in the order in which they are tried."""
    return [
        _candidate(table, row, device, is_emulated=is_emulated)
        for table in tables
        for row in rows_in_order(table, names)
        if table.kernels[row.kernel].operation == operation
    ]


def forced_candidate(
    tables: Iterable[Table], variant: str, device: DeviceFacts, *, is_emulated: bool
) -> Candidate | None:
    """Return a rule that answers with this variant alone; None if no table holds the variant."""
    for table in tables:
        if variant in table.kernels:
            row = Row(kernel=variant, device=None, label="hand", when={}, evidence={}, runner_up=None, number=-1)
            return _candidate(table, row, device, is_emulated=is_emulated)
    return None


def _candidate(table: Table, row: Row, device: DeviceFacts, *, is_emulated: bool) -> Candidate:
    kernel = table.kernels[row.kernel]
    image, reason = image_or_reason(kernel, device, is_emulated=is_emulated)
    reason = reason or why_too_large(kernel, device) or ""
    return Candidate(table=table, row=row, kernel=kernel, image=image, why_illegal=reason)


def select(choices: Sequence[Candidate], call: Call) -> Candidate | None:
    """Return the first candidate that answers the call, as the launcher does."""
    return next((one for one in choices if one.why_unfit(call) is None), None)


def launch_row(candidate: Candidate, binding: Binding, kernel: KernelObject) -> LaunchRow:
    """Return a legal candidate as the launcher takes it."""
    problem = candidate.kernel.problem
    bounds = [candidate.row.when.get(size, (0, NO_BOUND)) for size in binding.sizes]
    return (
        DTYPE_CODES[candidate.kernel.dtype],
        flag_bits(binding, {name: bool(problem[name]) for name in binding.flags}),
        tuple(int(str(problem[name])) for name in binding.fixed),
        tuple(low for low, _ in bounds),
        tuple(high for _, high in bounds),
        kernel,
    )


def feature_names(flags: Mapping[str, object], besides: Sequence[str] = ()) -> tuple[str, ...]:
    """Return the flags that are set by the names that `gen build --features` takes, in order."""
    chosen = [name for name, value in flags.items() if value is True and name not in besides]
    return tuple(name.partition("_")[2].removeprefix("block_") for name in chosen)


def flag_bits(binding: Binding, flags: Mapping[str, bool]) -> int:
    """Return the flags of a call as bits, in the binding's order."""
    return sum(int(flags[name]) << index for index, name in enumerate(binding.flags))
