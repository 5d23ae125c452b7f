"""Check a whole model: its attention by torch, by this module's kernels, and in float64, from one call.

Every call of `torch.nn.functional.scaled_dot_product_attention` inside the model is swapped while it runs, by a
TorchFunctionMode: nothing is patched, and nothing of the model stays changed.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from types import FunctionType
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from .errors import InputTypeError, UnsupportedInputError
from .model_report import GRADIENT_FACTOR, OUTPUT_FACTOR, Compared, Cost, ModelCheck
from .sdpa import ScaledDotProductAttention, autocast, torch_sdpa

FEW = 64
"""Tensors of fewer elements may be right by luck: there torch's error counts as no less than one rounding."""

SLACK = 2.0**-20
"""Times the largest element: what every limit has besides, a few roundings of float32."""

Loss = Callable[[Any], torch.Tensor]  # Any: what the model returns


@dataclass(slots=True)
class _Counts:
    """What became of the calls of one run."""

    fallbacks: Counter[str] = field(default_factory=Counter)
    swapped: Counter[torch.dtype] = field(default_factory=Counter)
    texts: dict[str, str] = field(default_factory=dict)


class _Swap(TorchFunctionMode):  # type: ignore[misc]  # Any: torch is not followed
    """Sends torch's attention elsewhere, without dropout, while it is entered."""

    def __init__(self, sdpa: ScaledDotProductAttention | None, counts: _Counts) -> None:
        super().__init__()
        self._sdpa, self._counts = sdpa, counts

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function is torch.nn.functional.multi_head_attention_forward:
            return _unhandled(function, scaled_dot_product_attention=self._attend)(*args, **kwargs)
        return (self._attend if function is torch_sdpa else function)(*args, **kwargs)

    def _attend(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
        return self.attend({**dict(zip(names, args, strict=False)), **kwargs, "dropout_p": 0.0})

    def attend(self, call: dict[str, Any]) -> torch.Tensor:  # Any: arguments by name
        """Compute a call."""
        if self._sdpa is None:
            return torch_sdpa(**call)
        out, reason = self._sdpa.attend(**call)
        if reason is None:
            self._counts.swapped[out.dtype] += 1
        else:
            self._counts.fallbacks[reason.kind] += 1
            self._counts.texts.setdefault(reason.kind, reason.text)
        return out


class _Judge(_Swap):
    """Judges each call by itself, on the inputs that it gets with kernels before it."""

    def __init__(self, sdpa: ScaledDotProductAttention, backward: bool) -> None:
        super().__init__(sdpa, _Counts())
        self._ours, self._backward = sdpa, backward
        self.compared: list[Compared] = []
        self._number = 0

    def attend(self, call: dict[str, Any]) -> torch.Tensor:
        names = ("query", "key", "value")
        tensors, mask = autocast([call[name] for name in names], call.get("attn_mask"))
        call = {**call, **dict(zip(names, tensors, strict=True)), "attn_mask": mask}
        out, reason = self._ours.attend(**call)
        number, self._number = self._number, self._number + 1
        if reason is None:
            exact = {name: one.double() if _is_real(one) else one for name, one in call.items()}
            ours, theirs = (self._gradients(attend, call) for attend in (self._by_kernels, torch_sdpa))
            reference, unit = self._gradients(torch_sdpa, exact), torch.finfo(out.dtype).eps / 2
            for name, want in reference.items():
                factor = OUTPUT_FACTOR if name == "out" else GRADIENT_FACTOR
                title = f"{number} {name}"
                self.compared += _compare(
                    "call", {title: theirs[name]}, {title: ours[name]}, {title: want}, factor, unit
                )
        return out

    def _by_kernels(self, **call: Any) -> torch.Tensor:
        return self._ours.attend(**call)[0]

    def _gradients(self, attend: Callable[..., torch.Tensor], call: dict[str, Any]) -> dict[str, torch.Tensor]:
        """The result of a call, and gradients of its sum with random weights."""
        leaves = {name: call[name].detach().requires_grad_(self._backward) for name in ("query", "key", "value")}
        with torch.enable_grad():
            out = attend(**{**call, **leaves})
        found = {"out": out.detach()}
        if self._backward:
            weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(self._number))
            weights = weights.bfloat16().to(out.device, out.dtype)  # so that every dtype has the same
            grads = torch.autograd.grad(out, list(leaves.values()), weights)
            found |= dict(zip(leaves, grads, strict=True))
        return found


