"""Compile one rendered kernel; ninja runs this once per variant. Standard library only, for a fast start.

    python -P -S -s -m kernelwright.build.compile_kernel VARIANT TARGET SETTINGS

run in the output folder. It reads `src/VARIANT.cu` and `src/include/`, takes the kernel from the store or
compiles it, and places `obj/VARIANT.ptx`, `.cubin` and, last, `.json`. The cubin is assembled from the very
PTX that is placed, so what the emulator checked is what ships. SETTINGS is the digest of `obj/compile.json`; it
is on the command line only so that ninja sees a changed compiler.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kernelwright.build.artifact_key import artifact_key, scan_headers
from kernelwright.build.environment import compiler_environment
from kernelwright.build.files import explain_os_error, sha256_bytes, write_atomic
from kernelwright.build.ptxas_report import parse_ptxas
from kernelwright.build.store import (
    ENTRY_SCHEMA,
    CorruptEntryError,
    Entry,
    drop_entry,
    entry_dir,
    load_entry,
    publish_entry,
    scratch_dir,
)

# Part of every key: raise it when a change here changes the bytes of a kernel.
RECIPE = "1"
NVCC_FLAGS = ("-O3", "-std=c++17")
PTXAS_FLAGS = ("-O3", "-v")
SETTINGS_FILE = Path("obj/compile.json")
INCLUDE_DIR = Path("src/include")
ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
TIMEOUT_S = 300.0  # of one compiler pass; the largest kernel takes five seconds
_FIRST_ERROR = re.compile(r"^(?P<file>[^\s(][^(]*)\((?P<line>\d+)\): (?:\w+ )*error.*$", re.MULTILINE)
_PTX_ERROR = re.compile(r"^ptxas (?P<file>[^,\n]+), line (?P<line>\d+); error\s*: .*$", re.MULTILINE)
_ANY_ERROR = re.compile(r"^.*\b(?:error|fatal)\b.*$", re.MULTILINE | re.IGNORECASE)
_NO_SPACE = re.compile(r"No space left on device|disk quota|File size limit", re.IGNORECASE)
_KILLED = re.compile(r"died due to signal 9\b")


@dataclass(frozen=True, slots=True, kw_only=True)
class CompileSettings:
    """What all kernels of a build share. Paths take no part in a kernel's key."""

    nvcc: str
    ptxas: str
    compiler: str  # versions, from Toolchain.identity
    cache: str
    lineinfo: bool = False

    @property
    def nvcc_flags(self) -> tuple[str, ...]:
        """Flags that decide what the PTX is."""
        return (*NVCC_FLAGS, "-lineinfo") if self.lineinfo else NVCC_FLAGS

    @property
    def ptxas_flags(self) -> tuple[str, ...]:
        """Flags that decide what the cubin is."""
        return (*PTXAS_FLAGS, "-lineinfo") if self.lineinfo else PTXAS_FLAGS

    def key(self, source: str, include_dir: Path, target: str) -> str:
        """Return the content address of a kernel compiled with these settings."""
        headers = scan_headers(source, include_dir)
        flags = [*self.nvcc_flags, "|", *self.ptxas_flags]
        return artifact_key(source, headers, target, flags, self.compiler, RECIPE)

    def to_json(self) -> str:
        """Return the text of `obj/compile.json`."""
        return json.dumps(asdict(self), indent=1, sort_keys=True) + "\n"


class CompileFailedError(Exception):
    """The compiler refused a kernel; the message is what the user reads."""


def main(argv: Sequence[str] | None = None) -> int:
    """Compile the variant named on the command line, in the current folder."""
    variant, target, _settings_digest = sys.argv[1:] if argv is None else argv
    outputs = [Path("obj") / f"{variant}{suffix}" for suffix in (".json", ".ptx", ".cubin")]
    log = Path("obj") / f"{variant}.log"
    try:
        settings = CompileSettings(**json.loads(SETTINGS_FILE.read_text()))
        for path in outputs:  # the report first: without it the others do not count
            path.unlink(missing_ok=True)
        entry, cached = _obtain(variant, target, settings, log)
        _place(variant, entry, cached)
        log.unlink(missing_ok=True)
    except CompileFailedError as error:
        print(error, file=sys.stderr)
        return 1
    except OSError as error:
        print(f"{variant}: {explain_os_error(error, 'compiling')}", file=sys.stderr)
        return 1
    return 0


