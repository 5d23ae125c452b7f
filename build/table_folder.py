"""Table folders (docs/module.md): `table.json` with every cubin and PTX it names beside it."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kernelwright.build.files import recover_directory, replace_directory, sha256_bytes, write_atomic
from kernelwright.build.kernels import BuiltKernel
from kernelwright.build.verified import merge_checks, read_verified
from kernelwright.gen.errors import BuildError
from kernelwright.gen.table import kernel_entry, table

TABLE_FILE = "table.json"


def table_folder_files(
    name: str, rows: Sequence[Mapping[str, object]], kernels: Sequence[BuiltKernel]
) -> dict[str, bytes]:
    """Return the files of a table folder, by name.

    Args:
        name: what messages call the table, usually the module's name.
        rows: in the order they are looked at; each names one of `kernels`.
        kernels: each once.

    Raises:
        BuildError: if a row names a kernel that is not there.
    """
    names = {kernel.variant.name for kernel in kernels}
    for index, row in enumerate(rows):
        if row["kernel"] not in names:
            raise BuildError(f"{name}: $.rows[{index}].kernel: {row['kernel']} is not among the built kernels")
    files: dict[str, bytes] = {}
    entries: dict[str, dict[str, object]] = {}
    verified = read_verified()
    for kernel in sorted(kernels, key=lambda kernel: kernel.variant.name):
        own = {f"{kernel.variant.name}.cubin": kernel.cubin, f"{kernel.variant.name}.ptx": kernel.ptx}
        entry = kernel_entry(
            kernel.variant,
            registers=kernel.report["registers"],
            spill_bytes=kernel.report["spill_store_bytes"] + kernel.report["spill_load_bytes"],
            files={Path(file).suffix[1:]: _file_record(file, data) for file, data in own.items()},
            source_digest=kernel.report["key"],
        )
        entries[kernel.variant.name] = entry | {"verified": verified.get(sha256_bytes(kernel.ptx), [])}
        files |= own
    files[TABLE_FILE] = table_bytes(table(name, entries, [dict(row) for row in rows]))
    return files


def table_bytes(content: Mapping[str, object]) -> bytes:
    """Return the text of `table.json`, the same for the same table."""
    return (json.dumps(content, indent=1) + "\n").encode()


def write_table_folder(
    path: Path, rows: Sequence[Mapping[str, object]], kernels: Sequence[BuiltKernel], *, name: str
) -> None:
    """Write a table folder at `path`, whole or not at all; an older one there is replaced.

    Raises:
        BuildError: if a row names a kernel that is not there.
        OSError: if the folder cannot be written.
    """
    files = table_folder_files(name, rows, kernels)
    path.parent.mkdir(parents=True, exist_ok=True)
    recover_directory(path)
    put_folder(path, files)


def put_folder(path: Path, files: Mapping[str, bytes], copied: Mapping[str, Path] | None = None) -> None:
    """Make `path` a folder of exactly `files`, and of `copied` folders, in one step.

    Args:
        path: replaced if it exists.
        files: content by path relative to the folder.
        copied: folders to copy in, by relative path.
    """
    made = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".new", dir=path.parent))
    try:
        made.chmod(0o755)
        for name, data in files.items():
            file = made / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)
        for name, folder in (copied or {}).items():
            shutil.copytree(folder, made / name)
        replace_directory(made, path)
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        raise


def read_table(folder: Path) -> dict[str, Any]:
    """Return the table of a folder as plain data, unchecked but for being an object.

    Raises:
        BuildError: if there is none.
    """
    path = folder / TABLE_FILE
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise BuildError(f"{path}: not a dispatch table ({error})") from error
    if not isinstance(content, dict):
        raise BuildError(f"{path}: not a dispatch table: expected an object")
    return content


def record_verified(
    folder: Path, passed: Sequence[str], record: Mapping[str, object], *, failed: Sequence[str] = ()
) -> None:
    """Note in a table which kernels passed a check; earlier notes of the same checker on them are replaced.

    Args:
        folder: a table folder.
        passed: names of the variants that get the note.
        record: `by`, `date` and `problems`.
        failed: names of the variants that lose the note of this checker.

    Raises:
        BuildError: if the table cannot be read or lacks one of the kernels.
    """
    content = read_table(folder)
    for name in (*passed, *failed):
        try:
            entry = content["kernels"][name]
        except KeyError as error:
            raise BuildError(f"{folder / TABLE_FILE}: $.kernels: no {name}") from error
        kept = [one for one in entry.get("verified", []) if one.get("by") != record["by"]]
        entry["verified"] = [*kept, *([dict(record)] if name in passed else [])]
    write_atomic(folder / TABLE_FILE, table_bytes(content))


def carry_verified(new: bytes, old_folder: Path) -> bytes:
    """Return the text of a new table with the notes of an old one on kernels that are the same to the byte."""
    try:
        old_kernels = read_table(old_folder)["kernels"]
        content = json.loads(new)
        for name, entry in content["kernels"].items():
            before = old_kernels.get(name)
            if before is not None and before["files"] == entry["files"]:
                entry["verified"] = merge_checks(entry["verified"], before["verified"])
    except (BuildError, KeyError, AttributeError, TypeError):
        return new  # the old one is not a table of ours
    return table_bytes(content)


def _file_record(name: str, data: bytes) -> dict[str, object]:
    return {"file": name, "bytes": len(data), "sha256": sha256_bytes(data)}
