"""examples/train_gpt.py: its configuration, what it compares, and that it goes on where it stopped.

Without a compiler a stand-in takes the module's place: layers whose kernels are torch.
"""

from __future__ import annotations

import importlib
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("torch")
import torch

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
TINY = ["model.layers=1", "model.heads=1", "model.head_dim=16", "model.context=16", "training.warmup=2"]
TINY += ["training.steps=6", "training.batch=2", "training.accumulate=2", "training.save_every=2"]

STAND_IN = """
import time
from types import SimpleNamespace

from kernelwright.runtime.block_mask import BlockMask
from kernelwright.runtime.errors import EmulationWarning, KernelError, NoKernelError
from kernelwright.runtime.layers import MultiheadAttention
from kernelwright.runtime.torch_attention import attention_by_torch


class Layer(MultiheadAttention):
    functions = {"flash_attn_func": attention_by_torch, "sparse_attn_func": attention_by_torch}


nn = SimpleNamespace(MultiheadAttention=Layer)
"""


@pytest.fixture(scope="module", autouse=True)
def examples() -> Iterator[None]:
    """The folder of the examples, where modules are looked for; one thread, as tensors are small."""
    sys.path.insert(0, str(EXAMPLES))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    sys.path.remove(str(EXAMPLES))


@pytest.fixture(scope="module")
def config_module(examples: None) -> ModuleType:
    return importlib.import_module("train_gpt_config")


@pytest.fixture
def train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    """Run the example in this process; its exit status, and result.json where there is one."""
    main = importlib.import_module("train_gpt").main
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = signal.getsignal(signal.SIGINT)
    (tmp_path / "stand_in.py").write_text(STAND_IN)

    def run(*changes: str, out: str = "out", module: str = "stand_in", options: tuple[str, ...] = ()) -> Any:
        sets = [part for change in [*TINY, *changes] for part in ("--set", change)]
        place = ["--module", module, "--path", str(tmp_path), "--out", str(tmp_path / out), "--device", "cpu"]
        monkeypatch.setattr(sys, "argv", ["train_gpt.py", *place, *sets, *options])
        sys.modules.pop(module, None)
        result = tmp_path / out / "result.json"
        return main(), json.loads(result.read_text()) if result.exists() else None

    yield run
    signal.signal(signal.SIGINT, before)


# ------------------------------------------------------------------ configuration


def faults(config_module: ModuleType, path: Path, *changes: str) -> list[str]:
    with pytest.raises(config_module.ConfigError) as error:
        config_module.read_config(path, changes, on_gpu=False)
    return str(error.value).splitlines()


@pytest.mark.parametrize("on_gpu", [False, True])
def test_the_configuration_that_ships_is_right(config_module, on_gpu):
    config = config_module.read_config(EXAMPLES / "train_gpt.yaml", on_gpu=on_gpu)
    assert (config.model.layers, config.model.context) == ((12, 1024) if on_gpu else (2, 64))
    text = (EXAMPLES / config.training.text).read_bytes()
    assert 20_000 < len(text) < 50_000 and text.isascii() and b"We the People" in text


