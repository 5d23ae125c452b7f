"""Loads, stores, atomics and asynchronous copies."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from .bits_cases import M32, of_words, signed
from .formats import BF16, F16, F32, F64, Format, Words, flushed, joined, number, pattern, total
from .harness import LANES, Case, Expected, Rng, any_words, random_floats

TYPES = {"u8": 1, "s8": 1, "b8": 1, "u16": 2, "s16": 2, "b16": 2, "u32": 4, "s32": 4, "b32": 4, "f32": 4}
TYPES |= {"u64": 8, "s64": 8, "b64": 8, "f64": 8}
_CONSTANT = np.random.default_rng(5).integers(0, 256, 512, np.uint8)
_TABLE = f".const .align 16 .b8 table[512] = {{{', '.join(str(one) for one in _CONSTANT.tolist())}}};"
# %x8 or %t8 becomes the address of 16 bytes of the lane's own, which %a0 to %a3 fill.
_PLACE = {
    "shared": "mov.u32 %t8, tile; shl.b32 %t9, %t1, 4; add.u32 %t8, %t8, %t9;",
    "global": "add.s64 %x8, %x0, OFFSET;",
    "local": "mov.u64 %x8, own;",
    "shared generic": "mov.u32 %t8, tile; shl.b32 %t9, %t1, 4; add.u32 %t8, %t8, %t9; cvt.u64.u32 %x8, %t8;"
    " cvta.shared.u64 %x8, %x8;",
    "global generic": "add.s64 %x8, %x0, OFFSET; cvta.global.u64 %x8, %x8;",
    "local generic": "mov.u64 %x8, own; cvta.local.u64 %x8, %x8;",
}


def _place(space: str, out_words: int) -> tuple[str, str]:
    """PTX that makes the address, and its register. Rows of the output are a multiple of 16 bytes long."""
    return _PLACE[space].replace("OFFSET", str(4 * out_words)), "%t8" if space == "shared" else "%x8"


def _opcode_space(space: str) -> str:
    return "" if space.endswith("generic") else f".{space}"


def _offset(address: str, size: int, word: str) -> str:
    """Add a multiple of `size` below 16, made from a word, to the address."""
    mask = 16 - size
    if address == "%t8":
        return f"and.b32 %t10, {word}, {mask}; add.u32 %t8, %t8, %t10;"
    return f"and.b32 %t10, {word}, {mask}; cvt.u64.u32 %x10, %t10; add.s64 %x8, %x8, %x10;"


def _names(kind: str, count: int, first: int = 0) -> tuple[list[str], str, str]:
    """Registers of a vector, and PTX that moves them to %d or from %a: 64 bits take two words."""
    size = TYPES[kind]
    if size == 8:
        names = [f"%x{11 + n}" for n in range(count)]
        out = "".join(f"mov.b64 {{%d{2 * n}, %d{2 * n + 1}}}, {one};" for n, one in enumerate(names))
        into = "".join(f"mov.b64 {one}, {{%a{first + 2 * n}, %a{first + 2 * n + 1}}};" for n, one in enumerate(names))
        return names, out, into
    if kind == "f32":
        names = [f"%f{n}" for n in range(count)]
        out = "".join(f"mov.b32 %d{n}, {one};" for n, one in enumerate(names))
        into = "".join(f"mov.b32 {one}, %a{first + n};" for n, one in enumerate(names))
        return names, out, into
    return [f"%d{n}" for n in range(count)], "", ""


def loaded(kind: str, count: int, *words: int) -> tuple[int, ...]:
    """Elements at the offset that the last word says, extended to 32 bits."""
    size = TYPES[kind]
    data = b"".join(one.to_bytes(4, "little") for one in words[:4])
    start = words[4] & (16 - size * count)
    out: list[int] = []
    for n in range(count):
        value = int.from_bytes(data[start + size * n : start + size * (n + 1)], "little")
        if kind[0] == "s" and size < 8:
            value = signed(value, 8 * size) & M32
        out += [value & M32, value >> 32] if size == 8 else [value]
    return tuple(out)


def vector(count: int) -> str:
    return f".v{count}" if count > 1 else ""


def load(space: str, kind: str, count: int, modifiers: str = "", where: str = "") -> Case:
    out_words = count * (2 if TYPES[kind] == 8 else 1)
    opcode = f"ld{modifiers}{_opcode_space(space)}{where}{vector(count)}.{kind}"
    names, out, _ = _names(kind, count)
    operand = names[0] if count == 1 else f"{{{', '.join(names)}}}"
    size = TYPES[kind] * count
    place, address = _place(space, (out_words + 3) // 4 * 4)
    store = f"st{_opcode_space(space)}.v4.b32 [{address}], {{%a0, %a1, %a2, %a3}};"
    if ".nc" in modifiers + where:  # only what nobody writes; the input's row begins with the 16 bytes
        place, store = "mov.u64 %x8, %x1;", ""
    return Case(
        name=opcode if not space.endswith("generic") else f"{opcode} of {space.split()[0]}",
        body=f"{place} {store} {_offset(address, size, '%a4')} {opcode} {operand}, [{address}]; {out}",
        inputs=any_words(8),
        expect=of_words(5, partial(loaded, kind, count)),
        out_words=out_words,
        scratch=4 + -out_words % 4,
    )


def constant_expected(kind: str, count: int, given: Words) -> Expected:
    size = TYPES[kind] * count
    words = _CONSTANT.view("<u4")
    start = (given[..., 0] & np.uint32(512 - size)) // 16 * 4
    around = np.stack([words[start + n] for n in range(4)] + [given[..., 0] & np.uint32(16 - size)], -1)
    return of_words(5, partial(loaded, kind, count))(around.astype(np.uint32))


def load_constant(kind: str, count: int) -> Case:
    opcode = f"ld.const{vector(count)}.{kind}"
    names, out, _ = _names(kind, count)
    operand = names[0] if count == 1 else f"{{{', '.join(names)}}}"
    mask = 512 - TYPES[kind] * count
    return Case(
        name=opcode,
        body=f"mov.u64 %x8, table; and.b32 %t10, %a0, {mask}; cvt.u64.u32 %x10, %t10; add.s64 %x8, %x8, %x10;"
        f"{opcode} {operand}, [%x8]; {out}",
        inputs=any_words(1),
        expect=partial(constant_expected, kind, count),
        out_words=count * (2 if TYPES[kind] == 8 else 1),
        before=_TABLE,
    )


_PARAMETER = np.random.default_rng(6).integers(0, 256, 64, np.uint8)


def load_parameter(kind: str, count: int) -> Case:
    """From a structure passed by value, 16 bytes in."""
    opcode = f"ld.param{vector(count)}.{kind}"
    names, out, _ = _names(kind, count)
    operand = names[0] if count == 1 else f"{{{', '.join(names)}}}"
    words = _PARAMETER[16:32].view("<u4").tolist()
    return Case(
        name=opcode,
        body=f"{opcode} {operand}, [extra+16]; {out}",
        inputs=any_words(1),
        expect=of_words(1, lambda a: loaded(kind, count, *words, 0)),
        out_words=count * (2 if TYPES[kind] == 8 else 1),
        parameter=_PARAMETER.tobytes(),
        warps=2,
    )


def stored(kind: str, count: int, *words: int) -> tuple[int, ...]:
    """16 bytes after the elements, made from the words from 5 on, were stored over the first four words."""
    size = TYPES[kind]
    data = bytearray(b"".join(one.to_bytes(4, "little") for one in words[:4]))
    start = words[4] & (16 - size * count)
    for n in range(count):
        value = words[5 + 2 * n] | words[6 + 2 * n] << 32 if size == 8 else words[5 + n]
        data[start + size * n : start + size * (n + 1)] = (value & ((1 << 8 * size) - 1)).to_bytes(size, "little")
    return tuple(int.from_bytes(data[4 * n : 4 * n + 4], "little") for n in range(4))


def store(space: str, kind: str, count: int, modifiers: str = "", where: str = "") -> Case:
    opcode = f"st{modifiers}{_opcode_space(space)}{where}{vector(count)}.{kind}"
    names, _, into = _names(kind, count, 5)
    if TYPES[kind] < 8 and kind != "f32":
        names = [f"%a{5 + n}" for n in range(count)]
    operand = names[0] if count == 1 else f"{{{', '.join(names)}}}"
    place, address = _place(space, 4)
    plain = _opcode_space(space)
    return Case(
        name=opcode if not space.endswith("generic") else f"{opcode} of {space.split()[0]}",
        body=(
            f"{place} st{plain}.v4.b32 [{address}], {{%a0, %a1, %a2, %a3}}; {into}"
            f"mov.b{32 if address == '%t8' else 64} {address[:2]}15, {address};"
            f"{_offset(address, TYPES[kind] * count, '%a4')}"
            f"{opcode} [{address}], {operand}; ld{plain}.v4.b32 {{%d0, %d1, %d2, %d3}}, [{address[:2]}15];"
        ),
        inputs=any_words(9),
        expect=of_words(9, partial(stored, kind, count)),
        out_words=4,
        scratch=4,
    )


def counts_of(kind: str) -> list[int]:
    return [count for count in (1, 2, 4) if count * TYPES[kind] <= 16]


GENERIC = ("shared generic", "global generic", "local generic")
LOADS = [
    *[load(s, kind, n) for s in ("shared", "global", "local") for kind in TYPES for n in counts_of(kind)],
    *[load(s, kind, n) for s in GENERIC for kind in ("s8", "u16", "b32", "b64") for n in counts_of(kind)],
    *[load("global", kind, n, where=".nc") for kind in ("u8", "s16", "u32", "f32", "b64") for n in counts_of(kind)],
    load("global", "u32", 4, where=".nc.L1::no_allocate"),
    load("global", "u32", 4, where=".nc.L1::no_allocate.L2::128B"),
    load("global", "f32", 1, ".volatile"),
    load("shared", "u32", 1, ".volatile"),
    load("global", "u32", 1, ".acquire.gpu"),
    load("global", "u32", 1, ".relaxed.gpu"),
    *[load_constant(kind, n) for kind in ("u8", "s8", "s16", "u32", "f32", "b64") for n in counts_of(kind)],
    *[
        load_parameter(kind, n)
        for kind in ("u8", "s8", "u16", "s16", "u32", "s32", "b32", "f32", "u64", "b64")
        for n in counts_of(kind)
    ],
]
STORES = [
    *[store(s, kind, n) for s in ("shared", "global", "local") for kind in TYPES for n in counts_of(kind)],
    *[store(s, kind, n) for s in GENERIC for kind in ("u8", "b16", "b32", "b64") for n in counts_of(kind)],
    store("global", "f32", 1, ".volatile"),
    store("global", "u32", 1, ".release.gpu"),
    store("shared", "u32", 1, ".volatile"),
    store("global", "u32", 4, where=".L1::no_allocate"),
]

# ---------------------------------------------------------------------- atomics


def float_sum(fmt: Format, flushes: bool, a: int, b: int) -> int:
    """Rounded to nearest; atom.add.f32 on global memory flushes subnormals, on shared memory it does not."""
    x, y = number(a, fmt), number(b, fmt)
    if flushes:
        x, y = flushed(x, fmt), flushed(y, fmt)
    out = pattern(total(x, y), fmt)
    return pattern(flushed(number(out, fmt), fmt), fmt) if flushes else out


def pair_sum(fmt: Format, a: int, b: int) -> int:
    low, high = (float_sum(fmt, False, a >> s & 0xFFFF, b >> s & 0xFFFF) for s in (0, 16))
    return low | high << 16


def atomic_result(op: str, kind: str, space: str, old: int, b: int, c: int) -> int:
    """What is in memory afterwards. Source: PTX ISA, "atom"."""
    bits = int(kind[1:]) if kind[1:].isdigit() else 32
    mask = (1 << bits) - 1
    match op:
        case "inc":
            return 0 if old >= b else old + 1
        case "dec":
            return b if old == 0 or old > b else old - 1
        case "exch":
            return b
        case "cas":
            return c if old == b else old
        case "and" | "or" | "xor":
            return {"and": old & b, "or": old | b, "xor": old ^ b}[op]
        case "min" | "max":
            pick = min if op == "min" else max
            return (pick(signed(old, bits), signed(b, bits)) if kind[0] == "s" else pick(old, b)) & mask
    if kind in ("f16x2", "bf16x2"):
        return pair_sum(F16 if kind == "f16x2" else BF16, old, b)
    if kind[0] in "fb" and kind != "b32":
        fmt = {"f32": F32, "f64": F64, "f16": F16, "bf16": BF16}[kind]
        return float_sum(fmt, kind == "f32" and space == "global", old, b)
    return (old + b) & mask


NAN_OF = {"f32": "f32", "f16x2": "f16", "bf16x2": "bf16"}


def atomic_expected(op: str, kind: str, space: str, is_red: bool, given: Words) -> Expected:
    """Memory afterwards in two words, then the old value in two."""
    wide = kind.endswith("64")

    def one(*words: int) -> tuple[int, ...]:
        old, b, c = (words[2 * n] | (words[2 * n + 1] << 32 if wide else 0) for n in range(3))
        new = atomic_result(op, kind, space, old, b, c)
        high = new >> 32 if wide else words[1]
        before = 0 if is_red else old
        return new & M32, high, before & M32, before >> 32

    found = of_words(6, one)(given)
    assert found.words is not None
    return Expected(words=found.words, any_nan=NAN_OF.get(kind, ""))


def atomic_inputs(kind: str, rng: Rng, warps: int) -> Words:
    words = any_words(6)(rng, warps)
    if kind == "f64":
        words = words & np.uint32(0xFFFFFFFF)
        words[..., 1::2] = random_floats(rng, (warps, LANES, 3), "f32", -20, 20) >> np.uint32(3) | np.uint32(0x30000000)
    elif kind in ("f32", "f16x2", "bf16x2"):
        fmt = {"f32": "f32", "f16x2": "f16", "bf16x2": "bf16"}[kind]
        per = 2 if fmt != "f32" else 1
        low, high = (-14, 15) if fmt == "f16" else (-6, 6)
        drawn = joined(random_floats(rng, (warps, LANES, 6 * per), fmt, low, high), 32 // per)
        words = np.where(rng.random((warps, LANES, 1)) < 0.6, drawn, words)
        words[::4] &= np.uint32(0x80FF80FF if per == 2 else 0x80FFFFFF)  # subnormal, or nearly
    same = rng.random((warps, LANES)) < 0.3
    for n in (0, 1):
        words[..., 2 + n] = np.where(same, words[..., n], words[..., 2 + n])
    return words


def atomic(space: str, op: str, kind: str, *, is_red: bool = False, middle: str = "", sm: int = 80) -> Case:
    """On a word of the lane's own."""
    wide = kind.endswith("64")
    flags = ".noftz" if kind.endswith("x2") else ""
    opcode = f"{'red' if is_red else 'atom'}{middle}{_opcode_space(space)}.{op}{flags}.{kind}"
    place, address = _place(space, 4)
    operands = [f"%x{11 + n}" for n in range(2)] if wide else ["%a2", "%a4"]
    packs = "mov.b64 %x11, {%a2, %a3}; mov.b64 %x12, {%a4, %a5};" if wide else ""
    operands = operands if op == "cas" else operands[:1]
    if kind == "f32":
        packs, operands = "mov.b32 %f0, %a2;", ["%f0"]
    elif kind == "f64":
        packs = packs.replace("mov.b64 %x12, {%a4, %a5};", "") + "{ .reg .f64 %g<2>; mov.b64 %g0, %x11;"
        operands = ["%g0"]
    result = "" if is_red else {"f32": "%f1, ", "f64": "%g1, "}.get(kind, "%x13, " if wide else "%d2, ")
    plain = _opcode_space(space)
    after = {"f32": "mov.b32 %d2, %f1; mov.b32 %d3, 0;", "f64": "mov.b64 {%d2, %d3}, %g1;"}.get(
        kind, "mov.b64 {%d2, %d3}, %x13;" if wide else "mov.b32 %d3, 0;"
    )
    if is_red:
        after = "mov.b32 %d2, 0; mov.b32 %d3, 0;"
    end = "}" if kind == "f64" else ""
    return Case(
        name=opcode if not space.endswith("generic") else f"{opcode} of {space.split()[0]}",
        body=f"{place} st{plain}.v2.b32 [{address}], {{%a0, %a1}}; {packs} {opcode} {result}[{address}], "
        f"{', '.join(operands)}; {after}{end} ld{plain}.v2.b32 {{%d0, %d1}}, [{address}];",
        inputs=partial(atomic_inputs, kind),
        expect=partial(atomic_expected, op, kind, space, is_red),
        out_words=4,
        scratch=4,
        sm=sm,
    )


