"""Finals of measured studies: the search's estimates are noisy and drift, the winner is neither lucky nor wrong."""

import io
import itertools
import json
import random
import statistics
from concurrent.futures import Future
from dataclasses import replace

import pytest
import tuner_fakes as fakes
from tuner_fakes import FakeScorer, InPlaceExecutor, make_request, make_work, wide_space

from kernelwright.tuner import finals
from kernelwright.tuner.errors import DeviceGivenUpError, StoreError
from kernelwright.tuner.export import tuned_rows
from kernelwright.tuner.finals import hold_final
from kernelwright.tuner.isolation import WorkerLostError
from kernelwright.tuner.progress import FinalProgress
from kernelwright.tuner.records import read_bursts, read_store
from kernelwright.tuner.store import SUFFIX
from kernelwright.tuner.tune import tune
from kernelwright.tuner.work import Scored, Timed, time_kernel

MEASURED = replace(fakes.IDENTITY, label="measured")
FIRST, SECOND = (shape.name for shape in fakes.SHAPES)


class NoisyGpu(FakeScorer):
    """Times that vary by 4 % and drift by 5 %, whose first sample of a visit is too fast. `truth` by variant's name."""

    def __init__(self, truth, seed=0, broken=()):
        super().__init__(label="measured")
        self.truth, self.random, self.broken = truth, random.Random(seed), broken
        self.taken = 0
        self.timed = []

    def sample(self, name, shape, first):
        self.taken += 1
        drift = 1 + 0.05 * min(1.0, self.taken / 4000)
        fast = self.random.uniform(0.88, 0.96) if first else 1.0
        return self.truth[name][shape] * drift * fast * self.random.gauss(1, 0.04)

    def score(self, compiled):
        name = compiled.variant.name
        self.scored.append(name)
        samples = {shape: [self.sample(name, shape, number == 0) for number in range(5)] for shape in (FIRST, SECOND)}
        return Scored(figures={shape: statistics.median(taken) for shape, taken in samples.items()}, samples=samples)

    def time(self, compiled, shape, repeats, method):
        self.timed.append(compiled.variant.name)
        if compiled.variant.name in self.broken:
            raise RuntimeError("CUDA error: misaligned address")
        return Timed(samples=[self.sample(compiled.variant.name, shape, number == 0) for number in range(repeats)])


def measure(request, gpu, judging=None):
    work = replace(make_work(scorer=gpu, judging=judging), timer=gpu)
    return tune(request, replace(MEASURED, space_digest=request.space.digest), lambda: work, today=lambda: fakes.DAY)


def names_of(request):
    return [variant.name for variant in request.pool.legal.values()]


def default_of(request):
    return request.pool.legal[request.pool.default].name


def flat(names, value=100.0):
    return {name: {FIRST: value, SECOND: 4 * value} for name in names}


def test_the_winner_is_the_fastest_although_most_of_the_field_is_nearly_as_fast(tmp_path):
    request = make_request(tmp_path, space=wide_space(12))
    names = names_of(request)
    chance = random.Random(5)
    truth = {name: {FIRST: 100 * f, SECOND: 400 * f} for name in names for f in [chance.uniform(1.06, 1.3)]}
    fastest = next(name for name in names if name != default_of(request))
    truth[fastest] = {FIRST: 100.0, SECOND: 400.0}
    result = measure(request, NoisyGpu(truth, seed=3))
    assert result.choice.winner.variant.name == fastest and result.choice.standing == "better than default"
    assert result.choice.winner.final == 1 and len(result.choice.winner.samples[FIRST]) == 36
    assert len(result.outcomes) == len(names)


@pytest.mark.parametrize("seed", range(2))
def test_where_all_are_equally_fast_the_default_stays_and_the_table_says_tied(tmp_path, seed):
    request = make_request(tmp_path, space=wide_space(6), seed=seed)
    result = measure(request, NoisyGpu(flat(names_of(request)), seed=seed))
    assert result.choice.winner.variant.name == default_of(request)
    assert result.choice.standing in ("tied with default", "is the default")
    (row,) = tuned_rows(result.choice, result.outcomes, result.facts, fakes.SHAPES)
    assert row["kernel"] == default_of(request) and row["evidence"]["standing"] == result.choice.standing


def test_what_is_best_on_one_shape_alone_is_in_the_final_and_in_the_table(tmp_path):
    request = make_request(tmp_path)
    names = names_of(request)
    specialist, other = [name for name in names if name != default_of(request)][:2]
    truth = flat(names, 130.0) | {specialist: {FIRST: 100.0, SECOND: 900.0}, other: {FIRST: 130.0, SECOND: 400.0}}
    result = measure(request, NoisyGpu(truth))
    rows = tuned_rows(result.choice, result.outcomes, result.facts, fakes.SHAPES)
    assert {row["kernel"] for row in rows} == {specialist, other}


