"""The backward pass on a module's kernels: delta, then dK and dV with a sum of dQ, or dQ by itself.

    delta = rowsum(dO * O)        P = exp(S - lse)        dV = P^T dO        dS = P * (dO V^T - delta)
    dQ = scale * dS K             dK = scale * dS^T Q     dsink = -sum exp(sink - lse) * delta

Where a gradient of lse is given too, delta is less by it. Source: FlashAttention-2 (Dao 2023), Algorithm 2.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch

from .attention import FLAGS, Attention
from .block_mask import BlockMask
from .devices import DeviceKey
from .errors import GradientError
from .inputs import DTYPES, Request, conforming, is_conforming, is_transformed, key_of
from .options import Options
from .routes import BACKWARD, CONVERT, DELTA, QUERY_GRADIENT, Call

INPUTS = ("q", "k", "v", "sink", "bias")
"""What has a gradient."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Plan:
    """What the backward pass needs of a checked call beside its tensors.

    `bias_shape` is that of the bias as it was given, () without; `is_packed`: sequences one after another.
    """

    softmax_scale: float | None
    flags: Mapping[str, bool]
    others: tuple[Mapping[str, bool], ...]
    scalars: Mapping[str, float | int]
    num_seqs: int
    max_seqlen_k: int
    is_packed: bool
    bias_shape: tuple[int, ...]
    block_mask: BlockMask | None
    is_empty: bool

    @property
    def blocks(self) -> tuple[int, ...]:
        """Queries and keys of a block of the block mask; () without."""
        return () if self.block_mask is None else (self.block_mask.block_q, self.block_mask.block_k)

    @property
    def every_flags(self) -> list[Mapping[str, bool]]:
        """The call's flags and those of kernels that compute the same."""
        return [self.flags, *self.others]


def plan_of(request: Request, options: Options) -> Plan:
    """Return the plan of a checked call."""
    lowered, shape = request.lowered, request.shape
    return Plan(
        softmax_scale=request.softmax_scale,
        flags=lowered.flags,
        others=lowered.others,
        scalars=lowered.scalars,
        num_seqs=shape.num_seqs,
        max_seqlen_k=shape.max_seqlen_k,
        is_packed=options.sequences is not None,
        bias_shape=tuple(options.bias.shape) if isinstance(options.bias, torch.Tensor) else (),
        block_mask=options.block_mask,
        is_empty=request.is_empty,
    )


def plain_plan(q: torch.Tensor, k: torch.Tensor, softmax_scale: float | None, causal: bool) -> Plan:
    """Return the plan of a call without any other option, as `plan_of` would of it checked."""
    batch, seqlen_q, seqlen_k = q.shape[0], q.shape[1], k.shape[1]
    flags = {**dict.fromkeys(FLAGS, False), "is_causal": causal}
    return Plan(
        softmax_scale=softmax_scale,
        flags=flags,
        others=({**flags, "is_causal": False, "is_local": True},),
        scalars={
            "window_left": seqlen_k,
            "window_right": 0 if causal else seqlen_q + seqlen_k,
            "attention_chunk": 0,
        },
        num_seqs=batch,
        max_seqlen_k=seqlen_k,
        is_packed=False,
        bias_shape=(),
        block_mask=None,
        is_empty=False,
    )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Saved:
    """The tensors of a forward pass. Of sequences all have one batch entry; `options` are by the binding's names."""

    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    out: torch.Tensor
    lse: torch.Tensor
    options: Mapping[str, torch.Tensor]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Wanted:
    """Which gradients are asked for, and whether they must be bitwise the same each time."""

    q: bool = False
    k: bool = False
    v: bool = False
    sink: bool = False
    bias: bool = False
    is_deterministic: bool = False

    @classmethod
    def strictly(cls, is_deterministic: bool, **wanted: bool) -> Wanted:
        """Return what is wanted; torch's global setting asks for repeatable bits too."""
        return cls(**wanted, is_deterministic=is_deterministic or torch.are_deterministic_algorithms_enabled())

    @property
    def of_keys(self) -> bool:
        """Whether something is asked for that the kernel of dK and dV makes."""
        return self.k or self.v or self.bias

    @property
    def sums_dq(self) -> bool:
        """Whether dQ comes along with dK and dV, by atomics in no fixed order."""
        return self.q and self.of_keys and not self.is_deterministic

    def operations(self) -> list[str]:
        """Return the operations whose kernels this takes."""
        found = [BACKWARD] * self.of_keys + [QUERY_GRADIENT] * (self.q and not self.sums_dq) + [CONVERT] * self.sums_dq
        return [*found, DELTA] if found or self.sink else []


