"""Work of block-sparse attention against the share of blocks kept; needs nvcc and no GPU.

    python benchmarks/block_sparse.py
    python benchmarks/block_sparse.py --quick [--out DIR] [--json]

Source: FlashAttention (Dao et al. 2022), section 3.3 and proposition 4: block-sparse attention moves and multiplies
what its non-zero blocks need. The default kernels are built, run on the emulator over random masks of whole blocks, and
the bytes of q, k, v, out and the operations of mma are held against closed forms, which they must equal. Bytes of the
lists of blocks are counted apart. Labels: `counted` and `closed form`; none is a time.

Results are README.md and, with matplotlib (the extra `plots`), a PNG in benchmarks/results/block_sparse. Those of
--quick, which takes few and short masks, are only printed, unless --out says where they go.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT / "src") not in sys.path:
    sys.path.insert(0, str(ROOT / "src"))

from kernelwright.build.kernels import BuiltKernel, build_kernels  # noqa: E402
from kernelwright.emulator.host_library import HostCompilerError  # noqa: E402
from kernelwright.emulator.launch import EmulatorError, load  # noqa: E402
from kernelwright.gen.commands import emulated  # noqa: E402
from kernelwright.gen.errors import KernelError  # noqa: E402
from kernelwright.gen.ladder import default_schedule  # noqa: E402
from kernelwright.gen.spec import ForwardProblem, Variant  # noqa: E402
from kernelwright.runtime.block_mask import BlockMask  # noqa: E402

Json = dict[str, Any]  # Any: it is JSON
SM, BLOCK, NUM_HEADS = 80, 128, 2
RESULTS = ROOT / "benchmarks" / "results" / "block_sparse"
PICTURE = "block_sparse.png"
DENSITIES = (0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A kernel on random masks: each block of each head is kept with a probability."""

    variant: Variant
    seqlen: int
    density: float
    seed: int


def make_plan(*, quick: bool) -> list[Case]:
    """Return what is counted: densities from 0.05 to 1 of two head dimensions."""
    seqlen, densities = (512, (0.1, 0.5, 1.0)) if quick else (2048, DENSITIES)
    cases = []
    for head_dim in (64,) if quick else (64, 128):
        problem = ForwardProblem(dtype="fp16", head_dim=head_dim, is_block_sparse=True)
        variant = Variant(sm=SM, problem=problem, schedule=default_schedule(problem))
        cases += [Case(variant=variant, seqlen=seqlen, density=one, seed=index) for index, one in enumerate(densities)]
    return cases


def kept_blocks(case: Case) -> torch.Tensor:
    """Return which blocks are kept, bool [num_heads, seqlen / BLOCK, seqlen / BLOCK]."""
    rows = case.seqlen // BLOCK
    generator = torch.Generator().manual_seed(case.seed)
    return torch.rand(NUM_HEADS, rows, rows, generator=generator) < case.density


def count(kernel: BuiltKernel, case: Case) -> dict[str, int]:
    """Run a kernel on zeros and return the emulator's counters."""
    kept = kept_blocks(case)
    mask = BlockMask.from_dense(kept.repeat_interleave(BLOCK, 1).repeat_interleave(BLOCK, 2), BLOCK, BLOCK)
    shape = (1, case.seqlen, NUM_HEADS, case.variant.problem.head_dim)
    inputs = {name: torch.zeros(shape, dtype=torch.float16) for name in ("q", "k", "v")}
    inputs |= {"block_counts": mask.counts, "block_lists": mask.lists, "block_bits": mask.bits}
    scalars = {"softmax_scale": shape[3] ** -0.5, "sparse_block_q": BLOCK, "sparse_block_k": BLOCK}
    done = emulated.launch(
        load(kernel.ptx.decode()),
        emulated.Kernel.of(case.variant),
        inputs,
        scalars,
        checks=("memory",),
        counters=True,
    )
    return done.report.counters


