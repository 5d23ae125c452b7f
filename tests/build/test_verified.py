"""What GPUs elsewhere have checked reaches the tables that a build writes."""

import json

import pytest

from kernelwright.build import table_folder
from kernelwright.build.files import sha256_bytes
from kernelwright.build.table_folder import carry_verified, read_table, write_table_folder
from kernelwright.build.verified import merge_checks, read_verified, write_verified
from kernelwright.gen.errors import BuildError
from kernelwright.gen.table import hand_row

H200 = {"by": "NVIDIA H200", "date": "2026-11-20", "problems": 18}
EMULATOR = {"by": "emulator", "date": "2026-11-19", "problems": 12}


def test_a_kernel_known_by_its_ptx_is_written_as_verified(build, variants, tmp_path, monkeypatch):
    kernels = build(variants[:2])
    known = {sha256_bytes(kernels[0].ptx): [H200]}
    monkeypatch.setattr(table_folder, "read_verified", lambda: known)
    write_table_folder(tmp_path / "table", [hand_row(one.variant, {}) for one in kernels], kernels, name="x")
    entries = read_table(tmp_path / "table")["kernels"]
    assert [entries[one.variant.name]["verified"] for one in kernels] == [[H200], []]


def test_a_rebuild_keeps_local_checks_beside_those_from_elsewhere(build, variants, tmp_path, monkeypatch):
    kernels = build(variants[:1])
    rows = [hand_row(kernels[0].variant, {})]
    write_table_folder(tmp_path / "table", rows, kernels, name="x")
    table_folder.record_verified(tmp_path / "table", [kernels[0].variant.name], EMULATOR)
    monkeypatch.setattr(table_folder, "read_verified", lambda: {sha256_bytes(kernels[0].ptx): [H200]})
    new = table_folder.table_folder_files("x", rows, kernels)[table_folder.TABLE_FILE]
    (entry,) = json.loads(carry_verified(new, tmp_path / "table"))["kernels"].values()
    assert entry["verified"] == [H200, EMULATOR]


def test_the_latest_check_of_each_checker_stands():
    later = {**H200, "date": "2026-12-01"}
    assert merge_checks([later, EMULATOR], [H200]) == [later, EMULATOR]


def test_what_is_written_is_read_again(tmp_path):
    kernels = {"ab" * 32: [H200], "cd" * 32: []}
    assert write_verified(kernels, tmp_path / "verified.json")
    assert read_verified(tmp_path / "verified.json") == {"ab" * 32: [H200]}
    assert not write_verified(kernels, tmp_path / "verified.json")
    assert read_verified(tmp_path / "none.json") == {}


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("nothing", "no JSON"),
        ('{"schema": 2, "kernels": {}}', r"\$"),
        ('{"schema": 1, "kernels": {"x": []}}', "no SHA-256"),
        (json.dumps({"schema": 1, "kernels": {"ab" * 32: [{"by": "x"}]}}), r"\$\.kernels\.abab.*\[0\]"),
    ],
)
def test_a_fault_of_the_file_names_its_place(tmp_path, text, place):
    (tmp_path / "verified.json").write_text(text)
    with pytest.raises(BuildError, match=place):
        read_verified(tmp_path / "verified.json")


def test_the_file_of_this_checkout_is_sound():
    read_verified()
