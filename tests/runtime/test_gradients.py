"""Gradients through every public function, on the emulator, against float64 autograd of plain attention."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import pytest
import torch
from plain_attention import plain, plain_sequences

from kernelwright.runtime.dropout import keep_mask

pytestmark = [pytest.mark.nvcc, pytest.mark.filterwarnings("ignore:CPU tensors run")]

Inputs = Mapping[str, torch.Tensor]
FACTOR, ATOL = 3.0, 2e-5  # of plain torch's own error, as FlashAttention's tests of gradients have it


def made(dtype: torch.dtype = torch.bfloat16, **shapes: tuple[int, ...]) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(len(shapes))
    return {name: torch.randn(shape, generator=generator).to(dtype) for name, shape in shapes.items()}


def heads(
    dtype: torch.dtype = torch.bfloat16, head_dim: int = 32, seqlen_q: int = 37, seqlen_k: int = 50, head_dim_v: int = 0
) -> dict[str, torch.Tensor]:
    k = (2, seqlen_k, 2)
    return made(dtype, q=(2, seqlen_q, 4, head_dim), k=(*k, head_dim), v=(*k, head_dim_v or head_dim))


def gradients_of(
    function: Callable[..., tuple[torch.Tensor, torch.Tensor]], inputs: Inputs, dtype: torch.dtype | None
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Gradients of a sum of out and lse with random weights, and out; computed in `dtype`, None as they are."""
    leaves = {name: one.clone().to(dtype or one.dtype).requires_grad_() for name, one in inputs.items()}
    out, lse = function(**leaves)
    generator = torch.Generator().manual_seed(7)
    weights = [torch.randn(one.shape, generator=generator).to(torch.float32) for one in (out, lse)]
    finite = torch.where(lse == -torch.inf, 0.0, lse)
    loss = (out * weights[0].to(torch.bfloat16).to(out.dtype)).sum() + (finite * weights[1].to(lse.dtype)).sum()
    loss.backward()
    return {name: one.grad for name, one in leaves.items()}, out.detach()


def assert_right(
    ours: Callable[..., Any],
    theirs: Callable[..., Any],
    inputs: Inputs,
    dtypes: Mapping[str, torch.dtype] | None = None,
) -> dict[str, torch.Tensor]:
    """Compare gradients with float64's, by plain torch's own error at the inputs' dtype."""
    found, out = gradients_of(ours, inputs, None)
    exact, exact_out = gradients_of(theirs, inputs, torch.float64)
    dtype = next(iter(inputs.values())).dtype
    rough, rough_out = gradients_of(theirs, inputs, dtype)
    pairs = {name: (found[name], exact[name], rough[name]) for name in inputs} | {"out": (out, exact_out, rough_out)}
    for name, (got, want, plain_) in pairs.items():
        assert got.shape == want.shape and (name == "out" or got.dtype == inputs[name].dtype), name
        error, allowed = (got.double() - want).abs().max(), (plain_.double() - want).abs().max()
        assert error <= FACTOR * allowed + ATOL * max(1.0, float(want.abs().max())), (
            name,
            float(error),
            float(allowed),
        )
    return found


@pytest.mark.parametrize("is_deterministic", [False, True])
@pytest.mark.parametrize("causal", [False, True])
def test_flash_attn_func(trainable, causal, is_deterministic):
    def ours(q, k, v):
        return trainable.flash_attn_func(q, k, v, causal=causal, deterministic=is_deterministic, return_lse=True)

    assert_right(ours, lambda q, k, v: plain(q, k, v, causal=causal), heads())


def test_rows_that_see_nothing_have_no_gradient(trainable):
    def ours(q, k, v):
        return trainable.flash_attn_func(q, k, v, causal=True, return_lse=True, softmax_scale=0.3)

    found = assert_right(ours, lambda q, k, v: plain(q, k, v, causal=True, scale=0.3), heads(seqlen_q=70, seqlen_k=9))
    assert (found["q"][:, :61] == 0).all() and found["q"][:, 61:].abs().max() > 0


