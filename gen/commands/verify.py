"""`gen verify`: run a module's kernels against float64, on the emulator unless told otherwise."""

from __future__ import annotations

import argparse
import datetime
import importlib
import re
import sys
import warnings
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from kernelwright.gen.commands.common import UsageError, print_json
from kernelwright.gen.errors import BuildError

if TYPE_CHECKING:
    from kernelwright.gen.commands.stress import MutantsResult, SeedsResult

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
    parser.add_argument(
        "--seeds",
        type=int,
        default=0,
        metavar="N",
        help="run each problem, and rings of 1 to 2 stages + 1 tiles, under N random orders of warps too, in the "
        "emulator: same bits, no finding",
    )
    parser.add_argument(
        "--mutate",
        action="store_true",
        help="break each wait, commit and barrier of each kernel in turn, in the emulator: it must be noticed",
    )


def run(args: argparse.Namespace) -> int:
    """Check, print one line a kernel, and note in the module's table which passed."""
    from kernelwright.build.module import EMULATOR
    from kernelwright.build.table_folder import read_table

    if args.problems < 1:
        raise UsageError(f"--problems must be at least 1, got {args.problems}")
    if not 0 <= args.seed <= _LARGEST_SEED:
        raise UsageError(f"--seed must be from 0 to {_LARGEST_SEED}, got {args.seed}")
    if args.seeds < 0:
        raise UsageError(f"--seeds must be 0 or more, got {args.seeds}")
    if not re.fullmatch(r"cpu|cuda(:[0-9]{1,3})?", args.device):
        raise UsageError(f"--device must be cpu, cuda or cuda:N, got {args.device!r}")
    folder = args.module or _only_module(_DEFAULT_OUT)
    if not (folder / "build_info.json").is_file():
        raise UsageError(f"{folder} is not a dispatch module. Build one with: gen build --arch sm80")
    if args.device == "cpu" and not (folder / EMULATOR).is_file():
        raise UsageError(
            f"{folder} was built with --no-emulator. Build it again without (its kernels are cached), or check it on a "
            "GPU with --device cuda; --seeds and --mutate emulate there too."
        )
    before = read_table(folder / "kernels")["kernels"]
    module, result = _check(args, folder)
    if not args.json:
        print(result)
    seeds, mutants = _stress(args, module, result)
    passed = result.passed and all(one.passed for one in seeds) and all(one.passed for one in mutants)
    if args.json:
        more: dict[str, object] = {"seeds": [one.to_dict() for one in seeds]} if args.seeds else {}
        more |= {"mutants": [one.to_dict() for one in mutants]} if args.mutate else {}
        print_json(result.to_dict() | more | {"passed": passed})
    else:
        print(*seeds, *mutants, sep="\n", end="\n" if seeds or mutants else "")
    sys.stdout.flush()  # before what the module's folder may not take
    _note(folder, before, result, args.problems, failed={one.variant for one in seeds if not one.passed})
    return 0 if passed else 1


def _stress(
    args: argparse.Namespace, module: ModuleType, result: Any
) -> tuple[list[SeedsResult], list[MutantsResult]]:  # Any: see _check
    """Do what --seeds and --mutate ask for, with the problems and inputs of the check before."""
    from kernelwright.emulator.launch import EmulatorError
    from kernelwright.gen.commands import stress

    checked = [one for one in result.variants if not one.skipped] if args.seeds or args.mutate else []
    if not checked:
        return [], []
    runtime = f"{module.__name__}._runtime"
    seeds: list[SeedsResult] = []
    mutants: list[MutantsResult] = []
    try:
        for number, shipped in enumerate(stress.shipped_kernels(module, [one.variant for one in checked])):
            of = f"{number + 1} of {len(checked)}, {shipped.name}"
            if args.seeds:
                _progress(f"random orders of warps: {of}")
                block_n, operation = stress.block_n_of(shipped.variant), shipped.variant.operation
                cases = [
                    stress.make_case(runtime, one.problem, block_n=block_n, seed=args.seed + index, operation=operation)
                    for index, one in enumerate(checked[number].results)
                ]
                cases += stress.ring_cases(runtime, shipped.variant, args.seed)
                seeds.append(stress.check_seeds(shipped, cases, args.seeds))
            if args.mutate:
                _progress(f"mutants: {of}")
                cases = stress.telling_cases(runtime, shipped.variant, args.seed)
                num_seeds = max(stress.MUTANT_SEEDS, args.seeds)
                mutants.append(stress.check_mutants(shipped, cases, num_seeds=num_seeds, progress=_progress))
    except (EmulatorError, module.KernelError) as error:
        raise BuildError(f"{module.__name__}: {error}") from error
    return seeds, mutants


def _progress(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _note(
    folder: Path, before: dict[str, Any], result: Any, problems: int, *, failed: set[str]
) -> None:  # Any: see _check
    """Write down which kernels passed, `failed` ones aside, unless a build has replaced them meanwhile."""
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
            passed = [one.variant for one in checked if one.passed and one.variant not in failed]
            lost = [one.variant for one in checked if one.variant not in passed]
            record_verified(table, passed, note, failed=lost)
    except OSError as error:
        raise BuildError(explain_os_error(error, f"noting the result in {table}", "a module")) from error


def _only_module(out: Path) -> Path:
    found = sorted(path.parent for path in out.glob("*/build_info.json"))
    if not found:
        raise UsageError(f"There is no module in {out}/. Build one with: gen build --arch sm80")
    if len(found) > 1:
        raise UsageError(f"There are several modules; name one: {', '.join(map(str, found))}")
    return found[0]


def _check(
    args: argparse.Namespace, folder: Path
) -> tuple[ModuleType, Any]:  # Any: the module's own class, known by its fields
    """Import the module and let the checker inside it, the one that ships, check it; return both."""
    name = folder.resolve().name
    sys.path.insert(0, str(folder.resolve().parent))
    try:
        module = importlib.import_module(name)
        checker = importlib.import_module(f"{name}._runtime.check")
    except ImportError as error:
        raise BuildError(f"{folder} cannot be imported: {error}") from error
    finally:
        sys.path.pop(0)

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", module.EmulationWarning)  # emulating is what was asked for
            return module, checker.check_module(
                module,
                args.problems,
                device=args.device,
                seed=args.seed,
                variants=args.variant,
                only_random=args.random,
                progress=_progress,
            )
    except module.KernelError as error:
        raise BuildError(f"{name}: {error}") from error
