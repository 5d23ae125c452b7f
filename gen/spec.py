"""Problem (what is computed), schedule (how) and variant (both, for one architecture)."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from functools import cache
from typing import Any, Literal, get_args

from kernelwright.gen.errors import SpecError

Dtype = Literal["fp16", "bf16"]
DTYPES: tuple[Dtype, ...] = get_args(Dtype)
MAX_HEAD_DIM = 512
MAX_SLICE = 256
"""Output columns of one thread block: more accumulators than registers beyond."""
OPERATION = "flash_fwd"
"""Attention forward: the operation of a variant that names none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ForwardProblem:
    """What an attention forward kernel computes: the choices made at compile time.

    Each field is there because it changes code. What costs nothing when unused (lse, a sink) is a null pointer of a
    launch instead; values (window sizes, the cap, slopes, the dropout rate) are arguments of a launch.

    Args:
        dtype: element type of q, k, v, bias and out; sums are fp32.
        head_dim: elements of a head in q and k; a multiple of 8 up to 512.
        head_dim_v: elements of a head in v and out; 0 stands for head_dim.
        is_causal: key j is visible to query i when `j <= i + seqlen_k - seqlen_q`.
        is_local: visible keys are an interval given at run time, by a window and by chunks; it includes causal, so
            the two exclude one another.
        is_varlen: sequences of different lengths lie one after another; a launch gives where each begins and ends.
        has_softcap: scores s become `cap * tanh(s / cap)`.
        has_alibi: a slope per head times the distance of query and key is taken from a score.
        has_bias: a tensor is added to the scores.
        has_dropout: probabilities are dropped at random.
        is_block_sparse: only listed blocks of keys are visited.
    """

    dtype: Dtype
    head_dim: int
    head_dim_v: int = 0
    is_causal: bool = False
    is_local: bool = False
    is_varlen: bool = False
    has_softcap: bool = False
    has_alibi: bool = False
    has_bias: bool = False
    has_dropout: bool = False
    is_block_sparse: bool = False

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise SpecError(f"dtype must be one of {', '.join(DTYPES)}, got {self.dtype!r}")
        if self.head_dim_v == 0:
            object.__setattr__(self, "head_dim_v", self.head_dim)
        for name, value in (("head_dim", self.head_dim), ("head_dim_v", self.head_dim_v)):
            if value % 8 or not 8 <= value <= MAX_HEAD_DIM:
                raise SpecError(
                    f"{name} must be a multiple of 8 from 8 to {MAX_HEAD_DIM}, got {value}; pad the tensors with zeros"
                )
        if self.head_dim_v > MAX_SLICE and self.head_dim_v % 16:
            raise SpecError(
                f"head_dim_v above {MAX_SLICE} must be a multiple of 16 (thread blocks share its columns), "
                f"got {self.head_dim_v}; pad v with zeros"
            )
        if self.is_causal and self.is_local:
            raise SpecError("is_causal and is_local exclude one another: a local kernel is causal by window_right 0")

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the flags that are set, as `gen build --features` takes them."""
        return tuple(name for name, flag in FEATURES.items() if getattr(self, flag))

    @property
    def changes_scores(self) -> bool:
        """Whether scores are more than a scaled product, so that they are computed before their maximum is taken."""
        return self.has_softcap or self.has_alibi or self.has_bias


FEATURES = {
    field.name.partition("_")[2].removeprefix("block_"): field.name
    for field in fields(ForwardProblem)
    if field.type == "bool"
}
"""Each flag of a problem by the name that users give it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ForwardSchedule:
    """How it is computed. Changing a field changes speed, never the result beyond rounding.

    Args:
        block_m: query rows per thread block.
        block_n: keys per iteration of the main loop.
        num_warps: warps per thread block; each owns `block_m / num_warps` query rows.
        num_stages: K and V tiles in shared memory. 1: the next K loads under P V and V under Q K^T. More: a ring.
        q_in_regs: Q fragments are read once and stay in registers, and K and V take over Q's shared memory.
        num_slices: thread blocks that share the output columns of a tile, each computing the scores anew: for a
            head_dim_v whose accumulators do not fit the registers of one.
        pack_gqa: the query heads that share a key and value head share tiles: row r of theirs is head
            `r % heads_per_kv` of query `r // heads_per_kv`, so that K and V are read once for all and short queries
            fill a tile.
        persistent_blocks: thread blocks per multiprocessor that take one tile after another, those with most keys
            first; 0: a thread block for each tile.
    """

    block_m: int
    block_n: int
    num_warps: int
    num_stages: int
    q_in_regs: bool
    num_slices: int = 1
    pack_gqa: bool = False
    persistent_blocks: int = 0

    def __post_init__(self) -> None:
        if self.num_warps not in (1, 2, 4, 8):
            raise SpecError(f"num_warps must be 1, 2, 4 or 8, got {self.num_warps}")
        if self.block_m < 16 or self.block_m % (16 * self.num_warps):
            raise SpecError(
                f"block_m must be a multiple of 16 rows for each of {self.num_warps} warps, got {self.block_m}"
            )
        if self.block_n < 16 or self.block_n % 16:
            raise SpecError(f"block_n must be a multiple of 16 (the depth of an mma step of P V), got {self.block_n}")
        if not 1 <= self.num_stages <= 8:
            raise SpecError(f"num_stages must be from 1 to 8, got {self.num_stages}")
        if self.num_slices not in (1, 2, 4):
            raise SpecError(f"num_slices must be 1, 2 or 4, got {self.num_slices}")
        if not 0 <= self.persistent_blocks <= 16:
            raise SpecError(f"persistent_blocks must be from 0 to 16, got {self.persistent_blocks}")

    @property
    def threads(self) -> int:
        return 32 * self.num_warps


