"""Worker processes on this machine that can be lost or killed without losing the run."""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import signal
from collections.abc import Callable
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

_PR_SET_PDEATHSIG = 1  # <sys/prctl.h>


class WorkerProcesses(Executor):
    """A process pool that `restart` kills and replaces. Processes start when first needed.

    They are spawned, not forked: a forked child may not use the CUDA driver, and torch's threads do not survive it.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._pool = self._make()

    def _make(self) -> ProcessPoolExecutor:
        context = multiprocessing.get_context("spawn")
        return ProcessPoolExecutor(self._count, mp_context=context, initializer=_prepare_worker)

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        return self._pool.submit(fn, *args, **kwargs)

    def restart(self) -> None:
        """Kill every worker, whatever it is doing, and go on with new ones."""
        self._kill()
        self._pool = self._make()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Stop. With `cancel_futures`, as after Ctrl-C, workers are killed at once."""
        if cancel_futures:
            self._kill()
        else:
            self._pool.shutdown(wait=wait)

    def _kill(self) -> None:
        processes = list((self._pool._processes or {}).values())  # `kill_workers` from Python 3.14 on
        for process in processes:
            process.kill()
        self._pool.shutdown(wait=True, cancel_futures=True)


def _prepare_worker() -> None:
    """Leave Ctrl-C to the parent, and die with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with contextlib.suppress(OSError, AttributeError):  # not Linux
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
