"""Search spaces (configs/spaces/*.yaml): a problem, lists of schedule values, rules by name, shapes to be fast on."""

from __future__ import annotations

import hashlib
import json
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any

from kernelwright import resource_dir
from kernelwright.gen.constraints import CONSTRAINTS
from kernelwright.gen.devices import parse_arch
from kernelwright.gen.errors import ConfigError, SpecError
from kernelwright.gen.schema import Node, read_yaml
from kernelwright.gen.spec import DTYPES, FEATURES, OPERATION, OPERATIONS, ForwardProblem, Schedule, Variant
from kernelwright.tuner.shapes import Shape

SCHEMA = 1
DEFAULT_SPACE = "flash_fwd_hd64_causal"

Value = int | bool
Point = tuple[Value, ...]
"""Values of the schedule's fields, in the schedule's order."""

TUNED = (OPERATION, "flash_bwd", "flash_bwd_dq")
"""Operations that a space may be of; the others move each byte once, whatever their schedule."""

_PROBLEM = ("dtype", "head_dim", "is_causal")
_FLAGS = tuple(name for name in FEATURES.values() if name not in _PROBLEM)


@dataclass(frozen=True, slots=True, kw_only=True)
class Space:
    """What is tuned and over what.

    Args:
        name: the file's stem.
        sm: architecture.
        problem: fixed.
        values: allowed values of each field of the operation's schedule, in its order; a field with a default that is
            not there has that default alone.
        constraints: names of rules in `gen/constraints.py`.
        shapes: run-time sizes; a variant is judged over all of them.
        operation: what the kernels compute of the problem, one of TUNED.
    """

    name: str
    sm: int
    problem: ForwardProblem
    values: dict[str, tuple[Value, ...]]
    constraints: tuple[str, ...]
    shapes: tuple[Shape, ...]
    operation: str = OPERATION

    def __post_init__(self) -> None:
        kind = OPERATIONS[self.operation]
        given = {name: (value,) for name, value in _defaults(kind).items()} | self.values
        object.__setattr__(self, "values", {name: given[name] for name in field_names(kind)})

    @property
    def study_name(self) -> str:
        return f"{self.name}-sm{self.sm}"

    @property
    def digest(self) -> str:
        """SHA-256 of all that the space says, its name aside."""
        data = {
            **({} if self.operation == OPERATION else {"operation": self.operation}),
            "sm": self.sm,
            "problem": asdict(self.problem),
            "values": self.values,
            "constraints": self.constraints,
            "shapes": [asdict(shape) for shape in self.shapes],
        }
        return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()

    def variant_of(self, point: Point) -> Variant:
        """Return the kernel a point stands for.

        Raises:
            SpecError: if no GPU allows it.
        """
        # Any: each list was read by its field's type
        values: dict[str, Any] = dict(zip(self.values, point, strict=True))
        return Variant(sm=self.sm, problem=self.problem, schedule=OPERATIONS[self.operation](**values))


def space_names() -> list[str]:
    """Return the names of the spaces that come with the project."""
    return sorted(path.stem for path in (resource_dir("configs") / "spaces").glob("*.yaml"))


def load_space(name_or_file: str, sm: int | None = None) -> Space:
    """Read a space by name or by path, for the architecture it names or for `sm`.

    Raises:
        ConfigError: if there is none, or its file has a fault.
    """
    path = Path(name_or_file)
    if path.suffix not in (".yaml", ".yml"):
        if name_or_file not in space_names():
            known = ", ".join(space_names())
            raise ConfigError(f"space {name_or_file!r}: unknown; known: {known}, or a path ending in .yaml")
        path = resource_dir("configs") / "spaces" / f"{name_or_file}.yaml"
    root = read_yaml(path, schema=SCHEMA).mapping(
        ["schema", "kernel", "arch", "problem", "schedule", "constraints", "shapes"]
    )
    operation = root["kernel"].text(TUNED)
    return Space(
        name=path.stem,
        sm=_arch(root["arch"]) if sm is None else sm,
        problem=_problem(root["problem"]),
        values=_values(root["schedule"], OPERATIONS[operation]),
        constraints=tuple(node.text(CONSTRAINTS) for node in root["constraints"].items()),
        shapes=_shapes(root["shapes"]),
        operation=operation,
    )