def _obtain(variant: str, target: str, settings: CompileSettings, log: Path) -> tuple[Entry, bool]:
    """Return the kernel and whether the store had it."""
    source_file = Path("src") / f"{variant}.cu"
    source = source_file.read_text()
    headers = scan_headers(source, INCLUDE_DIR)
    _write_depfile(variant, source_file, headers)
    key = settings.key(source, INCLUDE_DIR, target)
    cache = Path(settings.cache)
    try:
        entry = load_entry(cache, key)
    except CorruptEntryError as error:
        print(f"warning: {variant}: dropping a damaged cache entry and rebuilding: {error}", file=sys.stderr)
        drop_entry(cache, key)
        entry = None
    if entry is not None:
        return entry, True
    files, report = _compile(variant, target, settings, source_file, set(headers), log)
    report |= {"key": key, "sha256": {name: sha256_bytes(data) for name, data in files.items()}}
    entry = Entry(ptx=files["kernel.ptx"], cubin=files["kernel.cubin"], report=report)
    try:
        publish_entry(cache, key, files | {"report.json": _json_bytes(report)})
    except OSError as error:
        # The kernel is good; only sharing it failed. A read-only or full cache must not stop a build.
        reason = explain_os_error(error, f"caching in {entry_dir(cache, key)}", "another KERNELWRIGHT_CACHE")
        print(f"warning: {variant}: {reason}", file=sys.stderr)
    return entry, False


def _compile(
    variant: str, target: str, settings: CompileSettings, source_file: Path, headers: set[str], log: Path
) -> tuple[dict[str, bytes], dict[str, Any]]:
    """Run nvcc to PTX and ptxas on that PTX; return the entry's files and its report."""
    started = time.monotonic()
    with scratch_dir(Path("obj"), variant) as scratch:
        ptx, cubin, depfile = scratch / "kernel.ptx", scratch / "kernel.cubin", scratch / "kernel.d"
        front = [settings.nvcc, "-ptx", f"-arch=compute_{target}", *settings.nvcc_flags]
        front += ["-I", str(INCLUDE_DIR), "-MMD", "-MF", str(depfile), str(source_file), "-o", str(ptx)]
        text = _run(variant, front, scratch, log)
        _check_headers(variant, depfile, headers)
        _make_paths_relative(ptx)
        back = [settings.ptxas, f"-arch=sm_{target}", *settings.ptxas_flags, ptx.name, "-o", cubin.name]
        verbose = _run(variant, back, scratch, log, cwd=scratch)
        text += verbose
        files = {
            "kernel.ptx": ptx.read_bytes(),
            "kernel.cubin": cubin.read_bytes(),
            "source.cu": source_file.read_bytes(),
            "ptxas.log": text.encode(),
        }
    try:
        static = parse_ptxas(verbose)
    except ValueError as error:
        raise _failure(variant, text, log, f"{variant}: {error}") from error
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    report = {
        "schema": ENTRY_SCHEMA,
        "variant": variant,
        "target": target,
        "compiler": settings.compiler,
        "lineinfo": settings.lineinfo,
        "cpu_s": round(usage.ru_utime + usage.ru_stime, 3),
        "wall_s": round(time.monotonic() - started, 3),
        "peak_rss_kib": usage.ru_maxrss,
        **asdict(static),
    }
    return files, report


def _run(variant: str, command: list[str], scratch: Path, log: Path, cwd: Path = Path()) -> str:
    """Run one compiler pass and return what it said.

    Raises:
        CompileFailedError: if it fails or hangs; the log is then written.
    """
    try:
        status, output = _run_to_end(command, scratch, cwd)
    except subprocess.TimeoutExpired as error:
        summary = f"{variant}: {Path(command[0]).name} did not end within {TIMEOUT_S:g} s and was stopped"
        raise _failure(variant, f"$ {' '.join(command)}\n{summary}\n", log, summary) from error
    if status:
        text = f"$ {' '.join(command)}\n{output}\nexit status {status}\n"
        raise _failure(variant, text, log, _first_error(variant, output, command[0], status, cwd))
    return output


