"""The seam between search and work: compile, verify and score are handed to `concurrent.futures` executors.

Everything that crosses the seam is plain data or a picklable object, so an executor may be a process pool here or
a cluster's. We keep no queue of our own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from typing import ParamSpec, Protocol, TypeVar, runtime_checkable

from kernelwright.build.kernels import BuiltKernel
from kernelwright.gen.devices import Device
from kernelwright.gen.spec import Variant
from kernelwright.runtime.timing import Method
from kernelwright.tuner.isolation import WorkerLostError, stage
from kernelwright.tuner.occupancy import Occupancy, occupancy
from kernelwright.tuner.results import Label, Outcome, Status
from kernelwright.tuner.scheduler import Done, Loss

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Compiled:
    """A variant after the compiler: its kernel, or why there is none."""

    variant: Variant
    kernel: BuiltKernel | None
    registers: int = 0
    spill_bytes: int = 0
    fault: str = ""
    fault_status: Status = "compile"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a check found: `ok` with the record that tables keep, or the kind of failure and what it was."""

    status: Status
    detail: str = ""
    record: Mapping[str, object] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """Figures by shape name, with the samples and the GPU's state behind them; see `Outcome`."""

    figures: Mapping[str, float]
    samples: Mapping[str, Sequence[float]] = field(default_factory=dict)
    states: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    methods: Mapping[str, Method] = field(default_factory=dict)
    dropped: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Timed:
    """Times of a kernel on a shape.

    Args:
        samples: raw.
        state: of the GPU after them, where it tells it.
        method: how they were taken.
        dropped: why there are few; "" if there are as many as asked for.
        note: why they were not taken by the method that was asked for; "" if they were.
    """

    samples: Sequence[float]
    state: Mapping[str, object] | None = None
    method: Method = "events"
    dropped: str = ""
    note: str = ""


class Compiler(Protocol):
    """Turns variants into kernels, several at a time; a variant that does not compile is a result."""

    def compile(self, variants: Sequence[Variant]) -> list[Compiled]: ...


class Verifier(Protocol):
    """Decides whether a kernel computes what it should. What it raises counts as a failed launch."""

    def verify(self, compiled: Compiled) -> Verdict: ...


class Scorer(Protocol):
    """Gives a figure for each shape; `label` says what kind. What it raises counts as a failed launch."""

    @property
    def label(self) -> Label: ...

    def score(self, compiled: Compiled) -> Mapping[str, float] | Scored: ...


@runtime_checkable
class RacingScorer(Protocol):
    """A scorer whose figures cost time, and who spends less of it on what is far behind."""

    def score_against(self, compiled: Compiled, best: Mapping[str, float]) -> Scored:
        """Do what `score` does, given the best figure of each shape so far."""
        ...


class Timer(Protocol):
    """Times a kernel on one shape some times in a row, in microseconds. What it raises ends the kernel's race."""

    def time(self, compiled: Compiled, shape: str, repeats: int, method: Method) -> Timed: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """How points are tried, and where.

    Args:
        compiler, verifier, scorer: the three kinds of work.
        compiling: executor that compiles a point.
        judging: executor that verifies a kernel or times it; the same workers do both.
        compilers, judges: how many of each work side by side.
        timeout_s: how long to wait for an answer of `judging`, where that has no deadlines of its own.
        restart: frees what is stuck in `judging`, or replaces what was lost there.
        timer: times kernels again and again for a final; None where figures have no noise.
    """

    compiler: Compiler
    verifier: Verifier
    scorer: Scorer
    compiling: Executor
    judging: Executor
    compilers: int = 1
    judges: int = 1
    timeout_s: float = 120.0
    restart: Callable[[], None] = lambda: None
    timer: Timer | None = None


class InPlaceExecutor(Executor):
    """Runs what is submitted at once, in the calling thread, so that Ctrl-C reaches it."""

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        future: Future[T] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """A kernel that passed its check, and what `Outcome` wants of it."""

    compiled: Compiled
    blocks_per_sm: int
    record: Mapping[str, object] | None
    seconds: float


def compile_point(variant: Variant, compiler: Compiler, device: Device) -> Compiled | Done[Outcome]:
    """Compile a point; what cannot run ends here. The first stage."""
    (compiled,) = compiler.compile([variant])
    held = _blocks(compiled, device)
    if compiled.fault:
        return Done(_outcome(compiled, held.blocks, compiled.fault_status, compiled.fault))
    if compiled.spill_bytes:
        return Done(_outcome(compiled, held.blocks, "spill", f"spills {compiled.spill_bytes} bytes a thread"))
    if held.blocks < 1:
        detail = f"no thread block fits on an SM of {device.name}: {held.limit}"
        return Done(_outcome(compiled, held.blocks, "launch", detail))
    return compiled


