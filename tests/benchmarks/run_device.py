"""Starts `benchmarks/device.py` as a user does, on the emulator."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

DEVICE = Path(__file__).resolve().parents[2] / "benchmarks" / "device.py"
Record = dict[str, Any]  # Any: JSON


def command(out: Path, *words: str, minutes: float = 5) -> list[str]:
    head = [
        sys.executable,
        str(DEVICE),
        "--driver",
        "emulator",
        "--quick",
        "--minutes",
        str(minutes),
        "--out",
        str(out),
    ]
    return [*head, "--work", str(out.parent / "work"), *words]


def device(out: Path, *words: str, minutes: float = 5, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run to the end; the run that fails to say anything is a bug of its own."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    done = subprocess.run(command(out, *words, minutes=minutes), capture_output=True, text=True, env=env, timeout=300)
    assert "Traceback" not in done.stderr, done.stderr
    return done


def records(out: Path, step: str) -> list[Record]:
    """Every record of a step; each line must be one."""
    return [json.loads(line) for line in (out / f"{step}.jsonl").read_text().splitlines()]


def finished(out: Path, step: str) -> list[str]:
    """Keys of the tasks that were run, once for each time."""
    return [one["key"] for one in records(out, step) if "task" in one]
