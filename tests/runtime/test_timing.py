"""Short calls by graphs, long ones by events, with a clock of our own; what a GPU alone can say is marked so."""

from __future__ import annotations

import random
import statistics

import pytest
import torch

from kernelwright.runtime.cuda_timer import CudaTimer, capture_graph
from kernelwright.runtime.timing import (
    GRAPH_BELOW_US,
    by_events,
    difference_sampling,
    launches_for,
    method_for,
    sampling_of,
)


class Gpu:
    """A call takes `call_us`, a flush `flush_us`; a graph's start `start_us`. What is cold costs `miss_us` more."""

    def __init__(self, call_us=6.0, flush_us=40.0, start_us=9.0, noise=0.0, seed=0):
        self.call_us, self.flush_us, self.start_us, self.miss_us = call_us, flush_us, start_us, 5.0
        self.noise, self.random = noise, random.Random(seed)
        self.now, self.is_cold, self.calls = 0.0, False, 0

    def flush(self):
        self.now += self.flush_us * self.random.gauss(1, self.noise)
        self.is_cold = True

    def call(self):
        self.now += self.call_us + self.miss_us * self.is_cold
        self.is_cold = False
        self.calls += 1

    def graph(self, *steps):
        def replay():
            self.now += self.start_us
            for step in steps:
                step()

        return replay

    def sample_us(self, call):
        self.flush()
        before = self.now
        call()
        return self.now - before


def graph_sampling(gpu, launches):
    filled = gpu.graph(*[gpu.flush, gpu.call] * launches)
    return difference_sampling(filled, gpu.graph(*[gpu.flush] * launches), gpu, launches, gpu.call_us)


def test_calls_compared_with_one_another_are_timed_by_one_method_that_of_the_shortest():
    assert method_for([GRAPH_BELOW_US, 300.0]) == "events" and method_for([]) == "events"
    assert method_for([GRAPH_BELOW_US - 0.1, 300.0]) == "graph"


@pytest.mark.parametrize(("expected_us", "launches"), [(0.0, 40), (2.0, 40), (20.0, 20), (49.0, 9), (5000.0, 4)])
def test_a_graph_holds_more_launches_of_shorter_calls(expected_us, launches):
    assert launches_for(expected_us) == launches


def test_a_graphs_sample_is_one_cold_call_without_flush_and_start():
    gpu = Gpu()
    sampling = graph_sampling(gpu, 16)
    assert (sampling.method, sampling.launches) == ("graph", 16)
    assert sampling.sample_us() == pytest.approx(gpu.call_us + gpu.miss_us)  # a warm one would be 6
    assert gpu.sample_us(gpu.graph(gpu.call)) == pytest.approx(11 + 9)  # what a graph of one launch would say
    assert sampling.cost_us == pytest.approx(2 * (16 * 40 + 9) + 16 * 6)


def test_flushes_that_vary_are_told_by_their_median():
    gpu = Gpu(noise=0.01, seed=3)
    sampling = graph_sampling(gpu, launches_for(11.0))
    samples = [sampling.sample_us() for _ in range(15)]
    assert statistics.median(samples) == pytest.approx(11.0, abs=0.2)
    gpu.noise = 0.0
    gpu.flush_us = 400.0  # one hiccup of the flushes alone does not move the level
    before = gpu.calls
    assert graph_sampling(gpu, 4).sample_us() == pytest.approx(11.0) and gpu.calls == before + 8


def test_what_cannot_be_captured_is_sampled_by_events_and_says_why():
    gpu = Gpu()

    def refuses(call, timer, expected_us):
        raise RuntimeError("operation not permitted\nwhen stream is capturing")

    sampling = sampling_of(gpu.call, gpu, 6.0, "graph", refuses)
    assert sampling.method == "events" and sampling.sample_us() == pytest.approx(11.0)
    assert sampling.note == "not captured into a graph: RuntimeError: operation not permitted when stream is capturing"
    assert by_events(gpu.call, gpu).note == ""


def test_events_never_capture_and_a_graph_needs_a_way_to():
    gpu = Gpu()

    def never(*_):
        raise AssertionError("captured")

    assert sampling_of(gpu.call, gpu, 6.0, "events", never).method == "events"
    assert sampling_of(gpu.call, gpu, 6.0, "graph", None).method == "events"


def test_a_graph_needs_the_flush_of_a_gpus_timer():
    with pytest.raises(TypeError, match="CudaTimer's flush, not Gpu"):
        capture_graph(lambda: None, Gpu(), 5.0)


@pytest.mark.gpu
def test_on_a_gpu_graphs_agree_with_events_on_long_calls_and_say_less_on_short_ones():
    timer = CudaTimer()
    long, short = torch.ones(1 << 26, device="cuda"), torch.ones(1 << 10, device="cuda")
    for values, is_long in ((long, True), (short, False)):
        call = lambda values=values: values.add_(1)  # noqa: E731
        events = statistics.median(timer.sample_us(call) for _ in range(20))
        graph = capture_graph(call, timer, events)
        found = statistics.median(graph.sample_us() for _ in range(20))
        assert 0 < found < events * 1.05
        assert not is_long or found == pytest.approx(events, rel=0.1)


@pytest.mark.gpu
def test_on_a_gpu_every_launch_of_a_graph_meets_a_cold_cache():
    timer = CudaTimer()
    values = torch.ones(1 << 20, device="cuda")  # 4 MiB: fits into any L2

    def call():
        return values.sum()

    cold = capture_graph(call, timer, 10.0)
    timer_warm = CudaTimer()
    timer_warm.flush = lambda: None  # the same graph without its flushes
    warm = capture_graph(call, timer_warm, 10.0)
    assert statistics.median(cold.sample_us() for _ in range(20)) > statistics.median(
        warm.sample_us() for _ in range(20)
    )
