"""Block-sparse masks: which blocks of keys each block of queries visits, and which keys of a partial block it sees.

Source: FlashAttention (Dao et al. 2022), Section 3.3, block-sparse attention, with partial blocks besides.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from .errors import InputTypeError, UnsupportedInputError

BITS = 32  # keys in a word of a partial block's bits

MaskFunction = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class BlockLists:
    """The blocks that are visited, as kernels read them: of keys for each block of queries, or the other way round.

    Attributes:
        counts: int32 [batch, num_heads, rows], how many are visited; batch and num_heads may be 1 for all.
        lists: int32 [batch, num_heads, rows, columns, 2]: in ascending order the block, and the number of its bits,
            or -1 where all of it is visible; entries from `counts` on mean nothing.
    """

    counts: torch.Tensor
    lists: torch.Tensor

    def tensors(self, batch: int, num_heads: int) -> dict[str, torch.Tensor]:
        """Return them by the names of a binding, for so many sequences and heads."""
        return {
            "block_counts": self.counts.expand(batch, num_heads, -1),
            "block_lists": self.lists.expand(batch, num_heads, -1, -1, -1),
        }


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class BlockMask:
    """A mask over blocks. Make one with `from_dense` or `from_function`.

    Attributes:
        counts: int32 [batch, num_heads, q_blocks], visited blocks of keys; batch and num_heads may be 1 for all.
        lists: int32 [batch, num_heads, q_blocks, k_blocks, 2]: in ascending order the block of keys, and the number
            of its bits or -1 where all of it is visible; entries from `counts` on mean nothing.
        bits: int32 [partial blocks, block_q, block_k / 32]: bit b of word w is set where key 32 w + b is visible.
        block_q, block_k: queries and keys of a block.
        seqlen_q, seqlen_k: what the mask was made for.
    """

    counts: torch.Tensor
    lists: torch.Tensor
    bits: torch.Tensor
    block_q: int
    block_k: int
    seqlen_q: int
    seqlen_k: int
    _by_keys: dict[int, BlockLists] = field(
        default_factory=dict, init=False, repr=False
    )  # by the stream that made them

    @classmethod
    def from_dense(cls, mask: torch.Tensor, block_q: int = 128, block_k: int = 128) -> BlockMask:
        """Make a mask from a boolean tensor, true where a query sees a key.

        Args:
            mask: [seqlen_q, seqlen_k], [num_heads, seqlen_q, seqlen_k] or [batch, num_heads, seqlen_q, seqlen_k];
                batch and num_heads may be 1 for all.
            block_q, block_k: multiples of a kernel's block_m and block_n; block_k of 32 besides.

        Raises:
            UnsupportedInputError: if a shape or size is not possible.
        """
        if not isinstance(mask, torch.Tensor) or mask.dtype != torch.bool:
            found = mask.dtype if isinstance(mask, torch.Tensor) else type(mask).__name__
            raise InputTypeError(f"a dense mask must be a bool tensor, got {found}. Compare, as in mask != 0.")
        if not 2 <= mask.dim() <= 4 or 0 in mask.shape:
            raise UnsupportedInputError(
                "a dense mask must be [seqlen_q, seqlen_k] with num_heads, or batch and num_heads, before, none "
                f"of them 0; got {list(mask.shape)}."
            )
        _check_blocks(block_q, block_k)
        mask = mask.reshape((1,) * (4 - mask.dim()) + tuple(mask.shape))
        seqlen_q, seqlen_k = mask.shape[2:]
        q_blocks, k_blocks = -(-seqlen_q // block_q), -(-seqlen_k // block_k)
        padding = (0, k_blocks * block_k - seqlen_k, 0, q_blocks * block_q - seqlen_q)
        # What lies behind the ends is never visible, so it may count as either for a block's kind.
        blocks = _blocks_of(torch.nn.functional.pad(mask, padding), block_q, block_k)
        inside = torch.nn.functional.pad(torch.ones_like(mask[:1, :1]), padding)
        outside = ~_blocks_of(inside, block_q, block_k)
        is_some = blocks.any(-1).any(-1)
        is_all = (blocks | outside).all(-1).all(-1)
        return cls._from_blocks(is_some, is_all, lambda where: blocks[where], block_q, block_k, seqlen_q, seqlen_k)

    @classmethod
    def from_function(
        cls,
        function: MaskFunction,
        *,
        batch: int = 1,
        num_heads: int = 1,
        seqlen_q: int,
        seqlen_k: int,
        block_q: int = 128,
        block_k: int = 128,
        device: object = None,
    ) -> BlockMask:
        """Make a mask from a function of index tensors that broadcast: (batch, head, query, key) -> bool.

        One block of queries is worked on at a time, so that the whole mask never lies in memory.

        Raises:
            UnsupportedInputError: if a size is not possible, or the function gives no bool tensor.
        """
        _check_blocks(block_q, block_k)
        sizes = {"batch": batch, "num_heads": num_heads, "seqlen_q": seqlen_q, "seqlen_k": seqlen_k}
        for name, size in sizes.items():
            if not isinstance(size, int) or size < 1:
                raise UnsupportedInputError(f"{name} of a mask must be a positive whole number, got {size!r}.")
        k_blocks = -(-seqlen_k // block_k)
        b = torch.arange(batch, device=device)[:, None, None, None]
        h = torch.arange(num_heads, device=device)[None, :, None, None]
        keys = torch.arange(k_blocks * block_k, device=device)
        some, every, partial = [], [], []
        for first in range(0, seqlen_q, block_q):
            queries = torch.arange(first, first + block_q, device=device)
            seen = function(b, h, queries[None, None, :, None], keys[None, None, None, :])
            if not isinstance(seen, torch.Tensor) or seen.dtype != torch.bool:
                raise InputTypeError("a mask function must return a bool tensor.")
            seen = seen.expand(batch, num_heads, block_q, k_blocks * block_k)
            inside = (queries < seqlen_q)[:, None] & (keys < seqlen_k)
            blocks = _blocks_of(seen & inside, block_q, block_k)
            outside = ~_blocks_of(inside[None, None], block_q, block_k)
            some.append(blocks.any(-1).any(-1))
            every.append((blocks | outside).all(-1).all(-1))
            where = some[-1] & ~every[-1]
            partial.append((where, blocks[where]))
        is_some, is_all = torch.cat(some, 2), torch.cat(every, 2)
        held = torch.empty((int((is_some & ~is_all).sum()), block_q, block_k), dtype=torch.bool, device=device)
        order = (is_some & ~is_all).flatten().cumsum(0).view(is_some.shape) - 1
        for row, (where, blocks) in enumerate(partial):
            held[order[:, :, row : row + 1][where]] = blocks
        return cls._from_blocks(is_some, is_all, lambda _: held, block_q, block_k, seqlen_q, seqlen_k)

    @classmethod
    def _from_blocks(
        cls,
        is_some: torch.Tensor,
        is_all: torch.Tensor,
        partial_blocks: Callable[[torch.Tensor], torch.Tensor],
        block_q: int,
        block_k: int,
        seqlen_q: int,
        seqlen_k: int,
    ) -> BlockMask:
        is_partial = is_some & ~is_all
        number = torch.where(is_partial, is_partial.flatten().cumsum(0).view(is_partial.shape) - 1, -1)
        by_queries = _lists_of(is_some, number)
        blocks = partial_blocks(is_partial)
        words = blocks.reshape(*blocks.shape[:2], block_k // BITS, BITS).to(torch.int64)
        bits = (words << torch.arange(BITS, device=words.device)).sum(-1)
        if bits.shape[0] == 0:
            bits = torch.zeros(1, block_q, block_k // BITS, dtype=torch.int64, device=words.device)
        signed = torch.where(bits >= 2**31, bits - 2**32, bits).to(torch.int32)
        return cls(
            counts=by_queries.counts,
            lists=by_queries.lists,
            bits=signed.contiguous(),
            block_q=block_q,
            block_k=block_k,
            seqlen_q=seqlen_q,
            seqlen_k=seqlen_k,
        )

    def by_queries(self) -> BlockLists:
        """Return the blocks of keys that each block of queries visits."""
        return BlockLists(counts=self.counts, lists=self.lists)

    def by_keys(self) -> BlockLists:
        """Return the blocks of queries that each block of keys visits, [batch, num_heads, k_blocks, q_blocks].

        The numbers are of the same bits, whose rows stay queries. Made once for a mask and a stream, without waiting
        for a GPU; what is made while a stream is captured holds nothing before the graph runs, so it is not kept.
        """
        is_cuda = self.lists.is_cuda
        stream = torch.cuda.current_stream(self.lists.device).cuda_stream if is_cuda else 0
        if stream in self._by_keys:
            return self._by_keys[stream]
        device, num_k_blocks = self.lists.device, self.lists.shape[3]
        held = torch.arange(num_k_blocks, device=device) < self.counts[..., None]
        place, number = (self.lists[..., index].to(torch.int64) for index in (0, 1))
        # Two more than the number, -1 of whole blocks included, so that 0 stands for blocks that are not visited.
        numbers = torch.zeros_like(number).scatter_reduce_(
            3, torch.where(held, place, 0), torch.where(held, number + 2, 0), "amax"
        )
        turned = numbers.transpose(2, 3)
        made = _lists_of(turned > 0, turned - 2)
        if not (is_cuda and torch.cuda.is_current_stream_capturing()):
            self._by_keys[stream] = made
        return made

    @property
    def density(self) -> float:
        """The share of blocks that are visited."""
        num_blocks: int = self.lists[..., 0].numel()
        return int(self.counts.sum()) / num_blocks

    def to(self, device: object) -> BlockMask:
        """Return the mask on a device."""
        moved = {name: getattr(self, name).to(device) for name in ("counts", "lists", "bits")}
        return BlockMask(
            **moved, block_q=self.block_q, block_k=self.block_k, seqlen_q=self.seqlen_q, seqlen_k=self.seqlen_k
        )

    def to_dense(self) -> torch.Tensor:
        """Return the mask as a bool tensor [batch, num_heads, seqlen_q, seqlen_k]."""
        batch, heads, q_blocks, k_blocks, _ = self.lists.shape
        device = self.lists.device
        words = self.bits[..., None] >> torch.arange(BITS, device=device)
        shown = (words & 1).bool().reshape(self.bits.shape[0], self.block_q, self.block_k)
        every = torch.ones(1, self.block_q, self.block_k, dtype=torch.bool, device=device)
        kinds = torch.cat([every, shown])  # 0: all visible
        held = torch.arange(k_blocks, device=device) < self.counts[..., None]
        number = torch.where(held, self.lists[..., 1].to(torch.int64) + 1, 0)
        blocks = kinds[number] & held[..., None, None]
        place = self.lists[..., 0].to(torch.int64)[..., None, None].expand_as(blocks)
        dense = torch.zeros_like(blocks).scatter_(3, place, blocks)
        dense = dense.transpose(3, 4).reshape(batch, heads, q_blocks * self.block_q, k_blocks * self.block_k)
        return dense[:, :, : self.seqlen_q, : self.seqlen_k]


def _lists_of(is_some: torch.Tensor, number: torch.Tensor) -> BlockLists:
    """Lists of the blocks that are visited and their numbers, from whole rows of blocks."""
    order = torch.argsort((~is_some).to(torch.uint8), dim=-1, stable=True)  # visited blocks first, ascending
    lists = torch.stack([order, number.gather(-1, order)], dim=-1).to(torch.int32)
    return BlockLists(counts=is_some.sum(-1).to(torch.int32), lists=lists.contiguous())


def _check_blocks(block_q: int, block_k: int) -> None:
    for name, size, granule in (("block_q", block_q, 16), ("block_k", block_k, BITS)):
        if not isinstance(size, int) or size < 1 or size % granule:
            raise UnsupportedInputError(f"{name} must be a multiple of {granule}, got {size!r}.")


def _blocks_of(mask: torch.Tensor, block_q: int, block_k: int) -> torch.Tensor:
    """[batch, heads, seqlen_q, seqlen_k] as [batch, heads, q_blocks, k_blocks, block_q, block_k]."""
    batch, heads, seqlen_q, seqlen_k = mask.shape
    return mask.view(batch, heads, seqlen_q // block_q, block_q, seqlen_k // block_k, block_k).transpose(3, 4)
