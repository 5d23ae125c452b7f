"""Where TMA puts the elements of a box, and wgmma looks for those of its matrices: the PTX ISA's text, in numpy.

Source: PTX ISA 9.0, "Tensors", "Swizzling Modes", "Asynchronous Warpgroup Level Matrix Shared Memory Layout", "Register
Fragments and Shared Memory Matrix Layouts". The kernels of test_tma.py and test_wgmma.py are judged by it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


def box_of(tensor: np.ndarray, corner: tuple[int, ...], box: tuple[int, ...], steps: tuple[int, ...]) -> np.ndarray:
    """The box of a tensor, zero outside of it; everything outermost first."""
    counts = [-(-size // step) for size, step in zip(box, steps, strict=True)]
    out = np.zeros(counts, tensor.dtype)
    for at in np.ndindex(*counts):
        place = tuple(c + i * s for c, i, s in zip(corner, at, steps, strict=True))
        if all(0 <= p < n for p, n in zip(place, tensor.shape, strict=True)):
            out[at] = tensor[place]
    return out


def swizzled(data: np.ndarray, span: int, base: int = 0) -> np.ndarray:
    """Bytes as they lie in shared memory from `base` on, by the ISA's permutation of 16-byte chunks."""
    flat = data.reshape(-1).view(np.uint8)
    out = np.zeros_like(flat)
    address = np.arange(flat.size) + base
    out[(address ^ (address >> 7 & max(span // 16 - 1, 0)) << 4) - base] = flat
    return out


@dataclass(frozen=True, kw_only=True)
class Tile:
    """A matrix in shared memory. Source: PTX ISA, "Strides", "Matrix Descriptor Format", "Swizzling Modes".

    Args:
        major: the dimension whose elements lie side by side.
        span: bytes of the swizzle, 0 for none.
        leading, stride: the descriptor's two offsets, in bytes.
        start: where it begins in shared memory.
        base: of the pattern, in lines of 128 bytes, where it does not begin at a multiple of its length.
    """

    major: str = "k"
    span: int = 128
    leading: int = 16
    stride: int = 1024
    start: int = 0
    base: int = 0

    def address(self, mn: np.ndarray, k: np.ndarray, item: int) -> np.ndarray:
        if self.major == "k":
            of_chunk = 16 // item
            next_chunk = 16 if self.span else self.leading
            distance = (
                mn // 8 * self.stride + mn % 8 * (self.span or 16) + k // of_chunk * next_chunk + k % of_chunk * item
            )
        elif self.span:
            across = self.span // 2
            distance = mn // across * self.leading + mn % across * 2 + k // 8 * self.stride + k % 8 * self.span
        else:
            distance = mn // 8 * self.stride + mn % 8 * 2 + k // 8 * self.leading + k % 8 * 16
        at = self.start + distance
        return at ^ ((at >> 7) - self.base & max(self.span // 16 - 1, 0)) << 4

    @property
    def descriptor(self) -> int:
        mode = {0: 0, 128: 1, 64: 2, 32: 3}[self.span]
        return self.start >> 4 | self.leading >> 4 << 16 | self.stride >> 4 << 32 | self.base << 49 | mode << 62

    def put(self, image: np.ndarray, matrix: np.ndarray) -> None:
        """Write a matrix [mn, k] of bit patterns."""
        mn, k = np.indices(matrix.shape)
        at = self.address(mn, k, matrix.itemsize)
        for byte in range(matrix.itemsize):
            image[at + byte] = (matrix >> 8 * byte).astype(np.uint8)


def bits_of(values: np.ndarray, kind: str) -> np.ndarray:
    """Bit patterns of small whole numbers."""
    if kind == "f16":
        return values.astype(np.float16).view(np.uint16)
    if kind in ("bf16", "tf32"):
        wide = values.astype(np.float32).view(np.uint32)
        return (wide >> 16).astype(np.uint16) if kind == "bf16" else wide
    if kind in ("s8", "u8"):
        return values.astype(np.int64).astype(np.uint8)
    mantissa, bias = (3, 7) if kind == "e4m3" else (2, 15)
    out = np.zeros(values.shape, np.uint8)
    for at, value in np.ndenumerate(values):
        if value:
            exponent = int(np.floor(np.log2(abs(value))))
            out[at] = (exponent + bias << mantissa) + int((abs(value) / 2**exponent - 1) * 2**mantissa)
            out[at] |= 0x80 if value < 0 else 0
    return out


DEPTH = {"f16": 16, "bf16": 16, "tf32": 8, "e4m3": 32, "e5m2": 32, "s8": 32, "u8": 32}
T = np.arange(128)  # threads of a warpgroup
GROUP, THREAD = T % 32 // 4, T % 4


def d_places(columns: int) -> tuple[np.ndarray, np.ndarray]:
    """Row and column of accumulator i of each thread. Source: PTX ISA, "Accumulator D"."""
    i = np.arange(columns // 2)
    return (16 * (T // 32) + GROUP)[:, None] + 8 * (i // 2 % 2), 8 * (i // 4) + 2 * THREAD[:, None] + i % 2


def a_places(kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Row and column of element i of each thread. Source: PTX ISA, "Register Fragments"."""
    each = {16: 2, 8: 1, 32: 4}[DEPTH[kind]]
    i = np.arange(4 * each)
    register, element = i // each, i % each
    row = (16 * (T // 32) + GROUP)[:, None] + 8 * (register % 2)
    return row, each * THREAD[:, None] + element + 4 * each * (register // 2)
