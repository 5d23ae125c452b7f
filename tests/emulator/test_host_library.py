"""Building shared libraries: cached by content, safe among processes, clear without a compiler."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest

from kernelwright.emulator import host_library, library
from kernelwright.emulator.host_library import HostCompilerError, Unit, compile_shared

SOURCE = '#include "value.h"\nint answer(void) { return VALUE; }\n'


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "answer.c").write_text(SOURCE)
    (tmp_path / "value.h").write_text("#define VALUE 42\n")
    return tmp_path


def build(project: Path, *flags: str) -> Path:
    return compile_shared(
        [project / "answer.c"],
        ["-O1", *flags],
        "libanswer.so",
        project / "cache",
        depends=[project / "value.h"],
        language="c",
    )


def test_a_library_is_built_once_and_again_when_something_changes(project):
    first = build(project)
    assert ctypes.CDLL(str(first)).answer() == 42
    stamp = first.stat().st_mtime_ns
    assert build(project) == first
    assert first.stat().st_mtime_ns == stamp
    (project / "value.h").write_text("#define VALUE 43\n")
    second = build(project)
    assert second != first
    assert ctypes.CDLL(str(second)).answer() == 43
    assert build(project, "-DOTHER") not in (first, second)
    assert sorted(p.name for p in (project / "cache").iterdir() if p.name.startswith(".")) == []


def test_a_source_may_appear_twice_with_flags_of_its_own(tmp_path):
    (tmp_path / "f.c").write_text("int NAME(void) { return RESULT; }\n")
    units = [Unit(source=tmp_path / "f.c", flags=(f"-DNAME=f{n}", f"-DRESULT={n}")) for n in (1, 2)]
    lib = ctypes.CDLL(str(compile_shared(units, [], "libf.so", tmp_path / "cache", language="c")))
    assert (lib.f1(), lib.f2()) == (1, 2)


def test_processes_that_build_at_once_agree(project):
    code = (
        "import sys; from pathlib import Path; from kernelwright.emulator.host_library import compile_shared;"
        "p = Path(sys.argv[1]);"
        "print(compile_shared([p / 'answer.c'], ['-O1'], 'libanswer.so', p / 'cache', depends=[p / 'value.h'],"
        "                     language='c'))"
    )
    children = [
        subprocess.Popen([sys.executable, "-c", code, str(project)], stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    out = {child.communicate(timeout=120)[0] for child in children}
    assert all(child.returncode == 0 for child in children)
    assert len(out) == 1


def test_what_a_killed_build_left_is_swept_and_what_one_at_work_holds_is_not(project):
    stale, fresh = project / "cache" / ".building-stale", project / "cache" / ".building-fresh"
    for folder in (stale, fresh):
        folder.mkdir(parents=True)
        (folder / "0.o").write_text("half an object")
    os.utime(stale, (0, 0))
    build(project)
    assert not stale.exists()
    assert fresh.exists()


def test_a_missing_compiler_says_what_to_install(project, monkeypatch):
    monkeypatch.setenv("PATH", str(project))
    monkeypatch.delenv("CC", raising=False)
    with pytest.raises(HostCompilerError, match="Install one"):
        build(project)
    monkeypatch.setenv("CC", "no-such-compiler")
    with pytest.raises(HostCompilerError, match="no-such-compiler"):
        build(project)


def test_a_failed_compilation_shows_the_error(project):
    (project / "answer.c").write_text("int answer(void) { return missing; }\n")
    with pytest.raises(HostCompilerError, match="missing"):
        build(project)
    assert not list((project / "cache").iterdir())


def test_a_cache_that_cannot_be_written_says_which_setting_moves_it(project):
    (project / "cache").write_text("a file where the folder should be")
    with pytest.raises(HostCompilerError, match="KERNELWRIGHT_CACHE"):
        build(project)


def test_the_emulator_exports_nothing_but_its_interface():
    tool = subprocess.run(
        ["nm", "-D", "--defined-only", str(library.library_path())], capture_output=True, text=True, check=False
    )
    if tool.returncode:
        pytest.skip("no nm on this machine")
    names = [line.split()[-1] for line in tool.stdout.splitlines()]
    assert names
    assert all(name.startswith(("cu", "kw_")) for name in names)


def test_every_source_file_is_compiled():
    compiled = {unit.source.name for unit in library.units("x86_64")}
    assert compiled == {path.name for path in library.SOURCE_DIR.glob("*.cpp")}
    assert {unit.source.name for unit in library.units("aarch64")} == compiled


def test_the_cache_setting_is_followed(monkeypatch, tmp_path):
    monkeypatch.setenv("KERNELWRIGHT_CACHE", str(tmp_path))
    assert host_library.settings.cache_dir() == tmp_path
    monkeypatch.delenv("KERNELWRIGHT_CACHE")
    assert host_library.settings.cache_dir() == Path(os.path.expanduser("~")) / ".cache" / "kernelwright"  # noqa: PTH111


BASELINE = """
import sys
sys.path.insert(0, sys.argv[1])
from emulator_kernels import PTX, Flash
from kernelwright import emulator as emu
problem = Flash(1, 2, 1, 100, 130)
assert problem.launch(emu.load(PTX / "flash_fwd.ptx")).findings == []
sys.stdout.write(problem.o.tobytes().hex() + problem.lse.tobytes().hex())
"""


def test_the_baseline_variant_gives_the_same_bits():
    folder = str(Path(__file__).parent)
    results = set()
    for extra in ({}, {"KERNELWRIGHT_EMULATOR_BASELINE": "1"}):
        done = subprocess.run(
            [sys.executable, "-c", BASELINE, folder],
            env={**os.environ, **extra},
            capture_output=True,
            text=True,
            check=True,
        )
        results.add(done.stdout)
    assert len(results) == 1


def test_a_compiler_named_with_an_open_quotation_mark_is_refused(monkeypatch):
    monkeypatch.setenv("CXX", "'")
    with pytest.raises(HostCompilerError, match="names no program"):
        host_library.find_compiler()