def _is_real(value: object) -> bool:
    return isinstance(value, torch.Tensor) and value.is_floating_point()


def _unhandled(function: Any, **names: object) -> Any:
    """A copy of a function of torch's that hands itself to no mode, which would be left for all that runs inside it.

    `names` are seen inside it in place of its own.
    """
    seen = {**function.__globals__, "has_torch_function": lambda _: False, **names}
    copied = FunctionType(function.__code__, seen, function.__name__)
    copied.__defaults__, copied.__kwdefaults__ = function.__defaults__, function.__kwdefaults__
    return copied


@dataclass(frozen=True, slots=True, kw_only=True)
class _Run:
    """Outputs and gradients of one run, by name."""

    outputs: dict[str, torch.Tensor]
    gradients: dict[str, torch.Tensor]
    cost: Cost


def check_model(
    sdpa: ScaledDotProductAttention,
    model: torch.nn.Module,
    batch: object,
    *,
    loss: Loss | None = None,
    dtype: torch.dtype | None = None,
    backward: bool = True,
    repeats: int = 3,
) -> ModelCheck:
    """Run a model with torch's attention and with this module's kernels, and judge both against float64.

    Each call is judged by itself, with its gradients, and then the model as a whole, where an error of one call may be
    lost among other roundings, or grow. The model runs as in evaluation (no dropout); its training flags, gradients and
    random state come back as they were. The reference is a float64 copy: memory for one must be free.

    Args:
        model: calls `torch.nn.functional.scaled_dot_product_attention`; not compiled.
        batch: a tensor, a tuple of positional or a mapping of named arguments of the model.
        loss: makes a scalar of what the model returns; None: its `loss`, the scalar itself if it returns one, or a sum
            of its outputs with fixed random weights.
        dtype: run under torch.autocast of it, as a float32 model needs; None: as the model is.
        backward: also compare gradients, of parameters and of inputs that require them.
        repeats: runs on a GPU that are timed, after one that is not. On the CPU the only run is.

    Raises:
        InputTypeError: if the model is none, or `dtype` is none that kernels take.
        UnsupportedInputError: if the model has no tensors, or does not run in float64.
    """
    if dtype not in (None, torch.float16, torch.bfloat16):
        raise InputTypeError(f"dtype must be None, torch.float16 or torch.bfloat16, which kernels take, got {dtype!r}.")
    device = _device_of(model, batch)
    shared = {"loss": loss, "backward": backward, "device": device}
    counts = _Counts()
    with _as_it_was(model, device):
        cast = torch.autocast(device.type, dtype) if dtype is not None else nullcontext()
        with cast:
            before = _run(model, batch, _Swap(None, _Counts()), repeats=repeats, label="measured", **shared)
            label = "measured" if device.type == "cuda" else "in the emulator: not comparable"
            after = _run(model, batch, _Swap(sdpa, counts), repeats=repeats, label=label, counts=counts, **shared)
            judge = _Judge(sdpa, backward)
            with judge, torch.no_grad():
                _call(model, batch)
        reference = _in_float64(model, batch, shared)
    unit = max((torch.finfo(one).eps / 2 for one in counts.swapped), default=0.0)
    texts = {counts.texts[kind]: number for kind, number in counts.fallbacks.items()}
    num_swapped = sum(counts.swapped.values())
    return ModelCheck(
        model=type(model).__name__,
        device=str(device) if device.type == "cpu" else torch.cuda.get_device_name(device),
        dtype=_dtype_name(model, dtype),
        num_calls=num_swapped + sum(texts.values()),
        num_swapped=num_swapped,
        fallbacks=texts,
        compared=[
            *judge.compared,
            *_compare("output", before.outputs, after.outputs, reference.outputs, OUTPUT_FACTOR, unit),
            *_compare("gradient", before.gradients, after.gradients, reference.gradients, GRADIENT_FACTOR, unit),
        ],
        before=before.cost,
        after=after.cost,
    )


