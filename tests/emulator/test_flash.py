"""A FlashAttention-2 style kernel, as nvcc compiled it: results, exact counters, schedules, threads."""

from __future__ import annotations

import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from emulator_kernels import PTX, Flash

from kernelwright import emulator as emu

SHAPES = [(1, 2, 2, 128, 128), (2, 4, 2, 77, 131), (1, 2, 1, 200, 70), (1, 1, 1, 1, 1), (1, 1, 1, 64, 257)]


@pytest.fixture(scope="module")
def flash() -> emu.Module:
    return emu.load(PTX / "flash_fwd.ptx")


def agrees(problem: Flash) -> None:
    o, lse = problem.reference()
    assert np.max(np.abs(problem.o - o)) < 2e-3
    seen = np.isfinite(lse)
    assert np.array_equal(np.isfinite(problem.lse), seen)
    assert np.max(np.abs(problem.lse[seen] - lse[seen])) < 2e-6


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("checks", ["all", "none"])
def test_the_kernel_agrees_with_float64(flash, shape, checks):
    problem = Flash(*shape)
    assert problem.launch(flash, checks=checks).findings == []
    agrees(problem)


def test_random_schedules_find_nothing_and_change_nothing(flash):
    problem = Flash(1, 2, 1, 130, 130)
    problem.launch(flash)
    want = problem.o.copy()
    for seed in range(1, 21):
        problem.o[:] = 0
        assert problem.launch(flash, seed=seed).findings == []
        assert np.array_equal(problem.o, want)


def test_counters_are_exact(flash):
    problem = Flash(1, 2, 2, 256, 256)
    c = problem.launch(flash).counters
    tiles = 2 * (1 + 2 + 3 + 4)  # heads x key tiles of each query tile
    blocks = 2 * 4
    assert c["blocks"] == blocks
    assert c["mma"] == tiles * 2 * 4 * 4 * 8  # products, warps, k steps, n steps
    assert c["mma_flops"] == tiles * 2 * 2 * 64 * 64 * 64
    tile_bytes = 64 * 64 * 2
    assert c["cp_async_bytes"] == (tiles * 2 + blocks) * tile_bytes
    assert c["global_load_bytes"] == c["cp_async_bytes"]
    assert c["global_load_sectors"] == c["global_load_sectors_ideal"] == c["global_load_bytes"] // 32
    assert c["global_store_bytes"] == blocks * (tile_bytes + 64 * 4)
    matrices = tiles * 4 * (4 * 4 + 4 * 4) * 4 + blocks * 4 * 4 * 4  # K and V, then Q, four matrices each
    assert c["ldmatrix_wavefronts"] == c["ldmatrix_wavefronts_ideal"] == matrices
    assert c["cp_async_wavefronts"] == c["cp_async_wavefronts_ideal"] == (tiles * 2 + blocks) * tile_bytes // 128
    assert c["barriers"] == 2 * tiles
    assert c["mufu"] >= tiles * 64 * 64


def test_without_the_swizzle_results_stay_and_wavefronts_multiply():
    problem = Flash(1, 2, 2, 256, 256)
    c = problem.launch(emu.load(PTX / "flash_fwd_no_swizzle.ptx")).counters
    agrees(problem)
    assert c["ldmatrix_wavefronts"] == 8 * c["ldmatrix_wavefronts_ideal"]


def test_counters_do_not_depend_on_the_schedule(flash):
    problem = Flash(1, 1, 1, 130, 130)
    assert problem.launch(flash).counters == problem.launch(flash, seed=5).counters


def test_counters_can_be_had_without_checks_and_left_out_with_them(flash):
    problem = Flash(1, 1, 1, 64, 64)
    every = problem.launch(flash).counters
    assert problem.launch(flash, checks="none", counters=True).counters == every
    assert "mma" not in problem.launch(flash, counters=False).counters


def test_the_fidelity_report_says_what_is_approximate(flash):
    fidelity = Flash(1, 1, 1, 64, 64).launch(flash).fidelity
    assert fidelity["ex2.approx.ftz.f32"] == "approximate"
    assert fidelity["mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32"] == "approximate"
    assert fidelity["add.s32"] == "exact"
    assert fidelity["bra"] == "exact"


def test_several_threads_launch_and_load_at_once(flash):
    def work(n: int) -> None:
        module = emu.load(PTX / "flash_fwd.ptx") if n % 2 else flash
        problem = Flash(1, 1, 1, 64 + 10 * n, 130)
        for _ in range(3):
            assert problem.launch(module, seed=n).findings == []
        agrees(problem)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(8)))


@pytest.mark.nvcc
def test_nvcc_compiles_what_the_emulator_runs(tmp_path: Path):
    source = Path(__file__).parent / "flash_fwd.cu"
    for flags in (["-O3"], ["-O3", "-lineinfo"], ["-O1"]):
        out = tmp_path / "flash.ptx"
        subprocess.run(["nvcc", "-ptx", "-arch=sm_80", *flags, str(source), "-o", str(out)], check=True)
        problem = Flash(1, 2, 1, 100, 150)
        assert problem.launch(emu.load(out)).findings == []
        agrees(problem)
