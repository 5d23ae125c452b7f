"""Two dispatch tables: put together, with the better evidence where both speak of the same, and told apart.

Rows that speak of the same problem, architecture and device are a group. A group is taken whole from one table: rows
of two studies never stand side by side, so that no rule rests on figures that were never compared.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from kernelwright.build.files import sha256_bytes
from kernelwright.build.table_folder import TABLE_FILE, put_folder, read_table, table_bytes
from kernelwright.gen.errors import BuildError
from kernelwright.runtime.table import LABELS
from kernelwright.runtime.table import read_table as checked_table
from kernelwright.tuner.errors import TunerError
from kernelwright.tuner.export import launch_alike
from kernelwright.tuner.intervals import are_apart
from kernelwright.tuner.report import bounds_text
from kernelwright.tuner.results import FIGURE_FIELD

Table = dict[str, Any]  # table.json as plain data; checked by the run time's own reader first
Row = Mapping[str, Any]
Side = Literal["A", "B"]
_COMPARABLE = ("source_digest", "toolkit", "device")


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A table and the folder that holds it and its files."""

    folder: Path
    content: Table


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """From which table a group of rows was taken, and why."""

    subject: str
    taken: Side
    why: str


def find_table(path: Path) -> Found:
    """Return the table in a folder, the tuned table of a module, or else its built-in one.

    Raises:
        TunerError: if there is none, or it has a fault, named by its place.
    """
    current = path / "tuned" / "current"
    folder = path
    if current.is_file():
        folder = path / "tuned" / current.read_text().strip()
    elif (path / "kernels" / TABLE_FILE).is_file():
        folder = path / "kernels"
    try:
        content = read_table(folder)
        checked_table(folder, origin="table")
    except BuildError as error:
        raise TunerError(f"{path}: neither a table folder nor a module: {error}") from error
    except Exception as error:  # the run time's errors are not ours: it imports nothing of ours
        raise TunerError(str(error)) from error
    return Found(folder=folder, content=content)


def subject_of(table: Table, row: Row) -> str:
    """Return what a row speaks of, for people: operation, architecture, problem and device."""
    kernel = table["kernels"][row["kernel"]]
    problem = " ".join(f"{key}={json.dumps(value)}" for key, value in sorted(kernel["problem"].items()))
    return f"{kernel['operation']} sm{kernel['sm']} {problem} on {row['device'] or 'any device'}"


def groups(table: Table) -> dict[str, list[Row]]:
    """Return the rows of a table by what they speak of, in the table's order."""
    found: dict[str, list[Row]] = {}
    for row in table["rows"]:
        found.setdefault(subject_of(table, row), []).append(row)
    return found


def merge_tables(first: Found, second: Found, name: str, *, prefer: Side | None = None) -> tuple[Table, list[Decision]]:
    """Return a table with the groups of both, and how each was decided.

    Where both have a group: measured beats modelled beats hand; else the one that rests on more shapes, then on more
    trials, then the first.

    Args:
        first, second: tables of the same binding.
        name: of the new table.
        prefer: the table that wins where figures cannot be compared, and every group.

    Raises:
        TunerError: if the tables' bindings differ, if two groups with one label are of other sources, toolkits or
            devices and `prefer` does not say which to take, or if kernels of one name differ.
    """
    if not launch_alike(first.content, second.content):
        raise TunerError(
            f"{first.folder} and {second.folder} launch kernels in different ways, being made by different versions. "
            "Tune again with one version"
        )
    mine, theirs = groups(first.content), groups(second.content)
    decisions = [
        Decision(subject=subject, taken=side, why=why)
        for subject in dict.fromkeys([*mine, *theirs])
        for side, why in [_decide(subject, mine.get(subject), theirs.get(subject), prefer)]
    ]
    rows: list[Row] = []
    kernels: dict[str, Any] = {}
    for decision in decisions:
        source, taken = (first, mine) if decision.taken == "A" else (second, theirs)
        rows += taken[decision.subject]
        for row in taken[decision.subject]:
            entry = source.content["kernels"][row["kernel"]]
            known = kernels.setdefault(row["kernel"], entry)
            if known["files"] != entry["files"]:
                raise TunerError(
                    f"{row['kernel']}: {first.folder} and {second.folder} hold different kernels of this name, of "
                    "other sources or another compiler. Tune again, or take one table alone with --prefer A or B"
                )
    devices = {**second.content["devices"], **first.content["devices"]}
    return {
        **first.content,
        "name": name,
        "devices": devices,
        "operations": {**second.content["operations"], **first.content["operations"]},
        "kernels": dict(sorted(kernels.items())),
        "rows": rows,
    }, decisions


def _decide(
    subject: str, mine: Sequence[Row] | None, theirs: Sequence[Row] | None, prefer: Side | None
) -> tuple[Side, str]:
    if mine is None:
        return "B", "only there"
    if theirs is None:
        return "A", "only there"
    if list(mine) == list(theirs):
        return "A", "the same in both"
    if prefer is not None:
        return prefer, "preferred"
    ranks = [min(LABELS[::-1].index(row["label"]) for row in rows) for rows in (mine, theirs)]
    if ranks[0] != ranks[1]:
        side: Side = "A" if ranks[0] < ranks[1] else "B"
        return side, f"{LABELS[::-1][min(ranks)]} beats {LABELS[::-1][max(ranks)]}"
    other = [
        f"{key} ({_one_of(mine, key)} and {_one_of(theirs, key)})"
        for key in _COMPARABLE
        if {row["evidence"].get(key) for row in mine} != {row["evidence"].get(key) for row in theirs}
    ]
    if other:
        raise TunerError(
            f"{subject}: both tables have {mine[0]['label']} rows, of another {' and '.join(other)}: their figures "
            "cannot be compared. Choose with --prefer A or B, or tune again"
        )
    for key, words in (("shapes", "shapes"), ("trials", "trials")):
        counts = [_count(rows, key) for rows in (mine, theirs)]
        if counts[0] != counts[1]:
            side = "A" if counts[0] > counts[1] else "B"
            return side, f"rests on {max(counts)} {words}, the other on {min(counts)}"
    return "A", "evidence of equal weight; the first is taken"