def _arch(node: Node) -> int:
    try:
        return parse_arch(node.text())
    except SpecError as error:
        raise node.fail(str(error)) from error


def _problem(node: Node) -> ForwardProblem:
    row = node.mapping(_PROBLEM, ["head_dim_v", *_FLAGS])
    try:
        return ForwardProblem(
            dtype="bf16" if row["dtype"].text(DTYPES) == "bf16" else "fp16",
            head_dim=row["head_dim"].integer(),
            head_dim_v=row["head_dim_v"].integer() if "head_dim_v" in row else 0,
            is_causal=row["is_causal"].boolean(),
            **{name: row[name].boolean() for name in _FLAGS if name in row},
        )
    except SpecError as error:
        raise node.fail(str(error)) from error


def field_names(kind: type[Schedule]) -> tuple[str, ...]:
    """Return what a kind of schedule says."""
    return tuple(field.name for field in fields(kind))


def _defaults(kind: type[Schedule]) -> dict[str, Value]:
    """Return the values of the fields that a space may leave out."""
    return {field.name: field.default for field in fields(kind) if field.default is not MISSING}


def _values(node: Node, kind: type[Schedule]) -> dict[str, tuple[Value, ...]]:
    defaults = _defaults(kind)
    least = {name: min(1, int(value)) for name, value in defaults.items()}
    row = node.mapping([name for name in field_names(kind) if name not in defaults], defaults)
    result: dict[str, tuple[Value, ...]] = {}
    for field in (field for field in fields(kind) if field.name in row):
        name = field.name
        found: list[Value] = []
        for item in row[name].one_or_more():
            value: Value = item.boolean() if field.type == "bool" else item.integer(least.get(name, 1))
            if value in found:
                raise item.fail(f"found {value} twice")
            found.append(value)
        result[name] = tuple(found)
    return result


def _shapes(node: Node) -> tuple[Shape, ...]:
    """Return the shapes of one group of sizes, or of a list of groups; each shape once."""
    return tuple(dict.fromkeys(shape for group in node.one_or_more() for shape in _group(group)))


def _group(node: Node) -> list[Shape]:
    """Return a group's shapes: `seqlen` for queries and keys alike, or every `seqlen_q` with every `seqlen_k`."""
    alike = "seqlen" in node.members()
    lengths = ["seqlen"] if alike else ["seqlen_q", "seqlen_k"]
    row = node.mapping(["batch", "num_heads_q", "num_heads_kv", *lengths], ["window"])
    batches, heads_q, heads_kv = (
        [item.integer(1) for item in row[key].one_or_more()] for key in ("batch", "num_heads_q", "num_heads_kv")
    )
    if len(heads_q) > 1 or len(heads_kv) > 1:
        raise node.fail("num_heads_q and num_heads_kv are one number each; write another group for others")
    if heads_q[0] % heads_kv[0]:
        raise row["num_heads_kv"].fail(f"found {heads_kv[0]}; allowed: what divides num_heads_q, {heads_q[0]}")
    window = [item.integer(-1) for item in row["window"].items()] if "window" in row else [-1, -1]
    if len(window) != 2:
        raise row["window"].fail("expected two sizes, of its left and right, -1 for no limit")
    sizes = [[item.integer(1) for item in row[key].one_or_more()] for key in lengths]
    pairs = [(one, one) for one in sizes[0]] if alike else [(q, k) for q in sizes[0] for k in sizes[1]]
    return [
        Shape(
            batch=batch,
            num_heads_q=heads_q[0],
            num_heads_kv=heads_kv[0],
            seqlen_q=q,
            seqlen_k=k,
            window_left=window[0],
            window_right=window[1],
        )
        for batch in batches
        for q, k in pairs
    ]


def point_of(schedule: Schedule) -> Point:
    """Return the point that stands for a schedule."""
    return tuple(getattr(schedule, name) for name in field_names(type(schedule)))


def described(schedule: Schedule) -> dict[str, Value]:
    """Return what a schedule says, by field, in its order."""
    return dict(zip(field_names(type(schedule)), point_of(schedule), strict=True))
