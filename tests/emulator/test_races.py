"""Races on shared memory: each planted one is found under every order of warps, and correct exchanges never are."""

from __future__ import annotations

import numpy as np
import pytest
from emulator_kernels import kernel, run

from kernelwright import emulator as emu

SMEM = ".shared .align 128 .b8 smem[4096];"
# %r1 = thread, %r2 = its 4 bytes of smem, %r3 = its lane, %r4 = its warp, %rd2 = its 4 bytes of `out`
START = (
    "mov.u32 %r1, %tid.x; mov.u32 %r2, smem; shl.b32 %r5, %r1, 2; add.s32 %r2, %r2, %r5;"
    "and.b32 %r3, %r1, 31; shr.u32 %r4, %r1, 5;"
    "ld.param.u64 %rd1, [out]; mul.wide.u32 %rd2, %r1, 4; add.s64 %rd2, %rd1, %rd2;\n"
)
WRITE_OWN = "st.shared.u32 [%r2], %r1;\n"
READ_OWN = "ld.shared.u32 %r6, [%r2];\n"


def read_of(distance: int) -> str:
    """Read what the thread wrote whose number differs in this bit."""
    return (
        f"xor.b32 %r7, %r1, {distance}; shl.b32 %r7, %r7, 2; mov.u32 %r8, smem; add.s32 %r7, %r7, %r8;"
        "ld.shared.u32 %r6, [%r7];\n"
    )


READ_NEXT_LANE, READ_NEXT_WARP = read_of(1), read_of(32)
OUT = "st.global.u32 [%rd2], %r6;\n"
SEEDS = range(6)


def launch(body: str, *, seed: int = 0, block: int = 64) -> emu.Report:
    return run(kernel(START + body, before=SMEM), [np.zeros(1024, np.uint32)], block=block, seed=seed)


def race(body: str, *, block: int = 64) -> str:
    """The text of the race in `body`. Every order of warps finds it, whatever other check comes first in some."""
    text = ""
    for seed in SEEDS:
        with pytest.raises(emu.EmulatorError) as caught:
            launch(body, seed=seed, block=block)
        assert caught.value.report is not None
        found = caught.value.report.findings[0]
        assert found.kind in ("race", "uninitialised_read", "async_read", "async_write")
        text = found.text if found.kind == "race" else text
    return text


def is_clean(body: str, *, block: int = 64) -> None:
    for seed in SEEDS:
        assert launch(body, seed=seed, block=block).findings == []


def test_ldmatrix_reads_for_all_lanes_at_once_where_plain_loads_do_not():
    """The edge "ldmatrix" of gen/redundant_syncs.py. Both give a lane its own word, which its neighbour then writes."""
    ldmatrix = (
        "and.b32 %r7, %r1, 7; shl.b32 %r7, %r7, 4; shl.b32 %r8, %r4, 7; add.s32 %r7, %r7, %r8; mov.u32 %r8, smem;"
        "add.s32 %r7, %r7, %r8; ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%r6}, [%r7];\n"
    )
    before, after = (
        WRITE_OWN + "bar.warp.sync -1;\n",
        READ_NEXT_LANE.replace("ld.shared.u32 %r6, [%r7]", "st.shared.u32 [%r7], %r6"),
    )
    is_clean(before + ldmatrix + after)
    assert "wrote" not in race(before + READ_OWN + after)
    is_clean(before + READ_OWN + "bar.warp.sync -1;\n" + after)


def test_warps_exchange_through_a_barrier():
    is_clean(WRITE_OWN + "bar.sync 0;\n" + READ_NEXT_WARP + OUT)


def test_an_exchange_between_warps_without_a_barrier_is_found():
    text = race("st.shared.u32 [%r2], 0; bar.sync 0;\n" + WRITE_OWN + READ_NEXT_WARP + OUT)
    assert "nothing orders the two" in text and "__syncthreads()" in text and "shared.u32" in text


def test_a_buffer_used_again_too_early_is_found():
    loop = WRITE_OWN + "bar.sync 0;\n" + READ_NEXT_WARP
    race(loop + WRITE_OWN)
    is_clean(loop + "bar.sync 0;\n" + WRITE_OWN)


def test_lanes_of_a_warp_need_a_warp_barrier():
    assert "__syncwarp()" in race(WRITE_OWN + READ_NEXT_LANE + OUT, block=32)
    is_clean(WRITE_OWN + "bar.warp.sync -1;\n" + READ_NEXT_LANE + OUT, block=32)


def test_a_shuffle_is_no_warp_barrier():
    race(WRITE_OWN + "shfl.sync.bfly.b32 %r9, %r1, 1, 31, -1;\n" + READ_NEXT_LANE + OUT, block=32)


def test_a_warp_barrier_of_some_lanes_orders_those_alone():
    # Pairs of lanes below 16 exchange; the upper half does not take part.
    lower = "setp.ge.u32 %p1, %r3, 16;\n@%p1 bra $end;\n"
    sync = "bar.warp.sync 0x0000ffff;\n"
    is_clean(WRITE_OWN + lower + sync + READ_NEXT_LANE + OUT + "$end:\n", block=32)
    race(WRITE_OWN + lower + sync + read_of(16) + OUT + "$end:\n", block=32)


