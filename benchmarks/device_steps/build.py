"""The module under test, built from this checkout as far as its share of the time goes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from device_steps.base import Context
from device_steps.prepare import SetupError
from device_steps.steps import Entry, find_step
from kernelwright.build.errors import ToolchainError
from kernelwright.build.jobs import usable_cores
from kernelwright.build.kernels import BuiltKernel
from kernelwright.build.launcher import compile_launcher, emulator_library
from kernelwright.build.module import ModuleContent, assemble_module
from kernelwright.build.settings import read_settings
from kernelwright.build.toolchain import Toolchain, find_ninja, find_toolchain
from kernelwright.gen.errors import KernelError
from kernelwright.gen.plan import make_plan, predict_cost
from kernelwright.gen.profile import load_profile
from kernelwright.gen.spec import Variant
from kernelwright.gen.table import hand_row
from kernelwright.tuner.compile import NinjaCompiler
from kernelwright.tuner.target import Gpu, choose_target

EXTRA_HEAD_DIMS = (256, 96, 80, 72, 112, 160, 224)  # that the shapes of `speed` need beside the default profile's
_SHARE = 0.4  # of the run's time


@dataclass(kw_only=True)
class Compiled:
    """What there is to make a module of, and what there is not."""

    kernels: list[BuiltKernel] = field(default_factory=list)
    rows: list[dict[str, object]] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    faults: dict[str, str] = field(default_factory=dict)


def runnable_sm(facts: dict[str, Any]) -> int:  # Any: JSON
    """Return the architecture to build for: the GPU's own, or sm80, whose PTX newer drivers compile."""
    gpu = Gpu(name=str(facts["device"]), sm=int(facts["sm"]))
    return choose_target(None, "measured", 80, gpu).sm


def module_folder(work: Path, sm: int, *, quick: bool) -> Path:
    """Return where the module is built; its name is its import name."""
    return work / f"kw_device_sm{sm}{'_quick' if quick else ''}"


def build_module(context: Context, sm: int, entries: Sequence[Entry]) -> dict[str, Any]:  # Any: JSON
    """Build the module at `context.module_dir` and return the record of it.

    Raises:
        SetupError: if there is no compiler, or no kernel could be built.
    """
    started = time.monotonic()
    try:
        settings = read_settings()
        toolchain = find_toolchain(settings)
        find_ninja()
        launcher = compile_launcher(settings.cache_dir)
        emulator, note = _emulator(required=context.driver == "emulator")
        found = _compile(_batches(context, sm, entries), context.work / "build", _SHARE * context.seconds_left())
        if not found.kernels:
            raise SetupError(f"no kernel could be built: {next(iter(found.faults.values()), 'none was asked for')}")
        content = ModuleContent(
            name=context.module_dir.name,
            kernels=found.kernels,
            rows=found.rows,
            launcher=launcher,
            emulator=emulator,
            info=_info(sm, toolchain),
        )
        assemble_module(context.module_dir, content)
    except (KernelError, OSError) as error:
        raise SetupError(f"the kernels cannot be built. {error}") from error
    faults = found.faults
    return {
        "toolkit": toolchain.version,
        "sm": sm,
        "kernels": len(found.kernels),
        "left_out": found.left_out,
        "wall_s": round(time.monotonic() - started, 3),
        **({"not_compiled": faults, "fault": f"not compiled: {', '.join(sorted(faults))}"} if faults else {}),
        **({"note": note} if note else {}),
    }


def _emulator(*, required: bool) -> tuple[Path | None, str]:
    """Return the emulator's library, or why the module goes without."""
    try:
        return emulator_library(), ""
    except ToolchainError as error:
        if required:
            raise
        return None, f"without the emulator: {str(error).splitlines()[0]}"


def _compile(batches: Sequence[tuple[list[Variant], bool]], out: Path, seconds: float) -> Compiled:
    """Compile batch by batch; one that would take too long is left out, the first never is."""
    compiler, found, until = NinjaCompiler(out=out), Compiled(), time.monotonic() + seconds
    for variants, dispatched in batches:
        known = {kernel.variant for kernel in found.kernels}
        wanted = [one for one in dict.fromkeys(variants) if one not in known]
        predicted_s = sum(predict_cost(one).cpu_seconds for one in wanted) / usable_cores()
        if found.kernels and time.monotonic() + predicted_s > until:
            found.left_out += [one.name for one in wanted]
            continue
        for compiled in compiler.compile(wanted) if wanted else []:
            if compiled.kernel is None:
                found.faults[compiled.variant.name] = compiled.fault
                continue
            found.kernels.append(compiled.kernel)
            found.rows += [hand_row(compiled.variant, {})] if dispatched else []
    return found


def _info(sm: int, toolchain: Toolchain) -> dict[str, object]:
    return {
        "archs": [f"sm{sm}"],
        "profile": "device run",
        "command": "python benchmarks/device.py",
        "toolkit": toolchain.version,
        "compiler": toolchain.identity,
    }


def _batches(context: Context, sm: int, entries: Sequence[Entry]) -> list[tuple[list[Variant], bool]]:
    """Return what to build, what matters most first, and whether calls are answered by it."""
    profile = load_profile("default")
    tiny = context.quick and context.driver == "emulator"
    first = profile.restricted([64], ["bf16"]) if tiny else profile
    trained = first.restricted(None, None, backward=True)
    # Forward is known by then: a batch builds what none before has.
    batches = [([kernel.variant for kernel in make_plan(one, [sm]).kernels], True) for one in (first, trained)]
    if not context.quick:
        more = profile.restricted(list(EXTRA_HEAD_DIMS), ["bf16"])
        batches.append(([kernel.variant for kernel in make_plan(more, [sm]).kernels], True))
    for entry in entries:
        variants = getattr(find_step(entry.name), "variants", None)
        if variants is not None:
            batches.append((list(variants(sm, context.quick)), False))
    return batches
