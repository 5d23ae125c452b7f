"""Documents name real files and commands."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FOLDERS = "gen|build|runtime|emulator|tuner|templates|configs|tests|docs|examples|benchmarks|scripts|src"
# A path in backticks that begins in the checkout; placeholders (<...>, *) and what builds make are not files.
PATH = re.compile(rf"`((?:{FOLDERS})/[\w./-]*|Makefile|LICENSE|pyproject\.toml)`")
LINK = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)")
COMMAND = re.compile(r"\b(gen|tuner) ([a-z]+)\b")
TARGET = re.compile(r"\bmake ([a-z][a-z-]+)")
MADE_BY_A_BUILD = {"kernels/", "tuned/"}


def text_of(path: Path) -> str:
    return path.read_text()


def code_of(path: Path) -> str:
    """Everything in backticks, fenced or indented."""
    text = text_of(path)
    fenced = re.findall(r"^```.*?^```", text, re.DOTALL | re.MULTILINE)
    return "\n".join([*fenced, *re.findall(r"`[^`\n]+`", text), *re.findall(r"^    .*$", text, re.MULTILINE)])


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(path):
    broken = [link for link in LINK.findall(text_of(path)) if not (path.parent / link).exists()]
    assert broken == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_files_that_are_named_exist(path):
    missing = [name for name in PATH.findall(text_of(path)) if not (ROOT / name).exists()]
    assert missing == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_tests_that_are_named_exist(path):
    """`test_file.py::test_name`, or `::test_name` of the file named before it."""
    missing, file = [], ""
    for named, test in re.findall(r"`(?:[\w/]*?)(test_\w+\.py)?::(test_\w+)", text_of(path)):
        file = named or file
        texts = [found.read_text() for found in (ROOT / "tests").rglob(file)]
        if not any(f"def {test}(" in text for text in texts):
            missing.append(f"{file}::{test}")
    assert missing == []


def verbs(tool: str) -> set[str]:
    """Commands of `gen` or `tuner`, from its own help."""
    code = f"import sys; from kernelwright.{tool}.cli import main; sys.exit(main(['--help']))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    listed = re.findall(r"^    ([a-z]+)  ", done.stdout, re.MULTILINE)
    assert listed, done.stdout
    return set(listed)


@pytest.mark.parametrize("tool", ["gen", "tuner"])
def test_commands_that_are_named_exist(tool):
    named = {verb for path in DOCUMENTS for name, verb in COMMAND.findall(code_of(path)) if name == tool}
    assert named - verbs(tool) == set()


def test_every_command_of_gen_is_in_the_readme():
    assert {verb for verb in verbs("gen") if f"`gen {verb}" not in text_of(ROOT / "README.md")} == set()


def test_make_targets_that_are_named_exist():
    targets = set(re.findall(r"^([a-z-]+):", text_of(ROOT / "Makefile"), re.MULTILINE))
    named = {name for path in DOCUMENTS for name in TARGET.findall(code_of(path))}
    assert named - targets == set()
    assert {"demo", "test", "test-full", "check", "clean", "help"} <= targets


def native_text() -> str:
    """The emulator's sources."""
    return "\n".join(path.read_text() for path in sorted((ROOT / "emulator" / "src").glob("*.[ch]*")))


def first_cells(heading: str) -> set[str]:
    """Names in backticks in the first column of the table under a heading of docs/emulator.md."""
    section = text_of(ROOT / "docs" / "emulator.md").partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (`.*?) \|", section, re.MULTILINE)
    return {name for row in rows for name in re.findall(r"`([\w.]+)`", row)}


def test_every_kind_of_finding_is_in_the_emulators_document_and_no_other():
    kinds = set(re.findall(r"\breport(?:_at)?\([^\"]*?\"([a-z_]+)\"", native_text()))
    assert {"race", "deadlock", "async_read"} <= kinds
    assert first_cells("Findings") == kinds


def test_every_counter_is_in_the_emulators_document_and_no_other():
    (listed,) = re.findall(r"#define KW_COUNTERS\(X\)(.*?)\n\n", native_text(), re.DOTALL)
    counters = set(re.findall(r"X\((\w+)\)", listed))
    named = first_cells("Counters")
    assert named - {"..._ideal"} <= counters
    assert {name.removesuffix("_ideal") for name in counters} <= named


def test_every_setting_of_the_emulator_is_in_its_document_and_no_other():
    (listed,) = re.findall(r"known are (.*?)\";", native_text(), re.DOTALL)
    assert first_cells("Settings") == set(re.findall(r"\w+", listed))
