"""Putting files and folders in place so that nobody ever sees half of one. Standard library only."""

from __future__ import annotations

import ctypes
import errno
import hashlib
import os
import shutil
import tempfile
from pathlib import Path

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
TEMPORARY_SUFFIX = ".kernelwright.tmp"
"""Ends the name of every temporary file, so that sweeping them takes nobody else's."""


def sha256_bytes(data: bytes) -> str:
    """Return the SHA-256 of `data` in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def write_atomic(path: Path, data: bytes) -> None:
    """Write `data` to `path` through a temporary file beside it and one rename.

    A reader sees the old content or the new one; a killed writer leaves at most a file ending in `TEMPORARY_SUFFIX`.

    Raises:
        OSError: if it cannot be written; the temporary file is then removed and `path` is untouched.
    """
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name[:80]}.", suffix=TEMPORARY_SUFFIX, dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
            os.fchmod(stream.fileno(), 0o644)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def write_if_changed(path: Path, data: bytes) -> bool:
    """Write `data` to `path` only if it holds something else; return whether it was written."""
    try:
        if path.read_bytes() == data:
            return False
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, data)
    return True


def write_synced(path: Path, data: bytes) -> None:
    """Write `data` to a new file and force it to the disk."""
    with path.open("wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())


def sync_directory(path: Path) -> None:
    """Force a folder's entries to the disk, where the file system lets one."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def replace_directory(new: Path, target: Path) -> None:
    """Make `target` the folder `new`; what was there before is removed.

    One rename where `target` does not exist, one exchange where the kernel has `renameat2`. Elsewhere the old
    folder is set aside first, and `recover_directory` puts it back if the second rename never came.

    Raises:
        OSError: if neither rename is possible; `target` is then as it was.
    """
    if not target.exists():
        new.rename(target)
        return
    if _exchange(new, target):
        shutil.rmtree(new, ignore_errors=True)
        return
    aside = _aside(target)
    shutil.rmtree(aside, ignore_errors=True)
    target.rename(aside)
    try:
        new.rename(target)
    except BaseException:
        aside.rename(target)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def recover_directory(target: Path) -> None:
    """Undo the first half of a replacement that was interrupted, and remove what one left behind."""
    aside = _aside(target)
    if aside.exists():
        if target.exists():
            shutil.rmtree(aside, ignore_errors=True)
        else:
            aside.rename(target)
    for leftover in target.parent.glob(f".{target.name}.*.new"):
        shutil.rmtree(leftover, ignore_errors=True)


def _aside(target: Path) -> Path:
    return target.with_name(f".{target.name}.old")


def _exchange(first: Path, second: Path) -> bool:
    """Swap two paths in one step; False where this system cannot."""
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        renameat2 = libc.renameat2
    except (OSError, AttributeError):
        return False
    status: int = renameat2(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE)
    if status == 0:
        return True
    if ctypes.get_errno() in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
        return False
    code = ctypes.get_errno()
    raise OSError(code, os.strerror(code), str(second))


def explain_os_error(error: OSError, doing: str, instead: str = "another --out") -> str:
    """Say what went wrong with a file and what to do about it, in one line; `instead`: what else may be chosen."""
    where = f" {error.filename}" if error.filename else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return f"{doing}: no space left for{where or ' the file'}. Free space there, or choose {instead}."
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return f"{doing}: may not write{where or ' there'}. Choose {instead} that you may write."
    if error.errno in (errno.ENOTDIR, errno.EEXIST):
        return f"{doing}:{where or ' the path'} is in the way ({error.strerror}). Choose {instead}."
    return f"{doing}: {error.strerror or error}{':' if where else ''}{where}"
