"""`check_model`: what it swaps, what it judges, and that it leaves the model as it was."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from fake_kernel import compute, inputs_and_out
from torch.nn.functional import scaled_dot_product_attention

from conftest import Loaded
from kernelwright.runtime.model_check import FEW, _compare
from kernelwright.runtime.model_report import Compared


@pytest.fixture
def featured(new_module: Callable[..., Any]) -> Iterator[Loaded]:
    """A module with kernels of fp16, head_dim 16, full and causal; they compute."""
    fake = new_module()
    for causal in (False, True):
        fake.add(head_dim=16, causal=causal)
    fake.write()
    one = Loaded(fake)
    one.stand_in.compute()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="CPU tensors run")
        yield one
    one.stand_in.reset()


class Model(torch.nn.Module):
    """Two calls of attention, one of them causal, between projections."""

    def __init__(self, head_dim: int = 16) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.sizes = (2, head_dim)
        self.qkv = torch.nn.Linear(32, 3 * 2 * head_dim)
        self.out = torch.nn.Linear(2 * head_dim, 32)
        self.dropout = torch.nn.Dropout(0.5)
        self.p = 0.5  # a dropout that does not ask whether the model is in training

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        for is_causal in (True, False):
            packed = self.qkv(x).unflatten(-1, (3, *self.sizes)).transpose(1, 3)
            q, k, v = packed.unbind(2)
            given = None if is_causal else mask
            y = scaled_dot_product_attention(q, k, v, given, self.p, is_causal=is_causal)
            x = x + self.dropout(self.out(y.transpose(1, 2).flatten(2)))
        return x


def tokens(*sizes: int) -> torch.Tensor:
    return torch.randn(*sizes, 32, generator=torch.Generator().manual_seed(0))


def names(found: Any, kind: str) -> list[str]:
    """What was compared of a kind."""
    return [one.name for one in found.compared if one.kind == kind]


def test_a_model_of_kernels_passes_and_the_report_says_what_was_done(featured):
    found = featured.check_model(Model().half(), tokens(2, 9).half(), backward=False)
    assert found.passed and (found.num_calls, found.num_swapped, dict(found.fallbacks)) == (2, 2, {})
    assert len(featured.stand_in.launches) == 6  # the model; the model to judge each call; and each call
    assert names(found, "output") == ["result", "loss"] and names(found, "call") == ["0 out", "1 out"]
    assert all(0 < one.ours <= one.limit for one in found.compared if one.name == "result")
    text = str(found)
    assert "Model on cpu, float16" in text and "2 calls of attention: 2 by kernels, 0 by torch" in text
    assert re.search(r"with kernels +[\d.,]+ ms, memory not measured \(in the emulator: not comparable\)", text)
    assert re.search(r"with torch +[\d.,]+ ms, memory not measured \(measured\)", text)
    assert text.endswith("passed: outputs within 2x, gradients within 3x of torch's own error")
    plain = found.to_dict()
    assert json.loads(json.dumps(plain)) == plain and plain["passed"] is True


def test_calls_that_torch_answers_are_counted_with_the_reason(featured):
    mask = torch.ones(9, 9, dtype=torch.bool)
    with warnings.catch_warnings():
        warnings.simplefilter("error", featured.FallbackWarning)  # the report says it instead
        found = featured.check_model(Model().half(), (tokens(2, 9).half(), mask), backward=False)
    assert (found.num_calls, found.num_swapped) == (2, 1) and found.passed
    ((reason, count),) = found.fallbacks.items()
    assert count == 1 and "--features bias" in reason and "1 x" in str(found)


def test_a_model_that_no_kernel_served_does_not_pass(featured):
    found = featured.check_model(Model(8).half(), {"x": tokens(2, 9).half()}, backward=False)
    assert not found.passed and found.num_swapped == 0 and found.num_calls == 2
    assert str(found).splitlines()[-1].startswith("FAILED")
    nothing = featured.check_model(torch.nn.Linear(32, 4), tokens(2))
    assert nothing.num_calls == 0 and not nothing.passed and "none was seen" in str(nothing)


def test_a_wrong_kernel_fails(featured):
    featured.stand_in.on_launch(lambda: None)  # leaves the result as it lay in memory
    model = Model().half()
    with torch.no_grad():
        model.out.weight *= 10
    found = featured.check_model(model, tokens(2, 9).half(), backward=False)
    assert found.num_swapped == 2 and not found.passed and "FAILS" in str(found)


def test_an_error_of_one_call_is_found_where_the_model_hides_it(featured):
    class Faint(Model):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + 1e-4 * (super().forward(x) - x)

    def slightly_wrong() -> None:
        fields, kernel = featured.stand_in.parameters, featured.stand_in.launches[-1].split()[1]
        compute(fields, kernel)
        inputs_and_out(fields, kernel)[3].mul_(1.05)

    assert featured.check_model(Faint().half(), tokens(2, 9).half(), backward=False).passed
    featured.stand_in.on_launch(slightly_wrong)
    found = featured.check_model(Faint().half(), tokens(2, 9).half(), backward=False)
    assert all(one.passed for one in found.compared if one.name == "result") and not found.passed
    assert any(not one.passed for one in found.compared if one.kind == "call")


def test_a_float32_model_runs_under_autocast(featured):
    model, x = Model(), tokens(2, 9)
    assert featured.check_model(model, x, backward=False).num_swapped == 0
    found = featured.check_model(model, x, dtype=torch.float16, backward=False)
    assert found.num_swapped == 2 and found.passed and "float32 under torch.autocast of float16" in str(found)


def test_gradients_are_compared_by_name(featured):
    model, x = Model().half(), tokens(2, 9).half().requires_grad_()
    model.qkv.bias.requires_grad_(False)
    found = featured.check_model(model, (x,))
    gradients = {one.name: one for one in found.compared if one.kind == "gradient"}
    assert set(gradients) == {"qkv.weight", "out.weight", "out.bias", "input[0]"}
    assert all(one.passed and one.torch > 0 for one in gradients.values())


def test_a_loss_may_be_given_or_be_the_models_own(featured):
    class Own(Model):
        def forward(self, x: torch.Tensor) -> dict[str, Any]:
            hidden = super().forward(x)
            return {"hidden": [hidden], "loss": hidden.float().square().mean(), "index": torch.arange(3)}

    model, x = Own().half(), tokens(2, 9).half()
    found = featured.check_model(model, x, backward=False)
    assert names(found, "output") == ["hidden[0]", "loss"]
    own = model.eval().requires_grad_(False)
    own.p = 0.0
    assert found.compared[-1].largest == pytest.approx(float(own(x)["loss"]), rel=1e-3)
    given = featured.check_model(model, x, loss=lambda result: result["hidden"][0].float().sum(), backward=False)
    assert given.compared[-1].largest == pytest.approx(abs(float(own(x)["hidden"][0].float().sum())), rel=1e-2)
    with pytest.raises(featured.InputTypeError, match="one element"):
        featured.check_model(model, x, loss=lambda result: result["hidden"][0])
    with pytest.raises(featured.UnsupportedInputError, match="no floating-point tensor"):
        featured.check_model(torch.nn.Flatten(), torch.zeros(2, 2, dtype=torch.int64))


@pytest.mark.parametrize("fails", [False, True])
def test_nothing_of_the_model_or_of_torch_stays_changed(featured, fails):
    class Failing(Model):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if fails and x.dtype == torch.float64:
                raise RuntimeError("no such dtype")
            return super().forward(x)

    model, x = Failing().half(), tokens(2, 9).half()
    model.dropout.eval()
    model.out.bias.grad = torch.ones_like(model.out.bias)
    before = {name: one.clone() for name, one in model.state_dict().items()}
    function, state = torch.nn.functional.scaled_dot_product_attention, torch.get_rng_state()
    fused = torch.backends.mha.get_fastpath_enabled()
    if fails:
        with pytest.raises(featured.UnsupportedInputError, match=r"does not run in float64.*no such dtype"):
            featured.check_model(model, x)
    else:
        featured.check_model(model, x)
    assert all(torch.equal(one, before[name]) for name, one in model.state_dict().items())
    assert model.training and not model.dropout.training and model.p == 0.5
    assert torch.equal(model.out.bias.grad, torch.ones_like(model.out.bias)) and model.qkv.weight.grad is None
    assert torch.nn.functional.scaled_dot_product_attention is function
    assert torch.equal(torch.get_rng_state(), state) and torch.backends.mha.get_fastpath_enabled() == fused
    launches = len(featured.stand_in.launches)
    scaled_dot_product_attention(*(torch.zeros(1, 1, 2, 16).half() for _ in range(3)))
    assert len(featured.stand_in.launches) == launches


def test_torchs_own_layers_are_seen_in_evaluation_too(featured):
    layer = torch.nn.TransformerEncoderLayer(32, 2, 64, batch_first=True, dtype=torch.float16).eval()
    found = featured.check_model(layer, tokens(2, 9).half(), backward=False)
    assert found.num_swapped == 1 and found.passed


def test_what_is_no_model_is_refused(featured):
    with pytest.raises(featured.InputTypeError, match=r"torch\.nn\.Module"):
        featured.check_model(lambda x: x, tokens(1))
    with pytest.raises(featured.UnsupportedInputError, match="holds a tensor"):
        featured.check_model(torch.nn.Identity(), 3)
    for dtype in (torch.int32, torch.float32, "bf16"):
        with pytest.raises(featured.InputTypeError, match=r"dtype must be None, torch\.float16 or torch\.bfloat16"):
            featured.check_model(Model(), tokens(1, 9), dtype=dtype)


def compared(ours: torch.Tensor | None, theirs: torch.Tensor, exact: torch.Tensor) -> Compared:
    (one,) = _compare("output", {"x": theirs}, {} if ours is None else {"x": ours}, {"x": exact}, 2.0, 2.0**-11)
    return one


def test_the_gate_is_a_multiple_of_torchs_error_and_few_elements_have_a_rounding():
    exact = torch.ones(FEW, dtype=torch.float64)
    assert compared(exact + 1.9e-4, exact + 1e-4, exact).passed
    assert not compared(exact + 2.1e-4, exact + 1e-4, exact).passed
    assert compared(exact[1:] + 2.0**-11, exact[1:], exact[1:]).passed
    assert not compared(exact + 2.0**-11, exact, exact).passed
    for wrong in (torch.nan, torch.inf):
        broken = exact.clone()
        broken[3] = wrong
        assert not compared(broken, exact + 1e-4, exact).passed
    assert not compared(None, exact, exact).passed
    assert not compared(exact * torch.nan, exact * torch.nan, exact * torch.nan).passed  # nothing was compared
    hidden = exact.clone()
    hidden[0] = -torch.inf
    assert compared(hidden, hidden, hidden).passed
