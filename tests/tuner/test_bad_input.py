"""Input and machines that are not as they should be: one line that says what and where, and no traceback.

Stores: test_store.py. Tables: test_tables.py. Spaces: test_space.py and test_coverage.py. Processes: test_isolation.py.
"""

import fcntl
import multiprocessing
from dataclasses import replace

import pytest
import torch
import tuner_fakes as fakes
from tuner_fakes import FakeScorer, fake_kernel, judge_all, make_request, make_work, run

from kernelwright.build import files
from kernelwright.gen import constraints
from kernelwright.gen.devices import reference_device
from kernelwright.gen.errors import BuildError
from kernelwright.gen.terminal import FAILED, MISUSED
from kernelwright.tuner import backend, commands, export
from kernelwright.tuner.cli import main
from kernelwright.tuner.errors import DeviceGivenUpError, TunerError
from kernelwright.tuner.export import publish, tuned_rows
from kernelwright.tuner.pool import enumerate_pool
from kernelwright.tuner.work import Compiled, InPlaceExecutor, Work, is_fault
from kernelwright.tuner.workers import WorkerProcesses

SPACE = """
schema: 1
kernel: flash_fwd
arch: sm80
problem: {dtype: bf16, head_dim: 64, is_causal: true}
schedule: {block_m: 64, block_n: 64, num_warps: 4, num_stages: 2, q_in_regs: false}
constraints: [smem_fits]
shapes: {batch: 1, num_heads_q: 2, num_heads_kv: 2, seqlen: 512}
"""


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("kernel:", "colour: red\nkernel:", "$: unknown key 'colour'"),
        ("block_m: 64", "block_m: 64, block_k: 8", "$.schedule: unknown key 'block_k'"),
        ("seqlen: 512", "seqlen: 512, heads: 3", "$.shapes: unknown key 'heads'"),
        ("[smem_fits]", "[smem_fits, no_such_rule]", "$.constraints[1]: found 'no_such_rule'"),
        ("schema: 1", "schema: 7", "schema is 7; this version reads schema 1"),
        ("block_m: 64", "block_m: [64, 64]", "$.schedule.block_m[1]: found 64 twice"),
    ],
)
def test_a_fault_in_a_space_is_one_line_with_its_place(tmp_path, capsys, before, after, said):
    path = tmp_path / "space.yaml"
    path.write_text(SPACE.replace(before, after))
    assert main(["run", str(path), "--dry-run"]) == FAILED
    error = capsys.readouterr().err
    assert said in error and "space.yaml" in error and "Traceback" not in error


def test_a_constraint_that_raises_is_named_with_the_point(tmp_path, capsys, monkeypatch):
    def broken(variant, device):
        return 1 // (variant.schedule.block_m - 64)

    monkeypatch.setitem(constraints.CONSTRAINTS, "smem_fits", broken)
    path = tmp_path / "space.yaml"
    path.write_text(SPACE)
    assert main(["run", str(path), "--dry-run"]) == FAILED
    error = capsys.readouterr().err
    assert "constraint smem_fits raised ZeroDivisionError" in error and "block_m=64" in error
    assert "Traceback" not in error
    with pytest.raises(TunerError, match=r"gen/constraints\.py"):
        enumerate_pool(fakes.SPACE, reference_device(80))


def test_retrying_without_resuming_is_misuse(capsys):
    assert main(["run", "flash_fwd_hd64_causal", "--retry-quarantined", "--dry-run"]) == MISUSED
    assert "--retry-quarantined needs --resume" in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["report", "export"])
def test_a_space_without_results_says_how_to_get_some(tmp_path, capsys, verb):
    assert main([verb, "flash_fwd_hd64_causal", "--out", str(tmp_path), "-o", str(tmp_path / "x")]) == FAILED
    assert "no results. Make some with tuner run flash_fwd_hd64_causal" in capsys.readouterr().err


# ---------------------------------------------------------------------- disks and modules


def published(tmp_path):
    module = tmp_path / "flash_sm80"
    module.mkdir()
    (module / "build_info.json").write_text('{"kernelwright": "0"}')
    result = run(make_request(tmp_path / "study"))
    rows = tuned_rows(result.choice, result.outcomes, result.facts, fakes.SHAPES)
    kernels = [fake_kernel(one.variant) for one in result.outcomes if one.variant.name in {r["kernel"] for r in rows}]
    return module, lambda: publish(module, tmp_path / "made", rows, kernels, {})


