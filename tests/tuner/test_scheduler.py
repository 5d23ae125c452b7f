"""The scheduler: stages overlap, workers are not starved by a slow clerk, and faults lose and repeat nothing."""

import threading
import time
from collections import Counter
from concurrent.futures import BrokenExecutor, ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from kernelwright.tuner.scheduler import Done, Schedule, Stage
from kernelwright.tuner.workers import WorkerProcesses


class Books:
    """A clerk over a list of points; `slow_s` is what an ask takes."""

    def __init__(self, count, slow_s=0.0):
        self.left, self.slow_s = list(range(count)), slow_s
        self.told, self.times = {}, Counter()
        self.threads = set()

    def ask(self, count):
        self.threads.add(threading.get_ident())
        time.sleep(self.slow_s)
        taken, self.left = self.left[:count], self.left[count:]
        return taken

    def tell(self, item, result):
        self.threads.add(threading.get_ident())
        self.told[item] = result
        self.times[item] += 1


@contextmanager
def stages_of(*works, workers=4, timeout_s=30.0, shared=False):
    pools = [ThreadPoolExecutor(4 * workers) for _ in works]
    try:
        yield [
            Stage(name=f"stage{n}", work=work, executor=pool, workers=workers, timeout_s=timeout_s, shared=shared)
            for n, (work, pool) in enumerate(zip(works, pools, strict=True))
        ]
    finally:
        for pool in pools:
            pool.shutdown()


def failed(item, stage, why):
    return f"{stage}: {why if isinstance(why, str) else type(why).__name__}"


def test_every_point_goes_through_every_stage_once_and_is_told_once():
    books = Books(50)
    with stages_of(lambda n: n + 1, lambda n: n * 10) as stages:
        assert Schedule(clerk=books, stages=stages, failed=failed, batch=8).run() == 50
    assert books.told == {n: (n + 1) * 10 for n in range(50)} and set(books.times.values()) == {1}
    assert len(books.threads) == 1 and threading.get_ident() not in books.threads


def test_workers_go_on_while_the_clerk_thinks():
    """The third ask comes back only when all of the first two is measured: waiting for it would be waiting for ever."""
    measured, enough = [], threading.Event()

    class Thinking(Books):
        asks = 0

        def ask(self, count):
            self.asks += 1
            if self.asks == 3:
                assert enough.wait(60), "nobody worked meanwhile"
            return super().ask(count)

    def measure(item):
        measured.append(item)
        if len(measured) == 16:
            enough.set()
        return item

    books = Thinking(24)
    with stages_of(measure, workers=2) as stages:
        assert Schedule(clerk=books, stages=stages, failed=failed, batch=8).run() == 24


def test_stages_work_at_the_same_time():
    running, seen = Counter(), set()
    lock = threading.Lock()

    def work(stage):
        def run(item):
            with lock:
                running[stage] += 1
                seen.add(frozenset(name for name, count in running.items() if count))
            time.sleep(0.02)
            with lock:
                running[stage] -= 1
            return item

        return run

    with stages_of(work("compile"), work("verify"), work("time"), workers=2) as stages:
        Schedule(clerk=Books(30), stages=stages, failed=failed, batch=4).run()
    assert frozenset({"compile", "verify", "time"}) in seen


def test_a_point_whose_way_ends_early_does_not_reach_later_stages():
    books, timed = Books(10), []
    with stages_of(lambda n: Done("wrong") if n % 2 else n, lambda n: timed.append(n) or "ok") as stages:
        Schedule(clerk=books, stages=stages, failed=failed, batch=3).run()
    assert sorted(timed) == [0, 2, 4, 6, 8]
    assert books.told == {n: "wrong" if n % 2 else "ok" for n in range(10)}


def test_what_a_stage_raises_is_that_points_result():
    books = Books(6)
    with stages_of(lambda n: 1 // (n - 3)) as stages:
        Schedule(clerk=books, stages=stages, failed=failed, batch=2).run()
    assert books.told[3] == "stage0: ZeroDivisionError" and len(books.told) == 6


def test_lost_hung_and_wrong_points_are_told_once_and_nothing_is_measured_twice():
    books, finished, losses = Books(40), Counter(), Counter()
    lock = threading.Lock()
    release = threading.Event()

    def verify(item):
        return Done("wrong") if item % 10 == 3 else item

    def measure(item):
        if item % 10 == 5:  # its worker is killed, the first time
            with lock:
                losses[item] += 1
                first = losses[item] == 1
            if first:
                raise BrokenExecutor("killed")
        if item == 7:
            release.wait(60)  # hangs
        if item == 8:
            raise BrokenExecutor("kills every worker")
        with lock:
            finished[item] += 1
        return "ok"

    with stages_of(verify, measure, timeout_s=1.0) as stages:
        try:
            told = Schedule(clerk=books, stages=stages, failed=failed, batch=8).run()
        finally:
            release.set()
    assert told == 40 and len(books.told) == 40 and set(books.times.values()) == {1}
    assert {n for n, result in books.told.items() if result == "wrong"} == {3, 13, 23, 33}
    assert books.told[7] == "stage1: hung" and books.told[8] == "stage1: lost"
    assert all(books.told[n] == "ok" for n in (5, 15, 25, 35))
    assert set(finished.values()) == {1}


def test_nothing_is_begun_after_the_stop_and_what_runs_is_finished():
    books = Books(1000)
    with stages_of(lambda n: n) as stages:
        told = Schedule(clerk=books, stages=stages, failed=failed, batch=4, stop=lambda: len(books.told) >= 10).run()
    assert 10 <= told < 40 and told == len(books.told) <= 1000 - len(books.left)


def test_an_error_of_the_clerk_ends_the_run():
    class Broken(Books):
        def tell(self, item, result):
            raise OSError("the disk is full")

    with stages_of(lambda n: n) as stages, pytest.raises(OSError, match="the disk is full"):
        Schedule(clerk=Broken(5), stages=stages, failed=failed, batch=1).run()


def kill_itself_at_three(item):
    import os

    if item == 3:
        os._exit(1)
    return "ok"


def test_a_killed_worker_process_costs_only_the_point_that_killed_it():
    books, workers = Books(6), WorkerProcesses(2)
    try:
        stage = Stage(
            name="time", work=kill_itself_at_three, executor=workers, workers=2, timeout_s=60, restart=workers.restart
        )
        Schedule(clerk=books, stages=[stage], failed=failed, batch=3).run()
    finally:
        workers.shutdown(cancel_futures=True)
    assert books.told == {n: "time: WorkerLostError" if n == 3 else "ok" for n in range(6)}
