"""The driver's description of a 2-D tensor for TMA, which only the driver can write: 128 opaque bytes."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Literal

ENCODE = "cuTensorMapEncodeTiled"
Swizzle = Literal[0, 32, 64, 128]  # bytes; 0 is none
_FLOAT16 = 6  # CU_TENSOR_MAP_DATA_TYPE_FLOAT16
_SWIZZLES: dict[Swizzle, int] = {0: 0, 32: 1, 64: 2, 128: 3}  # CU_TENSOR_MAP_SWIZZLE_NONE, _32B, _64B, _128B
_BYTES, _ALIGN = 128, 64  # of CUtensorMap


@dataclass(frozen=True, kw_only=True)
class TensorMap:
    """A tensor of 16-bit elements and the box that one load copies.

    Args:
        width, height: elements in a row, and rows.
        pitch_bytes: from row to row.
        box_width, box_height: of the box, in elements and rows.
        swizzle: how its bytes are permuted in shared memory.
        fills_with_nan: whether what is out of bounds becomes NaN; else zero.
    """

    width: int
    height: int
    pitch_bytes: int
    box_width: int
    box_height: int
    swizzle: Swizzle
    fills_with_nan: bool = False

    def encode(self, library: ctypes.CDLL, address: int) -> tuple[int, ctypes.Array[ctypes.c_char]]:
        """Return the driver's status, and the map, to be kept and passed by `address_of`."""
        memory = ctypes.create_string_buffer(_BYTES + _ALIGN)
        status: int = getattr(library, ENCODE)(
            ctypes.c_void_p(address_of(memory)),
            _FLOAT16,
            ctypes.c_uint(2),
            ctypes.c_void_p(address),
            (ctypes.c_uint64 * 2)(self.width, self.height),
            (ctypes.c_uint64 * 1)(self.pitch_bytes),
            (ctypes.c_uint * 2)(self.box_width, self.box_height),
            (ctypes.c_uint * 2)(1, 1),  # strides within the box
            0,  # no interleaving
            _SWIZZLES[self.swizzle],
            0,  # no promotion in L2
            int(self.fills_with_nan),
        )
        return status, memory


def address_of(memory: ctypes.Array[ctypes.c_char]) -> int:
    """Return the first address in it that a tensor map may have."""
    return -(-ctypes.addressof(memory) // _ALIGN) * _ALIGN
