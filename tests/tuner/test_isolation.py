"""Worker processes that hang, crash, exit and talk nonsense: each costs its own job and nothing else."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import Executor, Future, wait
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import tuner_fakes as fakes
import worker_jobs as jobs
from tuner_fakes import FakeCompiler, FakeScorer, FakeVerifier, judge_all, make_request, run

from kernelwright.gen.devices import reference_device
from kernelwright.tuner import scheduler
from kernelwright.tuner.errors import DeviceGivenUpError
from kernelwright.tuner.isolation import Limits, WorkerLostError, WorkerProcess
from kernelwright.tuner.records import read_store
from kernelwright.tuner.store import SUFFIX
from kernelwright.tuner.work import InPlaceExecutor, Work
from kernelwright.tuner.workers import WorkerProcesses

DEVICE = reference_device(80)


@pytest.fixture
def workers():
    made = []

    def make(count=1, **more):
        made.append(WorkerProcesses(count, **more))
        return made[-1]

    yield make
    for one in made:
        one.shutdown(cancel_futures=True)
    assert not multiprocessing.active_children()


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until(condition, seconds=10):
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return condition()


@pytest.mark.parametrize(
    ("job", "kind", "said"),
    [
        (jobs.segfault, "runtime", r"died \(SIGSEGV\)"),
        (partial(jobs.leave, 3), "runtime", r"died \(exit status 3\)"),
        (partial(jobs.leave, 0), "runtime", r"died \(exit status 0\)"),
        (jobs.hang, "timeout", "no answer within 2 s, killed"),
        (jobs.stop_itself, "timeout", "no answer within 2 s, killed"),
        (partial(jobs.hang_in_stage, "measuring q512"), "timeout", "within 1 s while measuring q512, killed"),
        (partial(jobs.send_garbage, b"x" * 100), "runtime", "answered nonsense"),
        (partial(jobs.send_garbage, b"KWJ1" + (5).to_bytes(8, "little") + b"abcde"), "runtime", "answered nonsense"),
        (partial(jobs.send_garbage, b"KWJ1" + (1 << 60).to_bytes(8, "little")), "runtime", "answered nonsense"),
        (partial(jobs.send_garbage, b"KWJ1"), "timeout", "no answer"),  # half a header
    ],
)
def test_a_job_that_misbehaves_fails_alone(workers, job, kind, said):
    pool = workers(limits=Limits(job_s=2, stage_s=1))
    first, bad, after = pool.submit(os.getpid), pool.submit(job), pool.submit(os.getpid)
    with pytest.raises(WorkerLostError, match=said) as caught:
        bad.result(timeout=30)
    assert caught.value.kind == kind
    assert after.result(timeout=30) != first.result() and not is_alive(first.result())


def test_stages_each_have_their_own_deadline(workers):
    pool = workers(limits=Limits(stage_s=1.5))
    assert pool.submit(jobs.stages, 4, 0.5).result(timeout=30) == 4


def test_what_a_job_imports_counts_as_starting_and_not_as_its_own_time(workers):
    pool = workers(limits=Limits(start_s=60, job_s=2.0))
    assert pool.submit(jobs.takes, jobs.SlowToLoad(3.0)).result(timeout=90) == "loaded"
    pool = workers(limits=Limits(start_s=15, job_s=600))
    with pytest.raises(WorkerLostError, match="no answer within 15 s while loading the job, killed"):
        pool.submit(jobs.takes, jobs.SlowToLoad(600)).result(timeout=90)


def test_what_a_kernel_prints_is_no_answer_and_not_on_our_stdout(workers, capfd):
    pool = workers()
    assert pool.submit(jobs.print_garbage).result(timeout=30) == "an answer"
    assert capfd.readouterr().out == ""


def test_an_error_and_an_answer_that_cannot_be_sent_are_errors_and_cost_no_process(workers):
    pool = workers()
    before = pool.submit(os.getpid).result(timeout=30)
    with pytest.raises(TypeError, match="cannot be pickled: Unpicklable"):
        pool.submit(jobs.return_what_cannot_be_sent).result(timeout=30)
    with pytest.raises(RuntimeError, match="BadError: odd error"):
        pool.submit(jobs.raise_what_cannot_be_sent).result(timeout=30)
    with pytest.raises(TypeError, match="a job must be picklable"):
        pool.submit(lambda: 1).result(timeout=30)
    with pytest.raises(ValueError, match="invalid literal"):
        pool.submit(int, "x").result(timeout=30)
    assert pool.submit(os.getpid).result(timeout=30) == before


def test_what_a_job_started_is_killed_with_it(workers, tmp_path):
    pool, pid_file = workers(limits=Limits(job_s=2)), tmp_path / "pid"
    with pytest.raises(WorkerLostError):
        pool.submit(jobs.hang_with_a_child, str(pid_file)).result(timeout=30)
    assert wait_until(lambda: not is_alive(int(pid_file.read_text())))


def test_ctrl_c_and_shutdown_leave_no_process(workers):
    pool = workers(2)
    pids = [pool.submit(os.getpid).result(timeout=30) for _ in range(2)]
    pool.submit(jobs.hang)
    waiting = [pool.submit(jobs.hang) for _ in range(4)]
    pool.shutdown(cancel_futures=True)
    assert not any(map(is_alive, pids)) and any(one.cancelled() for one in waiting)
    with pytest.raises(RuntimeError, match="shut down"):
        pool.submit(os.getpid)


def test_a_worker_that_starts_while_the_others_are_killed_is_killed_too(workers, monkeypatch):
    starting, may_start = threading.Event(), threading.Event()

    class SlowToStart(WorkerProcess):
        def __init__(self, limits):
            starting.set()
            may_start.wait(30)
            super().__init__(limits)

    monkeypatch.setattr("kernelwright.tuner.workers.WorkerProcess", SlowToStart)
    pool = workers()
    future = pool.submit(jobs.hang)
    assert starting.wait(30)
    threading.Timer(0.3, may_start.set).start()
    pool.shutdown(cancel_futures=True)
    assert isinstance(future.exception(timeout=0), WorkerLostError)


def test_no_orphan_stays_when_the_tuner_is_killed():
    code = (
        "import os, sys, time\n"
        "import worker_jobs\n"
        "from kernelwright.tuner.workers import WorkerProcesses\n"
        "if __name__ == '__main__':\n"
        "    pool = WorkerProcesses(2)\n"
        "    print(pool.submit(os.getpid).result(), flush=True)\n"
        "    pool.submit(worker_jobs.hang); pool.submit(worker_jobs.hang)\n"
        "    time.sleep(600)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment)
    pid = int(parent.stdout.readline())
    assert is_alive(pid) and os.getpgid(pid) == pid
    parent.kill()
    parent.wait()
    assert wait_until(lambda: not is_alive(pid))


def test_a_process_that_ended_without_a_job_is_replaced_and_no_job_blamed(workers):
    pool = workers(give_up_after=1)
    pid = pool.submit(os.getpid).result(timeout=30)
    os.kill(pid, signal.SIGKILL)  # as the system does when memory runs out
    assert wait_until(lambda: not is_alive(pid))
    assert pool.submit(os.getpid).result(timeout=30) != pid
    pool.restart()
    assert pool.submit(os.getpid).result(timeout=30) != pid


# ---------------------------------------------------------------------- devices


def test_three_losses_in_a_row_give_the_device_up_and_one_success_between_does_not(workers):
    pool = workers(device="NVIDIA A100")
    done = [pool.submit(*job) for job in [(jobs.leave, 1), (jobs.leave, 1), (os.getpid,), (jobs.leave, 1)]]
    done[2].result(timeout=60)
    bad = [pool.submit(jobs.leave, 1), pool.submit(jobs.segfault), pool.submit(os.getpid)]
    for one in bad[:2]:
        with pytest.raises(WorkerLostError):
            one.result(timeout=60)
    with pytest.raises(DeviceGivenUpError, match=r"NVIDIA A100 is given up: 3 kernels in a row.*SIGSEGV.*--resume"):
        bad[2].result(timeout=60)


def test_a_device_that_disappears_is_noticed_after_the_next_loss(workers, tmp_path):
    there = tmp_path / "gpu"
    there.touch()
    pool = workers(device="NVIDIA A100", probe=partial(jobs.require_file, str(there)))
    with pytest.raises(WorkerLostError):
        pool.submit(jobs.leave, 1).result(timeout=30)
    assert pool.submit(os.getpid).result(timeout=30)  # the device answered
    with pytest.raises(WorkerLostError):
        pool.submit(jobs.leave, 1).result(timeout=30)
    there.unlink()
    for _ in range(2):
        with pytest.raises(DeviceGivenUpError, match=r"NVIDIA A100 answers no more.*no CUDA-capable device"):
            pool.submit(os.getpid).result(timeout=30)


def test_after_a_result_that_spoils_the_process_comes_a_new_one(workers):
    pool = workers(spoils=lambda result: result == "spoilt")
    first = pool.submit(os.getpid).result(timeout=30)
    assert pool.submit(os.getpid).result(timeout=30) == first
    assert pool.submit(str, "spoilt").result(timeout=30) == "spoilt"
    assert pool.submit(os.getpid).result(timeout=30) != first and not is_alive(first)


# ---------------------------------------------------------------------- a whole run


def work_in_processes(pool, verifier):
    return Work(
        compiler=FakeCompiler(),
        verifier=verifier,
        scorer=FakeScorer(),
        compiling=InPlaceExecutor(),
        judging=pool,
        restart=pool.restart,
    )


def test_quarantined_points_have_a_kind_and_are_not_tried_on_resume(workers, tmp_path):
    names = [variant.name for variant in make_request(tmp_path).pool.legal.values()]
    deeds = {names[1]: "segfault", names[5]: "hang", names[9]: "garbage", names[13]: "exit"}
    pool = workers(limits=Limits(job_s=8), give_up_after=None)  # one hangs; the others must not be late
    result = run(make_request(tmp_path), work_in_processes(pool, jobs.Misbehaving(None, deeds)))
    kinds = {one.variant.name: one.kind for one in result.outcomes if one.kind != "correct"}
    expected = {names[1]: "runtime", names[5]: "timeout", names[9]: "runtime", names[13]: "runtime"}
    assert kinds == expected and len(result.outcomes) == 16
    stored = {one.variant.name: one.outcome.kind for one in read_store(tmp_path / f"small-sm80{SUFFIX}")}
    assert {name: kind for name, kind in stored.items() if kind != "correct"} == expected
    calm = FakeScorer()
    again = run(make_request(tmp_path, resume=True), fakes.make_work(scorer=calm))
    assert not calm.scored and len(again.outcomes) == 16
    retried = run(replace(make_request(tmp_path, resume=True), retry_quarantined=True), fakes.make_work(scorer=calm))
    assert sorted(calm.scored) == sorted(deeds) and {one.kind for one in retried.outcomes} == {"correct"}


def test_a_run_whose_device_is_given_up_keeps_what_was_found(workers, tmp_path):
    names = [variant.name for variant in make_request(tmp_path).pool.legal.values()]
    pool = workers(device="the GPU")
    deeds = dict.fromkeys(names[4:], "exit")
    with pytest.raises(DeviceGivenUpError, match="the GPU is given up"):
        run(make_request(tmp_path), work_in_processes(pool, jobs.Misbehaving(None, deeds)))
    known = [one.outcome.kind for one in read_store(tmp_path / f"small-sm80{SUFFIX}")]
    assert known.count("runtime") >= 3 and known[-3:] == ["runtime"] * 3


class Answers(Executor):
    """Futures that are what the test says."""

    def __init__(self, answers):
        self.answers = list(answers)

    def submit(self, fn, /, *args, **kwargs):
        future = Future()
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            future.set_exception(answer)
        elif answer == "done":
            future.set_result(fn(*args, **kwargs))
        return future


def batch(count):
    variants = list(make_request(Path("unused")).pool.legal.values())[:count]
    return [fakes.Compiled(variant=one, kernel=fakes.fake_kernel(one), registers=128) for one in variants]


def work_with(answers):
    return Work(
        compiler=FakeCompiler(),
        verifier=FakeVerifier(),
        scorer=FakeScorer(),
        compiling=InPlaceExecutor(),
        judging=Answers(answers),
        judges=3,
        timeout_s=20,
    )


@pytest.mark.parametrize("reason", ["given up", "Ctrl-C"])
def test_what_is_finished_when_a_run_stops_is_handed_over_first(monkeypatch, reason):
    timed = ["done", DeviceGivenUpError("gone"), "done"] if reason == "given up" else ["done", "never", "done"]
    work = work_with(["done"] * 3 + timed)  # all pass their check
    expected = DeviceGivenUpError if reason == "given up" else KeyboardInterrupt
    if reason == "Ctrl-C":

        def interrupted(*args, **named):
            if not work.judging.answers:  # all are being timed
                raise KeyboardInterrupt
            return wait(*args, **named)

        monkeypatch.setattr(scheduler, "wait", interrupted)
    found = []
    with pytest.raises(expected):
        for outcome in judge_all(batch(3), work, DEVICE):
            found.append(outcome)
    assert [one.kind for one in found] == ["correct", "correct"]


def test_an_assertion_that_fails_is_a_fault_of_ours_and_no_result():
    class Broken(FakeVerifier):
        def verify(self, compiled):
            raise AssertionError("the tuner is wrong")

    variant = next(iter(make_request(Path("unused")).pool.legal.values()))
    compiled = fakes.Compiled(variant=variant, kernel=fakes.fake_kernel(variant), registers=128)
    with pytest.raises(AssertionError, match="the tuner is wrong"):
        list(judge_all([compiled], fakes.make_work(verifier=Broken()), DEVICE))


def test_workers_take_no_ctrl_c_of_ours(workers):
    pool = workers()
    assert pool.submit(signal.getsignal, signal.SIGINT).result(timeout=60) == signal.SIG_IGN
