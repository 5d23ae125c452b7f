"""A small GPT over bytes whose attention is a layer of a dispatch module, and the text it learns."""

from __future__ import annotations

import math
import zlib
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from train_gpt_config import Config

NUM_BYTES = 256


def mixed_seed(*numbers: int) -> int:
    """A seed for these numbers, of 32 bits: torch's generator on the CPU reads no more."""
    return zlib.crc32(repr(numbers).encode())


class Block(nn.Module):  # type: ignore[misc]  # Any: torch is not followed
    """Attention and two matrices, each on a residual path."""

    def __init__(self, config: Config, layers: ModuleType) -> None:
        super().__init__()
        one = config.model
        width = one.heads * one.head_dim
        self.before_attention, self.before_matrices = nn.LayerNorm(width), nn.LayerNorm(width)
        is_sparse = bool(config.attention.block_size)  # whose kernels have no dropout
        self.attention = layers.MultiheadAttention(
            width, one.heads, causal=True, dropout=0.0 if is_sparse else one.dropout, rotary_dim=one.head_dim
        )
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.dropout = nn.Dropout(one.dropout)

    def forward(self, x: Tensor, block_mask: Any) -> Tensor:  # Any: the module's BlockMask, or None
        x = x + self.dropout(self.attention(self.before_attention(x), block_mask=block_mask))
        return x + self.dropout(self.down(nn.functional.gelu(self.up(self.before_matrices(x)))))


class GPT(nn.Module):  # type: ignore[misc]
    """A decoder over bytes with rotary embeddings and tied input and output weights."""

    def __init__(self, config: Config, layers: ModuleType) -> None:
        super().__init__()
        one = config.model
        width = one.heads * one.head_dim
        self.bytes = nn.Embedding(NUM_BYTES, width)
        self.blocks = nn.ModuleList(Block(config, layers) for _ in range(one.layers))
        self.last = nn.LayerNorm(width)
        generator = torch.Generator().manual_seed(config.training.seed)
        for name, weight in self.named_parameters():
            if weight.dim() == 2:  # as GPT-2: the residual stream keeps its size
                is_last = name.endswith(("out_proj.weight", "down.weight"))
                deviation = 0.02 / math.sqrt(2 * one.layers) if is_last else 0.02
                if name.endswith("in_proj_weight"):  # scores of deviation 1: attention chooses from the start
                    deviation = width**-0.5
                nn.init.normal_(weight, std=deviation, generator=generator)
            elif name.endswith("bias"):
                nn.init.zeros_(weight)

    def use_flash(self, wanted: bool) -> None:
        """Let kernels compute attention, or torch."""
        for block in self.blocks:
            block.attention.use_flash = wanted

    def forward(self, text: Tensor, block_mask: Any = None) -> Tensor:
        """The mean cross entropy of each next byte in nats; `text` is int64 [batch, context + 1]."""
        x = self.bytes(text[:, :-1])
        for block in self.blocks:
            x = block(x, block_mask)
        logits = self.last(x) @ self.bytes.weight.T
        return cross_entropy(logits.flatten(0, 1).float(), text[:, 1:].flatten())


def make_block_mask(config: Config, module: ModuleType, device: str) -> Any:  # Any: the module's BlockMask, or None
    """Each block sees itself, the one before and the first; what is causal among them is the layer's to say."""
    size, context = config.attention.block_size, config.model.context
    if not size:
        return None

    def seen(_batch: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        behind = query // size - key // size
        return (behind == 0) | (behind == 1) | (key // size == 0) & (behind > 0)

    return module.BlockMask.from_function(
        seen, seqlen_q=context, seqlen_k=context, block_q=size, block_k=size, device=device
    )


class Text:
    """Pieces of a text, drawn by step alone, so that training goes on where it stopped."""

    def __init__(self, data: bytes, config: Config, device: str) -> None:
        values = torch.tensor(list(data), dtype=torch.int64)
        cut = len(values) * 9 // 10
        self.training, self.held_back = values[:cut], values[cut:]
        self.config, self.device = config, device

    def pieces(self, step: int, part: int) -> Tensor:
        """What one forward pass of a step reads, [batch, context + 1]."""
        one = self.config.training
        generator = torch.Generator().manual_seed(mixed_seed(one.seed, step, part))
        last = len(self.training) - self.config.model.context - 1
        starts = torch.randint(last + 1, (one.batch,), generator=generator).tolist()
        return self._stack(self.training, starts)

    def exam(self, count: int = 4) -> Tensor:
        """Pieces of the tenth that is never learnt from, evenly spread."""
        last = len(self.held_back) - self.config.model.context - 1
        return self._stack(self.held_back, [last * index // max(1, count - 1) for index in range(count)])

    def _stack(self, values: Tensor, starts: list[int]) -> Tensor:
        length = self.config.model.context + 1
        return torch.stack([values[start : start + length] for start in starts]).to(self.device)
