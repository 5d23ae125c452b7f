"""Tables: what is refused, with the place named, and which row answers."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from kernelwright.runtime.errors import TableError
from kernelwright.runtime.table import DeviceFacts, image_or_reason, read_table, rows_in_order, why_too_large


def facts(sm: int = 80, max_smem_bytes: int = 166912) -> DeviceFacts:
    return DeviceFacts(name=f"sm{sm}", title=f"sm{sm}", sm=sm, num_sms=1, max_smem_bytes=max_smem_bytes)


def set_at(table: Any, path: str, value: Any) -> None:
    """Set `a.0.b` in nested data; the value `...` deletes it."""
    *parents, last = [int(one) if one.isdecimal() else one for one in path.split("/")]
    for one in parents:
        table = table[one]
    if value is ...:
        del table[last]
    else:
        table[last] = value


FAULTS = {
    "unknown key": ("extra", 1, r"\$\.extra is not known; known here: schema, name"),
    "missing key": ("rows", ..., r"\$ lacks the key 'rows'"),
    "newer schema": ("schema", 2, r"\$\.schema is 2, and this module reads up to 1"),
    "schema of text": ("schema", "1", r'\$\.schema must be an integer, got "1"'),
    "unknown size": ("rows/0/when", {"seqlen": [1, 2]}, r"\$\.rows\[0\]\.when\.seqlen is not known"),
    "bounds of text": ("rows/0/when", {"seqlen_q": [1, "2"]}, r"\$\.rows\[0\]\.when\.seqlen_q\[1\] must be an integer"),
    "one bound": ("rows/0/when", {"seqlen_q": [1]}, r"\$\.rows\[0\]\.when\.seqlen_q must be a pair"),
    "empty bounds": ("rows/0/when", {"seqlen_q": [9, 3]}, r"seqlen_q is empty: 9 is above 3"),
    "unknown kernel": ("rows/0/kernel", "nobody", r"\$\.rows\[0\]\.kernel names 'nobody'"),
    "unknown label": ("rows/0/label", "guessed", r"label must be one of hand, modelled, measured, got 'guessed'"),
    "row key": ("rows/0/speed", 1, r"\$\.rows\[0\]\.speed is not known"),
    "kernel key": ("kernels/K/speed", 1, r"\$\.kernels\.K\.speed is not known"),
    "constant": ("kernels/K/block_m", ..., r"\$\.kernels\.K lacks the key 'block_m'"),
    "constant below zero": ("kernels/K/block_m", -1, r"block_m must be from 0 to"),
    "bool for a number": ("kernels/K/threads", True, r"threads must be an integer, got true"),
    "threads": ("kernels/K/threads", 2048, r"threads must be from 1 to 1024, got 2048"),
    "threads of other warps": (
        "kernels/K/schedule/num_warps",
        2,
        r"K\.threads is 128, and num_warps 2 in the schedule",
    ),
    "problem field": ("kernels/K/problem/softcap", 1.0, r"\$\.kernels\.K\.problem\.softcap is not known"),
    "problem dtype": ("kernels/K/problem/dtype", "fp8", r"dtype must be one of fp16, bf16"),
    "flag of text": ("kernels/K/problem/is_causal", "no", r"is_causal must be true or false"),
    "file elsewhere": ("kernels/K/files/cubin/file", "../x.cubin", r"must be the name of a file beside the table"),
    "file of a NUL": ("kernels/K/files/cubin/file", "a\0b", r"file must hold no NUL and no half of a character"),
    "half a character": ("kernels/K/entry", "\ud800", r"entry must hold no NUL and no half of a character"),
    "constant of another schedule": ("kernels/K/block_m", 64, r"K\.block_m is 64, and 128 in the schedule"),
    "no operation": ("operations", {}, r"operation must be one of none, got 'flash_fwd'"),
    "operation": ("kernels/K/operation", "fly", r"operation must be one of flash_fwd"),
    "device": ("devices/a100/sm", ..., r"\$\.devices\.a100 lacks the key 'sm'"),
    "dims": ("operations/flash_fwd/tensors/0/dims/0", "bach", r"tensors\[0\]\.dims\[0\] must be one of batch"),
    "field type": ("operations/flash_fwd/fields/0/type", "i32", r"fields\[0\]\.type is 'i32'; a pointer goes into ptr"),
    "field source": ("operations/flash_fwd/fields/0/from", ["pointer", "w"], r"from\[1\] must be one of q, k, v"),
    "stride": ("operations/flash_fwd/fields/STRIDE/from", ["stride", "q", 4], r"from\[2\] must be from 0 to 3, got 4"),
    "grid": ("operations/flash_fwd/grid", ["1", "1"], r"grid must hold three expressions, got 2"),
    "term": ("operations/flash_fwd/grid/0", "ceil_div(batch)", r"grid\[0\] .*ceil_div with 1 arguments is not known"),
    "term of no text": ("operations/flash_fwd/grid/0", 1, r"grid\[0\] must be a text, got 1"),
    "unbound size": ("operations/flash_fwd/sizes/SIZE", "pages", r"names 'pages', which no tensor has"),
    "default of a size": ("operations/flash_fwd/size_defaults/num_seqs", "x", r"num_seqs must be one of batch"),
    "layout": ("operations/flash_fwd/tensors/0/layout", "odd", r"layout must be one of rows, dense, any"),
    "scalar type": ("operations/flash_fwd/scalars/0/type", "f64", r"type must be one of f32, i32"),
    "scalar default": ("operations/flash_fwd/scalars/0/default", ["head_dim"], r"a number, or a size and its power"),
    "visibility": ("operations/flash_fwd/visibility/is_odd", {}, r"visibility\.is_odd is not known"),
    "bounds of keys": ("operations/flash_fwd/visibility/is_local/end_key", "a / b", r"end_key .*only names, whole num"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_named_by_file_and_path(new_module, name):
    path, value, message = FAULTS[name]
    fake = new_module()
    kernel = fake.add()
    binding = fake.table["operations"]["flash_fwd"]
    if name == "unbound size":
        binding["sizes"].append("")
    path = path.replace("SIZE", str(len(binding["sizes"]) - 1))
    path = path.replace("STRIDE", str([one["name"] for one in binding["fields"]].index("q_batch_stride")))
    set_at(fake.table, path.replace("K", kernel), value)
    folder = fake.write()
    with pytest.raises(TableError, match=message.replace("K", kernel)) as caught:
        read_table(folder, origin="test")
    assert str(caught.value).startswith(f"{folder / 'table.json'}: $")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        ('{"schema": 1, "schema": 1}', "'schema' is there twice"),
        ("[]", "must be an object"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_what_is_no_table_is_refused(tmp_path, text, message):
    (tmp_path / "table.json").write_text(text)
    with pytest.raises(TableError, match=message):
        read_table(tmp_path, origin="test")


@pytest.mark.parametrize("folder", ["nowhere", "a\0b", "x" * 5000])
def test_a_missing_table_is_refused(tmp_path, folder):
    with pytest.raises(TableError, match=r"cannot be read.*correct the path"):
        read_table(tmp_path / folder, origin="test")


def test_rows_for_this_device_come_first_then_measured_modelled_and_hand(new_module):
    fake = new_module()
    for block_m, label, device in [
        (16, "hand", None),
        (32, "modelled", None),
        (48, "measured", None),
        (64, "hand", "NVIDIA A100-SXM4-80GB"),
        (80, "measured", "NVIDIA H200"),
        (96, "measured", None),
    ]:
        fake.add(block_m=block_m, label=label, device=device)
    table = read_table(fake.write(), origin="test")
    rows = rows_in_order(table, frozenset({"nvidia a100-sxm4-80gb"}))
    assert [table.kernels[row.kernel].constants["block_m"] for row in rows] == [64, 48, 96, 32, 16]


@pytest.mark.parametrize(
    ("kernel_sm", "target", "device_sm", "is_emulated", "expected"),
    [
        (80, None, 80, False, "cubin"),
        (80, None, 86, False, "cubin"),
        (86, None, 80, False, "is compiled for sm86, the device is sm80"),
        (80, None, 90, False, "ptx"),
        (80, None, 120, False, "ptx"),
        (90, "sm_90a", 90, False, "cubin"),
        (90, "sm_90a", 100, False, "is compiled for sm_90a alone"),
        (90, "sm_90a", 90, True, "ptx"),
        (80, None, 80, True, "ptx"),
        (90, None, 80, True, "is compiled for sm90"),
    ],
)
def test_which_file_runs_on_which_architecture(new_module, kernel_sm, target, device_sm, is_emulated, expected):
    fake = new_module()
    name = fake.add(sm=kernel_sm)
    if target:
        fake.table["kernels"][name]["target"] = target
    kernel = read_table(fake.write(), origin="test").kernels[name]
    image, reason = image_or_reason(kernel, facts(device_sm), is_emulated=is_emulated)
    assert image == expected or expected in reason


@pytest.mark.parametrize(("missing", "device_sm", "is_emulated"), [("ptx", 90, False), ("ptx", 80, True)])
def test_a_missing_file_is_a_reason(new_module, missing, device_sm, is_emulated):
    fake = new_module()
    name = fake.add()
    del fake.table["kernels"][name]["files"][missing]
    kernel = read_table(fake.write(), origin="test").kernels[name]
    image, reason = image_or_reason(kernel, facts(device_sm), is_emulated=is_emulated)
    assert image is None and "has no PTX beside it" in reason


def test_shared_memory_over_what_the_device_grants_is_a_reason(new_module):
    fake = new_module()
    name = fake.add(smem_bytes=131072)
    kernel = read_table(fake.write(), origin="test").kernels[name]
    assert why_too_large(kernel, facts()) is None
    assert "needs 131,072 bytes" in (why_too_large(kernel, facts(86, 101376)) or "")


# ------------------------------------------------------------------ damaged files, and which table answers


def damage(path: Path, how: str) -> str:
    if how == "truncated":
        path.write_bytes(path.read_bytes()[:-5])
        return "bytes, its table expects"
    if how == "exchanged":
        path.write_bytes(b"x" * path.stat().st_size)
        return "has sha256 .*, its table expects"
    path.unlink()
    return "cannot be read"


@pytest.mark.parametrize("how", ["truncated", "exchanged", "missing"])
def test_a_damaged_kernel_file_is_an_error_at_first_use(fake, make_tensors, how):
    module = fake.load()
    message = damage(fake.folder / "kernels" / "flash_fwd_sm80_fp16_hd64_causal0_m64.cubin", how)
    with pytest.warns(module.EmulationWarning), pytest.raises(module.TableError, match=message):
        module.flash_attn_func(*make_tensors())
    module.flash_attn_func(*make_tensors(seqlen_q=100))  # another kernel


def second_table(fake: Any, folder: Path, **changes: Any) -> tuple[Path, str]:
    """Write a table with one kernel of its own beside the module's."""
    saved = json.loads(json.dumps(fake.table))
    fake.table["kernels"], fake.table["rows"] = {}, []
    name = fake.add(block_m=96, label="measured", folder=folder)
    for path, value in changes.items():
        set_at(fake.table, path, value)
    fake.write(folder)
    fake.table = saved
    return folder, name


