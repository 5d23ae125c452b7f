"""A real module on the real emulator: built by `gen build`, checked, called, interrupted."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from fake_kernel import attended

from kernelwright.runtime.check import check_module
from kernelwright.runtime.reference import reference

pytestmark = [pytest.mark.nvcc, pytest.mark.filterwarnings("ignore:CPU tensors run")]
NAME = "flash_runtime_test"


def gen(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "kernelwright.gen", *arguments]
    return subprocess.run(command, env=environment(), capture_output=True, text=True)


def environment(**changes: str) -> dict[str, str]:
    return {**os.environ, **changes}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a module for fp16 and bf16 with head_dim 64 and 40."""
    out = tmp_path_factory.mktemp("out")
    for_all = ["--arch", "sm80", "--head-dim", "64", "40", "--out", str(out), "--name", NAME]
    answer = gen("build", *for_all)
    assert answer.returncode == 0, answer.stderr
    return out / NAME


@pytest.fixture(scope="module")
def module(folder: Path) -> Iterator[ModuleType]:
    sys.path.insert(0, str(folder.parent))
    yield importlib.import_module(NAME)
    sys.path.remove(str(folder.parent))


def test_every_kernel_passes_the_check(module):
    result = check_module(module, 4, device="cpu")
    assert result.passed, str(result)
    assert len(result.variants) == 8 and result.by == "emulator"


@pytest.mark.slow
def test_every_kernel_passes_many_checks(module):
    result = check_module(module, 40, device="cpu", seed=1)
    assert result.passed, str(result)


def test_both_ways_of_reading_tensors_give_the_same_bits(folder, make_tensors, tmp_path):
    script = (
        f"import sys, torch, warnings; sys.path.insert(0, {str(folder.parent)!r}); import {NAME} as module;"
        "warnings.simplefilter('ignore'); torch.manual_seed(0);"
        "q = torch.randn(1, 70, 4, 64).half(); k, v = torch.randn(2, 1, 90, 2, 64).half();"
        "results = [module.flash_attn_func(q, k, v, causal=True, return_lse=True) for _ in range(2)];"
        "torch.save([one for result in results for one in result], sys.argv[1])"
    )
    saved = []
    for plain in ("0", "1"):
        file = str(tmp_path / plain)
        command = [sys.executable, "-c", script, file]
        subprocess.run(command, check=True, env=environment(KERNELWRIGHT_PLAIN_INTS=plain))
        saved.append(torch.load(file))
    assert all(torch.equal(one, other) for one, other in zip(*saved, strict=True))


def test_a_nan_in_a_key_does_not_reach_rows_that_do_not_see_it(module, make_tensors):
    q, k, v = make_tensors(seqlen_q=40, seqlen_k=40)
    before = module.flash_attn_func(q, k, v, causal=True)
    for value in (torch.nan, torch.inf):
        k[:, 30] = value
        after = module.flash_attn_func(q, k, v, causal=True)
        assert torch.equal(before[:, :30], after[:, :30])
    assert after[:, 30:].isnan().any(-1).all()


def test_a_nan_in_a_query_stays_in_its_row(module, make_tensors):
    q, k, v = make_tensors(seqlen_q=40, seqlen_k=50)
    before = module.flash_attn_func(q, k, v)
    q[1, 20, 3, 0] = torch.nan
    after = module.flash_attn_func(q, k, v)
    assert after[1, 20, 3].isnan().all()
    after[1, 20, 3] = before[1, 20, 3]
    assert torch.equal(before, after)


def test_infinite_values_behind_the_last_key_are_not_read(module, make_tensors):
    q, k, v = make_tensors(seqlen_q=20, seqlen_k=64)
    before = module.flash_attn_func(q, k[:, :50], v[:, :50])
    k[:, 50:], v[:, 50:] = torch.nan, torch.inf
    assert torch.equal(module.flash_attn_func(q, k[:, :50], v[:, :50]), before)


