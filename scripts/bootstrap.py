"""Set up `.venv` in this checkout: the project editable, its development tools, torch, a CUDA compiler.

    python3 scripts/bootstrap.py              does nothing when the environment is up to date
    TORCH=none python3 scripts/bootstrap.py   without torch; TORCH=cuda asks for the ordinary build

Standard library only. Pure functions decide what is installed, `create` carries it out. The stamp is
written last, so that half an environment is never taken for a whole one.
"""

import sys

if sys.version_info < (3, 11):  # noqa: UP036 (old Pythons get to here: they can read all of this file)
    sys.exit(
        "setup: kernelwright needs Python 3.11 or newer; "
        + "{} is {}.{}.\n".format(sys.executable, *sys.version_info[:2])
        + "setup: name another, for example: make PYTHON=python3.12"
    )

import argparse
import ctypes
import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sysconfig
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
STAMP = "kernelwright-stamp"
COMPILERS = ("c++", "g++", "clang++")
CPU_TORCH = "torch==2.13.0+cpu"  # no CUDA build carries this label, so it can never bring CUDA packages
ORDINARY_SIZE = "about 2.7 GB to download on Linux: torch with its CUDA packages"
NOT_ON_INDEX = "No matching distribution found for torch=="  # pip's words


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundTorch:
    """A torch that the Python running this script imports."""

    version: str
    paths: tuple[str, ...]  # folders to search for it and for what it needs


@dataclass(frozen=True, slots=True, kw_only=True)
class TorchChoice:
    """Which torch goes in."""

    requirement: str | None  # None for none at all
    note: str
    reused: bool = False  # it is there already
    may_fall_back: bool = False  # to the ordinary build, if the index lacks this one


class SetupError(Exception):
    """The environment cannot be made; the text says why and what to do."""


def choose_torch(found: FoundTorch | None, *, has_gpu: bool, wish: str, ordinary: str) -> TorchChoice:
    """Decide on torch. `wish` is the variable TORCH, `ordinary` what pyproject.toml asks (`torch>=2.4`).

    Raises:
        SetupError: if `wish` is unknown.
    """
    if wish not in ("", "none", "cuda"):
        raise SetupError(f"TORCH={wish}: expected none, cuda or nothing")
    if wish == "none":
        return TorchChoice(requirement=None, note="no torch, as TORCH=none asks; what needs it is skipped")
    if found is not None and meets(found.version, ordinary):
        exactly = f"torch=={found.version}"
        return TorchChoice(requirement=exactly, reused=True, note=f"reusing torch {found.version}")
    if has_gpu or wish == "cuda":
        return TorchChoice(requirement=ordinary, note=f"installing {ordinary}: {ORDINARY_SIZE}")
    return TorchChoice(
        requirement=CPU_TORCH, may_fall_back=True, note=f"installing {CPU_TORCH}: about 200 MB to download"
    )


def requirements(project: Mapping[str, Any], *, with_cuda: bool) -> list[str]:
    """Everything but torch, from the `project` table of pyproject.toml."""
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *extras["dev"], *(extras["cuda"] if with_cuda else [])]
    return [line for line in wanted if name_of(line) != "torch"]


def name_of(requirement: str) -> str:
    """`torch` of `torch>=2.4`."""
    return re.split(r"[^A-Za-z0-9._-]", requirement, maxsplit=1)[0].lower()


def meets(version: str, requirement: str) -> bool:
    """Whether a version such as `2.13.0+cpu` reaches the lower bound of `torch>=2.4`."""
    low = re.search(r">=\s*([0-9.]+)", requirement)
    return low is None or release(version) >= release(low[1])


def release(version: str) -> tuple[int, ...]:
    """`(2, 13, 0)` of `2.13.0+cpu`."""
    found = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(map(int, found[0].split("."))) if found else ()


def stamp_text(pyproject: Mapping[str, Any], *, python: str, wish: str, with_cuda: bool) -> str:
    """What the environment depends on: this file, pyproject.toml, the Python and the wish for torch.

    Of pyproject.toml what decides an installation: a changed lint rule is no reason to fetch torch again.
    """
    decides = [pyproject["build-system"], pyproject["project"], pyproject["tool"]["hatch"]]
    facts = json.dumps([decides, Path(__file__).read_text(), python, wish], sort_keys=True)
    digest = hashlib.sha256(facts.encode()).hexdigest()
    return f"{digest}{' cuda' if with_cuda else ''}\n"


def find_nvcc(environ: Mapping[str, str]) -> str | None:
    """nvcc of CUDA_HOME, of CUDA_PATH or on PATH."""
    homes = [f"{environ[name]}/bin" for name in ("CUDA_HOME", "CUDA_PATH") if environ.get(name)]
    return shutil.which("nvcc", path=os.pathsep.join([*homes, environ.get("PATH", "")]))


def find_compiler(environ: Mapping[str, str]) -> str | None:
    """The host C++ compiler: it builds the launcher and the emulator, and nvcc calls it."""
    path = environ.get("PATH", "")
    names = [*environ.get("CXX", "").split()[:1], *COMPILERS]
    return next(filter(None, (shutil.which(name, path=path) for name in names)), None)


def missing_tools(compiler: str | None, include: Path) -> list[str]:
    """What pip cannot bring and a module's launcher is compiled with: a line for each, with what mends it."""
    lines = []
    if compiler is None:
        lines.append(
            f"no C++ compiler (looked for {', '.join(COMPILERS)}; CXX may name another). "
            "Install one: apt install g++, dnf install gcc-c++, or pacman -S gcc"
        )
    if not (include / "Python.h").exists():
        lines.append(
            f"no Python.h in {include}. Install this Python's headers: apt install python3-dev, "
            "or dnf install python3-devel"
        )
    return lines


