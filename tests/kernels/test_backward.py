"""The backward kernels in the emulator with all its checks: gradients, what repeats bit by bit, what is visited."""

from __future__ import annotations

import itertools
import random
from dataclasses import asdict, replace

import pytest
import torch

from feature_variants import Choices, all_pairs, covering_variants, pairs_of
from gradients import faults, inputs_of, make_case, run, scalars_of
from kernelwright.emulator.launch import EmulatorError, load
from kernelwright.emulator.mutate import sync_mutants
from kernelwright.gen.commands import emulated
from kernelwright.gen.errors import SpecError
from kernelwright.gen.ladder import default_backward_schedule, default_query_gradient_schedule
from kernelwright.gen.redundant_syncs import redundant_syncs
from kernelwright.gen.spec import (
    BackwardSchedule,
    ConvertSchedule,
    DeltaSchedule,
    ForwardProblem,
    QueryGradientSchedule,
    Variant,
)
from kernelwright.runtime.block_mask import BlockMask
from kernelwright.runtime.problems import TORCH_DTYPES, Problem, guarded, problems_for

pytestmark = [pytest.mark.nvcc, pytest.mark.filterwarnings("ignore::UserWarning")]

QUICK_PROBLEMS, SLOW_PROBLEMS, SLOW_SETS = 5, 12, 4
FLAGS = ("is_varlen", "has_softcap", "has_alibi", "has_bias", "has_dropout", "is_block_sparse")
CHOICES: Choices = {
    "mask": ("full", "causal", "local"),
    **dict.fromkeys(FLAGS, (False, True)),
    "dtype": ("fp16", "bf16"),
    "values": ("as keys", "narrower", "wider"),  # head_dim_v beside head_dim
    "head_dim": ("small", "odd", "usual", "large"),
    "operation": ("flash_bwd", "flash_bwd_dq"),
    "num_stages": (1, 2),
    "v_in_regs": (False, True),
    "num_warps": (1, 2, 4, 8),
}
HEAD_DIMS = {"small": (8, 16, 32), "odd": (24, 40, 72, 88, 104), "usual": (64, 96, 128), "large": (168, 192, 248, 256)}


def drawn_variant(chosen: dict[str, object], generator: random.Random, sm: int) -> Variant:
    """A variant with these choices; its tile and what else it has are drawn."""
    head_dim = generator.choice(HEAD_DIMS[str(chosen["head_dim"])])
    step = {"as keys": 0, "narrower": -8 * generator.randint(1, 4), "wider": 8 * generator.randint(1, 6)}
    problem = ForwardProblem(
        dtype="fp16" if chosen["dtype"] == "fp16" else "bf16",
        head_dim=head_dim,
        head_dim_v=head_dim + step[str(chosen["values"])],
        is_causal=chosen["mask"] == "causal",
        is_local=chosen["mask"] == "local",
        **{flag: bool(chosen[flag]) for flag in FLAGS},
    )
    num_warps, num_stages = int(str(chosen["num_warps"])), int(str(chosen["num_stages"]))
    block_n = generator.choice((16, 32, 48, 64))
    if chosen["operation"] == "flash_bwd_dq":
        if chosen["v_in_regs"]:
            raise SpecError("V stays in registers where dP is computed for one block of keys")
        schedule = QueryGradientSchedule(
            block_m=16 * num_warps, block_n=block_n, num_warps=num_warps, num_stages=num_stages
        )
        return Variant(sm=sm, problem=problem, schedule=schedule)
    warps = {name: generator.choice((1, 2, 4, 8)) for name in ("warps_scores", "warps_kv", "warps_q")}
    block_m = generator.choice((16, 32, 48, 64))
    chosen_schedule = BackwardSchedule(
        **{"block_m": block_m, "block_n": block_n, "num_warps": num_warps, "num_stages": num_stages, **warps},
        v_in_regs=bool(chosen["v_in_regs"]),
    )
    return Variant(sm=sm, problem=problem, schedule=chosen_schedule)


