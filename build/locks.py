"""Advisory locks: who comes second waits, and says so."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_log = logging.getLogger(__name__)


@contextmanager
def locked(path: Path, what: str) -> Iterator[int]:
    """Hold an exclusive lock on `path`, a file (created, never removed) or a folder; yield its descriptor.

    A child that inherits the descriptor keeps the lock alive if this process is killed.

    Raises:
        OSError: if `path` cannot be opened.
    """
    flags = os.O_RDONLY if path.is_dir() else os.O_RDWR | os.O_CREAT
    descriptor = os.open(path, flags | os.O_CLOEXEC, 0o644)
    try:
        _acquire(descriptor, what)
        yield descriptor
    finally:
        os.close(descriptor)


def _acquire(descriptor: int, what: str) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        _log.warning("%s; waiting for it to end", what)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError as error:
        # Some network file systems lock no folders, or nothing at all; renames keep the files whole anyway.
        if error.errno not in (errno.ENOLCK, errno.EBADF, errno.ENOTSUP, errno.EINVAL):
            raise