def _alike(words: Words) -> Words:
    """Every other lane's second word is its first."""
    words[:, ::2, 1] = words[:, ::2, 0]
    return words


def contended_expected(op: str, kind: str, given: Words) -> Expected:
    """All lanes on one word, which lane 0 set: any order gives the same."""
    a = given[..., 0]
    wide = np.ascontiguousarray(a).view(np.int32).astype(np.int64) if kind == "s32" else a.astype(np.int64)
    found = {
        "add": lambda: wide.sum(1), "min": lambda: wide.min(1), "max": lambda: wide.max(1),
        "or": lambda: np.bitwise_or.reduce(wide, 1), "xor": lambda: np.bitwise_xor.reduce(wide, 1),
    }[op]()  # fmt: skip
    return Expected(words=np.repeat((found & M32).astype(np.uint32)[:, None, None], LANES, 1))


def contended(space: str, op: str, kind: str) -> Case:
    start = {"min": 0x7FFFFFFF if kind == "s32" else M32, "max": 0x80000000 if kind == "s32" else 0}.get(op, 0)
    opcode = f"red.{space}.{op}.{kind}"
    address = "%t8" if space == "shared" else "%x8"
    place = "mov.u32 %t8, tile;" if space == "shared" else "add.s64 %x8, %x2, 4;"
    return Case(
        name=f"{opcode} by all lanes on one word",
        body=f"{place} setp.eq.u32 %p0, %t1, 0; @%p0 st.{space}.u32 [{address}], {start}; bar.sync 0;"
        f"{opcode} [{address}], %a0; bar.sync 0; ld.{space}.u32 %d0, [{address}];",
        inputs=any_words(1),
        expect=partial(contended_expected, op, kind),
        scratch=1,
    )


