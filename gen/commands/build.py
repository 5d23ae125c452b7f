"""`gen build`: from a profile to an importable module."""

from __future__ import annotations

import argparse
import importlib.util
import keyword
import logging
import os
import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from kernelwright.gen.commands.common import (
    UsageError,
    add_plan_arguments,
    describe_plan,
    plan_from,
    print_json,
    print_plan,
)
from kernelwright.gen.errors import BuildError
from kernelwright.gen.spec import OPERATION

if TYPE_CHECKING:
    from kernelwright.build.kernels import BuiltKernel
    from kernelwright.build.toolchain import Toolchain
    from kernelwright.gen.plan import BuildPlan

HELP = "Build an importable module of attention kernels."
_log = logging.getLogger(__name__)
_TAKEN = {"kernelwright", "torch", "numpy", "jinja2", "yaml", "ninja", "optuna", "triton", "pip", "setuptools"}
_SCRATCH = {"src", "obj", "dist"}  # folders of `out` that a module would collide with


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's options."""
    add_plan_arguments(parser, arch_required=True)
    parser.add_argument("--out", type=_folder, default=Path("out"), metavar="DIR", help="where (default: out)")
    parser.add_argument("--name", metavar="MODULE", help="import name (default: flash_ and the architectures)")
    parser.add_argument("--install", action="store_true", help="make a wheel and install it with pip")
    parser.add_argument("--jobs", type=int, metavar="N", help="compilations at a time, within MAX_JOBS and memory")
    parser.add_argument("--lineinfo", action="store_true", help="keep source lines for profilers")
    parser.add_argument("--no-emulator", action="store_true", help="leave out the CPU emulator")
    parser.add_argument("--dry-run", action="store_true", help="show what would be built, and its cost")


def _folder(text: str) -> Path:
    if not text:  # Path would take it for the current folder
        raise argparse.ArgumentTypeError("is empty; name a folder, or . for this one")
    return Path(text)


def run(args: argparse.Namespace) -> int:
    """Build, and say how to use what was built."""
    started = time.monotonic()
    if args.jobs is not None and args.jobs < 1:
        raise UsageError(f"--jobs must be at least 1, got {args.jobs}")
    plan = plan_from(args)
    name = "_".join(["flash", *(f"sm{sm}" for sm in plan.sms)]) if args.name is None else args.name
    check_name(name)
    if args.dry_run:
        if args.json:
            print_json({"module": str(args.out / name), **describe_plan(plan)})
        else:
            print_plan(plan)
        return 0
    for refusal in plan.refusals:
        _log.warning("refused: %s: %s", refusal.variant.name, refusal.reason)
    if not plan.kernels:
        raise BuildError("Nothing to build: every kernel of the profile is refused, see above.")
    built, changed = _build(args, plan, name)
    wheel = _install(args, name) if args.install else None
    wall_s = time.monotonic() - started
    if args.json:
        print_json(_summary(args.out / name, built, changed, wheel, wall_s))
    else:
        _print_summary(args.out / name, built, changed, wheel, wall_s)
    return 0


def check_name(name: str) -> None:
    """Refuse a module name that cannot be imported or would hide another module.

    Raises:
        UsageError: with the reason.
    """
    if not (name.isascii() and name.isidentifier()) or keyword.iskeyword(name):
        raise UsageError(f"--name {name!r} is not a Python identifier")
    if name.startswith("__"):
        raise UsageError(f"--name {name!r} is of a kind that Python keeps for itself")
    if name in sys.stdlib_module_names or name in _TAKEN:
        raise UsageError(f"--name {name!r} would hide the module of that name")
    if name in _SCRATCH:
        raise UsageError(f"--name {name!r} is the name of a folder that the build itself uses")
    spec = importlib.util.find_spec(name)
    origin = None if spec is None else spec.origin  # None too for a mere folder on the path
    if origin is not None and not (Path(origin).parent / "build_info.json").exists():
        raise UsageError(f"--name {name!r} would hide {origin}")


