"""Compiles a batch of variants through ninja; a variant that does not compile is a result, not an error."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from kernelwright.build.artifact_key import scan_headers
from kernelwright.build.errors import CompileError
from kernelwright.build.kernels import BuiltKernel, build_kernels
from kernelwright.gen.render import include_dir, render
from kernelwright.gen.spec import Variant
from kernelwright.tuner.work import Compiled


@dataclass(frozen=True, slots=True, kw_only=True)
class NinjaCompiler:
    """Compiles in the folder `out`, up to `jobs` at a time (None: as many as cores and memory allow)."""

    out: Path
    jobs: int | None = None

    def compile(self, variants: Sequence[Variant]) -> list[Compiled]:
        """Compile all; after a failure one by one, to learn which one it is."""
        try:
            built = build_kernels(variants, self.out, num_jobs=self.jobs, progress=io.StringIO())
        except CompileError:
            return [self._compile_one(variant) for variant in variants]
        return [_compiled(kernel) for kernel in built]

    def _compile_one(self, variant: Variant) -> Compiled:
        said = io.StringIO()
        try:
            return _compiled(build_kernels([variant], self.out, num_jobs=1, progress=said)[0])
        except CompileError as error:
            lines = [line for line in said.getvalue().splitlines() if line and not line.startswith("[")]
            return Compiled(variant=variant, kernel=None, fault="\n".join(lines) or str(error))


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
