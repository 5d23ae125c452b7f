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
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from device_steps.golden_compare import Difference
from device_steps.golden_driver import DeviceError, WordDevice, emulator
from device_steps.golden_inputs import Bits, Words
from device_steps.golden_instructions import ENTRY, INSTRUCTIONS, Instruction, module_text

SCHEMA = 1
SEED = 20240229
GOLDEN_DIR = Path(__file__).resolve().parents[2] / "tests" / "golden" / "device"
_META = "meta"


class GoldenError(ValueError):
    """A file of golden vectors that cannot be used, or must not be written; the message says why."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a device said to one instruction. `digest` is of the PTX and the inputs."""

    name: str
    digest: str
    out: Words


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
    """

    name: str
    status: str
    allowed: str
    detail: str
    difference: Difference | None

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
    """Ask a device everything. What it refuses, and what is not written yet, is kept with the reason."""
    answers, refused = [], {}
    for instruction in instructions:
        if instruction.needs:
            refused[instruction.name] = f"needs: {instruction.needs}"
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
    text = module_text(instruction, given.shape[2])
    out = device.run(text, ENTRY, given, instruction.out_words)
    return Answer(name=instruction.name, digest=_digest(text, given), out=out)


def _digest(text: str, given: Words) -> str:
    return hashlib.sha256(text.encode() + given.astype("<u4").tobytes()).hexdigest()


def replay(
    recording: Recording, device: WordDevice, *, instructions: Sequence[Instruction] = INSTRUCTIONS
) -> Iterator[Outcome]:
    """Ask another device the same and compare, instruction by instruction, gaps included."""
    answers = {answer.name: answer for answer in recording.answers}
    for instruction in instructions:
        if instruction.needs:
            yield _not_compared(instruction, f"needs: {instruction.needs}")
        elif instruction.name not in answers:
            reason = recording.refused.get(instruction.name, "recorded before this instruction was in the list")
            yield _not_compared(instruction, f"{recording.device}: {reason}")
        else:
            yield _replay_one(answers[instruction.name], instruction, recording.seed, device)
    for name in sorted(set(answers) - {one.name for one in instructions}):
        yield _not_compared(Instruction(name=name), "recorded, and no longer in the list")


def _replay_one(recorded: Answer, instruction: Instruction, seed: int, device: WordDevice) -> Outcome:
    try:
        answer = _ask(device, instruction, seed)
    except DeviceError as error:
        return _not_compared(instruction, f"{device.name}: {error}", status="differ")
    if answer.digest != recorded.digest:
        return _not_compared(instruction, "its vectors have changed since they were recorded; record them again")
    difference = instruction.check.compare(inputs_of(instruction, seed), answer.out, recorded.out)
    detail = ""
    if difference.outside:
        detail = (
            f"{difference.outside} of {difference.values} values, worst in (case, lane or row, value) {difference.at}"
        )
    return Outcome(
        name=instruction.name,
        status="differ" if difference.outside else "agree",
        allowed=instruction.check.text,
        detail=detail,
        difference=difference,
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


def _not_compared(instruction: Instruction, detail: str, status: str = "not compared") -> Outcome:
    return Outcome(name=instruction.name, status=status, allowed=instruction.check.text, detail=detail, difference=None)


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
        "answers": [{"name": one["name"], "digest": one["digest"]} for one in answers],
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
