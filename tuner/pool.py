"""From a space to its legal points, with every refusal counted by the rule that made it."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import dataclass

from kernelwright.gen.constraints import reasons_against
from kernelwright.gen.devices import Device
from kernelwright.gen.errors import KernelError, SpecError
from kernelwright.gen.ladder import ladder
from kernelwright.gen.spec import Variant
from kernelwright.tuner.errors import NoLegalPointError, TunerError
from kernelwright.tuner.space import Point, Space, Value, point_of

SPEC_RULE = "schedule"
"""Stands for what the schedule itself refuses, on every GPU."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """The points of a space.

    Args:
        num_points: size of the product of all value lists.
        legal: what may be built, by point, in the product's order; the default is among them where it is legal.
        refused: points refused by each rule; a point that several rules refuse counts for each.
        num_refused: points that at least one rule refuses.
        examples: for each rule the first refused point's reason.
        default: the hand ladder's point, or None where this device cannot run it.
        choices: every value of each field that a legal or listed point has, for Optuna's distributions.
    """

    num_points: int
    legal: dict[Point, Variant]
    refused: Counter[str]
    num_refused: int
    examples: dict[str, str]
    default: Point | None
    choices: dict[str, tuple[Value, ...]]


def enumerate_pool(space: Space, device: Device) -> Pool:
    """Judge every point of a space on a device. Compiles nothing."""
    legal: dict[Point, Variant] = {}
    refused: Counter[str] = Counter(dict.fromkeys((SPEC_RULE, *space.constraints), 0))
    examples: dict[str, str] = {}
    num_points = num_refused = 0
    for point in itertools.product(*space.values.values()):
        num_points += 1
        against = _against(space, device, point)
        if not against:
            legal[point] = space.variant_of(point)
        num_refused += bool(against)
        for rule, reason in against:
            refused[rule] += 1
            examples.setdefault(rule, f"{_words(space, point)}: {reason}")
    default: Point | None = point_of(ladder(space.sm, space.problem, space.operation)[-1].variant.schedule)
    assert default is not None
    if _against(space, device, default):
        default = None
    elif legal:
        legal.setdefault(default, space.variant_of(default))
    return Pool(
        num_points=num_points,
        legal=legal,
        refused=refused,
        num_refused=num_refused,
        examples=examples,
        default=default,
        choices=_choices(space, default),
    )


def require_legal_points(space: Space, device: Device, pool: Pool) -> None:
    """Refuse a space of which nothing can be built.

    Raises:
        NoLegalPointError: with the count of each rule and an example.
    """
    if pool.legal:
        return
    counts = ", ".join(f"{rule} {count}" for rule, count in pool.refused.items() if count)
    rule = pool.refused.most_common(1)[0][0]
    raise NoLegalPointError(
        f"space {space.name}: none of its {pool.num_points} points is legal on {device.name} (sm{device.sm}). "
        f"Points refused by rule: {counts}. For instance, {rule}: {pool.examples[rule]}. "
        "Add smaller values to the lists that this rule is about, or tune for another --arch."
    )


def _against(space: Space, device: Device, point: Point) -> list[tuple[str, str]]:
    try:
        variant = space.variant_of(point)
    except SpecError as error:
        return [(SPEC_RULE, str(error))]
    found: list[tuple[str, str]] = []
    for rule in space.constraints:
        try:
            found += reasons_against(variant, device, [rule])
        except KernelError:
            raise
        except Exception as error:
            raise TunerError(
                f"space {space.name}: constraint {rule} raised {type(error).__name__}: {error}, for "
                f"{_words(space, point)} on {device.name}. A constraint returns a reason or None: mend it in "
                "gen/constraints.py"
            ) from error
    return found


def _choices(space: Space, default: Point | None) -> dict[str, tuple[Value, ...]]:
    extra = dict(zip(space.values, default, strict=True)) if default is not None else {}
    return {
        name: tuple(dict.fromkeys([*values, *([extra[name]] if name in extra else [])]))
        for name, values in space.values.items()
    }


def _words(space: Space, point: Point) -> str:
    return " ".join(f"{name}={value}" for name, value in zip(space.values, point, strict=True))
