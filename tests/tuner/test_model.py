"""The model repeats the published orders of tiles that it should; see its docstring for what it is."""

from dataclasses import replace

import pytest

from kernelwright.gen.devices import devices
from kernelwright.gen.spec import ForwardProblem, ForwardSchedule, Variant
from kernelwright.tuner.model import model_cycles, step_cycles
from kernelwright.tuner.occupancy import occupancy
from kernelwright.tuner.shapes import Shape
from kernelwright.tuner.walks import thread_blocks


def variant(sm, head_dim, is_causal, block_m, block_n, num_warps, num_stages=1, q_in_regs=False):
    return Variant(
        sm=sm,
        problem=ForwardProblem(dtype="fp16", head_dim=head_dim, is_causal=is_causal),
        schedule=ForwardSchedule(
            block_m=block_m, block_n=block_n, num_warps=num_warps, num_stages=num_stages, q_in_regs=q_in_regs
        ),
    )


def shape(seqlen, batch=4, heads=16):
    return Shape(batch=batch, num_heads_q=heads, num_heads_kv=heads, seqlen_q=seqlen, seqlen_k=seqlen)


def step_tiles(variant, shape):
    """The iterations of one head's thread blocks, in launch order."""
    blocks, _ = thread_blocks(variant, shape, num_sms=1)
    return [steps for steps, _ in blocks]


def cycles(device, head_dim, is_causal, tile, registers, seqlen=4096):
    gpu = devices()[device]
    return model_cycles(variant(gpu.sm, head_dim, is_causal, *tile), gpu, shape(seqlen), registers)


@pytest.mark.parametrize(
    ("device", "head_dim", "is_causal", "better", "worse", "least", "most"),
    [  # figures: FlashAttention-2's remarks on its tiles (flash_fwd_launch_template.h), with slack for a model
        ("a100", 64, False, ((128, 128, 4), 255), ((128, 128, 8), 198), 1.10, 1.40),  # published 1.18
        ("a100", 64, False, ((128, 128, 4), 255), ((64, 256, 4), 255), 1.05, 1.40),  # published 1.27
        ("a100", 128, False, ((128, 64, 4), 255), ((128, 128, 8), 255), 1.10, 1.40),  # published 1.28
        ("a100", 128, False, ((128, 64, 4), 255), ((256, 64, 8), 255), 1.02, 1.40),  # published 1.28
        ("a100", 96, False, ((128, 64, 4), 255), ((128, 128, 8), 255), 1.02, 1.40),  # "always slower"
        ("a100", 96, False, ((128, 64, 4), 255), ((64, 128, 4), 255), 1.02, 1.40),  # "always slower"
        ("a100", 256, False, ((128, 64, 8), 255), ((64, 64, 4), 255), 1.05, 1.50),  # chosen
        ("rtx3090", 128, False, ((128, 32, 4), 255), ((128, 64, 4), 255), 1.02, 1.20),  # fastest
        ("rtx3090", 128, True, ((64, 64, 4), 200), ((128, 64, 4), 255), 1.02, 1.30),  # fastest
    ],
)
def test_it_orders_tiles_as_published(device, head_dim, is_causal, better, worse, least, most):
    ratio = cycles(device, head_dim, is_causal, *worse) / cycles(device, head_dim, is_causal, *better)
    assert least < ratio < most


def test_a_square_tile_wins_on_sm86_with_a_causal_mask_and_short_sequences():
    square, flat = (((64, 64, 4), 200), ((128, 32, 4), 255))
    assert cycles("rtx3090", 128, True, *square, seqlen=2048) < cycles("rtx3090", 128, True, *flat, seqlen=2048)
    full = [cycles("rtx3090", 128, False, *tile) for tile in (square, flat)]
    assert full[0] == pytest.approx(full[1], rel=0.05)  # without a mask they tie


@pytest.mark.parametrize(
    ("device", "registers", "threads", "smem_bytes", "blocks", "limit"),
    [
        ("a100", 255, 128, 65536, 2, "registers"),  # 2 x 32,768 registers
        ("rtx3090", 255, 128, 65536, 1, "shared memory"),  # 65 KiB of 100
        ("rtx4090", 255, 128, 65536, 1, "shared memory"),
        ("h100", 255, 128, 65536, 2, "registers"),
        ("a100", 32, 128, 0, 16, "registers"),  # 64 warps of 1,024 registers: all 65,536
        ("rtx3090", 32, 128, 0, 12, "threads"),  # 1,536
        ("a100", 16, 32, 0, 32, "blocks"),
        ("rtx3090", 255, 128, 102400, 0, "shared memory"),  # more than a block may have
    ],
)
def test_occupancy_is_what_the_toolkit_says(device, registers, threads, smem_bytes, blocks, limit):
    found = occupancy(devices()[device], registers=registers, threads=threads, smem_bytes=smem_bytes)
    assert (found.blocks, found.limit) == (blocks, limit)


def test_a_causal_head_visits_the_tiles_under_the_diagonal_longest_first():
    causal = variant(80, 64, True, 128, 64, 4)
    assert step_tiles(causal, shape(512)) == [8, 6, 4, 2]
    longer = Shape(batch=1, num_heads_q=1, num_heads_kv=1, seqlen_q=100, seqlen_k=300)
    assert step_tiles(causal, longer) == [5]
    more_queries = Shape(batch=1, num_heads_q=1, num_heads_kv=1, seqlen_q=256, seqlen_k=64)
    assert step_tiles(causal, more_queries) == [1, 0]  # early queries see no key
    assert step_tiles(variant(80, 64, False, 128, 64, 4), longer) == [5]


