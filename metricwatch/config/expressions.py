"""Arithmetic over scores, as composites write it: "0.3*(1 - ssim) + 0.2*fid/100". Nothing else can be said in it.

Numbers, names, + - * / **, parentheses and the functions min, max, abs, sqrt, log, exp and clip(x, lo, hi), with
Python's precedence and meaning. Text is parsed by `ast` and walked by ourselves; all arithmetic is in floats, whose
powers overflow where those of whole numbers would run for hours.
"""

from __future__ import annotations

import ast
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from metricwatch.config.secrets import quoted

# The share of the training that is done, 0..1; every other name is a score's.
PROGRESS = "p"

_MAX_CHARACTERS = 1000
# Python's own limit on recursion is ten times as far away.
_MAX_DEPTH = 100
_SHOWN = 60

# The slope of f in each name that f depends on.
Slopes = Mapping[str, float]
_NO_SLOPES: Slopes = {}


class UndefinedError(ArithmeticError):
    """A value does not exist for these inputs. The message names the part and why: "division by zero in 'a / b'"."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What an expression gives: its value, finite, and its slope in each name at that place.

    Where the expression has a kink (max(a, b) at a = b), the slopes are those of a steepest side. A slope that does
    not exist (sqrt at 0) is infinite or NaN.
    """

    value: float
    slopes: Slopes


@dataclass(frozen=True, slots=True)
class Expression:
    """A checked expression. names are those it uses, PROGRESS among them where it is one.

    canonical is the same for texts that differ in spaces and needless parentheses only.
    """

    text: str
    canonical: str
    names: frozenset[str]
    _root: ast.expr = field(repr=False, compare=False)

    def evaluate(self, values: Mapping[str, float]) -> Result:
        """The value for a finite number for each name. Raises UndefinedError where there is none.

        That is a division by zero, a logarithm or root outside its domain, a power that is not real, an overflow.
        """
        return _Walk(self.text, values).result(self._root)


def parse_expression(text: str) -> Expression:
    """The expression a text says. Raises ValueError naming the part that does not belong into one, or cannot be.

    A part without names must have a value: 1/0, log(-1), 10**400 and x/(2 - 2) are refused here.
    """
    # A folded or literal block of the file has line breaks, which end an expression in Python.
    text = " ".join(text.split())
    if len(text) > _MAX_CHARACTERS:
        raise ValueError(f"is longer than {_MAX_CHARACTERS} characters")
    if not text:
        raise ValueError("is empty; write an expression such as 0.5*fid/100 + 0.5*(1 - ssim)")
    if not text.isascii() or "#" in text:
        raise ValueError("may hold plain ASCII letters, digits and arithmetic signs only, and no comment")
    try:
        with warnings.catch_warnings(action="ignore"):
            root = ast.parse(text, mode="eval").body
    except SyntaxError as error:
        raise ValueError(f"is not arithmetic{_place(text, error.offset)}: {error.msg}") from None
    except (ValueError, RecursionError, MemoryError):
        raise ValueError("cannot be read: nested too deeply, or a number of thousands of digits") from None
    names = _Check(text).names(root)
    return Expression(text, ast.unparse(root), names, root)


def _place(text: str, offset: int | None) -> str:
    return f" at {quoted(text[offset - 1 :][:20])}" if offset and offset <= len(text) else ""


# --- what may stand in one ---------------------------------------------------------------------------------


