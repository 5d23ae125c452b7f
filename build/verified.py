"""Checks that kernels passed on other machines, as `configs/verified.json` keeps them: by the digest of their PTX.

    {"schema": 1, "kernels": {"<sha256 of the PTX>": [{"by": "NVIDIA H200", "date": "2026-11-20", "problems": 18}]}}

`python benchmarks/report.py` writes it from runs on GPUs; a build notes what it finds there in the tables it writes,
and a module's `support()` shows it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from kernelwright import resource_dir
from kernelwright.build.files import write_if_changed
from kernelwright.gen.errors import BuildError

SCHEMA = 1
Record = Mapping[str, Any]  # `by`, `date` and `problems`, as in a table's `verified`
_DIGEST = re.compile(r"[0-9a-f]{64}")


def verified_file() -> Path:
    """Return where the checks are kept."""
    return resource_dir("configs") / "verified.json"


def read_verified(path: Path | None = None) -> dict[str, list[Record]]:
    """Return the checks of each kernel by the digest of its PTX.

    Raises:
        BuildError: naming the first fault of the file.
    """
    path = path or verified_file()
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise BuildError(f"{path.name}: no JSON ({error})") from error
    if not isinstance(content, dict) or set(content) != {"schema", "kernels"} or content["schema"] != SCHEMA:
        raise BuildError(f'{path.name}: $: expected {{"schema": {SCHEMA}, "kernels": {{...}}}}')
    for digest, records in content["kernels"].items():
        if not _DIGEST.fullmatch(digest):
            raise BuildError(f"{path.name}: $.kernels: {digest!r} is no SHA-256")
        for index, record in enumerate(records):
            if set(record) != {"by", "date", "problems"}:
                raise BuildError(f"{path.name}: $.kernels.{digest}[{index}]: expected by, date and problems")
    return dict(content["kernels"])


def write_verified(kernels: Mapping[str, list[Record]], path: Path | None = None) -> bool:
    """Write the checks, kernels without any left out; return whether the file changed."""
    ordered = {digest: sorted(records, key=_by) for digest, records in sorted(kernels.items()) if records}
    text = json.dumps({"schema": SCHEMA, "kernels": ordered}, indent=1) + "\n"
    return write_if_changed(path or verified_file(), text.encode())


def merge_checks(*several: Iterable[Record]) -> list[Record]:
    """Return the latest check by each checker; of two of one day the one named last."""
    latest: dict[str, Record] = {}
    for records in several:
        for record in records:
            before = latest.get(_by(record))
            if before is None or str(record["date"]) >= str(before["date"]):
                latest[_by(record)] = record
    return [latest[by] for by in sorted(latest)]


def _by(record: Record) -> str:
    return str(record["by"])
