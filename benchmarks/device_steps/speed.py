"""Ours beside every implementation that can be imported: times in turn, and peak memory.

One record for each problem and implementation, `<problem>/<implementation>`, and of the backward pass
`bwd/<problem>/<implementation>`: everything that makes dq, dk and dv of dout, as autograd runs it. It holds

    label         measured; counted on the emulator, where only `worst_difference` is a figure
    shape         batch, seqlen, num_heads_q, num_heads_kv, head_dim, is_causal, dtype
    implementation, direction, variant (of ours)
    time_us, p10_us, p90_us, samples_us, method (events or graph), tflops    null on the emulator
    ratio_to_best_peer    of ours: the best peer's time over ours, among those timed in turn with it; best_peer
    ratio_to_ours         of a peer: its time over ours, in turn with it
    share_of_matmul       tflops over the measured matmul rate of the step `environment`
    worst_difference      from SDPA, as a part of what is allowed; more than 1 is not timed
    state_before, state_after    clocks, power, throttle reasons; null where the GPU's library is not there
    note          why there are no figures: refused, not importable
    fault         wrong, crash, timeout

for kernels of features, `features/<row>/<implementation>`: variant, time_us, mma_flops, mma_tflops (as executed),

and for memory, `memory/<problem>/<implementation>`: peak_bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from device_steps import feature_kernels
from device_steps.base import NOT_MEASURED, Context, Record, Task
from device_steps.modules import kernels_of
from device_steps.peers import OURS, PLAIN, names
from device_steps.speed_shapes import (
    BACKWARD,
    FORWARD,
    Direction,
    Shape,
    backward_shapes,
    memory_shapes,
    timed_shapes,
    tiny_shapes,
)

NAME = "speed"
_LIMIT_S = {"ready": 60.0, "backward": 60.0, "compiled": 180.0, "memory": 60.0, "features": 60.0}
_GUESS_S = {"features": 4.0, "ready": 4.0, "backward": 5.0, "compiled": 40.0, "memory": 3.0}
_BEFORE_FEATURES = 12  # of the timed shapes
_COMPILED_SHAPES = 12  # of the timed ones, from the front
_LIMITS = {"warm_up": 3, "least": 7, "most": 30, "budget_s": 1.0}
_QUICK_LIMITS = {"warm_up": 1, "least": 3, "most": 5, "budget_s": 0.1}
_NO_TIME = "the emulator says nothing about time"


def plan(context: Context) -> list[Task]:
    """Times first; then peak memory; then what compiles for long before its first call, beside ours once more."""
    tiny = context.driver == "emulator"
    shapes = tiny_shapes() if tiny else timed_shapes()[:2] if context.quick else timed_shapes()
    memory = tiny_shapes()[:1] if tiny else memory_shapes()[:2] if context.quick else memory_shapes()
    compiled = shapes[:1] if tiny or context.quick else shapes[:_COMPILED_SHAPES]
    backward = tiny_shapes()[:1] if tiny else backward_shapes()[: 1 if context.quick else None]
    half = min(len(shapes), _BEFORE_FEATURES)
    return [
        *[_task(context, "ready", f"{shape.name}/ready", shape) for shape in shapes[:half]],
        *[_task(context, "backward", f"bwd/{shape.name}/ready", shape) for shape in backward],
        *_feature_tasks(context),
        *[_task(context, "ready", f"{shape.name}/ready", shape) for shape in shapes[half:]],
        *[_task(context, "memory", f"memory/{shape.name}", shape) for shape in memory],
        *[_task(context, "compiled", f"{shape.name}/compiled", shape) for shape in compiled],
    ]


def _task(context: Context, unit: str, key: str, shape: Shape) -> Task:
    estimate_s = context.cost(unit, _GUESS_S[unit])
    return Task(key=key, unit=unit, estimate_s=estimate_s, kwargs={"kind": unit, "shape": shape.to_dict()})


def _feature_tasks(context: Context) -> list[Task]:
    """Return a task for each row whose kernel the module has."""
    is_built = (context.module_dir / "kernels" / "table.json").exists()  # the other tasks need none to be planned
    kernels = kernels_of(context.module_dir) if is_built else []
    held, sms = {kernel.name for kernel in kernels}, {kernel.sm for kernel in kernels}
    named = [
        (row.name, row.variant(sm).name) for sm in sorted(sms) for row in feature_kernels.rows(quick=context.quick)
    ]
    return [
        Task(
            key=f"features/{name}",
            unit="features",
            estimate_s=context.cost("features", _GUESS_S["features"]),
            kwargs={"kind": "features", "name": name, "variant": variant},
        )
        for name, variant in named
        if variant in held
    ]


def _features(task: Task, context: Context) -> Iterator[Record]:
    asked = {
        "module_dir": str(context.module_dir),
        "device": context.device,
        "name": task.kwargs["name"],
        "quick": context.quick,
        "variant": task.kwargs["variant"],
        "limits": _QUICK_LIMITS if context.quick else _LIMITS,
    }
    target = "device_steps.feature_worker:measure"
    found = context.run_isolated(target, asked, _LIMIT_S["features"], fresh=False)
    if found.get("fault") == "out of time":
        return
    head: Record = {"label": context.label, "variant": task.kwargs["variant"]}
    if "fault" in found:
        yield {**head, "key": f"{task.key}/{OURS}", "fault": f"{found['fault']}: {found.get('detail', '')}"}
        return
    for name, result in found["results"].items():
        record: Record = {**head, "key": f"{task.key}/{name}", "row": task.kwargs["name"], "implementation": name}
        if "refused" in result:
            yield {**record, "note": f"refused: {result['refused']}"}
            continue
        time_us = result["time_us"]
        rate = None if time_us is None else round(found["mma_flops"] / time_us / 1e6, 2)
        note = {} if time_us is not None else {"note": _NO_TIME}
        yield {**record, **result, "mma_flops": found["mma_flops"], "mma_tflops": rate, **note}


def run(task: Task, context: Context) -> Iterator[Record]:
    if task.kwargs["kind"] == "features":
        yield from _features(task, context)
        return
    shape = Shape(**task.kwargs["shape"])
    if task.kwargs["kind"] == "memory":
        yield from _memory(shape, context)
        return
    kind = str(task.kwargs["kind"])
    way = BACKWARD if kind == "backward" else FORWARD
    group = names("compiled" if kind == "compiled" else "ready")
    peers = [name for name in group if not _done(context, shape, name, way)]
    if not peers and (kind == "compiled" or _done(context, shape, OURS, way)):
        return
    for answer in _answers(context, shape, [OURS, *peers], way, _LIMIT_S[kind]):
        for record in records_of(shape, answer, context, way):
            if record["implementation"] != OURS or (kind != "compiled" and not _done(context, shape, OURS, way)):
                yield record


def _answers(
    context: Context, shape: Shape, implementations: list[str], way: Direction, limit_s: float
) -> Iterator[Record]:
    """All in one process, in turn. If that dies, each peer beside ours alone, so that only the guilty one is lost."""
    found = _measure(context, shape, implementations, way, limit_s)
    if found.get("fault") == "out of time":
        return
    if "fault" not in found:
        yield found
        return
    if len(implementations) == 1:
        yield _failed(implementations, found)
        return
    context.note(f"{NAME}: {shape.name}: {found['fault']}; each implementation once more, in a process of its own")
    alone = _measure(context, shape, [OURS], way, limit_s)
    ours_is_sound = "fault" not in alone
    yield alone if ours_is_sound else _failed([OURS], alone)
    for name in implementations[1:]:
        pair = [OURS, name] if ours_is_sound else [name]
        found = _measure(context, shape, pair, way, limit_s)
        if found.get("fault") == "out of time":
            return
        yield _failed([name], found) if "fault" in found else found


def _measure(context: Context, shape: Shape, implementations: list[str], way: Direction, limit_s: float) -> Record:
    asked = {
        "module_dir": str(context.module_dir),
        "device": context.device,
        "shape": shape.to_dict(),
        "names": implementations,
        "direction": way.name,
        "seed": context.seed,
        "limits": _QUICK_LIMITS if context.quick else _LIMITS,
    }
    return context.run_isolated("device_steps.speed_worker:measure", asked, limit_s, fresh=False)


def _failed(implementations: list[str], answer: Record) -> Record:
    words = f"{answer['fault']}: {answer.get('detail', '')}"
    return {"results": {name: {"fault": words} for name in implementations}}


def records_of(shape: Shape, answer: Record, context: Context, way: Direction = FORWARD) -> list[Record]:
    """Return a record for each implementation in a worker's answer."""
    results: dict[str, Record] = answer["results"]
    times = {name: one["time_us"] for name, one in results.items() if one.get("time_us")}
    peers = {name: time_us for name, time_us in times.items() if name != OURS}
    best = min(peers, key=lambda name: peers[name], default=None)
    matmul = matmul_tflops(context)
    records = []
    for name, result in results.items():
        record: Record = {
            "key": _key(shape, name, way),
            "label": context.label,
            "implementation": name,
            "direction": way.name,
            "shape": shape.to_dict(),
            **{field: value for field, value in result.items() if field not in ("refused", "wrong")},
            "state_before": answer.get("state_before"),
            "state_after": answer.get("state_after"),
        }
        if "refused" in result:
            record["note"] = f"refused: {result['refused']}"
        elif "wrong" in result:
            record["fault"] = f"wrong: {result['wrong']}; not timed"
        elif "fault" not in result and context.driver == "emulator":
            record["note"] = _NO_TIME
        if name in times:
            tflops = float(result["tflops"])
            record["share_of_matmul"] = round(tflops / matmul, 4) if matmul else None
            if name == OURS:
                record |= {
                    "best_peer": best,
                    "ratio_to_best_peer": round(peers[best] / times[OURS], 4) if best else None,
                }
            elif OURS in times:
                record["ratio_to_ours"] = round(times[name] / times[OURS], 4)
        records.append(record)
    return records


