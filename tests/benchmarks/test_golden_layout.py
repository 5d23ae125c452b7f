"""Golden vectors of matrices, wgmma and TMA: their PTX, their models, and how the emulator's gaps are told."""

from __future__ import annotations

import re
import subprocess
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from device_steps import golden
from device_steps.golden_driver import UnsupportedError, WordDevice, emulator
from device_steps.golden_inputs import decode, pack
from device_steps.golden_instructions import INSTRUCTIONS
from device_steps.golden_kernel import Instruction, module_text
from device_steps.golden_layout import swizzled
from device_steps.golden_mma import fp8_values
from device_steps.golden_tensor_map import TensorMap, address_of
from device_steps.golden_wgmma import Form, wgmma_operands

from kernelwright.build.settings import read_settings
from kernelwright.build.toolchain import find_toolchain

MODELLED = [one for one in INSTRUCTIONS if one.model]
BY_NAME = {one.name: one for one in INSTRUCTIONS}


@pytest.fixture(scope="module")
def device() -> WordDevice:
    return emulator()


@pytest.fixture(scope="module")
def gpu(device: WordDevice) -> golden.Recording:
    """A recording as a GPU of sm_90 would leave it: the models' answers, else the emulator's, else zeros."""
    emulated = golden.record(device)
    known = {one.name: one for one in emulated.answers}
    answers = [known.get(one.name) or _made_up(one) for one in INSTRUCTIONS]
    return replace(emulated, device="NVIDIA H200", sm=90, is_emulator=False, answers=tuple(answers), refused={})


def _made_up(instruction: Instruction) -> golden.Answer:
    given = golden.inputs_of(instruction)
    zeros = np.zeros((*given.shape[:2], instruction.out_words), np.uint32)
    out = instruction.model(given) if instruction.model else zeros
    assert out.shape == zeros.shape and out.dtype == np.uint32
    digest = golden.digest_of(instruction, given)
    return golden.Answer(name=instruction.name, digest=digest, out=out, model=golden.by_model(instruction, given, out))


def test_a_recording_of_a_gpu_is_replayed_but_for_what_the_emulator_lacks(gpu, device, tmp_path):
    path = golden.save(gpu, tmp_path)
    assert path.stat().st_size < 1_000_000
    outcomes = {one.name: one for one in golden.replay(golden.load(path), device)}
    assert outcomes.keys() == BY_NAME.keys()
    assert {one.model for one in outcomes.values()} == {"agrees", "none"}
    lacking = golden.record(device).refused
    for name, outcome in outcomes.items():
        assert outcome.status == ("not compared" if name in lacking else "agree"), name
        assert outcome.detail == lacking.get(name, "")
        if name in lacking:
            reason = "the emulator does not know [a-z].*|libkernelwright_emulator.so has no cuTensorMapEncodeTiled"
            assert re.fullmatch(reason, outcome.detail)


@pytest.mark.parametrize("name", [one.name for one in MODELLED])
def test_a_wrong_bit_of_a_gpu_differs_from_the_model(name, gpu):
    instruction, answer = BY_NAME[name], next(one for one in gpu.answers if one.name == name)
    given = golden.inputs_of(instruction)
    for bit in (1, 0x80000000):
        wrong = answer.out.copy()
        wrong[1, 3, 0] ^= np.uint32(bit)  # of products this case is of whole numbers
        assert golden.by_model(instruction, given, wrong) == "differs"
    assert len(np.unique(answer.out)) > 50


def test_a_missing_function_and_an_unknown_instruction_are_told_apart_from_faults(device):
    tma = next(one for one in INSTRUCTIONS if one.tensor_map)
    if tma.name not in golden.record(device, instructions=[tma]).refused:
        pytest.skip("the emulator has tensor maps")
    given = golden.inputs_of(tma)
    with pytest.raises(UnsupportedError, match=r"^libkernelwright_emulator\.so has no cuTensorMapEncodeTiled$"):
        device.run("not PTX", "golden", given, 1, tensor_map=tma.tensor_map)
    text = module_text(INSTRUCTIONS[0], 5).replace("ldmatrix", "ldmatrices")
    with pytest.raises(UnsupportedError, match=r"^the emulator does not know ldmatrices\.sync\.aligned"):
        device.run(text, "golden", np.zeros((1, 32, 5), np.uint32), 1)


def test_the_emulator_is_itself_again_after_being_another_gpu(device):
    one = BY_NAME["tanh.approx.bf16x2"]
    assert golden.record(device, instructions=[one]).refused == {}
    text = module_text(one, 1)
    with pytest.raises(golden.DeviceError, match="sm_90"):
        device.run(text, "golden", golden.inputs_of(one), 1)


def test_each_instruction_runs_on_the_gpus_that_have_it():
    def runs(part: str) -> list[int]:
        return [sm for sm in (80, 86, 89, 90, 100, 120) if next(o for n, o in BY_NAME.items() if part in n).runs_on(sm)]

    assert runs("tf32") == runs("s8") == [80, 86, 89, 90, 100, 120]
    assert runs("e4m3") == [89, 90, 100, 120]
    assert runs("stmatrix") == runs("bulk.tensor") == [90, 100, 120]
    assert runs("wgmma") == [90]


