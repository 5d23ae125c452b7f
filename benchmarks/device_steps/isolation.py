"""Calling functions in a process that may crash, hang or spoil its CUDA context."""

from __future__ import annotations

import importlib
import multiprocessing
import signal
import time
import traceback
from collections.abc import Mapping
from concurrent.futures import BrokenExecutor
from multiprocessing.process import BaseProcess
from typing import Any

from kernelwright.tuner.workers import WorkerProcesses

_START_S = 120.0  # to start Python and import torch, on a machine with a cold disk
_END_S = 5.0  # for the exit status of a dead process to be known
_TRACE_LINES = 6


class Isolation:
    """One process at a time, started when needed. What it answers is plain data; see `Context.run_isolated`."""

    def __init__(self) -> None:
        self._workers: WorkerProcesses | None = None
        self._processes: list[BaseProcess] = []

    def call(self, target: str, kwargs: Mapping[str, Any], deadline_s: float, *, fresh: bool) -> dict[str, Any]:
        """Return what `target` returns, or a fault. Any: JSON."""
        if fresh:
            self.close()
        try:
            if self._workers is None:
                self._start(target)
            assert self._workers is not None
            result = self._workers.submit(call_target, target, dict(kwargs)).result(timeout=max(0.0, deadline_s))
        except TimeoutError:
            result = {"fault": "timeout", "detail": f"no answer within {deadline_s:.0f} s, killed"}
        except BrokenExecutor:
            result = {"fault": "crash", "detail": f"the process died ({self._how_it_ended()})"}
        if result.get("fault"):
            self.close()  # a fault on the device stays with its context
        return result

    def close(self) -> None:
        """Kill the process, whatever it is doing."""
        if self._workers is not None:
            self._workers.shutdown(cancel_futures=True)
        self._workers, self._processes = None, []

    def _start(self, target: str) -> None:
        before = set(multiprocessing.active_children())
        self._workers = WorkerProcesses(1)
        ready = self._workers.submit(import_target, target)
        self._processes = [one for one in multiprocessing.active_children() if one not in before]
        ready.result(timeout=_START_S)

    def _how_it_ended(self) -> str:
        # The pool's own thread may be the one that takes the exit status, and a moment passes until all see it.
        deadline = time.monotonic() + _END_S
        while self._processes and time.monotonic() < deadline:
            codes = [one.exitcode for one in self._processes]
            ended = [code for code in codes if code is not None]
            if ended:
                return signal.Signals(-ended[0]).name if ended[0] < 0 else f"exit status {ended[0]}"
            time.sleep(0.01)
        return "it did not say why"


def import_target(target: str) -> None:
    """Import the module of a target, which takes seconds where torch is behind it. Its faults come out at the call."""
    try:
        importlib.import_module(target.partition(":")[0])
    except Exception:
        return


def call_target(target: str, kwargs: dict[str, Any]) -> dict[str, Any]:
    """Call `package.module:function`; what it raises is a result. Any: JSON."""
    module, _, name = target.partition(":")
    try:
        result = getattr(importlib.import_module(module), name)(**kwargs)
    except Exception as error:
        trace = "".join(traceback.format_exception(error)).splitlines()[-_TRACE_LINES:]
        return {"fault": "error", "detail": f"{type(error).__name__}: {error}".strip(), "trace": trace}
    assert isinstance(result, dict), f"{target} must return a dict"
    return result
