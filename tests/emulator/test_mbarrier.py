"""mbarrier objects: phases, misuse, what they order, copies they track, and warps that wait for ever."""

from __future__ import annotations

import itertools
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from emulator_kernels import kernel, run

from kernelwright import emulator as emu
from kernelwright.emulator.mutate import sync_mutants

SMEM = ".shared .align 128 .b8 smem[4096];\n.shared .align 8 .b64 bar[8];"
# %r1 = thread, %r2 = its 4 bytes of smem, %r3 = its lane, %r4 = its warp, %rd2 = its 4 bytes of `out`, %r10 = bar
START = (
    "mov.u32 %r1, %tid.x; mov.u32 %r2, smem; shl.b32 %r5, %r1, 2; add.s32 %r2, %r2, %r5; mov.u32 %r10, bar;"
    "and.b32 %r3, %r1, 31; shr.u32 %r4, %r1, 5;"
    "ld.param.u64 %rd1, [out]; mul.wide.u32 %rd2, %r1, 4; add.s64 %rd2, %rd1, %rd2; setp.eq.u32 %p9, %r1, 0;\n"
)
SEEDS = range(6)


def init(count: int, at: int = 0) -> str:
    return f"@%p9 mbarrier.init.shared.b64 [%r10+{at}], {count};\n"


LABELS = itertools.count()


def wait(parity: int, at: int = 0) -> str:
    """Spin until the phase of this parity is complete."""
    label = f"$wait{next(LABELS)}"
    return f"{label}:\nmbarrier.test_wait.parity.shared.b64 %p8, [%r10+{at}], {parity};\n@!%p8 bra {label};\n"


ARRIVE = "mbarrier.arrive.shared.b64 %rd9, [%r10];\n"
OUT = "st.global.u32 [%rd2], %r6;\n"


def read_of(distance: int) -> str:
    """Read what the thread wrote whose number differs in this bit."""
    return (
        f"xor.b32 %r7, %r1, {distance}; shl.b32 %r7, %r7, 2; mov.u32 %r8, smem; add.s32 %r7, %r7, %r8;"
        "ld.shared.u32 %r6, [%r7];\n"
    )


def launch(body: str, *, seed: int = 0, block: int = 64, sm: int = 80, **options: object) -> emu.Report:
    return run(kernel(START + body, before=SMEM, sm=sm), [np.zeros(1024, np.uint32)], block=block, seed=seed, **options)


def finding(body: str, *kinds: str, block: int = 64, seeds: range = SEEDS) -> str:
    """The text of the first finding that ends the launch, which is one of `kinds` under every order of warps."""
    texts = {}
    for seed in seeds:
        with pytest.raises(emu.EmulatorError) as caught:
            launch(body, seed=seed, block=block)
        assert caught.value.report is not None
        found = caught.value.report.findings[0]
        assert found.kind in kinds, (seed, found)
        texts[found.kind] = found.text
    return texts.get(kinds[0], "")


def is_clean(body: str, *, block: int = 64, sm: int = 80) -> None:
    for seed in SEEDS:
        assert launch(body, seed=seed, block=block, sm=sm).findings == []


def ready(count: int) -> str:
    return init(count) + "bar.sync 0;\n"


