"""From a finished study to a tuned table: its row with the evidence, merged with the module's other tuned rows."""

from __future__ import annotations

import json
import logging
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from kernelwright.build.files import explain_os_error
from kernelwright.build.kernels import BuiltKernel
from kernelwright.build.locks import locked
from kernelwright.build.module import publish_tuned
from kernelwright.build.table_folder import TABLE_FILE, put_folder, read_table, table_bytes, table_folder_files
from kernelwright.gen.errors import BuildError
from kernelwright.tuner.choice import Choice, standing_of
from kernelwright.tuner.coverage import Cover, cover, losses
from kernelwright.tuner.intervals import geometric_mean, interval_of, is_tied
from kernelwright.tuner.ledger import Identity
from kernelwright.tuner.results import FIGURE_FIELD, Label, Outcome, contenders, ranked
from kernelwright.tuner.rules import Rule, make_rules
from kernelwright.tuner.shapes import Shape
from kernelwright.tuner.target import Gpu

_log = logging.getLogger(__name__)
Table = dict[str, Any]  # table.json as plain data; the run time checks it when it loads it


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyFacts:
    """What a row says about where it comes from.

    Args:
        study: Optuna's name of it.
        space: the space's name.
        identity: what the figures depend on.
        seed: of the search; None where that is not known.
        num_points: legal points of the space.
        end: why the search stopped.
        gpu: the GPU that a row is for alone, or None for every GPU of the architecture.
        day: when the study ended.
    """

    study: str
    space: str
    identity: Identity
    seed: int | None
    num_points: int
    end: str
    gpu: Gpu | None
    day: date

    @property
    def label(self) -> Label:
        return self.identity.label


def tuned_rows(
    choice: Choice, outcomes: Sequence[Outcome], facts: StudyFacts, shapes: Sequence[Shape]
) -> list[dict[str, object]]:
    """Return the rows of a study: the fewest kernels that are nearly the best on every shape, and when each is taken.

    Every row says which shapes it rests on, how its kernel stands against the default and the runner-up there, and
    what the whole set loses against the best kernel of each shape. Figures are named by what they are.
    """
    names = [shape.name for shape in shapes]
    good = {one.variant.name: one for one in ranked(contenders(outcomes)) if set(names) <= set(one.figures)}
    default = choice.default if choice.default is not None and choice.default.variant.name in good else None
    default_name = None if default is None else default.variant.name
    best = {name: min(good.values(), key=lambda one, name=name: one.figures[name]) for name in names}  # type: ignore[misc]
    tied = [name for name in names if default is not None and is_tied(default, best[name], [name])]
    found = losses({name: one.figures for name, one in good.items()}, default_name, tied)
    covered = cover(found, default=default_name)
    return [
        _row(rule, good, default, facts, {**_common(outcomes, facts), "cover": _cover_facts(covered, len(names))})
        for rule in make_rules(shapes, covered.choice, found)
    ]


def _row(
    rule: Rule, good: Mapping[str, Outcome], default: Outcome | None, facts: StudyFacts, common: Mapping[str, object]
) -> dict[str, object]:
    figure, shapes, winner = FIGURE_FIELD[facts.label], rule.shapes, good[rule.kernel]

    def score(one: Outcome) -> float:
        return round(geometric_mean(one.figures, shapes), 3)

    others = [one for one in good.values() if one is not winner]
    runner_up = min(others, key=lambda one: (score(one), one.variant.name), default=None)
    intervals = {shape: interval_of(winner, shape) for shape in shapes}
    is_first = runner_up is None or score(winner) <= score(runner_up)
    standing = standing_of(winner, default, shapes, is_first=is_first)
    return {
        "kernel": rule.kernel,
        "device": None if facts.gpu is None else facts.gpu.name,
        "label": facts.label,
        "when": {size: list(bounds) for size, bounds in rule.when.items()},
        "evidence": {
            figure: {shape: winner.figures[shape] for shape in shapes},
            **({"interval": {s: list(one) for s, one in intervals.items() if one}} if any(intervals.values()) else {}),
            "score": score(winner),
            "statistic": f"geometric mean of {figure} over the shapes",
            "standing": standing,
            "tied": standing == "tied with default",
            "default": None if default is None else {"variant": default.variant.name, figure: score(default)},
            **common,
        },
        "runner_up": None
        if runner_up is None
        else {
            "variant": runner_up.variant.name,
            figure: score(runner_up),
            "tied": is_tied(winner, runner_up, shapes),
        },
    }


def _common(outcomes: Sequence[Outcome], facts: StudyFacts) -> dict[str, object]:
    return {
        "trials": len(outcomes),
        "points": facts.num_points,
        "search": facts.end,
        "failures": failures(outcomes),
        "date": facts.day.isoformat(),
        "seed": facts.seed,
        "device": facts.identity.device,
        "toolkit": facts.identity.toolkit,
        **({} if facts.gpu is None else {"driver": facts.gpu.driver}),
        "source_digest": facts.identity.source_digest,
        "study": facts.study,
        "space": facts.space,
        "by": facts.identity.scorer,
    }


