"""How many kernels to compile at a time, by cores and by memory."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path

GIB = 1 << 30
DEFAULT_JOB_BYTES = int(0.4 * GIB)  # of one nvcc, where no kernel of the build has been compiled before
_UNLIMITED = 1 << 60


def job_count(
    wanted: int | None, max_jobs: int | None, cores: int, free_bytes: int, job_bytes: int = DEFAULT_JOB_BYTES
) -> int:
    """Return how many compilations may run at once, at least 1.

    Args:
        wanted: `--jobs`, or None for as many as fit.
        max_jobs: `MAX_JOBS`, or None.
        cores: CPUs this process may run on.
        free_bytes: memory that can be had without swapping.
        job_bytes: peak memory of one compilation.
    """
    bounds = [wanted if wanted is not None else cores, free_bytes // max(job_bytes, 1)]
    if max_jobs is not None:
        bounds.append(max_jobs)
    return max(1, min(bounds))


def usable_cores() -> int:
    """Return how many CPUs this process may run on."""
    return len(os.sched_getaffinity(0))


def free_memory_bytes(proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> int:
    """Return the memory free to this process: the system's, or less where a control group limits it."""
    return min(_meminfo_available(proc / "meminfo"), *_cgroup_headrooms(proc / "self" / "cgroup", cgroups))


def recorded_job_bytes(reports: Iterable[Path]) -> int:
    """Return the largest peak that earlier compilations of these kernels recorded, or the default."""
    peaks = []
    for path in reports:
        try:
            peaks.append(int(json.loads(path.read_bytes())["peak_rss_kib"]) * 1024)
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return max(peaks, default=DEFAULT_JOB_BYTES)


def _meminfo_available(path: Path) -> int:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return _UNLIMITED
    values = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    return values[0] if values else _UNLIMITED


def _cgroup_headrooms(membership: Path, root: Path) -> list[int]:
    """Return limit minus usage of every control group above this process, of version 1 and 2."""
    try:
        rows = [line.split(":", 2) for line in membership.read_text().splitlines()]
    except OSError:
        return [_UNLIMITED]
    result = [_UNLIMITED]
    for _number, controllers, group in (row for row in rows if len(row) == 3):
        if controllers == "":
            base, limit, usage = root, "memory.max", "memory.current"
        elif "memory" in controllers.split(","):
            base, limit, usage = root / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
        else:
            continue
        folder = base / group.lstrip("/")
        for candidate in (folder, *folder.parents):
            if candidate.is_relative_to(base):
                result.append(_headroom(candidate, limit, usage))
    return result


def _headroom(folder: Path, limit: str, usage: str) -> int:
    try:
        return max(0, int((folder / limit).read_text()) - int((folder / usage).read_text()))
    except (OSError, ValueError):  # no such group here, or "max"
        return _UNLIMITED
