"""Points through stages that overlap: while some are timed, others are checked and others compiled.

The loop never waits for the ledger. Asking may take long (a model is fitted, a storage locked), so a clerk of its own
thread asks ahead and tells behind, in order, and workers find the next point ready. A result is kept the moment it is
there, before the clerk hears of it.

`WorkerLostError` says which point cost its worker: that point has failed. Of other executors, what a worker loses is
tried again once, so that a neighbour's crash costs nobody a result; what is lost twice has failed. Every point that was
asked for is told exactly once, or never when the run stops early.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import (
    FIRST_COMPLETED,
    BrokenExecutor,
    CancelledError,
    Executor,
    Future,
    ThreadPoolExecutor,
    wait,
)
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, Protocol, TypeVar

from kernelwright.tuner.interrupts import uninterrupted
from kernelwright.tuner.isolation import WorkerLostError

Item = TypeVar("Item", bound=Hashable)
Result = TypeVar("Result")
Told = TypeVar("Told", contravariant=True)
Asked = TypeVar("Asked")

Loss = Literal["lost", "hung"]

_MAX_LOSSES = 2
_BROKEN_S = 1.0  # for the other futures of a broken pool to say so
_POLL_S = 0.2  # how late a deadline may be noticed


class Clerk(Protocol[Asked, Told]):
    """Keeps the books; called from one thread at a time, never the scheduler's own."""

    def ask(self, count: int) -> Sequence[Asked]:
        """Return up to `count` points to try; none when there are no more."""
        ...

    def tell(self, item: Asked, result: Told) -> None: ...


