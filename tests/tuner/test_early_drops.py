"""The search's own estimates: few samples of what is far behind, kept and marked; finals by one method a shape."""

import json
import statistics
from dataclasses import replace

import pytest
import tuner_fakes as fakes
from tuner_fakes import FakeScorer, make_request, make_work, run

from kernelwright.tuner.errors import StoreError
from kernelwright.tuner.records import read_store
from kernelwright.tuner.results import Outcome
from kernelwright.tuner.search import Best
from kernelwright.tuner.store import SUFFIX
from kernelwright.tuner.tune import tune
from kernelwright.tuner.work import Scored, Timed

FIRST, SECOND = (shape.name for shape in fakes.SHAPES)
MEASURED = replace(fakes.IDENTITY, label="measured")


class Racing(FakeScorer):
    """Times from a list, without noise, dropped as the real scorer does. Notes what it was told."""

    def __init__(self, truth, capturable=True, uncapturable=()):
        super().__init__(label="measured")
        self.truth, self.told, self.bursts = truth, [], []
        self.capturable, self.uncapturable = capturable, uncapturable

    def score(self, compiled):
        return self.score_against(compiled, {})

    def score_against(self, compiled, best):
        name = compiled.variant.name
        self.scored.append(name)
        self.told.append((name, dict(best)))
        behind = [shape for shape, value in self.truth[name].items() if value > 2 * best.get(shape, value)]
        samples = {shape: [value] * (2 if shape in behind else 5) for shape, value in self.truth[name].items()}
        return Scored(
            figures={shape: statistics.median(taken) for shape, taken in samples.items()},
            samples=samples,
            methods=dict.fromkeys(samples, "events"),
            dropped=dict.fromkeys(behind, "more than 2 times the best"),
        )

    def time(self, compiled, shape, repeats, method):
        name = compiled.variant.name
        self.bursts.append((name, shape, method))
        if method == "graph" and (not self.capturable or name in self.uncapturable):
            return Timed(samples=[self.truth[name][shape]] * repeats, note="waits for the GPU")
        return Timed(samples=[self.truth[name][shape]] * repeats, method=method)


def measure(request, scorer):
    work = replace(make_work(scorer=scorer), timer=scorer)
    return tune(request, replace(MEASURED, space_digest=request.space.digest), lambda: work, today=lambda: fakes.DAY)


def names_of(request):
    default = request.pool.legal[request.pool.default].name
    return [default, *(one.name for one in request.pool.legal.values() if one.name != default)]


def flat(names, value=100.0):
    return {name: {FIRST: value, SECOND: 4 * value} for name in names}


def test_what_is_far_behind_is_dropped_on_that_shape_and_kept_with_its_few_samples(tmp_path):
    request = make_request(tmp_path)
    names = names_of(request)
    truth = flat(names) | {names[3]: {FIRST: 900.0, SECOND: 3600.0}, names[4]: {FIRST: 900.0, SECOND: 410.0}}
    result = measure(request, Racing(truth))
    records = {one.variant.name: one.outcome for one in read_store(tmp_path / f"small-sm80{SUFFIX}")}
    assert set(records[names[3]].dropped) == {FIRST, SECOND} and set(records[names[4]].dropped) == {FIRST}
    assert records[names[3]].samples == {FIRST: (900.0, 900.0), SECOND: (3600.0, 3600.0)}
    assert records[names[3]].status == "ok" and records[names[3]].kind == "correct"
    assert not any(one.dropped for one in records.values() if one.final)
    lines = [json.loads(line) for line in (tmp_path / f"small-sm80{SUFFIX}").read_text().splitlines()]
    (line,) = [one for one in lines if one["variant"] == names[3]]
    assert line["shapes"][FIRST]["dropped"] == "more than 2 times the best"
    assert line["shapes"][FIRST]["method"] == "events"
    assert {one.variant.name for one in result.outcomes if one.final}.isdisjoint({names[3]})


def test_what_is_far_behind_on_one_shape_still_wins_another(tmp_path):
    request = make_request(tmp_path)
    names = names_of(request)
    result = measure(request, Racing(flat(names) | {names[4]: {FIRST: 900.0, SECOND: 200.0}}))
    (specialist,) = [one for one in result.outcomes if one.variant.name == names[4]]
    assert specialist.final == 1 and specialist.figures[SECOND] == 200.0 and not specialist.dropped


