"""What becomes of a point: only right kernels are scored, failures are kept with their kind, workers may die."""

import math
import multiprocessing
import os
import signal
import time
from dataclasses import replace

import pytest
import tuner_fakes as fakes
from tuner_fakes import FakeCompiler, FakeScorer, FakeVerifier, HangingVerifier, judge_all, make_request, make_work, run

from kernelwright.gen.devices import reference_device
from kernelwright.gen.spec import ForwardSchedule, Variant
from kernelwright.tuner.choice import choose
from kernelwright.tuner.errors import TunerError
from kernelwright.tuner.isolation import Limits
from kernelwright.tuner.results import Outcome
from kernelwright.tuner.score import ModelScorer
from kernelwright.tuner.search import Budget, search
from kernelwright.tuner.work import Compiled, InPlaceExecutor, Work
from kernelwright.tuner.workers import WorkerProcesses

DEVICE = reference_device(80)


def names(count):
    request = make_request(fakes.Path("unused"))
    return [variant.name for variant in request.pool.legal.values()][:count]


def statuses(result):
    return {one.variant.name: one.status for one in result.outcomes if one.status != "ok"}


def test_a_wrong_kernel_never_wins_and_is_never_scored(tmp_path):
    fastest = names(3)[-1]
    scorer = FakeScorer(favourites=[fastest])
    result = run(make_request(tmp_path), make_work(verifier=FakeVerifier(wrong=[fastest]), scorer=scorer))
    assert statuses(result) == {fastest: "wrong"}
    assert fastest not in scorer.scored
    assert result.choice.winner.variant.name != fastest
    bad = next(one for one in result.outcomes if one.status == "wrong")
    assert bad.detail == "error 0.5 at row 3" and bad.score == math.inf


def test_failures_are_trials_with_a_kind(tmp_path):
    first, second, third = names(3)
    work = make_work(compiler=FakeCompiler(faulty=[first], spilling=[second]), verifier=FakeVerifier(wrong=[third]))
    result = run(make_request(tmp_path), work)
    assert statuses(result) == {first: "compile", second: "spill", third: "wrong"}
    assert len(result.outcomes) == 16
    again = run(make_request(tmp_path, resume=True))
    assert statuses(again) == statuses(result)  # kept, and not tried again


def test_a_study_in_which_nothing_succeeds_is_an_error_that_counts_kinds(tmp_path):
    every = names(16)
    with pytest.raises(TunerError, match=r"none of 16 points succeeded \(constraints 16\)"):
        run(make_request(tmp_path), make_work(compiler=FakeCompiler(spilling=every)))


def test_what_a_verifier_or_scorer_raises_is_a_failed_launch(tmp_path):
    class Broken(FakeVerifier):
        def verify(self, compiled):
            raise OSError("the driver is gone")

    with pytest.raises(TunerError, match=r"runtime 16.*the driver is gone"):
        run(make_request(tmp_path), make_work(verifier=Broken()))


@pytest.mark.parametrize("figure", [0.0, -1.0, math.nan, math.inf])
def test_a_figure_that_is_none_is_a_failed_launch(tmp_path, figure):
    class Odd(FakeScorer):
        def score(self, compiled):
            return {"shape": figure}

    with pytest.raises(TunerError, match="no figure for shape"):
        run(make_request(tmp_path), make_work(scorer=Odd()))


def test_a_kernel_of_which_no_block_fits_on_an_sm_is_a_failed_launch_and_not_tried():
    (first, *_) = compiled()
    work = make_work(scorer=(scorer := FakeScorer()))
    (found,) = judge_all([replace(first, registers=10_000)], work, DEVICE)
    assert found.status == "launch" and "no thread block fits" in found.detail and not scorer.scored


def test_points_given_back_when_time_is_up_do_not_count_as_tried(tmp_path):
    points = list(make_request(tmp_path).pool.legal.values())
    ledger = fakes.ListLedger(points)
    work = make_work(scorer=FakeScorer(pause_s=0.1))
    end = search(ledger, work, DEVICE, Budget(trials=100, seconds=0.35), watcher=fakes.Silent())
    assert end == "time spent" and 0 < ledger.num_tried < 8 and ledger.num_free == len(points) - ledger.num_tried


def test_no_more_points_are_begun_than_trials_are_left(tmp_path):
    compiler = FakeCompiler()
    run(make_request(tmp_path, trials=5), make_work(compiler=compiler))
    run(make_request(tmp_path, trials=7, resume=True), make_work(compiler=compiler))
    assert len(compiler.batches) == 7 and {len(batch) for batch in compiler.batches} == {1}


