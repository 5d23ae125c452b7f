"""Few kernels for many shapes, and rules that take every size once."""

import itertools
import random
from dataclasses import replace

import pytest
import tuner_fakes as fakes
from tuner_fakes import FakeScorer, make_request, make_work, run

from kernelwright.gen.errors import ConfigError
from kernelwright.tuner import coverage
from kernelwright.tuner.coverage import cover, losses
from kernelwright.tuner.export import tuned_rows
from kernelwright.tuner.intervals import are_apart, is_tied, median_interval
from kernelwright.tuner.results import Outcome
from kernelwright.tuner.rules import AXES, make_rules
from kernelwright.tuner.shapes import Shape
from kernelwright.tuner.space import load_space
from kernelwright.tuner.work import Scored


def shape(seqlen_q, seqlen_k=None, batch=1, heads=4):
    return Shape(batch=batch, num_heads_q=heads, num_heads_kv=heads, seqlen_q=seqlen_q, seqlen_k=seqlen_k or seqlen_q)


def random_losses(seed, kernels, shapes):
    chance = random.Random(seed)
    times = {f"k{k}": {f"s{s}": chance.uniform(1, 1.5) for s in range(shapes)} for k in range(kernels)}
    return losses(times, None, [])


# ---------------------------------------------------------------------- covers


def test_one_kernel_is_enough_where_one_is_nearly_the_best_everywhere():
    found = losses({"a": {"x": 100.0, "y": 101.0}, "b": {"x": 104.0, "y": 100.0}}, None, [])
    result = cover(found)
    assert result.kernels == ("a",) and result.meets and result.method == "exact"
    assert result.worst == pytest.approx(0.01) and result.geomean == pytest.approx(1.01**0.5 - 1)


def test_each_bound_asks_for_another_kernel():
    times = {"a": {"x": 100.0, "y": 106.0, "z": 100.0}, "b": {"x": 200.0, "y": 100.0, "z": 200.0}}
    assert cover(losses(times, None, [])).kernels == ("a", "b")
    assert cover(losses(times, None, []), max_worst=0.1, max_geomean=0.05).kernels == ("a",)
    assert cover(losses(times, None, []), max_worst=0.1).kernels == ("a", "b")  # 2 % in the mean are too many


@pytest.mark.parametrize("seed", range(12))
def test_a_cover_is_the_smallest_and_the_best_of_its_size(seed):
    found = random_losses(seed, 9, 5)
    result = cover(found)

    def ends(names):
        return coverage._ends(found, names, list(found["k0"]))

    def keeps(names):
        worst, geomean = ends(names)
        return worst <= 0.05 and geomean <= 0.015

    sizes = [size for size in range(1, 9) if any(map(keeps, itertools.combinations(found, size)))]
    assert result.meets == bool(sizes)
    assert keeps(result.kernels) and len(result.kernels) == sizes[0]
    best = min(ends(one)[1] for one in itertools.combinations(found, sizes[0]) if keeps(one))
    assert result.geomean == pytest.approx(best, abs=2e-6)
    assert all(found[result.choice[s]][s] == min(found[k][s] for k in result.kernels) for s in result.choice)


@pytest.mark.parametrize("seed", range(6))
def test_greedy_with_swaps_says_so_and_is_nearly_as_small(seed, monkeypatch):
    found = random_losses(seed, 14, 6)
    exact = cover(found)
    monkeypatch.setattr(coverage, "_EXACT_SETS", 1)
    greedy = cover(found)
    assert (exact.method, greedy.method) == ("exact", "greedy with swaps")
    assert greedy.meets and len(greedy.kernels) <= len(exact.kernels) + 1


def test_no_more_than_the_allowed_kernels_are_taken_and_a_bound_that_is_missed_is_told():
    shapes = [f"s{index}" for index in range(10)]
    times = {f"k{index}": {one: 1.0 if one == f"s{index}" else 2.0 for one in shapes} for index in range(10)}
    result = cover(losses(times, None, []))
    assert len(result.kernels) == 8 and not result.meets and result.worst == 1.0


def test_a_default_that_is_tied_with_the_best_stays():
    times = {"a": {"x": 98.5, "y": 98.5}, "default": {"x": 100.0, "y": 100.0}}
    assert cover(losses(times, "default", ["x", "y"]), default="default").kernels == ("default",)
    assert cover(losses(times, "default", []), default="default").kernels == ("a",)


def test_a_hundred_kernels_on_twenty_shapes_take_seconds_at_most():
    found = random_losses(1, 120, 20)
    assert len(cover(found).kernels) <= 8


