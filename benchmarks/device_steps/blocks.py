"""Time and traffic against the size of the tile, at one shape: the block-size figure of the FlashAttention paper.

Source of the shape: FlashAttention (Dao et al. 2022), figure 2, middle: batch 64, seqlen 1024, 16 heads, head_dim 64.
Two records for each tile:

    <variant>/bytes    counted: global_load_bytes, global_store_bytes, global_bytes, all of the figure's shape.
                       `counted_by` says how: a closed form, held against the emulator's counters on a small shape
    <variant>/time     measured: time_us, p10_us, p90_us, samples_us, method, tflops, worst_difference; nulls and a
                       note on the emulator

both with tile (block_m, block_n, num_warps), variant and shape. A tile that the architecture does not allow is a
record with a note. The bytes are those that the kernel asks of global memory. Where a key/value head fits into the L2
cache, as here, that answers a part of them, so they are an upper bound of what HBM moves.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from device_steps.base import NOT_MEASURED, Context, Record, Task
from device_steps.modules import kernels_of
from device_steps.speed_shapes import Shape
from kernelwright.gen.constraints import reasons_against
from kernelwright.gen.devices import reference_device
from kernelwright.gen.spec import ForwardProblem, ForwardSchedule, Variant

NAME = "blocks"
SHAPE = Shape(batch=64, seqlen=1024, num_heads_q=16, num_heads_kv=16, head_dim=64, is_causal=False)
TINY_SHAPE = Shape(batch=1, seqlen=200, num_heads_q=2, num_heads_kv=2, head_dim=64, is_causal=False)
TILES = (  # block_m, block_n, num_warps; a warp has 16 rows, or 32 in the largest
    (128, 64, 4),
    (16, 64, 1),
    (64, 64, 4),
    (32, 64, 2),
    (256, 64, 8),
    (64, 16, 4),
    (64, 32, 4),
    (64, 128, 4),
    (128, 128, 4),
)
_QUICK_TILES = 3
_LIMIT_S = {"bytes": 120.0, "times": 120.0}
_GUESS_S = {"bytes": 6.0, "times": 8.0}
_LIMITS: dict[str, Any] = {"warm_up": 3, "least": 10, "most": 30, "budget_s": 2.0, "graph_below_us": 1e9}


def all_variants(sm: int, quick: bool) -> list[Variant]:
    """Return a kernel for each tile, allowed or not."""
    problem = ForwardProblem(dtype="bf16", head_dim=SHAPE.head_dim, is_causal=SHAPE.is_causal)
    return [
        Variant(
            sm=sm,
            problem=problem,
            schedule=ForwardSchedule(
                block_m=block_m, block_n=block_n, num_warps=num_warps, num_stages=2, q_in_regs=False
            ),
        )
        for block_m, block_n, num_warps in (TILES[:_QUICK_TILES] if quick else TILES)
    ]


def variants(sm: int, quick: bool) -> list[Variant]:
    """Return what the module under test must hold for this step."""
    return [one for one in all_variants(sm, quick) if not refusal(one)]


def refusal(variant: Variant) -> str:
    """Return why the architecture does not allow a kernel, empty if it does."""
    return "; ".join(reason for _, reason in reasons_against(variant, reference_device(variant.sm)))


def plan(context: Context) -> list[Task]:
    return [Task(key=key, unit=key, estimate_s=context.cost(key, guess_s)) for key, guess_s in _GUESS_S.items()]


def run(task: Task, context: Context) -> Iterator[Record]:
    kernels = {kernel.name: kernel for kernel in kernels_of(context.module_dir)}
    sm = next(iter(kernels.values())).sm
    kind = "bytes" if task.key == "bytes" else "time"
    wanted: list[Variant] = []
    for variant in all_variants(sm, context.quick):
        if context.done(f"{variant.name}/{kind}"):
            continue
        reason = refusal(variant) or ("" if variant.name in kernels else "this module was built without it")
        if reason:
            yield {**_head(variant, kind, context), "note": f"refused: {reason}"}
        else:
            wanted.append(variant)
    if wanted:
        yield from (_bytes if kind == "bytes" else _times)(wanted, context)


def _head(variant: Variant, kind: str, context: Context) -> Record:
    schedule = variant.forward
    return {
        "key": f"{variant.name}/{kind}",
        "variant": variant.name,
        "tile": {"block_m": schedule.block_m, "block_n": schedule.block_n, "num_warps": schedule.num_warps},
        "shape": shape_of(context).to_dict(),
    }


def shape_of(context: Context) -> Shape:
    """Return the figure's shape; on the emulator one that it runs in moments."""
    return TINY_SHAPE if context.driver == "emulator" else SHAPE


