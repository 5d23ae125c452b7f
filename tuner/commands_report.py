"""`tuner report`: a study as one HTML page."""

from __future__ import annotations

import argparse
import webbrowser
from datetime import date

from kernelwright.build.files import explain_os_error, write_atomic
from kernelwright.gen.devices import parse_arch
from kernelwright.gen.errors import BuildError
from kernelwright.tuner.choice import choose
from kernelwright.tuner.commands_tables import device_named, gpu_of, open_current
from kernelwright.tuner.errors import TunerError
from kernelwright.tuner.export import StudyFacts, tuned_rows
from kernelwright.tuner.html_report import Study, page
from kernelwright.tuner.space import load_space
from kernelwright.tuner.store import SUFFIX


def report(args: argparse.Namespace) -> int:
    """Write the page, and show it if asked to."""
    space = load_space(args.space, None if args.arch is None else parse_arch(args.arch))
    path = args.out / "tuner" / f"{space.study_name}{SUFFIX}"
    store, record, pool = open_current(space, path, args.label, args.device)
    outcomes = store.outcomes()
    choice = choose(outcomes, None if pool.default is None else pool.legal.get(pool.default))
    if choice is None:
        raise TunerError(f"{path}: none of {len(outcomes)} points succeeded; there is nothing to draw")
    facts = StudyFacts(
        study=space.study_name,
        space=space.name,
        identity=store.identity,
        seed=None,
        num_points=len(pool.legal),
        end="",
        gpu=gpu_of(record),
        day=date.fromisoformat(record.time[:10]),
    )
    study = Study(
        facts=facts,
        outcomes=outcomes,
        choice=choice,
        rows=tuned_rows(choice, outcomes, facts, space.shapes),
        shapes=space.shapes,
        device=device_named(store.identity.device, space.sm),
        searched=store.searched(),
        notes=[store.others_text()] if store.num_others else [],
    )
    try:
        args.page.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(args.page, page(study).encode())
    except OSError as error:
        raise BuildError(explain_os_error(error, "writing the report", "another file with -o")) from error
    print(args.page)
    if args.open:
        webbrowser.open(args.page.absolute().as_uri())
    return 0
