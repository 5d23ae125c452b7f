"""An executor of worker processes: a job that kills or stops its process costs that job alone."""

from __future__ import annotations

import atexit
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from typing import Any, ParamSpec, TypeVar

from kernelwright.tuner.errors import DeviceGivenUpError
from kernelwright.tuner.isolation import Limits, WorkerLostError, WorkerProcess

P = ParamSpec("P")
T = TypeVar("T")

_GIVE_UP_AFTER = 3


@dataclass(frozen=True, slots=True)
class _Job:
    future: Future[Any]  # Any: of any job
    fn: Callable[..., Any]
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)


class WorkerProcesses(Executor):
    """Processes that are replaced when they are lost. They start when first needed.

    A job that hangs is killed at its deadline and fails with `WorkerLostError`, and so does one whose process dies;
    the next job gets a new process. Nobody else's job is disturbed.

    Args:
        count: of processes.
        limits: deadlines of each job.
        device: what the processes work on, for messages.
        probe: run in a new process after one was lost, to see that the device still answers; raises if not.
        spoils: whether what a job returned means that its process is of no more use, as after a fault on a GPU,
            which stays with the process's context.
        give_up_after: processes lost in a row after which every job fails with `DeviceGivenUpError`; None for never.
    """

    def __init__(
        self,
        count: int,
        *,
        limits: Limits | None = None,
        device: str = "this machine",
        probe: Callable[[], object] | None = None,
        spoils: Callable[[Any], bool] = lambda _: False,
        give_up_after: int | None = _GIVE_UP_AFTER,
    ) -> None:
        self._count, self._limits, self._device = count, limits or Limits(), device
        self._probe, self._spoils, self._give_up_after = probe, spoils, give_up_after
        self._lock = threading.Lock()
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._workers: set[WorkerProcess] = set()
        self._lost = 0  # in a row
        self._given_up = ""
        self._closing = False
        self._killed = False  # for good: what starts now is killed too
        atexit.register(self._kill_all)

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        if self._closing:
            raise RuntimeError("submitted to workers that were shut down")
        future: Future[T] = Future()
        self._jobs.put(_Job(future, fn, args, kwargs))
        with self._lock:
            if len(self._threads) < self._count:
                thread = threading.Thread(target=self._run, name=f"worker {len(self._threads)}", daemon=True)
                self._threads.append(thread)
                thread.start()
        return future

    def restart(self) -> None:
        """Kill every worker, whatever it is doing; their jobs fail, and new workers do the next ones."""
        self._kill_all()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Stop. With `cancel_futures`, as after Ctrl-C, workers are killed at once."""
        self._closing = True
        if cancel_futures:
            while not self._jobs.empty():
                job = self._jobs.get()
                if job is not None:
                    job.future.cancel()
            with self._lock:
                self._killed = True
            self._kill_all()
        for _ in self._threads:
            self._jobs.put(None)
        if wait or cancel_futures:
            for thread in self._threads:
                thread.join()
        atexit.unregister(self._kill_all)

    def _kill_all(self) -> None:
        with self._lock:
            workers = list(self._workers)
        for worker in workers:
            worker.strike()

    def _run(self) -> None:
        """Do jobs one after the other, in a process that this thread alone talks to."""
        worker: WorkerProcess | None = None
        suspicious = False  # the process before was lost or spoilt
        while (job := self._jobs.get()) is not None:
            if not job.future.set_running_or_notify_cancel():
                continue
            try:
                if self._given_up:
                    raise DeviceGivenUpError(self._given_up)
                if worker is not None and not worker.is_alive():  # it ended without a job, which no job is to blame for
                    self._forget(worker)
                    worker, suspicious = None, True
                if worker is None:
                    worker = self._start(probe=suspicious)
                    suspicious = False
                result = worker.do(job.fn, job.args, job.kwargs)
            except WorkerLostError as error:
                self._forget(worker)
                worker, suspicious = None, True
                self._count_loss(error)
                job.future.set_exception(error)
            except BaseException as error:
                job.future.set_exception(error)
            else:
                self._lost = 0
                if self._spoils(result):
                    worker.stop()
                    self._forget(worker)
                    worker, suspicious = None, True
                job.future.set_result(result)
        if worker is not None:
            worker.stop()
            self._forget(worker)

    def _start(self, *, probe: bool) -> WorkerProcess:
        try:
            worker = WorkerProcess(self._limits)
        except WorkerLostError as error:
            self._given_up = f"a worker process for {self._device} does not start: {error.detail}"
            raise DeviceGivenUpError(self._given_up) from error
        with self._lock:
            self._workers.add(worker)
            is_late = self._killed
        if is_late:
            worker.strike()
        if probe and self._probe is not None:
            try:
                worker.do(self._probe, (), {})
            except Exception as error:
                worker.kill()
                self._forget(worker)
                self._given_up = (
                    f"{self._device} answers no more ({type(error).__name__}: {error}). Finished points are kept; see "
                    "to the device (nvidia-smi, dmesg), then go on with --resume"
                )
                raise DeviceGivenUpError(self._given_up) from error
        return worker

    def _count_loss(self, error: WorkerLostError) -> None:
        self._lost += 1
        if self._give_up_after is not None and self._lost >= self._give_up_after and not self._closing:
            self._given_up = (
                f"{self._device} is given up: {self._lost} kernels in a row cost their worker process, the last with "
                f"'{error.detail}'. They are quarantined and finished points are kept. See to the device, then go on "
                "with --resume"
            )

    def _forget(self, worker: WorkerProcess | None) -> None:
        with self._lock:
            if worker is not None:
                self._workers.discard(worker)
