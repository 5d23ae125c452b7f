"""Two tuners on one study in a database: the second is refused, and a killed one does not block for ever."""

import multiprocessing
import os
import signal
import time
from dataclasses import replace

import optuna
import pytest
from tuner_fakes import FakeCompiler, FakeScorer, make_request, make_work, run

from kernelwright.tuner.errors import TunerError
from kernelwright.tuner.lease import ATTRIBUTE, HOLDS_S, Lease, Owner

US, THEM = Owner(host="here", process=os.getpid()), Owner(host="there", process=7)


class Study:
    """Keeps attributes as Optuna's does."""

    def __init__(self):
        self.user_attrs = {}

    def set_user_attr(self, key, value):
        self.user_attrs = {**self.user_attrs, key: value}


class Clock:
    def __init__(self):
        self.seconds = 1000.0

    def __call__(self):
        return self.seconds


def leases(study, clock, *owners):
    return [Lease(study, "small", owner=one, now=clock, pause=lambda _: None) for one in owners]


def test_a_study_that_is_in_use_is_refused_with_by_whom_and_for_how_long():
    study, clock = Study(), Clock()
    ours, theirs = leases(study, clock, US, THEM)
    theirs.take()
    clock.seconds += 600
    with pytest.raises(
        TunerError, match=r"at work on this study, process 7 on there\. Wait \(if .* 20 min\).*--storage"
    ):
        ours.take()
    theirs.give_back()
    ours.take()
    with pytest.raises(TunerError, match="at work"):
        theirs.take()


def test_a_run_that_asks_and_tells_keeps_its_study_and_writes_seldom():
    study, clock = Study(), Clock()
    ours, theirs = leases(study, clock, US, THEM)
    ours.take()
    written = []
    write = study.set_user_attr
    study.set_user_attr = lambda key, value: (written.append(clock.seconds), write(key, value))
    for _ in range(100):
        clock.seconds += 60
        ours.renew()
        with pytest.raises(TunerError, match="at work"):
            theirs.take()
    assert len(written) <= 100 * 60 / (HOLDS_S / 2)


def test_what_a_killed_run_leaves_ends_with_its_time_and_a_run_that_slept_notices():
    study, clock = Study(), Clock()
    ours, theirs = leases(study, clock, US, THEM)
    theirs.take()
    clock.seconds += HOLDS_S
    ours.take()
    with pytest.raises(TunerError, match="another tuner is at work"):
        theirs.renew()
    theirs.give_back()  # not its own any more
    assert study.user_attrs[ATTRIBUTE]["process"] == os.getpid() and study.user_attrs[ATTRIBUTE]["until"] > 0


def test_of_two_that_begin_at_the_same_moment_one_is_refused():
    study, clock = Study(), Clock()
    (theirs,) = leases(study, clock, THEM)
    ours = Lease(study, "small", owner=US, now=clock, pause=lambda _: study.set_user_attr(ATTRIBUTE, late))
    late = {"host": THEM.host, "process": THEM.process, "until": clock.seconds + HOLDS_S}
    with pytest.raises(TunerError, match="at work"):
        ours.take()
    theirs.take()


def test_a_database_that_is_gone_in_the_end_is_a_warning(caplog):
    class Gone(Study):
        @property
        def user_attrs(self):
            raise OSError("connection lost")

        @user_attrs.setter
        def user_attrs(self, value):
            pass

    leases(Gone(), Clock(), US)[0].give_back()
    assert "stays marked as in use for 30 min: connection lost" in caplog.text


# ---------------------------------------------------------------------- whole runs


def test_a_second_run_on_one_database_is_refused_and_the_first_goes_on(tmp_path):
    url = f"sqlite:///{tmp_path}/studies.db"
    other = replace(make_request(tmp_path / "other", resume=True), storage=url)
    refused = []

    class Nested(FakeCompiler):
        def compile(self, variants):
            if not refused:
                process = multiprocessing.get_context("fork").Process(target=_expect_refusal, args=(other,))
                process.start()
                process.join()
                refused.append(process.exitcode)
            return super().compile(variants)

    result = run(replace(make_request(tmp_path / "one"), storage=url), make_work(compiler=Nested()))
    assert refused == [0] and len(result.outcomes) == 16
    scorer = FakeScorer()
    assert len(run(other, make_work(scorer=scorer)).outcomes) == 16 and not scorer.scored  # free now, and known


def _expect_refusal(request):
    try:
        run(request)
    except TunerError as error:
        os._exit(0 if "another tuner is at work on this study, process" in str(error) else 2)
    os._exit(3)


def _tune(request):
    run(request, make_work(scorer=FakeScorer(pause_s=0.3)))


def test_a_run_that_was_killed_on_this_machine_blocks_nobody_and_nothing_is_measured_twice(tmp_path):
    url = f"sqlite:///{tmp_path}/studies.db"
    request = replace(make_request(tmp_path), storage=url)
    child = multiprocessing.get_context("fork").Process(target=_tune, args=(request,))
    child.start()
    deadline = time.monotonic() + 60
    while not request.store.exists() or request.store.read_bytes().count(b"\n") < 2:
        assert time.monotonic() < deadline and child.is_alive()
        time.sleep(0.02)
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    known = request.store.read_bytes().count(b"\n")
    attributes = optuna.load_study(storage=url, study_name="small-sm80").user_attrs
    assert attributes[ATTRIBUTE]["process"] == child.pid and attributes[ATTRIBUTE]["until"] > time.time()
    scorer = FakeScorer()
    result = run(replace(request, resume=True), make_work(scorer=scorer))
    assert len(result.outcomes) == 16 and len(scorer.scored) <= 16 - known