def test_a_gradient_of_lse_that_is_no_number_does_not_leave_its_row(trainable):
    q, k, v = (one.requires_grad_() for one in heads(seqlen_q=20, seqlen_k=9).values())
    out, lse = trainable.flash_attn_func(q, k, v, causal=True, return_lse=True)
    weight = torch.where(lse.detach() == -torch.inf, torch.nan, 1.0)
    torch.autograd.backward([out, lse], [torch.ones_like(out), weight])
    assert all(one.grad.isfinite().all() for one in (q, k, v))


@pytest.mark.parametrize(
    "case", [{"window": (9, 3)}, {"window": (-1, 4)}, {"chunk": 16}, {"causal": True, "window": (7, -1)}]
)
def test_windows_and_chunks(trainable, case):
    names = {"window": "window_size", "chunk": "attention_chunk", "causal": "causal"}
    given = {names[name]: value for name, value in case.items()}

    def ours(q, k, v):
        return trainable.flash_attn_func(q, k, v, return_lse=True, **given)

    assert_right(ours, lambda q, k, v: plain(q, k, v, **case), heads(torch.float16, 16))


def test_softcap_slopes_and_a_head_dim_of_v(trainable):
    slopes = torch.tensor([0.5, 0.25, 0.1, 0.02])

    def ours(q, k, v):
        return trainable.flash_attn_func(
            q, k, v, causal=True, softcap=5.0, alibi_slopes=slopes, return_lse=True, deterministic=True
        )

    def theirs(q, k, v):
        return plain(q, k, v, causal=True, softcap=5.0, slopes=slopes)

    assert_right(ours, theirs, heads(torch.float16, 16, head_dim_v=24))


@pytest.mark.parametrize("is_deterministic", [False, True])
@pytest.mark.parametrize("shape", [(1, 1), (1, 4), (2, 4), (2, 1)])
def test_a_bias_and_what_shares_it(trainable, shape, is_deterministic):
    inputs = heads(torch.float16, 16, 19, 21) | made(torch.float16, bias=(*shape, 19, 21))

    def ours(q, k, v, bias):
        return trainable.flash_attn_func(q, k, v, bias=bias, return_lse=True, deterministic=is_deterministic)

    assert_right(ours, plain, inputs)


def test_an_expanded_bias_gets_its_gradient_once(trainable):
    inputs = heads(torch.float16, 16, 19, 21) | made(torch.float16, bias=(1, 1, 19, 21))

    def ours(q, k, v, bias):
        return trainable.flash_attn_func(q, k, v, bias=bias.expand(2, 4, 19, 21), return_lse=True)

    assert_right(ours, plain, inputs)


@pytest.mark.parametrize("seqlen_q", [23, 40])
def test_a_sink(trainable, seqlen_q):
    inputs = heads(seqlen_q=seqlen_q, seqlen_k=30) | {"sink": torch.tensor([1.0, -2.0, 0.5, 3.0])}

    def ours(q, k, v, sink):
        return trainable.flash_attn_func(q, k, v, causal=True, sink=sink, return_lse=True)

    assert_right(ours, lambda q, k, v, sink: plain(q, k, v, causal=True, sink=sink), inputs)


def test_a_sink_of_minus_infinity_has_no_gradient(trainable):
    q, k, v = heads(seqlen_q=30, seqlen_k=40).values()
    sink = torch.full((4,), -torch.inf, requires_grad=True)
    trainable.flash_attn_func(q, k, v, causal=True, sink=sink).sum().backward()
    assert torch.equal(sink.grad, torch.zeros(4))


