"""A dispatch module in which one kernel never ends, one writes beside its tensors and one computes something else."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

BREAKAGES = ("hang", "fault", "wrong")


def break_module(sound: Path, target: Path) -> dict[str, str]:
    """Copy a module of at least four kernels and change the PTX of three; return the variant of each breakage."""
    shutil.copytree(sound, target)
    path = target / "kernels" / "table.json"
    table = json.loads(path.read_text())
    change: dict[str, Callable[[str], str]] = {"hang": _hang, "fault": _fault, "wrong": _wrong}
    broken = dict(zip(BREAKAGES, list(table["kernels"])[1:], strict=False))
    for how, variant in broken.items():
        record = table["kernels"][variant]["files"]["ptx"]
        file = target / "kernels" / record["file"]
        text = change[how](file.read_text())
        file.write_text(text)
        record |= {"bytes": len(text), "sha256": hashlib.sha256(text.encode()).hexdigest()}
    path.write_text(json.dumps(table))
    return broken


def _hang(text: str) -> str:
    """Loop before the first instruction."""
    return _once(r"\n(\s*ld\.param)", r"\nFOREVER:\n\tbra.uni FOREVER;\n\1", text)


def _fault(text: str) -> str:
    """Store a gigabyte away."""
    return _once(r"(st\.global[.\w]*\s+\[%rd\d+)(?:\+\d+)?\]", r"\1+1073741824]", text)


def _wrong(text: str) -> str:
    """Leave out one exponential."""
    return _once(r"ex2\.approx\.ftz\.f32", "mov.f32", text)


def _once(pattern: str, replacement: str, text: str) -> str:
    changed, count = re.subn(pattern, replacement, text, count=1)
    assert count == 1, pattern
    return changed
