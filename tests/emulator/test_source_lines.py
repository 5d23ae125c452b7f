"""Which CUDA line a finding names: the kernel's own, with what is inlined there in the text."""

from __future__ import annotations

import numpy as np
import pytest
from emulator_kernels import kernel, run

from kernelwright import emulator as emu

FILES = '.file 1 "/src/k.cu"\n.file 2 "/cuda/intrinsics.hpp"\n.file 3 "/src/tile.cuh"'
KERNEL_LINE = ".loc 1 14 5\n"
IN_DEVICE_FUNCTION = ".loc 3 7 9, function_name $info0, inlined_at 1 14 5\n"
IN_INTRINSIC = ".loc 2 180 49, function_name $info1+24, inlined_at 3 7 9\n"


def found_after(locations: str) -> emu.Finding:
    """The finding of an access out of bounds that follows these lines."""
    body = "ld.param.u64 %rd1, [out];\n" + locations + "ld.global.u32 %r1, [%rd1+4096];"
    report = run(kernel(body, before=FILES), [np.zeros(4, np.uint32)], on_finding="collect")
    return report.findings[0]


@pytest.mark.parametrize(
    ("locations", "file", "line", "inner"),
    [
        (KERNEL_LINE, "/src/k.cu", 14, ""),
        (KERNEL_LINE + IN_DEVICE_FUNCTION, "/src/k.cu", 14, "tile.cuh:7"),
        (KERNEL_LINE + IN_DEVICE_FUNCTION + IN_INTRINSIC, "/src/k.cu", 14, "intrinsics.hpp:180"),
        (IN_INTRINSIC, "/src/tile.cuh", 7, "intrinsics.hpp:180"),  # nothing says where that line was inlined
        (IN_DEVICE_FUNCTION + KERNEL_LINE, "/src/k.cu", 14, ""),
        (".loc 1 20 3\n.loc 3 7 9, function_name $info0, inlined_at 1 20 3\n" + IN_INTRINSIC, "/src/k.cu", 20,
         "intrinsics.hpp:180"),
        (".loc 2 180 49, function_name $info1, inlined_at 1 0 0\n", "/cuda/intrinsics.hpp", 180, ""),
        (".loc 1 14\n", "/src/k.cu", 14, ""),
    ],
)  # fmt: skip
def test_it_is_the_line_of_the_kernel_that_the_code_was_inlined_to(locations, file, line, inner):
    found = found_after(locations)
    assert (found.cuda_file, found.cuda_line) == (file, line)
    assert found.text.endswith(f" (inlined from {inner})") if inner else "inlined from" not in found.text


def test_a_message_names_both_places():
    with pytest.raises(emu.EmulatorError, match=r"\(k.cu:14\) \(inlined from intrinsics.hpp:180\)") as caught:
        text = kernel(KERNEL_LINE + IN_DEVICE_FUNCTION + IN_INTRINSIC + "trap;", before=FILES)
        run(text, [np.zeros(4, np.uint32)])
    assert str(caught.value).count("inlined from") == 1


@pytest.mark.parametrize("text", [".loc 1\n", ".loc 1 2 3, function_name f, inlined_at 1\n", ".loc x 2 3\n"])
def test_an_unfinished_location_is_an_error_with_its_line(text):
    with pytest.raises(emu.EmulatorError, match=r"line \d+: .*\.loc"):
        emu.load(kernel(text))
