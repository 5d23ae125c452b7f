"""The extension by itself: what it asks of the driver, what it packs, what it leaves to Python."""

from __future__ import annotations

import ctypes
import gc
import importlib.util
import json
import math
import os
import random
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from fake_driver import HERE, StandIn, compile_c

from kernelwright import resource_dir
from kernelwright.gen.binding import bindings
from kernelwright.runtime.binding import lower, read_binding
from kernelwright.runtime.errors import DriverError, LaunchError
from kernelwright.runtime.inputs import describe
from kernelwright.runtime.schema import Node

FP16, FP32, BF16 = 2 << 8 | 16, 2 << 8 | 32, 4 << 8 | 16
CPU, CUDA = 1, 2
ANY = (0, 2**63 - 1)


def node(value: object) -> Node:
    return Node(value=value, path="$", file=Path("table.json"))


def tensor(name: str, dims: list[str], access: str, **changes: Any) -> dict[str, Any]:
    return {"name": name, "dims": dims, "dtype": "io", "access": access, "optional": False, "layout": "rows", **changes}


Q_DIMS = ["batch", "seqlen_q", "num_heads_q", "head_dim"]
KV_DIMS = ["batch", "seqlen_k", "num_heads_kv", "head_dim"]
STRIDES = [
    {"name": f"{name}_{axis}_stride", "type": "i64", "from": ["stride", name, index]}
    for name in ("q", "k", "v", "out")
    for index, axis in enumerate(("batch", "row", "head"))
]
TERMS = {
    **{name: name for name in ("seqlen_q", "seqlen_k", "num_heads_q")},
    "heads_per_kv": "floor_div(num_heads_q, num_heads_kv)",
    "num_m_blocks": "ceil_div(seqlen_q, block_m)",
}
BINDING: dict[str, Any] = {
    "sizes": ["batch", "seqlen_q", "seqlen_k", "num_heads_q", "num_heads_kv", "head_dim"],
    "size_defaults": {},
    "tensors": [
        tensor("q", Q_DIMS, "read"),
        tensor("k", KV_DIMS, "read"),
        tensor("v", KV_DIMS, "read"),
        tensor("out", Q_DIMS, "write"),
        tensor("lse", ["batch", "num_heads_q", "seqlen_q"], "write", dtype="float32", optional=True, layout="dense"),
    ],
    "divides": [["num_heads_kv", "num_heads_q"]],
    "scalars": [{"name": "softmax_scale", "type": "f32", "default": ["head_dim", -0.5]}],
    "flags": ["is_causal"],
    "fixed": ["head_dim"],
    "visibility": {"": {"first_key": "0", "end_key": "seqlen_k"}},
    "fields": [
        *[{"name": name, "type": "ptr", "from": ["pointer", name]} for name in ("q", "k", "v", "out", "lse")],
        *STRIDES,
        *[{"name": name, "type": "i32", "from": ["term", text]} for name, text in TERMS.items()],
        {"name": "softmax_scale", "type": "f32", "from": ["scalar", "softmax_scale"]},
    ],
    "grid": ["ceil_div(seqlen_q, block_m) * num_heads_q * batch", "1", "1"],
}
"""A small one; that of the forward kernels is tried by the module's tests."""
PARAMETER_BYTES = 160

LOWERED = lower(read_binding(node(BINDING)))


