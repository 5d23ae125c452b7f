"""Breaking a kernel on purpose: its PTX with one synchronisation taken out or weakened, for each of them.

A check that lets such a mutant pass would let the bug pass too. Text in, texts out; nothing is run here.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

SyncKind = Literal["wait", "commit", "barrier", "warp_sync"]
Change = Literal["deleted", "weakened"]

# Comments come first, so that what they hold is no instruction. A guard goes with its instruction.
_TOKEN = re.compile(
    r"""
    //[^\n]* | /\*.*?\*/
    | (?:@!?%\w+\s+)?
      (?: (?P<wait>cp\.async\.(?:wait_group\s+(?P<groups>\d+)|wait_all))
        | (?P<commit>cp\.async\.commit_group)
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
    (`bar.sync`, `bar.arrive` and their `barrier` forms), and `bar.warp.sync`. A wait is also weakened by one group.
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
    kinds: tuple[SyncKind, ...] = ("wait", "commit", "barrier", "warp_sync")
    return next(kind for kind in kinds if match[kind])


def _changes(match: re.Match[str]) -> Iterator[tuple[Change, str]]:
    yield "deleted", ""
    if match["wait"]:
        guard = match[0][: match.start("wait") - match.start()]
        if match["groups"]:
            yield "weakened", f"{guard}cp.async.wait_group {int(match['groups']) + 1};"
        else:  # wait_all commits what is open and waits for it too
            yield "weakened", f"{guard}cp.async.commit_group; {guard}cp.async.wait_group 1;"
