"""What a module offers beside attention: choice, explanation, support, devices, settings, commands."""

from __future__ import annotations

import importlib
import importlib.util
import json
import random
import subprocess
import sys
import warnings
from typing import Any

import pytest
import torch
from fake_driver import StandIn

from kernelwright.gen import spec
from kernelwright.runtime import engine
from kernelwright.runtime.attention import SCALARS, TENSORS
from kernelwright.runtime.devices import DeviceKey, configuration, emulated_facts
from kernelwright.runtime.errors import DriverError
from kernelwright.runtime.inputs import describe
from kernelwright.runtime.settings import Emulate, Settings, parse_emulate, read_settings
from kernelwright.runtime.table import read_table


def test_explain_says_what_the_launch_then_does(loaded, make_tensors):
    inputs = make_tensors(seqlen_q=200)
    told = loaded.explain(*inputs)
    loaded.flash_attn_func(*inputs)
    words = loaded.stand_in.launches[-1].split()
    assert words[1] == told.variant and tuple(int(one) for one in words[3:6]) == told.grid == (16, 1, 1)
    assert (told.row, told.label, told.smem_bytes, told.threads) == (1, "hand", 65536, 128)
    text = str(told)
    assert "runs flash_fwd_sm80_fp16_hd64_causal0_m128" in text and "verified emulator (2026-11-20" in text
    assert "_causal0_m64 is meant for seqlen_q from 0 to 64, the call has 200" in text
    assert json.dumps(told.to_dict())


def test_python_and_the_launcher_choose_the_same_row(new_module, make_tensors, tensor_path):
    fake = new_module()
    generator = random.Random(1)
    for index in range(40):
        sizes = ("batch", "seqlen_q", "seqlen_k", "num_heads_q", "num_heads_kv")
        when: dict[str, list[int | None]] = {}
        for size in generator.sample(sizes, 2):
            low = generator.choice([None, 1, 2, 4])
            when[size] = [low, generator.choice([None, (low or 1) + generator.randint(0, 5)])]
        causal, label = generator.random() < 0.5, generator.choice(["hand", "modelled", "measured"])
        fake.add(head_dim=generator.choice([32, 64]), causal=causal, block_m=16 * (index + 1), when=when, label=label)
    fake.write()
    module = fake.load()
    engine = module._module.engine
    found = set()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(300):
            shape = {name: generator.randint(1, 9) for name in ("batch", "seqlen_q", "seqlen_k")}
            heads = generator.randint(1, 3)
            heads_of_q = heads * generator.randint(1, 3)
            inputs = make_tensors(
                **shape, num_heads_q=heads_of_q, num_heads_kv=heads, head_dim=generator.choice([32, 64])
            )
            causal = generator.random() < 0.5
            told = module.explain(*inputs, causal=causal).variant
            plain = [describe(one, False) for one in (*inputs, torch.empty_like(inputs[0]))]
            absent = (None,) * (len(TENSORS) - len(plain) + len(SCALARS))
            assert engine.launch_operation.match(*plain, *absent, int(causal), None) == told
            found.add(told)
    assert len(found) > 10


def test_no_kernel_ends_with_the_command_that_adds_one(loaded, make_tensors):
    with pytest.raises(loaded.NoKernelError) as caught:
        loaded.flash_attn_func(*make_tensors(head_dim=96, dtype=torch.bfloat16))
    assert isinstance(caught.value, LookupError)
    lines = str(caught.value).splitlines()
    assert lines[-1] == "gen build --arch sm80 --head-dim 96 --dtype bf16 --features none"
    assert any("is compiled for head_dim=64, the call has head_dim=96" in line for line in lines)
    assert loaded.explain(*make_tensors(head_dim=96)).variant is None


def test_a_kernel_over_the_shared_memory_of_the_device_is_passed_over(new_module, make_tensors, monkeypatch):
    fake = new_module()
    large = fake.add(block_m=256, smem_bytes=140000)
    small = fake.add(block_m=128, smem_bytes=90000)
    fake.write()
    for device, expected in (("a100", large), ("rtx4090", small)):
        monkeypatch.setenv("KERNELWRIGHT_EMULATE", device)
        sys.modules.pop(fake.folder.name, None)
        for name in [one for one in sys.modules if one.startswith(fake.folder.name + ".")]:
            del sys.modules[name]
        told = fake.load().explain(*make_tensors())
        assert told.variant == expected
    assert f"{large} needs 140,000 bytes of shared memory per block, NVIDIA GeForce RTX 4090 grants 101,376" in str(
        told
    )


