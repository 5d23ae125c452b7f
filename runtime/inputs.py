"""What a call of attention may look like: every argument is checked here, each fault in its own words."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass, replace

import torch
from torch.autograd import forward_ad

from .devices import CPU_KEY, DeviceKey
from .errors import GradientError, InputTypeError, UnsupportedInputError
from .launcher import CPU, CUDA, PlainTensor, in_forward_mode
from .options import CallShape, LoweredOptions, Options, check_offsets, lower_options
from .routes import FORWARD, Call

DTYPES = {torch.float16: "fp16", torch.bfloat16: "bf16"}
MAX_SCALE = (2 - 2**-23) * 2.0**127 * math.log(2)
"""Kernels fold log2(e) into softmax_scale: the product must be a finite float32."""

HEAD_DIM_STEP = 8  # elements of 2 bytes: rows begin 16-byte aligned
ALIGNMENT = 16  # bytes a tensor's first element is aligned to; and 8 elements of 2 bytes for its strides

_DLPACK_CODES = {
    torch.float16: 2 << 8 | 16,
    torch.bfloat16: 4 << 8 | 16,
    torch.float32: 2 << 8 | 32,
    torch.int32: 0 << 8 | 32,
    torch.int64: 0 << 8 | 64,
}
_DEVICE_CODES = {"cpu": CPU, "cuda": CUDA}
_AXES = "[batch, seqlen, num_heads, head_dim]"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Request:
    """A checked call. No tensor in it has a pending sign; `softmax_scale` None is head_dim ** -0.5.

    Of sequences, q, k, v and out have one batch entry that holds them all, and `lse` is [1, num_heads_q, total_q].
    """

    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    out: torch.Tensor | None
    softmax_scale: float | None
    lowered: LoweredOptions
    shape: CallShape
    key: DeviceKey
    call: Call

    @property
    def out_shape(self) -> tuple[int, ...]:
        return (*self.q.shape[:3], self.v.shape[3])

    @property
    def lse_shape(self) -> tuple[int, int, int]:
        return self.q.shape[0], self.q.shape[2], self.q.shape[1]

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to launch: no query, or no key."""
        return 0 in (*self.out_shape, self.k.shape[1], self.shape.num_seqs, self.shape.max_seqlen_q)


def check(q: object, k: object, v: object, options: Options, out: object = None) -> Request:
    """Check the arguments of attention; whether autograd must record the call is for those to see who ask.

    Raises:
        UnsupportedInputError: naming the argument, what it is, what is allowed and what to do.
    """
    refuse_tracing()
    tensors = {"q": plain_tensor("q", q), "k": plain_tensor("k", k), "v": plain_tensor("v", v)}
    key = _device_of(tensors)
    dtype = _dtype_of(tensors)
    given_out = None if out is None else plain_tensor("out", out)
    sequences = options.sequences
    if sequences is not None:
        tensors = {name: _one_batch(name, tensor) for name, tensor in tensors.items()}
        given_out = None if given_out is None else _one_batch("out", given_out)
    _check_shapes(tensors)
    _check_tangent(tensors)
    for name, tensor in tensors.items():
        _check_memory(name, tensor)
    resolved = {name: tensor.resolve_neg() for name, tensor in tensors.items()}
    if any(map(is_transformed, resolved.values())):
        raise InputTypeError(
            "Attention is called inside a torch.func transform (grad, vjp, jacrev), which wraps what is made in it, so "
            "that a kernel cannot write its result. Call it outside the transform, and pass the result in."
        )
    batch, seqlen_q, num_heads_q, head_dim = resolved["q"].shape
    _, seqlen_k, num_heads_kv, head_dim_v = resolved["v"].shape
    shape = CallShape(
        num_seqs=batch if sequences is None else sequences.num_seqs,
        num_heads_q=num_heads_q,
        max_seqlen_q=seqlen_q if sequences is None else sequences.max_seqlen_q,
        max_seqlen_k=seqlen_k if sequences is None else sequences.max_seqlen_k,
        dtype=resolved["q"].dtype,
        device=resolved["q"].device,
    )
    lowered = lower_options(options, shape)
    if sequences is not None:
        check_offsets(sequences, seqlen_q, seqlen_k)
    sizes = {
        "batch": batch,
        "seqlen_q": seqlen_q,
        "seqlen_k": seqlen_k,
        "num_heads_q": num_heads_q,
        "num_heads_kv": num_heads_kv,
        "head_dim": head_dim,
        "head_dim_v": head_dim_v,
        "num_seqs": shape.num_seqs,
    }
    mask = options.block_mask
    request = Request(
        **resolved,
        out=given_out,
        softmax_scale=_scale(options.softmax_scale),
        lowered=lowered,
        shape=shape,
        key=key,
        call=Call(
            operation=FORWARD,
            dtype=dtype,
            flags=lowered.flags,
            sizes=sizes,
            multiples={} if mask is None else {"block_m": mask.block_q, "block_n": mask.block_k},
        ),
    )
    if request.out is not None:
        _check_out(request, request.out)
    return request


