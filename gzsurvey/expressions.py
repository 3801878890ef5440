"""Expressions over table columns, as typed after ``--select`` and ``--where``.

Column names, numbers, strings, comparisons, ``and or not``, ``+ - * / **``, ``log10``,
``abs`` and ``isnan``. The text is parsed into a tree whose every node is on a short
list; it is never run as Python.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gzsurvey.errors import RecipeError

Array = NDArray[Any]
LONGEST = 2000
"""Characters of an expression; longer ones are a mistake."""

_COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq, ast.NotEq: operator.ne, ast.Lt: operator.lt,
    ast.LtE: operator.le, ast.Gt: operator.gt, ast.GtE: operator.ge,
}  # fmt: skip
_ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul,
    ast.Div: operator.truediv, ast.Pow: np.float_power, ast.Mod: operator.mod,
}  # fmt: skip
_FUNCTIONS: dict[str, Callable[[Any], Any]] = {"log10": np.log10, "abs": np.abs, "isnan": np.isnan}


@dataclass(frozen=True)
class Expression:
    """A checked expression.

    Parameters
    ----------
    text : str
        As the user wrote it.

    Raises
    ------
    gzsurvey.errors.RecipeError
        It is no expression, or uses something that is not on the list.
    """

    text: str

    def __post_init__(self) -> None:
        _check(self._tree(), self.text)

    @property
    def names(self) -> tuple[str, ...]:
        """Columns that it needs, sorted."""
        nodes = list(ast.walk(self._tree()))
        functions = {node.func for node in nodes if isinstance(node, ast.Call)}
        found = (node for node in nodes if isinstance(node, ast.Name) and node not in functions)
        return tuple(sorted({node.id for node in found}))

    def evaluate(self, columns: Mapping[str, Array], rows: int) -> Array:
        """Compute the expression for every row.

        Parameters
        ----------
        columns : mapping of str to array, shape (rows,)
            At least `names`.
        rows : int
            Length of the result.

        Returns
        -------
        array, shape (rows,)
            NaN compares as false, like a null in SQL.

        Raises
        ------
        gzsurvey.errors.RecipeError
            A column is missing, or has a type that the expression cannot use.
        """
        actual = find_names(self.names, columns, f"expression {self.text!r}")
        meant = {name: columns[column] for name, column in zip(self.names, actual, strict=True)}
        try:
            with np.errstate(all="ignore"):
                value = _value(self._tree(), meant)
        except (TypeError, ValueError, ArithmeticError) as error:
            raise RecipeError(f"expression {self.text!r}", f"cannot be computed: {error}") from None
        return np.broadcast_to(np.asarray(value), (rows,))

    def select(self, columns: Mapping[str, Array], rows: int) -> NDArray[np.bool_]:
        """Return which rows fulfil it, bool, shape (rows,).

        Raises
        ------
        gzsurvey.errors.RecipeError
            It is no condition, or cannot be computed.
        """
        value = self.evaluate(columns, rows)
        if value.dtype != np.bool_:
            raise RecipeError(f"expression {self.text!r}", "is no condition; compare something, e.g. 'mag < 17.7'")
        return value

    def _tree(self) -> ast.expr:
        if len(self.text) > LONGEST:
            raise RecipeError("expression", f"has {len(self.text)} characters, at most {LONGEST} are read")
        try:
            return ast.parse(self.text.strip(), mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise RecipeError(f"expression {self.text!r}", f"cannot be read: {error}") from None


def find_names(wanted: Sequence[str], known: Iterable[str], where: str) -> list[str]:
    """Return a table's own names for the columns that a user means, whatever their case.

    Raises
    ------
    gzsurvey.errors.RecipeError
        A name is unknown; says the nearest ones.
    """
    names = list(known)
    folded = {name.lower(): name for name in reversed(names)}
    found = []
    for name in wanted:
        if name not in names and name.lower() not in folded:
            near = [folded[n] for n in get_close_matches(name.lower(), folded, n=3, cutoff=0.5)]
            hint = f"did you mean {', '.join(near)}?" if near else f"there are: {', '.join(names[:20])}"
            raise RecipeError(where, f"no column {name!r}; {hint}")
        found.append(name if name in names else folded[name.lower()])
    return found


def _check(node: ast.AST, text: str) -> None:
    allowed = (
        ast.BoolOp, ast.And, ast.Or, ast.UnaryOp, ast.Not, ast.USub, ast.UAdd, ast.BinOp, ast.Compare, ast.Call,
        ast.Name, ast.Load, ast.Constant, *_COMPARE, *_ARITHMETIC,
    )  # fmt: skip
    for inner in ast.walk(node):
        if not isinstance(inner, allowed):
            raise RecipeError(f"expression {text!r}", f"{type(inner).__name__} is not known here; see --help")
        if isinstance(inner, ast.Constant) and type(inner.value) not in (int, float, str):
            raise RecipeError(f"expression {text!r}", f"{inner.value!r} is neither number nor string")
        if isinstance(inner, ast.Call):
            _check_call(inner, text)


def _check_call(node: ast.Call, text: str) -> None:
    if not isinstance(node.func, ast.Name) or node.func.id not in _FUNCTIONS:
        raise RecipeError(f"expression {text!r}", f"the functions are {', '.join(_FUNCTIONS)}")
    if len(node.args) != 1 or node.keywords:
        raise RecipeError(f"expression {text!r}", f"{node.func.id}() takes one value")


def _value(node: ast.expr, columns: Mapping[str, Array]) -> Any:
    match node:
        case ast.Constant():
            return node.value
        case ast.Name():
            return columns[node.id]
        case ast.Call(func=ast.Name(id=name)):
            return _FUNCTIONS[name](np.asarray(_value(node.args[0], columns)))
        case ast.UnaryOp():
            return _unary(node, columns)
        case ast.BinOp():
            return _ARITHMETIC[type(node.op)](_value(node.left, columns), _value(node.right, columns))
        case ast.BoolOp():
            join = np.logical_and if isinstance(node.op, ast.And) else np.logical_or
            result: Any = _condition(node.values[0], columns)
            for other in node.values[1:]:
                result = join(result, _condition(other, columns))
            return result
        case ast.Compare():
            return _comparison(node, columns)
    raise AssertionError(f"{type(node).__name__} passed the check")


def _unary(node: ast.UnaryOp, columns: Mapping[str, Array]) -> Any:
    if isinstance(node.op, ast.Not):
        return np.logical_not(_condition(node.operand, columns))
    value = _value(node.operand, columns)
    return np.negative(value) if isinstance(node.op, ast.USub) else value


def _condition(node: ast.expr, columns: Mapping[str, Array]) -> Any:
    value = np.asarray(_value(node, columns))
    if value.dtype != np.bool_:
        raise TypeError("'and', 'or' and 'not' join conditions, not numbers")
    return value


def _comparison(node: ast.Compare, columns: Mapping[str, Array]) -> Any:
    values = [_value(side, columns) for side in (node.left, *node.comparators)]
    result: Any = True
    for compare, left, right in zip(node.ops, values, values[1:], strict=False):
        if _is_text(left) != _is_text(right):
            raise TypeError("a string is compared with a number")
        known = ~(_is_nan(left) | _is_nan(right))
        result = np.logical_and(result, np.logical_and(known, _COMPARE[type(compare)](left, right)))
    return result


def _is_text(value: Any) -> bool:
    return np.asarray(value).dtype.kind in "USOT"


def _is_nan(value: Any) -> Any:
    array = np.asarray(value)
    return np.isnan(array) if array.dtype.kind == "f" else np.zeros(array.shape, dtype=bool)