def test_threads_do_not_disturb_each_other(module, make_tensors):
    inputs = [make_tensors(seqlen_q=20 + index, seqlen_k=30) for index in range(4)]
    expected = [module.flash_attn_func(*one) for one in inputs]
    found: list[torch.Tensor | None] = [None] * 4
    reports: list[dict[str, object]] = [{}] * 4

    def run(index: int) -> None:
        found[index] = module.flash_attn_func(*inputs[index])
        reports[index] = module.last_report()

    threads = [threading.Thread(target=run, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(one, other) for one, other in zip(expected, found, strict=True))
    assert all(reports)


def test_long_softmax_scales_and_many_heads(module):
    q = torch.randn(1, 3, 16, 40, generator=torch.Generator().manual_seed(0)).bfloat16()
    k, v = torch.randn(2, 1, 5, 2, 40, generator=torch.Generator().manual_seed(1)).bfloat16()
    for scale in (1e-3, 1.0, 30.0):
        found = module.flash_attn_func(q, k, v, softmax_scale=scale)
        expected = reference(attended(q, k, v, softmax_scale=scale)).out
        torch.testing.assert_close(found.double(), expected, atol=2e-2, rtol=2e-2)


def test_the_report_counts(module, make_tensors):
    module.flash_attn_func(*make_tensors())
    assert module.last_report()
    assert module.last_report()["tracks_undefined"] is False  # no path reads a register it has not written


def test_the_command_at_the_end_of_no_kernel_builds_one(module, make_tensors):
    with pytest.raises(module.NoKernelError) as caught:
        module.flash_attn_func(*make_tensors(head_dim=96, dtype=torch.bfloat16))
    tool, verb, *rest = str(caught.value).splitlines()[-1].split()
    assert (tool, verb) == ("gen", "build")
    answer = gen(verb, *rest, "--dry-run")
    assert answer.returncode == 0 and "hd96" in answer.stdout + answer.stderr, answer.stderr


FEATURES = {
    "every score and mask": {
        "window_size": (9, 0),
        "softcap": 5.0,
        "alibi_slopes": torch.arange(4) / 8,
        "bias": torch.linspace(-1, 1, 4 * 5 * 7).half().view(1, 4, 5, 7),
    },
    "dropout": {"dropout_p": 0.25, "rng_state": torch.tensor([3, 64])},
    "causal and a chunk": {"causal": True, "attention_chunk": 3},
}


@pytest.mark.parametrize("name", FEATURES)
def test_the_command_builds_exactly_what_the_call_misses(module, make_tensors, tmp_path, name):
    q, k, v = make_tensors()
    v = v[..., :48].contiguous()
    with pytest.raises(module.NoKernelError) as caught:
        module.flash_attn_func(q, k, v, **FEATURES[name])
    tool, verb, *rest = str(caught.value).splitlines()[-1].split()
    assert (tool, verb) == ("gen", "build")
    answer = gen(verb, *rest, "--out", str(tmp_path), "--name", "missing")
    assert answer.returncode == 0, answer.stderr
    module.load_table(tmp_path / "missing" / "kernels")
    try:
        found = module.flash_attn_func(q, k, v, **FEATURES[name])
        assert len(list((tmp_path / "missing" / "kernels").glob("*.cubin"))) == 1
    finally:
        module.load_table(None)
    expected = reference(attended(q, k, v, **FEATURES[name])).out
    torch.testing.assert_close(found.double(), expected, atol=4e-3, rtol=4e-3)


def test_another_device_can_be_played(folder):
    script = (
        f"import sys, torch; sys.path.insert(0, {str(folder.parent)!r}); import {NAME} as module;"
        "q = torch.randn(1, 3, 1, 64).half(); module.flash_attn_func(q, q, q); print(module.explain(q, q, q).device)"
    )
    command = [sys.executable, "-W", "ignore", "-c", script]
    changes = environment(KERNELWRIGHT_EMULATE="rtx3090,sms=2")
    answer = subprocess.run(command, env=changes, capture_output=True, text=True)
    assert answer.stdout.strip() == "NVIDIA GeForce RTX 3090 (sm86, 2 SMs), emulated", answer.stderr


def test_leaving_while_a_thread_is_in_a_launch_is_no_crash(folder):
    script = (
        f"import sys, threading, time, torch; sys.path.insert(0, {str(folder.parent)!r}); import {NAME} as module\n"
        "q = torch.randn(4, 4000, 8, 64).half()\n"
        "module.preload('cpu')\n"
        "threading.Thread(target=module.flash_attn_func, args=(q, q, q), daemon=True).start()\n"
        "time.sleep(0.3)\n"
        "sys.exit(3)\n"
    )
    command = [sys.executable, "-W", "ignore", "-c", script]
    assert subprocess.run(command, env=environment(), timeout=60).returncode == 3


def test_control_c_stops_the_emulator(folder):
    script = (
        f"import sys, torch, os, signal, threading, time; sys.path.insert(0, {str(folder.parent)!r});"
        f"import {NAME} as module; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "q = torch.randn(4, 4000, 8, 64).half()\n"
        "module.preload('cpu')\n"
        "threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()\n"
        "try:\n    module.flash_attn_func(q, q, q); print('finished')\n"
        "except KeyboardInterrupt:\n    print('interrupted')\n"
    )
    command = [sys.executable, "-W", "ignore", "-c", script]
    answer = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=60)
    assert answer.stdout.strip() == "interrupted", answer.stderr
