"""The dropout mask of a call, on any device: what the kernels draw, position by position.

Philox 4x32 with 7 rounds, counter (offset + (sequence * num_heads + head) * 32 + lane, row / 16, column / 32), key
seed; `lane` and the byte of the result are where an mma fragment holds the element, so that kernels draw 16 bytes at
a time.
Source: FlashAttention-2; Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3".
"""

from __future__ import annotations

import torch

ROUNDS = 7
_MULTIPLIERS = 0xD2511F53, 0xCD9E8D57
_KEY_STEPS = 0x9E3779B9, 0xBB67AE85
_LOW = 0xFFFFFFFF


def keep_mask(
    rng_state: torch.Tensor, num_seqs: int, num_heads: int, seqlen_q: int, seqlen_k: int, keep_threshold: int
) -> torch.Tensor:
    """Return which probabilities are kept, bool [num_seqs, num_heads, seqlen_q, seqlen_k].

    Args:
        rng_state: int64 (seed, offset).
        keep_threshold: of 255; one is kept when its random byte is not above.
    """
    device = rng_state.device
    seed, offset = rng_state[0], rng_state[1]
    row = torch.arange(seqlen_q, device=device)[:, None]
    column = torch.arange(seqlen_k, device=device)[None, :]
    lane = row % 8 * 4 + column % 8 // 2
    head = torch.arange(num_seqs * num_heads, device=device)[:, None, None]
    counter = offset + head * 32 + lane
    words = _philox(seed, counter, row // 16, column // 32)
    word = torch.stack(words).gather(0, (column % 32 // 8).expand_as(words[0])[None])[0]
    byte = word >> (8 * (row % 16 // 8 * 2 + column % 2)) & 255
    return (byte <= keep_threshold).view(num_seqs, num_heads, seqlen_q, seqlen_k)


def _philox(
    seed: torch.Tensor, counter: torch.Tensor, row: torch.Tensor, column: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    """Four words of 32 bits for each counter; 64-bit products wrap around, which leaves both halves right."""
    shape = counter.shape
    c = [counter & _LOW, counter >> 32 & _LOW, row.expand(shape), column.expand(shape)]
    key = [seed & _LOW, seed >> 32 & _LOW]
    for _ in range(ROUNDS):
        a, b = c[0] * _MULTIPLIERS[0], c[2] * _MULTIPLIERS[1]
        c = [b >> 32 & _LOW ^ c[1] ^ key[0], b & _LOW, a >> 32 & _LOW ^ c[3] ^ key[1], a & _LOW]
        key = [one + step & _LOW for one, step in zip(key, _KEY_STEPS, strict=True)]
    return tuple(c)
