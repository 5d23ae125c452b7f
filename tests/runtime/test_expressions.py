"""Expressions of a binding: the language, its faults, and the same values from Python, the launcher and gen's tools."""

from __future__ import annotations

import itertools
import random
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from fake_driver import StandIn

from kernelwright.gen.launch_params import TensorArgument, launch_params
from kernelwright.runtime.binding import lower, read_binding
from kernelwright.runtime.expressions import OPCODES, parse_expression
from kernelwright.runtime.launcher import Launcher, load_launcher
from kernelwright.runtime.schema import Node

INT32 = 0 << 8 | 32
CUDA = 2


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("7", 7),
        ("a", 5),
        ("a + b * 2", -1),
        ("(a + b) * 2", 4),
        ("a - b - 1", 7),
        ("max(a, b)", 5),
        ("min(a, b)", -3),
        ("floor_div(b, 2)", -2),
        ("floor_div(a, 2)", 2),
        ("ceil_div(b, 2)", -1),
        ("ceil_div(a, 2)", 3),
        ("choose(0, a, b)", -3),
        ("choose(a - 5, 1, choose(b, 2, 3))", 2),
        ("choose(0 - 1, a, b)", 5),
    ],
)
def test_an_expression_has_the_value_of_arithmetic(text, value):
    assert parse_expression(text).value({"a": 5, "b": -3}) == value


def test_tensors_go_through_element_by_element():
    query = torch.arange(6)
    found = parse_expression("max(floor_div(query - 3, 2), 0) * 4 + min(query, k)").value({"query": query, "k": 4})
    assert found.tolist() == [max((q - 3) // 2, 0) * 4 + min(q, 4) for q in range(6)]


def test_the_names_of_an_expression_are_those_in_it():
    assert parse_expression("max(a, b) + a * 3").names == {"a", "b"}
    assert parse_expression("3").names == frozenset()


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "is no expression"),
        ("a +", "is no expression"),
        ("a\0", "is no expression"),
        ("(" * 5000, "is no expression"),
        ("a / b", "only names, whole numbers"),
        ("a ** b", "only names, whole numbers"),
        ("-a", "only names, whole numbers"),
        ("1.5", "only names, whole numbers"),
        ("True", "only names, whole numbers"),
        ("'a'", "only names, whole numbers"),
        ("a.b", "only names, whole numbers"),
        ("a[0]", "only names, whole numbers"),
        ("a if b else 0", "only names, whole numbers"),
        ("max(a, b=1)", "only names, whole numbers"),
        ("(max)(a, b) if a else b", "only names, whole numbers"),
        ("max(a)", "max with 1 arguments is not known"),
        ("choose(a, b)", "choose with 2 arguments is not known"),
        ("abs(a)", "abs with 1 arguments is not known; known: max, min, floor_div"),
        ("__import__('os')", "__import__ with 1 arguments is not known"),
        (" + ".join(["a"] * 40), "is too long"),
    ],
)
def test_what_is_not_in_the_language_is_refused_in_words(text, fault):
    with pytest.raises(ValueError, match=fault):
        parse_expression(text)


def test_a_lowered_expression_is_numbers_alone():
    lowered = parse_expression("max(a, 2) - b").lowered({"a": 3, "b": -1})
    names = ("name", "push", "max", "name", "sub")
    assert [OPCODES[opcode] for opcode, _ in lowered] == list(names)
    assert [operand for _, operand in lowered] == [3, 2, 0, -1, 0]


# ------------------------------------------------------------------ three that must agree


def binding(expressions: list[str]) -> dict[str, Any]:
    """One tensor, one whole scalar, and a 64-bit field for each expression of the names n, m (sizes), s, c."""
    dims = ["n", "m"]
    tensor = {"name": "x", "dims": dims, "dtype": "int32", "access": "read", "optional": False, "layout": "any"}
    fields = [{"name": f"f{i}", "type": "i64", "from": ["term", text]} for i, text in enumerate(expressions)]
    return {
        "sizes": dims,
        "size_defaults": {},
        "tensors": [tensor],
        "divides": [],
        "scalars": [{"name": "s", "type": "i32", "default": 0}],
        "flags": [],
        "fixed": [],
        "visibility": {"": {"first_key": "0", "end_key": "n"}},
        "fields": fields,
        "grid": ["n", "max(m, 1)", "1"],
    }


