"""Makes the fakes importable, here and in worker processes."""

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch):
    """Optuna's journal forces every line to the disk, which on a busy machine is most of a test's time."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
