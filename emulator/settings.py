"""Environment variables the emulator reads; each is listed in docs/settings.md.

The library itself reads one more: KERNELWRIGHT_EMULATOR_BASELINE, set to anything, keeps it from using AVX2.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path


def cache_dir(environ: Mapping[str, str] | None = None) -> Path:
    """Return the folder for built libraries: `KERNELWRIGHT_CACHE`, else `~/.cache/kernelwright`."""
    env = os.environ if environ is None else environ
    named = env.get("KERNELWRIGHT_CACHE")
    if named:
        return Path(named).expanduser()
    return Path.home() / ".cache" / "kernelwright"


def named_compiler(language: str, environ: Mapping[str, str] | None = None) -> str | None:
    """Return the compiler the user named for `language` ("c" or "c++"): `CC` or `CXX`."""
    env = os.environ if environ is None else environ
    return env.get("CC" if language == "c" else "CXX") or None