def closed_form(case: Case) -> dict[str, int]:
    """Return bytes and operations: K and V of each kept block once for each tile of queries, Q where a row has a block.

    out and lse are written whatever is kept.
    """
    schedule, head_dim = case.variant.schedule, case.variant.problem.head_dim
    kept = kept_blocks(case)
    blocks, rows = int(kept.sum()), int(kept.any(2).sum())
    tiles_per_block = BLOCK // schedule.block_m
    return {
        "mma_flops": blocks * 4 * BLOCK * BLOCK * head_dim,
        "load": 2 * BLOCK * head_dim * (rows + 2 * blocks * tiles_per_block),
        "store": NUM_HEADS * case.seqlen * (2 * head_dim + 4),
    }


def measure(plan: Sequence[Case], folder: Path) -> list[Json]:
    """Build the plan's kernels in `folder` and return a row for each case.

    Raises:
        KernelError: if a kernel does not compile, or spills: the traffic of spills is in no PTX.
    """
    kernels = {one.variant: one for one in build_kernels(list(dict.fromkeys(one.variant for one in plan)), folder)}
    if faults := [f"{one.variant.name} {reason}" for one in kernels.values() for reason in one.gate_failures]:
        raise KernelError(f"{'; '.join(faults)}. Its traffic cannot be counted.")
    rows = []
    for case in plan:
        counters = count(kernels[case.variant], case)
        counted = {
            "mma_flops": counters["mma_flops"],
            "load": counters["cp_async_bytes"],
            "store": counters["global_store_bytes"],
        }
        form = closed_form(case)
        rows.append(
            {
                "variant": case.variant.name,
                "head_dim": case.variant.problem.head_dim,
                "seqlen": case.seqlen,
                "density": case.density,
                "kept": float(kept_blocks(case).double().mean()),
                "counted": counted,
                "counted_lists": counters["global_load_bytes"] - counters["cp_async_bytes"],
                "closed_form": form,
                "equal": counted == form,
            }
        )
    return rows


