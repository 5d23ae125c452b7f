"""One instruction: its PTX, what each lane is given, what the PTX ISA makes of it, and the comparison.

A case's body reads the lane's 32-bit registers %a0, %a1, ... and writes %d0, %d1, ...; it may use %p0 to %p9, %h0.. and
%s0.. (16 bits), %t2.. (32 bits), %x3.. (64 bits), `tile` in shared memory, %t1 (the lane), %x0 and %x1 (the lane's part
of the output and input in global memory; the output has `scratch` more words, at the end) and %x2 (the warp's output).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kernelwright import emulator as emu

from .formats import FORMATS, Doubles, Words, joined, parts, values

LANES = 32
LANE = np.arange(LANES)
ENTRY = "k"
_DEFAULT_SM = 80
_UNWRITTEN = 0xCDCDCDCD
Rng = np.random.Generator


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What a lane must get back, [warps, lanes, words]: bits, or values within a distance.

    Args:
        words: exact; None where `near` is.
        any_nan: name of the format, packed in the words, of which any NaN may stand for a NaN.
        near: values, packed formats unpacked.
        allowed: how far they may be off.
        kind: format of `near`.
        signed_zero: whether a zero near which nothing else is allowed must have its sign.
        ignore: words that are not compared, True.
    """

    words: Words | None = None
    any_nan: str = ""
    near: Doubles | None = None
    allowed: Doubles | None = None
    kind: str = "f32"
    signed_zero: bool = False
    ignore: npt.NDArray[np.bool_] | None = None

    def wrong(self, got: Words) -> npt.NDArray[np.bool_]:
        """Return where an answer is not allowed, by value."""
        if self.near is not None:
            assert self.allowed is not None
            answer = values(parts(got, FORMATS[self.kind].bits), self.kind)
            zero = (self.near == 0) & (self.allowed == 0) & self.signed_zero
            return _far(answer, self.near, self.allowed) | (zero & (np.signbit(answer) != np.signbit(self.near)))
        assert self.words is not None
        wrong = got != self.words
        if self.any_nan:
            bits = FORMATS[self.any_nan].bits
            mine, theirs = parts(self.words, bits), parts(got, bits)
            both = np.isnan(values(mine, self.any_nan)) & np.isnan(values(theirs, self.any_nan))
            wrong = (mine != theirs) & ~both
        return wrong if self.ignore is None else wrong & ~self.ignore


def _far(got: Doubles, want: Doubles, allowed: Doubles) -> npt.NDArray[np.bool_]:
    with np.errstate(invalid="ignore"):
        inside = np.abs(got - want) <= allowed
    same = (got == want) | (np.isnan(got) & np.isnan(want))
    # Where the exact result is not finite only itself will do; where a sum may overflow on the way, anything.
    return ~(same | (inside & np.isfinite(got) & np.isfinite(want)) | np.isposinf(allowed))


@dataclass(frozen=True, kw_only=True)
class Case:
    """A test of one instruction.

    Args:
        name: of the test; where the opcode alone does not say it all, more follows after a space.
        inputs: makes [warps, lanes, words] of random words and edges.
        expect: the second opinion.
        out_words: words compared; `scratch` more follow them in global memory.
        tests: opcodes that this is a test of; by default the name's.
        parameter: bytes of a third parameter, `extra`.
        warps: how many are asked by default.
    """

    name: str
    body: str
    inputs: Callable[[Rng, int], Words]
    expect: Callable[[Words], Expected]
    out_words: int = 1
    scratch: int = 0
    sm: int = 80
    before: str = ""
    tests: tuple[str, ...] = ()
    shared_bytes: int = 1024
    parameter: bytes = b""
    warps: int = 32

    @property
    def opcodes(self) -> tuple[str, ...]:
        return self.tests or (self.name.partition(" ")[0],)

    def given(self, warps: int | None = None, seed: int = 0) -> Words:
        """Return the inputs, the same for the same seed."""
        rng = np.random.default_rng([seed, *self.name.encode()])
        return np.ascontiguousarray(self.inputs(rng, warps or self.warps), np.uint32)


def module_text(case: Case, in_words: int, *, entry: str = ENTRY) -> str:
    """Return a module with one kernel that runs the case once a warp."""
    target = f"sm_{case.sm}"
    return f".version 9.0\n.target {target}\n.address_size 64\n{case.before}\n{kernel_text(case, in_words, entry)}"