def test_a_kernel_that_fails_in_the_final_never_wins_and_is_kept_with_its_kind(tmp_path):
    request = make_request(tmp_path)
    names = names_of(request)
    bad = next(name for name in names if name != default_of(request))
    result = measure(request, NoisyGpu(flat(names, 130.0) | {bad: {FIRST: 90.0, SECOND: 360.0}}, broken=[bad]))
    failed = [one for one in result.outcomes if one.status != "ok"]
    assert [(one.variant.name, one.kind) for one in failed] == [(bad, "runtime")] and "misaligned" in failed[0].detail
    assert result.choice.winner.variant.name != bad


def test_a_kernel_that_costs_its_process_in_the_final_is_blamed_alone(tmp_path):
    request = make_request(tmp_path)
    names = names_of(request)
    bad = next(name for name in names if name != default_of(request))

    class Losing(InPlaceExecutor):
        def submit(self, fn, /, *args, **kwargs):
            if fn is time_kernel and args[0].variant.name == bad:
                future = Future()
                future.set_exception(WorkerLostError("timeout", "no answer within 60 s while measuring, killed"))
                return future
            return super().submit(fn, *args, **kwargs)

    truth = flat(names, 130.0) | {bad: {FIRST: 90.0, SECOND: 360.0}}
    result = measure(request, NoisyGpu(truth), judging=Losing())
    assert [(one.variant.name, one.kind) for one in result.outcomes if one.status != "ok"] == [(bad, "timeout")]


def test_a_gpu_that_is_given_up_in_the_final_ends_the_run_and_leaves_the_search(tmp_path):
    request = make_request(tmp_path)

    class Gone(InPlaceExecutor):
        left = 30

        def submit(self, fn, /, *args, **kwargs):
            if fn is time_kernel:
                self.left -= 1
            if self.left:
                return super().submit(fn, *args, **kwargs)
            future = Future()
            future.set_exception(DeviceGivenUpError("NVIDIA A100 is given up"))
            return future

    truth = flat(names_of(request))
    with pytest.raises(DeviceGivenUpError, match="given up"):
        measure(request, NoisyGpu(truth), judging=Gone())
    records = [one.outcome for one in read_store(request.store)]
    assert len(records) == 16 and {(one.final, one.status) for one in records} == {(0, "ok")}
    assert len(bursts_of(request)) == 29
    later = NoisyGpu(truth)
    assert measure(replace(request, resume=True), later).choice.winner.final == 1 and not later.scored


def test_a_final_is_held_once_and_again_only_after_new_points(tmp_path):
    request = make_request(tmp_path, trials=8)
    truth = flat(names_of(request))
    measure(request, NoisyGpu(truth))
    again = NoisyGpu(truth)
    measure(replace(request, resume=True), again)
    assert not again.timed and not again.scored
    more = NoisyGpu(truth)
    result = measure(make_request(tmp_path, trials=16, resume=True), more)
    assert len(more.scored) == 8 and more.timed
    assert result.choice.winner.final == 2 and {one.final for one in result.outcomes} >= {0, 2}


def test_a_run_that_ends_in_the_final_holds_it_on_resume_and_measures_no_point_again(tmp_path):
    request = make_request(tmp_path)
    truth = flat(names_of(request))

    class Interrupted(NoisyGpu):
        def time(self, compiled, shape, repeats, method):
            if len(self.timed) > 20:
                raise KeyboardInterrupt
            return super().time(compiled, shape, repeats, method)

    with pytest.raises(KeyboardInterrupt):
        measure(request, Interrupted(truth))
    path = tmp_path / f"small-sm80{SUFFIX}"
    assert {one.outcome.final for one in read_store(path)} == {0} and len(list(read_store(path))) == 16
    resumed = NoisyGpu(truth)
    result = measure(replace(request, resume=True), resumed)
    assert not resumed.scored and result.choice.winner.final == 1
    kept = {one.variant.name: one.outcome for one in read_store(path)}
    assert kept[result.choice.winner.variant.name].samples == result.choice.winner.samples


def test_eight_meet_in_the_rounds_at_least_three_of_every_shape_and_the_default(tmp_path):
    one = list(make_request(tmp_path, space=wide_space(12)).pool.legal.values())
    assert finals._finalists([one[:20]], one[30]) == [one[30], *one[:7]]
    assert finals._finalists([one[:9], one[10:19]], one[0]) == [
        *one[:1],
        one[10],
        one[1],
        one[11],
        one[2],
        one[12],
        one[3],
        one[13],
    ]
    assert len(finals._finalists([one[5 * n : 5 * n + 5] for n in range(4)], None)) == 12
    assert finals._finalists([one[:2], []], None) == one[:2] and finals._finalists([], None) == []