@pytest.fixture(scope="session")
def extension(launcher_path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("_launcher", launcher_path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def set_up(extension: ModuleType, tensor_type: type = torch.Tensor, use_exchange: bool = True) -> bool:
    return extension.setup(
        tensor_type=tensor_type,
        parameter_type=torch.nn.Parameter,
        is_grad_enabled=torch.is_grad_enabled,
        is_neg=torch.Tensor.is_neg if tensor_type is torch.Tensor else lambda _: False,
        guards=(),
        driver_error=DriverError,
        launch_error=LaunchError,
        use_exchange=use_exchange,
    )


class Rig:
    """An operation with one kernel on each of two devices of the recording driver."""

    def __init__(self, extension: ModuleType, stand_in: StandIn) -> None:
        self.extension, self.stand_in = extension, stand_in
        set_up(extension)
        self.driver = extension.Driver(str(stand_in.path))
        self.operation = extension.Operation(**{one.name: getattr(LOWERED, one.name) for one in fields(LOWERED)})
        self.kernels = [self.kernel(ordinal, f"kernel{ordinal}") for ordinal in (0, 1)]
        for device_id, kernel in enumerate(self.kernels):
            self.operation.add_device(CUDA, device_id, (self.row(kernel),))

    def kernel(self, ordinal: int, name: str, *, load: bool = True, **changes: Any) -> Any:
        arguments = {"entry": name, "threads": 128, "smem_bytes": 70000, "constants": (128,), **changes}
        kernel = self.extension.Kernel(driver=self.driver, ordinal=ordinal, name=name, **arguments)
        if load:
            kernel.load(b"image of " + name.encode())
        return kernel

    def row(self, kernel: Any, dtype: int = FP16, flags: int = 0, head_dim: int = 64, **when: Any) -> tuple[Any, ...]:
        bounds = [when.get(size, ANY) for size in BINDING["sizes"]]
        return dtype, flags, (head_dim,), tuple(low for low, _ in bounds), tuple(high for _, high in bounds), kernel

    def launch(self, *changes: tuple[str, Any], stream: int | None = 0, flags: int = 0, scale: Any = 0.5) -> bool:
        call = self.plain(**dict(changes))
        return self.operation.launch(*call.values(), scale, flags, stream)

    def plain(self, device_id: int = 0, **changes: Any) -> dict[str, Any]:
        """q, k, v, out, lse as plain integers; a change replaces entries of one tensor, or it all."""
        q, kv = (2, 300, 4, 64), (2, 200, 2, 64)
        call: dict[str, Any] = {}
        for index, (name, shape) in enumerate({"q": q, "k": kv, "v": kv, "out": q}.items()):
            strides = tuple(math.prod(shape[axis + 1 :]) for axis in range(4))
            call[name] = [0x10000000 * (index + 1), FP16, CUDA, device_id, shape, strides]
        call["lse"] = [0x50000000, FP32, CUDA, device_id, (2, 4, 300), (1200, 300, 1)]
        for name, change in changes.items():
            if not isinstance(change, dict):
                call[name] = change
                continue
            places = ("data", "dtype", "device_type", "device_id", "shape", "strides")
            for place, value in change.items():
                call[name][places.index(place)] = value
        return {name: tuple(one) if isinstance(one, list) else one for name, one in call.items()}


@pytest.fixture
def stand_in(stand_in_path: Path) -> Iterator[StandIn]:
    """The recording driver, with an empty log, for launches of the small binding."""
    yield (one := StandIn(stand_in_path, BINDING["fields"]))
    one.reset()


@pytest.fixture
def rig(extension: ModuleType, stand_in: StandIn) -> Rig:
    return Rig(extension, stand_in)


# ------------------------------------------------------------------ the launch


def test_the_parameter_block_is_laid_out_as_c_does(rig):
    rig.stand_in.expect()
    assert rig.operation.parameter_bytes == PARAMETER_BYTES
    assert rig.launch()
    fields = rig.stand_in.parameters
    assert fields["q"] == 0x10000000 and fields["lse"] == 0x50000000
    assert [fields[f"q_{axis}_stride"] for axis in ("batch", "row", "head")] == [76800, 256, 64]
    assert [fields[f"v_{axis}_stride"] for axis in ("batch", "row", "head")] == [25600, 128, 64]
    assert (fields["seqlen_q"], fields["seqlen_k"], fields["num_heads_q"], fields["heads_per_kv"]) == (300, 200, 4, 2)
    assert fields["num_m_blocks"] == 3 and fields["softmax_scale"] == 0.5


def test_the_launch_names_grid_block_shared_memory_and_stream(rig):
    assert rig.launch(stream=0xABC)
    words = f"launch kernel0 grid {3 * 4 * 2} 1 1 block 128 1 1 shared 70000 stream {0xABC} context 0"
    assert rig.stand_in.log[-3:] == ["push 0", words, "pop 0"]
    assert "set kernel0 8 70000 on 0" in rig.stand_in.log


def test_each_device_has_its_own_context_and_kernel(rig):
    assert rig.operation.launch(*rig.plain(device_id=1).values(), 0.5, 0, 7)
    assert rig.stand_in.log[-3:] == ["push 1", rig.stand_in.launches[-1], "pop 1"]
    assert rig.stand_in.launches[-1].startswith("launch kernel1") and "context 1" in rig.stand_in.launches[-1]
    assert rig.launch()
    assert "kernel0" in rig.stand_in.launches[-1]
    assert rig.stand_in.log.count("retain 0") == rig.stand_in.log.count("retain 1") == 1


def test_a_context_that_was_current_stays_so(rig):
    library = rig.stand_in.library
    library.cuCtxPushCurrent_v2(ctypes.c_void_p(0xC001))
    try:
        assert rig.launch()
        assert library.stand_in_depth() == 1 and "context 0" in rig.stand_in.launches[-1]
    finally:
        library.cuCtxPopCurrent_v2(ctypes.byref(ctypes.c_void_p()))


def test_an_absent_optional_tensor_is_a_null_pointer(rig):
    rig.stand_in.expect()
    assert rig.launch(("lse", None))
    assert rig.stand_in.parameters["lse"] == 0


def test_strides_and_offsets_are_64_bit(rig):
    rig.stand_in.expect()
    huge = (1 << 40, 1 << 33, 1 << 20, 1)
    assert rig.launch(("k", {"data": 1 << 46, "strides": huge}))
    fields = rig.stand_in.parameters
    assert [fields["k"], fields["k_batch_stride"], fields["k_row_stride"]] == [1 << 46, 1 << 40, 1 << 33]


def test_a_scalar_left_out_is_its_default(rig):
    rig.stand_in.expect()
    assert rig.launch(scale=None)
    assert rig.stand_in.parameters["softmax_scale"] == 0.125


def test_capture_sees_only_push_launch_pop(rig):
    """What a stream capture may see: no load, no synchronisation, no allocation."""
    rig.launch()
    before = len(rig.stand_in.log)
    for _ in range(3):
        rig.launch(stream=5)
    calls = [line.split()[0] for line in rig.stand_in.log[before:]]
    assert calls == ["push", "launch", "pop"] * 3


# ------------------------------------------------------------------ what is left to Python

UNUSUAL = {
    "rank": {"q": {"shape": (2, 300, 256), "strides": (76800, 256, 1)}},
    "more strides than sizes": {"q": {"strides": (1, 76800, 256, 64, 1)}},
    "dtype": {"q": {"dtype": 4 << 8 | 16}},
    "dtype of lse": {"lse": {"dtype": 2 << 8 | 64}},
    "every dtype": {name: {"dtype": FP32} for name in ("q", "k", "v", "out")},
    "device type": {"q": {"device_type": CPU}},
    "device": {"k": {"device_id": 1}},
    "unknown device": {name: {"device_id": 7} for name in ("q", "k", "v", "out", "lse")},
    "size": {"v": {"shape": (2, 201, 2, 64)}},
    "head_dim": {"q": {"shape": (2, 300, 4, 32)}},
    "heads": {"k": {"shape": (2, 200, 3, 64)}, "v": {"shape": (2, 200, 3, 64)}},
    "zero size": {"k": {"shape": (2, 0, 2, 64)}, "v": {"shape": (2, 0, 2, 64)}},
    "last stride": {"q": {"strides": (153600, 512, 128, 2)}},
    "stride not a multiple of 8": {"q": {"strides": (76804, 256, 64, 1)}},
    "negative stride": {"q": {"strides": (-76800, 256, 64, 1)}},
    "alignment": {"q": {"data": 0x10000008}},
    "alignment of lse": {"lse": {"data": 0x50000002}},
    "lse not contiguous": {"lse": {"strides": (2400, 300, 1)}},
    "required tensor missing": {"v": None},
    "another object": {"v": "tensor"},
    "out expanded": {"out": {"strides": (0, 256, 64, 1)}},
    "out overlaps q": {"out": {"data": 0x10000000 + 512}},
    "lse overlaps k": {"lse": {"data": 0x20000000}},
}


@pytest.mark.parametrize("name", UNUSUAL)
def test_anything_unusual_is_left_to_python(rig, name):
    assert rig.launch(*UNUSUAL[name].items()) is False
    assert rig.operation.match(*rig.plain(**UNUSUAL[name]).values(), 0.5, 0, None) is None
    assert rig.stand_in.launches == []


@pytest.mark.parametrize("scale", [float("nan"), float("inf"), 1e60, 1e-60, 1, "0.5"])
def test_unusual_scalars_are_left_to_python(rig, scale):
    assert rig.launch(scale=scale) is False


def test_sizes_of_one_have_no_stride_and_inputs_may_be_expanded(rig):
    rig.stand_in.expect()
    one = {"shape": (2, 200, 1, 64), "strides": (0, 128, 77, 1)}
    assert rig.launch(("k", one), ("v", one))
    assert rig.stand_in.parameters["k_batch_stride"] == rig.stand_in.parameters["k_head_stride"] == 0


def test_what_is_added_to_may_be_expanded_but_not_overlap_another(extension, rig):
    """As the gradient of a bias that heads share."""
    tensors = [{**one, "access": "update"} if one["name"] == "out" else one for one in BINDING["tensors"]]
    lowered = lower(read_binding(node({**BINDING, "tensors": tensors})))
    rig.operation = extension.Operation(**{one.name: getattr(lowered, one.name) for one in fields(lowered)})
    rig.operation.add_device(CUDA, 0, (rig.row(rig.kernels[0]),))
    rig.stand_in.expect()
    assert rig.launch(("out", {"strides": (0, 256, 64, 1)}))
    assert rig.stand_in.parameters["out_batch_stride"] == 0
    assert rig.launch(("out", {"data": 0x10000000 + 512})) is False


@pytest.mark.parametrize("values", [(), ((1, 2),), ("x",) * 8, (1,) * 8])
def test_wrong_arguments_raise_or_return_false(rig, values):
    if len(values) == 8:
        assert rig.operation.launch(*values) is False
    else:
        with pytest.raises(TypeError):
            rig.operation.launch(*values)


@pytest.mark.parametrize("bad", [(), (1, 2), (1, FP16, CUDA, 0, [1], (1,)), ("x", FP16, CUDA, 0, (1,), (1,))])
def test_malformed_plain_tensors_raise(rig, bad):
    with pytest.raises(TypeError):
        rig.launch(("q", bad))


# ------------------------------------------------------------------ rows


def test_the_first_row_that_fits_wins_whatever_ran_before(rig):
    small, rest = rig.kernel(0, "small"), rig.kernel(0, "rest")
    rows = (rig.row(small, seqlen_q=(0, 64)), rig.row(rest))
    rig.operation.add_device(CUDA, 0, rows)
    q = {"shape": (2, 64, 4, 64)}
    short = [("q", q), ("out", q), ("lse", None)]
    for changes in ([("lse", None)], short, short, [("lse", None)]):
        assert rig.launch(*changes)
    assert [line.split()[1] for line in rig.stand_in.launches] == ["rest", "small", "small", "rest"]


def test_flags_dtype_and_fixed_sizes_select(rig):
    rows = (
        rig.row(rig.kernel(0, "causal"), flags=1),
        rig.row(rig.kernel(0, "hd32"), head_dim=32),
        rig.row(rig.kernel(0, "bf16"), dtype=4 << 8 | 16),
    )
    rig.operation.add_device(CUDA, 0, rows)
    assert rig.launch() is False
    assert rig.launch(flags=1) and "causal" in rig.stand_in.launches[-1]
    bf16 = [(name, {"dtype": 4 << 8 | 16}) for name in ("q", "k", "v", "out")]
    assert rig.launch(*bf16) and "bf16" in rig.stand_in.launches[-1]


def test_a_kernel_that_is_not_loaded_is_left_to_python(rig):
    rig.operation.add_device(CUDA, 0, (rig.row(rig.kernel(0, "cold", load=False)),))
    assert rig.launch() is False


@pytest.mark.parametrize("seed", range(8))
def test_the_index_finds_the_row_that_a_search_from_the_top_finds(rig, seed):
    """Random rows of several problems, with overlapping, touching, missing and one-sided bounds."""
    chance = random.Random(seed)
    number = chance.choice([1, 63, 64, 65, 300]) if seed < 7 else 2500  # the last is searched row by row
    names = [f"kernel{index}" for index in range(number)]
    wanted = []
    for name in names:
        when = {}
        for size in chance.sample(["seqlen_q", "seqlen_k", "batch"], chance.randrange(3)):
            low = chance.choice([0, 1, 5, 17, 64, 299, 300])
            when[size] = (low, chance.choice([low, low + 1, low + 40, 300, ANY[1]]) if low < 300 else ANY[1])
        wanted.append((name, chance.choice([FP16, BF16]), chance.choice([32, 64]), when))
    chance.shuffle(wanted)
    rows = tuple(
        rig.row(rig.kernel(0, name, load=False), dtype, 0, head_dim, **when) for name, dtype, head_dim, when in wanted
    )
    rig.operation.add_device(CUDA, 0, rows)
    for _ in range(300):
        sizes = {"seqlen_q": chance.randrange(1, 400), "seqlen_k": chance.choice([1, 17, 18, 300]), "batch": 2}
        dtype, head_dim = chance.choice([FP16, BF16]), chance.choice([32, 64, 128])
        expected = next(
            (
                name
                for name, row_dtype, row_dim, when in wanted
                if (row_dtype, row_dim) == (dtype, head_dim)
                and all(low <= sizes[size] <= high for size, (low, high) in when.items())
            ),
            None,
        )
        q, kv = (2, sizes["seqlen_q"], 4, head_dim), (2, sizes["seqlen_k"], 2, head_dim)
        changes = {
            name: {"dtype": dtype, "shape": shape, "strides": tuple(math.prod(shape[axis + 1 :]) for axis in range(4))}
            for name, shape in {"q": q, "k": kv, "v": kv, "out": q}.items()
        }
        call = rig.plain(**changes, lse=None)
        assert rig.operation.match(*call.values(), 0.5, 0, None) == expected


def test_clearing_devices_forgets_rows_and_keeps_kernels(rig):
    rig.operation.clear_devices()
    assert rig.launch() is False
    rig.operation.add_device(CUDA, 0, (rig.row(rig.kernels[0]),))
    assert rig.launch() and sum(line.startswith("load") for line in rig.stand_in.log) == len(rig.kernels)


@pytest.mark.parametrize(
    "changes",
    [
        {"num_sizes": 0},
        {"num_sizes": 99},
        {"num_constants": -1},
        {"tensors": ()},
        {"tensors": (((0, 99), -1, False, False, 0),)},
        {"tensors": (((), -1, False, False, 0),)},
        {"tensors": (((0, 1), -1, False, False, 3),)},
        {"size_defaults": (0,)},
        {"size_defaults": (6, -1, -1, -1, -1, -1)},
        {"divides": ((0, 99),)},
        {"scalars": ((99, 1.0, 0.0, False),)},
        {"fixed": (6,)},
        {"fields": ((0, 0, 99, 0, ()),)},
        {"fields": ((9, 0, 0, 0, ()),)},
        {"fields": ((1, 1, 0, 4, ()),)},
        {"fields": ((1, 1, -1, 0, ()),)},
        {"fields": ((1, 9, 0, 0, ()),)},
        {"fields": ((3, 2, 0, 0, ((0, 1),)),)},
        {"fields": ((1, 2, 0, 0, ()),)},
        {"fields": ((1, 2, 0, 0, ((1, 7),)),)},
        {"fields": ((1, 2, 0, 0, ((1, -9),)),)},
        {"fields": ((1, 2, 0, 0, ((99, 0),)),)},
        {"fields": ((1, 2, 0, 0, ((2, 0),)),)},
        {"fields": ((1, 2, 0, 0, ((0, 1), (0, 1))),)},
        {"fields": ((1, 2, 0, 0, ((0, 1),) * 65),)},
        {"grid": ((), ())},
        {"grid": (((1, 99),), ((0, 1),), ((0, 1),))},
        {"fields": ((1, 1, 0, 0, ()),) * 513},
    ],
)
def test_a_binding_out_of_range_is_refused(extension, changes):
    arguments = {one.name: getattr(LOWERED, one.name) for one in fields(LOWERED)} | changes
    with pytest.raises(ValueError):
        extension.Operation(**arguments)


def test_rows_that_do_not_fit_the_binding_are_refused(rig):
    row = rig.row(rig.kernels[0])
    for bad in ((*row[:2], (), *row[3:]), (*row[:3], (0,), *row[4:])):
        with pytest.raises(ValueError, match="does not fit the binding"):
            rig.operation.add_device(CUDA, 0, (bad,))
    with pytest.raises(ValueError, match="does not fit"):
        rig.operation.add_device(CUDA, 0, (rig.row(rig.kernel(0, "none", constants=())),))


# ------------------------------------------------------------------ errors


def test_a_failed_launch_names_kernel_call_and_error(rig):
    rig.stand_in.fail("cuLaunchKernelEx", 719)
    with pytest.raises(LaunchError, match=r"kernel0: cuLaunchKernelEx failed with CUDA_ERROR_LAUNCH_FAILED \(719\)"):
        rig.launch()
    assert rig.stand_in.library.stand_in_depth() == 0


@pytest.mark.parametrize("call", ["cuLibraryLoadData", "cuLibraryGetKernel", "cuKernelSetAttribute"])
def test_a_failed_load_names_kernel_call_and_error(rig, call):
    rig.stand_in.fail(call, 209)
    with pytest.raises(LaunchError, match=f"cold: {call} failed with CUDA_ERROR_NO_BINARY_FOR_GPU"):
        rig.kernel(0, "cold")
    rig.stand_in.fail("", 0)
    assert rig.kernel(0, "cold").loaded and rig.stand_in.library.stand_in_depth() == 0


def test_a_grid_over_the_limits_is_refused(rig):
    heads = {"shape": (1 << 20, 300, 1 << 14, 64), "strides": (0, 0, 0, 1)}
    out = {"shape": heads["shape"], "strides": (300 << 20, 1 << 20, 64, 1)}
    kv = {"shape": (1 << 20, 200, 1 << 14, 64), "strides": (0, 0, 0, 1)}
    with pytest.raises(
        LaunchError, match="grid's x dimension would be 51539607552 thread blocks, CUDA allows 1 to 2147483647"
    ):
        rig.launch(("q", heads), ("k", kv), ("v", kv), ("out", out), ("lse", None))


def test_a_size_over_32_bits_is_refused(rig):
    kv = {"shape": (2, 1 << 31, 2, 64), "strides": (0, 0, 64, 1)}
    with pytest.raises(LaunchError, match="2147483648 does not fit a 32-bit parameter"):
        rig.launch(("k", kv), ("v", kv))


def test_a_library_that_is_not_there_says_what_to_do(extension):
    set_up(extension)
    with pytest.raises(DriverError, match=r"libnowhere\.so cannot be opened.*pass CPU tensors"):
        extension.Driver("libnowhere.so").device_count()


def test_a_library_without_the_functions_is_refused(extension, launcher_path):
    set_up(extension)
    with pytest.raises(DriverError, match="lacks cuInit"):
        extension.Driver(str(launcher_path)).open()


def test_initialisation_that_fails_names_the_call(extension, stand_in):
    set_up(extension)
    stand_in.fail("cuInit", 100)
    with pytest.raises(DriverError, match=r"cuInit failed with CUDA_ERROR \(100\)"):
        extension.Driver(str(stand_in.path)).device_count()


def test_a_device_that_is_not_there_is_refused(rig):
    with pytest.raises(DriverError, match=r"has 2 device\(s\); there is no number 5"):
        rig.driver.device_name(5)
    assert rig.driver.device_name(1) == "NVIDIA Stand-in B" and rig.driver.version() == 13000


def test_a_forked_child_gets_an_error(rig):
    assert rig.launch()
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            rig.launch()
            os.write(write, b"launched")
        except DriverError as error:
            os.write(write, str(error).encode())
        finally:
            os._exit(0)
    os.close(write)
    os.waitpid(child, 0)
    with os.fdopen(read) as answer:
        assert "before this process was forked" in answer.read()
    assert rig.launch()  # the parent goes on


def test_a_child_may_start_its_own_driver(extension, stand_in):
    set_up(extension)
    driver = extension.Driver(str(stand_in.path))
    child = os.fork()
    if child == 0:
        os._exit(0 if driver.device_count() == 2 else 1)
    assert os.waitpid(child, 0)[1] == 0


# ------------------------------------------------------------------ the emulator's functions


@pytest.fixture
def emulated(extension: ModuleType, stand_in_emulator_path: Path) -> Rig:
    stand_in = StandIn(stand_in_emulator_path, BINDING["fields"])
    yield Rig(extension, stand_in)
    stand_in.reset()


def test_every_extent_is_declared_before_the_launch(emulated):
    assert emulated.launch(("k", {"strides": (51200, 256, 64, 1)}))
    declared = [line for line in emulated.stand_in.log if line.startswith("declare")]
    q, kv = 2 * 300 * 4 * 64 * 2, 2 * 200 * 2 * 64 * 2
    strided = 2 * (51200 + 199 * 256 + 64 + 63 + 1)
    assert declared == [
        f"declare 10000000 {q} 1 1",
        f"declare 20000000 {strided} 1 1",
        f"declare 30000000 {kv} 1 1",
        f"declare 40000000 {q} 2 0",
        f"declare 50000000 {2 * 4 * 300 * 4} 2 0",
    ]
    assert emulated.stand_in.log[-2].startswith("launch")


def test_an_emulator_is_known_by_its_functions(emulated, rig):
    assert emulated.driver.is_emulator and not rig.driver.is_emulator
    emulated.driver.configure("name=a100,sms=3")
    assert "configure name=a100,sms=3" in emulated.stand_in.log
    assert json.loads(emulated.driver.report()) == {"flops": 7} and rig.driver.report() == ""
    with pytest.raises(DriverError, match="is not an emulator"):
        rig.driver.configure("sms=3")


def test_the_emulators_message_ends_the_error(emulated):
    emulated.stand_in.fail("cuLaunchKernelEx", 719)
    with pytest.raises(LaunchError, match=r"kernel0: cuLaunchKernelEx failed.*\nrace on k_smem"):
        emulated.launch()
    emulated.stand_in.fail("kw_declare", 1)
    with pytest.raises(LaunchError, match="kw_declare failed"):
        emulated.launch()
    emulated.stand_in.fail("kw_configure", 1)
    with pytest.raises(DriverError, match="refused the configuration 'sms=x': race on k_smem"):
        emulated.driver.configure("sms=x")


INTERRUPT = """
import sys; sys.path[:0] = {path!r}
import ctypes, os, signal, threading, time
from pathlib import Path
import test_launcher as t
spec = t.importlib.util.spec_from_file_location("_launcher", {launcher!r})
extension = t.importlib.util.module_from_spec(spec); spec.loader.exec_module(extension)
rig = t.Rig(extension, t.StandIn(Path({emulator!r}), t.BINDING["fields"]))
library = ctypes.CDLL({emulator!r})
wait = ctypes.cast(library.stand_in_wait_launch, ctypes.c_void_p)
library.stand_in_on_launch(wait)
threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
began = time.monotonic()
try:
    rig.launch()
    print("finished")
except KeyboardInterrupt:
    print("interrupted", time.monotonic() - began < 5)
"""


def test_control_c_stops_a_long_launch(launcher_path, stand_in_emulator_path):
    script = INTERRUPT.format(path=sys.path, launcher=str(launcher_path), emulator=str(stand_in_emulator_path))
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert answer.stdout.strip() == "interrupted True", answer.stderr


def test_other_threads_run_during_a_launch(emulated):
    wait = ctypes.cast(emulated.stand_in.library.stand_in_wait_launch, ctypes.c_void_p)
    emulated.stand_in.library.stand_in_on_launch(wait)
    emulated.stand_in.library.stand_in_wait_for(300)
    ticks: list[float] = []
    done = threading.Event()

    def tick() -> None:
        while not done.is_set():
            ticks.append(time.monotonic())
            time.sleep(0.01)

    thread = threading.Thread(target=tick)
    thread.start()
    emulated.launch()
    done.set()
    thread.join()
    assert len(ticks) > 5


# ------------------------------------------------------------------ the exchange interface


class FakeTensor:
    """A class with an exchange interface of its own, on two CUDA devices that do not exist."""

    requires_grad = False
    _numbers = iter(range(1, 1000))

    def __init__(self, plain: tuple[Any, ...]) -> None:
        self.plain = plain


def install_exchange(library: ctypes.CDLL, tensors: list[FakeTensor]) -> None:
    for tensor in tensors:
        data, dtype, device_type, device_id, shape, strides = tensor.plain
        sizes = (ctypes.c_int64 * len(shape))(*shape)
        steps = (ctypes.c_int64 * len(strides))(*strides)
        number = (ctypes.c_uint64(data), ctypes.c_int(dtype), ctypes.c_int(device_type), ctypes.c_int(device_id))
        library.stand_in_tensor(ctypes.c_void_p(id(tensor)), *number, len(shape), sizes, steps)


@pytest.fixture
def exchange(rig: Rig) -> Rig:
    library = rig.stand_in.library
    library.stand_in_exchange.restype = ctypes.c_void_p
    capsule = ctypes.pythonapi.PyCapsule_New
    capsule.restype, capsule.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
    FakeTensor.__dlpack_c_exchange_api__ = capsule(library.stand_in_exchange(), b"dlpack_exchange_api", None)
    assert set_up(rig.extension, FakeTensor)
    yield rig
    set_up(rig.extension)


@pytest.mark.parametrize("device_id", [0, 1])
def test_the_current_stream_of_the_tensors_device_is_used(exchange, device_id):
    tensors = [FakeTensor(one) for one in exchange.plain(device_id=device_id).values()]
    install_exchange(exchange.stand_in.library, tensors)
    assert exchange.operation.launch(*tensors, 0.5, 0, None)
    assert f"stream {4096 + device_id} context {device_id}" in exchange.stand_in.launches[-1]
    assert exchange.operation.launch(*tensors, 0.5, 0, 77)
    assert "stream 77 " in exchange.stand_in.launches[-1]


SIZES = {
    "batch": 2,
    "seqlen_q": 5,
    "seqlen_k": 7,
    "num_heads_q": 4,
    "num_heads_kv": 2,
    "head_dim": 64,
    "head_dim_v": 64,
}


@pytest.mark.parametrize("name", ["flash_bwd", "flash_bwd_dq", "flash_bwd_delta", "flash_bwd_convert"])
def test_a_backward_kernel_runs_on_the_device_and_stream_of_its_tensors(exchange, name):
    binding = read_binding(node(json.loads(json.dumps(bindings()[name]))))
    lowered = lower(binding)
    operation = exchange.extension.Operation(**{one.name: getattr(lowered, one.name) for one in fields(lowered)})
    bounds = tuple(ANY[0] for _ in binding.sizes), tuple(ANY[1] for _ in binding.sizes)
    for device_id in (0, 1):
        kernel = exchange.kernel(device_id, f"{name}{device_id}", constants=(64,) * len(binding.numbers))
        operation.add_device(CUDA, device_id, ((FP16, 0, (64,) * len(binding.fixed), *bounds, kernel),))
    for device_id in (1, 0):
        given: list[Any] = []
        for place, one in enumerate(binding.tensors):
            if one.is_optional and one.name != "dq_sum":
                given.append(None)
                continue
            shape = tuple(SIZES[dim] for dim in one.dims)
            strides = torch.empty(shape, device="meta").stride()
            code = FP16 if one.dtype == "io" else FP32
            given.append(FakeTensor((0x10000000 * (place + 1), code, CUDA, device_id, shape, strides)))
        install_exchange(exchange.stand_in.library, [one for one in given if one is not None])
        assert operation.launch(*given, *(None for _ in binding.scalars), 0, None)
        launched = exchange.stand_in.launches[-1]
        assert launched.startswith(f"launch {name}{device_id} ")
        assert launched.endswith(f"stream {4096 + device_id} context {device_id}")


def test_a_byte_offset_is_added(exchange):
    exchange.stand_in.expect()
    tensors = [FakeTensor(one) for one in exchange.plain().values()]
    install_exchange(exchange.stand_in.library, tensors)
    exchange.stand_in.library.stand_in_byte_offset(ctypes.c_uint64(32))
    try:
        assert exchange.operation.launch(*tensors, 0.5, 0, None)
        assert exchange.stand_in.parameters["q"] == 0x10000000 + 32
    finally:
        exchange.stand_in.library.stand_in_byte_offset(ctypes.c_uint64(0))


def test_torchs_exchange_interface_is_found_from_2_10_on(extension):
    version = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])
    assert set_up(extension) is (version >= (2, 10))
    assert set_up(extension, use_exchange=False) is False


