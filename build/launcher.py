"""Compile the generic launcher, once for every module."""

from __future__ import annotations

import sysconfig
from pathlib import Path

from kernelwright import resource_dir
from kernelwright.build.errors import ToolchainError

FLAGS = ("-O2", "-std=gnu11", "-fvisibility=hidden", "-DPy_LIMITED_API=0x030b0000")
LIBRARIES = ("-ldl", "-lm", "-pthread")
SONAME = "_launcher.abi3.so"


def compile_launcher(cache_dir: Path) -> Path:
    """Return the compiled `runtime/launcher.c`; it fits every Python from 3.11 on and any torch.

    Raises:
        ToolchainError: if Python's headers are missing.
        KernelError: if there is no host compiler, or it refuses the launcher.
    """
    from kernelwright.emulator.host_library import compile_shared

    flags = [*FLAGS, f"-I{python_include()}", *LIBRARIES]
    return compile_shared([resource_dir("runtime") / "launcher.c"], flags, SONAME, cache_dir)


def python_include() -> Path:
    """Return the folder of Python.h.

    Raises:
        ToolchainError: if it is not installed.
    """
    folder = Path(sysconfig.get_path("include"))
    if not (folder / "Python.h").is_file():
        raise ToolchainError(
            f"{folder}/Python.h is missing: the headers of this Python are not installed. "
            "Install them with: apt-get install python3-dev (or python3-devel)"
        )
    return folder
