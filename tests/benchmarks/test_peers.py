"""Other implementations, as far as a CPU has them: the same mathematics, and a reason for every refusal."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from device_steps.peers import PEERS, PLAIN, Refused, names, peer, plain_attention, sdpa  # noqa: E402
from device_steps.speed_worker import compare  # noqa: E402


def qkv(heads: int = 4, heads_kv: int = 2, seqlen: int = 50):
    generator = torch.Generator().manual_seed(1)

    def values(count: int):
        return torch.randn(2, seqlen, count, 32, generator=generator).to(torch.bfloat16)

    return values(heads), values(heads_kv), values(heads_kv)


@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("heads_kv", [1, 4])
def test_plain_attention_and_flex_compute_what_sdpa_does(is_causal, heads_kv):
    inputs = qkv(heads_kv=heads_kv)
    reference = sdpa(None)(inputs, is_causal)()
    assert reference.shape == inputs[0].shape
    for name in (PLAIN, "flex_attention"):
        found = compare(peer(name).prepare(inputs, is_causal)(), reference, "bf16")
        assert found.get("worst_difference", 9) <= 1, (name, found)


def test_another_mask_or_another_head_is_told_apart():
    inputs = qkv()
    reference = sdpa(None)(inputs, True)()
    assert "times what is allowed" in compare(plain_attention(inputs, False)(), reference, "bf16")["wrong"]
    assert "wrong" in compare(reference.roll(1, 2), reference, "bf16")
    assert "wrong" in compare(torch.full_like(reference, torch.nan), reference, "bf16")
    assert "[2, 50, 4, 16]" in compare(reference[..., :16], reference, "bf16")["wrong"]


@pytest.mark.parametrize("backend", ["CUDNN_ATTENTION", "EFFICIENT_ATTENTION"])
def test_a_backend_that_a_cpu_has_not_refuses_with_a_reason(backend):
    with pytest.raises(Refused, match="ernel"):
        sdpa(backend)(qkv(heads_kv=4), True)


def test_every_peer_answers_or_says_why_not():
    inputs = qkv(heads_kv=4)
    for one in PEERS:
        try:
            out = one.prepare(inputs, True)()
        except Exception as error:
            assert str(error), one.name
        else:
            assert out.shape == inputs[0].shape, one.name


def test_what_compiles_for_long_is_kept_apart():
    assert set(names("ready")) | set(names("compiled")) == {one.name for one in PEERS}
    assert "flex_attention" in names("compiled")