def test_phases_advance_when_all_expected_arrivals_are_in():
    # One thread: count 2, states and pending counts before and after, both kinds of wait.
    test = "mbarrier.test_wait.shared.b64 %p1, [%r10], {state}; selp.u32 {to}, 1, 0, %p1;\n"
    parity = "mbarrier.test_wait.parity.shared.b64 %p1, [%r10], {parity}; selp.u32 {to}, 1, 0, %p1;\n"
    body = (
        "mbarrier.init.shared.b64 [%r10], 3;\n"
        + parity.format(parity=1, to="%r11")  # the phase before the first counts as complete
        + "mbarrier.arrive.noComplete.shared.b64 %rd5, [%r10], 2; mbarrier.pending_count.b64 %r12, %rd5;\n"
        + test.format(state="%rd5", to="%r13")
        + parity.format(parity=0, to="%r14")
        + "mbarrier.arrive.shared::cta.b64 %rd6, [%r10]; mbarrier.pending_count.b64 %r15, %rd6;\n"
        + test.format(state="%rd5", to="%r16")
        + parity.format(parity=0, to="%r17")
        + parity.format(parity=1, to="%r18")
        + "mbarrier.arrive_drop.shared.b64 %rd7, [%r10]; mbarrier.arrive.shared.b64 _, [%r10], 2;\n"  # then 2, not 3
        + test.format(state="%rd7", to="%r19")
        + "mov.u64 %rd8, bar; cvta.shared.u64 %rd8, %rd8; mbarrier.arrive.b64 %rd9, [%rd8];\n"
        + "mbarrier.pending_count.b64 %r20, %rd9;\n"
        + "".join(f"st.global.u32 [%rd1+{4 * n}], %r{11 + n};" for n in range(10))
        + "mbarrier.inval.shared.b64 [%r10]; mbarrier.init.shared.b64 [%r10], 1;"
    )
    out = np.zeros(10, np.uint32)
    emu.configure(sm=90)  # for an arrival with a count
    try:
        run(kernel(START + body, before=SMEM, sm=90), [out], block=1)
    finally:
        emu.configure(sm=80)
    assert out.tolist() == [1, 3, 0, 0, 1, 1, 1, 0, 1, 2]


def test_arrivals_order_what_all_warps_wrote_before_those_who_wait():
    body = ready(64) + "st.shared.u32 [%r2], %r1;\n" + ARRIVE + "{wait}" + read_of(32) + OUT
    is_clean(body.format(wait=wait(0)))
    finding(body.format(wait=""), "race", "uninitialised_read")
    again = "st.shared.u32 [%r2], %r1;\n"
    finding(body.format(wait=wait(0)) + again, "race")  # others may still read
    is_clean(body.format(wait=wait(0)) + ARRIVE + wait(1) + again)


def test_lanes_of_one_warp_are_ordered_too():
    body = ready(32) + "st.shared.u32 [%r2], %r1;\n" + ARRIVE + wait(0) + read_of(1) + OUT
    is_clean(body, block=32)
    finding(
        body.replace(ARRIVE, "").replace(init(32), init(1)).replace("bar.sync 0;", "bar.sync 0;\n@%p9 " + ARRIVE),
        "race",
        block=32,
    )


HANDOVER = (
    ready(1) + "setp.ge.u32 %p1, %r1, 32;\n@%p1 bra $reader;\nst.shared.u32 [%r2], %r1;\n{between}"
    "@%p9 mbarrier.arrive.shared.b64 %rd9, [%r10];\nbra $end;\n$reader:\n{wait}" + read_of(32) + OUT + "$end:\n"
)


def test_one_lane_that_arrives_for_its_warp_without_a_warp_barrier_is_found():
    assert "__syncthreads" in finding(HANDOVER.format(between="", wait=wait(0)), "race")
    is_clean(HANDOVER.format(between="bar.warp.sync -1;\n", wait=wait(0)))


def test_one_lane_that_waits_for_its_warp_without_a_warp_barrier_is_found():
    elected = "setp.ne.u32 %p2, %r3, 0;\n@%p2 bra $others;\n" + wait(0) + "$others:\n{sync}"
    body = HANDOVER.replace("{between}", "bar.warp.sync -1;\n")
    # The other lanes may even read before the phase is complete.
    finding(body.replace("{wait}", elected.format(sync="")), "race", "uninitialised_read")
    is_clean(body.replace("{wait}", elected.format(sync="bar.warp.sync -1;\n")))


