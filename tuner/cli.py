"""The command `tuner`: search schedules, keep what is correct and fast, publish a dispatch table.

Results go to stdout, progress and messages to stderr. Exit status: 0 done, 1 failed, 2 misused, 130 interrupted.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from kernelwright import __version__
from kernelwright.gen.errors import SpecError
from kernelwright.gen.terminal import MISUSED, open_streams, run_command

DEFAULT_TRIALS = 150
DEFAULT_MINUTES = 10.0


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    open_streams()
    try:
        args = _parser().parse_args(argv)
    except SystemExit as stop:  # argparse has said why
        return stop.code if isinstance(stop.code, int) else MISUSED
    logging.basicConfig(format="tuner: %(levelname)s: %(message)s", stream=sys.stderr, force=True)
    logging.addLevelName(logging.WARNING, "warning")
    from kernelwright.tuner.commands import UsageError, run

    return run_command(
        f"tuner {args.verb}",
        lambda: run(args),
        misuse=(UsageError, SpecError),
        interrupted=lambda: f"finished points are kept. Go on with: {_again(argv)}",
    )


def _folder(text: str) -> Path:
    if not text:
        raise argparse.ArgumentTypeError("a folder's name is empty")
    return Path(text)


def _again(argv: Sequence[str] | None) -> str:
    words = list(sys.argv[1:] if argv is None else argv)
    return " ".join(["tuner", *words, *([] if "--resume" in words else ["--resume"])])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tuner", description="Search the schedules of attention kernels and publish the best into a module."
    )
    parser.add_argument("--version", action="version", version=f"kernelwright {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    text = "Tune a space: compile, verify, score, and publish the winner."
    run = verbs.add_parser(
        "run",
        help=text,
        description=f"{text} Without a GPU kernels are verified in the emulator and their cost is modelled.",
    )
    run.add_argument("space", nargs="?", metavar="SPACE", help="name or YAML file (default: a small one)")
    run.add_argument(
        "--arch", metavar="ARCH", help="sm80, sm86, sm89 or native (default: the GPU here, or the space's)"
    )
    run.add_argument(
        "--backend", choices=["auto", "modelled", "measured"], default="auto", help="where figures come from"
    )
    run.add_argument("--module", type=Path, metavar="DIR", help="publish into this module (default: out/flash_ARCH)")
    run.add_argument(
        "--trials", type=int, default=DEFAULT_TRIALS, metavar="N", help="points in all (default: %(default)s)"
    )
    run.add_argument(
        "--minutes", type=float, default=DEFAULT_MINUTES, metavar="M", help="time for this run (default: %(default)g)"
    )
    run.add_argument("--seed", type=int, default=0, metavar="S", help="of every random choice (default: 0)")
    run.add_argument("--storage", metavar="FILE|URL", help="Optuna storage (default: a journal file in OUT/tuner)")
    run.add_argument("--resume", action="store_true", help="continue a study that has results")
    run.add_argument("--retry-quarantined", action="store_true", help="with --resume: try what failed again")
    run.add_argument("--out", type=_folder, default=Path("out"), metavar="DIR", help="where (default: out)")
    run.add_argument("--jobs", type=int, metavar="N", help="compilations and checks at a time (default: all cores)")
    run.add_argument("--dry-run", action="store_true", help="count points and refusals; needs no GPU and no nvcc")
    run.add_argument("--json", action="store_true", help="print the result as JSON")
    return parser