def find_gpu() -> bool:
    """Whether an NVIDIA GPU seems to be here: its tool, its device file or its driver library."""
    if shutil.which("nvidia-smi") or Path("/dev/nvidia0").exists():
        return True
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


def find_torch() -> FoundTorch | None:
    """The torch that this Python really imports, asked in a process of its own."""
    code = "import sys, torch; print(torch.__version__, torch.__path__[0], *sys.path, sep='\\n')"
    # Away from the checkout, whose folders (build, gen) are not what this Python has installed.
    done = subprocess.run([sys.executable, "-c", code], cwd="/", capture_output=True, text=True, check=False)
    if done.returncode:
        return None
    version, home, *paths = done.stdout.splitlines()
    packages = [path for path in paths if path.endswith(("site-packages", "dist-packages"))]
    return FoundTorch(version=version, paths=tuple(dict.fromkeys([str(Path(home).parent), *packages])))


def say(text: str) -> None:
    print(f"setup: {text}", file=sys.stderr, flush=True)


def run(command: Sequence[str], hint: str = "") -> None:
    """Run a command; its standard output is progress, its errors go into the exception.

    Raises:
        SetupError: if it fails.
    """
    done = subprocess.run(command, stdout=sys.stderr, stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SetupError("\n".join(filter(None, [f"failed: {' '.join(command)}", done.stderr.strip(), hint])))


def install_torch(pip: Sequence[str], choice: TorchChoice, ordinary: str) -> str | None:
    """Install what was chosen, or the ordinary torch where the index lacks it; return the requirement."""
    if choice.reused or choice.requirement is None:
        return choice.requirement
    try:
        run([*pip, choice.requirement])
    except SetupError as error:
        if not (choice.may_fall_back and NOT_ON_INDEX in str(error)):
            raise
        say(f"the package index has no {CPU_TORCH}; installing {ordinary} instead: {ORDINARY_SIZE}")
        say("to avoid it, interrupt and set TORCH=none, or PIP_EXTRA_INDEX_URL to PyTorch's CPU wheels")
        run([*pip, ordinary])
        return ordinary
    return choice.requirement


def create(venv: Path, project: Mapping[str, Any], *, wish: str, with_cuda: bool) -> None:
    """Make the environment anew.

    Raises:
        SetupError: if a step fails.
    """
    ordinary = next(line for line in project["dependencies"] if name_of(line) == "torch")
    found = None if wish else find_torch()
    choice = choose_torch(found, has_gpu=find_gpu(), wish=wish, ordinary=ordinary)
    if venv != ROOT / ".venv" and venv.exists() and not (venv / "pyvenv.cfg").exists():
        raise SetupError(f"{venv} exists and is no virtual environment: name another folder")
    hint = "On Debian or Ubuntu: apt install python3-venv"
    run([sys.executable, "-m", "venv", "--clear", str(venv)], hint)
    pip = [str(venv / "bin" / "python"), "-m", "pip", "install", "--disable-pip-version-check"]
    say(choice.note)
    if choice.reused and found is not None:
        packages = next(venv.glob("lib/python3*/site-packages"))
        (packages / "parent_torch.pth").write_text("".join(f"{path}\n" for path in found.paths))
    torch = install_torch(pip, choice, ordinary)
    pins = venv / "constraints.txt"  # what follows must not exchange torch for another
    pins.write_text(f"{torch}\n" if torch else "")
    wanted = requirements(project, with_cuda=with_cuda)
    say("installing " + ", ".join(name_of(line) for line in wanted))
    # Beside a reused torch, packages of its environment are not reused: commands and nvcc would be missing.
    alone = ["--ignore-installed"] if choice.reused else []
    run([*pip, "--quiet", *alone, "--constraint", str(pins), *wanted])
    run([*pip, "--quiet", "--no-deps", "--no-build-isolation", "--editable", str(ROOT)])


def is_current(venv: Path, stamps: Sequence[str], *, needs_torch: bool) -> bool:
    """Whether the environment carries one of these stamps and still works."""
    packages = ["kernelwright", "jinja2", *(["torch"] if needs_torch else [])]
    code = f"import importlib.util; assert all(map(importlib.util.find_spec, {packages}))"
    try:
        if (venv / STAMP).read_text() not in stamps:
            return False
        command = [str(venv / "bin" / "python"), "-c", code]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Set up .venv in this checkout.")
    parser.add_argument("--venv", type=Path, default=ROOT / ".venv", help="where (default: %(default)s)")
    venv = parser.parse_args(arguments).venv.absolute()
    wish, with_cuda = os.environ.get("TORCH", ""), find_nvcc(os.environ) is None
    lacking = missing_tools(find_compiler(os.environ), Path(sysconfig.get_path("include")))
    if lacking:
        say("\nsetup: ".join(lacking))
        return 1
    with (ROOT / "pyproject.toml").open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # one setup of this checkout at a time
        pyproject = tomllib.load(file)
        stamps = [stamp_text(pyproject, python=sys.version, wish=wish, with_cuda=cuda) for cuda in (with_cuda, True)]
        if is_current(venv, stamps, needs_torch=wish != "none"):
            return 0
        if Path(sys.prefix) == venv:  # activated: the environment cannot make itself anew
            base = Path(sys.base_prefix, "bin", f"python3.{sys.version_info.minor}")
            os.execv(base, [str(base), __file__, *sys.argv[1:]])
        say(f"making {venv}, which takes a minute or more")
        try:
            create(venv, pyproject["project"], wish=wish, with_cuda=with_cuda)
        except (SetupError, OSError) as error:
            say(str(error))
            return 1
        (venv / STAMP).write_text(stamps[0])
    say("done")
    return 0


if __name__ == "__main__":
    sys.exit(main())