@dataclass(frozen=True, slots=True, kw_only=True)
class BackwardSchedule:
    """How dK, dV and a sum of dQ are computed. Changing a field changes speed, never the result beyond rounding.

    Five products share the warps of a thread block. In each, some warps lie along its rows, the others along its
    columns; a warp's share is made of whole tiles of 16 rows and of pairs of tiles of 8 columns. Of the columns of a
    head the last warp may have fewer.

    Args:
        block_m: queries per iteration of the main loop.
        block_n: keys per thread block.
        num_warps: warps per thread block.
        num_stages: tiles of Q and dO in shared memory. 1: the next ones are loaded when nobody reads the last; 2: under
            the work on them.
        warps_scores: warps along the queries of Q K^T and dO V^T.
        warps_kv: warps along the keys of dK and dV.
        warps_q: warps along the queries of dQ.
        v_in_regs: V fragments are read once and stay in registers, and P and dS take over V's shared memory.
    """

    block_m: int
    block_n: int
    num_warps: int
    num_stages: int
    warps_scores: int
    warps_kv: int
    warps_q: int
    v_in_regs: bool = False

    def __post_init__(self) -> None:
        _check_warps_and_stages(self.num_warps, self.num_stages)
        for name in ("warps_scores", "warps_kv", "warps_q"):
            if getattr(self, name) not in (1, 2, 4, 8) or getattr(self, name) > self.num_warps:
                raise SpecError(
                    f"{name} must be 1, 2, 4 or 8 and no more than {self.num_warps} warps, got {getattr(self, name)}"
                )
        columns = self.num_warps // self.warps_scores
        for name, shares in (
            ("block_m", {"warps_scores": self.warps_scores, "warps_q": self.warps_q}),
            ("block_n", {"warps_kv": self.warps_kv, "num_warps / warps_scores": columns}),
        ):
            for by, share in shares.items():
                if getattr(self, name) < 16 or getattr(self, name) % (16 * share):
                    raise SpecError(
                        f"{name} must be a multiple of 16 for each of {share} warps ({by}), got {getattr(self, name)}"
                    )

    @property
    def threads(self) -> int:
        return 32 * self.num_warps


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryGradientSchedule:
    """How dQ is computed by itself, the scores anew: bitwise the same each time and without memory for sums.

    Args:
        block_m: query rows per thread block.
        block_n: keys per iteration of the main loop.
        num_warps: warps per thread block; each owns `block_m / num_warps` query rows.
        num_stages: tiles of K and V in shared memory, 1 or 2.
    """

    block_m: int
    block_n: int
    num_warps: int
    num_stages: int

    def __post_init__(self) -> None:
        _check_warps_and_stages(self.num_warps, self.num_stages)
        if self.block_m < 16 or self.block_m % (16 * self.num_warps):
            raise SpecError(
                f"block_m must be a multiple of 16 rows for each of {self.num_warps} warps, got {self.block_m}"
            )
        if self.block_n < 16 or self.block_n % 16:
            raise SpecError(f"block_n must be a multiple of 16 (the depth of an mma step of dS K), got {self.block_n}")

    @property
    def threads(self) -> int:
        return 32 * self.num_warps


