"""Modules that serve several operations: which table has what, what is loaded, listed and forced."""

from __future__ import annotations

import importlib

import pytest
import torch

from conftest import Loaded, fill
from kernelwright.runtime import routes

BACKWARD = ("flash_bwd", "flash_bwd_dq", "flash_bwd_delta", "flash_bwd_convert")
SIZES = {
    **{"batch": 2, "seqlen_q": 5, "seqlen_k": 7, "num_heads_q": 4, "num_heads_kv": 2},
    **{"head_dim": 64, "head_dim_v": 64, "num_seqs": 2},
}
pytestmark = pytest.mark.filterwarnings("ignore:CPU tensors run")


@pytest.fixture
def trained(new_module) -> Loaded:
    """The module of `fake` with the backward kernels of fp16, head_dim 64, without a mask."""
    module = fill(new_module())
    module.add_backward()
    module.write()
    return Loaded(module)


def cpu_of(loaded) -> object:
    """The key of the CPU, of the module's own class."""
    return importlib.import_module(f"{loaded.fake.folder.name}._runtime.devices").CPU_KEY


def call_of(loaded, operation: str, **changes: object) -> routes.Call:
    flags = dict.fromkeys(loaded._module.engine.binding_of(operation).flags, False)
    return routes.Call(operation=operation, **{"dtype": "fp16", "flags": flags, "sizes": SIZES, **changes})


def test_every_operation_is_routed_by_itself(trained, make_tensors):
    engine = trained._module.engine
    for operation in BACKWARD:
        kernel, _ = engine.kernel_for(cpu_of(trained), [call_of(trained, operation)])
        assert kernel.name.startswith(f"{operation}_sm80_fp16_hd64") and kernel.loaded
    trained.flash_attn_func(*make_tensors())
    assert trained.stand_in.launches[-1].split()[1].startswith("flash_fwd_sm80_fp16_hd64_causal0_m64")


def test_preload_loads_the_kernels_of_every_operation(trained):
    assert trained.preload("cpu") == 6 + len(BACKWARD)
    assert sum(line.startswith("load") for line in trained.stand_in.log) == 6 + len(BACKWARD)


def test_support_lists_the_backward_kernels(trained, capsys):
    found = trained.support(json=True)["kernels"]
    assert [one["operation"] for one in found] == ["flash_fwd"] * 6 + list(BACKWARD)
    trained.support()
    printed = capsys.readouterr().out.split("\n\n")
    heads = [f"{trained.fake.folder.name}: {kind}" for kind in ("forward", "backward", "backward, deterministic")]
    assert [one for one in printed if one in heads] == heads
    assert printed[3].endswith("sm80  fp16         64     1       -       -")


def test_a_forced_variant_leaves_the_other_operations_alone(trained, make_tensors):
    engine = trained._module.engine
    name = engine.kernel_for(cpu_of(trained), [call_of(trained, "flash_bwd")])[0].name
    with trained.force_variant(name):
        assert engine.kernel_for(cpu_of(trained), [call_of(trained, "flash_bwd")])[0].name == name
        assert engine.kernel_for(cpu_of(trained), [call_of(trained, "flash_bwd_dq")])[0].name.startswith("flash_bwd_dq")
        trained.flash_attn_func(*make_tensors())
    assert trained.stand_in.launches[-1].split()[1].startswith("flash_fwd")
    causal = call_of(trained, "flash_bwd", flags={**call_of(trained, "flash_bwd").flags, "is_causal": True})
    with trained.force_variant(name), pytest.raises(trained.NoKernelError, match="is compiled for is_causal=False"):
        engine.kernel_for(cpu_of(trained), [causal])


def test_a_missing_backward_kernel_ends_with_the_command_that_adds_it(trained):
    engine = trained._module.engine
    flags = {**call_of(trained, "flash_bwd").flags, "is_causal": True, "has_alibi": True}
    with pytest.raises(trained.NoKernelError) as caught:
        engine.kernel_for(cpu_of(trained), [call_of(trained, "flash_bwd", flags=flags, dtype="bf16")])
    assert str(caught.value).splitlines()[-1] == (
        "gen build --arch sm80 --head-dim 64 --dtype bf16 --features causal,alibi --backward"
    )
    wide = call_of(trained, "flash_bwd", sizes={**SIZES, "head_dim": 264, "head_dim_v": 264})
    with pytest.raises(trained.NoKernelError, match=r"Backward kernels are made for head_dim up to 256, not 264"):
        engine.kernel_for(cpu_of(trained), [wide])


def test_a_table_may_bring_operations_that_the_module_lacks(new_module, tmp_path):
    loaded = Loaded(fill(new_module()))
    engine = loaded._module.engine
    assert not engine.serves("flash_bwd")
    with pytest.raises(loaded.TableError, match="no table has the operation flash_bwd"):
        engine.binding_of("flash_bwd")
    other = new_module()
    other.table["operations"], folder = {}, tmp_path / "backward"
    other.add_backward(folder=folder)
    loaded.load_table(other.write(folder))
    assert engine.serves("flash_bwd")
    assert engine.kernel_for(cpu_of(loaded), [call_of(loaded, "flash_bwd")])[0].name.startswith("flash_bwd_sm80")
    assert loaded.flash_attn_func(*(torch.zeros(1, 2, 1, 64).half() for _ in range(3))).shape == (1, 2, 1, 64)


def test_a_table_with_another_binding_of_an_operation_is_refused(trained, new_module, tmp_path):
    other, folder = new_module(), tmp_path / "other"
    other.add_backward(folder=folder)
    other.table["operations"]["flash_bwd_dq"]["grid"][1] = "2"
    with pytest.raises(trained.TableError, match="its binding of flash_bwd_dq differs from the module's"):
        trained.load_table(other.write(folder))


def test_explain_names_the_kernels_of_the_backward_pass(trained, make_tensors):
    told = trained.explain(*make_tensors())
    assert set(told.backward) == set(BACKWARD)
    assert all(variant.startswith(f"{operation}_sm80") for operation, variant in told.backward.items())
    assert "\n  flash_bwd runs flash_bwd_sm80_fp16_hd64_causal0" in str(told)
    told = trained.explain(*make_tensors(), causal=True)
    rows = ("flash_bwd_delta", "flash_bwd_convert")  # of which a mask is no matter
    assert {name for name, variant in told.backward.items() if variant} == set(rows)
    assert "\n  flash_bwd_dq runs nothing" in str(told)
