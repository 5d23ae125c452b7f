"""Run a small GPT over a text, byte by byte, once with torch's attention and once with a built module.

    gen build --arch sm80
    python examples/gpt.py README.md --module flash_sm80 --path out

Prints, for each layer, which kernel was chosen and the largest error of both against attention in float64
on the same inputs. Fails (exit status 1) when the module's error is above the gate. Without a GPU the
kernels run in the emulator. The weights are random: the loss is near ln 256 and shows that both ways agree.
"""

from __future__ import annotations

import argparse
import importlib
import math
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, gelu, layer_norm, scaled_dot_product_attention

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}
Attention = Callable[[Tensor, Tensor, Tensor], Tensor]  # of [batch, seqlen, num_heads, head_dim], causal

# The gate of docs/architecture.md, "Numerics": twice the error of the same mathematics at the same dtype,
# and no worse than twice that of torch's own fused attention.
FACTOR = 2.0
ATOL = 1e-5


class Layer(NamedTuple):
    """Weights of one block: projections in and out, and the two matrices of the MLP."""

    qkv: Tensor
    out: Tensor
    up: Tensor
    down: Tensor


class GPT:
    """A decoder over bytes, in fp32 but for the inputs of attention. Seeded random weights."""

    def __init__(self, *, layers: int, heads: int, head_dim: int, context: int, seed: int = 0) -> None:
        width = heads * head_dim
        self.heads, self.head_dim = heads, head_dim
        random = torch.Generator().manual_seed(seed)

        def normal(rows: int, columns: int, gain: float = 1.0) -> Tensor:
            return torch.randn(rows, columns, generator=random) * gain / math.sqrt(columns)

        residual = 1 / math.sqrt(2 * layers)  # as in GPT-2: the residual stream keeps its size
        self.bytes = torch.randn(256, width, generator=random)
        self.positions = torch.randn(context, width, generator=random)
        self.layers = []
        for _ in range(layers):
            # Queries and keys twice as large as usual give scores of deviation 4: peaked rows, not averages.
            qkv = torch.cat([normal(width, width, 2.0), normal(width, width, 2.0), normal(width, width)])
            out, up = normal(width, width, residual), normal(4 * width, width)
            self.layers.append(Layer(qkv=qkv, out=out, up=up, down=normal(width, 4 * width, residual)))

    def to(self, device: str) -> None:
        """Move the weights, which are made on the CPU so that every device has the same."""
        self.bytes, self.positions = self.bytes.to(device), self.positions.to(device)
        self.layers = [Layer(*(weight.to(device) for weight in layer)) for layer in self.layers]

    def loss(self, text: Tensor, attend: Attention, dtype: torch.dtype) -> float:
        """Cross entropy of each next byte, in nats; `text` is int64 `[batch, seqlen]`."""
        batch, seqlen = text.shape
        x = self.bytes[text] + self.positions[:seqlen]
        for layer in self.layers:
            qkv = normalise(x) @ layer.qkv.T
            q, k, v = qkv.to(dtype).view(batch, seqlen, 3, self.heads, self.head_dim).unbind(2)
            x = x + attend(q, k, v).flatten(2).float() @ layer.out.T
            x = x + gelu(normalise(x) @ layer.up.T) @ layer.down.T
        logits = normalise(x) @ self.bytes.T / x.shape[-1]
        return float(cross_entropy(logits[:, :-1].flatten(0, 1), text[:, 1:].flatten()))


def normalise(x: Tensor) -> Tensor:
    return layer_norm(x, x.shape[-1:])


def torch_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """torch's fused attention, which wants heads before tokens."""
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2)


def plain_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The definition, every step at the dtype of its inputs."""
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    hidden = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
    return (scores.masked_fill(hidden, -math.inf).softmax(-1) @ v).transpose(1, 2)


def compare(q: Tensor, k: Tensor, v: Tensor, out: Tensor) -> tuple[bool, str]:
    """Whether `out` passes the gate on one layer's inputs, and a line that says by how much."""
    reference = plain_attention(q.double(), k.double(), v.double())
    results = out, torch_attention(q, k, v), plain_attention(q, k, v)
    ours, fused, plain = ((result.double() - reference).abs().max().item() for result in results)
    passes = ours <= FACTOR * plain + ATOL and ours <= FACTOR * fused + ATOL  # False for NaN
    verdict = "ok" if passes else "FAILS"
    return passes, f"{ours:.2e}    {fused:.2e}    {plain:.2e}    {verdict}"


def load(name: str, folder: Path) -> ModuleType:
    sys.path.insert(0, str(folder))
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        sys.exit(f"There is no module {name} in {folder}. Make one: gen build --arch sm80")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path, help="a file to read byte by byte")
    parser.add_argument("--module", default="flash_sm80", help="the built module (default: %(default)s)")
    parser.add_argument("--path", type=Path, default=Path("out"), help="folder it lies in (default: %(default)s)")
    parser.add_argument("--dtype", choices=DTYPES, default="bf16", help="of q, k and v (default: %(default)s)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--tokens", type=int, default=256, help="bytes of the text (default: %(default)s)")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--head-dim", type=int, default=64)
    return parser.parse_args()


def main() -> int:
    args = parse_arguments()
    module, dtype = load(args.module, args.path), DTYPES[args.dtype]
    data = args.text.read_bytes()[: args.tokens]
    text = torch.tensor(list(data), dtype=torch.int64, device=args.device)[None]
    gpt = GPT(layers=args.layers, heads=args.heads, head_dim=args.head_dim, context=len(data))
    gpt.to(args.device)
    calls: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []

    def our_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out: Tensor = module.flash_attn_func(q, k, v, causal=True)
        calls.append((q, k, v, out))
        return out

    warnings.simplefilter("ignore", module.EmulationWarning)  # said below
    expected = gpt.loss(text, torch_attention, dtype)
    start = time.perf_counter()
    found = gpt.loss(text, our_attention, dtype)
    seconds = time.perf_counter() - start

    print(
        f"{len(data)} bytes of {args.text}, {args.layers} layers, {args.heads} heads of {args.head_dim}, {args.dtype}"
    )
    print(f"layer  {args.module:<10}  torch       plain       (largest error against float64)")
    results = [compare(*call) for call in calls]
    for index, ((_, line), (q, k, v, _)) in enumerate(zip(results, calls, strict=True)):
        print(f"{index:5}  {line}    {module.explain(q, k, v, causal=True).variant}")
    print(f"loss   {found:.4f} by {args.module}, {expected:.4f} by torch (nats a byte)")
    if args.device == "cpu":
        print(f"ran in the emulator in {seconds:.1f} s, which says nothing about a GPU")
    agree = math.isclose(found, expected, abs_tol=1e-3)
    return 0 if agree and all(passes for passes, _ in results) else 1


if __name__ == "__main__":
    with torch.inference_mode():
        sys.exit(main())