def calls_of(request: Request) -> list[Call]:
    """Return the call and those that compute the same by other kernels."""
    return [request.call, *(replace(request.call, flags=flags) for flags in request.lowered.others)]


def _one_batch(name: str, tensor: torch.Tensor) -> torch.Tensor:
    if tensor.dim() != 3:
        raise UnsupportedInputError(
            f"{name} of sequences must have 3 dimensions [total, num_heads, head_dim], got {list(tensor.shape)}."
        )
    return tensor.unsqueeze(0)


def plain_tensor(name: str, value: object) -> torch.Tensor:
    """Return the argument if it is a tensor with memory of its own."""
    if not isinstance(value, torch.Tensor):
        raise InputTypeError(f"{name} must be a torch.Tensor, got {type(value).__name__}.")
    if type(value) not in (torch.Tensor, torch.nn.Parameter):
        raise InputTypeError(
            f"{name} is a {type(value).__name__}, a subclass of torch.Tensor that a kernel cannot read. "
            "Pass a plain tensor (of a fake or traced tensor there is none: call this function outside the trace)."
        )
    if is_transformed(value):
        raise InputTypeError(
            f"{name} is inside a torch.func transform (vmap, grad, jvp, functionalize), which a kernel cannot enter. "
            "Call the function outside the transform; fold vmap's dimension into batch."
        )
    if value.layout != torch.strided:
        raise InputTypeError(f"{name} has the layout {value.layout}; only torch.strided is supported. Use to_dense().")
    if value.is_nested:
        raise InputTypeError(
            f"{name} is a nested tensor, which a kernel cannot read. Use torch.nested.to_padded_tensor."
        )
    return value


def is_transformed(value: object) -> bool:
    """Whether a tensor is what a transform of torch.func, or a vectorised backward pass, holds in place of one."""
    functorch = getattr(torch._C, "_functorch", None)
    if functorch is None or not isinstance(value, torch.Tensor):
        return False
    is_batched = getattr(functorch, "is_legacy_batchedtensor", None)
    return bool(functorch.is_functorch_wrapped_tensor(value) or (is_batched is not None and is_batched(value)))


def _check_memory(name: str, tensor: torch.Tensor) -> None:
    """What a kernel would read or write at address 0 ends the process, or spoils the GPU's context."""
    if tensor.device.type in _DEVICE_CODES and tensor.numel() and not tensor.data_ptr():
        raise UnsupportedInputError(
            f"{name} has no memory: its storage was freed (as sharding does with parameters), or it is a symbolic "
            "zero. Give it memory first, as with .clone()."
        )


def _check_tangent(tensors: dict[str, torch.Tensor]) -> None:
    if in_forward_mode():
        carrying = [name for name, tensor in tensors.items() if forward_ad.unpack_dual(tensor).tangent is not None]
        if carrying:
            raise GradientError(
                f"{', '.join(carrying)} carry a tangent of forward-mode differentiation, which this module's kernels "
                "do not compute. Pass torch.autograd.forward_ad.unpack_dual(tensor).primal."
            )


def refuse_tracing() -> None:
    """A tracer would record the allocation of the result and miss the launch that fills it."""
    proxy_key = getattr(getattr(torch._C, "_TorchDispatchModeKey", None), "PROXY", None)
    under_proxy = proxy_key is not None and torch._C._get_dispatch_mode(proxy_key) is not None
    if under_proxy or torch.jit.is_tracing():
        raise UnsupportedInputError(
            "Attention is called under a tracer (torch.jit.trace, make_fx or torch.export), which cannot record "
            "the kernel's launch. Call it outside the trace, or wrap it in a torch.library.custom_op."
        )


