"""A line of a store: reading, writing, and what must be in it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

from kernelwright.gen.errors import ConfigError, SpecError
from kernelwright.gen.schema import Node
from kernelwright.gen.spec import Variant
from kernelwright.runtime.timing import Method
from kernelwright.tuner.bursts import BURST, BURST_FIELDS, BURST_OPTIONAL, Burst, read_burst
from kernelwright.tuner.errors import StoreError
from kernelwright.tuner.ledger import Identity
from kernelwright.tuner.results import INVALIDITY, STATUSES, Label, Outcome

SCHEMA = 1
IDENTITY_FIELDS = [field.name for field in fields(Identity)]
_COMMON = ["schema", "record", "time", "study", *IDENTITY_FIELDS, "variant"]
_OUTCOME = ["status", "kind", "detail", "shapes", "registers", "spill_bytes", "blocks_per_sm", "verified", "seconds"]
_SHAPE = ["figure", "samples", "state"]
_SHAPE_OPTIONAL = ["method", "dropped"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A line of a store.

    Args:
        study: its name.
        identity: what the figures depend on.
        variant: the point.
        outcome: what came of it; None where it was made free again.
        time: when it was written, UTC, ISO 8601.
        stage: what it was tried for; "search" for the search itself.
        fingerprint: of the GPU: name, architecture, driver; empty for modelled figures.
    """

    study: str
    identity: Identity
    variant: Variant
    outcome: Outcome | None
    time: str
    stage: str = "search"
    fingerprint: Mapping[str, object] | None = None


def read_store(path: Path) -> Iterator[Record]:
    """Yield what became of points, whatever their identity; none if there is no file. Bursts are checked and left out.

    Raises:
        StoreError: naming the line and the place in it of the first fault.
    """
    return (one for one in _read(path) if isinstance(one, Record))


def read_bursts(path: Path) -> Iterator[tuple[Identity, Burst]]:
    """Yield the bursts of a file in the order in which they were taken, with what they depend on.

    Raises:
        StoreError: see `read_store`.
    """
    return (one for one in _read(path) if not isinstance(one, Record))


def _read(path: Path) -> Iterator[Record | tuple[Identity, Burst]]:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return
    except OSError as error:
        raise StoreError(f"{path}: cannot be read: {error.strerror}") from error
    for number, line in enumerate(data.splitlines(), 1):
        where = f"{path}:{number}"
        try:
            value = json.loads(line)
        except ValueError as error:
            raise StoreError(
                f"{where}: not JSON ({error}). Only a last line may be cut off. Mend or remove the line, or give "
                "another --out"
            ) from error
        yield _read_record(Node(value, where))


def head(record: str, time: str, study: str, identity: Identity, variant: Variant) -> dict[str, object]:
    """Return what every line holds."""
    return {
        "schema": SCHEMA,
        "record": record,
        "time": time,
        "study": study,
        **asdict(identity),
        "variant": variant.name,
    }


def to_plain(record: Record) -> dict[str, object]:
    """Return a record as plain data."""
    kind = "outcome" if record.outcome is not None else "free"
    data = head(kind, record.time, record.study, record.identity, record.variant)
    if record.stage != "search":
        data["stage"] = record.stage
    if record.outcome is not None and record.outcome.final:
        data["final"] = record.outcome.final
    if record.fingerprint:
        data["fingerprint"] = dict(record.fingerprint)
    outcome = record.outcome
    if outcome is None:
        return data
    return data | {
        "status": outcome.status,
        "kind": outcome.kind,
        "detail": outcome.detail,
        "shapes": {
            name: {
                "figure": figure,
                "samples": list(outcome.samples.get(name, ())),
                "state": outcome.states.get(name),
                **({"method": outcome.methods[name]} if name in outcome.methods else {}),
                **({"dropped": outcome.dropped[name]} if name in outcome.dropped else {}),
            }
            for name, figure in outcome.figures.items()
        },
        "registers": outcome.registers,
        "spill_bytes": outcome.spill_bytes,
        "blocks_per_sm": outcome.blocks_per_sm,
        "verified": None if outcome.verified is None else dict(outcome.verified),
        "seconds": outcome.seconds,
    }


