"""The dispatch module under test, as the processes that use it see it."""

from __future__ import annotations

import importlib
import json
import os
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kernelwright.gen.devices import parse_arch, reference_device


def load_module(module_dir: str | Path) -> Any:  # Any: a module imported at run time
    """Import the module; on CPU tensors it is the emulator that launches, which it does not warn of here.

    The emulator plays a GPU of the architecture that the kernels are built for, unless the environment says another.
    """
    folder = Path(module_dir).resolve()
    (arch, *_) = json.loads((folder / "build_info.json").read_text(encoding="utf-8"))["archs"]
    os.environ.setdefault("KERNELWRIGHT_EMULATE", reference_device(parse_arch(arch)).name)
    if str(folder.parent) not in sys.path:
        sys.path.insert(0, str(folder.parent))
    module = importlib.import_module(folder.name)
    warnings.simplefilter("ignore", module.EmulationWarning)
    return module


def part_of(module: Any, name: str) -> Any:  # Any: as above
    """Return a part of the run time that the module ships, such as `check`."""
    return importlib.import_module(f"{module.__name__}._runtime.{name}")


@dataclass(frozen=True, kw_only=True)
class Kernel:
    """A kernel of the module, from its built-in table. `ptx_sha256` is its identity everywhere.

    A kernel of single rows has one head dimension, whichever its operation goes by.
    """

    name: str
    operation: str
    sm: int
    dtype: str
    head_dim: int
    is_causal: bool
    schedule: dict[str, Any]  # Any: JSON
    ptx_sha256: str
    features: tuple[str, ...] = ()  # names of the other flags of its problem that are set


def kernels_of(module_dir: Path) -> list[Kernel]:
    """Return the kernels of a module, in the order of its table, without importing it."""
    table = json.loads((module_dir / "kernels" / "table.json").read_text(encoding="utf-8"))
    return [
        Kernel(
            name=name,
            operation=entry["operation"],
            sm=entry["sm"],
            dtype=entry["problem"]["dtype"],
            head_dim=entry["problem"].get("head_dim") or entry["problem"]["head_dim_v"],
            is_causal=bool(entry["problem"].get("is_causal")),
            features=tuple(key for key, value in entry["problem"].items() if value is True and key != "is_causal"),
            schedule=entry["schedule"],
            ptx_sha256=entry["files"]["ptx"]["sha256"],
        )
        for name, entry in table["kernels"].items()
    ]
