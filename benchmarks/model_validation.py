"""How far the tuner's model is from what others published: orders of tiles, and TFLOP/s by sequence length.

    python benchmarks/model_validation.py [--json] [--out benchmarks/results/model_validation.md]

Needs no GPU and measures nothing: one column is `published`, measured by others on their GPUs, with the source; the
other is `modelled` by tuner/model.py for the same tile. The published kernels are FlashAttention-2's, whose structure
the model describes: one stage of K and V, mma.sync. Registers are those of a public compilation, or the most a thread
may have. Rank correlation is Spearman's.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kernelwright.gen.devices import Device, devices
from kernelwright.gen.spec import ForwardProblem, ForwardSchedule, Variant
from kernelwright.tuner.model import MODEL_VERSION, model_cycles
from kernelwright.tuner.shapes import Shape

RESOLUTION = 0.10  # orders of points that the model sets closer than this are ties

FA2_REMARKS = "FlashAttention-2, remarks in flash_fwd_launch_template.h"
FA_FIGURES = "flash-attention repository, figure flash3_fp16_fwd.png, FA2 series"
SAGE = "SageAttention repository, figures of its README, FlashAttention-2 series"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """A tile of a published kernel, and its registers a thread."""

    block_m: int
    block_n: int
    num_warps: int
    registers: int = 255

    def __str__(self) -> str:
        return f"{self.block_m}x{self.block_n} {self.num_warps}w"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ladder:
    """Tiles for one problem and how long each takes, the fastest being 1; None: only known to be slower."""

    device: str
    head_dim: int
    is_causal: bool
    tiles: tuple[tuple[Tile, float | None], ...]
    source: str = FA2_REMARKS
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """Published TFLOP/s of one kernel by sequence length; `heads` and `tokens` (batch times length) as published."""

    device: str
    head_dim: int
    is_causal: bool
    tile: Tile
    tflops: tuple[tuple[int, float], ...]
    source: str
    heads: int
    batch: int | None = None
    tokens: int | None = None

    def shape(self, seqlen: int) -> Shape:
        batch = self.batch if self.batch is not None else max(1, (self.tokens or 0) // seqlen)
        return Shape(batch=batch, num_heads_q=self.heads, num_heads_kv=self.heads, seqlen_q=seqlen, seqlen_k=seqlen)


def _tile(block_m: int, block_n: int, num_warps: int, registers: int = 255) -> Tile:
    return Tile(block_m=block_m, block_n=block_n, num_warps=num_warps, registers=registers)


LADDERS = (
    Ladder(
        device="a100",
        head_dim=64,
        is_causal=False,
        tiles=((_tile(128, 128, 4), 1.0), (_tile(128, 128, 8, 198), 1.18), (_tile(64, 256, 4), 1.27)),
        note="256x64 with 4 warps, 1.85 times as long, spills registers, which the model does not describe",
    ),
    Ladder(
        device="a100",
        head_dim=96,
        is_causal=False,
        tiles=((_tile(128, 64, 4), 1.0), (_tile(128, 128, 8), None), (_tile(64, 128, 4), None)),
    ),
    Ladder(
        device="a100",
        head_dim=128,
        is_causal=False,
        tiles=((_tile(128, 64, 4), 1.0), (_tile(128, 128, 8), 1.28), (_tile(256, 64, 8), 1.28)),
    ),
    Ladder(device="a100", head_dim=256, is_causal=False, tiles=((_tile(128, 64, 8), 1.0), (_tile(64, 64, 4), None))),
    Ladder(
        device="rtx3090",
        head_dim=128,
        is_causal=False,
        tiles=((_tile(128, 32, 4), 1.0), (_tile(64, 64, 4, 200), None), (_tile(128, 64, 4), None)),
    ),
    Ladder(
        device="rtx3090",
        head_dim=128,
        is_causal=True,
        tiles=((_tile(64, 64, 4, 200), 1.0), (_tile(128, 32, 4), None), (_tile(128, 64, 4), None)),
    ),
    Ladder(device="h100", head_dim=256, is_causal=False, tiles=((_tile(64, 64, 4), 1.0), (_tile(128, 64, 8), None))),
)

_LENGTHS = (512, 1024, 2048, 4096, 8192, 16384)


def _fa(head_dim: int, is_causal: bool, tile: Tile, *tflops: float) -> Curve:
    """A series of the figures: 16,384 tokens, 2,048 channels, fp16."""
    return Curve(
        device="h100",
        head_dim=head_dim,
        is_causal=is_causal,
        tile=tile,
        tflops=tuple(zip(_LENGTHS, tflops, strict=True)),
        source=FA_FIGURES,
        heads=2048 // head_dim,
        tokens=16384,
    )


def _sage(device: str, head_dim: int, is_causal: bool, tile: Tile, *tflops: float) -> Curve:
    """A series of the figures; batch 4 and 32 heads are assumed, since the figures do not say."""
    lengths = tuple(1024 * 2**index for index in range(len(tflops)))
    return Curve(
        device=device,
        head_dim=head_dim,
        is_causal=is_causal,
        tile=tile,
        tflops=tuple(zip(lengths, tflops, strict=True)),
        source=SAGE,
        heads=32,
        batch=4,
    )


CURVES = (
    _sage("a100", 128, False, _tile(128, 64, 4), 160, 176, 203, 204, 204),
    _sage("a100", 128, True, _tile(128, 64, 4), 142, 170, 181, 186, 193),
    _sage("rtx4090", 128, False, _tile(128, 32, 4), 145, 151, 161, 164, 164, 164),
    _sage("rtx4090", 128, True, _tile(64, 64, 4, 200), 118, 138, 155, 160, 161, 161),
    _sage("rtx4090", 64, False, _tile(128, 128, 4), 143, 153, 161, 167, 167, 167),
    _sage("rtx4090", 64, True, _tile(128, 128, 4), 94, 124, 150, 159, 162, 164),
    _sage("rtx3090", 128, False, _tile(128, 32, 4), 62, 70, 71, 71, 70, 68),
    _sage("rtx3090", 128, True, _tile(64, 64, 4, 200), 56, 60, 62, 63, 62, 60),
    _fa(64, False, _tile(128, 128, 4), 282, 306, 318, 321, 322, 324),
    _fa(64, True, _tile(128, 128, 4), 180, 229, 262, 284, 295, 299),
    _fa(128, False, _tile(128, 64, 4), 309, 350, 362, 368, 370, 370),
    _fa(128, True, _tile(128, 64, 4), 191, 260, 298, 319, 333, 335),
    _fa(256, False, _tile(64, 64, 4), 275, 313, 321, 323, 324, 326),
    _fa(256, True, _tile(64, 64, 4), 208, 251, 278, 293, 297, 298),
)


def cycles(device: Device, head_dim: int, is_causal: bool, tile: Tile, shape: Shape) -> float:
    """Return the modelled clocks of FlashAttention-2's kernel with a tile."""
    variant = Variant(
        sm=device.sm,
        problem=ForwardProblem(dtype="fp16", head_dim=head_dim, is_causal=is_causal),
        schedule=ForwardSchedule(
            block_m=tile.block_m, block_n=tile.block_n, num_warps=tile.num_warps, num_stages=1, q_in_regs=False
        ),
    )
    return model_cycles(variant, device, shape, tile.registers)


