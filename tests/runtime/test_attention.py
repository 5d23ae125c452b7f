"""flash_attn_func end to end, on a stand-in whose kernels are computed in Python from the parameter block."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
from typing import Any

import pytest
import torch
from fake_kernel import attended

from kernelwright.runtime.gate import judge
from kernelwright.runtime.reference import reference


@pytest.fixture(autouse=True)
def computing(request: pytest.FixtureRequest) -> None:
    """Kernels compute."""
    if "loaded" in request.fixturenames:
        request.getfixturevalue("loaded").stand_in.compute()


def assert_right(out: torch.Tensor, q: Any, k: Any, v: Any, scale: float | None = None, causal: bool = False) -> None:
    expected = reference(attended(q, k, v, softmax_scale=scale, causal=causal)).out
    assert torch.equal(out, expected.to(q.dtype))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("seqlen_q", "seqlen_k"), [(1, 1), (5, 7), (7, 5), (130, 3)])
def test_results_follow_the_reference(loaded, make_tensors, dtype, causal, seqlen_q, seqlen_k):
    q, k, v = make_tensors(seqlen_q=seqlen_q, seqlen_k=seqlen_k, dtype=dtype)
    for _ in range(2):  # the long way first, then the short one
        out, lse = loaded.flash_attn_func(q, k, v, causal=causal, return_lse=True)
        assert judge(out, lse, attended(q, k, v, causal=causal)).passed
    assert_right(loaded.flash_attn_func(q, k, v, 0.0, 0.3125, causal), q, k, v, 0.3125, causal)


def test_causal_is_aligned_with_the_last_key(loaded, make_tensors):
    q, k, v = make_tensors(seqlen_q=3, seqlen_k=5)
    out = loaded.flash_attn_func(q, k, v, causal=True)
    later = v.clone()
    later[:, 3:] = 100.0  # keys 3 and 4: query 0 sees keys 0 to 2
    changed = loaded.flash_attn_func(q, k, later, causal=True)
    assert torch.equal(out[:, 0], changed[:, 0])
    assert not torch.equal(out[:, 1], changed[:, 1])


def test_rows_without_a_key_are_zero_with_lse_minus_infinity(loaded, make_tensors):
    q, k, v = make_tensors(seqlen_q=7, seqlen_k=5)
    out, lse = loaded.flash_attn_func(q, k, v, causal=True, return_lse=True)
    assert (out[:, :2] == 0).all() and (lse[:, :, :2] == -torch.inf).all() and lse[:, :, 2:].isfinite().all()


def test_lse_is_the_natural_logarithm_of_scaled_scores(loaded, make_tensors):
    q, k, v = make_tensors(seqlen_q=1, seqlen_k=1)
    _, lse = loaded.flash_attn_func(q, k, v, softmax_scale=2.0, return_lse=True)
    k_head = k.repeat_interleave(2, dim=2)
    torch.testing.assert_close(lse[:, :, 0], 2.0 * (q.float() * k_head.float()).sum(-1)[:, 0])


@pytest.mark.parametrize("empty", ["batch", "seqlen_q", "seqlen_k"])
def test_empty_sizes_launch_nothing(loaded, make_tensors, empty):
    q, k, v = make_tensors(**{empty: 0})
    out, lse = loaded.flash_attn_func(q, k, v, return_lse=True)
    assert out.shape == q.shape and lse.shape == (q.shape[0], 4, q.shape[1])
    assert (out == 0).all() and (lse == -torch.inf).all()
    assert loaded.stand_in.launches == []


def test_nan_inputs_simply_compute(loaded, make_tensors):
    q, k, v = make_tensors()
    q[0, 0, 0, 0] = torch.nan
    out = loaded.flash_attn_func(q, k, v)
    assert out[0, 0, 0].isnan().all() and out[1].isfinite().all()


LAYOUTS = {
    "permuted": lambda t: t.transpose(1, 2).contiguous().transpose(1, 2),
    "padded": lambda t: torch.nn.functional.pad(t, (0, 8))[..., :-8],
    "last stride 2": lambda t: torch.stack([t, t], -1).flatten(-2)[..., ::2],
    "misaligned": lambda t: torch.cat([t.flatten()[:1], t.flatten()])[1:].view(t.shape),
    "odd stride": lambda t: torch.nn.functional.pad(t, (0, 3))[..., :-3],
    "transposed last": lambda t: t.transpose(2, 3).contiguous().transpose(2, 3),
    "negated": lambda t: torch._neg_view(-t),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("which", [0, 1, 2])
def test_any_strides_and_alignments_are_taken(loaded, make_tensors, layout, which):
    inputs = list(make_tensors())
    loaded.flash_attn_func(*inputs)  # so that what follows meets the short way first
    inputs[which] = LAYOUTS[layout](inputs[which])
    assert_right(loaded.flash_attn_func(*inputs), *inputs)


def test_a_copy_is_logged_once_a_call(loaded, make_tensors, caplog):
    q, k, v = make_tensors()
    strange = LAYOUTS["last stride 2"](q)
    with caplog.at_level(logging.INFO):
        loaded.flash_attn_func(strange, LAYOUTS["misaligned"](k), v)
    assert [record.message.split(":")[0].split(" [")[0] for record in caplog.records] == ["copied q"]
    caplog.clear()
    with caplog.at_level(logging.INFO):
        loaded.flash_attn_func(LAYOUTS["permuted"](q), k, v)
    assert caplog.records == []


def test_expanded_keys_are_read_in_place(loaded, make_tensors, caplog):
    q, k, v = make_tensors(batch=3)
    k, v = (one[:1].expand(3, -1, -1, -1) for one in (k, v))
    with caplog.at_level(logging.INFO):
        assert_right(loaded.flash_attn_func(q, k, v), q, k, v)
    assert caplog.records == [] and loaded.stand_in.parameters["k_batch_stride"] == 0


def test_the_stride_of_a_dimension_of_one_is_not_looked_at(loaded, make_tensors):
    q, k, v = make_tensors(batch=1)
    q = q.as_strided(q.shape, (13, *q.stride()[1:]))
    assert_right(loaded.flash_attn_func(q, k, v), q, k, v)
    assert loaded.stand_in.parameters["q_batch_stride"] == 0


# ------------------------------------------------------------------ out


@pytest.mark.parametrize("layout", ["plain", "permuted", "last stride 2", "misaligned"])
def test_out_may_have_any_strides(loaded, make_tensors, layout):
    q, k, v = make_tensors()
    out = torch.full_like(q, torch.nan)
    out = LAYOUTS[layout](out) if layout != "plain" else out
    for _ in range(2):
        out.fill_(torch.nan)
        version = out._version
        assert loaded.flash_attn_func(q, k, v, out=out) is out
        assert out._version > version
        assert_right(out, q, k, v)


def test_out_may_be_a_slice_of_the_buffer_that_holds_the_inputs(loaded):
    packed = torch.randn(2, 5, 4, 3, 64).half()
    q, k, v, out = (packed[:, :, index] for index in range(4))
    assert_right(loaded.flash_attn_func(q, k, v, out=out), q, k, v)


@pytest.mark.parametrize("which", [0, 1, 2])
def test_out_must_not_overlap_an_input(loaded, make_tensors, which):
    inputs = make_tensors(seqlen_k=5, num_heads_kv=4)
    loaded.flash_attn_func(*inputs)
    with pytest.raises(loaded.UnsupportedInputError, match=f"out overlaps {'qkv'[which]} in memory"):
        loaded.flash_attn_func(*inputs, out=inputs[which])


@pytest.mark.parametrize(
    ("make_out", "message"),
    [
        (lambda q: q.new_empty(2, 5, 4, 32), "out must have the shape"),
        (lambda q: q.bfloat16(), "out must be torch.float16"),
        (lambda q: torch.empty_like(q, device="meta"), "on meta"),
        (lambda q: q.new_empty(1, 5, 4, 64).expand(2, -1, -1, -1), "share memory"),
        (lambda q: torch._neg_view(torch.empty_like(q)), "out has a pending minus sign"),
        (lambda q: [1], "out must be a torch.Tensor, got list"),
        (lambda q: torch.empty_like(q).requires_grad_(), "out requires a gradient"),
    ],
)
def test_out_is_checked(loaded, make_tensors, make_out, message):
    q, k, v = make_tensors()
    loaded.flash_attn_func(q, k, v)
    with pytest.raises(loaded.UnsupportedInputError, match=message):
        loaded.flash_attn_func(q, k, v, out=make_out(q))


def test_out_of_a_head_dim_that_must_be_padded_says_what_to_do(loaded, make_tensors):
    q, k, v = (one[..., :60] for one in make_tensors())
    with pytest.raises(loaded.UnsupportedInputError, match=r"multiple of 8 .* got 60.*Leave `out` away.* zeros to 64"):
        loaded.flash_attn_func(q, k, v, out=torch.empty_like(q))


def test_out_must_have_memory(loaded, make_tensors):
    q, k, v = make_tensors()
    loaded.flash_attn_func(q, k, v)
    with pytest.raises(loaded.UnsupportedInputError, match="out has no memory"):
        loaded.flash_attn_func(q, k, v, out=freed(q))


# ------------------------------------------------------------------ what is refused


def on(index: int, change: Any) -> Any:
    return lambda inputs: [change(one) if at == index else one for at, one in enumerate(inputs)]


def everywhere(change: Any) -> Any:
    return lambda inputs: [change(one) for one in inputs]


def freed(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor whose memory was given back, as sharding does with parameters."""
    tensor = tensor.clone()
    tensor.untyped_storage().resize_(0)
    return tensor


