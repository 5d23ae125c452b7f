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
_STRATEGIES = "exhaustive, gp, forest, tpe or random"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    open_streams()
    try:
        args = _parser().parse_args(argv)
    except SystemExit as stop:  # argparse has said why
        return stop.code if isinstance(stop.code, int) else MISUSED
    logging.basicConfig(format="tuner: %(levelname)s: %(message)s", stream=sys.stderr, force=True)
    logging.addLevelName(logging.WARNING, "warning")
    from kernelwright.tuner.errors import UsageError

    return run_command(
        f"tuner {args.verb}",
        lambda: _run(args),
        misuse=(UsageError, SpecError),
        interrupted=lambda: "" if args.verb == "replay" else f"finished points are kept. Go on with: {_again(argv)}",
    )


def _run(args: argparse.Namespace) -> int:
    if args.verb == "run":
        from kernelwright.tuner import commands

        return commands.run(args)
    if args.verb == "report":
        from kernelwright.tuner import commands_report

        return commands_report.report(args)
    if args.verb == "replay":
        from kernelwright.tuner import replay_command

        return replay_command.run_replay(args)
    from kernelwright.tuner import commands_tables

    return {"export": commands_tables.export, "merge": commands_tables.merge, "diff": commands_tables.diff}[args.verb](
        args
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
    run.add_argument("--strategy", metavar="S", help=f"{_STRATEGIES} (default: by the number of points)")
    run.add_argument("--storage", metavar="FILE|URL", help="Optuna storage (default: a journal file in OUT/tuner)")
    run.add_argument("--resume", action="store_true", help="continue a study that has results")
    run.add_argument("--retry-quarantined", action="store_true", help="with --resume: try what failed again")
    run.add_argument("--out", type=_folder, default=Path("out"), metavar="DIR", help="where (default: out)")
    run.add_argument("--jobs", type=int, metavar="N", help="compilations and checks at a time (default: all cores)")
    run.add_argument("--dry-run", action="store_true", help="count points and refusals; needs no GPU and no nvcc")
    run.add_argument("--json", action="store_true", help="print the result as JSON")
    _add_tables(verbs)
    _add_replay(verbs)
    return parser


def _add_tables(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    text = "Write one HTML page about the results that are there; it needs no network."
    report = verbs.add_parser("report", help=text, description=text)
    _add_results(report)
    report.add_argument("-o", dest="page", type=_folder, default=Path("report.html"), metavar="FILE", help="HTML file")
    report.add_argument("--open", action="store_true", help="show it in the browser")
    text = "Make a table from the results that are there: the fewest kernels that are nearly the best everywhere."
    export = verbs.add_parser("export", help=text, description=text)
    _add_results(export)
    export.add_argument("--jobs", type=int, metavar="N", help="compilations at a time")
    where = export.add_mutually_exclusive_group(required=True)
    where.add_argument("--module", type=_folder, metavar="DIR", help="publish into this module")
    where.add_argument("-o", dest="table", type=_folder, metavar="DIR", help="write a table folder")
    export.add_argument("--json", action="store_true", help="print the rows as JSON")
    text = "Put two tables together: measured beats modelled, then the better evidence."
    merge = verbs.add_parser("merge", help=text, description=text)
    merge.add_argument("first", type=Path, metavar="A", help="table folder or module")
    merge.add_argument("second", type=Path, metavar="B", help="another")
    merge.add_argument("-o", dest="table", type=_folder, required=True, metavar="C", help="table folder to write")
    merge.add_argument("--prefer", choices=["A", "B"], help="which wins where both speak of the same")
    merge.add_argument("--json", action="store_true", help="print what was taken from where as JSON")
    text = "Tell what changed from one table to another, and whether by more than the noise."
    diff = verbs.add_parser("diff", help=text, description=text)
    diff.add_argument("first", type=Path, metavar="A", help="table folder or module")
    diff.add_argument("second", type=Path, metavar="B", help="another")
    diff.add_argument("--json", action="store_true", help="print the difference as JSON")


def _add_results(parser: argparse.ArgumentParser) -> None:
    """Say which results of `tuner run` a command is about."""
    parser.add_argument("space", metavar="SPACE", help="name or YAML file of what was tuned")
    parser.add_argument("--arch", metavar="ARCH", help="sm80, sm86 or sm89 (default: the space's)")
    parser.add_argument("--label", choices=["modelled", "measured"], help="of the figures, where there are both")
    parser.add_argument("--device", metavar="NAME", help="that was tuned for, where there are several")
    parser.add_argument("--out", type=_folder, default=Path("out"), metavar="DIR", help="of tuner run (default: out)")


def _add_replay(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    text = "Compare search strategies on a recorded space; needs no GPU."
    replay = verbs.add_parser("replay", help=text, description=f"{text} Evaluations are unique legal points.")
    replay.add_argument("file", type=Path, metavar="FILE", help="Kernel Tuner cache or T4 results, .json or .json.gz")
    replay.add_argument(
        "--strategy", action="append", metavar="S", help=f"{_STRATEGIES} (may be repeated; default: as tuner run)"
    )
    replay.add_argument("--repeats", type=int, default=20, metavar="N", help="searches a strategy (default: 20)")
    replay.add_argument("--budget", type=int, default=200, metavar="N", help="evaluations a search (default: 200)")
    replay.add_argument("--seed", type=int, default=0, metavar="S", help="of every random choice (default: 0)")
    replay.add_argument("--jobs", type=int, metavar="N", help="searches at a time (default: all cores)")
    replay.add_argument("--noise", action="store_true", help="tell medians of 3 drawn repeats in place of the means")
    replay.add_argument("--json", action="store_true", help="print the result as JSON")
