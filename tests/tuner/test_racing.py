"""Races: the fastest of many by a clock that varies, drifts and flatters the first sample; cheap, honest on ties."""

import itertools
import math
import random
import statistics
import sys
from collections import Counter
from pathlib import Path

import pytest

from kernelwright.tuner.racing import MeasureError, RaceSettings, race, signed_rank

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
from noisy_clock import NoisyClock


def spread(count=400, seed=0):
    """Figures as tuning spaces have them: a few good ones, a long tail."""
    source = random.Random(seed)
    return [1 + 0.05 * (number % 7 == 0) + 3 * source.random() ** 1.5 for number in range(count)]


def test_a_race_finds_what_medians_of_three_miss_at_less_than_half_the_cost():
    regrets, naive, shares = [], [], []
    for seed in range(12):
        figures = [1 + 0.4 * random.Random(seed * 1000 + number).random() ** 0.7 for number in range(300)]
        figures[seed] = 0.97  # one that stands out
        medians = NoisyClock(figures, seed, period=900)
        chosen = min(range(300), key=lambda one: statistics.median(medians.measure(one, 3)))
        clock = NoisyClock(figures, seed + 100, period=3000)
        result = race(range(300), clock.measure, default=150, seed=seed)
        regrets.append(figures[result.winner] / 0.97 - 1)
        naive.append(figures[chosen] / 0.97 - 1)
        shares.append(clock.spent / (32 * sum(figures)))
        assert result.num_samples == clock.num_samples and result.time == pytest.approx(clock.spent)
    assert statistics.fmean(naive) >= 0.03
    assert statistics.fmean(regrets) <= 0.01 and max(shares) <= 0.40


def test_the_same_seed_and_clock_give_the_same_race():
    figures = spread()
    first, again, other = (
        race(range(len(figures)), NoisyClock(figures, 1, period=1e4).measure, default=5, seed=seed)
        for seed in (3, 3, 4)
    )
    assert first == again and [v.candidate for v in first.visits] != [v.candidate for v in other.visits]


def test_what_is_hopeless_is_dropped_at_its_first_sample_and_the_reason_is_kept():
    figures = [1.0] + [5.0] * 40
    result = race(range(41), NoisyClock(figures, 0, period=1e5).measure, default=0)
    assert result.winner == 0 and result.standing == "is the default"
    visits = [visit for visit in result.visits if visit.candidate == 30]
    assert [len(visit.samples) for visit in visits] == [1]
    assert result.dropped[30] == "more than 2 times the best at its first sample"


def test_a_gain_below_the_noise_leaves_the_default_and_says_tied():
    ties = 0
    for seed in range(8):
        figures = [1.0] * 12
        result = race(range(12), NoisyClock(figures, seed, period=500).measure, default=3, seed=seed)
        ties += result.winner == 3
        assert result.winner != 3 or result.tied or result.standing == "is the default"
        assert not result.tied or "within the noise" in result.standing
    assert ties >= 6  # the best of 12 equals is luckier than its p-value says


def test_a_clear_gain_replaces_the_default():
    figures = [1.0, 0.9, 1.2, 1.3]
    result = race(range(4), NoisyClock(figures, 0, period=500).measure, default=0)
    assert (result.winner, result.tied) == (1, False) and "faster than the default" in result.standing


def test_the_default_reaches_the_final_however_slow_it_is():
    figures = [9.0] + [1.0 + number / 100 for number in range(60)]
    result = race(range(61), NoisyClock(figures, 0, period=1e5).measure, default=0)
    assert result.winner != 0 and 0 in dict(result.ranking) and 0 not in result.dropped


def test_a_batch_is_repeated_when_the_reference_jumps_and_figures_are_told_relative_to_it():
    count = itertools.count()

    def measure(candidate, repeats):
        """Everything takes half as long again from the 300th sample on."""
        return [(1 + candidate / 50) * (1.0 if next(count) < 300 else 1.5) for _ in range(repeats)]

    result = race(range(100), measure, default=50)
    assert result.repeated in (1, 2) and result.winner == 0  # twice if the jump falls into a look at the reference
    levels = {round(visit.level / 2, 3) for visit in result.visits if visit.phase == "estimate"}
    assert 1.0 in levels and 1.5 in levels


