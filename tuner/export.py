"""From a finished study to a tuned table: its row with the evidence, merged with the module's other tuned rows."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from kernelwright.build.kernels import BuiltKernel
from kernelwright.build.locks import locked
from kernelwright.build.module import publish_tuned
from kernelwright.build.table_folder import TABLE_FILE, put_folder, read_table, table_bytes, table_folder_files
from kernelwright.gen.errors import BuildError
from kernelwright.tuner.ledger import Identity
from kernelwright.tuner.results import FIGURE_FIELD, Choice, Label, Outcome
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
        seed: of the search.
        num_points: legal points of the space.
        end: why the search stopped.
        gpu: the GPU that a row is for alone, or None for every GPU of the architecture.
        day: when the study ended.
    """

    study: str
    space: str
    identity: Identity
    seed: int
    num_points: int
    end: str
    gpu: Gpu | None
    day: date

    @property
    def label(self) -> Label:
        return self.identity.label


def tuned_row(choice: Choice, outcomes: Sequence[Outcome], facts: StudyFacts) -> dict[str, object]:
    """Return the row of a study's winner. Its figures are named by what they are."""
    figure = FIGURE_FIELD[facts.label]
    winner, runner_up, default = choice.winner, choice.runner_up, choice.default
    return {
        "kernel": winner.variant.name,
        "device": None if facts.gpu is None else facts.gpu.name,
        "label": facts.label,
        "when": {},
        "evidence": {
            figure: dict(winner.figures),
            "score": round(winner.score, 3),
            "statistic": f"geometric mean of {figure} over the shapes",
            "standing": choice.standing,
            "default": None if default is None else {"variant": default.variant.name, figure: round(default.score, 3)},
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
        },
        "runner_up": None
        if runner_up is None
        else {"variant": runner_up.variant.name, figure: round(runner_up.score, 3), "tied": choice.is_tied},
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
    return new | {"kernels": dict(sorted(kernels.items())), "rows": [*kept, *new["rows"]]}


def _subject(table: Table, row: Mapping[str, Any]) -> str:
    kernel = table["kernels"][row["kernel"]]
    return json.dumps([kernel["operation"], kernel["sm"], kernel["problem"], row["device"]], sort_keys=True)


def write_table(
    folder: Path,
    name: str,
    row: Mapping[str, object],
    kernel: BuiltKernel,
    verified: Mapping[str, object] | None,
    merge_with: Path | None = None,
) -> None:
    """Write a table folder with a winner, and what it keeps of the table folder `merge_with`.

    Raises:
        OSError: if it cannot be written.
    """
    files = table_folder_files(name, [row], [kernel])
    content: Table = json.loads(files.pop(TABLE_FILE))
    content["kernels"][kernel.variant.name]["verified"] = [dict(verified)] if verified else []
    old = None if merge_with is None else _old_table(merge_with, content)
    merged = merge(old, content)
    for entry in merged["kernels"].values():
        for record in entry["files"].values():
            if record["file"] not in files:
                assert merge_with is not None
                files[record["file"]] = (merge_with / record["file"]).read_bytes()
    folder.parent.mkdir(parents=True, exist_ok=True)
    put_folder(folder, files | {TABLE_FILE: table_bytes(merged)})


def _old_table(folder: Path, new: Table) -> Table | None:
    try:
        old = read_table(folder)
    except BuildError as error:
        _log.warning("%s: earlier tuned rows are left out: %s", folder, error)
        return None
    if old.get("schema") != new["schema"] or old.get("operations") != new["operations"]:
        _log.warning("%s: earlier tuned rows are left out: made for another version", folder)
        return None
    return old


def publish(
    module: Path, folder: Path, row: Mapping[str, object], kernel: BuiltKernel, verified: Mapping[str, object] | None
) -> Path:
    """Make a winner the module's choice for its problem; the next import uses it. Return the tuned table's folder.

    Args:
        module: a dispatch module.
        folder: where the merged table is made first.
        row: from `tuned_row`.
        kernel: the winner's files.
        verified: the check it passed.

    Raises:
        BuildError: if `module` is none.
        OSError: if it cannot be written.
    """
    if not (module / "build_info.json").is_file():
        raise BuildError(f"{module}: no dispatch module. Build one with gen build, or leave out --module")
    tuned = module / "tuned"
    tuned.mkdir(exist_ok=True)
    with locked(tuned, f"another tuner is publishing into {module}"):
        current = tuned / "current"
        earlier = tuned / current.read_text().strip() if current.is_file() else None
        write_table(folder, module.name, row, kernel, verified, earlier)
        return publish_tuned(module, folder)
