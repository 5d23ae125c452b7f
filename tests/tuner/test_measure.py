"""Measuring with a clock of our own; targets with GPUs of our own. On a GPU, the real thing."""

import io

import pytest
import tuner_fakes as fakes
from tuner_fakes import make_request, run

from kernelwright.tuner.errors import TunerError
from kernelwright.tuner.measure import CudaTimer, make_inputs, median_us
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
