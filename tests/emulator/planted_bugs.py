"""The kernels of bugs/: how each is launched, what it should compute, and what its .cu file says must be found.

    python tests/emulator/planted_bugs.py

prints the table of docs/emulator.md.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from emulator_kernels import aligned

from kernelwright import emulator as emu

FOLDER = Path(__file__).parent / "bugs"
STAGES = 3  # of the rings
_MARK = re.compile(r"finds (?P<kinds>\w+(?:, \w+)*)(?:: (?P<words>.*))?$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """A line of a .cu file at which findings are expected: `// finds KIND, KIND: words of the sentence`."""

    line: int
    kinds: tuple[str, ...]
    words: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Inputs, the output (the last argument by default) and what it should be."""

    args: tuple[object, ...]
    out: np.ndarray
    expected: np.ndarray


@dataclass(frozen=True, slots=True, kw_only=True)
class Planted:
    """A correct kernel and the same with one line wrong. `says` is the mistake in a few words."""

    name: str
    says: str
    grid: int
    block: int
    problems: Sequence[Callable[[], Problem]]  # the bug shows in each
    few_problems: Sequence[Callable[[], Problem]] = ()  # too small for it

    @property
    def source(self) -> Path:
        return FOLDER / f"{self.name}.cu"

    def ptx(self, *, bug: bool) -> str:
        """The checked-in PTX."""
        return (FOLDER / "ptx" / f"{self.name}{'_bug' if bug else ''}.ptx").read_text()

    def marks(self) -> list[Mark]:
        """Where findings are expected, from the .cu file."""
        found = []
        for number, line in enumerate(self.source.read_text().splitlines(), 1):
            if match := _MARK.search(line):
                kinds = tuple(match["kinds"].split(", "))
                found.append(Mark(line=number, kinds=kinds, words=match["words"] or ""))
        return found

    def launch(self, module: emu.Module, problem: Problem, **options: object) -> emu.Report:
        return module.launch(
            self.name, grid=(self.grid,), block=(self.block,), args=problem.args, max_instructions=200_000, **options
        )  # type: ignore[arg-type]


def _random(*shape: int) -> np.ndarray:
    """Small whole numbers: sums are exact in any order, so results are compared bit by bit."""
    values = aligned(shape, np.float32)
    values[:] = np.random.default_rng(sum(shape)).integers(-8, 9, shape)
    return values


def _ring(tiles: int) -> Problem:
    v, out = _random(tiles, 2, 4, 64), aligned((2, 64), np.float32)
    return Problem(args=(v, out, np.int32(tiles)), out=out, expected=v.sum(axis=(0, 2)))


def _groups(tiles: int) -> Problem:
    k, v, out = _random(tiles, 4, 64), _random(tiles, 4, 64), aligned((64,), np.float32)
    v += 1
    swapped = np.arange(64) ^ 1
    expected = (k.sum(axis=1) * v.sum(axis=1)).sum(axis=0)[swapped]
    return Problem(args=(k, v, out, np.int32(tiles)), out=out, expected=expected)


def _release(tiles: int) -> Problem:
    v, out = _random(tiles, 32), aligned((32,), np.float32)
    return Problem(args=(v, out, np.int32(tiles)), out=out, expected=v.sum(axis=0)[::-1])


def _named(tiles: int) -> Problem:
    v, out = _random(tiles, 64), aligned((64,), np.float32)
    return Problem(args=(v, out, np.int32(tiles)), out=out, expected=v.sum(axis=0)[::-1])


def _tail(rows: int) -> Problem:
    memory, out = _random(rows + 8, 64), aligned((2, 64), np.float32)
    memory[rows:] = np.nan  # what follows in memory belongs to somebody else
    v = memory[:rows]
    padded = np.concatenate([v, np.zeros((-rows % 8, 64), np.float32)]).reshape(-1, 2, 4, 64)
    return Problem(args=(v, out, np.int32(rows)), out=out, expected=padded.sum(axis=(0, 2)))


def _row_max(keys: int) -> Problem:
    scores, out = _random(2, keys), aligned((2,), np.float32)
    return Problem(args=(scores, out, np.int32(keys)), out=out, expected=scores.max(axis=1))


def _transpose(tiles: int) -> Problem:
    p, out = _random(tiles, 32, 32), aligned((tiles, 32, 32), np.float32)
    return Problem(args=(p, out, np.int32(tiles)), out=out, expected=p.transpose(0, 2, 1))


def _vectors(stride: int) -> Problem:
    v, out = _random(5 * stride + 128), aligned((32,), np.float32)
    rows = np.stack([v[row * stride : row * stride + 128] for row in range(5)])
    return Problem(
        args=(v, out, np.int32(5), np.int32(stride)), out=out, expected=rows.sum(axis=0).reshape(32, 4).sum(axis=1)
    )


def _row_sum(keys: int) -> Problem:
    p, out = _random(3, keys), aligned((3,), np.float32)
    return Problem(args=(p, out, np.int32(keys)), out=out, expected=p.sum(axis=1))


def _neighbours(rows: int) -> Problem:
    v, out = _random(rows), aligned((rows,), np.float32)
    padded = np.concatenate([v, np.zeros(-rows % 64, np.float32)])
    return Problem(
        args=(v, out, np.int32(rows)), out=out, expected=(padded + padded.reshape(-1, 2)[:, ::-1].ravel())[:rows]
    )


