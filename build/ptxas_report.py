"""What `ptxas -v` says about a kernel, as numbers. Standard library only."""

from __future__ import annotations

import re
from dataclasses import dataclass

_ENTRY = re.compile(r"Compiling entry function '([^']+)'")
_STACK = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
_REGISTERS = re.compile(r"Used (\d+) registers")
_BARRIERS = re.compile(r"used (\d+) barriers")
_SMEM = re.compile(r"(\d+) bytes smem")
_REMARK = re.compile(r"\(C7\d\d\d\)|\bwarning\b|Potential Performance Loss", re.IGNORECASE)
_PREFIX = re.compile(r"^ptxas\s+\S*\s*:\s*")


@dataclass(frozen=True, slots=True, kw_only=True)
class PtxasReport:
    """Static figures of one cubin; the maximum where it holds several kernels."""

    entries: tuple[str, ...]  # symbols
    registers: int  # per thread
    spill_store_bytes: int  # per thread
    spill_load_bytes: int
    stack_bytes: int
    static_smem_bytes: int  # per block
    barriers: int
    remarks: tuple[str, ...]  # warnings and C75xx remarks, such as serialised wgmma


def parse_ptxas(log: str) -> PtxasReport:
    """Read the output of `ptxas -v`.

    Raises:
        ValueError: if it names no kernel or no register count: a changed wording is not taken for zero.
    """
    entries = tuple(dict.fromkeys(_ENTRY.findall(log)))
    registers = [int(number) for number in _REGISTERS.findall(log)]
    frames = [tuple(map(int, frame)) for frame in _STACK.findall(log)]
    if not entries or not registers or not frames:
        raise ValueError("ptxas reported no kernel, register count or stack frame")
    stacks, stores, loads = zip(*frames, strict=True)
    remarks = [_PREFIX.sub("", line).strip() for line in log.splitlines() if _REMARK.search(line)]
    return PtxasReport(
        entries=entries,
        registers=max(registers),
        spill_store_bytes=max(stores),
        spill_load_bytes=max(loads),
        stack_bytes=max(stacks),
        static_smem_bytes=max(map(int, _SMEM.findall(log)), default=0),
        barriers=max(map(int, _BARRIERS.findall(log)), default=0),
        remarks=tuple(dict.fromkeys(remarks)),
    )
