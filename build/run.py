"""Write the build file and run ninja over it."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

import kernelwright
from kernelwright.build.artifact_key import scan_headers
from kernelwright.build.compile_kernel import INCLUDE_DIR, SETTINGS_FILE, CompileSettings
from kernelwright.build.errors import CompileError
from kernelwright.build.files import TEMPORARY_SUFFIX, sha256_bytes, write_if_changed
from kernelwright.build.ninja_file import FIRST_LINE, Target, ninja_text
from kernelwright.build.store import sweep_scratch
from kernelwright.gen.errors import BuildError

NINJA_FILE = Path("build.ninja")
HEADERS_FILE = Path("obj/headers.json")  # names of all headers that builds put into `INCLUDE_DIR`
_PROGRESS = re.compile(r"^\[(\d+)/(\d+)\] (.*)$")
_NOISE = re.compile(r"^ninja: (build stopped: (subcommands? failed|cannot make)|no work to do|Entering directory)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A rendered kernel."""

    variant: str
    target: str
    text: str


def write_sources(out: Path, sources: Sequence[Source], include_dir: Path, settings: CompileSettings) -> None:
    """Write sources, the headers they use, the settings and `build.ninja`, where they changed.

    The headers are copied, so that `out` compiles as it stands and an edit of a header during a build cannot
    give one module kernels of two states.

    Raises:
        BuildError: if `out` holds a `build.ninja` of somebody else.
        OSError: if `out` cannot be written.
    """
    _refuse_foreign(out / NINJA_FILE)
    for folder in ("src", "obj"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    headers: dict[str, bytes] = {}
    for source in sources:
        write_if_changed(out / "src" / f"{source.variant}.cu", source.text.encode())
        headers |= scan_headers(source.text, include_dir)
    known = _known_headers(out) | set(headers)
    write_if_changed(out / HEADERS_FILE, (json.dumps(sorted(known)) + "\n").encode())
    for name, data in headers.items():
        write_if_changed(out / INCLUDE_DIR / name, data)
    (out / INCLUDE_DIR).mkdir(exist_ok=True)
    settings_text = settings.to_json().encode()
    write_if_changed(out / SETTINGS_FILE, settings_text)
    text = ninja_text(
        [Target(variant=source.variant, target=source.target) for source in sources],
        python=sys.executable,
        package_root=str(Path(kernelwright.__file__).parent.parent),
        settings_digest=sha256_bytes(settings_text)[:16],
    )
    write_if_changed(out / NINJA_FILE, text.encode())
    _sweep(out, include_dir, known)


def _refuse_foreign(ninja_file: Path) -> None:
    """A folder that another build system uses is no place for ours, which would replace its `build.ninja`."""
    try:
        with ninja_file.open(errors="replace") as stream:
            first = stream.readline().rstrip("\n")
    except FileNotFoundError:
        return
    if first != FIRST_LINE:
        raise BuildError(f"{ninja_file} was not written by gen build and would be lost. Choose another --out.")


def _known_headers(out: Path) -> set[str]:
    """Return the headers that earlier builds put into `out`; other files beside them are not ours to remove."""
    try:
        names = json.loads((out / HEADERS_FILE).read_bytes())
    except (OSError, ValueError):
        return set()
    texts = [name for name in names if isinstance(name, str)] if isinstance(names, list) else []
    return {name for name in texts if not Path(name).is_absolute() and ".." not in Path(name).parts}


def _sweep(out: Path, include_dir: Path, headers: set[str]) -> None:
    """Remove what killed builds left, and `headers` that exist no more: a source must not find them here."""
    sweep_scratch(out / "obj")
    for folder in (out, out / "src", out / INCLUDE_DIR, out / "obj"):
        for leftover in folder.glob(f".*{TEMPORARY_SUFFIX}"):
            leftover.unlink(missing_ok=True)
    for name in headers:
        if not (include_dir / name).is_file():
            (out / INCLUDE_DIR / name).unlink(missing_ok=True)


def run_ninja(out: Path, ninja: Path, jobs: int, lock: int, progress: TextIO) -> None:
    """Compile what is out of date; progress and every failure go to `progress`.

    Starts nothing more after the first failure, and waits for and reports what was under way.

    Args:
        out: the folder of `build.ninja`.
        ninja: the executable.
        jobs: compilations at a time.
        lock: descriptor of the lock on `out`, handed to ninja: were this process killed, the compilers it
            started would still hold off the next build until they are gone.
        progress: usually stderr.

    Raises:
        CompileError: if a kernel did not compile or ninja failed.
        KeyboardInterrupt: after ninja has stopped.
    """
    process = subprocess.Popen(
        [str(ninja), "-j", str(jobs)],
        cwd=out,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=os.environ | {"NINJA_STATUS": "[%f/%t] ", "PATH": os.environ.get("PATH", os.defpath)},
        text=True,
        errors="replace",
        pass_fds=(lock,),
    )
    shown = _Progress(progress)
    assert process.stdout is not None
    try:
        for line in process.stdout:
            shown.take(line.rstrip("\n"))
        status = process.wait()
    except BaseException:
        _stop(process)
        raise
    finally:
        shown.close()
    if status in (130, -signal.SIGINT, 2) and shown.interrupted:
        raise KeyboardInterrupt
    if status:
        failed = ", ".join(shown.failed)
        reason = f"did not compile: {failed}" if failed else f"ninja failed with exit status {status}"
        raise CompileError(
            f"{reason}. Nothing was installed or replaced; mend the cause and build again.", shown.failed
        )


def _stop(process: subprocess.Popen[str]) -> None:
    """Let ninja end its compilers, as Ctrl-C does, and wait."""
    process.send_signal(signal.SIGINT)
    try:
        process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@dataclass(slots=True)
class _Progress:
    """Turns ninja's output into one moving line on a terminal, plain lines elsewhere, and the failures."""

    stream: TextIO
    failed: list[str] = field(default_factory=list)
    interrupted: bool = False
    _open_line: bool = False
    _skip: int = 0

    def take(self, line: str) -> None:
        """Show one line of ninja's output, or leave it out."""
        if self._skip:  # the command, after "FAILED:"
            self._skip -= 1
        elif line.startswith("FAILED:"):
            self._skip = 1
            match = re.search(r"obj/(\S+)\.json", line)
            if match:
                self.failed.append(match[1])
        elif match := _PROGRESS.match(line):
            self._status(match[0])
        elif line.startswith("ninja: build stopped: interrupted"):
            self.interrupted = True
        elif line and not _NOISE.match(line):
            self.close()
            print(line, file=self.stream, flush=True)

    def _status(self, text: str) -> None:
        if self.stream.isatty():
            self.stream.write(f"\r\x1b[K{text[: shutil.get_terminal_size().columns - 1]}")
            self.stream.flush()
            self._open_line = True
        else:
            print(text, file=self.stream, flush=True)

    def close(self) -> None:
        """End the moving line."""
        if self._open_line:
            self.stream.write("\n")
            self._open_line = False
