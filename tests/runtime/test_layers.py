"""The layers of a module's `nn`: against torch's own, against the same layer without kernels, and what each refuses."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from conftest import Loaded
from kernelwright.runtime.torch_attention import attention_by_torch

EMBED_DIM = 64
FEATURES = [(), ("is_varlen",), ("has_softcap",), ("has_dropout",), ("is_varlen", "has_dropout"), ("is_block_sparse",)]
TOLERANCE = {"atol": 4e-3, "rtol": 4e-3}


@pytest.fixture
def featured(new_module: Callable[..., Any]) -> Iterator[Loaded]:
    """A module with kernels of fp16 and head_dim 16 for many features; they compute."""
    fake = new_module()
    for extra in FEATURES:
        for causal, mask in ((False, ()), (True, ()), (False, ("is_local",))):
            fake.add(head_dim=16, causal=causal, features=(*mask, *extra))
    fake.write()
    one = Loaded(fake)
    one.stand_in.compute()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="CPU tensors run")
        yield one
    one.stand_in.reset()


@pytest.fixture
def tokens() -> Callable[..., torch.Tensor]:
    """Make tokens, the same each time."""

    def make(*sizes: int, seed: int = 0) -> torch.Tensor:
        return torch.randn(*sizes, EMBED_DIM, generator=torch.Generator().manual_seed(seed)).half()

    return make


def make_layer(module: Any, **options: Any) -> Any:
    """A layer with weights that make scores of some size, in evaluation."""
    torch.manual_seed(0)
    layer = module.nn.MultiheadAttention(EMBED_DIM, 4, **{"dtype": torch.float16, **options}).eval()
    with torch.no_grad():
        layer.in_proj_weight *= 3
        for other in (layer.in_proj_bias, layer.out_proj.bias, layer.sink):
            if other is not None:
                other.normal_()
    return layer


def both(layer: Any, *inputs: Any, **options: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """What a layer computes by kernels, and by torch with the weights loaded from its state dict."""
    other = copy.deepcopy(layer)
    other.use_flash = False
    other.reset_parameters()
    other.load_state_dict(layer.state_dict())
    with torch.no_grad():
        return layer(*inputs, **options), other(*inputs, **options)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"causal": True},
        {"bias": False},
        {"num_heads_kv": 2},
        {"num_heads_kv": 1, "head_dim": 16, "causal": True},
        {"window_size": (2, 0)},
        {"window_size": (1, 1), "causal": True},
        {"softcap": 2.0},
        {"softmax_scale": 0.5},
        {"sink": True, "causal": True},
        {"rotary_dim": 16},
        {"rotary_dim": 8, "rotary_interleaved": True, "rotary_base": 100.0, "causal": True},
    ],
    ids=str,
)
def test_kernels_and_torch_agree_with_one_state_dict(featured, tokens, options):
    found, expected = both(make_layer(featured, **options), tokens(2, 9))
    assert len(featured.stand_in.launches) == 1 and found.shape == (2, 9, EMBED_DIM)
    torch.testing.assert_close(found, expected, **TOLERANCE)


@pytest.mark.parametrize("options", [{}, {"causal": True}, {"sink": True}, {"window_size": (2, 1)}], ids=str)
@pytest.mark.parametrize("seqlen_k", [5, 12])
def test_memory_gives_keys_and_values(featured, tokens, options, seqlen_k):
    layer = make_layer(featured, num_heads_kv=2, **options)
    found, expected = both(layer, tokens(2, 9), tokens(2, seqlen_k, seed=1))
    torch.testing.assert_close(found, expected, **TOLERANCE)


@pytest.mark.parametrize("options", [{}, {"causal": True, "rotary_dim": 16}, {"sink": True}], ids=str)
def test_sequences_one_after_another_are_attended_to_alone(featured, tokens, options):
    layer = make_layer(featured, **options)
    x, lengths = tokens(12), [5, 0, 4, 2]
    cu_seqlens = torch.tensor([0, 5, 5, 9, 11], dtype=torch.int32)
    found, expected = both(layer, x, cu_seqlens=cu_seqlens, max_seqlen=5)
    torch.testing.assert_close(found[:11], expected[:11], **TOLERANCE)
    with torch.no_grad():
        alone = torch.cat([layer(one[None])[0] for one in x[:11].split(lengths) if len(one)])
    torch.testing.assert_close(found[:11], alone, **TOLERANCE)


def test_sequences_may_have_a_memory_of_other_lengths(featured, tokens):
    starts, starts_k = (torch.tensor(one, dtype=torch.int32) for one in ([0, 3, 7], [0, 6, 8]))
    sizes = {"cu_seqlens": starts, "max_seqlen": 4, "cu_seqlens_k": starts_k, "max_seqlen_k": 6}
    found, expected = both(make_layer(featured), tokens(7), tokens(8, seed=1), **sizes)
    torch.testing.assert_close(found, expected, **TOLERANCE)


def test_a_block_mask_hides_blocks_in_both_ways(featured, tokens):
    dense = torch.rand(300, 300, generator=torch.Generator().manual_seed(0)) < 0.3
    mask = featured.BlockMask.from_dense(dense | torch.eye(300, dtype=torch.bool), 128, 64)
    found, expected = both(make_layer(featured, causal=True), tokens(1, 300), block_mask=mask)
    torch.testing.assert_close(found, expected, **TOLERANCE)


@pytest.mark.parametrize("bias", [False, True])
def test_a_layer_of_torch_gives_the_same_with_its_weights(featured, tokens, bias):
    torch.manual_seed(1)
    theirs = torch.nn.MultiheadAttention(EMBED_DIM, 4, bias=bias, dropout=0.25, batch_first=True).half().eval()
    ours = featured.nn.MultiheadAttention.from_torch(theirs, causal=True)
    assert not ours.training and ours.dropout == 0.25 and ours.out_proj.weight.dtype == torch.float16
    assert set(ours.state_dict()) == set(theirs.state_dict())
    x = tokens(2, 9)
    hidden = torch.ones(9, 9, dtype=torch.bool).triu(1)
    with torch.no_grad():
        expected, _ = theirs(x, x, x, attn_mask=hidden, need_weights=False)
        torch.testing.assert_close(ours(x), expected, **TOLERANCE)
    assert ours.in_proj_weight.data_ptr() != theirs.in_proj_weight.data_ptr()


def test_weights_go_back_to_a_layer_of_torch(featured):
    ours = make_layer(featured)
    theirs = torch.nn.MultiheadAttention(EMBED_DIM, 4, dtype=torch.float16)
    theirs.load_state_dict(ours.state_dict())
    assert torch.equal(theirs.in_proj_weight, ours.in_proj_weight)


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"kdim": 32}, "kdim"), ({"add_bias_kv": True}, "add_bias_kv"), ({"add_zero_attn": True}, "add_zero_attn")],
)
def test_a_layer_of_torch_without_a_counterpart_is_refused(featured, changes, message):
    theirs = torch.nn.MultiheadAttention(EMBED_DIM, 4, **changes)
    with pytest.raises(featured.UnsupportedInputError, match=message):
        featured.nn.MultiheadAttention.from_torch(theirs)
    with pytest.raises(featured.InputTypeError, match="Linear"):
        featured.nn.MultiheadAttention.from_torch(torch.nn.Linear(2, 2))


def test_dropout_is_for_training_alone(featured, tokens):
    layer, x = make_layer(featured, dropout=0.5), tokens(2, 40)
    with torch.no_grad():
        kept = [layer.train(mode)(x) for mode in (False, False, True, True)]
    assert torch.equal(kept[0], kept[1]) and not torch.equal(kept[2], kept[3])
    assert ["_dropout_" in one for one in featured.stand_in.launches] == [False, False, True, True]
    layer.use_flash = False
    with torch.no_grad():
        means = [torch.stack([layer.train(mode)(x) for _ in range(200)]).float().mean(0) for mode in (False, True)]
    assert (means[0] - means[1]).abs().mean() < 0.1 * means[0].abs().mean() < means[0].abs().mean()


def test_autocast_gives_a_float32_layer_to_the_kernels(featured, tokens):
    layer = make_layer(featured, dtype=torch.float32, sink=True, rotary_dim=16)
    with torch.autocast("cpu", torch.float16):
        found, expected = both(layer, tokens(2, 9).float())
    assert found.dtype == torch.float16 and len(featured.stand_in.launches) == 1
    torch.testing.assert_close(found, expected, **TOLERANCE)
    with pytest.raises(featured.InputTypeError, match="float16 or bfloat16"), torch.no_grad():
        layer(tokens(2, 9).float())


def test_a_problem_without_a_kernel_says_how_to_build_one(featured, tokens):
    layer = make_layer(featured, num_heads_kv=2, head_dim=32)
    with pytest.raises(featured.NoKernelError, match="gen build --arch sm80 --head-dim 32"), torch.no_grad():
        layer(tokens(1, 4))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_heads_kv": 3}, "multiple of num_heads_kv"),
        ({"num_heads": 5}, "embed_dim must be a multiple"),
        ({"num_heads": 0}, "num_heads must be"),
        ({"head_dim": True}, "head_dim must be"),
        ({"dropout": 1.0}, "dropout must be"),
        ({"softcap": -1.0}, "softcap must be"),
        ({"window_size": 3}, "pair of whole"),
        ({"causal": "no"}, "causal must be True or False, got 'no'"),
        ({"sink": 1}, "sink must be True or False"),
        ({"window_size": (1, 2.0)}, "pair of whole"),
        ({"rotary_dim": 32}, "at most head_dim"),
        ({"rotary_dim": 7}, "even"),
        ({"rotary_dim": 8, "rotary_base": 0.0}, "base"),
    ],
)
def test_options_that_make_no_sense_are_refused(featured, options, message):
    with pytest.raises(featured.UnsupportedInputError, match=message):
        featured.nn.MultiheadAttention(EMBED_DIM, **{"num_heads": 4, **options})


def test_inputs_that_do_not_fit_are_refused(featured, tokens):
    layer, starts = make_layer(featured), torch.tensor([0, 4], dtype=torch.int32)
    mask = featured.BlockMask.from_dense(torch.ones(4, 4, dtype=torch.bool))
    bad: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = [
        ("embed_dim of 64", (torch.zeros(1, 4, 32).half(),), {}),
        ("batch, seqlen", (tokens(4),), {}),
        ("total, embed_dim", (tokens(1, 4),), {"cu_seqlens": starts, "max_seqlen": 4}),
        ("one batch size", (tokens(1, 4), tokens(2, 4)), {}),
        ("comes with max_seqlen", (tokens(4),), {"cu_seqlens": starts}),
        ("comes with max_seqlen", (tokens(1, 4),), {"max_seqlen": 4}),
        ("comes with max_seqlen", (tokens(4), tokens(4)), {"cu_seqlens": starts, "max_seqlen": 4}),
        ("block_mask goes neither", (tokens(4),), {"cu_seqlens": starts, "max_seqlen": 4, "block_mask": mask}),
    ]
    for message, inputs, options in bad:
        with pytest.raises(featured.UnsupportedInputError, match=message):
            layer(*inputs, **options)
    with pytest.raises(featured.UnsupportedInputError, match="count of positions"):
        make_layer(featured, rotary_dim=8)(tokens(1, 4), tokens(1, 4))
    with pytest.raises(featured.UnsupportedInputError, match="block_mask goes neither"):
        make_layer(featured, dropout=0.1).train()(tokens(1, 4), block_mask=mask)


def test_a_layer_says_what_it_is_and_can_be_stored(featured, tokens):
    layer = make_layer(featured, num_heads_kv=2, sink=True, causal=True, rotary_dim=16)
    assert "64, 4, num_heads_kv=2, head_dim=16, causal=True, sink=True" in repr(layer)
    with torch.no_grad():
        expected = layer(tokens(1, 4))
        assert torch.equal(pickle.loads(pickle.dumps(layer))(tokens(1, 4)), expected)
    assert type(layer).__module__ == f"{featured.fake.folder.name}.nn"
    assert {name for name, _ in layer.named_parameters()} == set(layer.state_dict())
    assert torch.nn.Module in type(layer).__mro__ and "num_heads_kv" in type(layer).__doc__


def test_parameters_are_made_where_and_as_asked(featured):
    layer = featured.nn.MultiheadAttention(EMBED_DIM, 4, sink=True, device="meta", dtype=torch.bfloat16)
    assert {(one.device.type, one.dtype) for one in layer.parameters()} == {("meta", torch.bfloat16)}


def test_the_layers_are_imported_when_they_are_asked_for(featured):
    folder, name = featured.fake.folder.parent, featured.fake.folder.name
    code = f"import sys; sys.path.insert(0, {str(folder)!r}); import {name} as m; before = '{name}.nn' in sys.modules;"
    code += f"print(before, m.nn.MultiheadAttention.__name__, '{name}.nn' in sys.modules, hasattr(m, 'nothing'))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "MultiheadAttention", "True", "False"]


# ------------------------------------------------------------------ rotary embeddings


def textbook_rotation(x: torch.Tensor, positions: list[int], dim: int, base: float, interleaved: bool) -> torch.Tensor:
    """Each pair as a complex number, in float64, turned by itself."""
    turned = x.double().clone()
    for row, position in enumerate(positions):
        for pair in range(dim // 2):
            where = [2 * pair, 2 * pair + 1] if interleaved else [pair, pair + dim // 2]
            angle = torch.tensor(position * base ** (-2 * pair / dim), dtype=torch.float64)
            number = torch.complex(turned[:, row, :, where[0]], turned[:, row, :, where[1]])
            number = number * torch.polar(torch.tensor(1.0, dtype=torch.float64), angle)
            turned[:, row, :, where[0]], turned[:, row, :, where[1]] = number.real, number.imag
    return turned


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("positions", [None, [3, 900, 0]])
def test_a_rotation_is_that_of_the_paper(featured, interleaved, positions):
    rotary = featured.nn.RotaryEmbedding(8, 50.0, interleaved)
    x = torch.randn(2, 3, 2, 12, generator=torch.Generator().manual_seed(0))
    given = None if positions is None else torch.tensor(positions)
    found = rotary(x, given, None if positions is None else 901)
    expected = textbook_rotation(x, positions or [0, 1, 2], 8, 50.0, interleaved)
    torch.testing.assert_close(found.double(), expected, atol=1e-6, rtol=1e-6)
    rounded = rotary(x.bfloat16(), given, None if positions is None else 901)
    exact = textbook_rotation(x.bfloat16(), positions or [0, 1, 2], 8, 50.0, interleaved)
    assert rounded.dtype == torch.bfloat16
    assert (rounded.double() - exact).abs().max() <= 2.0**-8 * exact.abs().max()  # rounded once


def test_scores_depend_on_distance_alone(featured):
    rotary = featured.nn.RotaryEmbedding(16)
    q, k = torch.randn(2, 1, 1, 1, 16, generator=torch.Generator().manual_seed(0)).double()
    score = [
        (rotary(q, torch.tensor([i]), 2000) * rotary(k, torch.tensor([j]), 2000)).sum()
        for i, j in ((5, 2), (1003, 1000))
    ]
    assert abs(float(score[0] - score[1])) < 1e-4


def test_the_table_grows_stays_in_float32_and_may_be_made_in_inference_mode(featured):
    rotary = featured.nn.RotaryEmbedding(4)
    with torch.inference_mode():
        short = rotary(torch.ones(1, 3, 1, 4))
    model = torch.nn.Sequential(rotary).half()
    assert rotary._table[0].dtype == torch.float32 and not model.state_dict()
    x = torch.ones(1, 50, 1, 4, requires_grad=True)
    long = rotary(x)
    long.sum().backward()  # what was made in inference mode could not be kept for this
    assert torch.equal(long[:, :3], short) and rotary._table[0].shape[0] >= 50
    rotary(x[:, :2]).sum().backward()
    assert rotary(torch.empty(1, 5, 1, 4, device="meta")).device.type == "meta"


@pytest.mark.parametrize("x", [torch.ones(1, 3, 1, 2), torch.ones(3, 4), torch.ones(1, 3, 1, 4, dtype=torch.int64)])
def test_what_cannot_be_turned_is_refused(featured, x):
    with pytest.raises(featured.UnsupportedInputError, match="rotary embeddings"):
        featured.nn.RotaryEmbedding(4)(x)


# ------------------------------------------------------------------ the reference


def test_the_reference_has_no_nan_gradient_where_a_row_sees_nothing():
    q = torch.randn(1, 5, 2, 8, requires_grad=True)
    k, v = (torch.randn(1, 3, 1, 8, requires_grad=True) for _ in range(2))
    for options in ({"causal": True}, {"causal": True, "sink": torch.zeros(2)}, {"causal": True, "softcap": 1.0}):
        out = attention_by_torch(q, k, v, **options)
        grads = torch.autograd.grad(out.square().sum(), (q, k, v))
        assert not out[:, :2].any() and not any(one.isnan().any() for one in grads)
