"""The compiled parts that every module gets: the generic launcher and the emulator's library."""

from __future__ import annotations

import sysconfig
from pathlib import Path

from kernelwright import resource_dir
from kernelwright.build.errors import ToolchainError
from kernelwright.emulator.host_library import HostCompilerError, compile_shared

FLAGS = ("-O2", "-std=gnu11", "-fvisibility=hidden", "-DPy_LIMITED_API=0x030b0000")
LIBRARIES = ("-ldl", "-lm", "-pthread")
SONAME = "_launcher.abi3.so"


def compile_launcher(cache_dir: Path) -> Path:
    """Return the compiled `runtime/launcher.c`; it fits every Python from 3.11 on and any torch.

    Raises:
        ToolchainError: if Python's headers or a C compiler are missing, or the compiler refuses the launcher.
    """
    flags = [*FLAGS, f"-I{python_include()}"]
    source = resource_dir("runtime") / "launcher.c"
    try:
        return compile_shared([source], flags, SONAME, cache_dir, link_flags=LIBRARIES, language="c")
    except HostCompilerError as error:
        raise ToolchainError(f"The launcher cannot be compiled: {error}") from error


def emulator_library() -> Path:
    """Return the emulator's library, compiled at first use.

    Raises:
        ToolchainError: if it cannot be compiled.
    """
    from kernelwright.emulator.library import library_path

    try:
        return library_path()
    except HostCompilerError as error:
        raise ToolchainError(f"The emulator cannot be compiled: {error}\nLeave it out with --no-emulator.") from error


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
