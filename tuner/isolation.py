"""One process that works for us and may hang, crash or talk nonsense. Standard library only.

The process is spawned, not forked: a forked child may not use the CUDA driver, and torch's threads do not survive it.
It leads a process group of its own, so that what it starts dies with it, and the kernel kills it when the thread that
started it ends, however that comes about. Jobs and answers travel through a socket in frames that begin with a mark,
so that nothing a kernel or a library prints is taken for an answer.
"""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import pickle
import select
import signal
import socket
import struct
import time
from collections.abc import Callable
from concurrent.futures import BrokenExecutor
from dataclasses import dataclass
from typing import Any, Literal

_PR_SET_PDEATHSIG = 1  # <sys/prctl.h>
_MARK = b"KWJ1"
_HEADER = struct.Struct("<4sQ")
_MAX_FRAME = 1 << 32
_END_S = 5.0  # for the exit status of a dead process to be known

_to_parent: socket.socket | None = None  # in a worker only


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Deadlines in seconds; infinite means none.

    Args:
        start_s: to start Python and import what the job needs, on a machine with a cold disk.
        job_s: for a whole job, from when that is imported.
        stage_s: between two calls of `stage` in a job, such as for the launches on one shape.
    """

    start_s: float = 120.0
    job_s: float = float("inf")
    stage_s: float = float("inf")


class WorkerLostError(BrokenExecutor):
    """A worker that was killed or died, because of the job it had.

    Args:
        kind: `timeout` if it was killed for want of an answer, else `runtime`.
        detail: what happened, in words.
    """

    def __init__(self, kind: Literal["timeout", "runtime"], detail: str) -> None:
        super().__init__(detail)
        self.kind, self.detail = kind, detail

    def __reduce__(self) -> tuple[Any, ...]:
        return WorkerLostError, (self.kind, self.detail)


def stage(doing: str) -> None:
    """Say, inside a job, what comes next; it has `Limits.stage_s` from now. Outside a worker this does nothing."""
    if _to_parent is not None:
        _send(_to_parent, ("stage", doing))


class WorkerProcess:
    """A process that does one job at a time. Use it from the thread that made it.

    Raises:
        WorkerLostError: if it does not start.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._socket, theirs = socket.socketpair()
        context = multiprocessing.get_context("spawn")
        self._process = context.Process(target=_serve, args=(theirs, os.getpid()))
        try:
            self._process.start()
        finally:
            theirs.close()
        self._receive(time.monotonic() + limits.start_s, limits.start_s, "starting")

    @property
    def pid(self) -> int | None:
        """Its process id."""
        return self._process.pid

    def do(self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:  # Any: of the job
        """Return what a job returns, or raise what it raises.

        Raises:
            WorkerLostError: if it did not answer; the process is then dead.
        """
        try:
            job = pickle.dumps((fn, args, kwargs))
        except Exception as error:
            raise TypeError(f"a job must be picklable: {error}") from error
        try:
            self._socket.settimeout(min(self._limits.job_s, self._limits.start_s))
            self._socket.sendall(_HEADER.pack(_MARK, len(job)) + job)
        except OSError:  # it died between two jobs; how is found out below
            pass
        answer = self._receive(time.monotonic() + self._limits.start_s, self._limits.start_s, "loading the job")
        if answer[0] == "began":
            answer = self._receive(time.monotonic() + self._limits.job_s, self._limits.job_s, "")
        if answer[0] == "raised":
            raise answer[1]
        return answer[1]

    def is_alive(self) -> bool:
        """Whether it can take a job."""
        return self._process.is_alive()

    def kill(self) -> None:
        """Kill it and what it started, and wait until it is gone."""
        self.strike()
        self._process.join()
        self._socket.close()

    def strike(self) -> None:
        """Kill it and what it started; the thread that waits for its answer, if any, learns that it died."""
        pid = self._process.pid
        if pid is not None and self._process.is_alive():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                if os.getpgid(pid) == pid:  # not yet, if it has only just started
                    os.killpg(pid, signal.SIGKILL)
            self._process.kill()
            self._process.join(_END_S)

    def stop(self) -> None:
        """Let it end by itself, since it has nothing to do."""
        self._socket.close()
        self._process.join(_END_S)
        self.kill()

    def _receive(self, deadline: float, allowed_s: float, doing: str) -> tuple[Any, ...]:
        """Return the next answer; every stage in between has its own deadline."""
        until, limit_s = deadline, allowed_s
        while True:
            try:
                message = self._frame(until)
            except TimeoutError:
                self.kill()
                while_ = f" while {doing}" if doing else ""
                raise WorkerLostError("timeout", f"no answer within {limit_s:g} s{while_}, killed") from None
            except EOFError:
                ended = self._how_it_ended()
                self.kill()
                while_ = f" while {doing}" if doing else ""
                raise WorkerLostError("runtime", f"the worker process died ({ended}){while_}") from None
            except ValueError as error:
                self.kill()
                raise WorkerLostError("runtime", f"the worker process answered nonsense ({error}), killed") from None
            if message[0] != "stage":
                return message
            doing = str(message[1])
            now = time.monotonic()
            until, limit_s = (
                (now + self._limits.stage_s, self._limits.stage_s)
                if now + self._limits.stage_s < deadline
                else (deadline, allowed_s)
            )

    def _frame(self, until: float) -> tuple[Any, ...]:
        """Return one frame's content.

        Raises:
            TimeoutError: at `until`.
            EOFError: if the process ended.
            ValueError: if what came is no frame of ours.
        """
        mark, length = _HEADER.unpack(self._bytes(_HEADER.size, until))
        if mark != _MARK or length > _MAX_FRAME:
            raise ValueError(f"no frame: {mark!r}")
        data = self._bytes(length, until)
        try:
            message = pickle.loads(data)
        except Exception as error:
            raise ValueError(f"{type(error).__name__}: {error}") from error
        if (
            not isinstance(message, tuple)
            or len(message) != 2
            or message[0] not in ("ready", "began", "stage", "done", "raised")
        ):
            raise ValueError(f"no answer: {str(message)[:60]}")
        return message

    def _bytes(self, count: int, until: float) -> bytes:
        parts: list[bytes] = []
        while count:
            left_s = until - time.monotonic()
            if left_s <= 0:
                raise TimeoutError
            readable, _, _ = select.select([self._socket], [], [], min(left_s, 3600.0))
            if not readable:
                continue
            try:
                part = self._socket.recv(min(count, 1 << 20))
            except OSError:
                part = b""
            if not part:
                raise EOFError
            parts.append(part)
            count -= len(part)
        return b"".join(parts)

    def _how_it_ended(self) -> str:
        self._process.join(_END_S)
        code = self._process.exitcode
        if code is None:
            return "it closed its socket"
        return signal.Signals(-code).name if code < 0 else f"exit status {code}"


def _serve(connection: socket.socket, parent: int) -> None:
    """Do jobs until the parent ends. The body of a worker process."""
    global _to_parent
    _prepare(parent)
    _to_parent = connection
    _send(connection, ("ready", None))
    while True:
        header = _read(connection, _HEADER.size)
        if header is None:
            return
        job = _read(connection, _HEADER.unpack(header)[1])
        if job is None:
            return
        try:
            fn, args, kwargs = pickle.loads(job)  # imports what the job needs, which may take long
            _send(connection, ("began", None))
            answer = ("done", fn(*args, **kwargs))
        except Exception as error:
            answer = ("raised", error)
        _send(connection, answer)


def _prepare(parent: int) -> None:
    """Leave Ctrl-C to the parent, die with it, and keep the parent's stdout free of what kernels print."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with contextlib.suppress(OSError):
        os.setpgid(0, 0)
    with contextlib.suppress(OSError, AttributeError):  # not Linux
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before that was set
        os._exit(1)
    with contextlib.suppress(OSError):
        os.dup2(2, 1)


def _send(connection: socket.socket, message: tuple[str, object]) -> None:
    try:
        data = pickle.dumps(message)
        pickle.loads(data)  # some exceptions pickle and do not come back
    except Exception:
        kind, value = message
        data = pickle.dumps(
            (kind, RuntimeError(f"{type(value).__name__}: {value}"))
            if kind == "raised"
            else ("raised", TypeError(f"the answer cannot be pickled: {type(value).__name__}"))
        )
    connection.sendall(_HEADER.pack(_MARK, len(data)) + data)


def _read(connection: socket.socket, count: int) -> bytes | None:
    parts = []
    while count:
        try:
            part = connection.recv(min(count, 1 << 20))
        except OSError:
            return None
        if not part:
            return None
        parts.append(part)
        count -= len(part)
    return b"".join(parts)
