"""Golden vectors: what a real GPU answers to single instructions, kept as files and replayed through the emulator.

    recording = record(WordDevice())                     # on the GPU, seconds
    path = save(recording, Path("tests/golden/device"))  # <gpu>.npz: answers as raw bits; inputs are made from a seed
    for outcome in replay(load(path), emulator()): ...   # anywhere

The step `fidelity` does this by `record_and_replay`, in a process of its own.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from device_steps.golden_compare import Difference
from device_steps.golden_driver import DeviceError, UnsupportedError, WordDevice, emulator
from device_steps.golden_inputs import Bits, Words
from device_steps.golden_instructions import INSTRUCTIONS
from device_steps.golden_kernel import ENTRY, Instruction, module_text

SCHEMA = 1
SEED = 20240229
GOLDEN_DIR = Path(__file__).resolve().parents[2] / "tests" / "golden" / "device"
_META = "meta"


class GoldenError(ValueError):
    """A file of golden vectors that cannot be used, or must not be written; the message says why."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a device said to one instruction.

    Attributes:
        digest: of the PTX, the inputs and the tensor map.
        model: whether it is what we expected from the PTX ISA: `agrees`, `differs`, or `none` without expectations.
    """

    name: str
    digest: str
    out: Words
    model: str = "none"


@dataclass(frozen=True, kw_only=True)
class Recording:
    """All answers of one device, and what it could not be asked: reasons by instruction."""

    device: str
    driver_version: str
    sm: int
    is_emulator: bool
    date: str
    seed: int
    answers: tuple[Answer, ...]
    refused: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One instruction's recorded answer against another device's.

    Attributes:
        status: `agree`; `differ`, more than allowed; `not compared`, with the reason in `detail`.
        allowed: what is allowed, in words.
        difference: None if nothing was compared.
        model: of the recorded answer, as in `Answer`.
    """

    name: str
    status: str
    allowed: str
    detail: str
    difference: Difference | None
    model: str = "none"

    def to_record(self) -> dict[str, Any]:  # Any: JSON
        """Return plain data; the caller adds step, key and label."""
        found = asdict(self.difference) if self.difference else None
        if found is not None and not np.isfinite(found["worst"]):
            found["worst"] = None  # nothing is allowed, and the bits differ; JSON has no infinity
        return {**asdict(self), "difference": found}


def inputs_of(instruction: Instruction, seed: int = SEED) -> Words:
    """Return the words that an instruction is given, the same for the same seed."""
    return instruction.inputs(Bits(seed, instruction.name))


def record(device: WordDevice, *, seed: int = SEED, instructions: Sequence[Instruction] = INSTRUCTIONS) -> Recording:
    """Ask a device everything. What it does not have or refuses is kept with the reason."""
    answers, refused = [], {}
    for instruction in instructions:
        if not device.is_emulator and not instruction.runs_on(device.sm):
            refused[instruction.name] = f"needs {instruction.target}, this is sm_{device.sm}"
            continue
        try:
            answers.append(_ask(device, instruction, seed))
        except DeviceError as error:
            refused[instruction.name] = str(error)
    return Recording(
        device=device.name,
        driver_version=device.driver_version,
        sm=device.sm,
        is_emulator=device.is_emulator,
        date=datetime.datetime.now(datetime.UTC).date().isoformat(),
        seed=seed,
        answers=tuple(answers),
        refused=refused,
    )


def _ask(device: WordDevice, instruction: Instruction, seed: int) -> Answer:
    given = inputs_of(instruction, seed)
    out = device.run(
        module_text(instruction, given.shape[2]),
        ENTRY,
        given,
        instruction.out_words,
        sm=0 if instruction.runs_on(device.sm) else instruction.sm,
        tensor_map=instruction.tensor_map,
    )
    return Answer(
        name=instruction.name, digest=digest_of(instruction, given), out=out, model=by_model(instruction, given, out)
    )


def digest_of(instruction: Instruction, given: Words) -> str:
    """Return what changes when an answer would no longer be to the same question."""
    asked = module_text(instruction, given.shape[2]) + (str(instruction.tensor_map) if instruction.tensor_map else "")
    return hashlib.sha256(asked.encode() + given.astype("<u4").tobytes()).hexdigest()


def by_model(instruction: Instruction, given: Words, out: Words) -> str:
    """Return `agrees` or `differs`, or `none` for an instruction without a model."""
    if instruction.model is None:
        return "none"
    return "differs" if instruction.check.compare(given, instruction.model(given), out).outside else "agrees"