class _Check:
    """One walk over a parsed text that refuses everything but arithmetic."""

    def __init__(self, text: str) -> None:
        self._text = text

    def names(self, node: ast.expr, depth: int = 1) -> frozenset[str]:
        """The names below a node. Raises ValueError naming what does not belong, or what has no value."""
        if depth > _MAX_DEPTH:
            raise ValueError(f"has more than {_MAX_DEPTH} operations in a row or inside each other; make it shorter")
        names: frozenset[str] = frozenset().union(*(self.names(part, depth + 1) for part in self._parts(node)))
        if isinstance(node, ast.Name):
            return names | {node.id}
        if not names:
            try:
                _Walk(self._text, {}).result(node)
            except UndefinedError as error:
                raise ValueError(f"has no value: {error}") from None
        elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div) and self._is_zero(node.right):
            raise ValueError(f"has no value: division by zero in {_shown(self._text, node)}")
        return names

    def _is_zero(self, node: ast.expr) -> bool:
        """True for a part without names whose value is 0. Called once the part has been checked."""
        if any(isinstance(part, ast.Name) and not _is_function(part) for part in ast.walk(node)):
            return False
        return _Walk(self._text, {}).result(node).value == 0

    def _parts(self, node: ast.expr) -> Sequence[ast.expr]:
        match node:
            case ast.BinOp(op=op, left=left, right=right) if type(op) in _OPERATORS:
                return (left, right)
            case ast.UnaryOp(op=ast.USub() | ast.UAdd(), operand=operand):
                return (operand,)
            case ast.Call():
                return self._arguments(node)
            case ast.Constant(value=value) if type(value) in {int, float}:
                return ()
            case ast.Name(id=name):
                if name in _FUNCTIONS:
                    raise ValueError(f"{name} is a function; write {_FUNCTIONS[name].usage}")
                return ()
        raise ValueError(
            f"{_shown(self._text, node)} is not arithmetic; there are numbers, names, + - * / **, parentheses and "
            f"{_known_functions()}"
        )

    def _arguments(self, node: ast.Call) -> Sequence[ast.expr]:
        if not isinstance(node.func, ast.Name) or node.func.id not in _FUNCTIONS:
            raise ValueError(f"{_shown(self._text, node.func)} is not a function; there are {_known_functions()}")
        function = _FUNCTIONS[node.func.id]
        plain = not node.keywords and not any(isinstance(argument, ast.Starred) for argument in node.args)
        if not plain or not function.least <= len(node.args) <= function.most:
            raise ValueError(f"{_shown(self._text, node)} has the wrong arguments; write {function.usage}")
        return node.args


def _is_function(node: ast.Name) -> bool:
    return node.id in _FUNCTIONS


def _known_functions() -> str:
    return ", ".join(function.usage for function in _FUNCTIONS.values())


def _shown(text: str, node: ast.expr) -> str:
    """The part as it was written, shortened."""
    part = ast.get_source_segment(text, node) or ast.unparse(node)
    return quoted(part if len(part) <= _SHOWN else part[: _SHOWN - 1] + "…")


# --- values and slopes -------------------------------------------------------------------------------------


class _Walk:
    """One evaluation of a checked expression: forward-mode differentiation along the way."""

    def __init__(self, text: str, values: Mapping[str, float]) -> None:
        self._text = text
        self._values = values

    def result(self, node: ast.expr) -> Result:
        """A node's value and slopes. Raises UndefinedError naming the innermost part that has none."""
        match node:
            case ast.Constant(value=int() | float() as number):
                return self._guarded(node, lambda: (float(number), _NO_SLOPES))
            case ast.Name(id=name):
                return Result(value=self._values[name], slopes={name: 1.0})
            case ast.UnaryOp(op=op, operand=operand):
                inner = self.result(operand)
                return _scaled(inner, -1.0) if isinstance(op, ast.USub) else inner
            case ast.BinOp(op=op, left=left, right=right):
                a, b = self.result(left), self.result(right)
                return self._guarded(node, lambda: _OPERATORS[type(op)](a, b))
            case ast.Call(func=ast.Name(id=name), args=arguments):
                parts = [self.result(argument) for argument in arguments]
                return self._guarded(node, lambda: _FUNCTIONS[name].apply(parts))
        raise TypeError(f"{ast.dump(node)} was not checked")

    def _guarded(self, node: ast.expr, compute: Callable[[], tuple[float, Slopes]]) -> Result:
        try:
            value, slopes = compute()
        except ZeroDivisionError:
            reason = "division by zero"
        except OverflowError:
            reason = "a number too large"
        except ValueError as error:
            reason = str(error)
        else:
            if math.isfinite(value):
                return Result(value=value, slopes=slopes)
            reason = "a number too large"
        raise UndefinedError(f"{reason} in {_shown(self._text, node)}")


def _scaled(inner: Result, factor: float) -> Result:
    return Result(value=factor * inner.value, slopes=_chain((inner, factor)))


def _chain(*terms: tuple[Result, float]) -> Slopes:
    """The slopes of a function of several parts, given its own slope in each part."""
    slopes: dict[str, float] = {}
    for part, slope in terms:
        for name, inner in part.slopes.items():
            slopes[name] = slopes.get(name, 0.0) + slope * inner
    return slopes


