"""What every ledger of a tuning run has in common, whether Optuna keeps it (`study.py`) or we do (`plain_study.py`)."""

from __future__ import annotations

import fcntl
import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from kernelwright.gen.spec import Variant
from kernelwright.tuner.errors import StudyChangedError, TunerError
from kernelwright.tuner.results import Label, Outcome

_log = logging.getLogger(__name__)


class Ledger(Protocol):
    """What has been tried, and what to try next."""

    @property
    def num_tried(self) -> int: ...

    @property
    def num_free(self) -> int: ...

    def outcomes(self) -> list[Outcome]: ...

    def ask(self, count: int) -> Sequence[Variant]: ...

    def tell(self, outcome: Outcome) -> None: ...

    def adopt(self, outcome: Outcome) -> None: ...

    def abandon(self) -> int: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """What a study's figures depend on. Results of different identities are never mixed.

    Args:
        label: modelled or measured.
        space_digest: of the space.
        source_digest: of every source the pool's kernels are compiled from.
        device: the GPU that figures are for.
        toolkit: the CUDA compiler's version.
        scorer: version of the model or of the measurement.
    """

    label: Label
    space_digest: str
    source_digest: str
    device: str
    toolkit: str
    scorer: str


@contextmanager
def only_run(path: Path, mend: str) -> Iterator[None]:
    """Keep every other run from a study's file meanwhile; its folder is made. `mend`: what another run may do instead.

    Raises:
        TunerError: if another run is at work in the file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f"{path.name}.running").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise TunerError(f"{path}: another tuner is at work on this study. Wait, or {mend}") from error
        yield


def mend_journal(path: Path) -> bool:
    """Drop a last line that a killed run left unfinished; return whether there was one."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return False
    keep = data.rfind(b"\n") + 1
    last = data[data.rfind(b"\n", 0, keep - 1) + 1 : keep] if keep else b""
    if keep == len(data) and (not last or is_json(last)):
        return False
    if keep == len(data):
        keep -= len(last)
    _log.warning("%s: dropped an unfinished last line (%d bytes)", path, len(data) - keep)
    os.truncate(path, keep)
    return True


def is_json(line: bytes) -> bool:
    """Whether a line of a journal is whole."""
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


def exists_text(name: str, finished: int, where: str) -> str:
    """Return why a study that has results is not begun again."""
    return (
        f"study {name} has {finished} finished trials in {where}. Continue it with --resume, or start another "
        "with --out OTHER"
    )


def require_same(name: str, where: str, known: Mapping[str, object], now: Mapping[str, object]) -> None:
    """Refuse to go on with a study of another identity.

    Raises:
        StudyChangedError: naming what differs.
    """
    changed = [key for key in now if known.get(key) != now[key]]
    if not changed:
        return
    words = ", ".join(f"{key} (was {_short(known.get(key))}, is {_short(now[key])})" for key in changed)
    raise StudyChangedError(
        f"study {name} in {where} was made with another {words}: its figures cannot be compared with new ones. "
        "Start another study with --storage OTHER (or remove the file), or go back to what it was made with"
    )


def _short(value: object) -> str:
    text = str(value)
    return text[:12] if len(text) == 64 else text  # digests


def plain(outcome: Outcome) -> dict[str, object]:
    """Return an outcome as plain data, without the raw samples, which are in the store."""
    data = asdict(replace(outcome, samples={}, states={}))
    del data["samples"], data["states"]
    return data | {"variant": outcome.variant.name, "figures": dict(outcome.figures)}


def outcome_from(data: Mapping[str, Any]) -> Outcome:
    """Return the outcome that `plain` made the data of."""
    return Outcome(**{**data, "variant": Variant.parse(data["variant"])})
