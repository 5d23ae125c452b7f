"""Functions, calls, indexed branches, printf and failed assertions, and addresses in initial values."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from emulator_kernels import kernel, run

from kernelwright import emulator as emu

# %r1 = thread, %rd1 = out, %rd2 = its word of out
START = "mov.u32 %r1, %tid.x; ld.param.u64 %rd1, [out]; mul.wide.u32 %rd2, %r1, 4; add.s64 %rd2, %rd1, %rd2;\n"
STORE = "st.global.u32 [%rd2], %r9;\n"
TRIPLE = (
    ".visible .func (.param .b32 func_retval0) triple(.param .b32 triple_param_0)\n{\n.reg .b32 %r<9>;\n"
    "ld.param.u32 %r1, [triple_param_0];\nmul.lo.s32 %r2, %r1, 3;\nst.param.b32 [func_retval0+0], %r2;\nret;\n}\n"
)
CALL_TRIPLE = (
    "{\n.param .b32 param0;\nst.param.b32 [param0+0], %r1;\n.param .b32 retval0;\n"
    "call.uni (retval0),\ntriple,\n(\nparam0\n);\nld.param.b32 %r9, [retval0+0];\n}\n"
)
LANES = np.arange(32, dtype=np.uint32)


def out_of(
    body: str, before: str = "", *, block: int = 32, out: np.ndarray | None = None, **launch: object
) -> np.ndarray:
    values = np.zeros(block, np.uint32) if out is None else out
    run(kernel(START + body, before=before), [values], block=block, **launch)
    return values


def refused(text: str) -> str:
    with pytest.raises(emu.EmulatorError) as caught:
        emu.load(text)
    return str(caught.value)


def test_a_call_hands_over_its_argument_and_gets_the_result_back():
    assert np.array_equal(out_of(CALL_TRIPLE + STORE, TRIPLE), LANES * 3)


def test_a_function_may_be_declared_first_and_defined_after_its_caller():
    declaration = TRIPLE[: TRIPLE.index("{")].replace(".visible", "") + ";\n"
    text = kernel(START + CALL_TRIPLE + STORE, before=declaration) + TRIPLE
    values = np.zeros(32, np.uint32)
    run(text, [values])
    assert np.array_equal(values, LANES * 3)


def test_register_parameters_constants_and_a_guard():
    add = ".weak .func (.reg .b32 sum) add(.reg .b32 x, .reg .b32 y)\n{\nadd.s32 sum, x, y;\nret;\n}\n"
    body = "mov.u32 %r9, 7; setp.lt.u32 %p1, %r1, 10;\n@!%p1 call (%r9), add, (%r1, 100);\n"
    assert np.array_equal(out_of(body + STORE, add), np.where(LANES < 10, 7, LANES + 100))


def test_calls_without_arguments_or_results_and_ignored_results():
    functions = (
        ".func touch()\n{\n.reg .b64 a;\nmov.u64 a, counter;\nred.global.add.u32 [a], 1;\nret;\n}\n"
        ".func (.reg .b32 r) seven()\n{\nmov.u32 r, 7;\nret;\n}\n"
    )
    body = "call touch;\ncall.uni touch, ();\ncall (_), seven, ();\ncall (%r8), seven;\n"
    body += "ld.global.u32 %r9, [counter]; add.u32 %r9, %r9, %r8;"
    assert np.array_equal(out_of(body + STORE, ".global .u32 counter;\n" + functions), np.full(32, 71))


def test_lanes_that_return_early_wait_for_the_others():
    early = (
        ".func (.reg .b32 r) early(.reg .b32 x)\n{\n.reg .pred p;\n.reg .b32 n;\nmov.u32 r, 1;\n"
        "setp.lt.u32 p, x, 5;\n@p ret;\nmov.u32 n, x;\nagain:\nadd.u32 r, r, 2;\nsub.u32 n, n, 1;\n"
        "setp.ne.u32 p, n, 0;\n@p bra again;\nret.uni;\n}\n"
    )
    # The shuffle would be a finding if the warp had not come together again.
    body = "call (%r8), early, (%r1);\nshfl.sync.bfly.b32 %r9, %r8, 1, 31, -1;\n"
    result = np.where(LANES < 5, 1, 1 + 2 * LANES)
    assert np.array_equal(out_of(body + STORE, early), result[LANES ^ 1])


def test_a_call_in_a_branch_that_some_lanes_take_reconverges():
    body = "mov.u32 %r9, 0; setp.ge.u32 %p1, %r1, 20;\n@%p1 bra $past;\n" + CALL_TRIPLE + "$past:\n"
    body += "shfl.sync.bfly.b32 %r9, %r9, 1, 31, -1;\n"
    assert np.array_equal(out_of(body + STORE, TRIPLE), np.where(LANES < 20, LANES * 3, 0)[LANES ^ 1])


def test_one_function_called_from_both_sides_of_a_branch():
    body = (
        "setp.ge.u32 %p1, %r1, 20;\n@%p1 bra $else;\n" + CALL_TRIPLE + "add.u32 %r9, %r9, 1;\nbra $end;\n$else:\n"
        + CALL_TRIPLE + "add.u32 %r9, %r9, 2;\n$end:\n"
    )  # fmt: skip
    assert np.array_equal(out_of(body + STORE, TRIPLE), LANES * 3 + np.where(LANES < 20, 1, 2))


def test_functions_call_functions_and_each_has_local_memory_of_its_own():
    inner = (
        ".func (.param .b32 r) inner(.param .b32 x)\n{\n.local .align 64 .b8 depot[64];\n.reg .b32 %r<9>;\n"
        "ld.param.u32 %r1, [x];\nst.local.u32 [depot+60], %r1;\nadd.u32 %r1, %r1, 1;\nst.local.u32 [depot], %r1;\n"
        "ld.local.u32 %r2, [depot+60];\nadd.u32 %r2, %r2, %r1;\nst.param.b32 [r], %r2;\nret;\n}\n"
    )
    call = "{{\n.param .b32 a;\n.param .b32 r;\nst.param.b32 [a], {0};\ncall (r), inner, (a);\n"
    call += "ld.param.b32 {1}, [r];\n}}\n"
    outer = (
        ".func (.param .b32 r) outer(.param .b32 x)\n{\n.local .align 4 .b8 depot[4];\n.reg .b32 %r<9>;\n"
        "ld.param.u32 %r1, [x];\nst.local.u32 [depot], %r1;\n" + call.format("%r1", "%r2") + call.format("%r2", "%r3")
        + "ld.local.u32 %r4, [depot];\nadd.u32 %r3, %r3, %r4;\nst.param.b32 [r], %r3;\nret;\n}\n"
    )  # fmt: skip
    body = call.replace("inner", "outer").format("%r1", "%r9")
    assert np.array_equal(out_of(body + STORE, inner + outer), (2 * (2 * LANES + 1) + 1) + LANES)


def test_structures_are_passed_by_value_and_through_their_address():
    function = (
        ".func (.param .align 16 .b8 r[16]) swap(.param .align 16 .b8 s[24])\n{\n.reg .b64 %rd<9>;\n.reg .b32 %r<9>;\n"
        "ld.param.v2.b32 {%r1, %r2}, [s+8];\nmov.b64 %rd1, s;\nld.local.u64 %rd2, [%rd1+16];\nst.local.u32 [%rd1], 9;\n"
        "st.param.v2.b32 [r], {%r2, %r1};\nst.param.b64 [r+8], %rd2;\nret;\n}\n"
    )
    body = (
        "{\n.param .align 16 .b8 param0[24];\nst.param.v4.b32 [param0], {%r1, 1, 2, 3};\n"
        "st.param.b64 [param0+16], 50;\n"
        ".param .align 16 .b8 retval0[16];\ncall.uni (retval0), swap, (param0);\n"
        "ld.param.v4.b32 {%r2, %r3, %r4, %r5}, [retval0];\n"
        "ld.param.b32 %r6, [param0];\n}\nmul.lo.u32 %r9, %r2, 100; add.u32 %r9, %r9, %r3; "
        "mad.lo.u32 %r9, %r4, 1000, %r9;"
        "sub.u32 %r6, %r6, %r1; add.u32 %r9, %r9, %r6;"
    )
    assert np.array_equal(out_of(body + STORE, function), np.full(32, 3 * 100 + 2 + 50 * 1000))


def test_a_variable_is_declared_once_in_a_scope():
    assert "declared twice" in refused(kernel(".param .b32 a; .param .b32 a;"))
    emu.load(kernel(".param .b32 a; { .param .b64 a; st.param.b64 [a], 0; }"))


@pytest.mark.parametrize(
    ("kind", "value", "want"),
    [("f32", "0f3F800000", 0x3F800000), ("b32", "0f3F800000", 0x3F800000), ("u32", "-1", 0xFFFFFFFF)],
)
def test_constants_are_stored_as_they_are_written(kind, value, want):
    assert (out_of(f"st.global.{kind} [%rd2], {value};") == want).all()


def test_an_exit_inside_a_function_ends_the_thread():
    leave = ".func leave(.reg .b32 x)\n{\n.reg .pred p;\nsetp.lt.u32 p, x, 4;\n@p exit;\n}\n"  # and falls off its end
    assert np.array_equal(out_of("call leave, (%r1); mov.u32 %r9, 1;" + STORE, leave), np.where(LANES < 4, 0, 1))


def test_a_finding_inside_a_function_names_its_line():
    bad = ".func bad(.reg .b64 p)\n{\nst.global.u32 [p+4096], 1;\nret;\n}\n"
    text = kernel(START + "call bad, (%rd1);", before=bad)
    with pytest.raises(emu.EmulatorError, match="out_of_bounds") as caught:
        run(text, [np.zeros(32, np.uint32)])
    assert caught.value.report.findings[0].ptx_line == text.splitlines().index("st.global.u32 [p+4096], 1;") + 1


@pytest.mark.parametrize("names", [["a"], ["a", "b"]])
def test_recursion_is_an_error_that_names_the_line_of_the_call(names):
    functions = "".join(f".func {name}();\n" for name in names)
    for name, callee in zip(names, [*names[1:], names[0]], strict=True):
        functions += f".func {name}()\n{{\ncall {callee};\nret;\n}}\n"
    text = kernel("call a;", before=functions)
    message = refused(text)
    assert "recursion is not supported" in message
    assert f"line {text.splitlines().index('call a;') + 1}:" in message


@pytest.mark.parametrize(
    ("call", "before", "message"),
    [
        ("call nothing;", "", "'nothing', a function that has no body"),
        ("call (%r1), malloc, (%rd1);", ".extern .func (.param .b64 r) malloc(.param .b64 s);", "'malloc'"),
        ("call triple;", TRIPLE, "0 arguments and 0 results; it has 1 and 1"),
        ("call (%rd1), triple, (%r1);", TRIPLE, "4 bytes where 8 are declared"),
        ("call (%r1), triple, (%rd1);", TRIPLE, "8 bytes where 4 are declared"),
        ("call (%r1), triple, (nothing);", TRIPLE, "'nothing' of a call is not declared"),
        ("call (%r1), %rd1, (%r1);", TRIPLE, "callprototype"),
        ("call (%r1), [%rd1], (%r1);", TRIPLE, "malformed call"),
    ],
)
def test_a_wrong_call_is_an_error_that_says_what(call, before, message):
    assert message in refused(kernel(call, before=before))


def test_calls_that_multiply_are_bounded():
    levels = 40  # inlined, 2 ** 40 copies of the innermost
    functions = ".func f0(.reg .b32 x)\n{\nret;\n}\n"
    for n in range(1, levels):
        functions += f".func f{n}(.reg .b32 x)\n{{\ncall f{n - 1}, (x);\ncall f{n - 1}, (x);\nret;\n}}\n"
    emu.load(kernel(f"call f{levels - 1}, (%r1);", before=functions))
    deep = "".join(f".func g{n}()\n{{\ncall g{n - 1};\nret;\n}}\n" for n in range(1, 1000))
    assert "nested too deeply" in refused(kernel("call g999;", before=".func g0()\n{\nret;\n}\n" + deep))


FUNCTIONS = (
    ".func (.param .b32 r) plus(.param .b32 x)\n{\n.reg .b32 %r<3>;\nld.param.b32 %r1, [x];\nadd.u32 %r1, %r1, 5;\n"
    "st.param.b32 [r], %r1;\nret;\n}\n"
    ".func (.param .b32 r) times(.param .b32 x)\n{\n.reg .b32 %r<3>;\nld.param.b32 %r1, [x];\nmul.lo.u32 %r1, %r1, 5;\n"
    "st.param.b32 [r], %r1;\nret;\n}\n"
    ".global .align 8 .u64 table[3] = {plus, times, 0};\n"
)


def indirect(lists: str, name: str) -> str:
    return (
        "and.b32 %r2, %r1, 1; mul.wide.u32 %rd5, %r2, 8; mov.u64 %rd6, table; add.s64 %rd6, %rd6, %rd5;"
        "ld.global.u64 %rd7, [%rd6];\n{\n.param .b32 param0;\n.param .b32 retval0;\nst.param.b32 [param0], %r1;\n"
        f"{lists}\ncall (retval0), %rd7, (param0), {name};\nld.param.b32 %r9, [retval0];\n}}\n"
    )


@pytest.mark.parametrize(
    "lists", ["list: .callprototype (.param .b32 _) _ (.param .b32 _);", "list: .calltargets plus, times;"]
)
def test_a_call_through_a_table_of_functions_goes_where_each_lane_says(lists):
    want = np.where(LANES % 2, LANES * 5, LANES + 5)
    assert np.array_equal(out_of(indirect(lists, "list") + STORE, FUNCTIONS), want)


def test_a_call_through_a_pointer_to_no_function_is_found():
    body = indirect("list: .calltargets plus, times;", "list").replace("mov.u64 %rd6, table", "mov.u64 %rd6, table+8")
    with pytest.raises(emu.EmulatorError, match="call_target"):
        out_of(body + STORE, FUNCTIONS)
    with pytest.raises(emu.EmulatorError, match="does not list"):
        out_of(indirect("list: .calltargets plus;", "list") + STORE, FUNCTIONS)


SWITCH = (
    "rem.u32 %r2, %r1, 3;\nlist: .branchtargets $one, $two, $three;\nbrx.idx %r2, list;\n"
    "$one:\nmov.u32 %r9, 10;\nbra $end;\n"
    "$two:\nmov.u32 %r9, 20;\nbra $end;\n$three:\nmov.u32 %r9, 30;\n$end:\nshfl.sync.bfly.b32 %r9, %r9, 0, 31, -1;\n"
)


def test_an_indexed_branch_splits_the_warp_and_the_parts_meet_again():
    assert np.array_equal(out_of(SWITCH + STORE), LANES % 3 * 10 + 10)


def test_a_guarded_indexed_branch_lets_the_others_past():
    body = (
        "setp.lt.u32 %p1, %r1, 16;\nmov.u32 %r9, 1;\nlist: .branchtargets $end;\n@%p1 brx.idx.uni 0, list;\n"
        "mov.u32 %r9, 2;\n$end:\n"
    )
    assert np.array_equal(out_of(body + STORE), np.where(LANES < 16, 1, 2))


def test_registers_stay_alive_for_every_target_of_an_indexed_branch():
    # Each target reads a value made before the branch; between them lies code that needs registers.
    live = "".join(f"add.u32 %r{20 + n}, %r1, {n};\n" for n in range(8))
    targets = ", ".join(f"$t{n}" for n in range(8))
    arms = "".join(f"$t{n}:\nmul.lo.u32 %r40, %r1, 3;\nadd.u32 %r9, %r{20 + n}, %r40;\nbra $end;\n" for n in range(8))
    body = live + f"and.b32 %r2, %r1, 7;\nlist: .branchtargets {targets};\nbrx.idx %r2, list;\n{arms}$end:\n"
    assert np.array_equal(out_of(body + STORE), LANES + LANES % 8 + LANES * 3)


def test_an_index_outside_the_list_is_found():
    with pytest.raises(emu.EmulatorError, match=r"branch_index.*index 3 into a list of 3"):
        out_of(SWITCH.replace("rem.u32 %r2, %r1, 3", "and.b32 %r2, %r1, 3") + STORE)


def text_variable(name: str, text: str) -> str:
    data = [*text.encode(), 0]
    return f".global .align 1 .b8 {name}[{len(data)}] = {{{', '.join(map(str, data))}}};\n"


PRINTF = ".extern .func (.param .b32 func_retval0) vprintf(.param .b64 a, .param .b64 b);\n"
CALL_PRINTF = (
    "mov.u64 %rd20, format; cvta.global.u64 %rd20, %rd20; mov.u64 %rd21, depot; cvta.local.u64 %rd22, %rd21;\n"
    "{\n.param .b64 param0;\nst.param.b64 [param0], %rd20;\n.param .b64 param1;\nst.param.b64 [param1], %rd22;\n"
    ".param .b32 retval0;\ncall.uni (retval0), vprintf, (param0, param1);\nld.param.b32 %r9, [retval0];\n}\n"
)


def printed(text: str, stores: str, *, block: int = 1, **launch: object) -> tuple[str, int]:
    body = ".local .align 16 .b8 depot[128];\n" + START + stores + CALL_PRINTF + STORE
    before = PRINTF + text_variable("format", text) + text_variable("word", "wörd")
    out = np.zeros(block, np.uint32)
    report = run(kernel(body, before=before), [out], block=block, **launch)
    return report.printed, int(out.view(np.int32)[0])


def each(kind: str, value: str, count: int) -> str:
    """Store `count` equal arguments."""
    return "".join(f"st.local.{kind} [depot+{int(kind[1:]) // 8 * n}], {value};" for n in range(count))


@pytest.mark.parametrize(
    ("text", "stores", "want", "count"),
    [
        ("none %%\n", "", "none %\n", 0),
        ("%d|%5i|%-5u|%05d|%+d|% d", each("u32", "42", 6), "42|   42|42   |00042|+42| 42", 6),
        ("%d %u %x %#X %o", each("u32", "-2", 5), "-2 4294967294 fffffffe 0XFFFFFFFE 37777777776", 5),
        ("%d %lld %d", "st.local.u32 [depot], 1; st.local.u64 [depot+8], -5000000000; st.local.u32 [depot+16], 3;",
         "1 -5000000000 3", 3),
        ("%hd %hhu %lx", "st.local.v2.u32 [depot], {65537, 257}; st.local.u64 [depot+8], 255;", "1 1 ff", 3),
        ("%f %.2e %g %a", each("f64", "0d3FF8000000000000", 4), "1.500000 1.50e+00 1.5 0x1.8p+0", 4),
        ("%c%3c|%p", "st.local.v2.u32 [depot], {65, 66}; st.local.u64 [depot+8], 4096;", "A  B|0x1000", 3),
        ("%*d|%.*f", "st.local.v2.u32 [depot], {4, 7}; st.local.u32 [depot+8], 1;"
         "st.local.f64 [depot+16], 0d4000000000000000;", "   7|2.0", 4),
        ("%s|%7s|%.1s", "mov.u64 %rd8, word; cvta.global.u64 %rd8, %rd8;" + each("u64", "%rd8", 3), "wörd|  wörd|w", 3),
        ("%s", "st.local.u64 [depot], 0;", "(null)", 1),
    ],
)  # fmt: skip
def test_printf_formats_as_c_does_and_returns_the_number_of_arguments(text, stores, want, count):
    assert printed(text, stores) == (want, count)


def test_printf_prints_lane_by_lane_in_a_fixed_order():
    text, _ = printed("%d\n", "st.local.u32 [depot], %r1;", block=64)
    assert sorted(map(int, text.split())) == list(range(64))
    assert text == printed("%d\n", "st.local.u32 [depot], %r1;", block=64)[0]
    assert text == printed("%d\n", "st.local.u32 [depot], %r1;", block=64, checks="none")[0]


@pytest.mark.parametrize(
    ("text", "stores", "why"),
    [
        ("%q", "", "no conversion like the one at character 0"),
        ("a%", "", "character 1"),
        ("%n", "", "no conversion"),
        ("%s", "st.local.u64 [depot], 77;", "string of a %s"),
        ("%99999d", "st.local.u32 [depot], 1;", "no conversion"),
        ("%*d", "st.local.u32 [depot], 99999; st.local.u32 [depot+4], 1;", "width"),
        ("%d" * 400, "", "are not where its caller says"),
    ],
)
@pytest.mark.parametrize("checks", ["all", "none"])
def test_a_bad_printf_is_found(text, stores, why, checks):
    with pytest.raises(emu.EmulatorError, match="printf in kernel k") as caught:
        printed(text, stores, checks=checks)
    assert why in caught.value.report.findings[0].text


def test_what_a_kernel_prints_is_bounded():
    loop = (
        "mov.u32 %r30, 0;\n$again:\n"
        + CALL_PRINTF
        + "add.u32 %r30, %r30, 1; setp.lt.u32 %p1, %r30, 1000;\n@%p1 bra $again;\n"
    )
    body = ".local .align 16 .b8 depot[128];\nst.local.u32 [depot], 1;\n" + loop
    report = run(kernel(body, before=PRINTF + text_variable("format", "%2000d\n")), [np.zeros(1, np.uint32)], block=1)
    assert 1 << 19 < len(report.printed) < (1 << 20) + 100
    assert report.printed.endswith("is lost]\n")


STDOUT = """
import ctypes, sys
sys.path.insert(0, sys.argv[1])
from test_functions import PRINTF, CALL_PRINTF, text_variable, kernel
from kernelwright.emulator import launch
lib = launch.driver()
before = PRINTF + text_variable("format", "hello\\n")
text = kernel(".local .align 16 .b8 depot[16];\\n" + CALL_PRINTF, "", before=before)
library, function = ctypes.c_void_p(), ctypes.c_void_p()
assert lib.cuLibraryLoadData(ctypes.byref(library), text.encode(), None, None, 0, None, None, 0) == 0
assert lib.cuLibraryGetKernel(ctypes.byref(function), library, b"k") == 0
config = launch._LaunchConfig(grid=(2, 1, 1), block=(1, 1, 1))
assert lib.cuLaunchKernelEx(ctypes.byref(config), function, None, None) == 0
"""


def test_a_launch_through_the_driver_prints_to_stdout():
    folder = str(Path(__file__).parent)
    done = subprocess.run([sys.executable, "-c", STDOUT, folder], capture_output=True, text=True, check=True)
    assert done.stdout == "hello\nhello\n"


def test_a_failed_assertion_is_found_with_what_it_says():
    before = (
        ".extern .func __assertfail(.param .b64 a, .param .b64 b, .param .b32 c, .param .b64 d, .param .b64 e);\n"
        + text_variable("what", "x > 0") + text_variable("file", "a.cu") + text_variable("where", "void k()")
    )  # fmt: skip
    body = "setp.eq.u32 %p1, %r1, 9;\n@!%p1 bra $fine;\n"
    for n, name in enumerate(("what", "file", "where")):
        body += f"mov.u64 %rd{3 + n}, {name}; cvta.global.u64 %rd{3 + n}, %rd{3 + n};\n"
    body += "call __assertfail, (%rd3, %rd4, 17, %rd5, 1);\n$fine:\n"
    with pytest.raises(emu.EmulatorError, match="assertion in kernel k") as caught:
        out_of(body, before)
    found = caught.value.report.findings[0]
    assert found.text == "a.cu:17: void k(): assertion `x > 0` failed"
    assert found.lane == 9


def test_initial_values_may_hold_addresses():
    before = (
        ".global .align 8 .u64 first[3] = {generic(data), data+4, generic(data+4)+4};\n"
        ".global .align 4 .u32 data[3] = {11, 22, 33};\n.global .align 8 .b8 bytes[8] = "
        "{0xFF(data), 0xFF00(data), 0xFF0000(data), 0xFF000000(data), 0xFF00000000(data), "
        "0xFF0000000000(data), 0, 0};\n"
        ".const .align 8 .u64 second[1] = {generic(first)};\n"
    )
    body = (
        "ld.const.u64 %rd3, [second]; ld.u64 %rd4, [%rd3]; ld.u64 %rd5, [%rd3+8]; ld.u64 %rd6, [%rd3+16]; "
        "ld.global.u64 %rd7, [bytes];"
        "ld.u32 %r2, [%rd4]; ld.u32 %r3, [%rd5]; ld.u32 %r4, [%rd6]; ld.u32 %r5, [%rd7]; "
        "st.global.v4.u32 [%rd1], {%r2, %r3, %r4, %r5};"
    )
    values = out_of(body, before, block=4)
    assert values.tolist() == [11, 22, 33, 11]


@pytest.mark.parametrize(
    ("declaration", "message"),
    [
        (".global .u64 a[1] = {nothing};", "'nothing'"),
        (".global .u32 b; .global .u32 a[1] = {b};", "needs an element of 64 bits"),
        (".shared .u32 a[1] = {1};", "must not have an initial value"),
        (".shared .u32 b; .global .u64 a = b;", "'b'"),
        (".global .b8 a[1] = {0x0(a)};", "mask"),
    ],
)
def test_a_wrong_initial_value_is_an_error_that_names_its_line(declaration, message):
    found = refused(kernel("", before="\n" + declaration))
    assert message in found
    assert "line 5:" in found


def test_addresses_beyond_the_shared_window_are_not_cut_off():
    body = (
        "mov.u32 %r2, cell; cvt.u64.u32 %rd3, %r2; cvta.shared.u64 %rd3, %rd3; st.u32 [%rd3], 1; "
        "add.s64 %rd3, %rd3, 0x100000000;\n"
    )
    with pytest.raises(emu.EmulatorError, match="out_of_bounds"):
        out_of(body + "ld.u32 %r9, [%rd3];" + STORE, ".shared .align 4 .b8 cell[4];")


DEVICE_CODE = """
#include <cstdio>
#include <cassert>
struct S { int a; float b[5]; double c; };
typedef int (*Function)(int, float);
extern "C" {
__device__ __noinline__ int f(int x, float y) { if (x > 5) return x * 3; return (int)y + x; }
__device__ __noinline__ int g(int x, float y) { return x - (int)y; }
__device__ __noinline__ S change(S s, int i) { s.a += i; s.b[i & 3] += 1.f; s.c *= 2; return s; }
__device__ __noinline__ int deep(const int* p, int n) {
    int t[8];
    for (int i = 0; i < 8; ++i) t[i] = p[(i + n) & 7];
    int sum = 0;
    for (int i = 0; i < n; ++i) sum += f(t[i & 7], 2.f);
    return sum;
}
__device__ __noinline__ int chosen(int x, int n) {
    switch (x) {
        case 0: return n * 3; case 1: return n ^ 5; case 2: return 1000 / n; case 3: return n - 7;
        case 4: return __popc(n); case 5: return n * n; case 6: return n << 3; case 7: return ~n;
        case 8: return n | 64; default: return -1;
    }
}
__device__ Function table[2] = {f, g};
__device__ const char* const words[3] = {"zero", "one", "two"};
__global__ void calls(const int* in, int* out) {
    const int i = threadIdx.x;
    S s{};
    s.a = i;
    s.c = 1.5;
    s = change(s, in[i]);
    out[i] = f(in[i], 2.5f) + s.a + (int)(s.c * 10) + (int)s.b[in[i] & 3] + deep(in, i & 7)
           + table[i & 1](i, 1.f) * 1000 + chosen(i, in[i]);
}
__global__ void prints(int* out) {
    const int n = printf("%d %s %5.2f %lld %c\\n", threadIdx.x, words[threadIdx.x], 0.5f * threadIdx.x, 1ll << 40, 'x');
    out[threadIdx.x] = n + printf("end\\n");
    assert(threadIdx.x != 2 || out[3] == 0);
}
}
"""


@pytest.mark.nvcc
@pytest.mark.parametrize("flags", [[], ["-G"], ["-lineinfo", "-O3", "-jtd", "10"]])  # the last makes switches tables
def test_functions_as_nvcc_compiles_them(tmp_path, flags):
    source, text = tmp_path / "calls.cu", tmp_path / "calls.ptx"
    source.write_text(DEVICE_CODE)
    subprocess.run(
        ["nvcc", "-ptx", "-arch=sm_80", *flags, str(source), "-o", str(text)], check=True, capture_output=True
    )
    assert ("brx.idx" in text.read_text()) == ("-jtd" in flags)
    module = emu.load(text)
    values = (np.arange(32, dtype=np.int32) * 7 + 3) % 11
    out = np.zeros(32, np.int32)
    module.launch("calls", grid=(1,), block=(32,), args=[values, out])

    def f(x: int, y: float) -> int:
        return x * 3 if x > 5 else int(y) + x

    def chosen(x: int, n: int) -> int:
        if x == 2:
            return 1000 // n if n else -1
        arms = {0: n * 3, 1: n ^ 5, 3: n - 7, 4: n.bit_count(), 5: n * n, 6: n << 3, 7: ~n, 8: n | 64}
        return arms.get(x, -1)

    for i in range(32):
        v = values.tolist()
        deep = sum(f(v[(k + (i & 7)) & 7], 2.0) for k in range(i & 7))
        through = f(i, 1.0) if i % 2 == 0 else i - 1
        assert out[i] == f(v[i], 2.5) + i + v[i] + 30 + 1 + deep + through * 1000 + chosen(i, v[i])
    out[:] = 0
    report = module.launch("prints", grid=(1,), block=(3,), args=[out])
    assert report.printed.splitlines()[:3] == [
        f"{i} {w} {i / 2:5.2f} {1 << 40} x" for i, w in enumerate(["zero", "one", "two"])
    ]
    assert report.printed.splitlines()[3:] == ["end"] * 3
    assert out[:3].tolist() == [5, 5, 5]
    out[3] = 1
    with pytest.raises(emu.EmulatorError, match="assertion"):
        module.launch("prints", grid=(1,), block=(3,), args=[out])


def test_an_undefined_argument_may_be_handed_over_and_is_judged_where_it_matters():
    body = CALL_TRIPLE.replace("st.param.b32 [param0+0], %r1;", "st.param.b32 [param0+0], %r8;")
    assert len(out_of(body + "st.global.u32 [%rd2], %r1;\n", before=TRIPLE)) == 32
    with pytest.raises(emu.EmulatorError, match=r"undefined_value.*%r9 is stored here"):
        out_of(body + STORE, before=TRIPLE)