def ladder_rows(ladder: Ladder) -> list[dict[str, Any]]:
    """Return a row for each tile: how long it takes, relative to the one that was published as the fastest."""
    device = devices()[ladder.device]
    shape = Shape(batch=4, num_heads_q=16, num_heads_kv=16, seqlen_q=4096, seqlen_k=4096)
    first = cycles(device, ladder.head_dim, ladder.is_causal, ladder.tiles[0][0], shape)
    rows = []
    for tile, published in ladder.tiles:
        modelled = cycles(device, ladder.head_dim, ladder.is_causal, tile, shape) / first
        is_first = tile is ladder.tiles[0][0]
        rows.append(
            {
                "device": ladder.device,
                "head_dim": ladder.head_dim,
                "is_causal": ladder.is_causal,
                "tile": str(tile),
                "published_relative": published,
                "modelled_relative": round(modelled, 3),
                "error": None if published is None else round(modelled / published - 1, 4),
                "order": "" if is_first else "right" if modelled > 1 else "wrong",
                "resolved": None if is_first else abs(modelled - 1) >= RESOLUTION,
            }
        )
    return rows


def curve_rows(curve: Curve) -> list[dict[str, Any]]:
    """Return a row for each sequence length: TFLOP/s, half the work being counted where there is a causal mask."""
    device = devices()[curve.device]
    rows = []
    for seqlen, published in curve.tflops:
        shape = curve.shape(seqlen)
        flops = 4.0 * shape.batch * curve.heads * seqlen * seqlen * curve.head_dim / (2 if curve.is_causal else 1)
        clocks = cycles(device, curve.head_dim, curve.is_causal, curve.tile, shape)
        modelled = flops / clocks * device.boost_mhz * 1e6 / 1e12
        rows.append(
            {
                "device": curve.device,
                "head_dim": curve.head_dim,
                "is_causal": curve.is_causal,
                "tile": str(curve.tile),
                "seqlen": seqlen,
                "published_tflops": published,
                "modelled_tflops": round(modelled, 1),
                "error": round(modelled / published - 1, 4),
                "source": curve.source,
            }
        )
    return rows


def ranks(values: Sequence[float]) -> list[float]:
    """Return the rank of each value from 1; equal values share the mean of theirs."""
    order = sorted(values)
    return [order.index(value) + (order.count(value) + 1) / 2 for value in values]


