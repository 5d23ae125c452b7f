"""What a call costs on the host: look-up, allocation of the result, launch through a driver that does nothing.

    python benchmarks/call_overhead.py [--json] [--calls 20000] [--repeats 15]

Needs torch and a C compiler, no GPU: the driver is a few lines of C that answer every call at once, so what is
measured is everything but the driver's own launch. Times are microseconds per call, over the repeats: median and
lowest. The module stands on CPU tensors; on CUDA tensors the current stream is asked for too.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import timeit
import warnings
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from types import ModuleType

import torch

from kernelwright import resource_dir
from kernelwright.gen.binding import bindings
from kernelwright.gen.ladder import ladder
from kernelwright.gen.spec import BACKWARD_OPERATIONS, Dtype, ForwardProblem
from kernelwright.gen.table import kernel_entry

DRIVER = """
#include <string.h>
#define OK(name, ...) int name(__VA_ARGS__) { return 0; }
OK(cuInit, unsigned flags)
OK(cuDevicePrimaryCtxRetain, void **context, int device)
OK(cuCtxPushCurrent_v2, void *context)
OK(cuCtxPopCurrent_v2, void **context)
OK(cuLibraryLoadData, void **library, const void *code, void *a, void *b, unsigned c, void *d, void *e, unsigned f)
OK(cuKernelSetAttribute, int attribute, int value, void *kernel, int device)
OK(cuLaunchKernelEx, const void *config, void *kernel, void **values, void **extra)
int cuDriverGetVersion(int *version) { return *version = 13000, 0; }
int cuDeviceGetCount(int *count) { return *count = 1, 0; }
int cuDeviceGet(int *device, int ordinal) { return *device = ordinal, 0; }
int cuDeviceGetName(char *name, int length, int device) { return strncpy(name, "none", length), 0; }
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    return *value = attribute == 75 ? 8 : attribute == 97 ? 166912 : 0, 0;
}
int cuLibraryGetKernel(void **kernel, void *library, const char *name) { return *kernel = (void *)1, 0; }
int cuGetErrorName(int code, const char **name) { return *name = "", 0; }
int cuGetErrorString(int code, const char **text) { return *text = "", 0; }
"""
IMAGE = b"nothing"
HEAD_DIM = 128
NUM_ROWS = 56  # of the table; the last one answers the first call


def compile_c(source: Path, output: Path, *flags: str) -> None:
    """Compile one C file into a shared library."""
    command = ["cc", "-O2", "-std=gnu11", "-fPIC", "-shared", "-w", str(source), "-o", str(output), *flags]
    subprocess.run(command, check=True)


def kernel_record(
    image: bytes, dtype: Dtype = "bf16", head_dim: int = 128, is_causal: bool = True
) -> dict[str, object]:
    """Return a table's record of a kernel that does nothing."""
    record = {"file": "none.cubin", "bytes": len(image), "sha256": hashlib.sha256(image).hexdigest()}
    return {
        "operation": "flash_fwd",
        "sm": 80,
        "problem": asdict(ForwardProblem(dtype=dtype, head_dim=head_dim, is_causal=is_causal)),
        "schedule": {},
        "entry": "none",
        "threads": 128,
        "smem_bytes": 65536,
        **{"block_m": 128, "num_slices": 1, "pack_gqa": 0, "persistent_blocks": 0},
        "registers": 0,
        "spill_bytes": 0,
        "files": {"cubin": record},
        "source_digest": "",
        "verified": [],
    }


def backward_kernels(image: bytes) -> dict[str, dict[str, object]]:
    """Return records of kernels for the backward pass that do nothing, by name."""
    problem = ForwardProblem(dtype="bf16", head_dim=HEAD_DIM, is_causal=True)
    variants = [ladder(80, problem, operation)[-1].variant for operation in BACKWARD_OPERATIONS]
    files = {"cubin": {"file": "none.cubin", "bytes": len(image), "sha256": hashlib.sha256(image).hexdigest()}}
    return {one.name: kernel_entry(one, registers=0, spill_bytes=0, files=files, source_digest="") for one in variants}


def row(kernel: str, when: dict[str, list[int | None]]) -> dict[str, object]:
    """Return a table's row."""
    return {"kernel": kernel, "device": None, "label": "hand", "when": when, "evidence": {}, "runner_up": None}