def test_a_sink_of_minus_infinity_is_none_even_for_rows_without_keys(trainable):
    q, k, v = (one.requires_grad_() for one in heads(seqlen_q=30, seqlen_k=10).values())
    sink = torch.tensor([-torch.inf, 0.5, -torch.inf, 1.0])
    out, lse = trainable.flash_attn_func(q, k, v, causal=True, sink=sink, return_lse=True)
    plain_out, plain_lse = trainable.flash_attn_func(q, k, v, causal=True, return_lse=True)
    assert torch.equal(out[:, :, ::2], plain_out[:, :, ::2]) and torch.equal(lse[:, ::2], plain_lse[:, ::2])
    assert (lse[:, ::2, :20] == -torch.inf).all() and (out[:, :20] == 0).all()
    grads = torch.autograd.grad(out.float().square().sum() + lse[:, 1::2].sum(), (q, k, v))
    assert all(one.isfinite().all() for one in grads) and (grads[0][:, :20] == 0).all()


def test_dropout_drops_the_same_in_both_passes(trainable):
    state = torch.tensor([5, 9])
    inputs = heads(torch.float16, 16)
    threshold = int(255 * (1 - 0.3))
    kept = keep_mask(state, 2, 4, 37, 50, threshold)

    def ours(q, k, v):
        return trainable.flash_attn_func(q, k, v, 0.3, rng_state=state, return_lse=True)

    assert_right(ours, lambda q, k, v: plain(q, k, v, kept=kept, keep_scale=1 / 0.7), inputs)


def test_dropout_draws_once_for_both_passes(trainable):
    """A row of v's gradient sums to what was kept in the forward pass."""
    q, k, v = heads(torch.float16, 16).values()
    q, v = torch.zeros_like(q), v.requires_grad_()  # every probability is 1 / seqlen_k
    ones = torch.ones_like(v).requires_grad_()
    torch.manual_seed(3)
    out = trainable.flash_attn_func(q, k, ones, 0.4)
    out.sum().backward()
    assert torch.allclose(ones.grad.float().sum((1, 2)), out.detach().float().sum((1, 2)), rtol=1e-2)
    torch.manual_seed(3)
    assert torch.equal(trainable.flash_attn_func(q, k, ones.detach(), 0.4), out)


CU_Q, CU_K = (torch.tensor(one, dtype=torch.int32) for one in ([0, 20, 20, 33], [0, 11, 15, 40]))


@pytest.mark.parametrize("is_deterministic", [False, True])
@pytest.mark.parametrize(
    "options", [{}, {"causal": True}, {"window": (8, -1)}, {"used": torch.tensor([9, 2, 25], dtype=torch.int32)}]
)
def test_sequences(trainable, options, is_deterministic):
    given = {{"window": "window_size", "used": "seqused_k"}.get(name, name): one for name, one in options.items()}
    inputs = made(torch.float16, q=(33, 4, 16), k=(40, 2, 16), v=(40, 2, 16))

    def ours(q, k, v):
        return trainable.flash_attn_varlen_func(
            q, k, v, CU_Q, CU_K, 20, 25, return_lse=True, deterministic=is_deterministic, **given
        )

    assert_right(ours, lambda q, k, v: plain_sequences(q, k, v, CU_Q, CU_K, **options), inputs)


def test_sequences_with_a_bias_and_a_sink(trainable):
    inputs = made(torch.float16, q=(33, 4, 16), k=(40, 2, 16), v=(40, 2, 16), bias=(3, 1, 20, 25), sink=(4,))

    def ours(q, k, v, bias, sink):
        return trainable.flash_attn_varlen_func(q, k, v, CU_Q, CU_K, 20, 25, return_lse=True, bias=bias, sink=sink)

    def theirs(q, k, v, bias, sink):
        return plain_sequences(q, k, v, CU_Q, CU_K, bias=bias, sink=sink)

    assert_right(ours, theirs, inputs)


