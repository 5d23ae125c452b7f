"""Bindings: how a call becomes a launch, read from a table and lowered to indices for the launcher.

The format is in docs/module.md; the launcher (launcher.c, section 5) takes what `lower` returns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from .expressions import Expression, parse_expression
from .schema import Node

DTYPE_CODES = {
    "fp16": 2 << 8 | 16,
    "bf16": 4 << 8 | 16,
    "float32": 2 << 8 | 32,
    "int32": 0 << 8 | 32,
    "int64": 0 << 8 | 64,
}
"""DLPack's type code * 256 + bits, as launcher.c compares them."""

Code: TypeAlias = tuple[tuple[int, int], ...]  # of a lowered expression

LAYOUTS = ("rows", "dense", "any")
"""Of a tensor: rows of last stride 1, 16-byte aligned; contiguous; any strides, aligned to its elements."""

DEVICE_NUMBERS = ("num_sms",)
"""What expressions may name of the device."""

_FIELD_TYPES = {"ptr": 0, "i64": 1, "i32": 2, "f32": 3}
_FIELD_SOURCES = {"pointer": 0, "stride": 1, "term": 2, "scalar": 3}


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorBinding:
    """A tensor of the call; `layout` is one of LAYOUTS."""

    name: str
    dims: tuple[str, ...]
    dtype: str
    is_written: bool
    is_updated: bool  # written and read
    is_optional: bool
    layout: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalarBinding:
    """A number of the call. What is left out is `size` to the power, or `fallback` where there is no size."""

    name: str
    type: str
    size: str | None
    power: float
    fallback: float

    @property
    def is_whole(self) -> bool:
        return self.type != "f32"


@dataclass(frozen=True, slots=True, kw_only=True)
class Visibility:
    """Bounds of the keys that a query sees, as expressions of `query`, `seqlen_k`, `shift` and the call's scalars."""

    first_key: Expression
    end_key: Expression


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldBinding:
    """A member of the kernel's parameter struct and where its value comes from."""

    name: str
    type: str
    source: str
    subject: str  # tensor or scalar
    dim: int
    term: Expression | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Binding:
    """How a call of one operation becomes a launch."""

    sizes: tuple[str, ...]
    size_defaults: Mapping[str, str]
    tensors: tuple[TensorBinding, ...]
    divides: tuple[tuple[str, str], ...]
    scalars: tuple[ScalarBinding, ...]
    flags: tuple[str, ...]
    fixed: tuple[str, ...]
    fields: tuple[FieldBinding, ...]
    grid: tuple[Expression, ...]
    visibility: Mapping[str, Visibility]

    @property
    def numbers(self) -> tuple[str, ...]:
        """Names in expressions that are no size or scalar: of the kernel or the device; sorted."""
        terms = [field.term for field in self.fields if field.term] + list(self.grid)
        known = {*self.sizes, *(scalar.name for scalar in self.scalars)}
        return tuple(sorted({name for term in terms for name in term.names} - known))

    @property
    def constants(self) -> tuple[str, ...]:
        """Names of the constants that every kernel must give, sorted."""
        return tuple(name for name in self.numbers if name not in DEVICE_NUMBERS)

    def grid_for(self, numbers: Mapping[str, int]) -> tuple[int, int, int]:
        """Return the grid for these sizes and constants."""
        x, y, z = (int(axis.value(numbers)) for axis in self.grid)
        return x, y, z


def read_binding(node: Node) -> Binding:
    """Return the binding in a table, checked.

    Raises:
        TableError: if something is missing, unknown or names what is not there.
    """
    keys = ["sizes", "size_defaults", "tensors", "divides", "scalars", "flags", "fixed", "visibility", "fields", "grid"]
    members = node.mapping(keys)
    sizes = members["sizes"].texts()
    defaults = {name: other.text(sizes) for name, other in members["size_defaults"].mapping([], sizes).items()}
    tensors = tuple(_read_tensor(item, sizes) for item in members["tensors"].items())
    scalars = tuple(_read_scalar(item, sizes) for item in members["scalars"].items())
    names = {tensor.name: tensor for tensor in tensors}
    grid = tuple(_read_expression(axis) for axis in members["grid"].items())
    if len(grid) != 3:
        raise members["grid"].fault(f"must hold three expressions, got {len(grid)}")
    bound = {dim for tensor in tensors for dim in tensor.dims}
    if set(sizes) - bound:
        raise members["sizes"].fault(f"names {sorted(set(sizes) - bound)[0]!r}, which no tensor has")
    flags = members["flags"].texts()
    return Binding(
        sizes=sizes,
        size_defaults=defaults,
        tensors=tensors,
        divides=tuple(_read_pair(item, sizes) for item in members["divides"].items()),
        scalars=scalars,
        flags=flags,
        fixed=tuple(item.text(sizes) for item in members["fixed"].items()),
        fields=tuple(
            _read_field(item, names, [scalar.name for scalar in scalars]) for item in members["fields"].items()
        ),
        grid=grid,
        visibility={name: _read_visibility(one) for name, one in members["visibility"].mapping([""], flags).items()},
    )


