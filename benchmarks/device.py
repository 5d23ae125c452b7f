"""Everything that only hardware can tell, from one command, within the minutes you name.

    python benchmarks/device.py --minutes 8 --out DIR [--only STEP ...] [--resume] [--quick]

Needs this checkout, torch 2.10 or newer, jinja2, pyyaml, numpy, nvcc, a host compiler and ninja; no network. Results
are appended to DIR as JSON lines, one file a step, so that a stop at any moment loses nothing; --resume goes on. It
ends with a short table. Without a GPU, `--driver emulator --quick` tries the whole run; nothing is timed then.
Exit status: 0 done, 1 something was found to be wrong or the run could not begin, 2 misused, 130 interrupted.

How to send results: docs/contributing-results.md.
"""

from __future__ import annotations

import argparse
import datetime
import fcntl
import json
import math
import os
import secrets
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
for _folder in (ROOT / "benchmarks", ROOT / "src"):
    if str(_folder) not in sys.path:
        sys.path.insert(0, str(_folder))  # nothing needs to be installed; started processes inherit it

from device_steps.base import Context  # noqa: E402
from device_steps.costs import kind_of_run, read_costs  # noqa: E402
from device_steps.isolation import Isolation  # noqa: E402
from device_steps.modules import kernels_of  # noqa: E402
from device_steps.prepare import (  # noqa: E402
    SetupError,
    check_folder,
    check_packages,
    commit_of,
    existing_module,
    probe,
)
from device_steps.results import SUFFIX, Results  # noqa: E402
from device_steps.runner import Tally, run_steps  # noqa: E402
from device_steps.steps import STEPS, Entry  # noqa: E402
from device_steps.summary import faults_of, summary_data, summary_text  # noqa: E402

