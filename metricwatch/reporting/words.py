"""Numbers, steps and times as the report writes them."""

from __future__ import annotations

import math
from datetime import datetime, timedelta
from html import escape

from metricwatch.records import WindowPoint

_SIGNIFICANT = 5
_PLAIN = (1e-3, 1e7)


def number(value: float) -> str:
    """Five significant digits; an exponent where that is far from 1."""
    if value == 0 or _PLAIN[0] <= abs(value) < _PLAIN[1]:
        places = max(0, _SIGNIFICANT - 1 - (math.floor(math.log10(abs(value))) if value else 0))
        text = f"{value:,.{min(places, 7)}f}"
        return text.replace("-", "−")
    return f"{value:.{_SIGNIFICANT - 1}g}".replace("-", "−")


def with_error(point: WindowPoint | None) -> str:
    """The value and its standard error in HTML."""
    if point is None:
        return '<span class="soft">–</span>'
    error = "" if point.stderr is None else f' <span class="soft">± {point.stderr:.2g}</span>'
    return f"{number(point.value)}{error}"


def change(first: WindowPoint, last: WindowPoint, rises: bool | None) -> str:
    """How far a metric has come since its first value, in HTML; better and worse in words, too."""
    if first.value == 0:
        text = number(last.value - first.value)
    else:
        text = f"{(last.value - first.value) / abs(first.value):+,.1%}".replace("-", "−")
    if rises is None or last.value == first.value:
        return text
    better = (last.value > first.value) is rises
    return f'<span class="{"good" if better else "bad"}">{text} {"better" if better else "worse"}</span>'


def time(moment: datetime) -> str:
    """The moment in HTML, to the second."""
    return f'<time datetime="{escape(moment.isoformat(), quote=True)}">{moment:%Y-%m-%d %H:%M:%S} UTC</time>'


def span(length: timedelta) -> str:
    """1 d 4 h, 3 h 12 min, 42 s."""
    seconds = max(0, round(length.total_seconds()))
    for size, unit, smaller, part in ((86_400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if seconds >= size:
            return f"{seconds // size} {unit} {seconds % size // smaller} {part}"
    return f"{seconds} s"


def count(number_of: int, what: str) -> str:
    return f"{number_of:,} {what}{'' if number_of == 1 else 's'}"