def test_a_disk_that_is_full_when_publishing_leaves_the_module_as_it_was(tmp_path, monkeypatch):
    module, go = published(tmp_path)
    first = go()

    def full(path, data):
        raise OSError(28, "No space left on device", str(path))

    from kernelwright.build import module as modules

    monkeypatch.setattr(modules, "write_atomic", full)
    with pytest.raises(BuildError, match=r"publishing into .*no space left for .*current"):
        go()
    assert (module / "tuned" / "current").read_text().strip() == first.name
    assert files.write_atomic is not full


def test_a_module_that_may_not_be_written_is_said_so_before_anything_is_tried(tmp_path, capsys, monkeypatch):
    module, _ = published(tmp_path)

    def read_only(*_, dir, **__):
        raise OSError(30, "Read-only file system", str(dir))

    def never(*_, **__):
        raise AssertionError("tuned for nothing")

    monkeypatch.setattr(export.tempfile, "TemporaryDirectory", read_only)
    monkeypatch.setattr(commands, "tune", never)
    path = tmp_path / "space.yaml"
    path.write_text(SPACE)
    words = ["run", str(path), "--arch", "sm80", "--backend", "modelled", "--out", str(tmp_path / "other")]
    assert main([*words, "--module", str(module)]) == FAILED
    said = capsys.readouterr().err
    assert f"publishing into {module}: may not write" in said and "another --module" in said
    assert "Traceback" not in said and {one.name for one in module.iterdir()} == {"build_info.json"}


def test_a_module_is_as_it_was_after_it_was_seen_to_be_writable(tmp_path):
    module, _ = published(tmp_path)
    export.require_writable(module)
    assert {one.name for one in module.iterdir()} == {"build_info.json"}


def test_two_tuners_on_one_study_are_refused_whatever_the_storage(tmp_path):
    context = multiprocessing.get_context("fork")
    request = make_request(tmp_path)
    tmp_path.mkdir(exist_ok=True)
    locked = context.Event()
    go = context.Event()

    def hold():
        with (request.store.with_name(f"{request.store.name}.running")).open("w") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            locked.set()
            go.wait(30)

    other = context.Process(target=hold)
    other.start()
    try:
        assert locked.wait(30)
        for storage in (None, f"sqlite:///{tmp_path}/studies.db"):
            with pytest.raises(TunerError, match=r"another tuner is at work on this study\..*give another --out"):
                run(replace(request, storage=storage))
    finally:
        go.set()
        other.join()
    assert len(run(request).outcomes) == 16


# ---------------------------------------------------------------------- devices


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU, which answers")
def test_a_gpu_that_does_not_answer_ends_the_run_after_the_first_fault():
    """The real probe, in a real worker, on a machine whose GPU is not there (any more)."""
    workers = WorkerProcesses(1, device="NVIDIA A100", probe=backend._gpu_answers, spoils=is_fault)
    variants = list(make_request(fakes.Path("unused")).pool.legal.values())[:3]
    batch = [Compiled(variant=one, kernel=fake_kernel(one), registers=128) for one in variants]
    work = Work(
        compiler=fakes.FakeCompiler(),
        verifier=GoneVerifier(),
        scorer=FakeScorer(label="measured"),
        compiling=InPlaceExecutor(),
        judging=workers,
        restart=workers.restart,
    )
    found = []
    try:
        with pytest.raises(DeviceGivenUpError, match="NVIDIA A100 answers no more"):
            for outcome in judge_all(batch, work, reference_device(80)):
                found.append(outcome.kind)
    finally:
        workers.shutdown(cancel_futures=True)
    assert found == ["runtime"]


class GoneVerifier:
    """What a launch says on a GPU that fell off the bus."""

    def verify(self, compiled):
        raise RuntimeError("CUDA error: the GPU is lost")


def test_work_in_place_needs_no_processes(tmp_path):
    assert len(run(make_request(tmp_path), make_work()).outcomes) == 16
    assert not multiprocessing.active_children()
