"""The seam between search and work: compile, verify and score are handed to `concurrent.futures` executors.

Everything that crosses the seam is plain data or a picklable object, so an executor may be a process pool here or
a cluster's. We keep no queue of our own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, CancelledError, Executor, Future, wait
from dataclasses import dataclass, field
from typing import Any, ParamSpec, Protocol, TypeVar

from kernelwright.build.kernels import BuiltKernel
from kernelwright.gen.devices import Device
from kernelwright.gen.spec import Variant
from kernelwright.tuner.errors import DeviceGivenUpError
from kernelwright.tuner.isolation import WorkerLostError, stage
from kernelwright.tuner.occupancy import occupancy
from kernelwright.tuner.results import Label, Outcome, Status

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """How points are tried, and where.

    Args:
        compiler, verifier, scorer: the three kinds of work.
        compiling: executor that compiles a batch; by default in place, since ninja has its own processes.
        judging: executor that verifies and scores one kernel at a time.
        timeout_s: how long to wait for any answer of `judging`, where that has no deadlines of its own.
        restart: frees what is stuck in `judging`, or replaces what was lost there.
    """

    compiler: Compiler
    verifier: Verifier
    scorer: Scorer
    compiling: Executor
    judging: Executor
    timeout_s: float = 120.0
    restart: Callable[[], None] = lambda: None


class InPlaceExecutor(Executor):
    """Runs what is submitted at once, in the calling thread, so that Ctrl-C reaches it."""

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        future: Future[T] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


def judge_all(batch: Sequence[Compiled], work: Work, device: Device) -> Iterator[Outcome]:
    """Yield what comes of each kernel, as it comes.

    All are judged side by side. `WorkerProcesses` says which kernel cost it a process. Of other executors: when a
    worker dies or none answers in time, those without an answer are judged again one by one, so that the blame falls
    on the right one.
    """
    if isinstance(work.judging, InPlaceExecutor):  # each is told before the next is begun
        yield from (judge(compiled, work.verifier, work.scorer, device) for compiled in batch)
        return
    pending: dict[Future[Outcome], Compiled] = {}
    suspects: list[Compiled] = []
    for compiled in batch:
        try:
            pending[work.judging.submit(judge, compiled, work.verifier, work.scorer, device)] = compiled
        except BrokenExecutor:
            suspects.append(compiled)
    stopped: BaseException | None = None  # raised when what was finished has been handed over
    while pending and not isinstance(stopped, KeyboardInterrupt):
        try:
            done, _ = wait(pending, timeout=work.timeout_s, return_when=FIRST_COMPLETED)
        except KeyboardInterrupt as interrupt:
            stopped, done = interrupt, {one for one in pending if one.done()}
        for future in [one for one in pending if one in done or not (done or stopped)]:  # in the batch's order
            compiled = pending.pop(future)
            try:
                yield future.result(timeout=0)
            except DeviceGivenUpError as error:
                stopped = error
            except WorkerLostError as error:
                yield _lost(compiled, "timeout" if error.kind == "timeout" else "launch", error.detail)
            except (BrokenExecutor, CancelledError, TimeoutError):
                suspects.append(compiled)
    if stopped is not None:
        raise stopped
    if suspects:
        work.restart()
    for compiled in suspects:
        yield _judge_alone(compiled, work, device)


def _judge_alone(compiled: Compiled, work: Work, device: Device) -> Outcome:
    future = work.judging.submit(judge, compiled, work.verifier, work.scorer, device)
    try:
        return future.result(timeout=work.timeout_s)
    except TimeoutError:
        work.restart()
        return _lost(compiled, "timeout", f"no answer within {work.timeout_s:g} s")
    except BrokenExecutor:
        work.restart()
        return _lost(compiled, "launch", "the worker process died")


def _lost(compiled: Compiled, status: Status, detail: str) -> Outcome:
    return Outcome(
        variant=compiled.variant,
        status=status,
        detail=detail,
        registers=compiled.registers,
        spill_bytes=compiled.spill_bytes,
    )


def judge(compiled: Compiled, verifier: Verifier, scorer: Scorer, device: Device) -> Outcome:
    """Verify a kernel and, only if it is right, score it. Runs in a worker."""
    started = time.monotonic()
    held = occupancy(
        device,
        registers=compiled.registers,
        threads=compiled.variant.schedule.threads,
        smem_bytes=compiled.variant.smem_bytes,
    )
    common: dict[str, Any] = {  # Any: keyword arguments of Outcome
        "variant": compiled.variant,
        "registers": compiled.registers,
        "spill_bytes": compiled.spill_bytes,
        "blocks_per_sm": held.blocks,
    }

    def failed(status: Status, detail: str) -> Outcome:
        return Outcome(**common, status=status, detail=detail, seconds=time.monotonic() - started)

    if compiled.fault:
        return failed(compiled.fault_status, compiled.fault)
    if compiled.spill_bytes:
        return failed("spill", f"spills {compiled.spill_bytes} bytes a thread")
    if held.blocks < 1:
        return failed("launch", f"no thread block fits on an SM of {device.name}: {held.limit}")
    try:
        stage("verifying")
        verdict = verifier.verify(compiled)
        if verdict.status != "ok":
            return failed(verdict.status, verdict.detail)
        stage("scoring")
        found = scorer.score(compiled)
    except AssertionError:  # a fault of ours, not of the kernel
        raise
    except Exception as error:  # anything a kernel or a driver does to us is a result about that kernel
        return failed("launch", f"{type(error).__name__}: {error}")
    scored = found if isinstance(found, Scored) else Scored(figures=found)
    figures = scored.figures
    bad = [name for name, figure in figures.items() if not 0 < figure < float("inf")]
    if bad or not figures:
        return failed("launch", f"no figure for {', '.join(bad) or 'any shape'}")
    return Outcome(
        **common,
        status="ok",
        figures=figures,
        samples=scored.samples,
        states=scored.states,
        verified=verdict.record,
        seconds=time.monotonic() - started,
    )
