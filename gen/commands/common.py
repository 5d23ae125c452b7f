"""What several commands share: choosing architectures and a profile, and printing."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

from kernelwright.gen.errors import BuildError, ConfigError, KernelError, SpecError

if TYPE_CHECKING:
    from kernelwright.gen.plan import BuildPlan, PlannedKernel
    from kernelwright.gen.spec import Dtype

NATIVE = "native"


class UsageError(KernelError):
    """A command that was called wrongly."""


def add_plan_arguments(parser: argparse.ArgumentParser, *, arch_required: bool) -> None:
    """Add the options that decide what is built."""
    parser.add_argument(
        "--arch",
        required=arch_required,
        metavar="ARCH[,ARCH...]",
        help="architectures, as sm80,sm86, or native for the GPUs of this machine",
    )
    parser.add_argument("--profile", default="default", metavar="NAME|FILE", help="which problems (default: default)")
    parser.add_argument("--head-dim", type=int, nargs="+", metavar="N", help="these head dimensions, not the profile's")
    parser.add_argument("--head-dim-v", type=int, metavar="N", help="head dimension of v and the result, if another")
    parser.add_argument("--dtype", nargs="+", metavar="DTYPE", help="these of fp16 and bf16, not the profile's")
    parser.add_argument(
        "--features",
        metavar="NAME[,NAME...]",
        help="what each kernel computes, not what the profile says: none, or any of causal, local, varlen, softcap, "
        "alibi, bias, dropout, sparse",
    )
    parser.add_argument(
        "--backward", action="store_true", help="the kernels of the backward pass too, for every problem"
    )


def plan_from(args: argparse.Namespace) -> BuildPlan:
    """Make the plan that the options ask for.

    Raises:
        UsageError: if an architecture, profile, head dimension, dtype or feature does not exist.
        ConfigError: if the profile's file has a fault.
    """
    from kernelwright.gen.devices import SUPPORTED_SMS
    from kernelwright.gen.plan import make_plan
    from kernelwright.gen.profile import load_profile, profile_names

    sms = list(SUPPORTED_SMS) if args.arch is None else parse_archs(args.arch)
    is_file = args.profile.endswith((".yaml", ".yml"))
    try:
        profile = load_profile(args.profile)
    except ConfigError as error:
        if not is_file and args.profile not in profile_names():
            raise UsageError(str(error)) from error
        raise
    try:
        chosen = profile.restricted(
            args.head_dim, _dtypes(args.dtype), args.head_dim_v, _features(args.features), backward=args.backward
        )
        return make_plan(chosen, sms)
    except SpecError as error:
        raise UsageError(str(error)) from error


def parse_archs(text: str) -> list[int]:
    """Read `--arch`: names separated by commas, each once, in order; `native` asks the driver.

    Raises:
        UsageError: if a name is unknown.
        BuildError: if `native` finds no GPU.
    """
    from kernelwright.gen.devices import parse_arch

    sms: list[int] = []
    for name in filter(None, (part.strip() for part in text.split(","))):
        try:
            sms += _native_archs() if name == NATIVE else [parse_arch(name)]
        except SpecError as error:
            raise UsageError(str(error)) from error
    if not sms:
        raise UsageError("--arch names no architecture; for example: --arch sm80")
    return list(dict.fromkeys(sms))


def describe_kernel(kernel: PlannedKernel) -> dict[str, object]:
    """Return a planned kernel as plain values for JSON."""
    return {
        "variant": kernel.variant.name,
        **kernel.variant.to_dict(),
        "when": kernel.when,
        "smem_bytes": kernel.variant.smem_bytes,
        "threads": kernel.variant.schedule.threads,
        "predicted_cpu_s": round(kernel.cost.cpu_seconds, 3),
        "predicted_peak_mib": round(kernel.cost.peak_mib, 1),
        "predicted_size_kib": round(kernel.cost.size_kib, 1),
    }


def describe_plan(plan: BuildPlan) -> dict[str, object]:
    """Return a plan as plain values for JSON."""
    total = plan.cost
    return {
        "profile": plan.profile,
        "archs": [f"sm{sm}" for sm in plan.sms],
        "kernels": [describe_kernel(kernel) for kernel in plan.kernels],
        "refused": [
            {"variant": one.variant.name, "constraint": one.constraint, "reason": one.reason} for one in plan.refusals
        ],
        "predicted_cpu_s": round(total.cpu_seconds, 2),
        "predicted_peak_mib": round(total.peak_mib, 1),
        "predicted_size_kib": round(total.size_kib, 1),
    }


def print_plan(plan: BuildPlan) -> None:
    """Print what a plan builds, what it refuses, and what it will cost."""
    width = max((len(kernel.variant.name) for kernel in plan.kernels), default=7)
    print(f"{'kernel':<{width}}  {'smem KiB':>8}  {'CPU s':>6}  {'MiB':>5}  {'KiB':>5}  sizes")
    for kernel in plan.kernels:
        cost, variant = kernel.cost, kernel.variant
        print(
            f"{variant.name:<{width}}  {variant.smem_bytes / 1024:>8.1f}  {cost.cpu_seconds:>6.2f}  "
            f"{cost.peak_mib:>5.0f}  {cost.size_kib:>5.0f}  {_bounds(kernel.when)}"
        )
    for refusal in plan.refusals:
        print(f"refused: {refusal.variant.name}: {refusal.reason} ({refusal.constraint})")
    total = plan.cost
    archs = ", ".join(f"sm{sm}" for sm in plan.sms)
    print(
        f"{len(plan.kernels)} kernels for {archs}, profile {plan.profile}, {len(plan.refusals)} refused. "
        f"Modelled: {total.cpu_seconds:.1f} CPU s, {total.peak_mib:.0f} MiB a job, {total.size_kib / 1024:.1f} MiB."
    )


def print_json(value: object) -> None:
    """Print a result for machines."""
    print(json.dumps(value, indent=1))


def _bounds(when: dict[str, tuple[int | None, int | None]]) -> str:
    parts = []
    for size, (low, high) in when.items():
        parts.append(f"{'' if low is None else f'{low} <= '}{size}{'' if high is None else f' <= {high}'}")
    return ", ".join(parts) or "any"


def _dtypes(names: list[str] | None) -> list[Dtype] | None:
    from kernelwright.gen.spec import DTYPES

    if names is None:
        return None
    unknown = [name for name in names if name not in DTYPES]
    if unknown:
        raise UsageError(f"dtype {unknown[0]!r}: unknown; known: {', '.join(DTYPES)}")
    return [dtype for dtype in DTYPES if dtype in names]


def _features(text: str | None) -> list[str] | None:
    if text is None:
        return None
    names = [part.strip() for part in text.split(",") if part.strip()]
    if not names or ("none" in names and len(names) > 1):
        raise UsageError(
            f"--features {text!r} names no feature, or none among others; for none at all: --features none"
        )
    return [] if names == ["none"] else names


def _native_archs() -> list[int]:
    from kernelwright.build.driver import native_archs
    from kernelwright.gen.devices import parse_arch

    try:
        return [parse_arch(str(sm)) for sm in native_archs()]
    except BuildError as error:
        raise BuildError(f"--arch native: {error} Name the architecture: --arch sm80") from error
