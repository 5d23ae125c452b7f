"""`gen cache`: how big the kernel cache is, and emptying it."""

from __future__ import annotations

import argparse

from kernelwright.gen.commands.common import print_json

HELP = "Show the size of the kernel cache, or clear it."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's options."""
    parser.add_argument("action", choices=("size", "clear"), help="size: show it; clear: remove everything in it")


def run(args: argparse.Namespace) -> int:
    """Show or clear."""
    from kernelwright.build.cache import cache_size, clear_cache
    from kernelwright.build.settings import read_settings

    folder = read_settings().cache_dir
    size = (clear_cache if args.action == "clear" else cache_size)(folder)
    if args.json:
        print_json({"path": str(size.path), "kernels": size.kernels, "bytes": size.num_bytes})
    else:
        did = "removed " if args.action == "clear" else ""
        print(f"{size.path}: {did}{size.kernels} kernels, {size.num_bytes / 2**20:.1f} MiB")
    return 0