def _device_of(tensors: dict[str, torch.Tensor]) -> DeviceKey:
    devices = {name: tensor.device for name, tensor in tensors.items()}
    first = devices["q"]
    if any(device != first for device in devices.values()):
        found = ", ".join(f"{name} on {device}" for name, device in devices.items())
        raise UnsupportedInputError(f"q, k and v must be on one device, got {found}. Move them with .to(device).")
    if first.type not in _DEVICE_CODES:
        raise UnsupportedInputError(f"q, k and v are on {first}; cuda devices and the CPU (emulated) are supported.")
    return key_of(first)


def key_of(device: torch.device) -> DeviceKey:
    """Return the key of the device of a tensor that a kernel takes: a GPU or the CPU."""
    return CPU_KEY if device.type == "cpu" else DeviceKey(type="cuda", index=device.index)


def _dtype_of(tensors: dict[str, torch.Tensor]) -> str:
    dtypes = {name: tensor.dtype for name, tensor in tensors.items()}
    if len(set(dtypes.values())) != 1 or dtypes["q"] not in DTYPES:
        found = ", ".join(f"{name} {str(dtype).removeprefix('torch.')}" for name, dtype in dtypes.items())
        raise InputTypeError(
            f"q, k and v must be of one dtype, float16 or bfloat16, got {found}. Convert with .to(torch.bfloat16)."
        )
    return DTYPES[dtypes["q"]]


def _check_shapes(tensors: dict[str, torch.Tensor]) -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    found = ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items())
    for name, shape in shapes.items():
        if len(shape) != 4:
            raise UnsupportedInputError(f"{name} must have 4 dimensions {_AXES}, got {list(shape)}.")
    q, k, v = shapes.values()
    if q[0] != k[0] or q[0] != v[0]:
        raise UnsupportedInputError(f"q, k and v must have one batch size, got {found}.")
    if k[:3] != v[:3]:
        raise UnsupportedInputError(f"k and v must agree in batch, seqlen and num_heads, got {found}.")
    if q[3] != k[3]:
        raise UnsupportedInputError(f"q and k must have one head_dim, got {found}.")
    if q[2] == 0 or k[2] == 0 or q[2] % k[2]:
        raise UnsupportedInputError(
            f"num_heads of q must be a multiple of num_heads of k and v, got {q[2]} and {k[2]}: {found}."
        )
    for name, size in (("head_dim", q[3]), ("head_dim of v", v[3])):
        if size == 0:
            raise UnsupportedInputError(f"{name} must be a multiple of 8, got 0: {found}. There is nothing to compute.")
        if size % HEAD_DIM_STEP:
            raise UnsupportedInputError(
                f"{name} must be a multiple of {HEAD_DIM_STEP} where `out` is given, got {size}: {found}. Leave `out` "
                "away, which pads and cuts, or pad q, k and v with zeros to "
                f"{-(-size // HEAD_DIM_STEP) * HEAD_DIM_STEP} (torch.nn.functional.pad) and pass "
                f"softmax_scale={q[3]} ** -0.5."
            )


def _scale(value: object) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InputTypeError(f"softmax_scale must be a number or None, got {type(value).__name__} {value!r}.")
    try:
        number = float(value)
        single = struct.unpack("f", struct.pack("f", number))[0]
    except OverflowError:
        number = single = math.inf
    if not 0 < single <= MAX_SCALE:
        raise UnsupportedInputError(
            f"softmax_scale must be positive and finite in float32, multiplied by log2(e) too, got {value!r}. "
            "For scores of the other sign negate q."
        )
    return number