def test_the_best_so_far_is_what_a_scorer_hears_and_a_resumed_run_goes_on_with_it(tmp_path):
    names = names_of(make_request(tmp_path))
    truth = {name: {FIRST: 100.0 + 10 * place, SECOND: 400.0} for place, name in enumerate(reversed(names))}
    scorer = Racing(truth)
    measure(make_request(tmp_path, trials=5), scorer)
    heard = [best.get(FIRST) for _, best in scorer.told]
    assert heard[0] is None and heard[1] == truth[scorer.scored[0]][FIRST]
    assert heard[2:] == [min(truth[one][FIRST] for one in scorer.scored[: place + 2]) for place in range(3)]
    resumed = Racing(truth)
    measure(make_request(tmp_path, trials=6, resume=True), resumed)
    assert resumed.told[0][1][FIRST] == min(truth[one][FIRST] for one in scorer.scored)


def test_rough_figures_and_failures_are_no_best():
    best, variant = Best(), next(iter(make_request(fakes.Path("unused")).pool.legal.values()))
    best.take(Outcome(variant=variant, status="ok", figures={"a": 5.0, "b": 9.0}, dropped={"b": "behind"}))
    best.take(Outcome(variant=variant, status="wrong"))
    assert best.figures() == {"a": 5.0}


def test_modelled_scorers_hear_of_no_best(tmp_path):
    result = run(make_request(tmp_path), make_work(scorer=FakeScorer()))
    assert not any(one.dropped or one.methods for one in result.outcomes)


# ---------------------------------------------------------------------- methods of a final


def test_a_final_times_all_on_a_shape_by_the_method_of_the_shortest(tmp_path):
    request = make_request(tmp_path)
    names = names_of(request)
    truth = {name: {FIRST: 55.0, SECOND: 200.0} for name in names} | {names[2]: {FIRST: 48.0, SECOND: 200.0}}
    scorer = Racing(truth)
    result = measure(request, scorer)
    assert {(shape, method) for _, shape, method in scorer.bursts} == {(FIRST, "graph"), (SECOND, "events")}
    assert {tuple(one.methods.items()) for one in result.outcomes if one.final} == {
        ((FIRST, "graph"), (SECOND, "events"))
    }


def test_where_nothing_can_be_captured_a_final_is_timed_by_events(tmp_path):
    request = make_request(tmp_path)
    scorer = Racing(flat(names_of(request), 20.0), capturable=False)
    result = measure(request, scorer)
    assert [method for _, shape, method in scorer.bursts if shape == FIRST].count("graph") == 1  # it asked once
    assert {one.methods[FIRST] for one in result.outcomes if one.final} == {"events"}


def test_what_alone_cannot_be_timed_as_the_others_are_leaves_the_final_with_the_reason(tmp_path):
    request = make_request(tmp_path)
    names = names_of(request)
    result = measure(request, Racing(flat(names, 20.0) | {names[5]: {FIRST: 15.0, SECOND: 60.0}}, True, [names[5]]))
    (odd,) = [one for one in result.outcomes if one.variant.name == names[5]]
    assert odd.kind == "runtime" and odd.detail == "timed by events, the others by graph: waits for the GPU"
    assert result.choice.winner.variant.name != names[5]


@pytest.mark.parametrize("change", [{"method": "sundial"}, {"dropped": 7}])
def test_a_stored_method_or_drop_that_is_none_is_named_by_its_place(tmp_path, change):
    request = make_request(tmp_path)
    measure(request, Racing(flat(names_of(request))))
    path = tmp_path / f"small-sm80{SUFFIX}"
    first, *others = path.read_text().splitlines()
    record = json.loads(first)
    record["shapes"][FIRST] |= change
    path.write_text("\n".join([json.dumps(record), *others]) + "\n")
    with pytest.raises(StoreError, match=rf"{SUFFIX}:1: \$\.shapes\.{FIRST}\.{next(iter(change))}"):
        list(read_store(path))
