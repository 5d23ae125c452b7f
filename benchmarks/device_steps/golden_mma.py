"""mma on TF32 and on 8-bit elements: vectors, bounds, and what the PTX ISA says of their fragments."""

from __future__ import annotations

from functools import partial
from typing import Literal

import numpy as np

from device_steps.golden_compare import Doubles
from device_steps.golden_inputs import SMALLEST, Bits, Words, decode
from device_steps.golden_kernel import LANES, Instruction, Target
from device_steps.golden_layout import Operands, Product, lanes

Fp8 = Literal["e4m3", "e5m2"]
_CASES = 24
_TF32 = np.uint32(0xFFFFE000)  # the bits of fp32 that TF32 has
_GROUP, _THREAD = lanes(LANES)
# D and C: rows and columns by [lane, register], for every element type.
_ROWS, _COLUMNS = _GROUP + np.array([0, 0, 8, 8]), 2 * _THREAD + np.array([0, 1, 0, 1])


def fp8_values(kind: Fp8) -> Doubles:
    """Return the value of each byte."""
    byte = np.arange(256, dtype=np.uint32)
    if kind == "e5m2":
        return decode(byte << np.uint32(8), "f16")  # the upper byte of fp16
    exponent, fraction = (byte >> 3 & 15).astype(np.int64), (byte & 7) / 8
    size = np.where(exponent == 0, fraction * 2.0**-6, (1 + fraction) * 2.0 ** (exponent - 7))
    size[byte & 127 == 127] = np.nan  # the only one; there is no infinity
    return np.where(byte >= 128, -size, size)


def _bytes(words: Words) -> Words:
    """The four bytes of each word, the lowest first, along the last axis."""
    parts = words[..., None] >> np.arange(0, 32, 8, dtype=np.uint32) & np.uint32(255)
    return parts.reshape(*words.shape[:-1], -1)


def _words(parts: Words) -> Words:
    grouped = parts.reshape(*parts.shape[:-1], -1, 4) << np.arange(0, 32, 8, dtype=np.uint32)
    return np.asarray(np.bitwise_or.reduce(grouped, -1), np.uint32)


def _matrices(a: Doubles, b: Doubles, c: Doubles, per_word: int) -> Operands:
    """The matrices of elements by [case, lane, element], `per_word` to a register."""
    cases, depth = a.shape[0], 8 * per_word
    n = np.arange(4 * per_word)
    word, part = n // per_word, n % per_word
    full_a, full_b, full_c = np.zeros((cases, 16, depth)), np.zeros((cases, depth, 8)), np.zeros((cases, 16, 8))
    full_a[:, _GROUP + 8 * (word % 2), per_word * _THREAD + part + 4 * per_word * (word // 2)] = a
    word, part = word[: 2 * per_word], part[: 2 * per_word]
    full_b[:, per_word * _THREAD + part + 4 * per_word * word, _GROUP] = b
    full_c[:, _ROWS, _COLUMNS] = c
    return full_a, full_b, full_c


def tf32_inputs(bits: Bits) -> Words:
    """Fragments by turns: like attention's, whole numbers, wide, with zeros and subnormals."""
    rows = []
    for case in range(_CASES):
        shape = (LANES, 10)
        low, high = ((-6, 0), (0, 0), (-30, 30), (-120, -100))[case % 4]
        values = bits.integers("f32", shape, 8) if case % 4 == 1 else bits.floats("f32", shape, low, high)
        if case % 4 == 3:
            values = np.where(bits.one_in(4, shape), bits.choice(SMALLEST["f32"], shape), values)
            values[:, 6:] = bits.floats("f32", (LANES, 4), -120, -110)
        values[:, :6] &= _TF32
        rows.append(values)
    return np.stack(rows)


def _tf32_operands(given: Words) -> Operands:
    values = decode(given, "f32")
    return _matrices(values[..., :4], values[..., 4:6], values[..., 6:], 1)


def fp8_inputs(kind: Fp8, bits: Bits) -> Words:
    """Fragments by turns: around 1, whole numbers, every finite byte, every byte."""
    values = fp8_values(kind)
    of_turn = [
        np.flatnonzero((np.abs(values) >= 2**-4) & (np.abs(values) < 4)),
        np.flatnonzero(np.isin(values, np.arange(-4, 5))),
        np.flatnonzero(np.isfinite(values)),
        np.arange(256),
    ]
    rows = []
    for case in range(_CASES):
        turn = case % 4
        parts = bits.choice(of_turn[turn].tolist(), (LANES, 24))
        shape = (LANES, 4)
        c = bits.integers("f32", shape, 8) if turn == 1 else bits.floats("f32", shape, -3, 3)
        rows.append(np.concatenate([_words(parts), c], -1))
    return np.stack(rows)


def _fp8_operands(kind: Fp8, given: Words) -> Operands:
    values = fp8_values(kind)
    a, b = values[_bytes(given[..., :4])], values[_bytes(given[..., 4:6])]
    return _matrices(a, b, decode(given[..., 6:], "f32"), 4)


def s8_inputs(bits: Bits) -> Words:
    """Any bytes; C is small in every other case, and elsewhere so large that sums wrap."""
    given = bits.words((_CASES, LANES, 10))
    given[::2, :, 6:] &= np.uint32(0xFFFF)
    return given


def _s8_model(given: Words) -> Words:
    a, b = (_bytes(given[..., at]).astype(np.uint8).view(np.int8).astype(np.float64) for at in (slice(4), slice(4, 6)))
    a, b, c = _matrices(a, b, given[..., 6:].view(np.int32).astype(np.float64), 4)
    d = (a @ b + c).astype(np.int64) & 0xFFFFFFFF  # sums are far below 2^53
    return d[:, _ROWS, _COLUMNS].astype(np.uint32)


def _body(opcode: str) -> str:
    return f"{opcode} {{%d0, %d1, %d2, %d3}}, {{%a0, %a1, %a2, %a3}}, {{%a4, %a5}}, {{%a6, %a7, %a8, %a9}};"


def _product(opcode: str, product: Product, inputs: partial[Words], target: Target) -> Instruction:
    return Instruction(
        name=opcode,
        body=_body(opcode),
        inputs=inputs,
        out_words=4,
        check=product.check(),
        target=target,
        model=product.model,
    )


def _fp8(kind: Fp8) -> Instruction:
    # Tensor cores are reported to keep about 14 bits of sums of FP8: DeepSeek-V3 (2024), section 3.3.2.
    product = Product(
        operands=partial(_fp8_operands, kind),
        rows=_ROWS,
        columns=_COLUMNS,
        depth=32,
        epsilon=2.0**-13,
        source=" (DeepSeek-V3, section 3.3.2)",
    )
    opcode = f"mma.sync.aligned.m16n8k32.row.col.f32.{kind}.{kind}.f32"
    return _product(opcode, product, partial(fp8_inputs, kind), "sm_89")


_TF32_PRODUCT = Product(operands=_tf32_operands, rows=_ROWS, columns=_COLUMNS, depth=8)
_S8 = "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32"
MMA: list[Instruction] = [
    _product("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32", _TF32_PRODUCT, partial(tf32_inputs), "sm_80"),
    Instruction(name=_S8, body=_body(_S8), inputs=s8_inputs, out_words=4, model=_s8_model),
    _fp8("e4m3"),
    _fp8("e5m2"),
]