def _read_tensor(node: Node, sizes: tuple[str, ...]) -> TensorBinding:
    members = node.mapping(["name", "dims", "dtype", "access", "optional", "layout"])
    return TensorBinding(
        name=members["name"].text(),
        dims=tuple(item.text(sizes) for item in members["dims"].items()),
        dtype=members["dtype"].text(["io", "float32", "int32", "int64"]),
        is_written=members["access"].text(["read", "write", "update"]) != "read",
        is_updated=members["access"].value == "update",
        is_optional=members["optional"].boolean(),
        layout=members["layout"].text(LAYOUTS),
    )


def _read_scalar(node: Node, sizes: tuple[str, ...]) -> ScalarBinding:
    members = node.mapping(["name", "type", "default"])
    default = members["default"]
    size, power, fallback = None, 0.0, 0.0
    if isinstance(default.value, list):
        parts = list(default.items())
        if len(parts) != 2:
            raise default.fault("must be a number, or a size and its power")
        size, power = parts[0].text(sizes), parts[1].number()
    else:
        fallback = default.number()
    return ScalarBinding(
        name=members["name"].text(),
        type=members["type"].text(["f32", "i32"]),
        size=size,
        power=power,
        fallback=fallback,
    )


def _read_visibility(node: Node) -> Visibility:
    members = node.mapping(["first_key", "end_key"])
    return Visibility(first_key=_read_expression(members["first_key"]), end_key=_read_expression(members["end_key"]))


def _read_expression(node: Node) -> Expression:
    text = node.text()
    try:
        return parse_expression(text)
    except ValueError as error:
        raise node.fault(str(error)) from error


def _read_pair(node: Node, sizes: tuple[str, ...]) -> tuple[str, str]:
    names = [item.text(sizes) for item in node.items()]
    if len(names) != 2:
        raise node.fault("must be a pair of sizes")
    return names[0], names[1]


def _read_field(node: Node, tensors: Mapping[str, TensorBinding], scalars: Sequence[str]) -> FieldBinding:
    members = node.mapping(["name", "type", "from"])
    kind = members["type"].text(list(_FIELD_TYPES))
    parts = list(members["from"].items())
    source = parts[0].text(list(_FIELD_SOURCES)) if parts else ""
    if len(parts) != (3 if source == "stride" else 2):
        raise members["from"].fault("has too few or too many parts")
    subject, dim, term = "", 0, None
    if source == "term":
        term = _read_expression(parts[1])
    else:
        subject = parts[1].text(scalars if source == "scalar" else list(tensors))
        dim = parts[2].integer(0, len(tensors[subject].dims) - 1) if source == "stride" else 0
    allowed = {"pointer": ["ptr"], "stride": ["i64"], "scalar": ["f32", "i32", "i64"], "term": ["i32", "i64"]}
    if kind not in allowed[source]:
        raise members["type"].fault(f"is {kind!r}; a {source} goes into {' or '.join(allowed[source])}")
    return FieldBinding(name=members["name"].text(), type=kind, source=source, subject=subject, dim=dim, term=term)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoweredBinding:
    """The arguments of the launcher's Operation: names replaced by indices."""

    num_sizes: int
    num_constants: int
    size_defaults: tuple[int, ...]
    tensors: tuple[tuple[tuple[int, ...], int, int, bool, int], ...]  # third: 0 read, 1 written, 2 both
    divides: tuple[tuple[int, int], ...]
    scalars: tuple[tuple[int, float, float, bool], ...]
    fixed: tuple[int, ...]
    fields: tuple[tuple[int, int, int, int, Code], ...]
    grid: tuple[Code, ...]


def lower(binding: Binding) -> LoweredBinding:
    """Return the binding as the launcher takes it."""
    size_index = {name: index for index, name in enumerate(binding.sizes)}
    scalar_index = {one.name: index for index, one in enumerate(binding.scalars)}
    operand = {name: -1 - index for index, name in enumerate(binding.numbers)}
    operand |= {name: len(size_index) + index for name, index in scalar_index.items()} | size_index
    tensor_index = {tensor.name: index for index, tensor in enumerate(binding.tensors)}

    def field(one: FieldBinding) -> tuple[int, int, int, int, Code]:
        subject = 0
        if one.source == "scalar":
            subject = scalar_index[one.subject]
        elif one.term is None:
            subject = tensor_index[one.subject]
        code = one.term.lowered(operand) if one.term else ()
        return _FIELD_TYPES[one.type], _FIELD_SOURCES[one.source], subject, one.dim, code

    return LoweredBinding(
        num_sizes=len(binding.sizes),
        num_constants=len(binding.numbers),
        size_defaults=tuple(
            size_index[binding.size_defaults[name]] if name in binding.size_defaults else -1 for name in binding.sizes
        ),
        tensors=tuple(
            (
                tuple(size_index[dim] for dim in one.dims),
                DTYPE_CODES.get(one.dtype, -1),
                int(one.is_written) + one.is_updated,
                one.is_optional,
                LAYOUTS.index(one.layout),
            )
            for one in binding.tensors
        ),
        divides=tuple((size_index[a], size_index[b]) for a, b in binding.divides),
        scalars=tuple(
            (-1 if one.size is None else size_index[one.size], one.power, one.fallback, one.is_whole)
            for one in binding.scalars
        ),
        fixed=tuple(size_index[name] for name in binding.fixed),
        fields=tuple(field(one) for one in binding.fields),
        grid=tuple(axis.lowered(operand) for axis in binding.grid),
    )
