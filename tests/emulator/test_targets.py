"""Which targets have an instruction: the emulator and ptxas agree."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from emulator_kernels import kernel

from kernelwright import emulator as emu

FOUR, TWO, ONE = "{%r1, %r2, %r3, %r4}", "{%r1, %r2}", "{%r1}"
INSTRUCTIONS = [
    *[f"mbarrier.init.{space}b64 {address}, 3" for space, address in (("shared.", "[%r1]"), ("", "[%rd1]"))],
    "mbarrier.inval.shared::cta.b64 [%r1]",
    *[
        f"mbarrier.{arrive} {state}, [%r1]{count}"
        for state in ("%rd1", "_")
        for arrive, count in (
            ("arrive.shared.b64", ""), ("arrive.shared.b64", ", 2"), ("arrive.noComplete.shared.b64", ", 2"),
            ("arrive_drop.shared.b64", ""), ("arrive_drop.shared.b64", ", 2"),
            ("arrive_drop.noComplete.shared.b64", ", 2"), ("arrive.release.cta.shared::cta.b64", ""),
            ("arrive.relaxed.cta.shared::cta.b64", ""), ("arrive.relaxed.shared::cta.b64", ""),
        )
    ],
    *[
        f"mbarrier.{wait} %p1, [%r1], {'%r2' if 'parity' in wait else '%rd1'}"
        for wait in (
            "test_wait.shared.b64", "test_wait.parity.shared.b64", "test_wait.acquire.cta.shared::cta.b64",
            "test_wait.parity.relaxed.cta.shared::cta.b64", "try_wait.shared.b64", "try_wait.parity.shared::cta.b64",
        )
    ],
    "mbarrier.try_wait.parity.shared.b64 %p1, [%r1], %r2, 100",
    "mbarrier.pending_count.b64 %r1, %rd1",
    "mbarrier.pending_count.shared.b64 %r1, %rd1",
    *[
        f"mbarrier.{arrive}"
        for arrive in (
            "expect_tx.relaxed.cta.shared::cta.b64 [%r1], %r2", "complete_tx.shared::cluster.b64 [%r1], 16",
            "complete_tx.relaxed.cluster.shared::cta.b64 [%r1], %r2", "expect_tx.b64 [%rd1], 4",
            "arrive.expect_tx.shared::cta.b64 %rd1, [%r1], %r2", "arrive_drop.expect_tx.b64 %rd1, [%rd2], 16",
            "arrive.expect_tx.release.cluster.shared::cluster.b64 _, [%r1], 4",
            "arrive.shared::cluster.b64 _, [%r1], 2",
            "arrive.expect_tx.shared::cluster.b64 %rd1, [%r1], 4", "init.shared::cluster.b64 [%r1], 3",
        )
    ],
    "fence.proxy.async", "fence.proxy.async.shared::cta", "fence.proxy.async.global",
    "fence.proxy.async.shared::cluster",
    "fence.mbarrier_init.release.cluster", "griddepcontrol.wait", "griddepcontrol.launch_dependents",
    "cp.async.mbarrier.arrive.shared.b64 [%r1]",
    "cp.async.mbarrier.arrive.noinc.b64 [%rd1]",
    "cvt.rn.satfinite.e4m3x2.f32 %rs1, %f1, %f2",
    "cvt.rn.satfinite.relu.e5m2x2.f32 %rs1, %f1, %f2",
    "cvt.rn.e5m2x2.f32 %rs1, %f1, %f2",
    "cvt.rn.satfinite.e4m3x2.f16x2 %rs1, %r1",
    "cvt.rn.relu.f16x2.e5m2x2 %r1, %rs1",
    f"stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%r1], {FOUR}",
    f"mma.sync.aligned.m16n8k4.row.col.f32.tf32.tf32.f32 {FOUR}, {TWO}, {ONE}, {FOUR}",
    f"mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {FOUR}, {FOUR}, {TWO}, {FOUR}",
    f"mma.sync.aligned.m8n8k16.row.col.satfinite.s32.s8.u8.s32 {TWO}, {ONE}, {ONE}, {TWO}",
    f"mma.sync.aligned.m16n8k16.row.col.s32.u8.s8.s32 {FOUR}, {TWO}, {ONE}, {FOUR}",
    f"mma.sync.aligned.m16n8k32.row.col.satfinite.s32.u8.u8.s32 {FOUR}, {FOUR}, {TWO}, {FOUR}",
    f"mma.sync.aligned.m16n8k32.row.col.satfinite.f32.f16.f16.f32 {FOUR}, {FOUR}, {TWO}, {FOUR}",
    f"mma.sync.aligned.m16n8k16.row.col.f32.e4m3.e5m2.f32 {FOUR}, {TWO}, {ONE}, {FOUR}",
    f"mma.sync.aligned.m16n8k32.row.col.f32.e5m2.e4m3.f32 {FOUR}, {FOUR}, {TWO}, {FOUR}",
    f"mma.sync.aligned.m16n8k32.row.col.f16.e4m3.e4m3.f16 {TWO}, {FOUR}, {TWO}, {TWO}",
]  # fmt: skip


def accepts(text: str) -> bool:
    try:
        emu.load(text).unload()
    except emu.EmulatorError:
        return False
    return True


@pytest.mark.nvcc
@pytest.mark.parametrize("sm", [80, 89, 90])
def test_ptxas_accepts_what_the_emulator_accepts_and_nothing_else_of_these(sm, tmp_path):
    ptxas = shutil.which("ptxas") or str(Path(shutil.which("nvcc") or "").resolve().parent / "ptxas")

    def assembles(text: str) -> bool:
        (tmp_path / "k.ptx").write_text(text)
        command = [ptxas, f"-arch=sm_{sm}", str(tmp_path / "k.ptx"), "-o", str(tmp_path / "k.cubin")]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    emu.configure(sm=90)
    try:
        known = [one for one in INSTRUCTIONS if accepts(kernel(one + ";", sm=sm))]
    finally:
        emu.configure(sm=80)
    assert known
    assert assembles(kernel("\n".join(f"{one};" for one in known), sm=sm))
    wrongly_refused = [one for one in INSTRUCTIONS if one not in known and assembles(kernel(one + ";", sm=sm))]
    assert wrongly_refused == []
