"""All cases, and what the emulator does not do yet or does otherwise."""

from __future__ import annotations

from fnmatch import fnmatchcase

from .attention_cases import ATTENTION
from .bits_cases import BITS
from .float_cases import FLOAT
from .harness import Case
from .matrix_cases import MATRIX
from .memory_cases import MEMORY
from .warp_cases import WARP

CASES: list[Case] = [*MATRIX, *ATTENTION, *MEMORY, *WARP, *BITS, *FLOAT]
BY_NAME: dict[str, Case] = {case.name: case for case in CASES}

# What the emulator refuses, as patterns of cases' names. A test fails when it accepts one: then strike it out here.
NOT_YET: tuple[str, ...] = (
    "mma.*.m16n8k4.*.tf32.*",
    "mma.*.m16n8k8.*.tf32.*",
    "mma.*.m8n8k16.row.col.s32.*",
    "mma.*.m16n8k16.row.col.s32.*",
    "mma.*.m16n8k32.row.col.s32.*",
    "mma.*.satfinite.*",
    "mma.*.f32.e?m?.e?m?.*",
    "mma.*.f16.e?m?.e?m?.*",
    "stmatrix.*",
    "ldmatrix and stmatrix *",
    "match.all.*",
    "mbarrier.*",
    "cp.async.mbarrier.*",
    "cp.async.* ignore-src",
    "bfind.shiftamt.*",
    "???.cc.u32",
    "mov.b32 bytes",
    "???.r[zmp].f32",
    "sqrt.r[zmp].f32",
    "???.rz.ftz.f32",
    "cvt.*.satfinite.f16.f32",
    "cvt.*.satfinite.bf16.f32",
    "cvt.*.satfinite.f16x2.f32",
    "cvt.*.satfinite.bf16x2.f32",
    "cvt.r[mp].f16.f32",
    "cvt.r[zmp].f32.s32",
    "cvt.rna.tf32.f32",
    "cvt.r[nz].tf32.f32",
    "cvt.r[nz].relu.tf32.f32",
    "cvt.*.e?m?x2.f32",
    "cvt.*.e?m?x2.f16x2",
    "cvt.*.f16x2.e?m?x2",
)

# What the emulator does otherwise than the PTX ISA says, and where the ISA says it. Struck out likewise.
DISAGREES: dict[str, str] = {
    "atom.shared.cas.b16": '"atom": .b16 is 16 bits of memory; what lies behind them decides nothing',
    "atom.global.add.f32": '"atom": atom.add.f32 on global memory flushes subnormal inputs and results',
    "red.global.add.f32": '"red": red.add.f32 on global memory flushes subnormal inputs and results',
    "m[ai][nx].f32": '"min", "max": of two NaN the result is the canonical NaN, 0x7fffffff',
    "m[ai][nx].ftz.f32": '"min", "max": of two NaN the result is the canonical NaN, 0x7fffffff',
    "cvt.r?i.?64.f32": '"cvt", integer notes: NaN becomes 1 << 63 where the destination has 64 bits',
    "ex2.approx.ftz.bf16*": '"ex2" of half precision: .ftz.bf16 flushes subnormal results',
}


def is_refused(case: Case) -> bool:
    """Return whether the emulator is known to refuse a case."""
    return any(fnmatchcase(case.name, one) for one in NOT_YET)


def known_disagreement(case: Case) -> str:
    """Return what the ISA says and the emulator is known not to do; empty if nothing."""
    return next((reason for one, reason in DISAGREES.items() if fnmatchcase(case.name, one)), "")
