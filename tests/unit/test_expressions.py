"""The arithmetic of composites: as Python's own, and nothing but arithmetic."""

from __future__ import annotations

import ast
import math
import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metricwatch.config.expressions import UndefinedError, parse_expression


def value(text: str, **values: float) -> float:
    return parse_expression(text).evaluate(values).value


def slopes(text: str, **values: float) -> dict[str, float]:
    return dict(parse_expression(text).evaluate(values).slopes)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1 + 2*3", 7),
        ("(1 + 2)*3", 9),
        ("-2**2", -4),
        ("2**-1", 0.5),
        ("2**3**2", 512),
        ("10 - 4 - 3", 3),
        ("1/3", 1 / 3),
        ("min(3, 1, 2) + max(3, 1)", 4),
        ("abs(-3)", 3),
        ("sqrt(16) + log(1) + exp(0)", 5),
        ("clip(5, 0, 1) + clip(-5, 0, 1) + clip(0.5, 0, 1)", 1.5),
        ("1_000 + 0x10 + 1e-3", 1016.001),
    ],
)
def test_arithmetic_means_what_it_means_in_python(text, expected):
    assert value(f"{text} + 0*x", x=1.0) == pytest.approx(expected)


def test_the_composites_of_the_manual_have_their_values():
    quality = "0.3*(1 - ssim) + 0.5*gram_style_loss + 0.2*fid/100"
    assert value(quality, ssim=0.8, gram_style_loss=0.1, fid=40.0) == pytest.approx(0.06 + 0.05 + 0.08)
    balance = "0.8*(1 - p)*content_loss + (0.6*p + 0.2)*gram_style_loss"
    assert parse_expression(balance).names == {"p", "content_loss", "gram_style_loss"}
    assert value(balance, p=0.25, content_loss=2.0, gram_style_loss=4.0) == pytest.approx(0.6 * 2 + 0.35 * 4)


def test_line_breaks_and_spaces_say_nothing():
    folded = parse_expression("0.5*fid\n  + ( ssim )\n")
    assert folded.canonical == parse_expression("0.5 * fid+ssim").canonical
    assert folded.canonical != parse_expression("0.5*(fid + ssim)").canonical


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty"),
        ("fid +", "is not arithmetic"),
        ("fid fid", "is not arithmetic"),
        ("fid.real", "'fid.real' is not arithmetic"),
        ("fid[0]", "'fid[0]' is not arithmetic"),
        ("[fid]", "'[fid]' is not arithmetic"),
        ("'fid'", "is not arithmetic"),
        ("fid + 'a'", "is not arithmetic"),
        ("fid + True", "'True' is not arithmetic"),
        ("fid + 1j", "'1j' is not arithmetic"),
        ("fid < 2", "'fid < 2' is not arithmetic"),
        ("fid and ssim", "'fid and ssim' is not arithmetic"),
        ("fid if ssim else 0", "is not arithmetic"),
        ("lambda: fid", "'lambda: fid' is not arithmetic"),
        ("(fid := 3)", "is not arithmetic"),
        ("f'{fid}'", "is not arithmetic"),
        ("fid % 2", "'fid % 2' is not arithmetic"),
        ("fid // 2", "'fid // 2' is not arithmetic"),
        ("fid @ ssim", "is not arithmetic"),
        ("fid << 2", "is not arithmetic"),
        ("~fid", "'~fid' is not arithmetic"),
        ("not fid", "'not fid' is not arithmetic"),
        ("await fid", "is not arithmetic"),
        ("fid, ssim", "is not arithmetic"),
        ("...", "'...' is not arithmetic"),
        ("__import__('os')", "'__import__' is not a function; there are min(a, b, ...)"),
        ("open(fid)", "'open' is not a function"),
        ("fid.bit_length()", "'fid.bit_length' is not a function"),
        ("(lambda: 1)()", "is not a function"),
        ("min(fid)", "'min(fid)' has the wrong arguments; write min(a, b, ...)"),
        ("min(*fid)", "has the wrong arguments"),
        ("clip(fid, lo=1, hi=2)", "has the wrong arguments; write clip(x, lo, hi)"),
        ("sqrt(fid, 2)", "has the wrong arguments; write sqrt(x)"),
        ("sqrt + 1", "sqrt is a function; write sqrt(x)"),
        ("fid # + ssim", "no comment"),
        ("ﬁd", "plain ASCII"),
        ("fid * ²", "plain ASCII"),
        ("fid/0", "division by zero in 'fid/0'"),
        ("fid/(2 - 2)", "division by zero in 'fid/(2 - 2)'"),
        ("fid + 1/0", "division by zero in '1/0'"),
        ("fid + 0**-1", "division by zero in '0**-1'"),
        ("fid*log(0)", "the logarithm of zero in 'log(0)'"),
        ("fid*sqrt(-1)", "the square root of a negative number in 'sqrt(-1)'"),
        ("fid*(-8)**(1/3)", "a fractional power of a negative number"),
        ("fid*10**400", "a number too large in '10**400'"),
        ("fid*9**9**9", "a number too large in '9**9**9'"),
        ("fid*1e999", "a number too large in '1e999'"),
        (f"fid*{'9' * 400}", "a number too large"),
        ("fid*clip(3, 2, 1)", "a lower bound above the upper one in 'clip(3, 2, 1)'"),
        ("fid" + "+ fid" * 400, "is longer than 1000 characters"),
        ("(" * 300 + "fid" + ")" * 300, "too many nested"),
        ("-" * 200 + "fid", "has more than 100 operations"),
        ("+".join(["fid"] * 120), "has more than 100 operations"),
    ],
)
def test_everything_but_arithmetic_is_refused_by_name(text, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        parse_expression(text)


@pytest.mark.parametrize(
    "text", ["fid*1e300*1e300", "clip(fid, fid, 1)", "1/fid", "log(fid)", "fid**(1/3)", "1/(fid - fid)"]
)
def test_what_may_have_a_value_is_not_refused(text):
    assert parse_expression(text).names == {"fid"}


@pytest.mark.parametrize("text", ["9**9**9**9**9", "x**9**9", "(x + 2)**(x + 1e9)", "exp(exp(exp(x + 9)))"])
def test_no_power_takes_long(text):
    before = time.perf_counter()
    with pytest.raises((ValueError, UndefinedError)):
        parse_expression(text).evaluate({"x": 7.0})
    assert time.perf_counter() - before < 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("1/(a - b)", "division by zero in '1/(a - b)'"),
        ("log(a - 2*b)", "the logarithm of a negative number in 'log(a - 2*b)'"),
        ("sqrt(a - 2*b)", "the square root of a negative number in 'sqrt(a - 2*b)'"),
        ("(a - 2*b)**0.5", "a fractional power of a negative number in '(a - 2*b)**0.5'"),
        ("exp(1000*a)", "a number too large in 'exp(1000*a)'"),
        ("1 + (1e200*a)*1e200", "a number too large in '(1e200*a)*1e200'"),
        ("(a - b)**-2", "division by zero in '(a - b)**-2'"),
        ("clip(a, b + 1, b)", "a lower bound above the upper one"),
    ],
)
def test_what_has_no_value_for_these_numbers_says_which_part(text, said):
    with pytest.raises(UndefinedError, match=re.escape(said)):
        value(text, a=2.0, b=2.0)