@pytest.mark.parametrize("is_deterministic", [False, True])
def test_rows_behind_the_last_sequence_have_no_gradient(trainable, is_deterministic):
    inputs = made(torch.float16, q=(36, 4, 16), k=(44, 2, 16), v=(44, 2, 16))
    leaves = [one.requires_grad_() for one in inputs.values()]
    sink = torch.zeros(4, requires_grad=True)
    out, lse = trainable.flash_attn_varlen_func(
        *leaves, CU_Q, CU_K, 20, 25, deterministic=is_deterministic, sink=sink, return_lse=True
    )
    out.data[33:], lse.data[:, 33:] = torch.nan, torch.nan  # nobody wrote them, nor does this for autograd
    torch.autograd.backward([out], [torch.ones_like(out)])
    for leaf, end in zip(leaves, (33, 40, 40), strict=True):
        assert (leaf.grad[end:] == 0).all() and leaf.grad[:end].abs().max() > 0
    assert sink.grad.isfinite().all() and sink.grad.abs().max() > 0


@pytest.mark.parametrize("kind", ["kvpacked", "qkvpacked", "varlen_kvpacked", "varlen_qkvpacked"])
def test_packed_tensors_get_their_gradient_whole(trainable, kind):
    is_varlen, is_qkv = kind.startswith("varlen"), "qkv" in kind
    at, lead = -3, ((33,) if is_varlen else (2, 33))
    dims, dtype = ((4, 16), torch.float16) if is_varlen else ((4, 32), torch.bfloat16)
    inputs = made(dtype, qkv=(*lead, 3, *dims)) if is_qkv else made(dtype, q=(*lead, *dims), kv=(*lead, 2, *dims))
    function = getattr(trainable, f"flash_attn_{kind}_func")
    lengths = ((CU_Q, 20) if is_qkv else (CU_Q, CU_Q, 20, 20)) if is_varlen else ()

    def ours(**tensors):
        # lse that comes along has +inf in rows without a key, which are not here.
        return function(*tensors.values(), *lengths, causal=True, return_attn_probs=True)[:2]

    def theirs(**tensors):
        q = tensors["q"] if "q" in tensors else tensors["qkv"].select(at, 0)
        k, v = (tensors["qkv"].select(at, i) if is_qkv else tensors["kv"].select(at, i - 1) for i in (1, 2))
        return plain_sequences(q, k, v, CU_Q, CU_Q, causal=True) if is_varlen else plain(q, k, v, causal=True)

    assert_right(ours, theirs, inputs)


@pytest.mark.parametrize("is_deterministic", [False, True])
def test_sparse_attn_func(trainable, is_deterministic):
    seen = torch.rand(2, 4, 140, 300, generator=torch.Generator().manual_seed(2)) < 0.5
    seen[:, :, :128, 128:256] = False
    seen[:, 1:3, 128:, :128] = True
    mask = trainable.BlockMask.from_dense(seen)

    def ours(q, k, v):
        return trainable.sparse_attn_func(q, k, v, mask, return_lse=True, deterministic=is_deterministic)

    inputs = heads(torch.float16, 16, 140, 300)
    assert_right(ours, lambda q, k, v: plain(q, k, v, seen=seen), inputs)


def test_a_head_dim_that_is_padded(trainable):
    def ours(q, k, v):
        return trainable.flash_attn_func(q, k, v, causal=True, return_lse=True)

    assert_right(ours, lambda q, k, v: plain(q, k, v, causal=True), heads(head_dim=29))


# ------------------------------------------------------------------ what autograd may ask


def leaves_of(**shape: Any) -> list[torch.Tensor]:
    return [one.requires_grad_() for one in heads(**shape).values()]


def test_a_gradient_of_the_result_may_lie_anyhow(trainable):
    q, k, v = leaves_of()
    out = trainable.flash_attn_func(q, k, v)
    dense = torch.randn(out.shape).bfloat16()
    shifted = torch.zeros(out.numel() + 1, dtype=out.dtype)[1:].view(out.shape)
    wide = torch.zeros(*out.shape[:3], 2 * out.shape[3], dtype=out.dtype)[..., ::2]
    turned = torch.zeros(out.transpose(1, 3).shape, dtype=out.dtype).transpose(1, 3)
    expected = torch.autograd.grad(out, (q, k, v), dense, retain_graph=True)
    for dout in (
        shifted.copy_(dense),
        wide.copy_(dense),
        turned.copy_(dense),
        torch._neg_view(-dense),
    ):
        found = torch.autograd.grad(out, (q, k, v), dout, retain_graph=True)
        assert all(map(torch.equal, found, expected))
    ones = torch.autograd.grad(out, (q, k, v), torch.ones_like(out), retain_graph=True)
    assert all(map(torch.equal, torch.autograd.grad(out.sum(), (q, k, v)), ones))  # an expanded scalar


