"""How big the kernel cache is, and emptying it."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from kernelwright.build.files import explain_os_error
from kernelwright.build.store import scratch_dir, sweep_scratch
from kernelwright.gen.errors import BuildError

PARTS = ("kernels", "toolchains")  # of this package


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheSize:
    """What the cache holds."""

    path: Path
    kernels: int
    num_bytes: int


def cache_size(cache_dir: Path) -> CacheSize:
    """Return how many kernels and how many bytes the cache holds; an absent cache holds nothing."""
    kernels = sum(1 for _ in cache_dir.glob("kernels/*/*/report.json"))
    return CacheSize(path=cache_dir, kernels=kernels, num_bytes=_tree_bytes(cache_dir))


def clear_cache(cache_dir: Path) -> CacheSize:
    """Remove everything that builds put into the cache and return what was there.

    Safe beside a running build, which compiles again what it misses: folders are renamed out of sight first.

    Raises:
        BuildError: if the cache cannot be written.
    """
    before = cache_size(cache_dir)
    if not cache_dir.exists():
        return before
    try:
        with scratch_dir(cache_dir, "clear") as scratch:
            for part in PARTS:
                if (cache_dir / part).exists():
                    (cache_dir / part).rename(scratch / part)
        sweep_scratch(cache_dir)
        for folder in sorted(cache_dir.iterdir()):
            if folder.is_dir() and folder.name != "tmp" and not folder.name.startswith("."):  # launchers, emulators
                shutil.rmtree(folder)
    except OSError as error:
        raise BuildError(explain_os_error(error, f"clearing {cache_dir}")) from error
    return before


def _tree_bytes(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        try:
            if path.is_file() and not path.is_symlink():
                total += path.stat().st_size
        except OSError:
            continue
    return total
