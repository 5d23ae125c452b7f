"""Thread blocks that wait on one another: how many are resident, whose turn it is, and waits that never end."""

from __future__ import annotations

import time

import numpy as np
import pytest
from emulator_kernels import kernel, run

from kernelwright import emulator as emu

# %r1 = thread, %r2 = block, %r4 = number of blocks, %rd1 = out, %rd3 = 4 bytes a block in out, %p1: not thread 0
START = (
    "mov.u32 %r1, %tid.x; mov.u32 %r2, %ctaid.x; mov.u32 %r4, %nctaid.x; setp.ne.u32 %p1, %r1, 0;"
    "ld.param.u64 %rd1, [out]; mul.wide.u32 %rd3, %r2, 4; add.s64 %rd3, %rd1, %rd3;\n"
)
BLOCKS = 6
FLAGS, SUMS, COUNTER = 256, 512, 1024  # bytes into out


def launch(body: str, *, grid: int = BLOCKS, block: int = 64, **options: object) -> tuple[np.ndarray, emu.Report]:
    out = np.zeros(512, np.uint32)
    out[:64] = np.arange(64)
    report = run(
        kernel(START + body, before=".shared .align 4 .b8 smem[64];"), [out], grid=grid, block=block, **options
    )
    return out, report


def deadlock(body: str, **options: object) -> emu.Finding:
    started = time.process_time()
    with pytest.raises(emu.EmulatorError) as caught:
        launch(body, **options)
    assert caught.value.report is not None
    (found,) = caught.value.report.findings
    assert found.kind == "deadlock"
    assert time.process_time() - started < 60  # an endless loop would take many minutes to exceed its budget
    return found


# Each block adds its number to the sum of the blocks before it, which the one before passes on with a flag.
LOOK_BACK = (
    "@%p1 bra $end;\nmov.u32 %r5, 0;\nsetp.eq.u32 %p2, %r2, 0;\n@%p2 bra $add;\n"
    f"$wait: ld.acquire.gpu.global.u32 %r6, [%rd3+{FLAGS - 4}];\nsetp.eq.u32 %p3, %r6, 0;\n@%p3 bra $wait;\n"
    f"ld.global.u32 %r5, [%rd3+{SUMS - 4}];\n"
    f"$add: add.u32 %r5, %r5, %r2;\nst.global.u32 [%rd3+{SUMS}], %r5;\nmov.u32 %r7, 1;\n"
    f"st.release.gpu.global.u32 [%rd3+{FLAGS}], %r7;\n$end:\n"
)


