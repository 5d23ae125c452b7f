"""What every test here runs with."""

import os

import pytest


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch):
    """Optuna's journal forces every line to the disk, which on a busy machine is most of a test's time."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