def test_support_prints_every_kernel_with_its_verification(loaded, capsys):
    assert loaded.support() is None
    printed = capsys.readouterr().out
    assert "sm80  fp16         64     2       1" in printed
    assert "emulator (2026-11-20, 12 problems)" in printed
    found = loaded.support(json=True)
    assert len(found["kernels"]) == 6 and json.dumps(found)
    assert capsys.readouterr().out == ""


def test_a_forced_variant_answers_alone(loaded, make_tensors):
    inputs = make_tensors()
    loaded.flash_attn_func(*inputs)
    with loaded.force_variant("flash_fwd_sm80_fp16_hd64_causal0_m128"):
        loaded.flash_attn_func(*inputs)
        loaded.flash_attn_func(*inputs)
        with pytest.raises(loaded.NoKernelError, match="is_causal=False, the call has is_causal=True"):
            loaded.flash_attn_func(*inputs, causal=True)
    loaded.flash_attn_func(*inputs)
    assert [line.split()[1][-4:].strip("_") for line in loaded.stand_in.launches] == ["m64", "m128", "m128", "m64"]
    assert sum(line.startswith("load") for line in loaded.stand_in.log) == 2
    with pytest.raises(loaded.NoKernelError, match="holds no variant nobody"), loaded.force_variant("nobody"):
        pass


def test_preload_loads_everything_before_the_first_call(loaded, make_tensors):
    assert loaded.preload("cpu") == 6
    loads = sum(line.startswith("load") for line in loaded.stand_in.log)
    loaded.flash_attn_func(*make_tensors())
    assert loads == 6 == sum(line.startswith("load") for line in loaded.stand_in.log)


def test_build_info_is_what_the_builder_wrote(loaded):
    assert loaded.build_info() == {"schema": 1, "name": loaded.fake.folder.name}


# ------------------------------------------------------------------ devices


def test_gpus_are_opened_through_the_driver_with_what_it_reports(fake, stand_in, monkeypatch):
    monkeypatch.setenv("KERNELWRIGHT_DRIVER", str(stand_in.path))
    fake.add("fp16", 64, False, 32, device="Stand-in B", sm=90)
    fake.write()
    engine = fake.load()._module.engine
    routes = [engine.route(DeviceKey(type="cuda", index=index)) for index in (0, 1)]
    assert [route.device.facts.sm for route in routes] == [80, 90]
    assert [route.device.facts.max_smem_bytes for route in routes] == [166912, 166913]
    assert routes[1].choices[0].kernel.sm == 90  # a row for this very device comes first
    assert [one.image for one in routes[1].choices] == ["cubin"] + ["ptx"] * 6
    assert engine.preload(DeviceKey(type="cuda", index=1)) == 7
    stand_in_log = stand_in.log
    assert "retain 1" in stand_in_log and "retain 0" not in stand_in_log


@pytest.mark.parametrize(("kernel_sm", "arch"), [(80, "sm80"), (100, "sm90a")])
def test_no_kernel_names_an_architecture_that_helps(new_module, stand_in, monkeypatch, kernel_sm, arch):
    """The device is sm90: kernels for sm80 run there, kernels for sm100 do not."""
    monkeypatch.setenv("KERNELWRIGHT_DRIVER", str(stand_in.path))
    fake = new_module()
    fake.add(sm=kernel_sm)
    fake.write()
    module = fake.load()
    routes = importlib.import_module(f"{fake.folder.name}._runtime.routes")
    devices = importlib.import_module(f"{fake.folder.name}._runtime.devices")
    sizes = {"head_dim": 96, "head_dim_v": 96}
    call = routes.Call(operation="flash_fwd", dtype="bf16", flags={"is_causal": True}, sizes=sizes)
    with pytest.raises(module.NoKernelError) as caught:
        module._module.engine.kernel_for(devices.DeviceKey(type="cuda", index=1), [call])
    assert str(caught.value).splitlines()[-1] == f"gen build --arch {arch} --head-dim 96 --dtype bf16 --features causal"


def test_a_head_dim_that_no_kernel_is_made_for_is_not_offered(loaded, make_tensors):
    with pytest.raises(loaded.NoKernelError, match=r"head_dim up to 512, not 520\.$"):
        loaded.flash_attn_func(*make_tensors(head_dim=520))
    q, k, v = make_tensors(head_dim=264)
    with pytest.raises(loaded.NoKernelError, match=r"head_dim_v .* multiples of 16 above 256, not 264\.$"):
        loaded.flash_attn_func(q, k, v, out=torch.empty_like(q))
    with pytest.raises(loaded.NoKernelError, match=r"--head-dim 264 --head-dim-v 272 --dtype fp16 --features none$"):
        loaded.flash_attn_func(q, k, v)  # v is padded
    assert engine.MAX_HEAD_DIM == spec.MAX_HEAD_DIM