# ---------------------------------------------------------------------- rules


def fits(rule, one):
    for axis in AXES:
        low, high = rule.when.get(axis, (None, None))
        size = getattr(one, axis)
        if (low is not None and size < low) or (high is not None and size > high):
            return False
    return True


@pytest.mark.parametrize("seed", range(20))
def test_rules_are_disjoint_leave_no_size_out_and_give_each_shape_its_kernel(seed):
    chance = random.Random(seed)
    shapes = list(
        {
            shape(chance.choice([1, 17, 512, 4096]), chance.choice([64, 1000, 8192]), chance.choice([1, 4, 64]))
            for _ in range(12)
        }
    )
    shapes.sort(key=lambda one: one.name)
    choice = {one.name: f"k{chance.randrange(4)}" for one in shapes}
    found = {
        f"k{index}": {one.name: 0.0 if choice[one.name] == f"k{index}" else 0.5 for one in shapes} for index in range(4)
    }
    rules = make_rules(shapes, choice, found)
    for one in shapes:
        (rule,) = [rule for rule in rules if fits(rule, one)]
        assert rule.kernel == choice[one.name] and one.name in rule.shapes
    for _ in range(200):
        sizes = {axis: int(2 ** chance.uniform(0, 20)) for axis in AXES}
        sizes["num_heads_q"] = sizes["num_heads_kv"]
        assert len([rule for rule in rules if fits(rule, Shape(**sizes))]) == 1
    lows = [[rule.when.get(axis, (None, None))[0] or 0 for axis in AXES] for rule in rules]
    assert lows == sorted(lows)


def test_the_border_lies_between_the_sizes_and_bounds_are_inclusive():
    shapes = [shape(length) for length in (512, 1024, 4096)]
    choice = dict(zip([one.name for one in shapes], ["a", "a", "b"], strict=True))
    found = {name: {one.name: 0.0 if choice[one.name] == name else 1.0 for one in shapes} for name in "ab"}
    first, second = make_rules(shapes, choice, found)
    assert first.when == {"seqlen_q": (None, 2048)} and second.when == {"seqlen_q": (2049, None)}


def test_what_one_kernel_does_as_well_is_not_parted():
    shapes = [shape(length) for length in (512, 1024)]
    choice = {shapes[0].name: "a", shapes[1].name: "b"}
    found = {"a": {shapes[0].name: 0.0, shapes[1].name: 0.01}, "b": {shapes[0].name: 0.3, shapes[1].name: 0.0}}
    (rule,) = make_rules(shapes, choice, found)
    assert rule.kernel == "a" and rule.when == {}


# ---------------------------------------------------------------------- intervals


def test_the_interval_of_a_median_is_that_of_the_tables():
    ordered = list(range(1, 21))
    assert median_interval(ordered) == (6, 15)  # n = 20: ranks 6 and 15, 95.9 %
    assert median_interval(range(6)) == (0, 5) and median_interval(range(5)) is None
    assert median_interval([]) is None


def test_the_interval_holds_the_median_as_often_as_it_says():
    chance = random.Random(5)
    hits = 0
    for _ in range(1000):
        low, high = median_interval([chance.lognormvariate(0, 0.3) for _ in range(15)])
        hits += low <= 1.0 <= high
    assert hits >= 940


