"""Recorded answers of GPUs through both implementations: those of the cases, and the golden vectors of benchmarks/.

tests/benchmarks replays the latter through the emulator; the former are replayed through both here.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from device_steps import golden
from device_steps.golden_driver import WordDevice, emulator
from device_steps.golden_instructions import INSTRUCTIONS

from second_opinion import recorded
from second_opinion.cases import BY_NAME, is_refused, known_disagreement
from second_opinion.harness import disagreement, run

FILES = sorted(golden.GOLDEN_DIR.glob("*.npz"))
RECORDED = sorted(recorded.FOLDER.glob("*.npz"))
# Cases take and give the same words as the recorded instructions of their names.
SHARED = [one for one in INSTRUCTIONS if one.name in BY_NAME]
# wgmma and TMA are instructions of sm_90a, which have models of their own beside the vectors.
ELSEWHERE = ("wgmma", "TMA", "cp.async.bulk")


def judged(recording: golden.Recording) -> dict[str, str]:
    """What the second opinion says against each recorded answer that it has a view of; empty where it agrees."""
    by_name = {one.name: one for one in SHARED}
    found = {}
    for answer in recording.answers:
        if answer.name not in by_name:
            continue
        given = golden.inputs_of(by_name[answer.name], recording.seed)
        if golden.digest_of(by_name[answer.name], given) == answer.digest:
            found[answer.name] = disagreement(BY_NAME[answer.name], given, answer.out)
    return found


@pytest.fixture(scope="module")
def recording():
    return golden.record(emulator(), instructions=SHARED)


@pytest.mark.skipif(not FILES, reason="no GPU has answered in tests/golden/device yet: nothing to replay (device.py)")
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_second_opinion_agrees_with_every_recorded_gpu(path):
    found = judged(golden.load(path))
    assert found
    assert [one for one in found.values() if one] == []


def test_a_file_is_replayed(recording, tmp_path):
    """The emulator in the GPU's place, through a file."""
    stored = golden.load(golden.save(recording, tmp_path))
    found = judged(stored)
    assert set(found) == {one.name for one in stored.answers}
    assert [one for name, one in found.items() if one and not known_disagreement(BY_NAME[name])] == []


@pytest.mark.parametrize("name", ["movmatrix.sync.aligned.m8n8.trans.b16", "shfl.sync.up.b32", "ex2.approx.f32"])
def test_a_wrong_answer_in_a_file_is_noticed(recording, name):
    answers = []
    for one in recording.answers:
        out = one.out.copy()
        if one.name == name:
            out[3, 4, 0] ^= np.uint32(0x80000000)
        answers.append(replace(one, out=out))
    assert "first in warp 3, lane 4" in judged(replace(recording, answers=tuple(answers)))[name]


@pytest.mark.parametrize("instruction", [one for one in SHARED if one.model], ids=lambda one: one.name)
def test_the_models_beside_the_vectors_agree(instruction):
    """They were written apart from these cases; where a sum is not exact they give it rounded once."""
    given = golden.inputs_of(instruction)
    assert disagreement(BY_NAME[instruction.name], given, instruction.model(given)) == ""


def test_every_recorded_instruction_of_one_warp_has_a_second_opinion():
    missing = [one.name for one in INSTRUCTIONS if one.name not in BY_NAME and not one.name.startswith(ELSEWHERE)]
    assert missing == []


# ---------------------------------------------------------------------- answers to the cases themselves

FEW = (
    "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32",
    "ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16",
    "shfl.sync.idx.b32",
    "add.rn.bf16x2",  # of sm_90
    "cp.async.cg.shared.global 16 src-size",
)


def emulator_against(recording: recorded.Recording) -> list[str]:
    """What the emulator says to recorded inputs, judged like the recorded answers."""
    found = []
    for one in recording.answers:
        case = BY_NAME[one.name]
        if not is_refused(case) and not known_disagreement(case):
            found.append(disagreement(case, one.given, run(case, one.given)))
    return [one for one in found if one]


@pytest.mark.skipif(not RECORDED, reason="no GPU has answered the cases yet: python -m second_opinion.recorded")
@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.stem)
def test_both_implementations_agree_with_every_recorded_gpu(path):
    recording = recorded.load(path)
    assert recorded.complaints(recording) == []
    assert emulator_against(recording) == []


@pytest.fixture(scope="module")
def few():
    """The emulator in the GPU's place."""
    return recorded.record(emulator(), [BY_NAME[name] for name in FEW])


def test_answers_survive_their_file(few, tmp_path):
    stored = recorded.load(recorded.save(few, tmp_path))
    assert [one.name for one in stored.answers] == list(FEW)
    assert recorded.complaints(stored) == []
    assert emulator_against(stored) == []


def test_a_wrong_or_outdated_answer_is_noticed(few):
    first, second, *rest = few.answers
    out = first.out.copy()
    out[0, 5, 1] ^= np.uint32(1)  # of whole numbers
    wrong = recorded.complaints(
        replace(few, answers=(replace(first, out=out), replace(second, body=second.body + " "), *rest))
    )
    assert len(wrong) == 2
    assert "first in warp 0, lane 5, value 1" in wrong[0]
    assert "record it again" in wrong[1]


@pytest.mark.gpu
def test_the_gpu_here_agrees():
    """The second opinion itself, judged by hardware."""
    recording = recorded.record(WordDevice())
    assert len(recording.answers) > 900
    assert recorded.complaints(recording) == []
