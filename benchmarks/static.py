"""What compilers say of kernels: registers, spills, shared memory, instructions for each score; needs nvcc, no GPU.

    python benchmarks/static.py [--profile NAME ...] [--arch sm80 sm86 sm89] [--out FILE] [--json]

The default kernels of the profiles, and a sample of features, are compiled, and the machine code of the steady loop
over key tiles is counted: that with fewest instructions of the innermost loops that multiply. Where one loop holds the
masked and the unmasked path (windows, block-sparse) both are counted, and the sum is divided by two. With cuobjdump
(the wheel nvidia-cuda-cuobjdump) instructions are those of the cubin, else those of the PTX. Kernels of the backward
pass have no such count: a loop in theirs runs some times for each tile. All figures are `static`, but for the CPU
seconds of compiling, which are modelled (`gen/plan.py`).
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import sysconfig
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT / "src") not in sys.path:
    sys.path.insert(0, str(ROOT / "src"))

from kernelwright.build.kernels import BuiltKernel, build_kernels  # noqa: E402
from kernelwright.gen.devices import parse_arch  # noqa: E402
from kernelwright.gen.errors import KernelError  # noqa: E402
from kernelwright.gen.ladder import default_schedule, ladder  # noqa: E402
from kernelwright.gen.plan import make_plan, mma_per_step, predict_cost  # noqa: E402
from kernelwright.gen.profile import load_profile  # noqa: E402
from kernelwright.gen.spec import OPERATION, ForwardProblem, Variant  # noqa: E402

Json = dict[str, Any]  # Any: it is JSON
RESULT = ROOT / "benchmarks" / "results" / "static.md"
SAMPLE: tuple[Json, ...] = (
    {"is_local": True},
    {"is_causal": True, "is_varlen": True},
    {"is_causal": True, "has_softcap": True},
    {"is_causal": True, "has_alibi": True},
    {"is_causal": True, "has_bias": True},
    {"is_causal": True, "has_dropout": True},
    {"is_block_sparse": True},
    {"is_local": True, "has_softcap": True},
    {"is_causal": True, "head_dim_v": 64},
    {"is_causal": True, "head_dim": 256},
    {"is_causal": True, "head_dim": 512},
)
"""What problems of bf16 and head_dim 128 have besides."""
TRAINED = "train"
BACKWARD_SAMPLE: tuple[Json, ...] = (
    *(one for one in SAMPLE if one.get("head_dim") != 512),
    {"head_dim": 72, "is_causal": True},
    {"head_dim": 96, "is_causal": True},
    {"head_dim": 192, "is_causal": True},
)
"""The same of the backward pass, whose kernels go to head_dim 256."""

# By the beginning of an opcode: of the machine code, and of PTX.
_CLASSES = {
    "mma": (("HMMA",), ("mma.",)),
    "special": (("MUFU",), ("ex2.", "rcp.", "lg2.", "tanh.")),
    "float": (("FFMA", "FADD", "FMUL", "FMNMX", "FSEL", "FSETP"), ("fma.rn.f32", "add.f32", "sub.f32", "mul.f32")),
    "shared": (("LDSM", "LDS", "STS"), ("ldmatrix", "ld.shared", "st.shared")),
    "copy": (("LDGSTS", "LDG"), ("cp.async", "ld.global")),
}
_SASS = re.compile(r"^\s+/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P[T\d]+\s+)?([A-Z][\w.]*)([^;]*);", re.MULTILINE)
_PTX_LINE = re.compile(r"^\s*(\$\w+):|^\s*(?:@!?%\w+\s+)?([a-z][\w.:]*)\s*([^;]*);", re.MULTILINE)
_UNSAID = ("NOP",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Instruction:
    """An opcode, and the place in its list that it jumps to, if it does."""

    opcode: str
    target: int | None


def find_tool() -> str | None:
    """Return cuobjdump of PATH, or of the wheels beside this Python."""
    beside = sorted(Path(sysconfig.get_path("purelib")).glob("nvidia/*/bin/cuobjdump"))
    return shutil.which("cuobjdump") or next((str(one) for one in beside), None)


def machine_code(tool: str, cubin: Path) -> list[Instruction]:
    """Return the instructions of a cubin's only kernel."""
    text = subprocess.run([tool, "-sass", str(cubin)], capture_output=True, text=True, check=True, timeout=120).stdout
    found = [match for match in _SASS.finditer(text) if match[2] not in _UNSAID]
    places = {int(match[1], 16): index for index, match in enumerate(found)}
    return [
        Instruction(opcode=match[2], target=places.get(int(jump[1], 16)) if (jump := _jump(match)) else None)
        for match in found
    ]