def _read_record(root: Node) -> Record | tuple[Identity, Burst]:
    try:
        top = root.members()
        found = top["schema"].integer(1) if "schema" in top else None
        if found != SCHEMA:
            raise root.fail(f"schema is {found}; this version reads schema {SCHEMA}")
        kinds = ["outcome", "free", BURST]
        kind = top["record"].text(kinds) if "record" in top else "outcome"
        fields_of: dict[str, tuple[list[str], list[str]]] = {
            "outcome": (_OUTCOME, ["stage", "fingerprint", "final"]),
            "free": ([], ["stage", "fingerprint", "final"]),
            BURST: (BURST_FIELDS, BURST_OPTIONAL),
        }
        required, optional = fields_of[kind]
        members = root.mapping([*_COMMON, *required], optional)
        variant = _variant(members["variant"])
        label: Label = "modelled" if members["label"].text(["modelled", "measured"]) == "modelled" else "measured"
        texts = {name: members[name].text() for name in IDENTITY_FIELDS if name != "label"}
        identity = Identity(label=label, **texts)
        if kind == BURST:
            return identity, read_burst(members, variant)
        return Record(
            study=members["study"].text(),
            identity=identity,
            variant=variant,
            outcome=_outcome(members, variant) if kind == "outcome" else None,
            time=members["time"].text(),
            stage=members["stage"].text() if "stage" in members else "search",
            fingerprint={key: one.value for key, one in members["fingerprint"].members().items()}
            if "fingerprint" in members
            else None,
        )
    except ConfigError as error:
        raise StoreError(f"{error}. Mend or remove the line, or give another --out") from error


def _variant(node: Node) -> Variant:
    try:
        return _parsed(node.text())
    except SpecError as error:
        raise node.fail(str(error)) from error


@cache
def _parsed(name: str) -> Variant:
    """Return the variant of a name; a final has hundreds of lines about each."""
    return Variant.parse(name)


def _outcome(members: Mapping[str, Node], variant: Variant) -> Outcome:
    status = next(one for one in STATUSES if one == members["status"].text(STATUSES))
    members["kind"].text([INVALIDITY[status]])
    figures: dict[str, float] = {}
    samples: dict[str, tuple[float, ...]] = {}
    states: dict[str, Mapping[str, Any]] = {}
    methods: dict[str, Method] = {}
    dropped: dict[str, str] = {}
    for name, node in members["shapes"].members().items():
        shape = node.mapping(_SHAPE, _SHAPE_OPTIONAL)
        figures[name] = _number(shape["figure"])
        found = shape["samples"].value
        samples[name] = tuple(_number(one) for one in shape["samples"].items()) if found else ()
        if shape["state"].value is not None:
            states[name] = {key: one.value for key, one in shape["state"].members().items()}
        if "method" in shape:
            methods[name] = "graph" if shape["method"].text(["events", "graph"]) == "graph" else "events"
        if "dropped" in shape:
            dropped[name] = shape["dropped"].text()
    verified = members["verified"]
    return Outcome(
        variant=variant,
        status=status,
        detail=members["detail"].text(),
        figures=figures,
        samples={name: values for name, values in samples.items() if values},
        states=states,
        methods=methods,
        dropped=dropped,
        registers=members["registers"].integer(0),
        spill_bytes=members["spill_bytes"].integer(0),
        blocks_per_sm=members["blocks_per_sm"].integer(0),
        verified=None if verified.value is None else {key: one.value for key, one in verified.members().items()},
        seconds=_number(members["seconds"]),
        final=members["final"].integer(1) if "final" in members else 0,
    )


def _number(node: Node) -> float:
    if isinstance(node.value, bool) or not isinstance(node.value, int | float):
        raise node.fail(f"expected a number, found {node.value!r}")
    return node.value
