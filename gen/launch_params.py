"""From a binding (docs/module.md) and the tensors of a call to the bytes of the parameter struct and the grid.

The module's launcher does the same in C for each call; this is for tools that launch a kernel without it.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_FORMATS = {"ptr": "Q", "i64": "q", "i32": "i", "f32": "f"}


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorArgument:
    """Where a tensor lies; strides in elements."""

    address: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchParams:
    """What a launch takes besides the kernel: the grid, and the parameter struct in C layout."""

    grid: tuple[int, int, int]
    struct: bytes


def call_sizes(binding: Mapping[str, Any], shapes: Mapping[str, Sequence[int]]) -> dict[str, int]:
    """Return the sizes of a call, by name, from the shapes of its tensors.

    Raises:
        ValueError: if two tensors disagree.
    """
    sizes: dict[str, int] = {}
    for tensor in binding["tensors"]:
        for name, size in zip(tensor["dims"], shapes.get(tensor["name"], ()), strict=False):
            if sizes.setdefault(name, size) != size:
                raise ValueError(f"{tensor['name']}: {name} is {size}, another tensor has {sizes[name]}")
    return sizes


def launch_params(
    binding: Mapping[str, Any],
    tensors: Mapping[str, TensorArgument],
    *,
    constants: Mapping[str, int],
    scalars: Mapping[str, float],
) -> LaunchParams:
    """Return the grid and the parameter struct of a call.

    Args:
        binding: of the operation, as in a table.
        tensors: by the binding's names; an optional one that is left out is a null pointer.
        constants: of the kernel, such as `block_m`.
        scalars: by the binding's names; each is needed.

    Raises:
        ValueError: if two tensors disagree about a size.
        KeyError: if something the binding names is missing.
    """
    numbers = {**constants, **call_sizes(binding, {name: one.shape for name, one in tensors.items()})}
    optional = {tensor["name"] for tensor in binding["tensors"] if tensor["optional"]}

    def value(kind: str, *names: Any) -> float:  # or an int, where the field is one
        match kind:
            case "pointer" if names[0] in optional and names[0] not in tensors:
                return 0
            case "pointer":
                return tensors[names[0]].address
            case "stride":
                return tensors[names[0]].strides[int(names[1])]
            case "scalar":
                return scalars[names[0]]
            case _:
                return _term(numbers, kind, *names)

    fields = binding["fields"]
    layout = "".join(_FORMATS[field["type"]] for field in fields)
    widest = max(layout, key=struct.calcsize, default="i")  # a struct is padded to its widest member
    packed = struct.pack(f"@{layout}0{widest}", *(value(*field["from"]) for field in fields))
    x, y, z = (math.prod(_term(numbers, *term) for term in axis) for axis in binding["grid"])
    return LaunchParams(grid=(x, y, z), struct=packed)


def _term(numbers: Mapping[str, int], kind: str, *names: str) -> int:
    match kind, [numbers[name] for name in names]:
        case "size", [size]:
            return size
        case "quotient", [over, under]:
            return over // under
        case "ceil_div", [over, under]:
            return -(-over // under)
    raise KeyError(f"a binding has no term {kind!r} of {len(names)} operands")
