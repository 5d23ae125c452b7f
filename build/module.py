"""Assemble the dispatch module (docs/module.md) and publish tuned tables into it."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kernelwright import __version__, resource_dir
from kernelwright.build.files import recover_directory, sha256_bytes, write_atomic
from kernelwright.build.kernels import BuiltKernel
from kernelwright.build.locks import locked
from kernelwright.build.table_folder import (
    TABLE_FILE,
    carry_verified,
    put_folder,
    read_table,
    table_folder_files,
)
from kernelwright.gen.binding import bindings
from kernelwright.gen.errors import BuildError
from kernelwright.gen.table import SCHEMA

_log = logging.getLogger(__name__)
INFO_FILE = "build_info.json"
INFO_SCHEMA = 1
LAUNCHER = "_launcher.abi3.so"
EMULATOR = "_emulator.so"
_RENAMED = {
    "module_init.py": "__init__.py",
    "module_init.pyi": "__init__.pyi",
    "module_main.py": "__main__.py",
    "module_nn.py": "nn.py",
}
_OWN_LIFE = ("tuned", "__pycache__")  # folders of a module that a build does not write


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleContent:
    """Everything a module is made of.

    Attributes:
        name: the import name.
        kernels: what was built, each once.
        rows: the built-in table's rows, in order.
        launcher: the compiled launcher.
        emulator: the emulator library, or None to leave it out.
        info: `profile`, `command`, `archs`, ... for `build_info.json`; no times, hosts or paths.
    """

    name: str
    kernels: Sequence[BuiltKernel]
    rows: Sequence[Mapping[str, object]]
    launcher: Path
    emulator: Path | None
    info: Mapping[str, object]


def module_files(content: ModuleContent) -> dict[str, bytes]:
    """Return the files of a module, by path relative to its folder.

    Raises:
        BuildError: if a row names a kernel that was not built.
        OSError: if a part of kernelwright cannot be read.
    """
    files = _runtime_files(resource_dir("runtime"))
    files["py.typed"] = b""
    files[LAUNCHER] = content.launcher.read_bytes()
    if content.emulator is not None:
        files[EMULATOR] = content.emulator.read_bytes()
    for name, data in table_folder_files(content.name, content.rows, content.kernels).items():
        files[f"kernels/{name}"] = data
    digests = {name: sha256_bytes(data) for name, data in sorted(files.items())}
    info = {
        "schema": INFO_SCHEMA,
        "name": content.name,
        "kernelwright": __version__,
        **content.info,
        "emulator": content.emulator is not None,
        "source_digest": sha256_bytes(json.dumps(digests).encode()),
    }
    files[INFO_FILE] = (json.dumps(info, indent=1) + "\n").encode()
    return files


def assemble_module(target: Path, content: ModuleContent) -> bool:
    """Make `target` the module `content`; return False if it was that already.

    The swap is one step: whoever imports meanwhile gets the old module or the new one. Tuned tables and the
    notes of verification that still hold are kept.

    Raises:
        BuildError: if `target` is something else than a dispatch module.
        OSError: if it cannot be written; the old module is then still there.
    """
    files = module_files(content)
    target.parent.mkdir(parents=True, exist_ok=True)
    with locked(target.parent, f"another build is writing {target}"):
        recover_directory(target)
        kept: dict[str, Path] = {}
        if target.exists():
            _check_is_module(target)
            table_path = f"kernels/{TABLE_FILE}"
            files[table_path] = carry_verified(files[table_path], target / "kernels")
            if (target / "tuned" / "current").is_file():
                if _tuned_fits(target / "tuned"):
                    kept["tuned"] = target / "tuned"
                else:
                    _log.warning("%s/tuned: made for another version and left out; tune again", target)
            if _holds(target, files) and (kept or not (target / "tuned").exists()):
                return False
        put_folder(target, files, kept)
    return True


def publish_tuned(module_dir: Path, table_folder: Path) -> Path:
    """Make the table in `table_folder` the tuned table of a module; return where it is.

    Written to `tuned/<digest>/` first, then `tuned/current` is replaced, so that a reader sees the old table or
    the new one. Earlier tables stay, for processes that have read them.

    Raises:
        BuildError: if `module_dir` is no dispatch module, or the folder holds no table of this schema or lacks
            a file that the table names.
        OSError: if the module cannot be written.
    """
    _check_is_module(module_dir)
    content = read_table(table_folder)
    if not _fits(content):
        raise BuildError(f"{table_folder / TABLE_FILE}: made for another version; tune again with this one")
    digest = sha256_bytes((table_folder / TABLE_FILE).read_bytes())[:16]
    records = [record for entry in content["kernels"].values() for record in entry["files"].values()]
    files = {record["file"]: _checked_file(table_folder / record["file"], record) for record in records}
    files[TABLE_FILE] = (table_folder / TABLE_FILE).read_bytes()
    with locked(module_dir.parent, f"another process is writing {module_dir}"):
        tuned = module_dir / "tuned"
        tuned.mkdir(exist_ok=True)
        if not (tuned / digest / TABLE_FILE).exists():
            put_folder(tuned / digest, files)
        write_atomic(tuned / "current", f"{digest}\n".encode())
    return tuned / digest


def _checked_file(path: Path, record: Mapping[str, object]) -> bytes:
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise BuildError(f"{path}: the table names it and it is not there") from error
    if sha256_bytes(data) != record["sha256"]:
        raise BuildError(f"{path}: not the file that the table was made with")
    return data


def _runtime_files(runtime: Path) -> dict[str, bytes]:
    """Return `_runtime/` and the files at the top of the module that come from it."""
    files: dict[str, bytes] = {}
    for path in sorted(runtime.rglob("*.py*")):
        relative = path.relative_to(runtime)
        if "__pycache__" in relative.parts or path.suffix not in (".py", ".pyi"):
            continue
        name = _RENAMED.get(relative.as_posix(), f"_runtime/{relative.as_posix()}")
        files[name] = path.read_bytes()
    missing = sorted(set(_RENAMED.values()) - set(files))
    if missing:
        raise BuildError(f"{runtime}: this installation of kernelwright lacks what makes {', '.join(missing)}")
    return files


def _check_is_module(target: Path) -> None:
    try:
        info = json.loads((target / INFO_FILE).read_bytes())
        if isinstance(info, dict) and "kernelwright" in info:
            return
    except (OSError, ValueError):
        pass
    raise BuildError(f"{target} exists and is not a dispatch module. Move it, or choose another --name or --out.")


def _holds(target: Path, files: Mapping[str, bytes]) -> bool:
    """Whether a module is exactly `files`, apart from what lives in it by itself."""
    present = {
        path.relative_to(target).as_posix(): path
        for path in target.rglob("*")
        if path.is_file() and not set(path.relative_to(target).parts) & set(_OWN_LIFE)
    }
    return present.keys() == files.keys() and all(present[name].read_bytes() == files[name] for name in files)


def _tuned_fits(tuned: Path) -> bool:
    try:
        return _fits(read_table(tuned / (tuned / "current").read_text().strip()))
    except (BuildError, OSError):
        return False


def _fits(content: Mapping[str, object]) -> bool:
    """Whether a table speaks this version's schema and launches kernels with this version's arguments."""
    operations = content.get("operations")
    known = json.loads(json.dumps(bindings()))
    if content.get("schema") != SCHEMA or not isinstance(operations, dict):
        return False
    return all(known.get(name) == binding for name, binding in operations.items())
