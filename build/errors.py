"""What can go wrong between a rendered kernel and an importable module."""

from __future__ import annotations

from collections.abc import Sequence

from kernelwright.gen.errors import BuildError


class ToolchainError(BuildError):
    """No usable compiler, ninja or host toolchain; the message says what mends it."""


class CompileError(BuildError):
    """At least one kernel did not compile; each was reported when it failed.

    Args:
        failed: names of those that failed, as far as they are known.
    """

    def __init__(self, message: str, failed: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.failed = tuple(failed)
