"""The step `speed` without a GPU: what is planned, what a record says, and that an emulator gives no times."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from device_steps import speed  # noqa: E402
from device_steps.peers import OURS, names  # noqa: E402
from device_steps.speed_shapes import (  # noqa: E402
    BACKWARD,
    FORWARD,
    SEQLENS,
    backward_shapes,
    memory_shapes,
    protocol_shape,
    timed_shapes,
)
from device_steps.speed_worker import compare_gradients  # noqa: E402
from device_steps.timing import Timing  # noqa: E402
from steps_context import make_context, run_step  # noqa: E402

TIMES = ("time_us", "p10_us", "p90_us", "tflops", "peak_bytes")


def test_the_protocol_keeps_tokens_and_hidden_size():
    shapes = {(one.head_dim, one.seqlen, one.is_causal, one.num_heads_q): one for one in timed_shapes()}
    for head_dim in (64, 128, 256):
        for seqlen in SEQLENS:
            for is_causal in (False, True):
                shape = shapes[head_dim, seqlen, is_causal, 2048 // head_dim]
                assert shape.batch * shape.seqlen == 16384
    assert {one.head_dim for one in shapes.values()} >= {72, 80, 96, 112, 160, 224}
    assert any((one.batch, one.num_heads_q, one.num_heads_kv) == (1, 64, 8) for one in shapes.values())
    assert len({one.name for one in timed_shapes()}) == len(timed_shapes())
    assert memory_shapes()[-1].seqlen == 65536


def test_flops_are_those_of_the_protocol():
    full, causal = (protocol_shape(128, 16384, is_causal=flag) for flag in (False, True))
    assert full.flops(FORWARD) == 4 * 16384**2 * 2048 == 2 * causal.flops(FORWARD)
    assert full.flops(BACKWARD) == 10 * 16384**2 * 2048


def test_a_run_that_is_cut_short_has_all_kinds_of_problem(tmp_path):
    tasks = speed.plan(make_context(tmp_path, "speed", driver="cuda", quick=False))
    assert len({task.key for task in tasks}) == len(tasks)
    early = [task.kwargs["shape"] for task in tasks[:12]]
    assert {one["head_dim"] for one in early} == {64, 128} and {one["is_causal"] for one in early} == {True, False}
    kinds = [task.unit for task in tasks]
    assert kinds[:12] == ["ready"] * 12 and kinds[12:24] == ["backward"] * 12
    rest = kinds[24:]
    assert rest == sorted(rest, key=["ready", "memory", "compiled"].index)


def test_the_backward_pass_is_timed_beside_the_forward_one(tmp_path):
    context = make_context(tmp_path, "speed", driver="cuda", answer=scripted)
    tasks = [one for one in speed.plan(context) if one.unit == "backward"]
    records = run_step(speed, context, tasks)
    assert all(one["direction"] == "bwd" and str(one["key"]).startswith("bwd/") for one in records)
    assert {one["implementation"] for one in records} == {OURS, *names("ready")}
    assert {call[1]["direction"] for call in context.isolation.calls} == {"bwd"}
    assert len(backward_shapes()) == len({one.name for one in backward_shapes()}) == 12


def test_gradients_that_differ_are_not_timed():
    wanted = [torch.randn(1, 8, 2, 16, generator=torch.Generator().manual_seed(one)) for one in range(3)]
    assert compare_gradients(wanted, wanted, "bf16") == {"worst_difference": 0.0}
    for index, name in enumerate(("dq", "dk", "dv")):
        found = [one.clone() for one in wanted]
        found[index][0, 3] = -found[index][0, 3]
        assert compare_gradients(found, wanted, "bf16")["wrong"].startswith(f"{name} differs")
        found[index][0, 3] = torch.nan
        assert "wrong" in compare_gradients(found, wanted, "bf16")


def timing(time_us: float) -> dict[str, object]:
    return {**Timing(samples_us=[time_us] * 3).to_record(), "tflops": 1e5 / time_us, "worst_difference": 0.2}


def scripted(target, kwargs):
    """A GPU on which cuDNN crashes, the efficient backend refuses and plain attention is wrong."""
    if target.endswith("peak_memory"):
        return (
            {"peak_bytes": 4096} if kwargs["name"] == OURS else {"refused": "OutOfMemoryError: ...", "peak_bytes": None}
        )
    if "sdpa cudnn" in kwargs["names"]:
        return {"fault": "crash", "detail": "the process died (SIGSEGV)"}
    known = {OURS: timing(100.0), "sdpa flash": timing(150.0), "flash_attn 2": timing(125.0)}
    known |= {"sdpa efficient": {"refused": "Refused: no kernel"}, "torch plain": {"wrong": "differs from SDPA"}}
    absent = {"refused": "ModuleNotFoundError: No module named 'flash_attn'"}
    results = {name: known.get(name, absent) for name in kwargs["names"]}
    return {"results": results, "state_before": {"sm_mhz": 1980, "throttle": []}, "state_after": None}


@pytest.fixture
def on_a_scripted_gpu(tmp_path) -> dict[str, dict[str, object]]:
    context = make_context(tmp_path, "environment", driver="cuda", answer=scripted)
    context.results.append({"step": "environment", "key": "matmul", "label": "measured", "tflops": 2000.0})
    context.results.step = "speed"
    task = speed.plan(context)[0]
    return {str(one["implementation"]): one for one in run_step(speed, context, [task])}


def test_a_crash_loses_only_the_one_that_crashes(on_a_scripted_gpu):
    found = on_a_scripted_gpu
    assert set(found) == {OURS, *names("ready")}
    assert found["sdpa cudnn"]["fault"] == "crash: the process died (SIGSEGV)"
    assert found["sdpa flash"]["time_us"] == 150.0
    assert found["sdpa flash"]["samples_us"] == [150.0] * 3


def test_what_refuses_or_is_wrong_is_a_record_with_the_reason(on_a_scripted_gpu):
    found = on_a_scripted_gpu
    assert found["sdpa efficient"]["note"] == "refused: Refused: no kernel"
    assert "No module named" in str(found["flash_attn 3"]["note"])
    assert found["torch plain"]["fault"] == "wrong: differs from SDPA; not timed"


def test_ratios_and_shares_come_from_the_same_turn(on_a_scripted_gpu):
    found = on_a_scripted_gpu
    assert found["sdpa flash"]["ratio_to_ours"] == 1.5
    assert found[OURS]["share_of_matmul"] == 0.5
    assert all(one["label"] == "measured" for one in found.values())
    assert found[OURS]["state_before"] == {"sm_mhz": 1980, "throttle": []}


def test_the_best_peer_is_named(tmp_path):
    context = make_context(tmp_path, "speed", driver="cuda", answer=scripted)
    answer = scripted("measure", {"names": [OURS, "sdpa flash", "flash_attn 2"]})
    ours = speed.records_of(timed_shapes()[0], answer, context)[0]
    assert (ours["best_peer"], ours["ratio_to_best_peer"]) == ("flash_attn 2", 1.25)
    assert ours["share_of_matmul"] is None  # this run has not measured the rate


def test_what_is_done_is_not_measured_again(tmp_path):
    context = make_context(tmp_path, "speed", driver="cuda", answer=scripted)
    task = speed.plan(context)[0]
    run_step(speed, context, [task])
    before = len(context.isolation.calls)
    assert run_step(speed, context, [task]) == []
    assert len(context.isolation.calls) == before


def test_memory_is_a_record_each_or_its_reason(tmp_path):
    context = make_context(tmp_path, "speed", driver="cuda", answer=scripted)
    ours, plain = run_step(speed, context, [next(one for one in speed.plan(context) if one.unit == "memory")])
    assert (ours["peak_bytes"], ours["label"]) == (4096, "measured")
    assert plain["note"].startswith("refused: OutOfMemory") and plain["peak_bytes"] is None


def test_the_table_is_short_and_says_what_was_measured(on_a_scripted_gpu):
    lines = speed.table(list(on_a_scripted_gpu.values()))
    assert len(lines) <= 12
    assert "ours 1000.0 TFLOP/s (measured), best peer flash_attn 2" in lines[0] and "1.25 x" in lines[0]


@pytest.mark.nvcc
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_whole_step_runs_on_the_emulator_and_gives_no_times(tmp_path, tiny_module: Path):
    context = make_context(tmp_path, "speed", module_dir=tiny_module)
    records = run_step(speed, context)
    assert {one["implementation"] for one in records if "direction" in one} == {
        OURS,
        *names("ready"),
        *names("compiled"),
    }
    for one in records:
        assert all(one.get(field) is None for field in TIMES) and not one.get("samples_us"), one
        assert one.get("label") != "measured"
        assert one.get("note") or one.get("fault"), one
        json.dumps(one, allow_nan=False)
    ours = [one for one in records if one["implementation"] == OURS and one.get("direction") == "fwd"]
    (gradients,) = (one for one in records if one["implementation"] == OURS and one.get("direction") == "bwd")
    assert gradients["note"].startswith("refused: flash_steps has no kernel")  # the module has forward kernels alone
    assert [one.get("fault") for one in ours] == [None, None]
    assert all(one["variant"].startswith("flash_fwd_sm80_bf16_hd") and one["worst_difference"] <= 1 for one in ours)
    assert all("not measured" in line for line in speed.table(records) if " ours " in line)
