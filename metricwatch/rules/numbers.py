"""Numbers in an alert's words."""

from __future__ import annotations

_DIGITS = 5
_MOST_DIGITS = 17
_LARGE = 1000


def measured(value: float | None, stderr: float | None, *, other: float | None = None) -> str:
    """A value with its standard error, with as many digits as tell it from another one: "63.2 ± 0.3"."""
    if value is None:
        return "no value"
    digits = _DIGITS
    while other is not None and other != value and digits < _MOST_DIGITS and _same(value, other, digits):
        digits += 1
    return f"{value:.{digits}g}" if stderr is None else f"{value:.{digits}g} ± {stderr:.2g}"


def apart(multiple: float) -> str:
    """How many times one thing is another, as far as anybody wants to know: "5.2", "more than 1000"."""
    return f"{multiple:.1f}" if multiple <= _LARGE else f"more than {_LARGE}"


def _same(value: float, other: float, digits: int) -> bool:
    return f"{value:.{digits}g}" == f"{other:.{digits}g}"
