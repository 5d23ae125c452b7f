"""tests/conftest.py: what is missing skips a test, and fails it where it was required."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

CONFTEST = Path(__file__).resolve().parents[1] / "conftest.py"
# A machine with torch and neither nvcc nor a GPU, whatever the real one has.
BARE = """
why_no_nvcc = lambda: "no compiler here"
why_no_gpu = lambda: "no driver here"
has_torch = lambda: True
"""
TESTS = """
import pytest
@pytest.mark.gpu
def test_gpu(): pass
@pytest.mark.nvcc
def test_nvcc(): pass
@pytest.mark.slow
def test_slow(): pass
@pytest.mark.nvcc
@pytest.mark.gpu
def test_both(): pass
def test_plain(): pass
"""


@pytest.fixture
def outcomes(tmp_path):
    """Run the five tests above; the letter pytest prints for each: s skipped, E failed, a dot passed."""
    (tmp_path / "conftest.py").write_text(CONFTEST.read_text() + BARE)
    (tmp_path / "test_it.py").write_text(TESTS)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n  gpu\n  nvcc\n  slow\n")

    def run(*options: str, ci: str = "") -> str:
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options]
        environ = os.environ | {"CI": ci}
        done = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, check=False)
        return done.stdout.split()[0] if done.stdout else done.stderr

    return run


def test_what_is_missing_skips(outcomes):
    assert outcomes() == "ssss."


def test_slow_runs_when_asked_for(outcomes):
    assert outcomes("--slow") == "ss.s."
    assert outcomes("-m", "slow") == "."


def test_a_required_gpu_that_is_missing_fails(outcomes):
    assert outcomes("--require-gpu") == "EssE."


def test_a_required_nvcc_that_is_missing_fails(outcomes):
    assert outcomes("--require-nvcc") == "sEsE."


def test_ci_requires_nvcc_and_no_gpu(outcomes):
    assert outcomes(ci="true") == "sEsE."


def test_ci_without_torch_ends_at_once(outcomes, tmp_path):
    (tmp_path / "conftest.py").write_text(CONFTEST.read_text() + "has_torch = lambda: False\n")
    assert "torch is not installed" in outcomes(ci="true")
