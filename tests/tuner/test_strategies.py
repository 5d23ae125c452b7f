"""Strategies over a pool: nothing twice, nothing pending, deterministic, better than chance."""

import importlib.util
import math
import statistics

import numpy as np
import optuna
import pytest
import recordings
import tuner_fakes as fakes
from tuner_fakes import FakeCompiler, make_request, make_work, run, wide_space

from kernelwright.tuner.errors import TunerError, UsageError
from kernelwright.tuner.gaussian import Distances, expectation
from kernelwright.tuner.points import make_points
from kernelwright.tuner.pool import enumerate_pool
from kernelwright.tuner.recording import load_recording
from kernelwright.tuner.replay import replay_once
from kernelwright.tuner.results import Outcome
from kernelwright.tuner.strategies import ForestStrategy, GaussianStrategy, History, OrderedStrategy, make_strategy
from kernelwright.tuner.strategy_names import STRATEGIES, default_strategy, parse_strategy
from kernelwright.tuner.study import open_ledger

FOREST = importlib.util.find_spec("sklearn") is not None
INSTALLED = [name for name in STRATEGIES if name != "forest" or FOREST]
guesses = pytest.mark.parametrize("name", [name for name in INSTALLED if name in ("gp", "forest")])
needs_forest = pytest.mark.skipif(not FOREST, reason="scikit-learn (the extra `search`) is not installed")


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    return load_recording(recordings.write_cache(tmp_path_factory.mktemp("recording") / "cache.json"))


# ---------------------------------------------------------------------- pools


def test_neighbours_differ_in_one_parameter():
    pool = make_points({"a": [4, 1, 2], "b": ["x", "y"]}, [(1, "x"), (2, "x"), (4, "x"), (2, "y")])
    assert pool.choices == ((1, 2, 4), ("x", "y"))
    assert [pool.points[index] for index in pool.neighbours(0)] == [(2, "x"), (4, "x")]
    assert [pool.points[index] for index in pool.neighbours(1)] == [(1, "x"), (4, "x"), (2, "y")]


def test_a_pool_refuses_points_that_it_has_twice_or_that_no_list_holds():
    with pytest.raises(ValueError, match="twice"):
        make_points({"a": [1, 2]}, [(1,), (1,)])
    with pytest.raises(ValueError, match="value 3"):
        make_points({"a": [1, 2]}, [(3,)])


def test_a_space_of_one_value_each_is_a_pool_too():
    pool = make_points({"a": [1], "b": [True]}, [(1, True)])
    for name in INSTALLED:
        assert make_strategy(name, pool, 0).propose(History(), 3) == [0]


# ---------------------------------------------------------------------- strategies


@pytest.mark.parametrize("name", INSTALLED)
def test_no_strategy_proposes_what_is_told_or_pending_or_twice_and_all_come_to_an_end(name):
    points = [(a, b, c) for a in (1, 2, 4) for b in (1, 2, 4) for c in (False, True)]
    pool = make_points({"a": [1, 2, 4], "b": [1, 2, 4], "c": [False, True]}, points)
    strategy, history = make_strategy(name, pool, 3), History(pending={5})
    seen = []
    while chosen := strategy.propose(history, 4):
        assert len(set(chosen)) == len(chosen) and not set(chosen) & (history.told.keys() | history.pending)
        seen += chosen
        history.told |= {index: math.inf if index % 5 == 0 else float(index) for index in chosen}
    assert sorted(seen) == [index for index in range(18) if index != 5]


@pytest.mark.parametrize("name", INSTALLED)
def test_a_strategy_is_a_function_of_its_seed_and_the_history(name, recording):
    traces = [replay_once(recording, make_strategy(name, recording.pool, seed), 32).points for seed in (1, 1, 2)]
    assert traces[0] == traces[1] != traces[2]


@guesses
def test_a_search_goes_on_after_an_interruption_as_if_there_had_been_none(recording, name):
    whole = replay_once(recording, make_strategy(name, recording.pool, 4), 64).points
    told = History(told={index: recording.figures[index] for index in whole[:40]})
    assert tuple(make_strategy(name, recording.pool, 4).propose(told, 8)) == whole[40:48]


@guesses
def test_a_search_is_nearer_to_the_optimum_than_chance_after_a_few_rounds(recording, name):
    def regret(name):
        found = [replay_once(recording, make_strategy(name, recording.pool, seed), 56).points for seed in range(4)]
        return statistics.fmean(min(recording.figures[index] for index in points) for points in found)

    assert regret(name) < regret("random")


