"""What the tuner's model counts is what the emulator counts, and schedules change the counts as they should."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from kernelwright.emulator.launch import load
from kernelwright.gen.binding import bindings
from kernelwright.gen.commands import emulated
from kernelwright.gen.spec import (
    BackwardSchedule,
    ForwardProblem,
    ForwardSchedule,
    QueryGradientSchedule,
    Schedule,
    Variant,
)
from kernelwright.runtime.inputs import check
from kernelwright.runtime.options import Options, Sequences
from kernelwright.tuner.shapes import Shape
from kernelwright.tuner.step_work import step_work
from kernelwright.tuner.walks import call_counts, thread_blocks

pytestmark = pytest.mark.nvcc

SCHEDULE = ForwardSchedule(block_m=32, block_n=32, num_warps=2, num_stages=2, q_in_regs=False)
ONE_STAGE = replace(SCHEDULE, block_n=48, num_stages=1, q_in_regs=True)
KEYS = BackwardSchedule(block_m=32, block_n=64, num_warps=4, num_stages=2, warps_scores=2, warps_kv=2, warps_q=2)
KEYS_ONE_STAGE = replace(KEYS, block_n=32, num_stages=1, warps_q=1)
KEPT = replace(KEYS, v_in_regs=True)
QUERIES = QueryGradientSchedule(block_m=32, block_n=32, num_warps=2, num_stages=2)
SHAPE = Shape(batch=2, num_heads_q=4, num_heads_kv=2, seqlen_q=75, seqlen_k=133)
WINDOW = replace(SHAPE, window_left=40, window_right=7)


def variant(schedule: Schedule = SCHEDULE, **problem: object) -> Variant:
    return Variant(sm=80, problem=ForwardProblem(**{"dtype": "fp16", "head_dim": 64, **problem}), schedule=schedule)


CASES = {
    "full": (variant(), SHAPE),
    "causal": (variant(is_causal=True), SHAPE),
    "more queries than keys": (variant(is_causal=True), replace(SHAPE, seqlen_q=150, seqlen_k=70)),
    "an odd head dimension": (variant(ONE_STAGE, head_dim=40, is_causal=True), SHAPE),
    "a window": (variant(is_local=True), WINDOW),
    "a window of few keys": (variant(ONE_STAGE, is_local=True), replace(WINDOW, window_left=3, window_right=0)),
    "sequences": (variant(is_varlen=True, is_causal=True), replace(SHAPE, batch=3)),
    "windows of packed sequences": (variant(replace(SCHEDULE, pack_gqa=True), is_local=True, is_varlen=True), WINDOW),
    "packed": (variant(replace(SCHEDULE, pack_gqa=True)), SHAPE),
    "packed, causal, persistent": (
        variant(replace(SCHEDULE, pack_gqa=True, persistent_blocks=1), is_causal=True),
        SHAPE,
    ),
    "persistent sequences": (variant(replace(SCHEDULE, persistent_blocks=2), is_varlen=True, is_causal=True), SHAPE),
    "slices": (variant(replace(SCHEDULE, num_slices=2), head_dim_v=96), SHAPE),
    "four slices": (variant(replace(ONE_STAGE, num_slices=4), is_causal=True), SHAPE),
    "wider values": (variant(head_dim_v=104, is_causal=True), SHAPE),
    "narrower values": (variant(ONE_STAGE, head_dim_v=24), SHAPE),
    "a cap": (variant(has_softcap=True), SHAPE),
    "slopes": (variant(ONE_STAGE, has_alibi=True, is_causal=True), SHAPE),
    "a bias": (variant(has_bias=True, is_causal=True), SHAPE),
    "a cap, slopes and a bias on packed rows": (
        variant(replace(SCHEDULE, pack_gqa=True), has_softcap=True, has_alibi=True, has_bias=True),
        SHAPE,
    ),
    "dropout": (variant(has_dropout=True), SHAPE),
}
GRADIENTS = {
    f"{one.operation} with {schedule.num_stages} stages{', V kept' * (schedule is KEPT)}, {name}": (one, shape)
    for name, problem, shape in [
        ("all", {}, SHAPE),
        ("causal", {"is_causal": True}, SHAPE),
        ("more queries than keys", {"is_causal": True}, replace(SHAPE, seqlen_q=150, seqlen_k=70)),
        ("a window", {"is_local": True, "head_dim": 72, "head_dim_v": 40}, WINDOW),
        ("sequences", {"is_varlen": True, "is_causal": True}, replace(SHAPE, batch=3)),
        ("a cap", {"has_softcap": True}, SHAPE),
        (
            "a cap and no keys for some",
            {"has_softcap": True, "is_causal": True},
            replace(SHAPE, seqlen_q=150, seqlen_k=70),
        ),
        ("a bias", {"has_bias": True, "is_causal": True}, SHAPE),
    ]
    for schedule in (KEYS, KEYS_ONE_STAGE, KEPT, QUERIES, replace(QUERIES, num_stages=1))
    for one in [variant(schedule, **problem)]
    if name in ("all", "causal") or schedule in (KEYS, QUERIES)
}


def counted(one: Variant, ptx: bytes, shape: Shape) -> dict[str, int]:
    """The emulator's counters of a call without an lse."""
    problem, lengths = one.problem, shape.lengths(is_varlen=one.problem.is_varlen)
    sequences = None
    sizes = [(shape.batch, shape.seqlen_q), (shape.batch, shape.seqlen_k), (shape.batch, shape.seqlen_k)]
    if problem.is_varlen:
        ends = [torch.tensor([0, *(length[side] for length in lengths)]).cumsum(0).int() for side in (0, 1)]
        sizes = [(int(ends[side][-1]),) for side in (0, 1, 1)]
        sequences = Sequences(
            cu_seqlens_q=ends[0], cu_seqlens_k=ends[1], max_seqlen_q=shape.seqlen_q, max_seqlen_k=shape.seqlen_k
        )
    widths = [
        *[(shape.num_heads_q, problem.head_dim), (shape.num_heads_kv, problem.head_dim)],
        (shape.num_heads_kv, problem.head_dim_v),
    ]
    q, k, v = (torch.randn(*size, *width).half() for size, width in zip(sizes, widths, strict=True))
    bias = torch.randn(shape.batch, shape.num_heads_q, shape.seqlen_q, shape.seqlen_k).half()
    options = Options(
        causal=problem.is_causal,
        window_size=(shape.window_left, shape.window_right),
        softcap=20.0 if problem.has_softcap else 0.0,
        alibi_slopes=torch.rand(shape.num_heads_q) if problem.has_alibi else None,
        bias=bias if problem.has_bias else None,
        dropout_p=0.2 if problem.has_dropout else 0.0,
        rng_state=torch.tensor([1, 2]),
        sequences=sequences,
    )
    request = check(q, k, v, options)
    given = {"q": request.q, "k": request.k, "v": request.v, **request.lowered.tensors}
    scalars = {"softmax_scale": 0.125, **request.lowered.scalars}
    if one.operation != "flash_fwd":
        rows = torch.randn(request.lse_shape)
        given |= {"dout": torch.randn(request.out_shape).half(), "lse": rows, "delta": rows.clone()}
        scalars["max_seqlen_k"] = request.shape.max_seqlen_k
        if one.operation == "flash_bwd":
            given["dq_sum"] = torch.zeros(request.q.shape)
        known = {member["name"] for key in ("tensors", "scalars") for member in bindings()[one.operation][key]}
        given, scalars = ({name: value for name, value in each.items() if name in known} for each in (given, scalars))
    return emulated.launch(load(ptx.decode()), emulated.Kernel.of(one), given, scalars).report.counters