def counted_bytes(variant: Variant, shape: Shape) -> dict[str, int]:
    """Return the traffic of a full (not causal) forward pass in closed form.

    Q is read and the output written once; every block of queries reads all keys and values of its head.
    """
    assert not shape.is_causal and shape.num_heads_q == shape.num_heads_kv
    row_bytes = 2 * shape.head_dim
    heads = shape.batch * shape.num_heads_q
    num_m_blocks = -(-shape.seqlen // variant.schedule.block_m)
    load = row_bytes * heads * (shape.seqlen + num_m_blocks * 2 * shape.seqlen)
    store = row_bytes * heads * shape.seqlen
    return {"global_load_bytes": load, "global_store_bytes": store, "global_bytes": load + store}


def _bytes(wanted: list[Variant], context: Context) -> Iterator[Record]:
    asked = {
        "module_dir": str(context.module_dir),
        "names": [variant.name for variant in wanted],
        "shape": TINY_SHAPE.to_dict(),
        "seed": context.seed,
    }
    found = context.run_isolated("device_steps.blocks_worker:count", asked, _LIMIT_S["bytes"], fresh=False)
    if found.get("fault") == "out of time":
        return
    for variant in wanted:
        record = {**_head(variant, "bytes", context), "label": "counted", **counted_bytes(variant, shape_of(context))}
        expected = counted_bytes(variant, TINY_SHAPE)
        counters = found.get("counters", {}).get(variant.name)
        if counters is None:
            why = found.get("detail") or found.get("reasons", {}).get(variant.name, "")
            record |= {"counted_by": "closed form", "note": f"not held against the emulator: {why}"}
        elif any(counters[name] != expected[name] for name in ("global_load_bytes", "global_store_bytes")):
            record |= {"counted_by": "closed form", "fault": f"the emulator counts {counters}, expected {expected}"}
        else:
            record["counted_by"] = f"closed form, equal to the emulator's count at {TINY_SHAPE.name}"
        yield record


def _times(wanted: list[Variant], context: Context) -> Iterator[Record]:
    asked = {
        "module_dir": str(context.module_dir),
        "device": context.device,
        "names": [variant.name for variant in wanted],
        "shape": shape_of(context).to_dict(),
        "seed": context.seed,
        "limits": {**_LIMITS, "most": 5, "least": 3, "budget_s": 0.1} if context.quick else _LIMITS,
    }
    found = context.run_isolated("device_steps.blocks_worker:measure", asked, _LIMIT_S["times"], fresh=False)
    if found.get("fault") == "out of time":
        return
    if "fault" in found and len(wanted) > 1:
        context.note(f"{NAME}: {found['fault']}; each tile once more, in a process of its own")
        for variant in wanted:
            yield from _times([variant], context)
        return
    for variant in wanted:
        result = dict(found.get("results", {}).get(variant.name, {}))
        record = {**_head(variant, "time", context), "label": context.label}
        refused, wrong = result.pop("refused", ""), result.pop("wrong", "")
        record |= result | {name: found.get(name) for name in ("state_before", "state_after")}
        if "fault" in found:
            record["fault"] = f"{found['fault']}: {found.get('detail', '')}"
        elif wrong:
            record["fault"] = f"wrong: {wrong}; not timed"
        elif refused:
            record["fault"] = refused
        elif context.driver == "emulator":
            record["note"] = "the emulator says nothing about time"
        yield record


def table(records: list[Record]) -> list[str]:
    """A line a tile: rows of queries, keys, bytes asked for, time."""
    found: dict[str, Record] = {}
    for one in records:
        if "tile" in one:
            fields = {key: value for key, value in one.items() if key not in ("note", "label") and value is not None}
            found[str(one["variant"])] = found.get(str(one["variant"]), {}) | fields
    lines = []
    for one in sorted(found.values(), key=lambda each: (each["tile"]["block_m"], each["tile"]["block_n"])):
        tile = one["tile"]
        moved = f"{one['global_bytes'] / 1e6:,.1f} MB (counted)" if "global_bytes" in one else "not counted"
        spent = f"{one['time_us']:,.1f} us (measured)" if "time_us" in one else NOT_MEASURED
        lines.append(f"{tile['block_m']:>4} queries x {tile['block_n']:>3} keys: {moved}, {spent}")
    return lines
