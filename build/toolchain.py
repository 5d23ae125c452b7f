"""Find the CUDA compiler and ninja, and know them by version, not by path."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from kernelwright.build.environment import compiler_environment
from kernelwright.build.errors import ToolchainError
from kernelwright.build.files import write_atomic
from kernelwright.build.settings import BuildSettings

Origin = Literal["CUDA_HOME", "PATH", "wheel"]
INSTALL_HINT = "Install one with: pip install 'kernelwright[cuda]'"
MIN_NVCC = (12, 0)  # the first release whose drivers have cuLibraryLoadData
MIN_NINJA = (1, 10)  # the first with depfiles of edges that have several outputs
_PROBE_SOURCE = '#include <stdint.h>\nextern "C" __global__ void probe(int32_t* x) { *x = 1; }\n'
_RELEASE = re.compile(r"\bV(\d+)\.(\d+)\.(\d+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Toolchain:
    """A CUDA compiler that was seen to work.

    Attributes:
        nvcc: path of the compiler driver.
        ptxas: path of the assembler that belongs to it.
        version: nvcc's, such as "13.0.88".
        origin: where it was found.
        identity: versions of every part that decides a kernel's bytes; holds no paths.
    """

    nvcc: Path
    ptxas: Path
    version: str
    origin: Origin
    identity: str

    @property
    def release(self) -> tuple[int, int]:
        """Major and minor version of the toolkit, to compare with the driver's."""
        major, minor, *_ = map(int, self.version.split("."))
        return major, minor


def find_toolchain(settings: BuildSettings) -> Toolchain:
    """Return the compiler of `CUDA_HOME`, else of PATH, else of the wheels of the `cuda` extra.

    A compiler that is found and does not work is skipped with its reason; naming one in `CUDA_HOME` that does
    not work is an error, since another was asked for than the one that would be used.

    Raises:
        ToolchainError: if there is none; says what was looked at and what mends it.
    """
    faults: list[str] = []
    for origin, nvcc in _candidates(settings, faults):
        try:
            return _check(nvcc, origin, settings.cache_dir)
        except ToolchainError as error:
            faults.append(f"{origin}: {error}")
            if origin == "CUDA_HOME":
                break
    searched = "".join(f"\n  {fault}" for fault in faults)
    raise ToolchainError(f"No usable CUDA compiler (nvcc).{searched}\n{INSTALL_HINT}")


def find_ninja() -> Path:
    """Return a ninja that runs: the one of this Python's environment, else of PATH.

    Raises:
        ToolchainError: if there is none.
    """
    faults = []
    for found in _ninja_candidates():
        try:
            version = _output([str(found), "--version"]).strip()
            numbers = re.findall(r"\d+", version)
            if tuple(map(int, numbers[:2])) >= MIN_NINJA:
                return found
            faults.append(f"\n  {found} is {version}; at least {'.'.join(map(str, MIN_NINJA))} is needed")
        except ToolchainError as error:
            faults.append(f"\n  {error}")
    raise ToolchainError(
        f"No usable ninja beside {sys.executable} or on PATH.{''.join(faults)}\nInstall it with: pip install ninja"
    )


def _ninja_candidates() -> Iterator[Path]:
    for folder in (str(Path(sys.executable).parent), None):
        found = shutil.which("ninja", path=folder)
        if found is not None:
            yield Path(found)
    wheel = _file_of_wheel("ninja", "ninja")  # installed for this user, whose scripts are not on PATH
    if wheel is not None:
        yield wheel


def _candidates(settings: BuildSettings, faults: list[str]) -> Iterator[tuple[Origin, Path]]:
    """Yield compilers in order of preference; say in `faults` where there was none."""
    if settings.cuda_home is not None:
        nvcc = settings.cuda_home / "bin" / "nvcc"
        if nvcc.is_file():
            yield "CUDA_HOME", nvcc
        else:
            faults.append(f"CUDA_HOME: {nvcc} does not exist")
            return
    found = shutil.which("nvcc")
    if found is not None:
        yield "PATH", Path(found)
    else:
        faults.append("PATH: no nvcc")
    wheel = _file_of_wheel("nvidia-cuda-nvcc", "nvcc")
    if wheel is not None:
        yield "wheel", wheel
    else:
        faults.append("wheel: nvidia-cuda-nvcc is not installed")