def _check_out(request: Request, out: torch.Tensor) -> None:
    if tuple(out.shape) != request.out_shape:
        raise UnsupportedInputError(f"out must have the shape {list(request.out_shape)}, got {list(out.shape)}.")
    _check_memory("out", out)
    if out.dtype != request.q.dtype or out.device != request.q.device:
        raise UnsupportedInputError(
            f"out must be {request.q.dtype} on {request.q.device} like q, got {out.dtype} on {out.device}."
        )
    if out.is_neg():
        raise UnsupportedInputError("out has a pending minus sign, so writing it would negate. Use out.resolve_neg().")
    if torch.is_grad_enabled() and out.requires_grad:
        raise GradientError("out requires a gradient, so it cannot be written in place. Use torch.no_grad().")
    if not elements_disjoint(out):
        raise UnsupportedInputError(
            f"out has elements that share memory (shape {list(out.shape)}, strides {list(out.stride())}). "
            "Pass a tensor that is not expanded."
        )
    for name, other in (("q", request.q), ("k", request.k), ("v", request.v)):
        if hulls_meet(out, other) and not proved_apart(out, other):
            raise UnsupportedInputError(f"out overlaps {name} in memory. Pass memory of its own, or leave out away.")


def elements_disjoint(tensor: torch.Tensor) -> bool:
    """Whether no two elements share memory, proved by sorting the strides."""
    extent = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size > 1:
            if stride < extent:
                return False
            extent += stride * (size - 1)
    return True


def _hull(tensor: torch.Tensor) -> tuple[int, int]:
    if tensor.numel() == 0:
        return tensor.data_ptr(), tensor.data_ptr()
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return tensor.data_ptr(), tensor.data_ptr() + (last + 1) * tensor.element_size()


def hulls_meet(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether the bytes between first and last element meet; elements may still be apart."""
    (begin, end), (other_begin, other_end) = _hull(one), _hull(other)
    return begin < other_end and other_begin < end


def proved_apart(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two interleaved tensors, such as slices of one packed buffer, are proved to share no byte.

    With all larger strides multiples of a period, both stay within an interval of residues modulo it.
    """
    periods = {stride * one.element_size() for stride, size in _steps(one) + _steps(other) if stride}
    return any(_apart_modulo(period, one, other) for period in sorted(periods, reverse=True))


def _steps(tensor: torch.Tensor) -> list[tuple[int, int]]:
    return [(stride, size) for stride, size in zip(tensor.stride(), tensor.shape, strict=True) if size > 1]


def _apart_modulo(period: int, one: torch.Tensor, other: torch.Tensor) -> bool:
    intervals = []
    for tensor in (one, other):
        item = tensor.element_size()
        inner = item
        for stride, size in _steps(tensor):
            if stride * item % period:
                inner += stride * item * (size - 1)
        intervals.append((tensor.data_ptr() % period, inner))
    (begin, length), (other_begin, other_length) = intervals
    gap = (other_begin - begin) % period
    return bool(gap >= length and period - gap >= other_length)


def is_conforming(tensor: torch.Tensor) -> bool:
    """Whether a kernel can read or write the tensor in place (docs/module.md)."""
    if tensor.is_contiguous() and tensor.shape[-1] % 8 == 0:  # most are, and this is quicker
        return bool(tensor.data_ptr() % ALIGNMENT == 0)
    steps: list[tuple[int, int]] = list(zip(tensor.stride(), tensor.shape, strict=True))
    if steps[-1][0] != 1 and steps[-1][1] != 1:
        return False
    aligned = bool(tensor.data_ptr() % ALIGNMENT == 0)
    return aligned and all(stride % 8 == 0 for stride, size in steps[:-1] if size > 1)


def conforming(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor that a kernel can read in place: this one, or a copy."""
    tensor = tensor.resolve_neg()
    return tensor if is_conforming(tensor) else tensor.clone(memory_format=torch.contiguous_format)


def describe(tensor: torch.Tensor, grad_enabled: bool = False) -> PlainTensor | torch.Tensor:
    """Return a tensor as plain integers, for a torch without the exchange interface.

    Whatever hides more than its bytes tell is returned as it is, which the launcher then leaves to Python.
    """
    kind = type(tensor)
    if kind is not torch.Tensor and kind is not torch.nn.Parameter:
        return tensor
    code = _DLPACK_CODES.get(tensor.dtype)
    if code is None or (grad_enabled and tensor.requires_grad) or tensor.is_neg():
        return tensor
    try:
        data, strides = tensor.data_ptr(), tensor.stride()
    except (RuntimeError, NotImplementedError):  # without memory or strides: functorch's wrappers, sparse tensors
        return tensor
    device = tensor.device
    return data, code, _DEVICE_CODES.get(device.type, -1), device.index or 0, tensor.shape, strides