def _run_to_end(command: list[str], scratch: Path, cwd: Path) -> tuple[int, str]:
    """Return the exit status and what was said. Nothing that the command started outlives an exception.

    Raises:
        subprocess.TimeoutExpired: after TIMEOUT_S.
    """
    process = None
    _mask(signal.SIG_BLOCK)  # an interruption while it starts would leave it running
    try:
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=cwd,
            env=compiler_environment(scratch),
            errors="replace",
            process_group=0,  # nvcc starts others, which must end with it
            preexec_fn=lambda: _mask(signal.SIG_UNBLOCK),
        )
        _mask(signal.SIG_UNBLOCK)
        output, _ = process.communicate(timeout=TIMEOUT_S)
        return process.returncode, output
    except BaseException:
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
        raise
    finally:
        _mask(signal.SIG_UNBLOCK)


def _mask(how: int) -> None:
    signal.pthread_sigmask(how, ENDING_SIGNALS)


def _failure(variant: str, text: str, log: Path, summary: str) -> CompileFailedError:
    try:
        write_atomic(log, text.encode())
    except OSError as error:
        return CompileFailedError(f"{summary}\n  (no log: {error.strerror})")
    return CompileFailedError(f"{summary}\n  log: {log.resolve()}")


def _first_error(variant: str, output: str, tool: str, status: int, cwd: Path) -> str:
    """Say which line of the emitted source, or of the PTX made from it, the compiler stopped at."""
    if _NO_SPACE.search(output):
        return f"{variant}: {Path(tool).name}: no space left. Free space, or choose another --out."
    if _KILLED.search(output) or status == -9:
        return f"{variant}: {Path(tool).name} was killed, probably for want of memory. Build with: --jobs 1"
    found = _FIRST_ERROR.search(output) or _PTX_ERROR.search(output)
    if found is None:
        other = _ANY_ERROR.search(output)
        killed = f"was killed by signal {-status}" if status < 0 else f"failed with exit status {status}"
        return f"{variant}: {other.group().strip() if other else f'{Path(tool).name} {killed}'}"
    lines = [f"{variant}: {found.group().strip()}"]
    try:
        line = (cwd / found["file"]).read_text().splitlines()[int(found["line"]) - 1]
    except (OSError, IndexError, UnicodeDecodeError):
        return lines[0]
    return f"{lines[0]}\n  {found['line']} | {line.strip()}"


def _check_headers(variant: str, depfile: Path, headers: set[str]) -> None:
    """Every header of ours that nvcc read must be in the key, or an edit of it would go unnoticed."""
    dependencies = depfile.read_text().replace("\\\n", " ").split(":", 1)[-1].split()
    for dependency in map(Path, dependencies):
        if dependency.is_relative_to(INCLUDE_DIR):
            name = dependency.relative_to(INCLUDE_DIR).as_posix()
            if os.path.normpath(name) not in {os.path.normpath(header) for header in headers}:
                raise CompileFailedError(
                    f"{variant}: nvcc read {dependency}, which the kernel's key does not cover; "
                    f'write #include "{name}"'
                )


def _make_paths_relative(ptx: Path) -> None:
    """With -lineinfo nvcc writes absolute source paths; the same input shall give the same bytes anywhere."""
    data = ptx.read_bytes()
    here = os.fsencode(Path.cwd()) + b"/"
    changed = re.sub(rb'(?m)^(\s*\.file\s+\d+\s+")' + re.escape(here), rb"\1", data)
    if changed != data:
        ptx.write_bytes(changed)


def _write_depfile(variant: str, source_file: Path, headers: dict[str, bytes]) -> None:
    inputs = [str(source_file), *(str(INCLUDE_DIR / name) for name in headers)]
    escaped = " ".join(path.replace(" ", "\\ ") for path in inputs)
    write_atomic(Path("obj") / f"{variant}.d", f"obj/{variant}.json: {escaped}\n".encode())


def _place(variant: str, entry: Entry, cached: bool) -> None:
    write_atomic(Path("obj") / f"{variant}.ptx", entry.ptx)
    write_atomic(Path("obj") / f"{variant}.cubin", entry.cubin)
    report = entry.report | {"variant": variant, "cached": cached}
    write_atomic(Path("obj") / f"{variant}.json", _json_bytes(report))


def _json_bytes(value: dict[str, Any]) -> bytes:
    return (json.dumps(value, indent=1, sort_keys=True) + "\n").encode()


if __name__ == "__main__":
    # ninja passes on what ends it; as after Ctrl-C, the compiler then ends with us.
    for number in ENDING_SIGNALS:
        signal.signal(number, signal.default_int_handler)
    sys.exit(main())
