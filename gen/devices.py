"""What each GPU can do: limits that decide legality and rates for the performance model."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from functools import cache
from pathlib import Path

from kernelwright import resource_dir
from kernelwright.gen.errors import SpecError
from kernelwright.gen.schema import read_yaml

SUPPORTED_SMS = (80, 86, 89)
"""Architectures that some kernel family is generated for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """One GPU model: a row of `configs/devices.yaml`, which names the source of each figure.

    Sizes are bytes, `l2_mib` MiB, `dram_gbs` GB/s, `boost_mhz` MHz; rates are per SM and clock.
    """

    name: str
    title: str
    sm: int
    reference: bool
    num_sms: int
    boost_mhz: int
    max_smem_bytes: int
    smem_per_sm_bytes: int
    regs_per_sm: int
    max_threads_per_sm: int
    max_blocks_per_sm: int
    mma_flops: int
    mufu: int
    fp32_lanes: int
    smem_bytes_per_clk: int
    l2_mib: int
    dram_gbs: int

    def to_dict(self) -> dict[str, int | str | bool]:
        return asdict(self)


@cache
def devices(path: Path | None = None) -> dict[str, Device]:
    """Return the GPUs of `configs/devices.yaml`, by name, in file order.

    Raises:
        ConfigError: if the file has a fault.
    """
    root = read_yaml(path or resource_dir("configs") / "devices.yaml", schema=1)
    keys = [field.name for field in fields(Device) if field.name != "name"]
    result = {}
    for name, node in root.mapping(["schema", "devices"])["devices"].members().items():
        row = node.mapping(keys)
        values = {key: row[key].integer(1) for key in keys if key not in ("title", "reference")}
        result[name] = Device(name=name, title=row["title"].text(), reference=row["reference"].boolean(), **values)
    return result


def reference_device(sm: int) -> Device:
    """Return the GPU that stands for architecture `sm` where none is named.

    Raises:
        SpecError: if no kernel family is generated for `sm`.
    """
    for device in devices().values():
        if device.sm == sm and device.reference and sm in SUPPORTED_SMS:
            return device
    known = ", ".join(f"sm{one}" for one in SUPPORTED_SMS)
    raise SpecError(f"sm{sm}: no kernel is generated for this architecture; known: {known}")


def parse_arch(text: str) -> int:
    """Turn `sm80` (or `80`, `8.0`) into 80.

    Raises:
        SpecError: if the text names no architecture that kernels are generated for.
    """
    digits = text.lower().removeprefix("sm_").removeprefix("sm").replace(".", "")
    by_digits = {str(sm): sm for sm in SUPPORTED_SMS}
    if digits in by_digits:
        return by_digits[digits]
    known = ", ".join(f"sm{one}" for one in SUPPORTED_SMS)
    hint = " (Hopper has no kernel family yet; sm80 PTX runs there)" if digits.startswith("90") else ""
    raise SpecError(f"architecture {text!r}: unknown; known: {known}{hint}")
