"""Imports point down: the table of the style guide, read from the sources' syntax trees.

Every import counts, at the top of a module and inside a function. The composition roots (the commands)
may import any of our packages, but only inside functions, so that starting a command stays quick.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
OURS = ("gen", "build", "runtime", "emulator", "tuner")

# What each package may import besides itself and the standard library; `kernelwright` is the package's own
# `__init__`: its version and where its folders lie.
MAY_IMPORT = {
    "gen": {"kernelwright", "jinja2", "yaml"},
    # Departure from the first table: `build` compiles and ships the emulator library.
    "build": {"kernelwright", "gen", "emulator"},
    "runtime": {"torch"},
    "emulator": {"numpy"},
    "tuner": {"kernelwright", "gen", "build", "runtime", "emulator", "optuna", "numpy", "tqdm", "torch", "sklearn"},
}
COMPOSITION_ROOTS = ("gen/cli.py", "gen/commands/", "tuner/cli.py", "tuner/commands")
VARIABLE = re.compile(r"KERNELWRIGHT_[A-Z][A-Z0-9_]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Import:
    """One import of one module."""

    file: str
    line: int
    target: str  # a package of ours ("gen"), or the top-level name of another
    is_lazy: bool  # inside a function, or for the type checker only

    def __str__(self) -> str:
        return f"{self.file}:{self.line} imports {self.target}"


def sources() -> list[Path]:
    """Every Python file of our packages, relative to the root."""
    return sorted(path.relative_to(ROOT) for name in OURS for path in (ROOT / name).rglob("*.py"))


def imports(path: Path) -> Iterator[Import]:
    """Every import in a file, relative ones resolved."""
    yield from _walk(ast.parse((ROOT / path).read_text()), path, is_lazy=False)


def _walk(node: ast.AST, path: Path, *, is_lazy: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        for name in _imported_names(child, path):
            yield Import(file=path.as_posix(), line=child.lineno, target=_target(name), is_lazy=is_lazy)
        deferred = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) or (
            isinstance(child, ast.If) and ast.unparse(child.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")
        )
        yield from _walk(child, path, is_lazy=is_lazy or deferred)


def _imported_names(node: ast.AST, path: Path) -> list[str]:
    """Full dotted names, `kernelwright.gen.spec` for ours."""
    match node:
        case ast.Import(names=names):
            return [alias.name for alias in names]
        case ast.ImportFrom(module=module, names=names, level=0) if module == "kernelwright":
            return [f"kernelwright.{alias.name}" for alias in names]
        case ast.ImportFrom(module=str(module), level=0):
            return [module]
        case ast.ImportFrom(module=module, names=names, level=level):
            package = ["kernelwright", *path.parts[:-1]]
            base = package[: len(package) - level + 1]
            return [".".join([*base, module])] if module else [".".join([*base, a.name]) for a in names]
    return []


def _target(name: str) -> str:
    first, _, rest = name.partition(".")
    second = rest.partition(".")[0]
    return second if first == "kernelwright" and second in OURS else first


def is_allowed(found: Import) -> bool:
    package = found.file.partition("/")[0]
    if found.target == package or found.target in sys.stdlib_module_names:
        return True
    if found.is_lazy and found.target in OURS and found.file.startswith(COMPOSITION_ROOTS):
        return True
    return found.target in MAY_IMPORT[package]


@pytest.mark.parametrize("package", OURS)
def test_a_package_imports_only_what_the_table_allows(package):
    found = [entry for path in sources() if path.parts[0] == package for entry in imports(path)]
    assert [str(entry) for entry in found if not is_allowed(entry)] == []


def test_the_check_sees_an_import_inside_a_function_and_a_relative_one(monkeypatch, tmp_path):
    (tmp_path / "runtime" / "deep").mkdir(parents=True)
    (tmp_path / "runtime" / "deep" / "a.py").write_text(
        "from . import b\nfrom ...gen import spec\ndef f():\n    from kernelwright import build\n"
    )
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    found = list(imports(Path("runtime/deep/a.py")))
    assert [(entry.target, entry.is_lazy) for entry in found] == [
        ("runtime", False),
        ("gen", False),
        ("build", True),
    ]
    assert [is_allowed(entry) for entry in found] == [True, False, False]


def test_build_has_no_init_so_that_the_tool_of_that_name_is_still_found():
    assert not (ROOT / "build" / "__init__.py").exists()


def test_an_init_file_imports_nothing():
    """Lazy look-ups (`__getattr__`) are allowed: they import inside a function."""
    eager = [
        str(entry)
        for path in sources()
        if path.name == "__init__.py"
        for entry in imports(path)
        if not entry.is_lazy and entry.target not in sys.stdlib_module_names
    ]
    assert eager == []


@pytest.mark.parametrize(
    ("module", "banned"),
    [
        ("kernelwright.gen.cli", ("torch", "numpy", "optuna", "kernelwright.build")),
        ("kernelwright.tuner.cli", ("torch", "numpy", "optuna")),
        ("kernelwright.gen.plan", ("torch", "numpy", "optuna")),
        ("kernelwright.emulator", ("torch", "numpy", "jinja2")),
    ],
)
def test_importing_stays_light(module, banned):
    if (
        not (ROOT / module.removeprefix("kernelwright.").replace(".", "/")).with_suffix(".py").exists()
        and not (ROOT / module.removeprefix("kernelwright.") / "__init__.py").exists()
    ):
        pytest.skip(f"{module} does not exist")
    code = f"import sys, {module}; print(*[name for name in {banned} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def variables(path: Path) -> set[str]:
    """Names of our environment variables that are string constants of a file, docstrings aside."""
    tree = ast.parse((ROOT / path).read_text())
    strings = (node.value for node in ast.walk(tree) if isinstance(node, ast.Constant))
    return {text for text in strings if isinstance(text, str) and VARIABLE.fullmatch(text)}


def reads_environment(path: Path) -> bool:
    """Whether a file so much as touches `os.environ` or `os.getenv`; naming a variable in a message is fine."""
    nodes = ast.walk(ast.parse((ROOT / path).read_text()))
    names = (getattr(node, "attr", None) or getattr(node, "id", None) for node in nodes)
    return not {"environ", "getenv"}.isdisjoint(names)


def test_every_environment_variable_is_read_in_a_settings_module():
    elsewhere = [
        f"{path.as_posix()} reads {name}"
        for path in sources()
        if path.name != "settings.py" and reads_environment(path)
        for name in variables(path)
    ]
    assert elsewhere == []


def test_every_environment_variable_is_documented_and_every_documented_one_exists():
    native = [path for name in OURS for suffix in ("*.c", "*.cpp", "*.h") for path in (ROOT / name).rglob(suffix)]
    in_native = {name for path in native for name in re.findall(r'"(KERNELWRIGHT_[A-Z0-9_]+)"', path.read_text())}
    read = in_native.union(*(variables(path) for path in sources()))
    documented = set(VARIABLE.findall((ROOT / "docs" / "settings.md").read_text()))
    assert documented == read