def test_kernels_are_apart_only_when_their_intervals_are():
    assert are_apart((1, 2), (3, 4)) is True and are_apart((1, 3), (2, 4)) is False and are_apart(None, (1, 2)) is None
    variant = next(iter(make_request(fakes.Path("unused")).pool.legal.values()))

    def outcome(*samples):
        figure = sorted(samples)[len(samples) // 2]
        return Outcome(variant=variant, status="ok", figures={"x": figure}, samples={"x": samples})

    noisy = [outcome(*(base + 0.03 * step for step in range(-10, 11))) for base in (1.0, 1.1)]
    quiet = [outcome(*(base + 0.001 * step for step in range(-10, 11))) for base in (1.0, 1.1)]
    assert is_tied(*noisy, ["x"]) and not is_tied(*quiet, ["x"])


# ---------------------------------------------------------------------- rows


class TwoSided(FakeScorer):
    """Small tiles are fast on the short shape, large ones on the long shape."""

    def score(self, compiled):
        small = compiled.variant.schedule.block_m == 64
        other = compiled.variant.schedule.num_stages + compiled.variant.schedule.q_in_regs
        other += compiled.variant.schedule.block_n / 64
        short, long = fakes.SHAPES
        return {short.name: (100.0 if small else 150.0) + other, long.name: (300.0 if small else 200.0) + other}


def test_rows_say_which_kernel_for_which_sizes_and_on_what_they_rest(tmp_path):
    result = run(make_request(tmp_path), make_work(scorer=TwoSided()))
    rows = tuned_rows(result.choice, result.outcomes, result.facts, fakes.SHAPES)
    assert [row["when"] for row in rows] == [{"seqlen_q": [None, 724]}, {"seqlen_q": [725, None]}]
    assert ["_m64_" in row["kernel"] for row in rows] == [True, False]
    for row, one in zip(rows, fakes.SHAPES, strict=True):
        assert list(row["evidence"]["model_cycles"]) == [one.name]
        assert row["evidence"]["cover"]["kernels"] == 2 and row["evidence"]["cover"]["meets_bounds"]
        assert row["runner_up"]["tied"] and row["runner_up"]["variant"] != row["kernel"]
    assert rows[0]["evidence"]["standing"] == "better than default" and not rows[0]["evidence"]["tied"]
    assert rows[1]["evidence"]["standing"] in ("tied with default", "is the default")


def test_a_measured_row_has_the_intervals_of_its_samples(tmp_path):
    class Sampled(TwoSided):
        def score(self, compiled):
            figures = super().score(compiled)
            samples = {name: [value - 0.5 + 0.05 * step for step in range(21)] for name, value in figures.items()}
            return Scored(figures=figures, samples=samples)

    result = run(make_request(tmp_path), make_work(scorer=Sampled(label="measured")), label="measured")
    rows = tuned_rows(result.choice, result.outcomes, result.facts, fakes.SHAPES)
    for row in rows:
        ((name, (low, high)),) = row["evidence"]["interval"].items()
        assert low < row["evidence"]["time_us"][name] < high


# ---------------------------------------------------------------------- spaces of many shapes


SPACE = """
schema: 1
kernel: flash_fwd
arch: sm80
problem: {dtype: bf16, head_dim: 64, is_causal: true}
schedule: {block_m: 64, block_n: 64, num_warps: 4, num_stages: 2, q_in_regs: false}
constraints: [smem_fits]
"""


def test_a_space_lists_groups_of_shapes(tmp_path):
    path = tmp_path / "many.yaml"
    groups = (
        "shapes:\n"
        "  - {batch: [1, 8], num_heads_q: 8, num_heads_kv: 2, seqlen: [512, 1024]}\n"
        "  - {batch: 1, num_heads_q: 8, num_heads_kv: 2, seqlen_q: [1, 512], seqlen_k: [512, 4096]}\n"
    )
    path.write_text(SPACE + groups)
    found = load_space(str(path)).shapes
    assert len(found) == len(set(found)) == 7  # one is in both groups
    assert {(one.batch, one.seqlen_q, one.seqlen_k) for one in found if one.seqlen_q == 1} == {
        (1, 1, 512),
        (1, 1, 4096),
    }


@pytest.mark.parametrize(
    ("shapes", "said"),
    [
        ("{batch: 1, num_heads_q: 4, num_heads_kv: 4, seqlen: 1, seqlen_q: 2}", "unknown key 'seqlen_q'"),
        ("{batch: 1, num_heads_q: 4, num_heads_kv: 4, seqlen_q: 2}", "missing key 'seqlen_k'"),
        ("{batch: 1, num_heads_q: [4, 8], num_heads_kv: 4, seqlen: 2}", "one number each"),
        ("[{batch: 1, num_heads_q: 4, num_heads_kv: 3, seqlen: 2}]", r"\$.shapes\[0\].num_heads_kv: found 3; allowed"),
        ("[]", "at least one element"),
    ],
)
def test_a_fault_in_the_shapes_is_named_by_its_place(tmp_path, shapes, said):
    path = tmp_path / "bad.yaml"
    path.write_text(f"{SPACE}shapes: {shapes}\n")
    with pytest.raises(ConfigError, match=said):
        load_space(str(path))


def test_kernels_without_all_shapes_take_no_part(tmp_path):
    result = run(make_request(tmp_path), make_work(scorer=TwoSided()))
    best = min(result.outcomes, key=lambda one: one.figures[fakes.SHAPES[0].name])
    partial = [replace(one, figures={fakes.SHAPES[0].name: 1.0}) if one == best else one for one in result.outcomes]
    rows = tuned_rows(result.choice, partial, result.facts, fakes.SHAPES)
    assert best.variant.name not in {row["kernel"] for row in rows}
