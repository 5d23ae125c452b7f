"""From a binding to parameter bytes and a grid."""

from __future__ import annotations

import struct

import pytest

from kernelwright.gen.binding import forward_binding
from kernelwright.gen.launch_params import TensorArgument, launch_params


def argument(address: int, *shape: int) -> TensorArgument:
    strides, step = [], 1
    for size in reversed(shape):
        strides.insert(0, step)
        step *= size
    return TensorArgument(address=address, shape=shape, strides=tuple(strides))


TENSORS = {
    "q": argument(16, 2, 100, 6, 64),
    "k": argument(32, 2, 70, 3, 64),
    "v": argument(48, 2, 70, 3, 64),
    "out": argument(64, 2, 100, 6, 64),
    "lse": argument(80, 2, 6, 100),
}


def packed(tensors: dict[str, TensorArgument]) -> tuple[tuple[int, int, int], tuple[float, ...]]:
    made = launch_params(forward_binding(), tensors, constants={"block_m": 64}, scalars={"softmax_scale": 0.125})
    assert len(made.struct) % 8 == 0  # pointers align the struct
    return made.grid, struct.unpack("@5Q12q5if", made.struct[: struct.calcsize("@5Q12q5if")])


def test_the_struct_holds_addresses_strides_sizes_and_scale_in_the_order_of_the_binding():
    grid, values = packed(TENSORS)
    assert grid == (2 * 6 * 2, 1, 1)
    row, kv_row = 6 * 64, 3 * 64
    strides = (100 * row, row, 64, *(70 * kv_row, kv_row, 64) * 2, 100 * row, row, 64)
    assert values == (16, 32, 48, 64, 80, *strides, 100, 70, 6, 2, 2, 0.125)


def test_an_optional_tensor_that_is_left_out_is_a_null_pointer():
    _, values = packed({name: one for name, one in TENSORS.items() if name != "lse"})
    assert values[4] == 0


def test_a_required_tensor_is_missed():
    with pytest.raises(KeyError, match="out"):
        packed({name: one for name, one in TENSORS.items() if name != "out"})


def test_tensors_that_disagree_are_refused():
    with pytest.raises(ValueError, match="v: seqlen_k is 71, another tensor has 70"):
        packed({**TENSORS, "v": argument(48, 2, 71, 3, 64)})
