"""Stand-ins for compiler, verifier and scorer, and a small space. Run as a script: a slow study, to be interrupted."""

from __future__ import annotations

import sys
import time
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path

from kernelwright.build.kernels import BuiltKernel
from kernelwright.gen.devices import Device, reference_device
from kernelwright.gen.spec import ForwardProblem, Variant
from kernelwright.tuner.ledger import Identity
from kernelwright.tuner.plain_study import PlainLedger
from kernelwright.tuner.pool import enumerate_pool
from kernelwright.tuner.results import Label, Outcome
from kernelwright.tuner.search import Budget, search
from kernelwright.tuner.shapes import Shape
from kernelwright.tuner.space import Space
from kernelwright.tuner.tune import Request, Result, tune
from kernelwright.tuner.work import Compiled, InPlaceExecutor, Verdict, Work

PROBLEM = ForwardProblem(dtype="bf16", head_dim=64, is_causal=True)
DAY = date(2026, 11, 20)
SHAPES = tuple(
    Shape(batch=1, num_heads_q=2, num_heads_kv=2, seqlen_q=length, seqlen_k=length) for length in (512, 1024)
)
SPACE = Space(
    name="small",
    sm=80,
    problem=PROBLEM,
    values={
        "block_m": (64, 128),
        "block_n": (32, 64),
        "num_warps": (4,),
        "num_stages": (1, 2),
        "q_in_regs": (False, True),
    },
    constraints=("smem_fits", "registers_fit"),
    shapes=SHAPES,
)
IDENTITY = Identity(
    label="modelled",
    space_digest=SPACE.digest,
    source_digest="a" * 64,
    device="a100",
    toolkit="13.0.88",
    scorer="model 1",
)


def fake_kernel(variant: Variant, content: bytes = b"cubin") -> BuiltKernel:
    """Return a kernel of made-up bytes."""
    report = {"registers": 128, "spill_store_bytes": 0, "spill_load_bytes": 0, "key": "f" * 64, "remarks": []}
    return BuiltKernel(variant=variant, ptx=b"ptx", cubin=content, report=report)


@dataclass
class FakeCompiler:
    """Compiles nothing; some variants fail or spill."""

    faulty: Collection[str] = ()
    spilling: Collection[str] = ()
    batches: list[list[str]] = field(default_factory=list)

    def compile(self, variants: Sequence[Variant]) -> list[Compiled]:
        self.batches.append([variant.name for variant in variants])
        return [self._compile(variant) for variant in variants]

    def _compile(self, variant: Variant) -> Compiled:
        if variant.name in self.faulty:
            return Compiled(variant=variant, kernel=None, fault="kernel.cu(7): error: no")
        spills = 64 if variant.name in self.spilling else 0
        return Compiled(variant=variant, kernel=fake_kernel(variant), registers=128, spill_bytes=spills)


@dataclass
class FakeVerifier:
    """Passes what it is not told to refuse."""

    wrong: Collection[str] = ()

    def verify(self, compiled: Compiled) -> Verdict:
        if compiled.variant.name in self.wrong:
            return Verdict(status="wrong", detail="error 0.5 at row 3")
        return Verdict(status="ok", record={"by": "emulator", "date": DAY.isoformat(), "problems": 3})


@dataclass
class FakeScorer:
    """A figure from the schedule alone: larger tiles are better, and `favourites` best of all."""

    favourites: Collection[str] = ()
    label: Label = "modelled"
    pause_s: float = 0.0
    scored: list[str] = field(default_factory=list)

    def score(self, compiled: Compiled) -> dict[str, float]:
        time.sleep(self.pause_s)
        self.scored.append(compiled.variant.name)
        schedule = compiled.variant.schedule
        figure = 1e6 / (schedule.block_m * schedule.block_n) + 20 * schedule.num_stages + 10 * schedule.q_in_regs
        if compiled.variant.name in self.favourites:
            figure = 1.0
        return {shape.name: figure * shape.seqlen_q for shape in SHAPES}


