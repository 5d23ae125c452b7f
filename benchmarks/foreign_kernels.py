"""Runs kernels of other projects, proven on GPUs, in the emulator with all checks, against numpy.

    git clone https://github.com/NVIDIA/cutlass
    git clone https://github.com/siboehm/SGEMM_CUDA
    python benchmarks/foreign_kernels.py --cutlass cutlass --other SGEMM_CUDA

Needs nvcc. Nothing of those projects is here: foreign/ holds small wrappers that include a checkout of yours. Each
kernel runs under the fixed order of warps and two random ones. A kernel that thousands have run on GPUs should give the
right numbers and no finding: what differs is a fault of the emulator's, or of the kernel's that GPUs hide.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from foreign_recipes import CUTLASS, OTHERS, RECIPES, Recipe, Repository

from kernelwright import emulator as emu
from kernelwright.build.settings import read_settings
from kernelwright.build.toolchain import find_toolchain
from kernelwright.gen.errors import KernelError

WRAPPERS = Path(__file__).parent / "foreign"
SEEDS = (0, 1, 2)
MAX_INSTRUCTIONS = 200_000_000
_HOPPER = {"smem_optin": 232448, "smem_per_sm": 233472}  # bytes of shared memory, of a block and of an SM
_FLAGS = ("-std=c++17", "--expt-relaxed-constexpr", "--expt-extended-lambda", "-O3", "-DNDEBUG", "-lineinfo", "-w")


class CheckoutError(Exception):
    """A path that is not the checkout it is said to be. The message says what is missing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What became of one kernel. `verdict`: right, benign finding, wrong, finding, or why it could not run."""

    kernel: str
    source: str
    commit: str
    exercises: str
    verdict: str
    ptx_lines: int = 0
    max_error: float | None = None
    findings: tuple[str, ...] = ()
    benign: tuple[str, ...] = ()  # why findings of known kinds do no harm
    approximate: tuple[str, ...] = ()
    not_modelled: tuple[str, ...] = ()


def find_checkouts(cutlass: Path | None, others: Sequence[Path]) -> dict[Repository, Path]:
    """Return the checkouts by project.

    Raises:
        CheckoutError: for a path that is missing or holds none of the projects.
    """
    found = {}
    if cutlass is not None:
        if not (cutlass / CUTLASS.known_by).is_file():
            raise CheckoutError(f"--cutlass {cutlass} is no checkout of {CUTLASS.name}: it has no {CUTLASS.known_by}")
        found[CUTLASS] = cutlass.resolve()
    for path in others:
        if not path.is_dir():
            raise CheckoutError(f"--other {path}: there is no such folder")
        matching = [one for one in OTHERS if (path / one.known_by).is_file()]
        if not matching:
            known = "".join(f"\n  {one.name}, known by {one.known_by}" for one in OTHERS)
            raise CheckoutError(f"--other {path} is a checkout of none of these projects:{known}")
        found[matching[0]] = path.resolve()
    return found


def commit_of(path: Path) -> str:
    """Return the commit of a checkout, or "unknown" where git does not say."""
    done = subprocess.run(["git", "-C", str(path), "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else "unknown"


def compile_recipe(recipe: Recipe, checkouts: dict[Repository, Path], nvcc: Path, scratch: Path) -> str:
    """Return a recipe's PTX.

    Raises:
        subprocess.CalledProcessError: if nvcc refuses it.
    """
    here = checkouts[recipe.repository]
    include = [here / folder for folder in recipe.include]
    include += [checkouts[repository] / folder for repository, folder in recipe.needs]
    out = scratch / "kernel.ptx"
    command = [str(nvcc), "-ptx", f"-arch=sm_{recipe.sm}{recipe.features}", *_FLAGS, f"-I{WRAPPERS / 'stubs'}"]
    command += [f"-I{folder}" for folder in include]
    command += [f"-D{name}={value}" for name, value in recipe.defines.items()]
    subprocess.run(
        [*command, str(WRAPPERS / recipe.wrapper), "-o", str(out)], check=True, capture_output=True, text=True
    )
    return out.read_text()


def run_recipe(recipe: Recipe, ptx: str, row: dict[str, Any]) -> Row:
    """Run a compiled recipe under each order of warps and return the worst of it; `row` is what is known before."""
    entries = [name for name in re.findall(r"\.entry\s+([\w$]+)", ptx) if recipe.kernel in name]
    row |= {"ptx_lines": ptx.count("\n")}
    if len(entries) != 1:
        return Row(**row, verdict=f"{len(entries)} kernels named like {recipe.kernel}")
    exported = {name: int(value) for name, value in re.findall(r"(kw_shared_bytes|kw_threads) = (\d+);", ptx)}
    errors: list[float] = []
    reports: list[emu.Report] = []
    emu.configure(sm=recipe.sm, **(_HOPPER if recipe.sm == 90 else {}))
    try:
        module = emu.load(ptx)
        for seed in SEEDS:

            def launch(
                grid: Sequence[int],
                args: Sequence[Any],
                *,
                block: Sequence[int] = (),
                shared_bytes: int = 0,
                memory: Sequence[Any] = (),
                seed: int = seed,
            ) -> None:
                reports.append(
                    module.launch(
                        entries[0],
                        grid=grid,
                        block=block or (exported["kw_threads"],),
                        args=args,
                        memory=memory,
                        shared_bytes=shared_bytes or exported.get("kw_shared_bytes", 0),
                        seed=seed,
                        on_finding="collect",
                        max_instructions=MAX_INSTRUCTIONS,
                    )
                )

            errors.append(recipe.run(launch))
        module.unload()
    except emu.EmulatorError as error:
        return Row(**row, verdict=f"refused: {str(error).splitlines()[0]}")
    findings = {
        f"{one.kind} at {Path(one.cuda_file).name}:{one.cuda_line}: {one.text}"
        for report in reports
        for one in report.findings
    }
    fidelity = {opcode: how for report in reports for opcode, how in report.fidelity.items()}
    kinds = {one.kind for report in reports for one in report.findings}
    verdict = "right" if not kinds else "benign finding" if kinds <= set(recipe.benign) else "finding"
    return Row(
        **row,
        verdict=verdict if max(errors) <= recipe.tolerance else "wrong",
        benign=tuple(recipe.benign[kind] for kind in sorted(kinds & set(recipe.benign))),
        max_error=max(errors),
        findings=tuple(sorted(findings)),
        approximate=tuple(sorted(name for name, how in fidelity.items() if how == "approximate")),
        not_modelled=tuple(sorted(name for name, how in fidelity.items() if how == "not modelled")),
    )


def run_all(checkouts: dict[Repository, Path], nvcc: Path, only: str = "") -> list[Row]:
    """Run every recipe whose checkouts are there and whose name contains `only`."""
    rows = []
    commits = {repository: commit_of(path) for repository, path in checkouts.items()}
    compiled: dict[tuple[object, ...], str] = {}
    for recipe in RECIPES:
        wanted = {recipe.repository, *(repository for repository, _ in recipe.needs)}
        if only not in recipe.name or recipe.repository not in checkouts:
            continue
        row: dict[str, Any] = {
            "kernel": recipe.name,
            "source": recipe.repository.name,
            "commit": commits[recipe.repository],
            "exercises": recipe.exercises,
        }
        if missing := wanted - set(checkouts):
            rows.append(Row(**row, verdict=f"needs {', '.join(one.name for one in missing)}: --cutlass"))
            continue
        print(recipe.name, file=sys.stderr, flush=True)
        key = (recipe.wrapper, *recipe.defines.items(), recipe.sm)
        try:
            if key not in compiled:
                with tempfile.TemporaryDirectory() as scratch:
                    compiled[key] = compile_recipe(recipe, checkouts, nvcc, Path(scratch))
        except subprocess.CalledProcessError as error:
            said = [line for line in error.stderr.splitlines() if "error" in line] or ["nvcc failed"]
            rows.append(Row(**row, verdict=f"does not compile: {said[0]}"))
            continue
        rows.append(run_recipe(recipe, compiled[key], row))
    return rows


def as_table(rows: Sequence[Row]) -> str:
    """Return a Markdown table, with findings and refusals below it."""
    lines = [
        "| kernel | source | PTX lines | exercises | max error | verdict |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for one in rows:
        error = "-" if one.max_error is None else f"{one.max_error:.1e}"
        short = one.verdict.partition(":")[0]
        source = f"{one.source} {one.commit[:10]}"
        lines.append(f"| {one.kernel} | {source} | {one.ptx_lines or '-'} | {one.exercises} | {error} | {short} |")
    approximate = sorted({name for one in rows for name in one.approximate})
    not_modelled = sorted({name for one in rows for name in one.not_modelled})
    lines += ["", "Max error: over all outputs and orders of warps, relative to the largest expected magnitude."]
    lines += [f"Approximate: {', '.join(f'`{name}`' for name in approximate) or 'nothing'}."]
    lines += [f"Not modelled: {', '.join(f'`{name}`' for name in not_modelled) or 'nothing'}."]
    for one in rows:
        notes = [one.verdict] if ":" in one.verdict else []
        notes += [f"{len(one.findings)} findings, the first: {one.findings[0]}"] if one.findings else []
        notes += [f"benign: {reason}" for reason in one.benign]
        lines += ["", f"**{one.kernel}**: {'; '.join(notes)}"] if notes else []
    return "\n".join(lines)


def main() -> int:
    """Run what the command line names; 0 when every kernel is right and without an unknown finding."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cutlass", type=Path, metavar="PATH", help="a checkout of NVIDIA/cutlass")
    parser.add_argument(
        "--other",
        type=Path,
        action="append",
        default=[],
        metavar="PATH",
        help=f"a checkout of {', '.join(one.name for one in OTHERS)}; may be given again",
    )
    parser.add_argument("--only", default="", metavar="TEXT", help="kernels whose name contains this")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    if args.cutlass is None and not args.other:
        parser.error("name at least one checkout: --cutlass PATH or --other PATH")
    try:
        checkouts = find_checkouts(args.cutlass, args.other)
        nvcc = find_toolchain(read_settings()).nvcc
    except (CheckoutError, KernelError) as error:
        print(f"foreign_kernels.py: {error}", file=sys.stderr)
        return 2
    rows = run_all(checkouts, nvcc, args.only)
    print(json.dumps([asdict(one) for one in rows], indent=1) if args.json else as_table(rows))
    return 0 if rows and all(one.verdict in ("right", "benign finding") for one in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
