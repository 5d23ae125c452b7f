"""What the backward pass of a plain call is told without checking the call again."""

from __future__ import annotations

from dataclasses import fields

import pytest
import torch

from kernelwright.runtime.backward import Plan, plain_plan, plan_of
from kernelwright.runtime.inputs import check
from kernelwright.runtime.options import Options


def told(plan: Plan) -> dict[str, object]:
    return {one.name: getattr(plan, one.name) for one in fields(Plan)}


@pytest.mark.parametrize("softmax_scale", [None, 0.5])
@pytest.mark.parametrize(("seqlen_q", "seqlen_k"), [(5, 5), (3, 7), (7, 3), (1, 1)])
@pytest.mark.parametrize("causal", [False, True])
def test_the_plan_of_a_plain_call_is_that_of_the_call_when_it_is_checked(causal, seqlen_q, seqlen_k, softmax_scale):
    q = torch.zeros(2, seqlen_q, 4, 64, dtype=torch.float16)
    k, v = (torch.zeros(2, seqlen_k, 2, 64, dtype=torch.float16) for _ in range(2))
    options = Options(softmax_scale=softmax_scale, causal=causal)
    checked = plan_of(check(q, k, v, options), options)
    assert told(plain_plan(q, k, softmax_scale, causal)) == told(checked)
