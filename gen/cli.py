"""The command `gen`: build dispatch modules, and look at what a build would do.

Results go to stdout, progress and messages to stderr. Exit status: 0 done, 1 failed, 2 misused.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence

from kernelwright import __version__
from kernelwright.gen.commands import build, cache, doctor, list_, show, verify
from kernelwright.gen.commands.common import UsageError
from kernelwright.gen.terminal import MISUSED, open_streams, run_command

_VERBS = {"build": build, "list": list_, "show": show, "verify": verify, "doctor": doctor, "cache": cache}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    open_streams()
    try:
        args = _parser().parse_args(argv)
    except SystemExit as stop:  # argparse has said why
        return stop.code if isinstance(stop.code, int) else MISUSED
    _log_to_stderr()
    return run_command(
        f"gen {args.verb}",
        lambda: int(args.run(args)),
        misuse=(UsageError,),
        interrupted=lambda: "nothing is left half made",
    )


def _log_to_stderr() -> None:
    """Show what takes long (compiling the emulator, once) as it begins, and mark warnings."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter())
    logging.basicConfig(handlers=[handler], force=True)
    logging.getLogger("kernelwright").setLevel(logging.INFO)


class _Formatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        kind = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
        return f"gen: {kind}{record.getMessage()}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="gen", description="Generate CUDA attention kernels and build importable modules of them."
    )
    parser.add_argument("--version", action="version", version=f"kernelwright {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for verb, module in _VERBS.items():
        one = verbs.add_parser(verb, help=module.HELP, description=module.HELP)
        module.add_arguments(one)
        one.add_argument("--json", action="store_true", help="print the result as JSON")
        one.set_defaults(run=module.run)
    return parser
