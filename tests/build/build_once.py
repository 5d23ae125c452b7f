"""One build as its own process, for tests that kill it or starve it.

    python build_once.py OUT [--no-module] [--limit BYTES]

Builds four variants and assembles the module OUT/killed from stand-ins. Prints the digest of all cubins.
"""

import argparse
import hashlib
import logging
import resource
import sys
import tempfile
from pathlib import Path

from kernelwright.build import module
from kernelwright.build.kernels import BuiltKernel, build_kernels
from kernelwright.gen.errors import KernelError
from kernelwright.gen.spec import ForwardProblem, ForwardSchedule, Variant
from kernelwright.gen.table import hand_row

HERE = Path(__file__).parent
SCHEDULE = ForwardSchedule(block_m=64, block_n=64, num_warps=4, num_stages=1, q_in_regs=False)
VARIANTS = [
    Variant(sm=80, problem=ForwardProblem(dtype="bf16", head_dim=head_dim, is_causal=causal), schedule=SCHEDULE)
    for head_dim in (64, 128)
    for causal in (False, True)
]


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--no-module", action="store_true")
    parser.add_argument("--limit", type=int)
    args = parser.parse_args()
    logging.basicConfig(stream=sys.stderr)
    if args.limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (args.limit, args.limit))
    with tempfile.TemporaryDirectory() as folder:
        return build(args.out, Path(folder), with_module=not args.no_module)


def build(out: Path, runtime: Path, *, with_module: bool) -> int:
    for name in ("module_init.py", "module_init.pyi", "module_main.py", "module_nn.py", "launcher.so"):
        (runtime / name).write_text(f"# {name}\n")
    module.resource_dir = lambda name: runtime

    def assemble(kernels: list[BuiltKernel]) -> None:
        content = module.ModuleContent(
            name="killed",
            kernels=kernels,
            rows=[hand_row(kernel.variant, {}) for kernel in kernels],
            launcher=runtime / "launcher.so",
            emulator=None,
            info={"archs": ["sm80"]},
        )
        module.assemble_module(out / "killed", content)

    try:
        kernels = build_kernels(VARIANTS, out, then=assemble if with_module else None)
    except KernelError as error:
        print(f"failed: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    print(hashlib.sha256(b"".join(kernel.cubin for kernel in kernels)).hexdigest())
    return 0


sys.exit(main())