BAD_INPUTS = {
    "not a tensor": (on(0, lambda t: t.numpy()), TypeError, "q must be a torch.Tensor, got ndarray"),
    "None": (on(2, lambda t: None), TypeError, "v must be a torch.Tensor, got NoneType"),
    "float32": (everywhere(lambda t: t.float()), TypeError, "one dtype, float16 or bfloat16, got q float32"),
    "mixed dtypes": (on(1, lambda t: t.bfloat16()), TypeError, "k bfloat16"),
    "complex": (everywhere(lambda t: t.to(torch.complex64).conj()), TypeError, "got q complex64"),
    "three dimensions": (on(0, lambda t: t[0]), ValueError, "q must have 4 dimensions"),
    "other batch": (on(0, lambda t: t[:1]), ValueError, "one batch size"),
    "other seqlen of v": (on(2, lambda t: t[:, 1:]), ValueError, "k and v must agree"),
    "other head_dim": (on(0, lambda t: t[..., :32]), ValueError, "q and k must have one head_dim"),
    "heads": (on(0, lambda t: t[:, :, :3]), ValueError, "must be a multiple of num_heads"),
    "no heads": (everywhere(lambda t: t[:, :, :0]), ValueError, "got 0 and 0"),
    "head_dim 0": (everywhere(lambda t: t[..., :0]), ValueError, "multiple of 8, got 0"),
    "meta": (everywhere(lambda t: t.to("meta")), ValueError, "are on meta"),
    "mixed devices": (on(1, lambda t: t.to("meta")), ValueError, "on one device, got q on cpu, k on meta"),
    "sparse": (on(0, lambda t: t.to_sparse()), TypeError, "layout torch.sparse_coo"),
    "nested": (on(0, lambda t: torch.nested.nested_tensor(list(t))), TypeError, "q is a nested tensor"),
    "nested keys": (on(1, lambda t: torch.nested.nested_tensor(list(t))), TypeError, "k is a nested tensor"),
    "another library's": (everywhere(lambda t: t.bfloat16().to_mkldnn()), TypeError, "layout torch._mkldnn"),
    "freed": (on(0, lambda t: freed(t)), ValueError, "q has no memory"),
    "freed values": (on(2, lambda t: freed(t)), ValueError, "v has no memory"),
    "symbolic zero": (
        on(1, lambda t: torch._efficientzerotensor(t.shape, dtype=t.dtype)),
        ValueError,
        "k has no memory",
    ),
    "gradient": (
        on(1, lambda t: t.clone().requires_grad_()),
        NotImplementedError,
        r"requires a gradient.*torch.no_grad\(\)",
    ),
    "parameter": (on(0, torch.nn.Parameter), NotImplementedError, r"--features none --backward$"),
}


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("name", BAD_INPUTS)
def test_bad_inputs_are_refused_in_words(loaded, make_tensors, name):
    change, kind, message = BAD_INPUTS[name]
    inputs = make_tensors()
    loaded.flash_attn_func(*inputs)
    with pytest.raises(loaded.UnsupportedInputError, match=message) as caught:
        loaded.flash_attn_func(*change(inputs))
    assert isinstance(caught.value, kind)
    assert len(loaded.stand_in.launches) == 1


