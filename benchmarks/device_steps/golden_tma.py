"""TMA loads of boxes inside, over the edge of and outside a tensor: the bytes that arrive in shared memory.

The tensor is what is given, 64 elements a lane, of which the map hides the last columns and rows. The first two words
of a lane are also the coordinates of its case's box.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from device_steps.golden_inputs import Bits, Words, pack, unpack
from device_steps.golden_kernel import LANES, Instruction
from device_steps.golden_layout import swizzled
from device_steps.golden_tensor_map import Swizzle, TensorMap

_WORDS, _BOX_BYTES = 32, 2048
_OUT_WORDS = _BOX_BYTES // 4 // LANES
# Columns and rows of the boxes' corners; the tensor is 56 x 250.
_CORNERS = [(0, 0), (8, 3), (-5, 0), (0, -3), (48, 17), (-16, 245), (56, 10), (40, 249)]
_TRIES = 1 << 20  # a load that never arrives is a fault then, not a hang

_BODY = f"""mov.u32 %t2, tile; mov.b64 %x4, map; cvta.param.u64 %x4, %x4;
setp.ne.u32 %p0, %t1, 0; @%p0 bra WAIT;
mbarrier.init.shared::cta.b64 [%t2+{_BOX_BYTES}], 1;
fence.proxy.async.shared::cta;
mbarrier.arrive.expect_tx.shared::cta.b64 %x5, [%t2+{_BOX_BYTES}], {_BOX_BYTES};
cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%t2],
    [%x4, {{%a0, %a1}}], [%t2+{_BOX_BYTES}];
WAIT: bar.sync 0; mov.u32 %t3, 0;
AGAIN: mbarrier.try_wait.parity.shared::cta.b64 %p1, [%t2+{_BOX_BYTES}], 0; @%p1 bra ARRIVED;
add.u32 %t3, %t3, 1; setp.lt.u32 %p2, %t3, {_TRIES}; @%p2 bra AGAIN;
trap;
ARRIVED: shl.b32 %t3, %t1, {(4 * _OUT_WORDS).bit_length() - 1}; add.s32 %t3, %t2, %t3;
""" + "\n".join(f"ld.shared.b32 %d{n}, [%t3+{4 * n}];" for n in range(_OUT_WORDS))


def tma_inputs(bits: Bits) -> Words:
    """A tensor of any bits, and the corners."""
    given = bits.words((len(_CORNERS), LANES, _WORDS))
    given[:, :, :2] = np.array(_CORNERS, np.int32).view(np.uint32)[:, None]
    return given


def tma_model(tensor: TensorMap, given: Words) -> Words:
    """The box row by row, zero out of bounds, its 16-byte chunks permuted by the swizzle."""
    rows = unpack(given.reshape(-1, _WORDS))
    row, column = np.arange(tensor.box_height)[:, None], np.arange(tensor.box_width)
    place = swizzled(2 * (tensor.box_width * row + column), tensor.swizzle) // 2
    out = np.zeros((given.shape[0], _BOX_BYTES // 2), np.uint32)
    for case, (x, y) in enumerate(given[:, 0, :2].view(np.int32).tolist()):
        inside = (x + column >= 0) & (x + column < tensor.width) & (y + row >= 0) & (y + row < tensor.height)
        at = np.clip(y + row, 0, tensor.height - 1), np.clip(x + column, 0, tensor.width - 1)
        out[case, place] = np.where(inside, rows[at], 0)
    return pack(out).reshape(given.shape[0], LANES, _OUT_WORDS)


def _tma(swizzle: Swizzle, *, fills_with_nan: bool = False) -> Instruction:
    row_bytes = swizzle or 128
    tensor = TensorMap(
        width=2 * _WORDS - 8,
        height=len(_CORNERS) * LANES - 6,
        pitch_bytes=4 * _WORDS,
        box_width=row_bytes // 2,
        box_height=_BOX_BYTES // row_bytes,
        swizzle=swizzle,
        fills_with_nan=fills_with_nan,
    )
    name = f"swizzle of {swizzle} bytes" if swizzle else "no swizzle"
    return Instruction(
        name=f"cp.async.bulk.tensor.2d, {name}{', filled with NaN' if fills_with_nan else ''}",
        body=_BODY,
        inputs=tma_inputs,
        out_words=_OUT_WORDS,
        target="sm_90",
        tile_bytes=_BOX_BYTES + 16,
        tensor_map=tensor,
        model=None if fills_with_nan else partial(tma_model, tensor),  # which NaN is not documented
    )


_SPANS: tuple[Swizzle, ...] = (0, 32, 64, 128)
TMA: list[Instruction] = [*[_tma(span) for span in _SPANS], _tma(128, fills_with_nan=True)]
