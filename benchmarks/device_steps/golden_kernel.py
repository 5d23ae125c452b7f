"""One instruction whose answers are recorded: its body, what it is given, the GPUs that have it, its module's PTX."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from device_steps.golden_compare import EXACT, Check
from device_steps.golden_inputs import Bits, Words
from device_steps.golden_tensor_map import TensorMap

LANES = 32
ENTRY = "golden"
Inputs = Callable[[Bits], Words]  # [cases, threads, words]
Target = Literal["sm_80", "sm_89", "sm_90", "sm_90a"]
# The first PTX version with all that is recorded for a target. Source: PTX ISA 9.0, "Release Notes".
_VERSIONS: dict[Target, str] = {"sm_80": "7.8", "sm_89": "8.4", "sm_90": "8.0", "sm_90a": "8.0"}


@dataclass(frozen=True, kw_only=True)
class Instruction:
    """One instruction and its vectors.

    Args:
        name: its opcode, with what sets it apart where there are several.
        body: PTX; it reads the thread's 32-bit registers %a0, %a1, ... and writes %d0, %d1, ...
        inputs: makes the words that each thread of each case is given.
        out_words: words that each thread gives back.
        check: judges an answer against the recorded one.
        target: the least GPU that has it; with an `a`, that one alone.
        threads: of a case: 32, or 128 for a warpgroup.
        tile_bytes: shared memory, named `tile`; more than the usual starts at a multiple of 1024, as swizzles need.
        tensor_map: how the kernel's third parameter, `map`, describes what is given; None if it has none.
        model: what we expect from reading the PTX ISA, by what is given, apart from emulator and GPU; it is only
            reported whether the recorded bits agree with it. None where the ISA leaves bits open.
    """

    name: str
    body: str
    inputs: Inputs
    out_words: int = 1
    check: Check = EXACT
    target: Target = "sm_80"
    threads: int = LANES
    tile_bytes: int = 512
    tensor_map: TensorMap | None = None
    model: Callable[[Words], Words] | None = None

    @property
    def sm(self) -> int:
        """The number of the target."""
        return int(self.target.strip("sm_a"))

    def runs_on(self, sm: int) -> bool:
        """Return whether a GPU has the instruction."""
        return sm == self.sm if self.target.endswith("a") else sm >= self.sm


def module_text(instruction: Instruction, in_words: int) -> str:
    """Return a PTX module that runs the instruction once a case, which drivers since CUDA 11.8 take if it is of sm_80.

    Args:
        instruction: the one to run.
        in_words: words that each thread is given.
    """
    loads = "".join(f"ld.global.b32 %a{n}, [%x1+{4 * n}];\n" for n in range(in_words))
    stores = "".join(f"st.global.b32 [%x0+{4 * n}], %d{n};\n" for n in range(instruction.out_words))
    align = 128 if instruction.tile_bytes == 512 else 1024
    parameters = ".param .u64 out, .param .u64 given" + (
        ", .param .align 64 .b8 map[128]" if instruction.tensor_map else ""
    )
    return (
        f".version {_VERSIONS[instruction.target]}\n.target {instruction.target}\n.address_size 64\n"
        f".shared .align {align} .b8 tile[{instruction.tile_bytes}];\n"
        f".visible .entry {ENTRY}({parameters})\n{{\n"
        f".reg .pred %p<4>;\n.reg .b16 %h<8>;\n"
        f".reg .b32 %a<{max(16, in_words)}>, %d<{max(8, instruction.out_words)}>, %t<8>;\n.reg .b64 %x<8>;\n"
        "ld.param.u64 %x0, [out];\nld.param.u64 %x1, [given];\n"
        "cvta.to.global.u64 %x0, %x0;\ncvta.to.global.u64 %x1, %x1;\n"
        f"mov.u32 %t0, %ctaid.x;\nshl.b32 %t0, %t0, {instruction.threads.bit_length() - 1};\n"
        "mov.u32 %t1, %tid.x;\nadd.s32 %t0, %t0, %t1;\n"
        f"mul.wide.u32 %x2, %t0, {4 * instruction.out_words};\nadd.s64 %x0, %x0, %x2;\n"
        f"mul.wide.u32 %x2, %t0, {4 * in_words};\nadd.s64 %x1, %x1, %x2;\n"
        f"{loads}{instruction.body}\n{stores}ret;\n}}\n"
    )
