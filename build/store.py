"""The content-addressed store of compiled kernels, safe under concurrent builds. Standard library only.

An entry is `<cache>/kernels/<key[:2]>/<key>/`. It is made in `<cache>/tmp/` and published by one rename, so
it is whole or absent; digests in `report.json` tell an entry that was damaged later.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kernelwright.build.files import sha256_bytes, sync_directory, write_synced

ENTRY_SCHEMA = 1
DIGESTED = ("kernel.ptx", "kernel.cubin", "source.cu")
_OWNER = ".owner"
_SCRATCH_SUFFIX = ".kernelwright"  # tells our folders in `tmp` from anybody else's
_UNOWNED_AGE_S = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One compiled kernel, verified against its digests."""

    ptx: bytes
    cubin: bytes
    report: dict[str, Any]  # the JSON object that compile_kernel.py writes


class CorruptEntryError(Exception):
    """An entry that exists and must not be used."""


def entry_dir(cache: Path, key: str) -> Path:
    """Return where the kernel with this key is, or will be."""
    return cache / "kernels" / key[:2] / key


def load_entry(cache: Path, key: str) -> Entry | None:
    """Return the kernel with this key, or None if the store has none.

    Raises:
        CorruptEntryError: if a file of it is missing or is not what was published.
    """
    folder = entry_dir(cache, key)
    try:
        report = json.loads((folder / "report.json").read_bytes())
        if report.get("schema") != ENTRY_SCHEMA or report.get("key") != key:
            raise CorruptEntryError(f"{folder}/report.json describes another kernel")
        content = {name: (folder / name).read_bytes() for name in DIGESTED}
        for name, data in content.items():
            if sha256_bytes(data) != report["sha256"][name]:
                raise CorruptEntryError(f"{folder}/{name} is not what was published")
    except FileNotFoundError as error:
        if not folder.exists():
            return None
        raise CorruptEntryError(f"{error.filename} is missing") from error
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise CorruptEntryError(f"{folder}/report.json cannot be read ({error})") from error
    return Entry(ptx=content["kernel.ptx"], cubin=content["kernel.cubin"], report=report)


def drop_entry(cache: Path, key: str) -> None:
    """Remove an entry in one step, whoever else is looking at it."""
    folder = entry_dir(cache, key)
    with scratch_dir(cache, key) as scratch:
        try:
            folder.rename(scratch / "dropped")
        except FileNotFoundError:
            return


def publish_entry(cache: Path, key: str, files: dict[str, bytes]) -> None:
    """Publish a kernel: all of `files` or nothing. Does nothing if somebody else was faster.

    Raises:
        OSError: if the cache cannot be written.
    """
    target = entry_dir(cache, key)
    with scratch_dir(cache, key) as scratch:
        made = scratch / "entry"
        made.mkdir()
        for name, data in files.items():
            write_synced(made / name, data)
        sync_directory(made)
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            made.rename(target)
        except OSError:
            if not target.is_dir():
                raise
        else:
            sync_directory(target.parent)


@contextmanager
def scratch_dir(base: Path, label: str) -> Iterator[Path]:
    """Yield an empty folder under `base/tmp`, removed afterwards; `sweep_scratch` takes a dead owner's."""
    parent = base / "tmp"
    parent.mkdir(parents=True, exist_ok=True)
    path = Path(tempfile.mkdtemp(prefix=f"{label[:16]}.", suffix=_SCRATCH_SUFFIX, dir=parent))
    owner = os.open(path / _OWNER, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(owner, fcntl.LOCK_EX)
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        os.close(owner)


def sweep_scratch(base: Path) -> int:
    """Remove the scratch folders of ours under `base/tmp` whose owner is gone; return how many."""
    removed = 0
    for path in sorted((base / "tmp").glob(f"*{_SCRATCH_SUFFIX}")):
        try:
            owner = os.open(path / _OWNER, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            if _age_s(path) < _UNOWNED_AGE_S:  # its owner is about to take the lock
                continue
            shutil.rmtree(path, ignore_errors=True)
            removed += 1
            continue
        except OSError:
            continue
        try:
            fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path, ignore_errors=True)
            removed += 1
        except OSError:
            pass  # still at work
        finally:
            os.close(owner)
    return removed


def _age_s(path: Path) -> float:
    try:
        return time.time() - path.stat().st_mtime
    except OSError:
        return 0.0
