"""`scaled_dot_product_attention` of a module against torch's: same arguments, same meaning, and who computed it."""

from __future__ import annotations

import inspect
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from conftest import Loaded

TOLERANCE = {"atol": 2e-3, "rtol": 2e-3}
torch_sdpa = torch.nn.functional.scaled_dot_product_attention


@pytest.fixture
def featured(new_module: Callable[..., Any]) -> Iterator[Loaded]:
    """A module with kernels of fp16, head_dim 16: full and causal, with dropout, and full with a bias; they compute."""
    fake = new_module()
    for causal in (False, True):
        for extra in ((), ("has_dropout",)):
            fake.add(head_dim=16, causal=causal, features=extra)
    fake.add(head_dim=16, features=("has_bias",))
    fake.add(head_dim=16, head_dim_v=8)
    fake.write()
    one = Loaded(fake)
    one.stand_in.compute()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="CPU tensors run")
        warnings.filterwarnings("error", category=one.module.FallbackWarning)
        yield one
    one.stand_in.reset()


def randn(*sizes: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*sizes, generator=torch.Generator().manual_seed(seed)).half()


def inputs(q: tuple[int, ...], k: tuple[int, ...], head_dim_v: int = 16) -> list[torch.Tensor]:
    """query, key and value of head_dim 16, by the sizes before it."""
    return [randn(*q, 16), randn(*k, 16, seed=1), randn(*k, head_dim_v, seed=2)]


def test_the_signature_is_torchs(featured):
    (schema,) = (str(torch.ops.aten.scaled_dot_product_attention.default._schema),)
    for function in (featured.scaled_dot_product_attention, featured.module._module.sdpa.function()):
        parameters = inspect.signature(function).parameters.values()
        ours = [(one.name, one.default, one.kind == one.KEYWORD_ONLY) for one in parameters]
        theirs, is_keyword = [], False
        for part in schema[schema.index("(") + 1 : schema.rindex(") ->")].split(", "):
            if part == "*":
                is_keyword = True
                continue
            name, _, default = part.split(" ")[1].partition("=")
            values = {"": inspect.Parameter.empty, "None": None, "0.": 0.0, "False": False}
            theirs.append((name, values[default], is_keyword))
        assert ours == theirs


@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize(("seqlen_q", "seqlen_k"), [(6, 6), (4, 9), (9, 4), (1, 5), (5, 1)])
def test_causal_counts_from_the_first_key_as_torch_does(featured, is_causal, seqlen_q, seqlen_k):
    call = inputs((2, 3, seqlen_q), (2, 3, seqlen_k))
    found = featured.scaled_dot_product_attention(*call, is_causal=is_causal)
    torch.testing.assert_close(found, torch_sdpa(*call, is_causal=is_causal), **TOLERANCE)
    assert len(featured.stand_in.launches) == (2 if is_causal and seqlen_q > seqlen_k else 1)


@pytest.mark.parametrize(
    ("q", "k", "options"),
    [
        ((2, 3, 5), (2, 3, 7), {"scale": 0.7}),
        ((2, 4, 5), (2, 2, 7), {"enable_gqa": True}),
        ((2, 4, 5), (2, 1, 7), {}),
        ((2, 4, 5), (1, 4, 7), {}),
        ((1, 4, 5), (3, 4, 7), {}),
        ((3, 5), (3, 7), {}),
        ((4, 5), (2, 7), {"enable_gqa": True}),
        ((5,), (7,), {"is_causal": True}),
        ((2, 3, 2, 5), (2, 3, 2, 7), {}),
        ((2, 1, 2, 5), (3, 2, 7), {"is_causal": True}),
        ((2, 3, 5), (2, 3, 0), {}),
        ((2, 3, 0), (2, 3, 5), {"is_causal": True}),
    ],
    ids=str,
)
def test_every_shape_of_torchs_is_taken(featured, q, k, options):
    call = inputs(q, k)
    found = featured.scaled_dot_product_attention(*call, **options)
    torch.testing.assert_close(found, torch_sdpa(*call, **options), **TOLERANCE)
    assert len(featured.stand_in.launches) == (0 if 0 in q + k else 1)


def test_value_may_have_a_head_dim_of_its_own(featured):
    call = inputs((2, 3, 5), (2, 3, 7), head_dim_v=8)
    torch.testing.assert_close(featured.scaled_dot_product_attention(*call), torch_sdpa(*call), **TOLERANCE)
    assert len(featured.stand_in.launches) == 1


