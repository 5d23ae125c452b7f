"""Problem (what is computed), schedule (how) and variant (both, for one architecture)."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

from kernelwright.gen.errors import SpecError

Dtype = Literal["fp16", "bf16"]
DTYPES: tuple[Dtype, ...] = get_args(Dtype)
MAX_HEAD_DIM = 256
OPERATION = "flash_fwd"


@dataclass(frozen=True, slots=True, kw_only=True)
class ForwardProblem:
    """What an attention forward kernel computes: the choices made at compile time.

    Args:
        dtype: element type of q, k, v and out; sums are fp32.
        head_dim: elements of a head in q, k and v; a multiple of 8 up to 256.
        is_causal: key j is visible to query i when `j <= i + seqlen_k - seqlen_q`.
    """

    dtype: Dtype
    head_dim: int
    is_causal: bool

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise SpecError(f"dtype must be one of {', '.join(DTYPES)}, got {self.dtype!r}")
        if self.head_dim % 8 or not 8 <= self.head_dim <= MAX_HEAD_DIM:
            raise SpecError(
                f"head_dim must be a multiple of 8 from 8 to {MAX_HEAD_DIM}, got {self.head_dim}; "
                "pad the tensors with zeros"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class ForwardSchedule:
    """How it is computed. Changing a field changes speed, never the result beyond rounding.

    Args:
        block_m: query rows per thread block.
        block_n: keys per iteration of the main loop.
        num_warps: warps per thread block; each owns `block_m / num_warps` query rows.
        num_stages: K and V tiles in shared memory. 1: the next K loads under P V and V under Q K^T. More: a ring.
        q_in_regs: Q fragments are read once and stay in registers, and K and V take over Q's shared memory.
    """

    block_m: int
    block_n: int
    num_warps: int
    num_stages: int
    q_in_regs: bool

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

    @property
    def threads(self) -> int:
        return 32 * self.num_warps


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """A kernel: a problem and a schedule for one architecture. Its name is its identity everywhere."""

    sm: int
    problem: ForwardProblem
    schedule: ForwardSchedule

    @property
    def name(self) -> str:
        parts = [f"{tag}{int(getattr(getattr(self, owner), field))}" for tag, owner, field in _NAME_PARTS]
        return "_".join([OPERATION, f"sm{self.sm}", self.problem.dtype, *parts])

    @property
    def smem_bytes(self) -> int:
        """Dynamic shared memory of a thread block, in bytes."""
        row_bytes = 2 * self.problem.head_dim
        q_bytes = self.schedule.block_m * row_bytes
        ring_bytes = self.schedule.num_stages * 2 * self.schedule.block_n * row_bytes
        return max(q_bytes, ring_bytes) if self.schedule.q_in_regs else q_bytes + ring_bytes

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
        for _, owner, field in _NAME_PARTS:
            parts[owner][field] = bool(int(match[field])) if field in _NAME_FLAGS else int(match[field])
        return cls(
            sm=int(match["sm"]),
            problem=ForwardProblem(**parts["problem"]),
            schedule=ForwardSchedule(**parts["schedule"]),
        )


# What a name says after the architecture and dtype: tag, part of the variant, field.
_NAME_PARTS = (
    ("hd", "problem", "head_dim"),
    ("causal", "problem", "is_causal"),
    ("m", "schedule", "block_m"),
    ("n", "schedule", "block_n"),
    ("w", "schedule", "num_warps"),
    ("s", "schedule", "num_stages"),
    ("qreg", "schedule", "q_in_regs"),
)
_NAME_FLAGS = frozenset({"is_causal", "q_in_regs"})
_NUMBER = "0|[1-9][0-9]{0,8}"  # as Python prints it, so that a variant has one name
_NAME = re.compile(
    f"{OPERATION}_sm(?P<sm>{_NUMBER})_(?P<dtype>{'|'.join(DTYPES)})"
    + "".join(f"_{tag}(?P<{field}>{'[01]' if field in _NAME_FLAGS else _NUMBER})" for tag, _, field in _NAME_PARTS)
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
