"""The functions with FlashAttention-2's names: signatures, packed forms, sequences, options, and what each refuses.

Results are compared with the textbook formula, which is written out here.
"""

from __future__ import annotations

import ast
import inspect
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from conftest import Loaded
from kernelwright import resource_dir
from kernelwright.runtime.dropout import keep_mask
from kernelwright.runtime.functions import FUNCTIONS

EXTRAS = [
    *[(), ("is_varlen",), ("has_softcap",), ("has_alibi",), ("has_bias",), ("has_dropout",), ("is_block_sparse",)],
    *[("is_varlen", "has_alibi"), ("is_varlen", "has_dropout"), ("is_varlen", "has_bias")],
    *[("is_varlen", "is_block_sparse"), ("has_softcap", "has_alibi", "has_bias")],
]


@pytest.fixture
def featured(new_module: Callable[..., Any]) -> Iterator[Loaded]:
    """A module with kernels of fp16 and head_dim 64 for many features; they compute."""
    fake = new_module()
    for extra in EXTRAS:
        for causal, mask in ((False, ()), (True, ()), (False, ("is_local",))):
            fake.add(causal=causal, features=(*mask, *extra))
    fake.add(head_dim_v=32)
    fake.add(head_dim=64, head_dim_v=32, features=("is_varlen",))
    fake.write()
    one = Loaded(fake)
    one.stand_in.compute()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="CPU tensors run")
        yield one
    one.stand_in.reset()