class HangingVerifier:
    """Never comes back for one variant, kills its process for another. Works across processes."""

    def __init__(self, hangs: str = "", dies: str = "") -> None:
        self.hangs, self.dies = hangs, dies

    def verify(self, compiled: Compiled) -> Verdict:
        import os

        if compiled.variant.name == self.hangs:
            time.sleep(600)
        if compiled.variant.name == self.dies:
            os._exit(3)
        return Verdict(status="ok")


def make_request(
    out: Path, *, space: Space = SPACE, trials: int = 100, seconds: float = 600, seed: int = 0, resume: bool = False
) -> Request:
    """Return a request on the A100."""
    device = reference_device(space.sm)
    return Request(
        space=space,
        device=device,
        pool=enumerate_pool(space, device),
        out=out,
        storage=None,
        budget=Budget(trials=trials, seconds=seconds),
        seed=seed,
        jobs=1,
        resume=resume,
    )


def make_work(
    compiler: FakeCompiler | None = None,
    verifier: object | None = None,
    scorer: FakeScorer | None = None,
    judging: Executor | None = None,
) -> Work:
    """Return work done in place."""
    return Work(
        compiler=compiler or FakeCompiler(),
        verifier=verifier or FakeVerifier(),  # type: ignore[arg-type]
        scorer=scorer or FakeScorer(),
        compiling=InPlaceExecutor(),
        judging=judging or InPlaceExecutor(),
    )


@dataclass
class GivenKernels:
    """A compiler whose kernels are there already."""

    kernels: Sequence[Compiled]

    def compile(self, variants: Sequence[Variant]) -> list[Compiled]:
        known = {one.variant: one for one in self.kernels}
        return [known[variant] for variant in variants]


class ListLedger(PlainLedger):
    """A ledger over some variants without a file."""

    def __init__(self, order: Sequence[Variant]) -> None:
        super().__init__(order)
        self.kept: list[Outcome] = []

    def keep(self, outcome: Outcome) -> None:
        self.kept.append(outcome)


class Silent:
    """Watches and says nothing."""

    def compiling(self, count: int) -> None: ...

    def finished(self, outcome: Outcome) -> None: ...


def judge_all(kernels: Sequence[Compiled], work: Work, device: Device) -> Iterator[Outcome]:
    """Yield what comes of kernels in a search of their own; raise what ended it after that."""
    ledger = ListLedger([one.variant for one in kernels])
    given = replace(work, compiler=GivenKernels(kernels), compilers=len(kernels))
    stopped: BaseException | None = None
    try:
        search(ledger, given, device, Budget(trials=len(kernels), seconds=600), watcher=Silent())  # type: ignore[arg-type]
    except BaseException as error:
        stopped = error
    yield from ledger.kept
    if stopped is not None:
        raise stopped


def run(request: Request, work: Work | None = None, **identity: str) -> Result:
    """Tune with fakes."""
    return tune(
        request,
        replace(IDENTITY, space_digest=request.space.digest, **identity),  # type: ignore[arg-type]
        lambda: work or make_work(),
        today=lambda: DAY,
    )


def wide_space(count: int = 12) -> Space:
    """Return a space of more points than a small budget has trials."""
    values = {**SPACE.values, "block_n": tuple(16 * (one + 1) for one in range(count))}
    return replace(SPACE, name="wide", values=values)


if __name__ == "__main__":
    from kernelwright.tuner import commands
    from kernelwright.tuner.cli import main

    scorer = FakeScorer(pause_s=0.2)

    def tune_slowly(request: Request, *_: object) -> tuple[Result, object]:
        return run(request, make_work(scorer=scorer)), commands.Published(module=None, table=Path("table"))

    commands.tune_and_publish = tune_slowly  # type: ignore[assignment]
    sys.exit(main(sys.argv[1:]))
