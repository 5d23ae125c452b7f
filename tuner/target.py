"""Which GPU a run is for, and whether its figures are modelled or measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from kernelwright.gen.devices import SUPPORTED_SMS, Device, devices, parse_arch, reference_device
from kernelwright.gen.errors import BuildError
from kernelwright.tuner.errors import TunerError
from kernelwright.tuner.results import Label

Backend = Literal["auto", "modelled", "measured"]
NATIVE = "native"


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """A GPU of this machine: the name its driver gives, its architecture, and the CUDA release of the driver."""

    name: str
    sm: int
    driver: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What kernels are made for and judged on.

    Args:
        sm: architecture of the kernels.
        device: figures and limits of the GPU.
        label: kind of the figures.
        gpu: the GPU that measures; None for modelled figures.
    """

    sm: int
    device: Device
    label: Label
    gpu: Gpu | None


def find_gpu() -> Gpu | None:
    """Return the current GPU if torch can use one."""
    from kernelwright.build.driver import driver_release, native_archs

    try:
        native_archs()  # quick where there is none; torch takes seconds to import
    except BuildError:
        return None
    import torch

    if not torch.cuda.is_available():
        return None
    major, minor = torch.cuda.get_device_capability()
    release = ".".join(map(str, driver_release()))
    return Gpu(name=torch.cuda.get_device_name(), sm=10 * major + minor, driver=f"CUDA {release}")


def choose_target(arch: str | None, backend: Backend, space_sm: int, gpu: Gpu | None) -> Target:
    """Return what to tune for.

    Args:
        arch: `--arch`; None for the GPU at hand, or else the space's architecture.
        backend: `--backend`.
        space_sm: what the space names.
        gpu: from `find_gpu`.

    Raises:
        TunerError: if a GPU is asked for that is not here or cannot run the kernels.
        SpecError: if the architecture is unknown.
    """
    if arch == NATIVE and gpu is None:
        raise TunerError("--arch native: torch sees no GPU here. Name an architecture, as in --arch sm80")
    native = None if gpu is None else _runnable(gpu.sm)
    at_hand = space_sm if native is None else native
    sm = at_hand if arch is None or arch == NATIVE else parse_arch(arch)
    can_measure = gpu is not None and native == sm
    if backend == "measured" and not can_measure:
        here = "torch sees no GPU here" if gpu is None else f"the GPU here is {gpu.name}, sm{gpu.sm}"
        raise TunerError(f"--backend measured for sm{sm}: {here}. Leave it out, or use --backend modelled")
    if gpu is not None and can_measure and backend != "modelled":
        return Target(sm=sm, device=_device_of(gpu, sm), label="measured", gpu=gpu)
    return Target(sm=sm, device=reference_device(sm), label="modelled", gpu=None)


def _runnable(sm: int) -> int | None:
    """Return the newest architecture of ours whose kernels a GPU runs: its own, or an older one's PTX."""
    return max((known for known in SUPPORTED_SMS if known <= sm), default=None) if sm < 90 else min(SUPPORTED_SMS)


def _device_of(gpu: Gpu, sm: int) -> Device:
    """Return the figures of a GPU, or of the one that stands for its architecture."""
    short = _short(gpu.name)
    same = (device for device in devices().values() if _short(device.title) == short)
    return next(same, reference_device(sm))


def _short(name: str) -> str:
    return name.lower().removeprefix("nvidia ")