def test_knowledge_passes_through_a_lane_that_takes_part_in_two_warp_barriers():
    # Lane 0 and 1 synchronise, then 1 and 2: lane 2 comes after what lane 0 wrote.
    body = (
        WRITE_OWN
        + "setp.gt.u32 %p1, %r3, 2;\n@%p1 bra $end;\nsetp.eq.u32 %p2, %r3, 2;\n@%p2 bra $second;\nbar.warp.sync 3;\n"
        + "setp.eq.u32 %p3, %r3, 0;\n@%p3 bra $end;\n$second:\nbar.warp.sync 6;\n"
        + "setp.ne.u32 %p4, %r3, 2;\n@%p4 bra $end;\nld.shared.u32 %r6, [smem];\n"
        + OUT
        + "$end:\n"
    )
    is_clean(body, block=32)


def test_named_barriers_order_producers_before_consumers():
    body = (
        "setp.ge.u32 %p1, %r1, 32;\n@%p1 bra $consumer;\n"
        + WRITE_OWN
        + "bar.arrive 1, 64;\nbra $end;\n$consumer:\n{wait}"
        + READ_NEXT_WARP
        + OUT
        + "$end:\n"
    )
    is_clean(body.replace("{wait}", "bar.sync 1, 64;\n"))
    # The producer arrives and writes again: its arrival does not wait for the reader.
    again = body.replace("bar.arrive 1, 64;\n", "bar.arrive 1, 64;\n" + WRITE_OWN)
    race(again.replace("{wait}", "bar.sync 1, 64;\n"))


def test_neighbouring_bytes_are_different_places():
    body = "mov.u32 %r10, smem; add.s32 %r10, %r10, %r1; cvt.u16.u32 %rs1, %r1; st.shared.u8 [%r10], %rs1;\n"
    is_clean(body)
    is_clean(body + "ld.shared.u8 %rs2, [%r10];\n")
    race(body + "ld.shared.u8 %rs2, [smem+40];\n")


def test_lanes_that_store_to_one_place_in_one_instruction_are_let_be():
    is_clean("st.shared.u32 [smem], 7;\n", block=32)
    race("st.shared.u32 [smem], 7;\n")  # two warps


def test_atomics_do_not_race_with_one_another():
    zero = "setp.eq.u32 %p1, %r1, 0;\n@%p1 st.shared.u32 [smem], 0;\nbar.sync 0;\n"
    add = "atom.shared.add.u32 %r9, [smem], 1;\n"
    is_clean(zero + add + "bar.sync 0;\nld.shared.u32 %r6, [smem];\n" + OUT)


FLAG = "mov.u32 %r11, smem; setp.eq.u32 %p1, %r1, 0;\n@%p1 st.shared.u32 [%r11+2048], 0;\nbar.sync 0;\n"
SPIN = "$spin:\nld.acquire.cta.shared.u32 %r9, [%r11+2048]; setp.eq.u32 %p3, %r9, 0;\n@%p3 bra $spin;\n"


def handshake(between: str, *, released: str = "%p2") -> str:
    """Warp 0 writes, one lane of it raises a flag, warp 1 waits for the flag and reads what warp 0 wrote."""
    return (
        FLAG
        + "setp.ge.u32 %p4, %r1, 32;\n@%p4 bra $reader;\n"
        + WRITE_OWN
        + between
        + f"setp.eq.u32 %p2, %r3, 0;\n@{released} st.release.cta.shared.u32 [%r11+2048], 1;\nbra $end;\n$reader:\n"
        + SPIN
        + READ_NEXT_WARP
        + OUT
        + "$end:\n"
    )


def test_a_flag_orders_what_its_warp_had_synchronised():
    is_clean(handshake("bar.warp.sync -1;\n"))


def test_one_lane_that_releases_for_its_warp_without_a_warp_barrier_is_found():
    # All lanes write, one raises the flag: the others' writes are not released by it.
    race(handshake(""))


def test_copies_race_from_their_issue_and_count_as_writes_once_waited_for():
    copy = (
        "mov.u32 %r12, smem; shl.b32 %r13, %r1, 4; add.s32 %r12, %r12, %r13;"
        "mul.wide.u32 %rd3, %r1, 16; add.s64 %rd3, %rd1, %rd3;"
        "cp.async.cg.shared.global [%r12], [%rd3], 16;\ncp.async.commit_group;\n"
    )
    wait, barrier = "cp.async.wait_group 0;\n", "bar.sync 0;\n"
    read = READ_NEXT_WARP.replace("%r7, 2;", "%r7, 4;")
    is_clean(copy + wait + barrier + read + OUT)
    race(copy + barrier.replace("0", "1") + wait + read + OUT)  # the barrier comes before the wait
    race(copy + wait + barrier + read + copy + wait)  # the next copy starts while others may still read
    is_clean(copy + wait + barrier + read + barrier + copy + wait)


def test_the_check_can_be_left_out():
    body = "st.shared.u32 [%r2], 0; bar.sync 0;\n" + WRITE_OWN + READ_NEXT_WARP + OUT
    text, out = kernel(START + body, before=SMEM), np.zeros(1024, np.uint32)
    assert run(text, [out], block=64, checks={"memory", "init", "async", "barrier"}).findings == []
