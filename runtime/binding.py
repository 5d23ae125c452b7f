"""Bindings: how a call becomes a launch, read from a table and lowered to indices for the launcher.

The format is in docs/module.md; the launcher (launcher.c, section 5) takes what `lower` returns.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .schema import Node

DTYPE_CODES = {"fp16": 2 << 8 | 16, "bf16": 4 << 8 | 16, "float32": 2 << 8 | 32, "int32": 0 << 8 | 32}
"""DLPack's type code * 256 + bits, as launcher.c compares them."""

SCALAR_DEFAULTS = {"softmax_scale": ("head_dim", -0.5)}
"""A scalar that a call leaves out is this size to this power."""

_FIELD_TYPES = {"ptr": 0, "i64": 1, "i32": 2, "f32": 3}
_FIELD_SOURCES = {"pointer": 0, "stride": 1, "term": 2, "scalar": 3}
_TERM_KINDS = {"size": 0, "quotient": 1, "ceil_div": 2}


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorBinding:
    """A tensor of the call. `is_dense`: the kernel knows no strides of it, so it must be contiguous."""

    name: str
    dims: tuple[str, ...]
    dtype: str
    is_written: bool
    is_optional: bool
    is_dense: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """A number computed from sizes of the call and constants of the kernel."""

    kind: str
    operands: tuple[str, ...]

    def value(self, numbers: Mapping[str, int]) -> int:
        """Return the term for these sizes and constants, by name."""
        values = [numbers[name] for name in self.operands]
        if self.kind == "size":
            return values[0]
        return values[0] // values[1] if self.kind == "quotient" else -(-values[0] // values[1])


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldBinding:
    """A member of the kernel's parameter struct and where its value comes from."""

    name: str
    type: str
    source: str
    subject: str  # tensor or scalar
    dim: int
    term: Term | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Binding:
    """How a call of one operation becomes a launch."""

    sizes: tuple[str, ...]
    tensors: tuple[TensorBinding, ...]
    divides: tuple[tuple[str, str], ...]
    scalars: tuple[str, ...]
    flags: tuple[str, ...]
    fixed: tuple[str, ...]
    fields: tuple[FieldBinding, ...]
    grid: tuple[tuple[Term, ...], ...]

    @property
    def constants(self) -> tuple[str, ...]:
        """Names of the constants that every kernel must give, sorted."""
        terms = [field.term for field in self.fields if field.term] + [term for axis in self.grid for term in axis]
        return tuple(sorted({name for term in terms for name in term.operands} - set(self.sizes)))

    def grid_for(self, numbers: Mapping[str, int]) -> tuple[int, int, int]:
        """Return the grid for these sizes and constants."""
        result = [1, 1, 1]
        for axis, terms in enumerate(self.grid):
            for term in terms:
                result[axis] *= term.value(numbers)
        return result[0], result[1], result[2]


def read_binding(node: Node) -> Binding:
    """Return the binding in a table, checked.

    Raises:
        TableError: if something is missing, unknown or names what is not there.
    """
    keys = ["sizes", "tensors", "divides", "scalars", "flags", "fixed", "fields", "grid"]
    members = node.mapping(keys)
    sizes = members["sizes"].texts()
    strided = _tensors_with_strides(members["fields"])
    tensors = tuple(_read_tensor(item, sizes, strided) for item in members["tensors"].items())
    scalars = members["scalars"].texts()
    names = {tensor.name: tensor for tensor in tensors}
    grid = tuple(tuple(_read_term(term) for term in axis.items()) for axis in members["grid"].items())
    if len(grid) != 3:
        raise members["grid"].fault(f"must hold three products, got {len(grid)}")
    bound = {dim for tensor in tensors if not tensor.is_optional for dim in tensor.dims}
    if set(sizes) - bound:
        raise members["sizes"].fault(f"names {sorted(set(sizes) - bound)[0]!r}, which no required tensor has")
    return Binding(
        sizes=sizes,
        tensors=tensors,
        divides=tuple(_read_pair(item, sizes) for item in members["divides"].items()),
        scalars=scalars,
        flags=members["flags"].texts(),
        fixed=tuple(item.text(sizes) for item in members["fixed"].items()),
        fields=tuple(_read_field(item, names, scalars) for item in members["fields"].items()),
        grid=grid,
    )


