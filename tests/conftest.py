"""Which tests run here: the only place that decides on skips, by marker, with a reason.

    gpu    an NVIDIA GPU answers            --require-gpu   a skip for want of one is a failure
    nvcc   a CUDA compiler works            --require-nvcc  likewise; CI=true implies it
    slow   asked for: --slow, or -m slow    (make test-full)

With CI=true a missing torch ends the session at once, since tests of numbers would otherwise fall away.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import os
import signal
from collections.abc import Generator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CUDA_SUCCESS = 0
NEED_TORCH = {"kernels", "runtime"}


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("kernelwright")
    group.addoption("--require-gpu", action="store_true", help="fail, not skip, what needs a GPU")
    group.addoption("--require-nvcc", action="store_true", help="fail, not skip, what needs nvcc")
    group.addoption("--slow", action="store_true", help="run the slow sweeps too")
    group.addoption("--update-golden", action="store_true", help="rewrite tests/golden from the templates")


def pytest_configure(config: pytest.Config) -> None:
    # For processes that tests start; pyproject.toml says the same for this one.
    paths = [str(ROOT / "src"), *filter(None, [os.environ.get("PYTHONPATH")])]
    os.environ["PYTHONPATH"] = os.pathsep.join(paths)
    # A shell starts background jobs with SIGINT ignored, and children inherit that: tests of Ctrl-C would hang.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if in_ci() and not has_torch():
        raise pytest.UsageError("CI=true and torch is not installed: run scripts/bootstrap.py")


def pytest_report_header() -> list[str]:
    return [] if has_torch() else [f"no torch: tests/{', tests/'.join(sorted(NEED_TORCH))} are left out"]


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Leave out folders whose `conftest.py` needs torch where there is none (never so in CI)."""
    unusable = collection_path.parent == ROOT / "tests" and collection_path.name in NEED_TORCH
    return True if unusable and not has_torch() else None


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """A file that imports torch is skipped where there is none."""
    report = yield
    if report.failed and not has_torch() and "No module named 'torch'" in str(report.longrepr):
        report.outcome = "skipped"
        report.longrepr = (str(collector.path), 0, "Skipped: torch: not installed")
    return report


def pytest_runtest_setup(item: pytest.Item) -> None:
    wants_slow = item.config.getoption("--slow") or "slow" in item.config.getoption("-m")
    if item.get_closest_marker("slow") and not wants_slow:
        pytest.skip("slow: runs with --slow (make test-full)")
    for name, why_not in (("nvcc", why_no_nvcc), ("gpu", why_no_gpu)):
        if item.get_closest_marker(name) and (reason := why_not()):
            pytest.skip(f"{name}: {reason}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.skipped and not hasattr(report, "wasxfail") and isinstance(report.longrepr, tuple):
        reason = str(report.longrepr[2]).removeprefix("Skipped: ")
        if is_required(item, reason):
            report.outcome = "failed"
            report.longrepr = f"A skip is a failure here (--require-gpu, --require-nvcc or CI): {reason}"
    return report


def is_required(item: pytest.Item, reason: str) -> bool:
    """Whether a test may not be skipped for `reason` in this session."""
    required = {name for name in ("gpu", "nvcc") if item.config.getoption(f"--require-{name}")}
    required |= {"nvcc"} if in_ci() else set()
    missing = reason.split(":")[0]
    if missing in ("slow", "gpu"):  # a compiler may be required without a GPU, not the other way round
        return missing in required
    return missing in required or any(item.get_closest_marker(name) for name in required)


def in_ci() -> bool:
    return os.environ.get("CI", "").lower() == "true"


def has_torch() -> bool:
    return importlib.util.find_spec("torch") is not None


@functools.cache
def why_no_nvcc() -> str | None:
    """None if a CUDA compiler works, else the first line of what the builder says."""
    from kernelwright.build.settings import read_settings
    from kernelwright.build.toolchain import find_toolchain
    from kernelwright.gen.errors import KernelError

    try:
        find_toolchain(read_settings())
    except KernelError as error:
        return str(error).splitlines()[0]
    return None


@functools.cache
def why_no_gpu() -> str | None:
    """None if the NVIDIA driver sees a GPU, else the reason; asks the driver, needs no torch."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return "no NVIDIA driver (libcuda.so.1)"
    count = ctypes.c_int(0)
    if driver.cuInit(0) != CUDA_SUCCESS or driver.cuDeviceGetCount(ctypes.byref(count)) != CUDA_SUCCESS:
        return "the NVIDIA driver does not start"
    return None if count.value else "the NVIDIA driver sees no GPU"


@pytest.fixture(scope="session")
def repository() -> Path:
    """Root of the checkout."""
    return ROOT