def test_inputs_may_lie_anyhow_and_gradients_are_shaped_as_they(trainable):
    inputs = heads(seqlen_q=21, seqlen_k=22)
    expected, _ = gradients_of(lambda q, k, v: trainable.flash_attn_func(q, k, v, return_lse=True), inputs, None)
    for change in (
        lambda one: one.transpose(1, 2).contiguous().transpose(1, 2),
        lambda one: torch.cat([one, one], -1)[..., : one.shape[-1]],
        lambda one: torch.stack([one, one], -1)[..., 0],
        lambda one: one.neg().resolve_neg().neg(),
    ):
        found = {name: change(one).detach().requires_grad_() for name, one in inputs.items()}
        out, lse = trainable.flash_attn_func(*found.values(), return_lse=True)
        generator = torch.Generator().manual_seed(7)
        weights = [torch.randn(one.shape, generator=generator) for one in (out, lse)]
        ((out * weights[0].to(out.dtype)).sum() + (lse * weights[1]).sum()).backward()
        assert all(torch.equal(found[name].grad, expected[name]) for name in inputs)


def test_expanded_keys_get_the_sum(trainable):
    q, k, v = (one[:, :20] for one in heads().values())
    small = k[:1, :, :1].clone().requires_grad_()
    trainable.flash_attn_func(q, small.expand(2, 20, 2, 32), v).float().square().sum().backward()
    whole = small.detach().expand(2, 20, 2, 32).clone().requires_grad_()
    trainable.flash_attn_func(q, whole, v).float().square().sum().backward()
    summed = whole.grad.float().sum((0, 2), keepdim=True)
    assert torch.allclose(small.grad.float(), summed, rtol=2e-2, atol=2e-2 * float(summed.abs().max()))


@pytest.mark.parametrize("shape", [(0, 5, 6), (2, 0, 6), (2, 5, 0)])
def test_empty_inputs_have_empty_or_zero_gradients(trainable, shape):
    batch, seqlen_q, seqlen_k = shape
    q = torch.randn(batch, seqlen_q, 4, 32).bfloat16().requires_grad_()
    k, v = (torch.randn(batch, seqlen_k, 2, 32).bfloat16().requires_grad_() for _ in range(2))
    sink = torch.zeros(4, requires_grad=True)
    out, lse = trainable.flash_attn_func(q, k, v, sink=sink, return_lse=True)
    (out.sum() + lse.sum()).backward()
    assert all((one.grad == 0).all() and one.grad.shape == one.shape for one in (q, k, v))
    assert torch.equal(sink.grad, torch.full((4,), 0.0 if seqlen_k else float(batch * seqlen_q)))


def test_only_lse_may_be_differentiated(trainable):
    inputs = heads()

    def lse_alone(function):
        def run(q, k, v):
            out, lse = function(q, k, v)
            return out.detach() * 0, lse

        return run

    ours = lse_alone(lambda q, k, v: trainable.flash_attn_func(q, k, v, return_lse=True))
    exact, _ = gradients_of(lse_alone(plain), {name: inputs[name] for name in inputs}, torch.float64)
    q, k, v = (one.clone().requires_grad_() for one in inputs.values())
    _, lse = ours(q, k, v)
    generator = torch.Generator().manual_seed(7)
    torch.randn(2, 37, 4, 32, generator=generator)
    (lse * torch.randn(lse.shape, generator=generator)).sum().backward()
    assert (q.grad.double() - exact["q"]).abs().max() < 1e-2 * exact["q"].abs().max()
    assert (k.grad.double() - exact["k"]).abs().max() < 1e-2 * exact["k"].abs().max()
    assert (v.grad == 0).all()


