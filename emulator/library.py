"""The emulator's own shared library: where it is, and building it on first use."""

from __future__ import annotations

import platform
from functools import cache
from pathlib import Path

from . import settings
from .host_library import Unit, compile_shared

SONAME = "libkernelwright_emulator.so"
SOURCE_DIR = Path(__file__).parent / "src"

# Handlers and everything else a warp instruction touches: compiled once for any processor and once for AVX2, chosen at
# run time. The baseline objects come first: where both define the same inline function the linker keeps the first.
_HOT = (
    "alu_int", "alu_float", "alu_half", "compare", "convert", "memory", "async", "mbarrier", "warp_ops", "matrix",
    "wmma", "calls", "directed", "tma", "wgmma", "variant",
)  # fmt: skip
_LOADER = (
    "lexer", "parser", "link", "decode", "decode_forms", "decode_mbarrier", "decode_matrix", "registers",
    "undefined_flow", "decode_hopper", "decode_wgmma",
)  # fmt: skip
_COMMON = (
    "driver", "launch", "report", "select", "checks", "race", "global_race", "barriers", "mbarrier_state", "schedule",
    "parallel", "print", "register_pool", "bulk", "tensor_map", "wgmma_state",
)  # fmt: skip
FLAGS = ("-std=c++17", "-fvisibility=hidden", "-fwrapv", "-fno-strict-aliasing", "-pthread")
# Arithmetic as written: no contraction into fma. errno and floating-point exceptions are nobody's business here.
_ARITHMETIC = ("-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math")
_AVX2 = ("-O3", *_ARITHMETIC, "-DKW_ISA=isa_avx2", "-mavx2", "-mfma", "-mf16c", "-mbmi", "-mpopcnt")
_LINK = ("-static-libstdc++", "-static-libgcc", "-pthread", "-Wl,--version-script={dir}/exports.map", "-lm")


def _source(name: str) -> Path:
    return SOURCE_DIR / f"{name}.cpp"


def units(machine: str) -> list[Unit]:
    """Return what is compiled for a processor family, as `platform.machine()` names it."""
    x86 = machine in ("x86_64", "AMD64")
    common = ("-DKW_HAVE_AVX2",) if x86 else ()
    # On x86 hardly anybody runs the baseline: it is compiled quickly rather than well.
    base = ("-O1" if x86 else "-O3", *_ARITHMETIC, "-DKW_ISA=isa_base")
    out = [Unit(source=_source(name), flags=("-O2", *common)) for name in _COMMON]
    out += [Unit(source=_source("undefined"), flags=("-O3", *common))]  # loops over lanes
    out += [Unit(source=_source(name), flags=("-O1", *common)) for name in _LOADER]
    out += [Unit(source=_source(name), flags=base) for name in _HOT]
    if x86:
        out += [Unit(source=_source(name), flags=_AVX2) for name in _HOT]
    return out


@cache
def library_path() -> Path:
    """Return the emulator's shared library, built on first use into the cache (`KERNELWRIGHT_CACHE`).

    Raises:
        HostCompilerError: if it has to be built and cannot be.
    """
    depends = [*SOURCE_DIR.glob("*.h"), SOURCE_DIR / "exports.map"]
    sources = units(platform.machine())
    return compile_shared(sources, FLAGS, SONAME, settings.cache_dir(), link_flags=_LINK, depends=depends)
