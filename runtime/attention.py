"""flash_attn_func: the short way for usual calls, and the long way that copies, explains or raises.

Semantics: docs/semantics.md of kernelwright.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, TypeAlias

import torch

from .devices import CPU_KEY, DeviceKey
from .engine import Engine
from .errors import EmulationWarning, InputTypeError, KernelError, TableError, UnsupportedInputError
from .inputs import ALIGNMENT, MAX_SCALE, OPERATION, Request, check, describe, hulls_meet, is_conforming
from .routes import flag_bits

logger = logging.getLogger(__name__)

Result: TypeAlias = torch.Tensor | tuple[torch.Tensor, torch.Tensor]  # out, or out and lse


class AttentionFunction(Protocol):
    """The type of `flash_attn_func`."""

    def __call__(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        softmax_scale: float | None = None,
        causal: bool = False,
        return_lse: bool = False,
        out: torch.Tensor | None = None,
    ) -> Result: ...


class Attention:
    """Attention on one module's kernels."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.launch: Callable[..., bool] = self._first_launch
        self._warned = False

    def _first_launch(self, *call: object) -> bool:
        """Import the launcher, then step aside for it."""
        binding = self.engine.binding
        found = tuple(one.name for one in binding.tensors), binding.scalars, binding.flags
        if found != (("q", "k", "v", "out", "lse"), ("softmax_scale",), ("is_causal",)):
            raise TableError(f"{self.engine.folder}: {OPERATION} takes {found}, which this run time does not know.")
        operation = self.engine.launch_operation
        self.launch = operation.launch if self.engine.launcher.reads_tensors else self._launch_plain
        return self.launch(*call)

    def _launch_plain(self, *call: Any) -> bool:
        return bool(self.engine.launch_operation.launch(*_as_plain(call)))

    # ------------------------------------------------------------------ the long way

    def attend(
        self,
        q: object,
        k: object,
        v: object,
        softmax_scale: object,
        causal: object,
        return_lse: object,
        out: object = None,
        lse: torch.Tensor | None = None,
    ) -> Result:
        """Check everything, then compute; `lse` may be given by those who poison it first."""
        request = check(q, k, v, softmax_scale, causal, out)
        if not isinstance(return_lse, bool):
            raise InputTypeError(f"return_lse must be True or False, got {return_lse!r}.")
        sizes = request.call.sizes
        if sizes["head_dim_v"] != sizes["head_dim"] and "head_dim_v" not in self.engine.binding.sizes:
            raise UnsupportedInputError(
                f"v must have the head_dim of q and k in this module, got {sizes['head_dim_v']} and "
                f"{sizes['head_dim']}. Pad the smaller with zeros."
            )
        self._warn_of_emulation(request.key)
        result = request.out
        if return_lse and lse is None:
            lse = torch.empty(request.lse_shape, dtype=torch.float32, device=request.q.device)
        if 0 in (*request.out_shape, request.k.shape[1]):
            result = request.q.new_empty(request.out_shape) if result is None else result
            result.zero_()
            if lse is not None:
                lse.fill_(-torch.inf)
        else:
            result = self._compute(request, lse)
        return (result, lse) if return_lse and lse is not None else result

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
        kernel = self.engine.kernel_for(request.key, request.call)
        arguments = (*inputs, written, lse, request.softmax_scale, self._flags(request), None)
        if not self.engine.launcher.reads_tensors:
            arguments = _as_plain(arguments)
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

    def _flags(self, request: Request) -> int:
        return flag_bits(self.engine.binding, request.call.flags)

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
                stacklevel=4,
            )


