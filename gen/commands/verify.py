"""`gen verify`: run a module's kernels against float64, on the emulator unless told otherwise."""

from __future__ import annotations

import argparse
import datetime
import importlib
import re
import sys
import warnings
from pathlib import Path
from typing import Any

from kernelwright.gen.commands.common import UsageError, print_json
from kernelwright.gen.errors import BuildError

HELP = "Check a module's kernels on the CPU emulator against a float64 reference."
_DEFAULT_OUT = Path("out")
_LARGEST_SEED = 2**32 - 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's options."""
    parser.add_argument(
        "module", nargs="?", type=Path, metavar="MODULE_DIR", help="a built module (default: the one in out/)"
    )
    parser.add_argument("--problems", type=int, default=12, metavar="N", help="problems a kernel (default: 12)")
    parser.add_argument("--seed", type=int, default=0, help="of the inputs (default: 0)")
    parser.add_argument(
        "--random", action="store_true", help="only random problems, not the fixed ones that come first"
    )
    parser.add_argument("--variant", nargs="+", metavar="NAME", help="these kernels only")
    parser.add_argument("--device", default="cpu", help="cpu for the emulator (default), or cuda")


def run(args: argparse.Namespace) -> int:
    """Check, print one line a kernel, and note in the module's table which passed."""
    from kernelwright.build.table_folder import read_table

    if args.problems < 1:
        raise UsageError(f"--problems must be at least 1, got {args.problems}")
    if not 0 <= args.seed <= _LARGEST_SEED:
        raise UsageError(f"--seed must be from 0 to {_LARGEST_SEED}, got {args.seed}")
    if not re.fullmatch(r"cpu|cuda(:[0-9]{1,3})?", args.device):
        raise UsageError(f"--device must be cpu, cuda or cuda:N, got {args.device!r}")
    folder = args.module or _only_module(_DEFAULT_OUT)
    if not (folder / "build_info.json").is_file():
        raise UsageError(f"{folder} is not a dispatch module. Build one with: gen build --arch sm80")
    before = read_table(folder / "kernels")["kernels"]
    result = _check(args, folder)
    if args.json:
        print_json(result.to_dict())
    else:
        print(result)
    sys.stdout.flush()  # before what the module's folder may not take
    _note(folder, before, result, args.problems)
    return 0 if result.passed else 1


def _note(folder: Path, before: dict[str, Any], result: Any, problems: int) -> None:  # Any: see _check
    """Write down which kernels passed, unless a build has replaced them meanwhile."""
    from kernelwright.build.files import explain_os_error
    from kernelwright.build.locks import locked
    from kernelwright.build.table_folder import read_table, record_verified

    table = folder / "kernels"
    note = {"by": result.by, "date": datetime.date.today().isoformat(), "problems": problems}
    try:
        with locked(folder.resolve().parent, f"a build is writing {folder}"):
            now = read_table(table)["kernels"]
            same = {name for name in before if name in now and now[name].get("files") == before[name].get("files")}
            checked = [one for one in result.variants if one.variant in same and not one.skipped]
            passed = [one.variant for one in checked if one.passed]
            failed = [one.variant for one in checked if not one.passed]
            record_verified(table, passed, note, failed=failed)
    except OSError as error:
        raise BuildError(explain_os_error(error, f"noting the result in {table}", "a module")) from error


def _only_module(out: Path) -> Path:
    found = sorted(path.parent for path in out.glob("*/build_info.json"))
    if not found:
        raise UsageError(f"There is no module in {out}/. Build one with: gen build --arch sm80")
    if len(found) > 1:
        raise UsageError(f"There are several modules; name one: {', '.join(map(str, found))}")
    return found[0]


def _check(args: argparse.Namespace, folder: Path) -> Any:  # Any: the module's own class, known by its fields
    """Import the module and let the checker inside it, the one that ships, check it."""
    name = folder.resolve().name
    sys.path.insert(0, str(folder.resolve().parent))
    try:
        module = importlib.import_module(name)
        checker = importlib.import_module(f"{name}._runtime.check")
    except ImportError as error:
        raise BuildError(f"{folder} cannot be imported: {error}") from error
    finally:
        sys.path.pop(0)

    def progress(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", module.EmulationWarning)  # emulating is what was asked for
            return checker.check_module(
                module,
                args.problems,
                device=args.device,
                seed=args.seed,
                variants=args.variant,
                only_random=args.random,
                progress=progress,
            )
    except module.KernelError as error:
        raise BuildError(f"{name}: {error}") from error
