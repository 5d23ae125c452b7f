"""Hand-made dispatch modules: a folder as `gen build` would write it, with a stand-in for every binary."""

from __future__ import annotations

import copy
import hashlib
import importlib
import json
import shutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from kernelwright import resource_dir

DEVICES = {
    "a100": {"title": "NVIDIA A100-SXM4-80GB", "sm": 80, "num_sms": 108, "max_smem_bytes": 166912, "boost_mhz": 1410},
    "rtx4090": {"title": "NVIDIA GeForce RTX 4090", "sm": 89, "num_sms": 128, "max_smem_bytes": 101376},
}


def strides(tensor: str) -> list[dict[str, Any]]:
    """The three stride fields of a tensor."""
    return [
        {"name": f"{tensor}_{axis}_stride", "type": "i64", "from": ["stride", tensor, index]}
        for index, axis in enumerate(("batch", "row", "head"))
    ]


def tensor(name: str, dims: list[str], access: str, dtype: str = "io", optional: bool = False) -> dict[str, Any]:
    """A tensor of a binding."""
    return {"name": name, "dims": dims, "dtype": dtype, "access": access, "optional": optional}


Q_DIMS = ["batch", "seqlen_q", "num_heads_q", "head_dim"]
KV_DIMS = ["batch", "seqlen_k", "num_heads_kv", "head_dim"]
BINDING: dict[str, Any] = {
    "sizes": ["batch", "seqlen_q", "seqlen_k", "num_heads_q", "num_heads_kv", "head_dim"],
    "tensors": [
        tensor("q", Q_DIMS, "read"),
        tensor("k", KV_DIMS, "read"),
        tensor("v", KV_DIMS, "read"),
        tensor("out", Q_DIMS, "write"),
        tensor("lse", ["batch", "num_heads_q", "seqlen_q"], "write", "float32", True),
    ],
    "divides": [["num_heads_kv", "num_heads_q"]],
    "scalars": ["softmax_scale"],
    "flags": ["is_causal"],
    "fixed": ["head_dim"],
    "fields": [
        *[{"name": name, "type": "ptr", "from": ["pointer", name]} for name in ("q", "k", "v", "out", "lse")],
        *[field for name in ("q", "k", "v", "out") for field in strides(name)],
        {"name": "seqlen_q", "type": "i32", "from": ["size", "seqlen_q"]},
        {"name": "seqlen_k", "type": "i32", "from": ["size", "seqlen_k"]},
        {"name": "num_heads_q", "type": "i32", "from": ["size", "num_heads_q"]},
        {"name": "heads_per_kv", "type": "i32", "from": ["quotient", "num_heads_q", "num_heads_kv"]},
        {"name": "num_m_blocks", "type": "i32", "from": ["ceil_div", "seqlen_q", "block_m"]},
        {"name": "softmax_scale", "type": "f32", "from": ["scalar", "softmax_scale"]},
    ],
    "grid": [[["ceil_div", "seqlen_q", "block_m"], ["size", "num_heads_q"], ["size", "batch"]], [], []],
}
PARAMETER_BYTES = 160


def kernel_name(dtype: str, head_dim: int, causal: bool, block_m: int, sm: int = 80) -> str:
    """The name of a stand-in kernel."""
    return f"flash_fwd_sm{sm}_{dtype}_hd{head_dim}_causal{int(causal)}_m{block_m}"


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
        when: dict[str, list[int | None]] | None = None,
        label: str = "hand",
        device: str | None = None,
        folder: Path | None = None,
    ) -> str:
        """Add a kernel, its files and a row; return its name."""
        folder = folder or self.folder / "kernels"
        folder.mkdir(parents=True, exist_ok=True)
        name = kernel_name(dtype, head_dim, causal, block_m, sm)
        files = {}
        for kind in ("cubin", "ptx"):
            data = f"{kind} of {name}\n".encode()
            (folder / f"{name}.{kind}").write_bytes(data)
            digest = hashlib.sha256(data).hexdigest()
            files[kind] = {"file": f"{name}.{kind}", "bytes": len(data), "sha256": digest}
        self.table["kernels"][name] = {
            "operation": "flash_fwd",
            "sm": sm,
            "problem": {"dtype": dtype, "head_dim": head_dim, "is_causal": causal},
            "schedule": {"block_m": block_m, "block_n": 64, "num_stages": 2},
            "entry": name,
            "threads": 128,
            "smem_bytes": smem_bytes,
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
