"""A folder of results as the report sees it. Nothing in the folder is changed."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from device_steps.base import Record
from device_steps.costs import kind_of_run
from device_steps.results import SUFFIX, read_records


class ReportError(Exception):
    """A folder that no report can be made of; the message says why."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """One folder: the record each run of it began with, and all records by step."""

    folder: Path
    heads: list[Record]
    records: dict[str, list[Record]]

    @property
    def head(self) -> Record:
        return self.heads[0]

    @property
    def device(self) -> str:
        return str(self.head["device"])

    @property
    def kind(self) -> str:
        return kind_of_run(str(self.head["driver"]), quick=bool(self.head["quick"]))

    @property
    def date(self) -> str:
        return str(self.head["begun"])[:10]

    @property
    def commit(self) -> str:
        return str(self.head["commit"])

    @property
    def name(self) -> str:
        """The folder of the report: date, commit, and whether it was a quick run."""
        commit = "changed-" * self.commit.endswith("changes") + self.commit[:7]
        return f"{self.date}-{commit}{'-quick' if self.head['quick'] else ''}"

    def merged(self, step: str) -> list[Record]:
        """Return one record a key, later ones over earlier ones."""
        found: dict[str, Record] = {}
        for record in self.records.get(step, []):
            key = str(record["key"])
            found[key] = found.get(key, {}) | record
        return list(found.values())


def device_folder(device: str) -> str:
    """Return the folder of a device: `nvidia_h200`."""
    return re.sub(r"[^a-z0-9]+", "_", device.lower()).strip("_")


def load_run(folder: Path, warn: Callable[[str], None]) -> Run:
    """Read a folder; lines that are no records, such as one cut off, are left out with a warning.

    Raises:
        ReportError: if it holds no results.
    """
    paths = sorted(folder.glob(f"*{SUFFIX}")) if folder.is_dir() else []
    records = {path.stem: list(read_records(path, warn)) for path in paths}
    heads = [record for record in records.get("environment", []) if "begun" in record]
    if not heads:
        raise ReportError(f"{folder}: no results of benchmarks/device.py (no environment{SUFFIX} with a run in it)")
    return Run(folder=folder, heads=heads, records=records)
