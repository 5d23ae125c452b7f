"""Interleaved timing with a clock of our own, and the state of a GPU from a library that is not there."""

from __future__ import annotations

import subprocess

import pytest
from device_steps.timing import Limits, interleaved, rounds, summarise

from kernelwright.emulator.host_library import find_compiler
from kernelwright.runtime.cuda_timer import CudaTimer, capture_graph
from kernelwright.runtime.timing import Sampling
from kernelwright.tuner.gpu_state import current_pci_bus_id, read_state, throttle_names


class Clock:
    """Every call takes what `costs` says, and is noted in order."""

    def __init__(self, costs: dict[str, float]) -> None:
        self.costs, self.order, self.now = costs, [], ""

    def call(self, name: str):
        def run() -> None:
            self.now = name

        return run

    def sample_us(self, call) -> float:
        call()
        self.order.append(self.now)
        return self.costs[self.now]


def timed(costs, **options):
    clock = Clock(costs)
    return clock, interleaved({name: clock.call(name) for name in costs}, clock, Limits(**options))


def test_calls_take_turns_and_each_is_first_as_often():
    clock, found = timed({"a": 100.0, "b": 200.0, "c": 300.0}, warm_up=2, least=3, most=3)
    assert clock.order == [*"aabbcc", *"abc", *"bca", *"cab"]
    assert found["b"].to_record() == {
        "time_us": 200.0, "p10_us": 200.0, "p90_us": 200.0, "method": "events", "launches": 1, "samples_us": [200.0] * 3
    }  # fmt: skip


@pytest.mark.parametrize(("total_us", "expected"), [(1.0, 30), (50_000.0, 20), (10_000_000.0, 7)])
def test_the_number_of_rounds_follows_the_time_there_is(total_us, expected):
    assert rounds(total_us, Limits(least=7, most=30, budget_s=1.0)) == expected


def test_a_call_that_raises_is_left_out_with_its_reason_and_the_others_go_on():
    clock = Clock({"a": 100.0, "b": 100.0})
    count = 0

    def late() -> None:
        nonlocal count
        count += 1
        if count > 4:
            raise RuntimeError("out of memory")
        clock.now = "b"

    def never() -> None:
        raise ValueError("not for head_dim 72")

    calls = {"a": clock.call("a"), "late": late, "never": never}
    found = interleaved(calls, clock, Limits(warm_up=3, least=5, most=5))
    assert len(found["a"].samples_us) == 5
    assert (found["late"].reason, found["late"].samples_us) == ("RuntimeError: out of memory", [])
    assert found["never"].reason == "ValueError: not for head_dim 72"


def capture_of(clock, costs):
    """A capture whose samples cost what `costs` says; one that is not in it is refused."""

    def capture(call, timer, expected_us):
        call()
        if clock.now not in costs:
            raise RuntimeError("not permitted when stream is capturing")
        name = clock.now
        return Sampling(method="graph", sample_us=lambda: costs[name], launches=8, cost_us=2e5)

    return capture


def test_where_one_call_is_short_all_are_captured_and_a_capture_that_fails_is_noted():
    clock = Clock({"short": 49.0, "long": 70.0, "stubborn": 60.0})
    calls = {name: clock.call(name) for name in clock.costs}
    capture = capture_of(clock, {"short": 20.0, "long": 55.0})
    found = interleaved(calls, clock, Limits(least=2, most=30), capture)
    assert {name: (one.method, one.launches, one.samples_us[0]) for name, one in found.items()} == {
        "short": ("graph", 8, 20.0),
        "long": ("graph", 8, 55.0),
        "stubborn": ("events", 1, 60.0),
    }
    assert "not permitted" in found["stubborn"].to_record()["method_note"]
    assert len(found["short"].samples_us) == 2  # what a sample of many launches costs is part of the budget


def test_where_no_call_is_short_none_is_captured():
    clock = Clock({"a": 51.0, "b": 5000.0})
    found = interleaved({name: clock.call(name) for name in clock.costs}, clock, Limits(), capture_of(clock, {}))
    assert {(one.method, one.note) for one in found.values()} == {("events", "")}


@pytest.mark.gpu
def test_a_graph_and_events_agree_on_a_gpu():
    import torch

    values = torch.ones(1 << 24, device="cuda")
    calls = {"one": lambda: values.add_(1), "two": lambda: (values.add_(1), values.add_(1))}
    events = interleaved(calls, CudaTimer(), Limits())
    graphs = interleaved(calls, CudaTimer(), Limits(graph_below_us=1e9), capture_graph)
    assert {one.method for one in graphs.values()} == {"graph"}
    for found in (events, graphs):
        one, two = (summarise(found[name].samples_us)["time_us"] for name in ("one", "two"))
        assert 0 < one < two


@pytest.mark.gpu
def test_a_gpu_tells_its_clock():
    state = read_state(current_pci_bus_id())
    assert state is None or state["sm_mhz"] > 0


def test_the_summary_is_median_and_tenths():
    assert summarise([float(one) for one in range(1, 12)]) == {"time_us": 6.0, "p10_us": 2.0, "p90_us": 10.0}
    assert summarise([5.0]) == {"time_us": 5.0, "p10_us": 5.0, "p90_us": 5.0}
    assert summarise([]) == {"time_us": None, "p10_us": None, "p90_us": None}


def test_without_the_management_library_there_is_no_state():
    assert read_state(None, "libno-such-library.so") is None


NVML = r"""
#include <string.h>
int nvmlInit_v2(void) { return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) { *device = (void *)(long)(index + 1); return 0; }
int nvmlDeviceGetHandleByPciBusId_v2(const char *id, void **device) {
    *device = (void *)2L;
    return strcmp(id, "0000:1B:00.0") ? 6 : 0;  /* not found */
}
int nvmlDeviceGetClockInfo(void *device, int kind, unsigned *mhz) {
    *mhz = (kind == 1 ? 1410 : 1593) + (device == (void *)2L ? 100 : 0);
    return 0;
}
int nvmlDeviceGetPowerUsage(void *device, unsigned *mw) { *mw = 251500; return 0; }
int nvmlDeviceGetTemperature(void *device, int sensor, unsigned *celsius) { return 3; /* not supported */ }
int nvmlDeviceGetCurrentClocksThrottleReasons(void *device, unsigned long long *reasons) { *reasons = 0x24; return 0; }
"""


def test_a_gpu_tells_clocks_power_and_why_it_is_slow_and_null_where_it_does_not(tmp_path):
    source, library = tmp_path / "nvml.c", tmp_path / "libnvidia-ml-stand-in.so"
    source.write_text(NVML)
    subprocess.run([*find_compiler("c"), "-shared", "-fPIC", "-o", str(library), str(source)], check=True)
    state = read_state(None, str(library))
    assert state == {
        "sm_mhz": 1410,
        "memory_mhz": 1593,
        "power_w": 251.5,
        "temperature_c": None,
        "throttle": ["software power cap", "software thermal slowdown"],
    }
    assert read_state("0000:1B:00.0", str(library))["sm_mhz"] == 1510  # the GPU that is used, not the first
    assert read_state("0000:FF:00.0", str(library)) is None


def test_throttle_reasons_are_named_and_idle_is_none():
    assert throttle_names(0x1) == []
    assert throttle_names(0x4 | 0x40) == ["software power cap", "hardware thermal slowdown"]