def matmul_tflops(context: Context) -> float | None:
    """Return the rate that the step `environment` measured in this run's folder; None where it did not."""
    rates = [one.get("tflops") for one in context.results.records("environment") if one.get("key") == "matmul"]
    return next((float(rate) for rate in reversed(rates) if isinstance(rate, int | float)), None)


def _memory(shape: Shape, context: Context) -> Iterator[Record]:
    for name in (OURS, PLAIN):
        key = f"memory/{shape.name}/{name}"
        if context.done(key):
            continue
        asked = {
            "module_dir": str(context.module_dir),
            "device": context.device,
            "shape": shape.to_dict(),
            "name": name,
            "seed": context.seed,
        }
        found = context.run_isolated("device_steps.speed_worker:peak_memory", asked, _LIMIT_S["memory"], fresh=False)
        if found.get("fault") == "out of time":
            return
        record: Record = {"key": key, "implementation": name, "shape": shape.to_dict(), **found}
        record.pop("refused", None)
        if "refused" in found:
            record["note"] = f"refused: {found['refused']}"
        elif "fault" in found:
            record["fault"] = f"{found['fault']}: {found.get('detail', '')}"
        elif found["peak_bytes"] is None:
            record["note"] = f"{NOT_MEASURED}: the emulator allocates nothing on a GPU"
        else:
            record["label"] = "measured"
        yield record


