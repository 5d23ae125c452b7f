"""Makes benchmarks/ importable, whose golden vectors are replayed here."""

import sys
from pathlib import Path

_BENCHMARKS = Path(__file__).resolve().parents[3] / "benchmarks"
if str(_BENCHMARKS) not in sys.path:
    sys.path.insert(0, str(_BENCHMARKS))
