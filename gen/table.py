"""Entries of a dispatch table (docs/module.md): what the builder and the tuner write and the run time reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields

from kernelwright.gen.binding import bindings, names_of
from kernelwright.gen.devices import devices
from kernelwright.gen.ladder import Bounds
from kernelwright.gen.spec import OPERATION, Variant

SCHEMA = 1


def kernel_constants(variant: Variant) -> dict[str, int]:
    """Return the numbers of a schedule that a binding's terms use, by name."""
    schedule, named = variant.schedule, names_of(bindings()[variant.operation])
    return {one.name: int(getattr(schedule, one.name)) for one in fields(schedule) if one.name in named}


def routed_problem(variant: Variant) -> dict[str, object]:
    """Return the fields of a problem by which calls are routed to a kernel; its kernels agree in the others."""
    binding = bindings()[variant.operation]
    fixed, flags = binding["fixed"], binding["flags"]
    assert isinstance(fixed, Sequence) and isinstance(flags, Sequence)
    return {name: value for name, value in asdict(variant.problem).items() if name in {"dtype", *fixed, *flags}}


def kernel_entry(
    variant: Variant, *, registers: int, spill_bytes: int, files: Mapping[str, object], source_digest: str
) -> dict[str, object]:
    """Return the record of a compiled kernel.

    Args:
        variant: what was compiled.
        registers: registers a thread, from ptxas.
        spill_bytes: bytes of spill stores and loads a thread, from ptxas.
        files: `cubin` and `ptx`, each `{"file", "bytes", "sha256"}`.
        source_digest: sha256 of everything the kernel was compiled from.
    """
    return {
        "operation": variant.operation,
        **variant.to_dict(),
        "problem": routed_problem(variant),
        "entry": variant.name,
        "threads": variant.schedule.threads,
        "smem_bytes": variant.smem_bytes,
        **kernel_constants(variant),
        "registers": registers,
        "spill_bytes": spill_bytes,
        "files": dict(files),
        "source_digest": source_digest,
        "verified": [],
    }


def hand_row(variant: Variant, when: Bounds) -> dict[str, object]:
    """Return the row of a rung of the hand ladder."""
    return {
        "kernel": variant.name,
        "device": None,
        "label": "hand",
        "when": {size: list(bounds) for size, bounds in when.items()},
        "evidence": {"source": "hand ladder"},
        "runner_up": None,
    }


def table(name: str, kernels: Mapping[str, Mapping[str, object]], rows: list[dict[str, object]]) -> dict[str, object]:
    """Return a whole table, ready for JSON, with the bindings of the operations that it has kernels of, and forward."""
    used = {OPERATION, *(str(one["operation"]) for one in kernels.values())}
    return {
        "schema": SCHEMA,
        "name": name,
        "devices": {key: device.to_dict() for key, device in devices().items()},
        "operations": {operation: one for operation, one in bindings().items() if operation in used},
        "kernels": dict(kernels),
        "rows": rows,
    }