def use_tuned(fake: Any, **changes: Any) -> str:
    _, name = second_table(fake, fake.folder / "tuned" / "abc", **changes)
    (fake.folder / "tuned" / "current").write_text("abc\n")
    return name


def test_tables_are_asked_in_order(loaded, make_tensors, monkeypatch, tmp_path):
    inputs = make_tensors()
    built_in = loaded.explain(*inputs)
    assert (built_in.table, built_in.label) == ("kernels", "hand")
    use_tuned(loaded.fake)
    loaded.load_table(None)
    assert loaded.explain(*inputs).table == "tuned"
    environment, _ = second_table(loaded.fake, tmp_path / "environment")
    monkeypatch.setenv("KERNELWRIGHT_TABLE", str(environment / "table.json"))
    loaded.load_table(None)
    assert loaded.explain(*inputs).table == "KERNELWRIGHT_TABLE"
    explicit, name = second_table(loaded.fake, tmp_path / "explicit")
    loaded.load_table(explicit)
    assert (loaded.explain(*inputs).table, loaded.explain(*inputs).variant) == ("load_table", name)
    loaded.flash_attn_func(*inputs)
    assert name in loaded.stand_in.launches[-1]
    assert loaded.explain(*make_tensors(), causal=True).table == "kernels"  # the others hold no causal kernel
    monkeypatch.delenv("KERNELWRIGHT_TABLE")
    (loaded.fake.folder / "tuned" / "current").unlink()
    loaded.load_table(None)
    loaded.flash_attn_func(*inputs)
    assert "_m64 " in loaded.stand_in.launches[-1]


