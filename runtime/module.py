"""The public face of a dispatch module: what `import flash_sm80` offers, made from the parts beside it."""

from __future__ import annotations

import json
from contextlib import AbstractContextManager
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from .attention import Attention
from .engine import Engine
from .errors import InputTypeError
from .functions import Entry, make_functions
from .options import Options
from .sdpa import ScaledDotProductAttention
from .support import Explanation, device_key, explain, support

if TYPE_CHECKING:
    from .model_report import ModelCheck


class DispatchModule:
    """One module's functions. Making it reads nothing and opens nothing."""

    def __init__(self, package: str, folder: Path) -> None:
        self.engine = Engine(package, folder)
        self.attention = Attention(self.engine)
        self.entry = Entry(package, self.attention)
        self.functions = make_functions(self.entry)
        self.flash_attn_func = self.functions["flash_attn_func"]
        self.sdpa = ScaledDotProductAttention(self.attention, self.functions)
        self.scaled_dot_product_attention = self.sdpa.function()

    def support(self, *, json: bool = False) -> dict[str, object] | None:
        """Print the kernels of this module: a matrix, and how each was verified. `json=True`: return plain data."""
        found = support(self.engine)
        if json:
            return found.to_dict()
        print(found)
        return None

    def explain(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        softmax_scale: float | None = None,
        causal: bool = False,
        **options: Any,  # Any: those of Options, checked there
    ) -> Explanation:
        """Return which kernel this call would run, from which table and row, and why others would not.

        `options`: `window_size`, `softcap` and the others of `flash_attn_func`, and `block_mask`.
        """
        unknown = set(options) - {one.name for one in fields(Options)}
        if unknown:
            raise InputTypeError(f"explain has no argument {sorted(unknown)[0]!r}.")
        return explain(self.engine, q, k, v, Options(softmax_scale=softmax_scale, causal=causal, **options))

    def check_model(self, model: torch.nn.Module, batch: object, **options: Any) -> ModelCheck:  # Any: checked there
        """Run a model with torch's attention, with this module's, and in float64; see `model_check.check_model`."""
        from .model_check import check_model

        return check_model(self.sdpa, model, batch, **options)

    def load_table(self, path: str | Path | None) -> None:
        """Ask the table in this folder before all others; None takes it away again.

        Raises:
            TableError: naming the first fault; the tables stay as they were.
        """
        self.engine.load_table(path)

    def preload(self, device: object = None) -> int:
        """Load every kernel that can run on a device, as before a graph capture; return their number.

        Args:
            device: as torch takes it; None is the current GPU, or the CPU where there is none.
        """
        return self.engine.preload(device_key(device))

    def force_variant(self, name: str) -> AbstractContextManager[None]:
        """Let one variant answer every call, in all threads, while the context lasts. For measuring."""
        return self.engine.force_variant(name)

    def last_report(self) -> dict[str, object]:
        """Return the emulator's counters and findings of this thread's last launch on the CPU."""
        return self.engine.report()

    def build_info(self) -> dict[str, Any]:  # Any: free form, written by the builder
        """Return versions, profile, command and digest that the module was built with."""
        return dict(json.loads((self.engine.folder / "build_info.json").read_text(encoding="utf-8")))
