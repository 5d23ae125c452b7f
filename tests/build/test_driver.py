"""Asking the driver, by a library of a few lines with the driver's functions."""

from __future__ import annotations

from pathlib import Path

import pytest

from kernelwright.build import diagnosis, driver
from kernelwright.build.driver import driver_release, native_archs
from kernelwright.build.settings import read_settings
from kernelwright.emulator.host_library import compile_shared
from kernelwright.gen.errors import BuildError

SOURCE = """
static const int archs[] = {80, 86, 80};
int cuInit(unsigned flags) { return INIT; }
int cuDriverGetVersion(int *version) { *version = 12090; return 0; }
int cuDeviceGetCount(int *count) { *count = COUNT; return 0; }
int cuDeviceGet(int *device, int ordinal) { *device = ordinal; return 0; }
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    *value = attribute == 75 ? archs[device] / 10 : attribute == 76 ? archs[device] % 10 : -1;
    return 0;
}
"""


def stand_in(tmp_path: Path, *, count: int = 3, init: int = 0) -> str:
    """Compile a driver with `count` GPUs whose cuInit returns `init`."""
    source = tmp_path / "driver.c"
    source.write_text(SOURCE)
    flags = [f"-DCOUNT={count}", f"-DINIT={init}"]
    return str(compile_shared([source], flags, "libcuda_stand_in.so", tmp_path / "libraries", language="c"))


def test_each_architecture_is_named_once_in_the_driver_s_order(tmp_path):
    assert native_archs(stand_in(tmp_path)) == [80, 86]


def test_the_driver_s_release_is_read(tmp_path):
    assert driver_release(stand_in(tmp_path)) == (12, 9)


def test_a_driver_without_a_gpu_is_an_error(tmp_path):
    with pytest.raises(BuildError, match="sees no GPU"):
        native_archs(stand_in(tmp_path, count=0))


def test_a_driver_that_does_not_start_is_an_error(tmp_path):
    with pytest.raises(BuildError, match="cuInit returned 100"):
        native_archs(stand_in(tmp_path, init=100))


def test_no_driver_is_an_error():
    with pytest.raises(BuildError, match="No NVIDIA driver here"):
        native_archs("libnothing.so.1")


@pytest.mark.parametrize(
    ("version", "ok", "said"),
    [("12.9.1", True, "sm80, sm86"), ("12.8.1", True, "sm80"), ("13.0.88", False, "older than")],
)
def test_doctor_compares_driver_and_toolkit(toolkit, tmp_path, monkeypatch, version, ok, said):
    monkeypatch.setenv("FAKE_VERSION", version)
    library = stand_in(tmp_path)
    monkeypatch.setattr(diagnosis, "driver_release", lambda: driver.driver_release(library))
    monkeypatch.setattr(diagnosis, "native_archs", lambda: driver.native_archs(library))
    [found] = [one for one in diagnosis.diagnose(read_settings()) if one.part == "driver"]
    assert (found.ok, found.needed) == (ok, False) and said in found.detail
