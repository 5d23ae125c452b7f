"""Gradients through layers, `scaled_dot_product_attention` and `check_model`, of real kernels on the emulator."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch.utils.checkpoint import checkpoint

pytestmark = [pytest.mark.nvcc, pytest.mark.filterwarnings("ignore:CPU tensors run")]

FACTOR, SLACK = 3.0, 2.0**-12  # of torch's own error, and of the largest element where torch is right by luck
torch_sdpa = torch.nn.functional.scaled_dot_product_attention


def assert_near(
    found: Mapping[str, torch.Tensor], theirs: Mapping[str, torch.Tensor], exact: Mapping[str, torch.Tensor]
) -> None:
    """Each tensor is no further from float64 than three times torch's at the same dtype."""
    assert found.keys() == theirs.keys() == exact.keys()
    for name, want in exact.items():
        error, own = ((one[name].double() - want).abs().max() for one in (found, theirs))
        assert error <= FACTOR * own + SLACK * want.abs().max(), (name, float(error), float(own))


def layer_gradients(layer: Any, inputs: tuple[torch.Tensor, ...], **options: Any) -> dict[str, torch.Tensor]:
    """The result and gradients of a sum of it with random weights."""
    leaves = [one.detach().clone().requires_grad_() for one in inputs]
    out = layer(*leaves, **options)
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(5)).to(out.dtype)
    parameters = dict(layer.named_parameters())
    grads = torch.autograd.grad((out * weights).sum(), [*leaves, *parameters.values()])
    return {"out": out.detach(), **dict(zip([*map(str, range(len(leaves))), *parameters], grads, strict=True))}


def assert_layer_is_right(layer: Any, inputs: tuple[torch.Tensor, ...], **options: Any) -> None:
    theirs, exact = copy.deepcopy(layer), copy.deepcopy(layer).double()
    theirs.use_flash = exact.use_flash = False
    assert_near(
        layer_gradients(layer, inputs, **options),
        layer_gradients(theirs, inputs, **options),
        layer_gradients(exact, tuple(one.double() for one in inputs), **options),
    )


def tokens(*sizes: int, dtype: torch.dtype = torch.bfloat16, seed: int = 0) -> torch.Tensor:
    return torch.randn(*sizes, 64, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"causal": True, "num_heads_kv": 1},
        {"causal": True, "rotary_dim": 32},
        {"rotary_dim": 16, "rotary_interleaved": True, "num_heads_kv": 1},
        {"causal": True, "sink": True, "softmax_scale": 0.3},
    ],
    ids=str,
)
def test_a_layer_has_torchs_gradients(trainable, options):
    layer = trainable.nn.MultiheadAttention(64, 2, dtype=torch.bfloat16, **options)
    assert_layer_is_right(layer, (tokens(2, 45),))


@pytest.mark.parametrize("seqlen_k", [20, 70])
def test_memory_has_gradients_too(trainable, seqlen_k):
    layer = trainable.nn.MultiheadAttention(64, 2, causal=True, dtype=torch.bfloat16)
    assert_layer_is_right(layer, (tokens(2, 45), tokens(2, seqlen_k, seed=1)))


def test_sequences_one_after_another_have_gradients(trainable):
    options = {"head_dim": 16, "window_size": (9, 2), "rotary_dim": 8, "dtype": torch.float16}
    layer = trainable.nn.MultiheadAttention(64, 2, **options)
    cu_seqlens = torch.tensor([0, 30, 30, 47], dtype=torch.int32)
    assert_layer_is_right(layer, (tokens(47, dtype=torch.float16),), cu_seqlens=cu_seqlens, max_seqlen=30)


def test_a_block_mask_has_gradients(trainable):
    dense = torch.rand(150, 150, generator=torch.Generator().manual_seed(0)) < 0.2
    mask = trainable.BlockMask.from_dense(dense | torch.eye(150, dtype=torch.bool), 128, 128)
    layer = trainable.nn.MultiheadAttention(64, 2, head_dim=16, dtype=torch.float16)
    assert_layer_is_right(layer, (tokens(1, 150, dtype=torch.float16),), block_mask=mask)


def test_dropout_of_a_layer_is_drawn_from_torchs_generator(trainable):
    layer = trainable.nn.MultiheadAttention(64, 2, head_dim=16, dropout=0.5, dtype=torch.float16)
    x = tokens(2, 33, dtype=torch.float16)
    found = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        with torch.random.fork_rng():
            found.append(layer_gradients(layer, (x,)))
    assert torch.equal(found[0]["out"], found[1]["out"]) and not torch.equal(found[0]["out"], found[2]["out"])
    torch.testing.assert_close(found[0]["in_proj_weight"], found[1]["in_proj_weight"])  # atomics, in any order


# ------------------------------------------------------------------ scaled_dot_product_attention


