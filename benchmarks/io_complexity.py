"""FlashAttention-1's IO, memory and block-size figures, reproduced by counting; needs nvcc and no GPU.

    python benchmarks/io_complexity.py
    python benchmarks/io_complexity.py --quick [--out DIR] [--json]

Source: FlashAttention (Dao et al. 2022), theorem 2, figure 2 and table 21. The forward kernels are built, run on the
emulator, and the bytes they ask of global memory are held against a closed form, which they must equal; the backward
kernels too, with what they add atomically and their matrix products' operations. Every figure has a label: `counted` on
the kernels that ship, `closed form`, or `printed in the paper`. None is a time.

Results are README.md and, with matplotlib (the extra `plots`), a PNG in benchmarks/results/io_complexity. Those of
--quick, which takes small sizes, are only printed, unless --out says where they go.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
for _folder in (ROOT / "benchmarks", ROOT / "src"):
    if str(_folder) not in sys.path:
        sys.path.insert(0, str(_folder))

from io_complexity_forms import backward_counts, flash1_bytes, kernel_bytes, once_bytes, standard_bytes  # noqa: E402
from io_complexity_report import draw, markdown  # noqa: E402

from kernelwright.build.kernels import BuiltKernel, build_kernels  # noqa: E402
from kernelwright.emulator.host_library import HostCompilerError  # noqa: E402
from kernelwright.emulator.launch import Access, EmulatorError, Memory, load  # noqa: E402
from kernelwright.gen.commands.emulated import Kernel  # noqa: E402
from kernelwright.gen.errors import KernelError  # noqa: E402
from kernelwright.gen.ladder import ladder  # noqa: E402
from kernelwright.gen.launch_params import TensorArgument, launch_params  # noqa: E402
from kernelwright.gen.spec import BackwardSchedule, ForwardProblem, ForwardSchedule, Variant  # noqa: E402

SM = 80
_OF_ROWS = ("flash_bwd_delta", "flash_bwd_convert")
_ACCESS: dict[str, Access] = {"read": "read", "write": "write", "update": "read_write"}
RESULTS = ROOT / "benchmarks" / "results" / "io_complexity"


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A kernel on a problem: seqlen queries and as many keys, of `batch` sequences with `num_heads` heads."""

    variant: Variant
    seqlen: int
    batch: int = 1
    num_heads: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """Cases in which one size grows, and the slopes of log bytes that theory gives ours and standard attention."""

    name: str
    size: str
    cases: tuple[tuple[int, Case], ...]
    slope: int
    standard_slope: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is counted."""

    grid: tuple[Case, ...]
    sweeps: tuple[Sweep, ...]
    blocks: tuple[Case, ...]  # the block-size figure
    backward: tuple[Case, ...]  # of every kernel of a backward pass

    @property
    def cases(self) -> list[Case]:
        """The forward ones, each once."""
        swept = [case for sweep in self.sweeps for _, case in sweep.cases]
        return list(dict.fromkeys([*self.grid, *swept, *self.blocks]))


def tile(head_dim: int, block_m: int, block_n: int, num_stages: int = 1, *, is_causal: bool = False) -> Variant:
    """Return the kernel with a tile, at 16 rows a warp as far as there are 8 warps."""
    problem = ForwardProblem(dtype="fp16", head_dim=head_dim, is_causal=is_causal)
    schedule = ForwardSchedule(
        block_m=block_m, block_n=block_n, num_warps=min(8, block_m // 16), num_stages=num_stages, q_in_regs=False
    )
    return Variant(sm=SM, problem=problem, schedule=schedule)


def even(head_dim: int, block_m: int) -> Variant:
    """Return the kernel whose K and V tiles take as much shared memory as its Q tile: M = 4 head_dim block_m bytes."""
    num_stages = max(1, block_m // 128)
    variant = tile(head_dim, block_m, block_m // (2 * num_stages), num_stages)
    assert variant.smem_bytes == 4 * head_dim * block_m
    return variant


def make_plan(*, quick: bool) -> Plan:
    """Return what is counted: the sizes of the result, or a sixteenth of them and few kernels."""
    seqlens = (128, 256, 512) if quick else (512, 1024, 2048, 4096)
    fixed = seqlens[-1] if quick else 2048
    blocks_m = (32, 64, 128) if quick else (32, 64, 128, 256)
    tile_elements = 64 * (64 if quick else 128)  # head_dim * block_m of the sweep at one M
    head_dims = (32, 64, 128) if quick else (32, 64, 128, 256)
    smem = 4 * tile_elements
    sweeps = [
        Sweep(
            name="N",
            size="seqlen",
            cases=tuple((n, Case(variant=even(64, 64), seqlen=n)) for n in seqlens),
            slope=2,
            standard_slope=2,
        ),
        Sweep(
            name=f"d at M = {smem >> 10} KiB",
            size="head_dim",
            cases=tuple((d, Case(variant=even(d, tile_elements // d), seqlen=fixed)) for d in head_dims),
            slope=2,
            standard_slope=0,
        ),
        Sweep(
            name="M at d = 64",
            size="M in bytes",
            cases=tuple((even(64, m).smem_bytes, Case(variant=even(64, m), seqlen=fixed)) for m in blocks_m),
            slope=-1,
            standard_slope=0,
        ),
    ]
    if quick:
        grid_kernels = [even(64, 32), even(64, 128), even(32, 128), even(128, 32)]
        figure = [*(even(64, m) for m in blocks_m), tile(64, 64, 16)]
    else:
        at_one_block = [tile(d, 64, 32) for d in head_dims]
        sweeps.append(
            Sweep(
                name="d at block_m = 64",
                size="head_dim",
                cases=tuple((one.problem.head_dim, Case(variant=one, seqlen=fixed)) for one in at_one_block),
                slope=1,
                standard_slope=0,
            )
        )
        grid_kernels = [tile(d, m, 32) for d in (64, 128) for m in blocks_m if m < 256] + [tile(40, 64, 32)]
        grid_kernels += [tile(64, m, 64, is_causal=True) for m in (64, 128)]
        figure = [tile(64, m, n) for m in blocks_m for n in (16, 32, 64)]
    lengths = (1, 100, 256) if quick else (1, 100, 512, 1000)
    grid = [Case(variant=one, seqlen=n) for one in grid_kernels for n in lengths]
    grid.append(Case(variant=grid_kernels[0], seqlen=100, batch=2, num_heads=3))  # heads and sequences only multiply
    blocks = [Case(variant=one, seqlen=256 if quick else 1024) for one in figure]
    return Plan(grid=tuple(grid), sweeps=tuple(sweeps), blocks=tuple(blocks), backward=_backward_cases(quick=quick))


def _backward_cases(*, quick: bool) -> tuple[Case, ...]:
    """Return the default kernels of a backward pass, and some of other tiles, at lengths around these."""
    plain = ForwardProblem(dtype="fp16", head_dim=64)
    problems = [plain, replace(plain, is_causal=True), replace(plain, head_dim=72, head_dim_v=40, is_causal=True)]
    operations = ("flash_bwd", "flash_bwd_dq")
    variants = [ladder(SM, one, operation)[-1].variant for one in problems for operation in operations]
    variants += [ladder(SM, one, operation)[-1].variant for one in problems[:1] for operation in _OF_ROWS]
    odd = BackwardSchedule(
        block_m=32, block_n=64, num_warps=4, num_stages=1, warps_scores=1, warps_kv=2, warps_q=2, v_in_regs=True
    )
    variants.append(Variant(sm=SM, problem=problems[1], schedule=odd))
    lengths = (1, 100, 256) if quick else (1, 100, 512, 1024)
    cases = [Case(variant=one, seqlen=n) for one in variants for n in lengths]
    cases += [Case(variant=one, seqlen=100, batch=2, num_heads=3) for one in variants[2:4]]
    return tuple(cases)


def count(kernel: BuiltKernel, case: Case) -> dict[str, int]:
    """Run a kernel on zeros and return the emulator's counters.

    It may touch the tensors of its binding (forward: q, k, v, out and lse) and nothing else: the memory check would say
    so.
    """
    variant = case.variant
    launched = Kernel.of(variant)
    sizes = {
        **{"batch": case.batch, "seqlen_q": case.seqlen, "seqlen_k": case.seqlen},
        **{"num_heads_q": case.num_heads, "num_heads_kv": case.num_heads},
        **{"head_dim": variant.problem.head_dim, "head_dim_v": variant.problem.head_dim_v},
    }
    used = [one for one in launched.binding["tensors"] if not one["optional"] or one["name"] in ("lse", "dq_sum")]
    arrays = {
        str(one["name"]): np.zeros(
            [sizes[dim] for dim in one["dims"]], dtype=np.float16 if one["dtype"] == "io" else np.float32
        )
        for one in used
    }
    arguments = {
        name: TensorArgument(
            address=int(one.ctypes.data), shape=one.shape, strides=tuple(step // one.itemsize for step in one.strides)
        )
        for name, one in arrays.items()
    }
    params = launch_params(launched.binding, arguments, constants=launched.constants, scalars={})
    report = load(kernel.ptx.decode()).launch(
        variant.name,
        grid=params.grid,
        block=(variant.schedule.threads,),
        args=[params.struct],
        memory=[Memory(array=arrays[one["name"]], access=_ACCESS[one["access"]]) for one in used],
        shared_bytes=variant.smem_bytes,
        checks=("memory",),
        counters=True,
    )
    return report.counters


def measure(plan: Plan, folder: Path) -> dict[Case, dict[str, int]]:
    """Build the plan's kernels in `folder` and return the bytes of every case, of a backward one with its operations.

    Raises:
        KernelError: if a kernel does not compile, or spills: the traffic of spills is in no PTX.
    """
    cases = [*plan.cases, *plan.backward]
    variants = list(dict.fromkeys(case.variant for case in cases))
    kernels = {kernel.variant: kernel for kernel in build_kernels(variants, folder)}
    if faults := [f"{one.variant.name} {reason}" for one in kernels.values() for reason in one.gate_failures]:
        raise KernelError(f"{'; '.join(faults)}. Its traffic cannot be counted.")
    found = {}
    for case in cases:
        counters = count(kernels[case.variant], case)
        atomic = 4 * counters["atomics"]  # of float32, which the emulator counts as loads
        found[case] = {"load": counters["global_load_bytes"] - atomic, "store": counters["global_store_bytes"]}
        if case in plan.backward:
            found[case] |= {"atomic": atomic, "mma_flops": counters["mma_flops"]}
    return found


def slope(xs: Iterable[float], ys: Iterable[float]) -> float:
    """Return the slope of log y in log x, by least squares."""
    return float(np.polyfit(np.log(list(xs)), np.log(list(ys)), 1)[0])


def summarise(plan: Plan, found: dict[Case, dict[str, int]]) -> dict[str, Any]:  # Any: it is JSON
    """Return the results as plain data."""
    return {
        "grid": [_grid_row(case, found[case]) for case in plan.cases],
        "sweeps": [_sweep_row(sweep, found) for sweep in plan.sweeps],
        "blocks": [_block_row(case, found[case]) for case in plan.blocks],
        "backward": [_backward_row(case, found[case]) for case in plan.backward],
    }


def _grid_row(case: Case, counted: dict[str, int]) -> dict[str, Any]:
    heads = case.batch * case.num_heads
    form = kernel_bytes(case.variant, case.seqlen, heads=heads)
    out_bytes = 2 * heads * case.seqlen * case.variant.problem.head_dim
    return {
        "variant": case.variant.name,
        "batch": case.batch,
        "num_heads": case.num_heads,
        "seqlen": case.seqlen,
        "counted": counted,
        "closed_form": form,
        "equal": counted == form,
        "extra_memory": {"counted": counted["store"] - out_bytes, "lse": 4 * heads * case.seqlen},
    }


def _backward_row(case: Case, counted: dict[str, int]) -> dict[str, Any]:
    form = backward_counts(case.variant, case.seqlen, heads=case.batch * case.num_heads)
    return {
        "variant": case.variant.name,
        "operation": case.variant.operation,
        "head_dim": case.variant.problem.head_dim,
        "is_causal": case.variant.problem.is_causal,
        "batch": case.batch,
        "num_heads": case.num_heads,
        "seqlen": case.seqlen,
        "counted": counted,
        "closed_form": form,
        "equal": counted == form,
    }


def _sweep_row(sweep: Sweep, found: dict[Case, dict[str, int]]) -> dict[str, Any]:
    xs = [x for x, _ in sweep.cases]
    shapes = [(case.seqlen, case.variant.problem.head_dim) for _, case in sweep.cases]
    counted = [sum(found[case].values()) for _, case in sweep.cases]
    # Q, out and lse move once whatever the tile is; the rest is what the theorem's order comes from.
    repeated = [total - once_bytes(*shape) for total, shape in zip(counted, shapes, strict=True)]
    standard = [standard_bytes(*shape) for shape in shapes]
    return {
        "name": sweep.name,
        "size": sweep.size,
        "x": xs,
        "shapes": shapes,
        "variants": [case.variant.name for _, case in sweep.cases],
        "counted": counted,
        "counted_k_v": repeated,
        "standard_closed_form": standard,
        "expected": {"ours": sweep.slope, "standard": sweep.standard_slope},
        "fitted": {
            "ours": slope(xs, counted),
            "ours_k_v": slope(xs, repeated),
            "standard": slope(xs, standard),
        },
    }


def _block_row(case: Case, counted: dict[str, int]) -> dict[str, Any]:
    schedule, head_dim = case.variant.forward, case.variant.problem.head_dim
    return {
        "variant": case.variant.name,
        "block_m": schedule.block_m,
        "block_n": schedule.block_n,
        "seqlen": case.seqlen,
        "head_dim": head_dim,
        "counted": sum(counted.values()),
        "flash1_closed_form": flash1_bytes(case.seqlen, head_dim, schedule.block_m),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Count, print, write the results and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, metavar="DIR", help="where results go (default: benchmarks/results)")
    parser.add_argument("--build", type=Path, default=ROOT / "out" / "io_complexity", metavar="DIR", help="for kernels")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--quick", action="store_true", help="small sizes, few kernels")
    args = parser.parse_args(argv)
    plan = make_plan(quick=args.quick)
    try:
        result = summarise(plan, measure(plan, args.build))
        folder = args.out or (None if args.quick else RESULTS)
        pictures = write(result, folder) if folder else []
    except (KernelError, EmulatorError, HostCompilerError, OSError) as error:
        print(f"io_complexity: {error}", file=sys.stderr)
        return 1
    print(json.dumps(result, indent=1) if args.json else markdown(result, pictures))
    differing = [row for row in [*result["grid"], *result["backward"]] if not row["equal"]]
    for row in differing:
        print(f"io_complexity: {row['variant']}, seqlen {row['seqlen']}: counted {row['counted']}, "
              f"the closed form is {row['closed_form']}", file=sys.stderr)  # fmt: skip
    return 1 if differing else 0


def write(result: dict[str, Any], folder: Path) -> list[str]:
    """Write README.md and, with matplotlib, the plot; return the names of the plots."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        pictures = draw(result, folder)
    except ImportError:
        print("io_complexity: no plots: matplotlib is not installed (the extra `plots`)", file=sys.stderr)
        pictures = []
    (folder / "README.md").write_text(markdown(result, pictures), encoding="utf-8")
    return pictures


if __name__ == "__main__":
    sys.exit(main())