@pytest.fixture
def launcher(exchange_fake: Any) -> Launcher:
    module: ModuleType = exchange_fake.load()
    return load_launcher(module.__name__, plain_ints=True)


def drawn(generator: random.Random, depth: int) -> str:
    if depth == 0:
        return generator.choice(["n", "m", "s", "c", "0", "1", "7", "1000003"])
    parts = [drawn(generator, generator.randint(0, depth - 1)) for _ in range(3)]
    kind = generator.choice(["+", "-", "*", "max", "min", "floor_div", "ceil_div", "choose"])
    if kind in "+-*":
        return f"({parts[0]} {kind} {parts[1]})"
    if kind.endswith("div"):
        return f"{kind}({parts[0]}, {generator.choice(['3', 'n', 'max(s, 1)', '128', 'min(0 - c, 0 - 1)'])})"
    return f"{kind}({', '.join(parts if kind == 'choose' else parts[:2])})"


def test_python_the_launcher_and_the_tools_agree(launcher, stand_in_path):
    generator = random.Random(2)
    texts: list[str] = []
    while len(texts) < 60:
        text = drawn(generator, 4)
        try:
            parse_expression(text)
        except ValueError:  # too long
            continue
        texts.append(text)
    plain = binding(texts)
    read = read_binding(Node(value=plain, path="$", file=Path("table.json")))
    lowered = lower(read)
    assert read.constants == ("c",)
    operation = launcher.operation(**{name: getattr(lowered, name) for name in lowered.__slots__})
    stand_in = StandIn(stand_in_path, plain["fields"])
    driver = launcher.driver(str(stand_in_path))
    compared = 0
    for c, (n, m), s in itertools.product((1, 5, 64), ((1, 1), (5, 3), (128, 40)), (-9, 0, 3, 1 << 20)):
        kernel = launcher.kernel(
            driver=driver, ordinal=0, name="k", entry="k", threads=32, smem_bytes=0, constants=(c,)
        )
        kernel.load(b"image")
        stand_in.expect()
        assert operation.launch_kernel(kernel, (4096, INT32, CUDA, 0, (n, m), (m, 1)), s, 0, 0)
        numbers = {"n": n, "m": m, "s": s, "c": c}
        expected = [one.term.value(numbers) for one in read.fields if one.term]
        if any(abs(one) >= 2**63 for one in expected):
            continue
        assert list(stand_in.parameters.values()) == expected
        tensor = TensorArgument(address=4096, shape=(n, m), strides=(m, 1))
        by_tools = launch_params(plain, {"x": tensor}, constants={"c": c}, scalars={"s": s})
        assert by_tools.struct == b"".join(one.to_bytes(8, "little", signed=True) for one in expected)
        assert by_tools.grid == (n, max(m, 1), 1)
        assert f"grid {n} {max(m, 1)} 1" in stand_in.launches[-1]
        compared += 1
    assert compared > 20
    stand_in.reset()


def test_a_whole_scalar_beyond_what_is_exact_is_left_to_python(launcher, stand_in_path):
    read = read_binding(Node(value=binding(["s"]), path="$", file=Path("table.json")))
    lowered = lower(read)
    operation = launcher.operation(**{name: getattr(lowered, name) for name in lowered.__slots__})
    kernel = launcher.kernel(
        driver=launcher.driver(str(stand_in_path)),
        ordinal=0,
        name="k",
        entry="k",
        threads=32,
        smem_bytes=0,
        constants=(),
    )
    kernel.load(b"image")
    call = ((4096, INT32, CUDA, 0, (2, 2), (2, 1)),)
    assert operation.launch_kernel(kernel, *call, 2**53, 0, 0)
    assert operation.launch_kernel(kernel, *call, 2**53 + 2, 0, 0) is False
    assert operation.launch_kernel(kernel, *call, 1.0, 0, 0) is False  # of another type