def test_every_fault_is_named_by_its_path(config_module, tmp_path):
    path = tmp_path / "bad.yaml"
    text = (EXAMPLES / "train_gpt.yaml").read_text()
    for old, new in (
        ("  layers: 2", "  layrs: 2"),
        ("dropout: 0.0", "dropout: 1.5"),
        ("use_flash_attention: true", "use_flash_attention: yes please"),
        ("block_size: 0", "block_size: 40"),
        ("warmup: 10", "warmup: 500"),
        ("schema: 1", "schema: 2\nplanet: earth"),
    ):
        assert old in text
        text = text.replace(old, new, 1)
    path.write_text(text)
    found = "\n".join(faults(config_module, path))
    for said in (
        "$.schema must be 1, got 2",
        "$.planet is unknown; there are schema",
        "$.model.layrs is unknown; did you mean layers?",
        "$.model.layers is missing",
        "$.attention.use_flash_attention must be true or false, got 'yes please'",
        "$.training.warmup must be from 0 to below steps, got 500",
    ):
        assert f"{path}: {said}" in found


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("training.steps=0", "$.training.steps must be 1 or more, got 0"),
        ("training.steps=two", "$.training.steps must be a whole number, got 'two'"),
        ("training.steps=true", "$.training.steps must be a whole number, got True"),
        ("training.learning_rate=.nan", "$.training.learning_rate must be a number, got nan"),
        ("training.min_learning_rate=1", "$.training.min_learning_rate must be from 0 to learning_rate, got 1.0"),
        ("training.dtype=fp8", "$.training.dtype must be bf16 or fp16, got 'fp8'"),
        ("model.dropout=1", "$.model.dropout must be from 0 to below 1, got 1.0"),
        ("attention.block_size=40", "$.attention.block_size must be 0, or a multiple of 32"),
        ("training.step=3", "--set training.step is unknown; did you mean steps?"),
        ("steps=3", "--set steps=3: not of the form SECTION.KEY=VALUE"),
        ("training.steps=[", "--set training.steps=[: not a value"),
    ],
)
def test_a_change_that_makes_no_sense_is_refused(config_module, change, said):
    assert any(said in line for line in faults(config_module, EXAMPLES / "train_gpt.yaml", change))


@pytest.mark.parametrize(
    ("text", "said"), [("- 1", "$ must be a mapping"), ("a: [", "not YAML"), ("model: 3", "$.model")]
)
def test_a_file_that_is_no_configuration_is_refused(config_module, tmp_path, text, said):
    (tmp_path / "bad.yaml").write_text(text)
    assert any(said in line for line in faults(config_module, tmp_path / "bad.yaml"))
    assert "No such file" in faults(config_module, tmp_path / "none.yaml")[0]


def test_the_learning_rate_warms_up_and_falls_by_a_cosine(config_module):
    changes = ["training.warmup=4", "training.steps=24", "training.learning_rate=1", "training.min_learning_rate=0.5"]
    config = config_module.read_config(EXAMPLES / "train_gpt.yaml", changes, on_gpu=False)
    rates = [config.rate(step) for step in range(24)]
    assert rates[:5] == [0.25, 0.5, 0.75, 1.0, 1.0] and rates[-1] == pytest.approx(0.5)
    assert rates[4:] == sorted(rates[4:], reverse=True)
    assert sum(rates[4:]) / 20 == pytest.approx(0.75)


def test_numbers_may_be_written_without_a_point(config_module):
    config = config_module.read_config(EXAMPLES / "train_gpt.yaml", ["training.learning_rate=3e-2"], on_gpu=False)
    assert config.training.learning_rate == 0.03


def test_misuse_ends_with_2_and_one_line_for_each_fault(train, capsys, tmp_path):
    assert train("training.batch=0", "model.layrs=1")[0] == 2
    assert len(capsys.readouterr().err.splitlines()) == 2
    assert train(module="no_such_module")[0] == 2
    assert "gen build --arch sm80 --profile examples/train_gpt_kernels.yaml" in capsys.readouterr().err
    assert train("training.text=data/none.txt")[0] == 2
    assert train("model.context=100000")[0] == 2
    assert "a tenth is held back" in capsys.readouterr().err
    (tmp_path / "a_file").touch()
    assert train(out="a_file")[0] == 2
    assert "Choose a folder that can be written" in capsys.readouterr().err
    assert train(module="json")[0] == 2
    assert "is no built module" in capsys.readouterr().err
    if not torch.cuda.is_available():
        assert train(options=("--device", "cuda"))[0] == 2
        assert "torch finds no GPU here" in capsys.readouterr().err


# ------------------------------------------------------------------ training


