"""Stand-ins for the driver and the emulator, compiled once a session, and modules made of them."""

from __future__ import annotations

import importlib
import itertools
import os
import sys
import sysconfig
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from kernelwright import resource_dir
from kernelwright.gen.cli import main

sys.path.insert(0, str(Path(__file__).parent))
from fake_driver import HERE, StandIn, compile_c
from fake_module import FakeModule

_numbers = itertools.count()


@pytest.fixture(scope="session")
def launcher_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The launcher, compiled with every warning an error."""
    given = os.environ.get("KERNELWRIGHT_TEST_LAUNCHER")  # one that checks its own memory
    if given:
        return Path(given)
    flags = ["-fvisibility=hidden", "-DPy_LIMITED_API=0x030b0000", f"-I{sysconfig.get_path('include')}"]
    output = tmp_path_factory.mktemp("launcher") / "_launcher.abi3.so"
    return compile_c(resource_dir("runtime") / "launcher.c", output, *flags, "-ldl", "-lm", "-pthread")


@pytest.fixture(scope="session")
def stand_in_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recording driver."""
    return compile_c(HERE / "stand_in.c", tmp_path_factory.mktemp("driver") / "libstand_in.so", "-pthread")


@pytest.fixture(scope="session")
def stand_in_emulator_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recording driver with the emulator's functions."""
    output = tmp_path_factory.mktemp("emulator") / "libstand_in_emulator.so"
    return compile_c(HERE / "stand_in.c", output, "-pthread", "-DEMULATOR")


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Tensors here are small: threads cost more than they bring, most of all where several tests run."""
    torch.set_num_threads(1)


@pytest.fixture
def stand_in(stand_in_path: Path) -> Iterator[StandIn]:
    """The recording driver, with an empty log."""
    yield (one := StandIn(stand_in_path))
    one.reset()


@pytest.fixture(params=["exchange", "plain"])
def tensor_path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways of reading tensors: in C through the exchange interface, in Python as plain integers."""
    monkeypatch.setenv("KERNELWRIGHT_PLAIN_INTS", "1" if request.param == "plain" else "0")
    return str(request.param)


@pytest.fixture
def new_module(tmp_path: Path, launcher_path: Path, stand_in_path: Path) -> Callable[..., FakeModule]:
    """Make an empty module; its CPU library is a copy of the recording driver unless another is given."""

    def make(cpu_library: Path | None = stand_in_path) -> FakeModule:
        return FakeModule(tmp_path / f"fake_module_{next(_numbers)}", launcher_path, cpu_library)

    return make


@pytest.fixture
def fake(new_module: Callable[..., FakeModule], tensor_path: str) -> FakeModule:
    """A module for fp16 and bf16, head_dim 64, with and without mask; two tile sizes without. On both paths."""
    return fill(new_module())


@pytest.fixture
def exchange_fake(new_module: Callable[..., FakeModule]) -> FakeModule:
    """The same on the ordinary path alone, for what does not depend on it."""
    return fill(new_module())


def fill(module: FakeModule) -> FakeModule:
    """Add the kernels of `fake`."""
    for dtype in ("fp16", "bf16"):
        module.add(dtype, 64, False, 64, when={"seqlen_q": [None, 64]})
        module.add(dtype, 64, False, 128)
        module.add(dtype, 64, True, 128)
    module.write()
    return module


class Loaded:
    """An imported module with the stand-in that its CPU tensors run on."""

    def __init__(self, fake: FakeModule) -> None:
        self.fake = fake
        self.module: ModuleType = fake.load()
        self.stand_in = StandIn(fake.folder / "_emulator.so")

    def __getattr__(self, name: str) -> Any:
        return getattr(self.module, name)


@pytest.fixture
def loaded(fake: FakeModule) -> Iterator[Loaded]:
    """The module of `fake`, imported."""
    one = Loaded(fake)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="CPU tensors run")
        yield one
    one.stand_in.reset()


def tensors(
    batch: int = 2,
    seqlen_q: int = 5,
    seqlen_k: int = 7,
    num_heads_q: int = 4,
    num_heads_kv: int = 2,
    head_dim: int = 64,
    dtype: torch.dtype = torch.float16,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """q, k and v of random numbers."""
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(batch, seqlen_q, num_heads_q, head_dim, generator=generator).to(dtype)
    k, v = torch.randn(2, batch, seqlen_k, num_heads_kv, head_dim, generator=generator).to(dtype)
    return q, k, v


@pytest.fixture
def make_tensors() -> Callable[..., tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """The function `tensors`."""
    return tensors


TRAINED = """
schema: 1
problems:
  - {dtype: bf16, head_dim: 32, is_causal: [false, true], backward: true}
  - {dtype: fp16, head_dim: 16, is_local: true, is_varlen: [false, true], backward: true}
  - {dtype: fp16, head_dim: 16, head_dim_v: 24, is_causal: true, has_softcap: true, has_alibi: true, backward: true}
  - {dtype: fp16, head_dim: 16, has_bias: true, is_varlen: [false, true], backward: true}
  - {dtype: fp16, head_dim: 16, has_dropout: true, backward: true}
  - {dtype: fp16, head_dim: 16, is_block_sparse: true, backward: true}
  - {dtype: bf16, head_dim: 16, is_causal: true}
"""


@pytest.fixture(scope="session")
def trainable(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    """A real module with backward kernels of a few features, on the emulator."""
    out = tmp_path_factory.mktemp("trainable")
    (out / "profile.yaml").write_text(TRAINED)
    command = ["build", "--arch", "sm80", "--profile", str(out / "profile.yaml"), "--out", str(out)]
    assert main([*command, "--name", "flash_trainable"]) == 0
    sys.path.insert(0, str(out))
    yield importlib.import_module("flash_trainable")
    sys.path.remove(str(out))