def test_what_one_lane_learns_by_waiting_it_passes_on_by_arriving():
    # Warp 0 arrives at the first object, lane 0 of warp 1 waits there and arrives at the second, warp 2 waits for that.
    body = (
        init(32) + init(1, 8) + "bar.sync 0;\nsetp.eq.u32 %p1, %r4, 1;\n@%p1 bra $middle;\nsetp.eq.u32 %p1, %r4, 2;\n"
        "@%p1 bra $last;\nst.shared.u32 [%r2], %r1;\n" + ARRIVE + "bra $end;\n$middle:\nsetp.ne.u32 %p1, %r3, 0;\n"
        "@%p1 bra $end;\n{wait}mbarrier.arrive.shared.b64 _, [%r10+8];\nbra $end;\n$last:\n"
        + wait(0, 8) + read_of(64) + OUT + "$end:\n"
    )  # fmt: skip
    is_clean(body.format(wait=wait(0)), block=96)
    finding(body.format(wait=""), "race", "uninitialised_read", block=96)


def test_a_missing_barrier_after_the_initialisation_is_found():
    body = "mbarrier.init.shared.b64 [%r10], 64;\n"
    text = finding("@%p9 " + body + ARRIVE, "race", "mbarrier")
    assert not text or "uses the mbarrier" in text


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("@%p9 " + ARRIVE, "not initialised"),
        (ready(1) + "@%p9 mbarrier.inval.shared.b64 [%r10];\n@%p9 " + ARRIVE, "mbarrier.inval ended it"),
        (ready(1) + init(1), "mbarrier.inval must come between"),
        (init(0), "1 to 1048575, got 0"),
        (init(1 << 20), "1 to 1048575, got 1048576"),
        (ready(1) + "@%p9 ld.shared.u32 %r6, [%r10+4];\n", "in which an mbarrier lives"),
        (ready(1) + "@%p9 st.shared.u32 [%r10], 0;\n", "in which an mbarrier lives"),
        (ready(1) + "@%p9 cp.async.ca.shared.global [%r10], [%rd1], 8;\n", "in which an mbarrier lives"),
        (ready(2) + "@%p9 mbarrier.arrive.noComplete.shared.b64 %rd9, [%r10], 3;\n", "2 arrivals are pending"),
        (ready(2) + "@%p9 mbarrier.arrive.noComplete.shared.b64 %rd9, [%r10], 2;\n", "this arrival completes"),
        (
            ready(1) + "mov.b64 %rd5, 0;\n@%p9 mbarrier.arrive.shared.b64 %rd5, [%r10];\n@%p9 " + ARRIVE
            + "@%p9 mbarrier.test_wait.shared.b64 %p1, [%r10], %rd5;\n",
            "neither its current phase (2) nor the one before",
        ),
        (
            init(1) + init(1, 8) + "bar.sync 0;\n@%p9 " + ARRIVE
            + "@%p9 mbarrier.test_wait.shared.b64 %p1, [%r10+8], %rd9;\n",
            "from this object's",
        ),
        (ready(1) + "@%p9 mbarrier.test_wait.parity.shared.b64 %p1, [%r10], 2;\n", "it is 0 or 1"),
        (
            ready(1) + "setp.lt.u32 %p1, %r1, 32;\n@%p9 mbarrier.inval.shared.b64 [%r10];\n@%p1 bra $end;\n"
            + wait(0) + "$end:\n",
            "mbarrier.inval ended it",  # while a warp waits
        ),
        (
            ready(1) + "@%p9 cp.async.mbarrier.arrive.shared.b64 [%r10];\n@%p9 mbarrier.inval.shared.b64 [%r10];\n",
            "tracks copies that nobody has waited for",
        ),
    ],
)  # fmt: skip
def test_misuse_is_found(body, says):
    assert says in finding(body, "mbarrier")
    collected = launch(body, on_finding="collect")
    assert {one.kind for one in collected.findings} == {"mbarrier"}
    assert launch(body, checks={"memory", "init", "async", "race"}).findings == []


def test_an_object_must_be_in_shared_memory_at_a_multiple_of_8():
    outside = ready(1) + "@%p9 mbarrier.arrive.b64 %rd9, [%rd1];\n"
    assert "not in shared memory" in finding(outside, "mbarrier")
    assert "not a multiple of 8" in finding(init(1, 4), "misaligned")