def kernel_text(case: Case, in_words: int, entry: str) -> str:
    loads = "".join(f"ld.global.b32 %a{n}, [%x1+{4 * n}];\n" for n in range(in_words))
    stores = "".join(f"st.global.b32 [%x0+{4 * n}], %d{n};\n" for n in range(case.out_words))
    row = 4 * (case.out_words + case.scratch)
    extra = f", .param .align 16 .b8 extra[{len(case.parameter)}]" if case.parameter else ""
    return (
        f".visible .entry {entry}(.param .u64 out, .param .u64 given{extra})\n{{\n"
        f".shared .align 128 .b8 tile[{case.shared_bytes}];\n.local .align 16 .b8 own[64];\n"
        ".reg .pred %p<10>;\n.reg .b16 %h<10>, %s<10>;\n"
        f".reg .b32 %a<{max(16, in_words)}>, %d<{max(8, case.out_words)}>;\n"
        ".reg .b32 %t<16>;\n.reg .f32 %f<10>;\n.reg .b64 %x<16>;\n"
        "ld.param.u64 %x0, [out];\nld.param.u64 %x1, [given];\n"
        "cvta.to.global.u64 %x0, %x0;\ncvta.to.global.u64 %x1, %x1;\n"
        "mov.u32 %t0, %ctaid.x;\nshl.b32 %t0, %t0, 5;\n"
        f"mul.wide.u32 %x2, %t0, {row};\nadd.s64 %x2, %x0, %x2;\n"
        "mov.u32 %t1, %tid.x;\nadd.s32 %t0, %t0, %t1;\n"
        f"mul.wide.u32 %x3, %t0, {row};\nadd.s64 %x0, %x0, %x3;\n"
        f"mul.wide.u32 %x3, %t0, {4 * in_words};\nadd.s64 %x1, %x1, %x3;\n"
        f"{loads}{case.body}\n{stores}ret;\n}}\n"
    )


@contextmanager
def emulated_as(sm: int) -> Iterator[None]:
    """Let the emulator be a GPU of another architecture for a while."""
    emu.configure(sm=sm)
    try:
        yield
    finally:
        emu.configure(sm=_DEFAULT_SM)


def run(case: Case, given: Words) -> Words:
    """Ask the emulator, with every check on.

    Raises:
        EmulatorError: if it refuses the module, or finds a fault.
    """
    given = given.copy()
    out = np.full((*given.shape[:2], case.out_words + case.scratch), _UNWRITTEN, np.uint32)
    with emulated_as(max(case.sm, _DEFAULT_SM)):
        module = emu.load(module_text(case, given.shape[2]))
        try:
            more = [case.parameter] if case.parameter else []
            source = emu.Memory(array=given, access="read")
            module.launch(ENTRY, grid=(given.shape[0],), block=(LANES,), args=[out, source, *more])
        finally:
            module.unload()
    return out[..., : case.out_words]


def disagreement(case: Case, given: Words, got: Words) -> str:
    """Return the first value that the second opinion does not allow, in words; empty if there is none."""
    expected = case.expect(given)
    wrong = expected.wrong(got)
    if not wrong.any():
        return ""
    warp, lane, at = (int(one) for one in np.argwhere(wrong)[0])
    mine = expected.words if expected.words is not None else expected.near
    assert mine is not None
    shown = [hex(one) for one in got[warp, lane].tolist()[:8]]
    want = mine[warp, lane].tolist()[:16]
    want = [hex(one) if isinstance(one, int) else one for one in want]
    inputs = [hex(one) for one in given[warp, lane].tolist()[:12]]
    return (
        f"{case.name}: {int(wrong.sum())} of {wrong.size} values; first in warp {warp}, lane {lane}, value {at}: "
        f"given {inputs} the emulator says {shown}, expected {want}"
    )


# ---------------------------------------------------------------------- inputs

