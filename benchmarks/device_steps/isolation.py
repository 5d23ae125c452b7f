"""Calling functions in a process that may crash, hang or spoil its CUDA context."""

from __future__ import annotations

import importlib
import traceback
from collections.abc import Mapping
from typing import Any

from kernelwright.tuner.isolation import Limits, WorkerLostError
from kernelwright.tuner.workers import WorkerProcesses

_START_S = 120.0  # to start Python and import torch, on a machine with a cold disk
_TRACE_LINES = 6


class Isolation:
    """One process at a time, started when needed. What it answers is plain data; see `Context.run_isolated`."""

    def __init__(self) -> None:
        self._workers: WorkerProcesses | None = None

    def call(self, target: str, kwargs: Mapping[str, Any], deadline_s: float, *, fresh: bool) -> dict[str, Any]:
        """Return what `target` returns, or a fault. Any: JSON."""
        if fresh:
            self.close()
        try:
            if self._workers is None:
                self._workers = WorkerProcesses(1, limits=Limits(start_s=_START_S), give_up_after=None)
                self._workers.submit(import_target, target).result(timeout=_START_S)
            result = self._workers.submit(call_target, target, dict(kwargs)).result(timeout=max(0.0, deadline_s))
        except TimeoutError:
            result = {"fault": "timeout", "detail": f"no answer within {deadline_s:.0f} s, killed"}
        except WorkerLostError as error:
            result = {"fault": "crash", "detail": error.detail}
        if result.get("fault"):
            self.close()  # a fault on the device stays with its context
        return result

    def close(self) -> None:
        """Kill the process, whatever it is doing."""
        if self._workers is not None:
            self._workers.shutdown(cancel_futures=True)
        self._workers = None


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
