"""Bytes and memory of attention in closed form, and what the FlashAttention paper prints of them.

Elements have 2 bytes, row statistics 4. N is seqlen (of queries and keys), d is head_dim; one head unless said.
"""

from __future__ import annotations

from kernelwright.gen.spec import BackwardSchedule, QueryGradientSchedule, Variant

ELEMENT, STATISTIC = 2, 4  # bytes

# Figure 2, left: batch 64, 16 heads, N 1024, d 64, fp16, forward and backward, A100. The two editions differ.
FIGURE_2 = (
    ("arXiv", {"standard_gb": 40.3, "flash_gb": 4.4, "standard_ms": 41.7, "flash_ms": 7.3}),
    ("NeurIPS proceedings", {"standard_gb": 35.3, "flash_gb": 4.4, "standard_ms": 35.1, "flash_ms": 11.7}),
)
FIGURE_2_HEADS = 64 * 16

# Table 21: MiB of forward and backward; batch 16, 8 heads, d 64, fp16: N, PyTorch, FlashAttention.
TABLE_21: tuple[tuple[int, int | None, int], ...] = (
    (128, 36, 22),
    (256, 104, 44),
    (512, 336, 104),
    (1024, 1184, 209),
    (2048, 4416, 418),
    (4096, 17024, 836),
    (8192, None, 1672),
    (65536, None, 13376),
)
TABLE_21_HEADS, TABLE_21_HEAD_DIM = 16 * 8, 64


def kernel_bytes(variant: Variant, seqlen: int, *, heads: int = 1) -> dict[str, int]:
    """Return what our forward kernel asks of global memory: Q, out and lse once, K and V for each block of queries.

    With a causal mask a block of queries reads the key tiles up to its last query's.
    """
    schedule, head_dim = variant.forward, variant.problem.head_dim
    keys = 0
    for start in range(0, seqlen, schedule.block_m):
        seen = min(seqlen, start + schedule.block_m) if variant.problem.is_causal else seqlen
        keys += min(seqlen, -(-seen // schedule.block_n) * schedule.block_n)
    load = ELEMENT * head_dim * (seqlen + 2 * keys)
    store = ELEMENT * head_dim * seqlen + STATISTIC * seqlen
    return {"load": heads * load, "store": heads * store}


def backward_counts(variant: Variant, seqlen: int, *, heads: int = 1) -> dict[str, int]:
    """Return what a backward kernel asks of global memory, and its matrix products' operations.

    `atomic` are the bytes that `flash_bwd` adds to the sum of dQ. With d of q and k and e of v: each visit of a tile
    of queries by a block of keys loads Q and dO and, four lanes to a row of each warp along the keys, lse and
    delta; `flash_bwd_dq` has the loops exchanged.
    """
    problem, schedule = variant.problem, variant.schedule
    d, e = problem.head_dim, problem.head_dim_v
    found = {"load": 0, "store": 0, "atomic": 0, "mma_flops": 0}
    if isinstance(schedule, BackwardSchedule):
        columns = schedule.num_warps // schedule.warps_scores
        for keys, queries in _visits(
            seqlen, schedule.block_n, schedule.block_m, by_keys=True, is_causal=problem.is_causal
        ):
            rows = sum(queries)
            found["load"] += ELEMENT * (d + e) * (keys + rows) + 2 * STATISTIC * 4 * columns * rows
            found["atomic"] += 4 * d * rows
            found["mma_flops"] += 2 * schedule.block_m * schedule.block_n * (3 * d + 2 * e) * len(queries)
        found["store"] = ELEMENT * (d + e) * seqlen
    elif isinstance(schedule, QueryGradientSchedule):
        for queries_here, tiles in _visits(
            seqlen, schedule.block_m, schedule.block_n, by_keys=False, is_causal=problem.is_causal
        ):
            found["load"] += ELEMENT * (d + e) * (queries_here + sum(tiles))
            found["load"] += 2 * STATISTIC * 4 * queries_here * len(tiles)
            found["mma_flops"] += 2 * schedule.block_m * schedule.block_n * (2 * d + e) * len(tiles)
        found["store"] = ELEMENT * d * seqlen
    elif variant.operation == "flash_bwd_delta":
        found |= {"load": 2 * ELEMENT * e * seqlen, "store": STATISTIC * seqlen}
    else:
        found |= {"load": 4 * d * seqlen, "store": ELEMENT * d * seqlen}
    return {name: heads * count for name, count in found.items()}


def _visits(seqlen: int, block: int, tile: int, *, by_keys: bool, is_causal: bool) -> list[tuple[int, list[int]]]:
    """Return for each block of one side its rows and those of every tile of the other that it visits."""
    found = []
    for start in range(0, seqlen, block):
        end = min(seqlen, start + block)
        first = start // tile * tile if by_keys and is_causal else 0
        last = end if is_causal and not by_keys else seqlen
        found.append((end - start, [min(tile, seqlen - at) for at in range(first, last, tile)]))
    return found


def once_bytes(seqlen: int, head_dim: int) -> int:
    """Return the traffic of Q, out and lse."""
    return 2 * ELEMENT * seqlen * head_dim + STATISTIC * seqlen


def compulsory_bytes(seqlen: int, head_dim: int) -> int:
    """Return the traffic of q, k, v, out and lse, each once: no method moves less."""
    return once_bytes(seqlen, head_dim) + 2 * ELEMENT * seqlen * head_dim


def standard_bytes(seqlen: int, head_dim: int) -> int:
    """Return the traffic of the paper's algorithm 0: scores and probabilities are written and read again."""
    return ELEMENT * (4 * seqlen * seqlen + 4 * seqlen * head_dim)


def flash1_bytes(seqlen: int, head_dim: int, block_c: int) -> int:
    """Return the traffic of the paper's algorithm 2: keys outside, so out and statistics move for each key tile."""
    tiles = -(-seqlen // block_c)
    return (2 + 3 * tiles) * ELEMENT * seqlen * head_dim + 4 * tiles * STATISTIC * seqlen


def standard_backward_bytes(seqlen: int, head_dim: int) -> int:
    """Return the traffic of the paper's algorithm 3."""
    return ELEMENT * (7 * seqlen * seqlen + 8 * seqlen * head_dim)


def flash1_backward_bytes(seqlen: int, head_dim: int, block_c: int) -> int:
    """Return the traffic of the paper's algorithm 4."""
    tiles = -(-seqlen // block_c)
    return (4 + 5 * tiles) * ELEMENT * seqlen * head_dim + 2 * tiles * STATISTIC * seqlen


def table_21_bytes(seqlen: int) -> tuple[int, int]:
    """Return PyTorch's and FlashAttention's memory of table 21; this reconstruction gives every printed figure."""
    rows = TABLE_21_HEADS * seqlen
    nd, nn = ELEMENT * rows * TABLE_21_HEAD_DIM, ELEMENT * rows * seqlen
    return 4 * nn + 10 * nd, (13 if seqlen > 256 else 11) * nd + 2 * STATISTIC * rows