def checked(build, seed: int, problems: int) -> tuple[list[str], int, set]:
    """Run a covering set of variants on problems each; return faults, how many ran and the pairs covered."""
    found = {one.name: (one, chosen) for one, chosen in covering_variants(seed, 80, CHOICES, drawn_variant)}
    wrong, count, covered = [], 0, set()
    for kernel in build([variant for variant, _ in found.values()]):
        variant, chosen = found[kernel.variant.name]
        module = load(kernel.ptx.decode())
        tile = {**asdict(variant.schedule), "num_stages": 1}  # the longest problems of these are long enough
        for index, problem in enumerate(problems_for(asdict(variant.problem), tile, problems, seed + count)):
            case = make_case(problem, block_n=variant.schedule.block_n, seed=seed + index)
            outputs = run(module, variant, case).outputs
            added = {"dk", "dv", *(["dbias"] if problem.bias else [])} if variant.operation == "flash_bwd" else set()
            assert set(outputs) == {"dq", *added}
            wrong += [f"{variant.name}: {one}" for one in faults(outputs, case)]
            count += 1
        module.unload()
        covered |= pairs_of(chosen)
    return wrong, count, covered


def test_every_pair_of_features_has_the_right_gradients(build):
    wrong, count, covered = checked(build, 1, QUICK_PROBLEMS)
    print(f"{count} problems, {len(covered)} pairs of choices")
    assert wrong == []
    assert covered >= all_pairs(CHOICES)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 2 + SLOW_SETS))
def test_every_pair_of_features_has_the_right_gradients_on_many_problems(build, seed):
    """Of all sets together at least 800."""
    wrong, count, covered = checked(build, seed, SLOW_PROBLEMS)
    print(f"{count} problems, {len(covered)} pairs of choices")
    assert wrong == []
    assert count >= 800 / SLOW_SETS


def variant_of(
    problem: ForwardProblem, *tile: int, warps: tuple[int, int, int] | None = None, v_in_regs: bool = False
) -> Variant:
    """block_m, block_n, num_warps, num_stages; with warps a `flash_bwd`, else a `flash_bwd_dq`."""
    sizes = dict(zip(("block_m", "block_n", "num_warps", "num_stages"), tile, strict=True))
    if warps is None:
        return Variant(sm=80, problem=problem, schedule=QueryGradientSchedule(**sizes))
    along = dict(zip(("warps_scores", "warps_kv", "warps_q"), warps, strict=True))
    return Variant(sm=80, problem=problem, schedule=BackwardSchedule(**sizes, **along, v_in_regs=v_in_regs))


PLAIN = ForwardProblem(dtype="bf16", head_dim=64, is_causal=True)
ODD = ForwardProblem(dtype="fp16", head_dim=40, head_dim_v=24, is_varlen=True, is_local=True)
SPARSE = replace(PLAIN, is_block_sparse=True)
KERNELS = [
    variant_of(PLAIN, 32, 64, 4, 1, warps=(2, 2, 1)),
    variant_of(PLAIN, 32, 32, 4, 2, warps=(2, 1, 2)),
    variant_of(ODD, 64, 64, 4, 2, warps=(4, 4, 4)),
    variant_of(replace(PLAIN, is_causal=False), 16, 16, 1, 1, warps=(1, 1, 1)),
    variant_of(SPARSE, 32, 32, 4, 2, warps=(2, 2, 2)),
    variant_of(PLAIN, 32, 64, 4, 1, warps=(1, 2, 2), v_in_regs=True),
    variant_of(ODD, 32, 64, 4, 2, warps=(2, 2, 2), v_in_regs=True),
    variant_of(PLAIN, 64, 32, 4, 1),
    variant_of(ODD, 32, 48, 2, 2),
    variant_of(SPARSE, 32, 32, 2, 2),
    variant_of(SPARSE, 32, 32, 2, 1),
]
BY_KEYS, BY_QUERIES = KERNELS[0], KERNELS[7]


@pytest.fixture(scope="module", params=KERNELS, ids=lambda one: one.name)
def kernel(request, build) -> tuple[Variant, str]:
    return request.param, build([request.param])[0].ptx.decode()