def test_a_second_derivative_is_an_error_and_not_zero(trainable):
    q, k, v = leaves_of()
    out = trainable.flash_attn_func(q, k, v)
    (found,) = torch.autograd.grad(out.sum(), q, create_graph=True)
    with pytest.raises(trainable.GradientError, match="differentiated again"):
        (found.sum() + q.sum()).backward()
    assert torch.equal(found.detach(), torch.autograd.grad(trainable.flash_attn_func(q, k, v).sum(), q)[0])


def test_a_second_derivative_is_not_left_away_where_nothing_else_leads_to_it(trainable):
    q, k, v = leaves_of()
    dout = torch.ones(q.shape, dtype=q.dtype, requires_grad=True)
    for options in ({}, {}, {"sink": torch.zeros(4)}):  # either kind of node
        out = trainable.flash_attn_func(q, k, v, **options)
        found = torch.autograd.grad(out, (q, k), dout, create_graph=True)
        penalty = sum(one.square().sum() for one in found)
        for by in (q, k, v, dout):
            with pytest.raises(trainable.GradientError, match="differentiated again"):
                torch.autograd.grad(penalty + out.sum() + dout.sum(), by, retain_graph=True)
        attend = partial(trainable.flash_attn_func, k=k, v=v, **options)
        with pytest.raises(trainable.GradientError, match="differentiated again"):
            torch.autograd.functional.hvp(lambda one, attend=attend: attend(one).sum(), q, torch.ones_like(q))
    checkpointed = torch.utils.checkpoint.checkpoint(trainable.flash_attn_func, q, k, v, use_reentrant=False)
    (found,) = torch.autograd.grad(checkpointed.sum(), q, create_graph=True)
    with pytest.raises(trainable.GradientError, match="differentiated again"):
        torch.autograd.grad(found.sum(), q)


def test_without_gradients_nothing_is_recorded(trainable):
    q, k, v = leaves_of()
    with torch.no_grad():
        assert trainable.flash_attn_func(q, k, v).grad_fn is None
    assert trainable.flash_attn_func(*(one.detach() for one in (q, k, v))).grad_fn is None


def test_what_was_saved_must_not_be_written(trainable):
    q, k, v = leaves_of()
    doubled = k * 2
    out = trainable.flash_attn_func(q, doubled, v)
    with torch.no_grad():
        doubled += 1
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.sum().backward()


def replaced(one: torch.Tensor) -> None:
    one.data = one.data[:, :5]


def converted(one: torch.Tensor) -> None:
    one.data = one.data.float()


def freed(one: torch.Tensor) -> None:
    one.untyped_storage().resize_(0)


@pytest.mark.parametrize("which", [0, 1, 2])
@pytest.mark.parametrize("change", [replaced, converted, freed])
def test_what_was_saved_and_changed_behind_autograds_back_is_refused_in_words(trainable, change, which):
    inputs = leaves_of()
    for _ in range(2):  # either kind of node
        inputs = leaves_of()
        out = trainable.flash_attn_func(*inputs)
        change(inputs[which])
        with pytest.raises(trainable.GradientError, match="no longer what the forward pass had"):
            out.sum().backward()


def test_many_gradients_at_once_are_refused_in_words(trainable):
    q, k, v = leaves_of()
    for _ in range(2):  # either kind of node
        out, lse = trainable.flash_attn_func(q, k, v, return_lse=True)
        for one in (out, lse):
            with pytest.raises(trainable.GradientError, match="one after another"):
                weights = torch.ones(2, *one.shape, dtype=one.dtype)
                torch.autograd.grad(one, q, weights, is_grads_batched=True, retain_graph=True)


