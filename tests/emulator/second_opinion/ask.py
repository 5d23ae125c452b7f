"""Ask the emulator all cases and print what it gets wrong: `python -m second_opinion.ask 2` gives each two warps.

For processes of their own, whose environment chooses the emulator's instruction set.
"""

from __future__ import annotations

import sys

from kernelwright.emulator import EmulatorError

from .cases import CASES, is_refused, known_disagreement
from .harness import Case, disagreement, run


def complaint(case: Case, warps: int | None = None, seed: int = 0) -> str:
    """Return what is wrong with the emulator's answer, or with the lists of what it gets wrong; empty if nothing.

    A known disagreement has to show only where a case is asked as often as it wants to be.
    """
    given = case.given(warps, seed)
    try:
        got = run(case, given)
    except EmulatorError as error:
        return "" if is_refused(case) else f"{case.name}: {error}"
    if is_refused(case):
        return f"{case.name}: the emulator takes it now; strike it out of NOT_YET"
    found, known = disagreement(case, given, got), known_disagreement(case)
    if known and not found and warps is None:
        return f"{case.name}: the emulator agrees now; strike it out of DISAGREES"
    return "" if known else found


if __name__ == "__main__":
    complaints = [one for case in CASES if (one := complaint(case, int(sys.argv[1])))]
    print("\n".join(complaints))
    print(len(CASES), "cases asked")