def _tensors_with_strides(fields: Node) -> set[str]:
    sources = [item.members().get("from") for item in fields.items()]
    values = [source.value for source in sources if source is not None]
    return {str(value[1]) for value in values if isinstance(value, list) and value[:1] == ["stride"]}


def _read_tensor(node: Node, sizes: tuple[str, ...], strided: set[str]) -> TensorBinding:
    members = node.mapping(["name", "dims", "dtype", "access", "optional"])
    name = members["name"].text()
    return TensorBinding(
        name=name,
        dims=tuple(item.text(sizes) for item in members["dims"].items()),
        dtype=members["dtype"].text(["io", "float32", "int32"]),
        is_written=members["access"].text(["read", "write"]) == "write",
        is_optional=members["optional"].boolean(),
        is_dense=name not in strided,
    )


def _read_pair(node: Node, sizes: tuple[str, ...]) -> tuple[str, str]:
    names = [item.text(sizes) for item in node.items()]
    if len(names) != 2:
        raise node.fault("must be a pair of sizes")
    return names[0], names[1]


def _read_term(node: Node) -> Term:
    parts = list(node.items())
    if not parts:
        raise node.fault("must name what it computes")
    kind = parts[0].text(list(_TERM_KINDS))
    operands = tuple(part.text() for part in parts[1:])
    if len(operands) != (1 if kind == "size" else 2):
        raise node.fault(f"has {len(operands)} operands, {kind} takes {1 if kind == 'size' else 2}")
    return Term(kind=kind, operands=operands)


def _read_field(node: Node, tensors: Mapping[str, TensorBinding], scalars: tuple[str, ...]) -> FieldBinding:
    members = node.mapping(["name", "type", "from"])
    kind = members["type"].text(list(_FIELD_TYPES))
    parts = list(members["from"].items())
    source = parts[0].text(["pointer", "stride", "scalar", *_TERM_KINDS]) if parts else ""
    subject, dim, term = "", 0, None
    if source in _TERM_KINDS:
        term, source = _read_term(members["from"]), "term"
    elif len(parts) != (3 if source == "stride" else 2):
        raise members["from"].fault("has too few or too many parts")
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
    tensors: tuple[tuple[tuple[int, ...], int, bool, bool, bool], ...]
    divides: tuple[tuple[int, int], ...]
    scalars: tuple[tuple[int, float], ...]
    fixed: tuple[int, ...]
    fields: tuple[tuple[int, int, int, int, tuple[int, int, int]], ...]
    grid: tuple[tuple[tuple[int, int, int], ...], ...]


def lower(binding: Binding) -> LoweredBinding:
    """Return the binding as the launcher takes it."""
    size_index = {name: index for index, name in enumerate(binding.sizes)}
    constant_index = {name: -1 - index for index, name in enumerate(binding.constants)}
    operand = {**constant_index, **size_index}
    tensor_index = {tensor.name: index for index, tensor in enumerate(binding.tensors)}

    def term(one: Term | None) -> tuple[int, int, int]:
        if one is None:
            return (0, 0, 0)
        return _TERM_KINDS[one.kind], operand[one.operands[0]], operand[one.operands[-1]]

    def field(one: FieldBinding) -> tuple[int, int, int, int, tuple[int, int, int]]:
        subject = 0
        if one.source == "scalar":
            subject = binding.scalars.index(one.subject)
        elif one.term is None:
            subject = tensor_index[one.subject]
        return _FIELD_TYPES[one.type], _FIELD_SOURCES[one.source], subject, one.dim, term(one.term)

    def scalar(name: str) -> tuple[int, float]:
        size, power = SCALAR_DEFAULTS.get(name, ("", 0.0))
        return size_index.get(size, -1), power

    return LoweredBinding(
        num_sizes=len(binding.sizes),
        num_constants=len(binding.constants),
        tensors=tuple(
            (
                tuple(size_index[dim] for dim in one.dims),
                DTYPE_CODES.get(one.dtype, -1),
                one.is_written,
                one.is_optional,
                one.is_dense,
            )
            for one in binding.tensors
        ),
        divides=tuple((size_index[a], size_index[b]) for a, b in binding.divides),
        scalars=tuple(scalar(name) for name in binding.scalars),
        fixed=tuple(size_index[name] for name in binding.fixed),
        fields=tuple(field(one) for one in binding.fields),
        grid=tuple(tuple(term(one) for one in axis) for axis in binding.grid),
    )
