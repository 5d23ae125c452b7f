"""Which kernels a backward pass launches, on the recording driver: what is not asked for is not computed."""

from __future__ import annotations

import threading

import pytest
import torch

from conftest import Loaded, fill

pytestmark = pytest.mark.filterwarnings("ignore:CPU tensors run")


@pytest.fixture
def trained(new_module, tensor_path) -> Loaded:
    """The module of `fake` with the backward kernels of fp16, head_dim 64. On both ways of reading tensors."""
    module = fill(new_module())
    module.add_backward()
    module.add_backward(is_causal=True)
    module.write()
    return Loaded(module)


def launched(loaded: Loaded) -> list[str]:
    return [line.split()[1].partition("_sm80")[0] for line in loaded.stand_in.launches]


WANTED = {
    "everything": ((True, True, True), False, ["delta", "", "convert"]),
    "everything, repeatable": ((True, True, True), True, ["delta", "", "dq"]),
    "queries": ((True, False, False), False, ["delta", "dq"]),
    "queries, repeatable": ((True, False, False), True, ["delta", "dq"]),
    "keys": ((False, True, False), False, ["delta", ""]),
    "values": ((False, False, True), True, ["delta", ""]),
}


@pytest.mark.parametrize("name", WANTED)
@pytest.mark.parametrize("causal", [False, True])
def test_only_what_is_asked_for_is_launched(trained, make_tensors, name, causal):
    wanted, is_deterministic, kernels = WANTED[name]
    inputs = [one.requires_grad_(is_wanted) for one, is_wanted in zip(make_tensors(), wanted, strict=True)]
    for _ in range(2):  # the first loads the kernels
        trained.flash_attn_func(*inputs, causal=causal, deterministic=is_deterministic).sum().backward()
    expected = ["flash_fwd", *[f"flash_bwd_{one}".rstrip("_") for one in kernels]]
    assert launched(trained) == 2 * expected
    assert all(
        f"causal{int(causal)}" in line
        for line in trained.stand_in.launches
        if "delta" not in line and "convert" not in line
    )


def test_torchs_deterministic_algorithms_are_obeyed(trained, make_tensors):
    inputs = [one.requires_grad_() for one in make_tensors()]
    torch.use_deterministic_algorithms(True)
    try:
        trained.flash_attn_func(*inputs).sum().backward()
    finally:
        torch.use_deterministic_algorithms(False)
    assert launched(trained)[1:] == ["flash_bwd_delta", "flash_bwd", "flash_bwd_dq"]
    out = trained.flash_attn_func(*inputs).sum()
    torch.use_deterministic_algorithms(True)  # set only before the backward pass
    try:
        out.backward()
    finally:
        torch.use_deterministic_algorithms(False)
    assert launched(trained)[5:] == ["flash_bwd_delta", "flash_bwd", "flash_bwd_dq"]


def test_a_forward_pass_loads_what_its_backward_pass_will_launch(trained, make_tensors):
    out = trained.flash_attn_func(*(one.requires_grad_() for one in make_tensors())).sum()
    assert sum(line.startswith("load") for line in trained.stand_in.log) == 4
    out.backward()
    assert sum(line.startswith("load") for line in trained.stand_in.log) == 4


def test_once_loaded_a_backward_pass_asks_nothing_of_the_driver_but_launches(trained, make_tensors):
    trained.preload("cpu")
    inputs = [one.requires_grad_() for one in make_tensors()]
    trained.flash_attn_func(*inputs).sum().backward()
    before = len(trained.stand_in.log)
    trained.flash_attn_func(*inputs).sum().backward()
    assert [line.split()[0] for line in trained.stand_in.log[before:]] == ["push", "launch", "pop"] * 4


def test_threads_train_side_by_side(trained, make_tensors):
    """As torch.nn.DataParallel does: each with its own tensors and graph."""
    barrier = threading.Barrier(4)
    failures: list[BaseException] = []

    def run() -> None:
        try:
            inputs = [one.requires_grad_() for one in make_tensors()]
            barrier.wait()
            for _ in range(5):
                trained.flash_attn_func(*inputs).sum().backward()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == [] and len(launched(trained)) == 4 * 5 * 4
    assert sum(line.startswith("load") for line in trained.stand_in.log) == 4


def test_a_sink_alone_needs_delta_alone(trained, make_tensors):
    sink = torch.zeros(4, requires_grad=True)
    trained.flash_attn_func(*make_tensors(), sink=sink).sum().backward()
    assert launched(trained) == ["flash_fwd", "flash_bwd_delta"]


def test_what_is_known_to_have_kernels_takes_the_short_way_until_tables_change(trained, make_tensors):
    inputs = [one.requires_grad_() for one in make_tensors()]
    nodes = [trained.flash_attn_func(*inputs).grad_fn.name() for _ in range(2)]
    assert nodes == ["_NodeBackward", "PlainNodeBackward"]
    trained.load_table(None)
    assert trained.flash_attn_func(*inputs).grad_fn.name() == "_NodeBackward"
    keys = [make_tensors()[0], *inputs[1:]]
    nodes = [trained.flash_attn_func(*keys).grad_fn.name() for _ in range(2)]
    assert nodes == ["_NodeBackward", "PlainNodeBackward"]


def test_the_short_way_refuses_a_second_derivative_too(trained, make_tensors):
    q, k, v = (one.requires_grad_() for one in make_tensors())
    for _ in range(2):
        (found,) = torch.autograd.grad(trained.flash_attn_func(q, k, v).sum(), q, create_graph=True)
        with pytest.raises(trained.GradientError, match="differentiated again"):
            found.sum().backward()


def test_the_short_way_leaves_strange_inputs_to_the_long_one(trained, make_tensors):
    q, k, v = (one.requires_grad_() for one in make_tensors())
    trained.flash_attn_func(q, k, v), trained.flash_attn_func(q, k, v)
    before = len(launched(trained))
    turned = torch.zeros(*q.shape[:3], 128, dtype=q.dtype)[..., ::2].requires_grad_()
    for strange in ((turned, k, v), (q, turned[:, :1, :2].expand(2, 7, 2, 64), v)):
        trained.flash_attn_func(*strange).sum().backward()
    assert launched(trained)[before:] == ["flash_fwd", "flash_bwd_delta", "flash_bwd", "flash_bwd_convert"] * 2
    with pytest.raises(trained.UnsupportedInputError, match="agree in batch, seqlen"):
        trained.flash_attn_func(q, k, v[:, :3])
    with pytest.raises(trained.InputTypeError, match="k must be a torch"):
        trained.flash_attn_func(q, None, v)
