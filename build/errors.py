"""What can go wrong between a rendered kernel and an importable module."""

from __future__ import annotations

from kernelwright.gen.errors import BuildError


class ToolchainError(BuildError):
    """No usable compiler, ninja or host toolchain; the message says what mends it."""


class CompileError(BuildError):
    """At least one kernel did not compile; each was reported when it failed."""
