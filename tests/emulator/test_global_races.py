"""Races on global memory between thread blocks, which run in any order on hardware."""

from __future__ import annotations

import numpy as np
import pytest
from emulator_kernels import kernel, run

from kernelwright import emulator as emu

# %r1 = thread, %r2 = block, %rd1 = out, %rd2 = 4 bytes a thread of the grid in out, 32 threads a block
START = (
    "mov.u32 %r1, %tid.x; mov.u32 %r2, %ctaid.x; mad.lo.s32 %r3, %r2, 32, %r1;"
    "ld.param.u64 %rd1, [out]; mul.wide.u32 %rd2, %r3, 4; add.s64 %rd2, %rd1, %rd2;\n"
)
LEADER = "setp.ne.u32 %p1, %r1, 0;\n@%p1 bra $end;\n"
COUNTER = 1024  # bytes into out


def launch(body: str, *, grid: int = 4, **options: object) -> emu.Report:
    return run(kernel(START + body + "$end:\n"), [np.zeros(1024, np.uint32)], grid=grid, **options)


def race(body: str) -> str:
    with pytest.raises(emu.EmulatorError) as caught:
        launch(body)
    assert caught.value.report is not None
    assert caught.value.report.findings[0].kind == "global_race"
    return caught.value.report.findings[0].text


def test_blocks_that_keep_to_their_own_part_are_clean():
    assert launch("st.global.u32 [%rd2], %r1; ld.global.u32 %r5, [%rd2];").findings == []


def test_two_blocks_that_store_to_one_place_are_found():
    text = race("st.global.u32 [%rd1], %r2;")
    assert "block (0, 0, 0) wrote" in text and "any order" in text


def test_reading_what_another_block_wrote_is_found():
    assert "reads" in race("st.global.u32 [%rd2], %r1; ld.global.u32 %r5, [%rd1];")


def test_writing_what_another_block_read_is_found():
    first_reads = "setp.eq.u32 %p2, %r2, 0;\n@%p2 ld.global.u32 %r5, [%rd1+128];\n@!%p2 st.global.u32 [%rd2], %r1;"
    assert "block (0, 0, 0) read at" in race(first_reads)


def test_halves_of_a_word_are_different_places():
    body = "mul.wide.u32 %rd3, %r2, 2; add.s64 %rd3, %rd1, %rd3; cvt.u16.u32 %rs1, %r2; st.global.u16 [%rd3], %rs1;"
    assert launch(LEADER + body).findings == []


def test_atomics_of_many_blocks_are_no_race_and_mixing_them_with_loads_is():
    add = "red.global.add.u32 [%rd1], 1;\n"
    assert launch(add).findings == []
    race(add + "ld.global.u32 %r5, [%rd1];")


LAST_BLOCK = (
    LEADER
    + "mul.wide.u32 %rd3, %r2, 4; add.s64 %rd3, %rd1, %rd3; st.global.u32 [%rd3], %r2;\n{fence}"
    + f"atom.global.add.u32 %r6, [%rd1+{COUNTER}], 1;\nsetp.ne.u32 %p2, %r6, 3;\n@%p2 bra $end;\n"
    + "ld.global.u32 %r5, [%rd1]; ld.global.u32 %r5, [%rd1+4]; st.global.u32 [%rd1+512], %r5;\n"
)


def test_the_last_block_may_read_what_the_others_released():
    assert launch(LAST_BLOCK.replace("{fence}", "fence.acq_rel.gpu;\n")).findings == []


def test_a_store_after_the_release_is_not_released():
    late = f"atom.global.add.u32 %r6, [%rd1+{COUNTER}], 1;\n"
    store = "mul.wide.u32 %rd3, %r2, 4; add.s64 %rd3, %rd1, %rd3; st.global.u32 [%rd3], %r2;\n"
    last = "setp.ne.u32 %p2, %r6, 3;\n@%p2 bra $end;\nld.global.u32 %r5, [%rd1];\n"
    assert launch(LEADER + store + late + last).findings == []
    race(LEADER + late + store + last)


def test_one_block_alone_and_a_check_left_out_find_nothing():
    assert launch("st.global.u32 [%rd1], %r2;", grid=1).findings == []
    assert launch("st.global.u32 [%rd1], %r2;", checks={"memory", "init", "async", "barrier"}).findings == []
