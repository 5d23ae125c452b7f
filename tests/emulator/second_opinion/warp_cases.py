"""Instructions among the lanes of a warp: shuffles, votes, matches, reductions."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from .formats import Words
from .harness import LANE, LANES, Case, Expected, Rng, any_words, column, signed

ALL = 0xFFFFFFFF


def shuffle(mode: str, given: Words) -> tuple[Words, Words]:
    """Value and predicate, by the pseudocode of PTX ISA, "shfl.sync"."""
    a = given[..., 0]
    b, c = (given[..., n].astype(np.int64) for n in (1, 2))
    bval, cval, segment = b & 31, c & 31, c >> 8 & 31
    lane = np.broadcast_to(LANE, a.shape)
    most, least = (lane & segment) | (cval & ~segment), lane & segment
    match mode:
        case "up":
            j = lane - bval
            inside = j >= most
        case "down":
            j = lane + bval
            inside = j <= most
        case "bfly":
            j = lane ^ bval
            inside = j <= most
        case _:
            j = least | (bval & ~segment)
            inside = j <= most
    source = np.where(inside, j, lane)
    return np.take_along_axis(a, source & 31, 1), inside.astype(np.uint32)


def shuffle_expected(mode: str, given: Words) -> Expected:
    return Expected(words=column(*shuffle(mode, given)))


def shuffle_inputs(rng: Rng, warps: int) -> Words:
    """A value, a lane or distance of each lane's own or the warp's, and every clamp and segment mask by turns."""
    words = any_words(3)(rng, warps)
    distance = rng.integers(0, 64, (warps, LANES))
    words[..., 1] = np.where(np.arange(warps)[:, None] % 2, distance, distance[:, :1])
    order = np.arange(warps) * 1024 // warps if warps < 1024 else np.arange(warps) % 1024
    words[..., 2] = ((order >> 5) << 8 | (order & 31))[:, None]
    mixed = np.arange(warps) % 5 == 4  # a warp's lanes may differ in it
    words[mixed, :, 2] = rng.integers(0, 0x2000, (int(mixed.sum()), LANES)) & 0x1F1F
    return words


SHUFFLES = [
    *[
        Case(
            name=f"shfl.sync.{mode}.b32",
            body=f"shfl.sync.{mode}.b32 %d0|%p0, %a0, %a1, %a2, -1; selp.b32 %d1, 1, 0, %p0;",
            inputs=shuffle_inputs,
            expect=partial(shuffle_expected, mode),
            out_words=2,
            warps=1024,
        )
        for mode in ("up", "down", "bfly", "idx")
    ],
    Case(
        name="shfl.sync.bfly.b32 by the lower half",
        body=(
            "setp.lt.u32 %p1, %t1, 16; mov.b32 %d0, 0;"
            "@%p1 shfl.sync.bfly.b32 %d0, %a0, 5, 0x100f, 0xffff;"  # segments of 16, as its mask says
        ),
        inputs=any_words(1),
        expect=lambda given: Expected(words=np.where(LANE < 16, given[:, LANE ^ 5, 0], 0)[..., None].astype(np.uint32)),
    ),
]


def members(given: Words) -> np.ndarray:
    """Which lanes take part: the bits of word 1 of lane 0, lane 0 always; all without such a word."""
    if given.shape[2] == 1:
        return np.ones(given.shape[:2], bool)
    return (given[:, :1, 1] | np.uint32(1)) >> LANE.astype(np.uint32) & np.uint32(1) != 0


def vote_inputs(rng: Rng, warps: int) -> Words:
    """A vote, and a member mask of the warp: everybody in every other one. All, none and few yes are among them."""
    words = any_words(2)(rng, warps)
    words[..., 0] = rng.random((warps, LANES)) < rng.choice([0, 0.03, 0.5, 0.97, 1], (warps, 1))
    words[..., 1] = np.where(np.arange(warps)[:, None] % 2, words[:, :1, 1] | np.uint32(1), ALL)
    return words


# Only members execute; %t5 is the mask.
_MEMBERS = (
    "shfl.sync.idx.b32 %t5, %a1, 0, 31, -1; or.b32 %t5, %t5, 1; shr.u32 %t6, %t5, %t1; and.b32 %t6, %t6, 1;"
    "setp.ne.u32 %p5, %t6, 0; mov.b32 %d0, 7; mov.b32 %d1, 7;"
)


def vote_expected(mode: str, is_negated: bool, given: Words) -> Expected:
    yes = (given[..., 0] != 0) != is_negated
    part = members(given)
    if mode == "ballot":
        found = np.sum((yes & part).astype(np.uint64) << LANE.astype(np.uint64), 1)
    else:
        every, some = np.all(yes | ~part, 1), np.any(yes & part, 1)
        found = {"all": every, "any": some, "uni": every | ~some}[mode].astype(np.uint64)
    return Expected(words=np.where(part, found[:, None], 7)[..., None].astype(np.uint32))


def vote(mode: str, is_negated: bool) -> Case:
    source = "!%p0" if is_negated else "%p0"
    if mode == "ballot":
        opcode, body = "vote.sync.ballot.b32", f"@%p5 vote.sync.ballot.b32 %d0, {source}, %t5;"
    else:
        opcode = f"vote.sync.{mode}.pred"
        body = f"@%p5 {opcode} %p1, {source}, %t5; @%p5 selp.b32 %d0, 1, 0, %p1;"
    return Case(
        name=f"{opcode}{' of a negated predicate' if is_negated else ''}",
        body=f"{_MEMBERS} setp.ne.u32 %p0, %a0, 0; {body}",
        inputs=vote_inputs,
        expect=partial(vote_expected, mode, is_negated),
    )


def match_inputs(rng: Rng, warps: int) -> Words:
    """Few different values, now and then one alone; members as of votes; the high word of 64 bits last."""
    words = vote_inputs(rng, warps)
    few = rng.integers(0, np.array([1, 2, 5, 32])[np.arange(warps) % 4][:, None], (warps, LANES))
    words[..., 0] = few * 0x01000001
    high = rng.integers(0, 2, (warps, LANES)) * (np.arange(warps)[:, None] % 3 == 0)
    return np.concatenate([words, high[..., None].astype(np.uint32)], -1)


def match_expected(mode: str, bits: int, given: Words) -> Expected:
    value = given[..., 0].astype(np.uint64)
    if bits == 64:
        value = value | given[..., 2].astype(np.uint64) << np.uint64(32)
    part = members(given)
    same = (value[:, :, None] == value[:, None, :]) & part[:, None, :]
    mask = np.sum(same.astype(np.uint64) << LANE.astype(np.uint64), 2)
    if mode == "any":
        return Expected(words=np.where(part, mask, 7)[..., None].astype(np.uint32))
    everybody = np.sum(part.astype(np.uint64) << LANE.astype(np.uint64), 1)[:, None]
    agree = (mask == everybody) | ~part
    all_agree = np.all(agree, 1, keepdims=True)
    return Expected(
        words=column(
            np.where(part, np.where(all_agree, everybody, 0), 7),
            np.where(part, np.broadcast_to(all_agree, part.shape), 7),
        )
    )


def match_case(mode: str, bits: int) -> Case:
    opcode = f"match.{mode}.sync.b{bits}"
    source = "%a0" if bits == 32 else "%x4"
    d = "%d0" if mode == "any" else "%d0|%p1"
    more = "" if mode == "any" else "@%p5 selp.b32 %d1, 1, 0, %p1;"
    return Case(
        name=opcode,
        body=f"{_MEMBERS} mov.b64 %x4, {{%a0, %a2}}; @%p5 {opcode} {d}, {source}, %t5; {more}",
        inputs=match_inputs,
        expect=partial(match_expected, mode, bits),
        out_words=1 if mode == "any" else 2,
    )


def reduction_expected(op: str, kind: str, given: Words) -> Expected:
    part = members(given)
    a = signed(np.ascontiguousarray(given[..., 0])) if kind == "s32" else given[..., 0].astype(np.int64)
    neutral = {"add": 0, "or": 0, "xor": 0, "and": ALL, "min": 2**40, "max": -(2**40)}[op]
    ufunc: Callable[..., np.ndarray] = {
        "add": np.add, "or": np.bitwise_or, "xor": np.bitwise_xor, "and": np.bitwise_and,
        "min": np.minimum, "max": np.maximum,
    }[op].reduce  # fmt: skip
    found = ufunc(np.where(part, a, neutral), 1) & ALL
    return Expected(words=np.where(part, found[:, None], 7)[..., None].astype(np.uint32))


def reduction_inputs(rng: Rng, warps: int) -> Words:
    words = any_words(2)(rng, warps)
    words[..., 1] = np.where(np.arange(warps)[:, None] % 2, words[:, :1, 1] | np.uint32(1), ALL)
    return words


def reduction(op: str, kind: str) -> Case:
    opcode = f"redux.sync.{op}.{kind}"
    return Case(
        name=opcode,
        body=f"{_MEMBERS} @%p5 {opcode} %d0, %a0, %t5;",
        inputs=reduction_inputs,
        expect=partial(reduction_expected, op, kind),
    )


def _elected(given: Words) -> Expected:
    """One leader, a member, known to all members: the facts that the body finds out, whoever is picked."""
    part = members(given)
    return Expected(words=np.where(part, 0b1111, 7)[..., None].astype(np.uint32))


# 1: exactly one predicate is true; 2: all members have the same leader; 4: it is a member; 8: its predicate is it
ELECT = Case(
    name="elect.sync",
    body=(
        f"{_MEMBERS} @!%p5 bra $end;\n elect.sync %t7|%p1, %t5; vote.sync.ballot.b32 %t8, %p1, %t5; popc.b32 %t9, %t8;"
        "setp.eq.u32 %p2, %t9, 1; selp.b32 %d0, 1, 0, %p2; match.any.sync.b32 %t9, %t7, %t5;"
        "setp.eq.u32 %p2, %t9, %t5; @%p2 or.b32 %d0, %d0, 2; shr.u32 %t9, %t5, %t7; and.b32 %t9, %t9, 1;"
        "setp.eq.u32 %p2, %t9, 1; @%p2 or.b32 %d0, %d0, 4; mov.b32 %t9, 1; shl.b32 %t9, %t9, %t7;"
        "setp.eq.u32 %p2, %t9, %t8; @%p2 or.b32 %d0, %d0, 8;\n$end:"
    ),
    inputs=vote_inputs,
    expect=_elected,
    sm=90,
)


def active_expected(given: Words) -> Expected:
    """Lanes whose word is odd branch away; each side sees itself."""
    odd = given[..., 0] % 2 == 1
    sides = [np.sum(one.astype(np.uint64) << LANE.astype(np.uint64), 1)[:, None] for one in (odd, ~odd)]
    return Expected(words=np.where(odd, sides[0], sides[1])[..., None].astype(np.uint32))


SPECIAL = [
    Case(
        name="activemask.b32",
        body=(
            "and.b32 %t2, %a0, 1; setp.ne.u32 %p0, %t2, 0; @%p0 bra $odd;\n activemask.b32 %d0; bra $both;\n"
            "$odd: activemask.b32 %d0;\n$both:"
        ),
        inputs=any_words(1),
        expect=active_expected,
    ),
    Case(
        name="mov.u32 lane masks",
        body="".join(f"mov.u32 %d{n}, %lanemask_{one};" for n, one in enumerate(("eq", "lt", "le", "gt", "ge")))
        + "mov.u32 %d5, %laneid;",
        inputs=any_words(1),
        out_words=6,
        expect=lambda given: Expected(
            words=np.broadcast_to(
                np.array(
                    [
                        [1 << n, (1 << n) - 1, (2 << n) - 1, ALL & ~((2 << n) - 1), ALL & ~((1 << n) - 1), n]
                        for n in range(LANES)
                    ],
                    np.uint32,
                ),
                (given.shape[0], LANES, 6),
            )
        ),
    ),
]

WARP: list[Case] = [
    *SHUFFLES,
    *[vote(mode, is_negated) for mode in ("all", "any", "uni", "ballot") for is_negated in (False, True)],
    *[match_case(mode, bits) for mode in ("any", "all") for bits in (32, 64)],
    *[reduction(op, kind) for op in ("add", "min", "max") for kind in ("u32", "s32")],
    *[reduction(op, "b32") for op in ("and", "or", "xor")],
    ELECT,
    *SPECIAL,
]
