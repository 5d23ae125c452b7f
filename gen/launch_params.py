"""From a binding (docs/module.md) and the tensors of a call to the bytes of the parameter struct and the grid.

The module's launcher does the same in C for each call; this is for tools that launch a kernel without it.
"""

from __future__ import annotations

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
    for name, other in binding["size_defaults"].items():
        sizes.setdefault(name, sizes[other])
    return {name: sizes.get(name, 0) for name in binding["sizes"]}


def scalar_values(binding: Mapping[str, Any], given: Mapping[str, float], sizes: Mapping[str, int]) -> dict[str, float]:
    """Return every scalar of a call by name: what is given, else its default, a number or a power of a size.

    Raises:
        KeyError: if one that has no default is missing, or an unknown one is given.
    """
    values: dict[str, float] = {}
    for scalar in binding["scalars"]:
        name, default = scalar["name"], scalar["default"]
        if name in given:
            values[name] = given[name]
        elif isinstance(default, list):
            values[name] = sizes[default[0]] ** default[1]
        elif default is not None:
            values[name] = default
        else:
            raise KeyError(f"the scalar {name} is missing")
    unknown = set(given) - set(values)
    if unknown:
        raise KeyError(f"the binding has no scalar {sorted(unknown)[0]!r}")
    return values


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
        constants: of the kernel, such as `block_m`, and of the device.
        scalars: by the binding's names; one that is left out has its default.

    Raises:
        ValueError: if two tensors disagree about a size.
        KeyError: if something the binding names is missing.
    """
    sizes = call_sizes(binding, {name: one.shape for name, one in tensors.items()})
    values = scalar_values(binding, scalars, sizes)
    numbers = {**constants, **sizes, **{name: int(value) for name, value in values.items()}}
    optional = {tensor["name"] for tensor in binding["tensors"] if tensor["optional"]}

    def value(kind: str, *names: Any) -> float:  # or an int, where the field is one
        match kind:
            case "pointer" if names[0] in optional and names[0] not in tensors:
                return 0
            case "pointer":
                return tensors[names[0]].address
            case "stride" if names[0] in optional and names[0] not in tensors:
                return 0
            case "stride":
                return tensors[names[0]].strides[int(names[1])]
            case "scalar":
                return values[names[0]]
            case _:
                return _value(names[0], numbers)

    fields = binding["fields"]
    layout = "".join(_FORMATS[field["type"]] for field in fields)
    widest = max(layout, key=struct.calcsize, default="i")  # a struct is padded to its widest member
    packed = struct.pack(f"@{layout}0{widest}", *(value(*field["from"]) for field in fields))
    x, y, z = (_value(axis, numbers) for axis in binding["grid"])
    return LaunchParams(grid=(x, y, z), struct=packed)


_FUNCTIONS = {
    "max": max,
    "min": min,
    "floor_div": lambda a, b: a // b,
    "ceil_div": lambda a, b: -(-a // b),
    "choose": lambda condition, a, b: a if condition else b,
}


def _value(expression: str, numbers: Mapping[str, int]) -> int:
    """Return the value of an expression of this project's own bindings."""
    return int(eval(expression, {"__builtins__": {}, **_FUNCTIONS}, dict(numbers)))