def test_runs_of_the_same_mathematics_pass_and_the_result_says_all(train, capsys, tmp_path):
    status, found = train()
    assert status == 0 and found["passed"] and found["difference"] == 0.0 < found["noise"] < 0.1
    assert [one["name"] for one in found["runs"]] == ["kernels", "torch", "torch, float32"]
    assert all(len(one["losses"]) == 6 and math.isfinite(one["exam"]) for one in found["runs"])
    assert found["runs"][0]["losses"][-1] < found["runs"][0]["losses"][0]
    assert found["runs"][0]["time_label"].startswith("emulated") and found["runs"][1]["time_label"] == "measured"
    assert found["attention_memory"] == {
        "label": "counted",
        "kernels_bytes": 4 * 2 * (2 * 16) * 16 + 4 * 2 * 16,
        "scores_written_out_bytes": 4 * 2 * (2 * 16) * 16 + 2 * 2 * 16 * 16,
    }
    said = capsys.readouterr().out
    assert "within 2x the noise" in said and "(counted)" in said and "emulated" in said
    assert (tmp_path / "out" / found["plot"]).stat().st_size > 1000


@pytest.mark.parametrize(
    "wrong",
    ["(q, k, v, **{**options, 'causal': False})", "(q, k, v.detach(), **options)", "(q, k.detach(), v, **options)"],
)
def test_a_wrong_result_or_gradient_is_not_within_the_noise(train, tmp_path, capsys, wrong):
    function = f'"flash_attn_func": lambda q, k, v, **options: attention_by_torch{wrong}'
    (tmp_path / "wrong.py").write_text(STAND_IN.replace('"flash_attn_func": attention_by_torch', function))
    status, found = train("training.learning_rate=3e-2", "training.steps=12", module="wrong")
    assert status == 1 and not found["passed"] and found["difference"] > 2 * found["noise"]
    assert "NOT within" in capsys.readouterr().out


def test_a_missing_kernel_ends_with_its_message(train, tmp_path, capsys):
    error = "NoKernelError('no kernel.\\nBuild one:\\ngen build')"
    raising = f"def missing(*args, **options):\n    raise {error}\n\n\nclass Layer"
    text = STAND_IN.replace("class Layer", raising).replace(
        '"flash_attn_func": attention_by_torch', '"flash_attn_func": missing'
    )
    (tmp_path / "missing.py").write_text(text)
    assert train(module="missing") == (1, None)
    assert "NoKernelError: no kernel." in capsys.readouterr().err


def test_memory_of_attention_is_that_of_the_second_call(config_module, monkeypatch, tmp_path):
    """A GPU's counters are played: each call allocates its result, the first one 1,000 bytes more."""
    module = importlib.import_module("train_gpt")
    held = {"now": 0, "peak": 0, "calls": 0}

    def flash_attn_func(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, causal: bool) -> torch.Tensor:
        held["calls"] += 1
        held["now"] += 50 + 1000 * (held["calls"] == 1)
        held["peak"] = held["now"] + 7
        return q * 1.0 + k * 0.0 + v * 0.0

    for name, answer in (
        ("synchronize", lambda: None),
        ("reset_peak_memory_stats", lambda: held.update(peak=held["now"])),
        ("memory_allocated", lambda: held["now"]),
        ("max_memory_allocated", lambda: held["peak"]),
    ):
        monkeypatch.setattr(torch.cuda, name, answer)
    config = config_module.read_config(EXAMPLES / "train_gpt.yaml", on_gpu=False)
    found = module.measured_memory(config, SimpleNamespace(flash_attn_func=flash_attn_func), "cpu")
    assert found["kernels"] == {"kept_bytes": 50, "peak_bytes": 57} and held["calls"] == 2
    assert found["torch"] == {"kept_bytes": 0, "peak_bytes": 0} and found["label"] == "measured"


def test_torch_alone_has_nothing_to_compare(train):
    status, found = train("attention.use_flash_attention=false")
    assert status == 0 and len(found["runs"]) == 1 and "noise" not in found


def test_with_dropout_noise_is_another_seed(train):
    status, found = train("model.dropout=0.3")
    assert status == 0 and found["noise_of"] == "torch, another seed of dropout" and found["noise"] > 1e-3


def test_blocks_of_a_sparse_mask_change_what_is_learnt_in_both_runs(train):
    changes = ["model.context=192", "training.steps=3", "training.warmup=1"]
    whole, sparse = (train(*changes, f"attention.block_size={size}", out=str(size))[1] for size in (0, 32))
    assert sparse["passed"] and sparse["runs"][0]["losses"] != whole["runs"][0]["losses"]