INTEGER_ATOMICS = [
    *[("add", kind) for kind in ("u32", "s32", "u64")],
    *[(op, kind) for op in ("min", "max") for kind in ("u32", "s32", "u64", "s64")],
    *[(op, "u32") for op in ("inc", "dec")],
    *[(op, kind) for op in ("and", "or", "xor") for kind in ("b32", "b64")],
]
# atom.cas on 16 bits: of the lower half of the word; the upper half stays.
CAS_16 = Case(
    name="atom.shared.cas.b16",
    body=f"{_PLACE['shared']} st.shared.b32 [%t8], %a0; mov.b32 {{%h0, %h1}}, %a1; mov.b32 {{%h2, %h3}}, %a2;"
    "atom.shared.cas.b16 %h4, [%t8], %h0, %h2; cvt.u32.u16 %d1, %h4; ld.shared.b32 %d0, [%t8];",
    inputs=lambda rng, warps: _alike(any_words(3)(rng, warps)),
    expect=of_words(
        3, lambda a, b, c: (a & 0xFFFF0000 | (c & 0xFFFF if a & 0xFFFF == b & 0xFFFF else a & 0xFFFF), a & 0xFFFF)
    ),
    out_words=2,
)
FLOAT_ATOMICS = [("add", "f32", 80), ("add", "f64", 80), ("add", "f16x2", 80), ("add", "bf16x2", 90)]
ATOMICS = [
    CAS_16,
    *[atomic(space, op, kind) for space in ("shared", "global") for op, kind in INTEGER_ATOMICS],
    *[atomic(s, op, kind) for s in ("shared", "global") for op in ("exch", "cas") for kind in ("b32", "b64")],
    *[atomic(s, op, kind, sm=sm) for s in ("shared", "global") for op, kind, sm in FLOAT_ATOMICS],
    *[atomic(s, op, kind, is_red=True) for s in ("shared", "global") for op, kind in INTEGER_ATOMICS],
    *[atomic("global", op, kind, is_red=True, sm=sm) for op, kind, sm in FLOAT_ATOMICS],
    *[atomic(s, "add", "u32") for s in ("shared generic", "global generic")],
    atomic("global", "add", "u32", middle=".relaxed.gpu"),
    atomic("global", "add", "u32", middle=".acq_rel.gpu"),
    *[
        contended(s, op, kind)
        for s in ("shared", "global")
        for op, kind in (("add", "u32"), ("min", "s32"), ("max", "u32"), ("max", "s32"), ("or", "b32"), ("xor", "b32"))
    ],
]

