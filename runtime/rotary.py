"""Rotary position embeddings, by plain torch operations. Source: RoFormer (Su et al. 2021), Section 3.2.2."""

from __future__ import annotations

import torch

from .errors import InputTypeError, UnsupportedInputError


class RotaryEmbedding(torch.nn.Module):  # type: ignore[misc]  # Any: torch is not followed
    """Turns pairs of elements of each head by an angle that grows with the position.

    Pair i of position p turns by p * base ** (-2 i / dim). It has no parameters and no entries in a state dict: cosines
    and sines are kept in float32 on the device of the last call, for as many positions as were asked for, and are made
    again for another device or more positions. What is turned is rounded once, to its own dtype.

    Args:
        dim: elements of each head that are turned, its first ones; even.
        base: positive.
        interleaved: pairs are neighbours (0, 1), (2, 3), ... as in RoFormer and GPT-J; False: (0, dim / 2),
            (1, dim / 2 + 1), ... as in GPT-NeoX and Hugging Face's Llama.

    Raises:
        UnsupportedInputError: if `dim` is not even and positive, or `base` not positive.
    """

    def __init__(self, dim: int, base: float = 10000.0, interleaved: bool = False) -> None:
        super().__init__()
        if not isinstance(dim, int) or dim < 2 or dim % 2:
            raise UnsupportedInputError(f"dim of rotary embeddings must be even and positive, got {dim!r}.")
        if not base > 0:
            raise UnsupportedInputError(f"base of rotary embeddings must be positive, got {base!r}.")
        self.dim, self.base, self.interleaved = dim, float(base), bool(interleaved)
        self._table: tuple[torch.Tensor, torch.Tensor] | None = None

    def extra_repr(self) -> str:
        return f"dim={self.dim}, base={self.base:g}, interleaved={self.interleaved}"

    def forward(
        self, x: torch.Tensor, positions: torch.Tensor | None = None, num_positions: int | None = None
    ) -> torch.Tensor:
        """Return x turned, of its shape and dtype.

        Args:
            x: [..., seqlen, num_heads, head_dim], floating point; elements from `dim` on stay as they are.
            positions: int64 [seqlen], from 0 on; None: 0, 1, 2, ...
            num_positions: more than the largest of `positions`, so that a GPU need not be asked; None: seqlen, which
                is also what positions of packed sequences stay below.

        Raises:
            UnsupportedInputError: if x has another shape or is not floating point.
        """
        if not x.is_floating_point():
            raise InputTypeError(f"rotary embeddings turn floating-point tensors, got {x.dtype}.")
        if x.dim() < 3 or x.shape[-1] < self.dim:
            raise UnsupportedInputError(
                f"rotary embeddings of {self.dim} elements take [..., seqlen, num_heads, head_dim] with a head_dim of "
                f"at least {self.dim}, got {list(x.shape)}."
            )
        seqlen = x.shape[-3]
        cos, sin = self._cos_sin(seqlen if num_positions is None else num_positions, x.device)
        rows = slice(seqlen) if positions is None else positions
        cos, sin = cos[rows, None], sin[rows, None]  # [seqlen, 1, dim / 2]
        turned = x[..., : self.dim].to(torch.promote_types(x.dtype, torch.float32))
        one, other = (turned[..., 0::2], turned[..., 1::2]) if self.interleaved else turned.chunk(2, dim=-1)
        pair = one * cos - other * sin, one * sin + other * cos
        turned = torch.stack(pair, dim=-1).flatten(-2) if self.interleaved else torch.cat(pair, dim=-1)
        turned = turned.to(x.dtype)
        return turned if self.dim == x.shape[-1] else torch.cat([turned, x[..., self.dim :]], dim=-1)

    def _cos_sin(self, num_positions: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosines and sines [at least num_positions, dim / 2], float32, of angles computed in float64."""
        held = self._table
        if held is not None and held[0].device == device and held[0].shape[0] >= num_positions:
            return held
        enough = num_positions if held is None else max(num_positions, 2 * held[0].shape[0])
        with torch.inference_mode(False), torch.no_grad():  # inference tensors could not be used in training later
            exponents = torch.arange(0, self.dim, 2, dtype=torch.float64, device=device) / self.dim
            positions = torch.arange(enough, dtype=torch.float64, device=device)
            angles = positions[:, None] * self.base**-exponents
            made = angles.cos().float(), angles.sin().float()
        if type(made[0]) is torch.Tensor:  # a fake or traced one must not stay
            self._table = made
        return made
