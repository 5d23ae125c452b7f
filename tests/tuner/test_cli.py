"""What the command says to odd arguments and streams: one line, and the right exit status."""

import subprocess
import sys
from pathlib import Path

import pytest

from kernelwright.gen.terminal import FAILED, MISUSED
from kernelwright.tuner.cli import main


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--trials", "0"], "--trials must be at least 1, got 0"),
        (["--minutes", "0"], "--minutes must be more than 0"),
        (["--minutes", "nan"], "--minutes must be more than 0"),
        (["--jobs", "0"], "--jobs must be at least 1"),
        (["--seed", "-1"], "--seed must be from 0 to 4294967295, got -1"),
        (["--seed", str(1 << 64)], "--seed must be from 0"),
        (["--out", ""], "a folder's name is empty"),
        ([""], "SPACE is empty; known: flash_bwd_"),
        (["no_such_space"], "no_such_space"),
        (["--arch", "sm90"], "sm90"),
    ],
)
def test_a_misused_command_says_why(capsys, arguments, said):
    assert main(["run", *arguments, "--dry-run"]) == MISUSED
    error = capsys.readouterr().err
    assert said in error and "Traceback" not in error


def test_an_out_that_is_a_file_is_refused_before_anything_is_done(tmp_path, capsys):
    path = tmp_path / "taken"
    path.write_text("mine")
    assert main(["run", "--out", str(path)]) == MISUSED
    assert "not a folder" in capsys.readouterr().err
    assert path.read_text() == "mine"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_a_full_or_closed_stdout_is_no_traceback():
    command = [sys.executable, "-m", "kernelwright.tuner", "run", "--dry-run"]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == FAILED
    assert "No space left" in done.stderr and "Traceback" not in done.stderr
    closed = subprocess.run(f"{' '.join(command)} >&-", shell=True, stderr=subprocess.PIPE, text=True)
    assert closed.returncode == 0 and "Traceback" not in closed.stderr
