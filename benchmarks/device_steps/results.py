"""The folder of results: one file of JSON lines a step, to which records are appended one by one."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

SUFFIX = ".jsonl"
_ROOT = str(Path(__file__).resolve().parents[2])
Record = dict[str, Any]  # Any: JSON


class Results:
    """Appends records and remembers their keys. A record is on the disk before the next one is made."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.step = ""
        self._keys: dict[str, set[str]] = {}

    def load(self, warn: Callable[[str], None]) -> int:
        """Read what an earlier run left, and mend a file whose last line was cut off; return the number of results.

        A run that ended before its first task has left its own head, which is no result.
        """
        count = 0
        for path in sorted(self.folder.glob(f"*{SUFFIX}")):
            mend(path, warn)
            for record in read_records(path, warn):
                self._keys.setdefault(path.stem, set()).add(str(record.get("key")))
                count += not is_head(record)
        return count

    def done(self, key: str, step: str | None = None) -> bool:
        return key in self._keys.get(step or self.step, ())

    def records(self, step: str) -> list[Record]:
        """Return what a step has recorded so far, in this run and those before it."""
        path = self.folder / f"{step}{SUFFIX}"
        return list(read_records(path, lambda text: None)) if path.exists() else []

    def append(self, record: Mapping[str, Any]) -> None:
        """Write one record of its `step` and force it to the disk.

        Raises:
            OSError: if it cannot be written.
        """
        step = str(record["step"])
        line = _without_places(json.dumps(dict(record), allow_nan=False)) + "\n"
        with (self.folder / f"{step}{SUFFIX}").open("ab") as stream:
            stream.write(line.encode())
            stream.flush()
            os.fsync(stream.fileno())
        self._keys.setdefault(step, set()).add(str(record["key"]))


def is_head(record: Record) -> bool:
    """Whether a record tells of a run, not of what it found."""
    return str(record.get("key")).startswith("run ")


def _without_places(line: str) -> str:
    """Messages may hold the checkout's or the user's folder, which is nobody's business where results are sent."""
    home = str(Path.home())
    line = line.replace(_ROOT, ".")
    return line.replace(home, "~") if len(home) > 1 else line


def mend(path: Path, warn: Callable[[str], None]) -> None:
    """Cut off a last line that has no end, as a process that was killed leaves it."""
    data = path.read_bytes()
    whole = data.rfind(b"\n") + 1
    if whole < len(data):
        warn(f"{path.name}: the last line was cut off by a stop and is dropped ({len(data) - whole} bytes)")
        with path.open("r+b") as stream:
            stream.truncate(whole)
            os.fsync(stream.fileno())


def read_records(path: Path, warn: Callable[[str], None]) -> Iterator[Record]:
    """Yield the records of a file; a line that is no JSON object is left out, with a warning."""
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        if isinstance(record, dict) and "key" in record:
            yield record
        else:
            warn(f"{path.name}, line {number}: no record, left out")
