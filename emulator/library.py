"""The emulator's own shared library: where it is, and building it on first use."""

from __future__ import annotations

import platform
from functools import cache
from pathlib import Path

from . import settings
from .host_library import Unit, compile_shared

SONAME = "libkernelwright_emulator.so"
SOURCE_DIR = Path(__file__).parent / "src"

# Handlers and everything else a warp instruction touches: compiled once for any x86-64 and once for AVX2, chosen at run
# time. The baseline objects come first: where both define the same inline function the linker keeps the first.
_HOT = ("alu_int", "alu_float", "alu_half", "compare", "convert", "memory", "async", "warp_ops", "matrix", "variant")
_COMMON = ("driver", "launch", "report", "select", "lexer", "parser", "decode", "decode_forms", "registers", "checks", "barriers", "schedule")
_FLAGS = (
    "-std=c++17", "-O2", "-fvisibility=hidden", "-fwrapv", "-fno-strict-aliasing",
    "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math",
)  # fmt: skip
_AVX2 = ("-O3", "-DKW_ISA=isa_avx2", "-mavx2", "-mfma", "-mf16c", "-mbmi", "-mlzcnt", "-mpopcnt")
_LINK = ("-static-libstdc++", "-static-libgcc", "-Wl,--version-script={dir}/exports.map", "-lm")


def units(machine: str) -> list[Unit]:
    """Return what is compiled for a processor family, as `platform.machine()` names it."""
    x86 = machine in ("x86_64", "AMD64")
    common = ("-DKW_HAVE_AVX2",) if x86 else ()
    out = [Unit(source=SOURCE_DIR / f"{name}.cpp", flags=common) for name in _COMMON]
    out += [Unit(source=SOURCE_DIR / f"{name}.cpp", flags=("-O3", "-DKW_ISA=isa_base")) for name in _HOT]
    if x86:
        out += [Unit(source=SOURCE_DIR / f"{name}.cpp", flags=_AVX2) for name in _HOT]
    return out


@cache
def library_path() -> Path:
    """Return the emulator's shared library, built on first use into the cache (`KERNELWRIGHT_CACHE`).

    Raises:
        HostCompilerError: if it has to be built and cannot be.
    """
    depends = [*SOURCE_DIR.glob("*.h"), SOURCE_DIR / "exports.map"]
    return compile_shared(units(platform.machine()), _FLAGS, SONAME, settings.cache_dir(), link_flags=_LINK, depends=depends)