def textbook(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    scale: float | None = None,
    seen: torch.Tensor | None = None,
    added: torch.Tensor | float = 0.0,
    softcap: float = 0.0,
    sink: torch.Tensor | None = None,
    kept: torch.Tensor | None = None,
    p: float = 0.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """out and lse in float64: softmax over all keys at once, with a loop over nothing but heads that share."""
    group = q.shape[2] // k.shape[2]
    q, k, v = (one.double().transpose(1, 2) for one in (q, k, v))
    k, v = (one.repeat_interleave(group, dim=1) for one in (k, v))
    scores = q @ k.transpose(2, 3) * (q.shape[-1] ** -0.5 if scale is None else scale)
    scores = softcap * torch.tanh(scores / softcap) if softcap else scores
    scores = scores + added
    scores = scores if seen is None else scores.masked_fill(~seen, -torch.inf)
    terms = (
        scores if sink is None else torch.cat([scores, sink.double().view(1, -1, 1, 1).expand(*scores.shape[:3], 1)], 3)
    )
    lse = terms.logsumexp(-1)
    weights = (scores - lse.masked_fill(lse.isinf(), 0.0)[..., None]).exp()
    weights = weights if kept is None else weights * kept / (1 - p)
    return (weights @ v).transpose(1, 2), lse


def assert_near(found: tuple[torch.Tensor, ...], expected: tuple[torch.Tensor, torch.Tensor]) -> None:
    torch.testing.assert_close(found[0].double(), expected[0], atol=2e-3, rtol=2e-3)
    torch.testing.assert_close(found[1].double(), expected[1], atol=1e-4, rtol=1e-5)


def distance(seqlen_q: int, seqlen_k: int) -> torch.Tensor:
    """How far each key is ahead of each query, the last of each at one place."""
    return torch.arange(seqlen_k) - (torch.arange(seqlen_q)[:, None] + seqlen_k - seqlen_q)


# ------------------------------------------------------------------ signatures

TAIL = {
    "dropout_p": 0.0,
    "softmax_scale": None,
    "causal": False,
    "window_size": (-1, -1),
    "softcap": 0.0,
    "alibi_slopes": None,
    "deterministic": False,
    "return_attn_probs": False,
}
NONE = inspect.Parameter.empty
LENGTHS = ["cu_seqlens_q", "cu_seqlens_k", "max_seqlen_q", "max_seqlen_k"]
# FlashAttention-2's, flash_attn_interface.py of version 2.8: names, order and defaults.
SIGNATURES: dict[str, dict[str, Any]] = {
    "flash_attn_func": {**dict.fromkeys(["q", "k", "v"], NONE), **TAIL},
    "flash_attn_kvpacked_func": {**dict.fromkeys(["q", "kv"], NONE), **TAIL},
    "flash_attn_qkvpacked_func": {"qkv": NONE, **TAIL},
    "flash_attn_varlen_func": {**dict.fromkeys(["q", "k", "v", *LENGTHS], NONE), **TAIL, "block_table": None},
    "flash_attn_varlen_kvpacked_func": {**dict.fromkeys(["q", "kv", *LENGTHS], NONE), **TAIL},
    "flash_attn_varlen_qkvpacked_func": {**dict.fromkeys(["qkv", "cu_seqlens", "max_seqlen"], NONE), **TAIL},
}


@pytest.mark.parametrize("name", SIGNATURES)
def test_the_signature_is_that_of_flash_attention_2(featured, name):
    parameters = inspect.signature(getattr(featured, name)).parameters.values()
    positional = {one.name: one.default for one in parameters if one.kind is one.POSITIONAL_OR_KEYWORD}
    assert list(positional.items()) == list(SIGNATURES[name].items())
    assert all(
        one.kind is one.KEYWORD_ONLY and one.default is not NONE for one in parameters if one.name not in positional
    )


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_stub_has_the_arguments_of_the_function(featured, name):
    stub = ast.parse((resource_dir("runtime") / "module_init.pyi").read_text())
    found = [one for one in stub.body if isinstance(one, ast.FunctionDef) and one.name == name]
    parameters = inspect.signature(getattr(featured, name)).parameters
    assert [one.arg for one in [*found[0].args.args, *found[0].args.kwonlyargs]] == list(parameters)
    assert len(found) > 1 and all(
        {one.arg for one in [*f.args.args, *f.args.kwonlyargs]} == set(parameters) for f in found
    )
    (exported,) = [one for one in stub.body if isinstance(one, ast.Assign)]
    assert ast.literal_eval(exported.value) == featured.module.__all__


def test_every_function_is_the_modules_own(featured):
    assert set(FUNCTIONS) == {*SIGNATURES, "sparse_attn_func"}
    for name in FUNCTIONS:
        function = getattr(featured, name)
        assert (function.__module__, function.__qualname__) == (featured.fake.folder.name, name)
        assert name in featured.module.__all__ and function.__doc__


# ------------------------------------------------------------------ masks and scores


@pytest.mark.parametrize(("seqlen_q", "seqlen_k"), [(5, 7), (7, 5), (1, 9), (20, 20)])
@pytest.mark.parametrize("window", [(2, 0), (0, 0), (-1, 1), (3, -1), (1, 2), (0, 9), (50, 50), (-1, 0)])
@pytest.mark.parametrize("causal", [False, True])
def test_a_window_is_counted_from_the_last_key(featured, make_tensors, seqlen_q, seqlen_k, window, causal):
    q, k, v = make_tensors(seqlen_q=seqlen_q, seqlen_k=seqlen_k)
    ahead = distance(seqlen_q, seqlen_k)
    left, right = window[0], 0 if causal else window[1]
    seen = (ahead >= -left if left >= 0 else ahead == ahead) & (ahead <= right if right >= 0 else ahead == ahead)
    for _ in range(2):
        found = featured.flash_attn_func(q, k, v, causal=causal, window_size=window, return_lse=True)
        assert_near(found, textbook(q, k, v, seen=seen))


@pytest.mark.parametrize("chunk", [1, 3, 4, 100])
@pytest.mark.parametrize("causal", [False, True])
def test_a_chunk_is_counted_by_positions_of_keys(featured, make_tensors, chunk, causal):
    q, k, v = make_tensors(seqlen_q=6, seqlen_k=11)
    ahead = distance(6, 11)
    seen = torch.arange(11) // chunk == (torch.arange(6)[:, None] + 5) // chunk
    found = featured.flash_attn_func(q, k, v, causal=causal, attention_chunk=chunk, return_lse=True)
    assert_near(found, textbook(q, k, v, seen=seen & (ahead <= 0) if causal else seen))


def test_a_local_kernel_answers_where_there_is_no_other(new_module, make_tensors):
    fake = new_module()
    name = fake.add(features=("is_local",))
    fake.write()
    one = Loaded(fake)
    one.stand_in.compute()
    q, k, v = make_tensors()
    with pytest.warns(one.EmulationWarning):
        for causal in (True, False):
            seen = distance(5, 7) <= 0 if causal else None
            assert_near(one.flash_attn_func(q, k, v, causal=causal, return_lse=True), textbook(q, k, v, seen=seen))
            assert one.explain(q, k, v, causal=causal).variant == name
    one.stand_in.reset()


@pytest.mark.parametrize("causal", [False, True])
def test_scores_are_capped_before_bias_slopes_and_mask(featured, make_tensors, causal):
    q, k, v = make_tensors()
    slopes, bias = torch.rand(4), torch.randn(2, 4, 5, 7).half()
    ahead = distance(5, 7)
    found = featured.flash_attn_func(
        *(q, k, v), causal=causal, softcap=1.5, alibi_slopes=slopes, bias=bias, softmax_scale=0.5, return_lse=True
    )
    added = bias.double() - slopes.double().view(1, 4, 1, 1) * ahead.abs()
    seen = ahead <= 0 if causal else None
    assert_near(found, textbook(q, k, v, scale=0.5, softcap=1.5, added=added, seen=seen))


@pytest.mark.parametrize("shape", [(4,), (2, 4)])
def test_slopes_are_for_heads_or_for_batch_and_heads(featured, make_tensors, shape):
    q, k, v = make_tensors()
    slopes = torch.rand(shape)
    added = -slopes.double().view(-1, 4, 1, 1) * distance(5, 7).abs()
    assert_near(featured.flash_attn_func(q, k, v, alibi_slopes=slopes, return_lse=True), textbook(q, k, v, added=added))


@pytest.mark.parametrize("shape", [(1, 1, 5, 7), (1, 4, 5, 7), (2, 1, 5, 7), (2, 4, 5, 7)])
@pytest.mark.parametrize("layout", ["dense", "transposed", "padded"])
def test_a_bias_may_be_shared_and_lie_anyhow(featured, make_tensors, shape, layout):
    q, k, v = make_tensors()
    bias = torch.randn(shape).half()
    if layout == "transposed":
        bias = bias.transpose(2, 3).contiguous().transpose(2, 3)
    if layout == "padded":
        bias = torch.nn.functional.pad(bias, (0, 3))[..., :7]
    found = featured.flash_attn_func(q, k, v, bias=bias, return_lse=True)
    assert_near(found, textbook(q, k, v, added=bias.double()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_sink_takes_part_in_the_softmax_and_has_no_value(featured, make_tensors, dtype):
    q, k, v = make_tensors(seqlen_q=7, seqlen_k=5)
    sink = torch.tensor([0.5, -1.0, 3.0, 0.0]).to(dtype)
    found = featured.flash_attn_func(q, k, v, causal=True, sink=sink, return_lse=True)
    assert_near(found, textbook(q, k, v, seen=distance(7, 5) <= 0, sink=sink))
    assert torch.equal(found[1][0, :, 0], sink.float())  # a row without keys has the sink alone


def test_a_sink_alone_is_left_where_there_are_no_keys(featured, make_tensors):
    q, k, v = make_tensors(seqlen_k=0)
    sink = torch.randn(4)
    out, lse = featured.flash_attn_func(q, k, v, sink=sink, return_lse=True)
    assert (out == 0).all() and torch.equal(lse, sink[None, :, None].expand(2, 4, 5))


def test_v_may_have_a_head_dim_of_its_own(featured, make_tensors):
    q, k, v = make_tensors()
    for _ in range(2):
        found = featured.flash_attn_func(q, k, v[..., :32].contiguous(), return_lse=True)
        assert found[0].shape == (2, 5, 4, 32)
        assert_near(found, textbook(q, k, v[..., :32]))


# ------------------------------------------------------------------ head dimensions that are padded


@pytest.mark.parametrize(("head_dim", "head_dim_v"), [(59, 59), (63, 63), (57, 64), (64, 30), (61, 25)])
def test_a_head_dim_is_padded_to_a_multiple_of_8_and_scaled_by_its_own(featured, make_tensors, head_dim, head_dim_v):
    q, k, v = make_tensors()
    q, k, v = q[..., :head_dim], k[..., :head_dim], v[..., :head_dim_v]
    found = featured.flash_attn_func(q, k, v, return_lse=True)
    assert found[0].shape == (*q.shape[:3], head_dim_v)
    assert_near(found, textbook(q, k, v))
    assert_near(featured.flash_attn_func(q, k, v, softmax_scale=0.3, return_lse=True), textbook(q, k, v, scale=0.3))
    assert torch.equal(featured.flash_attn_func(q, k, v), found[0])


def test_sequences_and_packed_forms_are_padded_too(featured, make_tensors):
    q, k, v = (one[:1, :, :, :59] for one in make_tensors(seqlen_k=5, num_heads_kv=4))
    expected = featured.flash_attn_func(q, k, v)
    assert torch.equal(featured.flash_attn_qkvpacked_func(torch.stack([q, k, v], 2)), expected)
    offsets = torch.tensor([0, 5], dtype=torch.int32)
    packed = torch.stack([q, k, v], 2).squeeze(0)
    assert torch.equal(featured.flash_attn_varlen_qkvpacked_func(packed, offsets, 5), expected.squeeze(0))


def test_the_probabilities_of_a_padded_call_are_those_of_its_own_scale(featured, make_tensors):
    q, k, v = (one[..., :59] for one in make_tensors())
    out, lse, probs = featured.flash_attn_func(q, k, v, dropout_p=0.5, return_attn_probs=True)
    scores = torch.einsum("bqhd,bkhd->bhqk", q.double(), k.double().repeat_interleave(2, 2)) * 59**-0.5
    expected = (scores - scores.amax(-1, keepdim=True)).exp()
    torch.testing.assert_close(probs[:, :, :5, :7].abs().double(), expected, atol=2e-3, rtol=2e-3)
    assert out.shape == q.shape and lse.shape == (2, 4, 5)


# ------------------------------------------------------------------ packed forms


def test_packed_forms_are_the_function_on_their_parts(featured, make_tensors):
    q, k, v = make_tensors(seqlen_q=6, seqlen_k=6, num_heads_kv=4)
    options = {"causal": True, "softmax_scale": 0.25}
    expected = featured.flash_attn_func(q, k, v, **options)
    assert torch.equal(featured.flash_attn_kvpacked_func(q, torch.stack([k, v], 2), **options), expected)
    assert torch.equal(featured.flash_attn_qkvpacked_func(torch.stack([q, k, v], 2), **options), expected)
    window = {"window_size": (2, 1), "softmax_scale": 0.25}
    assert torch.equal(
        featured.flash_attn_kvpacked_func(q, torch.stack([k, v], 2), **window),
        featured.flash_attn_func(q, k, v, **window),
    )


def test_packed_tensors_are_read_in_place(featured, make_tensors, caplog):
    q, k, v = make_tensors(seqlen_k=5, num_heads_kv=4)
    packed = torch.stack([q, k, v], 2)
    with caplog.at_level("INFO"):
        featured.flash_attn_qkvpacked_func(packed)
    assert caplog.records == []
    assert featured.stand_in.parameters["q"] == packed.data_ptr()
    assert featured.stand_in.parameters["v"] == packed.data_ptr() + 2 * 2 * 4 * 64


@pytest.mark.parametrize(
    ("call", "fault"),
    [
        (
            lambda f, t: f.flash_attn_qkvpacked_func(t(2, 5, 2, 4, 64)),
            r"qkv must be \[batch, seqlen, 3, .*got \[2, 5, 2",
        ),
        (lambda f, t: f.flash_attn_qkvpacked_func(t(5, 3, 4, 64)), r"qkv must be \[batch, seqlen, 3, num_heads"),
        (lambda f, t: f.flash_attn_kvpacked_func(t(2, 5, 4, 64), t(2, 5, 3, 4, 64)), r"kv must be \[batch, seqlen, 2"),
        (lambda f, t: f.flash_attn_kvpacked_func(t(2, 5, 4, 64), None), "kv must be a torch.Tensor, got NoneType"),
        (lambda f, t: f.flash_attn_varlen_qkvpacked_func(t(2, 5, 3, 4, 64), None, 5), r"qkv must be \[total, 3, num_h"),
        (
            lambda f, t: f.flash_attn_varlen_kvpacked_func(t(5, 4, 64), t(5, 3, 4, 64), None, None, 5, 5),
            r"\[total, 2, num",
        ),
    ],
)
def test_a_packed_tensor_of_another_shape_is_refused(featured, call, fault):
    with pytest.raises(featured.UnsupportedInputError, match=fault):
        call(featured, lambda *shape: torch.zeros(shape, dtype=torch.float16))


# ------------------------------------------------------------------ sequences

LENGTH_PAIRS = [(3, 5), (0, 4), (4, 0), (6, 2), (1, 9)]


def sequences(make_tensors: Any, pairs: list[tuple[int, int]] = LENGTH_PAIRS) -> dict[str, Any]:
    totals = [sum(pair[side] for pair in pairs) for side in (0, 1)]
    q, k, v = (one[0] for one in make_tensors(batch=1, seqlen_q=totals[0], seqlen_k=totals[1]))
    offsets = [torch.tensor([0, *[pair[side] for pair in pairs]]).cumsum(0).int() for side in (0, 1)]
    lengths = [max(pair[side] for pair in pairs) for side in (0, 1)]
    names = ("q", "k", "v", "cu_seqlens_q", "cu_seqlens_k", "max_seqlen_q", "max_seqlen_k")
    return dict(zip(names, (q, k, v, *offsets, *lengths), strict=True))


def each(call: dict[str, Any]) -> Iterator[tuple[int, slice, slice]]:
    starts_q, starts_k = call["cu_seqlens_q"].tolist(), call["cu_seqlens_k"].tolist()
    for index in range(len(starts_q) - 1):
        yield index, slice(*starts_q[index : index + 2]), slice(*starts_k[index : index + 2])


@pytest.mark.parametrize("causal", [False, True])
def test_each_sequence_is_attended_to_alone(featured, make_tensors, causal):
    call = sequences(make_tensors)
    out, lse = featured.flash_attn_varlen_func(**call, causal=causal, return_lse=True)
    assert out.shape == call["q"].shape and lse.shape == (4, 14)
    for _, rows, keys in each(call):
        q, k, v = (call[name][part][None] for name, part in (("q", rows), ("k", keys), ("v", keys)))
        seen = distance(q.shape[1], k.shape[1]) <= 0 if causal else None
        if q.shape[1] == 0:
            continue
        if k.shape[1] == 0:
            assert (out[rows] == 0).all() and (lse[:, rows] == -torch.inf).all()
            continue
        assert_near((out[rows][None], lse[:, rows][None]), textbook(q, k, v, seen=seen))


def test_slopes_bias_and_windows_of_sequences_are_each_ones_own(featured, make_tensors):
    call = sequences(make_tensors)
    slopes, bias = torch.rand(5, 4), torch.randn(1, 4, 6, 9).half()
    with_slopes = featured.flash_attn_varlen_func(**call, alibi_slopes=slopes, window_size=(3, 2), return_lse=True)
    with_bias = featured.flash_attn_varlen_func(**call, bias=bias, return_lse=True)
    for index, rows, keys in each(call):
        q, k, v = (call[name][part][None] for name, part in (("q", rows), ("k", keys), ("v", keys)))
        if 0 in (q.shape[1], k.shape[1]):
            continue
        ahead = distance(q.shape[1], k.shape[1])
        added = -slopes[index].double().view(1, 4, 1, 1) * ahead.abs()
        expected = textbook(q, k, v, added=added, seen=(ahead >= -3) & (ahead <= 2))
        assert_near(
            [one[rows] if one.dim() == 3 else one[:, rows] for one in with_slopes], [one[0] for one in expected]
        )
        expected = textbook(q, k, v, added=bias[:, :, : q.shape[1], : k.shape[1]].double())
        assert_near([one[rows] if one.dim() == 3 else one[:, rows] for one in with_bias], [one[0] for one in expected])


def test_keys_not_in_use_are_not_seen_and_causal_ends_with_the_last_used(featured, make_tensors):
    call = sequences(make_tensors)
    used = torch.tensor([2, 4, 0, 1, 9], dtype=torch.int32)
    out, lse = featured.flash_attn_varlen_func(**call, causal=True, seqused_k=used, return_lse=True)
    for index, rows, keys in each(call):
        keys = slice(keys.start, keys.start + int(used[index]))
        q, k, v = (call[name][part][None] for name, part in (("q", rows), ("k", keys), ("v", keys)))
        if 0 in (q.shape[1], k.shape[1]):
            continue
        expected = textbook(q, k, v, seen=distance(q.shape[1], k.shape[1]) <= 0)
        assert_near((out[rows][None], lse[:, rows][None]), expected)


def test_sequences_without_any_key_or_query_launch_nothing(featured, make_tensors):
    for pairs in ([(3, 0), (2, 0)], [(0, 3), (0, 2)]):
        call = sequences(make_tensors, pairs)
        out, lse = featured.flash_attn_varlen_func(**call, return_lse=True)
        assert out.shape == call["q"].shape and (out == 0).all() and (lse == -torch.inf).all()
    assert featured.stand_in.launches == []


def test_out_of_sequences_is_written_and_returned(featured, make_tensors):
    call = sequences(make_tensors)
    expected = featured.flash_attn_varlen_func(**call)
    out = torch.full_like(call["q"], torch.nan)
    assert featured.flash_attn_varlen_func(**call, out=out) is out and torch.equal(out, expected)


def test_one_sequence_is_a_batch_of_one(featured, make_tensors):
    q, k, v = make_tensors(batch=1)
    lengths = torch.tensor([0, 5], dtype=torch.int32), torch.tensor([0, 7], dtype=torch.int32)
    found = featured.flash_attn_varlen_func(q[0], k[0], v[0], *lengths, 5, 7, causal=True)
    assert torch.equal(found, featured.flash_attn_func(q, k, v, causal=True)[0])


OFFSETS = torch.tensor([0, 3, 5], dtype=torch.int32)
WRONG_SEQUENCES: dict[str, tuple[dict[str, Any], str]] = {
    "list": ({"cu_seqlens_q": [0, 3, 5]}, r"cu_seqlens_q must be an int32 tensor \[batch \+ 1\], got list"),
    "two dimensions": ({"cu_seqlens_k": OFFSETS[None]}, r"cu_seqlens_k must be an int32 tensor .*got \[1, 3\]"),
    "int64": ({"cu_seqlens_q": OFFSETS.long()}, r"cu_seqlens_q must be an int32 tensor .* got torch.int64 \[3\]"),
    "empty": ({"cu_seqlens_q": OFFSETS[:0]}, r"of at least 2 elements, got torch.int32 \[0\]"),
    "one element": ({"cu_seqlens_k": OFFSETS[:1]}, r"of at least 2 elements, got torch.int32 \[1\]"),
    "other number": ({"cu_seqlens_k": OFFSETS[:2]}, "must have one length, got 3 and 2"),
    "falling": (
        {"cu_seqlens_q": torch.tensor([0, 5, 3], dtype=torch.int32)},
        r"must rise from 0 to at most 5, got \[0, 5, 3",
    ),
    "from 1": ({"cu_seqlens_q": torch.tensor([1, 3, 5], dtype=torch.int32)}, "must rise from 0 to at most 5"),
    "too many": (
        {"cu_seqlens_k": torch.tensor([0, 3, 9], dtype=torch.int32)},
        r"cu_seqlens_k must rise from 0 to at most 5",
    ),
    "max_seqlen_q": ({"max_seqlen_q": 2}, "max_seqlen_q is 2, and cu_seqlens_q has a sequence of 3"),
    "max_seqlen of a tensor": (
        {"max_seqlen_k": torch.tensor(5)},
        r"max_seqlen_k must be a whole number.* Use .item\(\)",
    ),
    "negative max_seqlen": ({"max_seqlen_q": -1}, "max_seqlen_q must be a whole number of tokens, got -1"),
    "seqused_k int64": (
        {"seqused_k": torch.tensor([1, 1])},
        r"seqused_k must be an int32 tensor \[batch\], that is \[2\]",
    ),
    "seqused_k of more": ({"seqused_k": torch.tensor([3, 3]).int()}, r"length \[3, 2\], got \[3, 3\]"),
    "seqused_k below 0": ({"seqused_k": torch.tensor([-1, 1]).int()}, r"must be from 0 to each sequence's length"),
    "other device": ({"cu_seqlens_q": OFFSETS.to("meta")}, "cu_seqlens_q must be on cpu like q, got meta"),
    "paged": ({"block_table": OFFSETS}, "block_table: this module has no kernel for paged keys and values"),
    "batched q": (
        {"q": torch.zeros(1, 5, 4, 64).half()},
        r"q of sequences must have 3 dimensions .*got \[1, 5, 4, 64\]",
    ),
}


@pytest.mark.parametrize("name", WRONG_SEQUENCES)
def test_sequences_that_make_no_sense_are_refused_in_words(featured, name):
    change, fault = WRONG_SEQUENCES[name]
    q = torch.zeros(5, 4, 64, dtype=torch.float16)
    call = {
        "q": q,
        "k": q,
        "v": q,
        "cu_seqlens_q": OFFSETS,
        "cu_seqlens_k": OFFSETS,
        "max_seqlen_q": 3,
        "max_seqlen_k": 3,
    }
    with pytest.raises(featured.UnsupportedInputError, match=fault):
        featured.flash_attn_varlen_func(**{**call, **change})
    assert featured.stand_in.launches == []


# ------------------------------------------------------------------ options that are refused


def on_meta(*shape: int) -> torch.Tensor:
    return torch.zeros(*shape, device="meta")


WRONG_OPTIONS: dict[str, tuple[dict[str, Any], str]] = {
    "window of three": ({"window_size": (1, 2, 3)}, r"window_size must be a pair of whole numbers .*got \(1, 2, 3\)"),
    "window of floats": ({"window_size": (1.0, 2)}, "window_size must be a pair of whole numbers"),
    "window of bools": ({"window_size": (True, False)}, "window_size must be a pair of whole numbers"),
    "window of one": ({"window_size": 4}, "window_size must be a pair of whole numbers .*-1 for no limit, got 4"),
    "chunk": ({"attention_chunk": -3}, "attention_chunk must be 0 for none, or a positive whole number, got -3"),
    "chunk of text": ({"attention_chunk": "3"}, "attention_chunk must be 0 for none"),
    "softcap": ({"softcap": -1.0}, "softcap must be 0 for none, or positive, got -1.0"),
    "softcap nan": ({"softcap": float("nan")}, "softcap must be a finite number, got nan"),
    "softcap of text": ({"softcap": "30"}, "softcap must be a finite number, got '30'"),
    "slopes of fp16": ({"alibi_slopes": torch.ones(4).half()}, r"alibi_slopes must be float32, got torch.float16"),
    "slopes of two": ({"alibi_slopes": torch.ones(2)}, r"that is \[4\] or \[2, 4\], got \[2\]"),
    "slopes of a list": ({"alibi_slopes": [1.0] * 4}, "alibi_slopes must be a plain torch.Tensor, got list"),
    "slopes elsewhere": (
        {"alibi_slopes": on_meta(4)},
        r"alibi_slopes must be on cpu like q, got meta. Move it with .to",
    ),
    "bias of fp32": ({"bias": torch.zeros(1, 1, 5, 7)}, "bias must be torch.float16 like q, got torch.float32"),
    "bias of another shape": ({"bias": torch.zeros(1, 1, 5, 6).half()}, r"that is \[2, 4, 5, 7\], got \[1, 1, 5, 6\]"),
    "bias of three": (
        {"bias": torch.zeros(1, 5, 7).half()},
        r"bias must be \[batch, num_heads_q, seqlen_q, seqlen_k\]",
    ),
    "bias of one query": ({"bias": torch.zeros(1, 1, 1, 7).half()}, r"got \[1, 1, 1, 7\]"),
    "sink of another shape": (
        {"sink": torch.zeros(2)},
        r"sink must be a floating-point tensor \[num_heads_q\], .*\[4\]",
    ),
    "sink of integers": (
        {"sink": torch.zeros(4).int()},
        r"sink must be a floating-point tensor .* got torch.int32 \[4\]",
    ),
    "dropout of one": ({"dropout_p": 1.0}, "dropout_p must be from 0 to below 1, got 1.0"),
    "dropout below 0": ({"dropout_p": -0.1}, "dropout_p must be from 0 to below 1, got -0.1"),
    "dropout None": ({"dropout_p": None}, "dropout_p must be a finite number, got None"),
    "state": (
        {"dropout_p": 0.1, "rng_state": torch.zeros(2)},
        r"an int64 tensor \(seed, offset\), got torch.float32 \[2\]",
    ),
    "state of three": (
        {"dropout_p": 0.1, "rng_state": torch.zeros(3).long()},
        r"\(seed, offset\), got torch.int64 \[3\]",
    ),
    "probabilities": ({"return_attn_probs": 1}, "return_attn_probs must be True or False, got 1"),
}


@pytest.mark.parametrize("name", WRONG_OPTIONS)
def test_an_option_that_makes_no_sense_is_refused_in_words(featured, make_tensors, name):
    change, fault = WRONG_OPTIONS[name]
    with pytest.raises(featured.UnsupportedInputError, match=fault):
        featured.flash_attn_func(*make_tensors(), **change)
    assert featured.stand_in.launches == []


@pytest.mark.parametrize("name", ["alibi_slopes", "bias", "sink"])
def test_an_option_that_requires_a_gradient_without_a_kernel_for_it_is_refused(featured, make_tensors, name):
    shapes = {"alibi_slopes": (4,), "bias": (1, 1, 5, 7), "sink": (4,)}
    value = torch.zeros(shapes[name], dtype=torch.float16 if name == "bias" else torch.float32, requires_grad=True)
    with pytest.raises(featured.GradientError, match=r"requires a gradient, .*torch.no_grad\(\)"):
        featured.flash_attn_func(*make_tensors(), **{name: value})
    with torch.no_grad():
        featured.flash_attn_func(*make_tensors(), **{name: value})


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_function_says_how_to_build_a_missing_backward_kernel(featured, make_tensors, name):
    q, k, v = make_tensors(seqlen_k=5, num_heads_kv=4)
    offsets = torch.tensor([0, 5], dtype=torch.int32)
    packed = {"kvpacked": (q, torch.stack([k, v], 2)), "qkvpacked": (torch.stack([q, k, v], 2),)}
    arguments: tuple[Any, ...] = next((packed[kind] for kind in ("qkvpacked", "kvpacked") if kind in name), (q, k, v))
    if "varlen" in name:
        arguments = tuple(one[0] for one in arguments)
        arguments += (offsets, 5) if "qkvpacked" in name else (offsets, offsets, 5, 5)
    if name == "sparse_attn_func":
        arguments += (featured.BlockMask.from_dense(torch.ones(5, 5, dtype=torch.bool)),)
    with pytest.raises(featured.GradientError, match="gradient, and this module has no backward kernel") as caught:
        getattr(featured, name)(arguments[0].clone().requires_grad_(), *arguments[1:])
    assert isinstance(caught.value, featured.NoKernelError) and str(caught.value).endswith(" --backward")


def test_what_no_kernel_was_built_for_names_the_command_that_builds_it(featured, make_tensors):
    q, k, v = make_tensors()
    with pytest.raises(featured.NoKernelError) as caught:
        featured.flash_attn_func(q, k, v, causal=True, softcap=3.0, bias=torch.zeros(1, 1, 5, 7).half())
    assert str(caught.value).splitlines()[-1] == (
        "gen build --arch sm80 --head-dim 64 --dtype fp16 --features causal,softcap,bias"
    )
    with pytest.raises(featured.NoKernelError) as caught:
        featured.flash_attn_func(q, k, v[..., :16], window_size=(1, 1), dropout_p=0.1)
    assert str(caught.value).splitlines()[-1] == (
        "gen build --arch sm80 --head-dim 64 --head-dim-v 16 --dtype fp16 --features local,dropout"
    )


# ------------------------------------------------------------------ return_attn_probs, as FlashAttention-2


def test_rows_without_a_key_have_lse_plus_infinity_there(featured, make_tensors):
    q, k, v = make_tensors(seqlen_q=7, seqlen_k=5)
    _, lse, probs = featured.flash_attn_func(q, k, v, causal=True, return_attn_probs=True)
    assert (lse[:, :, :2] == torch.inf).all() and lse[:, :, 2:].isfinite().all() and probs.numel() == 0
    _, ours = featured.flash_attn_func(q, k, v, causal=True, return_lse=True)
    assert torch.equal(lse[:, :, 2:], ours[:, :, 2:]) and (ours[:, :, :2] == -torch.inf).all()
    _, lse, _ = featured.flash_attn_func(q, k[:, :0], v[:, :0], return_attn_probs=True)
    assert (lse == torch.inf).all()


@pytest.mark.parametrize("causal", [False, True])
def test_a_causal_kernel_with_slopes_leaves_a_part_of_lse_away(featured, make_tensors, causal):
    q, k, v = make_tensors()
    slopes = torch.rand(2, 4)
    _, lse, _ = featured.flash_attn_func(q, k, v, causal=causal, alibi_slopes=slopes, return_attn_probs=True)
    # Its causal kernel adds slope * key to the scores, which is the same up to a number for each row.
    ahead = distance(5, 7)
    added = slopes.double()[:, :, None, None] * (torch.arange(7.0).double() if causal else -ahead.abs())
    _, expected = textbook(q, k, v, added=added, seen=ahead <= 0 if causal else None)
    torch.testing.assert_close(lse.double(), expected, atol=1e-4, rtol=1e-5)


def test_the_shift_of_sequences_is_each_ones_own(featured, make_tensors):
    call = sequences(make_tensors, [(3, 5), (2, 6)])
    slopes = torch.rand(2, 4)
    _, lse, _ = featured.flash_attn_varlen_func(**call, causal=True, alibi_slopes=slopes, return_attn_probs=True)
    for index, rows, keys in each(call):
        q, k, v = (call[name][part][None] for name, part in (("q", rows), ("k", keys), ("v", keys)))
        added = slopes[index].double().view(1, 4, 1, 1) * torch.arange(float(k.shape[1])).double()
        _, expected = textbook(q, k, v, added=added, seen=distance(q.shape[1], k.shape[1]) <= 0)
        torch.testing.assert_close(lse[:, rows].double(), expected[0], atol=1e-4, rtol=1e-5)


def test_dropout_scales_what_it_keeps_and_the_sign_of_the_probabilities_says_what(featured, make_tensors):
    q, k, v = make_tensors(seqlen_q=130, seqlen_k=50)
    state = torch.tensor([77, 1234])
    out, lse, probs = featured.flash_attn_func(q, k, v, dropout_p=0.25, rng_state=state, return_attn_probs=True)
    assert probs.shape == (2, 4, 256, 128) and probs.dtype == q.dtype
    kept = keep_mask(state, 2, 4, 130, 50, 191)  # floor(255 * 0.75)
    assert_near((out, lse), textbook(q, k, v, kept=kept, p=0.25))
    inside = probs[:, :, :130, :50]
    assert torch.equal(~torch.signbit(inside), kept)
    scores = torch.einsum("bqhd,bkhd->bhqk", q.double(), k.double().repeat_interleave(2, 2)) / 8
    torch.testing.assert_close(
        inside.abs().double(), (scores - scores.amax(-1, keepdim=True)).exp(), atol=2e-3, rtol=2e-3
    )
    assert (probs[:, :, 130:] == 0).all() and (probs[:, :, :, 50:] == 0).all()


def test_dropout_is_drawn_from_torchs_generator_unless_a_state_is_given(featured, make_tensors):
    q, k, v = make_tensors()
    torch.manual_seed(5)
    one, two = (featured.flash_attn_func(q, k, v, dropout_p=0.5) for _ in range(2))
    torch.manual_seed(5)
    assert torch.equal(featured.flash_attn_func(q, k, v, dropout_p=0.5), one) and not torch.equal(one, two)
    state = torch.tensor([1, 2])
    same = [featured.flash_attn_func(q, k, v, 0.5, rng_state=state) for _ in range(2)]
    assert torch.equal(*same) and state.tolist() == [1, 2]


def test_dropout_of_sequences_goes_on_from_one_to_the_next(featured, make_tensors):
    call, state = sequences(make_tensors, [(3, 5), (2, 6)]), torch.tensor([9, 64])
    out, lse, probs = featured.flash_attn_varlen_func(**call, dropout_p=0.5, rng_state=state, return_attn_probs=True)
    assert probs.shape == (2, 4, 128, 128)
    kept = keep_mask(state, 2, 4, 3, 6, 127)
    for index, rows, keys in each(call):
        q, k, v = (call[name][part][None] for name, part in (("q", rows), ("k", keys), ("v", keys)))
        own = kept[index, :, : q.shape[1], : k.shape[1]]
        assert_near((out[rows][None], lse[:, rows][None]), textbook(q, k, v, kept=own[None], p=0.5))
        assert torch.equal(~torch.signbit(probs[index, :, : q.shape[1], : k.shape[1]]), own)


# ------------------------------------------------------------------ block-sparse


@pytest.mark.parametrize("lead", [(), (4,), (1, 4), (2, 1), (2, 4)])
@pytest.mark.parametrize("causal", [False, True])
def test_only_what_the_block_mask_shows_is_seen(featured, make_tensors, lead, causal):
    q, k, v = make_tensors(seqlen_q=140, seqlen_k=200)
    dense = torch.rand(*lead, 140, 200) < 0.4
    dense[..., :128] &= False if not lead else dense[..., :128]
    mask = featured.BlockMask.from_dense(dense)
    seen = dense.reshape((1,) * (4 - dense.dim()) + dense.shape)
    seen = seen & (distance(140, 200) <= 0) if causal else seen
    found = featured.sparse_attn_func(q, k, v, mask, causal=causal, return_lse=True)
    assert_near(found, textbook(q, k, v, seen=seen))


@pytest.mark.parametrize(
    ("make_mask", "fault"),
    [
        (lambda mask: None, "block_mask must be a BlockMask, got None. Make one with BlockMask.from_dense"),
        (lambda mask: torch.ones(5, 7), "block_mask must be a BlockMask, got Tensor"),
        (lambda mask: mask(torch.ones(5, 8).bool()), "block_mask is for seqlen 5 x 8, the call has 5 x 7"),
        (lambda mask: mask(torch.ones(3, 5, 7).bool()), "is for batch 1 and 3 heads, the call has 2 and 4"),
        (lambda mask: mask(torch.ones(3, 1, 5, 7).bool()), "is for batch 3 and 1 heads, the call has 2 and 4"),
        (lambda mask: mask(torch.ones(5, 7).bool()).to("meta"), "block_mask.counts must be on cpu like q, got meta"),
    ],
)
def test_a_block_mask_that_does_not_fit_is_refused(featured, make_tensors, make_mask, fault):
    with pytest.raises(featured.UnsupportedInputError, match=fault):
        featured.sparse_attn_func(*make_tensors(), make_mask(featured.BlockMask.from_dense))


def test_blocks_that_no_tile_divides_are_a_reason(featured, make_tensors):
    mask = featured.BlockMask.from_dense(torch.ones(5, 7, dtype=torch.bool), 64, 32)
    with pytest.raises(
        featured.NoKernelError, match="has block_m 128, which does not divide the 64 of the block mask"
    ) as e:
        featured.sparse_attn_func(*make_tensors(), mask)
    assert str(e.value).endswith("blocks that tiles divide: multiples for block_q of 128 and block_k of 64.")
