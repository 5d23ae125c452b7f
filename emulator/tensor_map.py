"""Tensor maps for kernels that copy boxes of tensors (TMA)."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

# CUtensorMapDataType
_TYPES = {
    "uint8": 0, "uint16": 1, "uint32": 2, "int32": 3, "uint64": 4, "int64": 5, "float16": 6, "float32": 7,
    "float64": 8, "bfloat16": 9, "int8": 0, "int16": 1,
}  # fmt: skip
_ITEM_BYTES = (1, 2, 4, 4, 8, 8, 2, 4, 8, 2)
_SWIZZLES = {0: 0, 32: 1, 64: 2, 128: 3}
_BYTES, _ALIGNMENT = 128, 64


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorMap:
    """A tensor and the box of it that one copy moves, to be passed for a kernel's `CUtensorMap` parameter.

    All sequences are in numpy's order, outermost dimension first; coordinates in PTX are innermost first.

    Args:
        array: a numpy array or CPU tensor, whose memory the kernel may use as `access` says.
        box: elements of the box along each dimension, 1 to 256.
        swizzle: bytes within which 16-byte chunks of shared memory are permuted; 0 is none.
        shape: of the tensor, in elements; by default the array's.
        strides: in bytes, of every dimension but the last, whose elements are side by side; by default the array's.
        steps: elements from one that is taken to the next, along each dimension but the last.
        fill: what elements outside the tensor become; "nan" is a NaN whose bits are not documented.
        dtype: of an element, where the array's is another, as "bfloat16" for numpy's uint16.
        access: what the kernel may do with the array.
    """

    array: Any
    box: Sequence[int]
    swizzle: Literal[0, 32, 64, 128] = 0
    shape: Sequence[int] | None = None
    strides: Sequence[int] | None = None
    steps: Sequence[int] | None = None
    fill: Literal["zero", "nan"] = "zero"
    dtype: str | None = None
    access: Literal["read", "write", "read_write"] = "read"

    def encode(self, library: ctypes.CDLL) -> tuple[int, bytes]:
        """Return the status of the driver's `cuTensorMapEncodeTiled`, and the map's 128 bytes."""
        is_numpy = isinstance(self.array, np.ndarray)
        name = self.dtype or str(self.array.dtype).removeprefix("torch.")
        if name not in _TYPES:
            raise ValueError(f"a tensor map has no element type {name}; it has {', '.join(_TYPES)}")
        item = self.array.itemsize if is_numpy else self.array.element_size()
        strides = self.strides
        if strides is None:
            given = self.array.strides if is_numpy else [step * item for step in self.array.stride()]
            if given and given[-1] != _ITEM_BYTES[_TYPES[name]] and self.array.shape[-1] != 1:
                raise ValueError("the elements of the last dimension must lie side by side")
            strides = given[:-1]
        shape = self.array.shape if self.shape is None else self.shape
        steps = [1] * len(self.box) if self.steps is None else [*self.steps, 1][: len(self.box)]
        rank = len(shape)
        if len(self.box) != rank or len(strides) != rank - 1 or len(steps) != rank:
            raise ValueError(f"box, strides and steps do not fit a tensor of {rank} dimensions")
        address = self.array.ctypes.data if is_numpy else self.array.data_ptr()
        memory = ctypes.create_string_buffer(_BYTES + _ALIGNMENT)
        place = -(-ctypes.addressof(memory) // _ALIGNMENT) * _ALIGNMENT
        status: int = library.cuTensorMapEncodeTiled(
            ctypes.c_void_p(place),
            _TYPES[name],
            ctypes.c_uint(rank),
            ctypes.c_void_p(int(address)),
            (ctypes.c_uint64 * rank)(*reversed([int(n) for n in shape])),
            (ctypes.c_uint64 * max(rank - 1, 1))(*reversed([int(n) for n in strides])),
            (ctypes.c_uint * rank)(*reversed([int(n) for n in self.box])),
            (ctypes.c_uint * rank)(*reversed([int(n) for n in steps])),
            0,  # no interleaving
            _SWIZZLES[self.swizzle],
            0,  # no promotion in L2
            int(self.fill == "nan"),
        )
        return status, ctypes.string_at(place, _BYTES)
