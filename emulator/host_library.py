"""Builds a shared library with the host's C or C++ compiler, once for each content.

The folder's name holds a digest of sources, headers, flags and the compiler's version. It is made in a temporary folder
and published by one rename, so two processes may build at once and a killed one leaves nothing that could be loaded.
"""

from __future__ import annotations

import hashlib
import logging
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from . import settings

Language = Literal["c", "c++"]
_CANDIDATES: dict[str, tuple[str, ...]] = {"c": ("cc", "gcc", "clang"), "c++": ("c++", "g++", "clang++")}
_COMPILE_TIMEOUT_S = 600
_SCRATCH_PREFIX = ".building-"
_LEFTOVER_AGE_S = 3600.0  # no build takes as long: who made the folder was killed
_ELSEWHERE = "Set KERNELWRIGHT_CACHE to a folder that can be written."
_log = logging.getLogger(__name__)


class HostCompilerError(RuntimeError):
    """No usable host compiler, or it failed, or the cache cannot be written. The message says what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """One source file compiled with flags of its own; the same file may appear twice with different flags."""

    source: Path
    flags: tuple[str, ...] = ()


def find_compiler(language: Language = "c++") -> list[str]:
    """Return the compiler as an argument list: `$CXX` or `$CC`, else the first of the usual names on PATH.

    Raises:
        HostCompilerError: if there is none.
    """
    named = settings.named_compiler(language)
    if named:
        try:
            command = shlex.split(named)
        except ValueError:  # an unclosed quotation mark
            command = []
        if command and shutil.which(command[0]):
            return command
        variable = "CC" if language == "c" else "CXX"
        raise HostCompilerError(f"{variable}={named!r} names no program that can be run; correct or unset {variable}")
    for name in _CANDIDATES[language]:
        if shutil.which(name):
            return [name]
    kind = "C" if language == "c" else "C++"
    raise HostCompilerError(
        f"no host {kind} compiler found (looked for {', '.join(_CANDIDATES[language])}). Install one "
        f"(Debian and Ubuntu: apt install g++; Fedora: dnf install gcc-c++; conda: conda install gxx), "
        f"or name one in {'CC' if language == 'c' else 'CXX'}."
    )


def compiler_version(compiler: Sequence[str]) -> str:
    """Return the first lines `compiler --version` prints.

    Raises:
        HostCompilerError: if it cannot be run.
    """
    try:
        done = subprocess.run([*compiler, "--version"], capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise HostCompilerError(f"the host compiler {' '.join(compiler)} cannot be run: {error}") from error
    return done.stdout


def content_digest(
    units: Sequence[Unit], flags: Sequence[str], link_flags: Sequence[str], depends: Sequence[Path], version: str
) -> str:
    """Return the digest that names a build. Paths enter by name only, so that a moved checkout builds nothing anew."""
    digest = hashlib.sha256()

    def add(text: bytes) -> None:
        digest.update(len(text).to_bytes(8, "little") + text)

    for text in (version, platform.machine(), *flags, "link", *link_flags):
        add(text.encode())
    for unit in units:
        for text in (unit.source.name, *unit.flags):
            add(text.encode())
        add(unit.source.read_bytes())
    for path in sorted(depends, key=lambda p: p.name):
        add(path.name.encode())
        add(path.read_bytes())
    return digest.hexdigest()[:20]


def compile_shared(
    sources: Sequence[Path | Unit],
    flags: Sequence[str],
    soname: str,
    cache_dir: Path,
    *,
    link_flags: Sequence[str] = (),
    depends: Sequence[Path] = (),
    language: Language = "c++",
    jobs: int | None = None,
) -> Path:
    """Return a shared library built from `sources`, from the cache if it was built before.

    Args:
        sources: source files, in link order.
        flags: compiler flags for every source; `-fPIC` is added.
        soname: file name and soname, such as "libexample.so".
        cache_dir: folder that holds one sub-folder for each digest.
        link_flags: flags for the linker step; `{dir}` in them is the folder of the first source.
        depends: headers and other files whose content the result depends on.
        language: which compiler to look for.
        jobs: compilations at once; by default the number of processors.

    Raises:
        HostCompilerError: without a compiler, when it fails, or when the cache cannot be written.
    """
    units = [one if isinstance(one, Unit) else Unit(source=one) for one in sources]
    if not units:
        raise ValueError("compile_shared needs at least one source")
    compiler = find_compiler(language)
    version = compiler_version(compiler)
    folder = cache_dir / f"{Path(soname).stem}-{content_digest(units, flags, link_flags, depends, version)}"
    library = folder / soname
    try:
        if library.is_file():
            return library
        cache_dir.mkdir(parents=True, exist_ok=True)
        _sweep(cache_dir)
        scratch = Path(tempfile.mkdtemp(prefix=_SCRATCH_PREFIX, dir=cache_dir))
    except OSError as error:
        raise HostCompilerError(f"cannot use the cache {cache_dir}: {error}. {_ELSEWHERE}") from error
    try:
        _log.info("building %s with %s (once; kept in %s)", soname, " ".join(compiler), folder)
        _build(compiler, units, flags, soname, link_flags, scratch, jobs)
        _publish(scratch / "out", folder, library)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return library


def _sweep(cache_dir: Path) -> None:
    """Remove what killed builds left."""
    for leftover in cache_dir.glob(f"{_SCRATCH_PREFIX}*"):
        try:
            if time.time() - leftover.stat().st_mtime > _LEFTOVER_AGE_S:
                shutil.rmtree(leftover, ignore_errors=True)
        except OSError:
            continue  # another process was faster


def _build(
    compiler: list[str],
    units: list[Unit],
    flags: Sequence[str],
    soname: str,
    link_flags: Sequence[str],
    scratch: Path,
    jobs: int | None,
) -> None:
    commands = []
    objects = []
    for index, unit in enumerate(units):
        out = scratch / f"{index}.o"
        objects.append(str(out))
        commands.append([*compiler, *flags, *unit.flags, "-fPIC", "-c", str(unit.source), "-o", str(out)])
    with ThreadPoolExecutor(max_workers=jobs or os.cpu_count() or 1) as pool:
        for _ in pool.map(_run, commands):
            pass
    (scratch / "out").mkdir()
    here = str(units[0].source.parent)
    link = [flag.replace("{dir}", here) for flag in link_flags]
    _run([*compiler, "-shared", f"-Wl,-soname,{soname}", "-o", str(scratch / "out" / soname), *objects, *link])


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_COMPILE_TIMEOUT_S, check=False)
    except (OSError, subprocess.SubprocessError) as error:
        raise HostCompilerError(f"{shlex.join(command)} cannot be run: {error}") from error
    if done.returncode:
        lines = done.stderr.splitlines()
        shown = "\n".join([line for line in lines if "error" in line][:5] or lines[:20])
        raise HostCompilerError(f"the host compiler failed:\n{shown}\ncommand: {shlex.join(command)}")


def _publish(made: Path, folder: Path, library: Path) -> None:
    try:
        made.rename(folder)
    except OSError as error:
        # Another process published the same content first, or an earlier folder lost its file.
        if library.is_file():
            return
        if not folder.is_dir():
            raise HostCompilerError(f"cannot publish {library}: {error}. {_ELSEWHERE}") from error
        (made / library.name).replace(library)