def test_a_learnt_bias_must_not_be_written_either(trainable):
    bias = torch.zeros(1, 1, 37, 50, dtype=torch.float16, requires_grad=True)
    out = trainable.flash_attn_func(*leaves_of(dtype=torch.float16, head_dim=16), bias=bias)
    with torch.no_grad():
        bias += 1
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.sum().backward()


def test_what_was_saved_may_be_packed_away(trainable):
    q, k, v = leaves_of()
    expected = torch.autograd.grad(trainable.flash_attn_func(q, k, v).sum(), (q, k, v))
    with torch.autograd.graph.saved_tensors_hooks(lambda one: one.clone(), lambda one: one):
        out = trainable.flash_attn_func(q, k, v)
    assert all(map(torch.equal, torch.autograd.grad(out.sum(), (q, k, v)), expected))


@pytest.mark.parametrize("use_reentrant", [False, True])
@pytest.mark.parametrize("dropout_p", [0.0, 0.25])
def test_a_checkpoint_gives_the_same_gradients(trainable, use_reentrant, dropout_p):
    q, k, v = (one.requires_grad_() for one in (heads(torch.float16, 16) if dropout_p else heads()).values())
    torch.manual_seed(1)
    expected = torch.autograd.grad(trainable.flash_attn_func(q, k, v, dropout_p).sum(), (q, k, v))
    torch.manual_seed(1)
    out = torch.utils.checkpoint.checkpoint(trainable.flash_attn_func, q, k, v, dropout_p, use_reentrant=use_reentrant)
    out.sum().backward()
    assert all(torch.equal(one.grad, want) for one, want in zip((q, k, v), expected, strict=True))


def test_autocast_casts_as_it_does_for_torchs_own_attention(trainable):
    q, k, v = (one.float().requires_grad_() for one in heads().values())
    with torch.autocast("cpu", torch.bfloat16):
        out = trainable.flash_attn_func(q, k, v)
    assert out.dtype == torch.bfloat16
    out.sum().backward()
    halves = [one.detach().bfloat16().requires_grad_() for one in (q, k, v)]
    trainable.flash_attn_func(*halves).sum().backward()
    for one, half in zip((q, k, v), halves, strict=True):
        assert one.grad.dtype == torch.float32 and torch.equal(one.grad, half.grad.float())
    with torch.autocast("cpu", torch.float16):  # what is of 16 bits stays
        assert trainable.flash_attn_func(*halves).dtype == torch.bfloat16
    with torch.autocast("cpu", torch.float16), pytest.raises(trainable.NoKernelError, match="fp16"):
        trainable.flash_attn_func(halves[0], halves[1], v)
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(trainable.InputTypeError, match="float64"):
        trainable.flash_attn_func(*(one.double() for one in (q, k, v)))


def test_slopes_and_out_have_no_gradient(trainable):
    q, k, v = leaves_of()
    with pytest.raises(trainable.GradientError, match="alibi_slopes requires a gradient"):
        trainable.flash_attn_func(q, k, v, alibi_slopes=torch.zeros(4, requires_grad=True))
    with pytest.raises(trainable.GradientError, match="`out` is written in place"):
        trainable.flash_attn_func(q, k, v, out=torch.empty_like(q))


def test_probabilities_for_looking_at_carry_no_gradient(trainable):
    q, k, v = (one.requires_grad_() for one in heads(torch.float16, 16).values())
    out, lse, probs = trainable.flash_attn_func(q, k, v, 0.2, return_attn_probs=True)
    assert out.requires_grad and lse.requires_grad and not probs.requires_grad


def test_a_head_dim_that_only_forward_kernels_have_says_so_at_once(trainable):
    q, k, v = (one[..., :16].contiguous().requires_grad_() for one in heads().values())
    with pytest.raises(trainable.NoKernelError, match=r"--features causal --backward$"):
        trainable.flash_attn_func(q, k, v, causal=True)
    with torch.no_grad():
        trainable.flash_attn_func(q, k, v, causal=True)