def test_the_modelled_scorer_says_modelled_and_favours_fewer_registers():
    variant = Variant.parse("flash_fwd_sm80_bf16_hd64_causal1_m128_n64_w4_s2_qreg0")
    scorer = ModelScorer(device=DEVICE, shapes=fakes.SHAPES)
    figures = [
        scorer.score(Compiled(variant=variant, kernel=None, registers=registers))[fakes.SHAPES[1].name]
        for registers in (128, 255)
    ]
    assert scorer.label == "modelled" and figures[0] <= figures[1]


# ---------------------------------------------------------------------- choosing


def outcome(block_n, *scores, status="ok"):
    schedule = ForwardSchedule(block_m=64, block_n=block_n, num_warps=4, num_stages=2, q_in_regs=False)
    figures = {f"shape{index}": score for index, score in enumerate(scores)}
    return Outcome(variant=Variant(sm=80, problem=fakes.PROBLEM, schedule=schedule), status=status, figures=figures)


def test_the_score_is_a_geometric_mean_so_long_shapes_do_not_drown_short_ones():
    assert outcome(16, 1.0, 100.0).score == pytest.approx(10.0)


@pytest.mark.parametrize(
    ("best", "default", "standing", "winner"),
    [
        (90.0, 100.0, "better than default", 16),
        (99.0, 100.0, "tied with default", 32),
        (110.0, 100.0, "is the default", 32),
        (90.0, None, "default not available", 16),
    ],
)
def test_the_default_stays_unless_it_is_clearly_beaten(best, default, standing, winner):
    base = outcome(32, default or 1.0, status="ok" if default else "spill")
    choice = choose([outcome(16, best), base, outcome(64, 500.0)], base.variant)
    assert choice.standing == standing and choice.winner.variant.schedule.block_n == winner
    assert choice.runner_up is not None and choice.runner_up != choice.winner


def test_a_runner_up_within_two_percent_is_a_tie():
    tied = choose([outcome(16, 100.0), outcome(32, 101.9)], None)
    apart = choose([outcome(16, 100.0), outcome(32, 102.1)], None)
    assert tied.is_tied and not apart.is_tied
    assert choose([outcome(16, 1.0, status="wrong")], None) is None


# ---------------------------------------------------------------------- workers


def compiled(count=3):
    variants = list(make_request(fakes.Path("unused")).pool.legal.values())[:count]
    return [Compiled(variant=one, kernel=fakes.fake_kernel(one), registers=128) for one in variants]


def judge_in_processes(verifier, timeout_s):
    workers = WorkerProcesses(2, limits=Limits(job_s=timeout_s))
    work = Work(
        compiler=FakeCompiler(),
        verifier=verifier,
        scorer=FakeScorer(),
        compiling=InPlaceExecutor(),
        judging=workers,
        timeout_s=10 * timeout_s,
        restart=workers.restart,
    )
    try:
        return {one.variant.name: one for one in judge_all(compiled(), work, DEVICE)}
    finally:
        workers.shutdown(cancel_futures=True)
        assert not multiprocessing.active_children()


def test_a_kernel_that_kills_its_worker_is_found_and_the_others_are_judged():
    dying = compiled()[1].variant.name
    found = judge_in_processes(HangingVerifier(dies=dying), timeout_s=40)
    assert {name: one.status for name, one in found.items() if one.status != "ok"} == {dying: "launch"}
    assert found[dying].detail == "the worker process died (exit status 3) while verifying"
    assert len(found) == 3


def test_a_kernel_that_hangs_is_killed_and_the_others_are_judged():
    hanging = compiled()[0].variant.name
    started = time.monotonic()
    found = judge_in_processes(HangingVerifier(hangs=hanging), timeout_s=10)
    assert {name: one.status for name, one in found.items() if one.status != "ok"} == {hanging: "timeout"}
    assert "no answer within 10 s" in found[hanging].detail
    assert time.monotonic() - started < 60


def test_workers_are_other_processes_that_ignore_ctrl_c():
    workers = WorkerProcesses(1)
    try:
        assert workers.submit(os.getpid).result(timeout=60) != os.getpid()
        assert workers.submit(signal.getsignal, signal.SIGINT).result(timeout=60) == signal.SIG_IGN
    finally:
        workers.shutdown()
