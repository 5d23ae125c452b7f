"""What `gen verify` does beyond comparing results: random orders of warps, and kernels broken on purpose.

Both run the shipped PTX on the emulator with all checks, whatever device the comparison ran on.
"""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from kernelwright.gen.binding import bindings
from kernelwright.gen.commands import emulated
from kernelwright.gen.devices import reference_device
from kernelwright.gen.redundant_syncs import RedundantSync, redundant_syncs
from kernelwright.gen.spec import (
    OPERATION,
    BackwardSchedule,
    ForwardSchedule,
    QueryGradientSchedule,
    Variant,
)
from kernelwright.gen.visibility import visibilities

if TYPE_CHECKING:
    from kernelwright.emulator.mutate import Mutant, Sync

MUTANT_SEEDS = 4
"""Orders of warps, the fixed one among them, that a mutant must pass on each problem to count as unnoticed."""

Verdict = Literal["caught", "redundant", "missed"]
_PATIENCE = 20  # times the instructions of the unbroken kernel before a mutant is taken for stuck


@dataclass(frozen=True, slots=True, kw_only=True)
class SeedsResult:
    """One kernel's problems under several orders of warps. `faults` is empty when all gave the same bits."""

    variant: str
    launches: int
    faults: tuple[str, ...]

    @property
    def passed(self) -> bool:
        return not self.faults

    def to_dict(self) -> dict[str, object]:
        """Return plain data."""
        return {**asdict(self), "passed": self.passed}

    def __str__(self) -> str:
        faults = "".join(f"\n    {one}" for one in self.faults)
        head = "passed " if self.passed else "FAILED "
        return f"{head} {self.variant}: {self.launches} launches in random orders of warps{faults}"


@dataclass(frozen=True, slots=True, kw_only=True)
class MutantResult:
    """One broken kernel. `how`: the kind of finding, or "wrong result"; or why it may pass; or "" when missed."""

    line: int
    instruction: str
    change: str
    verdict: Verdict
    how: str

    def __str__(self) -> str:
        return f"{self.verdict:<9} PTX line {self.line} `{self.instruction}` {self.change}: {self.how or 'unnoticed'}"


@dataclass(frozen=True, slots=True, kw_only=True)
class MutantsResult:
    """All mutants of one kernel; `fault` says why nothing could be learnt from them."""

    variant: str
    mutants: tuple[MutantResult, ...]
    fault: str = ""

    @property
    def passed(self) -> bool:
        return not self.fault and all(one.verdict != "missed" for one in self.mutants)

    def to_dict(self) -> dict[str, object]:
        """Return plain data."""
        return {**asdict(self), "passed": self.passed}

    def __str__(self) -> str:
        counts = Counter(one.verdict for one in self.mutants)
        said = self.fault or ", ".join(f"{counts[verdict]} {verdict}" for verdict in ("caught", "redundant", "missed"))
        lines = "".join(f"\n    {one}" for one in self.mutants)
        return f"{'passed ' if self.passed else 'FAILED '} {self.variant}: {len(self.mutants)} mutants, {said}{lines}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shipped:
    """A kernel as a module ships it."""

    name: str
    ptx: str
    kernel: emulated.Kernel
    variant: Variant


