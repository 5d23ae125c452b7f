"""What a module can do, and what it would do with a call."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import torch

from .backward import calls_of_step, plan_of
from .devices import CPU_KEY, DeviceKey
from .engine import Engine, reasons_against
from .errors import InputTypeError, NoKernelError, UnsupportedInputError
from .inputs import Request, calls_of, check
from .options import Options
from .routes import BACKWARD, CONVERT, DELTA, FORWARD, QUERY_GRADIENT, feature_names, select
from .table import NO_BOUND, DeviceFacts, KernelRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class Supported:
    """A kernel of the module, with how it was verified."""

    variant: str
    operation: str
    table: str
    sm: int
    dtype: str
    head_dim: int
    head_dim_v: int
    is_causal: bool
    is_local: bool
    features: tuple[str, ...]
    registers: int
    smem_bytes: int
    verified: tuple[str, ...]


_TITLES = {FORWARD: "forward", BACKWARD: "backward", QUERY_GRADIENT: "backward, deterministic"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Support:
    """The kernels of a module; as text a matrix of architecture, dtype, head_dim, mask and other features."""

    module: str
    kernels: tuple[Supported, ...]

    def to_dict(self) -> dict[str, object]:
        """Return plain data."""
        return asdict(self)

    def __str__(self) -> str:
        lines: list[str] = []
        for operation, title in _TITLES.items():
            kernels = [one for one in self.kernels if one.operation == operation]
            if kernels or operation == FORWARD:
                lines += [*([""] if lines else []), f"{self.module}: {title}", "", *_matrix(kernels)]
        lines += ["", "kernel, table, registers, shared memory, verified"]
        for one in self.kernels:
            verified = "; ".join(one.verified) or "not verified"
            lines.append(f"  {one.variant}  {one.table}  {one.registers}  {one.smem_bytes:,}  {verified}")
        return "\n".join(lines)

    __repr__ = __str__


def _matrix(kernels: Sequence[Supported]) -> list[str]:
    cells: dict[tuple[int, str, int, int, tuple[str, ...]], Counter[str]] = {}
    for one in kernels:
        mask = "causal" if one.is_causal else "local" if one.is_local else "full"
        cells.setdefault((one.sm, one.dtype, one.head_dim, one.head_dim_v, one.features), Counter())[mask] += 1
    lines = ["arch  dtype  head_dim  full  causal   local  with (kernels)"]
    for (sm, dtype, head_dim, head_dim_v, features), cell in sorted(cells.items()):
        full, causal, local = (str(cell[mask] or "-") for mask in ("full", "causal", "local"))
        dims = str(head_dim) if head_dim == head_dim_v else f"{head_dim},{head_dim_v}"
        row = f"sm{sm:<4}{dtype:<7}{dims:>8}{full:>6}{causal:>8}{local:>8}  {' '.join(features)}"
        lines.append(row.rstrip())
    return lines


def support(engine: Engine) -> Support:
    """Return what the module's tables hold, each kernel once, in the order in which tables are asked."""
    found: dict[str, Supported] = {}
    for table in engine.tables():
        for kernel in table.kernels.values():
            found.setdefault(kernel.name, _supported(kernel, table.origin))
    order = [FORWARD, BACKWARD, QUERY_GRADIENT, DELTA, CONVERT]
    ordered = sorted(
        found.values(),
        key=lambda one: (order.index(one.operation), one.sm, one.dtype, one.head_dim, one.is_causal, one.variant),
    )
    return Support(module=engine.package, kernels=tuple(ordered))


def _supported(kernel: KernelRecord, origin: str) -> Supported:
    problem = kernel.problem  # a kernel of single rows has one head dimension and no flag
    head_dim = int(str(problem.get("head_dim", problem.get("head_dim_v"))))
    return Supported(
        variant=kernel.name,
        operation=kernel.operation,
        table=origin,
        sm=kernel.sm,
        dtype=kernel.dtype,
        head_dim=head_dim,
        head_dim_v=int(str(problem.get("head_dim_v", head_dim))),
        is_causal=bool(problem.get("is_causal")),
        is_local=bool(problem.get("is_local")),
        features=feature_names(kernel.problem, besides=("is_causal", "is_local")),
        registers=kernel.registers,
        smem_bytes=kernel.smem_bytes,
        verified=tuple(_verification(one) for one in kernel.verified),
    )


