"""The real worker code on the emulator: kernels that hang, write nothing or write something else."""

import warnings
from dataclasses import replace

import pytest
import worker_jobs as jobs
from tuner_fakes import judge_all

from kernelwright.build.launcher import emulator_library
from kernelwright.gen.devices import reference_device
from kernelwright.gen.spec import Variant
from kernelwright.tuner import compile as compiling
from kernelwright.tuner.compile import NinjaCompiler
from kernelwright.tuner.isolation import Limits
from kernelwright.tuner.score import ModelScorer
from kernelwright.tuner.scratch import make_scratch
from kernelwright.tuner.shapes import Shape
from kernelwright.tuner.verify import ModuleVerifier
from kernelwright.tuner.work import InPlaceExecutor, Work
from kernelwright.tuner.workers import WorkerProcesses

pytestmark = pytest.mark.nvcc

DEVICE = reference_device(80)
NAMES = [f"flash_fwd_sm80_bf16_hd64_causal1_m64_n64_w4_s{stages}_qreg{q}" for stages in (1, 2) for q in (0, 1)]
SHAPE = Shape(batch=1, num_heads_q=2, num_heads_kv=2, seqlen_q=512, seqlen_k=512)


def at_entry(ptx, code):
    """Put instructions before the first of a kernel."""
    head, mark, tail = ptx.partition(b"\tld.param")
    assert mark
    return head + code + b"\n" + mark + tail


def with_ptx(compiled, ptx):
    assert ptx != compiled.kernel.ptx
    return replace(compiled, kernel=replace(compiled.kernel, ptx=ptx))


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    out = tmp_path_factory.mktemp("isolation")
    variants = [Variant.parse(name) for name in NAMES]
    scratch = make_scratch(out, variants[0], DEVICE, emulator=emulator_library(), jobs=2)
    return scratch, NinjaCompiler(out=out, jobs=2).compile(variants)


def judged(real, kernels, deeds=None, **limits):
    scratch, _ = real
    workers = WorkerProcesses(1, limits=Limits(**limits), device="the emulator")
    work = Work(
        compiler=NinjaCompiler(out=scratch.folder),
        verifier=jobs.Misbehaving(ModuleVerifier(scratch=scratch, on_gpu=False, num_problems=2), deeds or {}),
        scorer=ModelScorer(device=DEVICE, shapes=(SHAPE,)),
        compiling=InPlaceExecutor(),
        judging=workers,
        restart=workers.restart,
    )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return {one.variant.name: one for one in judge_all(kernels, work, DEVICE)}
    finally:
        workers.shutdown(cancel_futures=True)


def test_kernels_that_lie_are_caught_by_the_check_of_poisoned_outputs(real):
    log2e = b"0f3FB8AA3B"  # the factor from natural to binary exponents, as the PTX spells it
    good, silent, wrong, broken = real[1]
    silent = with_ptx(silent, at_entry(silent.kernel.ptx, b"\tret;"))
    wrong = with_ptx(wrong, wrong.kernel.ptx.replace(log2e, b"0f3F000000"))
    broken = with_ptx(broken, b"not PTX")
    found = judged(real, [silent, wrong, broken, good])
    assert [found[name].kind for name in NAMES] == ["correct", "correctness", "correctness", "runtime"]
    assert found[NAMES[0]].verified["by"] == "emulator" and found[NAMES[0]].figures[SHAPE.name] > 0
    assert not any(found[name].figures for name in NAMES[1:])


def test_a_kernel_that_loops_for_ever_and_a_process_that_crashes_cost_themselves_alone(real):
    first, second, third, _ = real[1]
    endless = with_ptx(first, at_entry(first.kernel.ptx, b"$L__kw_hang:\n\tbra.uni $L__kw_hang;"))
    found = judged(real, [endless, second, third], {third.variant.name: "segfault"}, job_s=15.0)
    assert [found[name].kind for name in NAMES[:3]] == ["timeout", "correct", "runtime"]
    assert "no answer within 15 s while verifying, killed" in found[NAMES[0]].detail
    assert "SIGSEGV" in found[NAMES[2]].detail


def test_a_compiler_that_hangs_is_waited_for_once_and_its_kind_is_timeout(tmp_path, monkeypatch):
    variants = [Variant.parse(name) for name in NAMES[:2]]
    calls = []

    def builds(wanted, out, *, num_jobs, progress):
        calls.append([one.name for one in wanted])
        if variants[0] in wanted:
            print(f"[0/1] nvcc x\n{NAMES[0]}: nvcc did not end within 300 s and was stopped\n  log: x", file=progress)
            raise compiling.CompileError("did not compile", [NAMES[0]])
        return [compiling.BuiltKernel(variant=one, ptx=b"", cubin=b"", report=REPORT) for one in wanted]

    monkeypatch.setattr(compiling, "build_kernels", builds)
    slow, other = NinjaCompiler(out=tmp_path).compile(variants)
    assert (slow.fault_status, other.fault) == ("timeout", "") and "did not end within 300 s" in slow.fault
    assert calls == [NAMES[:2], NAMES[1:2]]


REPORT = {"registers": 1, "spill_store_bytes": 0, "spill_load_bytes": 0}