def bursts_of(request):
    return [one for _, one in read_bursts(request.store)]


def test_every_sample_of_a_final_is_in_the_store_and_the_figures_are_made_of_them(tmp_path):
    request = make_request(tmp_path)
    gpu = NoisyGpu(flat(names_of(request)))
    before = []
    gpu.score = lambda compiled, score=gpu.score: (before.append(gpu.taken), score(compiled))[1]
    result = measure(request, gpu)
    bursts = bursts_of(request)
    assert len(bursts) == len(gpu.timed) and sum(len(one.samples) for one in bursts) == gpu.taken - before[-1] - 10
    assert [one.variant.name for one in bursts] == gpu.timed  # in the order in which they were taken
    assert {(one.part, one.shape) for one in bursts} == {(p, s) for p in ("race", "rounds") for s in (FIRST, SECOND)}
    winner = result.choice.winner
    of_rounds = [
        one.samples[1:] for one in bursts if (one.variant, one.shape, one.part) == (winner.variant, FIRST, "rounds")
    ]
    assert [sample for samples in of_rounds for sample in samples] == list(winner.samples[FIRST])
    identities = {identity for identity, _ in read_bursts(request.store)}
    assert identities == {replace(MEASURED, space_digest=request.space.digest)}
    again = NoisyGpu(flat(names_of(request)))
    resumed = measure(replace(request, resume=True), again)
    assert not again.timed and [one.variant for one in resumed.outcomes] == [one.variant for one in result.outcomes]


def test_samples_of_a_final_that_was_interrupted_stay(tmp_path):
    request = make_request(tmp_path)

    class Interrupted(NoisyGpu):
        def time(self, compiled, shape, repeats, method):
            if len(self.timed) == 20:
                raise KeyboardInterrupt
            return super().time(compiled, shape, repeats, method)

    with pytest.raises(KeyboardInterrupt):
        measure(request, Interrupted(flat(names_of(request))))
    assert len(bursts_of(request)) == 20
    measure(replace(request, resume=True), NoisyGpu(flat(names_of(request))))
    assert len(bursts_of(request)) > 40 and {one.final for one in bursts_of(request)} == {1}


@pytest.mark.parametrize(
    ("change", "said"),
    [({"samples": [1.0, "x"]}, r"\$\.samples\[1\]"), ({"part": "heat"}, r"\$\.part"), ({"shape": 3}, r"\$\.shape")],
)
def test_a_burst_with_a_fault_is_named_by_line_and_place(tmp_path, change, said):
    request = make_request(tmp_path)
    measure(request, NoisyGpu(flat(names_of(request))))
    lines = request.store.read_text().splitlines()
    number = next(index for index, line in enumerate(lines) if '"burst"' in line)
    lines[number] = json.dumps(json.loads(lines[number]) | change)
    request.store.write_text("\n".join(lines) + "\n")
    for read in (read_bursts, read_store):
        with pytest.raises(StoreError, match=rf":{number + 1}: {said}"):
            list(read(request.store))


def test_a_final_says_what_it_does_what_failed_and_how_long_it_takes(tmp_path):
    request = make_request(tmp_path)
    names = names_of(request)
    bad = next(name for name in names if name != default_of(request))
    truth = flat(names, 130.0) | {bad: {FIRST: 120.0, SECOND: 480.0}}
    ticks = itertools.count()
    said, kept = io.StringIO(), []
    watcher = FinalProgress(said, kept.extend, clock=lambda: next(ticks) / 10)  # some visits a second
    gpu = NoisyGpu(truth)
    outcomes = [one for one in measure(request, gpu).outcomes if one.status == "ok"]
    work = replace(make_work(scorer=gpu), timer=NoisyGpu(truth, broken=[bad]))
    default = request.pool.legal[request.pool.default]
    hold_final([replace(one, final=0) for one in outcomes], work, work.timer, default, 0, watcher)
    lines = said.getvalue().splitlines()
    assert "racing" in lines[0] and "(1 of 2)" in lines[0] and "left" in lines[0]
    assert "round 12 of 12" in lines[-1] and "failed: runtime" in lines[-1]
    assert all(line.startswith("tuner: final: ") for line in lines) and len(lines) > 5
    assert "about 0 s left" in watcher.line() and f"{len(kept) + 1} visits" in watcher.line()


def test_modelled_studies_hold_no_final(tmp_path):
    result = fakes.run(make_request(tmp_path))
    assert {one.final for one in result.outcomes} == {0}