DONE, FAILED, MISUSED, INTERRUPTED = 0, 1, 2, 130
_SAME = ("driver", "device", "quick", "seed")  # of a run and those it resumes


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="device.py", description="Check, measure and tune the kernels on this machine's GPU."
    )
    names = [entry.name for entry in STEPS]
    parser.add_argument("--minutes", type=float, default=8.0, metavar="M", help="time for the run (default: 8)")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of results")
    parser.add_argument("--only", nargs="+", metavar="STEP", help=f"these steps only: {', '.join(names)}")
    parser.add_argument("--resume", action="store_true", help="go on with the run whose results are in DIR")
    parser.add_argument("--quick", action="store_true", help="tiny shapes and few repetitions, to see that it works")
    parser.add_argument("--driver", choices=["cuda", "emulator"], default="cuda", help="what launches (default: cuda)")
    parser.add_argument("--seed", type=int, default=0, help="of every random choice (default: 0)")
    parser.add_argument("--module", type=Path, metavar="DIR", help="a dispatch module to use; nothing is built")
    parser.add_argument(
        "--task-seconds", type=float, metavar="S", help="how long one kernel may take before it is killed"
    )
    parser.add_argument(
        "--work", type=Path, default=ROOT / "out" / "device", metavar="DIR", help="for builds (default: out/device)"
    )
    parser.add_argument("--json", action="store_true", help="print the end as JSON")
    args = parser.parse_args(argv)
    if not 0 < args.minutes < math.inf:
        parser.error(f"--minutes must be more than 0, got {args.minutes:g}")
    if args.task_seconds is not None and not 0 < args.task_seconds < math.inf:
        parser.error(f"--task-seconds must be more than 0, got {args.task_seconds:g}")
    unknown = [name for name in args.only or [] if name not in names]
    if unknown:
        parser.error(f"--only {unknown[0]}: no such step; the steps are {', '.join(names)}")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Run, print the table and return the exit status."""
    started = time.monotonic()
    try:
        args = parse(argv)
    except SystemExit as stop:  # argparse has said why
        return stop.code if isinstance(stop.code, int) else MISUSED
    signal.signal(signal.SIGTERM, _interrupt)
    isolation = Isolation()
    try:
        return _run(args, isolation, started)
    except SetupError as error:
        print(f"device: {error}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print(f"device: interrupted; what was found is in {args.out}. Go on with --resume", file=sys.stderr)
        return INTERRUPTED
    finally:
        isolation.close()


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _run(args: argparse.Namespace, isolation: Isolation, started: float) -> int:
    check_packages()
    results = _open_results(args)
    begun = time.monotonic()
    facts = probe(args.driver, isolation)
    probe_s = time.monotonic() - begun
    entries = [entry for entry in STEPS if args.only is None or entry.name in args.only]
    head = _head(args, facts, entries)
    _check_same(results, head)
    results.append(head)
    context = Context(
        out=args.out,
        driver=args.driver,
        quick=args.quick,
        seed=args.seed,
        module_dir=args.work,
        deadline=started + 60 * args.minutes,
        work=args.work.absolute(),
        limit_s=args.task_seconds,
        results=results,
        costs=read_costs(kind_of_run(args.driver, quick=args.quick)),
        isolation=isolation,
    )
    begin_s = context.cost("begin", 10.0, step="environment")
    cost = {"unit": "begin", "wall_s": round(probe_s, 3), "estimate_s": begin_s, "records": 1}
    results.append({"step": "environment", "key": f"{head['key']} begin", "task": cost})
    prepared, build_s = _with_module(args, context, facts, entries)
    tallies: list[Tally] = []
    try:
        run_steps(prepared, entries, tallies)
    finally:
        actual_s = time.monotonic() - started
        estimate_s = begin_s + build_s + sum(one.estimate_s for one in tallies)
        minutes = {"actual_s": round(actual_s, 1), "estimate_s": round(estimate_s, 1)}
        results.append({"step": "environment", "key": f"{head['key']} end", **minutes})
        if args.json:
            print(json.dumps(summary_data(results, tallies, actual_s=actual_s, out=args.out), indent=1), flush=True)
        else:
            print(summary_text(results, tallies, actual_s=actual_s, estimate_s=estimate_s), flush=True)
    return FAILED if faults_of(results) else DONE


def _open_results(args: argparse.Namespace) -> Results:
    """Return the folder of results, for this run alone until the process ends."""
    check_folder(args.out)
    descriptor = os.open(args.out, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise SetupError(f"--out {args.out}: another run is writing there") from error
    results = Results(args.out)
    found = results.load(_warn)
    if found and not args.resume:
        raise SetupError(f"--out {args.out} holds results. Go on with --resume, or choose another folder")
    if args.resume and not any(args.out.glob(f"*{SUFFIX}")):
        raise SetupError(f"--resume: there are no results in {args.out}. Leave --resume out to begin")
    return results


def _head(args: argparse.Namespace, facts: dict[str, Any], entries: Sequence[Entry]) -> dict[str, Any]:  # Any: JSON
    return {
        "step": "environment",
        "key": "run",
        "id": secrets.token_hex(4),
        "begun": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": commit_of(),
        "device": facts["device"],
        "driver": args.driver,
        "quick": args.quick,
        "seed": args.seed,
        "minutes": args.minutes,
        "only": [entry.name for entry in entries],
    }


def _check_same(results: Results, head: dict[str, Any]) -> None:  # Any: JSON
    """Number this run; refuse to mix it with runs of another kind."""
    earlier = [one for one in results.records("environment") if "begun" in one]
    head["key"] = f"run {len(earlier) + 1}"
    for name in _SAME:
        if earlier and earlier[0].get(name) != head[name]:
            raise SetupError(
                f"--resume: the results in {results.folder} are of {name} {earlier[0].get(name)}, this run is of "
                f"{head[name]}. They cannot be mixed; choose another --out"
            )
    if earlier and earlier[-1].get("commit") != head["commit"]:
        _warn(f"the results in {results.folder} are of commit {earlier[-1].get('commit')}, this is {head['commit']}")


def _check_kernels(context: Context) -> None:
    """Keep the digests of the kernels under test; refuse to go on where one has changed since."""
    digests = {kernel.name: kernel.ptx_sha256 for kernel in kernels_of(context.module_dir)}
    before: dict[str, str] = {}
    for record in context.results.records("environment"):
        before |= record.get("kernels_ptx", {})
    changed = sorted(name for name in digests if before.get(name, digests[name]) != digests[name])
    if changed:
        raise SetupError(
            f"--resume: the results in {context.out} are of other kernels; changed since: {', '.join(changed[:3])}"
            f"{' and more' if len(changed) > 3 else ''}. Choose another --out"
        )
    new = {name: digest for name, digest in digests.items() if name not in before}
    if new:
        context.results.append({"step": "environment", "key": "kernels", "kernels_ptx": new})


def _with_module(
    args: argparse.Namespace, context: Context, facts: dict[str, Any], entries: Sequence[Entry]
) -> tuple[Context, float]:  # Any: JSON
    """Return the context with the module it needs, and the seconds its build was estimated at."""
    if not any(entry.needs_module for entry in entries):
        return context, 0.0
    if args.module is not None:
        context = replace(context, module_dir=existing_module(args.module))
        _check_kernels(context)
        return context, 0.0
    from device_steps.build import build_module, module_folder, runnable_sm

    sm = 80 if args.driver == "emulator" else runnable_sm(facts)
    context = replace(context, module_dir=module_folder(context.work, sm, quick=args.quick))
    estimate_s = context.cost("build", 30.0, step="environment")
    context.note(f"building kernels for sm{sm} (about {estimate_s:.0f} s)")
    record = build_module(context, sm, entries)
    cost = {"unit": "build", "wall_s": record["wall_s"], "estimate_s": estimate_s, "records": 1}
    context.results.append({"step": "environment", "key": "build", **record, "task": cost})
    _check_kernels(context)
    return context, estimate_s


def _warn(text: str) -> None:
    print(f"device: warning: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
