"""Arithmetic in a binding: text such as `ceil_div(seqlen_q, block_m) * num_heads_q`, checked, evaluated, and lowered.

The language is what C++ and Python have in common: names, whole numbers, + - *, and calls of max, min, floor_div
(rounds down), ceil_div, and choose(condition, a, b): a where the condition is not 0, else b.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

_BINARY = {ast.Add: "add", ast.Sub: "sub", ast.Mult: "mul"}
_CALLS = {"max": 2, "min": 2, "floor_div": 2, "ceil_div": 2, "choose": 3}
OPCODES = ("push", "name", "add", "sub", "mul", "floor_div", "ceil_div", "min", "max", "choose")
"""Of a lowered expression, as launcher.c numbers them."""

Number = Any  # an int, or an integer tensor that each operation goes through element by element


@dataclass(frozen=True)
class Expression:
    """A parsed expression: a sequence of (opcode, operand) for a stack machine, the operand a number or a name."""

    text: str
    code: tuple[tuple[str, int | str], ...]

    @cached_property
    def names(self) -> frozenset[str]:
        """The names in it."""
        return frozenset(str(operand) for opcode, operand in self.code if opcode == "name")

    def value(self, numbers: Mapping[str, Number]) -> Number:
        """Return the value for these numbers, by name."""
        stack: list[Number] = []
        for opcode, operand in self.code:
            if opcode == "push":
                stack.append(operand)
            elif opcode == "name":
                stack.append(numbers[str(operand)])
            else:
                count = 3 if opcode == "choose" else 2
                arguments = stack[-count:]
                del stack[-count:]
                stack.append(_OPERATIONS[opcode](*arguments))
        return stack[0]

    def lowered(self, index: Mapping[str, int]) -> tuple[tuple[int, int], ...]:
        """Return the code with numbers for opcodes and names."""
        return tuple(
            (OPCODES.index(opcode), index[str(operand)] if opcode == "name" else int(operand))
            for opcode, operand in self.code
        )


def parse_expression(text: str) -> Expression:
    """Read an expression.

    Raises:
        ValueError: saying what is not part of the language.
    """
    try:
        tree = ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ValueError(f"{text!r} is no expression: {error}") from error
    code: list[tuple[str, int | str]] = []
    _compile(tree, text, code)
    if len(code) > 64:
        raise ValueError(f"{text!r} is too long")
    return Expression(text=text, code=tuple(code))


def _compile(node: ast.expr, text: str, code: list[tuple[str, int | str]]) -> None:
    if isinstance(node, ast.Constant) and type(node.value) is int:
        code.append(("push", node.value))
    elif isinstance(node, ast.Name):
        code.append(("name", node.id))
    elif isinstance(node, ast.BinOp) and type(node.op) in _BINARY:
        _compile(node.left, text, code)
        _compile(node.right, text, code)
        code.append((_BINARY[type(node.op)], 0))
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.keywords:
        name = node.func.id
        if _CALLS.get(name) != len(node.args):
            raise ValueError(
                f"{text!r}: {name} with {len(node.args)} arguments is not known; known: {', '.join(_CALLS)}"
            )
        for argument in node.args:
            _compile(argument, text, code)
        code.append((name, 0))
    else:
        raise ValueError(f"{text!r}: only names, whole numbers, + - * and calls of {', '.join(_CALLS)} may be in it")


def _max(a: Number, b: Number) -> Number:
    return torch.maximum(torch.as_tensor(a), torch.as_tensor(b)) if _is_tensor(a, b) else max(a, b)


def _min(a: Number, b: Number) -> Number:
    return torch.minimum(torch.as_tensor(a), torch.as_tensor(b)) if _is_tensor(a, b) else min(a, b)


def _is_tensor(*values: Number) -> bool:
    return any(isinstance(value, torch.Tensor) for value in values)


_OPERATIONS: dict[str, Callable[..., Number]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "floor_div": lambda a, b: a // b,
    "ceil_div": lambda a, b: -(-a // b),
    "min": _min,
    "max": _max,
    "choose": lambda condition, a, b: a if condition else b,
}