F32_EDGES = np.array([
    0, 0x80000000, 0x3F800000, 0xBF800000, 0x7F800000, 0xFF800000, 0x7FC00000, 0x7F800001, 0xFFC12345,
    1, 0x80000001, 0x007FFFFF, 0x807FFFFF, 0x00800000, 0x80800000, 0x7F7FFFFF, 0xFF7FFFFF, 0x7E800000, 0x7F000000,
    0x3F7FFFFF, 0x3F800001, 0x40000000, 0x3F000000, 0x42FC0000, 0xC2FC0000, 0x43000000, 0xC3000000, 0xC3150000,
    0xC3160000, 0x477FE000, 0x477FF000, 0x477FEFFF, 0x33000000, 0x33000001, 0x38800000, 0x387FFFFF, 0x3F808000,
    0x3F818000, 0x3F807FFF, 0x3F808001, 0x7F7F7FFF, 0x7F7F8000, 0x4F000000, 0xCF000000, 0x4F800000, 0x5F000000,
    0x3EFFFFFF, 0x3FC00000, 0x40200000, 0xBF000000, 0x43E00000, 0x43E80000, 0x43E7FFFF, 0x47600000, 0x47700000,
], np.uint32)  # fmt: skip
F16_EDGES = np.array(
    [
        0,
        0x8000,
        0x3C00,
        0xBC00,
        0x7C00,
        0xFC00,
        0x7E00,
        0x7C01,
        0xFE05,
        1,
        0x8001,
        0x03FF,
        0x83FF,
        0x0400,
        0x7BFF,
        0xFBFF,
        0xCB40,
        0xCD00,
    ],
    np.uint32,
)
BF16_EDGES = np.array(
    [
        0,
        0x8000,
        0x3F80,
        0xBF80,
        0x7F80,
        0xFF80,
        0x7FC0,
        0x7F81,
        0xFFC5,
        1,
        0x8001,
        0x007F,
        0x807F,
        0x0080,
        0x7F7F,
        0xFF7F,
        0xC2FD,
        0xC302,
    ],
    np.uint32,
)
EDGES = {"f32": F32_EDGES, "f16": F16_EDGES, "bf16": BF16_EDGES}
WORD_EDGES = np.array(
    [0, 1, 2, 31, 32, 33, 0x7FFFFFFF, 0x80000000, 0x80000001, 0xFFFFFFFF, 0xFFFFFFFE, 0xFF, 0x100, 0x8000]
)


def any_words(count: int) -> Callable[[Rng, int], Words]:
    """Random words, small ones and edges among them."""

    def make(rng: Rng, warps: int) -> Words:
        shape = (warps, LANES, count)
        words = rng.integers(0, 2**32, shape, np.uint64).astype(np.uint32)
        words = np.where(rng.random(shape) < 0.25, words >> rng.integers(0, 32, shape).astype(np.uint32), words)
        return np.where(rng.random(shape) < 0.2, rng.choice(WORD_EDGES, shape).astype(np.uint32), words)

    return make


def random_floats(rng: Rng, shape: tuple[int, ...], kind: str, low: int, high: int) -> Words:
    """Bit patterns of either sign with a magnitude from 2^low to below 2^(high + 1)."""
    fmt = FORMATS[kind]
    exponent = rng.integers(low + fmt.bias, high + fmt.bias + 1, shape)
    fraction = rng.integers(0, 1 << fmt.fraction_bits, shape)
    sign = rng.integers(0, 2, shape) << (fmt.bits - 1)
    return (sign | (exponent << fmt.fraction_bits | fraction) << fmt.pad).astype(np.uint32)


def floats(
    count: int, kind: str = "f32", low: int = -30, high: int = 30, edges: float = 0.2
) -> Callable[[Rng, int], Words]:
    """`count` registers of values; edges, any patterns and alike values among them, so that sums cancel."""

    def make(rng: Rng, warps: int) -> Words:
        bits = FORMATS[kind].bits
        shape = (warps, LANES, count * 32 // bits)
        drawn = random_floats(rng, shape, kind, low, high)
        pick = rng.random(shape)
        wild = rng.integers(0, 1 << bits, shape).astype(np.uint32)
        drawn = np.where(pick < edges, rng.choice(EDGES[kind], shape), np.where(pick > 0.9, wild, drawn))
        words = joined(drawn, bits)
        alike = rng.random((warps, LANES)) < 0.1
        for n in range(1, count):
            words[..., n] = np.where(alike, words[..., 0] ^ np.uint32(1 << (bits - 1)), words[..., n])
        if edges:  # zeros, ones, infinities and NaN meet one another
            meeting = rng.random((warps, LANES, 1)) < 0.1
            words = np.where(meeting, joined(rng.choice(EDGES[kind][:9], shape), bits), words)
        return words

    return make


def signed(words: Words) -> npt.NDArray[np.int64]:
    return words.view(np.int32).astype(np.int64)


def column(*words: npt.NDArray[np.generic]) -> Words:
    """Stack results of one word each."""
    return np.stack([np.asarray(one).astype(np.uint32) for one in words], -1)
