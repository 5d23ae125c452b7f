"""What a GPU answered to the cases, in a file: `python -m second_opinion.recorded` asks the GPU of this machine.

Inputs are kept too, so that a file stays valid whatever becomes of the streams of random numbers.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .cases import BY_NAME, CASES
from .formats import Words
from .harness import ENTRY, Case, disagreement, module_text

if TYPE_CHECKING:
    from device_steps.golden_driver import WordDevice

FOLDER = Path(__file__).resolve().parents[2] / "golden" / "second_opinion"
_WARPS = 6  # every turn of the inputs of mma


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a device said to a case; `body` is the PTX it was asked."""

    name: str
    body: str
    given: Words
    out: Words


@dataclass(frozen=True, kw_only=True)
class Recording:
    device: str
    driver_version: str
    answers: tuple[Answer, ...]


def can_ask(case: Case, device: WordDevice) -> bool:
    """A recorded kernel has two parameters, and the GPU must have the instruction.

    In the emulator the driver's output is for writing only, so that what reads it back cannot be asked this way.
    """
    return not case.parameter and (not case.scratch if device.is_emulator else case.sm <= device.sm)


def ask(case: Case, given: Words, device: WordDevice) -> Words:
    """Run a case through the functions of a driver."""
    text = module_text(case, given.shape[2])
    sm = case.sm if device.is_emulator and case.sm > device.sm else 0
    return device.run(text, ENTRY, given, case.out_words + case.scratch, sm=sm)[..., : case.out_words]


def record(device: WordDevice, cases: Sequence[Case] = CASES) -> Recording:
    """Ask a device all that it can be asked."""
    asked = [case for case in cases if can_ask(case, device)]
    given = {case.name: case.given(min(case.warps, _WARPS)) for case in asked}
    answers = [
        Answer(name=case.name, body=case.body, given=given[case.name], out=ask(case, given[case.name], device))
        for case in asked
    ]
    return Recording(device=device.name, driver_version=device.driver_version, answers=tuple(answers))


def save(recording: Recording, folder: Path) -> Path:
    """Write a recording; it replaces an earlier one of the same device."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{'_'.join(recording.device.lower().split())}.npz"
    meta = {
        "device": recording.device,
        "driver_version": recording.driver_version,
        "answers": [[one.name, one.body] for one in recording.answers],
    }
    arrays = {f"given{n}": one.given for n, one in enumerate(recording.answers)}
    arrays |= {f"out{n}": one.out for n, one in enumerate(recording.answers)}
    np.savez_compressed(path, meta=np.frombuffer(json.dumps(meta).encode(), np.uint8), **arrays)
    return path


def load(path: Path) -> Recording:
    """Read what `save` wrote."""
    with np.load(path, allow_pickle=False) as stored:
        meta = json.loads(stored["meta"].tobytes())
        answers = [
            Answer(name=name, body=body, given=stored[f"given{n}"], out=stored[f"out{n}"])
            for n, (name, body) in enumerate(meta["answers"])
        ]
    return Recording(device=meta["device"], driver_version=meta["driver_version"], answers=tuple(answers))


def complaints(recording: Recording) -> list[str]:
    """Return what the second opinion says against recorded answers, and which of them are to other questions."""
    found = []
    for one in recording.answers:
        case = BY_NAME.get(one.name)
        if case is None or case.body != one.body:
            found.append(f"{one.name}: the case has changed since; record it again")
        elif against := disagreement(case, one.given, one.out):
            found.append(against)
    return found


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "benchmarks"))
    from device_steps import golden_driver

    taken = record(golden_driver.WordDevice())
    print(save(taken, FOLDER), len(taken.answers), "answers")
    print("\n".join(complaints(taken)))