def test_what_stopped_goes_on_bit_for_bit(train, tmp_path, monkeypatch, capsys):
    module = importlib.import_module("train_gpt")
    whole = train("model.dropout=0.2")[1]
    step, interrupt = module.Trainer._step, [2, 7, 8]  # in the first run twice, in the second once

    def interrupted(self: Any, number: int) -> float:
        count[0] += 1
        if count[0] in interrupt:
            os.kill(os.getpid(), signal.SIGINT)
        found: float = step(self, number)
        return found

    count = [0]
    monkeypatch.setattr(module.Trainer, "_step", interrupted)
    statuses = [train("model.dropout=0.2", out="parts")[0]]
    for _ in range(3):
        statuses.append(train("model.dropout=0.2", out="parts", options=("--resume",))[0])
    assert statuses == [130, 130, 130, 0] and count[0] == 18
    parts = json.loads((tmp_path / "parts" / "result.json").read_text())
    assert [one["losses"] for one in parts["runs"]] == [one["losses"] for one in whole["runs"]]
    assert [one["exam"] for one in parts["runs"]] == [one["exam"] for one in whole["runs"]]
    assert "Go on with --resume" in capsys.readouterr().err
    assert not list((tmp_path / "parts").glob("*.tmp"))


def test_a_checkpoint_of_something_else_is_refused(train, tmp_path, capsys):
    assert train()[0] == 0
    assert train("training.seed=3", options=("--resume",))[0] == 2
    assert "is of another configuration" in capsys.readouterr().err
    (tmp_path / "out" / "kernels.pt").write_bytes(b"damaged")
    assert train(options=("--resume",))[0] == 2
    assert "cannot be read" in capsys.readouterr().err
    file = tmp_path / "out" / "torch.pt"
    for damaged in ([1], {name: one for name, one in torch.load(file).items() if name != "losses"}):
        torch.save(damaged, tmp_path / "out" / "kernels.pt")
        assert train(options=("--resume",))[0] == 2
        assert len(capsys.readouterr().err.splitlines()) == 1
    assert train()[0] == 0  # from the first step, over what is there


def test_ctrl_c_in_a_terminal_leaves_a_checkpoint(tmp_path):
    (tmp_path / "stand_in.py").write_text(STAND_IN)
    place = ["--module", "stand_in", "--path", str(tmp_path), "--out", str(tmp_path / "out"), "--device", "cpu"]
    sets = [part for change in [*TINY, "training.steps=100000"] for part in ("--set", change)]
    command = [sys.executable, str(EXAMPLES / "train_gpt.py"), *place, *sets]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    file = tmp_path / "out" / "kernels.pt"
    deadline = time.monotonic() + 60
    while not file.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130 and out == "" and "kernels stopped after step" in err
    assert torch.load(file, weights_only=True)["losses"]


def test_the_plot_needs_no_matplotlib(examples, tmp_path, monkeypatch):
    plot = importlib.import_module("train_gpt_plot")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    path = plot.plot_losses({"a": [3.0, 2.0, 1.5], "b & c": [3.0, 2.5, 1.0]}, "title", tmp_path)
    text = path.read_text()
    assert path.name == "loss.svg" and text.count("<polyline") == 2 and "b &amp; c" in text
    import xml.etree.ElementTree as ElementTree

    ElementTree.fromstring(text)
    assert plot.svg({"one": [1.0]}, "a single step").count("<polyline") == 1


@pytest.mark.nvcc
def test_kernels_learn_as_torch_does(train, tmp_path, capsys):
    """On the emulator: 6 steps, forward and backward, of kernels built for this."""
    problem = ["--head-dim", "32", "--dtype", "bf16", "--features", "causal", "--backward"]
    build = [sys.executable, "-m", "kernelwright.gen", "build", "--arch", "sm80", *problem]
    subprocess.run([*build, "--out", str(tmp_path), "--name", "flash_train"], check=True, capture_output=True)
    status, found = train("model.head_dim=32", "model.context=40", "model.heads=2", module="flash_train")
    assert status == 0, capsys.readouterr()
    assert 0 < found["difference"] <= 2 * found["noise"] < 0.1
