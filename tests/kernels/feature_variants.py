"""Sets of variants in which every pair of choices occurs, problem and schedule alike."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator, Mapping

from kernelwright.gen.constraints import reasons_against
from kernelwright.gen.devices import reference_device
from kernelwright.gen.errors import SpecError
from kernelwright.gen.spec import ForwardProblem, ForwardSchedule, Variant

# What is paired: each choice with each of every other. Tiles and head dimensions are drawn, and odd ones on purpose.
Choices = Mapping[str, tuple[object, ...]]
CHOICES: Choices = {
    "mask": ("full", "causal", "local"),
    "is_varlen": (False, True),
    "has_softcap": (False, True),
    "has_alibi": (False, True),
    "has_bias": (False, True),
    "has_dropout": (False, True),
    "is_block_sparse": (False, True),
    "dtype": ("fp16", "bf16"),
    "values": ("as keys", "narrower", "wider"),  # head_dim_v beside head_dim
    "head_dim": ("small", "odd", "usual", "large"),
    "num_stages": (1, 2, 3),
    "q_in_regs": (False, True),
    "pack_gqa": (False, True),
    "is_persistent": (False, True),
}
HEAD_DIMS = {"small": (8, 16, 32), "odd": (24, 40, 72, 88, 104), "usual": (64, 96, 128), "large": (192, 256, 320, 512)}
Pair = tuple[tuple[str, object], tuple[str, object]]
Make = Callable[[dict[str, object], random.Random, int], Variant]


def impossible(pair: Pair) -> bool:
    """Heads of a group share no tile where masks are made per head; dQ by itself has no one V to keep."""
    return any(pair == one or pair == one[::-1] for one in _IMPOSSIBLE)


_IMPOSSIBLE: list[Pair] = [
    (("has_dropout", True), ("pack_gqa", True)),
    (("is_block_sparse", True), ("pack_gqa", True)),
    (("operation", "flash_bwd_dq"), ("v_in_regs", True)),
]


def all_pairs(choices: Choices = CHOICES) -> set[Pair]:
    """Return every possible pair of choices of two names, in their order."""
    return {
        ((one, a), (other, b))
        for one, other in itertools.combinations(choices, 2)
        for a in choices[one]
        for b in choices[other]
        if not impossible(((one, a), (other, b)))
    }


def pairs_of(chosen: dict[str, object]) -> set[Pair]:
    """Return the pairs that one set of choices holds."""
    return {((one, chosen[one]), (other, chosen[other])) for one, other in itertools.combinations(chosen, 2)}


def covering_variants(
    seed: int, sm: int = 80, choices: Choices = CHOICES, make: Make | None = None
) -> list[tuple[Variant, dict[str, object]]]:
    """Return legal variants, with their choices, that cover `all_pairs` of `sm`; greedy, the same for a seed."""
    generator = random.Random(seed)
    left = all_pairs(choices)
    found: list[tuple[Variant, dict[str, object]]] = []
    while left:
        target = min(left, key=repr)
        candidates = list(itertools.islice(_drawn(target, generator, sm, choices, make or _variant), 60))
        variant, chosen = max(candidates, key=lambda one: len(pairs_of(one[1]) & left))
        gained = pairs_of(chosen) & left
        assert gained, f"no legal variant has {target}"
        left -= gained
        found.append((variant, chosen))
    return found


def _drawn(
    target: Pair, generator: random.Random, sm: int, choices: Choices, make: Make
) -> Iterator[tuple[Variant, dict[str, object]]]:
    device = reference_device(sm)
    for _ in range(20000):
        chosen = {name: generator.choice(values) for name, values in choices.items()} | dict(target)
        try:
            variant = make(chosen, generator, sm)
        except SpecError:
            continue
        if not reasons_against(variant, device):
            yield variant, chosen


def _variant(chosen: dict[str, object], generator: random.Random, sm: int) -> Variant:
    head_dim = generator.choice(HEAD_DIMS[str(chosen["head_dim"])])
    steps = {"as keys": 0, "narrower": -generator.randint(1, 4), "wider": generator.randint(1, 6)}
    head_dim_v = head_dim + 8 * steps[str(chosen["values"])]
    flags = ("is_varlen", "has_softcap", "has_alibi", "has_bias", "has_dropout", "is_block_sparse")
    problem = ForwardProblem(
        dtype="fp16" if chosen["dtype"] == "fp16" else "bf16",
        head_dim=head_dim,
        head_dim_v=head_dim_v,
        is_causal=chosen["mask"] == "causal",
        is_local=chosen["mask"] == "local",
        **{name: bool(chosen[name]) for name in flags},
    )
    num_warps = generator.choice((1, 2, 4, 8))
    schedule = ForwardSchedule(
        block_m=16 * num_warps * generator.choice((1, 1, 2)),
        block_n=generator.choice((16, 32, 48, 64, 80)),
        num_warps=num_warps,
        num_stages=int(str(chosen["num_stages"])),
        q_in_regs=bool(chosen["q_in_regs"]),
        num_slices=1 if head_dim_v <= 256 else 2,
        pack_gqa=bool(chosen["pack_gqa"]),
        persistent_blocks=int(bool(chosen["is_persistent"])),
    )
    return Variant(sm=sm, problem=problem, schedule=schedule)
