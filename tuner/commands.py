"""`tuner run`: puts the parts together, publishes and prints."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kernelwright import resource_dir
from kernelwright.build.jobs import usable_cores
from kernelwright.gen.errors import ConfigError
from kernelwright.gen.spec import OPERATION, Variant
from kernelwright.tuner.compile import NinjaCompiler, source_digest
from kernelwright.tuner.errors import UsageError
from kernelwright.tuner.export import failures, publish, require_writable, tuned_rows, write_table
from kernelwright.tuner.ledger import Identity
from kernelwright.tuner.pool import Pool, enumerate_pool, require_legal_points
from kernelwright.tuner.report import describe_pool, pool_text, ranking, ranking_text, rows_text, standing_text
from kernelwright.tuner.search import Budget
from kernelwright.tuner.seeds import find_stores, find_tables, winners
from kernelwright.tuner.space import DEFAULT_SPACE, Point, Space, load_space, space_names
from kernelwright.tuner.strategy_names import parse_strategy
from kernelwright.tuner.target import Target, choose_target, find_gpu
from kernelwright.tuner.tune import Request, Result, tune
from kernelwright.tuner.work import Work


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """Where a table went: into a module, or into a folder of its own that `load_table` takes; the rows it got."""

    module: Path | None
    table: Path
    rows: Sequence[Mapping[str, Any]] = ()


def run(args: argparse.Namespace) -> int:
    """Tune, publish and print."""
    _check(args)
    if args.strategy is not None:
        parse_strategy(args.strategy)  # before anything is done
    name = args.space or DEFAULT_SPACE
    space = _load(name, None)
    target = choose_target(args.arch, args.backend, space.sm, None if args.dry_run else find_gpu())
    space = _load(name, target.sm)
    pool = enumerate_pool(space, target.device)
    if args.dry_run:
        print(_json(describe_pool(space, target.device, pool)) if args.json else pool_text(space, target.device, pool))
        return 0
    require_legal_points(space, target.device, pool)
    folder = args.out / "tuner"
    request = Request(
        space=space,
        device=target.device,
        pool=pool,
        out=folder,
        storage=args.storage,
        budget=Budget(trials=args.trials, seconds=60 * args.minutes),
        seed=args.seed,
        jobs=args.jobs or usable_cores(),
        resume=args.resume,
        gpu=target.gpu,
        retry_quarantined=args.retry_quarantined,
        strategy=None if args.strategy is None else parse_strategy(args.strategy),
        first=_seeds(space, pool, args.module, args.out),
    )
    result, published = tune_and_publish(request, target, args.module, args.out)
    if args.json:
        print(_json(_plain(request, result, published)))
    else:
        _print(request, result, published)
    return 0


def tune_and_publish(request: Request, target: Target, module: Path | None, out: Path) -> tuple[Result, Published]:
    """Run the study with the real compiler, verifier and scorer, and publish what it finds."""
    from kernelwright.build.settings import read_settings
    from kernelwright.build.toolchain import find_toolchain

    build = request.out / request.space.study_name
    if module is not None and not (module / "build_info.json").is_file():
        raise UsageError(f"--module {module}: no dispatch module is there. Build one with gen build, or leave it out")
    target_module = module or out / f"flash_sm{request.space.sm}"
    if (target_module / "build_info.json").is_file():
        require_writable(target_module)
    toolchain = find_toolchain(read_settings())
    scorer_version, make_work = _work(request, target, build)
    identity = Identity(
        label=target.label,
        space_digest=request.space.digest,
        source_digest=source_digest(request.pool.legal.values()),
        device=target.gpu.name if target.gpu else target.device.name,
        toolkit=toolchain.version,
        scorer=scorer_version,
    )
    result = tune(request, identity, make_work)
    return result, publish_result(request, result, target_module, build)


def publish_result(request: Request, result: Result, module: Path, build: Path) -> Published:
    """Put what was found into the module if there is one, else leave its table in `build`."""
    from kernelwright.build.kernels import build_kernels

    rows = tuned_rows(result.choice, result.outcomes, result.facts, request.space.shapes)
    named = {str(row["kernel"]) for row in rows}
    chosen = [one for one in result.outcomes if one.variant.name in named]
    kernels = build_kernels([one.variant for one in chosen], build, num_jobs=1)  # from the cache
    verified = {one.variant.name: one.verified for one in chosen}
    table = build / "table"
    if (module / "build_info.json").is_file():
        return Published(module=module, table=publish(module, table, rows, kernels, verified), rows=rows)
    write_table(table, request.space.study_name, rows, kernels, verified)
    return Published(module=None, table=table, rows=rows)


def _seeds(space: Space, pool: Pool, module: Path | None, out: Path) -> tuple[Point, ...]:
    """Return what won before, out of the user's tables and the results of other studies."""
    tables = find_tables(out, module or out / f"flash_sm{space.sm}", resource_dir("configs"))
    return winners(space, pool, tables, find_stores(out / "tuner"))


