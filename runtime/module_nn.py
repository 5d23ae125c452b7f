# mypy: disable-error-code="import-not-found, attr-defined"
"""Layers of torch.nn on this module's kernels: `from <this module>.nn import MultiheadAttention`."""

from __future__ import annotations

from typing import Any, ClassVar

from . import _module
from ._runtime.layers import MultiheadAttention as _MultiheadAttention
from ._runtime.layers import RotaryEmbedding

__all__ = ["MultiheadAttention", "RotaryEmbedding"]


class MultiheadAttention(_MultiheadAttention):  # type: ignore[misc]  # Any, as torch has no types here
    __doc__ = _MultiheadAttention.__doc__
    functions: ClassVar[Any] = _module.functions  # Any: by name, each of its own type
