"""Transaction counts of mbarriers, and the other synchronisation of sm_90: elect.sync, setmaxnreg, griddepcontrol."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from emulator_kernels import run

from kernelwright import emulator as emu

PRELUDE = """.version 9.0
.target sm_90a
.address_size 64
.shared .align 128 .b8 smem[4096];
.shared .align 8 .b64 bar[8];
.visible .entry k(.param .u64 out){directives}
{{
.reg .pred %p<100>; .reg .b32 %r<100>; .reg .b64 %rd<100>;
mov.u32 %r1, %tid.x; mov.u32 %r10, bar; shr.u32 %r4, %r1, 5; and.b32 %r3, %r1, 31;
ld.param.u64 %rd1, [out]; mul.wide.u32 %rd2, %r1, 4; add.s64 %rd2, %rd1, %rd2; setp.eq.u32 %p9, %r1, 0;
{body}
ret;
}}
"""
SPIN = "$wait{n}:\nmbarrier.try_wait.parity.shared::cta.b64 %p8, [%r10], {parity};\n@!%p8 bra $wait{n};\n"
SEEDS = range(4)


@pytest.fixture(autouse=True)
def hopper() -> Iterator[None]:
    emu.configure(sm=90)
    yield
    emu.configure(sm=80)


def launch(body: str, *, block: int = 32, directives: str = "", **options: object) -> tuple[np.ndarray, emu.Report]:
    out = np.zeros(512, np.uint32)
    report = run(PRELUDE.format(body=body, directives=directives), [out], block=block, **options)
    return out, report


def finding(body: str, kind: str, *, block: int = 32, **options: object) -> str:
    """The text of the finding that ends the launch under every order of warps."""
    for seed in SEEDS:
        with pytest.raises(emu.EmulatorError) as caught:
            launch(body, block=block, seed=seed, **options)
        assert caught.value.report is not None
        found = caught.value.report.findings[0]
        assert found.kind == kind, found
    return found.text


def spin(parity: int, n: int = 0) -> str:
    return SPIN.format(parity=parity, n=n)


READY = "@%p9 mbarrier.init.shared::cta.b64 [%r10], 1;\nbar.sync 0;\n"
ASK = "mbarrier.test_wait.parity.shared::cta.b64 %p1, [%r10], {parity}; selp.u32 %r{to}, 1, 0, %p1;\n"


def test_a_phase_ends_when_no_arrival_and_no_byte_is_pending():
    body = (
        "mbarrier.init.shared::cta.b64 [%r10], 1;\n"
        "mbarrier.expect_tx.relaxed.cta.shared::cta.b64 [%r10], 48;\n"
        "mbarrier.arrive.expect_tx.release.cta.shared::cta.b64 %rd5, [%r10], 16;\n" + ASK.format(parity=0, to=20)
        + "mbarrier.complete_tx.relaxed.cluster.shared::cluster.b64 [%r10], 60;\n" + ASK.format(parity=0, to=21)
        + "mbarrier.complete_tx.shared::cta.b64 [%r10], 4;\n" + ASK.format(parity=0, to=22)
        # Bytes that come before they are expected: the count is below zero meanwhile.
        + "mbarrier.complete_tx.shared::cta.b64 [%r10], 32;\n" + ASK.format(parity=1, to=23)
        + "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r10], 32;\n" + ASK.format(parity=1, to=24)
        # An arrival leaves the object's expected count alone; one that drops does not.
        + "mbarrier.arrive_drop.expect_tx.shared::cta.b64 _, [%r10], 0;\n" + ASK.format(parity=0, to=25)
        + "".join(f"st.global.u32 [%rd1+{4 * n}], %r{20 + n};\n" for n in range(6))
    )  # fmt: skip
    out, report = launch(body, block=1)
    assert out[:6].tolist() == [0, 0, 1, 0, 1, 1]
    assert report.fidelity["mbarrier.complete_tx.shared::cta.b64"] == "exact"


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("@%p9 mbarrier.expect_tx.shared::cta.b64 [%r10], 1048576;\n", "makes the pending bytes"),
        (
            "mov.u32 %r5, 1048575;\n@%p9 mbarrier.complete_tx.shared::cta.b64 [%r10], %r5;\n"
            "@%p9 mbarrier.complete_tx.shared::cta.b64 [%r10], 1;\n",
            "-1048576; a phase counts from -1048575 to 1048575",
        ),
        ("@%p9 mbarrier.expect_tx.shared::cta.b64 [%r10+8], 16;\n", "not initialised"),
    ],
)
def test_a_transaction_count_out_of_its_range_is_found(body, says):
    assert says in finding(READY + body, "mbarrier")


def test_bytes_that_nobody_brings_are_a_deadlock_that_names_who_expects_them():
    text = finding(
        READY + "@%p9 mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r10], 64;\n"
        "@%p9 mbarrier.complete_tx.shared::cta.b64 [%r10], 48;\n" + spin(0),
        "deadlock",
    )
    assert "phase 0, 0 of 1 arrivals pending, 16 bytes pending; the last of 1 arrivals was at PTX line" in text
    assert "64 bytes were announced, the last at PTX line" in text and "and copies brought 48" in text
    text = finding(
        READY + "@%p9 mbarrier.complete_tx.shared::cta.b64 [%r10], 48;\n"
        "@%p9 mbarrier.arrive.shared::cta.b64 _, [%r10];\n" + spin(0),
        "deadlock",
    )
    assert "copies brought 48 bytes and no expect_tx announced any" in text


def test_a_lost_arrival_is_a_deadlock_that_names_the_last_one():
    body = READY.replace("], 1", "], 2") + "@%p9 mbarrier.arrive.shared::cta.b64 _, [%r10];\n" + spin(0)
    assert "1 of 2 arrivals pending; the last of 1 arrivals was at PTX line" in finding(body, "deadlock")


def test_what_the_expecting_thread_did_comes_before_those_who_wait():
    body = (
        READY + "mov.u32 %r6, smem; setp.ge.u32 %p1, %r1, 32;\n@%p1 bra $reader;\n"
        "@%p9 st.shared.u32 [%r6], 7;\n@%p9 mbarrier.{arrive}.shared::cta.b64 _, [%r10]{bytes};\nbra $end;\n"
        "$reader:\n" + spin(0) + "ld.shared.u32 %r7, [%r6];\nst.global.u32 [%rd2], %r7;\n$end:\n"
    )
    for seed in SEEDS:
        out, _ = launch(body.format(arrive="arrive.expect_tx", bytes=", 0"), block=64, seed=seed)
        assert (out[32:64] == 7).all()
    relaxed = body.format(arrive="arrive.expect_tx.relaxed.cta", bytes=", 0")
    assert "nothing orders the two" in finding(relaxed, "race", block=64)


def test_elect_chooses_one_lane_always_the_same_for_the_same_members_and_another_by_seed():
    body = (
        "elect.sync %r5|%p1, -1; selp.u32 %r6, 1, 0, %p1; elect.sync %r7|%p2, -1;\n"
        "shl.b32 %r5, %r5, 8; or.b32 %r5, %r5, %r6; shl.b32 %r7, %r7, 16; or.b32 %r5, %r5, %r7;\n"
        "st.global.u32 [%rd2], %r5;\n"
    )
    chosen = []
    for seed in range(20):
        out, _ = launch(body, seed=seed)
        leader = out[0] >> 8 & 0xFF
        assert (out[:32] >> 8 & 0xFF == leader).all() and (out[:32] >> 16 == leader).all()
        assert (out[:32] & 1).tolist() == [int(lane == leader) for lane in range(32)]
        chosen.append(int(leader))
    assert chosen[0] == 0 and len(set(chosen)) > 5


# The first warpgroup gives back, the others want more: 32 x 240 registers each.
POOL = (
    "setp.lt.u32 %p1, %r4, 4;\n@%p1 bra $producer;\n{before}setmaxnreg.inc.sync.aligned.u32 240;\nbra $end;\n"
    "$producer:\nsetmaxnreg.dec.sync.aligned.u32 {left};\n$end:\n"
)


def test_setmaxnreg_waits_until_others_have_given_registers_back():
    for seed in SEEDS:
        launch(POOL.format(before="", left=24), block=384, seed=seed)  # 3 x 168 = 24 + 240 + 240
        launch(POOL.format(before="", left=40), block=256, seed=seed, registers=144)
    launch(POOL.format(before="", left=40), block=256, directives=" .maxnreg 144")


def test_registers_that_are_not_there_are_a_deadlock():
    # 32 + 240 + 240 are 65,536 for 384 threads, but ptxas gives each 168, which are 64,512.
    text = finding(POOL.format(before="", left=32), "deadlock", block=384)
    assert "waits at PTX line" in text and "2304 more registers, of which" in text
    assert "the block was launched with 64512" in text


@pytest.mark.parametrize(
    ("body", "block", "says"),
    [
        ("setmaxnreg.dec.sync.aligned.u32 240;", 384, "to 240 registers, where each thread holds 168"),
        ("setmaxnreg.inc.sync.aligned.u32 24;", 384, "to 24 registers, where each thread holds 168"),
        ("setmaxnreg.dec.sync.aligned.u32 24;", 32, "the last 1 warps of the block are none"),
        (
            "setp.eq.u32 %p1, %r4, 2;\n@%p1 bra $end;\nsetmaxnreg.dec.sync.aligned.u32 24;\n$end:\n",
            128,
            "warp 0 1 times, to 24 registers, and warp 2 0 times",
        ),
        ("setp.eq.u32 %p1, %r3, 2;\n@%p1 bra $end;\nsetmaxnreg.dec.sync.aligned.u32 24;\n$end:\n", 128, "only some"),
    ],
)
def test_misuse_of_setmaxnreg_is_found(body, block, says):
    assert says in finding(body, "registers", block=block)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("setmaxnreg.inc.sync.aligned.u32 20;", "multiple of 8 from 24 to 256"),
        ("setmaxnreg.inc.sync.aligned.u32 36;", "multiple of 8 from 24 to 256"),
        ("setmaxnreg.inc.sync.u32 32;", "not one the emulator knows"),
        ("griddepcontrol.never;", "not one the emulator knows"),
        ("mbarrier.arrive.expect_tx.shared::cluster.b64 %rd5, [%r10], 4;", "its destination is _"),
        ("mbarrier.arrive.expect_tx.noComplete.shared::cta.b64 %rd5, [%r10], 4;", "not one the emulator knows"),
        ("fence.proxy.async.local;", "not one the emulator knows"),
        ("fence.mbarrier_init.release.cta;", "not one the emulator knows"),
    ],
)
def test_what_is_no_instruction_is_refused(line, says):
    with pytest.raises(emu.EmulatorError, match=says):
        launch(line)


def test_targets_without_these_instructions_are_told_so():
    for line, target in (("setmaxnreg.dec.sync.aligned.u32 24;", "sm_90"), ("griddepcontrol.wait;", "sm_80")):
        with pytest.raises(emu.EmulatorError, match=r"needs \.target sm_90"):
            run(PRELUDE.format(body=line, directives="").replace("sm_90a", target), [np.zeros(1, np.uint32)])


def test_dependent_grids_and_fences_run():
    launch(
        "griddepcontrol.launch_dependents;\ngriddepcontrol.wait;\nfence.mbarrier_init.release.cluster;\n"
        "fence.proxy.async;\nfence.proxy.async.shared::cta;\nfence.proxy.async.global;\nfence.acq_rel.cluster;\n"
    )
