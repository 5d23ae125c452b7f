"""The whole way on this machine: build a module, tune one space, run a GPT through it. See `make demo`."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ARCH = "sm80"
TRIALS = 8
STUDY = ROOT / "out" / "demo.journal"  # made anew each time: a study of older templates cannot be gone on with


def main() -> int:
    STUDY.unlink(missing_ok=True)
    # Commands of this environment, whether or not it is activated.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    steps = [
        ["gen", "build", "--arch", ARCH],
        ["tuner", "run", "flash_fwd_hd64_causal", "--arch", ARCH, "--trials", str(TRIALS), "--storage", str(STUDY)],
        [sys.executable, "examples/gpt.py", "LICENSE", "--module", f"flash_{ARCH}"],
    ]
    seconds = []
    for command in steps:
        shown = " ".join(command).replace(sys.executable, "python")
        print(f"\n$ {shown}", flush=True)
        start = time.monotonic()
        done = subprocess.run(command, cwd=ROOT, env=os.environ | {"PATH": path}, check=False)
        seconds.append((time.monotonic() - start, shown))
        if done.returncode:
            print(f"\ndemo: failed with exit status {done.returncode}: {shown}", file=sys.stderr)
            return 1
    print("\nseconds  step")
    for taken, shown in seconds:
        print(f"{taken:7.1f}  {shown}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
