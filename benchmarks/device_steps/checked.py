"""From the records of `correctness` to the checks that `configs/verified.json` keeps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from device_steps.base import Record
from kernelwright.build.verified import merge_checks, read_verified, write_verified


def update_verified(records: Sequence[Record], by: str, date: str, path: Path) -> tuple[int, int]:
    """Note each kernel that was checked without a fault; one with a fault loses what this checker said of it before.

    Returns:
        how many kernels passed, and how many did not.
    """
    kernels: dict[str, list[Record]] = {}
    for record in records:
        if "ptx_sha256" in record:
            kernels.setdefault(str(record["ptx_sha256"]), []).append(record)
    known = read_verified(path)
    passed = failed = 0
    for digest, found in kernels.items():
        problems = sum(int(record.get("problems", 0)) for record in found)
        others = [one for one in known.get(digest, []) if one["by"] != by]
        if any(record.get("fault") for record in found):
            failed += 1
            known[digest] = others
        elif problems:
            passed += 1
            known[digest] = merge_checks(known.get(digest, []), [{"by": by, "date": date, "problems": problems}])
    if kernels:
        write_verified(known, path)
    return passed, failed