def _work(request: Request, target: Target, build: Path) -> tuple[str, Callable[[], Work]]:
    """Return the scorer's version, and what makes the work when there is any."""
    from kernelwright.tuner.backend import make_work, scorer_version

    first: Variant = next(iter(request.pool.legal.values()))
    compiler = NinjaCompiler(out=build, jobs=request.jobs)
    return scorer_version(target.label), lambda: make_work(request, target, compiler, first)


def _check(args: argparse.Namespace) -> None:
    if args.trials < 1:
        raise UsageError(f"--trials must be at least 1, got {args.trials}")
    if not 0 < args.minutes < math.inf:
        raise UsageError(f"--minutes must be more than 0, got {args.minutes:g}")
    if args.jobs is not None and args.jobs < 1:
        raise UsageError(f"--jobs must be at least 1, got {args.jobs}")
    if not 0 <= args.seed < 1 << 32:
        raise UsageError(f"--seed must be from 0 to 4294967295, got {args.seed}")
    if args.retry_quarantined and not args.resume:
        raise UsageError("--retry-quarantined needs --resume: it is about an earlier run")
    if args.space == "":
        raise UsageError(f"SPACE is empty; known: {', '.join(space_names())}, or a path ending in .yaml")
    if args.out.exists() and not args.out.is_dir():
        raise UsageError(f"--out {args.out}: not a folder")


def _load(name: str, sm: int | None) -> Space:
    try:
        return load_space(name, sm)
    except ConfigError as error:
        if not name.endswith((".yaml", ".yml")) and name not in space_names():
            raise UsageError(str(error)) from error
        raise


def _json(value: object) -> str:
    return json.dumps(value, indent=1)


def _plain(request: Request, result: Result, published: Published) -> dict[str, object]:
    facts = result.facts
    return {
        **describe_pool(request.space, request.device, request.pool),
        "label": facts.label,
        "study": facts.study,
        "storage": request.where,
        "trials": len(result.outcomes),
        "search": facts.end,
        "failures": failures(result.outcomes),
        "failed": [
            {"variant": one.variant.name, "kind": one.kind, "detail": one.detail}
            for one in result.outcomes
            if one.status != "ok"
        ],
        "ranking": ranking(result.outcomes, facts.label),
        "winner": result.choice.winner.variant.name,
        "rows": [{key: row[key] for key in ("kernel", "when", "label", "device")} for row in published.rows],
        "standing": result.choice.standing,
        "module": None if published.module is None else str(published.module),
        "table": str(published.table),
    }


def _print(request: Request, result: Result, published: Published) -> None:
    facts = result.facts
    print(ranking_text(result.outcomes, result.choice, facts.label))
    print(standing_text(result.choice, facts.label))
    if facts.end != "every point tried":
        tried = f"{len(result.outcomes)} of {facts.num_points} points tried ({facts.end})"
        print(f"{tried}; go on with --resume and more --trials or --minutes.")
    if published.rows:
        print(rows_text(published.rows))
    problem = request.space.problem
    if published.module is not None:
        where = published.module.absolute()
        print(f"\nPublished into {published.module}; the next import uses it, no rebuild needed:\n")
        print(f"    import sys; sys.path.insert(0, {str(where.parent)!r})")
        print(f"    import {where.name}")
        print(f"    {where.name}.support()")
        return
    print(f"\nThe table is in {published.table}. Use it with a module for sm{request.space.sm}:\n")
    build = f"gen build --arch sm{request.space.sm} --head-dim {problem.head_dim} --dtype {problem.dtype}"
    build += "" if request.space.operation == OPERATION else " --backward"
    print(f"    {build}")
    print("    and, in Python:")
    print(f"    import flash_sm{request.space.sm}")
    print(f"    flash_sm{request.space.sm}.load_table({str(published.table.absolute())!r})")
    print("\nor, once the module is built, publish it there for good with the same command and --resume.")
    sys.stdout.flush()