def test_without_a_driver_the_error_says_so(fake, monkeypatch):
    monkeypatch.setenv("KERNELWRIGHT_DRIVER", "libnowhere.so.1")
    with pytest.raises(fake.load().DriverError, match=r"libnowhere\.so\.1 cannot be opened"):
        fake.load()._module.engine.device(DeviceKey(type="cuda", index=0))


def test_a_module_without_the_emulator_says_so(new_module, make_tensors, tensor_path):
    fake = new_module(None)
    fake.add()
    fake.write()
    module = fake.load()
    with warnings.catch_warnings(), pytest.raises(module.DriverError, match="was built without the emulator"):
        warnings.simplefilter("ignore")
        module.flash_attn_func(*make_tensors())


def test_the_emulator_is_told_which_device_to_play(new_module, make_tensors, stand_in_emulator_path, monkeypatch):
    monkeypatch.setenv("KERNELWRIGHT_EMULATE", "rtx4090,sms=3,checks=none")
    fake = new_module(stand_in_emulator_path)
    fake.add()
    fake.write()
    module = fake.load()
    stand_in = StandIn(fake.folder / "_emulator.so")
    with pytest.warns(module.EmulationWarning):
        module.flash_attn_func(*make_tensors())
    assert stand_in.log[0] == "configure name=rtx4090,sm=89,sms=3,smem_optin=101376,checks=none"
    assert any(line.startswith("load ptx of") for line in stand_in.log)
    assert module.last_report() == {"flops": 7}
    told = module.explain(*make_tensors())
    assert told.device == "NVIDIA GeForce RTX 4090 (sm89, 3 SMs), emulated"


def test_there_is_no_report_before_the_first_launch(loaded):
    assert loaded.last_report() == {}


def test_the_device_played_is_the_tables_first_unless_named(fake):
    tables = [read_table(fake.folder / "kernels", origin="test")]
    assert emulated_facts(Emulate(), tables).name == "a100"
    assert emulated_facts(parse_emulate("sms=5"), tables).num_sms == 5
    assert "seed=7" in configuration(emulated_facts(Emulate(), tables), parse_emulate("seed=7"))
    with pytest.raises(DriverError, match="names the device 'h300'; the tables describe: a100, rtx4090"):
        emulated_facts(parse_emulate("h300"), tables)
    for text in ("many", "0", "-1", "²", "9" * 5000):
        with pytest.raises(DriverError, match="must be a positive whole number"):
            emulated_facts(parse_emulate(f"sms={text}"), tables)


def test_settings_are_read_from_the_environment():
    assert read_settings({}) == Settings()
    found = read_settings(
        {
            "KERNELWRIGHT_TABLE": "/t",
            "KERNELWRIGHT_EMULATE": "h200, sms=3,checks=none",
            "KERNELWRIGHT_PLAIN_INTS": "1",
            "KERNELWRIGHT_DRIVER": "/d",
        }
    )
    assert (str(found.table), found.plain_ints, found.driver) == ("/t", True, "/d")
    assert found.emulate == Emulate(device="h200", options=(("sms", "3"), ("checks", "none")))
    with pytest.raises(DriverError, match="'a100' is not option=value"):
        parse_emulate("h200,a100")
    with pytest.raises(DriverError, match="KERNELWRIGHT_PLAIN_INTS must be 0 or 1, got 'no'"):
        read_settings({"KERNELWRIGHT_PLAIN_INTS": "no"})


# ------------------------------------------------------------------ large strides


def test_a_batch_stride_over_2_to_the_31_reaches_the_kernel(loaded):
    stride = (1 << 31) + 64
    memory = torch.empty(stride + 4096, dtype=torch.float16)  # untouched: the system gives no page for it
    q = memory.as_strided((2, 1, 1, 64), (stride, 64, 64, 1))
    loaded.stand_in.expect()
    for _ in range(2):
        loaded.flash_attn_func(q, q, q)
        fields = loaded.stand_in.parameters
        assert fields["q_batch_stride"] == fields["k_batch_stride"] == stride


# ------------------------------------------------------------------ commands


def command(fake: Any, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", fake.folder.name, *arguments], cwd=fake.folder.parent, capture_output=True, text=True
    )


def test_the_support_command_prints_the_matrix(exchange_fake):
    answer = command(exchange_fake, "support")
    assert answer.returncode == 0 and "arch  dtype  head_dim" in answer.stdout
    assert len(json.loads(command(exchange_fake, "support", "--json").stdout)["kernels"]) == 6