DAMAGE = {
    "newer": {"schema": 7},
    "fault": {"rows/0/label": "guessed"},
    "other binding": {"operations/flash_fwd/fields/5/name": "other"},
}


@pytest.mark.parametrize("how", [*DAMAGE, "current", "gone", "binary", "zero", "folder"])
def test_a_damaged_tuned_table_is_a_logged_miss(loaded, make_tensors, caplog, how):
    use_tuned(loaded.fake, **DAMAGE.get(how, {}))
    if how in ("current", "gone"):
        text = "../kernels" if how == "current" else "nowhere"
        (loaded.fake.folder / "tuned" / "current").write_text(text)
    if how in ("binary", "zero"):
        (loaded.fake.folder / "tuned" / "current").write_bytes(b"\xff\xfe" if how == "binary" else b"a\0b")
    if how == "folder":
        (loaded.fake.folder / "tuned" / "current").unlink()
        (loaded.fake.folder / "tuned" / "current").mkdir()
    with caplog.at_level(logging.WARNING):
        loaded.flash_attn_func(*make_tensors())
    assert "tuned: the table is not used" in caplog.text
    assert "_m64 " in loaded.stand_in.launches[-1]


def test_a_table_of_the_environment_that_is_damaged_is_a_logged_miss(loaded, make_tensors, caplog, monkeypatch):
    monkeypatch.setenv("KERNELWRIGHT_TABLE", "/nowhere")
    with caplog.at_level(logging.WARNING):
        loaded.flash_attn_func(*make_tensors())
    assert "KERNELWRIGHT_TABLE: the table is not used" in caplog.text and len(loaded.stand_in.launches) == 1


