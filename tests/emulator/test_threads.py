"""Blocks on several host threads: reports, results and findings are those of one thread."""

from __future__ import annotations

import os
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from emulator_kernels import PTX, Flash, aligned, kernel

from kernelwright import emulator as emu

# %r1 = thread, %r2 = block, %rd1 = out, %rd2 = 4 bytes a thread of the grid in out, 32 threads a block
START = (
    "mov.u32 %r1, %tid.x; mov.u32 %r2, %ctaid.x; mad.lo.s32 %r3, %r2, 32, %r1;"
    "ld.param.u64 %rd1, [out]; mul.wide.u32 %rd2, %r3, 4; add.s64 %rd2, %rd1, %rd2; mov.u32 %r5, %r2;\n"
)
GRID = 40
# About 3,000 instructions a block, more in later blocks: enough for the launch to be split.
WORK = (
    "mad.lo.u32 %r11, %r2, 50, 1000;\nmov.u32 %r10, 0;\n"
    "$work: mad.lo.u32 %r5, %r5, 1664525, %r10; add.u32 %r10, %r10, 1;\n"
    "setp.lt.u32 %p9, %r10, %r11;\n@%p9 bra $work;\n"
)
SMEM = ".shared .align 16 .b8 smem[256];"
STORE = "st.global.u32 [%rd2], %r5;\n"
IN_BLOCK = "setp.ne.u32 %p1, %r2, {block};\n@%p1 bra $end;\n"
KERNELS = {
    "clean": WORK + STORE,
    "in place": "ld.global.u32 %r5, [%rd2];\n" + WORK + STORE,
    "one place": WORK + "st.global.u32 [%rd1], %r5;\n",
    "reads another's": WORK + STORE + "ld.global.u32 %r6, [%rd1+128];\nst.global.u32 [%rd2], %r6;\n",
    "another reads": "ld.global.u32 %r6, [%rd1+4992];\n" + WORK + STORE,
    "halves of words": WORK + "cvt.u16.u32 %rs1, %r2;\nmul.wide.u32 %rd3, %r2, 2;\nadd.s64 %rd3, %rd1, %rd3;\n"
    "st.global.u16 [%rd3], %rs1;\n",
    "out of bounds": WORK + STORE + IN_BLOCK.format(block=17) + "st.global.u32 [%rd2+8192], %r5;\n",
    "two findings": WORK + "setp.lt.u32 %p1, %r2, 11;\n@%p1 bra $end;\nst.global.u32 [%rd1+8192], %r5;\n"
    "ld.shared.u32 %r6, [smem];\n",
    "shared race": WORK + STORE + IN_BLOCK.format(block=30) + "mov.u32 %r6, smem;\nst.shared.u32 [%r6], %r5;\n"
    "bar.warp.sync 0xffffffff;\nadd.u32 %r6, %r6, %r1;\nand.b32 %r6, %r6, 252;\nld.shared.u32 %r7, [%r6];\n",
    "trap": WORK + STORE + IN_BLOCK.format(block=38) + "trap;\n",
    "clock": WORK + "mov.u32 %r5, %clock;\n" + STORE,
    "atomics": WORK + "red.global.add.u32 [%rd1], %r5;\n",
}  # fmt: skip


def outcome(body: str, **options: object) -> tuple[bytes, emu.Report | None, str]:
    """Return the memory, the report and the message of a launch."""
    out = aligned((GRID * 32,), np.uint32)  # sectors are counted by address
    out[:] = np.arange(GRID * 32)
    module = emu.load(kernel(START + body + "$end:\n", before=SMEM))
    try:
        report, message = module.launch("k", grid=(GRID,), block=(32,), args=[out], **options), ""  # type: ignore[arg-type]
    except emu.EmulatorError as error:
        report, message = error.report, str(error)
    finally:
        module.unload()
    return out.tobytes(), report, message


@pytest.mark.parametrize("on_finding", ["raise", "collect"])
@pytest.mark.parametrize("name", KERNELS)
def test_memory_report_and_message_are_those_of_one_thread(name, on_finding):
    for seed in (0, 5):
        alone = outcome(KERNELS[name], threads=1, seed=seed, on_finding=on_finding)
        for threads in (2, 2, 2, 5):
            several = outcome(KERNELS[name], threads=threads, seed=seed, on_finding=on_finding)
            assert without_addresses(several) == without_addresses(alone)


