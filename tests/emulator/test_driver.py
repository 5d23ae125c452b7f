"""The driver's own functions, called as a launcher calls them."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
from emulator_kernels import PTX, kernel, run

from kernelwright import emulator as emu
from kernelwright.emulator.launch import driver

INVALID_VALUE, INVALID_IMAGE, NO_BINARY, INVALID_PTX, INVALID_HANDLE, NOT_FOUND, NOT_SUPPORTED = (
    1,
    200,
    209,
    218,
    400,
    500,
    801,
)
LOAD_REST = (None, None, 0, None, None, 0)


@pytest.fixture
def lib() -> ctypes.CDLL:
    return driver()


def message(lib: ctypes.CDLL) -> str:
    return lib.kw_message().decode()


def test_the_device_answers_what_was_configured(lib):
    assert lib.cuInit(0) == 0
    version, count, value = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    assert lib.cuDriverGetVersion(ctypes.byref(version)) == 0
    assert version.value == 13000
    assert lib.cuDeviceGetCount(ctypes.byref(count)) == 0
    assert count.value == 1
    emu.configure(name="tested", sm=89, sms=3, smem_optin=101376)
    try:
        for attribute, want in {75: 8, 76: 9, 16: 3, 97: 101376, 8: 49152, 10: 32, 1: 1024}.items():
            assert lib.cuDeviceGetAttribute(ctypes.byref(value), attribute, 0) == 0
            assert value.value == want
        name = ctypes.create_string_buffer(16)
        assert lib.cuDeviceGetName(name, 16, 0) == 0
        assert name.value == b"tested"
    finally:
        emu.configure(name="kernelwright emulator", sm=80, sms=108, smem_optin=166912)
    assert lib.cuDeviceGetAttribute(ctypes.byref(value), 9999, 0) == INVALID_VALUE
    assert lib.cuDeviceGet(ctypes.byref(value), 1) == 101


def test_contexts_are_a_stack_for_each_thread(lib):
    context, current = ctypes.c_void_p(), ctypes.c_void_p()
    assert lib.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0) == 0
    assert lib.cuCtxPushCurrent_v2(context) == 0
    assert lib.cuCtxGetCurrent(ctypes.byref(current)) == 0
    assert current.value == context.value
    assert lib.cuCtxPopCurrent_v2(ctypes.byref(current)) == 0
    assert lib.cuCtxPopCurrent_v2(ctypes.byref(current)) == 201
    assert lib.cuDevicePrimaryCtxRelease_v2(0) == 0


REFUSED = {
    "colour=red": "known are name, sm",
    "sm=": "positive",
    "checks=some": "memory",
    "seed=-1": "whole",
    "on_finding=shrug": "collect",
}


@pytest.mark.parametrize(("setting", "allowed"), list(REFUSED.items()))
def test_an_unknown_setting_is_refused_with_what_is_allowed(lib, setting, allowed):
    assert lib.kw_configure(setting.encode()) != 0
    assert allowed in message(lib)


def test_images_that_are_not_ptx_are_refused(lib):
    handle = ctypes.c_void_p()
    assert lib.cuLibraryLoadData(ctypes.byref(handle), b"\x7fELF\x02\x01", *LOAD_REST) == INVALID_IMAGE
    assert "cubin" in message(lib)
    assert lib.cuLibraryLoadData(ctypes.byref(handle), b"hello", *LOAD_REST) == INVALID_PTX
    newer = (PTX / "flash_fwd.ptx").read_bytes().replace(b".target sm_80", b".target sm_90a")
    assert lib.cuLibraryLoadData(ctypes.byref(handle), newer, *LOAD_REST) == NO_BINARY
    assert "sm_90a" in message(lib)


def test_handles_are_checked(lib):
    handle, found = ctypes.c_void_p(), ctypes.c_void_p()
    assert lib.cuLibraryLoadData(ctypes.byref(handle), kernel("").encode(), *LOAD_REST) == 0
    assert lib.cuLibraryGetKernel(ctypes.byref(found), handle, b"other") == NOT_FOUND
    assert "it has k" in message(lib)
    assert lib.cuLibraryGetKernel(ctypes.byref(found), handle, b"k") == 0
    function = ctypes.c_void_p()
    assert lib.cuKernelGetFunction(ctypes.byref(function), found) == 0
    assert lib.cuLibraryUnload(handle) == 0
    assert lib.cuLibraryUnload(handle) == INVALID_HANDLE
    assert lib.cuKernelGetFunction(ctypes.byref(function), found) == INVALID_HANDLE


def refused(text: str, what: str, **launch: object) -> None:
    with pytest.raises(emu.EmulatorError, match=what):
        run(text, [np.zeros(4, np.uint32)], **launch)


def test_impossible_launches_are_refused():
    refused(kernel(""), "1,024", block=2048)
    refused(kernel(""), "not possible", grid=0)
    refused(kernel("").replace(")\n{", ")\n.maxntid 64, 1, 1\n{"), "launch_bounds", block=128)
    refused(kernel(""), "clusters are not modelled", cluster=(2, 1, 1))
    refused(kernel(""), "166912", shared_bytes=200_000)


def test_more_dynamic_shared_memory_than_was_set_is_refused(lib):
    from kernelwright.emulator.launch import _LaunchConfig

    handle, found, value = ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_int()
    assert lib.cuLibraryLoadData(ctypes.byref(handle), kernel("", "").encode(), *LOAD_REST) == 0
    assert lib.cuLibraryGetKernel(ctypes.byref(found), handle, b"k") == 0
    assert lib.cuKernelGetAttribute(ctypes.byref(value), 8, found, 0) == 0
    assert value.value == 49152
    config = _LaunchConfig(grid=(1, 1, 1), block=(32, 1, 1), shared_bytes=50_000)
    assert lib.cuLaunchKernelEx(ctypes.byref(config), found, None, None) == INVALID_VALUE
    assert "MAX_DYNAMIC_SHARED_SIZE_BYTES" in message(lib)
    assert lib.cuKernelSetAttribute(8, 60_000, found, 0) == 0
    assert lib.cuLaunchKernelEx(ctypes.byref(config), found, None, None) == 0
    config.shared_bytes = 60_001
    assert lib.cuLaunchKernelEx(ctypes.byref(config), found, None, None) == INVALID_VALUE
    assert lib.cuKernelSetAttribute(8, 10**6, found, 0) == INVALID_VALUE


def test_declarations_are_used_up_by_a_launch_that_fails(lib):
    values = np.zeros(32, np.uint32)
    assert lib.kw_declare(values.ctypes.data, values.nbytes, 3, 1) == 0
    with pytest.raises(emu.EmulatorError, match="1,024"):
        emu.load(kernel("", "")).launch("k", grid=(1,), block=(4096,), args=[])
    text = kernel("ld.param.u64 %rd1, [out]; st.global.u32 [%rd1], 1;")
    with pytest.raises(emu.EmulatorError, match="no array was declared"):
        run(text, [np.uint64(values.ctypes.data)])


def test_arguments_are_checked():
    with pytest.raises(emu.EmulatorError, match="takes 1 arguments, got 2"):
        run(kernel(""), [np.zeros(1), np.zeros(1)])
    with pytest.raises(emu.EmulatorError, match="argument 0 has 4 bytes, the parameter 8"):
        run(kernel(""), [np.int32(1)])
    with pytest.raises(emu.EmulatorError, match="its size is not known"):
        run(kernel(""), [3])


def test_tensors_are_taken_by_their_exact_extent():
    torch = pytest.importorskip("torch")
    whole = torch.zeros(64, dtype=torch.int32)
    body = "mov.u32 %r1, %tid.x; ld.param.u64 %rd1, [out]; mul.wide.u32 %rd2, %r1, 8;"
    body += "add.s64 %rd1, %rd1, %rd2; st.global.u32 [%rd1], %r1;"
    run(kernel(body), [whole[::2]])
    assert torch.equal(whole[::2], torch.arange(32, dtype=torch.int32))
    with pytest.raises(emu.EmulatorError, match="out_of_bounds"):
        run(kernel(body), [whole[:62:2]])


def test_error_names(lib):
    text = ctypes.c_char_p()
    assert lib.cuGetErrorName(719, ctypes.byref(text)) == 0
    assert text.value == b"CUDA_ERROR_LAUNCH_FAILED"
    assert lib.cuGetErrorString(1, ctypes.byref(text)) == 0
    assert text.value == b"invalid argument"
    assert lib.cuGetErrorName(12345, ctypes.byref(text)) == INVALID_VALUE


def test_memory_of_another_device_is_refused():
    class Elsewhere:
        class device:
            type = "cuda"

        def data_ptr(self) -> int:
            return 0

    with pytest.raises(emu.EmulatorError, match="cannot be emulated"):
        run(kernel(""), [Elsewhere()])