@dataclass(frozen=True, slots=True, kw_only=True)
class RowSchedule:
    """How the rows of a tensor are worked on one by one.

    Args:
        block_m: rows (of a query and a head) per thread block.
        num_warps: warps per thread block.
    """

    block_m: int
    num_warps: int

    def __post_init__(self) -> None:
        if self.num_warps not in (1, 2, 4, 8):
            raise SpecError(f"num_warps must be 1, 2, 4 or 8, got {self.num_warps}")
        if not 1 <= self.block_m <= 1024:
            raise SpecError(f"block_m must be from 1 to 1024, got {self.block_m}")

    @property
    def threads(self) -> int:
        return 32 * self.num_warps


@dataclass(frozen=True, slots=True, kw_only=True)
class DeltaSchedule(RowSchedule):
    """How `delta`, the row sums of dO * O, is computed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvertSchedule(RowSchedule):
    """How the sum of dQ becomes dQ in 16 bits."""


def _check_warps_and_stages(num_warps: int, num_stages: int) -> None:
    if num_warps not in (1, 2, 4, 8):
        raise SpecError(f"num_warps must be 1, 2, 4 or 8, got {num_warps}")
    if num_stages not in (1, 2):
        raise SpecError(f"num_stages must be 1 or 2, got {num_stages}")


Schedule = ForwardSchedule | BackwardSchedule | QueryGradientSchedule | DeltaSchedule | ConvertSchedule
OPERATIONS: dict[str, type[Schedule]] = {
    OPERATION: ForwardSchedule,
    "flash_bwd": BackwardSchedule,
    "flash_bwd_dq": QueryGradientSchedule,
    "flash_bwd_delta": DeltaSchedule,
    "flash_bwd_convert": ConvertSchedule,
}
"""What kernels compute, and the kind of schedule that says which of them a variant is."""
BACKWARD_OPERATIONS = tuple(name for name in OPERATIONS if name != OPERATION)
"""What a backward pass needs besides."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """A kernel: a problem and a schedule for one architecture. Its name is its identity everywhere."""

    sm: int
    problem: ForwardProblem
    schedule: Schedule

    def __post_init__(self) -> None:
        fault = _FAULTS[type(self.schedule)](self.problem, self.schedule)
        if fault:
            raise SpecError(fault)

    @property
    def operation(self) -> str:
        """What it computes, one of OPERATIONS."""
        return next(name for name, kind in OPERATIONS.items() if kind is type(self.schedule))

    @property
    def forward(self) -> ForwardSchedule:
        """The schedule of a forward variant; asking another for it is a mistake."""
        assert isinstance(self.schedule, ForwardSchedule), self.name
        return self.schedule

    @property
    def name(self) -> str:
        parts = [one.text(self) for one in _name_parts(type(self.schedule))]
        return "_".join([self.operation, f"sm{self.sm}", self.problem.dtype, *[part for part in parts if part]])

    @property
    def slice_columns(self) -> int:
        """Output columns that a thread block computes."""
        return self.problem.head_dim_v // self.forward.num_slices

    @property
    def smem_bytes(self) -> int:
        """Dynamic shared memory of a thread block, in bytes."""
        qk_row_bytes, v_row_bytes = 2 * self.problem.head_dim, 2 * self.problem.head_dim_v
        match self.schedule:
            case ForwardSchedule() as schedule:  # the output is staged where Q was, at least
                v_row_bytes = 2 * self.slice_columns
                q_bytes = schedule.block_m * qk_row_bytes
                ring_bytes = schedule.num_stages * schedule.block_n * (qk_row_bytes + v_row_bytes)
                whole = max(q_bytes, ring_bytes) if schedule.q_in_regs else q_bytes + ring_bytes
                return max(whole, schedule.block_m * v_row_bytes)
            case BackwardSchedule() as schedule:  # K and V, tiles of Q and dO, and P and dS
                queries = schedule.num_stages * schedule.block_m * (qk_row_bytes + v_row_bytes)
                v_bytes, p_bytes = schedule.block_n * v_row_bytes, 2 * schedule.block_m * 2 * schedule.block_n
                v_share = max(v_bytes, p_bytes) if schedule.v_in_regs else v_bytes + p_bytes
                return schedule.block_n * qk_row_bytes + queries + v_share
            case QueryGradientSchedule() as schedule:  # Q and dO, and tiles of K and V
                rows = schedule.block_m + schedule.num_stages * schedule.block_n
                return rows * (qk_row_bytes + v_row_bytes)
            case _:
                return 0

    def to_dict(self) -> dict[str, object]:
        """Return plain data that `from_dict` reads back. The operation goes unsaid where it is OPERATION."""
        said = {} if self.operation == OPERATION else {"operation": self.operation}
        return {**said, "sm": self.sm, "problem": asdict(self.problem), "schedule": asdict(self.schedule)}

    @classmethod
    def from_dict(cls, data: dict[str, object]) -> Variant:
        """Read what `to_dict` wrote.

        Raises:
            SpecError: if a field is missing, unknown or out of range.
        """
        problem, schedule, sm = data.get("problem"), data.get("schedule"), data.get("sm")
        kind = OPERATIONS.get(str(data.get("operation", OPERATION)))
        if kind is None:
            raise SpecError(f"operation must be one of {', '.join(OPERATIONS)}, got {data['operation']!r}")
        if set(data) - {"operation"} != {"sm", "problem", "schedule"} or not isinstance(sm, int):
            raise SpecError(f"a variant has the keys sm, problem and schedule, got {', '.join(map(str, data))}")
        return cls(
            sm=sm,
            problem=ForwardProblem(**_checked(ForwardProblem, problem)),
            schedule=kind(**_checked(kind, schedule)),
        )

    @staticmethod
    def is_name(text: str) -> bool:
        """Whether a text has the form of a variant's name; what it names may still make no sense."""
        return _match(text) is not None

    @classmethod
    def parse(cls, name: str) -> Variant:
        """Read a variant's name.

        Raises:
            SpecError: if the text is not the name of a variant.
        """
        found = _match(name)
        if found is None:
            raise SpecError(
                f"{name!r} is not a variant's name; one looks like "
                f"{OPERATION}_sm80_bf16_hd64_causal1_m128_n64_w4_s2_qreg0"
            )
        operation, match = found
        kind = OPERATIONS[operation]
        parts: dict[str, dict[str, Any]] = {"problem": {"dtype": match["dtype"]}, "schedule": {}}  # Any: int or bool
        for one in _name_parts(kind):
            if match[one.field] is not None:
                parts[one.owner][one.field] = one.value(match[one.field])
        return cls(
            sm=int(match["sm"]),
            problem=ForwardProblem(**parts["problem"]),
            schedule=kind(**parts["schedule"]),
        )


