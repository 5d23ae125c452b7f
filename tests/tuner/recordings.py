"""Small recorded spaces made up for tests, in the format of Kernel Tuner's caches."""

from __future__ import annotations

import itertools
import json
import random
from pathlib import Path
from typing import Any

PARAMETERS = {
    "tile_m": [16, 32, 64, 128],
    "tile_n": [16, 32, 64, 128],
    "threads_m": [8, 16, 32],
    "threads_n": [8, 16, 32],
    "vector": [1, 2, 4],
    "shared": [0, 1],
    "precision": [32],
}
BEST = (64, 128, 16, 16, 4, 1, 32)


def figure(point: tuple[int, ...]) -> float:
    """Return milliseconds: two basins, of which the better one is `BEST`'s."""
    m, n, tm, tn, vector, shared, _ = point
    work = (m / tm) * (n / tn)
    return (
        1
        + 0.4 * abs(work - 32) / 32
        + 0.2 * abs(tm * tn - 256) / 256
        + 0.15 * (vector != 4)
        + 0.3 * (1 - shared)
        + (0.1 * (n != 128))
    )


def cache(*, failing: int = 20, seed: int = 0) -> dict[str, Any]:
    """Return a cache of some hundred points; every `failing`-th failed."""
    source = random.Random(seed)
    records = {}
    points = [
        point
        for point in itertools.product(*PARAMETERS.values())
        if point[0] % (point[2] * point[4]) == 0 and point[1] % point[3] == 0
    ]
    for number, point in enumerate(points):
        values = dict(zip(PARAMETERS, point, strict=True))
        times = [figure(point) * source.uniform(0.99, 1.01) for _ in range(5)]
        if number % failing == 0 and point != BEST:
            record = {**values, "time": "RuntimeFailedConfig", "compile_time": 900.0}
        else:
            record = {**values, "time": sum(times) / 5, "times": times, "compile_time": 900.0, "benchmark_time": 20.0}
        records[",".join(map(str, point))] = record
    return {
        "device_name": "Test GPU",
        "kernel_name": "gemm",
        "problem_size": [4096, 4096],
        "tune_params_keys": list(PARAMETERS),
        "tune_params": PARAMETERS,
        "objective": "time",
        "cache": records,
    }


def write_cache(path: Path, **options: Any) -> Path:
    path.write_text(json.dumps(cache(**options)))
    return path