# ---------------------------------------------------------------------- cp.async

_FILL = (
    "mov.u32 %t8, tile; shl.b32 %t9, %t1, 4; add.u32 %t8, %t8, %t9; mov.b32 %t11, 0xA5A5A5A5;"
    "st.shared.v4.b32 [%t8], {%t11, %t11, %t11, %t11};"
)
_READ = "ld.shared.v4.b32 {%d0, %d1, %d2, %d3}, [%t8];"
_PATTERN = bytes([0xA5] * 16)


def words_of(data: bytes) -> tuple[int, ...]:
    return tuple(int.from_bytes(data[4 * n : 4 * n + 4], "little") for n in range(4))


def copied(size: int, *words: int) -> tuple[int, ...]:
    """The first src-size bytes, zeros up to cp-size, and what was there beyond."""
    data = b"".join(one.to_bytes(4, "little") for one in words[:4])
    kept = min(words[4], size)
    return words_of(data[:kept] + bytes(size - kept) + _PATTERN[size:])


def copy_inputs(size: int, rng: Rng, warps: int) -> Words:
    words = any_words(8)(rng, warps)
    words[..., 4] = rng.integers(0, size + 1, (warps, LANES))
    words[..., 5] = rng.integers(0, 2, (warps, LANES))
    return words