def _compare(
    kind: str,
    theirs: Mapping[str, torch.Tensor],
    ours: Mapping[str, torch.Tensor],
    reference: Mapping[str, torch.Tensor],
    factor: float,
    unit: float,
) -> Iterator[Compared]:
    for name, exact in reference.items():
        error, own = _largest_error(ours.get(name), exact), _largest_error(theirs.get(name), exact)
        finite = exact[exact.isfinite()]
        largest = float(finite.abs().max()) if finite.numel() else 0.0
        least = unit * largest if exact.numel() < FEW else 0.0
        limit = factor * max(own, least) + SLACK * largest if own == own else float("nan")
        yield Compared(name=name, kind=kind, ours=error, torch=own, largest=largest, limit=limit)


def _largest_error(found: torch.Tensor | None, exact: torch.Tensor) -> float:
    """NaN if one is where the other is not, or there is no number; an infinity where both have it is no error."""
    if found is None or (exact.numel() and bool(exact.isnan().all())):
        return float("nan")
    found = found.to(exact.device, exact.dtype)
    same = (found == exact) | (found.isnan() & exact.isnan())
    error = (found - exact).abs().masked_fill(same, 0.0)
    return float(error.max()) if error.numel() else 0.0


def _run(
    model: torch.nn.Module,
    batch: object,
    swap: _Swap,
    *,
    loss: Loss | None,
    backward: bool,
    device: torch.device,
    repeats: int,
    label: str,
    counts: _Counts | None = None,
) -> _Run:
    """Run forward and backward, on a GPU several times; calls of the last run are counted."""
    times: list[float] = []
    outputs: dict[str, torch.Tensor] = {}
    gradients: dict[str, torch.Tensor] = {}
    peak = None
    num_runs = 1 + max(repeats, 1) if device.type == "cuda" else 1
    for _ in range(num_runs):
        if counts is not None:
            counts.swapped.clear()
            counts.fallbacks.clear()
        torch.manual_seed(0)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
            torch.cuda.reset_peak_memory_stats(device)
            held = torch.cuda.memory_allocated(device)
        start = time.perf_counter()
        with swap:
            outputs, gradients = _forward_and_backward(model, batch, loss, backward)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
            peak = torch.cuda.max_memory_allocated(device) - held
        times.append(time.perf_counter() - start)
    timed = times[1:] or times
    cost = Cost(seconds=statistics.median(timed), peak_bytes=peak, label=label, repeats=len(timed))
    return _Run(outputs=outputs, gradients=gradients, cost=cost)


