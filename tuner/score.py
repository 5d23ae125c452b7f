"""The modelled scorer: figures for a compiled kernel without a GPU."""

from __future__ import annotations

from dataclasses import dataclass

from kernelwright.gen.devices import Device
from kernelwright.tuner.model import model_cycles
from kernelwright.tuner.results import Label
from kernelwright.tuner.shapes import Shape
from kernelwright.tuner.work import Compiled


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelScorer:
    """Computes `model_cycles` for each shape from the variant, its registers and the device's rates."""

    device: Device
    shapes: tuple[Shape, ...]

    @property
    def label(self) -> Label:
        return "modelled"

    def score(self, compiled: Compiled) -> dict[str, float]:
        return {
            shape.name: round(model_cycles(compiled.variant, self.device, shape, compiled.registers), 1)
            for shape in self.shapes
        }
