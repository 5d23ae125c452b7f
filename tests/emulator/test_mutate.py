"""Mutants of PTX text: which there are, and that nothing else of the text changes."""

from __future__ import annotations

import pytest
from emulator_kernels import kernel, run

from kernelwright.emulator.mutate import sync_mutants

TEXT = """\
// bar.sync 0; in a comment is no barrier
cp.async.commit_group;
/* cp.async.wait_all; nor here */
\tcp.async.wait_group \t2;
@!%p1 bar.sync 0, 64;
barrier.cta.sync.aligned 1;
bar.warp.sync 0xffffffff;
cp.async.wait_all;
"""

PHASES = """\
mbarrier.init.shared.b64 [%r1], 1;
cp.async.mbarrier.arrive.noinc.shared.b64 [%r1];
@%p2 mbarrier.arrive.shared.b64 _, [%r1];
mbarrier.arrive_drop.release.cta.shared::cta.b64 %rd1, [%r1], 2;
{.reg .pred p; @P9 mbarrier.test_wait.shared.b64 p, [%r1], %rd1; selp.u32 %r3, 1, 0, p;}
mbarrier.try_wait.parity.shared.b64 %p1,
 [%r1], %r2, 100;
mbarrier.inval.shared.b64 [%r1];
"""


def test_every_synchronisation_has_its_mutants_with_line_and_place():
    found = [(one.sync.line, one.sync.kind, one.change, one.sync.index, one.sync.count) for one in sync_mutants(TEXT)]
    assert found == [
        (2, "commit", "deleted", 0, 1),
        (4, "wait", "deleted", 0, 2),
        (4, "wait", "weakened", 0, 2),
        (5, "barrier", "deleted", 0, 2),
        (6, "barrier", "deleted", 1, 2),
        (7, "warp_sync", "deleted", 0, 1),
        (8, "wait", "deleted", 1, 2),
        (8, "wait", "weakened", 1, 2),
    ]


@pytest.mark.parametrize(
    ("line", "change", "left"),
    [
        (4, "deleted", "\t"),
        (4, "weakened", "\tcp.async.wait_group 3;"),
        (5, "deleted", ""),
        (8, "weakened", "cp.async.commit_group; cp.async.wait_group 1;"),
    ],
)
def test_one_line_changes_and_a_guard_goes_with_its_instruction(line, change, left):
    mutant = next(one for one in sync_mutants(TEXT) if (one.sync.line, one.change) == (line, change))
    lines = TEXT.split("\n")
    assert mutant.ptx.split("\n") == [*lines[: line - 1], left, *lines[line:]]


def test_arrivals_at_mbarriers_are_deleted_and_waits_for_their_phases_succeed_at_once():
    found = [(one.sync.line, one.sync.kind, one.change) for one in sync_mutants(PHASES)]
    assert found == [
        (2, "copy_arrive", "deleted"), (3, "phase_arrive", "deleted"), (4, "phase_arrive", "deleted"),
        (5, "phase_wait", "weakened"), (6, "phase_wait", "weakened"),
    ]  # fmt: skip
    lines = PHASES.split("\n")
    first, second = (one.ptx.split("\n") for one in sync_mutants(PHASES)[3:])
    assert first[4] == "{.reg .pred p; @P9 setp.eq.u32 p, 0, 0; selp.u32 %r3, 1, 0, p;}"
    assert second[5:7] == ["", "setp.eq.u32 %p1, 0, 0;"]
    assert first[:4] + first[5:] == lines[:4] + lines[5:] and second[7:] == lines[7:]


def test_a_text_without_synchronisation_has_none():
    assert sync_mutants("mov.u32 %r1, %r2;\nbar.red.popc.u32 %r1, 0, %p1;\n") == []


def test_every_mutant_can_be_loaded_and_run():
    body = "mov.u32 %r1, 0;\nsetp.eq.u32 %p1, %r1, 0;\n" + TEXT.replace("bar.sync 0, 64", "bar.sync 0, 32")
    for mutant in sync_mutants(kernel(body, "")):
        run(mutant.ptx, [], checks="none")


ASYNC = """{
    fence.mbarrier_init.release.cluster;
    @%p1 fence.proxy.async.shared::cta;
    wgmma.fence.sync.aligned;
    wgmma.commit_group.sync.aligned;
    wgmma.wait_group.sync.aligned 1;
    @%p1 cp.async.bulk.commit_group;
    @%p1 cp.async.bulk.wait_group.read 0;
    mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r1], 64;
    fence.acq_rel.gpu;
}"""


def test_fences_and_groups_of_the_async_proxy_are_mutated():
    found = [(one.sync.line, one.sync.kind, one.change) for one in sync_mutants(ASYNC)]
    assert found == [
        (2, "fence", "deleted"), (3, "fence", "deleted"), (4, "fence", "deleted"), (5, "group_commit", "deleted"),
        (6, "group_wait", "deleted"), (6, "group_wait", "weakened"), (7, "group_commit", "deleted"),
        (8, "group_wait", "deleted"), (8, "group_wait", "weakened"), (9, "phase_arrive", "deleted"),
    ]  # fmt: skip
    weakened = [
        one.ptx.split("\n")[one.sync.line - 1].strip() for one in sync_mutants(ASYNC) if one.change == "weakened"
    ]
    assert weakened == ["wgmma.wait_group.sync.aligned 2;", "@%p1 cp.async.bulk.wait_group.read 1;"]
