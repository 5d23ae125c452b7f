"""The environment variables that a build reads."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from kernelwright.emulator.settings import cache_dir
from kernelwright.gen.errors import BuildError


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildSettings:
    """Where things are and how much of the machine a build may use.

    Attributes:
        cache_dir: the emulator's too: `KERNELWRIGHT_CACHE`, or `~/.cache/kernelwright`.
        cuda_home: `CUDA_HOME`, or `CUDA_PATH`, or None.
        max_jobs: `MAX_JOBS`, the most compilations at a time, or None.
    """

    cache_dir: Path
    cuda_home: Path | None = None
    max_jobs: int | None = None


def read_settings(environ: Mapping[str, str] | None = None) -> BuildSettings:
    """Read the settings from `environ`, by default the process's own.

    Raises:
        BuildError: if one has no meaning.
    """
    env = os.environ if environ is None else environ
    home = env.get("CUDA_HOME") or env.get("CUDA_PATH")
    return BuildSettings(
        cache_dir=_cache_dir(env),
        cuda_home=Path(home) if home else None,
        max_jobs=_positive("MAX_JOBS", env.get("MAX_JOBS")),
    )


def _cache_dir(env: Mapping[str, str]) -> Path:
    try:
        return cache_dir(env).absolute()
    except RuntimeError as error:
        raise BuildError("No home folder for the cache. Set KERNELWRIGHT_CACHE to a folder.") from error


def _positive(name: str, text: str | None) -> int | None:
    if not text:
        return None
    if not text.isdecimal() or len(text) > 9 or int(text) < 1:  # Python refuses to read thousands of digits
        raise BuildError(f"{name} must be a whole number from 1 to 999999999, got {text[:40]!r}")
    return int(text)