class Backward:
    """Gradients of attention on one module's kernels."""

    def __init__(self, attention: Attention) -> None:
        self._attention = attention

    def require(self, plan: Plan, saved: Saved, wanted: Wanted) -> None:
        """Make sure that there are kernels for gradients of a call, loaded.

        Raises:
            NoKernelError: if there is none; the last line says how to build it.
            GradientError: if this module's kernels do not compute one of them.
        """
        engine, operations = self._attention.engine, wanted.operations()
        dims = saved.q.shape[3], saved.v.shape[3]
        known = (saved.q.device, saved.q.dtype, *dims, *plan.flags.values(), wanted.bias, *plan.blocks, *operations)
        if plan.is_empty or known in engine.trainable:
            return
        for operation in operations:
            engine.kernel_for(key_of(saved.q.device), calls_of_step(operation, plan, saved.q, saved.v))
            missing = "dbias" not in engine.served(operation).tensors
            if operation == BACKWARD and wanted.bias and missing:
                raise GradientError("bias requires a gradient, which this module's kernels do not compute. Detach it.")
        engine.trainable.add(known)

    def run(
        self, plan: Plan, saved: Saved, dout: torch.Tensor | None, dlse: torch.Tensor | None, wanted: Wanted
    ) -> dict[str, torch.Tensor]:
        """Return the gradients that are wanted by name, shaped as `saved`, given those of out and lse, None for zeros.

        Nothing waits for a GPU. Raises as `require` does, and LaunchError.
        """
        try:
            return self._run(plan, saved, dout, dlse, wanted)
        except (RuntimeError, NotImplementedError) as error:
            if not any(is_transformed(one) for one in (dout, dlse)):
                raise
            raise GradientError(
                "Gradients of attention are asked for many at once (is_grads_batched=True, vectorize=True, or vmap "
                "over a backward pass), which this module's kernels do not compute. Ask for them one after another."
            ) from error

    def _run(
        self, plan: Plan, saved: Saved, dout: torch.Tensor | None, dlse: torch.Tensor | None, wanted: Wanted
    ) -> dict[str, torch.Tensor]:
        with torch.no_grad():
            saved = replace(saved, q=conforming(saved.q), k=conforming(saved.k), v=conforming(saved.v))
            delta = self._delta(plan, saved, dout, dlse) if wanted.operations() else None
            found: dict[str, torch.Tensor] = {}
            if wanted.sink and delta is not None:
                found["sink"] = _sink_gradient(saved, delta)
            if plan.is_empty:
                return found | _zeros(plan, saved, wanted)
            if wanted.q or wanted.of_keys:
                assert delta is not None
                dout = torch.zeros_like(saved.out) if dout is None else conforming(dout)
                given = {"q": saved.q, "k": saved.k, "v": saved.v, "dout": dout, "lse": saved.lse, "delta": delta}
                found |= self._of_scores(plan, saved, given, wanted)
            return found

    def _delta(self, plan: Plan, saved: Saved, dout: torch.Tensor | None, dlse: torch.Tensor | None) -> torch.Tensor:
        """Sums of dout * out over rows, less the gradient of lse."""
        if plan.is_empty or dout is None:
            delta = torch.zeros_like(saved.lse)
        else:
            delta = torch.empty_like(saved.lse)
            tensors = {"out": conforming(saved.out), "dout": conforming(dout), "delta": delta}
            self._launch(DELTA, plan, saved, tensors)
        if dlse is None:
            return delta
        # Rows that see nothing: nothing moves their lse, whatever its gradient, which may be no number.
        return torch.where(saved.lse == -torch.inf, delta, delta - dlse)

    def _of_scores(
        self, plan: Plan, saved: Saved, given: Mapping[str, torch.Tensor], wanted: Wanted
    ) -> dict[str, torch.Tensor]:
        """dq, dk, dv and dbias. Rows of packed tensors that no sequence has are not written, and zero."""
        new = torch.zeros_like if plan.is_packed else torch.empty_like
        made: dict[str, torch.Tensor] = {}
        if wanted.of_keys:
            made |= {"dk": _like(saved.k, new), "dv": _like(saved.v, new)}
            if wanted.sums_dq:
                made["dq_sum"] = torch.zeros(saved.q.shape, dtype=torch.float32, device=saved.q.device)
            if wanted.bias:
                # What repeats bit by bit has an element for each sequence and head, summed below in a fixed order.
                full = saved.options["bias"].shape
                shape = full if wanted.is_deterministic else plan.bias_shape
                made["dbias"] = torch.zeros(shape, dtype=torch.float32, device=saved.q.device).expand(full)
            self._launch(BACKWARD, plan, saved, {**given, **made})
            if wanted.bias:
                made["dbias"] = _as_given(made["dbias"], plan.bias_shape, is_shared=not wanted.is_deterministic)
        if wanted.q:
            made["dq"] = _like(saved.q, new if not wanted.sums_dq else torch.empty_like)
            if wanted.sums_dq:
                self._launch(CONVERT, plan, saved, {"dq_sum": made["dq_sum"], "dq": made["dq"]})
            else:
                self._launch(QUERY_GRADIENT, plan, saved, {**given, "dq": made["dq"]})
        return {name: made[f"d{name}"] for name in ("q", "k", "v", "bias") if getattr(wanted, name)}

    def _launch(self, operation: str, plan: Plan, saved: Saved, tensors: Mapping[str, torch.Tensor]) -> None:
        scalars = {**plan.scalars, "softmax_scale": plan.softmax_scale}
        if plan.is_packed:
            scalars["max_seqlen_k"] = plan.max_seqlen_k
        lists = _block_lists(operation, plan, saved)

        def calls() -> tuple[DeviceKey, list[Call]]:
            _check_saved(saved)
            return key_of(saved.q.device), calls_of_step(operation, plan, saved.q, saved.v)

        self._attention.launch_step(
            operation,
            {**saved.options, **lists, **tensors},
            scalars,
            {} if operation in (DELTA, CONVERT) else plan.flags,
            calls,
        )