def _forward_and_backward(
    model: torch.nn.Module, batch: object, loss: Loss | None, backward: bool
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    inputs = {name: one for name, one in _tensors("input", batch) if one.requires_grad}
    wanted = {**{name: one for name, one in model.named_parameters() if one.requires_grad}, **inputs}
    with torch.enable_grad() if backward else torch.no_grad():
        result = _call(model, batch)
        found = {name: one for name, one in _tensors("", result) if one.is_floating_point()}
        scalar = _scalar(result, found, loss)
        gradients: Sequence[torch.Tensor | None] = ()
        if backward and wanted:
            # With checkpoints the backward pass calls attention again: the mode must see that too.
            gradients = _unhandled(torch.autograd.grad)(scalar, list(wanted.values()), allow_unused=True)
    outputs = {name or "result": one.detach() for name, one in found.items()}
    named = zip(wanted, gradients, strict=bool(gradients))
    return {**outputs, "loss": scalar.detach()}, {name: one for name, one in named if one is not None}


def _call(model: torch.nn.Module, batch: object) -> Any:  # Any: what the model returns
    if isinstance(batch, Mapping):
        return model(**batch)
    return model(*batch) if isinstance(batch, tuple | list) else model(batch)


def _scalar(result: Any, found: Mapping[str, torch.Tensor], loss: Loss | None) -> torch.Tensor:
    if loss is not None:
        scalar = loss(result)
        if not isinstance(scalar, torch.Tensor) or scalar.numel() != 1:
            raise InputTypeError("loss must return a tensor of one element.")
        return scalar.reshape(())
    own = found.get("loss", next(iter(found.values())) if len(found) == 1 else None)
    if own is not None and own.numel() == 1:
        return own.reshape(())
    if not found:
        raise UnsupportedInputError(
            "the model returns no floating-point tensor; give a loss that makes a scalar of it."
        )
    generator = torch.Generator().manual_seed(0)
    total = next(iter(found.values())).new_zeros((), dtype=torch.float64)
    for one in found.values():
        weights = torch.randn(one.shape, generator=generator, dtype=torch.float64).to(one.device)
        total = total + (torch.where(one.isfinite(), one, 0.0).double() * weights).sum()
    return total


def _tensors(name: str, value: object) -> Iterator[tuple[str, torch.Tensor]]:
    """Every tensor inside a value, named by its path."""
    if isinstance(value, torch.Tensor):
        yield name, value
    elif isinstance(value, Mapping):
        for key, one in value.items():
            yield from _tensors(f"{name}.{key}" if name else str(key), one)
    elif isinstance(value, tuple | list):
        for index, one in enumerate(value):
            yield from _tensors(f"{name}[{index}]", one)


def _in_float64(model: torch.nn.Module, batch: object, shared: Mapping[str, Any]) -> _Run:
    exact = copy.deepcopy(model).double()
    for one in exact.parameters():
        one.grad = None
    try:
        return _run(exact, _double(batch), _Swap(None, _Counts()), repeats=0, label="", **shared)
    except RuntimeError as error:
        raise UnsupportedInputError(
            f"{type(model).__name__} does not run in float64, which its errors are judged by: {error}. "
            "Tensors that are neither parameters nor buffers, and casts to a fixed dtype, are what usually stands in "
            "the way."
        ) from error


def _double(value: Any) -> Any:  # Any: the batch, whatever its structure
    if isinstance(value, torch.Tensor):
        if not value.is_floating_point():
            return value
        return value.detach().double().requires_grad_(value.requires_grad)
    if isinstance(value, Mapping):
        return {key: _double(one) for key, one in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(_double(one) for one in value)
    return value


def _device_of(model: torch.nn.Module, batch: object) -> torch.device:
    if not isinstance(model, torch.nn.Module):
        raise InputTypeError(f"model must be a torch.nn.Module, got {type(model).__name__}.")
    tensors = [*model.parameters(), *model.buffers(), *(one for _, one in _tensors("", batch))]
    if not tensors:
        raise UnsupportedInputError("neither the model nor the batch holds a tensor.")
    device: torch.device = tensors[0].device
    return device


def _dtype_name(model: torch.nn.Module, dtype: torch.dtype | None) -> str:
    held = sorted({str(one.dtype).removeprefix("torch.") for one in model.parameters() if one.is_floating_point()})
    name = " and ".join(held) or "no parameters"
    return name if dtype is None else f"{name} under torch.autocast of {str(dtype).removeprefix('torch.')}"


@contextmanager
def _as_it_was(model: torch.nn.Module, device: torch.device) -> Iterator[None]:
    """Evaluation without torch's fused encoder, which calls no function; all flags and random states come back."""
    training = {one: one.training for one in model.modules()}
    backend = getattr(torch.backends, "mha", None)
    fused = backend.get_fastpath_enabled() if backend is not None else False
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        try:
            if backend is not None:
                backend.set_fastpath_enabled(False)
            model.eval()
            yield
        finally:
            if backend is not None:
                backend.set_fastpath_enabled(fused)
            for one, flag in training.items():
                one.training = flag
