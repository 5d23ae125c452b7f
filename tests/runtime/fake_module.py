"""Hand-made dispatch modules: a folder as `gen build` would write it, with a stand-in for every binary."""

from __future__ import annotations

import copy
import hashlib
import importlib
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from kernelwright import resource_dir
from kernelwright.gen.binding import bindings, forward_binding
from kernelwright.gen.ladder import ladder
from kernelwright.gen.spec import BACKWARD_OPERATIONS, Dtype, ForwardProblem
from kernelwright.gen.table import hand_row, kernel_entry

DEVICES = {
    "a100": {"title": "NVIDIA A100-SXM4-80GB", "sm": 80, "num_sms": 108, "max_smem_bytes": 166912, "boost_mhz": 1410},
    "rtx4090": {"title": "NVIDIA GeForce RTX 4090", "sm": 89, "num_sms": 128, "max_smem_bytes": 101376},
}


BINDING: dict[str, Any] = json.loads(json.dumps(forward_binding()))
FEATURES = tuple(BINDING["flags"][1:])
CONSTANTS = {"block_m": 128, "num_slices": 1, "pack_gqa": 0, "persistent_blocks": 0}


def kernel_name(
    dtype: str,
    head_dim: int,
    causal: bool,
    block_m: int,
    sm: int = 80,
    features: Sequence[str] = (),
    head_dim_v: int = 0,
) -> str:
    """The name of a stand-in kernel."""
    said = "".join(f"_{name.partition('_')[2]}" for name in FEATURES if name in features)
    values = f"_dv{head_dim_v}" if head_dim_v not in (0, head_dim) else ""
    return f"flash_fwd_sm{sm}_{dtype}_hd{head_dim}{values}_causal{int(causal)}{said}_m{block_m}"


class FakeModule:
    """Writes a module's folder piece by piece, and imports it."""

    def __init__(self, folder: Path, launcher: Path, cpu_library: Path | None) -> None:
        self.folder = folder
        self.table: dict[str, Any] = {
            "schema": 1,
            "name": folder.name,
            "devices": copy.deepcopy(DEVICES),
            "operations": {"flash_fwd": copy.deepcopy(BINDING)},
            "kernels": {},
            "rows": [],
        }
        runtime = resource_dir("runtime")
        folder.mkdir(parents=True)
        (folder / "_runtime").symlink_to(runtime.resolve())  # a copy would be compiled anew for every test
        shutil.copy(runtime / "module_init.py", folder / "__init__.py")
        shutil.copy(runtime / "module_main.py", folder / "__main__.py")
        shutil.copy(runtime / "module_nn.py", folder / "nn.py")
        shutil.copy(launcher, folder / "_launcher.abi3.so")
        if cpu_library is not None:
            shutil.copy(cpu_library, folder / "_emulator.so")
        (folder / "build_info.json").write_text(json.dumps({"schema": 1, "name": folder.name}))

    def add(
        self,
        dtype: str = "fp16",
        head_dim: int = 64,
        causal: bool = False,
        block_m: int = 128,
        *,
        sm: int = 80,
        smem_bytes: int = 65536,
        features: Sequence[str] = (),
        head_dim_v: int = 0,
        when: dict[str, list[int | None]] | None = None,
        label: str = "hand",
        device: str | None = None,
        folder: Path | None = None,
    ) -> str:
        """Add a kernel, its files and a row; return its name."""
        folder = folder or self.folder / "kernels"
        folder.mkdir(parents=True, exist_ok=True)
        name = kernel_name(dtype, head_dim, causal, block_m, sm, features, head_dim_v)
        files = {}
        for kind in ("cubin", "ptx"):
            data = f"{kind} of {name}\n".encode()
            (folder / f"{name}.{kind}").write_bytes(data)
            digest = hashlib.sha256(data).hexdigest()
            files[kind] = {"file": f"{name}.{kind}", "bytes": len(data), "sha256": digest}
        self.table["kernels"][name] = {
            "operation": "flash_fwd",
            "sm": sm,
            "problem": {
                "dtype": dtype,
                "head_dim": head_dim,
                "head_dim_v": head_dim_v or head_dim,
                "is_causal": causal,
                **{name: name in features for name in FEATURES},
            },
            "schedule": {**CONSTANTS, "block_m": block_m, "block_n": 64, "num_stages": 2},
            "entry": name,
            "threads": 128,
            "smem_bytes": smem_bytes,
            **CONSTANTS,
            "block_m": block_m,
            "registers": 168,
            "spill_bytes": 0,
            "files": files,
            "source_digest": "0" * 64,
            "verified": [{"by": "emulator", "date": "2026-11-20", "problems": 12}],
        }
        self.table["rows"].append(
            {
                "kernel": name,
                "device": device,
                "label": label,
                "when": when or {},
                "evidence": {"source": "test"},
                "runner_up": None,
            }
        )
        return name

    def add_backward(
        self, dtype: Dtype = "fp16", head_dim: int = 64, folder: Path | None = None, **flags: bool
    ) -> None:
        """Add the default kernels of a problem's backward pass, with their bindings, files and rows."""
        folder = folder or self.folder / "kernels"
        folder.mkdir(parents=True, exist_ok=True)
        problem = ForwardProblem(dtype=dtype, head_dim=head_dim, **flags)
        for operation in BACKWARD_OPERATIONS:
            self.table["operations"][operation] = json.loads(json.dumps(bindings()[operation]))
            variant = ladder(80, problem, operation)[-1].variant
            data = f"ptx of {variant.name}\n".encode()
            (folder / f"{variant.name}.ptx").write_bytes(data)
            digest = hashlib.sha256(data).hexdigest()
            files = {"ptx": {"file": f"{variant.name}.ptx", "bytes": len(data), "sha256": digest}}
            entry = kernel_entry(variant, registers=1, spill_bytes=0, files=files, source_digest="0" * 64)
            if variant.name not in self.table["kernels"]:
                self.table["rows"].append(hand_row(variant, {}))
            self.table["kernels"][variant.name] = json.loads(json.dumps(entry))

    def write(self, folder: Path | None = None) -> Path:
        """Write `table.json` and return its folder."""
        folder = folder or self.folder / "kernels"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "table.json").write_text(json.dumps(self.table, indent=1))
        return folder

    def load(self) -> ModuleType:
        """Import the module afresh."""
        sys.path.insert(0, str(self.folder.parent))
        try:
            importlib.invalidate_caches()
            return importlib.import_module(self.folder.name)
        finally:
            sys.path.remove(str(self.folder.parent))
