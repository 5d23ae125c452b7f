"""The raw samples of a final, burst by burst: what its races and rounds rest on. The store keeps them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from kernelwright.gen.schema import Node
from kernelwright.gen.spec import Variant
from kernelwright.runtime.timing import Method

Part = Literal["race", "rounds"]
BURST = "burst"
BURST_FIELDS = ["final", "part", "shape", "samples", "method"]
BURST_OPTIONAL = ["state", "fingerprint"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Burst:
    """The samples of one visit to a kernel, in a row.

    Args:
        variant, shape: what was timed.
        final: the number of the final. One that was interrupted leaves bursts, and the next has its number again.
        part: whether kernels were raced on this shape, or met in the rounds over all shapes.
        samples: raw; the first of a visit is never used.
        method: how they were taken.
        state: of the GPU after them, where it tells it.
    """

    variant: Variant
    shape: str
    final: int
    part: Part
    samples: Sequence[float]
    method: Method
    state: Mapping[str, object] | None = None

    def to_plain(self) -> dict[str, object]:
        """Return what a record of it holds beside what all records do."""
        data: dict[str, object] = {
            "final": self.final,
            "part": self.part,
            "shape": self.shape,
            "samples": list(self.samples),
            "method": self.method,
        }
        return data if self.state is None else data | {"state": dict(self.state)}


def read_burst(members: Mapping[str, Node], variant: Variant) -> Burst:
    """Return the burst of a record's members.

    Raises:
        ConfigError: naming the place of the first fault.
    """
    part: Part = "race" if members["part"].text(["race", "rounds"]) == "race" else "rounds"
    method: Method = "graph" if members["method"].text(["events", "graph"]) == "graph" else "events"
    state = {key: one.value for key, one in members["state"].members().items()} if "state" in members else None
    return Burst(
        variant=variant,
        shape=members["shape"].text(),
        final=members["final"].integer(1),
        part=part,
        samples=tuple(_numbers(members["samples"])),
        method=method,
        state=state,
    )


def _numbers(node: Node) -> Iterator[float]:
    for one in node.items():
        if isinstance(one.value, bool) or not isinstance(one.value, int | float):
            raise one.fail(f"expected a number, found {one.value!r}")
        yield one.value