def telling(variant: Variant, **changes: object) -> Problem:
    """A problem in which every tile turns over: several tiles of queries and keys, a group of heads."""
    schedule, problem = variant.schedule, variant.problem
    assert isinstance(schedule, (BackwardSchedule, QueryGradientSchedule))
    sizes = {"seqlen_q": 3 * schedule.block_m + 5, "seqlen_k": 3 * schedule.block_n + 7, "group": 2}
    window = (schedule.block_n + 5, schedule.block_n) if problem.is_local else (-1, -1)
    names = ("dtype", "head_dim", "head_dim_v", "is_causal")
    lengths = ((sizes["seqlen_q"], sizes["seqlen_k"]), (3, 0), (0, 9)) if problem.is_varlen else ()
    block = (2 * schedule.block_m, 2 * schedule.block_n) if problem.is_block_sparse else (0, 0)
    asked = {**{name: getattr(problem, name) for name in names}, **sizes, "window": window, "lengths": lengths}
    asked["block"] = block
    return Problem(**{**asked, **changes})


def test_dk_dv_and_dq_by_itself_repeat_bit_by_bit_under_every_order_of_warps(kernel):
    variant, ptx = kernel
    module, case = load(ptx), make_case(telling(kernel[0]))
    first = run(module, variant, case).outputs
    assert faults(first, case) == []
    repeated = ("dk", "dv") if variant.operation == "flash_bwd" else ("dq",)
    for seed in range(1, 9):
        again = run(module, variant, case, seed=seed).outputs
        assert all(torch.equal(again[name], first[name]) for name in repeated), f"seed {seed}"
        assert faults(again, case) == []


def test_every_wait_and_barrier_taken_out_is_noticed(kernel):
    """Of the barriers, one warp needs none: its instructions are in order, and copies are waited for."""
    variant, ptx = kernel
    cases = [make_case(telling(variant), seed=1), make_case(telling(variant, num_heads_kv=2, group=1), seed=2)]
    module = load(ptx)
    done = [run(module, variant, case) for case in cases]
    budget = 20 * max(one.report.counters["warp_instructions"] for one in done)

    def is_noticed(text: str) -> bool:
        broken = load(text)
        try:
            for case in cases:
                for seed in range(4):
                    if faults(run(broken, variant, case, seed=seed, max_instructions=budget).outputs, case):
                        return True
        except EmulatorError:
            return True
        finally:
            broken.unload()
        return False

    mutants = [one for one in sync_mutants(ptx) if one.sync.kind != "barrier" or variant.schedule.num_warps > 1]
    assert {one.sync.kind for one in mutants} >= {"wait", "commit"}
    unnoticed = [one for one in mutants if not is_noticed(one.ptx)]
    listed = {(one.kind, one.index) for one in redundant_syncs(variant)}
    places = [{(one.sync.kind, one.sync.index), (one.sync.kind, one.sync.index - one.sync.count)} for one in unnoticed]
    assert [str(one) for one, at in zip(unnoticed, places, strict=True) if not at & listed] == []


@pytest.mark.parametrize("group", [1, 2, 8])
@pytest.mark.parametrize(("seqlen_q", "seqlen_k"), [(1, 1), (1, 65), (63, 64), (65, 31), (33, 129), (130, 17)])
def test_sizes_around_a_tile_have_the_right_gradients(build, seqlen_q, seqlen_k, group):
    """With more queries than keys, causal, the first rows see nothing."""
    for kernel in build([BY_KEYS, BY_QUERIES]):
        problem = telling(kernel.variant, seqlen_q=seqlen_q, seqlen_k=seqlen_k, group=group, layout="padded_heads")
        case = make_case(problem)
        outputs = run(load(kernel.ptx.decode()), kernel.variant, case).outputs
        assert faults(outputs, case) == []
        blind = max(0, seqlen_q - seqlen_k)
        assert outputs["dq"][:, :blind].abs().sum() == 0


