"""Every pair of features and schedule choices, over random problems, in the emulator with all its checks."""

from __future__ import annotations

import importlib
from collections import Counter

import pytest

from feature_variants import all_pairs, covering_variants, pairs_of

pytestmark = [pytest.mark.nvcc, pytest.mark.filterwarnings("ignore::UserWarning")]

QUICK_PROBLEMS, SLOW_PROBLEMS, SLOW_SEEDS = 8, 25, range(2, 6)


def checked(module, build, table_of, seed: int, problems: int):
    """Compile a covering set of variants, check each on its problems, and return (result, choices of each)."""
    check = importlib.import_module(f"{module.__name__}._runtime.check")
    found = {variant.name: (variant, chosen) for variant, chosen in covering_variants(seed)}
    kernels = build([variant for variant, _ in found.values()])
    module.load_table(table_of(f"features_{seed}", kernels))
    try:
        result = check.check_module(module, problems, device="cpu", seed=seed, variants=sorted(found))
    finally:
        module.load_table(None)
    return result, [chosen for _, chosen in found.values()]


def describe(results, choices) -> str:
    covered = set().union(*(pairs_of(one) for one in choices)) & all_pairs()
    problems = [one.problem for result in results for variant in result.variants for one in variant.results]
    layouts = Counter(one.layout for one in problems)
    return (
        f"{len(problems)} problems on {sum(len(result.variants) for result in results)} variants: "
        f"{len(covered)} of {len(all_pairs())} pairs of choices covered; {dict(sorted(layouts.items()))}; "
        f"{sum(one.kind == 'needle' for one in problems)} needles, "
        f"{sum(bool(one.lengths) for one in problems)} varlen, {sum(one.has_sink for one in problems)} with a sink, "
        f"{sum(bool(one.attention_chunk) for one in problems)} chunked"
    )


def needle_share(problems) -> float:
    return sum(one.kind == "needle" for one in problems) / len(problems)


def test_every_pair_of_features_computes_attention(every_head_dim, build, table_of):
    result, choices = checked(every_head_dim, build, table_of, 1, QUICK_PROBLEMS)
    print(describe([result], choices))
    assert result.passed, str(result)
    assert not any(one.skipped for one in result.variants)
    problems = [one.problem for variant in result.variants for one in variant.results]
    assert needle_share(problems) >= 0.1
    assert set().union(*(pairs_of(one) for one in choices)) >= all_pairs()


@pytest.mark.slow
@pytest.mark.parametrize("seed", SLOW_SEEDS)
def test_every_pair_of_features_computes_attention_on_many_problems(every_head_dim, build, table_of, seed):
    result, choices = checked(every_head_dim, build, table_of, seed, SLOW_PROBLEMS)
    print(describe([result], choices))
    assert result.passed, str(result)
    problems = [one.problem for variant in result.variants for one in variant.results]
    assert len(problems) * len(SLOW_SEEDS) >= 1500
    assert needle_share(problems) >= 0.1
    needles = [one for one in problems if one.kind == "needle"]
    for feature in ("window", "lengths", "block", "bias", "slopes", "dropout_p", "has_sink"):
        assert len({getattr(one, feature) for one in needles}) > 1, feature
    assert {one.layout for one in problems} == {"plain", "heads_first", "padded_heads", "expanded"}
