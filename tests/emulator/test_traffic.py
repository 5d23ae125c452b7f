"""Counted traffic against closed forms: shared-memory wavefronts, global sectors, operations."""

from __future__ import annotations

import numpy as np
import pytest
from emulator_kernels import aligned, kernel, run

SMEM = ".shared .align 128 .b8 smem[16384];"


def shared_access(stride: int, vector: int) -> dict[str, int]:
    """Each thread stores and loads `vector` words at `stride` bytes from its neighbour."""
    suffix, registers = {1: ("", "%r5"), 2: (".v2", "{%r5, %r6}"), 4: (".v4", "{%r5, %r6, %r7, %r8}")}[vector]
    body = (
        f"mov.u32 %r1, %tid.x; mov.u32 %r2, smem; mad.lo.u32 %r2, %r1, {stride}, %r2;\n"
        + "".join(f"mov.u32 %r{5 + n}, {n};" for n in range(vector))
        + f"st.shared{suffix}.u32 [%r2], {registers}; bar.warp.sync -1; ld.shared{suffix}.u32 {registers}, [%r2];"
    )
    return run(kernel(body, before=SMEM), [np.zeros(1, np.uint32)]).counters


@pytest.mark.parametrize(("stride", "turns"), [(4, 1), (8, 2), (12, 1), (16, 4), (64, 16), (128, 32), (132, 1), (0, 1)])
def test_words_in_one_bank_take_turns(stride, turns):
    counters = shared_access(stride, 1)
    for kind in ("load", "store"):
        assert counters[f"shared_{kind}_wavefronts"] == turns
        assert counters[f"shared_{kind}_wavefronts_ideal"] == 1


WIDE = [(2, 8, 2, 2), (2, 128, 32, 2), (2, 16, 4, 2), (4, 16, 4, 4), (4, 128, 32, 4), (4, 32, 8, 4), (4, 144, 4, 4)]


@pytest.mark.parametrize(("vector", "stride", "turns", "ideal"), WIDE)
def test_wide_accesses_go_in_phases(vector, stride, turns, ideal):
    counters = shared_access(stride, vector)
    assert counters["shared_load_wavefronts"] == turns
    assert counters["shared_load_wavefronts_ideal"] == ideal


@pytest.mark.parametrize(("stride", "sectors"), [(4, 4), (8, 8), (32, 32), (64, 32), (0, 1)])
@pytest.mark.parametrize("reverse", [False, True])
def test_a_sector_is_counted_once_an_access(stride, sectors, reverse):
    turn = "sub.u32 %r1, 31, %r1;" if reverse else ""
    body = (
        f"mov.u32 %r1, %tid.x; {turn} ld.param.u64 %rd1, [out]; mul.wide.u32 %rd2, %r1, {stride};"
        "add.s64 %rd1, %rd1, %rd2; ld.global.u32 %r2, [%rd1]; st.global.u32 [%rd1], %r2;"
    )
    counters = run(kernel(body), [aligned((1024,), np.uint32)]).counters
    for kind in ("load", "store"):
        assert counters[f"global_{kind}_sectors"] == sectors
        assert counters[f"global_{kind}_sectors_ideal"] == 4
        assert counters[f"global_{kind}_bytes"] == 128


def test_operations_are_counted_for_active_lanes_only():
    body = (
        "mov.u32 %r1, %tid.x; setp.lt.u32 %p1, %r1, 5;"
        "mov.f32 %f1, 0f3F800000; ex2.approx.ftz.f32 %f2, %f1;"
        "@%p1 ex2.approx.ftz.f32 %f3, %f1; @%p1 bra $few;"
        "fma.rn.f32 %f4, %f1, %f1, %f1;\n$few:\nadd.f32 %f5, %f1, %f1;"
    )
    counters = run(kernel(body), [np.zeros(1, np.uint32)]).counters
    assert counters["mufu"] == 32 + 5
    assert counters["fp32_ops"] == 27 + 32


def test_cache_hints_and_orderings_change_nothing():
    body = (
        "mov.u32 %r1, %tid.x; ld.param.u64 %rd1, [out]; mul.wide.u32 %rd2, %r1, 16; add.s64 %rd1, %rd1, %rd2;"
        "createpolicy.fractional.L2::evict_first.b64 %rd5, 0f3F800000;"
        "ld.global.nc.L1::no_allocate.L2::128B.v4.f32 {%f1, %f2, %f3, %f4}, [%rd1];"
        "ld.relaxed.gpu.global.u32 %r2, [%rd1]; ld.global.L2::cache_hint.u32 %r3, [%rd1], %rd5;"
        "ld.global.cg.u32 %r4, [%rd1];"
        "add.u32 %r2, %r2, %r3; add.u32 %r2, %r2, %r4; membar.gl; fence.acq_rel.gpu;"
        "prefetch.global.L2 [%rd1]; st.global.cs.u32 [%rd1], %r2; red.release.gpu.global.add.u32 [%rd1], 1;"
    )
    values = np.arange(128, dtype=np.uint32)
    report = run(kernel(body), [values])
    assert np.array_equal(values[::4], np.arange(0, 128, 4) * 3 + 1)
    assert report.fidelity["membar.gl"] == "not modelled"
