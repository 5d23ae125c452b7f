"""From variants to compiled kernels."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from kernelwright.build import jobs
from kernelwright.build.compile_kernel import CompileSettings
from kernelwright.build.files import explain_os_error, sha256_bytes
from kernelwright.build.locks import locked
from kernelwright.build.run import Source, run_ninja, write_sources
from kernelwright.build.settings import BuildSettings, read_settings
from kernelwright.build.store import sweep_scratch
from kernelwright.build.toolchain import Toolchain, find_ninja, find_toolchain
from kernelwright.gen.errors import BuildError
from kernelwright.gen.render import include_dir, render
from kernelwright.gen.spec import Variant

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltKernel:
    """A compiled kernel with the bytes that ship.

    `report` is what compile_kernel.py wrote: `registers`, `spill_store_bytes`, `cpu_s`, `cached`, `key`, ...
    """

    variant: Variant
    ptx: bytes
    cubin: bytes
    report: dict[str, Any]

    @property
    def gate_failures(self) -> list[str]:
        """Why this kernel is a bug: spills and ptxas remarks. Empty for a sound one."""
        report = self.report
        spills = report["spill_store_bytes"] + report["spill_load_bytes"]
        return ([f"spills {spills} bytes a thread"] if spills else []) + list(report["remarks"])


def build_kernels(
    variants: Sequence[Variant],
    out: Path,
    *,
    num_jobs: int | None = None,
    lineinfo: bool = False,
    settings: BuildSettings | None = None,
    toolchain: Toolchain | None = None,
    progress: TextIO | None = None,
    then: Callable[[list[BuiltKernel]], None] | None = None,
) -> list[BuiltKernel]:
    """Compile `variants` in the folder `out`, as far as they are not there or in the cache.

    Args:
        variants: what to compile; each once.
        out: gets `src/`, `obj/` and `build.ninja`. A second build in it waits for the first.
        num_jobs: compilations at a time, bounded by `MAX_JOBS`, cores and memory.
        lineinfo: keep source lines for profilers.
        settings: by default the environment's.
        toolchain: by default the one that is found.
        progress: where ninja's progress and compile errors go, by default stderr.
        then: called with the result while `out` is still locked.

    Returns:
        One kernel for each variant, in their order.

    Raises:
        ToolchainError: if there is no compiler or no ninja.
        CompileError: if a kernel does not compile.
        BuildError: if `out` cannot be written, or holds something it should not.
    """
    settings = settings or read_settings()
    toolchain = toolchain or find_toolchain(settings)
    ninja = find_ninja()
    try:
        out.mkdir(parents=True, exist_ok=True)
        with locked(out / ".lock", f"another build is at work in {out}") as lock:
            compile_settings = CompileSettings(
                nvcc=str(toolchain.nvcc.absolute()),
                ptxas=str(toolchain.ptxas.absolute()),
                compiler=toolchain.identity,
                cache=str(settings.cache_dir),
                lineinfo=lineinfo,
            )
            sources = [_source(variant) for variant in variants]
            write_sources(out, sources, include_dir(), compile_settings)
            _sweep_cache(settings.cache_dir)
            count = _job_count(num_jobs, settings, out, variants)
            run_ninja(out, ninja, count, lock, progress or sys.stderr)
            if _drop_damaged(variants, out):
                run_ninja(out, ninja, count, lock, progress or sys.stderr)
            built = [read_kernel(variant, out) for variant in variants]
            if then is not None:
                then(built)
            return built
    except OSError as error:
        raise BuildError(explain_os_error(error, f"building in {out}")) from error


def read_kernel(variant: Variant, out: Path) -> BuiltKernel:
    """Return a kernel that was compiled in `out`, checked against its digests.

    Raises:
        BuildError: if it is not there or was changed.
    """
    obj = out / "obj"
    try:
        report = json.loads((obj / f"{variant.name}.json").read_bytes())
        ptx = (obj / f"{variant.name}.ptx").read_bytes()
        cubin = (obj / f"{variant.name}.cubin").read_bytes()
        digests = report["sha256"]
        sound = digests["kernel.ptx"] == sha256_bytes(ptx) and digests["kernel.cubin"] == sha256_bytes(cubin)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BuildError(f"{variant.name}: not compiled in {out} ({error}). Build again.") from error
    if not sound:
        raise BuildError(f"{obj}/{variant.name}.*: changed since they were compiled. Build again.")
    return BuiltKernel(variant=variant, ptx=ptx, cubin=cubin, report=report)


def _drop_damaged(variants: Sequence[Variant], out: Path) -> bool:
    """Remove the report of every kernel that somebody changed since, which makes ninja compile it again."""
    damaged = False
    for variant in variants:
        try:
            read_kernel(variant, out)
        except BuildError as error:
            _log.warning("%s", error)
            (out / "obj" / f"{variant.name}.json").unlink(missing_ok=True)
            damaged = True
    return damaged


def _source(variant: Variant) -> Source:
    return Source(variant=variant.name, target=str(variant.sm), text=render(variant))


def _job_count(wanted: int | None, settings: BuildSettings, out: Path, variants: Sequence[Variant]) -> int:
    job_bytes = jobs.recorded_job_bytes(out / "obj" / f"{variant.name}.json" for variant in variants)
    cores = jobs.usable_cores()
    free = jobs.free_memory_bytes()
    count = jobs.job_count(wanted, settings.max_jobs, cores, free, job_bytes)
    if count < (wanted or cores) and free // max(job_bytes, 1) == count:
        _log.warning("%d compilations at a time, since %.1f GiB of memory are free", count, free / jobs.GIB)
    return count


def _sweep_cache(cache_dir: Path) -> None:
    if os.access(cache_dir, os.W_OK):
        sweep_scratch(cache_dir)
