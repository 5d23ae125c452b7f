"""The command `gen`: results, messages and exit statuses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import kernelwright
from kernelwright.gen.cli import main
from kernelwright.gen.terminal import DONE, FAILED, MISUSED

ROOT = Path(__file__).resolve().parents[2]
FAKE = ROOT / "tests" / "build" / "fake_nvcc.py"


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to be in, a cache, a stand-in toolkit, a launcher that need not be compiled."""
    for tool in ("nvcc", "ptxas"):
        script = tmp_path / "toolkit" / "bin" / tool
        script.parent.mkdir(parents=True, exist_ok=True)
        script.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S {FAKE} {tool} "$@"\n')
        script.chmod(0o755)
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "toolkit"))
    monkeypatch.setenv("KERNELWRIGHT_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("MAX_JOBS", raising=False)
    (tmp_path / "part.so").write_bytes(b"\x7fELF")
    monkeypatch.setattr("kernelwright.build.launcher.compile_launcher", lambda cache: tmp_path / "part.so")
    monkeypatch.setattr("kernelwright.build.launcher.emulator_library", lambda: tmp_path / "part.so")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    status = main(list(arguments))
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def python(*arguments: str) -> str:
    package_root = str(Path(kernelwright.__file__).parent.parent)
    environment = os.environ | {"PYTHONPATH": package_root}
    return subprocess.run(
        [sys.executable, *arguments], env=environment, check=True, capture_output=True, text=True
    ).stdout


BUILD = ("build", "--arch", "sm80", "--head-dim", "64", "--dtype", "bf16")


def test_starting_the_command_loads_neither_torch_nor_templates():
    text = (
        "import sys, kernelwright.gen.cli; print([m for m in ('torch', 'jinja2', 'yaml', 'numpy') if m in sys.modules])"
    )
    assert python("-c", text) == "[]\n"


def test_listing_and_building_do_not_load_torch():
    text = (
        "import sys; from kernelwright.gen.cli import main; main(['list', '--json']); "
        "import kernelwright.build.kernels, kernelwright.build.module; print('torch' in sys.modules)"
    )
    assert python("-c", text).endswith("False\n")


def test_a_build_writes_the_default_module_and_says_how_to_use_it(capsys, workplace):
    status, out, err = run(capsys, *BUILD)
    assert status == DONE, err
    assert (workplace / "out" / "flash_sm80" / "kernels" / "table.json").exists()
    assert "out/flash_sm80/: 2 kernels" in out
    assert f"sys.path.insert(0, {str(workplace / 'out')!r})" in out
    assert "flash_sm80.flash_attn_func(q, k, v, causal=" in out and "bfloat16" in out
    assert "[2/2] nvcc flash_fwd_sm80" in err


def test_a_build_goes_where_it_is_told(capsys, workplace):
    status, out, _ = run(capsys, *BUILD, "--out", "else/where", "--name", "mine", "--json")
    assert status == DONE
    summary = json.loads(out)
    assert summary["module"] == "else/where/mine" and summary["changed"]
    assert {path.name for path in (workplace / "else" / "where").iterdir()} >= {"mine", "src", "obj", "build.ninja"}
    info = json.loads((workplace / "else/where/mine/build_info.json").read_text())
    assert info["command"] == ("gen build --arch sm80 --profile default --head-dim 64 --dtype bf16 --name mine")
    assert info["archs"] == ["sm80"]


def test_features_and_the_head_dim_of_v_are_built_and_noted(capsys, workplace):
    chosen = ["--head-dim", "192", "--head-dim-v", "128", "--dtype", "bf16", "--features", "local,varlen"]
    status, out, _ = run(capsys, "build", "--arch", "sm80", *chosen, "--name", "mine")
    assert status == DONE and "mine.support()" in out and "flash_attn_func" not in out
    table = json.loads((workplace / "out" / "mine" / "kernels" / "table.json").read_text())
    assert [name.split("_m")[0] for name in table["kernels"]] == [
        "flash_fwd_sm80_bf16_hd192_dv128_causal0_local_varlen"
    ]
    info = json.loads((workplace / "out" / "mine" / "build_info.json").read_text())
    assert info["command"] == f"gen build --arch sm80 --profile default {' '.join(chosen)} --name mine"


def test_a_build_with_nothing_to_do_says_so(capsys):
    run(capsys, *BUILD)
    status, out, err = run(capsys, *BUILD, "--json")
    assert (status, json.loads(out)["changed"], err) == (DONE, False, "")


def test_a_module_for_several_architectures_names_them(capsys, workplace):
    status, _, _ = run(capsys, "build", "--arch", "sm80,sm86,sm80", "--head-dim", "64", "--dtype", "fp16")
    assert status == DONE
    table = json.loads((workplace / "out/flash_sm80_sm86/kernels/table.json").read_text())
    assert {kernel["sm"] for kernel in table["kernels"].values()} == {80, 86}


def test_a_dry_run_writes_nothing(capsys, workplace):
    status, out, _ = run(capsys, *BUILD, "--dry-run")
    assert status == DONE and "2 kernels for sm80" in out and "CPU s" in out
    assert not (workplace / "out").exists()
    status, out, _ = run(capsys, *BUILD, "--dry-run", "--json")
    assert [kernel["head_dim"] for kernel in (one["problem"] for one in json.loads(out)["kernels"])] == [64, 64]


def test_backward_kernels_are_built_and_said_in_the_command(capsys, workplace):
    status, out, _ = run(capsys, *BUILD, "--backward", "--dtype", "bf16")
    assert status == DONE and "import torch, flash_sm80" in out
    table = json.loads((workplace / "out/flash_sm80/kernels/table.json").read_text())
    assert set(table["operations"]) == {
        "flash_fwd",
        "flash_bwd",
        "flash_bwd_dq",
        "flash_bwd_delta",
        "flash_bwd_convert",
    }
    problems = {one["operation"]: one["problem"] for one in table["kernels"].values()}
    assert problems["flash_bwd_delta"] == {"dtype": "bf16", "head_dim_v": 64}
    info = json.loads((workplace / "out" / "flash_sm80" / "build_info.json").read_text())
    assert " --backward " in info["command"]
    _, listed, _ = run(capsys, "list", "--arch", "sm80", "--profile", "train", "--json")
    assert len(json.loads(listed)["kernels"]) == 32


def test_a_compile_error_fails_and_leaves_no_module(capsys, workplace, monkeypatch):
    monkeypatch.setenv("FAKE_FAIL", "kHeadDim = 64")
    status, out, err = run(capsys, *BUILD)
    assert (status, out) == (FAILED, "")
    assert "error: identifier" in err and "did not compile: flash_fwd_sm80" in err
    assert not (workplace / "out" / "flash_sm80").exists()


def test_spills_are_warned_of(capsys, monkeypatch):
    monkeypatch.setenv("FAKE_SPILL", "8")
    _, _, err = run(capsys, *BUILD)
    assert "gen: warning: flash_fwd_sm80" in err and "spills 8 bytes" in err


def test_a_missing_compiler_fails_with_what_mends_it(capsys, monkeypatch):
    monkeypatch.setenv("CUDA_HOME", "/nowhere")
    status, _, err = run(capsys, *BUILD)
    assert status == FAILED and "pip install 'kernelwright[cuda]'" in err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["build"], "--arch"),
        (["build", "--arch", "sm75"], "known: sm80"),
        (["build", "--arch", ","], "names no architecture"),
        (["build", "--arch", "sm8²"], "known: sm80"),
        (["build", "--arch", "٨٠"], "known: sm80"),
        (["build", "--arch", "8" * 5000], "known: sm80"),
        (["build", "--arch", "sm80", "--out", ""], "is empty"),
        (["build", "--arch", "sm80", "--name", ""], "not a Python identifier"),
        (["build", "--arch", "sm80", "--name", "__main__"], "Python keeps for itself"),
        (["build", "--arch", "sm80", "--profile", "nope"], "known: all_head_dims, default, flash2"),
        (["build", "--arch", "sm80", "--dtype", "fp32"], "known: fp16, bf16"),
        (["build", "--arch", "sm80", "--head-dim", "65"], "multiple of 8"),
        (["build", "--arch", "sm80", "--head-dim-v", "264"], "head_dim_v above 256 must be a multiple of 16"),
        (["build", "--arch", "sm80", "--features", "windows"], "feature 'windows': unknown; known: causal, local"),
        (["build", "--arch", "sm80", "--features", "causal,local"], "exclude one another"),
        (["build", "--arch", "sm80", "--features", ""], "names no feature"),
        (["build", "--arch", "sm80", "--features", "none,causal"], "names no feature, or none among others"),
        (["build", "--arch", "sm80", "--jobs", "0"], "at least 1"),
        (["build", "--arch", "sm80", "--name", "a-b"], "not a Python identifier"),
        (["build", "--arch", "sm80", "--name", "class"], "not a Python identifier"),
        (["build", "--arch", "sm80", "--name", "torch"], "would hide"),
        (["build", "--arch", "sm80", "--name", "json"], "would hide"),
        (["build", "--arch", "sm80", "--name", "pytest"], "would hide"),
        (["build", "--arch", "sm80", "--name", "obj"], "the build itself uses"),
        (["show", "no_such"], "no variant"),
        (["show", "hd64"], "say more"),
        (["show", "flash_fwd_sm80_bf16_hd12_causal1_m128_n64_w4_s2_qreg0"], "head_dim must be a multiple of 8"),
        (["show", f"flash_fwd_sm80_bf16_hd{'9' * 5000}_causal1_m128_n64_w4_s2_qreg0"], "no variant"),
        (["cache", "polish"], "invalid choice"),
        (["frobnicate"], "invalid choice"),
        ([], "VERB"),
    ],
)
def test_misuse_is_explained(capsys, arguments, said):
    status, out, err = run(capsys, *arguments)
    assert (status, out) == (MISUSED, "")
    assert said in err and "Traceback" not in err


