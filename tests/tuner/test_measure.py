"""Measuring with a clock of our own; targets with GPUs of our own. On a GPU, the real thing."""

import io
from dataclasses import replace

import pytest
import tuner_fakes as fakes
from tuner_fakes import make_request, run

from kernelwright.runtime.cuda_timer import CudaTimer
from kernelwright.runtime.timing import Sampling
from kernelwright.tuner.errors import TunerError
from kernelwright.tuner.measure import burst, estimate, make_inputs, median_us
from kernelwright.tuner.progress import Progress
from kernelwright.tuner.target import Gpu, choose_target

A100 = Gpu(name="NVIDIA A100-SXM4-80GB", sm=80)


class FakeTimer:
    """Slow at first, as a cold device is, then 10 with an outlier."""

    def __init__(self):
        self.samples = iter([500.0, 400.0, 300.0, *[10.0] * 9, 1000.0, *[11.0] * 10])
        self.count = 0

    def sample_us(self, call):
        call()
        self.count += 1
        return next(self.samples)


def test_the_figure_is_a_median_after_warm_up():
    timer, calls = FakeTimer(), []
    assert median_us(lambda: calls.append(1), timer, warm_up=3, repetitions=20) == pytest.approx(11.0)
    assert len(calls) == timer.count == 23


class Steady:
    """Takes `event_us` by events and `graph_us` by a graph; notes what was called."""

    def __init__(self, event_us, graph_us=None, first_us=None):
        self.events = iter([first_us or event_us, *[event_us] * 100])
        self.graph_us, self.asked = graph_us, []

    def sample_us(self, call):
        self.asked.append("events")
        return next(self.events)

    def capture(self, call, timer, expected_us):
        if self.graph_us is None:
            raise RuntimeError("this call waits for the GPU")
        samples = iter([self.graph_us] * 100)

        def sample_us():
            self.asked.append("graph")
            return next(samples)

        return Sampling(method="graph", sample_us=sample_us, launches=10)


@pytest.mark.parametrize(
    ("event_us", "graph_us", "best_us", "method", "samples"),
    [
        (300.0, None, None, "events", [300.0] * 5),
        (300.0, None, 160.0, "events", [300.0] * 5),
        (300.0, None, 149.0, "events", [300.0] * 2),  # more than twice the best
        (30.0, 8.0, None, "graph", [8.0] * 5),
        (30.0, 8.0, 5.0, "graph", [8.0] * 5),  # by events it would be six times the best, by the launch's fault
        (60.0, 11.0, 5.0, "graph", [11.0] * 2),
        (300.0, 290.0, 45.0, "graph", [290.0] * 2),  # timed as the best was
        (30.0, None, 5.0, "events", [30.0] * 5),  # what is timed otherwise than the best is not dropped for it
    ],
)
def test_an_estimate_takes_few_samples_of_what_is_far_behind_the_best(event_us, graph_us, best_us, method, samples):
    clock = Steady(event_us, graph_us, first_us=9000.0)
    timed = estimate(lambda: None, clock, clock.capture, best_us)
    assert (timed.method, timed.samples) == (method, samples)
    assert timed.dropped == (
        f"more than 2 times the best ({best_us:g} us) at its first 2 samples" if len(samples) == 2 else ""
    )


def test_one_slow_sample_alone_drops_nothing():
    samples = iter([100.0, 100.0, 900.0, *[100.0] * 20])

    class Hiccup:
        def sample_us(self, call):
            return next(samples)

    timed = estimate(lambda: None, Hiccup(), None, 100.0)
    assert timed.dropped == "" and timed.samples == [100.0] * 5


@pytest.mark.parametrize(("method", "samples"), [("events", [30.0] * 4), ("graph", [8.0] * 4)])
def test_a_burst_is_taken_by_the_method_that_is_asked_for(method, samples):
    clock = Steady(30.0, 8.0)
    timed = burst(lambda: None, clock, clock.capture, 4, method)
    assert (timed.method, timed.samples, timed.note) == (method, samples, "")


def test_a_burst_that_cannot_be_captured_says_so():
    clock = Steady(30.0)
    timed = burst(lambda: None, clock, clock.capture, 4, "graph")
    assert (timed.method, timed.samples) == ("events", [30.0] * 4) and "waits for the GPU" in timed.note