def _file_of_wheel(distribution: str, name: str) -> Path | None:
    """Return an executable of an installed package, from its own list of files rather than by guessing a path."""
    from importlib import metadata  # slow to import, and seldom needed

    try:
        files = metadata.files(distribution) or []
    except metadata.PackageNotFoundError:
        return None
    return next((Path(str(f.locate())) for f in files if f.name == name and f.parent.name == "bin"), None)


def _check(nvcc: Path, origin: Origin, cache_dir: Path) -> Toolchain:
    version_text = _output([str(nvcc), "--version"])
    match = _RELEASE.search(version_text)
    if match is None:
        raise ToolchainError(f"{nvcc} --version states no version")
    if (int(match[1]), int(match[2])) < MIN_NVCC:
        needed = ".".join(map(str, MIN_NVCC))
        raise ToolchainError(f"{nvcc} is {match[1]}.{match[2]}; at least {needed} is needed")
    ptxas = _ptxas_of(nvcc)
    ptxas_text = _output([str(ptxas), "--version"])
    return Toolchain(
        nvcc=nvcc,
        ptxas=ptxas,
        version=".".join(match.groups()),
        origin=origin,
        identity=_probed_identity(nvcc, ptxas, f"{version_text}{ptxas_text}", cache_dir),
    )


def _ptxas_of(nvcc: Path) -> Path:
    for path in (nvcc.with_name("ptxas"), nvcc.resolve().with_name("ptxas")):
        if path.is_file():
            return path
    found = shutil.which("ptxas")
    if found is None:
        raise ToolchainError(f"{nvcc} has no ptxas beside it and PATH has none")
    return Path(found)


def _probed_identity(nvcc: Path, ptxas: Path, versions: str, cache_dir: Path) -> str:
    """Return the identity that compiling a tiny kernel shows, remembered per toolkit.

    This is where parts that do not fit together are found: an nvcc wheel installed without its siblings takes
    an nvvm whose PTX its own ptxas refuses.
    """
    stamps = [[str(path), path.stat().st_mtime_ns, path.stat().st_size] for path in (nvcc, ptxas)]
    digest = hashlib.sha256(json.dumps([versions, stamps]).encode()).hexdigest()
    remembered = cache_dir / "toolchains" / f"{digest}.json"
    try:
        known = json.loads(remembered.read_bytes())["identity"]
        if isinstance(known, str):
            return known
    except (OSError, ValueError, KeyError, TypeError):
        pass
    identity = _probe(nvcc, ptxas)
    try:
        remembered.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(remembered, json.dumps({"identity": identity, "nvcc": str(nvcc)}).encode())
    except OSError:
        pass  # a cache that cannot be written costs the probe's half second, nothing else
    return identity


def _probe(nvcc: Path, ptxas: Path) -> str:
    with tempfile.TemporaryDirectory(prefix="kernelwright-probe-") as folder:
        source, ptx, cubin = (str(Path(folder) / f"probe.{suffix}") for suffix in ("cu", "ptx", "cubin"))
        Path(source).write_text(_PROBE_SOURCE)
        _output([str(nvcc), "-ptx", "-arch=compute_80", source, "-o", ptx])
        text = Path(ptx).read_text(errors="replace")
        _output([str(ptxas), "-arch=sm_80", ptx, "-o", cubin])
        assembler = _RELEASE.search(_output([str(ptxas), "--version"]))
    parts = re.findall(r"^// (Compiler Build ID: .*|.*\bV\d.*|Based on NVVM .*)$", text, re.MULTILINE)
    parts += re.findall(r"^\.version .*$", text, re.MULTILINE)
    if assembler is not None:
        parts.append(f"ptxas {assembler.group()}")
    return "; ".join(part.strip() for part in parts)


def _output(command: list[str]) -> str:
    """Run a tool and return what it says.

    Raises:
        ToolchainError: if it cannot be run or fails.
    """
    try:
        done = subprocess.run(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            errors="replace",
            env=compiler_environment(),
            timeout=60,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ToolchainError(f"{command[0]} does not run: {error}") from error
    if done.returncode:
        lines = [line for line in done.stdout.splitlines() if line.strip()]
        said = lines[0] if lines else f"exit status {done.returncode}"
        if re.search(r"\b(gcc|g\+\+|cc1plus)\b.*not found|host compiler", done.stdout):
            said += ". nvcc needs a host compiler: apt-get install g++"
        raise ToolchainError(f"{command[0]} does not work: {said.strip()}")
    return done.stdout


def describe(toolchain: Toolchain) -> dict[str, str]:
    """Return the toolchain as plain values, for `gen doctor` and reports."""
    return {name: str(value) for name, value in asdict(toolchain).items()}