@pytest.mark.parametrize("resident_blocks", [None, 1, 3])
@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_a_look_back_scan_runs_in_any_window_and_order(resident_blocks, seed):
    out, report = launch(LOOK_BACK, resident_blocks=resident_blocks, seed=seed)
    assert out[SUMS // 4 : SUMS // 4 + BLOCKS].tolist() == [0, 1, 3, 6, 10, 15]
    assert report.findings == []
    assert report.counters["blocks"] == BLOCKS


# Stream-K's fix-up: all threads of every block but the last store a part, then the last adds the parts.
PART = "mad.lo.u32 %r8, %r2, 64, %r1; mul.wide.u32 %rd4, %r8, 4; add.s64 %rd4, %rd1, %rd4; st.global.u32 [%rd4], %r8;\n"
FIX_UP = (
    "sub.u32 %r9, %r4, 1;\nsetp.eq.u32 %p2, %r2, %r9;\n@%p2 bra $last;\n" + PART + "{meet}"
    f"@%p1 bra $end;\nmov.u32 %r7, 1;\nred.release.gpu.global.add.u32 [%rd1+{COUNTER}], %r7;\nbra $end;\n"
    f"$last:\n@%p1 bra $ready;\n$wait: ld.acquire.gpu.global.u32 %r6, [%rd1+{COUNTER}];\n"
    f"setp.ne.u32 %p3, %r6, %r9;\n@%p3 bra $wait;\n"
    "$ready:\nbar.sync 0;\nmul.wide.u32 %rd4, %r1, 4; add.s64 %rd4, %rd1, %rd4;\n"
    "ld.global.u32 %r10, [%rd4];\nld.global.u32 %r11, [%rd4+256];\nadd.u32 %r10, %r10, %r11;\n"
    "st.global.u32 [%rd4+1536], %r10;\n$end:\n"
)


@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_a_fix_up_by_the_last_block_sees_the_parts_of_the_others(seed):
    out, report = launch(FIX_UP.replace("{meet}", "bar.sync 0;\n"), grid=3, seed=seed)
    assert np.array_equal(out[384:448], np.arange(64) * 2 + 64)
    assert report.findings == []


# All blocks store, meet at a counter, and read what the next one stored.
GRID_BARRIER = (
    f"@%p1 bra $end;\nst.global.u32 [%rd3+{SUMS}], %r2;\nmov.u32 %r7, 1;\n"
    f"atom.acq_rel.gpu.global.add.u32 %r6, [%rd1+{COUNTER}], %r7;\n"
    f"$wait: ld.acquire.gpu.global.u32 %r6, [%rd1+{COUNTER}];\nsetp.lt.u32 %p3, %r6, %r4;\n@%p3 bra $wait;\n"
    "add.u32 %r8, %r2, 1;\nrem.u32 %r8, %r8, %r4;\nmul.wide.u32 %rd4, %r8, 4;\nadd.s64 %rd4, %rd1, %rd4;\n"
    f"ld.global.u32 %r9, [%rd4+{SUMS}];\nst.global.u32 [%rd3], %r9;\n$end:\n"
)


@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_a_grid_barrier_passes_when_all_blocks_are_resident(seed):
    out, report = launch(GRID_BARRIER, seed=seed)
    assert out[:BLOCKS].tolist() == [1, 2, 3, 4, 5, 0]
    assert report.findings == []


def test_a_grid_barrier_of_many_blocks_needs_no_setting():
    _, report = launch(GRID_BARRIER.replace(f"+{COUNTER}", "+2000"), grid=60)
    assert report.findings == []


@pytest.mark.parametrize("seed", [0, 1])
def test_a_grid_barrier_of_more_blocks_than_are_resident_is_a_deadlock_that_says_so(seed):
    found = deadlock(GRID_BARRIER, resident_blocks=4, seed=seed)
    assert "4 of 6 blocks are resident, as many as resident_blocks=4 allows" in found.text
    assert "blocks from number 4 on have not started" in found.text
    assert "launch it cooperatively" in found.text
    assert found.text.count("warp 0 spins at PTX line") == 4
    assert "`ld.acquire.gpu" in found.text
    assert "Block (3, 0, 0): warp 0 spins" in found.text


def test_the_window_is_what_the_emulated_device_holds():
    emu.configure(sms=2, max_blocks_per_sm=2)
    try:
        assert "4 of 6 blocks are resident, as many as resident_blocks=4" in deadlock(GRID_BARRIER).text
        emu.configure(max_blocks_per_sm=32, max_threads_per_sm=64)
        assert "2 of 6 blocks are resident" in deadlock(GRID_BARRIER).text
        emu.configure(max_threads_per_sm=2048, smem_per_sm=3 * (64 + 1024))
        launch(GRID_BARRIER, shared_bytes=64)
        emu.configure(smem_per_sm=3 * (64 + 1024) - 1)
        assert "4 of 6 blocks are resident" in deadlock(GRID_BARRIER, shared_bytes=64).text
    finally:
        emu.configure(sms=108, max_blocks_per_sm=32, max_threads_per_sm=2048, smem_per_sm=167936)


FIRST_WAITS = (
    "@%p1 bra $end;\nsetp.eq.u32 %p2, %r2, 0;\n@%p2 bra $wait;\nmov.u32 %r7, 1;\n"
    f"st.volatile.global.u32 [%rd1+{COUNTER}], %r7;\nbra $end;\n"
    f"$wait: ld.volatile.global.u32 %r6, [%rd1+{COUNTER}];\nsetp.eq.u32 %p3, %r6, 0;\n@%p3 bra $wait;\n$end:\n"
)


def test_a_block_that_waits_for_a_later_one_needs_both_resident():
    assert "1 of 2 blocks is resident" in deadlock(FIRST_WAITS, grid=2, resident_blocks=1).text
    for seed in range(4):
        _, report = launch(FIRST_WAITS, grid=2, resident_blocks=2, seed=seed)
        assert report.findings == []


def test_a_flag_that_no_block_sets_is_a_deadlock_of_all():
    text = deadlock(
        FIRST_WAITS.replace("st.volatile.global.u32 [%rd1+1024]", "st.volatile.global.u32 [%rd1+2000]"), grid=2
    ).text
    assert "1 of 2 blocks is resident, and all have started" in text


def test_a_lock_that_is_never_released_is_a_deadlock():
    lock = (
        f"@%p1 bra $end;\n$wait: atom.global.cas.b32 %r6, [%rd1+{COUNTER}], 0, 1;\nsetp.ne.u32 %p3, %r6, 0;\n"
        f"@%p3 bra $wait;\n$end:\n"
    )
    text = deadlock(lock, grid=3).text
    assert "Block (1, 0, 0): warp 0 spins" in text and "Block (2, 0, 0): warp 0 spins" in text
    unlock = f"mov.u32 %r8, 0;\nst.release.gpu.global.u32 [%rd1+{COUNTER}], %r8;\n$end:"
    assert launch(lock.replace("$end:", unlock), grid=3)[1].findings == []


def test_a_spin_on_a_shared_flag_that_nobody_sets_names_the_spinning_and_the_waiting_warp():
    body = (
        "mov.u32 %r5, smem;\nmov.u32 %r7, 0;\nst.volatile.shared.u32 [%r5], %r7;\nbar.sync 0;\n"
        "setp.lt.u32 %p2, %r1, 32;\n@%p2 bra $meet;\n"
        "$wait: ld.volatile.shared.u32 %r6, [%r5];\nsetp.eq.u32 %p3, %r6, 0;\n@%p3 bra $wait;\n$meet:\nbar.sync 0;\n"
    )
    found = deadlock(body, grid=1)
    assert "warp 0 waits at" in found.text and "(barrier 0: 32 of 64 threads have arrived)" in found.text
    assert "warp 1 spins at PTX line" in found.text and "`ld.volatile.shared" in found.text
    assert found.warp == 1


def test_a_long_computation_while_another_block_waits_is_no_deadlock():
    work = "mov.u32 %r10, 0;\n$work: add.u32 %r10, %r10, 1;\nsetp.lt.u32 %p4, %r10, 3000000;\n@%p4 bra $work;\n"
    body = FIRST_WAITS.replace("mov.u32 %r7, 1;\n", work + "mov.u32 %r7, 1;\n")
    _, report = launch(body, grid=2, checks="none", seed=0, block=32)
    assert report.counters["blocks"] == 2


def test_a_wait_that_gives_up_after_many_tries_is_no_deadlock():
    body = FIRST_WAITS.replace(
        "@%p3 bra $wait", "add.u32 %r9, %r9, 1;\nsetp.lt.and.u32 %p3, %r9, 100000, %p3;\n@%p3 bra $wait"
    )
    body = "mov.u32 %r9, 0;\n" + body.replace(
        "st.volatile.global.u32 [%rd1+1024]", "st.volatile.global.u32 [%rd1+2000]"
    )
    assert launch(body, grid=2)[1].findings == []


def test_blocks_without_global_synchronisation_run_one_after_another_whatever_the_window():
    body = (
        "@%p1 bra $end;\nst.global.u32 [%rd3], %r2;\nld.global.u32 %r5, [%rd3+4];\n"
        "st.global.u32 [%rd3+512], %r5;\n$end:\n"
    )
    out, _ = launch(body, checks="none", seed=3)
    assert out[128 : 128 + BLOCKS].tolist() == [1, 2, 3, 4, 5, 6]  # the later block's own number is not there yet


def test_a_window_of_no_blocks_is_refused():
    with pytest.raises(emu.EmulatorError, match="resident_blocks must be a count"):
        launch(GRID_BARRIER, resident_blocks=0)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_release_by_one_thread_does_not_pass_on_the_stores_of_threads_it_has_not_met(seed):
    with pytest.raises(emu.EmulatorError) as caught:
        launch(FIX_UP.replace("{meet}", ""), grid=3, seed=seed)
    assert caught.value.report is not None
    found = caught.value.report.findings[0]
    assert found.kind == "global_race"
    assert "a barrier (__syncthreads()) is missing" in found.text


def test_threads_that_did_not_meet_the_thread_that_waited_are_found_too():
    with pytest.raises(emu.EmulatorError, match="nothing orders the two"):
        launch(FIX_UP.replace("{meet}", "bar.sync 0;\n").replace("$ready:\nbar.sync 0;\n", "$ready:\n"), grid=3)


def test_a_sync_of_the_warp_is_enough_for_what_the_warp_stored():
    for sync, ordered in (("bar.warp.sync 0xffffffff;\n", True), ("", False)):
        body = FIX_UP.replace("{meet}", sync).replace("$ready:\nbar.sync 0;", "$ready:\nbar.warp.sync 0xffffffff;")
        report = launch(body, grid=3, block=32, on_finding="collect")[1]
        assert bool(report.findings) is not ordered


def test_a_release_passes_on_what_other_threads_had_released_to_its_own():
    """Warp 1 stores and tells warp 0 by an atomic in global memory; warp 0 tells block 1."""
    body = (
        "mov.u32 %r7, 1;\nsetp.eq.u32 %p2, %r2, 1;\n@%p2 bra $reader;\nsetp.eq.u32 %p3, %r1, 32;\n"
        "@%p3 bra $store;\n@%p1 bra $end;\n"
        f"$own: ld.acquire.gpu.global.u32 %r6, [%rd1+{FLAGS}];\nsetp.eq.u32 %p4, %r6, 0;\n@%p4 bra $own;\n"
        f"st.release.gpu.global.u32 [%rd1+{COUNTER}], %r7;\nbra $end;\n"
        f"$store: st.global.u32 [%rd1], %r1;\nst.release.gpu.global.u32 [%rd1+{FLAGS}], %r7;\nbra $end;\n"
        f"$reader:\n@%p1 bra $end;\n$wait: ld.acquire.gpu.global.u32 %r6, [%rd1+{COUNTER}];\n"
        f"setp.eq.u32 %p4, %r6, 0;\n@%p4 bra $wait;\n"
        "ld.global.u32 %r5, [%rd1];\n$end:\n"
    )
    for seed in range(3):
        assert launch(body, grid=2, seed=seed)[1].findings == []
    not_told = body.replace(f"st.release.gpu.global.u32 [%rd1+{FLAGS}]", "st.release.gpu.global.u32 [%rd1+1600]")
    not_told = not_told.replace("$own: ld.acquire", "bra $past;\n$own: ld.acquire").replace(
        "@%p4 bra $own;\nst.rel", "@%p4 bra $own;\n$past: st.rel"
    )
    with pytest.raises(emu.EmulatorError, match="global_race"):
        launch(not_told, grid=2)