def call_gradients(function: Any, inputs: Mapping[str, torch.Tensor], **options: Any) -> dict[str, torch.Tensor]:
    leaves = {name: one.detach().clone().requires_grad_() for name, one in inputs.items()}
    out = function(**leaves, **options)
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(5)).to(out.dtype)
    grads = torch.autograd.grad((out * weights).sum(), list(leaves.values()))
    return {"out": out.detach(), **dict(zip(leaves, grads, strict=True))}


def assert_call_is_right(module: Any, inputs: Mapping[str, torch.Tensor], **options: Any) -> dict[str, torch.Tensor]:
    exact = {name: one.double() for name, one in inputs.items()}
    found = call_gradients(module.scaled_dot_product_attention, inputs, **options)
    assert_near(found, call_gradients(torch_sdpa, inputs, **options), call_gradients(torch_sdpa, exact, **options))
    return found


def made(dtype: torch.dtype, **shapes: tuple[int, ...]) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=generator).to(dtype) for name, shape in shapes.items()}


@pytest.mark.filterwarnings("error:.*left a call to torch")
@pytest.mark.parametrize(
    ("seqlen_q", "seqlen_k", "is_causal"), [(40, 40, True), (20, 50, True), (50, 20, True), (33, 47, False)]
)
def test_calls_have_torchs_gradients(trainable, seqlen_q, seqlen_k, is_causal):
    shapes = {"query": (2, 4, seqlen_q, 32), "key": (2, 2, seqlen_k, 32), "value": (2, 2, seqlen_k, 32)}
    found = assert_call_is_right(trainable, made(torch.bfloat16, **shapes), is_causal=is_causal, enable_gqa=True)
    if is_causal and seqlen_q < seqlen_k:
        assert not found["key"][:, :, seqlen_q:].any() and not found["value"][:, :, seqlen_q:].any()


@pytest.mark.filterwarnings("error:.*left a call to torch")
@pytest.mark.parametrize("shape", [(1, 1, 20, 31), (2, 3, 20, 31), (20, 31), (1, 31)])
def test_a_mask_that_is_learnt_has_a_gradient(trainable, shape):
    three = {"query": (2, 3, 20, 16), "key": (2, 3, 31, 16), "value": (2, 3, 31, 16)}
    assert_call_is_right(trainable, made(torch.float16, **three, attn_mask=shape))


@pytest.mark.filterwarnings("error:.*left a call to torch")
def test_hidden_rows_and_keys_have_no_gradient_and_no_nan(trainable):
    inputs = made(torch.float16, query=(1, 2, 20, 16), key=(1, 2, 31, 16), value=(1, 2, 31, 16))
    mask = torch.rand(20, 31, generator=torch.Generator().manual_seed(0)) < 0.5
    mask[3], mask[:, 30] = False, False
    found = assert_call_is_right(trainable, inputs, attn_mask=mask)
    assert not found["out"][:, :, 3].any() and not found["query"][:, :, 3].any()
    assert not found["key"][:, :, 30].any() and not found["value"][:, :, 30].any()


def test_a_missing_backward_kernel_is_left_to_torch_in_words(trainable):
    inputs = made(torch.bfloat16, query=(1, 1, 9, 16), key=(1, 1, 9, 16), value=(1, 1, 9, 16))
    with pytest.warns(trainable.FallbackWarning, match="--backward"):  # forward alone has kernels
        found = call_gradients(trainable.scaled_dot_product_attention, inputs, is_causal=True)
    expected = call_gradients(torch_sdpa, inputs, is_causal=True)
    assert all(torch.equal(one, expected[name]) for name, one in found.items())


# ------------------------------------------------------------------ check_model


class Model(torch.nn.Module):
    """A causal call between projections, by torch's function."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = torch.nn.Linear(64, 192), torch.nn.Linear(64, 64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, 2, 32)).transpose(1, 3).unbind(2)
        y = torch_sdpa(q, k, v, is_causal=True)
        return x + self.out(y.transpose(1, 2).flatten(2))


def test_what_a_checkpoint_computes_again_is_swapped_too(trainable):
    class Checkpointed(Model):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = checkpoint(super().forward, x, use_reentrant=False)
            return found

    x = tokens(2, 50).requires_grad_()
    found = trainable.check_model(Checkpointed().bfloat16(), x)
    assert found.passed, str(found)
    assert (found.num_calls, found.num_swapped) == (2, 2)


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_a_model_passes_with_its_gradients(trainable, dtype):
    model = Model() if dtype else Model().bfloat16()
    found = trainable.check_model(model, tokens(2, 50, dtype=next(model.parameters()).dtype), dtype=dtype)
    assert found.passed, str(found)
    assert (found.num_calls, found.num_swapped) == (1, 1)
    assert {one.name for one in found.compared if one.kind == "gradient"} == set(dict(model.named_parameters()))
    assert [one.name for one in found.compared if one.kind == "call"] == ["0 out", "0 query", "0 key", "0 value"]
    assert all(one.ours > 0 and one.torch > 0 for one in found.compared if one.kind == "call")
