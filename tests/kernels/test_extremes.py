"""Offsets beyond 32 bits, more heads than a grid dimension, no spill anywhere: what small shapes do not show."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

pytestmark = [pytest.mark.nvcc, pytest.mark.filterwarnings("ignore::UserWarning")]


def test_a_batch_stride_over_two_to_the_31_elements_is_followed(every_head_dim):
    """q, k, v and out lie 4 GiB apart from batch to batch; only their own pages are ever touched."""
    shape, batch_stride = (2, 20, 1, 64), 2**31 + 64
    dense = [torch.randn(shape).to(torch.float16) for _ in range(3)]

    def spread() -> torch.Tensor:
        memory = torch.empty(batch_stride + 20 * 64, dtype=torch.float16)  # never filled: pages come when written
        return memory.as_strided(shape, (batch_stride, 64, 64, 1))

    far = [spread().copy_(one) for one in dense]
    out = spread()
    every_head_dim.flash_attn_func(*far, causal=True, out=out)
    assert torch.equal(out, every_head_dim.flash_attn_func(*dense, causal=True))


def test_more_heads_than_65535_are_launched(every_head_dim):
    batch, heads = 22_000, 3
    q, k, v = (torch.randn(batch, 1, heads, 8).to(torch.float16) for _ in range(3))
    out = every_head_dim.flash_attn_func(q, k, v)
    assert torch.equal(out, v)  # one key: its value


def test_no_default_kernel_spills(every_head_dim):
    table = json.loads((Path(every_head_dim.__file__).parent / "kernels" / "table.json").read_text())
    assert len(table["kernels"]) == 64
    assert {name: kernel["spill_bytes"] for name, kernel in table["kernels"].items() if kernel["spill_bytes"]} == {}
