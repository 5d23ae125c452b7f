"""`gen verify`: what it checks, what it notes, what it says. The checking itself is the runtime's."""

from __future__ import annotations

import datetime
import json
import sys
from pathlib import Path

import pytest

from kernelwright.gen.cli import main
from kernelwright.gen.terminal import DONE, FAILED, MISUSED

CHECKER = """
class Variant:
    def __init__(self, variant, passed=True, skipped=""):
        self.variant, self.passed, self.skipped = variant, passed, skipped

class Result:
    by = "emulator"
    def __init__(self, variants):
        self.variants = variants
        self.passed = all(one.passed for one in variants)
    def to_dict(self):
        return {"passed": self.passed}
    def __str__(self):
        return "the result"

def check_module(module, problems, *, device, seed, variants, only_random, progress):
    progress(f"checking on {device} with {problems} problems, seed {seed}, {variants}")
    if module.fails_to_open:
        raise module.KernelError("no such device")
    return Result([Variant("good"), Variant("bad", passed=module.bad_passes), Variant("other", skipped="not here")])
"""
INIT = """
class KernelError(Exception): ...
class EmulationWarning(UserWarning): ...
bad_passes = {bad_passes}
fails_to_open = {fails_to_open}
"""


@pytest.fixture
def make_module(tmp_path, monkeypatch, request):
    """Writes a module with a stand-in checker into out/; returns its folder."""
    monkeypatch.chdir(tmp_path)

    def make(name: str = f"probe_{request.node.name.split('[')[0]}", *, bad_passes=True, fails_to_open=False) -> Path:
        folder = tmp_path / "out" / name
        (folder / "_runtime").mkdir(parents=True)
        (folder / "kernels").mkdir()
        (folder / "__init__.py").write_text(INIT.format(bad_passes=bad_passes, fails_to_open=fails_to_open))
        (folder / "_runtime" / "__init__.py").write_text("")
        (folder / "_runtime" / "check.py").write_text(CHECKER)
        (folder / "build_info.json").write_text('{"kernelwright": "0.1.0"}')
        (folder / "_emulator.so").touch()
        kernels = {one: {"verified": [{"by": "emulator", "date": "old"}]} for one in ("good", "bad", "other")}
        (folder / "kernels" / "table.json").write_text(json.dumps({"schema": 1, "kernels": kernels}))
        return folder

    yield make
    for name in [one for one in sys.modules if one.startswith("probe_")]:
        del sys.modules[name]


def notes(folder: Path) -> dict[str, list[dict[str, object]]]:
    kernels = json.loads((folder / "kernels" / "table.json").read_text())["kernels"]
    return {name: kernel["verified"] for name, kernel in kernels.items()}


def test_a_module_without_the_emulator_is_refused_with_what_to_do(make_module, capsys):
    folder = make_module()
    (folder / "_emulator.so").unlink()
    assert main(["verify", str(folder), "--mutate"]) == MISUSED
    assert "was built with --no-emulator. Build it again without" in capsys.readouterr().err


def test_kernels_that_pass_are_noted_and_the_others_not(make_module, capsys):
    folder = make_module(bad_passes=False)
    assert main(["verify", str(folder), "--problems", "3", "--seed", "7"]) == FAILED
    captured = capsys.readouterr()
    assert captured.out == "the result\n" and "on cpu with 3 problems, seed 7" in captured.err
    today = datetime.date.today().isoformat()
    assert notes(folder) == {
        "good": [{"by": "emulator", "date": today, "problems": 3}],
        "bad": [],
        "other": [{"by": "emulator", "date": "old"}],
    }


def test_the_only_module_of_out_is_the_default(make_module, capsys):
    make_module()
    assert main(["verify", "--json"]) == DONE
    assert json.loads(capsys.readouterr().out) == {"passed": True}


def test_one_of_several_modules_must_be_named(make_module, capsys):
    make_module("probe_one")
    make_module("probe_two")
    assert main(["verify"]) == MISUSED
    assert "out/probe_one, out/probe_two" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--device", "foo"),
        ("--device", ""),
        ("--device", "cuda:x"),
        ("--seed", "-1"),
        ("--seed", "9" * 30),
        ("--seeds", "-1"),
    ],
)
def test_a_device_or_seed_that_cannot_be_is_misuse(make_module, capsys, option, value):
    assert main(["verify", str(make_module()), option, value]) == MISUSED
    assert f"{option} must be" in capsys.readouterr().err


def test_a_module_that_cannot_be_written_still_shows_its_result(make_module, capsys, monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", "table.json")

    monkeypatch.setattr("kernelwright.build.table_folder.write_atomic", refuse)
    assert main(["verify", str(make_module())]) == FAILED
    captured = capsys.readouterr()
    assert "the result" in captured.out
    assert "may not write table.json. Choose a module that you may write" in captured.err


@pytest.mark.parametrize("arguments", [["verify"], ["verify", "elsewhere"]])
def test_without_a_module_the_command_that_makes_one_is_named(tmp_path, monkeypatch, capsys, arguments):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == MISUSED
    assert "gen build --arch sm80" in capsys.readouterr().err


def test_an_error_of_the_module_is_a_failure_and_changes_no_note(make_module, capsys):
    folder = make_module(fails_to_open=True)
    before = notes(folder)
    assert main(["verify", str(folder)]) == FAILED
    assert "no such device" in capsys.readouterr().err
    assert notes(folder) == before


def test_a_module_that_cannot_be_imported_is_a_failure(make_module, capsys):
    folder = make_module()
    (folder / "__init__.py").write_text("import no_such_thing\n")
    assert main(["verify", str(folder)]) == FAILED
    assert "no_such_thing" in capsys.readouterr().err
