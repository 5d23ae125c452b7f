"""flash_attn_func: the short way for usual calls, and the long way that copies, explains or raises.

Semantics: docs/semantics.md of kernelwright.
"""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import torch

from .devices import CPU_KEY, DeviceKey
from .engine import Engine
from .errors import EmulationWarning, InputTypeError, KernelError, TableError, UnsupportedInputError
from .inputs import ALIGNMENT, Request, calls_of, check, describe, hulls_meet, is_conforming
from .options import Options
from .routes import FORWARD, Call, flag_bits

logger = logging.getLogger(__name__)

Result: TypeAlias = torch.Tensor | tuple[torch.Tensor, ...]  # out, or out and lse, or those and S_dmask


TENSORS = (
    *("q", "k", "v", "out", "lse", "q_starts", "q_ends", "k_starts", "k_ends", "seqused_k"),
    *("alibi_slopes", "sink", "bias", "rng_state", "block_counts", "block_lists", "block_bits"),
)
SCALARS = (
    *("softmax_scale", "softcap", "window_left", "window_right", "attention_chunk", "keep_threshold", "keep_scale"),
    *("max_seqlen_q", "sparse_block_q", "sparse_block_k"),
)
FLAGS = (
    *("is_causal", "is_local", "is_varlen", "has_softcap", "has_alibi", "has_bias", "has_dropout"),
    "is_block_sparse",
)
"""What this run time gives a launch, in the binding's order."""


class Attention:
    """Attention on one module's kernels."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.launch: Callable[..., bool] = self._first_launch
        self._warned = False

    def _first_launch(self, *call: object) -> bool:
        """Import the launcher, then step aside for it."""
        binding = self.engine.binding
        found = tuple(one.name for one in binding.tensors), tuple(one.name for one in binding.scalars), binding.flags
        if found != (TENSORS, SCALARS, FLAGS):
            raise TableError(f"{self.engine.folder}: {FORWARD} takes {found}, which this run time does not know.")
        operation = self.engine.launch_operation
        self.launch = operation.launch if self.engine.launcher.reads_tensors else self._launch_plain
        return self.launch(*call)

    def _launch_plain(self, *call: Any) -> bool:
        return bool(self.engine.launch_operation.launch(*as_plain(call, len(TENSORS))))

    def launch_step(
        self,
        operation: str,
        tensors: Mapping[str, torch.Tensor],
        scalars: Mapping[str, float | int | None],
        flags: Mapping[str, bool],
        calls: Callable[[], tuple[DeviceKey, list[Call]]],
    ) -> None:
        """Launch a kernel of the backward pass; names that its binding lacks are left out, absent ones are None.

        Args:
            calls: the device, and the calls that a kernel is chosen by, asked for only where the launcher finds none.

        Raises:
            NoKernelError: if there is no kernel; the last line says how to build it.
            LaunchError: if the driver refuses.
        """
        engine = self.engine
        served = engine.served(operation) if engine.serves(operation) else None
        if served and all(name in served.binding.flags for name, is_set in flags.items() if is_set):
            arguments = self._given(served.arguments(tensors, scalars, flags), len(served.tensors))
            if served.operation.launch(*arguments):
                return
        key, equivalent = calls()
        kernel, chosen = engine.kernel_for(key, equivalent)
        served = engine.served(operation)
        arguments = self._given(served.arguments(tensors, scalars, chosen), len(served.tensors))
        if not served.operation.launch_kernel(kernel, *arguments):
            told = ", ".join(f"{name} {_layout(one)}" for name, one in tensors.items() if name in served.tensors)
            raise KernelError(f"{kernel.name} cannot take {told}. This is a fault of this module; please report it.")

    def _given(self, arguments: tuple[Any, ...], num_tensors: int) -> tuple[Any, ...]:
        return arguments if self.engine.launcher.reads_tensors else as_plain(arguments, num_tensors)

    # ------------------------------------------------------------------ the long way

    def attend(
        self,
        q: object,
        k: object,
        v: object,
        options: Options,
        return_lse: object = False,
        out: object = None,
        lse: torch.Tensor | None = None,
    ) -> Result:
        """Check everything, then compute; `lse` may be given by those who poison it first.

        Of sequences, out and lse have no batch dimension, as their q has none.
        """
        request = check(q, k, v, options, out)
        if not isinstance(return_lse, bool):
            raise InputTypeError(f"return_lse must be True or False, got {return_lse!r}.")
        if return_lse and lse is None:
            lse = torch.empty(request.lse_shape, dtype=torch.float32, device=request.q.device)
        result = self.compute(request, lse)
        if options.sequences is not None:
            result = result.squeeze(0) if out is None or not isinstance(out, torch.Tensor) else out
            lse = None if lse is None else lse.squeeze(0)
        return (result, lse) if return_lse and lse is not None else result

    def compute(self, request: Request, lse: torch.Tensor | None) -> torch.Tensor:
        """Compute a checked call; return its `out`, or a new tensor, and write `lse` where it is given."""
        self._warn_of_emulation(request.key)
        if not request.is_empty:
            return self._compute(request, lse)
        result = request.q.new_empty(request.out_shape) if request.out is None else request.out
        if lse is not None:
            lse.copy_(_lse_without_keys(request))
        return result.zero_()

    def _compute(self, request: Request, lse: torch.Tensor | None) -> torch.Tensor:
        inputs = self._conforming_inputs(request)
        written = request.out
        if written is None or not is_conforming(written) or self._extents_clash(request.key, written, inputs):
            written = torch.empty(request.out_shape, dtype=request.q.dtype, device=request.q.device)
        if type(written) is not torch.Tensor and written is not request.out:
            raise UnsupportedInputError(
                f"A dispatch mode turned a new tensor into a {type(written).__name__}, which a kernel cannot write. "
                "Leave FakeTensorMode and the like before the call."
            )
        kernel, flags = self.engine.kernel_for(request.key, calls_of(request))
        lowered = request.lowered
        tensors = [*inputs, written, lse, *(lowered.tensors.get(name) for name in TENSORS[5:])]
        scalars = [request.softmax_scale, *(lowered.scalars.get(name) for name in SCALARS[1:])]
        arguments = self._given((*tensors, *scalars, flag_bits(self.engine.binding, flags), None), len(tensors))
        if not self.engine.launch_operation.launch_kernel(kernel, *arguments):
            raise KernelError(
                f"{kernel.name} cannot take q {_layout(inputs[0])}, k {_layout(inputs[1])}, v {_layout(inputs[2])}, "
                f"out {_layout(written)}. This is a fault of this module; please report it."
            )
        if request.out is None:
            return written
        if written is not request.out:
            request.out.copy_(written)
        else:
            mark_written(request.out)
        return request.out

    def _extents_clash(self, key: DeviceKey, written: torch.Tensor, inputs: list[torch.Tensor]) -> bool:
        """An emulator is told each tensor's extent, read or written; interleaved tensors would contradict."""
        return self.engine.device(key).is_emulated and any(hulls_meet(written, one) for one in inputs)

    def _conforming_inputs(self, request: Request) -> list[torch.Tensor]:
        given = {"q": request.q, "k": request.k, "v": request.v}
        strange = {name: tensor for name, tensor in given.items() if not is_conforming(tensor)}
        if strange:
            logger.info(
                "copied %s: kernels need 16-byte alignment, a last stride of 1, other strides in multiples of 8",
                ", ".join(f"{name} {_layout(tensor)}" for name, tensor in strange.items()),
            )
        contiguous = torch.contiguous_format
        return [one.clone(memory_format=contiguous) if name in strange else one for name, one in given.items()]

    @contextmanager
    def without_warning(self) -> Iterator[None]:
        """Leave the warning of emulation to a later call: here emulating is what was asked for."""
        warned, self._warned = self._warned, True
        try:
            yield
        finally:
            self._warned = warned

    def _warn_of_emulation(self, key: DeviceKey) -> None:
        if key == CPU_KEY and not self._warned:
            self._warned = True
            warnings.warn(
                "CPU tensors run the GPU's kernel in an emulator: for checking, thousands of times slower than a GPU. "
                "This is said once.",
                EmulationWarning,
                stacklevel=callers_level(),
            )