def test_bench_without_a_gpu_says_so_and_fails(exchange_fake):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    answer = command(exchange_fake, "bench")
    assert answer.returncode == 1 and answer.stdout == "" and "bench needs an NVIDIA GPU" in answer.stderr


def test_bench_times_every_problem_beside_torch(exchange_fake, monkeypatch):
    """With events that tick and no GPU: what is reported, not how fast anything is."""

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None: ...

        def synchronize(self) -> None: ...

        def elapsed_time(self, other: Event) -> float:
            return 0.5

    module = exchange_fake.load()
    bench = importlib.import_module(f"{exchange_fake.folder.name}._runtime.bench")
    monkeypatch.setattr("torch.cuda.Event", Event)
    for name, value in (("L2_MIB", 1), ("WARM_UP", 1), ("REPETITIONS", 2), ("TOKENS", 32), ("HIDDEN", 128)):
        monkeypatch.setattr(bench, name, value)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rows = bench.bench_module(module._module, device="cpu", seqlens=[16, 32])
    assert len(rows) == 2 * 4 and {row.label for row in rows} == {"measured"}
    full, causal = rows[4], rows[6]
    assert (full.dtype, full.is_causal, full.batch, full.num_heads, full.time_us) == ("fp16", False, 2, 2, 500.0)
    assert full.tflops == pytest.approx(4 * 2 * 2 * 16 * 16 * 64 / 500 / 1e6)
    assert causal.tflops / full.tflops == pytest.approx(17 / 32)
    assert (full.method, full.sdpa_method) == ("events", "events")
    assert "TFLOP/s, sdpa" in str(full) and "measured" in str(full) and json.dumps(full.to_dict())


def test_an_unknown_command_is_a_misuse(exchange_fake):
    assert command(exchange_fake, "fly").returncode == 2


@pytest.mark.parametrize(
    "arguments",
    [
        ("check", "--problems", "0"),
        ("check", "--problems", "9" * 5000),
        ("check", "--seed", "-1"),
        ("check", "--seed", "9" * 30),
        ("check", "--device", "foo"),
        ("check", "--device", "meta"),
        ("bench", "--seqlen", "0"),
        ("bench", "--device", "cpu:x"),
    ],
)
def test_a_value_that_cannot_be_is_a_misuse(exchange_fake, arguments, capsys):
    module = exchange_fake.load()
    cli = importlib.import_module(f"{exchange_fake.folder.name}._runtime.cli")
    with pytest.raises(SystemExit) as caught:
        cli.main(module._module, arguments)
    assert caught.value.code == 2 and "must be" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("raised", "status", "said"),
    [(KeyboardInterrupt(), 130, "interrupted"), (OSError(28, "No space left on device"), 1, "No space left")],
)
def test_an_interrupted_command_ends_in_one_line(exchange_fake, capsys, monkeypatch, raised, status, said):
    module = exchange_fake.load()
    cli = importlib.import_module(f"{exchange_fake.folder.name}._runtime.cli")

    def fail(*_: object) -> None:
        raise raised

    monkeypatch.setattr(cli, "_support", fail)
    monkeypatch.setattr(cli, "_drop_output", lambda: None)
    assert cli.main(module._module, ["support"]) == status
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(("device", "said"), [("foo", "none that torch knows"), ("meta", "cuda devices and the CPU")])
def test_a_device_that_no_kernel_runs_on_is_refused(exchange_fake, device, said):
    module = exchange_fake.load()
    with pytest.raises(module.UnsupportedInputError, match=said):
        module.preload(device)


def test_one_folder_imported_under_two_names_works_under_both(exchange_fake, make_tensors):
    first = exchange_fake.load()
    specification = importlib.util.spec_from_file_location(
        f"{first.__name__}_again",
        exchange_fake.folder / "__init__.py",
        submodule_search_locations=[str(exchange_fake.folder)],
    )
    second = importlib.util.module_from_spec(specification)
    sys.modules[second.__name__] = second
    specification.loader.exec_module(second)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for module in (first, second, first):
            module.flash_attn_func(*make_tensors())
            module.load_table(None)  # makes new kernels and rows
    for module in (first, second):
        with pytest.raises(module.DriverError, match="there is no number 7"):
            module._module.engine.launcher.driver(str(exchange_fake.folder / "_emulator.so")).device_name(7)


def test_a_failing_check_exits_with_1(exchange_fake):
    """The stand-in's kernels compute nothing, so the poisoned outputs stay."""
    answer = command(exchange_fake, "check", "--device", "cpu", "--problems", "1", "--json")
    assert answer.returncode == 1, answer.stderr
    found = json.loads(answer.stdout)
    assert found["passed"] is False and len(found["variants"]) == 6
    assert "largest error inf" in found["variants"][0]["results"][0]["fault"]