def shares(rows: Sequence[Json]) -> list[Json]:
    """Return each row with its operations and its K and V bytes as a share of those of all blocks."""
    found = []
    for row in rows:
        blocks = (row["seqlen"] // BLOCK) ** 2 * NUM_HEADS
        dense = blocks * 4 * BLOCK * BLOCK * row["head_dim"]
        once = 2 * 2 * NUM_HEADS * row["seqlen"] * row["head_dim"] + 4 * NUM_HEADS * row["seqlen"]
        full = next(one for one in rows if one["head_dim"] == row["head_dim"] and one["kept"] == 1)
        total = row["counted"]["load"] + row["counted"]["store"]
        all_of_full = full["counted"]["load"] + full["counted"]["store"]
        found.append(
            {
                **row,
                "flops_share": row["counted"]["mma_flops"] / dense,
                "bytes_share": total / all_of_full,
                "once_share": once / all_of_full,
                "lists_share": row["counted_lists"] / total,
            }
        )
    return found


def markdown(rows: Sequence[Json], pictures: Sequence[str]) -> str:
    """Return the result as Markdown."""
    head = ["head_dim", "blocks kept", "mma flops", "share of dense", "bytes of q, k, v, out, lse", "share of dense"]
    head += ["both closed forms equal", "lists, beside"]
    table = [head, ["---"] * len(head)]
    for row in shares(rows):
        moved = row["counted"]["load"] + row["counted"]["store"]
        table.append(
            [
                str(row["head_dim"]),
                f"{100 * row['kept']:.1f} %",
                f"{row['counted']['mma_flops']:,}",
                f"{100 * row['flops_share']:.1f} %",
                f"{moved:,}",
                f"{100 * row['bytes_share']:.1f} %",
                "yes" if row["equal"] else f"**no**: {row['closed_form']}",
                f"{row['counted_lists']:,}",
            ]
        )
    first = rows[0]
    equal = sum(row["equal"] for row in rows)
    names = "".join(f"- `{name}`\n" for name in dict.fromkeys(row["variant"] for row in rows))
    pictured = "".join(f"![work against blocks kept]({name})\n\n" for name in pictures)
    return (
        "# Block-sparse attention: work against blocks kept\n\n    python benchmarks/block_sparse.py\n\n"
        f"{NUM_HEADS} heads of {first['seqlen']} queries and keys, fp16, blocks of {BLOCK} x {BLOCK} kept at random "
        f"for each head. `counted` on the default kernels for sm{SM} by the emulator; no figure is a time.\n\n"
        + pictured
        + "".join(f"| {' | '.join(line)} |\n" for line in table)
        + f"\n{equal} of {len(rows)} rows equal the closed forms to the byte and the operation. With b blocks kept, of "
        f"rows of blocks r that keep any, and t tiles of queries in a block: mma flops 4 b d {BLOCK}^2; bytes loaded "
        f"2 d {BLOCK} (r + 2 b t); stored N (2 d + 4) a head, whatever is kept. So operations are proportional to the "
        "blocks kept, and bytes are but for Q, out and lse, which move once.\n\n"
        "Lists, beside: bytes that threads ask of the lists of blocks, each thread for itself; lanes of a warp "
        f"ask for the same word, so a warp's 128 bytes are one sector of 32.\n\nKernels:\n\n{names}"
    )


def draw(rows: Sequence[Json], folder: Path) -> list[str]:
    """Draw the figure into a folder and return its name in a list.

    Raises:
        ImportError: if matplotlib is not installed.
    """
    matplotlib: Any = importlib.import_module("matplotlib")  # Any: an optional package
    matplotlib.use("Agg")
    pyplot: Any = importlib.import_module("matplotlib.pyplot")
    figure, axes = pyplot.subplots(figsize=(8, 6), layout="constrained")
    axes.plot([0, 100], [0, 100], "-", color="#9498a0", label="proportional to the blocks kept")
    for head_dim, colour, shape in zip(dict.fromkeys(row["head_dim"] for row in rows), ("#4269d0", "#ff725c"), "os",
                                       strict=False):  # fmt: skip
        found = [row for row in shares(rows) if row["head_dim"] == head_dim]
        xs = [100 * row["kept"] for row in found]
        axes.plot(xs, [100 * row["flops_share"] for row in found], shape, color=colour, fillstyle="none", markersize=9,
                  label=f"mma flops, head_dim {head_dim} (counted)")  # fmt: skip
        axes.plot(xs, [100 * row["bytes_share"] for row in found], f"--{shape}", color=colour,
                  label=f"bytes, head_dim {head_dim} (counted); "
                  f"{100 * found[0]['once_share']:.0f} % move whatever is kept")  # fmt: skip
    axes.set(title=f"Block-sparse attention, N = {rows[0]['seqlen']}, blocks of {BLOCK}", xlabel="blocks kept, %",
             ylabel="work, % of that with all blocks")  # fmt: skip
    axes.set_axisbelow(True)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=9)
    figure.savefig(folder / PICTURE, dpi=100, metadata={"Software": None})  # same input, same bytes
    pyplot.close(figure)
    return [PICTURE]


def write(rows: Sequence[Json], folder: Path) -> list[str]:
    """Write README.md and, with matplotlib, the figure; return the names of the figures."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        pictures = draw(rows, folder)
    except ImportError:
        print("block_sparse: no figure: matplotlib is not installed (the extra `plots`)", file=sys.stderr)
        pictures = []
    (folder / "README.md").write_text(markdown(rows, pictures), encoding="utf-8")
    return pictures


def main(argv: Sequence[str] | None = None) -> int:
    """Count, print, write the results and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, metavar="DIR", help="where results go (default: benchmarks/results)")
    parser.add_argument("--build", type=Path, default=ROOT / "out" / "block_sparse", metavar="DIR", help="for kernels")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--quick", action="store_true", help="few and short masks")
    args = parser.parse_args(argv)
    try:
        rows = measure(make_plan(quick=args.quick), args.build)
        folder = args.out or (None if args.quick else RESULTS)
        pictures = write(rows, folder) if folder else []
    except (KernelError, EmulatorError, HostCompilerError, OSError) as error:
        print(f"block_sparse: {error}", file=sys.stderr)
        return 1
    print(json.dumps(shares(rows), indent=1) if args.json else markdown(rows, pictures))
    differing = [row for row in rows if not row["equal"]]
    for row in differing:
        print(f"block_sparse: {row['variant']}, {row['kept']:.3f} kept: counted {row['counted']}, "
              f"the closed form is {row['closed_form']}", file=sys.stderr)  # fmt: skip
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
