"""Attention as operators of torch.library: what compilers, modes, fake tensors and transforms make of a call."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts
from torch.utils.flop_counter import FlopCounterMode

pytestmark = [
    pytest.mark.nvcc,
    pytest.mark.filterwarnings("ignore:CPU tensors run"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

CU_Q, CU_K = (torch.tensor(one, dtype=torch.int32) for one in ([0, 20, 20, 33], [0, 11, 15, 40]))
Call = Callable[..., Any]


def random(*shape: int, dtype: torch.dtype = torch.float16) -> torch.Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(shape, generator=generator).to(dtype).requires_grad_()


def heads(
    dtype: torch.dtype = torch.float16, head_dim: int = 16, seqlen_q: int = 19, seqlen_k: int = 21
) -> list[torch.Tensor]:
    return [
        random(2, seqlen_q, 4, head_dim, dtype=dtype),
        *(random(2, seqlen_k, 2, head_dim, dtype=dtype) for _ in "kv"),
    ]


def packed() -> list[torch.Tensor]:
    return [random(33, 4, 16), random(40, 2, 16), random(40, 2, 16)]


STATE = torch.tensor([5, 9])
CALLS: Mapping[str, tuple[Callable[[], list[torch.Tensor]], Callable[[Any], Call]]] = {
    "plain": (lambda: heads(torch.bfloat16, 32), lambda m: lambda q, k, v: m.flash_attn_func(q, k, v, causal=True)),
    "repeatable, with lse": (
        lambda: heads(torch.bfloat16, 32),
        lambda m: lambda q, k, v: m.flash_attn_func(q, k, v, deterministic=True, return_lse=True),
    ),
    "window": (heads, lambda m: lambda q, k, v: m.flash_attn_func(q, k, v, window_size=(7, 2), softmax_scale=0.5)),
    "bias": (
        lambda: [*heads(), random(1, 4, 19, 21)],
        lambda m: lambda q, k, v, bias: m.flash_attn_func(q, k, v, bias=bias),
    ),
    "sink": (
        lambda: [*heads(torch.bfloat16, 32), random(4, dtype=torch.float32)],
        lambda m: lambda q, k, v, sink: m.flash_attn_func(q, k, v, sink=sink, return_lse=True),
    ),
    "dropout": (heads, lambda m: lambda q, k, v: m.flash_attn_func(q, k, v, 0.3, rng_state=STATE)),
    "padded": (
        lambda: heads(torch.bfloat16, 30),
        lambda m: lambda q, k, v: m.flash_attn_func(q, k, v, causal=True),
    ),
    "packed": (
        lambda: [random(2, 19, 3, 4, 32, dtype=torch.bfloat16)],
        lambda m: lambda qkv: m.flash_attn_qkvpacked_func(qkv, causal=True),
    ),
    "sequences": (
        packed,
        lambda m: lambda q, k, v: m.flash_attn_varlen_func(q, k, v, CU_Q, CU_K, 20, 25, causal=True),
    ),
}


def differentiated(call: Call, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
    """Results and gradients of a call."""
    found = call(*inputs)
    results = [found] if isinstance(found, torch.Tensor) else list(found)
    loss = sum((one.float() * torch.arange(one.numel()).view(one.shape).sin()).sum() for one in results)
    return [*(one.detach() for one in results), *torch.autograd.grad(loss, inputs)]


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
@pytest.mark.parametrize("name", CALLS)
def test_a_compiled_call_computes_the_same(trainable, name, backend):
    make, calls = CALLS[name]
    inputs = make()
    call = calls(trainable)
    expected = differentiated(call, inputs)
    torch._dynamo.reset()
    compiled = torch.compile(lambda *inputs: call(*inputs), backend=backend, fullgraph=True)
    assert all(map(torch.equal, differentiated(compiled, inputs), expected))


def test_a_block_mask_is_compiled_in(trainable):
    mask = trainable.BlockMask.from_dense(torch.ones(140, 260, dtype=torch.bool).tril(30))
    inputs = heads(seqlen_q=140, seqlen_k=260)

    def call(q, k, v):
        return trainable.sparse_attn_func(q, k, v, mask)

    torch._dynamo.reset()
    compiled = torch.compile(call, backend="aot_eager", fullgraph=True)
    assert all(map(torch.equal, differentiated(compiled, inputs), differentiated(call, inputs)))


def test_a_call_compiled_once_takes_every_length(trainable):
    torch._dynamo.reset()
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")

    def call(q, k, v):
        return trainable.flash_attn_func(q * 2, k, v, causal=True) + 1

    compiled = torch.compile(call, backend=counter, fullgraph=True, dynamic=True)
    compilations = []
    for seqlen_q, seqlen_k in ((19, 21), (33, 50), (7, 64)):
        inputs = heads(torch.bfloat16, 32, seqlen_q, seqlen_k)
        assert all(map(torch.equal, differentiated(compiled, inputs), differentiated(call, inputs)))
        compilations.append(counter.frame_count)
    assert len(set(compilations)) == 1


def test_dropout_draws_inside_what_is_compiled(trainable):
    q, k, v = (one.detach() for one in heads())
    ones = torch.ones_like(v).requires_grad_()
    torch._dynamo.reset()
    compiled = torch.compile(
        lambda q, k, v: trainable.flash_attn_func(q, k, v, 0.4), backend="aot_eager", fullgraph=True
    )
    out = compiled(torch.zeros_like(q), k, ones)
    out.sum().backward()
    assert torch.allclose(ones.grad.float().sum((1, 2)), out.detach().float().sum((1, 2)), rtol=1e-2)
    assert not torch.equal(compiled(torch.zeros_like(q), k, ones), out)


def test_autocast_is_compiled_in(trainable):
    inputs = [one.detach().float().requires_grad_() for one in heads(torch.bfloat16, 32)]

    def call(q, k, v):
        with torch.autocast("cpu", torch.bfloat16):
            return trainable.flash_attn_func(q, k, v)

    torch._dynamo.reset()
    compiled = torch.compile(call, backend="aot_eager", fullgraph=True)
    assert all(map(torch.equal, differentiated(compiled, inputs), differentiated(call, inputs)))


def test_a_compiled_call_writes_out(trainable):
    q, k, v = (one.detach() for one in heads(torch.bfloat16, 32))
    out = torch.zeros_like(q)
    torch._dynamo.reset()
    compiled = torch.compile(lambda q, k, v, out: trainable.flash_attn_func(q, k, v, out=out), backend="aot_eager")
    assert compiled(q, k, v, out) is out and torch.equal(out, trainable.flash_attn_func(q, k, v))


def test_a_second_derivative_of_a_compiled_call_is_an_error(trainable):
    q, k, v = heads(torch.bfloat16, 32)
    torch._dynamo.reset()
    out = torch.compile(trainable.flash_attn_func, backend="aot_eager", fullgraph=True)(q, k, v)
    with pytest.raises(RuntimeError, match="double backward"):
        torch.autograd.grad(torch.autograd.grad(out.sum(), q, create_graph=True)[0].sum(), q)


def test_a_second_derivative_of_an_operator_is_an_error(trainable):
    q, k, v = heads(torch.bfloat16, 32)
    with FlopCounterMode(display=False):
        out = trainable.flash_attn_func(q, k, v)
        (found,) = torch.autograd.grad(out.sum(), q, create_graph=True)
        with pytest.raises(trainable.GradientError, match="differentiated again"):
            found.sum().backward()


# ------------------------------------------------------------------ the operators themselves


def namespace_of(module: Any) -> Any:
    return getattr(torch.ops, f"kernelwright_{module.__name__}")


@pytest.mark.parametrize("name", ["plain", "bias", "sink", "dropout", "sequences", "window"])
@pytest.mark.parametrize("with_grad", [False, True])
def test_the_operator_passes_torchs_own_checks(trainable, name, with_grad):
    make, calls = CALLS[name]
    inputs = [one.requires_grad_(with_grad) for one in make()]
    seen: list[tuple[Any, ...]] = []

    class Recorder(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func is namespace_of(trainable).attend.default:
                seen.append(args)
            return func(*args, **(kwargs or {}))

    with Recorder():
        calls(trainable)(*inputs)
    (arguments,) = seen
    leaves = [
        one.detach().requires_grad_(one.requires_grad) if isinstance(one, torch.Tensor) else one for one in arguments
    ]
    torch.library.opcheck(namespace_of(trainable).attend.default, tuple(leaves))


def test_two_modules_have_libraries_of_their_own(exchange_fake, new_module):
    first, second = exchange_fake.load(), new_module()
    second.add(), second.write()
    other = second.load()
    spaces = [one._module.entry.operators.namespace for one in (first, other)]
    assert spaces == [f"kernelwright_{one.__name__}" for one in (first, other)]


def test_a_module_imported_anew_gets_a_library_of_its_own(exchange_fake, make_tensors):
    import sys

    first = exchange_fake.load()
    for name in [one for one in sys.modules if one.partition(".")[0] == first.__name__]:
        del sys.modules[name]
    second = exchange_fake.load()
    assert second is not first
    assert second._module.entry.operators.namespace == f"kernelwright_{first.__name__}_2"
    with FlopCounterMode(display=False):
        for one in (first, second):
            one.flash_attn_func(*make_tensors())


# ------------------------------------------------------------------ those who watch


def test_fake_tensors_have_the_shapes_of_results_and_gradients(trainable):
    with FakeTensorMode() as mode:
        q, k, v = (mode.from_tensor(one) for one in heads(torch.bfloat16, 32))
        out, lse = trainable.flash_attn_func(q, k, v, return_lse=True)
        assert isinstance(out, FakeTensor) and out.shape == q.shape and out.dtype == torch.bfloat16
        assert lse.shape == (2, 4, 19) and lse.dtype == torch.float32
        grads = torch.autograd.grad(out.sum() + lse.sum(), (q, k, v))
        assert [one.shape for one in grads] == [one.shape for one in (q, k, v)]
        q, k, v = (mode.from_tensor(one) for one in packed())
        out, lse = trainable.flash_attn_varlen_func(
            q, k, v, *map(mode.from_tensor, (CU_Q, CU_K)), 20, 25, return_lse=True
        )
        assert out.shape == (33, 4, 16) and lse.shape == (4, 33)
    q, k, v = (mode.from_tensor(one) for one in heads(torch.bfloat16, 32))  # outside the mode
    assert isinstance(trainable.flash_attn_func(q, k, v), FakeTensor)


def test_floating_point_operations_are_counted(trainable):
    q, k, v = heads(torch.bfloat16, 32)
    scores = 2 * 4 * 19 * 21
    with FlopCounterMode(display=False) as counter:
        out = trainable.flash_attn_func(q, k, v)
    assert counter.get_total_flops() == 2 * scores * 2 * 32
    with FlopCounterMode(display=False) as counter:
        out = trainable.flash_attn_func(q, k, v)
        out.sum().backward()
    assert counter.get_total_flops() == 2 * scores * 7 * 32
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        trainable.flash_attn_varlen_func(*packed(), CU_Q, CU_K, 20, 25)
    assert counter.get_total_flops() == 2 * 4 * (20 * 11 + 13 * 25) * 2 * 16


def test_watched_gradients_are_those_of_the_short_way(trainable):
    for make, calls in CALLS.values():
        inputs = make()
        expected = differentiated(calls(trainable), inputs)
        with FlopCounterMode(display=False):
            assert all(map(torch.equal, differentiated(calls(trainable), inputs), expected))


@pytest.mark.parametrize(("policy", "times"), [(CheckpointPolicy.MUST_SAVE, 1), (CheckpointPolicy.PREFER_RECOMPUTE, 2)])
def test_a_selective_checkpoint_may_save_or_recompute_the_call(trainable, monkeypatch, policy, times):
    inputs = heads(torch.bfloat16, 32)
    attend, attention = namespace_of(trainable).attend.default, trainable._module.attention
    computed = []
    compute = attention.compute
    monkeypatch.setattr(attention, "compute", lambda *given: computed.append(given) or compute(*given))

    def chosen(ctx, op, *args, **kwargs):
        return policy if op is attend else CheckpointPolicy.PREFER_RECOMPUTE

    def model(q, k, v):
        return trainable.flash_attn_func(q.sin(), k, v, causal=True).cos()

    out = checkpoint(
        model, *inputs, use_reentrant=False, context_fn=lambda: create_selective_checkpoint_contexts(chosen)
    )
    out.sum().backward()
    found = [one.grad for one in inputs]
    assert len(computed) == times
    again = [one.detach().requires_grad_() for one in inputs]
    model(*again).sum().backward()
    assert all(torch.equal(one, other.grad) for one, other in zip(found, again, strict=True))


def test_a_function_mode_sees_the_call(trainable):
    q, k, v = (one.detach() for one in heads(torch.bfloat16, 32))
    seen = []

    class Watcher(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            seen.append(func)
            return func(*args, **(kwargs or {}))

    expected = trainable.flash_attn_func(q, k, v)
    with Watcher():
        assert torch.equal(trainable.flash_attn_func(q, k, v), expected)
    assert namespace_of(trainable).attend.default in seen
    with torch.device("cpu"):
        assert torch.equal(trainable.flash_attn_func(q, k, v), expected)


def test_a_traced_graph_holds_the_operator(trainable):
    from torch.fx.experimental.proxy_tensor import make_fx

    q, k, v = (one.detach() for one in heads(torch.bfloat16, 32))
    graph = make_fx(lambda q, k, v: trainable.flash_attn_func(q, k, v, causal=True))(q, k, v)
    assert namespace_of(trainable).attend.default in [node.target for node in graph.graph.nodes]
    assert torch.equal(graph(q, k, v), trainable.flash_attn_func(q, k, v, causal=True))


def test_export_holds_the_operator(trainable):
    class Model(torch.nn.Module):
        def forward(self, q, k, v):
            return trainable.flash_attn_func(q, k, v, causal=True)

    q, k, v = (one.detach() for one in heads(torch.bfloat16, 32))
    for strict in (False, True):
        torch._dynamo.reset()
        program = torch.export.export(Model(), (q, k, v), strict=strict)
        assert torch.equal(program.module()(q, k, v), trainable.flash_attn_func(q, k, v, causal=True))


def test_transforms_of_torch_func_are_refused_in_words(trainable):
    q, k, v = heads(torch.bfloat16, 32)
    with pytest.raises(trainable.InputTypeError, match=r"torch\.func transform"):
        torch.func.grad(lambda one: trainable.flash_attn_func(one, k, v).sum().float())(q)
    with pytest.raises(trainable.InputTypeError, match=r"torch\.func transform"):
        torch.func.vmap(trainable.flash_attn_func)(*(torch.stack([one, one]) for one in (q, k, v)))
    made = [one.detach() for one in (q, k, v)]
    for inputs in (made, [made[0].clone().requires_grad_(), *made[1:]]):  # it wraps none, but what is made inside it
        with pytest.raises(trainable.InputTypeError, match=r"torch\.func transform"):
            torch.func.grad(lambda x, inputs=inputs: trainable.flash_attn_func(*inputs).sum() * x)(torch.ones(()))
    # What the transform does not hold is as anywhere else.
    seen = torch.func.vmap(lambda one: trainable.flash_attn_func(q.detach(), k.detach(), v.detach()).sum() * one)
    with warnings.catch_warnings():
        assert seen(torch.ones(2, dtype=torch.bfloat16)).shape == (2,)
