"""Compiles a batch of variants through ninja; a variant that does not compile is a result, not an error."""

from __future__ import annotations

import hashlib
import io
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from kernelwright.build.artifact_key import scan_headers
from kernelwright.build.errors import CompileError
from kernelwright.build.kernels import BuiltKernel, build_kernels
from kernelwright.gen.render import include_dir, render
from kernelwright.gen.spec import Variant
from kernelwright.tuner.results import Status
from kernelwright.tuner.work import Compiled

_TIMED_OUT = "did not end within"  # of build/compile_kernel.py


@dataclass(frozen=True, slots=True, kw_only=True)
class NinjaCompiler:
    """Compiles in the folder `out`, up to `jobs` at a time (None: as many as cores and memory allow).

    With `by_thread`, each thread works in a folder of its own in `out`, since a folder takes one build at a time.
    """

    out: Path
    jobs: int | None = None
    by_thread: bool = False

    def compile(self, variants: Sequence[Variant]) -> list[Compiled]:
        """Compile all. What fails is not tried again; what it kept from being compiled is compiled without it."""
        done: dict[str, Compiled] = {}
        left = list(variants)
        while left:
            said = io.StringIO()
            try:
                built = build_kernels(left, self._folder, num_jobs=self.jobs, progress=said)
            except CompileError as error:
                failed = [variant for variant in left if variant.name in error.failed]
                if not failed and len(left) > 1:  # ninja itself failed; with one at a time it may not
                    return [done.get(one.name) or self.compile([one])[0] for one in variants]
                for variant in failed or left:
                    fault = _said_of(variant, said.getvalue()) or str(error)
                    status: Status = "timeout" if _TIMED_OUT in fault else "compile"
                    done[variant.name] = Compiled(variant=variant, kernel=None, fault=fault, fault_status=status)
                left = [variant for variant in left if variant.name not in done]
            else:
                done |= {kernel.variant.name: _compiled(kernel) for kernel in built}
                left = []
        return [done[variant.name] for variant in variants]

    @property
    def _folder(self) -> Path:
        return self.out / threading.current_thread().name if self.by_thread else self.out


def _said_of(variant: Variant, said: str) -> str:
    """Return what the compiler said of a variant: the line that its name begins, and the indented ones below."""
    lines: list[str] = []
    for line in said.splitlines():
        if line.startswith(f"{variant.name}:") or (lines and line.startswith(" ")):
            lines.append(line)
        elif lines:
            break
    return "\n".join(lines)


def _compiled(kernel: BuiltKernel) -> Compiled:
    report = kernel.report
    return Compiled(
        variant=kernel.variant,
        kernel=kernel,
        registers=report["registers"],
        spill_bytes=report["spill_store_bytes"] + report["spill_load_bytes"],
    )


def source_digest(variants: Iterable[Variant]) -> str:
    """Return the SHA-256 of everything that these variants would be compiled from."""
    digest = hashlib.sha256()
    headers: dict[str, bytes] = {}
    for variant in sorted(variants, key=lambda variant: variant.name):
        source = render(variant)
        digest.update(source.encode())
        headers |= scan_headers(source, include_dir())
    for name, data in sorted(headers.items()):
        digest.update(f"\0{name}\0".encode() + data)
    return digest.hexdigest()
