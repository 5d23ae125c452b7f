"""Reading JSON with its faults named by path, as in `table.json: $.rows[3].when.seqlen_q`."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from .errors import TableError

_NO_TEXT = re.compile("[\0\ud800-\udfff]")  # what JSON can spell and neither paths nor C can hold


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A value in a JSON file, with where it stands."""

    value: object
    path: str
    file: Path

    def fault(self, message: str) -> TableError:
        """Return the error for this place; the caller raises it."""
        return TableError(f"{self.file}: {self.path} {message}")

    def mapping(self, required: Collection[str], optional: Collection[str] = ()) -> dict[str, Node]:
        """Return the members of an object that has exactly these keys, the optional ones where present."""
        members = self.members()
        unknown = sorted(set(members) - set(required) - set(optional))
        if unknown:
            known = ", ".join([*required, *optional])
            raise members[unknown[0]].fault(f"is not known; known here: {known}. Remove it, or update the module")
        missing = [key for key in required if key not in members]
        if missing:
            raise self.fault(f"lacks the key {missing[0]!r}")
        return members

    def members(self) -> dict[str, Node]:
        """Return the members of an object with keys of any name."""
        if not isinstance(self.value, dict):
            raise self.fault(f"must be an object, got {_kind(self.value)}")
        return {
            str(key): Node(value=value, path=f"{self.path}.{key}", file=self.file) for key, value in self.value.items()
        }

    def items(self) -> Iterator[Node]:
        """Yield the items of a list."""
        if not isinstance(self.value, list):
            raise self.fault(f"must be a list, got {_kind(self.value)}")
        for index, value in enumerate(self.value):
            yield Node(value=value, path=f"{self.path}[{index}]", file=self.file)

    def texts(self) -> tuple[str, ...]:
        """Return a list of texts."""
        return tuple(item.text() for item in self.items())

    def text(self, choices: Collection[str] | None = None) -> str:
        """Return a text that C takes too, one of `choices` where they are given."""
        if not isinstance(self.value, str):
            raise self.fault(f"must be a text, got {_kind(self.value)}")
        if choices is not None and self.value not in choices:
            raise self.fault(f"must be one of {', '.join(choices) or 'none'}, got {self.value!r}")
        if _NO_TEXT.search(self.value):
            raise self.fault(f"must hold no NUL and no half of a character, got {self.value!r}")
        return self.value

    def optional_text(self) -> str | None:
        """Return a text or None."""
        return None if self.value is None else self.text()

    def integer(self, low: int = 0, high: int = 2**63 - 1) -> int:
        """Return an integer within inclusive bounds."""
        if not isinstance(self.value, int) or isinstance(self.value, bool):
            raise self.fault(f"must be an integer, got {_kind(self.value)}")
        if not low <= self.value <= high:
            raise self.fault(f"must be from {low} to {high}, got {self.value}")
        return self.value

    def number(self) -> float:
        """Return an integer or a finite number."""
        if not isinstance(self.value, int | float) or isinstance(self.value, bool) or not math.isfinite(self.value):
            raise self.fault(f"must be a number, got {_kind(self.value)}")
        return float(self.value)

    def boolean(self) -> bool:
        """Return true or false."""
        if not isinstance(self.value, bool):
            raise self.fault(f"must be true or false, got {_kind(self.value)}")
        return self.value

    def plain_mapping(self) -> dict[str, object]:
        """Return an object of free form."""
        self.members()
        assert isinstance(self.value, dict)
        return dict(self.value)


def read_json(file: Path, *, schema: int) -> Node:
    """Return the root of a JSON file of this schema.

    Raises:
        TableError: if the file is missing, is not JSON, repeats a key or is of a newer schema.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:  # ValueError: no UTF-8, or a NUL in the path
        raise TableError(
            f"{file} cannot be read: {error}. A table is a folder on disk, and so is a module: not in a zip archive. "
            "Build it again, or correct the path"
        ) from error
    try:
        value = json.loads(text, object_pairs_hook=_without_repeats)
    except ValueError as error:
        raise TableError(f"{file} is not JSON: {error}") from error
    except RecursionError as error:
        raise TableError(f"{file} is not JSON of ours: nested too deeply") from error
    root = Node(value=value, path="$", file=file)
    members = root.members()
    if "schema" not in members:
        raise root.fault("lacks the key 'schema'")
    found = members["schema"].integer(1)
    if found > schema:
        raise members["schema"].fault(
            f"is {found}, and this module reads up to {schema}. Rebuild the module with a newer kernelwright, "
            "or write the table with the one that built the module"
        )
    return root


def _without_repeats(pairs: list[tuple[str, object]]) -> dict[str, object]:
    result = dict(pairs)
    if len(result) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(one for one in names if names.count(one) > 1)!r} is there twice")
    return result


def _kind(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