def copy(opcode: str, size: int, how: str) -> Case:
    tail = {"whole": "", "src-size": ", %a4", "ignore-src": ", %p0"}[how]

    def expected(*words: int) -> tuple[int, ...]:
        kept = {"whole": size, "src-size": words[4], "ignore-src": 0 if words[5] else size}[how]
        return copied(size, *words[:4], kept)

    return Case(
        name=f"{opcode} {size} {how}",
        body=f"{_FILL} setp.ne.u32 %p0, %a5, 0; {opcode} [%t8], [%x1], {size}{tail};"
        f"cp.async.commit_group; cp.async.wait_group 0; {_READ}",
        inputs=partial(copy_inputs, size),
        expect=of_words(6, expected),
        out_words=4,
        tests=(opcode, "cp.async.commit_group", "cp.async.wait_group"),
    )


def group_case(name: str, body: str, expected: Callable[..., tuple[int, ...]], tests: tuple[str, ...]) -> Case:
    return Case(
        name=name,
        body=f"{_FILL} {body}",
        inputs=any_words(8),
        expect=of_words(8, expected),
        out_words=4,
        tests=("cp.async.ca.shared.global", *tests),
    )


_FOUR = "".join(f"cp.async.ca.shared.global [%t8+{4 * n}], [%x1+{4 * n}], 4; cp.async.commit_group;" for n in range(4))
COPIES = [
    *[copy("cp.async.ca.shared.global", n, how) for n in (4, 8, 16) for how in ("whole", "src-size", "ignore-src")],
    *[copy("cp.async.cg.shared.global", 16, how) for how in ("whole", "src-size", "ignore-src")],
    *[copy(f"cp.async.cg.shared.global.L2::{n}B", 16, "src-size") for n in (64, 128, 256)],
    copy("cp.async.ca.shared.global.L2::128B", 8, "src-size"),
    copy("cp.async.cg.shared::cta.global", 16, "src-size"),
    # Each word is read as soon as its group has landed, and no sooner; those before it are overwritten meanwhile.
    group_case(
        "cp.async.wait_group one by one",
        _FOUR + "".join(f"cp.async.wait_group {3 - n}; ld.shared.b32 %d{n}, [%t8+{4 * n}];" for n in range(4)),
        lambda *words: words[:4],
        ("cp.async.commit_group", "cp.async.wait_group"),
    ),
    group_case(
        "cp.async.wait_all without a group",
        "cp.async.ca.shared.global [%t8], [%x1], 8; cp.async.ca.shared.global [%t8+8], [%x1+16], 8; cp.async.wait_all;"
        + _READ,
        lambda *words: (words[0], words[1], words[4], words[5]),
        ("cp.async.wait_all",),
    ),
    group_case(
        "cp.async.wait_group of empty groups",
        "cp.async.ca.shared.global [%t8], [%x1], 16; cp.async.commit_group; cp.async.commit_group;"
        f"cp.async.commit_group; cp.async.wait_group 2; {_READ}",
        lambda *words: words[:4],
        ("cp.async.commit_group", "cp.async.wait_group"),
    ),
    group_case(
        "cp.async.wait_group then over it",
        f"cp.async.ca.shared.global [%t8], [%x1], 16; cp.async.commit_group; cp.async.wait_group 0;"
        f"cp.async.ca.shared.global [%t8+4], [%x1+16], 4; cp.async.commit_group; cp.async.wait_group 0; {_READ}",
        lambda *words: (words[0], words[4], words[2], words[3]),
        ("cp.async.commit_group", "cp.async.wait_group"),
    ),
]

