"""Launching a forward kernel's PTX by hand, past the runtime."""

from __future__ import annotations

from typing import Any

import torch

from kernelwright.emulator.launch import Report, load
from kernelwright.gen.commands import emulated
from kernelwright.gen.spec import Variant


def launch(
    ptx: str, variant: Variant, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **options: Any
) -> tuple[torch.Tensor, torch.Tensor, Report]:
    """Run `ptx` on q, k, v; return out, lse and the emulator's report. `options` are those of `Module.launch`."""
    scalars = {"softmax_scale": variant.problem.head_dim**-0.5}
    done = emulated.launch(load(ptx), emulated.Kernel.of(variant), {"q": q, "k": k, "v": v}, scalars, **options)
    return done.outputs["out"], done.outputs["lse"], done.report