def _build(args: argparse.Namespace, plan: BuildPlan, name: str) -> tuple[list[BuiltKernel], bool]:
    """Compile and assemble; return the kernels and whether the module changed."""
    from kernelwright.build.kernels import build_kernels
    from kernelwright.build.launcher import compile_launcher, emulator_library
    from kernelwright.build.module import ModuleContent, assemble_module
    from kernelwright.build.settings import read_settings
    from kernelwright.build.toolchain import find_toolchain
    from kernelwright.gen.table import hand_row

    settings = read_settings()
    toolchain = find_toolchain(settings)
    launcher = compile_launcher(settings.cache_dir)
    emulator = None if args.no_emulator else emulator_library()
    changed = False

    def assemble(kernels: list[BuiltKernel]) -> None:
        nonlocal changed
        content = ModuleContent(
            name=name,
            kernels=kernels,
            rows=[hand_row(kernel.variant, kernel.when) for kernel in plan.kernels],
            launcher=launcher,
            emulator=emulator,
            info=_info(args, plan, name, toolchain),
        )
        changed = assemble_module(args.out / name, content)

    built = build_kernels(
        [kernel.variant for kernel in plan.kernels],
        args.out,
        num_jobs=args.jobs,
        lineinfo=args.lineinfo,
        settings=settings,
        toolchain=toolchain,
        then=assemble,
    )
    for kernel in built:
        for failure in kernel.gate_failures:
            _log.warning("%s: %s", kernel.variant.name, failure)
    return built, changed


def _info(args: argparse.Namespace, plan: BuildPlan, name: str, toolchain: Toolchain) -> dict[str, object]:
    """Return what `build_info.json` says of the request; nothing of this machine."""
    command = ["gen", "build", "--arch", ",".join(f"sm{sm}" for sm in plan.sms), "--profile", plan.profile]
    if args.head_dim:
        command += ["--head-dim", *map(str, args.head_dim)]
    if args.head_dim_v:
        command += ["--head-dim-v", str(args.head_dim_v)]
    if args.dtype:
        command += ["--dtype", *args.dtype]
    if args.features:
        command += ["--features", args.features]
    command += ["--backward"] if args.backward else []
    command += ["--name", name, *(["--lineinfo"] if args.lineinfo else [])]
    return {
        "archs": [f"sm{sm}" for sm in plan.sms],
        "profile": plan.profile,
        "command": shlex.join(command),
        "toolkit": toolchain.version,
        "compiler": toolchain.identity,
    }


def _install(args: argparse.Namespace, name: str) -> Path:
    from kernelwright import __version__
    from kernelwright.build.files import explain_os_error
    from kernelwright.build.wheel import build_wheel, install_wheel

    try:
        wheel = build_wheel(args.out / name, args.out / "dist", __version__)
    except OSError as error:
        raise BuildError(explain_os_error(error, "writing the wheel")) from error
    install_wheel(wheel)
    return wheel


def _summary(
    module: Path, built: list[BuiltKernel], changed: bool, wheel: Path | None, wall_s: float
) -> dict[str, object]:
    return {
        "module": str(module),
        "changed": changed,
        "wheel": None if wheel is None else str(wheel),
        "wall_s": round(wall_s, 3),
        "kernels": [
            {
                "variant": kernel.variant.name,
                "registers": kernel.report["registers"],
                "spill_bytes": kernel.report["spill_store_bytes"] + kernel.report["spill_load_bytes"],
                "remarks": kernel.report["remarks"],
                "cubin_bytes": len(kernel.cubin),
                "ptx_bytes": len(kernel.ptx),
                "cpu_s": kernel.report["cpu_s"],
                "peak_mib": round(kernel.report["peak_rss_kib"] / 1024, 1),
                "from_cache": kernel.report["cached"],
            }
            for kernel in built
        ],
    }


def _print_summary(module: Path, built: list[BuiltKernel], changed: bool, wheel: Path | None, wall_s: float) -> None:
    size = sum(len(kernel.cubin) + len(kernel.ptx) for kernel in built)
    state = "" if changed else ", unchanged"
    print(f"{module}{os.sep}: {len(built)} kernels, {size / 2**20:.1f} MiB, {wall_s:.1f} s{state}")
    # A call without features, where there is a kernel for one; others are listed by support().
    computed = [one.variant.problem for one in built if one.variant.operation == OPERATION]
    plain = [one for one in computed if set(one.features) <= {"causal"} and one.head_dim == one.head_dim_v]
    problem = (plain or computed or [built[0].variant.problem])[0]
    dtype = {"fp16": "float16", "bf16": "bfloat16"}[problem.dtype]
    where = "" if wheel else f"import sys; sys.path.insert(0, {str(module.parent.absolute())!r})\n    "
    print(
        f"\nUse it, from Python:\n\n"
        f"    {where}import torch, {module.name}\n"
        + (
            f'    q = k = v = torch.randn(1, 1024, 8, {problem.head_dim}, dtype=torch.{dtype}, device="cuda")\n'
            f"    out = {module.name}.flash_attn_func(q, k, v, causal={problem.is_causal})\n"
            if plain
            else f"    {module.name}.support()  # what its kernels compute\n"
        )
    )
    if wheel:
        print(f"Installed from {wheel}. Remove it with: pip uninstall {module.name}")
