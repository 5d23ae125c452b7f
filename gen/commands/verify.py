"""`gen verify`: run a module's kernels on the emulator against float64."""

from __future__ import annotations

import argparse

HELP = "Check a module's kernels on the CPU emulator against a float64 reference."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's options."""


def run(args: argparse.Namespace) -> int:
    """Check every kernel and note which passed."""
    raise NotImplementedError