def spearman(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Return Spearman's rank correlation; None where one side is all the same or there is one value."""
    if len(set(first)) < 2 or len(set(second)) < 2:
        return None
    return statistics.correlation(ranks(first), ranks(second))


def validate() -> dict[str, Any]:
    """Return every comparison as plain data."""
    ladders: list[dict[str, Any]] = [
        {"source": one.source, "note": one.note, "rows": ladder_rows(one)} for one in LADDERS
    ]
    curves = [curve_rows(one) for one in CURVES]
    flat = [row for rows in curves for row in rows]
    compared = [row for one in ladders for row in one["rows"] if row["order"]]
    numbered = [row for row in compared if row["published_relative"] is not None]
    return {
        "schema": 1,
        "model_version": MODEL_VERSION,
        "ladders": ladders,
        "curves": curves,
        "summary": {
            "orders_right": sum(row["order"] == "right" for row in compared),
            "orders": len(compared),
            "orders_wrong_and_resolved": sum(row["order"] == "wrong" and row["resolved"] for row in compared),
            "ladder_mean_abs_error": round(statistics.fmean(abs(row["error"]) for row in numbered), 4),
            "curve_mean_abs_error": round(statistics.fmean(abs(row["error"]) for row in flat), 4),
            "curve_spearman": _both(flat),
            "curve_spearman_within": [_both(rows) for rows in curves],
        },
    }


def _both(rows: Sequence[dict[str, Any]]) -> float | None:
    found = spearman([row["published_tflops"] for row in rows], [row["modelled_tflops"] for row in rows])
    return None if found is None else round(found, 3)


def text(found: dict[str, Any]) -> str:
    """Return the comparison as a Markdown document."""
    summary = found["summary"]
    lines = [
        "# The model against published figures",
        "",
        "Written by `python benchmarks/model_validation.py --out benchmarks/results/model_validation.md`;",
        f"model version {found['model_version']}.",
        "",
        "`published`: measured by others on their GPUs, read from remarks and figures. `modelled`: computed by",
        "`tuner/model.py` at the boost clock. Nothing here was measured by us. The model ranks what to compile;",
        "its TFLOP/s are no claim. One of its constants was set from the three tiles of 8 warps on an A100 that have a",
        "published time; all other rows had no part in it.",
        "",
        f"- Orders of tiles: {summary['orders_right']} of {summary['orders']} as published; of those that are not, "
        f"{summary['orders_wrong_and_resolved']} further apart than the {RESOLUTION:.0%} the model resolves.",
        f"- Relative times of tiles, where published: {summary['ladder_mean_abs_error']:.1%} off in the mean.",
        f"- TFLOP/s: {summary['curve_mean_abs_error']:.1%} off in the mean, rank correlation "
        f"{_correlation(summary['curve_spearman'])} over all {sum(map(len, found['curves']))} rows.",
        "",
        "## Tiles",
        "",
        "Times relative to the tile published as the fastest, at 4 x 16 heads x 4096 tokens.",
        "",
        "| device | head_dim | causal | tile | published | modelled | error | order |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for ladder in found["ladders"]:
        lines += [_ladder_line(row) for row in ladder["rows"]]
    lines += ["", f"Source: {FA2_REMARKS}. `slower`: published without a figure. Not compared:"]
    lines += [f"{one['note']}." for one in found["ladders"] if one["note"]]
    lines += [
        "",
        "## Throughput",
        "",
        "TFLOP/s, forward, fp16; half the work is counted where there is a causal mask.",
        "",
    ]
    lines += [
        "| device | head_dim | causal | tile | seqlen | published | modelled | error |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    lines += [_curve_line(row) for rows in found["curves"] for row in rows]
    lines += ["", "Rank correlation within each series:", ""]
    lines += [
        "| device | head_dim | causal | correlation | mean error | source |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for rows, within in zip(found["curves"], summary["curve_spearman_within"], strict=True):
        error = statistics.fmean(abs(row["error"]) for row in rows)
        lines.append(f"{_head(rows[0])} {_correlation(within)} | {error:.1%} | {rows[0]['source']} |")
    lines += ["", "SageAttention's figures do not name batch and heads: 4 and 32 are assumed."]
    return "\n".join(lines) + "\n"


def _head(row: dict[str, Any]) -> str:
    return f"| {row['device']} | {row['head_dim']} | {'yes' if row['is_causal'] else 'no'} |"


def _ladder_line(row: dict[str, Any]) -> str:
    published = "slower" if row["published_relative"] is None else f"{row['published_relative']:.2f}"
    error = "" if row["error"] is None or not row["order"] else f"{row['error']:+.1%}"
    order = row["order"] + ("" if row["resolved"] or not row["order"] else ", a tie")
    return f"{_head(row)} {row['tile']} | {published} | {row['modelled_relative']:.2f} | {error} | {order} |"


def _curve_line(row: dict[str, Any]) -> str:
    return (
        f"{_head(row)} {row['tile']} | {row['seqlen']} | {row['published_tflops']:g} | {row['modelled_tflops']:.0f} | "
        f"{row['error']:+.1%} |"
    )


def _correlation(value: float | None) -> str:
    return "none" if value is None else f"{value:.2f}"


def main() -> int:
    """Compare, and print or write the document."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print plain data")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the document there")
    options = parser.parse_args()
    found = validate()
    if options.out is not None:
        options.out.write_text(text(found))
    print(json.dumps(found, indent=1) if options.json else text(found), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