def test_keys_that_nobody_sees_and_keys_not_in_use_get_zeros(build):
    problem = replace(ODD, is_local=False, is_causal=True)
    for kernel in build([variant_of(problem, 32, 32, 2, 1, warps=(2, 2, 2))]):
        asked = telling(kernel.variant, lengths=((5, 90), (0, 40), (20, 0)), is_partly_used=True)
        case = make_case(replace(asked, seqlen_q=20, seqlen_k=90))
        outputs = run(load(kernel.ptx.decode()), kernel.variant, case).outputs
        assert faults(outputs, case) == []
        used = 90 * 3 // 4
        for name in ("dk", "dv"):
            assert outputs[name][0, used:].abs().sum() == 0 and outputs[name][0, :used].abs().sum() > 0


@pytest.mark.parametrize("variant", [BY_KEYS, BY_QUERIES], ids=lambda one: one.operation)
def test_gradients_are_written_beside_nothing_else_and_with_any_strides(build, variant):
    [kernel] = build([variant])
    case = make_case(telling(variant, batch=2))
    module, inputs = load(kernel.ptx.decode()), inputs_of(case, variant)
    names = {"flash_bwd": ("dk", "dv"), "flash_bwd_dq": ("dq",)}[variant.operation]
    held = {
        name: guarded(tuple(case.reference.values[name].shape), TORCH_DTYPES["bf16"], torch.device("cpu"), layout)
        for name, layout in zip(names, ("heads_first", "padded_heads"), strict=False)
    }
    given = {**inputs, **{name: one.tensor for name, one in held.items()}}
    emulated.launch(module, emulated.Kernel.of(variant), given, scalars_of(case, variant))
    assert faults({name: one.tensor for name, one in held.items()}, case) == []
    assert all(one.is_intact() for one in held.values())


def test_without_a_sum_of_dq_nothing_is_added_and_dk_and_dv_are_the_same(build):
    [kernel] = build([BY_KEYS])
    module, case = load(kernel.ptx.decode()), make_case(telling(BY_KEYS))
    with_dq, without = (run(module, BY_KEYS, case, with_dq=one) for one in (True, False))
    assert set(without.outputs) == {"dk", "dv"}
    assert all(torch.equal(with_dq.outputs[name], without.outputs[name]) for name in ("dk", "dv"))
    assert with_dq.report.counters["mma_flops"] * 4 == without.report.counters["mma_flops"] * 5


BIASED = variant_of(
    ForwardProblem(dtype="fp16", head_dim=40, is_varlen=True, is_local=True, has_bias=True, has_softcap=True),
    *(32, 32, 4, 2),
    warps=(2, 2, 2),
)


@pytest.mark.parametrize("shared", ["batch", "heads", "all"])
def test_the_gradient_of_a_bias_is_added_where_the_bias_was_read(build, shared):
    """By strides of 0 of those that share it; where nobody does, each element has one writer and repeats."""
    [kernel] = build([BIASED])
    module, case = load(kernel.ptx.decode()), make_case(telling(BIASED, bias=shared, softcap=5.0))
    shape = {"batch": (3, 2), "heads": (1, 2), "all": (1, 1)}[shared]
    found = [run(module, BIASED, case, seed=seed) for seed in (1, 2)]
    assert all(faults(one.outputs, case) == [] for one in found)
    dbias = [one.outputs["dbias"] for one in found]
    assert dbias[0].shape[:2] == shape and dbias[0].abs().max() > 0
    assert shared != "batch" or torch.equal(*dbias)
    assert all(torch.equal(found[0].outputs[name], found[1].outputs[name]) for name in ("dk", "dv"))


def test_the_gradient_of_a_bias_is_added_to_what_is_there_and_to_nothing_beside_it(build):
    [kernel] = build([BIASED])
    case = make_case(telling(BIASED, bias="batch", softcap=5.0))
    inputs = inputs_of(case, BIASED)
    batch, heads, queries, keys = inputs["bias"].shape
    held = guarded((heads, batch, queries, keys), torch.float32, torch.device("cpu"))  # any strides
    dbias = held.tensor.fill_(64.0).transpose(0, 1)
    emulated.launch(
        load(kernel.ptx.decode()), emulated.Kernel.of(BIASED), {**inputs, "dbias": dbias}, scalars_of(case, BIASED)
    )
    assert (dbias - 64.0 - case.reference.values["dbias"]).abs().max() < 1e-3
    assert held.is_intact()