def _key(shape: Shape, name: str, way: Direction) -> str:
    return f"{'' if way is FORWARD else f'{way.name}/'}{shape.name}/{name}"


def _done(context: Context, shape: Shape, name: str, way: Direction) -> bool:
    return context.done(_key(shape, name, way))


def table(records: list[Record]) -> list[str]:
    """Ours beside the best peer, problem by problem, in at most 12 lines."""
    by_shape: dict[str, dict[str, Record]] = {}
    for one in records:
        if "direction" in one:
            by_shape.setdefault(str(one["key"]).rpartition("/")[0], {})[str(one["implementation"])] = one
    lines = [_line(name, found) for name, found in by_shape.items() if OURS in found]
    refusals = sorted({str(one["implementation"]) for one in records if str(one.get("note", "")).startswith("refused")})
    shown = lines[:9] + ([f"and {len(lines) - 9} more problems"] if len(lines) > 9 else [])
    shown += _feature_lines(records)
    return shown + ([f"refused some or all: {', '.join(refusals)}"] if refusals else [])


def _feature_lines(records: list[Record]) -> list[str]:
    """Two lines at most for the kernels of features."""
    ours = [one for one in records if "mma_tflops" in one and one["implementation"] == OURS]
    timed = [f"{one['row']} {one['mma_tflops']:.1f}" for one in ours if one["mma_tflops"]]
    if timed:
        return [f"features, TFLOP/s executed (measured): {', '.join(timed)}"]
    return [f"features: {len(ours)} called, {NOT_MEASURED}"] if ours else []


def _line(name: str, found: dict[str, Record]) -> str:
    ours = found[OURS]
    timed: dict[str, Any] = {key: one for key, one in found.items() if key != OURS and one.get("time_us")}
    best = min(timed, key=lambda key: timed[key]["time_us"], default=None)
    text = f"{name:<34} ours {_rate(ours)}"
    if best:
        text += f", best peer {best} {_rate(timed[best])}"
        if ours.get("time_us"):
            text += f", {timed[best]['time_us'] / ours['time_us']:.2f} x"
    return text


def _rate(record: Record) -> str:
    if record.get("tflops"):
        return f"{record['tflops']:.1f} TFLOP/s (measured)"
    return "failed" if record.get("fault") else NOT_MEASURED
