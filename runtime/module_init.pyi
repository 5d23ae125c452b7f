# mypy: disable-error-code="import-not-found"
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Literal, overload

import torch

from ._runtime.errors import (
    DriverError,
    EmulationWarning,
    GradientError,
    InputTypeError,
    KernelError,
    LaunchError,
    NoKernelError,
    TableError,
    UnsupportedInputError,
)
from ._runtime.module import DispatchModule
from ._runtime.support import Explanation

_module: DispatchModule

@overload
def flash_attn_func(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    softmax_scale: float | None = None,
    causal: bool = False,
    return_lse: Literal[False] = False,
    out: torch.Tensor | None = None,
) -> torch.Tensor: ...
@overload
def flash_attn_func(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    softmax_scale: float | None,
    causal: bool,
    return_lse: Literal[True],
    out: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]: ...
@overload
def flash_attn_func(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    softmax_scale: float | None = None,
    causal: bool = False,
    *,
    return_lse: Literal[True],
    out: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]: ...
@overload
def support(*, json: Literal[False] = False) -> None: ...
@overload
def support(*, json: Literal[True]) -> dict[str, object]: ...
def explain(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    softmax_scale: float | None = None,
    causal: bool = False,
) -> Explanation: ...
def load_table(path: str | Path | None) -> None: ...
def preload(device: object = None) -> int: ...
def last_report() -> dict[str, object]: ...
def build_info() -> dict[str, Any]: ...
def force_variant(name: str) -> AbstractContextManager[None]: ...

__all__ = [
    "DriverError",
    "EmulationWarning",
    "GradientError",
    "InputTypeError",
    "KernelError",
    "LaunchError",
    "NoKernelError",
    "TableError",
    "UnsupportedInputError",
    "build_info",
    "explain",
    "flash_attn_func",
    "force_variant",
    "last_report",
    "load_table",
    "preload",
    "support",
]
