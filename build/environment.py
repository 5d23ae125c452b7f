"""The environment that compilers run in. Standard library only."""

from __future__ import annotations

import os
from pathlib import Path

# nvcc adds the flags they hold, which would change a kernel behind its key's back.
FLAG_VARIABLES = ("NVCC_APPEND_FLAGS", "NVCC_PREPEND_FLAGS")


def compiler_environment(scratch: Path | None = None) -> dict[str, str]:
    """Return this process's environment without the variables that add flags.

    Args:
        scratch: where temporary files go, so that what a killed compiler leaves behind is swept with it.
    """
    kept = {name: value for name, value in os.environ.items() if name not in FLAG_VARIABLES}
    return kept if scratch is None else kept | {"TMPDIR": str(scratch.resolve())}
