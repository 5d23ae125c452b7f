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
NOT_YET: tuple[str, ...] = ()

# What the emulator does otherwise than the PTX ISA says, and where the ISA says it. Struck out likewise.
DISAGREES: dict[str, str] = {}


def is_refused(case: Case) -> bool:
    """Return whether the emulator is known to refuse a case."""
    return any(fnmatchcase(case.name, one) for one in NOT_YET)


def known_disagreement(case: Case) -> str:
    """Return what the ISA says and the emulator is known not to do; empty if nothing."""
    return next((reason for one, reason in DISAGREES.items() if fnmatchcase(case.name, one)), "")
