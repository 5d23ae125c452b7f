"""Layers, `scaled_dot_product_attention` and `check_model` on a real GPU."""

from __future__ import annotations

import copy

import pytest
import torch

pytestmark = [pytest.mark.gpu, pytest.mark.nvcc]


def tokens(*sizes: int) -> torch.Tensor:
    return torch.randn(*sizes, 64, generator=torch.Generator().manual_seed(0)).bfloat16().cuda()


class Model(torch.nn.Module):
    """A causal call of torch's function between projections."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = torch.nn.Linear(64, 192), torch.nn.Linear(64, 64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, 2, 32)).transpose(1, 3).unbind(2)
        y = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return x + self.out(y.transpose(1, 2).flatten(2))


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_a_model_passes_and_its_time_and_memory_are_measured(trainable, dtype):
    model = (Model() if dtype else Model().bfloat16()).cuda()
    found = trainable.check_model(model, tokens(2, 200).to(model.out.weight.dtype), dtype=dtype)
    assert found.passed, str(found)
    assert found.device == torch.cuda.get_device_name() and (found.num_calls, found.num_swapped) == (1, 1)
    for cost in (found.before, found.after):
        assert cost.label == "measured" and cost.repeats == 3 and cost.seconds > 0 and cost.peak_bytes > 0


@pytest.mark.filterwarnings("error:.*left a call to torch")
def test_the_function_answers_under_autocast_as_torch_does(trainable):
    q, k, v = torch.randn(3, 2, 4, 100, 32, device="cuda").unbind(0)
    with torch.autocast("cuda", torch.bfloat16):
        found = trainable.scaled_dot_product_attention(q, k, v, is_causal=True)
        expected = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
    assert found.dtype == expected.dtype == torch.bfloat16
    torch.testing.assert_close(found, expected, atol=2e-2, rtol=2e-2)


def test_a_layer_agrees_with_the_emulator_and_its_rotary_table_follows_the_device(trainable):
    torch.manual_seed(0)
    layer = trainable.nn.MultiheadAttention(64, 2, causal=True, rotary_dim=32, dtype=torch.bfloat16)
    x = tokens(1, 90)
    results = []
    for one, place in ((layer, "cpu"), (copy.deepcopy(layer).cuda(), "cuda")):
        out = one(x.to(place))
        out.float().square().sum().backward()
        results.append([part.float().cpu() for part in (out, one.in_proj_weight.grad, one.out_proj.weight.grad)])
    for cpu, gpu in zip(*results, strict=True):
        torch.testing.assert_close(gpu, cpu, atol=2e-2 * float(cpu.abs().max()), rtol=2e-2)
    moved = layer.cuda()
    torch.testing.assert_close(moved(x).float().cpu(), results[0][0], atol=2e-2, rtol=2e-2)


def test_packed_sequences_do_not_wait_for_the_gpu(trainable):
    options = {"head_dim": 16, "window_size": (9, 2), "rotary_dim": 8, "dtype": torch.float16, "device": "cuda"}
    layer = trainable.nn.MultiheadAttention(64, 2, **options)
    x, cu_seqlens = tokens(47).half(), torch.tensor([0, 30, 30, 47], dtype=torch.int32, device="cuda")
    with torch.no_grad():
        expected = layer(x, cu_seqlens=cu_seqlens, max_seqlen=30)  # loads kernels, makes the table
        torch.cuda.set_sync_debug_mode("error")
        try:
            found = layer(x, cu_seqlens=cu_seqlens, max_seqlen=30)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(found, expected)