def _cover_facts(covered: Cover, num_shapes: int) -> dict[str, object]:
    return {
        "kernels": len(covered.kernels),
        "shapes": num_shapes,
        "worst_loss": round(covered.worst, 4),
        "geomean_loss": round(covered.geomean, 4),
        "method": covered.method,
        "meets_bounds": covered.meets,
    }


def failures(outcomes: Sequence[Outcome]) -> dict[str, int]:
    """Return how many points failed, by kind."""
    return dict(sorted(Counter(one.kind for one in outcomes if one.status != "ok").items()))


def merge(old: Table | None, new: Table) -> Table:
    """Return the new table with those rows of the old one that speak of another problem, architecture or device."""
    if old is None:
        return new
    replaced = {_subject(new, row) for row in new["rows"]}
    kept = [row for row in old["rows"] if _subject(old, row) not in replaced]
    kernels = {row["kernel"]: old["kernels"][row["kernel"]] for row in kept} | new["kernels"]
    operations = {**old["operations"], **new["operations"]}
    return new | {"operations": operations, "kernels": dict(sorted(kernels.items())), "rows": [*kept, *new["rows"]]}


def _subject(table: Table, row: Mapping[str, Any]) -> str:
    kernel = table["kernels"][row["kernel"]]
    return json.dumps([kernel["operation"], kernel["sm"], kernel["problem"], row["device"]], sort_keys=True)


def write_table(
    folder: Path,
    name: str,
    rows: Sequence[Mapping[str, object]],
    kernels: Sequence[BuiltKernel],
    verified: Mapping[str, Mapping[str, object] | None],
    merge_with: Path | None = None,
) -> None:
    """Write a table folder with what a study found, and what it keeps of the table folder `merge_with`.

    Args:
        folder: replaced if it exists.
        name: of the table, for messages.
        rows: from `tuned_rows`.
        kernels: those that the rows name.
        verified: the check that each kernel passed, by its name.
        merge_with: a table folder.

    Raises:
        OSError: if it cannot be written.
    """
    files = table_folder_files(name, rows, kernels)
    content: Table = json.loads(files.pop(TABLE_FILE))
    for kernel in kernels:
        check = verified.get(kernel.variant.name)
        content["kernels"][kernel.variant.name]["verified"] = [dict(check)] if check else []
    old = None if merge_with is None else _old_table(merge_with, content)
    merged = merge(old, content)
    for entry in merged["kernels"].values():
        for record in entry["files"].values():
            if record["file"] not in files:
                assert merge_with is not None
                files[record["file"]] = (merge_with / record["file"]).read_bytes()
    folder.parent.mkdir(parents=True, exist_ok=True)
    put_folder(folder, files | {TABLE_FILE: table_bytes(merged)})


def launch_alike(one: Table, other: Table) -> bool:
    """Return whether the operations that two tables both have are launched in the same way."""
    common = set(one["operations"]) & set(other["operations"])
    return all(one["operations"][name] == other["operations"][name] for name in common)


def _old_table(folder: Path, new: Table) -> Table | None:
    try:
        old = read_table(folder)
    except BuildError as error:
        _log.warning("%s: earlier tuned rows are left out: %s", folder, error)
        return None
    if old.get("schema") != new["schema"] or not launch_alike(old, new):
        _log.warning("%s: earlier tuned rows are left out: made for another version", folder)
        return None
    return old


def require_writable(module: Path) -> None:
    """See that a study could be published into a module, before it takes its minutes.

    Raises:
        BuildError: if it may not be written.
    """
    try:
        with tempfile.TemporaryDirectory(dir=module):
            pass
    except OSError as error:
        raise BuildError(explain_os_error(error, f"publishing into {module}", "another --module")) from error


def publish(
    module: Path,
    folder: Path,
    rows: Sequence[Mapping[str, object]],
    kernels: Sequence[BuiltKernel],
    verified: Mapping[str, Mapping[str, object] | None],
) -> Path:
    """Make what a study found the module's choice for its problem; the next import uses it.

    Args:
        module: a dispatch module.
        folder: where the merged table is made first.
        rows, kernels, verified: as for `write_table`.

    Returns:
        The tuned table's folder.

    Raises:
        BuildError: if `module` is none, or may not be written.
    """
    if not (module / "build_info.json").is_file():
        raise BuildError(f"{module}: no dispatch module. Build one with gen build, or leave out --module")
    try:
        tuned = module / "tuned"
        tuned.mkdir(exist_ok=True)
        with locked(tuned, f"another tuner is publishing into {module}"):
            current = tuned / "current"
            earlier = tuned / current.read_text().strip() if current.is_file() else None
            write_table(folder, module.name, rows, kernels, verified, earlier)
            return publish_tuned(module, folder)
    except OSError as error:
        raise BuildError(explain_os_error(error, f"publishing into {module}", "another --module")) from error
