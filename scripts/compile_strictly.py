"""Compile the emulator and the launcher with all warnings as errors, and keep nothing: compile_strictly.py CXX.

Every file as it is compiled for users, flags and all, at its own optimisation: some warnings need it.
"""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from kernelwright import resource_dir
from kernelwright.build import launcher
from kernelwright.emulator import library

WARNINGS = ("-Wall", "-Wextra", "-Wshadow", "-Wconversion", "-Wformat=2", "-Wundef")
CXX_WARNINGS = ("-Wnon-virtual-dtor", "-Woverloaded-virtual")
C_COMPILERS = {"g++": "gcc", "clang++": "clang"}


def commands(cxx: str) -> list[list[str]]:
    """Return one command for each compilation that the build of a module does."""
    out = [
        [cxx, *library.FLAGS, *unit.flags, *WARNINGS, *CXX_WARNINGS, str(unit.source)]
        for unit in library.units(platform.machine())
    ]
    cc = C_COMPILERS.get(cxx, "cc")
    include = f"-isystem{launcher.python_include()}"  # Python's own headers are not ours to mend
    source = resource_dir("runtime") / "launcher.c"
    return [*out, [cc, *launcher.FLAGS, include, *WARNINGS, str(source)]]


def compile_one(command: list[str]) -> str:
    """Return what the compiler said, if it failed."""
    done = subprocess.run(
        [*command, "-Werror", "-fPIC", "-c", "-o", "/dev/null"], capture_output=True, text=True, check=False
    )
    return done.stderr if done.returncode else ""


def main(cxx: str) -> int:
    """Compile everything; return the exit status."""
    if shutil.which(cxx) is None:
        sys.exit(f"{cxx} is not there")
    todo = commands(cxx)
    with ThreadPoolExecutor() as pool:
        failed = [said for said in pool.map(compile_one, todo) if said]
    print(*failed, f"{len(todo)} files, {len(failed)} with warnings", sep="\n")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else "g++"))