@pytest.fixture(scope="module")
def counters(build):
    every = {**CASES, **GRADIENTS}
    kernels = {one.variant: one.ptx for one in build(list(dict.fromkeys(one for one, _ in every.values())))}
    return {name: counted(one, kernels[one], shape) for name, (one, shape) in every.items()}


@pytest.mark.parametrize("name", CASES)
def test_the_model_counts_what_the_emulator_counts(counters, name):
    one, shape = CASES[name]
    found, modelled = counters[name], call_counts(one, shape)
    lengths = shape.lengths(is_varlen=one.problem.is_varlen)
    num_rows = sum(seqlen_q for seqlen_q, _ in lengths) * shape.num_heads_q
    assert found["mma_flops"] == modelled.mma_flops > 0
    assert found["cp_async_bytes"] == modelled.copied_bytes
    assert found["global_store_bytes"] == modelled.out_bytes + 4 * num_rows  # lse
    # A logarithm for each row's lse; no reciprocal where a row, of those behind the end too, sees no key.
    assert found["mufu"] == modelled.mufu + num_rows - 4 * blind_rows(one, shape)
    if one.problem.has_bias and not one.problem.has_alibi:
        assert found["global_load_bytes"] == modelled.copied_bytes + modelled.bias_bytes


@pytest.mark.parametrize("name", GRADIENTS)
def test_the_model_counts_what_the_emulator_counts_of_gradients(counters, name):
    one, shape = GRADIENTS[name]
    found, modelled = counters[name], call_counts(one, shape)
    assert found["mma_flops"] == modelled.mma_flops > 0
    assert found["cp_async_bytes"] == modelled.copied_bytes
    divisions = 2 * one.schedule.threads * found["blocks"] if one.problem.has_softcap else 0
    assert modelled.mufu <= found["mufu"] <= modelled.mufu + divisions
    if one.operation == "flash_bwd_dq":
        assert found["global_store_bytes"] == modelled.out_bytes
    work = step_work(one)
    steps = modelled.mma_flops // work.mma_flops
    once = kept_bytes(one, shape) if getattr(one.schedule, "v_in_regs", False) else 0
    assert found["ldmatrix_wavefronts_ideal"] * 128 == steps * work.read_bytes + once
    if one.operation == "flash_bwd":
        assert 0 < found["atomics"] <= steps * work.atomics * 32