def _nothing() -> dict[str, Any]:
    return {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """Inputs of one launch; `label` says which they are.

    Attributes:
        fresh: makes anew what each launch has for itself: zeros that a kernel adds to, and outputs that are given.
        fault_of: says what is wrong with what was added to those, in no fixed order; "" for nothing.
    """

    label: str
    inputs: dict[str, Any]  # torch tensors
    scalars: dict[str, float]
    fresh: Callable[[], dict[str, Any]] = _nothing
    fault_of: Callable[[dict[str, Any]], str] = lambda _: ""


def shipped_kernels(module: Any, names: Sequence[str]) -> list[Shipped]:  # Any: a dispatch module
    """Return these kernels of an imported dispatch module, from the tables where it finds them itself."""
    from kernelwright.build.table_folder import read_table

    found: dict[str, Shipped] = {}
    for table in module._module.engine.tables():
        plain = read_table(table.folder)
        for name in set(names) & set(table.kernels) - set(found):
            record = table.kernels[name]
            found[name] = Shipped(
                name=name,
                ptx=record.files["ptx"].read().decode(),
                kernel=emulated.Kernel(
                    entry=record.entry,
                    threads=record.threads,
                    smem_bytes=record.smem_bytes,
                    constants={**record.constants, "num_sms": reference_device(record.sm).num_sms},
                    binding=plain["operations"][record.operation],
                ),
                variant=Variant.parse(name),
            )
    return [found[name] for name in names]


def make_case(runtime: str, problem: Any, *, block_n: int, seed: int, operation: str = OPERATION) -> Case:
    """Return a problem's inputs as the check of the module makes them; `runtime` is its package of shipped code."""
    if operation != OPERATION:
        return _gradient_case(runtime, problem, block_n=block_n, seed=seed, operation=operation)
    made = importlib.import_module(f"{runtime}.problems").make_inputs(problem, block_n, seed, "cpu", _visible(runtime))
    request = importlib.import_module(f"{runtime}.inputs").check(made.q, made.k, made.v, made.options)
    scale = problem.softmax_scale if problem.softmax_scale is not None else problem.head_dim**-0.5
    return Case(
        label=str(problem),
        inputs={"q": request.q, "k": request.k, "v": request.v, **request.lowered.tensors},
        scalars={"softmax_scale": scale, **request.lowered.scalars},
    )


def _gradient_case(runtime: str, problem: Any, *, block_n: int, seed: int, operation: str) -> Case:
    """Return what a kernel of the backward pass gets; sums are judged, since orders of warps change their bits."""
    check = importlib.import_module(f"{runtime}.gradient_check")
    made = check.make_case(problem, _visible(runtime), block_n=block_n, seed=seed, device="cpu")
    tensors: Any = bindings()[operation]["tensors"]  # Any: JSON
    scalars: Any = bindings()[operation]["scalars"]
    names = [one["name"] for one in tensors]
    added = [one["name"] for one in tensors if one["access"] == "update"]
    request, dtype = made.request, made.request.q.dtype
    inputs, fresh = made.inputs(names), lambda: dict(made.written(added).launched)
    if "dq_sum" in names and not added:  # rounded
        inputs = {"dq_sum": made.reference.values["dq"].float().contiguous()}
        fresh = lambda: {"dq": request.q.new_full(request.q.shape, float("nan"))}  # noqa: E731
    if "out" in names:
        inputs["out"] = made.reference.out.to(dtype)

    def fault_of(given: dict[str, Any]) -> str:
        sums = {gradient: given[name] for name, gradient in check.SUMS.items() if name in given and name in added}
        return str(check.judge_gradients(sums, made).fault) if sums else ""

    return Case(
        label=str(problem),
        inputs=inputs,
        scalars=made.scalars([one["name"] for one in scalars]),
        fresh=fresh,
        fault_of=fault_of,
    )


def _visible(runtime: str) -> dict[str, Any]:  # Any: of a run time imported by name
    binding, expressions = (importlib.import_module(f"{runtime}.{name}") for name in ("binding", "expressions"))
    return {
        name: binding.Visibility(**{bound: expressions.parse_expression(text) for bound, text in one.items()})
        for name, one in visibilities().items()
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class _Loop:
    """The tiles of a kernel: of its own rows, and of those that its main loop loads in turn."""

    own: int
    loaded: int
    stages: int
    by_keys: bool  # own rows are keys

    @classmethod
    def of(cls, variant: Variant) -> _Loop:
        match variant.schedule:
            case BackwardSchedule() as one:
                return cls(own=one.block_n, loaded=one.block_m, stages=one.num_stages, by_keys=True)
            case ForwardSchedule() | QueryGradientSchedule() as one:
                return cls(own=one.block_m, loaded=one.block_n, stages=one.num_stages, by_keys=False)
            case one:
                return cls(own=one.block_m, loaded=1, stages=1, by_keys=False)

    def sizes(self, own: int, loaded: int) -> tuple[int, int]:
        """Return queries and keys; as many keys as queries at least, so that with a mask all see the first."""
        return (loaded, max(own, loaded)) if self.by_keys else (own, loaded)


def telling_cases(runtime: str, variant: Variant, seed: int) -> list[Case]:
    """Return small problems in which every synchronisation has work to do: rings that turn, partial tiles.

    The last has stages + 1 tiles: the ring ends in its first slot, whose bytes the epilogue uses again.
    """
    loop = _Loop.of(variant)
    own, loaded, ring = loop.own, loop.loaded, loop.stages * loop.loaded
    sizes = [(own, ring + 3 * loaded + 5), (own + 1, 2 * loaded), (2 * own + 3, ring + 2 * loaded - 1)]
    sizes.append((own, ring + loaded))
    return _cases(runtime, variant, [loop.sizes(*one) for one in sizes], seed)


def ring_cases(runtime: str, variant: Variant, seed: int) -> list[Case]:
    """Return problems of 1, 2, stages, stages + 1 and 2 stages + 1 tiles: rings that fill, turn and turn again.

    Every other one ends in a partial tile, in queries and keys. A slot used again too early shows from stages + 1 on.
    """
    loop = _Loop.of(variant)
    tiles = sorted({1, 2, loop.stages, loop.stages + 1, 2 * loop.stages + 1})
    sizes = [
        (max(1, loop.own - index % 2 * 5), max(1, count * loop.loaded - index % 2 * 3))
        for index, count in enumerate(tiles)
    ]
    return _cases(runtime, variant, [loop.sizes(*one) for one in sizes], seed)


def _cases(runtime: str, variant: Variant, sizes: Sequence[tuple[int, int]], seed: int) -> list[Case]:
    """Return problems of these sizes, each with what the kernel's features ask besides.

    Lists of blocks and windows leave tiles out, so there are several lists, and windows that leave few out. Of a
    persistent kernel there are more heads than thread blocks on the one multiprocessor of `_on_one_sm`, so that each
    takes several tiles. A kernel that owns keys takes the tiles of two query heads one after another.
    """
    problems = importlib.import_module(f"{runtime}.problems")
    schedule = variant.schedule
    num_heads, has_groups = 1, isinstance(schedule, BackwardSchedule)
    if isinstance(schedule, ForwardSchedule):
        num_heads, has_groups = schedule.persistent_blocks + 1, schedule.pack_gqa
    num_heads = max(num_heads, 3 if variant.problem.is_block_sparse else 1)
    more = {"num_heads_kv": num_heads, "group": 2 if has_groups else 1}
    rows = [{"seqlen_q": seqlen_q, "seqlen_k": seqlen_k, **more} for seqlen_q, seqlen_k in sizes]
    chosen = problems.problems_of(asdict(variant.problem), asdict(schedule), rows, seed)
    if variant.problem.is_local:
        wide = {"attention_chunk": 0, "is_causal": False}
        chosen += [replace(one, window=(one.seqlen_k - 2, one.seqlen_k), **wide) for one in chosen]
    return [
        make_case(runtime, problem, block_n=block_n_of(variant), seed=seed + index, operation=variant.operation)
        for index, problem in enumerate(chosen)
    ]


def block_n_of(variant: Variant) -> int:
    """Return the keys of a tile, at whose borders inputs are telling; some number for a kernel without such tiles."""
    return int(getattr(variant.schedule, "block_n", 64))


def _on_one_sm(kernel: emulated.Kernel) -> emulated.Kernel:
    """A persistent kernel on a GPU of one multiprocessor: its thread blocks take tile after tile of a small problem."""
    return replace(kernel, constants={**kernel.constants, "num_sms": 1})


def check_seeds(shipped: Shipped, cases: Sequence[Case], num_seeds: int) -> SeedsResult:
    """Run each case under the fixed order of warps and `num_seeds` random ones: no finding, the same bits."""
    from kernelwright.emulator.launch import EmulatorError, load

    faults: list[str] = []
    launches, kernel = 0, _on_one_sm(shipped.kernel)
    with emulated.device_of(shipped.variant.sm):
        module = load(shipped.ptx)
        for case in cases:
            expected: tuple[bytes, ...] | None = None
            for seed in range(num_seeds + 1):
                try:
                    launches += seed > 0
                    fresh = case.fresh()
                    done = emulated.launch(module, kernel, {**case.inputs, **fresh}, case.scalars, seed=seed)
                except EmulatorError as error:
                    faults.append(f"{case.label}: seed {seed}: {error}")
                    break
                expected = expected or done.bits
                fault = case.fault_of(fresh)
                if done.bits != expected:
                    fault = "gives other bits than the fixed order of warps"
                if fault:
                    faults.append(f"{case.label}: seed {seed} {fault}")
                    break
        module.unload()
    return SeedsResult(variant=shipped.name, launches=launches, faults=tuple(faults))


def check_mutants(
    shipped: Shipped,
    cases: Sequence[Case],
    *,
    num_seeds: int = MUTANT_SEEDS,
    allowed: Sequence[RedundantSync] | None = None,
    progress: Callable[[str], None] | None = None,
) -> MutantsResult:
    """Break each synchronisation of a kernel in turn and see whether a launch notices.

    Args:
        shipped: the kernel.
        cases: at least one; a mutant passes unnoticed only if all of them do under all seeds.
        num_seeds: orders of warps, the fixed one among them.
        allowed: what may pass; by default what `redundant_syncs` lists for the kernel.
        progress: called with a line per missed mutant, as soon as it is.
    """
    from kernelwright.emulator.mutate import sync_mutants

    listed = redundant_syncs(shipped.variant) if allowed is None else allowed
    results: list[MutantResult] = []
    with emulated.device_of(shipped.variant.sm):
        how, done = _first_notice(shipped, shipped.ptx, cases, num_seeds)
        if how:
            return MutantsResult(variant=shipped.name, mutants=(), fault=f"the unbroken kernel does not pass: {how}")
        expected = [one.bits for one in done]
        budget = _PATIENCE * max(one.report.counters["warp_instructions"] for one in done)
        for mutant in sync_mutants(shipped.ptx):
            how, _ = _first_notice(shipped, mutant.ptx, cases, num_seeds, expected, budget)
            results.append(_judged(mutant, how, listed))
            if progress and results[-1].verdict == "missed":
                progress(f"  {results[-1]}")
    return MutantsResult(variant=shipped.name, mutants=tuple(results))


def _first_notice(
    shipped: Shipped,
    ptx: str,
    cases: Sequence[Case],
    num_seeds: int,
    expected: Sequence[tuple[bytes, ...]] = (),
    budget: int | None = None,
) -> tuple[str, list[emulated.Outcome]]:
    """Return what notices first that a PTX text is wrong, "" if nothing does, and the outcomes of the fixed order."""
    from kernelwright.emulator.launch import EmulatorError, load

    module = load(ptx)
    outcomes: list[emulated.Outcome] = []
    try:
        for index, case in enumerate(cases):
            for seed in range(num_seeds):
                options, fresh = {"seed": seed, "max_instructions": budget}, case.fresh()
                inputs = {**case.inputs, **fresh}
                done = emulated.launch(module, _on_one_sm(shipped.kernel), inputs, case.scalars, **options)
                if seed == 0:
                    outcomes.append(done)
                if done.bits != (expected[index] if expected else outcomes[index].bits) or case.fault_of(fresh):
                    return "wrong result", outcomes
    except EmulatorError as error:
        return error.report.findings[0].kind if error.report else str(error), outcomes
    finally:
        module.unload()
    return "", outcomes


def _judged(mutant: Mutant, how: str, listed: Sequence[RedundantSync]) -> MutantResult:
    verdict: Verdict = "caught"
    if not how:
        how = next((one.reason for one in listed if mutant.change == "deleted" and _names(one, mutant.sync)), "")
        verdict = "redundant" if how else "missed"
    sync = mutant.sync
    return MutantResult(line=sync.line, instruction=sync.text, change=mutant.change, verdict=verdict, how=how)


def _names(one: RedundantSync, sync: Sync) -> bool:
    return one.kind == sync.kind and one.index in (sync.index, sync.index - sync.count)