@pytest.mark.parametrize(
    "scale",
    [0.0, -1.0, float("nan"), float("inf"), 1e-60, 1e60, 0, -2, 3e38, pytest.param(10**400, id="huge")],
)
def test_a_scale_must_be_positive_and_finite(loaded, make_tensors, scale):
    inputs = make_tensors()
    loaded.flash_attn_func(*inputs)
    with pytest.raises(loaded.UnsupportedInputError, match="softmax_scale must be positive and finite"):
        loaded.flash_attn_func(*inputs, softmax_scale=scale)


@pytest.mark.parametrize("scale", ["0.1", True, torch.tensor(0.1), 1j])
def test_a_scale_must_be_a_real_number(loaded, make_tensors, scale):
    inputs = make_tensors()
    with pytest.raises(loaded.InputTypeError, match="softmax_scale must be a number or None"):
        loaded.flash_attn_func(*inputs, softmax_scale=scale)


def test_an_integer_scale_is_a_number(loaded, make_tensors):
    q, k, v = make_tensors()
    assert_right(loaded.flash_attn_func(q, k, v, softmax_scale=1), q, k, v, 1.0)


@pytest.mark.parametrize("causal", [1, None, "no", torch.tensor(True)])
def test_causal_must_be_a_bool(loaded, make_tensors, causal):
    with pytest.raises(loaded.InputTypeError, match="causal must be True or False"):
        loaded.flash_attn_func(*make_tensors(), causal=causal)