def _add(a: Result, b: Result) -> tuple[float, Slopes]:
    return a.value + b.value, _chain((a, 1.0), (b, 1.0))


def _subtract(a: Result, b: Result) -> tuple[float, Slopes]:
    return a.value - b.value, _chain((a, 1.0), (b, -1.0))


def _multiply(a: Result, b: Result) -> tuple[float, Slopes]:
    return a.value * b.value, _chain((a, b.value), (b, a.value))


def _divide(a: Result, b: Result) -> tuple[float, Slopes]:
    value = a.value / b.value
    return value, _chain((a, 1.0 / b.value), (b, -value / b.value))


def _power(a: Result, b: Result) -> tuple[float, Slopes]:
    if a.value < 0 and not b.value.is_integer():
        raise ValueError("a fractional power of a negative number")
    value = a.value**b.value
    base = (a, _slope(lambda: b.value * a.value ** (b.value - 1.0))) if a.slopes and b.value != 0 else (a, 0.0)
    exponent = (b, _slope(lambda: math.log(a.value) * value)) if b.slopes else (b, 0.0)
    return value, _chain(base, exponent)


def _slope(compute: Callable[[], float]) -> float:
    """A slope, infinite where it does not exist: the value beside it may be good all the same."""
    try:
        return compute()
    except (ArithmeticError, ValueError):
        return math.inf


_OPERATORS: Mapping[type[ast.operator], Callable[[Result, Result], tuple[float, Slopes]]] = {
    ast.Add: _add,
    ast.Sub: _subtract,
    ast.Mult: _multiply,
    ast.Div: _divide,
    ast.Pow: _power,
}


def _steepest(parts: Sequence[Result], value: float) -> tuple[float, Slopes]:
    """The value of min, max or clip, with the slopes of a steepest of the parts that attain it."""
    attaining = [part for part in parts if part.value == value]
    chosen = max(attaining, key=lambda part: math.fsum(abs(slope) for slope in part.slopes.values()))
    return value, chosen.slopes


def _minimum(parts: Sequence[Result]) -> tuple[float, Slopes]:
    return _steepest(parts, min(part.value for part in parts))


def _maximum(parts: Sequence[Result]) -> tuple[float, Slopes]:
    return _steepest(parts, max(part.value for part in parts))


def _clip(parts: Sequence[Result]) -> tuple[float, Slopes]:
    x, low, high = (part.value for part in parts)
    if low > high:
        raise ValueError("a lower bound above the upper one")
    return _steepest(parts, min(max(x, low), high))


def _absolute(parts: Sequence[Result]) -> tuple[float, Slopes]:
    (x,) = parts
    return abs(x.value), _chain((x, -1.0 if x.value < 0 else 1.0))


def _root(parts: Sequence[Result]) -> tuple[float, Slopes]:
    (x,) = parts
    if x.value < 0:
        raise ValueError("the square root of a negative number")
    value = math.sqrt(x.value)
    return value, _chain((x, _slope(lambda: 0.5 / value)))


def _logarithm(parts: Sequence[Result]) -> tuple[float, Slopes]:
    (x,) = parts
    if x.value <= 0:
        raise ValueError("the logarithm of zero" if x.value == 0 else "the logarithm of a negative number")
    return math.log(x.value), _chain((x, _slope(lambda: 1.0 / x.value)))


def _exponential(parts: Sequence[Result]) -> tuple[float, Slopes]:
    (x,) = parts
    value = math.exp(x.value)
    return value, _chain((x, value))


@dataclass(frozen=True, slots=True)
class _Function:
    usage: str
    least: int
    most: int
    apply: Callable[[Sequence[Result]], tuple[float, Slopes]]


_FUNCTIONS: Mapping[str, _Function] = {
    "min": _Function("min(a, b, ...)", 2, _MAX_CHARACTERS, _minimum),
    "max": _Function("max(a, b, ...)", 2, _MAX_CHARACTERS, _maximum),
    "abs": _Function("abs(x)", 1, 1, _absolute),
    "sqrt": _Function("sqrt(x)", 1, 1, _root),
    "log": _Function("log(x)", 1, 1, _logarithm),
    "exp": _Function("exp(x)", 1, 1, _exponential),
    "clip": _Function("clip(x, lo, hi)", 3, 3, _clip),
}