def _block_lists(operation: str, plan: Plan, saved: Saved) -> dict[str, torch.Tensor]:
    """The block mask as the kernel of dK and dV visits it: queries for each block of keys."""
    if plan.block_mask is None or operation != BACKWARD:
        return {}
    return plan.block_mask.by_keys().tensors(plan.num_seqs, saved.q.shape[2])


def _check_saved(saved: Saved) -> None:
    """Refuse what cannot be a call's q, k, v, out and lse, since autograd's own check sees versions alone."""
    tensors = {name: getattr(saved, name) for name in ("q", "k", "v", "out", "lse")}
    *of_queries, _ = saved.out.shape
    batch, seqlen_q, num_heads_q = of_queries
    shapes = [
        (*of_queries, saved.k.shape[-1]),
        (*saved.v.shape[:-1], saved.q.shape[-1]),
        (*saved.k.shape[:-1], saved.out.shape[-1]),
        (*saved.q.shape[:-1], saved.v.shape[-1]),
        (batch, num_heads_q, seqlen_q),
    ]
    fits = all(tuple(one.shape) == shape for one, shape in zip(tensors.values(), shapes, strict=True))
    dtypes = {one.dtype for name, one in tensors.items() if name != "lse"}
    is_there = all(one.data_ptr() or not one.numel() for one in tensors.values())
    if fits and len(dtypes) == 1 and dtypes <= set(DTYPES) and is_there:
        return
    found = ", ".join(
        f"{name} {str(one.dtype).removeprefix('torch.')} {list(one.shape)}{' without memory' * (not one.data_ptr())}"
        for name, one in tensors.items()
    )
    raise GradientError(
        f"What was saved for the backward pass is no longer what the forward pass had: {found}. A .data was replaced, "
        "a storage freed, or a hook on saved tensors gave back something else. Leave q, k and v alone until backward()."
    )


def calls_of_step(operation: str, plan: Plan, q: torch.Tensor, v: torch.Tensor) -> list[Call]:
    """Return what a kernel of the backward pass is chosen by: equivalent calls."""
    batch, seqlen_q, num_heads_q, head_dim = q.shape
    _, seqlen_k, num_heads_kv, head_dim_v = v.shape
    sizes = {
        **{"batch": batch, "seqlen_q": seqlen_q, "seqlen_k": seqlen_k, "num_heads_q": num_heads_q},
        **{"num_heads_kv": num_heads_kv, "head_dim": head_dim, "head_dim_v": head_dim_v, "num_seqs": plan.num_seqs},
    }
    of_rows = operation in (DELTA, CONVERT)
    return [
        Call(
            operation=operation,
            dtype=DTYPES[q.dtype],
            flags={} if of_rows else flags,
            sizes=sizes,
            multiples={} if of_rows else dict(zip(("block_m", "block_n"), plan.blocks, strict=False)),
        )
        for flags in plan.every_flags[: 1 if of_rows else None]
    ]


def _like(tensor: torch.Tensor, new: Callable[..., torch.Tensor]) -> torch.Tensor:
    """A new tensor laid out as `tensor` is where that is dense, which a kernel can write."""
    made = new(tensor)
    return made if is_conforming(made) else new(tensor, memory_format=torch.contiguous_format)


def _as_given(dbias: torch.Tensor, shape: tuple[int, ...], *, is_shared: bool) -> torch.Tensor:
    """The gradient of a bias in the shape in which it was given; `is_shared`: one element is the sum already."""
    for dim, size in enumerate(shape):
        if dbias.shape[dim] != size:
            dbias = dbias.narrow(dim, 0, 1) if is_shared else dbias.sum(dim, keepdim=True)
    return dbias


def _sink_gradient(saved: Saved, delta: torch.Tensor) -> torch.Tensor:
    """-sum exp(sink - lse) * delta over sequences and queries, float32, in a fixed order."""
    sink = saved.options["sink"][None, :, None]
    weight = torch.where(sink == -torch.inf, 0.0, torch.exp(sink - saved.lse))
    terms = weight * delta
    ends = saved.options.get("q_ends")
    if ends is not None:  # behind the last sequence lse and delta are of no row
        inside = torch.arange(terms.shape[2], device=terms.device) < ends[-1]
        terms = torch.where(inside, terms, 0.0)
    return -terms.sum((0, 2))


def _zeros(plan: Plan, saved: Saved, wanted: Wanted) -> dict[str, torch.Tensor]:
    every = {"q": saved.q, "k": saved.k, "v": saved.v}
    found = {name: torch.zeros_like(tensor) for name, tensor in every.items() if getattr(wanted, name)}
    return found | ({"bias": saved.q.new_zeros(plan.bias_shape)} if wanted.bias else {})
