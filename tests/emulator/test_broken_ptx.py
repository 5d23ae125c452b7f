"""Broken PTX, loaded and launched in a process of its own: it must live to say how every mutation ended."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import fuzz_ptx
import numpy as np
import pytest
from emulator_kernels import aligned

from kernelwright import emulator as emu


@pytest.mark.parametrize("number", [number for number, (name, _) in enumerate(fuzz_ptx.seeds()) if name == "k"])
def test_what_is_broken_is_right_before(number):
    module = emu.load(fuzz_ptx.seeds()[number][1])
    for seed in range(3):
        module.launch("k", grid=(1,), block=(32,), args=[aligned((64,), np.uint32)], seed=seed)


def test_what_is_broken_of_hopper_is_right_before():
    text = next(text for name, text in fuzz_ptx.seeds() if name == "hopper")
    emu.configure(sm=90)
    try:
        for seed in range(3):
            report = fuzz_ptx.launch_hopper(emu.load(text), seed=seed, registers=168, on_finding="collect")
            assert {one.kind for one in report.findings} <= {
                "global_race"
            }  # both blocks add to `out` and store to the map
    finally:
        emu.configure(sm=80)


@pytest.mark.parametrize("count", [300, pytest.param(10_000, marks=pytest.mark.slow)])
def test_broken_text_never_ends_the_process(count):
    script = Path(__file__).with_name("fuzz_ptx.py")
    done = subprocess.run(
        [sys.executable, str(script), "0", str(count)], capture_output=True, text=True, timeout=600, check=False
    )
    lines = done.stdout.splitlines()
    assert done.returncode == 0, f"after mutation {lines[-1] if lines else '?'}: {done.returncode}\n{done.stderr}"
    ends = ast.literal_eval(lines[-1])
    assert sum(ends.values()) == count
    assert min(ends.get(end, 0) for end in ("not loaded", "ran", "finding")) > count // 100  # all ways were tried
