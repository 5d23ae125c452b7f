"""Markdown and a plot of what benchmarks/io_complexity.py counts. matplotlib is the extra `plots`."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from io_complexity_forms import (
    FIGURE_2,
    FIGURE_2_HEADS,
    STATISTIC,
    TABLE_21,
    TABLE_21_HEAD_DIM,
    TABLE_21_HEADS,
    compulsory_bytes,
    flash1_backward_bytes,
    flash1_bytes,
    standard_backward_bytes,
    standard_bytes,
    table_21_bytes,
)

Json = dict[str, Any]  # Any: it is JSON
PICTURE = "io_complexity.png"
_OURS, _STANDARD, _FLASH1, _OTHER = "#4269d0", "#ff725c", "#efb118", "#9498a0"
_MIB, _GB = 2**20, 1e9
_CANNOT = """\
## What this does not reproduce

- **Runtime curves** (the milliseconds of figure 2, the speed-up tables): they need a GPU. `python benchmarks/device.py`
  measures ours. Bytes counted here are no prediction of a time.
- **HBM bytes of a device**: counted are the bytes a kernel asks of global memory. A cache answers part of them: K and V
  of one head at N = 1024, d = 64 are 256 KiB, which an L2 of some MB keeps. HBM moves at least each
  tensor once (0.54 GB at figure 2's sizes) and, but for sectors used in part, at most what is counted.
- **Forward and backward together in table 21**: the memory counted there is our forward's. A backward pass has two fp32
  numbers a row (lse and delta) and, unless it is asked to repeat bit by bit, an fp32 sum of dQ beside its results.
- **The GFLOPs of figure 2** (66.6 and 75.2): the stated sizes give 824.6 and 962.1 by counting matrix products.
"""


def markdown(result: Json, pictures: Sequence[str]) -> str:
    """Return the results as Markdown."""
    parts = [
        "# FlashAttention's IO complexity, counted\n\n"
        "    python benchmarks/io_complexity.py\n\n"
        "`counted`: bytes that the generated sm80 fp16 kernels ask of global memory, by the emulator. `closed form`: "
        "computed, nothing ran. `printed`: taken from FlashAttention (Dao et al. 2022). No figure here is a time.\n\n"
        "One (sequence, head) unless said; N is seqlen_q = seqlen_k, d is head_dim, M the shared memory of a thread "
        "block. Ours holds Q's tile and runs over K and V, so the tile that M bounds is block_m; the paper's "
        "algorithm 2 holds K's and V's, so there it is B_c.\n",
        *([f"![bytes against N, M, tile; memory]({name})\n" for name in pictures]),
        _equality(result["grid"]),
        _slopes(result["sweeps"]),
        _blocks(result["blocks"]),
        _memory(result["grid"]),
        _backward(result["backward"], result["blocks"]),
        _CANNOT,
    ]
    return "\n".join(parts)


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines)


def _equality(grid: Sequence[Json]) -> str:
    kernels: dict[str, list[Json]] = {}
    for row in grid:
        kernels.setdefault(row["variant"], []).append(row)
    rows = []
    for name, found in sorted(kernels.items()):
        sizes = [_size(row) for row in sorted(found, key=lambda each: (each["batch"], each["seqlen"]))]
        moved = sum(sum(row["counted"].values()) for row in found)
        formed = sum(sum(row["closed_form"].values()) for row in found)
        equal = "yes" if all(row["equal"] for row in found) else "**no**"
        rows.append([f"`{name}`", ", ".join(sizes), f"{moved:,}", f"{formed:,}", equal])
    equal = sum(row["equal"] for row in grid)
    return (
        f"## 1. Counted bytes equal the closed form\n\n{equal} of {len(grid)} launches, loads and stores each to the "
        "byte. With T = ceil(N / block_m) and no mask: loads 2 (1 + 2 T) N d, stores 2 N d + 4 N bytes. With the "
        "causal mask a block of queries reads only the key tiles it sees.\n\n"
        + _table(["kernel", "N", "bytes (counted)", "bytes (closed form)", "equal"], rows)
    )


def _size(row: Json) -> str:
    many = row["batch"] * row["num_heads"] > 1
    return f"{row['seqlen']} ({row['batch']} sequences, {row['num_heads']} heads)" if many else str(row["seqlen"])


def _slopes(sweeps: Sequence[Json]) -> str:
    rows = [
        [
            one["name"],
            ", ".join(f"{x:,}" for x in one["x"]),
            one["expected"]["ours"],
            f"{one['fitted']['ours_k_v']:.3f}",
            f"{one['fitted']['ours']:.3f}",
            one["expected"]["standard"],
            f"{one['fitted']['standard']:.3f}",
        ]
        for one in sweeps
    ]
    head = ["bytes against", "sizes", "theory", "ours, K and V (counted)", "ours, all (counted)"]
    head += ["theory, standard", "standard (closed form)"]
    return (
        "## 2. Slopes of log bytes\n\nFlashAttention moves Theta(N^2 d^2 / M) bytes, standard attention "
        "Theta(N d + N^2) whatever M is. Slopes are least squares on logarithms. The theorem's term is the traffic of "
        "K and V: all that is counted, less Q, out and lse once; with these the slope is flatter at such sizes, "
        "as standard attention's is with N d. M is exactly 4 d block_m bytes in the first three: the K and V tiles "
        "take as much as Q's.\n\n" + _table(head, rows)
    )


def _blocks(blocks: Sequence[Json]) -> str:
    seqlen, head_dim = blocks[0]["seqlen"], blocks[0]["head_dim"]
    columns = sorted({one["block_n"] for one in blocks})
    counted = {(one["block_m"], one["block_n"]): one["counted"] for one in blocks}
    rows = []
    for block in sorted({one["block_m"] for one in blocks}):
        cells = [_gb(counted[block, n]) if (block, n) in counted else "-" for n in columns]
        rows.append([block, *cells, _gb(flash1_bytes(seqlen, head_dim, block))])
    head = ["tile", *(f"ours, block_n {n} (counted)" for n in columns), "paper's algorithm 2 (closed form)"]
    printed = "".join(
        f"- {edition}, printed: standard {one['standard_gb']} GB in {one['standard_ms']} ms, FlashAttention "
        f"{one['flash_gb']} GB in {one['flash_ms']} ms, forward and backward on an A100\n"
        for edition, one in FIGURE_2
    )
    backward = ", ".join(
        f"{_gb(flash1_bytes(seqlen, head_dim, c) + flash1_backward_bytes(seqlen, head_dim, c))} at B_c = {c}"
        for c in (256, 384)
    )
    both = standard_bytes(seqlen, head_dim) + standard_backward_bytes(seqlen, head_dim)
    return (
        f"## 3. Bytes against the tile\n\nGB of a forward pass, {FIGURE_2_HEADS} heads (counted on one, and bytes are "
        f"linear in heads), N = {seqlen}, d = {head_dim}; figure 2 of the paper has N = 1024, d = 64. `tile` is "
        "block_m of ours and B_c of the paper's algorithm 2. block_n changes no byte of ours.\n\n"
        + _table(head, rows)
        + f"\nBeside it, forward: standard attention (algorithm 0) {_gb(standard_bytes(seqlen, head_dim))} GB (closed "
        f"form); once: each tensor once, {_gb(compulsory_bytes(seqlen, head_dim))} GB (closed form). In the paper:\n\n"
        + printed
        + f"- the same, closed form of its algorithms: standard (0 and 3) {_gb(both)} GB, FlashAttention (2 and 4) "
        f"{backward}; they have neither mask nor dropout, and the paper does not say how it got the printed bytes\n"
    )


def _gb(bytes_of_a_head: int) -> str:
    return f"{bytes_of_a_head * FIGURE_2_HEADS / _GB:.2f}"


def memory_rows(grid: Sequence[Json]) -> list[Json]:
    """Return extra memory in bytes by N, and whether a launch counted it, in the setting of table 21.

    A launch writes out and lse and, under the memory check, touches nothing else; what it wrote beside out is counted.
    """
    lone = [row for row in grid if row["batch"] * row["num_heads"] == 1]
    counted = {row["seqlen"]: row["extra_memory"]["counted"] for row in lone}
    rows = []
    for seqlen, torch_mib, flash_mib in TABLE_21:
        torch_bytes, flash_bytes = table_21_bytes(seqlen)
        rows.append(
            {
                "seqlen": seqlen,
                "lse": TABLE_21_HEADS * counted.get(seqlen, STATISTIC * seqlen),
                "is_counted": seqlen in counted,
                "matrix": TABLE_21_HEADS * 2 * seqlen * seqlen,
                "total": TABLE_21_HEADS * (8 * seqlen * TABLE_21_HEAD_DIM + STATISTIC * seqlen),
                "printed": {"torch": torch_mib, "flash": flash_mib},
                "reconstructed": {"torch": torch_bytes, "flash": flash_bytes},
            }
        )
    return rows


def _memory(grid: Sequence[Json]) -> str:
    rows = [
        [
            one["seqlen"],
            f"{one['lse'] / _MIB:.4g} ({'counted' if one['is_counted'] else 'closed form'})",
            f"{one['matrix'] / _MIB:,.0f}",
            f"{one['matrix'] // one['lse']:,}",
            f"{one['total'] / _MIB:,.4g}",
            "-" if one["printed"]["torch"] is None else f"{one['printed']['torch']:,}",
            f"{one['reconstructed']['torch'] / _MIB:,.0f}",
            f"{one['printed']['flash']:,}",
            f"{one['reconstructed']['flash'] / _MIB:,.0f}",
        ]
        for one in memory_rows(grid)
    ]
    head = [
        "N",
        "ours beside q, k, v, out: lse",
        "an N x N matrix (closed form)",
        "ratio",
        "q, k, v, out, lse (closed form)",
    ]
    head += ["PyTorch (printed)", "PyTorch (closed form)", "FlashAttention (printed)", "FlashAttention (closed form)"]
    return (
        f"## 4. Memory\n\nMiB, {TABLE_21_HEADS} heads, d = {TABLE_21_HEAD_DIM}, fp16, the setting of the paper's table "
        "21. Beside its inputs and its result our forward has lse, O(N), and no workspace: under the emulator's memory "
        "check a kernel that touches anything else fails. The paper's columns are forward and backward, so only "
        "their growth compares. The paper gives no formula for them; these closed forms "
        "reproduce each: 4 N N + 10 N d elements for PyTorch and 13 N d (11 up to N = "
        "256) and two statistics a row for FlashAttention.\n\n" + _table(head, rows)
    )


def _backward(rows: Sequence[Json], blocks: Sequence[Json]) -> str:
    kernels: dict[str, list[Json]] = {}
    for row in rows:
        kernels.setdefault(row["variant"], []).append(row)
    lines = []
    for name, found in kernels.items():
        longest = max(found, key=lambda each: each["seqlen"])
        sizes = [_size(row) for row in sorted(found, key=lambda each: (each["batch"], each["seqlen"]))]
        counted = [f"{longest['counted'][kind]:,}" for kind in ("load", "store", "atomic", "mma_flops")]
        equal = "yes" if all(row["equal"] for row in found) else "**no**"
        lines.append([f"`{name}`", ", ".join(sizes), *counted, equal])
    head = ["kernel", "N", "loaded", "stored", "added atomically", "operations of mma", "equal to the closed form"]
    equal = sum(row["equal"] for row in rows)
    return (
        f"## 5. The backward kernels\n\n{equal} of {len(rows)} launches equal their closed form (`backward_counts`): "
        "bytes loaded, stored and added atomically, and operations. Shown are those of the longest N (counted).\n\n"
        + _table(head, lines)
        + _backward_gb(rows, blocks)
    )


def _backward_gb(rows: Sequence[Json], blocks: Sequence[Json]) -> str:
    """Both passes beside the paper's, of the default kernels without a mask."""
    seqlen, head_dim = blocks[0]["seqlen"], blocks[0]["head_dim"]
    usual = {}
    for row in rows:
        if (row["seqlen"], row["head_dim"], row["is_causal"]) == (seqlen, head_dim, False):
            usual[row["operation"]] = sum(amount for kind, amount in row["counted"].items() if kind != "mma_flops")
    by_sums = usual["flash_bwd_delta"] + usual["flash_bwd"] + usual["flash_bwd_convert"]
    forward = min(one["counted"] for one in blocks if one["block_m"] == 128)
    standard, flash1 = standard_backward_bytes(seqlen, head_dim), flash1_backward_bytes(seqlen, head_dim, 256)
    return (
        f"\nGB of a backward pass at the sizes of section 3: ours {_gb(by_sums)} (counted: delta, dK, dV and the sum "
        "of dQ, and its rounding; an addition counted as its operand, where memory moves it twice), with the forward "
        f"pass at block_m 128 {_gb(by_sums + forward)}; the paper's algorithm 4 {_gb(flash1)} at B_c = 256, standard "
        f"(algorithm 3) {_gb(standard)} (closed form).\n"
    )


def draw(result: Json, folder: Path) -> list[str]:
    """Draw the plot into a folder and return its name in a list.

    Raises:
        ImportError: if matplotlib is not installed.
    """
    matplotlib: Any = importlib.import_module("matplotlib")  # Any: an optional package
    matplotlib.use("Agg")
    pyplot: Any = importlib.import_module("matplotlib.pyplot")
    figure, axes = pyplot.subplots(2, 2, figsize=(13, 10), layout="constrained")
    by_size = {one["size"]: one for one in reversed(result["sweeps"])}  # of two in head_dim, the one at fixed M
    _draw_n(axes[0][0], by_size["seqlen"])
    _draw_tile_memory(axes[0][1], by_size["M in bytes"], by_size["head_dim"])
    _draw_blocks(axes[1][0], result["blocks"])
    _draw_memory(axes[1][1], memory_rows(result["grid"]))
    for one in axes.flat:
        one.set_axisbelow(True)
        one.grid(alpha=0.3)
        one.legend(fontsize=9)
    figure.savefig(folder / PICTURE, dpi=100, metadata={"Software": None})  # same input, same bytes
    pyplot.close(figure)
    return [PICTURE]


def _logarithmic(axes: Any, places: Sequence[int], labels: Sequence[str]) -> None:  # Any: as above
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(places, labels)
    axes.minorticks_off()


def _draw_n(axes: Any, sweep: Json) -> None:
    xs, fitted = sweep["x"], sweep["fitted"]
    axes.plot(xs, _mb(sweep["standard_closed_form"]), "--s", color=_STANDARD,
              label=f"standard (closed form), slope {fitted['standard']:.2f}")  # fmt: skip
    axes.plot(xs, _mb(sweep["counted"]), "-o", color=_OURS, label=f"ours (counted), slope {fitted['ours']:.2f}")
    axes.plot(xs, _mb(sweep["counted_k_v"]), ":^", color=_OURS,
              label=f"ours, K and V only (counted), slope {fitted['ours_k_v']:.2f}")  # fmt: skip
    axes.plot(xs, [compulsory_bytes(*shape) / 1e6 for shape in sweep["shapes"]], "--", color=_OTHER,
              label="each tensor once (closed form), slope 1.00")  # fmt: skip
    _logarithmic(axes, xs, [str(x) for x in xs])
    axes.set(title="Bytes against N (d = 64, block_m = 64): theory 2", xlabel="N", ylabel="MB of one head")


def _draw_tile_memory(axes: Any, by_m: Json, by_d: Json) -> None:
    """M and d in one panel, both in units of their least."""
    for sweep, marker, colour, text in ((by_m, "o", _OURS, "M, d = 64"), (by_d, "D", _FLASH1, by_d["name"])):
        least = min(sweep["x"])
        xs = [x // least for x in sweep["x"]]
        label = f"{text}: slope {sweep['fitted']['ours_k_v']:.2f} (K, V), {sweep['fitted']['ours']:.2f} (all)"
        axes.plot(xs, _mb(sweep["counted"]), f"-{marker}", color=colour, label=f"{label} (counted)")
        _logarithmic(axes, xs, [f"x{x}" for x in xs])
    xs = [x // min(by_m["x"]) for x in by_m["x"]]
    axes.plot(xs, _mb(by_m["standard_closed_form"]), "--s", color=_STANDARD, label="M, standard (closed form): slope 0")
    seqlen = by_m["shapes"][0][0]
    names = f"M (from {min(by_m['x']) >> 10} KiB) or d (from {min(by_d['x'])}), in units of the least"
    axes.set(title=f"Bytes against M and d (N = {seqlen}): theory -1 and 2", xlabel=names, ylabel="MB of one head")


def _draw_blocks(axes: Any, blocks: Sequence[Json]) -> None:
    seqlen, head_dim = blocks[0]["seqlen"], blocks[0]["head_dim"]
    tiles = sorted({one["block_m"] for one in blocks})
    columns = sorted({one["block_n"] for one in blocks})
    for index, (block_n, shade) in enumerate(zip(columns, ("#97bbf5", _OURS, "#1f3a8a"), strict=False)):
        found = [(tiles.index(one["block_m"]), one["counted"]) for one in blocks if one["block_n"] == block_n]
        shift = 0.26 * (index - (len(columns) - 1) / 2)
        heights = [moved * FIGURE_2_HEADS / _GB for _, moved in found]
        bars = axes.bar(
            [x + shift for x, _ in found], heights, 0.26, color=shade, label=f"ours, block_n {block_n} (counted)"
        )
        axes.bar_label(bars, fmt="%.2f", fontsize=8, label_type="center", color="white" if index else "black")
    flash1 = [flash1_bytes(seqlen, head_dim, one) * FIGURE_2_HEADS / _GB for one in tiles]
    axes.plot(range(len(tiles)), flash1, "-D", color=_FLASH1, label="paper's algorithm 2, B_c (closed form)")
    for text, moved, colour in (
        ("standard", standard_bytes(seqlen, head_dim), _STANDARD),
        ("each tensor once", compulsory_bytes(seqlen, head_dim), _OTHER),
    ):
        axes.axhline(
            moved * FIGURE_2_HEADS / _GB, linestyle="--", color=colour, zorder=0.9, label=f"{text} (closed form)"
        )
    axes.set_xticks(range(len(tiles)), [str(one) for one in tiles])
    title = f"Bytes against the tile, forward, {FIGURE_2_HEADS} heads, N = {seqlen}, d = {head_dim}"
    axes.set(title=title, xlabel="block_m of ours, B_c of the paper's", ylabel="GB of global memory traffic")


def _draw_memory(axes: Any, rows: Sequence[Json]) -> None:
    xs = [one["seqlen"] for one in rows]
    axes.plot(xs, [one["matrix"] / _MIB for one in rows], "--s", color=_STANDARD, label="N x N matrix (closed form)")
    known = [(one["seqlen"], one["printed"]["torch"]) for one in rows if one["printed"]["torch"]]
    axes.plot(*zip(*known, strict=True), "x", color=_STANDARD, markersize=9,
              label="PyTorch, forward and backward (printed)")  # fmt: skip
    axes.plot(xs, [one["printed"]["flash"] for one in rows], "x", color=_FLASH1, markersize=9,
              label="FlashAttention, forward and backward (printed)")  # fmt: skip
    axes.plot(xs, [one["total"] / _MIB for one in rows], "--", color=_OURS,
              label="ours, forward: q, k, v, out, lse (closed form)")  # fmt: skip
    axes.plot(xs, [one["lse"] / _MIB for one in rows], "-", color=_OURS, label="ours, lse (closed form)")
    counted = [(one["seqlen"], one["lse"] / _MIB) for one in rows if one["is_counted"]]
    if counted:
        axes.plot(*zip(*counted, strict=True), "o", color=_OURS, label="ours, lse (counted)")
    _logarithmic(axes, xs, [f"{x // 1024}K" if x >= 1024 else str(x) for x in xs])
    axes.set(title=f"Memory, {TABLE_21_HEADS} heads, d = {TABLE_21_HEAD_DIM}, fp16", xlabel="N", ylabel="MiB")
    axes.set_ylim(top=1000 * max(one["matrix"] for one in rows) / _MIB)  # room for the legend


def _mb(values: Sequence[float]) -> list[float]:
    return [one / 1e6 for one in values]
