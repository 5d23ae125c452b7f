"""The store of a study: every result, appended to a file of JSON lines before anything else hears of it.

The store is the truth. The study (`study.py`) is what the optimiser works with, and is made again from here when it is
missing. A record is one line (`records.py`): a point that was tried, with the raw samples of each shape and what was
known of the GPU meanwhile, a point that is free to be tried again, or a burst of samples of a final (`bursts.py`).
Nothing is ever changed; of several records of a point the last counts. Records of other sources, devices or spaces stay
in the file and are not used.
"""

from __future__ import annotations

import json
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from kernelwright.build.files import explain_os_error
from kernelwright.gen.spec import Variant
from kernelwright.tuner.bursts import BURST, Burst
from kernelwright.tuner.errors import StoreError
from kernelwright.tuner.interrupts import uninterrupted
from kernelwright.tuner.ledger import Identity, Ledger, mend_journal, only_run
from kernelwright.tuner.records import IDENTITY_FIELDS, Record, head, read_store, to_plain
from kernelwright.tuner.results import Outcome

_log = logging.getLogger(__name__)
SUFFIX = ".store.jsonl"


class Store:
    """The records of one file, of which those of one identity count. Made by `open_store`.

    Args:
        path: the file.
        study, identity: of what is appended and read.
        fingerprint: of the GPU at hand.
        now: the time.
    """

    def __init__(
        self,
        path: Path,
        study: str,
        identity: Identity,
        *,
        fingerprint: Mapping[str, object] | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.path, self.identity, self._study = path, identity, study
        self._fingerprint, self._now = fingerprint, now
        self._latest: dict[str, Record] = {}
        self._searched: dict[str, Outcome] = {}
        self._others: Counter[str] = Counter()
        for record in read_store(path):
            self._take(record)

    @property
    def num_others(self) -> int:
        """Records in the file that are of another identity."""
        return sum(self._others.values())

    def others_text(self) -> str:
        """Return what makes the others others, in words; "" if there are none."""
        if not self._others:
            return ""
        words = ", ".join(f"{count} with another {names}" for names, count in sorted(self._others.items()))
        return f"{self.path}: {self.num_others} earlier records are kept and not used ({words})"

    def outcomes(self) -> list[Outcome]:
        """Return what is known of every point, in the order in which it became known."""
        return [record.outcome for record in self._latest.values() if record.outcome is not None]

    def searched(self) -> list[Outcome]:
        """Return what the search itself found of every point, in the order of the search: finals left out."""
        return list(self._searched.values())

    @property
    def freed(self) -> set[str]:
        """Variants that were tried and are to be tried again."""
        return {name for name, record in self._latest.items() if record.outcome is None}

    def knows(self, variant: Variant) -> bool:
        """Whether the file has a record of this variant, of this identity."""
        return variant.name in self._latest

    def append(self, outcome: Outcome, *, stage: str = "search") -> None:
        """Keep a result. It is on the disk when this returns.

        Raises:
            StoreError: if it cannot be written; the file is then as it was.
        """
        self.append_all([outcome], stage=stage)

    def append_all(self, outcomes: Sequence[Outcome], *, stage: str = "search") -> None:
        """Keep results, all or none; see `append`."""
        self._write([(one.variant, one) for one in outcomes], stage)

    def append_bursts(self, bursts: Sequence[Burst]) -> None:
        """Keep raw samples, all or none; see `append`."""
        time = self._time()
        lines = [
            head(BURST, time, self._study, self.identity, one.variant)
            | one.to_plain()
            | ({"fingerprint": dict(self._fingerprint)} if self._fingerprint else {})
            for one in bursts
        ]
        if lines:
            with uninterrupted():
                _append(self.path, [json.dumps(line, separators=(",", ":")) for line in lines])

    def _time(self) -> str:
        return self._now().isoformat(timespec="milliseconds")

    def release_failed(self) -> int:
        """Make every failed point free to be tried again; return how many."""
        failed = [one for one in self.outcomes() if one.status != "ok"]
        self._write([(outcome.variant, None) for outcome in failed], "search")
        return len(failed)

    def _write(self, points: Sequence[tuple[Variant, Outcome | None]], stage: str) -> None:
        if not points:
            return
        records = [
            Record(
                study=self._study,
                identity=self.identity,
                variant=variant,
                outcome=outcome,
                time=self._time(),
                stage=stage,
                fingerprint=self._fingerprint,
            )
            for variant, outcome in points
        ]
        with uninterrupted():
            _append(self.path, [json.dumps(to_plain(record), separators=(",", ":")) for record in records])
            for record in records:
                self._take(record)

    def _take(self, record: Record) -> None:
        mine, theirs = asdict(self.identity), asdict(record.identity)
        other = [name for name in IDENTITY_FIELDS if mine[name] != theirs[name]]
        if other:
            self._others[" and ".join(other)] += 1
            return
        self._latest.pop(record.variant.name, None)  # so that the order is that of the last records
        self._latest[record.variant.name] = record
        if record.outcome is None or not record.outcome.final:
            self._searched.pop(record.variant.name, None)
            if record.outcome is not None:
                self._searched[record.variant.name] = record.outcome


class StoredLedger:
    """A ledger whose results are in the store before they are in the study, and after a kill are put there from it."""

    def __init__(self, ledger: Ledger, store: Store) -> None:
        self._ledger, self._store = ledger, store
        in_study = {outcome.variant for outcome in ledger.outcomes()}
        imported = [one for one in ledger.outcomes() if not store.knows(one.variant)]
        for outcome in imported:
            store.append(outcome, stage="copied from the study")
        if imported:
            _log.warning("%s: %d points that were only in the study were copied to it", store.path, len(imported))
        for outcome in store.outcomes():
            if outcome.variant not in in_study:
                ledger.adopt(outcome)

    @property
    def num_tried(self) -> int:
        return self._ledger.num_tried

    @property
    def num_free(self) -> int:
        return self._ledger.num_free

    def outcomes(self) -> list[Outcome]:
        """Return what the store knows."""
        return self._store.outcomes()

    def ask(self, count: int) -> list[Variant]:
        """Return up to `count` points to try next."""
        return list(self._ledger.ask(count))

    def keep(self, outcome: Outcome) -> None:
        """Put what came of a point into the store, before anything else hears of it."""
        self._store.append(outcome)

    def tell(self, outcome: Outcome) -> None:
        """Tell the study what came of a point that was kept."""
        with uninterrupted():
            try:
                self._ledger.tell(outcome)
            except OSError as error:
                reason = explain_os_error(error, "keeping the study", "another --storage")
                raise StoreError(f"{reason} The result is in {self._store.path}; --resume mends the study") from error

    def settle(self, outcomes: Sequence[Outcome]) -> None:
        """Keep the figures of a final, all or none. The study keeps the search's own estimates."""
        self._store.append_all(outcomes, stage="final")

    def keep_bursts(self, bursts: Sequence[Burst]) -> None:
        """Put the raw samples of a final's race or round into the store."""
        self._store.append_bursts(bursts)

    def abandon(self) -> int:
        """Give back what was asked for and not told."""
        return self._ledger.abandon()


@contextmanager
def open_store(
    path: Path, study: str, identity: Identity, *, fingerprint: Mapping[str, object] | None = None
) -> Iterator[Store]:
    """Open the store of a study; nobody else may meanwhile. A last line that was cut off is dropped with a warning.

    Raises:
        StoreError: if the file cannot be used, naming the line.
        TunerError: if another run is at work on it.
    """
    try:
        with only_run(path, "give another --out"):
            mend_journal(path)
            yield Store(path, study, identity, fingerprint=fingerprint)
    except OSError as error:
        if str(error.filename or "").startswith(str(path)) or error.filename == str(path.parent):
            raise StoreError(explain_os_error(error, f"keeping results in {path}")) from error
        raise


def _append(path: Path, lines: Sequence[str]) -> None:
    """Append lines whole, or leave the file as it was.

    Raises:
        StoreError: if it cannot be written.
    """
    data = "".join(f"{line}\n" for line in lines).encode()
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise StoreError(explain_os_error(error, f"keeping results in {path}")) from error
    try:
        before = os.fstat(descriptor).st_size
        try:
            written = 0
            while written < len(data):
                written += os.write(descriptor, data[written:])
            os.fsync(descriptor)
        except OSError as error:
            if os.fstat(descriptor).st_size > before:
                os.ftruncate(descriptor, before)
            error.filename = str(path)
            raise StoreError(explain_os_error(error, "keeping results")) from error
    finally:
        os.close(descriptor)