def _verification(record: Mapping[str, object]) -> str:
    details = [str(record[key]) for key in ("date",) if key in record]
    if "problems" in record:
        details.append(f"{record['problems']} problems")
    return f"{record.get('by', 'unknown')} ({', '.join(details)})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """Which kernel a call would run, from where, and why others would not."""

    call: str
    device: str
    variant: str | None
    table: str
    folder: str
    row: int
    label: str
    when: Mapping[str, tuple[int, int]]
    evidence: Mapping[str, object]
    runner_up: Mapping[str, object] | None
    grid: tuple[int, int, int]
    threads: int
    smem_bytes: int
    registers: int
    verified: tuple[str, ...]
    others: tuple[str, ...]
    backward: Mapping[str, str | None]

    def to_dict(self) -> dict[str, object]:
        """Return plain data."""
        return asdict(self)

    def __str__(self) -> str:
        lines = [self.call, f"on {self.device}"]
        if self.variant is None:
            lines.append("runs no kernel of this module")
        else:
            place = "forced" if self.row < 0 else f"row {self.row}"
            lines += [
                f"runs {self.variant}",
                f"  from {self.table} ({self.folder}), {place}, label {self.label}",
                f"  when {_bounds(self.when)}",
                f"  evidence {json.dumps(dict(self.evidence), sort_keys=True)}",
                f"  runner-up {json.dumps(self.runner_up and dict(self.runner_up), sort_keys=True)}",
                f"  grid {self.grid}, {self.threads} threads, {self.smem_bytes:,} bytes of shared memory, "
                f"{self.registers} registers a thread",
                f"  verified {'; '.join(self.verified) or 'not'}",
            ]
        lines += ["backward:", *(f"  {name} runs {variant or 'nothing'}" for name, variant in self.backward.items())]
        if self.others:
            lines += ["others:", *self.others]
        return "\n".join(lines)

    __repr__ = __str__


def explain(engine: Engine, q: object, k: object, v: object, options: Options) -> Explanation:
    """Return what a call with these options would run, without running it; see `flash_attn_func` for what it raises."""
    with torch.no_grad():
        request = check(q, k, v, options)
    if request.is_empty:
        raise NoKernelError(f"{request.call}: with an empty size nothing is launched; the result is zeros.")
    route = engine.route(request.key)
    chosen = next((one for call in calls_of(request) if (one := select(route.choices, call))), None)
    others = reasons_against(route.choices, request.call, limit=20)
    facts = route.device.facts
    return Explanation(
        call=str(request.call),
        device=f"{facts.title} (sm{facts.sm}, {facts.num_sms} SMs){', emulated' if route.device.is_emulated else ''}",
        variant=chosen.kernel.name if chosen else None,
        table=chosen.table.origin if chosen else "",
        folder=str(chosen.table.folder) if chosen else "",
        row=chosen.row.number if chosen else -1,
        label=chosen.row.label if chosen else "",
        when=chosen.row.when if chosen else {},
        evidence=chosen.row.evidence if chosen else {},
        runner_up=chosen.row.runner_up if chosen else None,
        grid=chosen.grid(engine.binding, _numbers(request, facts)) if chosen else (0, 0, 0),
        threads=chosen.kernel.threads if chosen else 0,
        smem_bytes=chosen.kernel.smem_bytes if chosen else 0,
        registers=chosen.kernel.registers if chosen else 0,
        verified=tuple(_verification(one) for one in chosen.kernel.verified) if chosen else (),
        others=tuple(others),
        backward=_backward(engine, request, options),
    )


def _backward(engine: Engine, request: Request, options: Options) -> dict[str, str | None]:
    """The variants of a call's backward pass, by operation; None where the module has none."""
    plan, found = plan_of(request, options), dict[str, str | None]()
    for operation in (BACKWARD, QUERY_GRADIENT, DELTA, CONVERT):
        choices = engine.route(request.key, operation).choices
        calls = calls_of_step(operation, plan, request.q, request.v)
        chosen = next((one for call in calls if (one := select(choices, call))), None)
        found[operation] = chosen.kernel.name if chosen else None
    return found


def _numbers(request: Request, facts: DeviceFacts) -> dict[str, int]:
    whole = {name: int(value) for name, value in request.lowered.scalars.items()}
    return {"max_seqlen_q": request.shape.max_seqlen_q, **request.call.sizes, **whole, "num_sms": facts.num_sms}


def _bounds(when: Mapping[str, tuple[int, int]]) -> str:
    parts = [f"{name} {low}..{'' if high == NO_BOUND else high}" for name, (low, high) in when.items()]
    return ", ".join(parts) or "always"


def device_key(device: object) -> DeviceKey:
    """Return the key of a device given as torch takes it; None is the current GPU, else the CPU.

    Raises:
        UnsupportedInputError: if it is no device, or neither a GPU nor the CPU.
    """
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        parsed = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise InputTypeError(f"device {device!r} is none that torch knows. Name cpu, cuda or cuda:N.") from error
    if parsed.type == "cpu":
        return CPU_KEY
    if parsed.type != "cuda":
        raise UnsupportedInputError(f"device {parsed}: cuda devices and the CPU (emulated) are supported.")
    index = parsed.index
    if index is None:  # without a GPU the driver, asked for its first one, says what is missing
        index = torch.cuda.current_device() if torch.cuda.is_available() else 0
    return DeviceKey(type="cuda", index=index)