def kept_bytes(one: Variant, shape: Shape) -> int:
    """Bytes of V that the warps of thread blocks with work read once."""
    blocks, repeats = thread_blocks(one, shape, 108)
    working = repeats * sum(steps > 0 for steps, _ in blocks)
    return 2 * working * one.schedule.warps_scores * one.schedule.block_n * one.problem.head_dim_v


def blind_rows(one: Variant, shape: Shape) -> int:
    """Rows of tiles that see no key, of all heads."""
    group = shape.num_heads_q // shape.num_heads_kv if one.schedule.pack_gqa else 1
    heads = shape.num_heads_q // group
    found = 0
    for seqlen_q, seqlen_k in shape.lengths(is_varlen=one.problem.is_varlen):
        rows = -(-seqlen_q * group // one.schedule.block_m) * one.schedule.block_m
        for row in range(rows):
            last = row // group + seqlen_k - seqlen_q  # the key beside the query
            end = last + 1 if one.problem.is_causal else last + shape.window_right + 1
            begin = last - shape.window_left
            if one.problem.is_causal:
                found += end <= 0
            elif one.problem.is_local:
                found += max(0, begin) >= min(seqlen_k, end)
    return found * heads


def test_packed_heads_load_q_once_in_fewer_tiles_and_k_and_v_once_a_group(counters):
    """2 heads of 75 rows are 6 tiles of 32; packed, 150 rows are 5. Of K and V every tile loads all keys."""
    apart, packed = counters["full"], counters["packed"]
    q, kv = 2 * 4 * 75 * 64 * 2, 2 * 133 * 64 * 2 * 2  # bytes of Q in all, of K and V of one sequence and head
    assert apart["cp_async_bytes"] == q + 4 * 3 * kv
    assert packed["cp_async_bytes"] == q + 2 * 5 * kv
    assert packed["mma_flops"] * 6 == apart["mma_flops"] * 5
    assert packed["global_store_bytes"] == apart["global_store_bytes"]


DECODE = Shape(batch=2, num_heads_q=16, num_heads_kv=2, seqlen_q=1, seqlen_k=133)


BOTH = {"is_causal": True, "is_varlen": True}


@pytest.mark.parametrize("flags", [{}, {"is_causal": True}, {"is_varlen": True}, BOTH], ids=str)
def test_short_queries_of_packed_heads_read_keys_once_for_all(build, flags):
    apart, packed = (variant(replace(SCHEDULE, pack_gqa=pack), **flags) for pack in (False, True))
    kernels = {one.variant: one.ptx for one in build([apart, packed])}
    found = [counted(one, kernels[one], DECODE) for one in (apart, packed)]
    keys = sum(length for _, length in DECODE.lengths(is_varlen="is_varlen" in flags))
    q, kv = 2 * 2 * 16 * 64, 2 * 2 * 64 * keys  # bytes of Q, and of K and V of one head, over the sequences
    assert [one["cp_async_bytes"] for one in found] == [q + 16 * kv, q + 2 * kv]  # once a query head, once a key head
    assert found[0]["mma_flops"] == 8 * found[1]["mma_flops"]
    assert found[0]["global_store_bytes"] == found[1]["global_store_bytes"]


@pytest.mark.parametrize("flags", [{"is_causal": True}, BOTH], ids=str)
def test_a_persistent_kernel_moves_and_multiplies_the_same_in_fewer_thread_blocks(build, flags, monkeypatch):
    plain, persistent = (variant(replace(SCHEDULE, persistent_blocks=count), **flags) for count in (0, 2))
    kernels = {one.variant: one.ptx for one in build([plain, persistent])}
    whole = counted(plain, kernels[plain], SHAPE)
    of = emulated.Kernel.of
    monkeypatch.setattr(
        emulated.Kernel, "of", lambda one: replace(of(one), constants={**of(one).constants, "num_sms": 3})
    )
    few = counted(persistent, kernels[persistent], SHAPE)
    for name in ("cp_async_bytes", "mma_flops", "global_store_bytes", "mufu"):
        assert few[name] == whole[name] > 0, name
    longest = -(-SHAPE.seqlen_q // SCHEDULE.block_m)
    assert whole["blocks"] == longest * SHAPE.num_heads_q * SHAPE.batch  # as many as the longest sequence needs of each
    assert few["blocks"] == 2 * 3
