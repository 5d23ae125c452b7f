# mypy: disable-error-code="import-not-found, attr-defined"
"""`python -m <this module> support | check | bench`: what it holds, whether it is right, how fast it is."""

from __future__ import annotations

import sys

from . import _module
from ._runtime.cli import main

if __name__ == "__main__":
    sys.exit(main(_module))
