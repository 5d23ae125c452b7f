"""Kernel Tuner's strategies on a recorded space, in its own simulation mode. Run by replay_comparison.py.

    python benchmarks/kernel_tuner_searches.py FILE STRATEGY REPEATS BUDGET SEED

Needs kernel_tuner 1.5 in the interpreter that runs it, and nothing of ours. Prints one JSON list for each search: the
comma-joined values of its unique evaluations in order. Only recorded points are legal, recorded failures included.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import random
import sys
import tempfile
from pathlib import Path
from typing import Any


def main() -> int:
    """Run the searches and print them."""
    import kernel_tuner  # type: ignore[import-not-found, unused-ignore]
    import numpy as np
    from constraint import FunctionConstraint  # type: ignore[import-not-found, unused-ignore]

    path, strategy, repeats, budget, seed = Path(sys.argv[1]), sys.argv[2], *map(int, sys.argv[3:6])
    raw = path.read_bytes()
    data: dict[str, Any] = json.loads(gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw)
    names, legal = data["tune_params_keys"], data["cache"]
    params = {name: data["tune_params"][name] for name in names}

    def is_legal(*values: Any) -> bool:
        return ",".join(str(value) for value in values) in legal

    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder) / "cache.json"
        cache.write_text(json.dumps(data))
        for repeat in range(repeats):
            random.seed(seed + repeat)
            np.random.seed(seed + repeat)
            with contextlib.redirect_stdout(io.StringIO()):
                results, _ = kernel_tuner.tune_kernel(
                    data["kernel_name"],
                    "",
                    tuple(data["problem_size"]),
                    [],
                    params,
                    restrictions=[FunctionConstraint(is_legal)],
                    strategy=strategy,
                    strategy_options={"max_fevals": budget},
                    simulation_mode=True,
                    cache=str(cache),
                    verbose=False,
                    quiet=True,
                )
            keys = [",".join(str(one[name]) for name in names) for one in results]
            print(json.dumps(list(dict.fromkeys(keys))), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
