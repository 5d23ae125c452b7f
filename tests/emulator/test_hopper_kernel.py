"""A warp-specialised kernel of the tests' own for Hopper (hopper_fwd.cu), with TMA and wgmma; and its planted bugs."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from emulator_kernels import aligned

from kernelwright import emulator as emu
from kernelwright.emulator.mutate import sync_mutants

pytestmark = pytest.mark.nvcc
SOURCE = Path(__file__).parent / "hopper_fwd.cu"
SHARED_BYTES = 6 * 8192 + 1024
REGISTERS = 128  # of each thread at launch: 40 and 216 are what setmaxnreg makes of them
# What each planted bug must be found as, under every order of warps, and words of the text.
BUGS = {
    "swizzle": (
        {"wgmma"},
        "by a descriptor with a swizzle of 64 bytes, where a copy with a swizzle of 128 bytes has put it",
    ),
    "init_fence": ({"proxy"}, "fence.mbarrier_init or fence.proxy.async must come after it"),
    "registers": ({"deadlock"}, "more registers, of which"),
    "ring": ({"race", "async_write", "mbarrier"}, ""),
    "bytes": ({"deadlock"}, "4096 bytes were announced"),
    "parity": ({"async_read", "race", "deadlock", "uninitialised_read"}, ""),
    "first_fence": ({"wgmma"}, ""),
    "early_read": ({"wgmma"}, "wgmma.wait_group must come first"),
    "fence": ({"wgmma"}, "wgmma.fence must come between"),
    "release": ({"race"}, "may still read; nothing orders the two. wgmma.wait_group must come first"),
    "proxy_fence": ({"proxy"}, "fence.proxy.async must come between"),
    "exit": ({"async_exit"}, "cp.async.bulk.wait_group or wait_group.read before it exits"),
}


def compiled(folder: Path, *options: str) -> Path:
    nvcc = shutil.which("nvcc")
    assert nvcc
    ptx = folder / "fwd.ptx"
    subprocess.run(
        [nvcc, "-ptx", "-arch=sm_90a", "-O3", "-lineinfo", *options, str(SOURCE), "-o", str(ptx)], check=True
    )
    return ptx


@pytest.fixture(scope="module")
def module(tmp_path_factory) -> Iterator[emu.Module]:
    ptx = compiled(tmp_path_factory.mktemp("hopper"))
    emu.configure(sm=90, smem_optin=232448, smem_per_sm=233472)
    yield emu.load(ptx)
    emu.configure(sm=80, smem_optin=166912, smem_per_sm=167936)


class Problem:
    """Causal attention of `heads` heads."""

    def __init__(self, seqlen: int, heads: int = 2) -> None:
        rng = np.random.default_rng(seqlen)
        shape = (heads, seqlen, 64)
        self.q, self.k, self.v, self.o = (aligned(shape, np.float16) for _ in range(4))
        for one in (self.q, self.k, self.v):
            one[:] = rng.standard_normal(shape)
        self.lse = aligned(shape[:2], np.float32)
        self.seqlen, self.heads = seqlen, heads

    def launch(self, module: emu.Module, name: str = "correct", **options: object) -> emu.Report:
        def box(array: np.ndarray, access: str = "read") -> emu.TensorMap:
            return emu.TensorMap(array=array, box=(1, 64, 64), swizzle=128, access=access)  # type: ignore[arg-type]

        maps = [box(self.q), box(self.k), box(self.v), box(self.o, "write")]
        args = [*maps, self.lse, np.int32(self.seqlen), np.float32(64**-0.5 * np.log2(np.e))]
        return module.launch(
            f"hopper_fwd_{name}", grid=(-(-self.seqlen // 64), self.heads), block=(256,), args=args,
            shared_bytes=SHARED_BYTES, registers=REGISTERS, **options,
        )  # type: ignore[arg-type]  # fmt: skip

    def errors(self) -> tuple[float, float]:
        """The largest of o and of lse, against float64."""
        scores = np.einsum("hqd,hkd->hqk", self.q.astype(np.float64), self.k.astype(np.float64)) * 64**-0.5
        scores = np.where(np.arange(self.seqlen) > np.arange(self.seqlen)[:, None], -np.inf, scores)
        top = scores.max(-1, keepdims=True)
        weights = np.exp(scores - top)
        total = weights.sum(-1, keepdims=True)
        o = weights / total @ self.v.astype(np.float64)
        return float(abs(o - self.o).max()), float(abs((top + np.log(total))[..., 0] - self.lse).max())


@pytest.mark.parametrize("seqlen", [1, 63, 64, 65, 128, 200, 256, 320])
def test_it_computes_attention(module, seqlen):
    problem = Problem(seqlen)
    report = problem.launch(module)
    o, lse = problem.errors()
    assert o < 2e-3 and lse < 1e-5
    tiles = -(-seqlen // 64)
    pairs = problem.heads * tiles * (tiles + 1) // 2
    assert report.counters["wgmma"] == 8 * pairs
    assert report.counters["wgmma_flops"] == 8 * pairs * 2 * 64 * 64 * 16
    assert report.counters["bulk_load_bytes"] == 8192 * (2 * pairs + problem.heads * tiles)
    assert report.counters["bulk_store_bytes"] == problem.o.nbytes


@pytest.mark.parametrize("seqlen", [64, 256])
def test_it_is_clean_and_gives_the_same_bits_under_every_order_of_warps(module, seqlen):
    problem = Problem(seqlen, heads=1)
    problem.launch(module)
    first = problem.o.copy()
    for seed in range(1, 26):
        problem.o[:] = 0
        assert problem.launch(module, seed=seed).findings == []
        assert (problem.o == first).all()


@pytest.mark.slow
def test_it_is_clean_under_200_orders_of_warps(module):
    for seed in range(200):
        assert Problem(256, heads=1).launch(module, seed=seed).findings == []


@pytest.mark.parametrize("name", BUGS)
def test_each_planted_bug_is_found(module, name):
    kinds, words = BUGS[name]
    seen = ""
    for seed in range(6):
        with pytest.raises(emu.EmulatorError) as caught:
            Problem(256, heads=1).launch(module, name, seed=seed, max_instructions=2_000_000)
        assert caught.value.report is not None, caught.value
        finding = caught.value.report.findings[0]
        assert finding.kind in kinds, (seed, finding)
        assert finding.cuda_file.endswith("hopper_fwd.cu") and finding.cuda_line
        seen += finding.text
    assert words in seen


def test_there_is_an_expectation_for_every_planted_bug():
    kernels = set(re.findall(r"^KERNEL\((\w+),", SOURCE.read_text(), re.MULTILINE))
    assert kernels == {"correct", *BUGS}


def test_no_synchronisation_can_go_unnoticed_but_those_that_others_make_redundant(module, tmp_path):
    """Each is taken out or weakened in turn; nvcc peels the first round of the ring, whose waits pass at once."""
    text = compiled(tmp_path, "-DCORRECT_ALONE").read_text()
    survivors = []
    mutants = sync_mutants(text)
    for mutant in mutants:
        try:
            Problem(256, heads=1).launch(emu.load(mutant.ptx), seed=1, max_instructions=2_000_000)
        except emu.EmulatorError as error:
            assert error.report is not None and error.report.findings, error
        else:
            survivors.append((mutant.sync.kind, mutant.sync.text.split()[0]))
    assert len(mutants) > 30
    first_rounds = [one for one in survivors if one[1].startswith("mbarrier.try_wait.parity")]
    # What one warp of a warpgroup has waited for, all of its warps' products have read.
    assert len(first_rounds) <= 2 and [one for one in survivors if one not in first_rounds] == [("barrier", "bar.sync")]