COPY = (
    "mov.u32 %r12, smem; shl.b32 %r13, %r1, 4; add.s32 %r12, %r12, %r13; mul.wide.u32 %rd3, %r1, 16;"
    "add.s64 %rd3, %rd1, %rd3; cp.async.cg.shared.global [%r12], [%rd3], 16;\n"
)
READ_COPY = read_of(32).replace("%r7, 2;", "%r7, 4;")


@pytest.mark.parametrize("noinc", [True, False])
def test_copies_that_an_mbarrier_tracks_land_when_its_phase_is_waited_for(noinc):
    track = f"cp.async.mbarrier.arrive{'.noinc' if noinc else ''}.shared.b64 [%r10];\n"
    arrive = "" if noinc else ARRIVE  # counted for itself only where the copies' arrivals are not
    body = ready(64) + COPY + track + arrive + "{wait}" + READ_COPY + OUT
    is_clean(body.format(wait=wait(0)))
    finding(body.format(wait=""), "async_read", "uninitialised_read")
    text = finding(body.format(wait="bar.sync 1;\n"), "async_read")
    assert "is tracked by the mbarrier at byte 4096 of shared memory (phase 0, 64 of 64 arrivals pending)" in text
    # Waiting for one's own copies does not make them visible to others; not tracking them leaves them in flight.
    finding(
        body.replace(track, "").format(wait=wait(0)),
        *(["deadlock"] if noinc else ["async_read", "uninitialised_read"]),
        seeds=range(2),
    )
    # One warp waits, the other reads what has landed: ordered by the object for the first alone.
    half = "setp.ge.u32 %p1, %r1, 32;\n@%p1 bra $skip;\n" + wait(0) + "$skip:\n{sync}"
    finding(body.format(wait=half.format(sync="")), "race", "async_read", "uninitialised_read")
    is_clean(body.format(wait=half.format(sync="bar.sync 0;\n")))


def test_the_issuing_thread_itself_must_wait_for_a_copy_that_another_has_waited_for():
    # Warp 0 copies; warp 1 waits and says so through a flag that orders nothing but itself.
    body = (
        ready(32) + "setp.ge.u32 %p1, %r1, 32;\n@%p1 bra $waiter;\n" + COPY
        + "cp.async.mbarrier.arrive.noinc.shared.b64 [%r10];\nbar.sync 1;\n{wait}ld.shared.u32 %r6, [%r12];\n" + OUT
        + "bra $end;\n$waiter:\n" + wait(0) + "bar.arrive 1, 64;\n$end:\n"
    ).replace("bar.sync 1;", "bar.sync 1, 64;")  # fmt: skip
    is_clean(body.format(wait=""))  # the barrier passes on what the waiting warp knows
    loose = body.replace(
        "bar.sync 1, 64;\n", "$poll:\nmov.u64 %rd7, %globaltimer; setp.lt.u64 %p2, %rd7, 50000;\n@%p2 bra $poll;\n"
    )
    text = finding(loose.replace("bar.arrive 1, 64;\n", "").format(wait=""), "race", "async_read")
    assert "tracked by the mbarrier at byte 4096" in text
    is_clean(loose.replace("bar.arrive 1, 64;\n", "").format(wait=wait(0)))
    is_clean(loose.replace("bar.arrive 1, 64;\n", "").format(wait="cp.async.wait_all;\n"))


def test_too_small_a_count_completes_the_phase_before_all_copies_have_landed():
    body = ready(32) + COPY + "cp.async.mbarrier.arrive.noinc.shared.b64 [%r10];\n" + wait(0) + READ_COPY + OUT
    finding(body, "async_read", "race", "uninitialised_read")


def test_warps_that_only_poll_are_a_deadlock_that_names_each_and_what_it_waits_for():
    body = ready(64) + "setp.lt.u32 %p1, %r1, 32;\n@%p1 " + ARRIVE + wait(0)
    text = finding(body, "deadlock", seeds=range(3))
    assert text.count("polls at PTX line") == 2 and "warp 1" in text
    assert "the mbarrier at byte 4096 of shared memory: phase 0, 32 of 64 arrivals pending" in text
    mixed = ready(32) + "setp.ge.u32 %p1, %r1, 32;\n@%p1 bra $poll;\nbar.sync 1;\n$poll:\n" + wait(0) + "bar.sync 1;\n"
    text = finding(mixed, "deadlock", seeds=range(3))
    assert "waits at PTX line" in text and "barrier 1: 32 of 64" in text and "polls at" in text