# Texts of the language with names a and b, built from the inside out.
# Whole numbers as floats: Python counts with others of any size.
NUMBERS = st.sampled_from(["0.0", "1.0", "2.0", "0.5", "3.25", "1e-3", "40.0"])
TEXTS = st.recursive(
    st.sampled_from(["a", "b"]) | NUMBERS,
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from([" + ", " - ", "*", "/", "**"]), inner).map("".join),
        inner.map(lambda text: f"({text})"),
        inner.map(lambda text: f"-{text}"),
        st.tuples(st.sampled_from(["min", "max"]), inner, inner).map(lambda t: f"{t[0]}({t[1]}, {t[2]})"),
        st.tuples(st.sampled_from(["abs", "sqrt", "log", "exp"]), inner).map(lambda t: f"{t[0]}({t[1]})"),
    ),
    max_leaves=12,
)
INPUTS = st.floats(-50, 50).map(lambda number: round(number, 3))
PYTHON = {"min": min, "max": max, "abs": abs, "sqrt": math.sqrt, "log": math.log, "exp": math.exp}


def by_python(text: str, **values: float) -> float | None:
    """Python's own value; None where any part of the text has none, or one that is infinite or not real."""
    result = None
    for node in ast.walk(ast.parse(text, mode="eval").body):
        if not isinstance(node, ast.expr) or (isinstance(node, ast.Name) and node.id in PYTHON):
            continue
        code = compile(ast.fix_missing_locations(ast.Expression(node)), "test", "eval")
        try:
            part = eval(code, {"__builtins__": {}, **PYTHON}, values)
        except (ArithmeticError, ValueError, TypeError):
            return None
        if isinstance(part, complex) or not math.isfinite(part):
            return None
        result = part if result is None else result
    return result


@settings(max_examples=400)
@given(TEXTS, INPUTS, INPUTS)
def test_generated_expressions_have_the_value_python_gives_them(text, a, b):
    try:
        found = value(text, a=a, b=b)
    except (UndefinedError, ValueError):
        found = None
    expected = by_python(text, a=a, b=b)
    assert found == (expected if expected is None else pytest.approx(expected, rel=1e-12, abs=0))


@pytest.mark.parametrize(
    "text",
    [
        "3*a - 2*b + 1",
        "a*b/(a + b)",
        "a**2*b**3",
        "a**b",
        "2**a",
        "sqrt(a*b) + log(a) - exp(-b)",
        "abs(a - 2*b)",
        "min(a, b) + 2*max(a, b)",
        "clip(a, 0, 10)*b",
        "clip(a, 10, 20)*b",
        "-(a - b)**2/(1 + a)",
        "a**-1.5",
    ],
)
def test_slopes_are_those_of_finite_differences(text):
    at, h = {"a": 1.7, "b": 0.6}, 1e-6
    found = slopes(text, **at)
    for name, here in at.items():
        up, down = (value(text, **{**at, name: here + sign * h}) for sign in (1, -1))
        assert found.get(name, 0.0) == pytest.approx((up - down) / (2 * h), rel=1e-6, abs=1e-8)


def test_a_name_that_cancels_has_no_slope():
    assert slopes("a - a + b", a=3.0, b=1.0) == {"a": 0.0, "b": 1.0}


def test_a_kink_has_the_slopes_of_its_steeper_side():
    assert slopes("max(a, 3*b)", a=3.0, b=1.0) == {"b": 3.0}
    assert abs(slopes("abs(a)", a=0.0)["a"]) == 1.0


def test_a_slope_that_does_not_exist_is_not_finite_beside_a_good_value():
    result = parse_expression("sqrt(a) + b").evaluate({"a": 0.0, "b": 2.0})
    assert result.value == 2.0
    assert not math.isfinite(result.slopes["a"])
    assert result.slopes["b"] == 1.0