@pytest.mark.parametrize("return_lse", [1, None, "no", torch.tensor([True, False])])
def test_return_lse_must_be_a_bool(loaded, make_tensors, return_lse):
    inputs = make_tensors()
    loaded.flash_attn_func(*inputs)
    with pytest.raises(loaded.InputTypeError, match="return_lse must be True or False"):
        loaded.flash_attn_func(*inputs, return_lse=return_lse)


def test_tangents_of_forward_mode_are_refused(loaded, make_tensors):
    q, k, v = make_tensors()
    loaded.flash_attn_func(q, k, v)
    forward_ad = torch.autograd.forward_ad
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(k, torch.ones_like(k))
        for context in (torch.enable_grad(), torch.no_grad()):  # tangents are carried in both
            with context, pytest.raises(loaded.GradientError, match="k carry a tangent"):
                loaded.flash_attn_func(q, dual, v)
        loaded.flash_attn_func(q, k, v)
    assert len(loaded.stand_in.launches) == 2


def test_parameters_are_taken_without_gradients(loaded, make_tensors):
    q, k, v = make_tensors()
    with torch.no_grad():
        assert_right(loaded.flash_attn_func(torch.nn.Parameter(q), torch.nn.Parameter(k), v), q, k, v)


def test_inference_mode_works(loaded, make_tensors):
    with torch.inference_mode():
        q, k, v = make_tensors()
        out = torch.empty_like(q)
        assert_right(loaded.flash_attn_func(q, k, v, out=out), q, k, v)


# ------------------------------------------------------------------ tracers and their kind


class Subclass(torch.Tensor):
    pass


def test_a_subclass_is_refused(loaded, make_tensors):
    q, k, v = make_tensors()
    loaded.flash_attn_func(q, k, v)
    for inputs in ([q.as_subclass(Subclass), k, v], [q, k.as_subclass(Subclass), v]):
        with pytest.raises(loaded.InputTypeError, match="is a Subclass, a subclass of"):
            loaded.flash_attn_func(*inputs)


def test_fake_tensors_give_fake_results_and_launch_nothing(loaded, make_tensors):
    from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

    q, k, v = make_tensors()
    loaded.flash_attn_func(q, k, v)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fakes = [mode.from_tensor(one) for one in (q, k, v)]
        for inputs in (fakes, (q, k, v)):
            found = loaded.flash_attn_func(*inputs)
            assert isinstance(found, FakeTensor) and found.shape == q.shape and found.dtype == q.dtype
    assert len(loaded.stand_in.launches) == 1


