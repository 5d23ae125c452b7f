"""The parts that compute: keys, the build file, ptxas figures, job counts."""

from __future__ import annotations

import pytest

from kernelwright.build import jobs
from kernelwright.build.artifact_key import artifact_key, scan_headers
from kernelwright.build.ninja_file import Target, ninja_text
from kernelwright.build.ptxas_report import parse_ptxas

KEY = {
    "source": "code",
    "headers": {"a.cuh": b"1"},
    "target": "80",
    "flags": ["-O3"],
    "compiler": "nvcc 13.0.88",
    "generator": "1",
}
LOG = """\
ptxas info    : 0 bytes gmem
ptxas info    : (C7510) Potential Performance Loss: wgmma.mma_async instructions are serialized due to x in 'k'
ptxas info    : Compiling entry function 'k' for 'sm_90a'
ptxas info    : Function properties for k
    24 bytes stack frame, 16 bytes spill stores, 12 bytes spill loads
ptxas info    : Used 168 registers, used 3 barriers, 1024 bytes smem, 368 bytes cmem[0]
ptxas info    : Compile time = 13.076 ms
"""


@pytest.mark.parametrize(
    ("field", "other"),
    [
        ("source", "other"),
        ("headers", {"a.cuh": b"2"}),
        ("headers", {"b.cuh": b"1"}),
        ("headers", {}),
        ("target", "90a"),
        ("flags", ["-O3", "-lineinfo"]),
        ("compiler", "nvcc 13.1.0"),
        ("generator", "2"),
    ],
)
def test_everything_that_decides_the_bytes_changes_the_key(field, other):
    assert artifact_key(**(KEY | {field: other})) != artifact_key(**KEY)


def test_equal_inputs_have_the_same_key_whatever_the_order_of_headers():
    headers = {"a.cuh": b"1", "b.cuh": b"2"}
    turned = dict(reversed(headers.items()))
    assert artifact_key(**(KEY | {"headers": headers})) == artifact_key(**(KEY | {"headers": turned}))


def test_headers_are_followed_through_headers_and_loops(tmp_path):
    (tmp_path / "a.cuh").write_text('#include "b.cuh"\n')
    (tmp_path / "b.cuh").write_text('  #  include "a.cuh"\n#include <cuda.h>\n')
    (tmp_path / "unused.cuh").write_text("")
    assert set(scan_headers('#include "a.cuh"\n#include "of_the_toolkit.h"\n', tmp_path)) == {"a.cuh", "b.cuh"}


def test_every_header_of_ours_is_one_that_some_kernel_includes(variants):
    from kernelwright.gen.render import include_dir, render
    from kernelwright.gen.spec import Variant

    backward = Variant.parse("flash_bwd_sm80_bf16_hd64_causal1_m64_n128_w8_s1_a4_4_4")
    included = [scan_headers(render(variant), include_dir()) for variant in [*variants, backward]]
    assert {name for headers in included for name in headers} == {path.name for path in include_dir().iterdir()}


def test_the_build_file_is_sorted_relative_and_the_same_for_the_same_targets():
    targets = [Target(variant="b", target="80"), Target(variant="a", target="90a"), Target(variant="a", target="90a")]
    text = ninja_text(targets, "/usr/bin/python3", "/pack age", "abc")
    assert text == ninja_text(targets[::-1], "/usr/bin/python3", "/pack age", "abc")
    assert text.index("src/a.cu") < text.index("src/b.cu")
    assert text.count("build obj/a.json | obj/a.ptx obj/a.cubin: kernel src/a.cu") == 1
    assert "  target = 90a" in text
    assert "PYTHONPATH='/pack age' /usr/bin/python3" in text
    assert "description = nvcc $variant" in text


def test_a_dollar_in_a_path_is_not_a_variable_of_ninja():
    assert "'/a$$b'" in ninja_text([], "/a$b", "/c", "abc")


def test_ptxas_figures_are_read():
    report = parse_ptxas(LOG)
    assert report.entries == ("k",)
    assert (report.registers, report.stack_bytes, report.barriers) == (168, 24, 3)
    assert (report.spill_store_bytes, report.spill_load_bytes, report.static_smem_bytes) == (16, 12, 1024)
    assert len(report.remarks) == 1 and report.remarks[0].startswith("(C7510)")


@pytest.mark.parametrize("order", [1, -1])
def test_of_several_kernels_the_largest_figures_are_kept(order):
    other = LOG.replace("'k'", "'other'").replace("Used 168", "Used 40").replace("16 bytes spill", "0 bytes spill")
    report = parse_ptxas("".join([LOG, other][::order]))
    assert sorted(report.entries) == ["k", "other"]
    assert (report.registers, report.spill_store_bytes) == (168, 16)


def test_a_log_without_figures_is_an_error_and_not_zero():
    with pytest.raises(ValueError, match="no kernel"):
        parse_ptxas("ptxas info    : 0 bytes gmem\n")


@pytest.mark.parametrize(
    ("wanted", "max_jobs", "cores", "free_gib", "expected"),
    [
        (None, None, 8, 64, 8),
        (3, None, 8, 64, 3),
        (16, None, 8, 64, 16),  # asked for: more than cores is the user's choice
        (None, 2, 8, 64, 2),
        (16, 4, 8, 64, 4),
        (None, None, 8, 1.0, 2),  # 0.4 GiB a job
        (None, None, 8, 0.1, 1),
        (8, None, 8, 1.0, 2),
    ],
)
def test_jobs_are_bounded_by_wish_variable_cores_and_memory(wanted, max_jobs, cores, free_gib, expected):
    assert jobs.job_count(wanted, max_jobs, cores, int(free_gib * jobs.GIB)) == expected


@pytest.mark.parametrize(
    ("membership", "files"),
    [
        ("0::/box/inner\n", {"box/memory.max": "3000", "box/memory.current": "1000", "box/inner/memory.max": "max"}),
        (
            "9:cpu:/x\n4:memory:/box\n",
            {"memory/box/memory.limit_in_bytes": "3000", "memory/box/memory.usage_in_bytes": "1000"},
        ),
        (
            "4:memory:/hidden\n",  # inside a container the group's own path may not be mounted
            {"memory/memory.limit_in_bytes": "3000", "memory/memory.usage_in_bytes": "1000"},
        ),
    ],
)
def test_memory_is_bounded_by_the_control_group(tmp_path, membership, files):
    proc, groups = tmp_path / "proc", tmp_path / "cgroup"
    (proc / "self").mkdir(parents=True)
    (proc / "meminfo").write_text("MemTotal: 99 kB\nMemAvailable: 50 kB\n")
    (proc / "self" / "cgroup").write_text(membership)
    for name, text in files.items():
        (groups / name).parent.mkdir(parents=True, exist_ok=True)
        (groups / name).write_text(text + "\n")
    assert jobs.free_memory_bytes(proc, groups) == 2000


def test_without_a_limit_memory_is_the_system_s(tmp_path):
    (tmp_path / "meminfo").write_text("MemAvailable: 50 kB\n")
    assert jobs.free_memory_bytes(tmp_path, tmp_path / "none") == 50 * 1024


def test_recorded_peaks_replace_the_default(tmp_path):
    (tmp_path / "a.json").write_text('{"peak_rss_kib": 90000}')
    (tmp_path / "b.json").write_text("damaged")
    assert jobs.recorded_job_bytes([tmp_path / "a.json", tmp_path / "b.json"]) == 90000 * 1024
    assert jobs.recorded_job_bytes([]) == jobs.DEFAULT_JOB_BYTES