def _forward_fault(problem: ForwardProblem, schedule: Any) -> str | None:  # Any: of _FAULTS' kind
    if problem.head_dim_v % (8 * schedule.num_slices):
        return f"num_slices {schedule.num_slices} does not cut head_dim_v {problem.head_dim_v} into multiples of 8"
    if schedule.pack_gqa and (problem.has_dropout or problem.is_block_sparse):
        return "pack_gqa mixes heads in a tile, which dropout and block-sparse lists, made per head, do not allow"
    columns = problem.head_dim_v // schedule.num_slices
    if columns > MAX_SLICE:
        return f"a thread block computes at most {MAX_SLICE} output columns, got {columns}; raise num_slices"
    return None


def backward_fault(problem: ForwardProblem) -> str | None:
    """Return why there is no backward kernel of a problem, None where there is."""
    if max(problem.head_dim, problem.head_dim_v) > MAX_SLICE:
        found = f"{problem.head_dim} and {problem.head_dim_v}"
        return f"a backward kernel takes head_dim and head_dim_v up to {MAX_SLICE}, got {found}; build forward alone"
    return None


def _gradient_fault(problem: ForwardProblem, schedule: Any) -> str | None:
    return backward_fault(problem)


def _row_fault(problem: ForwardProblem, schedule: Any) -> str | None:
    if problem.features or problem.head_dim != problem.head_dim_v:
        return "a kernel of single rows has no features and one head dimension: another problem would be the same code"
    return None


# What a problem and a schedule that are sound by themselves do not allow together.
_FAULTS: dict[type, Callable[[ForwardProblem, Any], str | None]] = {
    ForwardSchedule: _forward_fault,
    BackwardSchedule: _gradient_fault,
    QueryGradientSchedule: _gradient_fault,
    DeltaSchedule: _row_fault,
    ConvertSchedule: _row_fault,
}


_NUMBER = "0|[1-9][0-9]{0,8}"  # as Python prints it, so that a variant has one name
Form = Literal["number", "flag", "mark"]