def test_tensor_and_exp_cycles_follow_from_the_tile():
    step = step_cycles(variant(80, 64, False, 128, 64, 4), devices()["a100"], 2)
    assert step.tensor == 4 * 128 * 64 * 64 / 2048
    assert step.exp == pytest.approx(128 * 64 / 16, rel=0.1)


def test_keeping_q_in_registers_reads_less_shared_memory():
    kept, reread = (
        step_cycles(variant(80, 64, False, 128, 64, 4, 2, q_in_regs), devices()["a100"], 2)
        for q_in_regs in (True, False)
    )
    assert kept.smem < reread.smem and kept.tensor == reread.tensor


def test_the_last_wave_costs_less_when_it_leaves_sms_to_fewer_blocks():
    """216 blocks fill an A100 that holds two each; 217 need a second wave, but one block has an SM for itself."""
    full = variant(80, 128, False, 128, 64, 4)
    gpu = devices()["a100"]
    one, two, more = (
        model_cycles(full, gpu, Shape(batch=1, num_heads_q=h, num_heads_kv=h, seqlen_q=128, seqlen_k=65536), 255)
        for h in (108, 216, 217)
    )
    assert one < two < more < 2 * two
    assert more - two < 1.1 * one


def test_a_kernel_that_does_not_fit_has_no_cost():
    with pytest.raises(ValueError, match="no thread block fits"):
        model_cycles(variant(86, 128, False, 128, 128, 8, 2), devices()["rtx3090"], shape(512), 255)


def featured(*, block_n=64, pack_gqa=False, persistent_blocks=0, num_slices=1, **problem):
    return Variant(
        sm=80,
        problem=ForwardProblem(**{"dtype": "bf16", "head_dim": 128, **problem}),
        schedule=ForwardSchedule(
            block_m=64,
            block_n=block_n,
            num_warps=4,
            num_stages=1,
            q_in_regs=False,
            num_slices=num_slices,
            pack_gqa=pack_gqa,
            persistent_blocks=persistent_blocks,
        ),
    )


GROUPED = Shape(batch=4, num_heads_q=32, num_heads_kv=8, seqlen_q=4096, seqlen_k=4096)


def modelled(one, of=GROUPED):
    return model_cycles(one, devices()["a100"], of, 200)


def test_a_window_costs_what_it_visits():
    local = featured(is_local=True)
    narrow, wide = (replace(GROUPED, window_left=left, window_right=0) for left in (511, 2047))
    # 8 and 32 tiles, and one cut in two
    assert step_tiles(local, narrow)[-1] == 9 and step_tiles(local, wide)[-1] == 33
    assert step_tiles(local, replace(GROUPED, window_right=0)) == step_tiles(featured(is_causal=True), GROUPED)[::-1]
    assert modelled(local, narrow) < 0.5 * modelled(local, wide) < 0.5 * modelled(local, GROUPED)


@pytest.mark.parametrize("flag", ["has_softcap", "has_alibi", "has_bias", "has_dropout"])
def test_a_feature_costs_something_and_not_everything(flag):
    assert 1.0 < modelled(featured(**{flag: True})) / modelled(featured()) < 3


def test_half_of_the_blocks_cost_about_half():
    assert 0.4 < modelled(featured(is_block_sparse=True)) / modelled(featured()) < 0.7


def test_scores_are_computed_again_for_each_slice():
    wide = {"head_dim": 64, "head_dim_v": 256}
    one, two = (modelled(featured(num_slices=count, **wide)) for count in (1, 2))
    assert 1.02 * one < two < 2 * one


def test_packing_heads_pays_for_one_query_and_not_for_many():
    decode = replace(GROUPED, batch=27, seqlen_q=1, seqlen_k=8192)  # 8 thread blocks an SM, or 2
    for shape_, least, most in ((decode, 2.0, 4.5), (GROUPED, 0.9, 1.1)):
        assert least < modelled(featured(), shape_) / modelled(featured(pack_gqa=True), shape_) < most


def test_a_persistent_kernel_does_all_the_work_in_as_many_blocks_as_are_asked_for():
    plain, persistent = (featured(is_causal=True, is_varlen=True, persistent_blocks=count) for count in (0, 2))
    (blocks, repeats), (few, once) = (thread_blocks(one, GROUPED, 108) for one in (plain, persistent))
    assert len(few) == 216 and once == repeats == 1
    assert [sum(side) for side in zip(*blocks, strict=True)] == [sum(side) for side in zip(*few, strict=True)]
    steps = [one[0] for one in few]
    assert max(steps) < 1.4 * min(steps)  # dealt out in turn, longest first
    assert modelled(persistent) == pytest.approx(modelled(plain), rel=0.25)


def test_sequences_are_a_quarter_of_the_longest_and_more():
    lengths = GROUPED.lengths(is_varlen=True)
    assert lengths == ((1792, 1792), (2560, 2560), (3328, 3328), (4096, 4096))
    assert modelled(featured(is_varlen=True)) < modelled(featured())
