"""Attention kernels for PyTorch, built for chosen GPUs and problems by kernelwright.

    from <this module> import flash_attn_func
    out = flash_attn_func(q, k, v, causal=True)

`nn.MultiheadAttention` is a layer on them; `support()` says which problems there are kernels for, `explain(q, k, v)`
what a call would run. CPU tensors run the same kernels in an emulator, for checking. This file is generated: it is
runtime/module_init.py of kernelwright.
"""

from pathlib import Path as _Path

from ._runtime.block_mask import BlockMask
from ._runtime.errors import (
    DriverError,
    EmulationWarning,
    FallbackWarning,
    GradientError,
    InputTypeError,
    KernelError,
    LaunchError,
    NoKernelError,
    TableError,
    UnsupportedInputError,
)
from ._runtime.module import DispatchModule as _DispatchModule

_module = _DispatchModule(__name__, _Path(__file__).resolve().parent)

flash_attn_func = _module.flash_attn_func
flash_attn_kvpacked_func = _module.functions["flash_attn_kvpacked_func"]
flash_attn_qkvpacked_func = _module.functions["flash_attn_qkvpacked_func"]
flash_attn_varlen_func = _module.functions["flash_attn_varlen_func"]
flash_attn_varlen_kvpacked_func = _module.functions["flash_attn_varlen_kvpacked_func"]
flash_attn_varlen_qkvpacked_func = _module.functions["flash_attn_varlen_qkvpacked_func"]
sparse_attn_func = _module.functions["sparse_attn_func"]
scaled_dot_product_attention = _module.scaled_dot_product_attention
check_model = _module.check_model
support = _module.support
explain = _module.explain
load_table = _module.load_table
preload = _module.preload
last_report = _module.last_report
build_info = _module.build_info
force_variant = _module.force_variant


def __getattr__(name: str) -> object:
    """Import `nn`, the layers, when it is asked for."""
    if name == "nn":
        import importlib

        return importlib.import_module(".nn", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "BlockMask",
    "DriverError",
    "EmulationWarning",
    "FallbackWarning",
    "GradientError",
    "InputTypeError",
    "KernelError",
    "LaunchError",
    "NoKernelError",
    "TableError",
    "UnsupportedInputError",
    "build_info",
    "check_model",
    "explain",
    "flash_attn_func",
    "flash_attn_kvpacked_func",
    "flash_attn_qkvpacked_func",
    "flash_attn_varlen_func",
    "flash_attn_varlen_kvpacked_func",
    "flash_attn_varlen_qkvpacked_func",
    "force_variant",
    "last_report",
    "load_table",
    "preload",
    "scaled_dot_product_attention",
    "sparse_attn_func",
    "support",
]
