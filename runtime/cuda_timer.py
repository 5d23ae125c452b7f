"""The timer of `timing.py` on a CUDA GPU, through torch."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from .timing import Call, Sampling, Timer, difference_sampling, launches_for

_FLUSH_FACTOR = 2  # of the L2 cache: its size alone leaves old lines where replacement is not strictly by age


class CudaTimer:
    """CUDA events on the current stream.

    Args:
        l2_mib: size of the cache to flush; None asks the current GPU.
        device: where the flush writes; it must be the current one.
    """

    def __init__(self, l2_mib: int | None = None, *, device: str = "cuda") -> None:
        if l2_mib is None:
            facts = torch.cuda.get_device_properties(torch.cuda.current_device())
            l2_mib = max(1, math.ceil(facts.L2_cache_size / 2**20))
        self._buffer = torch.empty(_FLUSH_FACTOR * l2_mib * 2**18, dtype=torch.int32, device=device)

    def flush(self) -> None:
        """Fill the cache with what no call reads."""
        self._buffer.zero_()

    def sample_us(self, call: Call) -> float:
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        self.flush()
        start.record()
        call()
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end)) * 1e3


def capture_graph(call: Call, timer: Timer, expected_us: float) -> Sampling:
    """Capture a call on the current GPU. It must have run before: loading a kernel may not be captured.

    Raises:
        Exception: what a capture of this call raises.
    """
    if not isinstance(timer, CudaTimer):
        raise TypeError(f"a graph needs a CudaTimer's flush, not {type(timer).__name__}")
    launches = launches_for(expected_us)

    def filled() -> None:
        timer.flush()
        call()

    return difference_sampling(
        _graph_of(filled, launches), _graph_of(timer.flush, launches), timer, launches, expected_us
    )


def _graph_of(call: Callable[[], None], count: int) -> Call:
    """Return the replay of a graph that runs a call some times."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # allocations and handles that may not be made while capturing
        call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    # A capture that fails leaves its own stream current (torch 2.13); the outer context puts ours back.
    with torch.cuda.stream(torch.cuda.current_stream()), torch.cuda.graph(graph):
        for _ in range(count):
            call()

    def replay(_: Call = call) -> None:  # what is captured reads and writes what the call holds
        graph.replay()

    return replay
