"""Run-time sizes that a variant is judged on."""

from __future__ import annotations

from dataclasses import dataclass

SPARSE_SHARE = 0.5
"""Of the blocks of a block-sparse call, those that are kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """Sizes of one attention call; lengths in tokens. A window of -1 has no limit on that side."""

    batch: int
    num_heads_q: int
    num_heads_kv: int
    seqlen_q: int
    seqlen_k: int
    window_left: int = -1
    window_right: int = -1

    @property
    def name(self) -> str:
        """A short name that is unique among the shapes of a space."""
        sizes = f"b{self.batch}_hq{self.num_heads_q}_hkv{self.num_heads_kv}_q{self.seqlen_q}_k{self.seqlen_k}"
        sides = (("wl", self.window_left), ("wr", self.window_right))
        return sizes + "".join(f"_{tag}{size}" for tag, size in sides if size >= 0)

    def lengths(self, *, is_varlen: bool) -> tuple[tuple[int, int], ...]:
        """Return the queries and keys of each sequence: alike, or of a varlen call evenly from a quarter to all."""
        if not is_varlen:
            return ((self.seqlen_q, self.seqlen_k),) * self.batch
        quarters = [1 + 3 * (index + 1) / self.batch for index in range(self.batch)]
        return tuple(
            (max(1, round(self.seqlen_q * one / 4)), max(1, round(self.seqlen_k * one / 4))) for one in quarters
        )
