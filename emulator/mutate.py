"""Breaking a kernel on purpose: its PTX with one synchronisation taken out or weakened, for each of them.

A check that lets such a mutant pass would let the bug pass too. Text in, texts out; nothing is run here.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

SyncKind = Literal[
    "wait", "commit", "barrier", "warp_sync", "phase_wait", "phase_arrive", "copy_arrive", "fence",
    "group_wait", "group_commit"
]  # fmt: skip
Change = Literal["deleted", "weakened"]

# Comments come first, so that what they hold is no instruction. A guard goes with its instruction.
_TOKEN = re.compile(
    r"""
    //[^\n]* | /\*.*?\*/
    | (?<![\w.]) (?P<guard>@!?%?[\w$]+\s+)?
      (?: (?P<wait>cp\.async\.(?:wait_group\s+(?P<groups>\d+)|wait_all))
        | (?P<commit>cp\.async\.commit_group)
        | (?P<phase_wait>mbarrier\.(?:test|try)_wait\S*\s+(?P<done>[%\w$]+)\s*,[^;]*)
        | (?P<phase_arrive>mbarrier\.arrive[^;]*)
        | (?P<fence>(?:fence\.proxy\.async|fence\.mbarrier_init|wgmma\.fence)[^;]*)
        | (?P<group_wait>(?P<async_wait>(?:wgmma|cp\.async\.bulk)\.wait_group\S*)\s+(?P<async_groups>\d+))
        | (?P<group_commit>(?:wgmma|cp\.async\.bulk)\.commit_group[^;]*)
        | (?P<copy_arrive>cp\.async\.mbarrier\.arrive[^;]*)
        | (?P<warp_sync>bar\.warp\.sync\b[^;]*)
        | (?P<barrier>(?:bar|barrier)(?:\.cta)?\.(?:sync|arrive)\b[^;]*)
      )\s*;
    """,
    re.VERBOSE | re.DOTALL,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sync:
    """A synchronisation in a PTX text: the `index`-th of `count` of its kind, at a line counted from 1."""

    kind: SyncKind
    text: str
    line: int
    index: int
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutant:
    """A PTX text in which one synchronisation is changed; its lines keep their numbers."""

    sync: Sync
    change: Change
    ptx: str

    def __str__(self) -> str:
        return f"PTX line {self.sync.line} `{self.sync.text}` {self.change}"


def sync_mutants(ptx: str) -> list[Mutant]:
    """Return, in order of line, the mutants of a PTX text.

    Deleted, each in turn: `cp.async.wait_group`, `wait_all` and `commit_group`, block barriers that give no value
    (`bar.sync`, `bar.arrive` and their `barrier` forms), `bar.warp.sync`, `mbarrier.arrive` and `arrive_drop`, and
    `cp.async.mbarrier.arrive`; fences of proxies, of initialisations and of `wgmma`; commits of and waits for groups of
    bulk copies and of `wgmma`. A wait for groups is also weakened by one. A wait for the phase of an mbarrier is
    weakened so that it succeeds at once.
    """
    found = [match for match in _TOKEN.finditer(ptx) if match.lastgroup]
    counts = Counter(_kind(match) for match in found)
    seen: Counter[SyncKind] = Counter()
    mutants = []
    for match in found:
        kind = _kind(match)
        sync = Sync(
            kind=kind,
            text=" ".join(match[0].rstrip(";").split()),
            line=ptx.count("\n", 0, match.start(kind)) + 1,
            index=seen[kind],
            count=counts[kind],
        )
        seen[kind] += 1
        for change, replacement in _changes(match):
            blank = "\n" * match[0].count("\n")
            mutants.append(
                Mutant(sync=sync, change=change, ptx=ptx[: match.start()] + blank + replacement + ptx[match.end() :])
            )
    return mutants


def _kind(match: re.Match[str]) -> SyncKind:
    return next(kind for kind in get_args(SyncKind) if match[kind])


def _changes(match: re.Match[str]) -> Iterator[tuple[Change, str]]:
    guard = match["guard"] or ""
    if match["phase_wait"]:
        yield "weakened", f"{guard}setp.eq.u32 {match['done']}, 0, 0;"
        return
    yield "deleted", ""
    if match["group_wait"]:
        yield "weakened", f"{guard}{match['async_wait']} {int(match['async_groups']) + 1};"
    if match["wait"]:
        if match["groups"]:
            yield "weakened", f"{guard}cp.async.wait_group {int(match['groups']) + 1};"
        else:  # wait_all commits what is open and waits for it too
            yield "weakened", f"{guard}cp.async.commit_group; {guard}cp.async.wait_group 1;"