def without_addresses(result: tuple[bytes, emu.Report | None, str]) -> object:
    """Arrays lie elsewhere in each launch."""
    memory, report, message = result

    def clean(text: str) -> str:
        return " ".join("ADDRESS" if word.startswith("0x") else word for word in text.replace(";", " ;").split())

    if report is not None:
        report = replace(report, findings=[replace(one, text=clean(one.text)) for one in report.findings])
    return memory, report, clean(message)


def test_the_planted_bugs_are_found():
    """Else the comparison above would compare nothing."""
    clean = {"clean", "in place", "halves of words", "clock", "atomics"}
    for name, body in KERNELS.items():
        _, report, _ = outcome(body, on_finding="collect", threads=2)
        assert report is not None
        assert bool(report.findings) is (name not in clean), name


def test_without_checks_memory_and_counters_are_the_same():
    for name in ("clean", "in place", "halves of words"):
        assert outcome(KERNELS[name], checks="none", threads=2) == outcome(KERNELS[name], checks="none", threads=1)


def test_arrays_declared_uninitialised_are_judged_as_by_one_thread():
    text = kernel(START + WORK + "ld.global.u32 %r6, [%rd1];\n" + STORE, before=SMEM)
    reports = []
    for threads in (1, 2, 2):
        out = emu.Memory(array=aligned((GRID * 32,), np.uint32), initialised=False)
        report = emu.load(text).launch(
            "k", grid=(GRID,), block=(32,), args=[out], on_finding="collect", checks={"memory", "init"}, threads=threads
        )
        reports.append(report)
    assert [one.kind for one in reports[0].findings] == ["uninitialised_read"]
    assert reports[1] == reports[0] and reports[2] == reports[0]


def test_the_instruction_budget_is_that_of_one_thread():
    total = outcome(KERNELS["clean"], threads=1)[1]
    assert total is not None
    enough = total.counters["warp_instructions"]
    for budget in (enough, enough - 1, enough // 2):
        alone = outcome(KERNELS["clean"], threads=1, max_instructions=budget)
        assert bool(alone[2]) is (budget < enough)
        assert outcome(KERNELS["clean"], threads=2, max_instructions=budget) == alone


def test_a_spin_within_a_later_block_is_found():
    spin = IN_BLOCK.format(block=20) + "$wait: ld.volatile.shared.u32 %r6, [smem];\nbra $wait;\n"
    message = outcome(WORK + "st.shared.u32 [smem], %r1;\n" + spin, threads=2, checks={"memory"})[2]
    assert "deadlock in kernel k" in message and "block (20, 0, 0)" in message


@pytest.mark.parametrize("checks", ["none", "all"])
def test_the_flash_kernel_is_the_same_on_two_threads(checks):
    module = emu.load(PTX / "flash_fwd.ptx")
    results = []
    for threads in (1, 2, 2):
        flash = Flash(1, 2, 1, 320, 320)
        report = flash.launch(module, checks=checks, threads=threads)
        results.append((report, flash.o.tobytes(), flash.lse.tobytes()))
    assert results[1] == results[0] and results[2] == results[0]


LONG = WORK.replace("1000;", "400000;")


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="counts this process's threads in /proc")
def test_a_large_launch_uses_the_threads_it_may_and_a_small_one_none():
    def tasks() -> set[str]:
        return {path.name for path in Path("/proc/self/task").iterdir()}

    def threads_used(body: str, threads: int) -> int:
        before, seen, ended = tasks(), set(), threading.Event()  # one that was joined may be listed for a while

        def watch() -> None:
            while not ended.is_set():
                seen.update(tasks())
                time.sleep(0.002)

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            assert outcome(body, threads=threads, checks="none")[2] == ""
        finally:
            ended.set()
            watcher.join()
        return len(seen - before - {str(watcher.native_id)})

    assert threads_used(LONG + STORE, 3) == 2
    assert threads_used(LONG + STORE, 1) == 0
    assert threads_used(STORE, 3) == 0
    assert threads_used(LONG + "red.global.add.u32 [%rd1], %r5;\n", 3) == 0


def test_ctrl_c_ends_a_launch_on_several_threads():
    endless = WORK + IN_BLOCK.format(block=39) + "$l: bra $l;\n"
    timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        outcome(endless, threads=2)
    timer.join()


def test_no_threads_are_refused():
    with pytest.raises(emu.EmulatorError, match="threads must be a count"):
        emu.load(kernel(START)).launch("k", grid=(1,), block=(32,), args=[np.zeros(4, np.uint32)], threads=0)
