"""Assembling modules and publishing tuned tables, with stand-ins for the compiled parts."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from kernelwright.build import files, module
from kernelwright.build.kernels import BuiltKernel
from kernelwright.build.module import ModuleContent, assemble_module, publish_tuned
from kernelwright.build.table_folder import read_table, record_verified, write_table_folder
from kernelwright.gen.errors import BuildError
from kernelwright.gen.spec import Variant
from kernelwright.gen.table import SCHEMA, hand_row

NOTE = {"by": "emulator", "date": "2026-11-20", "problems": 12}


def built(variant: Variant) -> BuiltKernel:
    """A kernel as if it had been compiled."""
    report = {"registers": 40, "spill_store_bytes": 0, "spill_load_bytes": 0, "remarks": [], "key": variant.name}
    data = variant.name.encode()
    return BuiltKernel(variant=variant, ptx=b"// PTX " + data, cubin=b"\x7fELF " + data, report=report)


@pytest.fixture
def content(variants, tmp_path, monkeypatch) -> ModuleContent:
    """Two kernels and stand-ins for runtime, launcher and emulator."""
    runtime = tmp_path / "runtime"
    runtime.mkdir()
    for name in ("__init__.py", "engine.py", "module_init.py", "module_init.pyi", "module_main.py", "module_nn.py"):
        (runtime / name).write_text(f"# {name}\n")
    (runtime / "__pycache__").mkdir()
    (runtime / "__pycache__" / "engine.cpython-311.pyc").write_bytes(b"")
    monkeypatch.setattr(module, "resource_dir", lambda name: runtime)
    for name in ("launcher.so", "emulator.so"):
        (tmp_path / name).write_text(name)
    return ModuleContent(
        name="flash",
        kernels=[built(variant) for variant in variants[:2]],
        rows=[hand_row(variant, {}) for variant in variants[:2]],
        launcher=tmp_path / "launcher.so",
        emulator=tmp_path / "emulator.so",
        info={"archs": ["sm80"]},
    )


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "site" / "flash"


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_module_holds_what_its_document_says(content, target, variants):
    assert assemble_module(target, content)
    names = [variant.name for variant in variants[:2]]
    assert set(tree(target)) == {
        "__init__.py",
        "__init__.pyi",
        "__main__.py",
        "nn.py",
        "py.typed",
        "_runtime/__init__.py",
        "_runtime/engine.py",
        "_launcher.abi3.so",
        "_emulator.so",
        "build_info.json",
        "kernels/table.json",
        *(f"kernels/{name}.{suffix}" for name in names for suffix in ("cubin", "ptx")),
    }
    table = read_table(target / "kernels")
    assert table["schema"] == SCHEMA and [row["kernel"] for row in table["rows"]] == names
    for kernel, name in zip(content.kernels, names, strict=True):
        entry = table["kernels"][name]
        assert entry["files"]["cubin"] == {
            "file": f"{name}.cubin",
            "bytes": len(kernel.cubin),
            "sha256": files.sha256_bytes(kernel.cubin),
        }
        assert (entry["registers"], entry["spill_bytes"], entry["verified"]) == (40, 0, [])


def test_the_same_content_is_not_written_again(content, target):
    assemble_module(target, content)
    before = target.stat().st_ino
    assert not assemble_module(target, content)
    assert target.stat().st_ino == before


def test_bytes_left_by_imports_do_not_count_as_a_change(content, target):
    assemble_module(target, content)
    (target / "_runtime" / "__pycache__").mkdir()
    (target / "_runtime" / "__pycache__" / "engine.pyc").write_bytes(b"")
    assert not assemble_module(target, content)


@pytest.mark.parametrize("damage", ["edited", "removed", "added"])
def test_a_module_that_somebody_changed_is_made_anew(content, target, damage):
    assemble_module(target, content)
    good = tree(target)
    path = target / "_runtime" / ("extra.py" if damage == "added" else "engine.py")
    path.unlink() if damage == "removed" else path.write_text("# edited\n")
    assert assemble_module(target, content)
    assert tree(target) == good


def test_two_assemblies_give_the_same_bytes_and_no_machine_in_them(content, target, tmp_path):
    assemble_module(target, content)
    assemble_module(tmp_path / "other" / "flash", content)
    assert tree(target) == tree(tmp_path / "other" / "flash")
    assert str(tmp_path).encode() not in b"".join(tree(target).values())


def test_the_emulator_can_be_left_out(content, target):
    assemble_module(target, replace(content, emulator=None))
    assert not (target / "_emulator.so").exists()
    assert json.loads((target / "build_info.json").read_text())["emulator"] is False


def test_a_folder_that_is_no_module_is_not_overwritten(content, target):
    target.mkdir(parents=True)
    (target / "thesis.txt").write_text("years of work")
    with pytest.raises(BuildError, match="not a dispatch module"):
        assemble_module(target, content)
    assert (target / "thesis.txt").read_text() == "years of work"


def test_a_row_without_its_kernel_is_refused(content, target, variants):
    bad = replace(content, rows=[hand_row(variants[5], {})])
    with pytest.raises(BuildError, match=r"\$\.rows\[0\]\.kernel"):
        assemble_module(target, bad)


@pytest.mark.parametrize("can_exchange", [True, False])
def test_a_module_is_replaced_whole(content, target, monkeypatch, can_exchange):
    assemble_module(target, content)
    if not can_exchange:
        monkeypatch.setattr(files, "_exchange", lambda first, second: False)
    assert assemble_module(target, replace(content, emulator=None))
    assert not (target / "_emulator.so").exists()
    assert [path.name for path in target.parent.iterdir()] == ["flash"]


def test_a_replacement_that_was_interrupted_is_undone(content, target):
    assemble_module(target, content)
    good = tree(target)
    target.rename(target.with_name(".flash.old"))  # as between the two renames
    (target.parent / ".flash.abc.new").mkdir()
    files.recover_directory(target)
    assert tree(target) == good
    assert [path.name for path in target.parent.iterdir()] == ["flash"]


def test_a_failed_replacement_leaves_the_old_module(content, target, monkeypatch):
    assemble_module(target, content)
    good = tree(target)

    def full(path: Path, data: bytes) -> int:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space"):
        assemble_module(target, replace(content, emulator=None))
    assert tree(target) == good
    assert [path.name for path in target.parent.iterdir()] == ["flash"]


def test_a_note_of_verification_outlives_a_build_that_changes_no_kernel(content, target, variants):
    assemble_module(target, content)
    record_verified(target / "kernels", [variants[0].name], NOTE)
    assert not assemble_module(target, content)
    assert assemble_module(target, replace(content, emulator=None))
    kernels = read_table(target / "kernels")["kernels"]
    assert kernels[variants[0].name]["verified"] == [NOTE] and kernels[variants[1].name]["verified"] == []


def test_a_note_of_verification_does_not_outlive_its_kernel(content, target, variants):
    assemble_module(target, content)
    record_verified(target / "kernels", [variants[0].name], NOTE)
    changed = replace(content.kernels[0], cubin=b"\x7fELF other")
    assemble_module(target, replace(content, kernels=[changed, content.kernels[1]]))
    assert read_table(target / "kernels")["kernels"][variants[0].name]["verified"] == []


def test_a_checker_has_one_note_and_others_keep_theirs(content, target, variants):
    assemble_module(target, content)
    gpu = NOTE | {"by": "NVIDIA H200"}
    for note in (NOTE, gpu, NOTE | {"problems": 99}):
        record_verified(target / "kernels", [variants[0].name], note)
    assert read_table(target / "kernels")["kernels"][variants[0].name]["verified"] == [gpu, NOTE | {"problems": 99}]


def test_a_kernel_that_fails_loses_the_note_of_that_checker(content, target, variants):
    assemble_module(target, content)
    names = [variant.name for variant in variants[:2]]
    record_verified(target / "kernels", names, NOTE)
    record_verified(target / "kernels", names[:1], NOTE, failed=names[1:])
    kernels = read_table(target / "kernels")["kernels"]
    assert [kernels[name]["verified"] for name in names] == [[NOTE], []]


@pytest.fixture
def tuned(content, tmp_path) -> Path:
    folder = tmp_path / "tuned_table"
    write_table_folder(folder, content.rows[:1], content.kernels[:1], name="tuned")
    return folder


def test_a_tuned_table_is_published_beside_its_kernels(content, target, tuned):
    assemble_module(target, content)
    where = publish_tuned(target, tuned)
    assert (target / "tuned" / "current").read_text() == f"{where.name}\n"
    assert tree(where) == tree(tuned)
    assert publish_tuned(target, tuned) == where  # again: nothing new
    assert len(list((target / "tuned").iterdir())) == 2


def test_a_tuned_table_outlives_a_build(content, target, tuned):
    assemble_module(target, content)
    where = publish_tuned(target, tuned)
    assert not assemble_module(target, content)
    assert assemble_module(target, replace(content, emulator=None))
    assert tree(where) == tree(tuned)
    assert (target / "tuned" / "current").read_text() == f"{where.name}\n"


@pytest.mark.parametrize("change", [{"schema": 99}, {"operations": {"flash_fwd": {}}}])
def test_a_tuned_table_of_another_version_is_left_out_with_a_warning(content, target, tuned, change, caplog):
    assemble_module(target, content)
    where = publish_tuned(target, tuned)
    (where / "table.json").write_text(json.dumps(read_table(where) | change))
    assert assemble_module(target, content)
    assert not (target / "tuned").exists()
    assert "left out; tune again" in caplog.text


def test_a_tuned_table_of_another_version_is_not_published(content, target, tuned):
    assemble_module(target, content)
    (tuned / "table.json").write_text(json.dumps(read_table(tuned) | {"schema": 99}))
    with pytest.raises(BuildError, match="another version"):
        publish_tuned(target, tuned)


@pytest.mark.parametrize("damage", ["missing", "changed"])
def test_a_tuned_table_without_its_files_is_not_published(content, target, tuned, variants, damage):
    assemble_module(target, content)
    path = tuned / f"{variants[0].name}.cubin"
    path.unlink() if damage == "missing" else path.write_bytes(b"other")
    with pytest.raises(BuildError, match=r"\.cubin: (the table names it|not the file)"):
        publish_tuned(target, tuned)
    assert not (target / "tuned").exists()


def test_a_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "file"
    files.write_atomic(path, b"old")
    monkeypatch.setattr(os, "fchmod", lambda *_: (_ for _ in ()).throw(OSError(28, "full")))
    with pytest.raises(OSError, match="full"):
        files.write_atomic(path, b"new")
    assert path.read_bytes() == b"old" and [one.name for one in tmp_path.iterdir()] == ["file"]
