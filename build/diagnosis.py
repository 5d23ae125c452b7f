"""Is everything there that a build needs? The checks behind `gen doctor`."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kernelwright.build.driver import driver_release, native_archs
from kernelwright.build.launcher import python_include
from kernelwright.build.settings import BuildSettings
from kernelwright.build.toolchain import INSTALL_HINT, Toolchain, find_ninja, find_toolchain
from kernelwright.emulator.host_library import HostCompilerError, Language, compiler_version, find_compiler
from kernelwright.gen.errors import BuildError, KernelError

OLDEST_PYTHON = (3, 11)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One part, whether it works, and the command that mends it."""

    part: str
    ok: bool
    needed: bool
    detail: str
    mend: str = ""


def diagnose(settings: BuildSettings) -> list[Finding]:
    """Look at every part that building and running need; changes nothing but a probe in the cache."""
    found: list[Toolchain] = []
    checks: list[tuple[str, bool, Callable[[], str], str]] = [
        ("python", True, _python, "install Python 3.11 or newer"),
        ("compiler", True, lambda: _compiler(settings, found), INSTALL_HINT.split(": ")[-1]),
        ("ninja", True, lambda: str(find_ninja()), "pip install ninja"),
        ("host compiler", True, _host_compiler, "apt-get install g++"),
        ("Python.h", True, lambda: str(python_include()), "apt-get install python3-dev"),
        ("torch", True, _torch, "pip install torch"),
        ("cache", True, lambda: _cache(settings.cache_dir), "export KERNELWRIGHT_CACHE=<a folder you may write>"),
        ("driver", False, lambda: _driver(found), "install the NVIDIA driver; without it kernels run on the emulator"),
    ]
    return [_finding(part, needed, check, mend) for part, needed, check, mend in checks]


def _finding(part: str, needed: bool, check: Callable[[], str], mend: str) -> Finding:
    try:
        return Finding(part=part, ok=True, needed=needed, detail=check())
    except (KernelError, OSError) as error:
        return Finding(part=part, ok=False, needed=needed, detail=str(error), mend=mend)


def _python() -> str:
    if sys.version_info < OLDEST_PYTHON:
        raise BuildError(f"{sys.version.split()[0]} is too old")
    return f"{sys.version.split()[0]} at {sys.executable}"


def _compiler(settings: BuildSettings, found: list[Toolchain]) -> str:
    toolchain = find_toolchain(settings)
    found.append(toolchain)
    return f"nvcc {toolchain.version} at {toolchain.nvcc} (from {toolchain.origin})"


def _host_compiler() -> str:
    try:
        return "; ".join(_named_compiler(language) for language in ("c", "c++"))
    except HostCompilerError as error:
        raise BuildError(str(error)) from error


def _named_compiler(language: Language) -> str:
    command = find_compiler(language)
    return f"{compiler_version(command).splitlines()[0]} ({' '.join(command)})"


def _torch() -> str:
    from importlib import metadata

    try:
        return metadata.version("torch")
    except metadata.PackageNotFoundError as error:
        raise BuildError("not installed") from error


def _cache(folder: Path) -> str:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return str(folder)
    except OSError as error:
        raise BuildError(f"{folder} cannot be written: {error.strerror}") from error


def _driver(found: list[Toolchain]) -> str:
    release = driver_release()
    archs = ", ".join(f"sm{sm}" for sm in native_archs())
    text = f"CUDA {release[0]}.{release[1]}; {archs}"
    if found and found[0].release > release:
        # Cubins of a newer minor release load; PTX does not, and a newer major release needs a newer driver.
        if found[0].release[0] > release[0]:
            raise BuildError(f"{text}; older than the toolkit {found[0].version}: its kernels may not load")
        text += f"; compiles no PTX of the newer toolkit {found[0].version}, cubins load"
    return text
