"""Where a search begins: winners that are known already, and what the model expects of every point."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from kernelwright.gen.constraints import least_registers
from kernelwright.gen.devices import Device
from kernelwright.gen.errors import KernelError, SpecError
from kernelwright.gen.spec import Variant
from kernelwright.tuner.errors import StoreError
from kernelwright.tuner.model import model_cycles
from kernelwright.tuner.pool import Pool
from kernelwright.tuner.records import Record, read_store
from kernelwright.tuner.results import ranked
from kernelwright.tuner.shapes import Shape
from kernelwright.tuner.space import Point, Space, point_of
from kernelwright.tuner.store import SUFFIX
from kernelwright.tuner.tables import find_table

_log = logging.getLogger(__name__)
MAX_SEEDS = 8
_BEST_OF_A_STORE = 2


def winners(space: Space, pool: Pool, tables: Iterable[Path], stores: Iterable[Path]) -> tuple[Point, ...]:
    """Return what won for the same operation and problem before, as points of the pool; the same architecture's first.

    They are tried early and not believed: a winner of another GPU, or of older sources, has no figure here.

    Args:
        space, pool: what is to be searched.
        tables: table folders and modules; folders without a table are passed over.
        stores: of studies, this one's included: what other sources or devices left in it counts.
    """
    known = [*_of_tables(tables), *_of_stores(stores)]
    fitting = [one for one in known if one.problem == space.problem and one.operation == space.operation]
    order = sorted(fitting, key=lambda one: one.sm != space.sm)  # stable: tables before stores
    points = dict.fromkeys(point_of(one.schedule) for one in order)
    return tuple(point for point in points if point in pool.legal and point != pool.default)[:MAX_SEEDS]


def find_tables(out: Path, module: Path, configs: Path) -> list[Path]:
    """Return where a user's tables may be: the module, modules and studies beside it, and `configs/tables`."""
    beside = [*sorted(out.glob("flash_*")), *sorted((out / "tuner").glob("*/table"))]
    return list(dict.fromkeys([module, *sorted((configs / "tables").glob("*")), *beside]))


def find_stores(folder: Path) -> list[Path]:
    """Return the stores of a folder of studies."""
    return sorted(folder.glob(f"*{SUFFIX}"))


def prior(pool: Pool, device: Device, shapes: Sequence[Shape]) -> list[float]:
    """Return what the model says of every point before it is compiled: the lower, the better.

    Registers are those that the tiles cannot do without.
    """
    return [_expected(variant, device, shapes) for variant in pool.legal.values()]


def _expected(variant: Variant, device: Device, shapes: Sequence[Shape]) -> float:
    try:
        cycles = [model_cycles(variant, device, shape, least_registers(variant)) for shape in shapes]
    except ValueError:  # no block fits on an SM
        return math.inf
    return sum(map(math.log, cycles))


def _of_tables(folders: Iterable[Path]) -> Iterator[Variant]:
    for folder in folders:
        if not any((folder / place).exists() for place in ("table.json", "tuned/current")):
            continue
        try:
            rows = find_table(folder).content["rows"]
            yield from (Variant.parse(row["kernel"]) for row in rows if row["label"] != "hand")
        except (KernelError, SpecError) as error:
            _log.warning("%s: its winners are not tried: %s", folder, error)


def _of_stores(paths: Iterable[Path]) -> Iterator[Variant]:
    for path in paths:
        try:
            records = list(read_store(path))
        except StoreError as error:
            _log.warning("%s: its winners are not tried: %s", path, error)
            continue
        by_identity: dict[object, dict[Variant, Record]] = {}
        for record in records:
            by_identity.setdefault(record.identity, {})[record.variant] = record
        for found in by_identity.values():
            outcomes = [record.outcome for record in found.values() if record.outcome is not None]
            yield from (one.variant for one in ranked(outcomes)[:_BEST_OF_A_STORE])
