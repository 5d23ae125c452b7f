"""Gradients of kernels on the emulator, past the runtime's own launcher."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from kernelwright.emulator.launch import Module
from kernelwright.gen.binding import bindings
from kernelwright.gen.commands import emulated
from kernelwright.gen.spec import Variant
from kernelwright.runtime import gradient_check
from kernelwright.runtime.binding import Visibility, read_binding
from kernelwright.runtime.gradient_check import Case, given_shape
from kernelwright.runtime.problems import Problem, guarded
from kernelwright.runtime.reference import Attended
from kernelwright.runtime.schema import Node


def make_case(problem: Problem, *, block_n: int = 64, seed: int = 0) -> Case:
    """Return a problem on the CPU with inputs beside NaN and its gradients."""
    return gradient_check.make_case(problem, _visibility(), block_n=block_n, seed=seed, device=torch.device("cpu"))


def _visibility() -> Mapping[str, Visibility]:
    return read_binding(Node(value=bindings()["flash_fwd"], path="$", file="bindings")).visibility


def scaled_case(problem: Problem, largest: Mapping[str, float], *, seed: int = 0) -> Case:
    """Return a problem whose q, k, v or dout, by name, are scaled until the largest element has this magnitude."""
    case = make_case(problem, seed=seed)
    request = case.request
    for name, size in largest.items():
        one = case.dout if name == "dout" else getattr(request, name)
        one.copy_((one.double() * (size / one.double().abs().max())).to(one.dtype))
    attended = Attended(
        request.q, request.k, request.v, request.softmax_scale, request.lowered, _visibility(), case.block_mask
    )
    return replace(
        case,
        reference=gradient_check.gradients(attended, case.dout, torch.float64),
        plain=gradient_check.gradients(attended, case.dout, request.q.dtype),
    )


def faults(outputs: Mapping[str, torch.Tensor], case: Case) -> list[str]:
    """Return what is wrong with gradients, with the problem; empty if all is right."""
    fault = gradient_check.judge_gradients(outputs, case).fault
    return [f"{case.problem}: {fault}"] if fault else []


def inputs_of(case: Case, variant: Variant) -> dict[str, torch.Tensor]:
    """Return what a backward kernel reads."""
    return case.inputs([str(one["name"]) for one in bindings()[variant.operation]["tensors"]])  # type: ignore[attr-defined]


def scalars_of(case: Case, variant: Variant) -> dict[str, float]:
    """Return the numbers of a launch."""
    return case.scalars([str(one["name"]) for one in bindings()[variant.operation]["scalars"]])  # type: ignore[attr-defined]


def run(
    module: Module, variant: Variant, case: Case, *, with_dq: bool = True, with_dbias: bool = True, **options: Any
) -> emulated.Outcome:
    """Launch a backward kernel; what `flash_bwd` adds to dq_sum and dbias, if asked for, is among the outputs."""
    inputs = inputs_of(case, variant)
    added: dict[str, torch.Tensor] = {}
    if variant.operation == "flash_bwd" and with_dq:
        inputs["dq_sum"] = added["dq"] = torch.zeros(case.request.q.shape)
    if variant.operation == "flash_bwd" and with_dbias and "bias" in inputs:
        shape = given_shape(inputs["bias"])
        added["dbias"] = guarded(shape, torch.float32, torch.device("cpu")).tensor.zero_()
        inputs["dbias"] = added["dbias"].expand(inputs["bias"].shape)
    done = emulated.launch(module, emulated.Kernel.of(variant), inputs, scalars_of(case, variant), **options)
    return emulated.Outcome(outputs={**done.outputs, **added}, report=done.report)
