"""Builds that are killed, starved or run at the same time: nobody ever sees half of anything."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import kernelwright
from kernelwright.build.files import sha256_bytes
from kernelwright.build.store import load_entry
from kernelwright.gen.errors import BuildError

SCRIPT = Path(__file__).with_name("build_once.py")
NUM_VARIANTS = 4


def start(out: Path, *options: str, **environment: str) -> subprocess.Popen[str]:
    """Start a build in a process group of its own."""
    package_root = str(Path(kernelwright.__file__).parent.parent)
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), str(out), *options],
        env=os.environ | {"PYTHONPATH": package_root} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    stdout, stderr = process.communicate(timeout=60)
    return process.returncode, stdout.strip(), stderr


def check_nothing_is_half_made(out: Path, cache: Path) -> None:
    """Whatever exists is whole: outputs with a report, cache entries, the module."""
    for report in (out / "obj").glob("flash*.json"):
        digests = json.loads(report.read_text())["sha256"]
        for suffix in ("ptx", "cubin"):
            assert sha256_bytes(report.with_suffix(f".{suffix}").read_bytes()) == digests[f"kernel.{suffix}"]
    for entry in (cache / "kernels").glob("*/*"):
        assert load_entry(cache, entry.name) is not None
    module = out / "killed"
    if module.exists():
        table = json.loads((module / "kernels" / "table.json").read_text())
        assert len(table["kernels"]) == NUM_VARIANTS
        for kernel in table["kernels"].values():
            for record in kernel["files"].values():
                assert sha256_bytes((module / "kernels" / record["file"]).read_bytes()) == record["sha256"]
        assert (module / "__init__.py").exists() and (module / "build_info.json").exists()


def test_a_build_killed_at_any_moment_leaves_nothing_half_made(toolkit, tmp_path, cache):
    status, expected, stderr = finish(start(tmp_path / "clean", KERNELWRIGHT_CACHE=str(tmp_path / "other")))
    assert status == 0, stderr
    out = tmp_path / "out"
    rng = random.Random(0)
    for attempt in range(12):
        if attempt % 4 == 0:  # begin from nothing; the three after go on where the kill was
            subprocess.run(["rm", "-rf", str(out), str(cache)], check=True)
        process = start(out, FAKE_SLEEP="0.05")
        time.sleep(rng.uniform(0.1, 0.9))
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        finish(process)
        check_nothing_is_half_made(out, cache)
    status, digest, stderr = finish(start(out))
    assert (status, digest) == (0, expected), stderr
    check_nothing_is_half_made(out, cache)
    assert not list((out / "obj" / "tmp").iterdir()) and not list((cache / "tmp").iterdir())
    assert not [path.name for path in out.iterdir() if path.name.startswith(".killed")]


def test_a_build_waits_for_the_compilers_of_a_killed_one(toolkit, tmp_path):
    out = tmp_path / "out"
    first = start(out, FAKE_SLEEP="1.0", MAX_JOBS="2")
    wait_for(lambda: list((out / "obj" / "tmp").glob("*/.owner")))
    first.kill()  # this process alone: ninja and the compilers live on
    first.wait()
    status, _, stderr = finish(start(out))
    assert status == 0, stderr
    assert "another build is at work" in stderr


def test_two_builds_in_one_folder_wait_for_each_other(toolkit, tmp_path, compile_log):
    out = tmp_path / "out"
    builds = [start(out, FAKE_SLEEP="0.3") for _ in range(2)]
    results = [finish(build) for build in builds]
    assert [status for status, _, _ in results] == [0, 0], results
    assert len({digest for _, digest, _ in results}) == 1
    assert len(compile_log()) == NUM_VARIANTS
    assert sum("waiting for it to end" in stderr for _, _, stderr in results) == 1


def test_builds_in_many_folders_share_one_cache(toolkit, tmp_path, cache):
    builds = [start(tmp_path / f"out{index}") for index in range(4)]
    results = [finish(build) for build in builds]
    assert [status for status, _, _ in results] == [0] * 4, results
    assert len({digest for _, digest, _ in results}) == 1
    assert len(list((cache / "kernels").glob("*/*"))) == NUM_VARIANTS
    for index in range(4):
        check_nothing_is_half_made(tmp_path / f"out{index}", cache)


def test_control_c_stops_the_compilers_and_leaves_nothing_half_made(toolkit, tmp_path, cache):
    out = tmp_path / "out"
    process = start(out, FAKE_SLEEP="600")
    wait_for(lambda: list((out / "obj" / "tmp").glob("*/.owner")))
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to everybody
    status, _, stderr = finish(process)
    assert (status, "Traceback" in stderr) == (130, False), stderr
    wait_for(lambda: not compilers_in(out))
    check_nothing_is_half_made(out, cache)


def test_max_jobs_bounds_what_runs_at_once(toolkit, tmp_path):
    out = tmp_path / "out"
    process = start(out, FAKE_SLEEP="0.15", MAX_JOBS="1")
    most = 0
    while process.poll() is None:
        most = max(most, len(list((out / "obj" / "tmp").glob("*/.owner"))))
        time.sleep(0.01)
    finish(process)
    assert most == 1


def test_a_full_disk_is_said_and_leaves_nothing_half_made(toolkit, tmp_path, cache):
    out = tmp_path / "out"
    status, _, stderr = finish(start(out, "--limit", "20000"))
    assert status == 1
    assert "no space left" in stderr and "Traceback" not in stderr, stderr
    check_nothing_is_half_made(out, cache)
    assert finish(start(out))[0] == 0


@pytest.mark.parametrize("size_kib", [16, 48, 96, 160, 224])
def test_a_small_file_system_fills_up_and_nothing_is_half_made(toolkit, tmp_path, cache, size_kib):
    with mounted(tmp_path / "small", f"size={size_kib}k") as small:
        out = small / "out"
        status, _, stderr = finish(start(out))
        said = "no space left" in stderr.lower()  # with a capital by ninja, whose own log may be what finds no room
        assert status == 1 and said and "Traceback" not in stderr, stderr
        check_nothing_is_half_made(out, cache)


def test_a_full_cache_is_a_warning(toolkit, tmp_path):
    with mounted(tmp_path / "small", "size=8k") as small:
        status, _, stderr = finish(start(tmp_path / "out", KERNELWRIGHT_CACHE=str(small / "cache")))
    assert status == 0, stderr
    assert "warning" in stderr and "no space left" in stderr


def test_a_read_only_cache_is_a_warning(toolkit, tmp_path):
    with mounted(tmp_path / "fixed", "ro") as fixed:
        status, _, stderr = finish(start(tmp_path / "out", KERNELWRIGHT_CACHE=str(fixed)))
    assert status == 0, stderr
    assert "may not write" in stderr


def test_a_read_only_output_folder_is_an_error(toolkit, tmp_path):
    with mounted(tmp_path / "fixed", "ro") as fixed:
        status, _, stderr = finish(start(fixed / "out"))
    assert status == 1 and "may not write" in stderr and "Choose another --out" in stderr, stderr


def test_an_output_folder_below_a_file_is_an_error(build, variants, tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "out"):
        with pytest.raises(BuildError, match="Choose another --out"):
            build(variants, folder)


def compilers_in(out: Path) -> list[str]:
    """Processes of the stand-in compiler at work in a folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (process / "cwd").resolve() == out.resolve() and b"fake_nvcc" in (process / "cmdline").read_bytes():
                found.append(process.name)
    return found


def wait_for(condition, timeout_s: float = 20) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.01)


@contextlib.contextmanager
def mounted(folder: Path, options: str) -> Iterator[Path]:
    """Mount a small file system, where that is allowed."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("may not mount a file system here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)
