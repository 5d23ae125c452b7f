"""Launching one kernel of any operation by itself, its tensors and numbers by the names of its binding.

For checks and measuring: calls of users go through `attention.py`, which checks what they give.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from .attention import as_plain
from .devices import DeviceKey
from .engine import Engine
from .errors import KernelError
from .routes import Call
from .table import KernelRecord


def prepare_launch(
    engine: Engine,
    key: DeviceKey,
    record: KernelRecord,
    tensors: Mapping[str, torch.Tensor],
    scalars: Mapping[str, float],
) -> Callable[[], None]:
    """Return a function that launches a kernel on the current stream, and waits for nothing.

    The kernel must be the one that answers calls of its operation, as under `force_variant`. Numbers that are not given
    have the binding's defaults.

    Raises:
        KernelError: if the kernel does not answer or cannot be loaded; its function, if the launch fails.
    """
    served = engine.served(record.operation)
    flags = {name: bool(record.problem[name]) for name in served.binding.flags}
    sizes = {name: int(str(record.problem[name])) for name in served.binding.fixed}
    call = Call(operation=record.operation, dtype=record.dtype, flags=flags, sizes=sizes)
    kernel, _ = engine.kernel_for(key, [call])
    if kernel.name != record.name:
        raise KernelError(f"{kernel.name} answers in place of {record.name}")
    arguments, num_tensors = served.arguments(tensors, scalars, flags), len(served.tensors)

    def launch() -> None:
        given = arguments if engine.launcher.reads_tensors else as_plain(arguments, num_tensors)
        if not served.operation.launch_kernel(kernel, *given):
            raise KernelError(
                f"{kernel.name} cannot take these tensors. This is a fault of this module; please report it."
            )

    return launch