# ---------------------------------------------------------------------- mbarrier

# One lane sets up a barrier for 32 arrivals; all arrive, and wait for the phase in every way there is. A copy that
# arrives by itself must have landed then. Sound state tokens and parities: PTX ISA, "mbarrier".
_BARRIER = (
    "mov.u32 %t8, tile; setp.eq.u32 %p0, %t1, 0; @%p0 mbarrier.init.shared.b64 [%t8], 32; bar.sync 0;"
    "mov.b32 %d0, 0; mov.b32 %d1, 0; mov.b32 %d2, 0; mov.b32 %d3, 0;"
)


def _phase(n: int, wait: str) -> str:
    """Lanes swap word n through shared memory in phase n of the barrier."""
    return (
        f"st.shared.b32 [%t9+{64 + 128 * n}], %a{n}; mbarrier.arrive.shared.b64 %x4, [%t8];\n"
        f"$wait{n}: {wait} %p1, [%t8], {n % 2}; @!%p1 bra $wait{n};\n ld.shared.b32 %d{n}, [%t10+{64 + 128 * n}];"
    )


def phases(opcode: str, sm: int) -> Case:
    """Three phases in a row: the parity waited for alternates."""
    return Case(
        name=f"{opcode} of three phases",
        body=f"{_BARRIER} shl.b32 %t9, %t1, 2; add.u32 %t9, %t9, %t8; xor.b32 %t10, %t1, 21; shl.b32 %t10, %t10, 2;"
        "add.u32 %t10, %t10, %t8;" + "".join(_phase(n, opcode) for n in range(3)),
        inputs=any_words(3),
        expect=lambda given: Expected(words=np.ascontiguousarray(given[:, np.arange(LANES) ^ 21])),
        out_words=3,
        sm=sm,
        tests=(opcode, "mbarrier.arrive.shared.b64"),
    )