def test_without_a_gradient_of_the_bias_the_others_are_the_same(build):
    [kernel] = build([BIASED])
    module, case = load(kernel.ptx.decode()), make_case(telling(BIASED, bias="heads", softcap=5.0))
    done = [run(module, BIASED, case, with_dq=False, with_dbias=one) for one in (True, False)]
    assert all(torch.equal(done[0].outputs[name], done[1].outputs[name]) for name in ("dk", "dv"))
    assert done[1].report.counters["atomics"] == 0 < done[0].report.counters["atomics"]


def visited(mask: torch.Tensor, variant: Variant) -> int:
    """Tiles of a head in which some query sees some key."""
    block_m, block_n = variant.schedule.block_m, variant.schedule.block_n
    rows, columns = (range(0, size, block) for size, block in zip(mask.shape, (block_m, block_n), strict=True))
    return sum(bool(mask[m : m + block_m, n : n + block_n].any()) for m in rows for n in columns)


@pytest.mark.parametrize(("seqlen_q", "seqlen_k"), [(100, 200), (200, 100), (129, 129)])
@pytest.mark.parametrize("window", [None, (0, 0), (40, 0), (31, 33)])
def test_tiles_that_nobody_sees_are_neither_loaded_nor_multiplied(build, seqlen_q, seqlen_k, window):
    local = ForwardProblem(dtype="fp16", head_dim=72, head_dim_v=40, is_local=True)
    problem = local if window else replace(local, is_local=False, is_causal=True)
    offset = torch.arange(seqlen_k) - torch.arange(seqlen_q)[:, None] - (seqlen_k - seqlen_q)
    mask = (offset <= window[1]) & (offset >= -window[0]) if window else offset <= 0
    for kernel in build([variant_of(problem, 32, 32, 2, 2, warps=(2, 2, 2)), variant_of(problem, 32, 32, 2, 1)]):
        variant = kernel.variant
        asked = Problem(
            seqlen_q=seqlen_q,
            seqlen_k=seqlen_k,
            dtype="fp16",
            head_dim=72,
            head_dim_v=40,
            is_causal=problem.is_causal,
            window=window or (-1, -1),
            group=2,
        )
        done = run(load(kernel.ptx.decode()), variant, make_case(asked))
        tiles = 2 * visited(mask, variant)
        # Q K^T, dO V^T and dQ; and dK and dV.
        depth = 72 + 40 + 72 + (72 + 40 if variant.operation == "flash_bwd" else 0)
        assert done.report.counters["mma_flops"] == tiles * 2 * 32 * 32 * depth


@pytest.mark.parametrize("is_causal", [False, True])
def test_tiles_that_a_block_mask_does_not_list_are_neither_loaded_nor_multiplied(build, is_causal):
    """Of three heads on one: each has lists of its own, and some keys are listed for none."""
    problem = replace(SPARSE, is_causal=is_causal)
    for kernel in build([variant_of(problem, 32, 32, 4, 2, warps=(2, 2, 2)), variant_of(problem, 32, 32, 2, 1)]):
        variant = kernel.variant
        case = make_case(telling(variant, seqlen_q=300, seqlen_k=270, group=3, block=(64, 96)), seed=4)
        assert case.block_mask is not None
        mask = case.block_mask.to_dense()[0]
        if is_causal:
            mask = mask & torch.ones(300, 270, dtype=torch.bool).tril(270 - 300)
        done = run(load(kernel.ptx.decode()), variant, case)
        assert faults(done.outputs, case) == []
        # Tiles of a partial block that show nothing are visited: lists are of blocks.
        blocks = torch.zeros_like(mask)
        for row, column in itertools.product(range(0, 300, 64), range(0, 270, 96)):
            at = (slice(row, row + 64), slice(column, column + 96))
            blocks[:, *at] = case.block_mask.to_dense()[0][:, *at].any(2, True).any(1, True)
        if is_causal:
            blocks &= torch.ones(300, 270, dtype=torch.bool).tril(270 - 300)
        tiles = sum(visited(head, variant) for head in blocks)
        depth = 64 * (5 if variant.operation == "flash_bwd" else 3)
        assert done.report.counters["mma_flops"] == tiles * 2 * 32 * 32 * depth
        assert 0 < tiles < 3 * 10 * 9 * (0.6 if is_causal else 0.9)
        if variant.operation == "flash_bwd":
            unseen = ~mask.any(1).any(0)
            assert done.outputs["dk"][0, unseen].abs().sum() == done.outputs["dv"][0, unseen].abs().sum() == 0


