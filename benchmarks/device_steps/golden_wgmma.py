"""wgmma: whole shared-memory tiles in, the accumulators of all 128 threads out, for each swizzle of the descriptors.

Each thread is given 32 words of shared memory (A in the first half of the tile, B in the second), how many bytes the
two descriptors start into their tiles, whether C is added, and its registers of C.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np

from device_steps.golden_inputs import SMALLEST, Bits, Kind, Words, decode, pack, unpack
from device_steps.golden_kernel import Instruction
from device_steps.golden_layout import Indices, Operands, Product, lanes, swizzled

_THREADS, _DEPTH = 128, 16
_B_AT, _TILE_BYTES = 8192, 16384
_TILE_WORDS = _TILE_BYTES // 4 // _THREADS  # that each thread is given
_A_START, _B_START, _SCALE_D, _C = _TILE_WORDS, _TILE_WORDS + 1, _TILE_WORDS + 2, _TILE_WORDS + 3
_MODES = {128: 1, 64: 2, 32: 3}  # bits 62 and 63 of a descriptor
_COLUMN_BLOCK = 4096  # bytes from one block of 64 columns to the next, of B stored by columns


@dataclass(frozen=True, kw_only=True)
class Form:
    """One form of the instruction.

    Args:
        kind: of A and B.
        num_columns: of B.
        swizzle: of both tiles, in bytes, which is also the length of their rows.
        a_from: where A comes from.
        b_major: the dimension along which elements of B lie side by side; `n` needs a swizzle of 128.
    """

    kind: Kind
    num_columns: int = 64
    swizzle: Literal[32, 64, 128] = 128
    a_from: Literal["shared", "registers"] = "shared"
    b_major: Literal["k", "n"] = "k"

    @property
    def opcode(self) -> str:
        return f"wgmma.mma_async.sync.aligned.m64n{self.num_columns}k{_DEPTH}.f32.{self.kind}.{self.kind}"

    @property
    def name(self) -> str:
        return f"{self.opcode} ({self.a_from} x shared, B {self.b_major}-major, swizzle of {self.swizzle} bytes)"

    @property
    def num_accumulators(self) -> int:
        return self.num_columns // 2


def _descriptor(swizzle: int, leading: int, stride: int) -> int:
    """All but the address. Source: PTX ISA 9.0, "Matrix Descriptor Format"."""
    return leading >> 4 << 16 | stride >> 4 << 32 | _MODES[swizzle] << 62


def _body(form: Form) -> str:
    by_rows = _descriptor(form.swizzle, 16, 8 * form.swizzle)  # groups of 8 rows; the leading offset is unused
    by_columns = _descriptor(form.swizzle, _COLUMN_BLOCK, 8 * form.swizzle)  # groups of 8 rows of k
    stores = "".join(
        f"st.shared.v4.b32 [%t3+{4 * n}], {{%a{n}, %a{n + 1}, %a{n + 2}, %a{n + 3}}};\n"
        for n in range(0, _TILE_WORDS, 4)
    )
    accumulators = [f"%d{n}" for n in range(form.num_accumulators)]
    initial = "".join(f"mov.b32 {one}, %a{_C + n};\n" for n, one in enumerate(accumulators))
    in_shared = form.a_from == "shared"
    a = "%x4" if in_shared else "{%a0, %a1, %a2, %a3}"
    major = f"{'0, ' if in_shared else ''}{int(form.b_major == 'n')}"
    return (
        f"mov.u32 %t2, tile; shl.b32 %t3, %t1, 7; add.s32 %t3, %t2, %t3;\n{stores}"
        "fence.proxy.async.shared::cta; bar.sync 0;\n"
        f"add.s32 %t4, %t2, %a{_A_START}; shr.u32 %t4, %t4, 4; cvt.u64.u32 %x4, %t4; or.b64 %x4, %x4, {by_rows:#x}U;\n"
        f"add.s32 %t5, %t2, %a{_B_START}; add.s32 %t5, %t5, {_B_AT}; shr.u32 %t5, %t5, 4; cvt.u64.u32 %x5, %t5;\n"
        f"or.b64 %x5, %x5, {by_rows if form.b_major == 'k' else by_columns:#x}U; setp.ne.u32 %p0, %a{_SCALE_D}, 0;\n"
        f"{initial}wgmma.fence.sync.aligned;\n"
        f"{form.opcode} {{{', '.join(accumulators)}}}, {a}, %x5, %p0, 1, 1, {major};\n"
        "wgmma.commit_group.sync.aligned; wgmma.wait_group.sync.aligned 0;"
    )


def wgmma_inputs(form: Form, bits: Bits) -> Words:
    """Whole numbers without and with C, values like attention's over a large C, tiny ones; another slice of K each."""
    rows = []
    for case in range(4):
        shape, c_shape = (_THREADS, 2 * _TILE_WORDS), (_THREADS, form.num_accumulators)
        tiny = -14 if form.kind == "f16" else -60
        if case < 2:
            tiles, c = bits.integers(form.kind, shape, 8), bits.integers("f32", c_shape, 8)
        elif case == 2:
            tiles, c = bits.floats(form.kind, shape, -6, 0), bits.floats("f32", c_shape, 8, 11)
        else:
            tiles, c = (
                bits.floats(form.kind, shape, tiny, tiny + 6),
                bits.floats("f32", c_shape, 2 * tiny, 2 * tiny + 6),
            )
            tiles = np.where(bits.one_in(4, shape), bits.choice(SMALLEST[form.kind], shape), tiles)
        a_start = 2 * _DEPTH * case % form.swizzle
        b_start = a_start if form.b_major == "k" else _DEPTH * form.swizzle * (case % 2)
        settings = np.array([0 if form.a_from == "registers" else a_start, b_start, case > 0], np.uint32)
        rows.append(np.concatenate([pack(tiles), np.broadcast_to(settings, (_THREADS, 3)), c], -1))
    return np.stack(rows)


