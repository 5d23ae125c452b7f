"""How big the kernel cache is, and emptying it."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from kernelwright.build.files import explain_os_error
from kernelwright.build.store import scratch_dir, sweep_scratch
from kernelwright.gen.errors import BuildError

_KEY = re.compile(r"[0-9a-f]{64}")  # of a compiled kernel, or of what is known of a toolkit
_LIBRARY = re.compile(r"(?P<stem>.+)-[0-9a-f]{20}")  # a launcher or an emulator: STEM-DIGEST/STEM.so


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheSize:
    """What the cache holds."""

    path: Path
    kernels: int
    num_bytes: int


def cache_size(cache_dir: Path) -> CacheSize:
    """Return how many kernels and how many bytes the cache holds; an absent cache holds nothing.

    Raises:
        BuildError: if the cache cannot be read.
    """
    try:
        parts = list(_parts(cache_dir))
        kernels = sum((part / "report.json").is_file() for part in parts)
        return CacheSize(path=cache_dir, kernels=kernels, num_bytes=sum(map(_tree_bytes, parts)))
    except OSError as error:
        raise BuildError(
            f"{cache_dir} cannot be read: {error.strerror}. Set KERNELWRIGHT_CACHE to a folder."
        ) from error


def clear_cache(cache_dir: Path) -> CacheSize:
    """Remove everything that builds put into the cache, nothing else, and return what was there.

    Safe beside a running build, which compiles again what it misses: folders are renamed out of sight first.

    Raises:
        BuildError: if the cache cannot be read or written.
    """
    before = cache_size(cache_dir)
    if not cache_dir.exists():
        return before
    try:
        with scratch_dir(cache_dir, "clear") as scratch:
            for index, part in enumerate(_parts(cache_dir)):
                part.rename(scratch / str(index))
        sweep_scratch(cache_dir)
        for folder in (*cache_dir.glob("kernels/??"), cache_dir / "kernels", cache_dir / "toolchains"):
            with contextlib.suppress(OSError):  # absent, or not empty
                folder.rmdir()
    except OSError as error:
        raise BuildError(explain_os_error(error, f"clearing {cache_dir}", "another KERNELWRIGHT_CACHE")) from error
    return before


def _parts(cache_dir: Path) -> Iterator[Path]:
    """Yield what builds made, known by its name: a folder named as the cache by mistake may hold anything else."""
    kernels = [path for path in cache_dir.glob("kernels/??/*") if _KEY.fullmatch(path.name)]
    toolkits = [path for path in cache_dir.glob("toolchains/*.json") if _KEY.fullmatch(path.stem)]
    yield from sorted(kernels + toolkits)
    for folder in sorted(cache_dir.glob("*-*")):
        match = _LIBRARY.fullmatch(folder.name)
        if match and (folder / f"{match['stem']}.so").is_file():
            yield folder


def _tree_bytes(part: Path) -> int:
    total = 0
    for path in (part, *part.rglob("*")):
        try:
            if path.is_file() and not path.is_symlink():
                total += path.stat().st_size
        except OSError:
            continue
    return total
