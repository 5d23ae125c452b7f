"""`tuner export`, `tuner merge` and `tuner diff`: tables without a search."""

from __future__ import annotations

import argparse
import json
from datetime import date
from pathlib import Path

from kernelwright.build.files import explain_os_error
from kernelwright.gen.devices import Device, devices, reference_device
from kernelwright.gen.errors import BuildError
from kernelwright.tuner.choice import choose
from kernelwright.tuner.compile import source_digest
from kernelwright.tuner.errors import TunerError
from kernelwright.tuner.export import StudyFacts, publish, tuned_rows, write_table
from kernelwright.tuner.ledger import Identity
from kernelwright.tuner.pool import Pool, enumerate_pool
from kernelwright.tuner.records import Record, read_store
from kernelwright.tuner.space import Space, load_space
from kernelwright.tuner.store import SUFFIX, Store
from kernelwright.tuner.tables import diff_tables, diff_text, find_table, merge_tables, write_merged
from kernelwright.tuner.target import Gpu


def export(args: argparse.Namespace) -> int:
    """Make a table from what the store of a space holds, and publish it or leave it in a folder."""
    from kernelwright.build.kernels import build_kernels
    from kernelwright.gen.devices import parse_arch

    space = load_space(args.space, None if args.arch is None else parse_arch(args.arch))
    folder = args.out / "tuner"
    store, record, pool = open_current(space, folder / f"{space.study_name}{SUFFIX}", args.label, args.device)
    outcomes = store.outcomes()
    choice = choose(outcomes, None if pool.default is None else pool.legal.get(pool.default))
    if choice is None:
        raise TunerError(f"{store.path}: none of {len(outcomes)} points succeeded; there is nothing to export")
    facts = StudyFacts(
        study=space.study_name,
        space=space.name,
        identity=store.identity,
        seed=None,
        num_points=len(pool.legal),
        end="exported from the store",
        gpu=gpu_of(record),
        day=date.fromisoformat(record.time[:10]),
    )
    rows = tuned_rows(choice, outcomes, facts, space.shapes)
    named = {str(row["kernel"]) for row in rows}
    chosen = [one for one in outcomes if one.variant.name in named]
    kernels = build_kernels([one.variant for one in chosen], folder / space.study_name, num_jobs=args.jobs)
    verified = {one.variant.name: one.verified for one in chosen}
    try:
        if args.module is not None:
            table = publish(args.module, folder / space.study_name / "table", rows, kernels, verified)
        else:
            table = args.table
            write_table(table, space.study_name, rows, kernels, verified)
    except OSError as error:
        raise BuildError(explain_os_error(error, "writing the table", "another folder")) from error
    if args.json:
        print(json.dumps({"table": str(table), "kernels": sorted(named), "rows": rows}, indent=1))
        return 0
    print(f"{len(named)} kernels in {len(rows)} rows for {len(space.shapes)} shapes ({facts.label}): {table}")
    return 0


def open_current(space: Space, path: Path, label: str | None, device: str | None) -> tuple[Store, Record, Pool]:
    """Return the store of a space as far as it is of the present sources, its last record, and the space's points.

    Raises:
        TunerError: if nothing in it is of the present sources and space, or several devices are and none is named.
    """
    records = list(read_store(path))
    if not records:
        raise TunerError(f"{path}: no results. Make some with tuner run {space.name}")
    pools: dict[str, tuple[Pool, str]] = {}
    fitting: dict[Identity, Record] = {}
    for record in records:
        identity = record.identity
        if identity.device not in pools:
            pool = enumerate_pool(space, device_named(identity.device, space.sm))
            pools[identity.device] = pool, source_digest(pool.legal.values())
        if (identity.space_digest, identity.source_digest) != (space.digest, pools[identity.device][1]):
            continue
        if label in (None, identity.label) and device in (None, identity.device):
            fitting[identity] = record
    if not fitting:
        raise TunerError(
            f"{path}: {len(records)} records, none of these sources, this space"
            f"{'' if label is None else f', {label}'}{'' if device is None else f', {device}'}. They are kept; run "
            f"tuner run {space.name} for new ones"
        )
    if len(fitting) > 1:
        kinds = "; ".join(f"{one.label} on {one.device}, toolkit {one.toolkit}, {one.scorer}" for one in fitting)
        raise TunerError(
            f"{path}: results of {len(fitting)} kinds, which are not mixed: {kinds}. Name one with --label or --device"
        )
    ((identity, record),) = fitting.items()
    return Store(path, space.study_name, identity), record, pools[identity.device][0]


def device_named(name: str, sm: int) -> Device:
    """Return the figures of a device as a store names it, or of the one that stands for the architecture."""
    for key, device in devices().items():
        if name in (key, device.title):
            return device
    return reference_device(sm)


def gpu_of(record: Record) -> Gpu | None:
    """Return the GPU that a record was measured on; None for modelled figures."""
    if record.identity.label == "modelled":
        return None
    known = record.fingerprint or {}
    return Gpu(name=record.identity.device, sm=int(str(known.get("sm", 0))), driver=str(known.get("driver", "")))


def merge(args: argparse.Namespace) -> int:
    """Put two tables together."""
    first, second = find_table(args.first), find_table(args.second)
    content, decisions = merge_tables(first, second, args.table.name, prefer=args.prefer)
    try:
        write_merged(args.table, content, [first, second])
    except OSError as error:
        raise BuildError(explain_os_error(error, "writing the table", "another folder with -o")) from error
    plain = [{"subject": one.subject, "taken": one.taken, "why": one.why} for one in decisions]
    if args.json:
        print(json.dumps({"table": str(args.table), "groups": plain}, indent=1))
        return 0
    for one in decisions:
        print(f"{one.taken}  {one.subject}: {one.why}")
    print(f"{len(content['rows'])} rows, {len(content['kernels'])} kernels: {args.table}")
    return 0


def diff(args: argparse.Namespace) -> int:
    """Tell two tables apart. Exit status 0 whether they differ or not."""
    found = diff_tables(find_table(args.first).content, find_table(args.second).content)
    print(json.dumps(found, indent=1) if args.json else diff_text(found))
    return 0