def callers_level() -> int:
    """The stack level, for `warnings`, of the first function that is not of this package."""
    level, frame, here = 1, sys._getframe(1), Path(__file__).parent
    while frame.f_back is not None and Path(frame.f_code.co_filename).parent == here:
        level, frame = level + 1, frame.f_back
    return level


def mark_written(tensor: torch.Tensor) -> None:
    """Tell autograd that a tensor was written in place, as torch's own functions with `out` do."""
    if not tensor.is_inference():
        torch.autograd.graph.increment_version(tensor)


def as_plain(call: tuple[Any, ...], num_tensors: int) -> tuple[object, ...]:  # Any: as loose as the launcher's
    """The tensors of a launch as plain integers, and its stream asked for here."""
    tensors, others = call[:num_tensors], call[num_tensors:-1]
    grad_enabled = torch.is_grad_enabled()
    plain = [None if one is None else describe(one, grad_enabled) for one in tensors]
    return (*plain, *others, _stream_of(tensors[0]))


def _stream_of(tensor: torch.Tensor) -> int | None:
    if tensor.device.type != "cuda":
        return None
    return int(torch.cuda.current_stream(tensor.device).cuda_stream)


def _lse_without_keys(request: Request) -> torch.Tensor:
    """lse where no query sees a key: the sink alone, or the logarithm of nothing."""
    sink = request.lowered.tensors.get("sink")
    nothing = torch.full((1,), -torch.inf, device=request.q.device) if sink is None else sink
    return nothing[None, :, None].expand(request.lse_shape)


def _layout(tensor: torch.Tensor) -> str:
    return (
        f"{list(tensor.shape)} with strides {list(tensor.stride())} at {tensor.data_ptr() % ALIGNMENT} mod {ALIGNMENT}"
    )