# ------------------------------------------------------------------ memory


def test_nothing_leaks_and_no_count_of_references_drifts(rig, extension):
    q, k, v = torch.randn(2, 5, 4, 64).half(), *torch.randn(2, 2, 7, 2, 64).half()
    cpu = rig.kernel(0, "cpu")
    rig.operation.add_device(CPU, 0, (rig.row(cpu),))
    out, lse = torch.empty_like(q), torch.empty(2, 4, 5)
    arguments = [q, k, v, out, lse, 0.123456, 7 - 7, None]
    if not set_up(extension):  # an older torch
        arguments[:5] = [describe(one) for one in arguments[:5]]
        k = arguments[1]
    plain = rig.plain()
    watched = [*arguments[:6], *plain.values(), cpu, rig.operation, rig.driver, torch.Tensor, torch.is_grad_enabled]
    rig.stand_in.library.stand_in_logging(0)

    def everything() -> None:
        assert rig.operation.launch(*arguments)
        assert rig.operation.launch(*plain.values(), 0.5, 0, 12345678)
        assert rig.operation.launch_kernel(cpu, *arguments)
        assert rig.operation.match(*arguments) == "cpu"
        assert rig.operation.launch(k, *arguments[1:]) is False
        assert rig.operation.launch(torch.empty(3, device="meta"), *arguments[1:]) is False
        rig.operation.add_device(CPU, 3, (rig.row(cpu), rig.row(cpu, seqlen_q=(1, 2))))
        with pytest.raises((TypeError, ValueError)):
            rig.operation.add_device(CPU, 3, (rig.row(cpu), None))
        rig.kernel(0, "new")
        rig.stand_in.fail("cuLaunchKernelEx", 719)
        with pytest.raises(LaunchError):
            rig.operation.launch(*arguments)
        rig.stand_in.fail("", 0)

    try:
        everything()
        gc.collect()
        before = [sys.getrefcount(one) for one in watched]
        blocks = sys.getallocatedblocks()
        for _ in range(200):
            everything()
        gc.collect()
        grown = sys.getallocatedblocks() - blocks
        assert [sys.getrefcount(one) for one in watched] == before
        assert grown < 100  # a leak of one object a round would be 200
    finally:
        rig.stand_in.library.stand_in_logging(1)