MBARRIERS = [
    phases("mbarrier.test_wait.parity.shared.b64", 80),
    phases("mbarrier.try_wait.parity.shared.b64", 90),
    Case(
        name="mbarrier.arrive.shared.b64",
        body=f"{_BARRIER} shl.b32 %t9, %t1, 2; add.u32 %t9, %t9, %t8; st.shared.b32 [%t9+64], %a0;"
        "mbarrier.arrive.shared.b64 %x4, [%t8];\n"
        "$wait: mbarrier.test_wait.shared.b64 %p1, [%t8], %x4; @!%p1 bra $wait;\n"
        "xor.b32 %t10, %t1, 13; shl.b32 %t10, %t10, 2; add.u32 %t10, %t10, %t8; ld.shared.b32 %d0, [%t10+64];",
        inputs=any_words(1),
        expect=lambda given: Expected(words=np.ascontiguousarray(given[:, np.arange(LANES) ^ 13])),
        tests=("mbarrier.init.shared.b64", "mbarrier.arrive.shared.b64", "mbarrier.test_wait.shared.b64"),
    ),
    Case(
        name="cp.async.mbarrier.arrive.noinc.shared.b64",
        body=f"{_BARRIER} shl.b32 %t9, %t1, 4; add.u32 %t9, %t9, %t8;"
        "cp.async.ca.shared.global [%t9+64], [%x1], 16; cp.async.mbarrier.arrive.noinc.shared.b64 [%t8];\n"
        "$wait: mbarrier.test_wait.parity.shared.b64 %p1, [%t8], 0; @!%p1 bra $wait;\n"
        "xor.b32 %t10, %t1, 13; shl.b32 %t10, %t10, 4; add.u32 %t10, %t10, %t8;"
        "ld.shared.v4.b32 {%d0, %d1, %d2, %d3}, [%t10+64];",
        inputs=any_words(4),
        expect=lambda given: Expected(words=np.ascontiguousarray(given[:, np.arange(LANES) ^ 13])),
        out_words=4,
        sm=90,
        tests=("cp.async.mbarrier.arrive.noinc.shared.b64", "mbarrier.test_wait.parity.shared.b64"),
    ),
]

MEMORY: list[Case] = [*LOADS, *STORES, *ATOMICS, *COPIES, *MBARRIERS]