@guesses
def test_failures_are_avoided_and_never_taken_for_good(recording, name):
    pool = recording.pool
    shared = pool.names.index("shared")
    figures = [math.inf if point[shared] else recordings.figure(point) for point in pool.points]
    history = History()
    strategy = make_strategy(name, pool, 0)
    while len(history.told) < 80:
        chosen = strategy.propose(history, 8)
        history.told |= {index: figures[index] for index in chosen}
    late = list(history.told)[40:]
    assert sum(math.isinf(figures[index]) for index in late) / len(late) <= 1 / 3  # half of the pool fails


@needs_forest
def test_half_of_a_batch_of_the_forest_polishes_neighbours_of_the_best_points(recording):
    history = History()
    strategy = ForestStrategy(recording.pool, 0)
    while len(history.told) < 40:
        history.told |= {index: recording.figures[index] for index in strategy.propose(history, 8)}
    best = sorted(history.told, key=lambda index: history.told[index])[:8]
    near = set().union(*(recording.pool.neighbours(index).tolist() for index in best))
    batch = strategy.propose(history, 8)
    assert len(set(batch)) == 8 and len(set(batch) & near) >= 4


def test_every_neighbour_of_the_best_point_is_tried_by_and_by(recording):
    """With one point a round for them; on a plateau nothing else is a reason to go there."""
    pool, best = recording.pool, 100
    history, strategy = History(), GaussianStrategy(recording.pool, 0)
    neighbours = set(pool.neighbours(best).tolist())
    while len(history.told) < 8 * (len(neighbours) + 2):
        chosen = strategy.propose(history, 8)
        history.told |= {index: 1.0 if index == best else 2.0 for index in [*chosen, best]}
    assert neighbours <= history.told.keys()


def test_a_search_of_nothing_but_failures_goes_on_at_random(recording):
    history, strategy = History(), GaussianStrategy(recording.pool, 0)
    for _ in range(4):
        history.told |= dict.fromkeys(strategy.propose(history, 8), math.inf)
    assert len(history.told) >= 24


def test_the_likes_of_what_is_pending_are_left_alone(recording):
    """Others try them already: proposals are farther from what is pending than they would be without it."""
    pool = recording.pool
    told = worked(recording, 7)
    strategy = GaussianStrategy(pool, 0)
    favourite = strategy.propose(History(told=told), 1)[0]
    others = strategy.propose(History(told=told, pending={favourite}), 8)
    assert favourite not in others
    expected = [expectation_of(pool, told, pending) for pending in ([], [favourite])]
    like = int(pool.neighbours(favourite)[0])
    assert expected[1].variance[like] < expected[0].variance[like]
    assert np.allclose(expected[1].mean, expected[0].mean, atol=1e-4)


def worked(recording, step):
    """One point in `step`, with its figure, if it has one."""
    figures = recording.figures
    return {index: figures[index] for index in range(0, len(figures), step) if math.isfinite(figures[index])}


def expectation_of(pool, told, pending):
    known = np.array(list(told), dtype=np.intp)
    values = np.array([-math.log(value) for value in told.values()])
    everything = np.arange(len(pool))
    return expectation(Distances(pool), known, values - values.mean(), np.array(pending, dtype=np.intp), everything)


def test_a_process_agrees_with_the_textbook(recording):
    """Mean and variance by the covariance's inverse, and after a choice as if it had been pending."""
    pool = recording.pool
    told = worked(recording, 11)
    found = expectation_of(pool, told, [3])
    known, everything = np.array([*told, 3]), np.arange(len(pool))
    distances = Distances(pool)
    inverse = np.linalg.inv(np.exp(-found._rate * distances.between(known, known)) + 0.1 * np.eye(len(known)))
    shared = np.exp(-found._rate * distances.between(known, everything))
    assert np.allclose(found.variance, 1 - np.einsum("kc,kl,lc->c", shared, inverse, shared), atol=1e-4)
    values = np.array([-math.log(value) for value in told.values()])
    inner = np.linalg.inv(np.exp(-found._rate * distances.between(known[:-1], known[:-1])) + 0.1 * np.eye(len(told)))
    assert np.allclose(found.mean, shared[:-1].T @ inner @ (values - values.mean()), atol=1e-3)
    step = expectation_of(pool, told, [])
    step.choose(3)
    assert np.allclose(step.variance, found.variance, atol=1e-4)


def test_distances_grow_with_parameters_that_differ_and_with_steps_between_numbers():
    pool = make_points({"a": [1, 2, 4], "b": ["x", "y", "z"], "c": [7]}, [(1, "x", 7), (2, "x", 7), (4, "z", 7)])
    everything = np.arange(3)
    between = Distances(pool).between(everything, everything)
    assert np.allclose(between, between.T) and np.allclose(np.diag(between), 0)
    assert between[0, 1] == pytest.approx((0.6 + 0.4 / 2) / 2) and between[0, 2] == pytest.approx(1)