def test_objects_free_what_they_hold(extension, stand_in):
    rig = Rig(extension, stand_in)
    kernel = rig.kernels[0]
    count = sys.getrefcount(kernel)
    rig.operation.clear_devices()
    assert sys.getrefcount(kernel) == count - 1
    driver = rig.driver
    count = sys.getrefcount(driver)
    del kernel, rig
    gc.collect()
    assert sys.getrefcount(driver) < count


@pytest.mark.slow
def test_the_address_sanitizer_finds_nothing(tmp_path):
    """The whole of this file again, on a launcher that checks its own memory."""
    flags = ["-fsanitize=address,undefined", "-fno-omit-frame-pointer", "-g", "-DPy_LIMITED_API=0x030b0000"]
    flags += [f"-I{sysconfig.get_path('include')}", "-ldl", "-lm", "-pthread"]
    library = compile_c(resource_dir("runtime") / "launcher.c", tmp_path / "_launcher.abi3.so", *flags)
    # Python is not linked with either, and the sanitizer intercepts C++ exceptions, which torch throws.
    preload = [
        subprocess.run(["cc", f"-print-file-name={name}"], capture_output=True, text=True, check=True).stdout.strip()
        for name in ("libasan.so", "libstdc++.so")
    ]
    environment = {
        **os.environ,
        "LD_PRELOAD": " ".join(preload),
        "ASAN_OPTIONS": "detect_leaks=0,handle_segv=0",
        "KERNELWRIGHT_TEST_LAUNCHER": str(library),
    }
    command = [sys.executable, "-m", "pytest", "-q", "-x", str(HERE / "test_launcher.py"), "-p", "no:cacheprovider"]
    command += ["-k", "not control_c and not sanitizer", "-rf"]
    answer = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert answer.returncode == 0 and "ERROR: AddressSanitizer" not in answer.stderr, answer.stdout + answer.stderr