@pytest.mark.parametrize("shape", [(5, 7), (1, 7), (5, 1), (1, 1, 5, 7), (2, 1, 1, 7), (1, 3, 5, 7), (2, 3, 5, 7)])
@pytest.mark.parametrize("kind", ["bool", "float", "infinite"])
def test_a_mask_is_added_or_hides(featured, shape, kind):
    call = inputs((2, 3, 5), (2, 3, 7))
    mask = randn(*shape, seed=3)
    hidden = randn(*shape, seed=4) > 0.7
    mask = {"bool": ~hidden, "float": mask, "infinite": mask.masked_fill(hidden, -torch.inf)}[kind]
    found = featured.scaled_dot_product_attention(*call, attn_mask=mask)
    torch.testing.assert_close(found, torch_sdpa(*call, attn_mask=mask), **TOLERANCE)
    assert len(featured.stand_in.launches) == 1


def test_a_row_that_a_mask_hides_is_zero(featured):
    call, mask = inputs((2, 3, 5), (2, 3, 7)), torch.ones(5, 7, dtype=torch.bool)
    mask[2] = False
    found = featured.scaled_dot_product_attention(*call, attn_mask=mask)
    assert not found[:, :, 2].any() and found[:, :, 1].any()
    torch.testing.assert_close(found, torch_sdpa(*call, attn_mask=mask), **TOLERANCE)


@pytest.mark.parametrize("shape", [(3, 5, 7), (1, 5, 7), (5, 7)])
def test_a_mask_of_a_single_entry_has_heads_first(featured, shape):
    call, mask = inputs((3, 5), (3, 7)), randn(*shape, seed=3)
    found = featured.scaled_dot_product_attention(*call, attn_mask=mask)
    torch.testing.assert_close(found, torch_sdpa(*call, attn_mask=mask), **TOLERANCE)


def test_dropout_is_applied_whenever_it_is_asked_for(featured):
    q, k, v = inputs((2, 3, 40), (2, 3, 40))
    found = featured.scaled_dot_product_attention(q, k, torch.ones_like(v), dropout_p=0.5)
    assert "_dropout_" in featured.stand_in.launches[0]
    assert 0.8 < found.mean() < 1.2 and found.std() > 0.01


def test_autocast_casts_as_it_does_for_torch(featured):
    call = [one.float() for one in inputs((2, 3, 5), (2, 3, 7))]
    mask = randn(5, 7, seed=3).float()
    with torch.autocast("cpu", torch.float16):
        found = featured.scaled_dot_product_attention(*call, attn_mask=mask)
    torch.testing.assert_close(found, torch_sdpa(*(one.half() for one in call), attn_mask=mask.half()), **TOLERANCE)
    assert len(featured.stand_in.launches) == 1


# ------------------------------------------------------------------ what torch answers


def said_once(featured: Loaded, call: list[torch.Tensor], message: str, **options: Any) -> None:
    """Torch's result comes back, with a warning the first time."""
    with pytest.warns(featured.FallbackWarning, match=message) as found:
        outs = [featured.scaled_dot_product_attention(*call, **options) for _ in range(2)]
    assert len([one for one in found if one.category is featured.FallbackWarning]) == 1
    assert found[-1].filename == __file__
    expected = torch_sdpa(*call, **options)
    assert all(torch.equal(one, expected) for one in outs) and not featured.stand_in.launches


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (lambda one: one.float(), {}, "float32; kernels take"),
        (lambda one: one.double(), {}, "float64; kernels take"),
        (lambda one: one.bfloat16(), {}, "gen build --arch sm80 --head-dim 16 --dtype bf16 --features none"),
        (lambda one: one[..., :8], {"is_causal": True}, "gen build --arch sm80 --head-dim 8 --dtype fp16"),
        (lambda one: one, {"scale": -1.0}, "softmax_scale must be positive"),
        (lambda one: one, {"attn_mask": torch.ones(5, 7)}, "attn_mask is float32"),
    ],
)
def test_what_no_kernel_computes_torch_does_and_it_is_said_once(featured, change, options, message):
    said_once(featured, [change(one) for one in inputs((2, 3, 5), (2, 3, 7))], message, **options)


def test_a_mask_without_kernels_for_a_bias_is_torchs(exchange_fake, make_tensors):
    module = exchange_fake.load()
    q, k, v = (one.transpose(1, 2) for one in make_tensors(num_heads_kv=4))
    with pytest.warns(module.FallbackWarning, match="--features bias"):
        found = module.scaled_dot_product_attention(q, k, v, torch.ones(5, 7, dtype=torch.bool))
    assert torch.equal(found, torch_sdpa(q, k, v, torch.ones(5, 7, dtype=torch.bool)))


