"""Launching one kernel's PTX on the emulator by its binding, past the module's own launcher.

Tensors are torch's, made by the caller; only their methods are used here.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kernelwright.gen.binding import bindings
from kernelwright.gen.devices import reference_device
from kernelwright.gen.launch_params import TensorArgument, call_sizes, launch_params
from kernelwright.gen.spec import Variant
from kernelwright.gen.table import kernel_constants

if TYPE_CHECKING:
    from kernelwright.emulator.launch import Module, Report

_DEFAULT_SM = 80  # of an emulator that nobody has configured


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernel:
    """What a launch must know of a compiled kernel; an entry of a table has all of it."""

    entry: str
    threads: int
    smem_bytes: int
    constants: Mapping[str, int]
    binding: Mapping[str, Any]  # JSON

    @classmethod
    def of(cls, variant: Variant) -> Kernel:
        """Return what this checkout's templates and binding make of a variant."""
        return cls(
            entry=variant.name,
            threads=variant.schedule.threads,
            smem_bytes=variant.smem_bytes,
            constants={**kernel_constants(variant), "num_sms": reference_device(variant.sm).num_sms},
            binding=bindings()[variant.operation],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a launch wrote, by tensor, and the emulator's report of it. What it added to is not among it."""

    outputs: Mapping[str, Any]  # torch tensors
    report: Report

    @property
    def bits(self) -> tuple[bytes, ...]:
        """The outputs byte by byte, so that equal means bitwise equal."""
        dense = [one.contiguous() for one in self.outputs.values()]
        return tuple(ctypes.string_at(one.data_ptr(), one.numel() * one.element_size()) for one in dense)


def launch(
    module: Module,
    kernel: Kernel,
    inputs: Mapping[str, Any],  # torch tensors
    scalars: Mapping[str, float],
    **options: Any,  # those of Module.launch
) -> Outcome:
    """Run a kernel on CPU tensors; outputs start as NaN that counts as unwritten.

    What it updates is among the inputs, and so may be what it writes, with strides of its own.

    Raises:
        EmulatorError: for a refused launch or a finding.
    """
    from kernelwright.emulator.launch import Access, Memory

    sizes = call_sizes(kernel.binding, {name: tuple(one.shape) for name, one in inputs.items()})
    of_io = [tensor["name"] for tensor in kernel.binding["tensors"] if tensor["dtype"] == "io"]
    some = next(inputs[name] for name in of_io if name in inputs)
    written = [tensor for tensor in kernel.binding["tensors"] if tensor["access"] == "write"]
    outputs = {}
    for tensor in written:
        if tensor["name"] not in inputs:
            made = some.new_full([sizes[dim] for dim in tensor["dims"]], float("nan"))
            outputs[tensor["name"]] = made.float() if tensor["dtype"] == "float32" else made
    arguments = {
        name: TensorArgument(address=one.data_ptr(), shape=tuple(one.shape), strides=tuple(one.stride()))
        for name, one in {**inputs, **outputs}.items()
    }
    params = launch_params(kernel.binding, arguments, constants=kernel.constants, scalars=scalars)
    uses: dict[str, Access] = {"read": "read", "write": "write", "update": "read_write"}
    access = {tensor["name"]: uses[tensor["access"]] for tensor in kernel.binding["tensors"]}
    memory = [Memory(array=one, access=access[name]) for name, one in inputs.items()]
    memory += [Memory(array=one, access="write", initialised=False) for one in outputs.values()]
    report = module.launch(
        kernel.entry,
        grid=params.grid,
        block=(kernel.threads,),
        args=[params.struct],
        memory=memory,
        shared_bytes=kernel.smem_bytes,
        **options,
    )
    found = {**inputs, **outputs}
    return Outcome(outputs={tensor["name"]: found[tensor["name"]] for tensor in written}, report=report)


@contextmanager
def device_of(sm: int) -> Iterator[None]:
    """Let the emulator be a GPU of architecture `sm` for a while."""
    from kernelwright.emulator.launch import configure

    try:
        configure(sm=sm, smem_optin=reference_device(sm).max_smem_bytes)
        yield
    finally:
        configure(sm=_DEFAULT_SM, smem_optin=reference_device(_DEFAULT_SM).max_smem_bytes)