def _jump(match: re.Match[str]) -> re.Match[str] | None:
    return re.search(r"0x([0-9a-f]+)\s*$", match[3]) if match[2].startswith("BRA") else None


def virtual_code(ptx: str) -> list[Instruction]:
    """Return the instructions of a PTX text's only kernel."""
    body = re.sub(r"//[^\n]*", "", ptx[ptx.index(".entry") :])
    labels: dict[str, int] = {}
    lines: list[tuple[str, str]] = []
    for match in _PTX_LINE.finditer(body):
        if match[1]:
            labels[match[1]] = len(lines)
        elif not match[2].startswith("."):
            lines.append((match[2], match[3].strip()))
    return [
        Instruction(opcode=opcode, target=labels.get(rest) if opcode.startswith("bra") else None)
        for opcode, rest in lines
    ]


def steady_loop(code: Sequence[Instruction]) -> list[Instruction]:
    """Return the innermost loop that multiplies and has fewest instructions.

    Raises:
        KernelError: if there is none.
    """
    spans = [(one.target, at) for at, one in enumerate(code) if one.target is not None and one.target <= at]
    multiplies = [at for at, one in enumerate(code) if one.opcode.startswith(("HMMA", "mma."))]
    found = [(start, end) for start, end in spans if any(start <= at <= end for at in multiplies)]
    inner = [one for one in found if not any(_within(other, one) for other in found)]
    if not inner:
        raise KernelError("no loop over key tiles was found in the code")
    start, end = min(inner, key=lambda one: one[1] - one[0])
    return list(code[start : end + 1])


def _within(one: tuple[int, int], other: tuple[int, int]) -> bool:
    return one != other and other[0] <= one[0] and one[1] <= other[1]


def per_score(variant: Variant, loop: Sequence[Instruction]) -> Json:
    """Return instructions of a lane for each of its scores, in all and by class, and how many key tiles the loop holds.

    Two tiles: the masked and the unmasked path, or a loop that was unrolled.
    """
    schedule = variant.forward
    scores = schedule.block_m * schedule.block_n // schedule.threads
    counts: Counter[str] = Counter()
    for one in loop:
        kinds = [name for name, (sass, ptx) in _CLASSES.items() if one.opcode.startswith(sass + ptx)]
        counts[kinds[0] if kinds else "other"] += 1
    tiles = max(1, round(counts["mma"] / mma_per_step(variant)))
    parts = {name: round(counts[name] / tiles / scores, 3) for name in (*_CLASSES, "other")}
    return {"tiles": tiles, "all": round(len(loop) / tiles / scores, 3), **parts}


def row_of(kernel: BuiltKernel, folder: Path, tool: str | None, group: str) -> Json:
    """Return the figures of a kernel."""
    variant = kernel.variant
    counted = None
    if variant.operation == OPERATION:
        if tool is None:
            code = virtual_code(kernel.ptx.decode())
        else:
            cubin = folder / "kernel.cubin"
            cubin.write_bytes(kernel.cubin)
            code = machine_code(tool, cubin)
        counted = per_score(variant, steady_loop(code))
    return {
        "group": group,
        "variant": variant.name,
        "sm": variant.sm,
        "registers": kernel.report["registers"],
        "spill_bytes": kernel.report["spill_store_bytes"] + kernel.report["spill_load_bytes"],
        "smem_bytes": variant.smem_bytes,
        "cubin_bytes": len(kernel.cubin),
        "cpu_seconds": round(predict_cost(variant).cpu_seconds, 2),
        "per_score": counted,
    }


def sample(sm: int) -> list[Variant]:
    """Return the default kernels of the sample of features."""
    problems = [ForwardProblem(**{"dtype": "bf16", "head_dim": 128, **one}) for one in SAMPLE]
    return [Variant(sm=sm, problem=one, schedule=default_schedule(one)) for one in problems]