def test_swizzles_are_those_of_the_isa():
    """Source: PTX ISA 9.0, "Swizzling modes": the 16-byte chunks of each 128-byte line."""
    chunks = 16 * np.arange(64)
    found = {span: (swizzled(chunks, span) // 16 % 8).reshape(8, 8).tolist() for span in (0, 32, 64, 128)}
    assert found[0] == [list(range(8))] * 8
    assert found[32][:3] == [[0, 1, 2, 3, 4, 5, 6, 7], [1, 0, 3, 2, 5, 4, 7, 6], [0, 1, 2, 3, 4, 5, 6, 7]]
    assert found[64][1:4] == [[1, 0, 3, 2, 5, 4, 7, 6], [2, 3, 0, 1, 6, 7, 4, 5], [3, 2, 1, 0, 7, 6, 5, 4]]
    assert found[128][1] == [1, 0, 3, 2, 5, 4, 7, 6] and found[128][7] == [7, 6, 5, 4, 3, 2, 1, 0]
    assert all(sorted(swizzled(chunks, span)) == chunks.tolist() for span in found)


@pytest.mark.parametrize("swizzle", [32, 64, 128])
def test_wgmma_reads_what_tma_writes(swizzle):
    """A tile that the model of TMA leaves in shared memory is the matrix that the model of wgmma multiplies."""
    tma = BY_NAME[f"cp.async.bulk.tensor.2d, swizzle of {swizzle} bytes"]
    given = golden.inputs_of(tma)
    bits = given.astype(np.uint32) & np.uint32(0x3FFF3FFF)  # no NaN
    bits[:, :, :2] = 0  # the corners: all at the first column and row
    box = tma.model(bits)[0].reshape(-1)
    words = np.zeros((1, 128, 32 + 3 + 32), np.uint32)
    words[0, :, :32].reshape(-1)[: box.size] = box
    flat = np.zeros(4096, np.uint32)
    flat[: box.size] = box
    words[0, :, :32] = flat.reshape(128, 32)
    words[0, :, 32] = 32 % swizzle  # the second slice of K, where there is one
    a, _, _ = wgmma_operands(Form(kind="f16", swizzle=swizzle), words)
    rows = min(64, 2048 // swizzle)
    tensor = (bits.reshape(-1, 32)[:rows, :, None] >> np.array([0, 16], np.uint32) & 0xFFFF).reshape(rows, 64)
    first = 32 % swizzle // 2
    assert np.array_equal(a[0, :rows], decode(tensor.astype(np.uint32), "f16")[:, first : first + 16])


def test_fp8_values_are_those_of_the_formats():
    e4m3, e5m2 = fp8_values("e4m3"), fp8_values("e5m2")
    assert [e4m3[byte] for byte in (0x00, 0x01, 0x08, 0x38, 0x7E, 0xB8)] == [0, 2**-9, 2**-6, 1, 448, -1]
    assert np.flatnonzero(np.isnan(e4m3)).tolist() == [0x7F, 0xFF]
    assert [e5m2[byte] for byte in (0x01, 0x3C, 0x7B, 0x7C, 0xFC)] == [2**-16, 1, 57344, np.inf, -np.inf]


def test_a_tensor_map_is_asked_for_as_the_driver_wants_it():
    seen = []

    class Library:
        @staticmethod
        def cuTensorMapEncodeTiled(*arguments: object) -> int:
            seen.extend(arguments)
            return 0

    tensor = TensorMap(width=56, height=250, pitch_bytes=128, box_width=64, box_height=16, swizzle=128)
    status, memory = tensor.encode(Library(), 4096)
    assert status == 0 and seen[0].value == address_of(memory) and seen[0].value % 64 == 0
    assert (seen[1], seen[2].value, seen[3].value) == (6, 2, 4096)
    assert [list(one) for one in seen[4:8]] == [[56, 250], [128], [64, 16], [1, 1]]
    assert seen[8:] == [0, 3, 0, 0]


def test_the_model_of_tma_is_zero_out_of_bounds():
    tma = BY_NAME["cp.async.bulk.tensor.2d, no swizzle"]
    given = golden.inputs_of(tma)
    boxes = tma.model(given).reshape(8, 16, 32)
    rows = given.reshape(-1, 32)
    assert np.array_equal(boxes[0][:, :28], rows[:16, :28]) and not boxes[0][:, 28:].any()
    assert not boxes[3][:3].any() and np.array_equal(boxes[3][3:, :28], rows[:13, :28])
    assert not boxes[6].any()
    assert np.array_equal(boxes[5][:5, 8:], rows[245:250, :24]) and not boxes[5][5:].any()


def test_the_model_of_stmatrix_moves_a_known_element():
    one = BY_NAME["stmatrix.sync.aligned.m8n8.x2.trans.shared.b16"]
    given = np.zeros((1, 32, 5), np.uint32)
    given[0, :, 4] = np.arange(32)
    given[0, 4 * 3 + 2, 1] = 0xBEEF0000  # row 3, column 5 of matrix 1: stored at row 5, column 3
    expected = np.zeros((1, 32, 8), np.uint32)
    expected[0, 8 + 5, 3] = 0xBEEF
    assert np.array_equal(one.model(given), pack(expected))


@pytest.mark.nvcc
def test_the_assembler_takes_every_module(tmp_path: Path):
    bodies = defaultdict(list)  # of modules that only differ in their kernel
    for index, instruction in enumerate(INSTRUCTIONS):
        text = module_text(instruction, golden.inputs_of(instruction).shape[2])
        head, separator, body = text.replace(" golden(", f" golden{index}(").partition(".visible")
        bodies[instruction.target, head].append(separator + body)
    assert {target for target, _ in bodies} == {"sm_80", "sm_89", "sm_90", "sm_90a"}
    ptxas = find_toolchain(read_settings()).ptxas
    source = tmp_path / "all.ptx"
    for (target, head), found in bodies.items():
        source.write_text(head + "".join(found))
        subprocess.run(
            [ptxas, f"-arch={target}", source, "-o", tmp_path / "all.cubin"], check=True, capture_output=True
        )