def test_an_exhaustive_search_follows_a_prior(recording):
    strategy = OrderedStrategy(recording.pool, 0, prior=list(range(len(recording.pool)))[::-1])
    assert strategy.propose(History(told={len(recording.pool) - 1: 1.0}), 2) == [
        len(recording.pool) - 2,
        len(recording.pool) - 3,
    ]


@pytest.mark.parametrize(
    ("size", "trials", "expected"),
    [
        (100, 150, {"exhaustive"}),
        (150, 20, {"exhaustive"}),
        (151, 150, {"gp"}),
        (151, 151, {"exhaustive"}),
    ],
)
def test_the_strategy_suits_the_pool(size, trials, expected):
    assert default_strategy(size, trials) in expected


def test_an_unknown_strategy_is_refused_with_those_that_exist():
    with pytest.raises(UsageError, match=r"'bayes'.*exhaustive, gp, forest, tpe, random"):
        parse_strategy("bayes")


def test_without_scikit_learn_the_forest_is_refused_with_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"kernelwright\[search\]"):
        parse_strategy("forest")
    assert default_strategy(1000, 100) == "gp"


# ---------------------------------------------------------------------- in studies


@pytest.mark.parametrize("name", INSTALLED)
def test_a_run_may_name_its_strategy(tmp_path, name):
    request = make_request(tmp_path, space=wide_space(), trials=30)
    result = run(fakes.replace(request, strategy=name))
    order = [outcome.variant.name for outcome in result.outcomes]
    assert len(set(order)) == 30 and order[0] == request.pool.legal[request.pool.default].name


def test_without_optuna_a_model_cannot_choose(tmp_path, monkeypatch):
    monkeypatch.setattr("kernelwright.tuner.tune.has_optuna", lambda: False)
    with pytest.raises(TunerError, match="--strategy tpe needs optuna"):
        run(fakes.replace(make_request(tmp_path), strategy="tpe"))


def test_winners_from_elsewhere_are_tried_right_after_the_default(tmp_path):
    request = make_request(tmp_path, space=wide_space(), trials=4)
    wanted = list(request.pool.legal)[7:9]
    foreign = tuple(-1 for _ in wanted[0])  # a point that this pool lacks
    result = run(fakes.replace(request, first=(wanted[0], foreign, wanted[1])))
    assert [one.variant for one in result.outcomes][1:3] == [request.pool.legal[point] for point in wanted]


def ledger_of(pool, strategy="random"):
    return open_ledger(
        optuna.storages.InMemoryStorage(),
        "study",
        pool,
        fakes.IDENTITY,
        seed=0,
        strategy=strategy,
        resume=False,
        where="memory",
    )


def test_earlier_results_are_adopted_as_trials_learnt_from_and_not_measured_again():
    pool = enumerate_pool(fakes.SPACE, fakes.reference_device(80))
    variants = list(pool.legal.values())
    earlier = [
        Outcome(variant=variants[0], status="ok", figures={"shape": 5.0}),
        Outcome(variant=variants[1], status="wrong", detail="error"),
    ]
    ledger = ledger_of(pool)
    for outcome in earlier:
        ledger.adopt(outcome)
    assert ledger.num_tried == 2 and ledger.outcomes() == earlier
    asked = ledger.ask(len(variants))
    assert len(asked) == len(variants) - 2 and not set(variants[:2]) & set(asked)


def test_failed_points_violate_a_constraint_where_optuna_has_them(tmp_path):
    first = next(iter(make_request(tmp_path).pool.legal.values())).name
    run(make_request(tmp_path), make_work(compiler=FakeCompiler(faulty=[first])))
    storage = optuna.storages.JournalStorage(
        optuna.storages.journal.JournalFileBackend(str(tmp_path / "small-sm80.journal"))
    )
    trials = optuna.load_study(storage=storage, study_name="small-sm80").trials
    assert {trial.state.name for trial in trials} == {"COMPLETE"}
    if hasattr(trials[0], "constraints"):
        violated = [trial.user_attrs["variant"] for trial in trials if any(v > 0 for v in trial.constraints.values())]
        assert violated == [first]


def test_distances_count_parameters(recording):
    pool = recording.pool
    assert pool.distances(0)[0] == 0 and pool.distances(0).max() <= len(pool.names)
    assert np.array_equal(pool.distances(3)[[7]], pool.distances(7)[[3]])