def backward_sample(sm: int) -> list[Variant]:
    """Return the default kernels of the backward pass of a sample of features."""
    problems = [ForwardProblem(**{"dtype": "bf16", "head_dim": 128, **one}) for one in BACKWARD_SAMPLE]
    return [
        rung.variant
        for one in problems
        for operation in ("flash_bwd", "flash_bwd_dq")
        for rung in ladder(sm, one, operation)
    ]


def collect(profiles: Sequence[str], sms: Sequence[int], folder: Path) -> Json:
    """Compile and count.

    Raises:
        KernelError: if a kernel does not compile.
    """
    wanted: dict[str, list[Variant]] = {}
    for name in profiles:
        found = [one.variant for one in make_plan(load_profile(name), list(sms)).kernels]
        # What the profile of training has of the forward pass, others have.
        group = f"profile {name}{', backward' if name == TRAINED else ''}"
        wanted[group] = [one for one in found if name != TRAINED or one.operation != OPERATION]
    wanted["a sample of features"] = [one for sm in sms for one in sample(sm)]
    wanted["a sample of features, backward"] = [one for sm in sms for one in backward_sample(sm)]
    variants = list(dict.fromkeys(one for group in wanted.values() for one in group))
    built = {one.variant: one for one in build_kernels(variants, folder)}
    tool = find_tool()
    rows = [row_of(built[one], folder, tool, group) for group, found in wanted.items() for one in found]
    return {"label": "static", "code": "PTX" if tool is None else "machine code", "rows": rows}


def markdown(result: Json) -> str:
    """Return the result as Markdown."""
    rows = result["rows"]
    spilling = [row["variant"] for row in rows if row["spill_bytes"]]
    head = ["kernel", "registers", "spills, bytes", "shared memory, bytes", "cubin, bytes"]
    counts = ["all", *_CLASSES, "other"]
    parts = [
        "# Static figures of default kernels\n\n    python benchmarks/static.py\n\n"
        "`static`: registers and spills of a thread from ptxas; shared memory of a thread block; instructions of a "
        f"lane for each score, from the {result['code']} of the steady loop over key tiles, so for a tile of "
        "block_m x block_n scores. Two tiles in a loop: the masked and the unmasked path, or an unrolled loop. "
        "No figure is a time of a kernel: CPU seconds are those of compiling it, `modelled`.\n\n"
        + (f"Spilling: {', '.join(spilling)}.\n" if spilling else "No kernel spills.\n")
    ]
    for group in dict.fromkeys(row["group"] for row in rows):
        mine = [one for one in rows if one["group"] == group]
        columns = [*head, *([*counts, "tiles in the loop"] if mine[0]["per_score"] else []), "CPU s"]
        table = [columns, ["---"] * len(columns)]
        for row in mine:
            numbers = [row["registers"], row["spill_bytes"], f"{row['smem_bytes']:,}", f"{row['cubin_bytes']:,}"]
            line = [f"`{row['variant']}`", *map(str, numbers)]
            if figures := row["per_score"]:
                line += [*(f"{figures[name]:.2f}" for name in counts), str(figures["tiles"])]
            table.append([*line, f"{row['cpu_seconds']:.2f}"])
        parts.append(f"## {group[0].upper()}{group[1:]}\n\n" + "".join(f"| {' | '.join(line)} |\n" for line in table))
    return "\n".join(parts)


def main(argv: Sequence[str] | None = None) -> int:
    """Compile, count, write the result and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    every = ["default", "all_head_dims", TRAINED]
    parser.add_argument("--profile", nargs="+", default=every, metavar="NAME", help=f"default: {' '.join(every)}")
    parser.add_argument("--arch", nargs="+", default=["sm80", "sm86", "sm89"], metavar="ARCH")
    parser.add_argument("--out", type=Path, metavar="FILE", help="where the table goes (default: benchmarks/results)")
    parser.add_argument("--build", type=Path, default=ROOT / "out" / "static", metavar="DIR", help="for kernels")
    parser.add_argument("--json", action="store_true", help="print JSON")
    args = parser.parse_args(argv)
    try:
        result = collect(args.profile, [parse_arch(one) for one in args.arch], args.build)
        out = args.out or RESULT
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(markdown(result), encoding="utf-8")
    except (KernelError, OSError, subprocess.SubprocessError) as error:
        print(f"static: {error}", file=sys.stderr)
        return 1
    print(json.dumps(result, indent=1) if args.json else markdown(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
