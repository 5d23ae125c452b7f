"""Each check finds the bug planted for it, says where, and leaves correct kernels alone."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from emulator_kernels import PTX, Flash, kernel, run

from kernelwright import emulator as emu

SMEM = ".shared .align 128 .b8 smem[1024];"
# %r1 = thread, %r2 = its 16 bytes of smem, %rd2 = its 16 bytes of `out`
START = (
    "mov.u32 %r1, %tid.x; ld.param.u64 %rd1, [out]; mul.wide.u32 %rd2, %r1, 16; add.s64 %rd2, %rd1, %rd2;"
    "mov.u32 %r2, smem; shl.b32 %r3, %r1, 4; add.s32 %r2, %r2, %r3;\n"
)
COPY = "cp.async.cg.shared.global [%r2], [%rd2], 16;\ncp.async.commit_group;\n"
READ = "ld.shared.u32 %r5, [%r2];\nst.global.u32 [%rd2], %r5;"


def finding(body: str, kind: str, *, block: int = 32, size: int = 256, **launch: object) -> emu.Finding:
    with pytest.raises(emu.EmulatorError) as caught:
        run(kernel(START + body, before=SMEM), [np.arange(size, dtype=np.uint32)], block=block, **launch)
    assert caught.value.report is not None
    found = caught.value.report.findings[0]
    assert found.kind == kind
    assert f"{kind} in kernel k at PTX line {found.ptx_line} `" in str(caught.value)
    return found


def test_a_correct_asynchronous_copy_has_no_finding():
    values = np.arange(256, dtype=np.uint32)
    report = run(kernel(START + COPY + "cp.async.wait_group 0;" + READ, before=SMEM), [values])
    assert report.findings == []
    assert report.counters["cp_async_bytes"] == 512


def test_reading_before_the_wait_is_found_and_the_missing_wait_named():
    found = finding(COPY + READ, "async_read")
    assert "cp.async.wait_group 0" in found.text


def test_waiting_for_too_few_groups_is_found():
    second = "cp.async.cg.shared.global [%r2+512], [%rd2], 16;\ncp.async.commit_group;\n"
    found = finding(COPY + second + "cp.async.wait_group 2;" + READ, "async_read")
    assert "wait_group 1" in found.text
    values = np.arange(256, dtype=np.uint32)
    run(kernel(START + COPY + second + "cp.async.wait_group 1;" + READ, before=SMEM), [values])


def test_an_uncommitted_copy_is_not_covered_by_a_wait():
    copy = COPY.replace("cp.async.commit_group;", "")
    assert "no committed group" in finding(copy + "cp.async.wait_group 0;" + READ, "async_read").text


def test_storing_over_a_copy_in_flight_is_found():
    finding(COPY + "st.shared.u32 [%r2], %r1;", "async_write")


def test_without_checks_copies_are_still_right():
    values = np.arange(256, dtype=np.uint32)
    run(kernel(START + COPY + READ.replace("[%rd2], %r5", "[%rd2+4], %r5"), before=SMEM), [values], checks="none")
    assert np.array_equal(values[1:128:4], values[0:128:4])


def test_a_source_size_of_zero_fills_with_zeros_and_may_point_anywhere():
    body = (
        "mov.b64 %rd5, 16; mov.u32 %r9, 0; cp.async.cg.shared.global [%r2], [%rd5], 16, %r9; cp.async.wait_all;" + READ
    )
    values = np.ones(256, dtype=np.uint32)
    run(kernel(START + body, before=SMEM), [values])
    assert np.array_equal(values[0:128:4], np.zeros(32))


def test_reading_unwritten_shared_memory_is_found_by_the_byte():
    assert "which no thread" in finding(READ, "uninitialised_read").text
    half = "mov.b32 {%rs1, %rs2}, %r1; st.shared.b16 [%r2], %rs1;\n"
    assert "byte 2 " in finding(half + READ, "uninitialised_read").text


def test_a_global_access_past_the_end_is_found_with_its_place():
    found = finding("ld.global.u32 %r5, [%rd2+64];", "out_of_bounds", size=128)
    assert (found.warp, found.lane, found.block) == (0, 28, (0, 0, 0))
    assert "0 bytes past the end of the nearest array (512 bytes)" in found.text


@pytest.mark.parametrize(
    "access", ["ld.global.v4.u32 {%r5, %r6, %r7, %r8}, [%rd5];", "red.global.add.u32 [%rd5+12], 1;"]
)
@pytest.mark.parametrize("lanes", ["@%p1 ", ""])
def test_an_access_whose_end_wraps_around_the_address_space_is_found(access, lanes):
    body = "mov.b64 %rd5, %rd2; setp.eq.u32 %p1, %r1, 31; " + lanes + "mov.b64 %rd5, -16; " + access
    finding(body, "out_of_bounds")


def test_an_undeclared_or_read_only_array_is_found():
    finding("mov.b64 %rd5, 4096; st.global.u32 [%rd5], %r1;", "out_of_bounds")
    values = np.arange(256, dtype=np.uint32)
    text = kernel(START + "st.global.u32 [%rd2], %r1;", before=SMEM)
    with pytest.raises(emu.EmulatorError, match="declared read-only"):
        run(text, [emu.Memory(array=values, access="read")])


def test_reading_an_output_before_writing_it_is_found():
    text = kernel(START + "ld.global.u32 %r5, [%rd2]; st.global.u32 [%rd2], %r5;", before=SMEM)
    values = np.arange(256, dtype=np.uint32)
    with pytest.raises(emu.EmulatorError, match="uninitialised_read"):
        run(text, [emu.Memory(array=values, initialised=False)])
    text = kernel(START + "st.global.u32 [%rd2], %r1; ld.global.u32 %r5, [%rd2];", before=SMEM)
    run(text, [emu.Memory(array=values, initialised=False)])


def test_a_misaligned_access_is_found():
    finding("ld.global.u32 %r5, [%rd2+2];", "misaligned")
    finding("st.shared.u32 [%r2+2], %r1;", "misaligned")


def test_shared_memory_out_of_bounds_is_an_error_even_without_checks():
    finding("st.shared.u32 [%r2+1024], %r1;", "out_of_bounds")
    finding("st.shared.u32 [%r2+1024], %r1;", "out_of_bounds", checks="none")


def test_a_barrier_with_a_wrong_count_deadlocks_and_every_waiting_line_is_named():
    body = "setp.lt.u32 %p1, %r1, 32;\n@%p1 bra $first;\nbar.sync 1, 64;\nbra $end;\n$first:\nbar.sync 2, 64;\n$end:"
    found = finding(body, "deadlock", block=64)
    assert "warp 0 waits at" in found.text
    assert "warp 1 waits at" in found.text
    assert "32 of 64 threads have arrived" in found.text
    different = (
        "setp.lt.u32 %p1, %r1, 32;\n@%p1 bra $first;\nbar.sync 1, 64;\nbra $end;\n$first:\nbar.sync 1, 96;\n$end:"
    )
    assert "96 threads" in finding(different, "barrier", block=96).text


def test_a_barrier_inside_a_branch_some_lanes_take_is_found():
    finding("setp.lt.u32 %p1, %r1, 7;\n@%p1 bra $end;\nbar.sync 0;\n$end:", "divergent_barrier")


def test_a_barrier_some_warps_never_reach_is_found():
    finding("setp.lt.u32 %p1, %r1, 32;\n@%p1 ret;\nbar.sync 0;", "exited_warp", block=64)


def test_named_barriers_and_arrivals_order_producer_and_consumer():
    body = (
        "setp.ge.u32 %p1, %r1, 32;\n@%p1 bra $consume;\nst.shared.u32 [%r2], %r1; bar.arrive 3, 64;\nbra $end;\n"
        "$consume:\nbar.sync 3, 64; ld.shared.u32 %r5, [%r2+-512]; st.global.u32 [%rd2], %r5;\n$end:"
    )
    values = np.zeros(256, np.uint32)
    for seed in range(8):
        run(kernel(START + body, before=SMEM), [values], block=64, seed=seed)
        assert np.array_equal(values[128::4], np.arange(32))


def test_a_shuffle_in_a_divergent_branch_is_found():
    body = "setp.lt.u32 %p1, %r1, 7;\n@%p1 bra $end;\nshfl.sync.bfly.b32 %r5, %r1, 1, 31, -1;\n$end:"
    finding(body, "divergent_warp")


def test_an_endless_loop_runs_out_of_its_budget():
    found = finding("$again:\nbra $again;", "instruction_budget", max_instructions=10000)
    assert "max_instructions=10000" in found.text


def test_lanes_that_wait_for_their_neighbours_do_not_starve_them():
    body = (
        "setp.ne.u32 %p1, %r1, 31;\nst.shared.u32 [smem], 0;\nbar.warp.sync -1;\n@!%p1 bra $write;"
        "\n$spin:\nld.volatile.shared.u32 %r5, [smem];"
        "setp.eq.u32 %p2, %r5, 0;\n@%p2 bra $spin;\nbra $end;\n$write:\nst.volatile.shared.u32 [smem], 1;\n$end:"
    )
    run(kernel(START + body, before=SMEM), [np.zeros(256, np.uint32)], max_instructions=1_000_000)


def test_warps_that_wait_for_one_another_all_get_their_turn():
    body = (
        "setp.eq.u32 %p1, %r1, 0; @%p1 st.shared.u32 [smem], 0; bar.sync 0; "
        "setp.ge.u32 %p1, %r1, 32;\n@%p1 bra $write;\n"
        "$spin:\nld.volatile.shared.u32 %r5, [smem];setp.eq.u32 %p2, %r5, 0;\n@%p2 bra $spin;\nbra $end;\n"
        "$write:\nst.volatile.shared.u32 [smem], 1;\n$end:"
    )
    run(kernel(START + body, before=SMEM), [np.zeros(256, np.uint32)], block=64, max_instructions=1_000_000)


def test_collected_findings_do_not_stop_the_launch():
    body = "ld.global.u32 %r5, [%rd2+4096]; ld.shared.u32 %r6, [%r2]; st.global.u32 [%rd2], 7;"
    values = np.zeros(256, np.uint32)
    report = run(kernel(START + body, before=SMEM), [values], on_finding="collect")
    assert [f.kind for f in report.findings] == ["out_of_bounds", "uninitialised_read"]
    assert np.array_equal(values[0:128:4], np.full(32, 7))


def test_one_check_can_be_left_out():
    values = np.zeros(256, np.uint32)
    run(kernel(START + READ, before=SMEM), [values], checks={"memory", "async", "barrier"})


@pytest.fixture(scope="module")
def flash() -> emu.Module:
    return emu.load(PTX / "flash_fwd.ptx")


def without(text: str, instruction: str, nth: int) -> str:
    """The text with the n-th `instruction` turned into a comment, as a forgotten line would be."""
    parts = text.split(instruction)
    return instruction.join(parts[: nth + 1]) + "// " + instruction + instruction.join(parts[nth + 1 :])


def test_a_forgotten_wait_in_a_real_kernel_is_found_with_its_cuda_line():
    text = (PTX / "flash_fwd.ptx").read_text()
    broken = emu.load(without(text, "cp.async.wait_group 2;", 0))
    with pytest.raises(emu.EmulatorError) as caught:
        Flash(1, 1, 1, 128, 128).launch(broken)
    assert caught.value.report is not None
    found = caught.value.report.findings[0]
    assert found.kind == "async_read"
    assert found.cuda_file == "flash_fwd.cu"
    assert found.cuda_line > 0


SYNCHRONISATION = re.compile(r"(cp\.async\.wait_group \d+;|cp\.async\.commit_group;|bar\.sync \t?0;)")
# In order of the text: the first commit only merges two groups that are waited for together, and what follows the last
# wait stays inside a warp. Without either the kernel is still right.
NEEDED = [False, True, True, True, True, True, True, False]


@pytest.mark.parametrize(("index", "is_needed"), list(enumerate(NEEDED)))
def test_every_synchronisation_that_is_needed_is_missed_when_gone(index, is_needed):
    text = (PTX / "flash_fwd.ptx").read_text()
    places = [match.start() for match in SYNCHRONISATION.finditer(text)]
    assert len(places) == len(NEEDED)
    module = emu.load(text[: places[index]] + "//" + text[places[index] :])
    kinds = set()
    for seed in range(4):
        for shape in ((1, 1, 1, 128, 128), (1, 1, 1, 64, 320)):
            try:
                Flash(*shape).launch(module, seed=seed)
            except emu.EmulatorError as error:
                assert error.report is not None
                kinds.add(error.report.findings[0].kind)
    assert bool(kinds) == is_needed


def test_an_unguarded_tail_in_a_real_kernel_is_found(flash):
    problem = Flash(1, 1, 1, 128, 128)
    problem.k = problem.k[:, :100]  # the kernel still believes in 128 keys
    with pytest.raises(emu.EmulatorError, match=r"out_of_bounds in kernel flash_fwd at PTX line \d+ `cp.async"):
        problem.launch(flash)


INTERRUPT = """
import sys
sys.path.insert(0, sys.argv[1])
import numpy as np
from emulator_kernels import kernel, run
print("ready", flush=True)
try:
    run(kernel("$again:\\nbra $again;"), [np.zeros(4, np.uint32)], max_instructions=0)
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


def test_ctrl_c_ends_a_launch():
    folder = os.path.dirname(__file__)  # noqa: PTH120
    child = subprocess.Popen([sys.executable, "-c", INTERRUPT, folder], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    time.sleep(0.5)
    child.send_signal(signal.SIGINT)
    assert child.communicate(timeout=30)[0] == "interrupted\n"
    assert child.returncode == 0


@pytest.mark.parametrize(
    "misuse",
    ["mov.u32 %r9, 16; bar.sync %r9;\n", "mov.u32 %r9, 31; bar.sync 0, %r9;\n", "and.b32 %r9, %r1, 1; bar.sync %r9;\n"],
)
def test_misused_barriers_are_reported_by_their_check_alone(misuse):
    finding(misuse, "barrier")
    others = {"memory", "init", "async", "race"}
    report = run(kernel(START + misuse, before=SMEM), [np.zeros(256, np.uint32)], checks=others)
    assert report.findings == []