def test_sizes_do_not_make_a_reason_new_but_another_reason_does(featured):
    def call(seqlen: int, **options: Any) -> None:
        featured.scaled_dot_product_attention(*(one.float() for one in inputs((1, 2, seqlen), (1, 2, 9))), **options)

    mask = torch.zeros(1, 2, 4, 9)
    with pytest.warns(featured.FallbackWarning) as found:
        for seqlen in (3, 4, 5):
            call(seqlen)
        for head_dim in (8, 8, 24):
            featured.scaled_dot_product_attention(*(randn(1, 2, 4, head_dim) for _ in range(3)))
        featured.scaled_dot_product_attention(*inputs((1, 2, 4), (1, 2, 9)), attn_mask=mask)
    assert len([one for one in found if one.category is featured.FallbackWarning]) == 4


def test_gradients_without_backward_kernels_are_torchs(featured):
    call = [one.requires_grad_() for one in inputs((2, 3, 5), (2, 3, 7))]
    with pytest.warns(featured.FallbackWarning, match=r"gradient|backward"):
        found = featured.scaled_dot_product_attention(*call)
    grads = torch.autograd.grad(found.float().sum(), call)
    expected = torch.autograd.grad(torch_sdpa(*call).float().sum(), call)
    assert all(torch.equal(one, other) for one, other in zip(grads, expected, strict=True))


def test_transforms_tracers_and_subclasses_are_torchs(featured):
    call = inputs((2, 3, 5), (2, 3, 7))
    sdpa = featured.scaled_dot_product_attention
    with pytest.warns(featured.FallbackWarning, match=r"torch\.func transform"):
        assert torch.equal(torch.vmap(sdpa)(*call), torch.vmap(torch_sdpa)(*call))
    with pytest.warns(featured.FallbackWarning, match="FakeTensor"):
        from torch._subclasses.fake_tensor import FakeTensorMode

        with FakeTensorMode() as mode:
            assert sdpa(*(mode.from_tensor(one) for one in call)).shape == (2, 3, 5, 16)
    with pytest.warns(featured.FallbackWarning, match="tracer"):
        traced = torch.jit.trace(lambda q, k, v: sdpa(q, k, v), tuple(call), check_trace=False)
    torch.testing.assert_close(traced(*inputs((2, 3, 5), (2, 3, 7))), torch_sdpa(*call))


def test_torchs_own_errors_are_torchs(featured):
    q, k, v = inputs((2, 3, 5), (2, 3, 7))
    for call, options in (
        ((q, k[..., :8], v), {}),
        ((q, k, v.float()), {}),
        ((q, k, v), {"attn_mask": torch.ones(3, 3, dtype=torch.bool)}),
        ((q, k, v), {"dropout_p": 2.0}),
        ((q, k[:, :2], v[:, :2]), {}),
    ):
        with pytest.raises(RuntimeError) as theirs:
            torch_sdpa(*call, **options)
        with pytest.raises(RuntimeError) as ours:
            featured.scaled_dot_product_attention(*call, **options)
        assert str(ours.value) == str(theirs.value) and ours.value.__context__ is None
    with pytest.raises(TypeError):
        featured.scaled_dot_product_attention(None, k, v)


def test_a_fault_of_a_launch_is_not_hidden(featured):
    featured.stand_in.fail("cuLaunchKernelEx", 719)
    with pytest.raises(featured.LaunchError):
        featured.scaled_dot_product_attention(*inputs((2, 3, 5), (2, 3, 7)))


def test_a_module_without_the_emulator_leaves_the_cpu_to_torch(new_module):
    fake = new_module(None)
    fake.add(head_dim=16)
    fake.write()
    module = fake.load()
    call = inputs((2, 3, 5), (2, 3, 7))
    with pytest.warns(module.FallbackWarning, match="without the emulator"):
        assert torch.equal(module.scaled_dot_product_attention(*call), torch_sdpa(*call))


def test_it_may_take_the_place_of_torchs_function(featured, monkeypatch):
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", featured.scaled_dot_product_attention)
    call = inputs((2, 3, 5), (2, 3, 7))
    expected = torch_sdpa(*call)
    torch.testing.assert_close(torch.nn.functional.scaled_dot_product_attention(*call), expected, **TOLERANCE)
    call = [one.float() for one in call]
    with pytest.warns(featured.FallbackWarning):  # and torch's answer is not ours again
        assert torch.equal(torch.nn.functional.scaled_dot_product_attention(*call), torch_sdpa(*call))


def test_a_reason_is_said_once_by_all_threads(featured):
    call = [one.float() for one in inputs((1, 1, 3), (1, 1, 3))]
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        threads = [threading.Thread(target=featured.scaled_dot_product_attention, args=call) for _ in range(4)]
        for one in threads:
            one.start()
        for one in threads:
            one.join()
    assert len(found) == 1