def test_lanes_that_poll_do_not_starve_the_lane_they_wait_for():
    # The polling loop is at the lower address.
    body = (
        ready(1) + "setp.eq.u32 %p1, %r3, 7;\n@%p1 bra $arrive;\n" + wait(0)
        + "bra $end;\n$arrive:\nmov.u32 %r6, 0;\n$work:\n"
        "add.u32 %r6, %r6, 1; setp.lt.u32 %p1, %r6, 500;\n@%p1 bra $work;\n"
        + ARRIVE + "$end:\n"
    )  # fmt: skip
    report = launch(body, block=32)
    assert report.counters["warp_instructions"] < 3000
    is_clean(body, block=32)


def test_a_try_wait_may_time_out_under_a_seed():
    body = "mbarrier.init.shared.b64 [%r10], 1;\n" + ARRIVE + (
        "mov.u32 %r6, 0; mov.u32 %r7, 0;\n$again:\nadd.u32 %r7, %r7, 1;\n"
        "mbarrier.try_wait.parity.shared::cta.b64 %p1, [%r10], 0, 1000;\n@%p1 add.u32 %r6, %r6, 1;\n"
        "setp.lt.u32 %p2, %r7, 100;\n@%p2 bra $again;\n" + OUT
    )  # fmt: skip
    emu.configure(sm=90)
    try:
        succeeded = []
        for seed in (0, 1):
            out = np.zeros(1, np.uint32)
            run(kernel(START + body, before=SMEM, sm=90), [out], block=1, seed=seed)
            succeeded.append(int(out[0]))
    finally:
        emu.configure(sm=80)
    assert succeeded[0] == 100 and 60 < succeeded[1] < 100


TILES = 7


def ring(stages: int) -> str:
    """A ring of stages: warp 0 copies tiles, warps 1 and 2 write each out, its two halves exchanged.

    full[s] (from byte 0 of `bar`) counts the producer's copies, empty[s] (from byte 32) one lane of each consumer.
    Register %r22 holds the address of full[s], %r23 the parity of the round.
    """
    step = (
        f"$next{{who}}:\nrem.u32 %r20, %r19, {stages}; shl.b32 %r21, %r20, 3; add.s32 %r22, %r10, %r21;"
        f"div.u32 %r23, %r19, {stages}; and.b32 %r23, %r23, 1; shl.b32 %r24, %r20, 9;"
        "mov.u32 %r25, smem; add.s32 %r24, %r25, %r24;\n"
    )
    last = "add.u32 %r19, %r19, 1; setp.lt.u32 %p5, %r19, " + str(TILES) + ";\n@%p5 bra $next{who};\n"
    return (
        "ld.param.u64 %rd10, [given]; mov.u32 %r19, 0;\n"
        + "".join(init(32, 8 * stage) + init(2, 32 + 8 * stage) for stage in range(stages))
        + "bar.sync 0;\nsetp.ge.u32 %p1, %r1, 32;\n@%p1 bra $nextC;\n"
        + step.format(who="P")
        + "xor.b32 %r26, %r23, 1;\n$empty:\nmbarrier.test_wait.parity.shared.b64 %p2, [%r22+32], %r26;\n"
        "@!%p2 bra $empty;\n"
        "shl.b32 %r27, %r3, 4; add.s32 %r28, %r24, %r27; shl.b32 %r29, %r19, 9; add.s32 %r29, %r29, %r27;"
        "cvt.u64.u32 %rd11, %r29; add.s64 %rd11, %rd10, %rd11;\ncp.async.cg.shared.global [%r28], [%rd11], 16;\n"
        "cp.async.mbarrier.arrive.noinc.shared.b64 [%r22];\n"
        + last.format(who="P")
        + "bra $end;\n"
        + step.format(who="C")
        + "$full:\nmbarrier.test_wait.parity.shared.b64 %p2, [%r22], %r23;\n@!%p2 bra $full;\n"
        "sub.u32 %r27, %r1, 32; xor.b32 %r28, %r27, 32; shl.b32 %r28, %r28, 3; add.s32 %r28, %r24, %r28;"
        "ld.shared.v2.u32 {%r30, %r31}, [%r28]; shl.b32 %r29, %r19, 9; shl.b32 %r27, %r27, 3; add.s32 %r29, %r29, %r27;"
        "cvt.u64.u32 %rd11, %r29; add.s64 %rd11, %rd1, %rd11; st.global.v2.u32 [%rd11], {%r30, %r31};\n"
        "bar.warp.sync -1;\nsetp.eq.u32 %p3, %r3, 0;\n@%p3 mbarrier.arrive.shared.b64 %rd12, [%r22+32];\n"
        + last.format(who="C")
        + "$end:\n"
    )