def make_flash_attn_func(attention: Attention) -> AttentionFunction:
    """Return `flash_attn_func` for a module. The names it uses are bound here, once, for speed."""
    empty_like, empty, float32 = torch.empty_like, torch.empty, torch.float32
    tensor_type = torch.Tensor

    def flash_attn_func(
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        softmax_scale: float | None = None,
        causal: bool = False,
        return_lse: bool = False,
        out: torch.Tensor | None = None,
    ) -> Result:
        """Compute softmax(softmax_scale * q k^T) v, exactly, without forming the scores in memory.

        Args:
            q: [batch, seqlen_q, num_heads_q, head_dim], float16 or bfloat16, any strides.
            k: [batch, seqlen_k, num_heads_kv, head_dim]; num_heads_q is a multiple of num_heads_kv.
            v: like k.
            softmax_scale: factor on the scores, positive; None is head_dim ** -0.5.
            causal: query i sees key j when j <= i + seqlen_k - seqlen_q (last query on last key).
            return_lse: return the log-sum-exp of the scaled scores too.
            out: written and returned if given; like q, any strides, apart from the inputs in memory.

        Returns:
            out, [batch, seqlen_q, num_heads_q, head_dim] of q's dtype; or (out, lse), lse float32
            [batch, num_heads_q, seqlen_q], natural logarithm. A row that sees no key is 0, its lse -inf.

        Raises:
            UnsupportedInputError: if an argument is of a kind that no kernel takes.
            NoKernelError: if no kernel was built for this; the last line says how to build it.
            LaunchError, DriverError, TableError: if the launch, the driver or a file fails.
        """
        usual = type(q) is tensor_type and (causal is False or causal is True)
        usual = usual and (return_lse is False or return_lse is True)
        if usual and (softmax_scale is None or (type(softmax_scale) is float and 0.0 < softmax_scale <= MAX_SCALE)):
            lse = None
            try:
                if out is None:
                    result = empty_like(q)
                elif type(out) is tensor_type and not out.requires_grad and not out.is_neg():
                    result = out
                else:
                    return attention.attend(q, k, v, softmax_scale, causal, return_lse, out)
                if return_lse:
                    batch, seqlen_q, num_heads, _ = q.shape if q.dim() == 4 else (0, 0, 0, 0)
                    lse = empty((batch, num_heads, seqlen_q), dtype=float32, device=q.device)
            except RuntimeError:  # such as a tensor without a shape, or no memory: the long way says what it is
                return attention.attend(q, k, v, softmax_scale, causal, return_lse, out)
            if attention.launch(q, k, v, result, lse, softmax_scale, causal, None):
                if out is not None:
                    mark_written(out)
                return result if lse is None else (result, lse)
        return attention.attend(q, k, v, softmax_scale, causal, return_lse, out)

    # Dynamo leaves a function with this mark alone and breaks the graph, as torch.compiler.disable would, without
    # importing it: what it traced would show the result's allocation and not the launch.
    flash_attn_func._torchdynamo_disable = True  # type: ignore[attr-defined]
    flash_attn_func.__module__ = attention.engine.package
    flash_attn_func.__qualname__ = flash_attn_func.__name__
    return flash_attn_func


def mark_written(tensor: torch.Tensor) -> None:
    """Tell autograd that a tensor was written in place, as torch's own functions with `out` do."""
    if not tensor.is_inference():
        torch.autograd.graph.increment_version(tensor)


def _as_plain(call: tuple[Any, ...]) -> tuple[object, ...]:  # Any: as loose as the launcher's arguments
    """The tensors q, k, v, out, lse of a launch as plain integers, and its stream asked for here."""
    q, k, v, out, lse, *others, _ = call
    grad_enabled = torch.is_grad_enabled()
    tensors = [None if one is None else describe(one, grad_enabled) for one in (q, k, v, out, lse)]
    return (*tensors, *others, _stream_of(q))


def _stream_of(tensor: torch.Tensor) -> int | None:
    if tensor.device.type != "cuda":
        return None
    return int(torch.cuda.current_stream(tensor.device).cuda_stream)


def _layout(tensor: torch.Tensor) -> str:
    return (
        f"{list(tensor.shape)} with strides {list(tensor.stride())} at {tensor.data_ptr() % ALIGNMENT} mod {ALIGNMENT}"
    )
