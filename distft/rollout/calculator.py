"""The environment ``distft.rollout.calculator:Calculator``: a policy that may calculate before it answers."""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from distft.rollout.environment import answer_of

_CALL: Final = re.compile(r"calc\b:?\s*(.*)", re.DOTALL)
_LONGEST: Final = 80  # characters of an expression
_LARGEST: Final = 10**12  # of any number on the way, so that nothing takes long
_OPERATORS: Final[Mapping[type[ast.AST], Callable[..., Any]]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
}


class Calculator:
    """A turn ``calc: 3 * (4 + 5)`` is answered with ``27``; any other is the policy's answer, worth 1 where it is the
    row's column ``answer`` (white space around both aside), else 0. What is no arithmetic is answered with ``error``.
    """

    def reset(self, row: Mapping[str, Any]) -> None:
        """Takes the row's ``answer``. ValueError where it has none."""
        self._answer = answer_of(row).strip()

    def step(self, text: str) -> tuple[str | None, float, bool]:
        """See the class."""
        called = _CALL.fullmatch(text.strip())
        if called is None:
            return None, float(text.strip() == self._answer), True
        return calculated(called[1]), 0.0, False


def calculated(expression: str) -> str:
    """The value of an arithmetic expression of numbers, ``+ - * /`` and brackets; ``error`` for anything else."""
    if len(expression) > _LONGEST:
        return "error"
    try:
        value = _value(ast.parse(expression.strip(), mode="eval").body)
    except (SyntaxError, ValueError, ArithmeticError, RecursionError, MemoryError):
        return "error"
    return f"{value:.10g}" if isinstance(value, float) else str(value)


def _value(node: ast.AST) -> int | float:
    value: int | float
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float) and not isinstance(node.value, bool):
        value = node.value
    elif isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        value = _OPERATORS[type(node.op)](_value(node.left), _value(node.right))
    elif isinstance(node, ast.UnaryOp) and type(node.op) in _OPERATORS:
        value = _OPERATORS[type(node.op)](_value(node.operand))
    else:
        raise ValueError("no arithmetic")
    if not -_LARGEST <= value <= _LARGEST:  # so is NaN
        raise ValueError("too large")
    return value