def test_inputs_have_the_shape_and_are_the_same_every_time():
    shape = fakes.SHAPES[0]
    first, again = (make_inputs(fakes.PROBLEM, shape, "cpu") for _ in range(2))
    assert first[0].shape == (1, 512, 2, 64) and all(a.equal(b) for a, b in zip(first, again, strict=True))


@pytest.mark.parametrize(
    ("arch", "backend", "gpu", "expected"),
    [
        (None, "auto", None, (86, "rtx3090", "modelled")),
        (None, "auto", A100, (80, "a100", "measured")),
        ("sm89", "auto", A100, (89, "rtx4090", "modelled")),
        ("native", "modelled", A100, (80, "a100", "modelled")),
        ("native", "auto", Gpu(name="NVIDIA L40S", sm=89), (89, "l40s", "measured")),
        ("native", "auto", Gpu(name="NVIDIA H200", sm=90), (80, "h200", "measured")),  # runs our sm80 PTX
        ("native", "auto", Gpu(name="NVIDIA T4", sm=75), (86, "rtx3090", "modelled")),
    ],
)
def test_the_target_is_the_gpu_at_hand_else_the_spaces(arch, backend, gpu, expected):
    target = choose_target(arch, backend, 86, gpu)
    assert (target.sm, target.device.name, target.label) == expected
    assert (target.gpu is not None) == (target.label == "measured")


@pytest.mark.parametrize(
    ("arch", "backend", "gpu", "words"),
    [("native", "auto", None, "torch sees no GPU"), ("sm86", "measured", A100, "the GPU here is NVIDIA A100")],
)
def test_a_gpu_that_is_not_here_is_not_measured_on(arch, backend, gpu, words):
    with pytest.raises(TunerError, match=words):
        choose_target(arch, backend, 80, gpu)


def test_progress_says_how_far_how_good_what_failed_and_how_long(tmp_path):
    now = 0.0
    stream = io.StringIO()
    progress = Progress(stream, label="modelled", total=4, tried=[], budget_s=600, clock=lambda: now)
    outcomes = run(make_request(tmp_path)).outcomes
    progress.compiling(4)
    for one in outcomes[:3]:
        now += 10
        progress.finished(one)
    assert "3/4 points" in progress.line() and "(modelled)" in progress.line() and "10 s left" in progress.line()
    lines = stream.getvalue().splitlines()
    assert len(lines) == 4 and all(line.startswith("tuner: ") for line in lines)
    best = min(one.score for one in outcomes[:3])
    assert f"best {best:,.0f} model_cycles (modelled)" in lines[-1] and "failed" not in lines[-1]
    for kind in ("timeout", "wrong", "wrong"):
        progress.finished(replace(outcomes[3], status=kind, figures={}))
    assert "dropped" not in progress.line()
    progress.finished(replace(outcomes[3], dropped={fakes.SHAPES[0].name: "behind"}))
    assert "; 1 dropped early on some shape; failed" in progress.line()
    assert "failed: correctness 2, timeout 1" in progress.line() and f"best {best:,.0f}" in progress.line()


def test_the_time_left_is_what_was_predicted_then_the_pace_and_never_more_than_the_budget(tmp_path):
    now = 0.0
    progress = Progress(
        io.StringIO(), label="modelled", total=11, tried=[], budget_s=100, predicted_s=40, clock=lambda: now
    )
    outcome = run(make_request(tmp_path)).outcomes[0]
    assert "; 40 s left" in progress.line()
    now = 5.0
    progress.finished(outcome)
    assert "; 50 s left" in progress.line()  # ten more at 5 s each
    now = 60.0
    assert "; 40 s left" in progress.line()


def test_on_a_terminal_there_is_one_moving_line(tmp_path):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    stream = Terminal()
    progress = Progress(stream, label="modelled", total=2, tried=[], budget_s=600)
    progress.finished(run(make_request(tmp_path)).outcomes[0])
    progress.close()
    assert "1/2" in stream.getvalue() and "(modelled)" in stream.getvalue() and "\r" in stream.getvalue()


@pytest.mark.gpu
def test_a_launch_takes_time_on_a_gpu():
    import torch

    values = torch.ones(1 << 20, device="cuda")
    assert 0 < median_us(lambda: values.add_(1), CudaTimer(40)) < 10_000
