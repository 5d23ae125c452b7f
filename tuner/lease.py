"""One run at a time on a study in a database, which other machines reach too: who is at work on it is written there.

A file is locked, and the lock goes with its process. A database has no such thing in common, so a run writes its name
into the study, until when that holds, and writes it again while it asks and tells. A run that was killed on this
machine is noticed at once, one on another machine when its time is up.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from kernelwright.tuner.errors import TunerError

_log = logging.getLogger(__name__)

ATTRIBUTE = "at_work"
HOLDS_S = 1800.0
"""Longer than any time between two questions or answers of a run: a kernel is given up after 15 minutes."""

_SETTLES_S = 0.2  # for whoever looked at the same time to write as well


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """A run: a process of a machine."""

    host: str
    process: int

    @classmethod
    def here(cls) -> Owner:
        return cls(host=socket.gethostname(), process=os.getpid())


class Lease:
    """A run's hold on a study.

    Args:
        study: of Optuna.
        name: of the study, for messages.
        owner: this run.
        now: seconds since 1970, as other machines have them.
        pause: waits.
    """

    def __init__(
        self,
        study: Any,  # Any: optuna is untyped to mypy
        name: str,
        *,
        owner: Owner | None = None,
        now: Callable[[], float] = time.time,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._study, self._name, self._owner = study, name, owner or Owner.here()
        self._now, self._pause = now, pause
        self._until = 0.0

    def take(self) -> None:
        """Begin.

        Raises:
            TunerError: if another run is at work on the study.
        """
        self._refuse_others()
        self._write(self._now() + HOLDS_S)
        self._pause(_SETTLES_S)
        self._refuse_others()

    def renew(self) -> None:
        """Go on; cheap while there is time left.

        Raises:
            TunerError: if another run has taken the study over meanwhile.
        """
        if self._until - self._now() < HOLDS_S / 2:
            self._refuse_others()
            self._write(self._now() + HOLDS_S)

    def rewrite(self, study: Any) -> None:  # Any: as above
        """Write it into a study that was made anew."""
        self._study = study
        self._write(self._now() + HOLDS_S)

    def give_back(self) -> None:
        """End. A database that is gone by now is none of our worry: the time runs out by itself."""
        try:
            if self._known() == self._owner:
                self._write(0.0)
        except Exception as error:
            _log.warning("study %s stays marked as in use for %.0f min: %s", self._name, HOLDS_S / 60, error)

    def _write(self, until: float) -> None:
        self._until = until
        value = {"host": self._owner.host, "process": self._owner.process, "until": until}
        self._study.set_user_attr(ATTRIBUTE, value)

    def _known(self) -> Owner | None:
        """Return whose the study is at this moment; nobody's if the time is up or the process is dead."""
        found = self._study.user_attrs.get(ATTRIBUTE)
        if not isinstance(found, Mapping) or self._now() >= float(found["until"]):
            return None
        known = Owner(host=str(found["host"]), process=int(found["process"]))
        if known.host == self._owner.host and known != self._owner and not _is_alive(known.process):
            return None
        return known

    def _refuse_others(self) -> None:
        known = self._known()
        if known is not None and known != self._owner:
            left_s = float(self._study.user_attrs[ATTRIBUTE]["until"]) - self._now()
            raise TunerError(
                f"study {self._name}: another tuner is at work on this study, process {known.process} on {known.host}. "
                f"Wait (if it was killed there, {left_s / 60:.0f} min), or give another --storage"
            )


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        return True
    return True
