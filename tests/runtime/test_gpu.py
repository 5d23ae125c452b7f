"""A real module on a real GPU: the same kernels, streams, graphs, devices."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

from kernelwright.runtime.check import check_module
from kernelwright.runtime.gate import judge

pytestmark = [pytest.mark.gpu, pytest.mark.nvcc, pytest.mark.filterwarnings("ignore:CPU tensors run")]
NAME = "flash_runtime_gpu_test"


@pytest.fixture(scope="module")
def module(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    """A module for sm80, which newer GPUs run through its PTX."""
    out: Path = tmp_path_factory.mktemp("out")
    options = ["--arch", "sm80", "--head-dim", "64", "40", "--out", str(out), "--name", NAME]
    subprocess.run([sys.executable, "-m", "kernelwright.gen", "build", *options], check=True)
    sys.path.insert(0, str(out))
    yield importlib.import_module(NAME)
    sys.path.remove(str(out))


def inputs(seqlen: int = 200, device: str = "cuda") -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seqlen)
    return [torch.randn(2, seqlen, 4, 64, generator=generator).half().to(device) for _ in range(3)]


def assert_right(out: torch.Tensor, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> None:
    verdict = judge(out, None, q, k, v, None, is_causal=False)
    assert verdict.passed, verdict.fault


def test_every_kernel_passes_the_check(module):
    result = check_module(module, 30, device="cuda")
    assert result.passed, str(result)
    assert result.by == torch.cuda.get_device_name()


def test_gpu_and_emulator_agree(module):
    on_gpu, on_cpu = (module.flash_attn_func(*inputs(device=device), return_lse=True) for device in ("cuda", "cpu"))
    torch.testing.assert_close(on_gpu[0].cpu(), on_cpu[0], atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(on_gpu[1].cpu(), on_cpu[1], atol=2e-5, rtol=0)


def test_the_current_stream_is_used(module):
    q, k, v = inputs()
    stream = torch.cuda.Stream()
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(100_000_000)
        q.mul_(2)  # behind the sleep: a launch on another stream would read the old q
        out = module.flash_attn_func(q, k, v)
    stream.synchronize()
    assert_right(out, q, k, v)


def test_a_graph_captures_and_replays_the_launch(module):
    q, k, v = inputs()
    module.preload("cuda")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = module.flash_attn_func(q, k, v)
    for scale in (1, 3):
        q.mul_(scale)
        graph.replay()
        torch.cuda.synchronize()
        assert_right(out, q, k, v)


def test_strange_layouts_are_copied_on_the_gpu(module):
    q, k, v = inputs()
    strange = torch.stack([q, q], -1).flatten(-2)[..., ::2]
    assert_right(module.flash_attn_func(strange, k, v), q, k, v)


def test_out_is_written_in_place(module):
    q, k, v = inputs()
    out = torch.full_like(q, torch.nan)
    assert module.flash_attn_func(q, k, v, out=out) is out
    assert_right(out, q, k, v)


@pytest.mark.parametrize("index", range(max(1, torch.cuda.device_count())))
def test_every_gpu_is_launched_on_whichever_is_current(module, index):
    q, k, v = inputs(device=f"cuda:{index}")
    with torch.cuda.device(0):
        assert_right(module.flash_attn_func(q, k, v), q, k, v)