def make_module(
    folder: Path, kernels: dict[str, dict[str, object]] | None = None, rows: list[dict[str, object]] | None = None
) -> None:
    """Write a dispatch module of kernels that do nothing; by default one kernel, behind a table of many rows."""
    runtime = resource_dir("runtime")
    shutil.copytree(runtime, folder / "_runtime", ignore=shutil.ignore_patterns("__pycache__", "module_*", "*.c"))
    shutil.copy(runtime / "module_init.py", folder / "__init__.py")
    include = f"-I{sysconfig.get_path('include')}"
    flags = ["-fvisibility=hidden", "-DPy_LIMITED_API=0x030b0000", include, "-ldl", "-lm", "-pthread"]
    compile_c(runtime / "launcher.c", folder / "_launcher.abi3.so", *flags)
    source = folder / "driver.c"
    source.write_text(DRIVER)
    compile_c(source, folder / "_emulator.so")
    place = folder / "kernels"
    place.mkdir()
    (place / "none.cubin").write_bytes(IMAGE)
    limits: list[dict[str, list[int | None]]] = [{"seqlen_q": [None, index]} for index in range(1, NUM_ROWS)]
    backward = {} if kernels else backward_kernels(IMAGE)
    table = {
        "schema": 1,
        "name": folder.name,
        "devices": {"none": {"sm": 80, "num_sms": 1, "max_smem_bytes": 166912}},
        "operations": bindings(),
        "kernels": kernels or {"none": kernel_record(IMAGE), **backward},
        "rows": rows or [*[row("none", when) for when in [*limits, {}]], *[row(name, {}) for name in backward]],
    }
    (place / "table.json").write_text(json.dumps(table))


def import_module(folder: Path) -> ModuleType:
    """Import a module from where it was written."""
    sys.path.insert(0, str(folder.parent))
    return __import__(folder.name)


def measure(call: Callable[[], object], calls: int, repeats: int) -> dict[str, float]:
    """Return median and lowest time of a call over the repeats."""
    call()
    times = [one / calls * 1e6 for one in timeit.repeat(call, number=calls, repeat=repeats)]
    return {"time_us": round(statistics.median(times), 3), "min_time_us": round(min(times), 3)}


def cases(module: ModuleType) -> dict[str, Callable[[], object]]:
    """Return what is measured, by name; each costs one call of a Python function more than it says."""
    q, k, v = (torch.randn(2, 1000, 16, 128).to(torch.bfloat16) for _ in range(3))
    shorter = q[:, :900].contiguous()
    out = torch.empty_like(q)
    attention = module.flash_attn_func
    both = [q, shorter]
    no_grad = torch.no_grad()

    trained = [one.clone().requires_grad_() for one in (q, k, v)]
    # Small: the sum of dQ begins with zeros, which the host itself writes here.
    small = [torch.zeros(1, 8, 2, HEAD_DIM, dtype=q.dtype, requires_grad=True) for _ in range(3)]
    dout = torch.ones_like(small[0])

    def without_grad() -> object:
        with no_grad:
            return attention(q, k, v, causal=True)

    def forward_and_backward() -> object:
        return torch.autograd.grad(attention(*small, causal=True), small, dout)

    def alternate() -> object:
        both.reverse()
        return attention(both[0], k, v, causal=True)

    return {
        "torch.empty_like": lambda: torch.empty_like(q),
        "flash_attn_func": lambda: attention(q, k, v, causal=True),
        "flash_attn_func, out given": lambda: attention(q, k, v, causal=True, out=out),
        "flash_attn_func, with lse": lambda: attention(q, k, v, causal=True, return_lse=True),
        "flash_attn_func, sizes alternating": alternate,
        "flash_attn_func, under no_grad": without_grad,
        "flash_attn_func, recorded": lambda: attention(*trained, causal=True),
        "flash_attn_func, recorded, keys alone": lambda: attention(q, trained[1], v, causal=True),
        "flash_attn_func and its backward pass": forward_and_backward,
        "torch.clone, recorded": lambda: small[0].clone(),
    }


def main() -> int:
    """Measure both ways of reading tensors and print one line per case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=20_000, help="calls per repeat (default 20000)")
    parser.add_argument("--repeats", type=int, default=15, help="repeats (default 15)")
    parser.add_argument("--json", action="store_true", help="print plain data")
    options = parser.parse_args()
    warnings.filterwarnings("ignore", message="CPU tensors run")
    rows = []
    for path in ("exchange", "plain"):
        os.environ["KERNELWRIGHT_PLAIN_INTS"] = "1" if path == "plain" else "0"
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) / f"overhead_{path}"
            make_module(folder)
            for name, call in cases(import_module(folder)).items():
                figures = measure(call, options.calls, options.repeats)
                rows.append({"label": "measured", "tensors_read_by": path, "case": name, **figures})
    host = {"torch": torch.__version__, "python": platform.python_version(), "machine": platform.machine()}
    if options.json:
        print(json.dumps({"schema": 1, **host, "calls": options.calls, "repeats": options.repeats, "rows": rows}))
        return 0
    print(f"measured, us per call, torch {host['torch']}, Python {host['python']}, {os.cpu_count()} cores")
    for one in rows:
        print(f"  {one['tensors_read_by']:<9}{one['case']:<36}{one['time_us']:>8.2f} (lowest {one['min_time_us']:.2f})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