def _one_of(rows: Sequence[Row], key: str) -> str:
    return str(rows[0]["evidence"].get(key))[:12]


def _count(rows: Sequence[Row], key: str) -> int:
    if key == "shapes":
        return len({shape for row in rows for shape in _figures(row)})
    return max(int(row["evidence"].get(key, 0)) for row in rows)


def _figures(row: Row) -> Mapping[str, float]:
    field = FIGURE_FIELD.get(row["label"])
    found = row["evidence"].get(field, {}) if field else {}
    return found if isinstance(found, Mapping) else {}


def write_merged(folder: Path, content: Table, sources: Sequence[Found]) -> None:
    """Write a table folder with every file it names, taken from the folder that holds those bytes.

    Raises:
        TunerError: if a file is missing or was changed.
        OSError: if it cannot be written.
    """
    files: dict[str, bytes] = {}
    for entry in content["kernels"].values():
        for record in entry["files"].values():
            paths = [source.folder / record["file"] for source in sources]
            data = next((one for one in _contents(paths) if sha256_bytes(one) == record["sha256"]), None)
            if data is None:
                raise TunerError(f"{record['file']}: neither table has it as it was written. Build or tune again")
            files[record["file"]] = data
    folder.parent.mkdir(parents=True, exist_ok=True)
    put_folder(folder, files | {TABLE_FILE: table_bytes(content)})


def _contents(paths: Sequence[Path]) -> Iterator[bytes]:
    for path in paths:
        if path.is_file():
            yield path.read_bytes()


# ---------------------------------------------------------------------- differences


def diff_tables(first: Table, second: Table) -> dict[str, Any]:
    """Return what changed from one table to another, as plain data.

    For each group: rows that came, went or stayed, and for each shape that both have evidence of, both kernels, both
    figures and whether they differ by more than the noise: `significant` is true or false by the intervals of the
    medians, None where there are none, as for modelled figures. Figures of different labels are not compared.
    """
    mine, theirs = groups(first), groups(second)
    changed = []
    for subject in dict.fromkeys([*mine, *theirs]):
        before, after = mine.get(subject, []), theirs.get(subject, [])
        if [_essence(row) for row in before] == [_essence(row) for row in after]:
            continue
        changed.append(
            {
                "subject": subject,
                "before": [_essence(row) for row in before],
                "after": [_essence(row) for row in after],
                "shapes": _shapes(before, after),
            }
        )
    names = [set(table["kernels"]) for table in (first, second)]
    return {
        "same": not changed and first["kernels"] == second["kernels"],
        "kernels_added": sorted(names[1] - names[0]),
        "kernels_removed": sorted(names[0] - names[1]),
        "kernels_changed": sorted(
            name for name in names[0] & names[1] if first["kernels"][name]["files"] != second["kernels"][name]["files"]
        ),
        "groups": changed,
    }


def _essence(row: Row) -> dict[str, Any]:
    return {"kernel": row["kernel"], "when": row["when"], "label": row["label"], "figures": dict(_figures(row))}


def _shapes(before: Sequence[Row], after: Sequence[Row]) -> list[dict[str, Any]]:
    old = {shape: row for row in before for shape in _figures(row)}
    new = {shape: row for row in after for shape in _figures(row)}
    found = []
    for shape in sorted(set(old) & set(new)):
        one, other = old[shape], new[shape]
        if one["label"] != other["label"]:
            continue
        figures = _figures(one)[shape], _figures(other)[shape]
        apart = are_apart(_interval(one, shape), _interval(other, shape))
        found.append(
            {
                "shape": shape,
                "label": one["label"],
                "kernels": [one["kernel"], other["kernel"]],
                FIGURE_FIELD[one["label"]]: list(figures),
                "ratio": round(figures[1] / figures[0], 4),
                "significant": apart,
            }
        )
    return found


def _interval(row: Row, shape: str) -> tuple[float, float] | None:
    found = row["evidence"].get("interval", {}).get(shape)
    return (found[0], found[1]) if found else None


def diff_text(found: Mapping[str, Any]) -> str:
    """Return a difference for people."""
    if found["same"]:
        return "the tables say the same"
    lines = []
    for key, words in (("kernels_added", "added"), ("kernels_removed", "removed"), ("kernels_changed", "changed")):
        lines += [f"{words} {name}" for name in found[key]]
    for group in found["groups"]:
        lines.append(group["subject"])
        lines += [f"  - {_row_text(row)}" for row in group["before"] if row not in group["after"]]
        lines += [f"  + {_row_text(row)}" for row in group["after"] if row not in group["before"]]
        for one in group["shapes"]:
            old, new = one[FIGURE_FIELD[one["label"]]]
            sure = {True: "significant", False: "within the noise", None: "no interval to judge by"}[one["significant"]]
            figure = FIGURE_FIELD[one["label"]]
            lines.append(f"    {one['shape']}: {old:,g} -> {new:,g} {figure} ({one['ratio'] - 1:+.1%}, {sure})")
    return "\n".join(lines)


def _row_text(row: Mapping[str, Any]) -> str:
    when = ", ".join(f"{size} {bounds_text(*bounds)}" for size, bounds in row["when"].items()) or "any size"
    return f"{row['kernel']} for {when} ({row['label']})"