def _elements(form: Form, given: Words, address: Indices, begin: int, setting: int) -> Words:
    """Bit patterns at places within a tile, for each case."""
    halves = unpack(given[..., :_TILE_WORDS].reshape(given.shape[0], -1))
    starts = given[:, 0, setting].astype(np.int64)
    return np.stack(
        [halves[case, (begin + swizzled(address + start, form.swizzle)) // 2] for case, start in enumerate(starts)]
    )


def _from_registers(given: Words) -> Words:
    """A from the first four words of each thread: warp w holds rows 16 w to 16 w + 15 as mma.m16n8k16 does."""
    group, thread = lanes(_THREADS)
    element = np.arange(8)
    row = 16 * (np.arange(_THREADS)[:, None] // 32) + group + 8 * (element // 2 % 2)
    out = np.zeros((given.shape[0], 64, _DEPTH), np.uint32)
    out[:, row, 2 * thread + element % 2 + 8 * (element // 4)] = unpack(given[..., :4])
    return out


def _d_places(form: Form) -> tuple[Indices, Indices]:
    group, thread = lanes(_THREADS)
    n = np.arange(form.num_accumulators)
    row = 16 * (np.arange(_THREADS)[:, None] // 32) + group + 8 * (n // 2 % 2)
    return row, 8 * (n // 4) + 2 * thread + n % 2


def wgmma_operands(form: Form, given: Words) -> Operands:
    """Return the matrices."""
    k = np.arange(_DEPTH)
    a_address = form.swizzle * np.arange(64)[:, None] + 2 * k
    n = np.arange(form.num_columns)
    b_address = 2 * k[:, None] + form.swizzle * n
    if form.b_major == "n":
        b_address = form.swizzle * k[:, None] + 2 * (n % 64) + _COLUMN_BLOCK * (n // 64)
    a = _from_registers(given) if form.a_from == "registers" else _elements(form, given, a_address, 0, _A_START)
    b = _elements(form, given, b_address, _B_AT, _B_START)
    c = np.zeros((given.shape[0], 64, form.num_columns))
    rows, columns = _d_places(form)
    c[:, rows, columns] = decode(given[..., _C:], "f32")
    c *= given[:, :1, _SCALE_D, None]
    return decode(a, form.kind), decode(b, form.kind), c


def _wgmma(form: Form) -> Instruction:
    rows, columns = _d_places(form)
    product = Product(operands=partial(wgmma_operands, form), rows=rows, columns=columns, depth=_DEPTH)
    return Instruction(
        name=form.name,
        body=_body(form),
        inputs=partial(wgmma_inputs, form),
        out_words=form.num_accumulators,
        check=product.check(),
        target="sm_90a",
        threads=_THREADS,
        tile_bytes=_TILE_BYTES,
        model=product.model,
    )


_KINDS: tuple[Kind, ...] = ("f16", "bf16")
_SPANS: tuple[Literal[32, 64, 128], ...] = (128, 64, 32)
WGMMA: list[Instruction] = [
    *[_wgmma(Form(kind=kind, swizzle=span)) for kind in _KINDS for span in _SPANS],
    _wgmma(Form(kind="bf16", a_from="registers")),
    _wgmma(Form(kind="bf16", b_major="n")),
    _wgmma(Form(kind="bf16", b_major="n", num_columns=128)),
]