def run_ring(text: str, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    given = np.arange(TILES * 128, dtype=np.uint32).reshape(TILES, 2, 64)
    out = np.zeros_like(given)
    # 16-byte copies want their source aligned; numpy gives 16.
    run(text, [out, emu.Memory(array=given, access="read")], block=96, seed=seed)
    return out, given[:, ::-1]


def ring_kernel(stages: int) -> str:
    return kernel(START + ring(stages), ".param .u64 out, .param .u64 given", before=SMEM)


RING = ring_kernel(2)


@pytest.mark.parametrize("stages", [1, 2, 3, 4])
def test_a_ring_of_stages_is_clean_under_every_order_of_warps(stages):
    text = ring_kernel(stages)
    for seed in range(50):
        out, want = run_ring(text, seed)
        assert np.array_equal(out, want)


@pytest.mark.parametrize("mutant", sync_mutants(RING), ids=str)
def test_no_broken_ring_goes_unnoticed(mutant):
    for seed in range(2):
        with pytest.raises(emu.EmulatorError) as caught:
            run_ring(mutant.ptx, seed)
        assert caught.value.report is not None and caught.value.report.findings


def test_the_ring_has_a_mutant_for_each_of_its_synchronisations():
    assert [(one.sync.kind, one.change) for one in sync_mutants(RING)] == [
        ("barrier", "deleted"), ("phase_wait", "weakened"), ("copy_arrive", "deleted"), ("phase_wait", "weakened"),
        ("warp_sync", "deleted"), ("phase_arrive", "deleted"),
    ]  # fmt: skip


@pytest.mark.nvcc
def test_what_nvcc_makes_of_cuda_barrier_and_memcpy_async_runs(tmp_path):
    nvcc = shutil.which("nvcc")
    assert nvcc
    source = Path(__file__).parent / "barrier_ring.cu"
    subprocess.run([nvcc, "-ptx", "-arch=sm_80", str(source), "-o", str(tmp_path / "ring.ptx")], check=True)
    text = (tmp_path / "ring.ptx").read_text()
    assert "cp.async.mbarrier.arrive.shared.b64" in text and "mbarrier.test_wait.shared.b64" in text
    given = np.random.default_rng(0).standard_normal((6, 128, 4)).astype(np.float32)
    for seed in range(4):
        out = np.zeros_like(given)
        run_options = {"grid": (1,), "block": (128,), "seed": seed}
        emu.load(text).launch("ring", args=[emu.Memory(array=given, access="read"), out, np.int32(6)], **run_options)
        assert np.array_equal(out, given[:, ::-1])
    noticed = 0
    for mutant in sync_mutants(text):
        with pytest.raises(emu.EmulatorError):
            emu.load(mutant.ptx).launch(
                "ring",
                args=[emu.Memory(array=given, access="read"), np.zeros_like(given), np.int32(6)],
                grid=(1,),
                block=(128,),
            )
        noticed += 1
    assert noticed >= 5
