"""Run-time sizes that a variant is judged on."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """Sizes of one attention call; lengths in tokens."""

    batch: int
    num_heads_q: int
    num_heads_kv: int
    seqlen_q: int
    seqlen_k: int

    @property
    def name(self) -> str:
        """A short name that is unique among the shapes of a space."""
        return f"b{self.batch}_hq{self.num_heads_q}_hkv{self.num_heads_kv}_q{self.seqlen_q}_k{self.seqlen_k}"
