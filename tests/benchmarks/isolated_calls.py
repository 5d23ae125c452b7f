"""Calls for `Isolation`, made in the process it starts."""

from __future__ import annotations

import os
import signal
import time


def answer(*, value: int) -> dict[str, int]:
    return {"value": value, "process": os.getpid()}


def crash() -> dict[str, int]:
    os.kill(os.getpid(), signal.SIGSEGV)
    raise AssertionError("it is dead")


def hang() -> dict[str, int]:
    time.sleep(600)
    raise AssertionError("it was killed")