@dataclass(frozen=True, slots=True)
class Done(Generic[Result]):
    """What a stage returns in place of the next stage's input when a point's way ends there."""

    result: Result


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One kind of work.

    Args:
        name: for messages.
        work: from the previous stage's value (at first the point) to the next one's, or `Done`. The last one's value
            is the result. What it raises is handed to `failed`.
        executor: where it runs.
        workers: how many at a time.
        timeout_s: how long one may take before it counts as hung.
        restart: frees the workers after one hung or was lost.
        shared: whether the workers are one pool, in which all are lost or restarted together.
        known: what `work` is given beside its value, asked for when it begins.
    """

    name: str
    work: Callable[..., Any]  # Any: each stage has its own types
    executor: Executor
    workers: int
    timeout_s: float = 300.0
    restart: Callable[[], None] = lambda: None
    shared: bool = True
    known: Callable[[], tuple[Any, ...]] = tuple


@dataclass(slots=True)
class _Task(Generic[Item]):
    item: Item
    stage: int
    value: Any
    losses: int = 0
    started: float = 0.0
    alone: bool = False


@dataclass(slots=True)
class Schedule(Generic[Item, Result]):
    """Runs points through stages until the clerk has no more, or `stop` says so.

    Args:
        clerk: asks and tells.
        stages: in order.
        failed: makes the result of a point whose stage raised, hung or lost its worker twice; what it raises ends
            the run.
        batch: points asked for at a time.
        keep: takes every result at once, in the thread of `run`; by default nothing.
        stop: whether time is up: nothing more is asked for, no stage begun; what runs is finished.
        clock: seconds.
    """

    clerk: Clerk[Item, Result]
    stages: Sequence[Stage]
    failed: Callable[[Item, str, BaseException | Loss], Result]
    batch: int
    keep: Callable[[Result], None] = lambda result: None
    stop: Callable[[], bool] = lambda: False
    clock: Callable[[], float] = time.monotonic
    told: int = 0
    _queues: list[deque[_Task[Item]]] = field(default_factory=list)
    _running: dict[Future[Any], _Task[Item]] = field(default_factory=dict)
    _asking: Future[Sequence[Item]] | None = None
    _telling: list[Future[None]] = field(default_factory=list)
    _exhausted: bool = False

    def run(self) -> int:
        """Return how many points were told.

        Raises:
            BaseException: what the clerk, `keep` or `failed` raised, or Ctrl-C, after finished work was kept and told.
        """
        self._queues = [deque() for _ in self.stages]
        with ThreadPoolExecutor(1, thread_name_prefix="clerk") as desk:
            try:
                self._loop(desk)
            except BaseException:
                self._hand_over(desk)
                raise
        self._raise_of_clerk()
        return self.told

    def _loop(self, desk: Executor) -> None:
        while True:
            self._ask(desk)
            self._submit()
            waiting = [*self._running, *([self._asking] if self._asking else [])]
            if not waiting:
                return
            wait(waiting, timeout=_POLL_S, return_when=FIRST_COMPLETED)
            self._collect_asked()
            self._collect(desk)
            self._expire(desk)
            self._raise_of_clerk()

    def _hand_over(self, desk: Executor) -> None:
        """Keep and tell what has come of its last stage by now."""
        for future, task in list(self._running.items()):
            if future.done() and not future.cancelled() and future.exception() is None:
                del self._running[future]
                self._advance(desk, task, future.result())

    def _ask(self, desk: Executor) -> None:
        """Keep a batch ready beyond what the first stage is doing, until time is up."""
        if self.stop():
            self._exhausted = True
            for queue in self._queues:
                queue.clear()
        elif not self._asking and not self._exhausted and len(self._queues[0]) < self.batch:
            self._asking = desk.submit(self.clerk.ask, self.batch)

    def _collect_asked(self) -> None:
        if self._asking and self._asking.done():
            items = self._asking.result()
            self._asking = None
            self._exhausted |= not items
            self._queues[0].extend(_Task(item=item, stage=0, value=item) for item in items)

    def _submit(self) -> None:
        """Fill every stage, the last one first: finished points free memory and inform the search."""
        for number in reversed(range(len(self.stages))):
            stage, queue = self.stages[number], self._queues[number]
            ahead = len(self._queues[number + 1]) if number + 1 < len(self.stages) else 0
            room = 2 * self.stages[number + 1].workers - ahead if number + 1 < len(self.stages) else stage.workers
            running = [task for task in self._running.values() if task.stage == number]
            while queue and len(running) < stage.workers and room > 0:
                if any(task.alone for task in running) or (queue[0].alone and running):
                    break  # a suspect runs by itself, so that the blame falls on the right one
                task = queue.popleft()
                known = stage.known()
                try:
                    future = stage.executor.submit(stage.work, task.value, *known)
                except BrokenExecutor:
                    stage.restart()
                    future = stage.executor.submit(stage.work, task.value, *known)
                task.started = self.clock()
                self._running[future] = task
                running.append(task)
                room -= 1

    def _collect(self, desk: Executor) -> None:
        lost = [task for future in list(self._running) if (task := self._collect_one(desk, future)) is not None]
        for number in {task.stage for task in lost}:
            together = [task for task in lost if task.stage == number]
            if self.stages[number].shared:  # the rest of a broken pool breaks within moments
                rest = [future for future, task in self._running.items() if task.stage == number]
                wait(rest, timeout=_BROKEN_S)
                together += [task for future in rest if (task := self._collect_one(desk, future)) is not None]
            self._lose(desk, number, together, "lost")

    def _collect_one(self, desk: Executor, future: Future[Any]) -> _Task[Item] | None:
        """Take what has come of a future, if anything; return its task if its worker was lost."""
        if not future.done():
            return None
        with uninterrupted():  # else a result could get lost between two books
            return self._take(desk, future)

    def _take(self, desk: Executor, future: Future[Any]) -> _Task[Item] | None:
        task = self._running.pop(future)
        try:
            value = future.result()
        except WorkerLostError as error:
            self._tell(desk, task, self.failed(task.item, self.stages[task.stage].name, error))
        except (BrokenExecutor, CancelledError):
            return task
        except Exception as error:  # anything a kernel does to a stage is a result about that kernel
            self._tell(desk, task, self.failed(task.item, self.stages[task.stage].name, error))
        else:
            self._advance(desk, task, value)
        return None

    def _advance(self, desk: Executor, task: _Task[Item], value: Any) -> None:
        if isinstance(value, Done):
            self._tell(desk, task, value.result)
        elif task.stage + 1 == len(self.stages):
            self._tell(desk, task, value)
        else:
            self._queues[task.stage + 1].append(_Task(item=task.item, stage=task.stage + 1, value=value))

    def _expire(self, desk: Executor) -> None:
        """Give up what takes too long; its stage restarts, and its neighbours in one pool are tried again."""
        now = self.clock()
        for number, stage in enumerate(self.stages):
            here = [(one, task) for one, task in self._running.items() if task.stage == number and not one.done()]
            hung = [task for _, task in here if now - task.started > stage.timeout_s]
            if not hung:
                continue
            for future, task in here:
                if task in hung or stage.shared:
                    self._running.pop(future)
                    future.cancel()
                    if task not in hung:
                        self._queues[number].appendleft(task)
            self._lose(desk, number, hung, "hung")

    def _lose(self, desk: Executor, number: int, tasks: list[_Task[Item]], how: Loss) -> None:
        self.stages[number].restart()
        for task in tasks:
            task.losses += 1
            if task.losses >= _MAX_LOSSES or how == "hung":
                self._tell(desk, task, self.failed(task.item, self.stages[number].name, how))
            else:
                task.alone = self.stages[number].shared  # workers of their own take nobody with them
                self._queues[number].append(task)

    def _tell(self, desk: Executor, task: _Task[Item], result: Result) -> None:
        self.keep(result)
        self.told += 1
        self._telling.append(desk.submit(self.clerk.tell, task.item, result))

    def _raise_of_clerk(self) -> None:
        done = [future for future in self._telling if future.done()]
        self._telling = [future for future in self._telling if not future.done()]
        for future in done:
            future.result()
