"""Golden vectors: recordings of real GPUs against the emulator, and whether the harness would notice a wrong bit."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from device_steps import golden
from device_steps.golden_driver import DeviceError, WordDevice, emulator
from device_steps.golden_inputs import Bits, decode, encode, pack, unpack
from device_steps.golden_instructions import INSTRUCTIONS

from kernelwright.emulator.library import library_path

FILES = sorted(golden.GOLDEN_DIR.glob("*.npz"))


@pytest.fixture(scope="module")
def device() -> WordDevice:
    return emulator()


@pytest.fixture(scope="module")
def recording(device: WordDevice) -> golden.Recording:
    """The harness with the emulator in the GPU's place."""
    return golden.record(device)


@pytest.mark.skipif(not FILES, reason="no GPU has answered in tests/golden/device yet (device.py --only fidelity)")
@pytest.mark.parametrize(("path", "name"), [(path, one.name) for path in FILES for one in INSTRUCTIONS])
def test_the_emulator_agrees_with_every_recorded_gpu(path, name, device):
    found = golden.load(path)
    assert not found.is_emulator
    assert path.stat().st_size < 1_000_000
    only = replace(found, answers=tuple(one for one in found.answers if one.name == name))
    (outcome,) = golden.replay(only, device, instructions=[one for one in INSTRUCTIONS if one.name == name])
    if outcome.status == "not compared":
        pytest.skip(f"{name}: not compared: {outcome.detail}")
    assert outcome.status == "agree", outcome.detail


def test_a_recording_survives_its_file_and_agrees_with_itself(recording, device, tmp_path):
    path = golden.save(recording, tmp_path)
    assert path.stat().st_size < 1_000_000
    stored = golden.load(path)
    assert (stored.device, stored.driver_version, stored.date) == (device.name, "13.0", recording.date)
    outcomes = list(golden.replay(stored, device))
    assert {one.name for one in outcomes if one.status == "agree"} == {one.name for one in recording.answers}
    assert all(one.difference is None or one.difference.differing == 0 for one in outcomes)


@pytest.mark.parametrize("name", [one.name for one in INSTRUCTIONS])
def test_a_planted_wrong_bit_is_noticed(name, recording, device):
    instruction = next(one for one in INSTRUCTIONS if one.name == name)
    if name in recording.refused:
        pytest.skip(f"not compared: {recording.refused[name]}")
    answer = next(one for one in recording.answers if one.name == name)
    wrong = answer.out.copy()
    # The sign, or the highest bit, of a value that is not rounded: of the second case in the third turn of mma.
    wrong[1, 3, 0] ^= np.uint32(0x8000 if "f16.f16.f16.f16" in name or "f16x2" in name else 0x80000000)
    planted = replace(recording, answers=(replace(answer, out=wrong),))
    (outcome,) = golden.replay(planted, device, instructions=[instruction])
    assert outcome.status == "differ"
    assert outcome.difference is not None
    assert (outcome.difference.differing, outcome.difference.outside) == (1, 1)


def test_the_last_bit_counts_where_the_answer_is_exact(recording, device):
    for answer in recording.answers:
        instruction = next(one for one in INSTRUCTIONS if one.name == answer.name)
        wrong = answer.out.copy()
        wrong[1, 3, 0] ^= np.uint32(1)  # of mma this case is of small whole numbers
        planted = replace(recording, answers=(replace(answer, out=wrong),))
        (outcome,) = golden.replay(planted, device, instructions=[instruction])
        wanted = "agree" if instruction.check.kind == "tolerance" else "differ"
        assert outcome.status == wanted, instruction.name


