"""CPU time the emulator takes for a built module's causal forward: batch 1, 2 heads, head_dim 64, bf16.

    gen build --arch sm80
    python benchmarks/emulator_speed.py --path out --module flash_sm80

Measured with time.process_time around flash_attn_func, best of several, without checks and with all of them; launch and
allocation are contained. It says nothing about a GPU.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import subprocess
import sys
import time
import warnings
from pathlib import Path

SEQLENS = (256, 512, 1024, 2048)
CHECKS = ("none", "all")


def measure(path: Path, name: str, seqlen: int, repeats: int) -> dict[str, float]:
    """Return the best CPU time in ms of this process's emulator settings, and the warp instructions of a launch."""
    sys.path.insert(0, str(path))
    import torch

    module = importlib.import_module(name)
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, seqlen, 2, 64).to(torch.bfloat16) for _ in range(3))
    best = float("inf")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", module.EmulationWarning)
        for _ in range(repeats + 1):  # the first loads the kernel
            start = time.process_time()
            module.flash_attn_func(q, k, v, causal=True)
            best = min(best, time.process_time() - start)
    counters = module.last_report()["counters"]
    return {"cpu_ms": best * 1e3, "warp_instructions": counters.get("warp_instructions", 0)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--path", type=Path, default=Path("out"), help="folder the module lies in (default: out)")
    parser.add_argument("--module", default="flash_sm80", help="the module (default: flash_sm80)")
    parser.add_argument("--repeats", type=int, default=7, help="launches, of which the best counts (default: 7)")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)  # a seqlen: measure it in this process
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(args.path, args.module, args.one, args.repeats)))
        return 0
    if not (args.path / args.module / "build_info.json").is_file():
        print(f"There is no module {args.module} in {args.path}. Make one: gen build --arch sm80", file=sys.stderr)
        return 1
    rows = []
    for seqlen in SEQLENS:
        row: dict[str, object] = {"seqlen": seqlen, "label": "measured on this CPU"}
        for checks in CHECKS:
            command = [sys.executable, __file__, *sys.argv[1:], "--one", str(seqlen)]
            environment = os.environ | {"KERNELWRIGHT_EMULATE": f"a100,checks={checks}"}
            done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True, text=True)
            result = json.loads(done.stdout.splitlines()[-1])
            row[f"cpu_ms_checks_{checks}"] = round(result["cpu_ms"], 2)
            if checks == "all":
                row["warp_instructions"] = int(result["warp_instructions"])
        rows.append(row)
    if args.json:
        print(json.dumps(rows, indent=1))
        return 0
    print("seqlen  warp instructions  CPU ms, no checks  CPU ms, all checks (measured on this CPU)")
    for row in rows:
        times = "  ".join(f"{row[f'cpu_ms_checks_{checks}']:>17}" for checks in CHECKS)
        print(f"{row['seqlen']:>6}  {row['warp_instructions']:>17,}  {times}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
