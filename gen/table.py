"""Entries of a dispatch table (docs/module.md): what the builder and the tuner write and the run time reads."""

from __future__ import annotations

from collections.abc import Mapping

from kernelwright.gen.binding import bindings
from kernelwright.gen.devices import devices
from kernelwright.gen.ladder import Bounds
from kernelwright.gen.spec import OPERATION, Variant

SCHEMA = 1


def kernel_constants(variant: Variant) -> dict[str, int]:
    """Return the numbers of a schedule that a binding's terms use, by name."""
    schedule = variant.schedule
    return {name: int(getattr(schedule, name)) for name in ("block_m", "num_slices", "pack_gqa", "persistent_blocks")}


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
        "operation": OPERATION,
        **variant.to_dict(),
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


def table(name: str, kernels: Mapping[str, object], rows: list[dict[str, object]]) -> dict[str, object]:
    """Return a whole table, ready for JSON."""
    return {
        "schema": SCHEMA,
        "name": name,
        "devices": {key: device.to_dict() for key, device in devices().items()},
        "operations": dict(bindings()),
        "kernels": dict(kernels),
        "rows": rows,
    }
