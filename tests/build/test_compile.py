"""Compiling through ninja: what is compiled, what is not, and what a failure leaves behind."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shutil
import time
from pathlib import Path

import pytest

from kernelwright.build import compile_kernel, kernels
from kernelwright.build.errors import CompileError
from kernelwright.build.kernels import read_kernel
from kernelwright.build.store import entry_dir
from kernelwright.gen.errors import BuildError
from kernelwright.gen.render import include_dir


def outputs(out: Path) -> list[str]:
    """Finished outputs; settings, logs and scratch do not count."""
    return sorted(path.name for path in (out / "obj").iterdir() if path.suffix in (".ptx", ".cubin"))


def test_a_build_gives_ptx_cubin_and_figures_for_every_variant(build, variants, out):
    kernels = build(variants)
    assert [kernel.variant for kernel in kernels] == variants
    for kernel in kernels:
        assert kernel.cubin.startswith(b"\x7fELF")
        assert kernel.variant.name.encode() in kernel.ptx
        assert kernel.report["registers"] == 40
        assert kernel.report["static_smem_bytes"] == 128
        assert kernel.report["entries"] == [kernel.variant.name]
        assert kernel.report["cpu_s"] > 0
        assert kernel.report["peak_rss_kib"] > 1000
        assert (out / "src" / f"{kernel.variant.name}.cu").is_file()


def test_a_second_build_compiles_nothing_and_touches_nothing(build, variants, out, compile_log):
    build(variants)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    build(variants)
    assert len(compile_log()) == len(variants)
    changed = [path for path, stamp in before.items() if path.stat().st_mtime_ns != stamp]
    assert not [path.name for path in changed if path.name not in (".ninja_log", ".ninja_deps")]


def test_another_folder_takes_kernels_from_the_cache(build, variants, tmp_path, compile_log):
    first = build(variants)
    second = build(variants, tmp_path / "elsewhere")
    assert len(compile_log()) == len(variants)
    assert [kernel.cubin for kernel in first] == [kernel.cubin for kernel in second]
    assert all(kernel.report["cached"] for kernel in second)


def test_an_edited_header_rebuilds_what_includes_it(build, variant, out, compile_log, monkeypatch, tmp_path):
    headers = tmp_path / "include"
    shutil.copytree(include_dir(), headers)
    monkeypatch.setattr(kernels, "include_dir", lambda: headers)
    [before] = build([variant])
    header = sorted(headers.iterdir())[0]
    header.write_text(header.read_text() + "\n// edited\n")
    [after] = build([variant])
    assert len(compile_log()) == 2
    assert before.report["key"] != after.report["key"]


def test_what_no_longer_exists_is_removed_and_so_is_litter(build, variant, out, monkeypatch, tmp_path):
    headers = tmp_path / "include"
    shutil.copytree(include_dir(), headers)
    monkeypatch.setattr(kernels, "include_dir", lambda: headers)
    build([variant])
    header = sorted((out / "src" / "include").iterdir())[0]
    (headers / header.name).unlink()
    (out / "obj" / ".x.cubin.abc.kernelwright.tmp").write_text("")
    with contextlib.suppress(CompileError):  # the stand-in compiler misses the header too
        build([variant])
    assert not header.exists()
    assert not (out / "obj" / ".x.cubin.abc.kernelwright.tmp").exists()


def test_files_of_others_in_the_output_folder_are_left_alone(build, variant, out):
    theirs = [out / name for name in ("src/include/mine.h", "obj/tmp/mine/x", ".editor.tmp", "src/.x.tmp")]
    for path in theirs:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("precious")
    os.utime(out / "obj" / "tmp" / "mine", (0, 0))
    build([variant])
    build([variant])
    assert all(path.read_text() == "precious" for path in theirs)


def test_a_list_of_headers_that_was_tampered_with_removes_nothing_outside(build, variant, out, tmp_path):
    precious = tmp_path / "precious"
    precious.write_text("")
    (out / "obj").mkdir(parents=True)
    for names in (["../../../precious", str(precious), 7, "../x"], {"a": 1}, "x"):
        (out / "obj" / "headers.json").write_text(json.dumps(names))
        build([variant])
    assert precious.exists()


def test_a_build_file_of_another_build_system_is_not_replaced(build, variant, out):
    out.mkdir()
    (out / "build.ninja").write_text("# CMAKE generated file: DO NOT EDIT!\n")
    with pytest.raises(BuildError, match="was not written by gen build and would be lost"):
        build([variant])
    assert (out / "build.ninja").read_text().startswith("# CMAKE")
    assert [path.name for path in out.iterdir() if path.name != ".lock"] == ["build.ninja"]


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_compiler_that_hangs_is_stopped_with_all_it_started(tmp_path, monkeypatch):
    monkeypatch.setattr(compile_kernel, "TIMEOUT_S", 1.0)
    started = tmp_path / "started"
    command = ["sh", "-c", f"sleep 600 & echo $! > {started}; wait"]
    with pytest.raises(compile_kernel.CompileFailedError, match="sh did not end within 1 s"):
        compile_kernel._run("a_kernel", command, tmp_path, tmp_path / "log")
    assert "sleep 600" in (tmp_path / "log").read_text()
    deadline = time.monotonic() + 30  # a signal is not felt at once
    while is_running(int(started.read_text())):
        assert time.monotonic() < deadline, "what the compiler had started outlived it"
        time.sleep(0.01)


def test_another_compiler_version_rebuilds(build, variant, compile_log, monkeypatch):
    [before] = build([variant])
    monkeypatch.setenv("FAKE_VERSION", "13.1.0")
    [after] = build([variant])
    assert len(compile_log()) == 2
    assert before.report["key"] != after.report["key"]


def test_variables_that_add_flags_do_not_reach_the_compiler(build, variant, toolkit, monkeypatch):
    nvcc = toolkit / "bin" / "nvcc"
    nvcc.write_text(nvcc.read_text().replace("exec", '[ -z "$NVCC_APPEND_FLAGS" ] || exit 9\nexec'))
    build([variant])
    monkeypatch.setenv("NVCC_APPEND_FLAGS", "-G")
    build([variant])


def test_a_compile_error_names_variant_line_and_log_and_leaves_no_output(build, variants, out, monkeypatch):
    progress = io.StringIO()
    monkeypatch.setenv("FAKE_FAIL", "kHeadDim = 64")
    with pytest.raises(CompileError, match="hd64"):
        build(variants, progress=progress, num_jobs=1)
    said = progress.getvalue()
    match = re.search(r"(\S+): (src/\S+\.cu)\((\d+)\): error: (.*)\n  (\d+) \| (.*)", said)
    assert match, said
    assert match[2] == f"src/{match[1]}.cu"
    assert match[3] == match[5]
    assert (out / match[2]).read_text().splitlines()[int(match[3]) - 1].strip() == match[6]
    log = Path(re.search(r"log: (.*)", said)[1])
    assert "exit status 2" in log.read_text()
    assert "FAILED" not in said and "PYTHONPATH" not in said
    assert not [name for name in outputs(out) if "hd64" in name]


def test_a_failed_variant_leaves_no_older_output(build, variant, out, monkeypatch):
    build([variant])
    source = out / "src" / f"{variant.name}.cu"
    source.write_text(source.read_text() + "broken\n")
    monkeypatch.setenv("FAKE_FAIL", "broken")
    monkeypatch.setattr("kernelwright.build.kernels.render", lambda variant: source.read_text())
    with pytest.raises(CompileError):
        build([variant])
    assert outputs(out) == []
    assert not (out / "obj" / f"{variant.name}.json").exists()


def test_a_mended_build_goes_on_where_it_failed_and_removes_the_log(build, variants, out, monkeypatch):
    monkeypatch.setenv("FAKE_FAIL", "kHeadDim = 128")
    with pytest.raises(CompileError):
        build(variants)
    monkeypatch.delenv("FAKE_FAIL")
    assert len(build(variants)) == len(variants)
    assert not list((out / "obj").glob("*.log"))


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("kernel.ptx", "truncated"),
        ("kernel.cubin", "flipped"),
        ("kernel.cubin", "removed"),
        ("source.cu", "emptied"),
        ("report.json", "truncated"),
        ("report.json", "removed"),
    ],
)
def test_a_damaged_cache_entry_is_dropped_and_rebuilt(build, variant, cache, tmp_path, name, damage):
    [good] = build([variant])
    path = entry_dir(cache, good.report["key"]) / name
    data = path.read_bytes()
    if damage == "removed":
        path.unlink()
    else:
        flipped = bytes([data[0] ^ 1]) + data[1:]
        path.write_bytes({"truncated": data[: len(data) // 2], "emptied": b"", "flipped": flipped}[damage])
    progress = io.StringIO()
    [again] = build([variant], tmp_path / "other", progress=progress)
    assert "damaged cache entry" in progress.getvalue()
    assert again.cubin == good.cubin and not again.report["cached"]
    [third] = build([variant], tmp_path / "third")
    assert third.report["cached"]


def test_outputs_that_somebody_changed_are_compiled_again(build, variant, out, caplog):
    [good] = build([variant])
    (out / "obj" / f"{variant.name}.cubin").write_bytes(b"not a cubin")
    [again] = build([variant])
    assert again.cubin == good.cubin
    assert "changed since" in caplog.text


def test_reading_what_was_never_compiled_is_an_error(variant, out):
    with pytest.raises(BuildError, match="not compiled"):
        read_kernel(variant, out)


def test_lineinfo_makes_other_kernels_with_relative_paths(build, variant, tmp_path):
    [plain] = build([variant])
    [lines] = build([variant], tmp_path / "lines", lineinfo=True)
    assert plain.report["key"] != lines.report["key"]
    assert f'.file\t1 "src/{variant.name}.cu"'.encode() in lines.ptx
    assert str(tmp_path).encode() not in lines.ptx


def test_spills_are_reported_as_failed_gates(build, variant, monkeypatch):
    monkeypatch.setenv("FAKE_SPILL", "16")
    [kernel] = build([variant])
    assert kernel.gate_failures == ["spills 16 bytes a thread"]