def test_the_reference_is_timed_again_after_every_twenty_candidates():
    timed = []

    def measure(candidate, repeats):
        timed.append("R" if repeats == 1 + RaceSettings().reference_burst else candidate)
        return [1 + candidate / 1000] * repeats

    race(range(70), measure, default=50)
    gaps = [
        len(set(one)) for is_reference, one in itertools.groupby(timed, key=lambda one: one == "R") if not is_reference
    ]
    # At first when it is chosen and before the first batch; the final needs none, since it is paired.
    assert timed[:2] == ["R", "R"] and gaps[:4] == [20, 20, 20, 10] and max(gaps[:-1]) == 20


@pytest.mark.parametrize(("jump", "repeated"), [(1.029, 0), (1.031, 1)])
def test_a_drift_of_more_than_three_percent_repeats_the_batch_and_less_does_not(jump, repeated):
    count = itertools.count()

    def measure(candidate, repeats):
        """From the middle of the second batch on everything takes a little longer."""
        return [(1 + candidate / 1000) * (1.0 if next(count) < 180 else jump) for _ in range(repeats)]

    result = race(range(60), measure, default=30)
    assert result.repeated == repeated
    twice = Counter(v.candidate for v in result.visits if v.phase == "estimate" and v.round == 0)
    assert sorted(twice.values()) == [1] * (60 - 20 * repeated) + [2] * (20 * repeated)


def test_final_rounds_visit_every_finalist_once_in_changing_order():
    figures = [1 + number / 100 for number in range(30)]
    result = race(range(30), NoisyClock(figures, 0, period=1e4).measure, default=0, settings=RaceSettings(rounds=6))
    orders = [
        [visit.candidate for visit in result.visits if visit.phase == "final" and visit.round == number]
        for number in range(6)
    ]
    finalists = {one for one, _ in result.ranking}
    assert all(set(order) == finalists and len(order) == len(finalists) for order in orders)
    assert len({tuple(order) for order in orders}) > 1


def test_candidates_that_cannot_be_timed_leave_with_their_reason():
    def measure(candidate, repeats):
        if candidate == 2:
            raise MeasureError("illegal address")
        return [math.nan] * repeats if candidate == 3 else [1.0 + candidate / 10] * repeats

    result = race(range(5), measure, default=4)
    assert result.dropped[2] == "illegal address" and result.dropped[3] == "no time" and result.winner == 0
    nothing = race(range(3), lambda candidate, repeats: [], default=None)
    assert nothing.winner is None and nothing.standing == "no candidate could be timed"


def test_a_candidate_that_dies_in_the_final_does_not_win():
    visits = itertools.count()

    def measure(candidate, repeats):
        if candidate == 1 and next(visits) > 5:
            raise MeasureError("device lost")
        return [2.0 - 0.5 * (candidate == 1)] * repeats

    result = race(range(3), measure, default=0)
    assert result.winner == 0 and result.dropped[1] == "device lost"


@pytest.mark.parametrize(
    ("differences", "expected"),
    [
        ([-1, -2, -3, -4, -5], 1 / 32),
        ([1, 2, 3, 4, 5], 1.0),
        ([-1, 2], 3 / 4),
        ([0, 0], 1.0),
        ([-1, -1, 1], 0.5),
    ],
)
def test_the_signed_rank_test_is_exact(differences, expected):
    assert signed_rank(differences) == pytest.approx(expected)


def test_the_signed_rank_test_counts_sign_patterns():
    sizes = [0.3, 1.1, 2.0, 2.5, 4.0, 7.0]
    observed = [-0.3, 1.1, -2.0, -2.5, -4.0, -7.0]
    rank = {size: place + 1 for place, size in enumerate(sizes)}
    above = sum(rank[abs(one)] for one in observed if one > 0)
    as_low = sum(
        sum(place for place, sign in zip(range(1, 7), signs, strict=True) if sign) <= above
        for signs in itertools.product((False, True), repeat=6)
    )
    assert signed_rank(observed) == pytest.approx(as_low / 64)