@pytest.mark.parametrize("kind", ["f16", "bf16"])
@pytest.mark.parametrize("depth", [16, 8])
def test_sums_that_are_aligned_and_cut_off_stay_within_the_bound_of_mma(kind, depth, recording):
    name = f"mma.sync.aligned.m16n8k{depth}.row.col.f32.{kind}.{kind}.f32"
    instruction = next(one for one in INSTRUCTIONS if one.name == name)
    given = golden.inputs_of(instruction)
    ours = next(one for one in recording.answers if one.name == name).out
    num_a, num_b = depth // 4, depth // 8
    a, b, c = (
        decode(unpack(given[..., :num_a]), kind),
        decode(unpack(given[..., num_a : num_a + num_b]), kind),
        decode(given[..., num_a + num_b :], "f32"),
    )
    group, thread = np.arange(32) // 4, np.arange(32) % 4
    theirs = np.zeros_like(c)
    with np.errstate(all="ignore"):
        for n in range(4):
            terms = [c[:, :, n]]
            for k in range(depth):  # element (row, k) of A and (k, column) of B, from the lanes that hold them
                lane_a = 4 * group + k % 8 // 2
                a_at = k % 2 + 2 * (n // 2) + 4 * (k // 8)
                lane_b = 4 * (2 * thread + n % 2) + k % 8 // 2
                terms.append(a[:, lane_a, a_at] * b[:, lane_b, k % 2 + 2 * (k // 8)])
            stacked = np.stack(terms)
            unit = np.exp2(np.floor(np.log2(np.max(np.abs(stacked), 0))) - 23)  # of the largest term
            cut = np.where(np.isfinite(unit) & (unit > 0), np.trunc(stacked / unit) * unit, stacked)
            theirs[:, :, n] = np.sum(cut, 0)
        words = theirs.astype(np.float32).view(np.uint32)
    difference = instruction.check.compare(given, ours, words)
    assert difference.differing > 100  # the model does round otherwise
    assert difference.outside == 0
    assert difference.worst > 0.01  # the bound is not idle


FIRST = "4ae775a1111485b3c7a24aa069be3683d26e5c73698539c6cb1d98b089cf71c1"
LATER = "7b348a5308d13ba332b6c3cde83e0645b6c1c12bdb5c565f57c835a83fd5c049"


@pytest.mark.parametrize(("part", "expected"), [(slice(43), FIRST), (slice(43, None), LATER)], ids=["first", "later"])
def test_inputs_are_the_same_for_ever(part, expected):
    digest = hashlib.sha256()
    for instruction in INSTRUCTIONS[part]:
        digest.update(golden.inputs_of(instruction).astype("<u4").tobytes())
    assert digest.hexdigest() == expected, (
        "recorded vectors are void: record them again on every GPU, or undo the change"
    )


def test_edge_values_are_among_the_inputs():
    words = golden.inputs_of(next(one for one in INSTRUCTIONS if one.name == "ex2.approx.f32"))
    values = decode(words, "f32")
    assert np.isnan(values).any() and np.isposinf(values).any() and np.isneginf(values).any()
    assert {0x80000000, 0x00000001, 0x7F7FFFFF} <= set(words.reshape(-1).tolist())
    subnormal = (np.abs(values) > 0) & (np.abs(values) < 2**-126)
    assert subnormal.any()


@pytest.mark.parametrize("kind", ["f16", "bf16", "f32"])
def test_bit_patterns_are_those_of_their_values(kind):
    patterns = Bits(1, kind).floats(kind, (4, 32), -6, 5)
    values = decode(patterns, kind)
    assert np.array_equal(encode(values, kind), patterns)
    assert np.abs(values).min() >= 2**-6 and np.abs(values).max() < 2**6
    assert np.array_equal(unpack(pack(patterns)) if kind != "f32" else patterns, patterns)


def test_vectors_that_have_changed_are_not_compared(recording, device):
    old = replace(recording, answers=tuple(replace(one, digest="0") for one in recording.answers[:1]))
    (outcome,) = golden.replay(old, device, instructions=INSTRUCTIONS[:1])
    assert (outcome.status, "record them again" in outcome.detail) == ("not compared", True)


def test_the_emulators_answers_are_not_kept_among_those_of_gpus(recording):
    with pytest.raises(golden.GoldenError, match="is no GPU"):
        golden.save(recording, golden.GOLDEN_DIR)
    assert not (golden.GOLDEN_DIR / golden.file_name(recording.device)).exists()


def test_a_damaged_file_is_refused_by_name(tmp_path):
    path = tmp_path / "broken.npz"
    path.write_bytes(b"PK\x03\x04 no")
    with pytest.raises(golden.GoldenError, match="broken"):
        golden.load(path)


def test_the_isolated_call_returns_plain_data():
    result = golden.record_and_replay(None, None)
    assert result["is_emulator"] and result["file"] is None
    assert len(result["outcomes"]) == len(INSTRUCTIONS)


def test_the_harness_moves_memory_as_libcuda_wants_it(tmp_path, recording, monkeypatch):
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler (cc)")
    library = tmp_path / "like_libcuda.so"
    source = Path(__file__).with_name("like_libcuda.c")
    subprocess.run([compiler, "-O1", "-fPIC", "-shared", "-w", source, "-o", library, "-ldl"], check=True)
    monkeypatch.setenv("LIKE_LIBCUDA", str(library_path()))
    like_a_gpu = WordDevice(str(library))
    assert not like_a_gpu.is_emulator
    found = golden.record(like_a_gpu)
    later = {one.name: f"needs {one.target}, this is sm_80" for one in INSTRUCTIONS if not one.runs_on(80)}
    assert later.items() <= found.refused.items()
    assert found.refused.keys() == recording.refused.keys() | later.keys()
    expected = {one.name: one.out for one in recording.answers}
    for mine in found.answers:
        assert np.array_equal(mine.out, expected[mine.name]), mine.name
    with pytest.raises(DeviceError, match="cuLibraryLoadData failed: 218"):
        like_a_gpu.run("not PTX", "golden", np.zeros((1, 32, 1), np.uint32), 1)


@pytest.mark.gpu
def test_this_gpu_agrees_with_the_emulator(device):
    gpu = WordDevice()
    found = golden.record(gpu)
    assert found.refused.keys() == {one.name for one in INSTRUCTIONS if not one.runs_on(gpu.sm)}
    assert [one.name for one in found.answers if one.model == "differs"] == []
    assert [f"{one.name}: {one.detail}" for one in golden.replay(found, device) if one.status == "differ"] == []
