"""Problem (what is computed), schedule (how) and variant (both, for one architecture)."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

from kernelwright.gen.errors import SpecError

Dtype = Literal["fp16", "bf16"]
DTYPES: tuple[Dtype, ...] = get_args(Dtype)
MAX_HEAD_DIM = 512
MAX_SLICE = 256
"""Output columns of one thread block: more accumulators than registers beyond."""
OPERATION = "flash_fwd"


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
class Variant:
    """A kernel: a problem and a schedule for one architecture. Its name is its identity everywhere."""

    sm: int
    problem: ForwardProblem
    schedule: ForwardSchedule

    def __post_init__(self) -> None:
        if self.problem.head_dim_v % (8 * self.schedule.num_slices):
            raise SpecError(
                f"num_slices {self.schedule.num_slices} does not cut head_dim_v {self.problem.head_dim_v} into "
                "multiples of 8"
            )
        if self.schedule.pack_gqa and (self.problem.has_dropout or self.problem.is_block_sparse):
            raise SpecError(
                "pack_gqa mixes heads in a tile, which dropout and block-sparse lists, made per head, do not allow"
            )
        if self.slice_columns > MAX_SLICE:
            raise SpecError(
                f"a thread block computes at most {MAX_SLICE} output columns, got {self.slice_columns}; "
                "raise num_slices"
            )

    @property
    def name(self) -> str:
        parts = [one.text(self) for one in _NAME_PARTS]
        return "_".join([OPERATION, f"sm{self.sm}", self.problem.dtype, *[part for part in parts if part]])

    @property
    def slice_columns(self) -> int:
        """Output columns that a thread block computes."""
        return self.problem.head_dim_v // self.schedule.num_slices

    @property
    def smem_bytes(self) -> int:
        """Dynamic shared memory of a thread block, in bytes. The output is staged where Q was, at least."""
        schedule = self.schedule
        qk_row_bytes, v_row_bytes = 2 * self.problem.head_dim, 2 * self.slice_columns
        q_bytes = schedule.block_m * qk_row_bytes
        ring_bytes = schedule.num_stages * schedule.block_n * (qk_row_bytes + v_row_bytes)
        return max(
            max(q_bytes, ring_bytes) if schedule.q_in_regs else q_bytes + ring_bytes, schedule.block_m * v_row_bytes
        )

    def to_dict(self) -> dict[str, object]:
        """Return plain data that `from_dict` reads back."""
        return {"sm": self.sm, "problem": asdict(self.problem), "schedule": asdict(self.schedule)}

    @classmethod
    def from_dict(cls, data: dict[str, object]) -> Variant:
        """Read what `to_dict` wrote.

        Raises:
            SpecError: if a field is missing, unknown or out of range.
        """
        problem, schedule, sm = data.get("problem"), data.get("schedule"), data.get("sm")
        if set(data) != {"sm", "problem", "schedule"} or not isinstance(sm, int):
            raise SpecError(f"a variant has the keys sm, problem and schedule, got {', '.join(map(str, data))}")
        return cls(
            sm=sm,
            problem=ForwardProblem(**_checked(ForwardProblem, problem)),
            schedule=ForwardSchedule(**_checked(ForwardSchedule, schedule)),
        )

    @staticmethod
    def is_name(text: str) -> bool:
        """Whether a text has the form of a variant's name; what it names may still make no sense."""
        return _NAME.fullmatch(text) is not None

    @classmethod
    def parse(cls, name: str) -> Variant:
        """Read a variant's name.

        Raises:
            SpecError: if the text is not the name of a variant.
        """
        match = _NAME.fullmatch(name)
        if match is None:
            raise SpecError(
                f"{name!r} is not a variant's name; one looks like "
                f"{OPERATION}_sm80_bf16_hd64_causal1_m128_n64_w4_s2_qreg0"
            )
        parts: dict[str, dict[str, Any]] = {"problem": {"dtype": match["dtype"]}, "schedule": {}}  # Any: int or bool
        for one in _NAME_PARTS:
            if match[one.field] is not None:
                parts[one.owner][one.field] = one.value(match[one.field])
        return cls(
            sm=int(match["sm"]),
            problem=ForwardProblem(**parts["problem"]),
            schedule=ForwardSchedule(**parts["schedule"]),
        )


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


# What a name says after the architecture and dtype, in order.
_NAME_PARTS = (
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
    _NamePart(tag="m", owner="schedule", field="block_m"),
    _NamePart(tag="n", owner="schedule", field="block_n"),
    _NamePart(tag="w", owner="schedule", field="num_warps"),
    _NamePart(tag="s", owner="schedule", field="num_stages"),
    _NamePart(tag="qreg", owner="schedule", field="q_in_regs", form="flag"),
    _NamePart(tag="o", owner="schedule", field="num_slices", unless=1),
    _NamePart(tag="pack", owner="schedule", field="pack_gqa", form="mark"),
    _NamePart(tag="p", owner="schedule", field="persistent_blocks", unless=0),
)
_NAME = re.compile(
    f"{OPERATION}_sm(?P<sm>{_NUMBER})_(?P<dtype>{'|'.join(DTYPES)})" + "".join(one.pattern for one in _NAME_PARTS)
)


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
