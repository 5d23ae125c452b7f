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


CONSTANTS = {"block_m": 64, "num_slices": 1, "pack_gqa": 0, "persistent_blocks": 0, "num_sms": 108}
LETTERS = {"ptr": "Q", "i64": "q", "i32": "i", "f32": "f"}


def packed(
    tensors: dict[str, TensorArgument], scalars: dict[str, float] | None = None, **constants: int
) -> tuple[tuple[int, int, int], dict[str, float]]:
    binding = forward_binding()
    made = launch_params(binding, tensors, constants={**CONSTANTS, **constants}, scalars=scalars or {})
    assert len(made.struct) % 8 == 0  # pointers align the struct
    layout = "@" + "".join(LETTERS[field["type"]] for field in binding["fields"])
    values = struct.unpack(layout, made.struct[: struct.calcsize(layout)])
    return made.grid, dict(zip([field["name"] for field in binding["fields"]], values, strict=True))


def test_the_struct_holds_addresses_strides_sizes_and_scale_in_the_order_of_the_binding():
    grid, values = packed(TENSORS, {"softmax_scale": 0.25})
    assert grid == (2 * 6 * 2, 1, 1)
    row, kv_row = 6 * 64, 3 * 64
    assert [values[name] for name in ("q", "k", "v", "out", "lse")] == [16, 32, 48, 64, 80]
    for name, strides in {"q": (100 * row, row, 64), "v": (70 * kv_row, kv_row, 64)}.items():
        assert tuple(values[f"{name}_{axis}_stride"] for axis in ("batch", "row", "head")) == strides
    sizes = ("seqlen_q", "seqlen_k", "num_heads_q", "num_heads_kv", "heads_per_kv", "num_seqs", "num_m_blocks")
    assert [values[name] for name in sizes] == [100, 70, 6, 3, 2, 2, 2]
    assert values["softmax_scale"] == 0.25


def test_what_is_left_out_has_its_default():
    _, values = packed(TENSORS)
    assert values["softmax_scale"] == 64**-0.5 and values["keep_threshold"] == 255 and values["keep_scale"] == 1.0
    assert [values[name] for name in ("alibi_slopes", "sink", "bias", "q_starts", "bias_row_stride")] == [0] * 5


def test_sequences_set_the_grid_by_their_number_and_the_longest():
    starts = argument(96, 5)
    names = ("q_starts", "q_ends", "k_starts", "k_ends")
    one = {
        **TENSORS,
        "q": argument(16, 1, 400, 6, 64),
        "k": argument(32, 1, 70, 3, 64),
        "v": argument(48, 1, 70, 3, 64),
    }
    one |= {"out": argument(64, 1, 400, 6, 64), "lse": argument(80, 1, 6, 400), **dict.fromkeys(names, starts)}
    grid, values = packed(one, {"max_seqlen_q": 130})
    assert grid == (3 * 6 * 5, 1, 1)
    assert (values["num_seqs"], values["num_m_blocks"], values["seqlen_q"]) == (5, 3, 400)


def test_packed_heads_slices_and_persistent_blocks_change_the_grid():
    assert packed(TENSORS, pack_gqa=1)[0] == (-(-200 // 64) * 3 * 2, 1, 1)
    assert packed(TENSORS, num_slices=2)[0] == (24, 2, 1)
    assert packed(TENSORS, persistent_blocks=1, num_sms=5)[0] == (5, 1, 1)
    assert packed(TENSORS, persistent_blocks=1)[0] == (24, 1, 1)  # no more than there are tiles


def test_an_unknown_scalar_is_refused():
    with pytest.raises(KeyError, match="no scalar 'softmx_scale'"):
        packed(TENSORS, {"softmx_scale": 1.0})


def test_an_optional_tensor_that_is_left_out_is_a_null_pointer():
    _, values = packed({name: one for name, one in TENSORS.items() if name != "lse"})
    assert values["lse"] == 0


def test_a_required_tensor_is_missed():
    with pytest.raises(KeyError, match="out"):
        packed({name: one for name, one in TENSORS.items() if name != "out"})


def test_tensors_that_disagree_are_refused():
    with pytest.raises(ValueError, match="v: seqlen_k is 71, another tensor has 70"):
        packed({**TENSORS, "v": argument(48, 2, 71, 3, 64)})