def replay(
    recording: Recording, device: WordDevice, *, instructions: Sequence[Instruction] = INSTRUCTIONS
) -> Iterator[Outcome]:
    """Ask another device the same and compare, instruction by instruction, those without an answer included."""
    answers = {answer.name: answer for answer in recording.answers}
    for instruction in instructions:
        if instruction.name not in answers:
            reason = recording.refused.get(instruction.name, "recorded before this instruction was in the list")
            yield _not_compared(instruction.name, instruction.check.text, f"{recording.device}: {reason}")
        else:
            yield _replay_one(answers[instruction.name], instruction, recording.seed, device)
    for name in sorted(set(answers) - {one.name for one in instructions}):
        yield _not_compared(name, "", "recorded, and no longer in the list")


def _replay_one(recorded: Answer, instruction: Instruction, seed: int, device: WordDevice) -> Outcome:
    name, allowed, model = instruction.name, instruction.check.text, recorded.model
    given = inputs_of(instruction, seed)
    if digest_of(instruction, given) != recorded.digest:
        return _not_compared(name, allowed, "its vectors have changed since they were recorded; record them again")
    try:
        answer = _ask(device, instruction, seed)
    except UnsupportedError as error:
        return replace(_not_compared(name, allowed, str(error)), model=model)
    except DeviceError as error:
        return replace(_not_compared(name, allowed, f"{device.name}: {error}"), status="differ", model=model)
    difference = instruction.check.compare(given, answer.out, recorded.out)
    detail = ""
    if difference.outside:
        detail = (
            f"{difference.outside} of {difference.values} values, worst in (case, lane or row, value) {difference.at}"
        )
    return Outcome(
        name=name,
        status="differ" if difference.outside else "agree",
        allowed=allowed,
        detail=detail,
        difference=difference,
        model=model,
    )


def record_and_replay(library: str | None, folder: str | None) -> dict[str, Any]:  # Any: JSON
    """Ask a device, keep its answers in a folder, replay them through the emulator; for `Context.run_isolated`.

    Args:
        library: the driver, such as `libcuda.so.1`; None is the emulator itself, which tests only the harness.
        folder: None keeps nothing.

    Returns:
        `device`, `driver_version`, `sm`, `is_emulator`, `date`, `file` (a name, None if nothing was kept) and
        `outcomes`, a list of `Outcome.to_record()`.
    """
    recording = record(emulator() if library is None else WordDevice(library))
    path = None if folder is None else save(recording, Path(folder))
    return {
        "device": recording.device,
        "driver_version": recording.driver_version,
        "sm": recording.sm,
        "is_emulator": recording.is_emulator,
        "date": recording.date,
        "file": path.name if path else None,
        "outcomes": [outcome.to_record() for outcome in replay(recording, emulator())],
    }


def _not_compared(name: str, allowed: str, detail: str) -> Outcome:
    return Outcome(name=name, status="not compared", allowed=allowed, detail=detail, difference=None)


def file_name(device: str) -> str:
    """Return the file that a device's answers are kept in: `nvidia_h200.npz`."""
    return re.sub(r"[^a-z0-9]+", "_", device.lower()).strip("_") + ".npz"


def save(recording: Recording, folder: Path) -> Path:
    """Write a recording; it replaces an earlier one of the same device.

    Raises:
        GoldenError: if the emulator's answers would go where those of GPUs are kept.
    """
    if recording.is_emulator and folder.resolve() == GOLDEN_DIR:
        raise GoldenError(f"{recording.device} is no GPU; its answers are not kept in {folder}")
    content = asdict(recording)
    answers = content.pop("answers")
    meta = {
        "schema": SCHEMA,
        **content,
        "answers": [{key: one[key] for key in ("name", "digest", "model")} for one in answers],
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / file_name(recording.device)
    arrays: dict[str, Any] = {
        f"out{index}": one.out for index, one in enumerate(recording.answers)
    }  # Any: numpy's stub
    arrays[_META] = np.frombuffer(json.dumps(meta).encode(), np.uint8)
    np.savez_compressed(path, **arrays)
    return path


def load(path: Path) -> Recording:
    """Read what `save` wrote.

    Raises:
        GoldenError: if the file is of another schema or damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            meta = json.loads(stored[_META].tobytes())
            schema, listed = meta.pop("schema"), meta.pop("answers")
            answers = tuple(Answer(**one, out=stored[f"out{index}"]) for index, one in enumerate(listed))
        if schema != SCHEMA:
            raise GoldenError(f"{path.name}: schema {schema}, this version reads {SCHEMA}")
        return Recording(**meta, answers=answers)
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise GoldenError(f"{path.name}: not a file of golden vectors: {error}") from error