def verify_kernel(compiled: Compiled, verifier: Verifier, device: Device) -> Verified | Done[Outcome]:
    """Check a kernel; a wrong one ends here. The second stage, in a worker."""
    started = time.monotonic()
    blocks = _blocks(compiled, device).blocks
    try:
        stage("verifying")
        verdict = verifier.verify(compiled)
    except AssertionError:  # a fault of ours, not of the kernel
        raise
    except Exception as error:  # anything a kernel or a driver does to us is a result about that kernel
        verdict = Verdict(status="launch", detail=f"{type(error).__name__}: {error}")
    seconds = time.monotonic() - started
    if verdict.status != "ok":
        return Done(_outcome(compiled, blocks, verdict.status, verdict.detail, seconds))
    return Verified(compiled=compiled, blocks_per_sm=blocks, record=verdict.record, seconds=seconds)


def score_kernel(verified: Verified, best: Mapping[str, float], scorer: Scorer) -> Outcome:
    """Give a right kernel its figures. The last stage, in a worker.

    Args:
        verified: the kernel.
        best: the best figure of each shape so far.
        scorer: judges.
    """
    started, compiled = time.monotonic(), verified.compiled

    def failed(detail: str) -> Outcome:
        seconds = verified.seconds + time.monotonic() - started
        return _outcome(compiled, verified.blocks_per_sm, "launch", detail, seconds)

    try:
        stage("scoring")
        if best and isinstance(scorer, RacingScorer):
            found: Mapping[str, float] | Scored = scorer.score_against(compiled, best)
        else:
            found = scorer.score(compiled)
    except AssertionError:
        raise
    except Exception as error:
        return failed(f"{type(error).__name__}: {error}")
    scored = found if isinstance(found, Scored) else Scored(figures=found)
    bad = [name for name, figure in scored.figures.items() if not 0 < figure < float("inf")]
    if bad or not scored.figures:
        return failed(f"no figure for {', '.join(bad) or 'any shape'}")
    return Outcome(
        variant=compiled.variant,
        status="ok",
        figures=scored.figures,
        registers=compiled.registers,
        spill_bytes=compiled.spill_bytes,
        blocks_per_sm=verified.blocks_per_sm,
        samples=scored.samples,
        states=scored.states,
        methods=scored.methods,
        dropped=scored.dropped,
        verified=verified.record,
        seconds=verified.seconds + time.monotonic() - started,
    )


def time_kernel(compiled: Compiled, timer: Timer, shape: str, repeats: int, method: Method) -> Timed | Outcome:
    """Time a right kernel again, in a worker; return how it failed if it did."""
    try:
        timed = timer.time(compiled, shape, repeats, method)
    except AssertionError:
        raise
    except Exception as error:
        return _outcome(compiled, 0, "launch", f"{type(error).__name__}: {error}")
    if len(timed.samples) == repeats and all(0 < value < float("inf") for value in timed.samples):
        return timed
    return _outcome(compiled, 0, "launch", f"no figure for {shape}")


def is_fault(answer: object) -> bool:
    """Whether what a stage returned may have spoilt the CUDA context of its process, in which later launches fail."""
    outcome = answer.result if isinstance(answer, Done) else answer
    return isinstance(outcome, Outcome) and outcome.status == "launch"


def loss_of(error: BaseException | Loss) -> tuple[Status, str]:
    """Return what became of a kernel that cost its worker."""
    if isinstance(error, WorkerLostError):
        return ("timeout" if error.kind == "timeout" else "launch"), error.detail
    if error == "hung":
        return "timeout", "no answer in time"
    return "launch", "the worker process died" if error == "lost" else f"{type(error).__name__}: {error}"


def _blocks(compiled: Compiled, device: Device) -> Occupancy:
    return occupancy(
        device,
        registers=compiled.registers,
        threads=compiled.variant.schedule.threads,
        smem_bytes=compiled.variant.smem_bytes,
    )


def _outcome(compiled: Compiled, blocks: int, status: Status, detail: str, seconds: float = 0.0) -> Outcome:
    return Outcome(
        variant=compiled.variant,
        status=status,
        detail=detail,
        registers=compiled.registers,
        spill_bytes=compiled.spill_bytes,
        blocks_per_sm=blocks,
        seconds=seconds,
    )