@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_table_given_by_hand_is_an_error_and_changes_nothing(loaded, make_tensors, tmp_path, how):
    folder, _ = second_table(loaded.fake, tmp_path / "explicit", **DAMAGE[how])
    loaded.flash_attn_func(*make_tensors())
    with pytest.raises(loaded.TableError):
        loaded.load_table(folder)
    assert loaded.explain(*make_tensors()).table == "kernels"


def test_a_damaged_file_of_a_tuned_table_is_a_logged_miss(loaded, make_tensors, caplog):
    name = use_tuned(loaded.fake)
    damage(loaded.fake.folder / "tuned" / "abc" / f"{name}.cubin", "exchanged")
    with caplog.at_level(logging.WARNING):
        loaded.flash_attn_func(*make_tensors())
        loaded.flash_attn_func(*make_tensors())
    assert caplog.text.count(f"{name} is not used") == 1
    assert ["_m64 " in line for line in loaded.stand_in.launches] == [True, True]


def test_a_damaged_file_of_a_table_given_by_hand_is_an_error(loaded, make_tensors, tmp_path):
    folder, name = second_table(loaded.fake, tmp_path / "explicit")
    damage(folder / f"{name}.cubin", "truncated")
    loaded.load_table(folder)
    with pytest.raises(loaded.TableError, match=name):
        loaded.flash_attn_func(*make_tensors())


def test_a_damaged_built_in_table_is_an_error(fake, make_tensors):
    fake.table["schema"] = 9
    fake.write()
    module = fake.load()
    with pytest.raises(module.TableError, match="is 9, and this module reads up to 1"):
        module.flash_attn_func(*make_tensors())