def test_keys_that_no_block_lists_and_queries_whose_list_is_empty_get_zeros(build):
    for kernel in build([one for one in KERNELS if one.problem == SPARSE]):
        variant = kernel.variant
        case = make_case(telling(variant, seqlen_q=130, seqlen_k=130, block=(64, 64)))
        assert case.block_mask is not None
        kept = torch.ones(130, 130, dtype=torch.bool)
        kept[:, 64:128] = kept[64:128] = False
        mask = BlockMask.from_dense(kept, 64, 64)
        inputs = inputs_of(case, variant)
        lists = mask.by_keys() if variant.operation == "flash_bwd" else mask.by_queries()
        inputs |= {**lists.tensors(1, 2), "block_bits": mask.bits}
        module = load(kernel.ptx.decode())
        outputs = emulated.launch(module, emulated.Kernel.of(variant), inputs, scalars_of(case, variant)).outputs
        for one in outputs.values():
            assert one[:, 64:128].abs().sum() == 0 and one[:, :64].isfinite().all() and one[:, :64].abs().sum() > 0


@pytest.mark.parametrize("head_dim", [64, 72, 128])
def test_shared_memory_is_read_without_bank_conflicts(build, head_dim):
    problem = ForwardProblem(dtype="bf16", head_dim=head_dim)
    schedules = (default_backward_schedule(86, problem), default_query_gradient_schedule(problem))
    for kernel in build([Variant(sm=80, problem=problem, schedule=one) for one in schedules]):
        case = make_case(telling(kernel.variant, group=1))
        counters = run(load(kernel.ptx.decode()), kernel.variant, case).report.counters
        for kind in ("ldmatrix", "cp_async"):
            assert counters[f"{kind}_wavefronts"] == counters[f"{kind}_wavefronts_ideal"] > 0, kind


@pytest.mark.parametrize("head_dim", [8, 24, 40, 64, 72, 136, 256, 512])
@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_delta_is_the_row_sum_of_the_products(build, head_dim, dtype):
    variant = Variant(
        sm=80,
        problem=ForwardProblem(dtype=dtype, head_dim=head_dim),
        schedule=DeltaSchedule(block_m=48, num_warps=2),
    )
    module = load(build([variant])[0].ptx.decode())
    shape = (2, 19, 3, head_dim)
    out, dout = (
        guarded(shape, TORCH_DTYPES[dtype], torch.device("cpu"), one).tensor for one in ("heads_first", "padded_heads")
    )
    out.copy_(torch.randn(shape)), dout.copy_(torch.randn(shape))
    done = emulated.launch(module, emulated.Kernel.of(variant), {"out": out, "dout": dout}, {})
    expected = (out.double() * dout.double()).sum(-1).mT
    assert (done.outputs["delta"] - expected).abs().max() <= 1e-6 * head_dim


@pytest.mark.parametrize("head_dim", [8, 40, 64, 256])
@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_the_sum_of_dq_is_rounded_as_torch_rounds(build, head_dim, dtype):
    variant = Variant(
        sm=80,
        problem=ForwardProblem(dtype=dtype, head_dim=head_dim),
        schedule=ConvertSchedule(block_m=48, num_warps=2),
    )
    module = load(build([variant])[0].ptx.decode())
    total = torch.randn(2, 19, 3, head_dim)
    dq = guarded(tuple(total.shape), TORCH_DTYPES[dtype], torch.device("cpu"), "heads_first")
    emulated.launch(module, emulated.Kernel.of(variant), {"dq_sum": total, "dq": dq.tensor}, {})
    assert torch.equal(dq.tensor, total.to(TORCH_DTYPES[dtype]))
    assert dq.is_intact()