def test_transforms_of_torch_func_are_refused(loaded, make_tensors):
    q, k, v = make_tensors()
    loaded.flash_attn_func(q, k, v)
    stacked = [torch.stack([one, one]) for one in (q, k, v)]
    with pytest.raises(loaded.InputTypeError, match=r"torch\.func transform"):
        torch.func.vmap(loaded.flash_attn_func)(*stacked)
    with pytest.raises(loaded.InputTypeError, match=r"torch\.func transform"):
        torch.func.grad(lambda one: loaded.flash_attn_func(one, k, v).sum())(q)
    assert len(loaded.stand_in.launches) == 1


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_make_fx_records_the_operator_and_jit_trace_is_refused(loaded, make_tensors):
    from torch.fx.experimental.proxy_tensor import make_fx

    q, k, v = make_tensors()
    loaded.flash_attn_func(q, k, v)
    graph = make_fx(lambda q, k, v: loaded.flash_attn_func(q, k, v), tracing_mode="fake")(q, k, v)
    assert any("attend" in str(node.target) for node in graph.graph.nodes)
    with pytest.raises(loaded.UnsupportedInputError, match="under a tracer"):
        torch.jit.trace(loaded.flash_attn_func, (q, k, v), check_trace=False)
    assert len(loaded.stand_in.launches) == 1


def test_a_harmless_dispatch_mode_is_let_through(loaded, make_tensors):
    from torch.utils.flop_counter import FlopCounterMode

    q, k, v = make_tensors()
    with FlopCounterMode(display=False):
        assert_right(loaded.flash_attn_func(q, k, v), q, k, v)
        assert_right(loaded.flash_attn_func(q, k, v), q, k, v)


def test_torch_compile_calls_the_operator(loaded, make_tensors):
    q, k, v = make_tensors()
    loaded.flash_attn_func(q, k, v)

    def model(q, k, v):
        return loaded.flash_attn_func(q * 2, k, v) + 1

    for _ in range(2):
        out = torch.compile(model, backend="eager", fullgraph=True)(q, k, v)
        assert torch.equal(out, reference(attended(q * 2, k, v)).out.half() + 1)


# ------------------------------------------------------------------ threads and processes


def test_two_threads_load_a_kernel_once(loaded, make_tensors):
    q, k, v = make_tensors()
    barrier = threading.Barrier(4)
    results: list[torch.Tensor] = []
    loaded.stand_in.library.stand_in_on_launch(None)

    def run() -> None:
        barrier.wait()
        results.append(loaded.flash_attn_func(q, k, v))

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    log = loaded.stand_in.log
    assert len(results) == 4 and len(loaded.stand_in.launches) == 4
    assert sum(line.startswith("load") for line in log) == 1 and log.count("retain 0") == 1


def test_a_fresh_thread_needs_no_context_of_its_own(loaded, make_tensors):
    inputs = make_tensors()
    loaded.flash_attn_func(*inputs)
    seen: list[Any] = []

    def run() -> None:
        seen.append(loaded.flash_attn_func(*inputs))
        seen.append(loaded.stand_in.library.stand_in_depth())

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert_right(seen[0], *inputs)
    assert seen[1] == 0  # what was pushed is popped


def test_the_function_is_the_modules_own(exchange_fake):
    function = exchange_fake.load().flash_attn_func
    assert (function.__module__, function.__qualname__) == (exchange_fake.folder.name, "flash_attn_func")


def test_the_warning_comes_once(fake, make_tensors):
    module = fake.load()
    inputs = make_tensors()
    with pytest.warns(module.EmulationWarning) as caught:
        module.flash_attn_func(*inputs)
        module.flash_attn_func(*inputs)
    assert len(caught) == 1 and caught[0].filename == __file__


def test_import_opens_nothing(fake, make_tensors):
    (fake.folder / "_launcher.abi3.so").write_bytes(b"")
    (fake.folder / "kernels" / "table.json").unlink()
    fake.load()


def test_importing_needs_only_torch_and_the_folder(exchange_fake):
    script = (
        f"import sys; sys.path[:0] = [{str(exchange_fake.folder.parent)!r}]; import {exchange_fake.folder.name};"
        "print(any(name.startswith('kernelwright') for name in sys.modules))"
    )
    answer = subprocess.run([sys.executable, "-S", "-c", _with_site(script)], capture_output=True, text=True)
    assert answer.stdout.strip() == "False", answer.stderr


def _with_site(script: str) -> str:
    folders = [path for path in sys.path if "site-packages" in path]
    return f"import sys; sys.path += {folders!r}; {script}"