def _fold(keys: int) -> Problem:
    v, out = _random(keys), aligned((1,), np.float32)
    return Problem(args=(v, out, np.int32(keys)), out=out, expected=v.sum(keepdims=True))


def _split(keys: int) -> Problem:
    v, out = _random(keys, 32), aligned((32,), np.float32)
    partial = emu.Memory(array=aligned((4, 32), np.float32), initialised=False)
    args = (v, partial, aligned((1,), np.uint32), out, np.int32(keys))
    return Problem(args=args, out=out, expected=v.sum(axis=0))


def _chain(tiles: int) -> Problem:
    v, out = _random(tiles, 64), aligned((64,), np.float32)
    return Problem(
        args=(v, out, aligned((1,), np.uint32), np.int32(tiles)), out=out, expected=v.sum(axis=0, dtype=np.float32)
    )


def _each(problem: Callable[[int], Problem], *sizes: int) -> tuple[Callable[[], Problem], ...]:
    return tuple(lambda size=size: problem(size) for size in sizes)


RING_TILES = (STAGES + 1, 2 * STAGES + 1)  # fewer tiles never use a slot twice

PLANTED = [
    Planted(
        name="missing_wait",
        says="no `cp.async.wait_group`",
        grid=1,
        block=128,
        problems=_each(_ring, 1, 2, STAGES, *RING_TILES),
    ),
    Planted(
        name="missing_barrier",
        says="no `__syncthreads()` after the wait",
        grid=1,
        block=128,
        problems=_each(_ring, 1, 2, STAGES, *RING_TILES),
    ),
    Planted(
        name="ring_reuse_early",
        says="a ring filled one stage too early",
        grid=1,
        block=128,
        problems=_each(_ring, *RING_TILES),
        few_problems=_each(_ring, 1, 2, STAGES),
    ),
    Planted(
        name="commit_group_order",
        says="K's and V's groups swapped",
        grid=1,
        block=64,
        problems=_each(_groups, 1, 2, 3, 5),
    ),
    Planted(
        name="one_lane_release",
        says="all lanes store, one sets the flag, no `__syncwarp()`",
        grid=1,
        block=64,
        problems=_each(_release, 1, 5),
    ),
    Planted(
        name="named_barrier_count",
        says="a named barrier with two counts",
        grid=1,
        block=96,
        problems=_each(_named, 1, 5),
    ),
    Planted(
        name="tail_out_of_bounds",
        says="a partial tile read in full",
        grid=1,
        block=128,
        problems=_each(_tail, 1, 13, 37),
    ),
    Planted(
        name="unwritten_shared",
        says="some warps leave their slot unwritten",
        grid=2,
        block=128,
        problems=_each(_row_max, 1, 33, 96),
    ),
    Planted(
        name="missing_syncwarp",
        says="no `__syncwarp()` between lanes",
        grid=1,
        block=64,
        problems=_each(_transpose, 1, 4),
    ),
    Planted(
        name="misaligned_vector",
        says="16-byte loads from rows 8 bytes aligned",
        grid=1,
        block=32,
        problems=_each(_vectors, 130, 134),
    ),
    Planted(
        name="shuffle_absent_lanes",
        says="lanes named in the mask have returned",
        grid=3,
        block=32,
        problems=_each(_row_sum, 1, 20, 31),
    ),
    Planted(
        name="divergent_barrier",
        says="`__syncthreads()` in a branch",
        grid=2,
        block=64,
        problems=_each(_neighbours, 65, 99, 127),
    ),
    Planted(
        name="exited_warp",
        says="a warp returns before a barrier",
        grid=1,
        block=128,
        problems=_each(_fold, 1, 40, 96),
    ),
    Planted(
        name="cross_block_race",
        says="the block with the highest number taken for the last",
        grid=4,
        block=32,
        problems=_each(_split, 4, 30),
    ),
    Planted(
        name="cross_block_flag",
        says="no wait for the flag of the block before",
        grid=4,
        block=64,
        problems=_each(_chain, 4),
    ),
]


def first_finding(planted: Planted, module: emu.Module, problem: Problem, **options: object) -> emu.Finding | None:
    """Launch and return what raised, if anything did."""
    try:
        planted.launch(module, problem, **options)
    except emu.EmulatorError as error:
        assert error.report is not None, str(error)
        return error.report.findings[0]
    return None


def naive_outcome(planted: Planted) -> str:
    """Return what a run without checks makes of the bug, over its problems: right, wrong, or the error."""
    module = emu.load(planted.ptx(bug=True))
    outcomes = []
    for make in planted.problems:
        problem = make()
        found = first_finding(planted, module, problem, checks="none")
        is_right = np.array_equal(problem.out, problem.expected)
        outcomes.append(found.kind if found else "right" if is_right else "wrong")
    module.unload()
    return outcomes[0] if len(set(outcomes)) == 1 else ", ".join(sorted(set(outcomes)))


def table() -> str:
    """Return the table of docs/emulator.md: each bug, what finds it, and what a run without checks makes of it."""
    lines = ["| planted bug | finding | result without checks |", "| --- | --- | --- |"]
    for one in PLANTED:
        module = emu.load(one.ptx(bug=True))
        found = [first_finding(one, module, make()) for make in one.problems]
        module.unload()
        kinds = sorted({f"`{each.kind}`" for each in found if each})
        lines.append(f"| {one.says} (`{one.name}.cu`) | {', '.join(kinds)} | {naive_outcome(one)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.stdout.write(table() + "\n")