def test_a_fault_in_a_profile_is_named_by_its_path(capsys, workplace):
    (workplace / "mine.yaml").write_text("schema: 1\nproblems:\n  - {dtype: fp16, head_dim: [64], is_causl: true}\n")
    status, _, err = run(capsys, "list", "--profile", "mine.yaml")
    assert status == FAILED and "mine.yaml: $.problems[0]: unknown key 'is_causl'" in err


@pytest.mark.parametrize(
    "text",
    [
        "? [a]\n: 1\n",
        "? {a: b}\n: 1\n",
        "problems: !!int abc\n",
        "problems: !!bool abc\n",
        "problems: 2001-99-99\n",
        f"problems: {'9' * 5000}\n",
        "problems: !!timestamp x\n",
        "problems: !!python/object/apply:os.system ['false']\n",
    ],
)
def test_yaml_that_does_not_construct_is_a_fault_of_the_file(capsys, workplace, text):
    (workplace / "mine.yaml").write_text(f"schema: 1\n{text}")
    status, _, err = run(capsys, "list", "--profile", "mine.yaml")
    assert status == FAILED and err.startswith("gen list: mine.yaml: not plain YAML") and len(err) < 500


def test_aliases_that_stand_for_billions_are_not_printed(capsys, workplace):
    lists = [f"&a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    for place in ("schema: {}\n", "schema: 1\nproblems: [{}]\n"):
        text = "&a0 [x, x]"
        for one in lists:  # each list holds the one before it: first whole, then by its name
            text = one.replace(one.split("[")[1].split(",")[0], text, 1)
        (workplace / "mine.yaml").write_text(place.format(text))
        status, _, err = run(capsys, "list", "--profile", "mine.yaml")
        assert status == FAILED and "mine.yaml: $" in err and len(err) < 500


def test_a_stdout_that_takes_no_letters_or_nothing_is_no_traceback(workplace):
    environment = os.environ | {"PYTHONPATH": str(Path(kernelwright.__file__).parent.parent)}
    gen = f"{sys.executable} -m kernelwright.gen"
    for command, expected in (
        (f"{gen} list --arch sm80 >&-", DONE),
        (f"{gen} list --arch sm80 >/dev/full", FAILED),
        (f"{gen} list --arch sm80 2>&-", DONE),
        (f"PYTHONIOENCODING=ascii {gen} build --arch sm80 --dry-run --json --out ünï", DONE),
        (f"PYTHONIOENCODING=ascii {gen} cache size", DONE),
    ):
        done = subprocess.run(["sh", "-c", command], env=environment, capture_output=True, text=True, check=False)
        assert (done.returncode, "Traceback" in done.stderr) == (expected, False), (command, done.stderr)


def test_a_file_that_may_not_be_read_fails_in_one_line(capsys, monkeypatch):
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied", "/secret")

    monkeypatch.setattr("kernelwright.build.cache.clear_cache", refuse)
    assert run(capsys, "cache", "clear") == (FAILED, "", "gen cache: [Errno 13] Permission denied: '/secret'\n")


def test_list_shows_every_kernel_with_its_cost(capsys):
    status, out, _ = run(capsys, "list", "--arch", "sm86", "--json")
    plan = json.loads(out)
    assert status == DONE and plan["archs"] == ["sm86"]
    assert all(kernel["predicted_cpu_s"] > 0 and kernel["smem_bytes"] for kernel in plan["kernels"])
    _, text, _ = run(capsys, "list", "--arch", "sm86")
    assert all(kernel["variant"] in text for kernel in plan["kernels"])


def test_list_shows_what_is_refused_and_why(capsys, monkeypatch):
    monkeypatch.setattr("kernelwright.gen.plan.reasons_against", lambda variant, device: [("a_rule", "too big")])
    _, out, _ = run(capsys, "list", "--arch", "sm80")
    assert "too big (a_rule)" in out and "0 kernels" in out
    status, _, err = run(capsys, "build", "--arch", "sm80")
    assert status == FAILED and "Nothing to build" in err


def test_show_prints_the_source_for_a_name_or_its_only_part(capsys):
    _, out, _ = run(capsys, "list", "--arch", "sm89", "--json")
    name = json.loads(out)["kernels"][0]["variant"]
    status, source, err = run(capsys, "show", name)
    assert (status, err) == (DONE, "") and source.startswith(f"// {name}\n")
    assert run(capsys, "show", name[10:])[1] == source
    assert json.loads(run(capsys, "show", name, "--json")[1])["source"] == source


def test_native_asks_the_driver(capsys, monkeypatch):
    monkeypatch.setattr("kernelwright.build.driver.native_archs", lambda: [86, 80])
    assert json.loads(run(capsys, "list", "--arch", "native", "--json")[1])["archs"] == ["sm86", "sm80"]


def test_native_without_a_driver_says_what_to_do(capsys, monkeypatch):
    monkeypatch.setattr("ctypes.CDLL", lambda name: (_ for _ in ()).throw(OSError(name)))
    status, _, err = run(capsys, "build", "--arch", "native")
    assert status == FAILED and "No NVIDIA driver here" in err and "--arch sm80" in err


def test_cache_shows_and_clears(capsys):
    run(capsys, *BUILD)
    assert json.loads(run(capsys, "cache", "size", "--json")[1])["kernels"] == 2
    assert "removed 2 kernels" in run(capsys, "cache", "clear")[1]
    assert json.loads(run(capsys, "cache", "size", "--json")[1])["bytes"] == 0


def test_doctor_finds_the_parts(capsys, workplace):
    status, out, _ = run(capsys, "doctor", "--json")
    parts = {part["part"]: part for part in json.loads(out)["parts"]}
    assert set(parts) >= {"compiler", "ninja", "host compiler", "Python.h", "torch", "cache", "driver"}
    assert str(workplace / "toolkit") in parts["compiler"]["detail"]
    assert status == (DONE if all(part["ok"] or not part["needed"] for part in parts.values()) else FAILED)


@pytest.mark.parametrize(
    ("variable", "value", "part", "mend"),
    [
        ("CUDA_HOME", "/nowhere", "compiler", "pip install 'kernelwright[cuda]'"),
        ("CXX", "/nowhere/c++", "host compiler", "apt-get install g++"),
        ("KERNELWRIGHT_CACHE", "/proc/none", "cache", "export KERNELWRIGHT_CACHE="),
    ],
)
def test_doctor_says_what_is_missing_and_what_mends_it(capsys, monkeypatch, variable, value, part, mend):
    monkeypatch.setenv(variable, value)
    status, out, _ = run(capsys, "doctor", "--json")
    [found] = [one for one in json.loads(out)["parts"] if one["part"] == part]
    assert status == FAILED and not found["ok"] and mend in found["mend"]


def test_installing_makes_a_wheel(capsys, workplace, monkeypatch):
    installed: list[Path] = []
    monkeypatch.setattr("kernelwright.build.wheel.install_wheel", installed.append)
    status, out, _ = run(capsys, *BUILD, "--install")
    assert status == DONE and installed[0].parent == Path("out/dist")
    assert "pip uninstall flash_sm80" in out and "sys.path" not in out


def test_a_reader_that_leaves_early_is_no_error(workplace):
    package_root = str(Path(kernelwright.__file__).parent.parent)
    command = f"{sys.executable} -m kernelwright.gen list --profile all_head_dims | head -1"
    done = subprocess.run(
        command, shell=True, env=os.environ | {"PYTHONPATH": package_root}, capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