@dataclass(frozen=True, slots=True, kw_only=True)
class _NamePart:
    """What a name says of a field: its tag and value; a `mark` is a tag that is there when the flag is set.

    `unless`: the value that goes unsaid, of a field of the schedule, or the problem's field whose value it then has.
    """

    tag: str
    owner: Literal["problem", "schedule"]
    field: str
    form: Form = "number"
    unless: int | str | None = None

    def text(self, variant: Variant) -> str:
        of = getattr(variant, self.owner)
        value = int(getattr(of, self.field))
        unsaid = getattr(of, self.unless) if isinstance(self.unless, str) else self.unless
        if value == unsaid or (self.form == "mark" and not value):
            return ""
        return self.tag if self.form == "mark" else f"{self.tag}{value}"

    def value(self, text: str) -> int | bool:
        """Read the value from what `pattern` matched."""
        return int(text) if self.form == "number" else text != "0"

    @property
    def pattern(self) -> str:
        if self.form == "mark":
            return f"(?:_(?P<{self.field}>{self.tag}))?"
        said = f"_{self.tag}(?P<{self.field}>{'[01]' if self.form == 'flag' else _NUMBER})"
        return said if self.unless is None else f"(?:{said})?"


# What a name says after the architecture and dtype, in order: of the problem, and of each kind of schedule.
_PROBLEM_PARTS = (
    _NamePart(tag="hd", owner="problem", field="head_dim"),
    _NamePart(tag="dv", owner="problem", field="head_dim_v", unless="head_dim"),
    _NamePart(tag="causal", owner="problem", field="is_causal", form="flag"),
    _NamePart(tag="local", owner="problem", field="is_local", form="mark"),
    _NamePart(tag="varlen", owner="problem", field="is_varlen", form="mark"),
    _NamePart(tag="softcap", owner="problem", field="has_softcap", form="mark"),
    _NamePart(tag="alibi", owner="problem", field="has_alibi", form="mark"),
    _NamePart(tag="bias", owner="problem", field="has_bias", form="mark"),
    _NamePart(tag="dropout", owner="problem", field="has_dropout", form="mark"),
    _NamePart(tag="sparse", owner="problem", field="is_block_sparse", form="mark"),
)
_SCHEDULE_PARTS = (
    _NamePart(tag="m", owner="schedule", field="block_m"),
    _NamePart(tag="n", owner="schedule", field="block_n"),
    _NamePart(tag="w", owner="schedule", field="num_warps"),
    _NamePart(tag="s", owner="schedule", field="num_stages"),
    _NamePart(tag="qreg", owner="schedule", field="q_in_regs", form="flag"),
    _NamePart(tag="o", owner="schedule", field="num_slices", unless=1),
    _NamePart(tag="pack", owner="schedule", field="pack_gqa", form="mark"),
    _NamePart(tag="p", owner="schedule", field="persistent_blocks", unless=0),
    _NamePart(tag="a", owner="schedule", field="warps_scores"),
    _NamePart(tag="", owner="schedule", field="warps_kv"),
    _NamePart(tag="", owner="schedule", field="warps_q"),
    _NamePart(tag="vreg", owner="schedule", field="v_in_regs", form="mark"),
)


def _name_parts(schedule: type) -> list[_NamePart]:
    names = {field.name for field in fields(schedule)}
    return [*_PROBLEM_PARTS, *[one for one in _SCHEDULE_PARTS if one.field in names]]


@cache
def _name_patterns() -> dict[str, re.Pattern[str]]:
    start = f"_sm(?P<sm>{_NUMBER})_(?P<dtype>{'|'.join(DTYPES)})"
    return {
        name: re.compile(name + start + "".join(one.pattern for one in _name_parts(kind)))
        for name, kind in OPERATIONS.items()
    }


def _match(text: str) -> tuple[str, re.Match[str]] | None:
    """Return the operation that a variant's name begins with and what its pattern matched."""
    found = ((name, pattern.fullmatch(text)) for name, pattern in _name_patterns().items())
    return next(((name, match) for name, match in found if match), None)


def _checked(kind: type, data: object) -> dict[str, Any]:  # Any: checked here, against the dataclass itself
    """Return `data` as keyword arguments of the dataclass `kind`, whose fields are int, bool or str."""
    types = {"int": int, "bool": bool}
    names = {field.name: types.get(str(field.type), str) for field in fields(kind)}
    if not isinstance(data, dict) or set(data) != set(names):
        raise SpecError(f"{kind.__name__} has the fields {', '.join(names)}, got {data!r}")
    for name, expected in names.items():
        if type(data[name]) is not expected:
            raise SpecError(f"{kind.__name__}.{name} must be {expected.__name__}, got {data[name]!r}")
    return data
