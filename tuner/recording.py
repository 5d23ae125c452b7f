"""Recorded tuning spaces: Kernel Tuner caches and T4 results, plain or gzipped, as pools with their measurements."""

from __future__ import annotations

import gzip
import json
import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kernelwright.tuner.errors import TunerError
from kernelwright.tuner.points import Point, PointPool, make_points

FORMATS = "a Kernel Tuner cache or T4 results, .json or .json.gz"


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """Every legal point of a space as it was measured.

    Args:
        title: kernel and device.
        pool: the points.
        samples: raw repeats of each point, milliseconds; empty for a failure.
        figures: mean of the repeats (what the recorder compared), infinite for a failure.
        failures: how many failed, by the word in the file.
        cost_ms: what compiling, checking and timing each point took.
    """

    title: str
    pool: PointPool
    samples: tuple[tuple[float, ...], ...]
    figures: tuple[float, ...]
    failures: Mapping[str, int]
    cost_ms: tuple[float, ...]

    @property
    def optimum(self) -> float:
        return min(self.figures)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    values: Mapping[str, Any]
    samples: tuple[float, ...]
    figure: float
    fault: str
    cost_ms: float


def load_recording(path: Path) -> Recording:
    """Read a recorded space.

    Raises:
        TunerError: if the file cannot be read, is truncated, or holds something else.
    """
    data = _read(path)
    try:
        if isinstance(data, dict) and isinstance(data.get("cache"), dict):
            names = [str(name) for name in data["tune_params_keys"]]
            title = f"{data['kernel_name']} on {data['device_name'] or 'an unnamed device'}"
            rows = [_cache_row(record, names) for record in data["cache"].values()]
        elif isinstance(data, dict) and isinstance(data.get("results"), list):
            names = list(data["results"][0]["configuration"])
            title = path.name.split(".")[0]
            rows = [_t4_row(record) for record in data["results"]]
        else:
            raise TunerError(f"{path}: not a recorded space; allowed: {FORMATS}")
        return _recording(path, title, names, rows)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise TunerError(
            f"{path}: not a recorded space ({type(error).__name__}: {error}); allowed: {FORMATS}"
        ) from error


def _read(path: Path) -> Any:  # Any: what JSON holds
    try:
        data = path.read_bytes()
        if data[:2] == b"\x1f\x8b":
            data = gzip.decompress(data)
    except EOFError as error:
        raise TunerError(f"{path}: truncated: its gzip stream has no end. Copy the file again") from error
    except OSError as error:  # BadGzipFile too
        raise TunerError(f"{path}: cannot be read: {error.strerror or error}") from error
    except Exception as error:  # zlib.error of a damaged stream
        raise TunerError(f"{path}: damaged: {error}. Copy the file again") from error
    try:
        return json.loads(data)
    except ValueError as error:
        text = data.decode("utf-8", "replace").rstrip()
        if text.startswith("{") and "cache" in text[:65536]:
            for tail in ("}}", "}\n}"):  # Kernel Tuner closes a cache only when it is done
                try:
                    return json.loads(text.rstrip(",") + tail)
                except ValueError:
                    continue
            raise TunerError(
                f"{path}: truncated: its JSON ends in the middle ({error}). Copy the file again"
            ) from error
        raise TunerError(f"{path}: no JSON ({error}); allowed: {FORMATS}") from error


def _cache_row(record: Mapping[str, Any], names: list[str]) -> _Row:
    time = record["time"]
    fault = time if isinstance(time, str) else ""
    samples = () if fault else tuple(float(one) for one in record.get("times") or [time])
    cost = sum(
        float(record.get(key) or 0) for key in ("compile_time", "verification_time", "benchmark_time", "framework_time")
    )
    return _row({name: record[name] for name in names}, samples, fault, cost)


def _t4_row(record: Mapping[str, Any]) -> _Row:
    times = record["times"]
    fault = "" if record["invalidity"] == "correct" else str(record["invalidity"])
    samples = () if fault else tuple(float(one) for one in times["runtimes"])
    cost = sum(float(times.get(key) or 0) for key in ("compilation", "validation", "framework"))
    return _row(record["configuration"], samples, fault, cost + sum(samples))


def _row(values: Mapping[str, Any], samples: tuple[float, ...], fault: str, cost_ms: float) -> _Row:
    good = samples and all(0 < one < math.inf for one in samples)
    if not fault and not good:
        fault = "no time"
    return _Row(
        values=values,
        samples=() if fault else samples,
        figure=math.inf if fault else statistics.fmean(samples),
        fault=fault,
        cost_ms=cost_ms,
    )


def _recording(path: Path, title: str, names: list[str], rows: list[_Row]) -> Recording:
    if not any(not row.fault for row in rows):
        raise TunerError(f"{path}: none of its {len(rows)} points succeeded: there is nothing to search for")
    points: list[Point] = [tuple(row.values[name] for name in names) for row in rows]
    choices = {name: tuple(dict.fromkeys(point[place] for point in points)) for place, name in enumerate(names)}
    failures: dict[str, int] = {}
    for row in rows:
        if row.fault:
            failures[row.fault] = failures.get(row.fault, 0) + 1
    return Recording(
        title=title,
        pool=make_points(choices, points),
        samples=tuple(row.samples for row in rows),
        figures=tuple(row.figure for row in rows),
        failures=failures,
        cost_ms=tuple(row.cost_ms for row in rows),
    )
